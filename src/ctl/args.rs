//! What may be asked for on the command line, and the forms in which people write durations and
//! times.

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

/// How to reach the service, and in what form to answer. Of all commands.
#[derive(Args)]
#[command(next_help_heading = "Options of every ctl command")]
pub struct Options {
    /// Where the service's gRPC is; https:// where it is served over TLS
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MUTE_ADDR",
        default_value = "http://127.0.0.1:50051"
    )]
    pub addr: String,
    /// For https: the authorities of its certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_CA")]
    pub ca: Option<PathBuf>,
    /// For https: a certificate to be known by, in PEM, instead of a token
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_CERT")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_KEY")]
    pub key: Option<PathBuf>,
    /// The token of a service or of an app; what is given here can be seen by others on the machine
    #[arg(long, global = true, value_name = "TOKEN", env = "MUTE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the token; it comes before --token
    #[arg(long, global = true, value_name = "FILE", env = "MUTE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Key of the app, such as org#app
    #[arg(long, global = true, value_name = "APP", env = "MUTE_APP")]
    app: Option<String>,
    /// Answer in JSON, one object a line, its fields named as in the proto
    #[arg(long, global = true)]
    pub json: bool,
}

impl Options {
    /// The app; clap cannot require what may stand anywhere.
    pub fn app(&self) -> Result<String, Failure> {
        self.app.clone().ok_or_else(|| {
            Failure::Usage("no app is named: give its key with --app, or in MUTE_APP".to_owned())
        })
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Forbid members of a room to speak, for a time or for good
    #[command(
        after_help = "Example: mute-service ctl mute 1265710621211 user1 user2 --for 24h --reason spam"
    )]
    Mute {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        why: Why,
    },
    /// Let members of a room speak again
    #[command(after_help = "Example: mute-service ctl unmute 1265710621211 user1")]
    Unmute {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        why: Why,
    },
    /// List who is muted in a room, until when, by whom and why
    #[command(visible_alias = "muted", after_help = "Example: mute-service ctl list 1265710621211")]
    List {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        limit: Limit,
    },
    /// Forbid everybody in a room to speak but its owner, its admins and its allow list
    #[command(after_help = "Example: mute-service ctl ban 1265710621211 --for 10m --reason raid")]
    Ban {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        length: Length,
        #[command(flatten)]
        why: Why,
    },
    /// End the ban of a room
    #[command(after_help = "Example: mute-service ctl unban 1265710621211")]
    Unban {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        why: Why,
    },
    /// Let members of a room speak while it is banned
    #[command(after_help = "Example: mute-service ctl allow 1265710621211 user3")]
    Allow {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        why: Why,
    },
    /// Take members off the allow list of a room
    #[command(after_help = "Example: mute-service ctl disallow 1265710621211 user3")]
    Disallow {
        #[command(flatten)]
        members: Members,
        #[command(flatten)]
        why: Why,
    },
    /// List who may speak in a room while it is banned
    #[command(after_help = "Example: mute-service ctl allowed 1265710621211")]
    Allowed {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a room: its ban, its owner and admins, how many are muted
    #[command(after_help = "Example: mute-service ctl room 1265710621211")]
    Room(Room),
    /// Say whether a user may speak in a room now, and if not, until when and why
    #[command(after_help = "Example: mute-service ctl check 1265710621211 user1")]
    Check(Member),
    /// Follow the changes of the app, or of one room, until Ctrl-C, over restarts of the service
    /// too
    #[command(after_help = "Example: mute-service ctl watch --room 1265710621211")]
    Watch {
        /// Only the changes of this room
        #[arg(long, value_name = "ROOM")]
        room: Option<String>,
        /// Go on after this revision; 0 is from the first that is kept [default: from now on]
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(0..))]
        after: Option<i64>,
    },
    /// List what has happened, newest first
    #[command(
        after_help = "Example: mute-service ctl events --room 1265710621211 --kind muted,expired --since 2h"
    )]
    Events {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        limit: Limit,
    },
    /// Forbid a user to speak in every room of the app, for a time or for good
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
        why: Why,
    },
    /// End the mute of a user in every room of the app, which leaves those in single rooms
    #[command(alias = "user-unmute", after_help = "Example: mute-service ctl unmute-user user4")]
    UnmuteUser {
        #[command(flatten)]
        user: User,
        #[command(flatten)]
        why: Why,
    },
    /// List who is muted in every room of the app
    #[command(alias = "user-list", after_help = "Example: mute-service ctl muted-users")]
    MutedUsers(Limit),
    /// Send a user no push from a room, for a time or for good
    #[command(
        after_help = "Example: mute-service ctl mute-notifications 1265710621211 user5 --for 8h"
    )]
    MuteNotifications {
        #[command(flatten)]
        member: Member,
        #[command(flatten)]
        length: Length,
    },
    /// Send a user pushes from a room again
    #[command(after_help = "Example: mute-service ctl unmute-notifications 1265710621211 user5")]
    UnmuteNotifications(Member),
    /// List the rooms from which a user gets no push, in the order of muting
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
    /// User ids, up to 100: all of them or none
    #[arg(value_name = "USER", required = true)]
    pub users: Vec<String>,
}

#[derive(Args)]
pub struct Length {
    /// For how long, such as 10m, 24h or 7d; or for `good`, which is what it is without this
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    pub length: Option<Lasting>,
}

#[derive(Args)]
pub struct Why {
    /// Why, at most 512 bytes; whoever is affected may be told
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

#[derive(Args)]
pub struct Limit {
    /// Stop after so many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

#[derive(Args)]
pub struct Filter {
    /// Only what is about this room
    #[arg(long, value_name = "ROOM", default_value = "", hide_default_value = true)]
    pub room: String,
    /// Only what is about this user
    #[arg(long, value_name = "USER", default_value = "", hide_default_value = true)]
    pub user: String,
    /// Only what this actor did: service:NAME, app, user:ID, or `service` for what has ended by
    /// itself
    #[arg(long, value_name = "ACTOR", default_value = "", hide_default_value = true)]
    pub actor: String,
    /// Only these kinds
    #[arg(long = "kind", value_name = "KIND,KIND", value_delimiter = ',', ignore_case = true, value_parser = kind())]
    pub kinds: Vec<ChangeKind>,
    /// From this time on: 2026-11-25, 2026-11-25T08:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
}

/// For how long something is set; nothing is for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting(Option<Duration>);

impl Length {
    /// As the messages say it: nothing is for good.
    pub fn duration(&self) -> Option<prost_types::Duration> {
        let duration = self.length.and_then(|Lasting(duration)| duration)?;
        // What is too long for a message is refused by the service, as too long.
        prost_types::Duration::try_from(duration)
            .ok()
            .or(Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }))
    }
}

fn length(raw: &str) -> Result<Lasting, String> {
    if raw == "good" {
        return Ok(Lasting(None));
    }
    let duration = humantime::parse_duration(raw);
    duration
        .map(|duration| Lasting(Some(duration)))
        .map_err(|error| format!("{error}; write 10m, 24h, 7d, or good"))
}

fn time(raw: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = humantime::parse_duration(raw) {
        let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        return Ok(time.into());
    }
    raw.parse().map_err(|_| {
        "write 2026-11-25, 2026-11-25T08:00:00Z, or how long ago, such as 2h".to_owned()
    })
}

fn kind() -> impl TypedValueParser<Value = ChangeKind> {
    let known = |name: String| {
        records::kinds().find(|kind| records::kind_name(*kind).eq_ignore_ascii_case(&name))
    };
    PossibleValuesParser::new(records::kinds().map(records::kind_name))
        .try_map(move |name| known(name).ok_or("no such kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_as_people_write_it_or_for_good() {
        let seconds = |seconds| Ok(Lasting(Some(Duration::from_secs(seconds))));
        for (raw, expected) in
            [("10m", 600), ("24h", 86_400), ("7d", 604_800), ("1h 30m", 5_400), ("90s", 90)]
        {
            assert_eq!(length(raw), seconds(expected), "{raw}");
        }
        assert_eq!(length("good"), Ok(Lasting(None)));
        for raw in ["", "soon", "10", "-1h"] {
            assert!(length(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn a_time_is_a_date_a_moment_or_how_long_ago() {
        assert_eq!(time("2022-01-13").unwrap().to_string(), "2022-01-13T00:00:00Z");
        assert_eq!(
            time("2022-01-13T09:59:10.410+02:00").unwrap().to_string(),
            "2022-01-13T07:59:10.410Z"
        );
        let time_then: SystemTime = time("2h").unwrap().try_into().unwrap();
        assert_eq!(time_then.elapsed().unwrap().as_secs() / 60, 120);
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn what_no_message_can_hold_is_as_long_as_one_can() {
        let length = Length { length: Some(Lasting(Some(Duration::MAX))) };
        assert_eq!(length.duration().unwrap().seconds, i64::MAX);
        assert_eq!(Length { length: Some(Lasting(None)) }.duration(), None);
    }
}
