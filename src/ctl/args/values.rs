//! How durations, times and kinds of events are written on the command line.

use std::time::{Duration, SystemTime};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use prost_types::Timestamp;

use crate::{ctl::records, proto::v1::ChangeKind};

/// The duration of a mute or ban; none is for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuteLength(Option<Duration>);

impl MuteLength {
    /// The duration of an RPC; none is for good.
    pub fn duration(self) -> Option<prost_types::Duration> {
        // A duration that the message cannot hold becomes its maximum, which the service refuses.
        prost_types::Duration::try_from(self.0?)
            .ok()
            .or(Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }))
    }
}

pub(super) fn parse_length(raw: &str) -> Result<MuteLength, String> {
    if raw == "good" {
        return Ok(MuteLength(None));
    }
    let duration = parse_duration(raw);
    duration
        .map(|duration| MuteLength(Some(duration)))
        .map_err(|error| format!("{error}; write 10m, 24h, 7d, or good"))
}

/// A time, or how long ago it was.
pub(super) fn parse_time(raw: &str) -> Result<Timestamp, String> {
    if let Some(question) = month_or_minute(raw) {
        return Err(question);
    }
    if let Ok(ago) = humantime::parse_duration(raw) {
        let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        return Ok(time.into());
    }
    raw.parse().map_err(|_| {
        "write 2026-11-25, 2026-11-25T08:00:00Z, or how long ago, such as 2h".to_owned()
    })
}

pub(super) fn parse_limit(raw: &str) -> Result<u64, String> {
    let limit = raw.parse().ok().filter(|limit| *limit > 0);
    limit.ok_or_else(|| "write a number from 1 on, or leave the option out for all".to_owned())
}

fn parse_duration(raw: &str) -> Result<Duration, String> {
    match month_or_minute(raw) {
        Some(question) => Err(question),
        None => humantime::parse_duration(raw).map_err(|error| error.to_string()),
    }
}

/// Asks what the unit `M` means. It is a month where `m` is a minute: a slip of the Shift key would
/// mute 43,800 times as long.
fn month_or_minute(raw: &str) -> Option<String> {
    let mut units = raw.split(|character: char| !character.is_alphabetic());
    units
        .any(|unit| unit == "M")
        .then(|| "M is a month or a minute? Write 1month for a month, 1m for a minute".to_owned())
}

pub(super) fn kind_parser() -> impl TypedValueParser<Value = ChangeKind> {
    let kind_of = |name: String| {
        records::kinds().find(|kind| records::kind_name(*kind).eq_ignore_ascii_case(&name))
    };
    PossibleValuesParser::new(records::kinds().map(records::kind_name))
        .try_map(move |name| kind_of(name).ok_or("unknown event kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_duration_or_for_good() {
        let seconds = |seconds| Ok(MuteLength(Some(Duration::from_secs(seconds))));
        for (raw, expected) in
            [("10m", 600), ("24h", 86_400), ("7d", 604_800), ("1h 30m", 5_400), ("90s", 90)]
        {
            assert_eq!(parse_length(raw), seconds(expected), "{raw}");
        }
        assert_eq!(parse_length("good"), Ok(MuteLength(None)));
        for raw in ["", "soon", "10", "-1h"] {
            assert!(parse_length(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn a_capital_m_asks_whether_it_is_a_month_or_a_minute() {
        for raw in ["1M", "10M", "1 M", "1h 30M", "2M1d"] {
            let question = parse_length(raw).unwrap_err();
            assert!(question.contains("1month") && question.contains("1m "), "{raw}: {question}");
            assert!(parse_time(raw).unwrap_err().contains("1month"), "{raw}");
        }
        let minute = Ok(MuteLength(Some(Duration::from_secs(60))));
        assert_eq!(parse_length("1m"), minute);
        assert_eq!(parse_length("1min"), minute);
        assert!(parse_length("1month").is_ok() && parse_length("2months").is_ok());
    }

    #[test]
    fn a_time_is_a_date_a_timestamp_or_an_age() {
        assert_eq!(parse_time("2022-01-13").unwrap().to_string(), "2022-01-13T00:00:00Z");
        assert_eq!(
            parse_time("2022-01-13T09:59:10.410+02:00").unwrap().to_string(),
            "2022-01-13T07:59:10.410Z"
        );
        let time_then: SystemTime = parse_time("2h").unwrap().try_into().unwrap();
        assert_eq!(time_then.elapsed().unwrap().as_secs() / 60, 120);
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn a_duration_is_capped_at_the_maximum_of_a_message() {
        assert_eq!(MuteLength(Some(Duration::MAX)).duration().unwrap().seconds, i64::MAX);
        assert_eq!(MuteLength(None).duration(), None);
    }
}
