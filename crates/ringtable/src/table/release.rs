//! Giving memory back: slots that a writer holds for its next entries, entries that nobody reads any more, and slabs
//! that are nearly empty.

use super::evict::kept::Kept;
use super::writer::Writer;
use crate::sync::{Arc, Memory};

impl<M: Memory> Writer<M> {
    /// Takes back what was deleted and is read by nobody any more. Returns how many bytes that is.
    pub fn rescan(&mut self) -> u64 {
        self.table.rescan(&mut self.cache)
    }

    /// Gives the free memory this writer holds back to all.
    pub fn release(&mut self) {
        self.tell_arrivals();
        self.table.heap.drain(self.table.words(), &mut self.cache);
    }

    /// The same if another worker is in need of it.
    #[inline]
    pub fn heed_recall(&mut self) {
        self.table.heap.heed_recall(self.table.words(), &mut self.cache);
    }

    /// Moves what lives in a nearly empty slab to others. Returns whether that has freed pages.
    pub fn empty_a_slab(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        table.heap.drain(table.words(), &mut self.cache);
        let before = table.heap.free_pages();
        let mut kept = Kept::default();
        let Some(clearing) = table.heap.close_sparse_slab(kept.starts(self)) else { return false };
        self.clear(&clearing, false);
        table.heap.free_pages() > before
    }
}
