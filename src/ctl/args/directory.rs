//! The commands of the directory: which rooms and users are registered. An app whose directory is
//! strict, as it is by default, knows no others.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{Limit, Room, User};

#[derive(Subcommand)]
pub enum RoomCommand {
    /// Register a room, or change what is given of a registered one
    #[command(
        after_help = "Example: mute-service ctl room create lobby --name Lobby --owner user1 --admin user2,user3"
    )]
    Create(RoomProfile),
    /// Show a room: its ban, its owner and admins, and the number of muted members
    #[command(after_help = "Example: mute-service ctl room show 1265710621211")]
    Show(Room),
    /// List the registered rooms
    #[command(after_help = "Example: mute-service ctl room list")]
    List(Limit),
    /// Delete a room with its ban, mutes and allow list; they do not return with a new room of the
    /// same id
    #[command(after_help = "Example: mute-service ctl room delete lobby")]
    Delete(Room),
    /// List or change who may moderate a room: its owner and its admins
    #[command(
        after_help = "Example: mute-service ctl room admins lobby --add user4 --remove user2"
    )]
    Admins {
        #[command(flatten)]
        room: Room,
        #[command(flatten)]
        change: AdminChange,
    },
}

#[derive(Subcommand)]
pub enum UserCommand {
    /// Register a user, or change what is given of a registered one
    #[command(after_help = "Example: mute-service ctl user create user1 --nickname 'User One'")]
    Create {
        #[command(flatten)]
        user: User,
        #[command(flatten)]
        profile: Profile,
    },
    /// Show a user, with the rooms whose push notifications it has muted
    #[command(after_help = "Example: mute-service ctl user show user1")]
    Show(User),
    /// List the registered users
    #[command(after_help = "Example: mute-service ctl user list")]
    List(Limit),
    /// Delete a user with its notification mutes; its mutes in rooms and its user mute stay
    #[command(after_help = "Example: mute-service ctl user delete user1")]
    Delete(User),
}

#[derive(Args)]
pub struct RoomProfile {
    /// Room id [default: a new number]
    #[arg(value_name = "ROOM")]
    pub room: Option<String>,
    /// Name of the room
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Description of the room
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// User who owns the room; empty for none
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Admins of the room; they replace all that it has
    #[arg(long = "admin", value_name = "USER,USER", value_delimiter = ',')]
    pub admins: Option<Vec<String>>,
}

#[derive(Args)]
pub struct AdminChange {
    /// Make these users admins of the room
    #[arg(long, value_name = "USER,USER", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub add: Vec<String>,
    /// Make these users admins no longer
    #[arg(long, value_name = "USER,USER", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub remove: Vec<String>,
}

#[derive(Args)]
pub struct Profile {
    /// Name that others see
    #[arg(long, value_name = "TEXT")]
    pub nickname: Option<String>,
    /// Description of the user
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Email address
    #[arg(long, value_name = "ADDRESS")]
    pub email: Option<String>,
}
