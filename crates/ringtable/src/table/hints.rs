//! What direct readers tell the sieve: which entries they have used.
//!
//! # Design
//!
//! A reader cannot mark an entry as visited (I2). But it sees in the slot whether the entry is marked already, and if
//! not, writes the key's hash into a small ring in memory of its own (a [`AccessLog`]; clients have one in their lane).
//! The worker that is about to evict something, or that has written a few dozen new keys, looks at all logs first,
//! and marks those entries. An entry needs one hint for each round of the hand, so a hot one costs its readers
//! nothing, and every use counts, not a sample.
//!
//! A reader leaves no hint twice in a row as long as nobody has taken it. The worker says beside the log how many it
//! has taken, before it marks their entries: whoever uses one after that tells of it again.
//!
//! # Not promised
//!
//! The ring is lossy: a reader that leaves more than [`limits::HINTS_MAX`] hints before somebody looks overwrites the
//! oldest. Threads that share a log may overwrite each other's.
//!
//! # Invariants
//!
//! - Hints are foreign input (I4): a hash marks the entries that have it, if there are any, and does nothing else.

use std::fmt;

use super::deadline::Deadline;
use super::layout::H_HINTS;
use crate::limits;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// Hints taken between two looks at the clock: in long chains each takes some microseconds.
const TAKEN_PER_CLOCK: u64 = 16;

/// Where a reader leaves hints.
pub trait AccessLog: Send + Sync {
    /// How many hints were ever left there.
    fn tail(&self) -> &AtomicU64;

    /// The last [`limits::HINTS_MAX`] of them; number `n` at `n % HINTS_MAX`.
    fn hints(&self) -> &[AtomicU64];

    /// How many of them were taken, or overwritten before. Written by who takes them.
    fn taken(&self) -> &AtomicU64;
}

/// Leaves a hint that the key with that hash was used. Only for the owner of the log.
#[inline]
pub(super) fn leave(log: &dyn AccessLog, hash: u64) {
    let (tail, hints) = (log.tail(), log.hints());
    // Relaxed, all: only we write here; and what was taken may be seen late, which costs a hint at most.
    let position = tail.load(Ordering::Relaxed);
    let last = &hints[position.wrapping_sub(1) as usize % limits::HINTS_MAX];
    if last.load(Ordering::Relaxed) == hash && log.taken().load(Ordering::Relaxed) != position {
        return;
    }
    hints[position as usize % limits::HINTS_MAX].store(hash, Ordering::Relaxed);
    // Release: pairs with the Acquire in `Hints::take`.
    tail.store(position.wrapping_add(1), Ordering::Release);
}

/// Names a log that was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessLogId(u64);

/// The logs of all readers, as the server has them.
#[derive(Default)]
pub struct Hints {
    state: Mutex<Logs>,
    taken: AtomicU64,
}

#[derive(Default)]
struct Logs {
    /// With how many hints were taken from each.
    logs: Vec<(AccessLogId, u64, Box<dyn AccessLog>)>,
    /// The log to begin with.
    first: usize,
    next: u64,
}

impl fmt::Debug for Hints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} logs", lock(&self.state).logs.len())
    }
}

impl Hints {
    /// Looks at a log from now on.
    pub fn register(&self, log: Box<dyn AccessLog>) -> AccessLogId {
        let mut state = lock(&self.state);
        let id = AccessLogId(state.next);
        state.next += 1;
        state.logs.push((id, 0, log));
        id
    }

    /// Looks at a log no more.
    pub fn unregister(&self, id: AccessLogId) {
        lock(&self.state).logs.retain(|(registered, ..)| *registered != id);
    }

    /// How many hints were taken into account.
    pub fn taken(&self) -> u64 {
        // Relaxed: a figure for people.
        self.taken.load(Ordering::Relaxed)
    }

    /// Calls `each` for every hint that has come since the last call. If another worker is at it, for none. If there
    /// are so many that others would wait, for some, and for the rest at the next call.
    pub(super) fn take(&self, mut each: impl FnMut(u64)) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let Logs { logs, first, .. } = &mut *state;
        let (mut count, mut deadline) = (0_u64, None);
        'logs: for _ in 0..logs.len() {
            *first = if *first + 1 < logs.len() { *first + 1 } else { 0 };
            let (_, taken, log) = &mut logs[*first];
            // Acquire: pairs with the Release in `leave`.
            let tail = log.tail().load(Ordering::Acquire);
            // Whatever it says, there are no more than these.
            *taken = tail.wrapping_sub(tail.wrapping_sub(*taken).min(limits::HINTS_MAX as u64));
            while *taken != tail {
                let hash = log.hints()[*taken as usize % limits::HINTS_MAX].load(Ordering::Relaxed);
                *taken = taken.wrapping_add(1);
                if *taken == tail {
                    // Relaxed: a hint that is left once more, or once less, is no harm.
                    log.taken().store(tail, Ordering::Relaxed);
                }
                each(hash);
                count += 1;
                if count.is_multiple_of(TAKEN_PER_CLOCK)
                    && deadline.get_or_insert_with(|| Deadline::after(limits::TURN_NS_MAX)).has_come()
                {
                    break 'logs;
                }
            }
        }
        self.taken.fetch_add(count, Ordering::Relaxed);
    }
}

/// Whether the server of a segment asks its readers for hints.
pub(super) fn are_wanted(words: &[AtomicU64]) -> bool {
    // Relaxed: a constant, written before the descriptor was passed to us.
    words[H_HINTS].load(Ordering::Relaxed) != 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, heap_words};

    #[derive(Clone)]
    struct LogWords(Arc<Box<[AtomicU64]>>);

    impl AccessLog for LogWords {
        fn tail(&self) -> &AtomicU64 {
            &self.0[limits::HINTS_MAX]
        }

        fn hints(&self) -> &[AtomicU64] {
            &self.0[..limits::HINTS_MAX]
        }

        fn taken(&self) -> &AtomicU64 {
            &self.0[limits::HINTS_MAX + 1]
        }
    }

    fn log() -> LogWords {
        LogWords(Arc::new(heap_words(limits::HINTS_MAX + 2)))
    }

    fn taken(hints: &Hints) -> Vec<u64> {
        let mut taken = Vec::new();
        hints.take(|hash| taken.push(hash));
        taken
    }

    #[test]
    fn hints_arrive_once_and_the_oldest_are_lost() {
        let (hints, log) = (Hints::default(), log());
        let id = hints.register(Box::new(log.clone()));
        [5, 5, 6, 5].into_iter().for_each(|hash| leave(&log, hash));
        assert_eq!(taken(&hints), [5, 6, 5]);
        assert!(taken(&hints).is_empty());
        leave(&log, 5);
        assert_eq!(taken(&hints), [5], "of what was taken a reader tells again");
        (0..1_000).for_each(|hash| leave(&log, hash));
        assert_eq!(taken(&hints), (1_000 - limits::HINTS_MAX as u64..1_000).collect::<Vec<_>>());
        leave(&log, 7);
        hints.unregister(id);
        assert!(taken(&hints).is_empty());
    }

    #[test]
    fn a_tail_that_is_nonsense_costs_no_more_than_the_ring() {
        let (hints, log) = (Hints::default(), log());
        hints.register(Box::new(log.clone()));
        for tail in [u64::MAX, 0, 1 << 63, 3, u64::MAX - 7] {
            log.tail().store(tail, Ordering::Relaxed);
            assert!(taken(&hints).len() <= limits::HINTS_MAX);
        }
    }
}
