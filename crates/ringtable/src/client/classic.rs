//! The classic client's loop: insert some random keys, read all their buckets, delete them all, and check everything.
//!
//! Requests of a phase are sent first and their responses collected after, as the classic did; with direct reads the
//! reading phase asks nobody. Keys are `ht{seed}{u32}`, values the u32 in little-endian bytes.

use std::collections::HashSet;

use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::options::Reads;
use super::patience::Patience;
use super::replies::bucket;
use super::write_options::Writes;
use crate::table::Pairs;

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Outer loops completed.
    pub loops: u64,
    /// Inserts, bucket reads and deletes together.
    pub operations: u64,
}

/// Why a run has ended early.
#[derive(Debug, thiserror::Error)]
pub enum ClassicError {
    /// The client failed.
    #[error(transparent)]
    Client(#[from] Error),
    /// The table does not hold what was put into it.
    #[error("mismatch: {0}")]
    Mismatch(String),
}

/// Runs `outer` loops over `inner` keys; 0 loops are loops without end. `stop` is asked before every loop.
///
/// # Errors
/// The first mismatch, or a failure of the connection. The summary says how far the run has come.
pub fn run(
    client: &Client,
    outer: u64,
    inner: usize,
    seed: u64,
    patience: Patience<'_>,
    stop: &dyn Fn() -> bool,
) -> (Summary, Result<(), ClassicError>) {
    let mut summary = Summary::default();
    let mut random = fastrand::Rng::with_seed(seed);
    while (outer == 0 || summary.loops < outer) && !stop() {
        if let Err(error) = run_once(client, inner, seed, &mut random, patience) {
            return (summary, Err(error));
        }
        summary.loops += 1;
        summary.operations += 3 * inner as u64;
    }
    (summary, Ok(()))
}

fn run_once(
    client: &Client,
    inner: usize,
    seed: u64,
    random: &mut fastrand::Rng,
    patience: Patience<'_>,
) -> Result<(), ClassicError> {
    let mut drawn = HashSet::with_capacity(inner);
    let mut items: Vec<(Vec<u8>, [u8; 4])> = Vec::with_capacity(inner);
    while items.len() < inner {
        let number = random.u32(..);
        if drawn.insert(number) {
            items.push((format!("ht{seed}{number}").into_bytes(), number.to_le_bytes()));
        }
    }
    let pairs: Vec<(&[u8], &[u8])> = items.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    client.set_many(&pairs, None, patience)?;

    let mut found = Pairs::default();
    let check = |index: usize, found: &Pairs| {
        let (key, value) = pairs[index];
        match found.iter().find(|pair| pair.key == key) {
            Some(pair) if pair.value == value => Ok(()),
            Some(pair) => Err(mismatch(key, &format!("holds {:?} instead of {value:?}", pair.value))),
            None => Err(mismatch(key, "is not in its bucket")),
        }
    };
    if client.options.reads == Reads::Direct && client.reads_in_place() {
        for (index, (key, _)) in pairs.iter().enumerate() {
            client.read_bucket(key, &mut found, patience)?;
            check(index, &found)?;
        }
    } else {
        let mut outcome = Ok(());
        client.pipeline(
            inner,
            |link, index, patience| link.push(NUMBERS.ring_bucket, &[pairs[index].0], patience),
            patience,
            |index, reply| {
                found.clear();
                bucket(reply, &mut found)?;
                if outcome.is_ok() {
                    outcome = check(index, &found);
                }
                Ok(())
            },
        )?;
        outcome?;
    }

    let keys: Vec<&[u8]> = pairs.iter().map(|(key, _)| *key).collect();
    let deleted = client.delete(&keys, Writes::Acknowledged, patience)?;
    if deleted != inner as u64 {
        return Err(ClassicError::Mismatch(format!("{deleted} of {inner} keys were there to delete")));
    }
    Ok(())
}

fn mismatch(key: &[u8], what: &str) -> ClassicError {
    ClassicError::Mismatch(format!("key {} {what}", String::from_utf8_lossy(key)))
}
