//! The pages for people: what `/` and `/healthz` show.
//!
//! Values in, text out; every value is escaped.

use super::Status;
use askama::Template;

#[derive(Template)]
#[template(
    source = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>vfprobe</title>
<style>
  :root { color-scheme: light dark }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
  th, td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
</style>
<h1>vfprobe {{ version }}</h1>
<p>How SR-IOV guests on this host get their interrupts. Configuration in force: <strong>{{ status.config }}</strong></p>
<ul>
  <li><a href="metrics">/metrics</a>: for Prometheus</li>
  <li><a href="healthz">/healthz</a>: 200 while the probes run</li>
</ul>
<table>
  <caption>Probes</caption>
  <tr><th>probe<th>state<th>hook or reason</tr>
  {%- for probe in status.probes %}
  <tr><td>{{ probe.name }}<td>{{ probe.state.as_str() }}<td>{{ probe.reason }}</tr>
  {%- endfor %}
</table>
</html>
"#,
    ext = "html"
)]
struct Landing<'a> {
    version: &'static str,
    status: &'a Status,
}

/// The landing page.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn landing(status: &Status) -> Result<String, askama::Error> {
    Landing { version: env!("CARGO_PKG_VERSION"), status }.render()
}

/// The body of `/healthz`: the verdict, then one line per probe.
#[must_use]
pub fn health(status: &Status) -> String {
    let verdict = if status.healthy() { "ok" } else { "no probe runs, or one has failed" };
    let lines = status.probes.iter().map(|p| format!("{} {} {}\n", p.name, p.state.as_str(), p.reason));
    format!("{verdict}\n{}", lines.collect::<String>())
}
