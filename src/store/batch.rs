//! A planned change: typed records and preconditions, encoded once, when it is committed. Until
//! then plans, quotas and the search for expired records read keys and values as they are.

use super::{EncodedBatch, Operation, Precondition, Revision, codec};
use crate::model::{Event, Key, Value};

/// What one commit is to change, on which preconditions, with its event.
#[derive(Debug)]
pub struct Batch<'a> {
    event: Vec<u8>,
    at_ms: u64,
    changes: Vec<Change<'a>>,
    is_alone: bool,
}

/// What a batch wants of one record.
#[derive(Debug)]
struct Change<'a> {
    key: Key<'a>,
    /// The revision that the record must have; `Some(None)`: it must be absent.
    expected: Option<Option<Revision>>,
    write: Option<Write>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a batch lives until its commit, mostly of puts")]
enum Write {
    Put(Value),
    Delete,
}

impl<'a> Batch<'a> {
    /// A batch with this event and no changes yet.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let at_ms = event.at_ms;
        Self { event: codec::encode_event(event), at_ms, changes: Vec::new(), is_alone: false }
    }

    /// Adds a precondition: the record still has this revision, or with `None` is still absent. A
    /// write of the same record that follows at once is on this precondition.
    pub fn expect(&mut self, key: Key<'a>, revision: Option<Revision>) {
        self.changes.push(Change { key, expected: Some(revision), write: None });
    }

    /// Writes a record.
    pub fn put(&mut self, key: Key<'a>, value: Value) {
        self.write(key, Write::Put(value));
    }

    /// Writes a record before all others of the batch, so that a reader who sees any of the others
    /// sees this one too.
    pub fn put_first(&mut self, key: Key<'a>, value: Value) {
        self.put(key, value);
        self.changes.rotate_right(1);
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: Key<'a>) {
        self.write(key, Write::Delete);
    }

    /// Deletes a room's registration and, by a tombstone, its ban, member mutes, allow list and
    /// notification mutes.
    pub fn delete_room(&mut self, app: &'a str, room: &'a str) {
        self.put(Key::DeletedRoom { app, room }, Value::Deleted(self.at_ms));
        self.delete(Key::Room { app, room });
        self.is_alone = true;
    }

    /// Deletes a client's registration and, by a tombstone, its notification mutes.
    pub fn delete_client(&mut self, app: &'a str, user: &'a str) {
        self.put(Key::DeletedClient { app, user }, Value::Deleted(self.at_ms));
        self.delete(Key::Client { app, user });
        self.is_alone = true;
    }

    /// The keys that the batch writes or deletes, in order.
    pub fn written(&self) -> impl Iterator<Item = Key<'a>> {
        self.changes.iter().filter(|change| change.write.is_some()).map(|change| change.key)
    }

    /// The records that the batch writes, in order, each with whether it must be absent before.
    pub fn puts(&self) -> impl Iterator<Item = (Key<'a>, &Value, bool)> {
        self.changes.iter().filter_map(|change| match &change.write {
            Some(Write::Put(value)) => Some((change.key, value, change.expected == Some(None))),
            Some(Write::Delete) | None => None,
        })
    }

    /// The batch as an engine commits it.
    #[must_use]
    pub fn encode(self) -> EncodedBatch {
        let Self { event, at_ms, changes, is_alone } = self;
        let mut batch = EncodedBatch { event, at_ms, is_alone, ..EncodedBatch::default() };
        for Change { key, expected, write } in changes {
            let key = codec::encode_key(key);
            let precondition = |revision| Precondition { key: key.clone(), revision };
            batch.preconditions.extend(expected.map(precondition));
            batch.operations.extend(write.map(|write| match write {
                Write::Put(value) => {
                    let value = codec::encode_value(&key, &value);
                    Operation::Put { key, value }
                }
                Write::Delete => Operation::Delete { key },
            }));
        }
        batch
    }

    fn write(&mut self, key: Key<'a>, write: Write) {
        match self.changes.last_mut() {
            Some(last) if last.key == key && last.write.is_none() => last.write = Some(write),
            _ => self.changes.push(Change { key, expected: None, write: Some(write) }),
        }
    }
}

impl EncodedBatch {
    /// A batch with this event and no operations yet, for keys that are already encoded.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Batch::of(event).encode()
    }
}
