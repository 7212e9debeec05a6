//! tests/lab/tune.sh: SciPy, given the exported runs of each whole session, comes to vfprobe's intervals and verdicts.

use super::left;
use std::path::Path;
use std::process::Command;

/// The sessions that the script may have made: each is repeated once when chance or the machine stood in its way.
const SESSIONS: [&str; 4] = ["own1", "own2", "again1", "again2"];

#[test]
fn scipy_comes_to_the_same_verdicts() {
    // Set by xtask to the Python that has SciPy.
    let python = std::env::var_os("VFPROBE_PYTHON").unwrap_or_else(|| "python3".into());
    let import = Command::new(&python).args(["-c", "import scipy"]).output();
    if !import.as_ref().is_ok_and(|output| output.status.success()) {
        let why = import
            .map_or_else(|error| error.to_string(), |o| String::from_utf8_lossy(&o.stderr).into_owned());
        let why = why.trim_end().lines().last().unwrap_or("it does not start").to_owned();
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no SciPy: {why}");
        println!("SKIP scipy_comes_to_the_same_verdicts: needs Debian's python3-scipy: {why}");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab_eval/tune.py");
    let mut judged = 0;
    for session in SESSIONS.iter().filter(|name| left(&format!("{name}.vfprobe")).exists()) {
        let files = ["csv", "json", "compared.json"].map(|kind| left(&format!("{session}.{kind}")));
        let output = Command::new(&python).arg(&script).args(files).output().unwrap();
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{session}: {said}{errors}");
        assert!(output.status.success(), "{session}: {said}{errors}");
        judged += 1;
    }
    assert!(judged >= 2, "a session of a changed host and one of the baseline: {judged} are there");
}
