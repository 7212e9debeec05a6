//! The HTML report: one file, no network, readable by keyboard, in light, dark and on paper.
//!
//! The page is askama templates under `templates/report`; drawings are laid out here and are SVG inside the page.
//! Beside every drawing stands a table with its figures.

mod aims;
mod bars;
mod chart;
mod cpus;
mod distribution;
mod facts;
mod pair;
mod paths;
mod scale;
mod table;
mod timeline;

use super::{aims::aims as aims_of, assess::Assessment, format};
use aims::AimsView;
use askama::Template;
use pair::PairView;
use table::Table;

/// A page that could not be rendered: a template's own failure.
#[derive(Debug, thiserror::Error)]
#[error("the report cannot be rendered")]
pub struct RenderError(#[from] askama::Error);

#[derive(Template)]
#[template(path = "report/page.html")]
struct Page {
    title: String,
    subtitle: String,
    tool: String,
    aims: Vec<AimsView>,
    pairs: Vec<PairView>,
    /// Drawing and table of each session's runs.
    timelines: Vec<(String, Table)>,
    facts: Table,
    notes: Vec<String>,
}

/// The report on one or more comparisons of the same recording.
///
/// # Errors
/// [`RenderError`].
pub fn render(assessments: &[Assessment<'_>], notes: &[String]) -> Result<String, RenderError> {
    let sessions = facts::sessions(assessments);
    let title = match assessments {
        [one] => format!("{}: {} against {}", one.headline.compared.verdict, one.after.name, one.before.name),
        many => format!("{} configurations compared", many.len() + 1),
    };
    let subtitle: Vec<String> = sessions
        .iter()
        .map(|session| {
            let host = session.host.hostname.as_deref().unwrap_or("host not known");
            format!("{host}, {}", format::utc(session.header.created_unix_ms))
        })
        .collect();
    let page = Page {
        title,
        subtitle: subtitle.join(" and "),
        tool: sessions.first().map(|session| session.header.tool.clone()).unwrap_or_default(),
        aims: aims_of(assessments).iter().map(AimsView::new).collect(),
        pairs: assessments
            .iter()
            .enumerate()
            .map(|(n, one)| PairView::new(n, one, assessments.len() > 1))
            .collect::<Result<_, _>>()?,
        timelines: sessions
            .iter()
            .enumerate()
            .filter_map(|(n, session)| timeline::runs(n, session))
            .map(|(drawing, table)| Ok((drawing.render()?, table)))
            .collect::<Result<_, askama::Error>>()?,
        facts: facts::table(&sessions),
        notes: notes.to_vec(),
    };
    Ok(page.render()?)
}

#[cfg(test)]
mod tests;
