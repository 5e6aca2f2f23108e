//! A person's hands: what each command prints, for people and for programs; what it says when it
//! cannot; a watch over kills of the service.

use std::{
    io::{BufRead as _, BufReader, Read},
    net::TcpListener as Port,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use mute_service::proto::v1 as pb;
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    harness::*,
    process::{Process, program},
};

mod directory;
mod narrow;
mod ports;
mod usage;

const TIMEOUT: Duration = Duration::from_secs(20);

/// How a run has ended, and what it has printed.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ctl(addr: &str, app: &str, arguments: &[&str]) -> Command {
    let mut program = program();
    program
        .env("MUTE_ADDR", format!("http://{addr}"))
        .env("MUTE_APP", app)
        .env("MUTE_TOKEN", "dev-service-token");
    program.arg("ctl").args(arguments);
    program
}

async fn run(mut command: Command) -> Run {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// What a command that goes well prints, of words that are separated by blanks.
async fn done(server: &Server, app: &str, words: &str) -> String {
    let arguments: Vec<_> = words.split(' ').collect();
    let run = run(ctl(&server.addresses.grpc.to_string(), app, &arguments)).await;
    let code = i32::from(words.starts_with("check ") && may_not_speak(&run.out));
    assert_eq!((run.code, run.err.as_str()), (Some(code), ""), "{words}");
    run.out
}

fn may_not_speak(out: &str) -> bool {
    out.contains("may not speak") || out.contains("\"allowed\":false")
}

/// The objects of a `--json` run.
async fn objects(server: &Server, app: &str, words: &str) -> Vec<Value> {
    let out = done(server, app, &format!("{words} --json")).await;
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A command that fails.
async fn refused(mut command: Command, arguments: &[&str], code: i32, words: &[&str]) {
    command.args(arguments);
    let run = run(command).await;
    assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{run:?}");
    for word in words {
        assert!(run.err.contains(word), "{word} is not in {}", run.err);
    }
}

/// A command that goes on, line by line. It is killed when it is dropped.
struct Running {
    child: Child,
    out: mpsc::UnboundedReceiver<String>,
    err: mpsc::UnboundedReceiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, out, err }
    }

    async fn object(&mut self) -> Value {
        serde_json::from_str(&timeout(TIMEOUT, self.out.recv()).await.unwrap().unwrap()).unwrap()
    }

    /// The next notice that begins so.
    async fn notice(&mut self, begin: &str) -> String {
        loop {
            let notice = timeout(TIMEOUT, self.err.recv()).await.unwrap().unwrap();
            if notice.starts_with(begin) {
                return notice;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> mpsc::UnboundedReceiver<String> {
    let (lines, received) = mpsc::unbounded_channel();
    thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    received
}

/// An address that stays the same while the processes behind it come and go.
struct Relay {
    addr: String,
    behind: Arc<Mutex<String>>,
}

impl Relay {
    async fn to(addr: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, behind) =
            (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(addr.to_owned())));
        let to = behind.clone();
        tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let addr = to.lock().unwrap().clone();
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(addr).await {
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { addr, behind }
    }

    fn turn_to(&self, addr: &str) {
        addr.clone_into(&mut self.behind.lock().unwrap());
    }
}

#[tokio::test]
async fn each_command_prints_what_a_person_reads() {
    let server = Server::start().await;
    let story = [
        ("mute 1265710621211 user1 USER2 --for 24h --reason spam", "\
USER   UNTIL                 SINCE                 BY           REASON
user1  2022-01-14T07:59:10Z  2022-01-13T07:59:10Z  service:dev  spam
user2  2022-01-14T07:59:10Z  2022-01-13T07:59:10Z  service:dev  spam
"),
        ("mute 1265710621211 user5 --for good", "\
USER   UNTIL     SINCE                 BY           REASON
user5  for good  2022-01-13T07:59:10Z  service:dev  -
"),
        ("list 1265710621211", "\
USER   UNTIL                 SINCE                 BY           REASON
user1  2022-01-14T07:59:10Z  2022-01-13T07:59:10Z  service:dev  spam
user2  2022-01-14T07:59:10Z  2022-01-13T07:59:10Z  service:dev  spam
user5  for good              2022-01-13T07:59:10Z  service:dev  -
"),
        ("check 1265710621211 user1", "\
user1 may not speak in 1265710621211 until 2022-01-14T07:59:10Z. The user is now muted by service:dev, because of \"spam\".
"),
        ("check 1265710621211 user5", "\
user5 may not speak in 1265710621211 for good. The user is now muted by service:dev, no reason given.
"),
        ("unmute 1265710621211 user5 user4", "\
USER   WAS MUTED
user5  yes
user4  no
"),
        ("check 1265710621211 user5", "\
user5 may speak in 1265710621211: nothing forbids it.
"),
        ("ban 1265710621211 --for 10m --reason raid", "\
BANNED UNTIL  2022-01-13T08:09:10Z
BANNED SINCE  2022-01-13T07:59:10Z
BANNED BY     service:dev
REASON        raid
"),
        ("allow 1265710621211 user3", "\
ALLOWED
user3
"),
        ("allowed 1265710621211", "\
USER   SINCE
user3  2022-01-13T07:59:10Z
"),
        ("check 1265710621211 user3", "\
user3 may speak in 1265710621211, being on its allow list: the room is banned by service:dev until 2022-01-13T08:09:10Z, because of \"raid\".
"),
        ("check 1265710621211 owner1", "\
owner1 may speak in 1265710621211, as its owner or admin: the room is banned by service:dev until 2022-01-13T08:09:10Z, because of \"raid\".
"),
        ("check 1265710621211 user4", "\
user4 may not speak in 1265710621211 until 2022-01-13T08:09:10Z. The room is now banned by service:dev, because of \"raid\".
"),
        ("room show 1265710621211", "\
ROOM          1265710621211
NAME          testchatroom
DESCRIPTION   -
OWNER         owner1
ADMINS        -
CREATED       2022-01-13T07:59:10Z
CHANGED       2022-01-13T07:59:10Z
BANNED UNTIL  2022-01-13T08:09:10Z
BANNED SINCE  2022-01-13T07:59:10Z
BANNED BY     service:dev
REASON        raid
MUTED         2
ALLOWED       1
"),
        ("disallow 1265710621211 user3 user4", "\
USER   WAS ALLOWED
user3  yes
user4  no
"),
        ("unban 1265710621211", "\
WAS BANNED  yes
"),
        ("mute-user user4 --for 7d --reason ads", "\
USER   UNTIL                 SINCE                 BY           REASON
user4  2022-01-20T07:59:10Z  2022-01-13T07:59:10Z  service:dev  ads
"),
        ("muted-users", "\
USER   UNTIL                 SINCE                 BY           REASON
user4  2022-01-20T07:59:10Z  2022-01-13T07:59:10Z  service:dev  ads
"),
        ("check 1265710621211 user4", "\
user4 may not speak in 1265710621211 until 2022-01-20T07:59:10Z. The user is now muted in all rooms by service:dev, because of \"ads\".
"),
        ("unmute-user user4", "\
USER   WAS MUTED
user4  yes
"),
        ("mute-notifications 1265710621211 user5 --for 8h", "\
USER         user5
MUTED ROOMS  1265710621211
"),
        ("muted-rooms user5", "\
ROOM           UNTIL                 SINCE
1265710621211  2022-01-13T15:59:10Z  2022-01-13T07:59:10Z
"),
        ("unmute-notifications 1265710621211 user5", "\
USER         user5
MUTED ROOMS  -
WAS MUTED    yes
"),
        ("events --room 1265710621211 --kind muted,banned,UNBANNED --limit 3", "\
REVISION  TIME                  KIND      USERS  UNTIL                 BY           REASON
18        2022-01-13T07:59:10Z  unbanned  -      -                     service:dev  -
15        2022-01-13T07:59:10Z  banned    -      2022-01-13T08:09:10Z  service:dev  raid
13        2022-01-13T07:59:10Z  muted     user5  for good              service:dev  -
"),
    ];
    for (words, expected) in story {
        assert_eq!(done(&server, AGORA, words).await, expected, "{words}");
    }
    // An empty list says so, and not among what is listed.
    let empty = run(ctl(&server.addresses.grpc.to_string(), AGORA, &["muted-users"])).await;
    assert_eq!((empty.code, empty.out.as_str(), empty.err.as_str()), (Some(0), "", "None.\n"));
}

#[tokio::test]
async fn each_command_prints_an_object_a_line_for_programs() {
    let server = Server::start().await;
    let (now, later) = ("2022-01-13T07:59:10.410Z", "2022-01-13T08:00:10.410Z");
    let mute = |user: &str| json!({"user": user, "expire_time": later, "mute_time": now, "actor": "service:dev", "reason": "spam"});
    let at = |mut object: Value, revision: i64| {
        object["revision"] = revision.into();
        object
    };
    let check = |allowed, rule: &str, expire: Value, reason: &str, actor: &str| json!([{"room": ROOM, "user": "user1", "allowed": allowed, "rule": rule, "expire_time": expire, "reason": reason, "actor": actor}]);
    let ban = json!({"expire_time": null, "ban_time": now, "actor": "service:dev", "reason": ""});
    let room = json!({"room": ROOM, "name": "testchatroom", "description": "", "owner": "owner1", "admins": [], "create_time": now, "update_time": now});
    let banned = json!({"revision": 14, "change_time": now, "kind": "CHANGE_KIND_BANNED", "room": ROOM, "users": [], "expire_time": null, "actor": "service:dev", "reason": ""});
    let story = [
        (
            "mute 1265710621211 user1 user2 --for 1m --reason spam",
            json!([at(mute("user1"), 12), at(mute("user2"), 12)]),
        ),
        ("list 1265710621211", json!([mute("user1"), mute("user2")])),
        (
            "check 1265710621211 user1",
            check(false, "RULE_MEMBER_MUTE", json!(later), "spam", "service:dev"),
        ),
        (
            "unmute 1265710621211 user1",
            json!([{"user": "user1", "was_muted": true, "revision": 13}]),
        ),
        ("check 1265710621211 user1", check(true, "RULE_NONE", Value::Null, "", "")),
        ("ban 1265710621211", json!([{"ban": ban, "revision": 14}])),
        ("allow 1265710621211 user3", json!([{"user": "user3", "revision": 15}])),
        ("allowed 1265710621211", json!([{"user": "user3", "allow_time": now}])),
        (
            "room show 1265710621211",
            json!([{"room": room, "ban": ban, "muted_count": 1, "allowed_count": 1, "revision": 15}]),
        ),
        (
            "disallow 1265710621211 user3",
            json!([{"user": "user3", "was_allowed": true, "revision": 16}]),
        ),
        ("unban 1265710621211", json!([{"was_banned": true, "revision": 17}])),
        (
            "room show 1265710621211",
            json!([{"room": room, "ban": null, "muted_count": 1, "allowed_count": 0, "revision": 17}]),
        ),
        ("mute-user user4 --for 1m --reason spam", json!([at(mute("user4"), 18)])),
        ("muted-users", json!([mute("user4")])),
        ("unmute-user user4", json!([{"user": "user4", "was_muted": true, "revision": 19}])),
        (
            "mute-notifications 1265710621211 user5 --for 1m",
            json!([{"client": {"user": "user5", "muted_rooms": [ROOM]}, "revision": 20}]),
        ),
        ("muted-rooms user5", json!([{"room": ROOM, "expire_time": later, "mute_time": now}])),
        (
            "unmute-notifications 1265710621211 user5",
            json!([{"client": {"user": "user5", "muted_rooms": []}, "was_muted": true, "revision": 21}]),
        ),
        ("muted-users", json!([])),
        ("events --kind banned --user nobody", json!([])),
        (
            "events --kind banned --actor service:dev --since 2022-01-13 --until 2022-01-14",
            json!([banned]),
        ),
    ];
    for (words, expected) in story {
        assert_eq!(Value::from(objects(&server, AGORA, words).await), expected, "{words}");
    }
}

#[tokio::test]
async fn an_end_says_how_long_it_is_still() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let muted = run(ctl(process.grpc(), OPEN, &["mute", "r", "u", "--for", "26h"])).await;
    assert!(
        muted.out.contains("Z (in 1 day 2h)") || muted.out.contains("Z (in 1 day 1h)"),
        "{muted:?}"
    );
}

#[tokio::test]
async fn lists_go_through_every_page_and_stop_at_the_limit() {
    let server = Server::start().await;
    for call in 0..23 {
        let users: Vec<_> = (0..100).map(|user| format!("u{call:02}{user:02}")).collect();
        server.mute(OPEN, "r", &users.iter().map(String::as_str).collect::<Vec<_>>(), None).await;
    }
    let all = objects(&server, OPEN, "list r").await;
    let expected: Vec<_> = (0..23)
        .flat_map(|call| (0..100).map(move |user| json!(format!("u{call:02}{user:02}"))))
        .collect();
    assert_eq!(all.iter().map(|object| object["user"].clone()).collect::<Vec<_>>(), expected);
    for limit in [1, 1_000, 1_001, 2_299, 2_300, 9_999] {
        let cut = objects(&server, OPEN, &format!("list r --limit {limit}")).await;
        assert_eq!(cut, all[..limit.min(all.len())]);
    }
    assert_eq!(objects(&server, OPEN, "events --room r").await.len(), 23);
    let table = done(&server, OPEN, "list r").await;
    assert_eq!(table.lines().count(), 2_301);
}

#[tokio::test]
async fn what_goes_wrong_is_told_with_its_reason_and_what_to_do_next() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    let check = ["check", ROOM, "user1"];
    let to = |addr: &str| ctl(addr, AGORA, &check);
    // The service's word.
    refused(
        to(&grpc),
        &["--token", "wrong"],
        2,
        &["(MALFORMED_TOKEN)", "MUTE_TOKEN", "--token-file"],
    )
    .await;
    let mut anonymous = to(&grpc);
    anonymous.env_remove("MUTE_TOKEN");
    refused(anonymous, &[], 2, &["(MISSING_TOKEN)", "MUTE_TOKEN"]).await;
    refused(to(&grpc), &["--app", "nobody#here"], 2, &["(PERMISSION_DENIED)", "--app"]).await;
    let nowhere = ctl(&grpc, AGORA, &["list", "nowhere"]);
    refused(
        nowhere,
        &[],
        1,
        &["the room \"nowhere\" is not registered in this app (ROOM_NOT_FOUND)", "ctl room create"],
    )
    .await;
    let strangers = ctl(&grpc, AGORA, &["mute", ROOM, "user1", "x", "y"]);
    refused(strangers, &[], 1, &["(CLIENT_NOT_FOUND)", "Users: x, y", "ctl user create"]).await;
    refused(
        ctl(&grpc, AGORA, &["mute", ROOM, "owner1"]),
        &[],
        1,
        &["(OWNER_NOT_MUTABLE)", "mute-user"],
    )
    .await;
    refused(
        ctl(&grpc, AGORA, &["mute", ROOM, "user1", "--for", "0s"]),
        &[],
        1,
        &["(INVALID_ARGUMENT)", "omit it"],
    )
    .await;
    let users: Vec<_> = (0..101).map(|user| user.to_string()).collect();
    let mut many = ctl(&grpc, OPEN, &["mute", "r"]);
    many.args(users);
    refused(many, &[], 1, &["(TOO_MANY_USERS)", "xargs -n 100"]).await;
    refused(
        ctl(&grpc, AGORA, &["watch", "--room", ROOM]),
        &["--token", "wrong"],
        1,
        &["(MALFORMED_TOKEN)"],
    )
    .await;
    // Nobody there, or somebody else.
    let free = Port::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let words = [
        "cannot reach http://127.0.0.1",
        "Connection refused",
        "Check that the service is running",
        "--addr",
    ];
    refused(to(&free), &[], 2, &words).await;
    refused(ctl(&free, AGORA, &["watch"]), &[], 1, &words).await;
    // Ours.
    let mut no_app = to(&grpc);
    no_app.env_remove("MUTE_APP");
    refused(no_app, &[], 64, &["--app", "MUTE_APP"]).await;
    for (arguments, word) in [
        (["--addr", "https://127.0.0.1:1"], "https needs --ca"),
        (["--addr", "no address"], "http://HOST:PORT"),
        (["--token-file", "/nowhere"], "/nowhere"),
        (["--token", "a\nb"], "token"),
    ] {
        refused(to(&grpc), &arguments, 64, &[word]).await;
    }
    refused(
        ctl(&grpc, AGORA, &["mute", ROOM, "user1", "--for", "soon"]),
        &[],
        64,
        &["10m, 24h, 7d, or good"],
    )
    .await;
    refused(ctl(&grpc, AGORA, &["events", "--kind", "vanished"]), &[], 64, &["USER_MUTED"]).await;
    refused(ctl(&grpc, AGORA, &["mute", ROOM]), &[], 64, &["USER"]).await;
}

#[tokio::test]
async fn a_token_file_wins_over_the_environment_and_stays_hidden() {
    let server = Server::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", server.agora_token())).unwrap();
    let mut muted = ctl(
        &server.addresses.grpc.to_string(),
        AGORA,
        &["mute", ROOM, "user1", "--json", "--token-file"],
    );
    muted.arg(file.path());
    let muted = run(muted).await;
    assert_eq!(serde_json::from_str::<Value>(&muted.out).unwrap()["actor"], "app", "{muted:?}");
    let help = run(ctl("127.0.0.1:1", AGORA, &["mute", "--help"])).await;
    assert!(
        help.out.contains("Example: mute-service ctl mute")
            && !help.out.contains("dev-service-token"),
        "{help:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_each_change_once_over_kills_of_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let relay = Relay::to(process.grpc()).await;
    let mut watch = Running::start(ctl(&relay.addr, OPEN, &["watch", "--room", "r", "--json"]));
    watch.notice("Following after revision").await;
    let mut number = 0;
    for round in 0..3 {
        let mut mutes = process.mutes().await;
        for _ in 0..20 {
            let users = vec![format!("u{number}")];
            let message = pb::MuteMembersRequest {
                app: OPEN.into(),
                room: "r".into(),
                users,
                ..Default::default()
            };
            mutes.mute_members(with(message, &[SERVICE])).await.unwrap();
            number += 1;
        }
        // Some are shown before the kill, the others after it.
        for expected in (number - 20).max(round * 20 - 5)..number - 5 {
            let shown = watch.object().await;
            assert_eq!(shown["users"], json!([format!("u{expected}")]));
        }
        drop(process);
        process = Process::start(directory.path());
        relay.turn_to(process.grpc());
        for expected in number - 5..number {
            let shown = watch.object().await;
            assert_eq!(
                (&shown["users"], &shown["kind"]),
                (&json!([format!("u{expected}")]), &json!("CHANGE_KIND_MUTED"))
            );
        }
        watch.notice("Lost the connection").await;
        watch.notice("Following again after revision").await;
    }
    assert!(watch.out.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_says_where_changes_are_missing_and_goes_on() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (Process::start(old.path()), Process::start(new.path()));
    let mute = async |process: &Process, user: &str| {
        let message = pb::MuteMembersRequest {
            app: OPEN.into(),
            room: "r".into(),
            users: strings(&[user]),
            ..Default::default()
        };
        process
            .mutes()
            .await
            .mute_members(with(message, &[SERVICE]))
            .await
            .unwrap()
            .into_inner()
            .revision
    };
    let relay = Relay::to(first.grpc()).await;
    let mut watch = Running::start(ctl(&relay.addr, OPEN, &["watch", "--json", "--after", "0"]));
    watch.notice("Following after revision 0").await;
    let mut last = 0;
    for user in ["u1", "u2", "u3"] {
        last = mute(&first, user).await;
        assert_eq!(watch.object().await["users"], json!([user]));
    }
    // Another store, which has never been as far.
    relay.turn_to(second.grpc());
    drop(first);
    assert_eq!(watch.object().await, json!({"compacted_after_revision": last}));
    assert!(watch.notice("Changes after revision").await.contains("list again"));
    watch.notice("Following again").await;
    mute(&second, "u4").await;
    assert_eq!(watch.object().await["users"], json!(["u4"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let server = Server::start().await;
    for call in 0..30 {
        let users: Vec<_> = (0..100).map(|user| format!("u{call}x{user}")).collect();
        server.mute(OPEN, "r", &users.iter().map(String::as_str).collect::<Vec<_>>(), None).await;
    }
    for arguments in [
        &["list", "r"][..],
        &["list", "r", "--json"],
        &["watch", "--after", "0"],
        &["check", "r", "u"],
    ] {
        let mut command = ctl(&server.addresses.grpc.to_string(), OPEN, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output =
            tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let complaints: Vec<_> =
            err.lines().filter(|line| !line.starts_with("Following")).collect();
        assert_eq!((output.status.code(), complaints), (Some(0), vec![]), "{arguments:?}");
    }
}

#[tokio::test]
async fn what_users_write_is_shown_and_not_obeyed_by_the_terminal() {
    let server = Server::start().await;
    let evil = "a\u{1b}[2J\u{9b}31m\nb\u{202e}c";
    let message = pb::MuteMembersRequest {
        app: OPEN.into(),
        room: "r".into(),
        users: strings(&["x\u{202e}y"]),
        reason: evil.into(),
        ..Default::default()
    };
    server.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap();
    let shown = r"a\u{1b}[2J\u{9b}31m\nb\u{202e}c";
    for words in ["list r", "events --room r", "check r x\u{202e}y"] {
        let out = done(&server, OPEN, words).await;
        assert!(out.contains(shown) && out.contains(r"x\u{202e}y"), "{words}: {out:?}");
        assert!(!out.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{words}: {out:?}");
        let out = done(&server, OPEN, &format!("{words} --json")).await;
        assert!(!out.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{words}: {out:?}");
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["reason"], evil);
    }
    let nowhere =
        run(ctl(&server.addresses.grpc.to_string(), AGORA, &["mute", ROOM, "x\u{202e}y"])).await;
    assert!(nowhere.err.contains(r"Users: x\u{202e}y"), "{nowhere:?}");
}
