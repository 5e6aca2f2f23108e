//! The output of `ctl`: aligned tables for people, one JSON object a line for programs. Text that
//! users wrote cannot control the terminal in either form. `layout` places the cells, and
//! `remaining` writes times.

use std::io::{self, BufWriter, Write};

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use prost_types::Timestamp;
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

use super::records::{Field, Record, Tone, Value};
use crate::{
    clock::Clock,
    visible::{is_harmful, json_escape, shown},
};

mod layout;
mod remaining;

use layout::{Cell, Layout};
use remaining::{moment, remaining};

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Where output goes, and in which form.
pub struct Output {
    to: Box<dyn Write>,
    is_json: bool,
    is_colored: bool,
    /// Shows how much time is left.
    clock: Clock,
    layout: Layout,
    /// Names of fields that have no column, because they are the same in all rows.
    fixed: Vec<&'static str>,
}

impl Output {
    /// Coloured where the terminal and the environment want it. As wide as the terminal.
    pub fn stdout(is_json: bool, clock: Clock) -> Self {
        let is_colored = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        // A terminal that does not know its width says 0.
        let size = terminal_size::terminal_size_of(io::stdout());
        let width = size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0);
        let to = Box::new(BufWriter::new(io::stdout()));
        Self::new(to, is_json, is_colored, Layout::new(width), clock)
    }

    fn new(
        to: Box<dyn Write>,
        is_json: bool,
        is_colored: bool,
        layout: Layout,
        clock: Clock,
    ) -> Self {
        Self { to, is_json, is_colored, clock, layout, fixed: Vec::new() }
    }

    /// Leaves this field out of the table if the caller's own choice has fixed it.
    pub fn fix(&mut self, name: &'static str, is_fixed: bool) {
        self.fixed.extend(is_fixed.then_some(name));
    }

    /// Sets minimum widths of columns, for a table that is printed row by row.
    pub fn reserve(&mut self, widths: &[(&str, usize)]) {
        let shown = widths.iter().filter(|(name, _)| !self.fixed.contains(name));
        self.layout.reserve(shown.map(|(_, width)| *width).collect());
    }

    /// Prints the next rows of the table, after its heading.
    pub fn rows(&mut self, records: &[Record]) -> io::Result<()> {
        if self.is_json {
            records.iter().try_for_each(|record| self.json(record))?;
        } else if let Some(first) = records.first() {
            let titles: Vec<_> = self.columns(first).map(|field| field.title).collect();
            let cells =
                |record| self.columns(record).map(|field| self.cell(&field.value)).collect();
            let rows: Vec<_> = records.iter().map(cells).collect();
            let lines = self.layout.lines(&titles, self.style(HEADING), &rows);
            lines.iter().try_for_each(|line| writeln!(self.to, "{line}"))?;
        }
        self.to.flush()
    }

    /// Prints one record, one field a line.
    pub fn one(&mut self, record: &Record) -> io::Result<()> {
        if self.is_json {
            return self.json_line(record);
        }
        let (titles, cells): (Vec<_>, Vec<_>) = self.fields(record).into_iter().unzip();
        let lines = self.layout.block(&titles, self.style(HEADING), &cells);
        lines.iter().try_for_each(|line| writeln!(self.to, "{line}"))?;
        self.to.flush()
    }

    /// Prints a sentence about one record. Text from others in it must be escaped by [`shown`].
    pub fn sentence(&mut self, record: &Record, tone: Tone, sentence: &str) -> io::Result<()> {
        if self.is_json {
            return self.json_line(record);
        }
        let style = self.toned(tone);
        writeln!(self.to, "{style}{sentence}{style:#}")?;
        self.to.flush()
    }

    /// Prints a record in JSON output only.
    pub fn json_line(&mut self, record: &Record) -> io::Result<()> {
        if self.is_json {
            self.json(record)?;
        }
        self.to.flush()
    }

    /// Says that a list has no rows.
    pub fn nothing(&self) {
        if !self.is_json {
            notice("None.");
        }
    }

    /// The end of a restriction: RFC 3339 in UTC, to the second, with the time left. The time left
    /// is omitted if the end has passed by this machine's clock, which may differ from the
    /// service's.
    pub fn end(&self, end: Option<Timestamp>) -> String {
        let Some(end) = end else { return "for good".to_owned() };
        match remaining(end, self.clock.now_ms()) {
            Some(left) => format!("{} (in {left})", moment(end)),
            None => moment(end),
        }
    }

    fn json(&mut self, record: &Record) -> io::Result<()> {
        record.serialize(&mut Serializer::with_formatter(&mut self.to, Harmless))?;
        self.to.write_all(b"\n")
    }

    /// The style, where there are colours.
    fn style(&self, style: Style) -> Style {
        if self.is_colored { style } else { Style::new() }
    }

    fn toned(&self, tone: Tone) -> Style {
        self.style(match tone {
            Tone::Good => GOOD,
            Tone::Bad => BAD,
            Tone::Plain => Style::new(),
        })
    }

    fn cell(&self, value: &Value) -> Cell {
        let text = match value {
            Value::Text(text) => shown(text),
            Value::Texts(texts) => shown(&texts.join(", ")),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Value::Name(_, name, _) => name.clone(),
            Value::Time(time) => time.map(moment).unwrap_or_default(),
            Value::End(end) => self.end(*end),
            Value::Record(_) => String::new(),
        };
        let tone = if let Value::Name(_, _, tone) = value { *tone } else { Tone::Plain };
        let text = if text.is_empty() { "-".to_owned() } else { text };
        Cell { text, style: self.toned(tone) }
    }

    /// Fields of a nested record are printed like its own.
    fn fields(&self, record: &Record) -> Vec<(&'static str, Cell)> {
        let field = |field: &Field| match &field.value {
            Value::Record(Some(record)) => self.fields(record),
            value => vec![(field.title, self.cell(value))],
        };
        self.columns(record).flat_map(field).collect()
    }

    /// The fields that people see.
    fn columns<'a>(&self, record: &'a Record) -> impl Iterator<Item = &'a Field> {
        let fields = record.0.iter().filter(|field| !field.title.is_empty());
        fields.filter(|field| !self.fixed.contains(&field.name))
    }
}

/// Prints a message to standard error that is not part of the output.
pub fn notice(text: &str) {
    let lines: Vec<_> = text.lines().map(shown).collect();
    // A failed write to standard error cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// Also escapes the characters that JSON allows but that control a terminal.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) =
            rest.char_indices().find(|(_, character)| is_harmful(*character))
        {
            write!(writer, "{}{}", &rest[..at], json_escape(character))?;
            rest = &rest[at + character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use unicode_width::UnicodeWidthStr as _;

    use super::*;
    use crate::{ctl::records, proto::v1 as pb};

    const NOW_MS: u64 = 1_642_060_750_410;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(is_json: bool, is_colored: bool, write: impl FnOnce(&mut Output)) -> String {
        let page = Page::default();
        write(&mut Output::new(
            Box::new(page.clone()),
            is_json,
            is_colored,
            Layout::new(None),
            Clock::manual(NOW_MS),
        ));
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    fn member(user: &str, lasts_ms: Option<u64>, reason: &str) -> Record {
        let time = |ms: u64| Timestamp {
            seconds: (ms / 1_000) as i64,
            nanos: (ms % 1_000 * 1_000_000) as i32,
        };
        records::muted_member(pb::MutedMember {
            user: user.into(),
            expire_time: lasts_ms.map(|lasts_ms| time(NOW_MS + lasts_ms)),
            mute_time: Some(time(NOW_MS)),
            actor: "app".into(),
            reason: reason.into(),
        })
    }

    #[test]
    fn a_table_is_aligned_and_keeps_its_columns_from_page_to_page() {
        let table = written(false, false, |out| {
            out.rows(&[member("u", Some(86_400_000), "spam"), member("someone", None, "")])
                .unwrap();
            out.rows(&[member("v", Some(90), "x")]).unwrap();
        });
        let expected = "\
USER     UNTIL                            SINCE                 BY   REASON
u        2022-01-14T07:59:10Z (in 1 day)  2022-01-13T07:59:10Z  app  spam
someone  for good                         2022-01-13T07:59:10Z  app  -
v        2022-01-13T07:59:10Z (in 1s)     2022-01-13T07:59:10Z  app  x
";
        assert_eq!(table, expected);
    }

    #[test]
    fn columns_are_aligned_by_the_width_that_a_terminal_shows() {
        let names = ["u", "名前", "Zoe\u{308}", "🙂🙂", "한국어", "n\u{303}a\u{301}"];
        let table = written(false, false, |out| {
            out.rows(&names.map(|name| member(name, None, ""))).unwrap();
            out.rows(&[member("a later page", None, ""), member("名", None, "")]).unwrap();
        });
        let at = |line: &str, text: &str| line.split_once(text).unwrap().0.width();
        let (first, last) = table.split_at(table.find("a later").unwrap());
        let heads = [at(first, "UNTIL"), at(last, "for good")];
        assert_eq!(heads, ["한국어".width() + 2, "a later page".len() + 2], "\n{table}");
        assert!(first.lines().skip(1).all(|line| at(line, "for good") == heads[0]), "\n{table}");
        assert!(last.lines().all(|line| at(line, "for good") == heads[1]), "\n{table}");
    }

    #[test]
    fn a_column_that_the_caller_has_fixed_is_left_out_of_the_table() {
        let write = |out: &mut Output| {
            out.fix("actor", true);
            out.fix("reason", false);
            out.rows(&[member("u", None, "spam")]).unwrap();
        };
        let table = written(false, false, write);
        assert!(!table.contains("BY") && table.contains("REASON"), "{table}");
        assert!(written(true, false, write).contains("\"actor\":\"app\""));
    }

    #[test]
    fn text_of_users_cannot_control_the_terminal() {
        let evil = "a\u{1b}[2J\r\n\u{7f}\u{9b}31m\u{202e}b\"";
        let table = written(false, false, |out| out.rows(&[member("u", None, evil)]).unwrap());
        let row = table.lines().nth(1).unwrap();
        assert!(row.ends_with(r#"a\u{1b}[2J\r\n\u{7f}\u{9b}31m\u{202e}b""#), "{row}");
        let json = written(true, false, |out| out.rows(&[member("u", None, evil)]).unwrap());
        assert!(!json.trim_end().chars().any(is_harmful), "{json:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["reason"], evil);
    }

    #[test]
    fn only_headings_and_verdicts_are_coloured_where_wanted() {
        let write = |out: &mut Output| {
            out.rows(&[member("u", None, "")]).unwrap();
            let kind = pb::ChangeKind::Unmuted.into();
            out.one(&records::change(pb::Change { kind, ..Default::default() })).unwrap();
            out.sentence(&member("u", None, ""), Tone::Bad, "no").unwrap();
        };
        let (plain, colored) = (written(false, false, write), written(false, true, write));
        assert!(!plain.contains('\u{1b}'));
        assert!(
            colored.starts_with("\u{1b}[1mUSER") && colored.contains("\u{1b}[31mno\u{1b}[0m"),
            "{colored:?}"
        );
        assert!(colored.contains("\u{1b}[32munmuted\u{1b}[0m"), "{colored:?}");
    }
}
