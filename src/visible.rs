//! Escapes text from others before people see it, so that no character of it controls a terminal,
//! reorders its surroundings or stays invisible.
//! No crate escapes these. `icu_properties` has the property of most of them, and is large.

use std::io::{self, Write};

/// Whether the character controls a terminal or is invisible.
#[must_use]
pub fn is_harmful(character: char) -> bool {
    character.is_control() || is_invisible(character)
}

/// Invisible characters, which reorder their surroundings or make different texts look alike:
/// Unicode 16's `Default_Ignorable_Code_Point`, line separators, and interlinear annotations.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// The text with its harmful characters escaped.
#[must_use]
pub fn shown(text: &str) -> String {
    escape(text, is_harmful, false)
}

/// The escape of a character in a JSON string.
#[must_use]
pub fn json_escape(character: char) -> String {
    character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

fn escape(text: &str, is_escaped: fn(char) -> bool, is_json: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match (is_escaped(character), is_json) {
            (false, _) => shown.push(character),
            (true, false) => shown.extend(character.escape_default()),
            (true, true) => shown.push_str(&json_escape(character)),
        }
    }
    shown
}

/// A writer of log lines that escapes harmful characters. Each `write` must be one whole line.
pub struct EscapedLines<W> {
    /// The destination.
    pub writer: W,
    /// Whether each line is a JSON object.
    pub are_json: bool,
    /// Whether lines have colours, which are terminal escapes. The formatter must not let other
    /// escapes through.
    pub are_colored: bool,
}

impl<W> EscapedLines<W> {
    /// Which characters are escaped.
    fn is_escaped(&self) -> fn(char) -> bool {
        if self.are_colored {
            |character| is_harmful(character) && !matches!(character, '\n' | '\u{1b}')
        } else {
            |character| is_harmful(character) && character != '\n'
        }
    }
}

impl<W: Write> Write for EscapedLines<W> {
    /// Writes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let is_escaped = self.is_escaped();
        if text.chars().any(is_escaped) {
            self.writer.write_all(escape(&text, is_escaped, self.are_json).as_bytes())?;
        } else {
            self.writer.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        for invisible in [
            '\u{ad}',
            '\u{180e}',
            '\u{200d}',
            '\u{202e}',
            '\u{2060}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0041}',
            '\u{e01ef}',
            '\u{3164}',
        ] {
            assert_eq!(
                shown(&format!("a{invisible}b")),
                format!("a{}b", invisible.escape_unicode())
            );
        }
        assert_eq!(shown("\u{1b}[2Jä\u{9b}"), "\\u{1b}[2Jä\\u{9b}");
        assert_eq!(shown("Zoë 名前 ا 🙂"), "Zoë 名前 ا 🙂");
    }

    #[test]
    fn log_lines_keep_colours_and_escape_the_rest() -> io::Result<()> {
        let write_line = |are_json, are_colored, line: &str| {
            let mut lines = EscapedLines { writer: Vec::new(), are_json, are_colored };
            lines.write_all(line.as_bytes())?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&lines.writer).into_owned())
        };
        let line = "\u{1b}[31mWARN\u{1b}[0m a\u{202e}b\u{9b}\n";
        assert_eq!(write_line(false, true, line)?, "\u{1b}[31mWARN\u{1b}[0m a\\u{202e}b\\u{9b}\n");
        assert_eq!(
            write_line(false, false, line)?,
            "\\u{1b}[31mWARN\\u{1b}[0m a\\u{202e}b\\u{9b}\n"
        );
        assert_eq!(write_line(true, false, "{\"user\":\"\u{9b}\"}\n")?, "{\"user\":\"\\u009b\"}\n");
        let json = write_line(true, false, "{\"user\":\"a\u{e0041}b\"}\n")?;
        assert_eq!(json, "{\"user\":\"a\\udb40\\udc41b\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json)?["user"], "a\u{e0041}b");
        Ok(())
    }
}
