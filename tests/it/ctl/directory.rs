//! Rooms and users from a shell: in an app with a strict directory, nothing can be muted before.

use super::*;

const CREATED: &str = "\
CREATED      2022-01-13T07:59:10Z
CHANGED      2022-01-13T07:59:10Z
";

#[tokio::test]
async fn rooms_are_registered_shown_listed_and_deleted() {
    let server = Server::start().await;
    let lobby = format!(
        "ROOM         lobby
NAME         Lobby
DESCRIPTION  -
OWNER        owner1
ADMINS       user1, user2
{CREATED}"
    );
    let create = "room create lobby --name Lobby --owner owner1 --admin user1,user2";
    assert_eq!(done(&server, AGORA, create).await, lobby);
    let shown = format!("{lobby}MUTED        0\nALLOWED      0\n");
    let shown = shown.replace("BAN          -\n", "");
    assert_eq!(
        done(&server, AGORA, "room show lobby").await.replace("BAN          -\n", ""),
        shown
    );
    // What is not given stays.
    let renamed = done(&server, AGORA, "room create lobby --name Hall").await;
    assert_eq!(renamed, lobby.replace("Lobby", "Hall"));
    let listed = "\
ROOM           NAME          OWNER   ADMINS        CREATED
1265710621211  testchatroom  owner1  -             2022-01-13T07:59:10Z
lobby          Hall          owner1  user1, user2  2022-01-13T07:59:10Z
";
    assert_eq!(done(&server, AGORA, "room list").await, listed);
    assert_eq!(objects(&server, AGORA, "room list --limit 1").await.len(), 1);
    let deleted = done(&server, AGORA, "room delete lobby").await;
    assert_eq!(deleted, "WAS REGISTERED  yes\n");
    let again = objects(&server, AGORA, "room delete lobby").await;
    assert_eq!(again[0]["was_registered"], json!(false));
    // The service finds an id.
    let new = objects(&server, AGORA, "room create --name x").await;
    assert!(new[0]["room"]["room"].as_str().unwrap().parse::<u64>().is_ok(), "{new:?}");
}

#[tokio::test]
async fn the_admins_of_a_room_are_listed_and_changed() {
    let server = Server::start().await;
    let admins = "\
USER    ROLE
owner1  owner
user2   admin
user3   admin
";
    let room = "room admins 1265710621211";
    assert_eq!(done(&server, AGORA, room).await, "USER    ROLE\nowner1  owner\n");
    done(&server, AGORA, &format!("{room} --add user1,user2")).await;
    let changed = done(&server, AGORA, &format!("{room} --add user2,user3 --remove user1")).await;
    assert_eq!(changed, admins);
    assert_eq!(done(&server, AGORA, room).await, admins);
    let none = done(&server, AGORA, "room create 1265710621211 --admin  --owner ").await;
    assert!(none.contains("OWNER        -\nADMINS       -\n"), "{none}");
    let empty =
        run(ctl(&server.addresses.grpc.to_string(), AGORA, &["room", "admins", ROOM])).await;
    assert_eq!((empty.code, empty.out.as_str(), empty.err.as_str()), (Some(0), "", "None.\n"));
}

#[tokio::test]
async fn an_admin_is_one_user_in_every_spelling() {
    let server = Server::start().await;
    let room = "room admins 1265710621211";
    let one = "USER    ROLE\nowner1  owner\nuser3   admin\n";
    for change in ["--add user3,USER3", "--add User3", "--add User3 --remove user2"] {
        let run = run(ctl(
            &server.addresses.grpc.to_string(),
            AGORA,
            &format!("{room} {change}").split(' ').collect::<Vec<_>>(),
        ))
        .await;
        assert_eq!((run.code, run.out.as_str()), (Some(0), one), "{change}: {run:?}");
    }
    let replaced = done(&server, AGORA, "room create 1265710621211 --admin user3,User3").await;
    assert!(replaced.contains("ADMINS       user3\n"), "{replaced}");
    let none = done(&server, AGORA, &format!("{room} --remove User3")).await;
    assert_eq!(none, "USER    ROLE\nowner1  owner\n");
    let again = ["room", "admins", ROOM, "--remove", "User3,user4"];
    let again = run(ctl(&server.addresses.grpc.to_string(), AGORA, &again)).await;
    let words = "User3 was no admin of the room.\nuser4 was no admin of the room.\n";
    assert_eq!((again.code, again.err.as_str()), (Some(0), words));
}

#[tokio::test]
async fn a_change_of_admins_registers_no_room() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    for change in ["--add", "--remove"] {
        let admins = ctl(&grpc, OPEN, &["room", "admins", "r", change, "u"]);
        refused(admins, &[], 1, &["ROOM_NOT_FOUND", "ctl room create"]).await;
    }
    assert!(objects(&server, OPEN, "room list").await.is_empty());
    let empty = ctl(&grpc, OPEN, &["room", "admins", "r", "--add", ""]);
    refused(empty, &[], 64, &["a value is required"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_changes_of_admins_are_all_kept() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    let users = ["user1", "user2", "user3", "user4", "user5"];
    let add = |user| run(ctl(&grpc, AGORA, &["room", "admins", ROOM, "--add", user]));
    futures_util::future::join_all(users.map(add)).await;
    let room = objects(&server, AGORA, "room show 1265710621211").await;
    let mut admins: Vec<String> =
        serde_json::from_value(room[0]["room"]["admins"].clone()).unwrap();
    admins.sort();
    assert_eq!(admins, users);
}

#[tokio::test]
async fn users_are_registered_shown_listed_and_deleted() {
    let server = Server::start().await;
    let stranger = ctl(&server.addresses.grpc.to_string(), AGORA, &["mute", ROOM, "user9"]);
    refused(stranger, &[], 1, &["Users: user9", "mute-service ctl user create"]).await;
    let user = format!(
        "USER         user9
NICKNAME     Nine
DESCRIPTION  -
EMAIL        nine@example.com
MUTED ROOMS  -
LAST LOGIN   -
{CREATED}"
    );
    let create = "user create user9 --nickname Nine --email nine@example.com";
    assert_eq!(done(&server, AGORA, create).await, user);
    assert_eq!(done(&server, AGORA, "user show user9").await, user);
    done(&server, AGORA, "mute 1265710621211 user9").await;
    let listed = done(&server, AGORA, "user list").await;
    assert!(listed.starts_with("USER    NICKNAME  EMAIL             CREATED\n"), "{listed}");
    let row = "user9   Nine      nine@example.com  2022-01-13T07:59:10Z\n";
    assert!(listed.ends_with(row), "{listed}");
    assert_eq!(done(&server, AGORA, "user delete user9").await, "WAS REGISTERED  yes\n");
    assert_eq!(done(&server, AGORA, "user delete user9").await, "WAS REGISTERED  no\n");
    let gone = ctl(&server.addresses.grpc.to_string(), AGORA, &["user", "show", "user9"]);
    refused(gone, &[], 1, &["CLIENT_NOT_FOUND"]).await;
}

#[tokio::test]
async fn an_unknown_room_is_named() {
    let server = Server::start().await;
    let grpc = server.addresses.grpc.to_string();
    for arguments in [
        &["mute", "no where", "user1"][..],
        &["list", "no where"],
        &["check", "no where", "user1"],
        &["ban", "no where"],
        &["allow", "no where", "user1"],
        &["mute-notifications", "no where", "user1"],
        &["room", "show", "no where"],
    ] {
        let code = if arguments[0] == "check" { 2 } else { 1 };
        let words = [
            "the room \"no where\" is not registered in this app (ROOM_NOT_FOUND)",
            "mute-service ctl room create",
        ];
        refused(ctl(&grpc, AGORA, arguments), &[], code, &words).await;
    }
    let message = pb::FilterRecipientsRequest {
        app: AGORA.into(),
        room: "nowhere".into(),
        users: strings(&["user1"]),
        ..Default::default()
    };
    let status = server.mutes().await.filter_recipients(with(message, &[SERVICE])).await;
    let details = tonic_types::StatusExt::get_error_details(&status.unwrap_err());
    assert_eq!(details.error_info().unwrap().metadata["room"], "nowhere");
}
