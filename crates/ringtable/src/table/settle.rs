//! Checking a chain of a table that was taken over, right behind the locking of its bucket: see [`super::check`].

use super::bucket::{BucketGuard, Slot};
use super::check::chain::{ChainCheck, Hand, Ledger};
use super::check::outstanding::Outstanding;
use super::check::report::{Damage, Report};
use super::heap::Refusal;
use super::table::Table;
use crate::sync::Memory;

impl<M: Memory> Table<M> {
    /// The lock of bucket `index`, once its chain is checked. `None` if something was wrong with it: then it was
    /// mended, and unlocked, so that readers know.
    #[inline]
    pub(super) fn settled<'a>(&'a self, index: u64, guard: BucketGuard<'a>) -> Option<BucketGuard<'a>> {
        match &self.outstanding {
            Some(outstanding) if outstanding.has(index) => self.settle(outstanding, index, guard),
            _ => Some(guard),
        }
    }

    #[cold]
    fn settle<'a>(&'a self, outstanding: &Outstanding, index: u64, guard: BucketGuard<'a>) -> Option<BucketGuard<'a>> {
        let ledger = Living { table: self, left: Vec::new(), entries: 0 };
        let mut check = ChainCheck::new(self.words(), self.constants(), self.buckets(), ledger, Report::default());
        let mut hand = Hand::locked(index, guard);
        check.report.add_damage(Damage::Link, check.count_empty(&hand));
        check.slots(&mut hand, false);
        check.unlink_empty(&mut hand);
        let ChainCheck { ledger: Living { left, entries, .. }, report, .. } = check;
        outstanding.settled(index, &report, entries);
        if !hand.is_changed {
            return hand.guard;
        }
        hand.close();
        self.retire_all(left);
        self.add_entries(-(entries.cast_signed()));
        None
    }
}

/// The memory and the counts of a table that is in use. All that its slots point at is claimed and counted.
struct Living<'a, M> {
    table: &'a Table<M>,
    /// The words at which something begins that no slot points at any more.
    left: Vec<u64>,
    /// Entries that have gone.
    entries: u64,
}

impl<M: Memory> Ledger for Living<'_, M> {
    fn claim(&mut self, start: u64, words: usize) -> Result<(), Refusal> {
        if self.table.heap.fits(start, words) { Ok(()) } else { Err(Refusal::Nothing) }
    }

    fn keep(&mut self, bucket: u64, before: Slot, after: Slot, words: usize) {
        if before != after {
            self.table.recount(bucket, Some((before, words)), Some((after, words)));
        }
    }

    fn forget(&mut self, bucket: u64, slot: Slot) {
        // What the entry says of its size may be damaged: it was counted by that of its place.
        let words = self.table.heap.slot_words(slot.at());
        self.table.recount(bucket, Some((slot, words)), None);
        if slot.is_unevictable() {
            self.table.unevictable.depart(words);
        }
        self.left.push(slot.at());
        self.entries += 1;
    }

    fn lose(&mut self, bucket: u64, slot: Slot) {
        self.forget(bucket, slot);
    }

    fn release_overflow(&mut self, start: u64) {
        self.left.push(start);
    }
}
