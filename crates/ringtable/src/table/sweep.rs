//! Removing entries whose time has passed and that nobody asks for.
//!
//! # Design
//!
//! To readers an entry is gone the moment its time has passed, and a worker that comes across it removes it. What
//! nobody comes across is found by a sweep: a walk over the bucket array in small steps, from the first bucket to the
//! last, and again. Each slot carries a code of its entry's expiry ([`super::expiry_code`]), so that the walk reads the
//! bucket array alone, front to back, as fast as memory gives it (a million entries have 13 MB of buckets), and looks
//! at an entry only if the code says that it may be due.
//!
//! A timing wheel would find them without looking at others, but needs memory for each entry with an expiry, upkeep
//! with every write of such, and a rule for ids of entries that were written again; a random sample (Redis') needs a
//! second index of the entries that expire, and leaves a share of the dead. This walk needs five bits that were free.

use super::bucket::{EMPTY, SLOTS, Slot};
use super::expiry_code::may_be_due;
use super::writer::Writer;
use crate::sync::{Arc, Memory, Ordering, lock};

/// Entries that the sweep looks at before its caller looks at the clock: some 100 µs.
const LOOKS_AT_ONCE: i64 = 512;

impl<M: Memory> Writer<M> {
    /// Goes on with the sweep at time `now_ms`, over up to `count` buckets, fewer if there is much to do in them.
    /// Returns whether a round has ended with it.
    pub fn sweep_some(&mut self, count: u64, now_ms: u64) -> bool {
        let table = Arc::clone(&self.table);
        let mut sweep = lock(&table.sweep);
        if sweep.bucket == 0 {
            (sweep.round_before_ms, sweep.round_ms) = (sweep.round_ms, now_ms);
        }
        let from_ms = sweep.round_before_ms;
        let end = (sweep.bucket + count).min(table.buckets());
        let mut looks = LOOKS_AT_ONCE;
        while sweep.bucket < end && looks > 0 {
            let index = sweep.bucket;
            sweep.bucket += 1;
            let home = table.bucket(index);
            // A look without the lock: what comes later is for the next round.
            let is_due =
                |slot: Slot| slot != EMPTY && (slot.is_link() || may_be_due(slot.expiry_code(), from_ms, now_ms));
            if !(0..SLOTS).any(|index| is_due(home.slot(index))) {
                continue;
            }
            let Some(guard) = table.lock_at(index) else { continue };
            let is_worth_a_look = |slot: Slot| {
                let is_worth = may_be_due(slot.expiry_code(), from_ms, now_ms);
                looks -= i64::from(is_worth);
                is_worth
            };
            let left = table.take_expired(&guard, is_worth_a_look, now_ms, &mut self.published);
            if left.is_empty() {
                guard.unlock_unchanged();
            } else {
                failpoint!("sweep.unlinked");
                guard.unlock();
            }
            left.into_iter().for_each(|left| self.free(left));
        }
        let is_over = sweep.bucket >= table.buckets();
        if is_over {
            sweep.bucket = 0;
        }
        is_over
    }

    /// Whether there are entries that the sweep may find one day.
    pub fn has_expiring(&self) -> bool {
        // Relaxed: a count.
        self.table.tally.expiring.load(Ordering::Relaxed) > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::entry::Expiry;
    use super::*;

    #[test]
    fn the_sweep_removes_what_has_expired_and_nothing_else() {
        use crate::table::{Eviction, Guard, Options, Table};
        let options = Options { buckets: 4, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let memory = crate::sync::heap_words(64 * crate::table::layout::PAGE_WORDS);
        let mut writer = Writer::new(crate::sync::Arc::new(Table::create(memory, &options).unwrap()));
        let start = 1_700_000_000_000_u64;
        for n in 0..10_000_u64 {
            let expiry = (n % 3 > 0).then_some(Expiry(start + n));
            writer.put(&n.to_le_bytes(), b"value", expiry, Guard::Always, || start).unwrap();
        }
        let gone = |now: u64| (0..10_000).filter(|n| n % 3 > 0 && start + n <= now).count() as u64;
        for now in [start, start + 700, start + 900, start + 9_000, start + 9_998, start + 100_000] {
            while !writer.sweep_some(100, now) {}
            assert_eq!(writer.table().entries(), 10_000 - gone(now), "at {} ms", now - start);
            assert_eq!(writer.table().tally().expired.load(Ordering::Relaxed), gone(now));
        }
        assert!(!writer.has_expiring());
    }

    /// A step once went over its buckets whatever they held, and over a bucket from its beginning for each entry.
    #[test]
    fn a_step_ends_after_so_many_entries_whatever_the_chains() {
        use crate::table::{Eviction, Guard, Options, Table};
        let options = Options { buckets: 16, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let memory = crate::sync::heap_words(64 * crate::table::layout::PAGE_WORDS);
        let mut writer = Writer::new(crate::sync::Arc::new(Table::create(memory, &options).unwrap()));
        let table = Arc::clone(writer.table());
        // While another worker splits, as it were.
        let count = 16 * 200;
        table.alone(|| {
            for n in 0..count as u32 {
                writer.put(&n.to_le_bytes(), b"", Some(Expiry(2_000)), Guard::Always, || 1_000).unwrap();
            }
        });
        let (mut steps, mut before) = (1, count);
        while !writer.sweep_some(1_000, 5_000) {
            let removed = before - table.entries();
            assert!(removed <= LOOKS_AT_ONCE as u64 + crate::table::bucket::ENTRIES_MAX as u64, "{removed}");
            (steps, before) = (steps + 1, table.entries());
        }
        assert!(steps > 3 && table.entries() == 0, "{steps} steps, {} left", table.entries());
    }
}
