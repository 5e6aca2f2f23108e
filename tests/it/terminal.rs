//! A terminal for programs that do something else on one: they print into it, and read from it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::process::text;

/// A program's standard streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    In,
    Out,
    Err,
}

/// A program with a terminal. Its other streams stay as they are.
pub struct OnTerminal {
    child: Child,
    terminal: File,
}

impl OnTerminal {
    pub fn spawn(mut command: Command, columns: u16, streams: &[Stream]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let end = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm");
        }
        for stream in streams {
            let end = end.try_clone().unwrap();
            match stream {
                Stream::In => command.stdin(end),
                Stream::Out => command.stdout(end),
                Stream::Err => command.stderr(end),
            };
        }
        let child = command.spawn().unwrap();
        Self { child, terminal: terminal.into() }
    }

    /// Types these keys.
    pub fn type_keys(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that is printed until this text.
    pub fn read_until(&mut self, end: &str) -> String {
        let mut shown = Vec::new();
        let mut byte = [0];
        while !shown.ends_with(end.as_bytes()) {
            if self.terminal.read(&mut byte).unwrap_or(0) == 0 {
                panic!("{end:?} is not in {}", String::from_utf8_lossy(&shown));
            }
            shown.push(byte[0]);
        }
        text(&shown)
    }

    /// Everything that the program has printed until it exits, and its exit code.
    pub fn ended(mut self) -> (String, Option<i32>) {
        let mut shown = Vec::new();
        // Reading fails once no process has the terminal open.
        let _ = self.terminal.read_to_end(&mut shown);
        (text(&shown), self.child.wait().unwrap().code())
    }
}
