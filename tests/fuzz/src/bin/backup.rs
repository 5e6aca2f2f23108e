//! Backups: frames of records.
//!
//! An input is a backup, as in `tests/golden/transfer`. It is read as it is, and then with
//! corrected checksums, number of records and end, as far as it has frames.
//!
//! A backup that is read to its end has its records in the order of keys, exactly as many as the
//! frames before the end have. Written again, these records are a backup that reads the same. A
//! changed, missing or additional byte in it is detected.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use libfuzzer_sys::fuzz_target;
use mute_service::{
    store::{
        Entry,
        backup::{BackupError, Header, Reader, Writer},
    },
    transfer::content::Content,
};
use mute_service_fuzz::frame;
use prost::Message;
use sha2::{Digest as _, Sha256};

const FIRST_LINE: &[u8] = b"mute-service backup 1\n";
const HEAD_BYTES: usize = 5;

/// The message of the last frame.
#[derive(Message)]
struct End {
    #[prost(uint64, tag = "1")]
    records: u64,
    #[prost(bytes = "vec", tag = "2")]
    sha256: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let mut entries = Vec::new();
    if let Ok(header) = read(input, &mut entries) {
        check(&header, entries, input);
    }
    let Some(mut backup) = repaired(input) else { return };
    let mut before = Vec::new();
    let mut entries = Vec::new();
    assert!(read(&backup, &mut before).is_err(), "the end is missing");
    let number = frames(&backup[FIRST_LINE.len()..]).count() as u64;
    let sha256 = Sha256::digest(&backup).to_vec();
    backup.extend(backup_frame(
        b'e',
        number,
        &End { records: before.len() as u64, sha256 }.encode_to_vec(),
    ));
    match read(&backup, &mut entries) {
        Ok(header) => {
            assert_eq!(entries, before);
            check(&header, entries, input);
        }
        // A frame before the end is damaged.
        Err(error) => assert!(matches!(error, BackupError::Damaged { .. }), "{error}"),
    }
});

/// Reads a backup and returns its header. Its records, up to a fault, go into `entries`.
fn read(backup: &[u8], entries: &mut Vec<Entry>) -> Result<Header, BackupError> {
    let (mut reader, header) = Reader::begin(backup)?;
    while let Some(page) = reader.records()? {
        entries.extend(page);
    }
    Ok(header)
}

/// Tag and message of everything that looks like a frame; the last one may be truncated.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[tag, a, b, c, d], rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (framed, rest) =
            rest.split_at(rest.len().min(u32::from_le_bytes([a, b, c, d]) as usize));
        bytes = rest;
        Some((tag, framed.get(HEAD_BYTES..).unwrap_or_default()))
    })
}

fn backup_frame(tag: u8, number: u64, message: &[u8]) -> Vec<u8> {
    let framed = frame(&[b"backup", &[tag][..], &number.to_be_bytes()].concat(), message);
    [&[tag], &(framed.len() as u32).to_le_bytes()[..], &framed].concat()
}

/// The same frames up to the end, with correct lengths and checksums. `None` where there are no
/// frames.
fn repaired(input: &[u8]) -> Option<Vec<u8>> {
    let frames = frames(input.get(FIRST_LINE.len()..)?).take_while(|(tag, _)| *tag != b'e');
    let frames = frames.zip(0..).map(|((tag, message), number)| backup_frame(tag, number, message));
    Some([FIRST_LINE.to_vec()].into_iter().chain(frames).flatten().collect())
}

fn check(header: &Header, entries: Vec<Entry>, seed: &[u8]) {
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    // Only a restore checks whether the entries are valid records.
    let mut content = Content::default();
    let _ = entries.iter().try_for_each(|entry| content.add(entry, None).map(drop));
    let (mut writer, mut backup) = Writer::begin(header);
    backup.extend(writer.records(entries.clone()).concat());
    backup.extend(writer.end());
    let mut same = Vec::new();
    assert!(read(&backup, &mut same).is_ok_and(|same| same == *header) && same == entries);
    let sum = crc32fast::hash(seed);
    let at = sum as usize % backup.len();
    let mut changed = backup.clone();
    changed[at] ^= 1 << (sum >> 29);
    let is_refused = |backup: &[u8]| read(backup, &mut Vec::new()).is_err();
    assert!(is_refused(&changed), "byte {at} has changed");
    assert!(is_refused(&backup[..at]), "truncated at {at}");
    backup.push(sum as u8);
    assert!(is_refused(&backup), "an additional byte");
}
