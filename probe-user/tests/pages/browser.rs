//! A headless Chromium on a page of its own, to which no name resolves.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The colours that a reader's system asks for (Blink's `PreferredColorScheme`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Dark,
    Light,
}

/// A page in a folder of its own.
pub(crate) struct Browser {
    dir: tempfile::TempDir,
}

impl Browser {
    /// `None` where there is no chromium, which `CI=true` does not accept.
    pub(crate) fn new() -> Option<Self> {
        match Command::new("chromium").arg("--version").output() {
            Ok(_) => Some(Self { dir: tempfile::tempdir().expect("a folder") }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "there is no chromium");
                println!("SKIP there is no chromium");
                None
            }
            Err(error) => panic!("chromium: {error}"),
        }
    }

    /// A file beside the page.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens a page with some options more.
    pub(crate) fn open(&self, page: &str, scheme: Scheme, options: &[String]) -> Output {
        let file = self.file("report.html");
        std::fs::write(&file, page).expect("a page");
        let scheme = if scheme == Scheme::Dark { 0 } else { 1 };
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--enable-logging=stderr",
            ])
            // Whatever it asks for by name is not found, here and in a CI that has a network.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND")
            .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
            .arg(format!("--user-data-dir={}", self.file("profile").display()))
            .args(options)
            .arg(format!("file://{}", file.display()))
            .output()
            .expect("chromium");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        output
    }

    /// The document after its scripts have run, and what it asked for besides itself. Requests of the browser's own, such as
    /// those for updates, have no document behind them: their initiator is "not an origin".
    pub(crate) fn requests(&self, page: &str) -> (Output, Vec<String>) {
        let log = self.file("net.json");
        let options = [
            "--virtual-time-budget=5000".to_owned(),
            "--dump-dom".to_owned(),
            format!("--log-net-log={}", log.display()),
        ];
        let output = self.open(page, Scheme::Light, &options);
        let log: Value = serde_json::from_slice(&std::fs::read(&log).expect("a log")).expect("JSON");
        let begin = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"].clone();
        assert!(begin.is_number(), "Chromium names its events otherwise");
        let events = log["events"].as_array().expect("events").iter().filter(|event| event["type"] == begin);
        let asked = events.filter(|event| event["params"]["initiator"] != "not an origin");
        let asked = asked.filter_map(|event| event["params"]["url"].as_str().map(str::to_owned)).collect();
        (output, asked)
    }

    /// A picture of the page's beginning; its bytes as PNG.
    pub(crate) fn picture(&self, page: &str, scheme: Scheme) -> Vec<u8> {
        let file = self.file("page.png");
        let options = ["--window-size=1280,4000".to_owned(), format!("--screenshot={}", file.display())];
        self.open(page, scheme, &options);
        let picture = std::fs::read(&file).expect("a picture");
        keep(&file, &format!("{scheme:?}.png").to_lowercase());
        picture
    }

    /// The page as it prints, as PDF.
    pub(crate) fn printed(&self, page: &str) -> Vec<u8> {
        let file = self.file("page.pdf");
        self.open(page, Scheme::Dark, &[format!("--print-to-pdf={}", file.display())]);
        keep(&file, "printed.pdf");
        std::fs::read(&file).expect("a document")
    }
}

/// Where somebody wants to look at it: `VFPROBE_PICTURES` names a folder.
fn keep(file: &Path, name: &str) {
    if let Some(folder) = std::env::var_os("VFPROBE_PICTURES") {
        std::fs::copy(file, Path::new(&folder).join(name)).expect("the picture can be kept");
    }
}
