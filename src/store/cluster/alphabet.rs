//! Keys as numbers. At each position of a key, the digits are the bytes that keys use there.
//!
//! They affect only how many requests a scan makes, never which keys it reads.

use std::ops::Range;

/// About how many keys of a page are examined.
const SAMPLE_KEYS: usize = 64;
/// Bytes that occur together: where a key uses one of a class, others likely use the rest of it.
const BYTE_CLASSES: [Range<u8>; 3] = [b'0'..b'9' + 1, b'A'..b'Z' + 1, b'a'..b'z' + 1];
const ALL_BYTES: [u8; 256] = {
    let mut all = [0; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = byte as u8;
        byte += 1;
    }
    all
};

/// For each position, the bytes that keys use there, in order. All bytes if none is known.
#[derive(Default)]
pub(super) struct Alphabets(Vec<Vec<u8>>);

impl Alphabets {
    /// Adds the bytes of a sample of these keys.
    pub(super) fn learn<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]>) {
        let step = keys.len().div_ceil(SAMPLE_KEYS).max(1);
        for key in keys.step_by(step) {
            self.0.resize_with(self.0.len().max(key.len()), Vec::new);
            for (alphabet, byte) in self.0.iter_mut().zip(key) {
                if let Err(at) = alphabet.binary_search(byte) {
                    match BYTE_CLASSES.into_iter().find(|class| class.contains(byte)) {
                        Some(class) => drop(alphabet.splice(at..at, class)),
                        None => alphabet.insert(at, *byte),
                    }
                }
            }
        }
    }

    fn at(&self, position: usize) -> &[u8] {
        let alphabet = self.0.get(position).filter(|alphabet| !alphabet.is_empty());
        alphabet.map_or(&ALL_BYTES, |alphabet| alphabet)
    }

    /// The number of digits at a position.
    pub(super) fn radix(&self, position: usize) -> u64 {
        self.at(position).len() as u64
    }

    /// The least digit whose byte is not below the key's byte. A key that ends before the position
    /// has digit 0 there. `None` if the key's byte is above all digits.
    fn digit(&self, key: &[u8], position: usize) -> Option<usize> {
        let byte = key.get(position).copied().unwrap_or(0);
        let digit = self.at(position).partition_point(|used| *used < byte);
        (digit < self.at(position).len()).then_some(digit)
    }

    /// Takes the first `depth` positions of the key as a number and adds `step`, at least 1. The
    /// result sorts above the key, whatever bytes the key has. `None` if the number overflows.
    pub(super) fn above(&self, key: &[u8], depth: usize, step: u64) -> Option<Vec<u8>> {
        let mut number = Vec::with_capacity(depth);
        let mut carry_position = None;
        for position in 0..depth {
            let Some(digit) = self.digit(key, position) else {
                // The byte is above all digits, so the position before it counts one more.
                carry_position = Some(position.checked_sub(1)?);
                break;
            };
            number.push(digit);
            // Once a digit is above the key's byte, the rest of the key no longer matters.
            if key.get(position).is_none_or(|byte| self.at(position)[digit] != *byte) {
                break;
            }
        }
        number.resize(depth, 0);
        let mut carry = step;
        for position in (0..depth).rev() {
            carry += number[position] as u64 + u64::from(carry_position == Some(position));
            number[position] = (carry % self.radix(position)) as usize;
            carry /= self.radix(position);
        }
        if carry > 0 || depth == 0 {
            return None;
        }
        let bytes = number.into_iter().enumerate();
        Some(bytes.map(|(position, digit)| self.at(position)[digit]).collect())
    }

    /// The distance from one key to a later one, as numbers of these positions. Pass few positions:
    /// the numbers must fit into 64 bits.
    pub(super) fn distance(&self, first: &[u8], last: &[u8], positions: Range<usize>) -> u64 {
        let first = self.number(first, positions.clone());
        self.number(last, positions).saturating_sub(first)
    }

    fn number(&self, key: &[u8], positions: Range<usize>) -> u64 {
        positions.fold(0, |number, position| {
            let radix = self.radix(position);
            number * radix + self.digit(key, position).map_or(radix, |digit| digit as u64)
        })
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
    fn without_any_key_all_bytes_are_digits() {
        let none = alphabets(&[]);
        assert_eq!(none.above(b"ab", 2, 1).as_deref(), Some(&b"ac"[..]));
        assert_eq!(none.above(b"abc", 2, 2).as_deref(), Some(&b"ad"[..]));
        assert_eq!(none.above(b"a", 3, 1).as_deref(), Some(&b"a\0\x01"[..]));
        assert_eq!(none.above(b"a\xff", 2, 1).as_deref(), Some(&b"b\0"[..]));
        assert_eq!((none.above(b"\xff", 1, 1), none.above(b"a", 0, 1)), (None, None));
        assert_eq!(none.distance(b"a", b"b\x01", 0..2), 257);
    }

    #[test]
    fn ten_follows_nine() {
        let rooms = alphabets(&[b"r08\0", b"r17\0"]);
        let above = |key: &[u8], depth, step| {
            rooms.above(key, depth, step).map(|key| String::from_utf8(key).unwrap())
        };
        assert_eq!(above(b"r08\0mu", 3, 1).as_deref(), Some("r09"));
        assert_eq!(above(b"r09\0mu", 3, 1).as_deref(), Some("r10"));
        assert_eq!(above(b"r99", 3, 1).as_deref(), Some("s00"));
        // A byte between two digits counts as the upper one; a byte above all digits carries.
        assert_eq!(above(b"r0:", 3, 1).as_deref(), Some("r11"));
        assert_eq!(above(b"r:5", 3, 1).as_deref(), Some("s01"));
        assert_eq!(above(b"r0 ", 3, 1).as_deref(), Some("r01"));
        assert_eq!((above(b"z99", 3, 1), above(b"{", 3, 1)), (None, None));
        assert_eq!(rooms.distance(b"r08", b"r17\0", 1..4), 9);
    }

    #[test]
    fn the_result_sorts_above_the_key_whatever_its_bytes() {
        let mixed = alphabets(&[b"a0\xf0", b"mz\0", b"\xe0\x80"]);
        let bytes = [0, 1, b'/', b'0', b'9', b':', b'a', b'm', b'z', b'{', 0x80, 0xe0, 0xf0, 0xff];
        for a in bytes {
            for b in bytes {
                for key in [&[a][..], &[a, b], &[a, b, b, 0], &[b, 0xff, a]] {
                    for (depth, step) in [(1, 1), (2, 3), (3, 1), (4, 200)] {
                        let above = mixed.above(key, depth, step);
                        assert!(
                            above.as_deref().is_none_or(|above| above > key),
                            "{key:?} {depth} {step}: {above:?}"
                        );
                    }
                }
            }
        }
    }
}
