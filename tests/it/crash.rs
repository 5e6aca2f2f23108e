//! kill -9 at random moments, again and again on one directory: what was acknowledged is there with its exact fields, a call is there whole or
//! not at all, and revisions never go back. `MUTE_TEST_KILLS` sets how often, `MUTE_TEST_SEED` repeats a run.

use std::{collections::BTreeMap, time::Duration};

use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::Channel;

use crate::{
    harness::{SERVICE, duration, with},
    process::Process,
};

const WRITERS: usize = 8;
/// Users of one call.
const USERS: usize = 3;

/// What is known of one call's users.
#[derive(Clone, Debug)]
enum Known {
    /// The mute was acknowledged with these fields.
    Muted(pb::MutedMember),
    /// The unmute was acknowledged, or the mute was found not to be there after a kill.
    Absent,
    /// The mute was sent, and no answer came.
    MaybeMuted,
    /// The unmute was sent, and no answer came.
    MaybeUnmuted(pb::MutedMember),
}

/// One writer's calls, by number.
#[derive(Clone, Default)]
struct Ledger {
    calls: BTreeMap<usize, Known>,
    next: usize,
    newest_revision: i64,
}

fn users(writer: usize, call: usize) -> Vec<String> {
    (0..USERS).map(|user| format!("w{writer}c{call:06}u{user}")).collect()
}

fn room(writer: usize) -> String {
    format!("room{writer}")
}

fn reason(call: usize) -> String {
    format!("call {call}")
}

/// Mutes, and now and then unmutes what it has muted, until the connection breaks.
async fn write(mut mutes: MuteServiceClient<Channel>, writer: usize, mut ledger: Ledger, mut random: StdRng) -> Ledger {
    loop {
        let old = ledger.next.checked_sub(random.random_range(1..20)).filter(|_| random.random_bool(0.3));
        let alive = match old.and_then(|call| Some((call, ledger.calls.get(&call)?.clone()))) {
            Some((call, Known::Muted(member))) => unmute(&mut mutes, writer, call, member, &mut ledger).await,
            _ => {
                let duration_ms = random.random_bool(0.8).then(|| random.random_range(3_600_000..86_400_000));
                mute(&mut mutes, writer, duration_ms, &mut ledger).await
            }
        };
        if !alive {
            return ledger;
        }
    }
}

async fn mute(mutes: &mut MuteServiceClient<Channel>, writer: usize, duration_ms: Option<u64>, ledger: &mut Ledger) -> bool {
    let call = ledger.next;
    ledger.next += 1;
    ledger.calls.insert(call, Known::MaybeMuted);
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: room(writer),
        users: users(writer, call),
        duration: duration_ms.map(duration),
        reason: reason(call),
        ..Default::default()
    };
    let Ok(answer) = mutes.mute_members(with(message, &[SERVICE])).await else { return false };
    let answer = answer.into_inner();
    assert!(answer.revision > ledger.newest_revision, "a revision has gone back");
    ledger.newest_revision = answer.revision;
    ledger.calls.insert(call, Known::Muted(answer.members[0].clone()));
    true
}

async fn unmute(
    mutes: &mut MuteServiceClient<Channel>,
    writer: usize,
    call: usize,
    member: pb::MutedMember,
    ledger: &mut Ledger,
) -> bool {
    ledger.calls.insert(call, Known::MaybeUnmuted(member));
    let message =
        pb::UnmuteMembersRequest { app: "Open".into(), room: room(writer), users: users(writer, call), ..Default::default() };
    let Ok(answer) = mutes.unmute_members(with(message, &[SERVICE])).await else { return false };
    let answer = answer.into_inner();
    assert!(answer.members.iter().all(|member| member.was_muted));
    assert!(answer.revision > ledger.newest_revision, "a revision has gone back");
    ledger.newest_revision = answer.revision;
    ledger.calls.insert(call, Known::Absent);
    true
}

/// What the service lists, by user.
async fn listed(mutes: &mut MuteServiceClient<Channel>, writer: usize) -> BTreeMap<String, pb::MutedMember> {
    let (mut members, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let message = pb::ListMutedMembersRequest {
            app: "Open".into(),
            room: room(writer),
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        let page = mutes.list_muted_members(with(message, &[SERVICE])).await.unwrap().into_inner();
        members.extend(page.members.into_iter().map(|member| (member.user.clone(), member)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return members;
        }
    }
}

/// Compares what is there with what is known, and settles what was in doubt.
fn compare(writer: usize, ledger: &mut Ledger, mut listed: BTreeMap<String, pb::MutedMember>) {
    for (call, known) in &mut ledger.calls {
        let found: Vec<_> = users(writer, *call).iter().filter_map(|user| listed.remove(user)).collect();
        assert!(found.is_empty() || found.len() == USERS, "writer {writer}, call {call} is there by half: {found:?}");
        let same = |member: &pb::MutedMember| {
            found.iter().all(|found| pb::MutedMember { user: member.user.clone(), ..found.clone() } == *member)
        };
        match (&*known, found.first()) {
            (Known::Muted(member) | Known::MaybeUnmuted(member), Some(_)) => {
                assert!(same(member), "writer {writer}, call {call}: {found:?} is not {member:?}");
                *known = Known::Muted(member.clone());
            }
            (Known::Muted(member), None) => panic!("writer {writer}, call {call} was acknowledged and is lost: {member:?}"),
            (Known::Absent, Some(member)) => panic!("writer {writer}, call {call} was unmuted and is back: {member:?}"),
            (Known::MaybeMuted, Some(member)) => {
                assert_eq!((member.reason.as_str(), member.actor.as_str()), (reason(*call).as_str(), "service:dev"));
                *known = Known::Muted(pb::MutedMember { user: users(writer, *call)[0].clone(), ..member.clone() });
            }
            (Known::MaybeMuted | Known::MaybeUnmuted(_) | Known::Absent, None) => *known = Known::Absent,
        }
    }
    assert!(listed.is_empty(), "nobody has muted {listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_is_there_by_half_whenever_the_process_is_killed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let kills = number("MUTE_TEST_KILLS").unwrap_or(50);
    let seed = number("MUTE_TEST_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}, {kills} kills");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut ledgers = vec![Ledger::default(); WRITERS];
    for kill in 0..kills {
        if kill % 100 == 99 {
            println!("{} kills", kill + 1);
        }
        let process = Process::start(directory.path());
        let mut reader = process.mutes().await;
        for (writer, ledger) in ledgers.iter_mut().enumerate() {
            compare(writer, ledger, listed(&mut reader, writer).await);
        }
        let mut writers = Vec::new();
        for (writer, ledger) in ledgers.drain(..).enumerate() {
            let random = StdRng::seed_from_u64(random.random());
            writers.push(tokio::spawn(write(process.mutes().await, writer, ledger, random)));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(1..120))).await;
        // Dropped: kill -9.
        drop(process);
        for writer in writers {
            ledgers.push(writer.await.unwrap());
        }
    }
    let process = Process::start(directory.path());
    let mut reader = process.mutes().await;
    for (writer, ledger) in ledgers.iter_mut().enumerate() {
        compare(writer, ledger, listed(&mut reader, writer).await);
    }
    let calls: usize = ledgers.iter().map(|ledger| ledger.next).sum();
    println!("{calls} mutes sent, newest revision {}", ledgers.iter().map(|ledger| ledger.newest_revision).max().unwrap());
    assert!(calls as u64 > kills, "the writers have hardly written");
}
