//! Times as people read them, and how long it is until then.

use std::time::Duration;

use prost_types::Timestamp;

/// Units that are written out, with a space before them: "1 day", but "23h".
const WORDS: [&str; 6] = ["day", "days", "month", "months", "year", "years"];

/// RFC 3339 in UTC, to the second.
pub(super) fn moment(time: Timestamp) -> String {
    Timestamp { nanos: 0, ..time }.to_string()
}

/// How long it is until this time, rounded down to the next smaller unit. None if it has passed.
pub(super) fn remaining(until: Timestamp, now_ms: u64) -> Option<String> {
    let until_ms = u64::try_from(until.seconds).unwrap_or_default().saturating_mul(1_000);
    let until_ms =
        until_ms.saturating_add(u64::try_from(until.nanos).unwrap_or_default() / 1_000_000);
    let left_ms = until_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
    Some(roughly(left_ms.div_ceil(1_000)))
}

fn roughly(seconds: u64) -> String {
    let step = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        86_400..2_592_000 => 3_600,
        _ => 86_400,
    };
    let duration = humantime::format_duration(Duration::from_secs(seconds - seconds % step));
    let parts: Vec<_> = duration.to_string().split(' ').map(spaced).collect();
    parts.join(" ")
}

/// A part of a duration, such as `1day`.
fn spaced(part: &str) -> String {
    let unit = part.trim_start_matches(|character: char| character.is_ascii_digit());
    let number = part.strip_suffix(unit).unwrap_or_default();
    if WORDS.contains(&unit) { format!("{number} {unit}") } else { part.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_rounded_and_never_too_short() {
        let left = |ms: u64| {
            let until =
                Timestamp { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 };
            remaining(until, 0)
        };
        let cases = [
            (1, "1s"),
            (59_001, "1m"),
            (86_399_000, "23h 59m"),
            (86_400_000, "1 day"),
            (90_000_000, "1 day 1h"),
            (172_800_000, "2 days"),
        ];
        for (ms, expected) in cases {
            assert_eq!(left(ms).as_deref(), Some(expected));
        }
        assert!(left(32 * 86_400_000).unwrap().starts_with("1 month"));
        assert!(left(800 * 86_400_000).unwrap().starts_with("2 years"));
        assert_eq!(left(0), None);
        assert_eq!(moment(Timestamp { seconds: 0, nanos: 5 }), "1970-01-01T00:00:00Z");
    }
}
