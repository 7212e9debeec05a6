//! The report's page as browsers see it: its script is the one its policy allows, and a headless Chromium opens it without
//! a word on its console and without asking for anything, in both colour schemes and printed; axe-core finds nothing that keeps
//! anybody from it.

#[path = "pages/browser.rs"]
mod browser;
#[path = "pages/large.rs"]
mod large;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use browser::{Browser, Scheme};
use probe_user::{
    report::{
        assess::{Named, assess, pairs_within},
        html,
    },
    session::{self, Session},
    stats::compare::Detail,
};
use std::{path::Path, process::Command};

/// The accessibility checker (MPL-2.0), fetched for the test and in no package of vfprobe.
const AXE: &str = "axe-core@4.10.3";

fn rendered(session: &Session) -> String {
    let pairs = pairs_within(Named { file: "f", session }, None, None).expect("two configurations");
    let assessments: Vec<_> = pairs.into_iter().map(|pair| assess(pair, Detail::Full, None)).collect();
    html::render(&assessments, &[]).expect("a page")
}

fn page() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/session-v1.vfprobe");
    rendered(&session::read(&file).expect("a session"))
}

/// The page without its policy, and more at its end: what a test puts into it runs.
fn opened_up(page: &str, more: &str) -> String {
    let from = page.find("<meta http-equiv=\"Content-Security-Policy\"").expect("a policy");
    let to = from + page[from..].find('>').expect("its end") + 1;
    let (head, tail) = (&page[..from], &page[to..]);
    head.to_owned() + &tail.replacen("</body>", &format!("{more}</body>"), 1)
}

#[test]
fn the_policy_allows_its_own_script_and_no_other() {
    let page = page();
    let scripts: Vec<&str> = page.split("<script>").skip(1).collect();
    assert_eq!(scripts.len(), 1);
    let script = scripts[0].split("</script>").next().unwrap();
    let digest = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, script.as_bytes()));
    let allowed = format!("script-src 'sha256-{digest}'\"");
    assert!(page.contains(&allowed), "templates/report/page.html must say {allowed}");
}

#[test]
fn a_browser_opens_it_in_silence() {
    let Some(browser) = Browser::new() else { return };
    let page = page();
    let (output, asked) = browser.requests(&page);
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(dom.contains("</html>"), "{said}");
    let console: Vec<&str> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    // The script has run: headings that sort, and a search for the long table.
    assert!(dom.contains("<button type=\"button\">") && dom.contains("type=\"search\""), "{}", &dom[..2000]);
    assert_eq!(asked, Vec::<String>::new());
    // A page that does ask is seen to: by its policy it must not, so that goes first.
    let image = "<img alt=\"\" src=\"http://elsewhere.example/x.png\">";
    let (_, asked) = browser.requests(&opened_up(&page, image));
    assert_eq!(asked, ["http://elsewhere.example/x.png"]);
}

#[test]
fn it_is_seen_in_light_and_dark_and_prints() {
    let Some(browser) = Browser::new() else { return };
    let page = page();
    let blank = browser.picture("<!doctype html><title>blank</title>", Scheme::Light);
    let (light, dark) = (browser.picture(&page, Scheme::Light), browser.picture(&page, Scheme::Dark));
    // One colour packs well, drawings and text do not.
    for picture in [&light, &dark] {
        assert!(picture.len() > 5 * blank.len(), "{} bytes, a blank page has {}", picture.len(), blank.len());
    }
    assert_ne!(light, dark, "the dark page is the light one");
    let printed = browser.printed(&page);
    let blank = browser.printed("<!doctype html><title>blank</title>");
    assert!(printed.len() > 5 * blank.len(), "{} bytes, a blank page has {}", printed.len(), blank.len());
}

#[test]
fn nothing_keeps_anybody_from_it() {
    let Some(browser) = Browser::new() else { return };
    let Some(axe) = axe() else { return };
    let page = page();
    let run = "<script>addEventListener('load', async () => {
        const said = document.createElement('pre');
        said.id = 'axe';
        try {
            const found = await axe.run(document);
            const line = (v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).join(', ')}`;
            said.textContent = `passed ${found.passes.length}; violated ${found.violations.map(line).join('; ')}.`;
        } catch (error) { said.textContent = String(error); }
        document.body.append(said);
    });</script>";
    let judged = |page: &str, scheme| {
        let page = opened_up(page, &format!("<script>{axe}</script>{run}"));
        let options = ["--virtual-time-budget=60000", "--dump-dom"].map(str::to_owned);
        let dom = String::from_utf8_lossy(&browser.open(&page, scheme, &options).stdout).into_owned();
        let said = dom.rsplit("<pre id=\"axe\">").next().unwrap_or_default();
        said.split("</pre>").next().unwrap_or_default().to_owned()
    };
    for scheme in [Scheme::Light, Scheme::Dark] {
        let said = judged(&page, scheme);
        let passed =
            said.strip_prefix("passed ").and_then(|rest| rest.split(';').next()?.parse::<u32>().ok());
        assert!(passed.is_some_and(|passed| passed > 20), "{scheme:?}: {said}");
        assert!(said.ends_with("; violated ."), "{scheme:?}: {said}");
    }
    // It does find what is wrong.
    let said = judged(&page.replacen("<html lang=\"en\">", "<html>", 1), Scheme::Light);
    assert!(said.contains("violated html-has-lang: html."), "{said}");
}

/// The checker's script. `None` where it cannot be fetched, which `CI=true` does not accept.
fn axe() -> Option<String> {
    let dir = tempfile::tempdir().expect("a folder");
    let fetched = Command::new("npm").args(["pack", "--silent", AXE]).current_dir(&dir).output();
    let why = match fetched {
        Ok(output) if output.status.success() => {
            let archive = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let file = "package/axe.min.js";
            let unpacked = Command::new("tar").args(["-xzOf", &archive, file]).current_dir(&dir).output();
            return Some(String::from_utf8(unpacked.expect("tar").stdout).expect("a script"));
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{AXE} cannot be fetched by npm: {why}");
    println!("SKIP {AXE} cannot be fetched by npm: {why}");
    None
}

/// How long a page of some thousand rows takes until it is loaded is printed and depends on the machine.
#[test]
fn a_large_page_loads() {
    let Some(browser) = Browser::new() else { return };
    let session = session::decode(large::lines().as_bytes()).expect("what was written is read");
    let page = rendered(&session);
    let run = "<script>addEventListener('load', () => {
        const said = document.createElement('pre');
        said.id = 'loaded';
        said.textContent = `${Math.round(performance.now())} ms, ${document.querySelectorAll('tr').length} rows`;
        document.body.append(said);
    });</script>";
    let dom = browser.open(&opened_up(&page, run), Scheme::Light, &["--dump-dom".to_owned()]).stdout;
    let dom = String::from_utf8_lossy(&dom);
    let said = dom.rsplit("<pre id=\"loaded\">").next().and_then(|rest| rest.split("</pre>").next());
    let series = session.runs[0].snapshot.series.len();
    println!("report: loaded in {} of {series} series, {} KiB", said.unwrap_or_default(), page.len() / 1024);
    let rows = said.and_then(|said| said.split_once(" ms, ")?.1.strip_suffix(" rows")?.parse::<usize>().ok());
    assert!(rows.is_some_and(|rows| rows > series * 3), "{said:?}");
}
