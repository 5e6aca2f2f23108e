//! Clause 9: copies of all records.

use super::*;

/// A copy of all records, as a follower of the store builds it.
pub(super) type Records = BTreeMap<Vec<u8>, (Vec<u8>, Revision)>;

fn apply(records: &mut Records, operation: Operation, revision: Revision) {
    match operation {
        Operation::Put { key, value } => drop(records.insert(key, (value, revision))),
        Operation::Delete { key } => drop(records.remove(&key)),
    }
}

pub(super) struct Copy {
    updates: Updates,
    pub(super) records: Records,
    revision: Revision,
}

impl Copy {
    /// Follows the store until the copy is complete.
    pub(super) async fn of(store: &dyn Store) -> Self {
        let mut copy =
            Self { updates: store.follow().await.unwrap(), records: BTreeMap::new(), revision: 0 };
        assert_eq!(copy.updates.next().await.unwrap().unwrap(), Update::Reset);
        while copy.revision == 0 {
            copy.take().await;
        }
        copy
    }

    pub(super) async fn reach(&mut self, revision: Revision) {
        while self.revision < revision {
            self.take().await;
        }
    }

    async fn take(&mut self) {
        match self.updates.next().await.unwrap().unwrap() {
            Update::Reset => self.records.clear(),
            Update::Records(entries) => {
                let entries =
                    entries.into_iter().map(|entry| (entry.key, (entry.value, entry.revision)));
                self.records.extend(entries);
            }
            Update::Complete(revision) => self.revision = revision,
            Update::Commit(commit) => {
                for operation in commit.operations.clone() {
                    apply(&mut self.records, operation, commit.revision);
                }
                if self.revision > 0 {
                    assert!(
                        commit.revision > self.revision,
                        "{} after {}",
                        commit.revision,
                        self.revision
                    );
                    self.revision = commit.revision;
                }
            }
        }
    }
}

pub(super) async fn clause_9_a_copy_equals_the_store_under_any_writes(location: &Location) {
    let store = open(location).await;
    let key = |number: u32| format!("k{number:05}");
    let mut commits = Vec::new();
    for chunk in 0..60 {
        let operations: Vec<_> =
            (0..100).map(|number| put(&key(chunk * 100 + number), &"x".repeat(500))).collect();
        commits.push((store.commit(batch(operations.clone())).await.unwrap(), operations));
    }
    let is_done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers = (0..4_u32).map(|writer| {
        let store = store.clone();
        let is_done = is_done.clone();
        tokio::spawn(async move {
            let mut number = writer;
            let mut commits = Vec::new();
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                // Keys before, at and after the position of the copy's reader, and new keys.
                number = (number * 7_919 + 13) % 6_200;
                let operation = if number.is_multiple_of(3) {
                    delete(&key(number))
                } else {
                    put(&key(number), &number.to_string())
                };
                commits.push((
                    store.commit(batch([operation.clone()])).await.unwrap(),
                    vec![operation],
                ));
            }
            commits
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut complete = Vec::new();
    let mut followed = Copy::of(&*store).await;
    for _ in 0..5 {
        // The first copy continues while the next is built.
        let next = Copy::of(&*store).await;
        complete.push((next.revision, next.records));
        followed.reach(store.latest_revision().await.unwrap()).await;
    }
    is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    let last = Copy::of(&*store).await;
    complete.push((last.revision, last.records));
    let latest = store.latest_revision().await.unwrap();
    for writer in writers {
        followed.reach(latest).await;
        commits.extend(writer.await.unwrap());
    }
    followed.reach(store.latest_revision().await.unwrap()).await;
    let (_, entries) = entries(&*store).await;
    let records: BTreeMap<_, _> =
        entries.into_iter().map(|entry| (entry.key, (entry.value, entry.revision))).collect();
    assert!(followed.records == records, "the copy that followed differs");
    commits.sort_unstable_by_key(|(revision, _)| *revision);
    // Commits that became durable in one transaction of the cluster arrive as one commit, with the
    // revision of the first.
    let group = if matches!(location, Location::Cluster(_)) { 128 } else { 1 };
    for (revision, found) in complete {
        let mut records = BTreeMap::new();
        for (revision, operations) in
            commits.iter().take_while(|(committed, _)| *committed / group <= revision / group)
        {
            operations.iter().for_each(|operation| {
                apply(&mut records, operation.clone(), revision - revision % group)
            });
        }
        assert!(found == records, "the copy that was complete at {revision} differs");
    }
}
