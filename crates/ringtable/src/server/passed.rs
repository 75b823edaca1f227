//! Which parties have passed a barrier, where the next server finds it.
//!
//! # Design
//!
//! The party that comes last ends the wait of all others, who are told one after the other. A server that dies in
//! between has told some of them, and who was not told asks the next server, which knows of no barrier: it would let
//! that party come once more, while the others are a barrier ahead. So it is noted who has passed before anybody is
//! told, in memory that outlives the server ([`super::notes`]): a ring of parties, and a count that says how many of
//! them are true. One store to that makes all parties of a barrier pass.
//!
//! # Invariants
//!
//! - Parties are written before the count, and only behind it. So the later half of the ring is never being written:
//!   a barrier has at most that many parties ([`limits::BARRIER_PARTIES_MAX`]).
//!
//! # Not promised
//!
//! A party that asks after so many others have passed that the half of the ring was written again is taken for one that
//! comes.

use std::collections::HashMap;

use crate::limits;
use crate::shm::segment::Mapping;
use crate::sync::{Arc, AtomicU64, Memory, Ordering};

/// Words of a party: its connection, its ticket, and how many were to come when it came.
const PARTY_WORDS: usize = 3;
const PARTIES: usize = 2 * limits::BARRIER_PARTIES_MAX;
/// Words of all of it.
pub(super) const PASSED_WORDS: usize = (1 + PARTIES * PARTY_WORDS).next_multiple_of(8);

/// A party: its connection, its ticket, and how many were still to come when it came.
pub(super) type Party = (u64, u64, u64);

/// The ring. Only holders of the lock of leases write.
pub(super) struct Passed {
    memory: Arc<Mapping>,
    at: usize,
}

impl Passed {
    /// That which begins at a word.
    pub fn new(memory: Arc<Mapping>, at: usize) -> Self {
        Self { memory, at }
    }

    fn count(&self) -> &AtomicU64 {
        &self.memory.words()[self.at]
    }

    fn party(&self, nth: u64) -> &[AtomicU64] {
        let at = self.at + 1 + (nth % PARTIES as u64) as usize * PARTY_WORDS;
        &self.memory.words()[at..at + PARTY_WORDS]
    }

    /// Notes that these have passed, all of them at once.
    pub fn note(&self, parties: impl Iterator<Item = Party>) {
        // Relaxed: nobody else writes, and nobody reads before the writer is dead.
        let mut count = self.count().load(Ordering::Relaxed);
        for (connection, ticket, missing) in parties {
            let words = self.party(count);
            words[0].store(connection, Ordering::Relaxed);
            words[1].store(ticket, Ordering::Relaxed);
            words[2].store(missing, Ordering::Relaxed);
            count += 1;
        }
        // Release: pairs with the Acquire in `found`; the parties are whole before they count.
        self.count().store(count, Ordering::Release);
    }

    /// Those that have passed lately, by connection and ticket.
    pub fn found(&self) -> HashMap<(u64, u64), u64> {
        let count = self.count().load(Ordering::Acquire);
        let found = (count.saturating_sub(PARTIES as u64 / 2)..count).map(|nth| {
            // Relaxed: see `note`.
            let [connection, ticket, missing] = [0, 1, 2].map(|word| self.party(nth)[word].load(Ordering::Relaxed));
            ((connection, ticket), missing)
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::segment::Segment;

    fn passed() -> Passed {
        let segment = Segment::create("ringtable-test", (PASSED_WORDS * 8).next_multiple_of(4_096)).unwrap();
        Passed::new(Arc::new(segment.map_writable().unwrap()), 0)
    }

    #[test]
    fn all_parties_of_a_barrier_pass_at_once_and_the_latest_are_known() {
        let passed = passed();
        assert!(passed.found().is_empty());
        passed.note([(7, 1, 0), (7, 2, 1), (9, 1, 2)].into_iter());
        assert_eq!(passed.found(), HashMap::from([((7, 1), 0), ((7, 2), 1), ((9, 1), 2)]));
        let most = limits::BARRIER_PARTIES_MAX as u64;
        for round in 10..15 {
            passed.note((0..most).map(|ticket| (round, ticket, 0)));
            assert_eq!(passed.found(), (0..most).map(|ticket| ((round, ticket), 0)).collect());
        }
        // Some of another barrier were written, and do not count.
        let count = passed.count().load(Ordering::Relaxed);
        for nth in 0..most {
            passed.party(count + nth).iter().for_each(|word| word.store(1, Ordering::Relaxed));
        }
        assert_eq!(passed.found(), (0..most).map(|ticket| ((14, ticket), 0)).collect());
    }
}
