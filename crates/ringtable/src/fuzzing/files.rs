//! Files of the format of Redis, whatever is in them.
//!
//! # Promised
//!
//! - The reader comes to an end, within the file, and takes no more memory than the file has bytes, and what strings
//!   that were compressed come to.
//! - What was read can be written, and is read again as it was.

use crate::disk::rdb::{DecodeError, Decoder, Encoder, Entry, Item};
use crate::limits;
use crate::table::Expiry;

type Owned = (Vec<u8>, Vec<u8>, Option<Expiry>, bool);

pub(super) fn run(input: &[u8]) {
    let (entries, outcome) = read(input);
    for (key, value, ..) in &entries {
        assert!(key.len() <= limits::KEY_SIZE_MAX && value.len() <= limits::VALUE_SIZE_MAX);
    }
    match outcome {
        Ok(()) => {}
        Err(DecodeError::Damaged { at, .. } | DecodeError::Unknown { at, .. }) => assert!(at <= input.len() as u64),
        Err(error) => panic!("{error}"),
    }
    let mut encoder = Encoder::begin(Vec::new(), entries.len() as u64, 0).unwrap();
    for (key, value, expiry, is_unevictable) in &entries {
        let (expiry, is_unevictable) = (*expiry, *is_unevictable);
        encoder.entry(&Entry { key, value, expiry, is_unevictable }).unwrap();
    }
    let (again, outcome) = read(&encoder.finish().unwrap().1);
    outcome.expect("what was written is whole");
    assert!(again == entries);
}

/// The entries before the end, or before the damage.
fn read(input: &[u8]) -> (Vec<Owned>, Result<(), DecodeError>) {
    let mut entries = Vec::new();
    let outcome = (|| {
        let mut decoder = Decoder::begin(input)?;
        loop {
            let before = decoder.position();
            match decoder.next_item()? {
                Item::Entry => {
                    let Entry { key, value, expiry, is_unevictable } = decoder.entry();
                    entries.push((key.to_vec(), value.to_vec(), expiry, is_unevictable));
                }
                Item::End { .. } => return Ok(()),
                Item::Checked | Item::Skipped(_) => {}
            }
            assert!(decoder.position() > before, "each item takes something");
        }
    })();
    (entries, outcome)
}
