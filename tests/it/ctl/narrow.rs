//! Tables on a terminal: no wider than it, with colours where they help.

use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::terminal::{OnTerminal, Stream};

/// What a command shows on a terminal that is so wide.
fn on_terminal(mut command: Command, columns: u16) -> String {
    command.stderr(Stdio::null());
    let (shown, code) = OnTerminal::spawn(command, columns, &[Stream::Out]).ended();
    assert_eq!(code, Some(0), "{shown}");
    shown.replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_of_a_table_is_wider_than_the_terminal() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    let users = ["x".repeat(60), "名前".repeat(20), "🙂".repeat(30), "u".to_owned()];
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    server.mute(OPEN, "r", &users, None).await;
    let room = "room-".repeat(24);
    server.mute(OPEN, &room, &["u"], None).await;
    let reason = "a reason of many words that goes on and on, as reasons of people do";
    done(&server, OPEN, "mute-user u --for 7d --reason spam").await;
    let mut ban = ctl(&grpc, OPEN, &["ban", "r", "--reason", reason]);
    ban.env("NO_COLOR", "1");
    let mut commands = vec![ban];
    for words in ["list r", "events", "events --room r", "muted-users", "room show r"] {
        let mut command = ctl(&grpc, OPEN, &words.split(' ').collect::<Vec<_>>());
        command.env("NO_COLOR", "1");
        commands.push(command);
    }
    for command in commands {
        let name = format!("{command:?}");
        let shown = tokio::task::spawn_blocking(move || on_terminal(command, 60)).await.unwrap();
        let wide: Vec<_> = shown.lines().filter(|line| line.width() > 60).collect();
        assert!(wide.is_empty() && !shown.contains('\u{1b}'), "{name}: {wide:?}\n{shown}");
    }
    // All of an id is there, for a person who puts it together again.
    let list = ctl(&grpc, OPEN, &["list", "r"]);
    let shown = tokio::task::spawn_blocking(move || on_terminal(list, 60)).await.unwrap();
    assert_eq!(shown.matches('x').count(), 60, "{shown}");
    assert_eq!(shown.matches('前').count(), 20, "{shown}");
    // Elsewhere a row is a line.
    let table = done(&server, OPEN, "list r").await;
    assert_eq!(table.lines().count(), 5, "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_and_verdicts_are_coloured_on_a_terminal() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    done(&server, OPEN, "mute r u").await;
    done(&server, OPEN, "unmute r u").await;
    let events = || ctl(&grpc, OPEN, &["events"]);
    let colored = events();
    let colored = tokio::task::spawn_blocking(move || on_terminal(colored, 200)).await.unwrap();
    for words in ["\u{1b}[31mmuted\u{1b}[0m", "\u{1b}[32munmuted\u{1b}[0m", "\u{1b}[1mKIND"] {
        assert!(colored.contains(words), "{colored:?}");
    }
    let expected = done(&server, OPEN, "events").await;
    for (name, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
        let mut plain = events();
        plain.env(name, value);
        let plain = tokio::task::spawn_blocking(move || on_terminal(plain, 200)).await.unwrap();
        assert_eq!(plain, expected, "{name}");
    }
}

#[tokio::test]
async fn columns_that_a_flag_has_fixed_are_left_out() {
    let server = Server::start().await;
    done(&server, OPEN, "mute r u").await;
    let heads = async |words: &str| {
        let table = done(&server, OPEN, words).await;
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (words, expected) in [
        ("events", "REVISION TIME KIND ROOM USERS UNTIL BY REASON"),
        ("events --user u", "REVISION TIME KIND ROOM USERS UNTIL BY REASON"),
        ("events --room r", "REVISION TIME KIND USERS UNTIL BY REASON"),
        ("events --kind muted", "REVISION TIME ROOM USERS UNTIL BY REASON"),
        ("events --kind muted,unmuted", "REVISION TIME KIND ROOM USERS UNTIL BY REASON"),
        ("events --actor service:dev", "REVISION TIME KIND ROOM USERS UNTIL REASON"),
        ("events --actor service:dev --room r --kind muted", "REVISION TIME USERS UNTIL REASON"),
    ] {
        assert_eq!(heads(words).await, expected, "{words}");
    }
    let all = objects(&server, OPEN, "events --room r --kind muted").await;
    assert_eq!(all[0]["room"], json!("r"));
}
