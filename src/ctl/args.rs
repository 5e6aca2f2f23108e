//! The commands and options of `ctl`: `arguments` has what several commands take, `directory` the
//! commands of rooms and users, `values` how durations and times are written.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::failure::Failure;

mod arguments;
mod directory;
mod values;

pub use arguments::{Filter, Length, Limit, Member, Members, Reason, Room, User};
pub use directory::{AdminChange, Profile, RoomCommand, RoomProfile, UserCommand};

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
    /// Register, show, list and delete rooms, and change their admins
    #[command(subcommand)]
    Room(RoomCommand),
    /// Register, show, list and delete users
    #[command(subcommand)]
    User(UserCommand),
    /// Check whether a user may speak in a room now, and if not, until when and why
    #[command(after_help = concat!(
        "The end is the latest of all that forbids it; who and why are of the first rule, which\n",
        "may end earlier.\n",
        "Exit codes: 0 if the user may speak, 1 if not, 2 if the check failed, 64 for an error in ",
        "usage.\n",
        "Example: mute-service ctl check 1265710621211 user1"
    ))]
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
        #[arg(long, value_name = "ROOM", value_parser = NonEmptyStringValueParser::new())]
        room: Option<String>,
        /// Start after this revision; 0 starts at the oldest change that is kept [default: now]
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(0..), allow_hyphen_values = true)]
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

impl Command {
    /// The exit code of a failure that is not one of usage. `check` needs 1 for its answer.
    pub fn failure_code(&self) -> u8 {
        if matches!(self, Self::Check(_)) { 2 } else { 1 }
    }
}
