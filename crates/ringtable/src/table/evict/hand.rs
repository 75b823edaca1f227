//! Evicting by the order of [`crate::table::sieve`]: the hand, and the ids that it comes to.

use super::kept::Kept;
use super::relocate::VAIN_MAX;
use crate::sync::{Arc, Memory};
use crate::table::change::Removal;
use crate::table::deadline::Deadline;
use crate::table::sieve::Id;
use crate::table::writer::Writer;

/// Entries evicted between two looks whether slabs or pages can be cleared now.
pub(super) const EVICTED_AT_ONCE: usize = 16;
/// Entries that the hand passes at most before one is evicted though it was used: about a millisecond.
const PASSED_MAX: usize = 4_096;
/// Nanoseconds for which it does so: in long chains each takes some microseconds.
const PASSED_NS_MAX: u64 = 1_000_000;
/// Entries that the hand passes between two looks at the clock.
const PASSED_PER_CLOCK: usize = 64;
/// Buckets that are walked over at once to give their entries new ids.
const REFILLED_AT_ONCE: u64 = 1_024;
/// Ids above which no further bucket is.
const REFILLED_IDS_MAX: usize = 8 * REFILLED_AT_ONCE as usize;
/// Ids that are looked at when too many are stale, for each that arrives.
const TIDIED_PER_ARRIVAL: usize = 4;
/// Stale ids that are no reason to tidy up yet.
pub(super) const STALE_MIN: u64 = if cfg!(loom) { 2 } else { 16_384 };

impl<M: Memory> Writer<M> {
    /// Moves the hand of the sieve until `count` entries are evicted, or none is left. Returns how many were.
    pub(super) fn move_hand(&mut self, count: usize) -> usize {
        self.tell_arrivals();
        self.table.take_hints();
        let (mut evicted, mut passed) = (0, 0);
        let mut deadline = None;
        while evicted < count {
            let Some((id, mark)) = self.table.sieve.advance() else {
                if self.refill() {
                    continue;
                }
                break;
            };
            if self.look_at(id, mark, Some(passed >= PASSED_MAX)) {
                (evicted, passed, deadline) = (evicted + 1, 0, None);
            } else {
                passed += 1;
                if passed > self.table.sieve.ids() as usize + 2 * PASSED_MAX {
                    break; // only the one that is spared is left
                }
                if passed.is_multiple_of(PASSED_PER_CLOCK)
                    && deadline.get_or_insert_with(|| Deadline::after(PASSED_NS_MAX)).has_come()
                {
                    passed = passed.max(PASSED_MAX);
                }
            }
        }
        evicted
    }

    /// What the hand does when it comes to an id. `evict` is whether an entry goes even if it was used; `None` if none
    /// goes at all. Returns whether an entry was evicted.
    fn look_at(&mut self, id: Id, mark: bool, evict: Option<bool>) -> bool {
        let table = Arc::clone(&self.table);
        let guard = table.lock(id.low());
        let found = table.slots(&guard).find(|(_, _, slot)| id.fits(*slot) && slot.seen() != mark);
        let Some((bucket, index, slot)) = found else {
            // Gone, or seen in this round already.
            guard.unlock_unchanged();
            return false;
        };
        if slot.is_unevictable() {
            // It has become so since it arrived, and needs no id any more.
            guard.unlock_unchanged();
            return false;
        }
        let goes = evict.is_some_and(|even_if_used| even_if_used || !slot.is_visited()) && !self.is_spared(slot);
        if goes {
            let left = table.take_out(&guard, (bucket, index), Removal::Evicted, &mut self.published);
            failpoint!("evict.unlinked");
            guard.unlock();
            self.free(left);
        } else {
            let kept = slot.with_seen(mark).with_visited(slot.is_visited() && evict.is_none());
            bucket.set_slot(index, kept);
            guard.unlock_unchanged();
            table.sieve.keep(id);
        }
        goes
    }

    /// Tells the sieve of entries that have arrived, and drops ids of entries that are gone if there are too many.
    pub(in crate::table) fn tell_arrivals(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        let told = self.arrivals.len();
        let table = Arc::clone(&self.table);
        // Also while the table fills up and nothing is evicted: readers keep a few hundred hints, no more.
        table.take_hints();
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for _ in 0..VAIN_MAX {
            if table.sieve.provide(&table.heap) {
                break;
            }
            // The queue has a page or two left, and needs one more soon: like any entry, it gets one by eviction.
            if let Some(clearing) = table.heap.close_sparse_slab(Kept::default().starts(self)) {
                self.clear(&clearing, true);
            } else {
                self.move_hand(EVICTED_AT_ONCE);
            }
        }
        table.sieve.arrive(&mut arrivals);
        self.arrivals = arrivals;
        if table.sieve.ids() > 2 * table.entries() + STALE_MIN {
            for _ in 0..told * TIDIED_PER_ARRIVAL {
                if let Some((id, mark)) = table.sieve.advance() {
                    self.look_at(id, mark, None);
                }
            }
        }
    }

    /// Gives entries ids anew, if some are without. Returns whether there are ids now.
    fn refill(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        while let Some(first) = table.sieve.needs_refill(table.entries().saturating_sub(table.unevictable.entries())) {
            let mark = table.sieve.seen_mark();
            let mut ids = Vec::new();
            let mut end = (first + REFILLED_AT_ONCE).min(table.buckets());
            for index in first..end {
                if ids.len() >= REFILLED_IDS_MAX {
                    end = index;
                    break;
                }
                let Some(guard) = table.lock_at(index) else { continue };
                for (bucket, index, slot) in table.entry_slots(&guard) {
                    if !slot.is_unevictable() {
                        bucket.set_slot(index, slot.with_seen(!mark));
                        ids.push(Id::new(self.table.hash_of(table.entry(slot))));
                    }
                }
                guard.unlock_unchanged();
            }
            let added = !ids.is_empty();
            table.sieve.provide(&table.heap);
            table.sieve.arrive(&mut ids);
            table.sieve.refilled_to(if end >= table.buckets() { 0 } else { end });
            if added && table.sieve.ids() > 0 {
                return true;
            }
            if end >= table.buckets() {
                break;
            }
        }
        table.sieve.ids() > 0
    }
}
