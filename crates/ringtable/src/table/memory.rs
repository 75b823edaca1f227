//! Memory for entries and overflow buckets: from the heap, and back to it once nobody reads it any more.

use super::heap::Cache;
use super::table::Table;
use crate::sync::Memory;

impl<M: Memory> Table<M> {
    /// Takes back the memory of an entry that was unlinked: at once, or when nobody reads it any more.
    ///
    /// The entry's bucket has been unlocked.
    #[inline]
    pub fn retire(&self, cache: &mut Cache, start: u64, words: usize) {
        self.reclaimer.retire(start, words, |start, words| self.heap.free(self.words(), cache, start, words));
    }

    /// Takes back what was retired and is read by nobody any more. Returns how many bytes that is.
    pub fn rescan(&self, cache: &mut Cache) -> u64 {
        self.reclaimer.rescan(|start, words| self.heap.free(self.words(), cache, start, words))
    }

    /// As [`Self::retire`], for what was moved: its memory does not go by way of a writer's free slots, from which the
    /// next move would take it.
    pub(super) fn retire_moved(&self, start: u64) {
        let free = |start, _| self.heap.free_all(self.words(), std::iter::once(start));
        self.reclaimer.retire(start, self.heap.slot_words(start), free);
    }

    /// As [`Self::retire`], for many entries and overflow buckets.
    pub(super) fn retire_all(&self, starts: Vec<u64>) {
        if self.reclaimer.is_nobody_there() {
            self.heap.free_all(self.words(), starts.into_iter());
        } else {
            starts.into_iter().for_each(|start| self.retire_moved(start));
        }
    }

    /// Memory for `words` words, as the word it begins at; `None` if there is none, not even in the retire list.
    pub(super) fn allocate(&self, cache: &mut Cache, words: usize) -> Option<u64> {
        match self.heap.allocate(self.words(), cache, words) {
            None if self.rescan(cache) > 0 => self.heap.allocate(self.words(), cache, words),
            start => start,
        }
    }
}
