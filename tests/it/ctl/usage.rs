//! The exit codes of `check`, questions about units, and suggestions.

use super::*;

#[tokio::test]
async fn check_tells_its_verdict_by_its_exit_code() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    let code = async |arguments: &[&str]| run(ctl(&grpc, AGORA, arguments)).await.code;
    done(&server, AGORA, "mute 1265710621211 user1").await;
    assert_eq!(code(&["check", ROOM, "user2"]).await, Some(0));
    assert_eq!(code(&["check", ROOM, "user1"]).await, Some(1));
    assert_eq!(code(&["check", ROOM, "user1", "--json"]).await, Some(1));
    assert_eq!(code(&["check", "nowhere", "user1"]).await, Some(2));
    assert_eq!(code(&["check", ROOM, "user1", "--token", "wrong"]).await, Some(2));
    assert_eq!(code(&["check", ROOM, "user1", "--addr", "127.0.0.1:1"]).await, Some(2));
    assert_eq!(code(&["check", ROOM]).await, Some(64));
    assert_eq!(code(&["check", ROOM, "user1", "--addr", "no address"]).await, Some(64));
    // The verdict stays the exit code where nobody reads it.
    let mut unread = ctl(&grpc, AGORA, &["check", ROOM, "user1"]);
    let mut child = unread.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap().code()).await.unwrap();
    assert_eq!(ended, Some(1));
    let help = run(ctl(&grpc, AGORA, &["check", "--help"])).await.out;
    let codes = "Exit codes: 0 if the user may speak, 1 if not, 2 if the check failed, 64";
    assert!(help.contains(codes), "{help}");
}

#[tokio::test]
async fn a_check_does_not_give_its_end_to_the_first_rule() {
    let server = Server::start().await;
    done(&server, AGORA, "mute-user user1 --for 1h --reason ads").await;
    done(&server, AGORA, "ban 1265710621211 --for 2h").await;
    let check = done(&server, AGORA, "check 1265710621211 user1").await;
    let expected = "user1 may not speak in 1265710621211 until 2022-01-13T09:59:10Z. \
                    The user is now muted in all rooms by service:dev, because of \"ads\".\n";
    assert_eq!(check, expected);
}

#[tokio::test]
async fn a_user_who_is_named_twice_is_shown_once() {
    let server = Server::start().await;
    for command in ["mute", "unmute", "allow", "disallow"] {
        let shown = done(&server, AGORA, &format!("{command} {ROOM} user1 user2 user1")).await;
        assert_eq!(shown.matches("user").count(), 2, "{command}: {shown}");
    }
}

#[tokio::test]
async fn the_usage_of_an_error_lists_no_argument_that_is_set() {
    let words = ["Usage: mute-service ctl mute <ROOM> <USER>..."];
    refused(ctl("127.0.0.1:1", OPEN, &["mute", "r"]), &[], 64, &words).await;
    let help = run(ctl("127.0.0.1:1", OPEN, &["mute", "--help"])).await;
    assert!(help.out.contains("[env: MUTE_APP="), "{}", help.out);
}

#[tokio::test]
async fn a_capital_m_is_asked_about_and_not_taken_for_a_month() {
    for arguments in [
        &["mute", "r", "u", "--for", "1M"][..],
        &["ban", "r", "--for", "1h 30M"],
        &["mute-user", "u", "--for", "10M"],
        &["mute-notifications", "r", "u", "--for", "1M"],
        &["events", "--since", "1M"],
        &["events", "--until", "2M"],
    ] {
        let words = ["a month or a minute?", "1month", "1m "];
        refused(ctl("127.0.0.1:1", OPEN, arguments), &[], 64, &words).await;
    }
}

#[tokio::test]
async fn a_number_out_of_bounds_says_what_to_write() {
    for (arguments, words) in [
        (&["list", "r", "--limit", "0"][..], "write a number from 1 on"),
        (&["list", "r", "--limit", "-1"], "write a number from 1 on"),
        (&["mute", "r", "u", "--for", "-1h"], "write 10m, 24h, 7d, or good"),
        (&["watch", "--after", "-1"], "-1 is not in 0.."),
    ] {
        refused(ctl("127.0.0.1:1", OPEN, arguments), &[], 64, &[words]).await;
    }
}

#[tokio::test]
async fn an_empty_filter_is_an_error_and_does_not_mean_all() {
    for arguments in [
        &["watch", "--room", ""][..],
        &["events", "--room", ""],
        &["events", "--user", ""],
        &["events", "--actor", ""],
    ] {
        refused(ctl("127.0.0.1:1", OPEN, arguments), &[], 64, &["a value is required"]).await;
    }
    let mut portless = ctl("", OPEN, &["events"]);
    portless.env("MUTE_ADDR", "localhost");
    refused(portless, &[], 64, &["`localhost` is not an address", "HOST:PORT"]).await;
}

#[tokio::test]
async fn the_nearest_command_is_suggested_first() {
    for (arguments, tip) in [
        (&["mut"][..], "exist: 'mute', "),
        (&["mute-notification"], "exist: 'mute-notifications', 'unmute-notifications'"),
        (&["unmut"], "exist: 'unmute', "),
        (&["room", "creat"], "exists: 'create'"),
    ] {
        let run = run(ctl("127.0.0.1:1", OPEN, arguments)).await;
        assert!(run.code == Some(64) && run.err.contains(tip), "{arguments:?}: {}", run.err);
        let tips = run.err.lines().find(|line| line.contains("tip:")).unwrap();
        assert!(tips.matches('\'').count() <= 6, "{tips}");
    }
    for (object, id) in [("room", "lobby"), ("user", "user1"), ("room", "list1")] {
        let words = format!("write 'mute-service ctl {object} show {id}'");
        refused(ctl("127.0.0.1:1", OPEN, &[object, id]), &[], 64, &[&words]).await;
    }
    let mut top = program();
    top.arg("sevre");
    let top = run(top).await;
    assert!(top.err.contains("'serve'"), "{}", top.err);
    assert!(top.err.find("'serve'") < top.err.find("'restore'"), "{}", top.err);
}
