//! Conflicts: between the plan and the commit of a write, a rival write is committed. The answer
//! and the state afterwards must be as if the write had started after the rival. Each precondition
//! in the rules exists for one of these pairs.

mod world;

use world::{Kind, Step, World, Write};

const U: &str = "u";
const W: &str = "w";

/// Writes, each with the rivals that must matter to it. Each write changes something in a new
/// world.
fn pairs(kind: Kind) -> Vec<(Write, Vec<Vec<Step>>)> {
    let room_rivals = rivals_in_room(kind);
    let with = |more: &[Vec<Step>]| [room_rivals.as_slice(), more].concat();
    let expired = || vec![Step::Advance(10_000), Step::Sweep];
    let mute = |users: &[&'static str], ms| Write::Mute { users: users.to_vec(), ms: Some(ms) };
    let unmute = |users: &[&'static str]| Write::Unmute { users: users.to_vec() };
    let allow = |users: &[&'static str]| Write::Allow { users: users.to_vec() };
    let disallow = |users: &[&'static str]| Write::Disallow { users: users.to_vec() };
    let owned = Write::Room { name: None, owner: Some(W), admins: None };
    let other_name = Write::Client { nickname: "other" };
    let list_rivals = [
        one(other_name.clone()),
        one(Write::DeleteClient),
        vec![Step::Write(Write::DeleteClient), Step::Write(other_name.clone())],
        expiring(Write::MuteNotifications { ms: Some(1) }),
        one(Write::MuteNotifications { ms: Some(20_000) }),
        one(Write::UnmuteNotifications),
        expired(),
    ];
    let user_rivals =
        [expiring(Write::MuteUser { ms: Some(1) }), one(Write::UnmuteUser), expired()];
    let deleted = one(Write::DeleteRoom);
    let list_and_room_rivals = [vec![deleted.clone()], list_rivals.to_vec()].concat();
    vec![
        (
            mute(&[U, W], 5_000),
            with(&[one(owned.clone()), expiring(mute(&[W], 1)), one(unmute(&[U])), expired()]),
        ),
        (unmute(&[U, W]), with(&[one(unmute(&[U])), expiring(mute(&[U], 1)), expired()])),
        (
            Write::Ban { ms: Some(5_000) },
            with(&[expiring(Write::Ban { ms: Some(1) }), one(Write::Unban), expired()]),
        ),
        (Write::Unban, with(&[expiring(Write::Ban { ms: Some(1) }), one(Write::Unban), expired()])),
        (allow(&[U, W]), with(&[one(allow(&[W])), one(disallow(&[U]))])),
        (disallow(&[U, W]), with(&[one(disallow(&[U]))])),
        (Write::MuteNotifications { ms: Some(5_000) }, list_and_room_rivals.clone()),
        (Write::UnmuteNotifications, list_and_room_rivals),
        (Write::MuteUser { ms: Some(5_000) }, user_rivals.to_vec()),
        (Write::UnmuteUser, user_rivals.to_vec()),
        (
            Write::Client { nickname: "new" },
            vec![one(Write::DeleteClient), one(Write::Client { nickname: "new" })],
        ),
        (Write::DeleteClient, list_rivals[..6].to_vec()),
        (
            Write::Room { name: Some("new"), owner: None, admins: None },
            vec![one(owned), deleted.clone()],
        ),
        (Write::DeleteRoom, vec![deleted, room_rivals[1].clone()]),
    ]
}

/// The rivals of any write in a room.
fn rivals_in_room(kind: Kind) -> Vec<Vec<Step>> {
    let create = |owner| Write::Room { name: None, owner: Some(owner), admins: Some(&["m"]) };
    let again = |owner| vec![Step::Write(Write::DeleteRoom), Step::Write(create(owner))];
    match kind {
        Kind::Strict => vec![
            one(Write::DeleteRoom),
            again("o"),
            vec![Step::Write(Write::DeleteRoom), Step::SweepDeleted],
            one(Write::Room { name: None, owner: None, admins: Some(&[]) }),
        ],
        Kind::Unregistered => vec![one(Write::DeleteRoom), again(W)],
    }
}

fn one(write: Write) -> Vec<Step> {
    vec![Step::Write(write)]
}

/// A write whose restriction has expired, unswept, when the other write commits.
fn expiring(write: Write) -> Vec<Step> {
    vec![Step::Write(write), Step::Advance(1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_after_a_conflict_behaves_as_if_it_came_second() {
    let access = world::access().await;
    let mut failures = Vec::new();
    let mut count = 0;
    for kind in [Kind::Strict, Kind::Unregistered] {
        for (call, rivals) in pairs(kind) {
            for rival in rivals {
                count += 1;
                let sequential =
                    World::new(kind, &access).await.run_in_sequence(&rival, &call).await;
                let interleaved =
                    World::new(kind, &access).await.run_interleaved(&rival, &call).await;
                if interleaved != sequential {
                    failures.push(format!(
                        "{kind:?} {call:?}\nafter {rival:?}\nended as {interleaved}\nnot as {sequential}"
                    ));
                }
            }
        }
    }
    println!("{count} pairs");
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_of_request_ids_behaves_as_if_it_came_second() {
    let access = world::access().await;
    for (call, _) in pairs(Kind::Strict) {
        let with_id = Write::WithRequestId(Box::new(call));
        let other = Write::WithRequestId(Box::new(Write::Client { nickname: "other" }));
        for rival in [one(with_id.clone()), one(other)] {
            let sequential =
                World::new(Kind::Strict, &access).await.run_in_sequence(&rival, &with_id).await;
            let interleaved =
                World::new(Kind::Strict, &access).await.run_interleaved(&rival, &with_id).await;
            assert_eq!(interleaved, sequential, "{with_id:?} after {rival:?}");
        }
    }
}
