//! Taking entries out of a locked chain, and freeing the memory that they leave behind.
//!
//! # Design
//!
//! Whatever the reason is for which an entry goes, it goes by [`Table::take_out`], while its bucket is locked. Once the
//! bucket is unlocked, [`Writer::free`] takes back its memory. Nothing here needs memory, nor room in a chain.

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot};
use super::change::{Change, Removal};
use super::layout::BUCKET_WORDS;
use super::table::Table;
use super::writer::Writer;
use crate::sync::{Memory, Ordering};

/// Memory that an entry has left behind, to be freed once its bucket is unlocked.
#[must_use]
pub(super) struct Left {
    start: u64,
    words: usize,
    /// An overflow bucket that has become empty.
    overflow: Option<u64>,
}

impl<M: Memory> Table<M> {
    /// Takes an entry out of a locked chain, tells of it, counts. Then unlock, and [`Writer::free`].
    pub(super) fn take_out(
        &self,
        guard: &BucketGuard<'_>,
        (bucket, index): (BucketRef<'_>, usize),
        why: Removal,
        published: &mut bool,
    ) -> Left {
        let slot = bucket.slot(index);
        let entry = self.entry(slot);
        bucket.set_slot(index, EMPTY);
        let version = self.version_of_change(guard);
        self.tell(Change::Removed { start: slot.at(), version, why }, published);
        let count = match why {
            Removal::Deleted => None,
            Removal::Expired => Some(&self.tally.expired),
            Removal::Evicted => Some(&self.tally.evicted),
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let left = Left { start: slot.at(), words: entry.shape.words(), overflow: None };
        self.count_expiring(guard.bucket, Some((slot, left.words)), None);
        if slot.is_unevictable() {
            self.unevictable.depart(left.words);
        }
        Left { overflow: self.unlink_if_empty(guard, bucket), ..left }
    }

    /// Takes out of a locked chain what has expired at `now_ms`, of the entries that are worth a look; in one pass,
    /// however many they are. Then unlock, and [`Writer::free`] each.
    pub(super) fn take_expired(
        &self,
        guard: &BucketGuard<'_>,
        mut is_worth_a_look: impl FnMut(Slot) -> bool,
        now_ms: u64,
        published: &mut bool,
    ) -> Vec<Left> {
        let mut left = Vec::new();
        let mut next = Some(guard.bucket);
        while let Some(bucket) = next {
            // Now: the bucket is out of the chain once it is empty.
            let link = bucket.slot(SLOTS - 1);
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot.is_entry() && is_worth_a_look(slot) && self.entry(slot).has_expired(|| now_ms) {
                    left.push(self.take_out(guard, (bucket, index), Removal::Expired, published));
                }
            }
            next = link.is_link().then(|| self.overflow(link));
        }
        left
    }

    /// Takes an overflow bucket that has become empty out of its chain; returns its word, to be freed after unlocking.
    pub(super) fn unlink_if_empty(&self, guard: &BucketGuard<'_>, bucket: BucketRef<'_>) -> Option<u64> {
        if (0..SLOTS).any(|index| bucket.slot(index).is_entry()) {
            return None;
        }
        for before in self.chain(guard) {
            let link = before.slot(SLOTS - 1);
            if link.is_link() && self.overflow(link).is(bucket) {
                let next = bucket.slot(SLOTS - 1);
                before.set_slot(SLOTS - 1, if next.is_link() { next } else { EMPTY });
                return Some(link.at());
            }
        }
        None // the home bucket itself: it stays
    }

    /// As [`Self::recount`], by the home bucket.
    pub(super) fn count_expiring(
        &self,
        home: BucketRef<'_>,
        before: Option<(Slot, usize)>,
        after: Option<(Slot, usize)>,
    ) {
        self.recount(self.index_of(home), before, after);
    }
}

impl<M: Memory> Writer<M> {
    /// Frees what an entry has left behind that was taken out of its chain, which is unlocked.
    pub(super) fn free(&mut self, left: Left) {
        let Self { table, cache, .. } = self;
        if self.clearing {
            table.retire_all(std::iter::once(left.start).chain(left.overflow).collect());
        } else {
            table.retire(cache, left.start, left.words);
            if let Some(overflow) = left.overflow {
                table.heap.free(table.words(), cache, overflow, BUCKET_WORDS);
            }
        }
        table.add_entries(-1);
    }
}
