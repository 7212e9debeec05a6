//! What stands at the end of a report: the hosts, and how it was measured.

use super::table::Table;
use crate::{
    report::{assess::Assessment, format},
    session::Session,
};

/// The sessions behind some comparisons, each once.
pub(super) fn sessions<'a>(assessments: &[Assessment<'a>]) -> Vec<&'a Session> {
    let mut found: Vec<&'a Session> = Vec::new();
    for session in assessments.iter().flat_map(|a| [a.before.session, a.after.session]) {
        if !found.iter().any(|known| std::ptr::eq(*known, session)) {
            found.push(session);
        }
    }
    found
}

/// Facts about the hosts, side by side.
pub(super) fn table(sessions: &[&Session]) -> Table {
    let heads: Vec<&str> =
        ["fact", "recording", "second recording"].into_iter().take(sessions.len() + 1).collect();
    let mut table = Table::new("Host facts", &heads);
    let known = |text: Option<String>| text.unwrap_or_else(|| "not known".to_owned());
    let mut row = |name: &str, value: &dyn Fn(&Session) -> Option<String>| {
        let values = sessions.iter().take(2).map(|session| known(value(session)).into());
        table.push([name.into()].into_iter().chain(values).collect());
    };
    row("host", &|s| s.host.hostname.clone());
    row("kernel", &|s| s.host.kernel.clone());
    row("CPU", &|s| s.host.cpu_model.clone());
    row("online CPUs", &|s| s.host.cpus.map(|n| n.to_string()));
    row("kernel command line", &|s| s.host.cmdline.clone());
    row("boot id", &|s| s.host.boot_id.clone());
    row("recorded by", &|s| Some(s.header.tool.clone()));
    row("recorded at", &|s| Some(format::utc(s.header.created_unix_ms)));
    row("runs", &|s| Some(s.runs.len().to_string()));
    let mut more: Vec<&String> = sessions.iter().flat_map(|s| s.host.more.keys()).collect();
    more.sort();
    more.dedup();
    for name in more {
        row(name, &|s| s.host.more.get(name).cloned());
    }
    table
}
