//! The report's page as browsers see it: its script is the one its policy allows, and a headless Chromium opens it without
//! a word on its console and without asking for anything.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use probe_user::{
    report::{
        assess::{Named, assess, pairs_within},
        html,
    },
    session,
    stats::compare::Detail,
};
use std::{path::Path, process::Command};

fn page() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/session-v1.vfprobe");
    let session = session::read(&file).expect("a session");
    let pairs = pairs_within(Named { file: "f", session: &session }, None, None).expect("two configurations");
    let assessments: Vec<_> = pairs.into_iter().map(|pair| assess(pair, Detail::Full, None)).collect();
    html::render(&assessments, &[]).expect("a page")
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
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("report.html"), dir.path().join("net.json"));
    std::fs::write(&file, page()).unwrap();
    let chromium = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
        ])
        .arg("--disable-background-networking")
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("--log-net-log={}", log.display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", file.display()))
        .output();
    let output = match chromium {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "there is no chromium");
            println!("SKIP a_browser_opens_it_in_silence: there is no chromium");
            return;
        }
        Err(error) => panic!("chromium: {error}"),
    };
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && dom.contains("</html>"), "{said}");
    let console: Vec<&str> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    // The script has run: headings that sort, and a search for the long table.
    assert!(dom.contains("<button type=\"button\">") && dom.contains("type=\"search\""), "{}", &dom[..2000]);
    let asked = std::fs::read_to_string(&log).unwrap();
    let asked: Vec<&str> =
        asked.lines().filter(|line| line.contains("report.html") && line.contains("http")).collect();
    assert!(asked.is_empty(), "{asked:?}");
}
