//! A sorted map from users to values, in little memory: sorted chunks, with ids of up to 15 bytes
//! inline.
//!
//! Each chunk has the earliest expiry of its values, so that a search for expired values skips the
//! other chunks.
//!
//! A member mute takes about 52 bytes here. In a `BTreeMap<Box<str>, _>` it took 122, and each
//! comparison of a lookup missed the cache. Here a lookup scans the fingerprints of one chunk, one
//! byte a user, and compares only users with the same fingerprint: mostly none, if the user is not
//! in the map.

use std::fmt;

use ecow::EcoString;
use memchr::memchr_iter;

/// Entries of a chunk, at most. A change moves the entries of at most one chunk. A lookup is a
/// binary search over the chunks, and a scan of one.
const CHUNK_MAX: usize = 64;
/// Entries by which the capacity of a chunk grows.
const GROWTH: usize = 8;

type Entry<T> = (EcoString, T);

/// A value that may expire.
pub trait Expires {
    /// When it expires, in Unix milliseconds. None: never.
    fn expire_ms(&self) -> Option<u64>;
}

/// A run of adjacent users.
struct Chunk<T> {
    /// At most the first user, and greater than every user of the previous chunk. A search for the
    /// chunk reads only the fences.
    fence: EcoString,
    entries: Vec<Entry<T>>,
    /// One byte of each entry, in the same order.
    fingerprints: Vec<u8>,
    /// The earliest expiry, in Unix milliseconds; `u64::MAX`: none.
    next_expire_ms: u64,
}

/// A sorted map from users to values.
pub struct UserMap<T> {
    /// In order; none of them is empty.
    chunks: Vec<Chunk<T>>,
    len: usize,
}

impl<T: Expires> UserMap<T> {
    /// Number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of the user.
    #[must_use]
    pub fn get(&self, user: &str) -> Option<&T> {
        self.chunks.get(self.chunk_index(user))?.get(user)
    }

    /// All users, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.after(None)
    }

    /// The users after this one, in order.
    pub fn after(&self, user: Option<&str>) -> impl Iterator<Item = (&str, &T)> {
        let (chunk_index, index) = user.map_or((0, 0), |user| {
            let chunk_index = self.chunk_index(user);
            let index = self.chunks.get(chunk_index).map_or(0, |chunk| {
                chunk.entries.partition_point(|(other, _)| other.as_str() <= user)
            });
            (chunk_index, index)
        });
        self.chunks
            .iter()
            .skip(chunk_index)
            .flat_map(|chunk| &chunk.entries)
            .skip(index)
            .map(|(user, value)| (user.as_str(), value))
    }

    /// The earliest expiry of all values, in Unix milliseconds.
    pub(super) fn next_expire_ms(&self) -> Option<u64> {
        self.chunks
            .iter()
            .map(|chunk| chunk.next_expire_ms)
            .min()
            .filter(|expire_ms| *expire_ms < u64::MAX)
    }

    /// The users whose value has expired, in order.
    pub(super) fn expired(&self, now_ms: u64) -> impl Iterator<Item = (&str, &T)> {
        let chunks = self.chunks.iter().filter(move |chunk| chunk.next_expire_ms <= now_ms);
        let is_expired =
            move |value: &T| value.expire_ms().is_some_and(|expire_ms| expire_ms <= now_ms);
        chunks
            .flat_map(|chunk| &chunk.entries)
            .filter(move |(_, value)| is_expired(value))
            .map(|(user, value)| (user.as_str(), value))
    }

    pub(super) fn insert(&mut self, user: &str, value: T) {
        let chunk_index = self.chunk_index(user);
        let Some(chunk) = self.chunks.get_mut(chunk_index) else {
            self.chunks.push(Chunk::of(user, value));
            self.len = 1;
            return;
        };
        let index = match chunk.find(user) {
            Ok(index) => {
                chunk.replace(index, value);
                return;
            }
            Err(index) => index,
        };
        self.len += 1;
        if chunk.entries.len() < CHUNK_MAX {
            chunk.insert(index, user, value);
        } else if index == CHUNK_MAX {
            // Users that arrive in order fill one chunk after the other.
            self.chunks.insert(chunk_index + 1, Chunk::of(user, value));
        } else {
            let mut upper = chunk.split();
            match index.checked_sub(CHUNK_MAX / 2) {
                None | Some(0) => chunk.insert(index, user, value),
                Some(index) => upper.insert(index, user, value),
            }
            self.chunks.insert(chunk_index + 1, upper);
        }
    }

    /// Removes the user, and returns its value.
    pub(super) fn remove(&mut self, user: &str) -> Option<T> {
        let chunk_index = self.chunk_index(user);
        let chunk = self.chunks.get_mut(chunk_index)?;
        let index = chunk.find(user).ok()?;
        let removed = chunk.remove(index);
        self.len -= 1;
        let remaining = chunk.entries.len();
        if remaining == 0 {
            self.chunks.remove(chunk_index);
        } else if remaining < CHUNK_MAX / 4
            && self
                .chunks
                .get(chunk_index + 1)
                .is_some_and(|next| remaining + next.entries.len() <= CHUNK_MAX * 3 / 4)
        {
            let next = self.chunks.remove(chunk_index + 1);
            self.chunks[chunk_index].append(next);
        }
        Some(removed)
    }

    /// Adds the entries of another map, which has no user of this one.
    pub(super) fn merge(&mut self, mut other: Self) {
        if other.len > self.len {
            std::mem::swap(self, &mut other);
        }
        let entries = other.chunks.into_iter().flat_map(|chunk| chunk.entries);
        entries.for_each(|(user, value)| self.insert(&user, value));
    }

    /// Removes the entries whose value matches, and returns them.
    pub(super) fn extract_if(&mut self, matches: impl Fn(&T) -> bool) -> Self {
        let mut extracted = Self::default();
        let mut kept = Self::default();
        for (user, value) in std::mem::take(self).chunks.into_iter().flat_map(|chunk| chunk.entries)
        {
            let map = if matches(&value) { &mut extracted } else { &mut kept };
            map.insert(&user, value);
        }
        *self = kept;
        extracted
    }

    /// The chunk for the user: the last one whose fence is not greater. 0 in an empty map.
    fn chunk_index(&self, user: &str) -> usize {
        self.chunks.partition_point(|chunk| chunk.fence.as_str() <= user).saturating_sub(1)
    }
}

impl<T: Expires> Chunk<T> {
    fn of(user: &str, value: T) -> Self {
        let next_expire_ms = value.expire_ms().unwrap_or(u64::MAX);
        Self {
            fence: user.into(),
            entries: vec![(user.into(), value)],
            fingerprints: vec![fingerprint(user)],
            next_expire_ms,
        }
    }

    fn get(&self, user: &str) -> Option<&T> {
        let alike =
            memchr_iter(fingerprint(user), &self.fingerprints).map(|index| &self.entries[index]);
        alike.filter(|(other, _)| other == user).map(|(_, value)| value).next()
    }

    /// The index of the user, or the index to insert it at.
    fn find(&self, user: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| other.as_str().cmp(user))
    }

    fn insert(&mut self, index: usize, user: &str, value: T) {
        if index == 0 {
            self.fence = user.into();
        }
        // A Vec on its own would double its capacity.
        if self.entries.len() == self.entries.capacity() {
            let additional = self.entries.len().min(GROWTH);
            self.entries.reserve_exact(additional);
            self.fingerprints.reserve_exact(additional);
        }
        self.next_expire_ms = self.next_expire_ms.min(value.expire_ms().unwrap_or(u64::MAX));
        self.entries.insert(index, (user.into(), value));
        self.fingerprints.insert(index, fingerprint(user));
    }

    fn replace(&mut self, index: usize, value: T) {
        let old = std::mem::replace(&mut self.entries[index].1, value);
        self.forget_expiry(&old);
        self.next_expire_ms =
            self.next_expire_ms.min(self.entries[index].1.expire_ms().unwrap_or(u64::MAX));
    }

    /// Updates the earliest expiry if this value, which was removed, may have been the earliest.
    fn forget_expiry(&mut self, removed: &T) {
        if removed.expire_ms() == Some(self.next_expire_ms) {
            self.find_next_expiry();
        }
    }

    fn find_next_expiry(&mut self) {
        self.next_expire_ms = self
            .entries
            .iter()
            .filter_map(|(_, value)| value.expire_ms())
            .min()
            .unwrap_or(u64::MAX);
    }

    fn remove(&mut self, index: usize) -> T {
        let (_, removed) = self.entries.remove(index);
        self.fingerprints.remove(index);
        self.forget_expiry(&removed);
        let remaining = self.entries.len();
        if self.entries.capacity() > remaining + 2 * GROWTH {
            self.shrink_to(remaining + GROWTH);
        }
        removed
    }

    /// Removes the upper half, and returns it.
    fn split(&mut self) -> Self {
        let entries = self.entries.split_off(CHUNK_MAX / 2);
        let fingerprints = self.fingerprints.split_off(CHUNK_MAX / 2);
        self.shrink_to(CHUNK_MAX / 2 + GROWTH);
        let mut upper =
            Self { fence: entries[0].0.clone(), entries, fingerprints, next_expire_ms: u64::MAX };
        upper.find_next_expiry();
        self.find_next_expiry();
        upper
    }

    fn append(&mut self, mut next: Self) {
        self.entries.append(&mut next.entries);
        self.fingerprints.append(&mut next.fingerprints);
        self.next_expire_ms = self.next_expire_ms.min(next.next_expire_ms);
    }

    fn shrink_to(&mut self, capacity: usize) {
        self.entries.shrink_to(capacity);
        self.fingerprints.shrink_to(capacity);
    }
}

/// One byte of hash: two different users share it in one of 256 cases.
fn fingerprint(user: &str) -> u8 {
    user.bytes().fold(0, |fingerprint: u8, byte| fingerprint.wrapping_mul(31).wrapping_add(byte))
}

impl<T> Default for UserMap<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: PartialEq + Expires> PartialEq for UserMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Eq + Expires> Eq for UserMap<T> {}

impl<T: fmt::Debug + Expires> fmt::Debug for UserMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, T: Expires> FromIterator<(&'a str, T)> for UserMap<T> {
    fn from_iter<I: IntoIterator<Item = (&'a str, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(user, value)| map.insert(user, value));
        map
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        ops::Bound::{Excluded, Unbounded},
    };

    use proptest::{collection::vec, prelude::*};

    use super::*;

    impl Expires for usize {
        fn expire_ms(&self) -> Option<u64> {
            (!self.is_multiple_of(3)).then_some(*self as u64)
        }
    }

    fn users() -> impl Strategy<Value = Vec<(bool, u16)>> {
        let few = (any::<bool>(), 0..40_u16);
        let many = (prop::bool::weighted(0.7), 0..2_000_u16);
        prop_oneof![vec(few, 0..300), vec(many, 0..3_000)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_user_map_equals_a_btreemap(steps in users(), ordered in any::<bool>()) {
            let mut map = UserMap::default();
            let mut model = BTreeMap::new();
            for (step, (insert, number)) in steps.into_iter().enumerate() {
                let number = if ordered && insert { step } else { number.into() };
                let user = format!("a user with number {number:05}");
                if insert {
                    map.insert(&user, step);
                    model.insert(user, step);
                } else {
                    map.remove(&user);
                    model.remove(&user);
                }
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert!(map.iter().eq(model.iter().map(|(user, value)| (user.as_str(), value))));
            for chunk in &map.chunks {
                prop_assert!((1..=CHUNK_MAX).contains(&chunk.entries.len()));
                prop_assert!(chunk.fence <= chunk.entries[0].0);
                let fingerprints = chunk.entries.iter().map(|(user, _)| fingerprint(user));
                prop_assert!(fingerprints.eq(chunk.fingerprints.iter().copied()));
            }
            let next_expire_ms = model.values().filter_map(Expires::expire_ms).min();
            prop_assert_eq!(map.next_expire_ms(), next_expire_ms);
            for now_ms in [0, 100, 1_000] {
                let is_expired = |value: &usize| value.expire_ms().is_some_and(|ms| ms <= now_ms);
                let expired = model
                    .iter()
                    .filter(|(_, value)| is_expired(value))
                    .map(|(user, value)| (user.as_str(), value));
                prop_assert!(map.expired(now_ms).eq(expired));
            }
            for number in (0..2_000).step_by(7) {
                let user = format!("a user with number {number:05}");
                prop_assert_eq!(map.get(&user), model.get(&user));
                let next = model
                    .range::<str, _>((Excluded(user.as_str()), Unbounded))
                    .next()
                    .map(|(user, value)| (user.as_str(), value));
                prop_assert_eq!(map.after(Some(&user)).next(), next);
            }
        }
    }
}
