//! Colours and aligned columns on a terminal. Knows text only, not what it means.

use clap::ColorChoice;
use std::{env, io::IsTerminal};

/// What a piece of text is, for the eye. Colour never carries meaning alone: every state has its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Strong,
    Faint,
    Good,
    Warning,
    Bad,
}

/// Whether text gets colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// What `--color` asks for on standard output; `auto` looks for a terminal and heeds `NO_COLOR` (no-color.org).
    pub(super) fn stdout(choice: ColorChoice) -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let on = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                std::io::stdout().is_terminal()
                    && !set("NO_COLOR")
                    && env::var_os("TERM").is_none_or(|t| t != "dumb")
            }
        };
        Self { on }
    }

    /// The text in its style.
    pub(super) fn text(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            _ if !self.on || text.is_empty() => return text.to_owned(),
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Warning => "33",
            Style::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    style: Style,
    text: String,
}

impl Cell {
    pub(super) fn new(style: Style, text: impl ToString) -> Self {
        Self { style, text: text.to_string() }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Style::Plain, text)
    }
}

/// Lays rows out in columns, two spaces apart, each line behind `indent`. A row may be shorter than others.
pub(super) fn columns(paint: Paint, indent: &str, rows: &[Vec<Cell>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |cell: &Cell| cell.text.chars().count();
    let widths: Vec<usize> =
        (0..count).map(|n| rows.iter().filter_map(|row| row.get(n)).map(width).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        out.push_str(indent);
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
        for (n, cell) in row.iter().enumerate().take(last + 1) {
            out.push_str(&paint.text(cell.style, &cell.text));
            if n < last {
                out.push_str(&" ".repeat(widths[n] - width(cell) + 2));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let rows =
            [vec!["a".into(), Cell::new(Style::Warning, "bb"), "c".into()], vec!["aaa".into(), "".into()]];
        assert_eq!(columns(Paint { on: false }, " ", &rows), " a    bb  c\n aaa\n");
        assert_eq!(columns(Paint { on: true }, " ", &rows), " a    \x1b[33mbb\x1b[0m  c\n aaa\n");
        assert_eq!(columns(Paint::default(), "", &[]), "");
    }
}
