//! The output of `ctl`: aligned tables for people, one JSON object a line for programs. Text that
//! users wrote cannot control the terminal in either form.

use std::{
    env,
    io::{self, BufWriter, IsTerminal as _, Write},
    time::Duration,
};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ColumnConstraint::Absolute, Table, Width, presets};
use prost_types::Timestamp;
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

use super::records::{Record, Value};
use crate::{
    clock::Clock,
    visible::{is_harmful, json_escape, shown},
};

const HEADING: Style = Style::new().bold();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
/// Spaces between the columns of a table.
const GAP: u16 = 2;

/// Where output goes, and in which form.
pub struct Output {
    to: Box<dyn Write>,
    is_json: bool,
    is_colored: bool,
    /// Shows how much time is left.
    clock: Clock,
    /// Widths of the table's columns. They only grow from page to page.
    widths: Vec<u16>,
    has_heading: bool,
}

impl Output {
    /// Coloured only on a terminal, and never with NO_COLOR.
    pub fn stdout(is_json: bool, clock: Clock) -> Self {
        let is_colored = io::stdout().is_terminal()
            && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self::new(Box::new(BufWriter::new(io::stdout())), is_json, is_colored, clock)
    }

    fn new(to: Box<dyn Write>, is_json: bool, is_colored: bool, clock: Clock) -> Self {
        Self { to, is_json, is_colored, clock, widths: Vec::new(), has_heading: false }
    }

    /// Sets minimum widths, for a table that is printed row by row.
    pub fn reserve(&mut self, widths: &[u16]) {
        self.widths = widths.to_vec();
    }

    /// Prints the next rows of the table, after its heading.
    pub fn rows(&mut self, records: &[Record]) -> io::Result<()> {
        if self.is_json {
            records.iter().try_for_each(|record| self.json(record))?;
        } else if let Some(first) = records.first() {
            let mut lines = self.table(first, records);
            if !self.has_heading {
                self.has_heading = true;
                self.styled(HEADING, &lines[0])?;
            }
            lines.drain(1..).try_for_each(|line| writeln!(self.to, "{line}"))?;
        }
        self.to.flush()
    }

    /// Prints one record, one field a line.
    pub fn one(&mut self, record: &Record) -> io::Result<()> {
        if self.is_json {
            return self.json_line(record);
        }
        let mut lines = Vec::new();
        self.fields(record, &mut lines);
        let width = lines.iter().map(|(title, _)| title.len()).max().unwrap_or_default();
        for (title, cell) in lines {
            let title = format!("{title:width$}");
            let title =
                if self.is_colored { format!("{HEADING}{title}{HEADING:#}") } else { title };
            writeln!(self.to, "{title}  {cell}")?;
        }
        self.to.flush()
    }

    /// Prints a sentence about one record. Text from others in it must be escaped by [`shown`].
    pub fn sentence(&mut self, record: &Record, style: Style, sentence: &str) -> io::Result<()> {
        if self.is_json {
            return self.json_line(record);
        }
        self.styled(style, sentence)?;
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
        let end_ms = u64::try_from(end.seconds).unwrap_or_default().saturating_mul(1_000);
        let end_ms =
            end_ms.saturating_add(u64::try_from(end.nanos).unwrap_or_default() / 1_000_000);
        match end_ms.saturating_sub(self.clock.now_ms()) {
            0 => moment(end),
            left_ms => format!("{} (in {})", moment(end), roughly(left_ms.div_ceil(1_000))),
        }
    }

    fn json(&mut self, record: &Record) -> io::Result<()> {
        record.serialize(&mut Serializer::with_formatter(&mut self.to, Harmless))?;
        self.to.write_all(b"\n")
    }

    fn styled(&mut self, style: Style, text: &str) -> io::Result<()> {
        if self.is_colored {
            writeln!(self.to, "{style}{text}{style:#}")
        } else {
            writeln!(self.to, "{text}")
        }
    }

    fn cell(&self, value: &Value) -> String {
        let cell = match value {
            Value::Text(text) => shown(text),
            Value::Texts(texts) => shown(&texts.join(", ")),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Value::Name(_, name) => name.clone(),
            Value::Time(time) => time.map(moment).unwrap_or_default(),
            Value::End(end) => self.end(*end),
            Value::Record(_) => String::new(),
        };
        if cell.is_empty() { "-".to_owned() } else { cell }
    }

    /// Fields of a nested record are printed like its own.
    fn fields(&self, record: &Record, lines: &mut Vec<(&'static str, String)>) {
        for (title, value) in columns(record) {
            match value {
                Value::Record(Some(record)) => self.fields(record, lines),
                value => lines.push((title, self.cell(value))),
            }
        }
    }

    /// The heading and the rows. comfy-table renders whole tables; this one is printed in pages,
    /// each with the widths of the earlier ones. Only a cell of more than 65,535 columns would be
    /// wrapped.
    fn table(&mut self, first: &Record, records: &[Record]) -> Vec<String> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(columns(first).map(|(title, _)| title));
        for record in records {
            table.add_row(columns(record).map(|(_, value)| self.cell(value)));
        }
        self.widths.resize(table.column_max_content_widths().len(), 0);
        for (width, needed) in self.widths.iter_mut().zip(table.column_max_content_widths()) {
            *width = needed.max(*width);
        }
        for (column, width) in table.column_iter_mut().zip(&self.widths) {
            let width = Absolute(Width::Fixed(width.saturating_add(GAP)));
            column.set_padding((0, GAP)).set_constraint(width);
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// Prints a message to standard error that is not part of the output.
pub fn notice(text: &str) {
    let lines: Vec<_> = text.lines().map(shown).collect();
    // A failed write to standard error cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

fn columns(record: &Record) -> impl Iterator<Item = (&'static str, &Value)> {
    record.0.iter().filter(|field| !field.title.is_empty()).map(|field| (field.title, &field.value))
}

fn moment(time: Timestamp) -> String {
    Timestamp { nanos: 0, ..time }.to_string()
}

/// Rounded down to the next smaller unit.
fn roughly(seconds: u64) -> String {
    let step = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        86_400..2_592_000 => 3_600,
        _ => 86_400,
    };
    humantime::format_duration(Duration::from_secs(seconds - seconds % step)).to_string()
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
        write(&mut Output::new(Box::new(page.clone()), is_json, is_colored, Clock::manual(NOW_MS)));
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
USER     UNTIL                           SINCE                 BY   REASON
u        2022-01-14T07:59:10Z (in 1day)  2022-01-13T07:59:10Z  app  spam
someone  for good                        2022-01-13T07:59:10Z  app  -
v        2022-01-13T07:59:10Z (in 1s)    2022-01-13T07:59:10Z  app  x
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
    fn the_time_left_is_rounded_and_never_too_short() {
        let out = Output::new(Box::new(io::sink()), false, false, Clock::manual(0));
        let end = |ms: u64| {
            out.end(Some(Timestamp {
                seconds: (ms / 1_000) as i64,
                nanos: (ms % 1_000) as i32 * 1_000_000,
            }))
        };
        let left =
            |ms: u64| end(ms).split_once(" (in ").unwrap().1.trim_end_matches(')').to_owned();
        let cases = [
            (1, "1s"),
            (59_001, "1m"),
            (86_399_000, "23h 59m"),
            (90_000_000, "1day 1h"),
            (32 * 86_400_000, "1month 1day"),
        ];
        for (ms, expected) in &cases[..4] {
            assert_eq!(left(*ms), *expected);
        }
        assert!(left(cases[4].0).starts_with("1month"));
        assert_eq!(end(0), "1970-01-01T00:00:00Z");
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
            out.sentence(&member("u", None, ""), BAD, "no").unwrap();
        };
        let (plain, colored) = (written(false, false, write), written(false, true, write));
        assert!(!plain.contains('\u{1b}'));
        assert!(
            colored.starts_with("\u{1b}[1mUSER") && colored.contains("\u{1b}[31mno\u{1b}[0m"),
            "{colored:?}"
        );
    }
}
