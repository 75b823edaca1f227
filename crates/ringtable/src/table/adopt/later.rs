//! What follows when a table was taken over and serves already: the rest of the checks.

use crate::sync::{Memory, prefetch};
use crate::table::bucket::SLOTS;
use crate::table::check::report::Report;
use crate::table::table::Table;
use crate::table::writer::Writer;

impl<M: Memory> Table<M> {
    /// Chains that have not been checked yet since the table was taken over.
    pub fn unchecked(&self) -> u64 {
        self.outstanding.as_ref().map_or(0, |outstanding| outstanding.left())
    }

    /// What was found when the table was taken over, and since; `None` if it was not. It is complete when nothing is
    /// [unchecked](Self::unchecked).
    pub fn found(&self) -> Option<Report> {
        self.outstanding.as_ref().map(|outstanding| outstanding.found())
    }
}

impl<M: Memory> Writer<M> {
    /// Checks the next chains that nobody has checked, of up to `count` buckets. Returns whether there may be more.
    pub fn check_some(&mut self, count: u64) -> bool {
        let table = &self.table;
        let Some(outstanding) = &table.outstanding else { return false };
        let next = outstanding.next(count);
        let is_outstanding = |index: &u64| outstanding.has(*index);
        // First all that is going to be looked at, so that the misses overlap, and while nobody waits for a lock.
        for home in next.clone().filter(is_outstanding).map(|index| table.bucket(index)) {
            for slot in (0..SLOTS).map(|index| home.slot(index)).filter(|slot| slot.is_entry()) {
                // Of a small entry, its head and the key, which may lie in the next line.
                [slot.at(), slot.at() + 3].iter().filter_map(|&at| table.words().get(at as usize)).for_each(prefetch);
            }
        }
        next.clone().filter(is_outstanding).for_each(|index| table.settle_at(index));
        !next.is_empty() && outstanding.left() > 0
    }
}
