//! What others wrote, as people are to see it: no character of it is acted upon by a terminal,
//! reorders what stands beside it, or is not seen at all.

use std::io::{self, Write};

/// Whether a terminal acts upon it, or it is hidden.
#[must_use]
pub fn is_harmful(character: char) -> bool {
    character.is_control() || is_hidden(character)
}

/// Characters without a sign of their own, which reorder what stands beside them or leave two texts
/// that differ looking alike: what Unicode 16 calls `Default_Ignorable_Code_Point`, the separators
/// of lines and the annotations between them.
fn is_hidden(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A text with its harmful characters as escapes.
#[must_use]
pub fn shown(text: &str) -> String {
    escaped(text, is_harmful, false)
}

/// The escape of a character within a string of JSON.
#[must_use]
pub fn json_escape(character: char) -> String {
    character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

fn escaped(text: &str, is_meant: fn(char) -> bool, is_json: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match (is_meant(character), is_json) {
            (false, _) => shown.push(character),
            (true, false) => shown.extend(character.escape_default()),
            (true, true) => shown.push_str(&json_escape(character)),
        }
    }
    shown
}

/// Where lines of a log go, each of them whole.
pub struct Lines<W> {
    /// To here.
    pub to: W,
    /// They are objects, one each.
    pub are_json: bool,
    /// They have colours, which are escapes of a terminal: it is up to who makes the lines that
    /// there are no others.
    pub are_colored: bool,
}

impl<W> Lines<W> {
    /// What is not let through.
    fn is_meant(&self) -> fn(char) -> bool {
        if self.are_colored {
            |character| is_harmful(character) && !matches!(character, '\n' | '\u{1b}')
        } else {
            |character| is_harmful(character) && character != '\n'
        }
    }
}

impl<W: Write> Write for Lines<W> {
    /// A line comes whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (text, is_meant) = (String::from_utf8_lossy(line), self.is_meant());
        if text.chars().any(is_meant) {
            self.to.write_all(escaped(&text, is_meant, self.are_json).as_bytes())?;
        } else {
            self.to.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_shown_as_an_escape() {
        for hidden in [
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
            assert_eq!(shown(&format!("a{hidden}b")), format!("a{}b", hidden.escape_unicode()));
        }
        assert_eq!(shown("\u{1b}[2Jä\u{9b}"), "\\u{1b}[2Jä\\u{9b}");
        assert_eq!(shown("Zoë 名前 ا 🙂"), "Zoë 名前 ا 🙂");
    }

    #[test]
    fn lines_of_a_log_keep_their_colours_and_show_what_is_hidden() -> io::Result<()> {
        let written = |are_json, are_colored, line: &str| {
            let mut lines = Lines { to: Vec::new(), are_json, are_colored };
            lines.write_all(line.as_bytes())?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&lines.to).into_owned())
        };
        let line = "\u{1b}[31mWARN\u{1b}[0m a\u{202e}b\u{9b}\n";
        assert_eq!(written(false, true, line)?, "\u{1b}[31mWARN\u{1b}[0m a\\u{202e}b\\u{9b}\n");
        assert_eq!(written(false, false, line)?, "\\u{1b}[31mWARN\\u{1b}[0m a\\u{202e}b\\u{9b}\n");
        assert_eq!(written(true, false, "{\"user\":\"\u{9b}\"}\n")?, "{\"user\":\"\\u009b\"}\n");
        let json = written(true, false, "{\"user\":\"a\u{e0041}b\"}\n")?;
        assert_eq!(json, "{\"user\":\"a\\udb40\\udc41b\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json)?["user"], "a\u{e0041}b");
        Ok(())
    }
}
