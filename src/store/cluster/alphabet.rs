//! Keys as numbers: the digits of a place are the bytes that keys use there.
//!
//! Nothing rests on them but how many questions a scan asks.

use std::ops::Range;

/// Of a page, about so many keys are looked at.
const SAMPLE: usize = 64;
/// Bytes that come together: where one of them is used, the others are likely to be.
const KINDS: [Range<u8>; 3] = [b'0'..b'9' + 1, b'A'..b'Z' + 1, b'a'..b'z' + 1];
const ALL: [u8; 256] = {
    let mut all = [0; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = byte as u8;
        byte += 1;
    }
    all
};

/// What is known of each place: the bytes, in order. All, where nothing is known.
#[derive(Default)]
pub(super) struct Alphabets(Vec<Vec<u8>>);

impl Alphabets {
    pub(super) fn learn<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]>) {
        let step = keys.len().div_ceil(SAMPLE).max(1);
        for key in keys.step_by(step) {
            self.0.resize_with(self.0.len().max(key.len()), Vec::new);
            for (known, byte) in self.0.iter_mut().zip(key) {
                if let Err(at) = known.binary_search(byte) {
                    match KINDS.into_iter().find(|kind| kind.contains(byte)) {
                        Some(kind) => drop(known.splice(at..at, kind)),
                        None => known.insert(at, *byte),
                    }
                }
            }
        }
    }

    fn at(&self, place: usize) -> &[u8] {
        self.0.get(place).filter(|known| !known.is_empty()).map_or(&ALL, |known| known)
    }

    /// How many digits a place has.
    pub(super) fn digits(&self, place: usize) -> u64 {
        self.at(place).len() as u64
    }

    /// The least digit that is not below the byte; that of a key which ends before the place is the
    /// first. Nothing where the byte is above all.
    fn digit(&self, key: &[u8], place: usize) -> Option<usize> {
        let byte = key.get(place).copied().unwrap_or(0);
        let digit = self.at(place).partition_point(|known| *known < byte);
        (digit < self.at(place).len()).then_some(digit)
    }

    /// The first `depth` places of the key, and as much more as a number: it is above the key,
    /// whatever bytes that has. Nothing where there is no such number.
    pub(super) fn above(&self, key: &[u8], depth: usize, more: u64) -> Option<Vec<u8>> {
        let (mut number, mut one_more) = (Vec::with_capacity(depth), None);
        for place in 0..depth {
            let Some(digit) = self.digit(key, place) else {
                // It has a byte here that is above all.
                one_more = Some(place.checked_sub(1)?);
                break;
            };
            number.push(digit);
            // What follows a digit that is above the byte counts no more.
            if key.get(place).is_none_or(|byte| self.at(place)[digit] != *byte) {
                break;
            }
        }
        number.resize(depth, 0);
        let mut carry = more;
        for place in (0..depth).rev() {
            carry += number[place] as u64 + u64::from(one_more == Some(place));
            number[place] = (carry % self.digits(place)) as usize;
            carry /= self.digits(place);
        }
        let above =
            || number.iter().enumerate().map(|(place, digit)| self.at(place)[*digit]).collect();
        (carry == 0 && depth > 0).then(above)
    }

    /// How far it is from one key to a later one in these places, which are few.
    pub(super) fn distance(&self, first: &[u8], last: &[u8], places: Range<usize>) -> u64 {
        let number = |key: &[u8]| {
            let digit =
                |place| self.digit(key, place).map_or(self.digits(place), |digit| digit as u64);
            places.clone().fold(0, |number, place| number * self.digits(place) + digit(place))
        };
        number(last).saturating_sub(number(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alphabets(keys: &[&[u8]]) -> Alphabets {
        let mut alphabets = Alphabets::default();
        alphabets.learn(keys.iter().copied());
        alphabets
    }

    #[test]
    fn where_nothing_is_known_all_bytes_are_digits() {
        let none = alphabets(&[]);
        assert_eq!(none.above(b"ab", 2, 1).as_deref(), Some(&b"ac"[..]));
        assert_eq!(none.above(b"abc", 2, 2).as_deref(), Some(&b"ad"[..]));
        assert_eq!(none.above(b"a", 3, 1).as_deref(), Some(&b"a\0\x01"[..]));
        assert_eq!(none.above(b"a\xff", 2, 1).as_deref(), Some(&b"b\0"[..]));
        assert_eq!((none.above(b"\xff", 1, 1), none.above(b"a", 0, 1)), (None, None));
        assert_eq!(none.distance(b"a", b"b\x01", 0..2), 257);
    }

    #[test]
    fn after_nine_comes_ten() {
        let rooms = alphabets(&[b"r08\0", b"r17\0"]);
        let above = |key: &[u8], depth, more| {
            rooms.above(key, depth, more).map(|key| String::from_utf8(key).unwrap())
        };
        assert_eq!(above(b"r08\0mu", 3, 1).as_deref(), Some("r09"));
        assert_eq!(above(b"r09\0mu", 3, 1).as_deref(), Some("r10"));
        assert_eq!(above(b"r99", 3, 1).as_deref(), Some("s00"));
        // What is between digits is the next one, what is above them the first of the next place.
        assert_eq!(above(b"r0:", 3, 1).as_deref(), Some("r11"));
        assert_eq!(above(b"r:5", 3, 1).as_deref(), Some("s01"));
        assert_eq!(above(b"r0 ", 3, 1).as_deref(), Some("r01"));
        assert_eq!((above(b"z99", 3, 1), above(b"{", 3, 1)), (None, None));
        assert_eq!(rooms.distance(b"r08", b"r17\0", 1..4), 9);
    }

    #[test]
    fn it_is_above_the_key_whatever_bytes_that_has() {
        let some = alphabets(&[b"a0\xf0", b"mz\0", b"\xe0\x80"]);
        let bytes = [0, 1, b'/', b'0', b'9', b':', b'a', b'm', b'z', b'{', 0x80, 0xe0, 0xf0, 0xff];
        for a in bytes {
            for b in bytes {
                for key in [&[a][..], &[a, b], &[a, b, b, 0], &[b, 0xff, a]] {
                    for (depth, more) in [(1, 1), (2, 3), (3, 1), (4, 200)] {
                        let above = some.above(key, depth, more);
                        assert!(
                            above.as_deref().is_none_or(|above| above > key),
                            "{key:?} {depth} {more}: {above:?}"
                        );
                    }
                }
            }
        }
    }
}
