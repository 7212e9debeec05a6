//! Drawing the live view. Colour never carries meaning alone.

use super::state::{QUANTILES, Row, State, Tab};
use crate::report::format;
use crate::stats::{Histogram, to_f64};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row as TableRow, Table, TableState, Tabs};

/// Lines of the distribution below the table, its frame included.
const DISTRIBUTION: u16 = 14;

/// Draws the whole view.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, table, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(5),
        Constraint::Length(DISTRIBUTION),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let titles = Tab::ALL.iter().zip(1..).map(|(tab, key)| format!("{key} {}", tab.title()));
    let selected = Tab::ALL.iter().position(|tab| *tab == state.tab);
    frame.render_widget(
        Tabs::new(titles).select(selected).highlight_style(Style::new().add_modifier(Modifier::REVERSED)),
        head,
    );
    let rows = state.rows();
    draw_table(frame, state, &rows, table);
    draw_distribution(frame, rows.get(state.selected), below);
    let lost = state.lost();
    let mut text = format!(
        "j/k row  1-4 page  s order ({})  p {}  q quit",
        state.order(),
        if state.paused { "go on (paused)" } else { "pause" }
    );
    if !lost.is_empty() {
        text = format!("lost: {lost}  {text}");
    }
    frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn draw_table(frame: &mut Frame<'_>, state: &State, rows: &[Row], area: Rect) {
    if rows.is_empty() {
        let why = match state.tab {
            Tab::Delivery => "no interrupt of a guest's VF so far",
            Tab::Exits => "no VM exit so far",
            Tab::Scheduling => "no vCPU has entered its guest so far",
            Tab::Noise => "no CPU is guarded (no vCPU is pinned), or none was disturbed",
        };
        frame.render_widget(Paragraph::new(why), area);
        return;
    }
    let heads = ["", "n", "rate"].into_iter().map(str::to_owned);
    let heads = heads.chain(QUANTILES.iter().map(|q| q.name().to_owned())).chain(["time".to_owned()]);
    let lines = rows.iter().map(|row| {
        if let Some(reason) = &row.hidden {
            return TableRow::new([row.name.clone(), format!("not observable ({reason})")]);
        }
        let mut cells = vec![row.name.clone(), row.n.to_string(), format::rate(row.n, state.interval_ns())];
        cells.extend(row.quantiles.map(|ns| format::time_or_dash(ns.map(to_f64))));
        cells.push(format::time(to_f64(row.sum_ns)));
        TableRow::new(cells.into_iter().map(Cell::from))
    });
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut widths =
        vec![Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)), Constraint::Length(9)];
    widths.extend([Constraint::Length(10); 5]);
    let table = Table::new(lines, widths)
        .header(TableRow::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut selection = TableState::new().with_selected(Some(state.selected));
    frame.render_stateful_widget(table, area, &mut selection);
}

fn draw_distribution(frame: &mut Frame<'_>, row: Option<&Row>, area: Rect) {
    let Some(row) = row else { return };
    let title = format!(" {}: n {} since the start ", row.name, row.all.n());
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    let lines: Vec<Line<'_>> = bars(&row.all, usize::from(inner.height), usize::from(inner.width))
        .into_iter()
        .map(Line::from)
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// One line for each power of two, the `height` that hold most of the upper end.
fn bars(histogram: &Histogram, height: usize, width: usize) -> Vec<String> {
    let up_to: Vec<u64> = (0..=36).map(|bit| histogram.count_at_or_below(1 << bit)).collect();
    let mut counts: Vec<(u32, u64)> = vec![(0, up_to[0])];
    counts.extend((1..).zip(up_to.windows(2).map(|pair| pair[1] - pair[0])));
    let used = |(_, count): &(u32, u64)| *count > 0;
    let (Some(first), Some(last)) = (counts.iter().position(used), counts.iter().rposition(used)) else {
        return vec!["no values".to_owned()];
    };
    let first = first.max((last + 1).saturating_sub(height));
    let shown = &counts[first..=last];
    let most = shown.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let room = width.saturating_sub(24);
    shown
        .iter()
        .map(|(bit, count)| {
            let filled = usize::try_from(count * u64::try_from(room).unwrap_or(0) / most).unwrap_or(room);
            // What is there is seen, however little it is.
            let filled = filled.max(usize::from(*count > 0));
            let to = format::time(to_f64(1u64 << bit));
            format!("<= {to:>8} {count:>9} {}", "#".repeat(filled))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::snapshot;
    use super::super::{Key, State, Tab};
    use super::draw;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 30)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..100).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..30).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn figures_and_their_distribution_are_drawn() {
        let mut state = State::default();
        assert!(drawn(&state).contains("no interrupt of a guest's VF so far"));
        state.key(Key::Tab(Tab::Exits));
        let values: Vec<u64> = vec![3_000; 50];
        state.update(snapshot(2_000_000_000, &[("vm_exit", "guest=vm1,vcpu=0,reason=HLT", &values)]));
        let text = drawn(&state);
        for part in
            ["vm1 vcpu 0 HLT", "25 /s", "n 50 since the start", "<=  4.10 us        50 ####", "q quit"]
        {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        // Fifty values hold no p99.
        let row = text.lines().find(|line| line.starts_with("vm1")).unwrap();
        assert_eq!(row.split_whitespace().filter(|word| *word == "-").count(), 1, "{row}");
    }
}
