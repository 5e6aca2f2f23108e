//! Whether a service that keeps its promises can have produced the observations. Each function
//! checks one promise against the history.

use std::collections::{BTreeMap, BTreeSet};

use mute_service::proto::v1::{self as pb, ChangeKind};

use super::{
    Fault,
    callers::{MODERATOR, STAFFED_ROOM},
    facts::Facts,
    trouble::IMPORTED_ROOM,
    world::{Log, OPEN, Observation, World},
};
use crate::{
    checker::{self, Operation, Outcome},
    harness::ms,
};

type Faults = Vec<(Fault, String)>;

/// Revisions of the service for each revision of the cluster.
const SLOTS: i64 = 128;
/// Clock error below which no expiry counts as early.
const MAX_CLOCK_ERROR_MS: u64 = 4_000;

fn group(revision: i64) -> i64 {
    revision / SLOTS
}

fn is_of(change: &pb::Change, kinds: &[ChangeKind]) -> bool {
    kinds.contains(&change.kind())
}

/// Checks the writers' calls, with the checker that tests of real processes use as well.
pub fn writers(
    history: &[pb::Change],
    mut operations: Vec<Vec<Operation>>,
    until_ms: u64,
) -> Faults {
    let kinds = [ChangeKind::Muted, ChangeKind::Unmuted, ChangeKind::Expired];
    let is_theirs = |change: &&pb::Change| is_of(change, &kinds) && change.room.starts_with('m');
    let history: Vec<_> = history.iter().filter(is_theirs).cloned().collect();
    // A repeated call with a request id returns the revision of its idempotency record, which is
    // the first of the commits in its group.
    for operation in operations.iter_mut().flatten() {
        let change = history.iter().find(|change| change.reason == operation.reason);
        if let Outcome::Done(revision) = operation.outcome
            && let Some(change) = change
            && group(revision) == group(change.revision)
        {
            operation.outcome = Outcome::Done(change.revision);
        }
    }
    let faults = checker::check(&operations, &history, until_ms).err().unwrap_or_default();
    faults.into_iter().map(|what| (Fault::History, what)).collect()
}

/// No expiry is emitted before its time, by the true clock.
pub fn ends(world: &World, app: &str, history: &[pb::Change]) -> Faults {
    use ChangeKind::*;
    let mut ends = BTreeMap::new();
    let mut faults = Faults::new();
    for change in history {
        let class = match change.kind() {
            Muted | Unmuted | Expired => "mute",
            Banned | Unbanned | BanExpired => "ban",
            NotificationsMuted | NotificationsUnmuted | NotificationsExpired => "push mute",
            UserMuted | UserUnmuted | UserMuteExpired => "user mute",
            _ => continue,
        };
        let users =
            if change.users.is_empty() { vec![String::new()] } else { change.users.clone() };
        for key in users.into_iter().map(|user| (class, change.room.clone(), user)) {
            match change.kind() {
                Muted | Banned | NotificationsMuted | UserMuted => {
                    ends.insert(key, change.expire_time.as_ref().map_or(u64::MAX, ms));
                }
                Expired | BanExpired | NotificationsExpired | UserMuteExpired => {
                    let now_ms = world
                        .double
                        .time_of(group(change.revision))
                        .map_or(0, |time| world.ms_of(time));
                    let early_ms = ends.remove(&key).unwrap_or(0).saturating_sub(now_ms);
                    if early_ms > MAX_CLOCK_ERROR_MS {
                        let what = format!(
                            "{app}: the {key:?} has expired {early_ms} ms early, at {}",
                            change.revision
                        );
                        faults.push((Fault::EarlyEnd, what));
                    }
                }
                _ => {
                    ends.remove(&key);
                }
            }
        }
    }
    faults
}

/// No moderator makes a write after the commit that revoked its right.
pub fn rights(history: &[pb::Change], log: &Log) -> Faults {
    let mut has_right = false;
    let mut since = 0;
    let mut faults = Faults::new();
    for change in history.iter().filter(|change| change.room == STAFFED_ROOM) {
        match change.kind() {
            ChangeKind::RoomDeleted => {
                has_right = false;
                since = change.revision;
            }
            ChangeKind::RoomUpserted => {
                has_right = log.rights.get(&change.request_id).copied().unwrap_or(false);
                since = change.revision;
            }
            _ if change.actor == format!("user:{MODERATOR}") && !has_right => {
                let what = format!(
                    "the moderator wrote at {}, and was removed at {since}",
                    change.revision
                );
                faults.push((Fault::RevokedRight, what));
            }
            _ => {}
        }
    }
    faults
}

/// Users with a notification mute of a room at a revision, with its end; and users whose mute was
/// removed with the room or the client.
fn push_muted(
    history: &[pb::Change],
    room: &str,
    revision: i64,
) -> (BTreeMap<String, u64>, BTreeSet<String>) {
    let mut push_muted = BTreeMap::new();
    let mut removed = BTreeSet::new();
    for change in history.iter().take_while(|change| change.revision <= revision) {
        match change.kind() {
            ChangeKind::RoomDeleted if change.room == room => {
                removed.extend(std::mem::take(&mut push_muted).into_keys());
            }
            ChangeKind::ClientDeleted => {
                removed.extend(
                    change.users.iter().filter(|user| push_muted.remove(*user).is_some()).cloned(),
                );
            }
            ChangeKind::NotificationsMuted if change.room == room => {
                push_muted.insert(
                    change.users[0].clone(),
                    change.expire_time.as_ref().map_or(u64::MAX, ms),
                );
            }
            ChangeKind::NotificationsUnmuted | ChangeKind::NotificationsExpired
                if change.room == room =>
            {
                push_muted.remove(&change.users[0]);
            }
            _ => {}
        }
    }
    (push_muted, removed)
}

/// A notification mute is in force from its commit until it is removed or ends, and never after its
/// room or client was deleted.
pub fn observation(history: &[pb::Change], observed: &Observation) -> Faults {
    let (expected, removed) = push_muted(history, &observed.room, observed.revision | (SLOTS - 1));
    let mut faults = Faults::new();
    for user in &observed.push_muted {
        if expected.get(user).is_none_or(|end_ms| *end_ms <= observed.now_ms) {
            let fault = if removed.contains(user) { Fault::DeletedRoom } else { Fault::History };
            faults.push((fault, format!("{user} should receive pushes in {observed:?}")));
        }
    }
    for (user, _) in expected
        .iter()
        .filter(|(user, end_ms)| **end_ms > observed.now_ms && !observed.push_muted.contains(*user))
    {
        let was_deleted = history.iter().any(|change| {
            change.room == observed.room
                && change.kind() == ChangeKind::RoomDeleted
                && change.revision <= observed.revision
        });
        let fault = if was_deleted { Fault::AfterDeletion } else { Fault::History };
        faults.push((fault, format!("{user} has muted, but receives pushes in {observed:?}")));
    }
    faults
}

/// A watch emits every change once, in order, and ends at an import.
pub fn watches(history: &[pb::Change], log: &Log) -> Faults {
    let mut faults = Faults::new();
    for watched in &log.watches {
        let is_covered = |change: &&pb::Change| {
            change.revision > watched.after && change.revision <= watched.last
        };
        let covered: Vec<_> = history.iter().filter(is_covered).collect();
        let imports: Vec<_> =
            covered.iter().filter(|change| change.kind() == ChangeKind::Imported).collect();
        if let Some(import) = imports.first() {
            let what = format!(
                "a watch of \"{}\" skipped the import at {} to {}",
                watched.room, import.revision, watched.last
            );
            faults.push((Fault::ImportSkipped, what));
        }
        let is_expected = |change: &&&pb::Change| {
            change.kind() != ChangeKind::Imported
                && (watched.room.is_empty() || watched.room == change.room)
        };
        let expected: Vec<_> =
            covered.iter().filter(is_expected).map(|change| change.revision).collect();
        let mut emitted = watched.changes.clone();
        emitted.retain(|revision| !imports.iter().any(|import| import.revision == *revision));
        if emitted != expected {
            faults.push((
                Fault::History,
                format!("a watch has emitted {watched:?}, expected {expected:?}"),
            ));
        }
    }
    faults
}

/// The records of the store are those that follow from the history.
pub fn records(history: &[pb::Change], store: &Facts, after_ms: u64) -> Faults {
    use ChangeKind::{Expired, Muted, RoomDeleted, Unmuted};
    let mut muted = BTreeMap::new();
    for change in history {
        match change.kind() {
            RoomDeleted => muted.retain(|(room, _), _| *room != change.room),
            Muted => muted.extend(
                change
                    .users
                    .iter()
                    .map(|user| ((change.room.clone(), user.clone()), &change.expire_time)),
            ),
            Unmuted | Expired => {
                muted.retain(|(room, user), _| *room != change.room || !change.users.contains(user))
            }
            _ => {}
        }
    }
    let end = |end: &Option<prost_types::Timestamp>| match end {
        None => Some("permanent"),
        Some(end) => (ms(end) > after_ms).then_some("long"),
    };
    let line = |((room, user), time): (&(String, String), &&Option<_>)| {
        Some(format!("mute {OPEN} {room} {user} {}", end(time)?))
    };
    let expected: Facts = muted.iter().filter_map(line).collect();
    let imported = format!("mute {OPEN} {IMPORTED_ROOM} ");
    let found: Facts = store
        .iter()
        .filter(|fact| fact.starts_with("mute ") && !fact.starts_with(&imported))
        .cloned()
        .collect();
    difference("the store", &found, &expected)
        .into_iter()
        .map(|what| (Fault::History, what))
        .collect()
}

/// `None` where both are equal.
pub fn difference(who: &str, found: &Facts, expected: &Facts) -> Option<String> {
    let lacks: Vec<_> = expected.difference(found).collect();
    let has: Vec<_> = found.difference(expected).collect();
    (found != expected).then(|| format!("{who} lacks {lacks:?}, and has {has:?} in excess"))
}
