//! What must hold for every page: nothing from elsewhere, well formed, a table beside each drawing, names harmless.

use super::render;
use crate::{
    report::assess::{Assessment, Named, assess, pairs_within},
    session::{Session, decode, sample},
    stats::compare::Detail,
};

fn assessed(session: &Session) -> Vec<Assessment<'_>> {
    let pairs = pairs_within(Named { file: "f", session }, None, None).unwrap();
    pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect()
}

fn page(session: &Session) -> String {
    render(&assessed(session), &["a note".to_owned()]).unwrap()
}

fn session(repeats: u32, others: &[(&str, f64)]) -> Session {
    decode(sample::lines(repeats, others).as_bytes()).unwrap()
}

/// Sessions whose pages differ in what they can show.
fn kinds() -> Vec<Session> {
    let mut hidden = session(3, &[("own", 0.3)]);
    for run in &mut hidden.runs {
        run.snapshot.series.clear();
        run.end.as_mut().unwrap().workload = None;
    }
    let better = session(3, &[("own", 0.3)]);
    vec![
        better,
        sample::loads(4, &[("own", 0.5, 1.24)]),
        session(5, &[("own", 1.0), ("near", 3.0)]),
        session(1, &[("own", 0.3)]),
        with_paths(),
        hidden,
    ]
}

/// Walks through all tags; panics where they do not nest.
fn check_nesting(page: &str) {
    const EMPTY: [&str; 3] = ["meta", "!doctype", "br"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let tag = &rest[at + 1..at + rest[at..].find('>').unwrap()];
        rest = &rest[at + tag.len() + 2..];
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "near {}", &rest[..rest.len().min(80)]);
        } else if !tag.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name);
        }
        if ["style", "script"].contains(&name) && !tag.starts_with('/') {
            rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn pages_are_well_formed_and_load_nothing() {
    for session in kinds() {
        let page = page(&session);
        check_nesting(&page);
        let without_namespace = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for outside in ["http:", "https:", "//", "src=", "@import", "url(", "<script ", "<link", "<img"] {
            // Comments of style sheets and doctypes aside, none of these has a place in the page.
            assert!(!without_namespace.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
        assert_eq!(page.matches("<script").count(), 1, "its own, which its policy names by a digest");
        assert!(!page.contains("NaN") && !page.contains("inf"), "a place that is no number");
    }
}

#[test]
fn ids_are_unique_and_references_hit() {
    for session in kinds() {
        let page = page(&session);
        let values = |attribute: &str| -> Vec<String> {
            let start = format!("{attribute}=\"");
            let found = page.split(&start).skip(1);
            found.flat_map(|s| s.split('"').next().unwrap().split(' ')).map(str::to_owned).collect()
        };
        let mut ids = values(" id");
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id is used twice");
        for used in values("aria-labelledby") {
            assert!(ids.contains(&used), "{used}");
        }
    }
}

/// Screen readers list landmarks by name: each has its own, and none is within a comparison.
#[test]
fn landmarks_have_names_of_their_own() {
    for session in kinds() {
        let page = page(&session);
        let text_of = |id: &str| {
            let inner = page.split(&format!(" id=\"{id}\">")).nth(1).unwrap().split("</h").next().unwrap();
            inner.split('<').map(|part| part.rsplit('>').next().unwrap().trim()).collect::<String>()
        };
        let sections: Vec<&str> = page.split("<section ").skip(1).collect();
        let mut names: Vec<String> = sections
            .iter()
            .map(|section| {
                let id = section.split("aria-labelledby=\"").nth(1).unwrap().split('"').next().unwrap();
                text_of(id)
            })
            .collect();
        assert!(names.iter().all(|name| !name.is_empty()), "{names:?}");
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
        assert_eq!(page.matches("role=\"region\"").count(), 0, "a table that scrolls is no landmark");
    }
}

/// What paper needs stands behind what it takes back.
#[test]
fn rules_for_print_come_last() {
    let style = include_str!("../../../templates/report/style.css");
    let (_, print) = style.rsplit_once("@media print {").unwrap();
    assert!(print.trim_end().ends_with("}\n}"), "{print}");
    assert_eq!(style.matches("@media print").count(), 1);
    for rule in
        ["tr[hidden]", ".pair {", ".filter", "details::details-content", "thead th { position: static; }"]
    {
        assert!(print.contains(rule), "{rule}");
    }
}

#[test]
fn a_long_list_of_changes_is_folded_and_whole() {
    let mut tuned = session(3, &[("own", 0.3)]);
    for run in tuned.runs.iter_mut().filter(|run| run.start.config == "own") {
        run.start.changes = (0..20).map(|n| format!("change number {n}.")).collect();
    }
    let page = page(&tuned);
    assert!(page.contains("<summary>12 that keep other work off"), "12 of 20");
    let (folded, open) = page.split_once("</details>").unwrap();
    for n in 0..20 {
        let line = format!("<li>change number {n}.</li>");
        assert_eq!((folded.contains(&line), open.contains(&line)), (n < 12, n >= 12), "{line}");
    }
    assert!(page.contains("nothing by vfprobe for this recording"));
    tuned.tuning = Some(crate::session::Tuning::default());
    assert!(render(&assessed(&tuned), &[]).unwrap().contains("nothing: the host as it was found"));
}

#[test]
fn every_drawing_of_figures_has_its_table() {
    let page = page(&session(3, &[("own", 0.3)]));
    let figures: Vec<&str> = page.split("<div class=\"part figure\"").skip(1).collect();
    assert_eq!(figures.len(), 6);
    for figure in figures {
        let section = figure.split("<div class=\"part").next().unwrap();
        assert!(section.contains("<svg") && section.contains("<table>"), "{}", &section[..80]);
        assert!(section.contains("<title id=") && section.contains("<desc id="));
    }
    for said in
        ["What was changed", "irq 40 (0000:01:10.0 slot 0): affinity 0 -&#62; 1", "isolcpus=1", "a note"]
    {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn names_from_a_file_cannot_become_markup() {
    let mut hostile = session(3, &[("<script>alert(1)</script>", 0.3)]);
    hostile.host.hostname = Some("\"><img src=x>".to_owned());
    for run in &mut hostile.runs {
        for series in &mut run.snapshot.series {
            series.labels.insert("guest".to_owned(), "<b>\"vm'</b>".to_owned());
        }
    }
    let page = page(&hostile);
    check_nesting(&page);
    assert_eq!(page.matches("<script").count(), 1, "the page's own");
    for markup in ["<script>alert", "<img", "<b>"] {
        assert!(!page.contains(markup), "{markup}");
    }
}

#[test]
fn cpus_and_runs_are_drawn_with_what_is_said_of_them() {
    let mut one = session(3, &[("own", 0.3)]);
    one.runs[4].end = None;
    let page = page(&one);
    for said in [
        "vCPUs and vectors under own",
        "CPU 1: 0000:01:10.0 slot 0; vCPU 0: any of 0-1",
        "<td class=\"changed\">1</td>",
        "class=\"run unfit\"",
        "run 4, baseline: was cut off, not compared",
        "The session&#39;s runs in their order",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert_eq!(page.matches("<rect class=\"run ").count(), 6);
}

#[test]
fn noise_is_drawn_by_source() {
    let mut noisy = session(3, &[("own", 0.3)]);
    for run in &mut noisy.runs {
        let mut series = run.snapshot.series[0].clone();
        series.probe = "cpu_noise".to_owned();
        series.labels = sample::labels("cpu=2,kind=irq,source=eth0-rx");
        run.snapshot.series.push(series);
    }
    let page = page(&noisy);
    assert!(page.contains("What disturbed the guest") && page.contains("irq eth0-rx, own: "), "noise");
}

/// A session in which `vm2`'s packets were followed under both configurations, and `vm1` got a VF for a tap.
fn with_paths() -> Session {
    use crate::model::nic::{Nic, PathKind};
    let mut session = session(3, &[("own", 0.3)]);
    for run in &mut session.runs {
        let was = run.snapshot.series.clone();
        let tap = run.start.config == "baseline";
        for (labels, from) in [
            ("guest=vm2,path=vhost,netdev=tap2,direction=to_guest,hop=bridge", 0),
            ("guest=vm2,path=vhost,netdev=tap2,direction=to_guest,hop=qdisc", 1),
            ("guest=vm2,path=vhost,netdev=tap2,direction=to_guest,hop=ring", 2),
            ("guest=vm2,path=vhost,netdev=tap2,direction=to_guest,hop=total", 2),
            ("guest=vm1,path=virtio,netdev=tap1,direction=to_guest,hop=ring", 2),
        ] {
            if labels.contains("vm2") || tap {
                let (probe, labels) = ("packet_path".to_owned(), sample::labels(labels));
                run.snapshot.series.push(crate::stats::Series { probe, labels, ..was[from].clone() });
            }
        }
        let vm1 = &mut run.start.topology.as_mut().unwrap().guests[0];
        if tap {
            run.snapshot.series.retain(|s| s.probe != "irq_delivery");
            vm1.vfs.clear();
            vm1.nics.push(Nic {
                netdev: "tap1".into(),
                ifindex: Some(7),
                path: PathKind::Virtio,
                card: Some("virtio-net-pci".into()),
                queues: 1,
                vhost: Some(false),
                bridge: Some("br0".into()),
                uplinks: Vec::new(),
            });
        }
    }
    session
}

#[test]
fn packet_paths_are_drawn_hop_by_hop() {
    let page = page(&with_paths());
    check_nesting(&page);
    let section = page.split("id=\"h-paths-0\"").nth(1).unwrap().split("</section>").next().unwrap();
    for said in [
        "vm1, to guest: virtio-net + bridge -&#62; VF",
        "vm1, from guest: virtio-net + bridge -&#62; VF, own: no hop of the host; ",
        ">vm2, to guest</text>",
        ", then qdisc: mean ",
        "<th scope=\"row\">vm2 to guest ring</th>",
        "<th scope=\"row\">vm1 to guest interrupt</th>",
        "(n 1200)</text>",
    ] {
        assert!(section.contains(said), "{said} is not in {section}");
    }
    // Of vm2 three on each side, of vm1 the ring before and the interrupt after.
    assert_eq!(section.matches("<g class=\"hop hop-").count(), 8);
    assert!(page.contains("another path: vm1: virtio-net + bridge -&#62; VF"));
}

#[test]
fn what_could_not_be_seen_is_said() {
    let page = page(&kinds().pop().unwrap());
    assert!(page.contains("not enough data"));
    assert_eq!(
        page.matches("<div class=\"part figure\"").count(),
        1,
        "where vCPUs were is known, all else would be a drawing of nothing"
    );
}
