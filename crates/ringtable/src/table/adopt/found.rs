//! What is found while a table is taken over: which memory is in use, and how many entries there are of each kind.

use crate::sync::AtomicU64;
use crate::table::bucket::Slot;
use crate::table::check::chain::Ledger;
use crate::table::heap::{Place, Rebuild, Refusal};
use crate::table::options::Eviction;
use crate::table::table::Counted;

/// Memory and counts, built anew.
pub(super) struct Found<'a> {
    words: &'a [AtomicU64],
    pub(super) heap: Rebuild<'a>,
    /// Entries, and those of them that expire.
    pub(super) entries: u64,
    pub(super) expires: u64,
    pub(super) counted: Counted,
}

impl<'a> Found<'a> {
    pub(super) fn new(words: &'a [AtomicU64], eviction: Eviction, heap: Rebuild<'a>) -> Self {
        Self { words, heap, entries: 0, expires: 0, counted: Counted::nothing(words.len(), eviction) }
    }

    /// Forgets all but what the page map says.
    pub(super) fn begin_anew(&mut self) {
        self.heap.release_all();
        (self.entries, self.expires) = (0, 0);
        self.counted = Counted::nothing(self.words.len(), self.counted.eviction());
    }

    /// Claims and counts what a slot points at by the map alone. It has the size of its place then, which counts as
    /// that of its entry does.
    /// Returns whether it was nobody's.
    #[inline]
    pub(super) fn claim_by_map(&mut self, bucket: u64, slot: Slot, place: Place) -> bool {
        self.entries += 1;
        self.expires += u64::from(slot.expires());
        if slot.is_unevictable() || self.counted.expiring.is_some() && slot.is_volatile() {
            self.count_kind(bucket, slot, self.heap.place_words(slot.at()));
        }
        self.heap.claim_place(place).is_ok()
    }

    fn count_kind(&self, bucket: u64, slot: Slot, words: usize) {
        if let Some(expiring) = self.counted.expiring.as_ref().filter(|_| slot.is_volatile()) {
            expiring.come(bucket);
            expiring.arrive(words);
        }
        if slot.is_unevictable() {
            self.counted.unevictable.adopt(words);
        }
    }
}

impl Ledger for Found<'_> {
    fn claim(&mut self, start: u64, words: usize) -> Result<(), Refusal> {
        self.heap.claim_whole(start, words)
    }

    fn keep(&mut self, bucket: u64, _before: Slot, after: Slot, words: usize) {
        self.entries += 1;
        self.expires += u64::from(after.expires());
        self.count_kind(bucket, after, words);
    }

    fn forget(&mut self, bucket: u64, slot: Slot) {
        let words = self.heap.place_words(slot.at());
        self.heap.release(slot.at());
        self.entries -= 1;
        self.expires -= u64::from(slot.expires());
        if let Some(expiring) = self.counted.expiring.as_ref().filter(|_| slot.is_volatile()) {
            expiring.leave(bucket);
            expiring.depart(words);
        }
        if slot.is_unevictable() {
            self.counted.unevictable.depart(words);
        }
    }

    fn lose(&mut self, _bucket: u64, _slot: Slot) {}

    fn release_overflow(&mut self, start: u64) {
        self.heap.release(start);
    }
}
