//! What a command needs: the clients of the service, the app, and where its output goes.

use super::{connection::Clients, failure::Failure, output::Output};

/// One command, on one connection. `commands` has a method for each command.
pub struct Session {
    pub clients: Clients,
    pub app: String,
    pub out: Output,
}

/// Of a command: what it prints is printed.
pub type Outcome = Result<(), Failure>;
