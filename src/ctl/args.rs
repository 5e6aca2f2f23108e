//! The commands and options of `ctl`, and how durations and times are written on the command line.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use prost_types::Timestamp;

use super::{failure::Failure, records};
use crate::proto::v1::ChangeKind;

/// The options of all commands: how to reach the service, and the output format.
#[derive(Args)]
#[command(next_help_heading = "Options of every ctl command")]
pub struct Options {
    /// gRPC address of the service; https:// if it uses TLS
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MUTE_ADDR",
        default_value = "http://127.0.0.1:50051"
    )]
    pub addr: String,
    /// For https: certificate authorities of the service, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_CA")]
    pub ca: Option<PathBuf>,
    /// For https: client certificate to authenticate with instead of a token, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_CERT")]
    pub cert: Option<PathBuf>,
    /// Private key of the client certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_KEY")]
    pub key: Option<PathBuf>,
    /// Token of an internal service or of an app; other users of the machine can see arguments, so
    /// prefer the variable or --token-file
    #[arg(long, global = true, value_name = "TOKEN", env = "MUTE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the token; overrides --token
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Key of the app, such as org#app
    #[arg(long, global = true, value_name = "APP", env = "MUTE_APP")]
    app: Option<String>,
    /// Print JSON, one object per line; fields are named as in the API's .proto files
    #[arg(long, global = true)]
    pub json: bool,
}

impl Options {
    /// The app. Checked here, because clap cannot require a global option.
    pub fn app(&self) -> Result<String, Failure> {
        self.app.clone().ok_or_else(|| {
            Failure::Usage("no app is named; give its key with --app or in MUTE_APP".to_owned())
        })
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Mute members of a room, for a time or for good
    #[command(
        after_help = "Example: mute-service ctl mute 1265710621211 user1 user2 --for 24h --reason spam"
    )]
    Mute {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        reason: Reason,
    },
    /// Unmute members of a room
    #[command(after_help = "Example: mute-service ctl unmute 1265710621211 user1")]
    Unmute {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        reason: Reason,
    },
    /// List the muted members of a room: until when, by whom and why
    #[command(visible_alias = "muted", after_help = "Example: mute-service ctl list 1265710621211")]
    List {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        limit: Limit,
    },
    /// Ban a room: only its owner, its admins and its allow list may speak
    #[command(after_help = "Example: mute-service ctl ban 1265710621211 --for 10m --reason raid")]
    Ban {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        reason: Reason,
    },
    /// End the ban of a room
    #[command(after_help = "Example: mute-service ctl unban 1265710621211")]
    Unban {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        reason: Reason,
    },
    /// Add members to a room's allow list, to let them speak while the room is banned
    #[command(after_help = "Example: mute-service ctl allow 1265710621211 user3")]
    Allow {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        reason: Reason,
    },
    /// Remove members from the allow list of a room
    #[command(after_help = "Example: mute-service ctl disallow 1265710621211 user3")]
    Disallow {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        reason: Reason,
    },
    /// List the allow list of a room: the members who may speak while it is banned
    #[command(after_help = "Example: mute-service ctl allowed 1265710621211")]
    Allowed {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a room: its ban, its owner and admins, and the number of muted members
    #[command(after_help = "Example: mute-service ctl room 1265710621211")]
    Room(Room),
    /// Check whether a user may speak in a room now, and if not, until when and why
    #[command(after_help = "Example: mute-service ctl check 1265710621211 user1")]
    Check(Member),
    /// Print the changes of the app or of one room as they happen, until Ctrl-C; reconnects if the
    /// service restarts
    #[command(after_help = concat!(
        "Revisions rise with each change, with gaps: other apps have numbers too, a cluster gives\n",
        "out near multiples of 128, and a restored store goes on far above the lost one. No change\n",
        "is missing: where some are no longer kept, the output says so.\n\n",
        "Example: mute-service ctl watch --room 1265710621211"
    ))]
    Watch {
        /// Watch only this room
        #[arg(long, value_name = "ROOM")]
        room: Option<String>,
        /// Start after this revision; 0 starts at the oldest change that is kept [default: now]
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(0..))]
        after: Option<i64>,
    },
    /// List past events, newest first
    #[command(
        after_help = "Example: mute-service ctl events --room 1265710621211 --kind muted,expired --since 2h"
    )]
    Events {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        limit: Limit,
    },
    /// Mute a user in all rooms of the app, for a time or for good
    #[command(
        alias = "user-mute",
        after_help = "Example: mute-service ctl mute-user user4 --for 7d --reason spam"
    )]
    MuteUser {
        #[command(flatten)]
        user: User,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        reason: Reason,
    },
    /// End a user mute; mutes of the user in single rooms stay in force
    #[command(alias = "user-unmute", after_help = "Example: mute-service ctl unmute-user user4")]
    UnmuteUser {
        #[command(flatten)]
        user: User,
        #[command(flatten)]
        reason: Reason,
    },
    /// List the users who are muted in all rooms of the app
    #[command(alias = "user-list", after_help = "Example: mute-service ctl muted-users")]
    MutedUsers(Limit),
    /// Mute a room's push notifications for a user, for a time or for good
    #[command(
        after_help = "Example: mute-service ctl mute-notifications 1265710621211 user5 --for 8h"
    )]
    MuteNotifications {
        #[command(flatten)]
        member: Member,
        #[command(flatten)]
        length: Length,
    },
    /// Unmute a room's push notifications for a user
    #[command(after_help = "Example: mute-service ctl unmute-notifications 1265710621211 user5")]
    UnmuteNotifications(Member),
    /// List the rooms whose push notifications a user has muted, in the order of muting
    #[command(after_help = "Example: mute-service ctl muted-rooms user5")]
    MutedRooms {
        #[command(flatten)]
        user: User,
        #[command(flatten)]
        limit: Limit,
    },
}

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
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
    pub length: Option<MuteLength>,
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

#[derive(Args)]
pub struct Filter {
    /// Only events of this room
    #[arg(long, value_name = "ROOM", default_value = "", hide_default_value = true)]
    pub room: String,
    /// Only events of this user
    #[arg(long, value_name = "USER", default_value = "", hide_default_value = true)]
    pub user: String,
    /// Only events by this actor: service:NAME, app, user:ID, or `service` for mutes and bans that
    /// expired
    #[arg(long, value_name = "ACTOR", default_value = "", hide_default_value = true)]
    pub actor: String,
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

/// The duration of a mute or ban; none is for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuteLength(Option<Duration>);

impl Length {
    /// The duration of an RPC; none is for good.
    pub fn duration(&self) -> Option<prost_types::Duration> {
        let duration = self.length.and_then(|MuteLength(duration)| duration)?;
        // A duration that the message cannot hold becomes its maximum, which the service refuses.
        prost_types::Duration::try_from(duration)
            .ok()
            .or(Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }))
    }
}

fn parse_length(raw: &str) -> Result<MuteLength, String> {
    if raw == "good" {
        return Ok(MuteLength(None));
    }
    let duration = humantime::parse_duration(raw);
    duration
        .map(|duration| MuteLength(Some(duration)))
        .map_err(|error| format!("{error}; write 10m, 24h, 7d, or good"))
}

fn parse_time(raw: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = humantime::parse_duration(raw) {
        let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        return Ok(time.into());
    }
    raw.parse().map_err(|_| {
        "write 2026-11-25, 2026-11-25T08:00:00Z, or how long ago, such as 2h".to_owned()
    })
}

fn kind_parser() -> impl TypedValueParser<Value = ChangeKind> {
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
        let length = Length { length: Some(MuteLength(Some(Duration::MAX))) };
        assert_eq!(length.duration().unwrap().seconds, i64::MAX);
        assert_eq!(Length { length: Some(MuteLength(None)) }.duration(), None);
    }
}
