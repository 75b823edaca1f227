//! Models of hints: a reader that says what it uses, and workers that take note of it.
//!
//! The log has room for two hints (`limits::HINTS_MAX` under `cfg(loom)`), and the reader leaves three.
//!
//! # Allowed
//!
//! - A hint that is taken once, in the order in which they were left; one that was overwritten before it was taken, and
//!   in whose place a later one is taken, perhaps twice.
//! - Nothing, as long as the worker does not see the tail move.
//!
//! # Forbidden
//!
//! - A hash that was never left: what the memory held before. (It would mark an entry that nobody has used, and no more
//!   than that; but nothing that is taken has to be made up.)
//! - More hints than were left, or the same one by two workers.
//! - A hint that was not overwritten and is never taken.
//!
//! # What this cannot show
//!
//! That a hint is of use. Marking what it names is in `loom_move`, since it is the same under a move and a delete.

use loom::thread;

use super::hints::{AccessLog, Hints, leave};
use crate::limits::HINTS_MAX;
use crate::sync::{Arc, AtomicU64, heap_words, model};

#[derive(Clone)]
struct LogWords(Arc<Box<[AtomicU64]>>);

impl AccessLog for LogWords {
    fn tail(&self) -> &AtomicU64 {
        &self.0[HINTS_MAX]
    }

    fn hints(&self) -> &[AtomicU64] {
        &self.0[..HINTS_MAX]
    }

    fn taken(&self) -> &AtomicU64 {
        &self.0[HINTS_MAX + 1]
    }
}

/// Hashes that are left, one after the other.
const LEFT: [u64; 3] = [11, 12, 13];

fn taken(hints: &Hints) -> Vec<u64> {
    let mut taken = Vec::new();
    hints.take(|hash| taken.push(hash));
    taken
}

#[test]
fn what_is_taken_was_left() {
    let outcomes = model::outcomes(|| {
        let log = LogWords(Arc::new(heap_words(HINTS_MAX + 2)));
        let hints = Arc::new(Hints::default());
        hints.register(Box::new(log.clone()));
        let taking = {
            let hints = Arc::clone(&hints);
            thread::spawn(move || taken(&hints))
        };
        LEFT.into_iter().for_each(|hash| leave(&log, hash));
        let early = taking.join().expect("the worker ends");
        let late = taken(&hints);
        let all = [early.clone(), late].concat();
        assert!(all.iter().all(|hash| LEFT.contains(hash)), "forbidden: {all:?}, of which some were never left");
        assert!(all.len() <= LEFT.len(), "forbidden: {all:?}, more than were left");
        assert_eq!(all.last(), LEFT.last(), "forbidden: the last one, which nobody has overwritten, is not taken");
        early
    });
    for allowed in [vec![], vec![11], vec![11, 12], vec![12, 13]] {
        assert!(outcomes.contains(&allowed), "the model is too small: never {allowed:?} early, {outcomes:?}");
    }
}

/// Two workers look at the same log: whoever comes second takes nothing, or what has come since.
#[test]
fn two_workers_do_not_take_the_same() {
    let outcomes = model::outcomes(|| {
        let log = LogWords(Arc::new(heap_words(HINTS_MAX + 2)));
        let hints = Arc::new(Hints::default());
        hints.register(Box::new(log.clone()));
        leave(&log, LEFT[0]);
        let taking = {
            let hints = Arc::clone(&hints);
            thread::spawn(move || taken(&hints))
        };
        let ours = taken(&hints);
        leave(&log, LEFT[1]);
        let theirs = taking.join().expect("the other worker ends");
        let rest = taken(&hints);
        let mut all = [ours.clone(), theirs.clone(), rest].concat();
        all.sort_unstable();
        assert_eq!(all, LEFT[..2], "forbidden: a hint is taken twice, or never");
        (ours.len(), theirs.len())
    });
    for allowed in [(1, 0), (0, 1), (1, 1)] {
        assert!(outcomes.contains(&allowed), "the model is too small: never {allowed:?}");
    }
}
