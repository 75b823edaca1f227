//! Files of changes, whatever is in them.
//!
//! The first byte says how: as they are, or as batches whose checksums are right, so that what stands behind a checksum
//! is reached, too. The pieces of those end where the input has a byte of 255. Then, how much of it was synced.
//!
//! # Promised
//!
//! - The reader comes to an end, within the file. What it says is whole ends a batch, and is played without an error.
//! - Nothing that was synced is cut off: then there is an error, which names a byte of the file.
//! - What is left when the end is cut off that is not whole, is whole.

use std::fs;
use std::path::Path;

use super::super::error::Error;
use super::super::rdb::DecodeError;
use super::file::{HEAD, SUM, begun, of_head};
use super::reader::{LogContents, Operation, play, survey_log};
use crate::limits;
use crate::shm::random::random;

const NONCE: u64 = 0x0123_4567_89ab_cdef;

pub(crate) fn run(input: &[u8]) {
    let [how, synced, rest @ ..] = input else { return };
    let file = if how % 2 == 0 { rest.to_vec() } else { batches(rest) };
    let synced = u64::from(*synced) * file.len() as u64 / 200;
    let path = std::env::temp_dir().join(format!("ringtable-fuzz-{:016x}", random()));
    fs::write(&path, &file).expect("a small file can be written");
    let outcome = std::panic::catch_unwind(|| look(&path, &file, synced));
    fs::remove_file(&path).expect("it is there");
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// A file of these pieces as batches.
fn batches(rest: &[u8]) -> Vec<u8> {
    let mut file = format!("{HEAD}{NONCE:016x} {:016x} {:016x}\n", 0, of_head(NONCE, 0)).into_bytes();
    for piece in rest.split(|&byte| byte == u8::MAX) {
        let (begin, place) = (file.len(), format!(" {} {}\n", file.len(), file.len()));
        file.extend(piece);
        let mut sum = begun(NONCE);
        sum.update(&file[begin..]);
        sum.update(place.as_bytes());
        file.extend(format!("{SUM}{:016x}{place}", sum.value()).as_bytes());
    }
    file
}

fn look(path: &Path, file: &[u8], synced: u64) {
    let size = file.len() as u64;
    let contents = match survey_log(path, synced, |_| true) {
        Ok(contents) => contents.expect("it goes on"),
        Err(Error::Damaged { error: DecodeError::Damaged { at, .. } | DecodeError::Unknown { at, .. }, .. }) => {
            assert!(at <= size, "byte {at} of {size}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let LogContents { records, whole, .. } = contents;
    assert!(contents.size == size && whole >= synced.min(size) && whole <= size, "{contents:?}, {synced} synced");
    assert_eq!(records, played(path, whole));
    fs::write(path, &file[..whole as usize]).expect("a small file can be written");
    let again = survey_log(path, whole, |_| true).expect("what is whole is whole by itself");
    assert_eq!(again, Some(LogContents { records, whole, size: whole }));
}

/// How many records there are.
fn played(path: &Path, whole: u64) -> u64 {
    let mut records = 0;
    play::<Error>(path, whole, |operation| {
        let (key, value) = match operation {
            Operation::Set { key, value, .. } => (key, value),
            Operation::Renew(key, _) | Operation::Delete(key) => (key, &[][..]),
        };
        assert!(key.len() <= limits::KEY_SIZE_MAX && value.len() <= limits::VALUE_SIZE_MAX);
        records += 1;
        Ok(())
    })
    .expect("what is whole can be played");
    records
}
