//! Finding memory that is not to be had at once.

use super::hand::EVICTED_AT_ONCE;
use super::kept::Kept;
use super::relocate::VAIN_MAX;
use crate::limits;
use crate::sync::{Arc, AtomicU64, Memory, Ordering, lock};
use crate::table::entry::{HEADER_WORDS, Shape};
use crate::table::error::WriteError;
use crate::table::heap::{self, BATCH, CLASSES, Heap};
use crate::table::layout::{BUCKET_WORDS, PAGE_WORDS};
use crate::table::options::Eviction;
use crate::table::sieve;
use crate::table::writer::Writer;

impl<M: Memory> Writer<M> {
    /// Allocates memory for an entry.
    pub(in crate::table) fn reserve(&mut self, shape: Shape) -> Result<u64, WriteError> {
        let start = self.table.allocate(&mut self.cache, shape.words());
        start.or_else(|| self.make_room(shape.words())).ok_or(WriteError::OutOfMemory(shape.words() * 8))
    }

    /// Memory for `words` words that were not to be had: evicts and moves entries until there is. `None` if that does
    /// not help, or is not allowed; [`Writer::take_crowded`] says whether that is due to other workers.
    #[cold]
    pub(in crate::table) fn make_room(&mut self, words: usize) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let searching = Searching::begin(&table.searchers);
        let mut kept = Kept::default();
        let may_evict = self.may_evict_beside(words, &mut kept);
        let found = match table.eviction {
            // All that is not kept may go: where that would not do, nothing will.
            Eviction::AllkeysSieve if !may_evict => None,
            Eviction::VolatileTtl if !may_evict => {
                self.search(words, false, &mut kept).or_else(|| self.evict_run(words, &mut kept))
            }
            _ => self.search(words, may_evict, &mut kept),
        };
        if found.is_none() && may_evict {
            table.heap.drain(table.words(), &mut self.cache);
            table.heap.recall();
            self.crowded = searching.is_anybody_else() || table.heap.has_holders();
        }
        found
    }

    /// Whether entries may be evicted by the policy, one after the other, to find `words` words: only if that is known
    /// to lead there, unless others take, pin or hold something meanwhile.
    ///
    /// Most of the time this looks at a few counts, or at as many pages as are wanted.
    pub(in crate::table) fn may_evict_for(&self, words: usize) -> bool {
        self.may_evict_beside(words, &mut Kept::default())
    }

    fn may_evict_beside(&self, words: usize, kept: &mut Kept) -> bool {
        /// Free slots of a class that other workers hold back.
        const HELD_BACK_MAX: u64 = (limits::WORKERS_MAX * 2 * BATCH) as u64;
        let table = &self.table;
        let (pages, kind) = (Heap::run_pages(words) + self.sparing.pages, heap::kind_of(words));
        // How many there may be; there is no need to know which, if others would do.
        let kept_max = table.reclaimer.keepers_max() + lock(&table.draft_starts).len() as u64 + 2;
        match (table.eviction, &table.expiring) {
            (Eviction::AllkeysSieve, _) => {
                let is_common = kind < CLASSES
                    && kind != heap::kind_of(BUCKET_WORDS)
                    && table.heap.used_slots(kind) > kept_max + HELD_BACK_MAX + table.unevictable.amount(kind);
                is_common
                    || self.is_room_beside_unevictable(pages)
                        && table.heap.has_run_without(pages, sieve::SPARE_MAX, kept.starts(self))
            }
            (Eviction::VolatileTtl, Some(expiring)) => kind < CLASSES && expiring.amount(kind) > kept_max,
            _ => false,
        }
    }

    /// Whether there would be so many pages if all went that may.
    fn is_room_beside_unevictable(&self, pages: usize) -> bool {
        let unevictable = &self.table.unevictable;
        unevictable.entries() == 0
            || self.table.heap.pages_beside(|kind| unevictable.amount(kind)) >= (pages + sieve::SPARE_MAX) as u64
    }

    fn search(&mut self, words: usize, may_evict: bool, kept: &mut Kept) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let pages = Heap::run_pages(words);
        let (mut vain, mut evicted) = (0, 0);
        loop {
            // The slots that we hold back may be what a slab lacks to be empty.
            table.heap.drain(table.words(), &mut self.cache);
            let free_before = table.heap.free_pages();
            if vain < VAIN_MAX && self.clear_something(pages, free_before, may_evict, kept) {
                if table.heap.free_pages() <= free_before {
                    vain += 1;
                    table.heap.recall();
                    *kept = Kept::default();
                }
            } else {
                let mut now = 0;
                while may_evict && now < EVICTED_AT_ONCE && self.evict(1) == 1 {
                    now += 1;
                    // Most often the first one leaves a slot of the right size.
                    if let Some(start) = table.heap.allocate_at_hand(table.words(), &mut self.cache, words) {
                        return Some(start);
                    }
                }
                if table.eviction == Eviction::AllkeysSieve {
                    table.sieve.give_back(&table.heap);
                }
                if now == 0 {
                    let start = table.allocate(&mut self.cache, words);
                    return start.or_else(|| self.make_room_at_last(words, may_evict, kept));
                }
                evicted += now;
                vain = vain.saturating_sub(usize::from(evicted.is_multiple_of(64)));
                if evicted > table.words().len() / HEADER_WORDS {
                    return None; // others take all we free
                }
            }
            if let Some(start) = table.allocate(&mut self.cache, words) {
                return Some(start);
            }
        }
    }

    /// Clears a slab or, if `free_pages` are enough, a run of `pages` pages. `false` if there is nothing to clear.
    fn clear_something(&mut self, pages: usize, free_pages: usize, may_evict: bool, kept: &mut Kept) -> bool {
        let table = Arc::clone(&self.table);
        let mut clearing = None;
        if table.heap.has_sparse_class() {
            clearing = table.heap.close_sparse_slab(kept.starts(self));
        }
        // With a margin: what moves leaves gaps too.
        if clearing.is_none() && 4 * free_pages >= 5 * pages {
            clearing = table.heap.close_run(pages, kept.starts(self), !may_evict);
        }
        if let Some(clearing) = &clearing {
            self.clear(clearing, may_evict);
        }
        clearing.is_some()
    }

    /// What remains when nothing can be evicted: gathers what is free, wherever it lies.
    fn make_room_at_last(&mut self, words: usize, may_evict: bool, kept: &mut Kept) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let pages = Heap::run_pages(words);
        for _ in 0..VAIN_MAX {
            table.heap.drain(table.words(), &mut self.cache);
            let usage = table.heap.usage();
            // With a margin, since what moves leaves gaps too; but not where all has gone that may, for this very row.
            let needed = (pages * PAGE_WORDS * 8) as u64;
            if usage.free_pages + usage.free_slots < if may_evict { needed } else { needed * 5 / 4 } {
                return None;
            }
            let clearing = table.heap.close_run(pages, kept.starts(self), !may_evict)?;
            self.clear(&clearing, may_evict);
            if let Some(start) = table.allocate(&mut self.cache, words) {
                return Some(start);
            }
            table.heap.recall();
            *kept = Kept::default();
        }
        None
    }

    /// Evicts up to `count` entries by the table's policy. Returns how many.
    fn evict(&mut self, count: usize) -> usize {
        match self.table.eviction {
            Eviction::Never => 0,
            Eviction::AllkeysSieve => self.move_hand(count),
            Eviction::VolatileTtl => (0..count).take_while(|_| self.evict_soonest()).count(),
        }
    }
}

/// A worker that is making room, counted.
struct Searching<'a>(&'a AtomicU64);

impl<'a> Searching<'a> {
    fn begin(searchers: &'a AtomicU64) -> Self {
        // Relaxed, here and below: a count that guards no data.
        searchers.fetch_add(1, Ordering::Relaxed);
        Self(searchers)
    }

    fn is_anybody_else(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

impl Drop for Searching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
