//! Every program passes the verifier of this kernel, and what this kernel cannot give is said.

use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::topology::Topology;
use probe_user::probes::Verdict;

#[test]
fn probes_load_and_say_how_they_fare() {
    let mut observer = Observer::start(&HostRoot::live(), &Topology::default()).unwrap();
    for report in observer.reports() {
        println!("{report:?}");
        // Nothing is guarded, no guest has a tap.
        let expected = |verdict: &Verdict| match report.probe.as_str() {
            "cpu_noise" | "packet_path" => matches!(verdict, Verdict::NotApplicable { .. }),
            _ => matches!(verdict, Verdict::Ready { .. }),
        };
        assert!(expected(&report.verdict), "{report:?}");
    }
    observer.open(None).unwrap();
    let snapshot = observer.snapshot(&Topology::default()).unwrap();
    assert!(snapshot.series.is_empty(), "no guest, no series: {:?}", snapshot.series);
}
