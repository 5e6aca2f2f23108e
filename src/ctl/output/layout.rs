//! Rows of cells as lines: aligned in columns by what a terminal shows of wide and combining
//! characters, and no wider than the terminal.
//!
//! Where a terminal is too narrow for a table, long cells are wrapped. Where it is too narrow for
//! that too, each row is a block with a line for each cell.

use std::ops::RangeInclusive;

use clap::builder::styling::Style;
use textwrap::{Options, WordSeparator, core::display_width};

/// Spaces between two columns.
const GAP: usize = 2;
/// Columns are not made narrower than their longest word, within these bounds: a column of short
/// words would become a tower, and a time has 20 characters.
const MIN_WRAPPED: RangeInclusive<usize> = 12..=20;

/// A cell of a row, without characters that control a terminal.
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) style: Style,
}

/// A table that is printed in pages, so that later rows are not known yet.
pub(super) struct Layout {
    /// Of the terminal; none: not a terminal, so of any width.
    width: Option<usize>,
    /// What the columns need. They only grow from page to page.
    needed: Vec<usize>,
    /// What they need at least, with their cells wrapped.
    least: Vec<usize>,
    /// Whether rows are blocks. Decided by the first page.
    in_blocks: Option<bool>,
}

impl Layout {
    pub(super) fn new(width: Option<usize>) -> Self {
        Self { width, needed: Vec::new(), least: Vec::new(), in_blocks: None }
    }

    /// Sets minimum widths, for rows that are printed one by one.
    pub(super) fn reserve(&mut self, widths: Vec<usize>) {
        self.least = widths.iter().map(|width| *width.min(MIN_WRAPPED.end())).collect();
        self.needed = widths;
    }

    /// The lines of the next rows, and of the heading before the first ones.
    pub(super) fn lines(
        &mut self,
        titles: &[&str],
        heading: Style,
        rows: &[Vec<Cell>],
    ) -> Vec<String> {
        self.grow(titles.iter().copied());
        rows.iter().for_each(|row| self.grow(row.iter().map(|cell| cell.text.as_str())));
        let is_first = self.in_blocks.is_none();
        if *self
            .in_blocks
            .get_or_insert_with(|| self.width.is_some_and(|width| total(&self.least) > width))
        {
            let blocks = rows.iter().map(|row| self.block(titles, heading, row));
            return blocks.enumerate().fold(Vec::new(), |mut lines, (number, block)| {
                lines.extend((number > 0 || !is_first).then(String::new));
                lines.extend(block);
                lines
            });
        }
        let widths = self.fitted();
        let head = titles.iter().map(|title| Cell { text: (*title).to_owned(), style: heading });
        let head = is_first.then(|| head.collect::<Vec<_>>());
        head.iter().chain(rows).flat_map(|row| aligned(row, &widths)).collect()
    }

    /// A line for each cell, after its title.
    pub(super) fn block(&self, titles: &[&str], heading: Style, row: &[Cell]) -> Vec<String> {
        let title = titles.iter().map(|title| display_width(title)).max().unwrap_or_default();
        let lines = titles.iter().zip(row).flat_map(|(name, cell)| {
            let head = Cell { text: (*name).to_owned(), style: heading };
            let cell = Cell { text: cell.text.clone(), style: cell.style };
            let rest = self.width.map(|width| width.saturating_sub(title + GAP).max(1));
            let rest = rest.unwrap_or_else(|| display_width(&cell.text));
            aligned(&[head, cell], &[title, rest])
        });
        lines.collect()
    }

    fn grow<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a str>) {
        let columns = texts.len().max(self.needed.len());
        self.needed.resize(columns, 0);
        self.least.resize(columns, 0);
        for ((needed, least), text) in self.needed.iter_mut().zip(&mut self.least).zip(texts) {
            let width = display_width(text);
            let word = text.split(' ').map(display_width).max().unwrap_or_default();
            *needed = width.max(*needed);
            *least = word.clamp(*MIN_WRAPPED.start(), *MIN_WRAPPED.end()).min(width).max(*least);
        }
    }

    /// The widths of the columns: what they need, the widest ones less where that is too much.
    fn fitted(&self) -> Vec<usize> {
        let mut widths = self.needed.clone();
        while self.width.is_some_and(|width| total(&widths) > width) {
            let least = self.least.iter().copied();
            let columns = widths.iter().copied().zip(least).enumerate();
            // A later page can have longer words than the first, which chose the form.
            let widest = columns.max_by_key(|(_, (width, least))| (width > least, *width));
            match widest {
                Some((at, (width, _))) if width > 1 => widths[at] -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// The width of a row.
fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + widths.len().saturating_sub(1) * GAP
}

/// A row as lines: more than one where a cell is wrapped.
fn aligned(row: &[Cell], widths: &[usize]) -> Vec<String> {
    let columns: Vec<_> =
        row.iter().zip(widths).map(|(cell, width)| wrapped(&cell.text, *width)).collect();
    let height = columns.iter().map(Vec::len).max().unwrap_or_default();
    (0..height).map(|at| line(row, &columns, widths, at)).collect()
}

fn line(row: &[Cell], columns: &[Vec<String>], widths: &[usize], at: usize) -> String {
    let mut line = String::new();
    // Spaces before the next text, so that no line ends with some.
    let mut spaces = 0;
    for ((cell, texts), width) in row.iter().zip(columns).zip(widths) {
        let text = texts.get(at).map_or("", String::as_str);
        if !text.is_empty() {
            line.extend(std::iter::repeat_n(' ', spaces));
            line.push_str(&format!("{style}{text}{style:#}", style = cell.style));
            spaces = 0;
        }
        spaces += width.saturating_sub(display_width(text)) + GAP;
    }
    line
}

/// The text in lines of at most this width, but of one character at least.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    if display_width(text) <= width {
        return vec![text.to_owned()];
    }
    let options = Options::new(width).word_separator(WordSeparator::AsciiSpace).break_words(true);
    textwrap::wrap(text, options).into_iter().map(|line| line.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(texts: &[&str]) -> Vec<Cell> {
        let cell = |text: &&str| Cell { text: (*text).to_owned(), style: Style::new() };
        texts.iter().map(cell).collect()
    }

    fn lines(width: Option<usize>, titles: &[&str], rows: &[&[&str]]) -> Vec<String> {
        let rows: Vec<_> = rows.iter().map(|texts| row(texts)).collect();
        Layout::new(width).lines(titles, Style::new(), &rows)
    }

    const TIME: &str = "2022-01-14T07:59:10Z";

    #[test]
    fn a_table_that_fits_is_not_wrapped() {
        let expected = ["USER  UNTIL", "u     2022-01-14T07:59:10Z"];
        for width in [None, Some(26), Some(500)] {
            assert_eq!(lines(width, &["USER", "UNTIL"], &[&["u", TIME]]), expected);
        }
    }

    #[test]
    fn the_widest_cells_are_wrapped_where_the_terminal_is_narrow() {
        let expected = [
            "USER                    UNTIL",
            "0123456789abcdef012345  2022-01-14T07:59:10Z",
            "6789abcdef",
        ];
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(lines(Some(44), &["USER", "UNTIL"], &[&[id, TIME]]), expected);
    }

    #[test]
    fn short_words_are_wrapped_and_times_are_not() {
        let expected = [
            "USERS         SINCE                 REASON",
            "user1,        2022-01-14T07:59:10Z  he said a",
            "user2, user3                        lot of",
            "                                    things",
        ];
        let rows: [&[&str]; 1] = [&["user1, user2, user3", TIME, "he said a lot of things"]];
        assert_eq!(lines(Some(48), &["USERS", "SINCE", "REASON"], &rows), expected);
    }

    #[test]
    fn rows_are_blocks_where_a_table_cannot_fit() {
        let expected = [
            "USER   u",
            "UNTIL  2022-01-14T07:59:10Z",
            "       (in 1 day)",
            "SINCE  2022-01-14T07:59:10Z",
            "",
            "USER   v",
            "UNTIL  for good",
            "SINCE  2022-01-14T07:59:10Z",
        ];
        let until = format!("{TIME} (in 1 day)");
        let rows: [&[&str]; 2] = [&["u", &until, TIME], &["v", "for good", TIME]];
        assert_eq!(lines(Some(30), &["USER", "UNTIL", "SINCE"], &rows), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let ids = ["x".repeat(120), "名前".repeat(20), "🙂".repeat(30), "n\u{303}".repeat(60)];
        let reason = "a reason of several words, and onewordthatisverymuchlongerthantheothers";
        for width in [10, 20, 30, 44, 60, 80, 100] {
            for id in &ids {
                let rows: [&[&str]; 2] = [&[id, TIME, TIME, id, reason], &["u", "", "", "", ""]];
                let titles = ["USER", "UNTIL", "SINCE", "BY", "REASON"];
                for line in lines(Some(width), &titles, &rows) {
                    assert!(display_width(&line) <= width, "{width}: {line:?}");
                }
            }
        }
    }

    #[test]
    fn the_form_and_the_columns_stay_from_page_to_page() {
        let mut layout = Layout::new(Some(50));
        let heads = ["USER", "SINCE"];
        let mut page = |texts: &[&str]| layout.lines(&heads, Style::new(), &[row(texts)]);
        assert_eq!(
            page(&["someone", TIME]),
            ["USER     SINCE".to_owned(), format!("someone  {TIME}")]
        );
        assert_eq!(page(&["u", TIME]), [format!("u        {TIME}")]);
        assert!(page(&[&"x".repeat(99), TIME]).iter().all(|line| display_width(line) <= 50));
    }
}
