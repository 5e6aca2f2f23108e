//! The arguments that several commands take.

use clap::{Args, builder::NonEmptyStringValueParser};
use prost_types::Timestamp;

use super::values::{MuteLength, kind_parser, parse_length, parse_limit, parse_time};
use crate::proto::v1::ChangeKind;

#[derive(Args)]
pub struct Room {
    /// Room id
    #[arg(value_name = "ROOM")]
    pub room: String,
}

#[derive(Args)]
pub struct User {
    /// User id
    #[arg(value_name = "USER")]
    pub user: String,
}

#[derive(Args)]
pub struct Member {
    /// Room id
    #[arg(value_name = "ROOM")]
    pub room: String,
    /// User id
    #[arg(value_name = "USER")]
    pub user: String,
}

#[derive(Args)]
pub struct Members {
    /// Room id
    #[arg(value_name = "ROOM")]
    pub room: String,
    /// User ids, up to 100; all of them are changed or none
    #[arg(value_name = "USER", required = true)]
    pub users: Vec<String>,
}

#[derive(Args)]
pub struct Length {
    /// Duration, such as 10m, 24h or 7d, or `good` for a mute or ban without end [default: good]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length, allow_hyphen_values = true)]
    length: Option<MuteLength>,
}

impl Length {
    /// The duration of an RPC; none is for good.
    pub fn duration(&self) -> Option<prost_types::Duration> {
        self.length.and_then(MuteLength::duration)
    }
}

#[derive(Args)]
pub struct Reason {
    /// Reason, at most 512 bytes; it may be shown to the affected users
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

#[derive(Args)]
pub struct Limit {
    /// Maximum number of entries [default: all]
    #[arg(long, value_name = "N", value_parser = parse_limit, allow_hyphen_values = true)]
    pub limit: Option<u64>,
}

#[derive(Args)]
pub struct Filter {
    /// Only events of this room
    #[arg(long, value_name = "ROOM", value_parser = NonEmptyStringValueParser::new())]
    pub room: Option<String>,
    /// Only events of this user
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Only events by this actor: service:NAME, app, user:ID, or `service` for mutes and bans that
    /// expired
    #[arg(long, value_name = "ACTOR", value_parser = NonEmptyStringValueParser::new())]
    pub actor: Option<String>,
    /// Only events of these kinds
    #[arg(long = "kind", value_name = "KIND,KIND", value_delimiter = ',', ignore_case = true, value_parser = kind_parser())]
    pub kinds: Vec<ChangeKind>,
    /// Only events at or after this time: 2026-11-25, 2026-11-25T08:00:00Z, or how long ago, such
    /// as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<Timestamp>,
    /// Only events before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<Timestamp>,
}
