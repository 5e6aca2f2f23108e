//! Compares what writers sent and were answered with the service's history: could a service that
//! loses no write have produced both?

use std::collections::{BTreeMap, HashMap};

use mute_service::proto::v1 as pb;

use crate::harness::ms;

/// A call of a writer. No other writer touches its users. The reason identifies the call.
#[derive(Clone, Debug)]
pub struct Operation {
    pub reason: String,
    pub room: String,
    pub users: Vec<String>,
    pub kind: pb::ChangeKind,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Acknowledged at this revision: it changed something.
    Done(i64),
    /// Acknowledged: there was nothing to change.
    Nothing,
    /// It failed. It may have taken effect, or may still do.
    Unknown,
}

/// The mutes by room and user: the end in Unix milliseconds, and the reason of the call.
pub type Muted = BTreeMap<(String, String), (Option<u64>, String)>;

/// Compares the operations, each writer's in order, with the complete history. Each mute that ends
/// before `until_ms` must have an expiry event. Returns the mutes at the end of the history.
/// Errors: all contradictions.
pub fn check(
    writers: &[Vec<Operation>],
    history: &[pb::Change],
    until_ms: u64,
) -> Result<Muted, Vec<String>> {
    let mut faults = Vec::new();
    for pair in history.windows(2) {
        if pair[0].revision >= pair[1].revision {
            faults.push(format!("history has {} before {}", pair[0].revision, pair[1].revision));
        }
    }
    let mut events: HashMap<&str, &pb::Change> = HashMap::new();
    for change in history.iter().filter(|change| !change.reason.is_empty()) {
        if events.insert(&change.reason, change).is_some() {
            faults.push(format!("{} has happened twice", change.reason));
        }
    }
    for operations in writers {
        let mut latest = 0;
        for operation in operations {
            let change = events.remove(operation.reason.as_str());
            check_operation(operation, change, &mut latest, &mut faults);
        }
    }
    faults.extend(events.into_values().map(|change| format!("no operation made {change:?}")));
    let muted = replay(history, until_ms, &mut faults);
    if faults.is_empty() { Ok(muted) } else { Err(faults) }
}

fn check_operation(
    operation: &Operation,
    change: Option<&pb::Change>,
    latest: &mut i64,
    faults: &mut Vec<String>,
) {
    match (operation.outcome, change) {
        (Outcome::Done(revision), Some(change)) if change.revision != revision => {
            faults.push(format!("{operation:?} has happened at {}", change.revision));
        }
        (Outcome::Done(_), None) => faults.push(format!("{operation:?} was acknowledged and lost")),
        (Outcome::Nothing, Some(change)) => {
            faults.push(format!("{operation:?} was acknowledged as no change, but made {change:?}"))
        }
        _ => {}
    }
    let Some(change) = change else { return };
    let is_part = change.users.iter().all(|user| operation.users.contains(user));
    let is_whole =
        change.kind() == pb::ChangeKind::Unmuted || change.users.len() == operation.users.len();
    if change.kind() != operation.kind || change.room != operation.room || !is_part || !is_whole {
        faults.push(format!("{operation:?} has the event {change:?}"));
    }
    // A failed call may take effect late, after later calls for other users. An acknowledged call
    // may not.
    if let Outcome::Done(revision) = operation.outcome {
        if revision <= *latest {
            faults.push(format!("{operation:?} came after {latest}"));
        }
        *latest = revision;
    }
}

/// Applies the history. Each end must have one expiry event, and not before the end.
fn replay(history: &[pb::Change], until_ms: u64, faults: &mut Vec<String>) -> Muted {
    let mut muted = Muted::new();
    for change in history {
        let at_ms = change.change_time.as_ref().map_or(0, ms);
        for user in &change.users {
            let key = (change.room.clone(), user.clone());
            let before = match change.kind() {
                pb::ChangeKind::Muted => {
                    muted.insert(key, (change.expire_time.as_ref().map(ms), change.reason.clone()))
                }
                _ => muted.remove(&key),
            };
            let had_ended =
                before.as_ref().is_some_and(|(end, _)| end.is_some_and(|end| end <= at_ms));
            let is_wrong = match change.kind() {
                pb::ChangeKind::Muted => had_ended,
                pb::ChangeKind::Expired => !had_ended,
                pb::ChangeKind::Unmuted => before.is_none() || had_ended,
                _ => true,
            };
            if is_wrong {
                faults.push(format!("{change:?} cannot be after {before:?}"));
            }
        }
    }
    let missing = muted.iter().filter(|(_, (end, _))| end.is_some_and(|end| end < until_ms));
    faults.extend(missing.map(|mute| format!("the end of {mute:?} has no event")));
    muted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(
        revision: i64,
        at_ms: i64,
        kind: pb::ChangeKind,
        reason: &str,
        end_ms: Option<i64>,
    ) -> pb::Change {
        let time = |ms: i64| prost_types::Timestamp {
            seconds: ms / 1_000,
            nanos: (ms % 1_000 * 1_000_000) as i32,
        };
        pb::Change {
            revision,
            change_time: Some(time(at_ms)),
            kind: kind.into(),
            room: "r".into(),
            users: vec!["u".into()],
            reason: reason.into(),
            expire_time: end_ms.map(time),
            ..Default::default()
        }
    }

    fn operation(reason: &str, kind: pb::ChangeKind, outcome: Outcome) -> Operation {
        Operation {
            reason: reason.into(),
            room: "r".into(),
            users: vec!["u".into()],
            kind,
            outcome,
        }
    }

    #[test]
    fn the_checker_finds_contradictions() {
        use Outcome::{Done, Nothing, Unknown};
        use pb::ChangeKind::{Expired, Muted, Unmuted};
        let mute = |revision, reason| change(revision, 10, Muted, reason, Some(50));
        let end = |revision, at_ms| change(revision, at_ms, Expired, "", None);
        let done = |reason, revision| operation(reason, Muted, Done(revision));
        let cases = [
            ("good", vec![done("a", 1)], vec![mute(1, "a"), end(2, 50)], None),
            (
                "good: failed and took effect",
                vec![operation("a", Muted, Unknown)],
                vec![mute(1, "a"), end(2, 50)],
                None,
            ),
            ("good: failed without effect", vec![operation("a", Muted, Unknown)], vec![], None),
            ("lost", vec![done("a", 1)], vec![], Some("acknowledged and lost")),
            (
                "elsewhere",
                vec![done("a", 1)],
                vec![mute(2, "a"), end(3, 50)],
                Some("has happened at 2"),
            ),
            (
                "twice",
                vec![done("a", 1)],
                vec![mute(1, "a"), mute(2, "a"), end(3, 50)],
                Some("happened twice"),
            ),
            (
                "without an operation",
                vec![],
                vec![mute(1, "a"), end(2, 50)],
                Some("no operation made"),
            ),
            (
                "no change expected",
                vec![operation("a", Muted, Nothing)],
                vec![mute(1, "a"), end(2, 50)],
                Some("acknowledged as no change"),
            ),
            (
                "revisions go back",
                vec![done("a", 2), done("b", 1)],
                vec![mute(1, "b"), mute(2, "a"), end(3, 50)],
                Some("came after 2"),
            ),
            (
                "disorder",
                vec![done("a", 2)],
                vec![mute(2, "a"), end(1, 50)],
                Some("has 2 before 1"),
            ),
            (
                "early end",
                vec![done("a", 1)],
                vec![mute(1, "a"), end(2, 49)],
                Some("cannot be after"),
            ),
            (
                "two ends",
                vec![done("a", 1)],
                vec![mute(1, "a"), end(2, 50), end(3, 51)],
                Some("cannot be after"),
            ),
            ("no end", vec![done("a", 1)], vec![mute(1, "a")], Some("has no event")),
            (
                "unmute of a user not muted",
                vec![operation("a", Unmuted, Done(1))],
                vec![change(1, 10, Unmuted, "a", None)],
                Some("cannot be after"),
            ),
        ];
        for (case, operations, history, expected) in cases {
            let found = check(&[operations], &history, 100).err().map(|faults| faults.join("; "));
            let is_as_expected = match expected {
                None => found.is_none(),
                Some(words) => found.as_ref().is_some_and(|found| found.contains(words)),
            };
            assert!(is_as_expected, "{case}: {found:?}");
        }
    }
}
