//! A map from users to what is known of them, in the order of users, and lean: sorted chunks, with ids of up to 15 bytes inline.
//!
//! A member mute takes about 52 bytes in it; in a `BTreeMap<Box<str>, _>` it took 122, and a lookup missed the cache with every comparison.

use std::fmt;

use ecow::EcoString;

/// Entries in a chunk. A change moves at most one chunk, and a lookup halves its way through the chunks and then through one.
const FULL: usize = 64;
/// Places that a growing chunk gets at once.
const SPARE: usize = 8;

type Entry<T> = (EcoString, T);

/// Users that follow each other.
struct Chunk<T> {
    /// Not after any of them, and after all of the chunk before. Beside the chunk, so that the right one is found without a look into any.
    fence: EcoString,
    entries: Vec<Entry<T>>,
}

/// Users in order, each with a value.
pub struct Sorted<T> {
    /// None of them is empty, and each ends before the next begins.
    chunks: Vec<Chunk<T>>,
    len: usize,
}

impl<T> Sorted<T> {
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
        let entries = &self.chunks.get(self.chunk_of(user))?.entries;
        let at = find(entries, user).ok()?;
        Some(&entries[at].1)
    }

    /// All users, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.after(None)
    }

    /// The users after this one, in order.
    pub fn after(&self, user: Option<&str>) -> impl Iterator<Item = (&str, &T)> {
        let (number, at) = user.map_or((0, 0), |user| {
            let number = self.chunk_of(user);
            let before = |chunk: &Chunk<T>| chunk.entries.partition_point(|(other, _)| other.as_str() <= user);
            (number, self.chunks.get(number).map_or(0, before))
        });
        self.chunks.iter().skip(number).flat_map(|chunk| &chunk.entries).skip(at).map(|(user, value)| (user.as_str(), value))
    }

    pub(super) fn insert(&mut self, user: &str, value: T) {
        let number = self.chunk_of(user);
        let Some(Chunk { fence, entries }) = self.chunks.get_mut(number) else {
            self.chunks.push(Chunk::of(user, value));
            self.len = 1;
            return;
        };
        let at = match find(entries, user) {
            Ok(at) => {
                entries[at].1 = value;
                return;
            }
            Err(at) => at,
        };
        self.len += 1;
        if at == 0 {
            *fence = user.into();
        }
        if entries.len() < FULL {
            insert_into(entries, at, user, value);
        } else if at == FULL {
            // Users that come in order fill one chunk after the other.
            self.chunks.insert(number + 1, Chunk::of(user, value));
        } else {
            let mut upper = entries.split_off(FULL / 2);
            entries.shrink_to(FULL / 2 + SPARE);
            let fence = upper[0].0.clone();
            match at.checked_sub(entries.len()) {
                None | Some(0) => insert_into(entries, at, user, value),
                Some(at) => insert_into(&mut upper, at, user, value),
            }
            self.chunks.insert(number + 1, Chunk { fence, entries: upper });
        }
    }

    pub(super) fn remove(&mut self, user: &str) {
        let number = self.chunk_of(user);
        let Some(Chunk { entries, .. }) = self.chunks.get_mut(number) else { return };
        let Ok(at) = find(entries, user) else { return };
        entries.remove(at);
        self.len -= 1;
        let left = entries.len();
        if entries.capacity() > left + 2 * SPARE {
            entries.shrink_to(left + SPARE);
        }
        if left == 0 {
            self.chunks.remove(number);
        } else if left < FULL / 4 && self.chunks.get(number + 1).is_some_and(|next| left + next.entries.len() <= FULL * 3 / 4) {
            let next = self.chunks.remove(number + 1);
            self.chunks[number].entries.extend(next.entries);
        }
    }

    /// Where the user is, or would be: in the last chunk that does not begin after it.
    fn chunk_of(&self, user: &str) -> usize {
        self.chunks.partition_point(|chunk| chunk.fence.as_str() <= user).saturating_sub(1)
    }
}

impl<T> Chunk<T> {
    fn of(user: &str, value: T) -> Self {
        Self { fence: user.into(), entries: vec![(user.into(), value)] }
    }
}

fn find<T>(entries: &[Entry<T>], user: &str) -> Result<usize, usize> {
    entries.binary_search_by(|(other, _)| other.as_str().cmp(user))
}

/// Vec alone would double.
fn insert_into<T>(chunk: &mut Vec<Entry<T>>, at: usize, user: &str, value: T) {
    if chunk.len() == chunk.capacity() {
        chunk.reserve_exact(chunk.len().min(SPARE));
    }
    chunk.insert(at, (user.into(), value));
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: PartialEq> PartialEq for Sorted<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Eq> Eq for Sorted<T> {}

impl<T: fmt::Debug> fmt::Debug for Sorted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, T> FromIterator<(&'a str, T)> for Sorted<T> {
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

    fn users() -> impl Strategy<Value = Vec<(bool, u16)>> {
        let few = (any::<bool>(), 0..40_u16);
        let many = (prop::bool::weighted(0.7), 0..2_000_u16);
        prop_oneof![vec(few, 0..300), vec(many, 0..3_000)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_says_the_same_as_a_btreemap(steps in users(), ordered in any::<bool>()) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeMap::new());
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
            for number in (0..2_000).step_by(7) {
                let user = format!("a user with number {number:05}");
                prop_assert_eq!(sorted.get(&user), model.get(&user));
                let after = model.range::<str, _>((Excluded(user.as_str()), Unbounded)).next();
                prop_assert_eq!(sorted.after(Some(&user)).next(), after.map(|(user, value)| (user.as_str(), value)));
            }
        }
    }
}
