//! Somebody is faster: between the plan and the commit of a write, another one is committed.
//! Whatever it has changed, the write answers and leaves what it would have if it had come second
//! from the beginning; each expectation in the rules is there for one of these pairs.

mod world;

use world::{Kind, Step, World, Write};

const U: &str = "u";
const W: &str = "w";

/// Writes, each with what is to come in between and must matter to it. Each write has something to
/// change in a world as it begins.
fn pairs(kind: Kind) -> Vec<(Write, Vec<Vec<Step>>)> {
    let of_room = of_room(kind);
    let with = |more: &[Vec<Step>]| [of_room.as_slice(), more].concat();
    let ended = || vec![Step::Pass(10_000), Step::Sweep];
    let mute = |users: &[&'static str], ms| Write::Mute { users: users.to_vec(), ms: Some(ms) };
    let unmute = |users: &[&'static str]| Write::Unmute { users: users.to_vec() };
    let allow = |users: &[&'static str]| Write::Allow { users: users.to_vec() };
    let disallow = |users: &[&'static str]| Write::Disallow { users: users.to_vec() };
    let owned = Write::Room { name: None, owner: Some(W), admins: None };
    let other_name = Write::Client { nickname: "other" };
    let of_list = [
        one(other_name.clone()),
        one(Write::DeleteClient),
        vec![Step::Write(Write::DeleteClient), Step::Write(other_name.clone())],
        brief(Write::Silence { ms: Some(1) }),
        one(Write::Silence { ms: Some(20_000) }),
        one(Write::Unsilence),
        ended(),
    ];
    let of_user = [brief(Write::MuteUser { ms: Some(1) }), one(Write::UnmuteUser), ended()];
    let deleted = one(Write::DeleteRoom);
    let of_list_and_room = [vec![deleted.clone()], of_list.to_vec()].concat();
    vec![
        (
            mute(&[U, W], 5_000),
            with(&[one(owned.clone()), brief(mute(&[W], 1)), one(unmute(&[U])), ended()]),
        ),
        (unmute(&[U, W]), with(&[one(unmute(&[U])), brief(mute(&[U], 1)), ended()])),
        (
            Write::Ban { ms: Some(5_000) },
            with(&[brief(Write::Ban { ms: Some(1) }), one(Write::Unban), ended()]),
        ),
        (Write::Unban, with(&[brief(Write::Ban { ms: Some(1) }), one(Write::Unban), ended()])),
        (allow(&[U, W]), with(&[one(allow(&[W])), one(disallow(&[U]))])),
        (disallow(&[U, W]), with(&[one(disallow(&[U]))])),
        (Write::Silence { ms: Some(5_000) }, of_list_and_room.clone()),
        (Write::Unsilence, of_list_and_room),
        (Write::MuteUser { ms: Some(5_000) }, of_user.to_vec()),
        (Write::UnmuteUser, of_user.to_vec()),
        (
            Write::Client { nickname: "new" },
            vec![one(Write::DeleteClient), one(Write::Client { nickname: "new" })],
        ),
        (Write::DeleteClient, of_list[..6].to_vec()),
        (
            Write::Room { name: Some("new"), owner: None, admins: None },
            vec![one(owned), deleted.clone()],
        ),
        (Write::DeleteRoom, vec![deleted, of_room[1].clone()]),
    ]
}

/// What comes in between of any write in a room.
fn of_room(kind: Kind) -> Vec<Vec<Step>> {
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

/// A mark that has ended when its turn comes, and that nobody has swept.
fn brief(write: Write) -> Vec<Step> {
    vec![Step::Write(write), Step::Pass(1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_overtaken_is_as_if_it_had_come_second() {
    let access = world::access().await;
    let mut failures = Vec::new();
    let mut count = 0;
    for kind in [Kind::Strict, Kind::Unregistered] {
        for (call, rivals) in pairs(kind) {
            for rival in rivals {
                count += 1;
                let second =
                    World::new(kind, &access).await.one_after_the_other(&rival, &call).await;
                let overtaken = World::new(kind, &access).await.overtaken(&rival, &call).await;
                if overtaken != second {
                    failures.push(format!(
                        "{kind:?} {call:?}\nbehind {rival:?}\ncame to {overtaken}\nand not {second}"
                    ));
                }
            }
        }
    }
    println!("{count} pairs");
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_overtaken_by_another_with_its_request_id() {
    let access = world::access().await;
    for (call, _) in pairs(Kind::Strict) {
        let named = Write::Named(Box::new(call));
        let other = Write::Named(Box::new(Write::Client { nickname: "other" }));
        for rival in [one(named.clone()), one(other)] {
            let second =
                World::new(Kind::Strict, &access).await.one_after_the_other(&rival, &named).await;
            let overtaken = World::new(Kind::Strict, &access).await.overtaken(&rival, &named).await;
            assert_eq!(overtaken, second, "{named:?} behind {rival:?}");
        }
    }
}
