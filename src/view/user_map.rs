//! A map from users to what is known of them, in the order of users, and lean: sorted chunks, with
//! ids of up to 15 bytes inline.
//!
//! Each chunk knows when the first of its values ends, so that whoever looks for what has ended
//! does not look at the others.
//!
//! A member mute takes about 52 bytes in it; in a `BTreeMap<Box<str>, _>` it took 122, and a lookup
//! missed the cache with every comparison. Here it looks through the prints of a chunk, one byte
//! for each user, and at the users that have the same: at none, mostly, where the user is not in
//! it.

use std::fmt;

use ecow::EcoString;
use memchr::memchr_iter;

/// Entries in a chunk. A change moves at most one chunk, and a lookup halves its way through the
/// chunks and then through one.
const FULL: usize = 64;
/// Places that a growing chunk gets at once.
const SPARE: usize = 8;

type Entry<T> = (EcoString, T);

/// A value that may end.
pub trait Ends {
    /// When, in Unix milliseconds; nothing where it never does.
    fn end_ms(&self) -> Option<u64>;
}

/// Users that follow each other.
struct Chunk<T> {
    /// Not after any of them, and after all of the chunk before. Beside the chunk, so that the
    /// right one is found without a look into any.
    fence: EcoString,
    entries: Vec<Entry<T>>,
    /// Of each entry, in the same order.
    fingerprints: Vec<u8>,
    /// When the first of them ends, in Unix milliseconds.
    next_end_ms: u64,
}

/// Users in order, each with a value.
pub struct UserMap<T> {
    /// None of them is empty, and each ends before the next begins.
    chunks: Vec<Chunk<T>>,
    len: usize,
}

impl<T: Ends> UserMap<T> {
    /// How many users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is known of the user.
    #[must_use]
    pub fn get(&self, user: &str) -> Option<&T> {
        self.chunks.get(self.chunk_of(user))?.get(user)
    }

    /// All users, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.after(None)
    }

    /// The users after this one, in order.
    pub fn after(&self, user: Option<&str>) -> impl Iterator<Item = (&str, &T)> {
        let (number, at) = user.map_or((0, 0), |user| {
            let number = self.chunk_of(user);
            let before = |chunk: &Chunk<T>| {
                chunk.entries.partition_point(|(other, _)| other.as_str() <= user)
            };
            (number, self.chunks.get(number).map_or(0, before))
        });
        self.chunks
            .iter()
            .skip(number)
            .flat_map(|chunk| &chunk.entries)
            .skip(at)
            .map(|(user, value)| (user.as_str(), value))
    }

    /// When the first of the values ends, in Unix milliseconds.
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.chunks.iter().map(|chunk| chunk.next_end_ms).min().filter(|end_ms| *end_ms < u64::MAX)
    }

    /// Users whose value has ended, in order.
    pub(super) fn ended(&self, now_ms: u64) -> impl Iterator<Item = (&str, &T)> {
        let chunks = self.chunks.iter().filter(move |chunk| chunk.next_end_ms <= now_ms);
        let has_ended = move |value: &T| value.end_ms().is_some_and(|end_ms| end_ms <= now_ms);
        chunks
            .flat_map(|chunk| &chunk.entries)
            .filter(move |(_, value)| has_ended(value))
            .map(|(user, value)| (user.as_str(), value))
    }

    pub(super) fn insert(&mut self, user: &str, value: T) {
        let number = self.chunk_of(user);
        let Some(chunk) = self.chunks.get_mut(number) else {
            self.chunks.push(Chunk::of(user, value));
            self.len = 1;
            return;
        };
        let at = match chunk.find(user) {
            Ok(at) => {
                chunk.replace(at, value);
                return;
            }
            Err(at) => at,
        };
        self.len += 1;
        if chunk.entries.len() < FULL {
            chunk.insert(at, user, value);
        } else if at == FULL {
            // Users that come in order fill one chunk after the other.
            self.chunks.insert(number + 1, Chunk::of(user, value));
        } else {
            let mut upper = chunk.split();
            match at.checked_sub(FULL / 2) {
                None | Some(0) => chunk.insert(at, user, value),
                Some(at) => upper.insert(at, user, value),
            }
            self.chunks.insert(number + 1, upper);
        }
    }

    /// Answers what was known of the user.
    pub(super) fn remove(&mut self, user: &str) -> Option<T> {
        let number = self.chunk_of(user);
        let chunk = self.chunks.get_mut(number)?;
        let at = chunk.find(user).ok()?;
        let gone = chunk.remove(at);
        self.len -= 1;
        let left = chunk.entries.len();
        if left == 0 {
            self.chunks.remove(number);
        } else if left < FULL / 4
            && self
                .chunks
                .get(number + 1)
                .is_some_and(|next| left + next.entries.len() <= FULL * 3 / 4)
        {
            let next = self.chunks.remove(number + 1);
            self.chunks[number].append(next);
        }
        Some(gone)
    }

    /// Takes in all of the other, whose users are none of these.
    pub(super) fn absorb(&mut self, mut other: Self) {
        if other.len > self.len {
            std::mem::swap(self, &mut other);
        }
        let entries = other.chunks.into_iter().flat_map(|chunk| chunk.entries);
        entries.for_each(|(user, value)| self.insert(&user, value));
    }

    /// Parts with those of which this holds.
    pub(super) fn take_if(&mut self, holds: impl Fn(&T) -> bool) -> Self {
        let mut taken = Self::default();
        let mut kept = Self::default();
        for (user, value) in std::mem::take(self).chunks.into_iter().flat_map(|chunk| chunk.entries)
        {
            let to = if holds(&value) { &mut taken } else { &mut kept };
            to.insert(&user, value);
        }
        *self = kept;
        taken
    }

    /// Where the user is, or would be: in the last chunk that does not begin after it.
    fn chunk_of(&self, user: &str) -> usize {
        self.chunks.partition_point(|chunk| chunk.fence.as_str() <= user).saturating_sub(1)
    }
}

impl<T: Ends> Chunk<T> {
    fn of(user: &str, value: T) -> Self {
        let next_end_ms = value.end_ms().unwrap_or(u64::MAX);
        Self {
            fence: user.into(),
            entries: vec![(user.into(), value)],
            fingerprints: vec![print(user)],
            next_end_ms,
        }
    }

    fn get(&self, user: &str) -> Option<&T> {
        let alike = memchr_iter(print(user), &self.fingerprints).map(|at| &self.entries[at]);
        alike.filter(|(other, _)| other == user).map(|(_, value)| value).next()
    }

    /// Where the user is, or is to be inserted.
    fn find(&self, user: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| other.as_str().cmp(user))
    }

    fn insert(&mut self, at: usize, user: &str, value: T) {
        if at == 0 {
            self.fence = user.into();
        }
        // Vec alone would double.
        if self.entries.len() == self.entries.capacity() {
            let more = self.entries.len().min(SPARE);
            self.entries.reserve_exact(more);
            self.fingerprints.reserve_exact(more);
        }
        self.next_end_ms = self.next_end_ms.min(value.end_ms().unwrap_or(u64::MAX));
        self.entries.insert(at, (user.into(), value));
        self.fingerprints.insert(at, print(user));
    }

    fn replace(&mut self, at: usize, value: T) {
        let old = std::mem::replace(&mut self.entries[at].1, value);
        self.without(&old);
        self.next_end_ms = self.next_end_ms.min(self.entries[at].1.end_ms().unwrap_or(u64::MAX));
    }

    /// Looks anew for the first end where this value, which has gone, may have been it.
    fn without(&mut self, gone: &T) {
        if gone.end_ms() == Some(self.next_end_ms) {
            self.find_next_end();
        }
    }

    fn find_next_end(&mut self) {
        self.next_end_ms =
            self.entries.iter().filter_map(|(_, value)| value.end_ms()).min().unwrap_or(u64::MAX);
    }

    fn remove(&mut self, at: usize) -> T {
        let (_, gone) = self.entries.remove(at);
        self.fingerprints.remove(at);
        self.without(&gone);
        let left = self.entries.len();
        if self.entries.capacity() > left + 2 * SPARE {
            self.shrink_to(left + SPARE);
        }
        gone
    }

    /// Parts with its upper half.
    fn split(&mut self) -> Self {
        let (entries, fingerprints) =
            (self.entries.split_off(FULL / 2), self.fingerprints.split_off(FULL / 2));
        self.shrink_to(FULL / 2 + SPARE);
        let mut upper =
            Self { fence: entries[0].0.clone(), entries, fingerprints, next_end_ms: u64::MAX };
        upper.find_next_end();
        self.find_next_end();
        upper
    }

    fn append(&mut self, mut next: Self) {
        self.entries.append(&mut next.entries);
        self.fingerprints.append(&mut next.fingerprints);
        self.next_end_ms = self.next_end_ms.min(next.next_end_ms);
    }

    fn shrink_to(&mut self, places: usize) {
        self.entries.shrink_to(places);
        self.fingerprints.shrink_to(places);
    }
}

/// One byte that is the same for the same users, and for one in 256 of others.
fn print(user: &str) -> u8 {
    user.bytes().fold(0, |print: u8, byte| print.wrapping_mul(31).wrapping_add(byte))
}

impl<T> Default for UserMap<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: PartialEq + Ends> PartialEq for UserMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Eq + Ends> Eq for UserMap<T> {}

impl<T: fmt::Debug + Ends> fmt::Debug for UserMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, T: Ends> FromIterator<(&'a str, T)> for UserMap<T> {
    fn from_iter<I: IntoIterator<Item = (&'a str, T)>>(entries: I) -> Self {
        let mut sorted = Self::default();
        entries.into_iter().for_each(|(user, value)| sorted.insert(user, value));
        sorted
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

    impl Ends for usize {
        fn end_ms(&self) -> Option<u64> {
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
        fn it_says_the_same_as_a_btreemap(steps in users(), ordered in any::<bool>()) {
            let (mut sorted, mut model) = (UserMap::default(), BTreeMap::new());
            for (step, (insert, number)) in steps.into_iter().enumerate() {
                let user = format!("a user with number {:05}", if ordered && insert { step } else { number.into() });
                if insert {
                    sorted.insert(&user, step);
                    model.insert(user, step);
                } else {
                    sorted.remove(&user);
                    model.remove(&user);
                }
            }
            prop_assert_eq!(sorted.len(), model.len());
            prop_assert!(sorted.iter().eq(model.iter().map(|(user, value)| (user.as_str(), value))));
            prop_assert!(sorted.chunks.iter().all(|chunk| !chunk.entries.is_empty() && chunk.entries.len() <= FULL));
            prop_assert!(sorted.chunks.iter().all(|chunk| chunk.fence <= chunk.entries[0].0));
            let printed = |chunk: &Chunk<_>| chunk.entries.iter().map(|(user, _)| print(user)).eq(chunk.fingerprints.iter().copied());
            prop_assert!(sorted.chunks.iter().all(printed));
            prop_assert_eq!(sorted.next_end_ms(), model.values().filter_map(Ends::end_ms).min());
            for now_ms in [0, 100, 1_000] {
                let ended = model.iter().filter(|(_, value)| value.end_ms().is_some_and(|end_ms| end_ms <= now_ms));
                prop_assert!(sorted.ended(now_ms).eq(ended.map(|(user, value)| (user.as_str(), value))));
            }
            for number in (0..2_000).step_by(7) {
                let user = format!("a user with number {number:05}");
                prop_assert_eq!(sorted.get(&user), model.get(&user));
                let after = model.range::<str, _>((Excluded(user.as_str()), Unbounded)).next();
                prop_assert_eq!(sorted.after(Some(&user)).next(), after.map(|(user, value)| (user.as_str(), value)));
            }
        }
    }
}
