//! Giving memory back: what a writer holds for its next entries, what nobody reads any more, and slabs that are nearly
//! empty.

use super::writer::Writer;
use crate::sync::Memory;

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
}
