//! Giving memory back to the kernel.
//!
//! # Design
//!
//! Free pages that had memory behind them are *dirty*. The server gives dirty pages back to the kernel that nobody has
//! needed for a while ([`Heap::dirty_low`], [`Heap::take_dirty`]).

use super::allocator::Heap;
use super::pages::{Inner, Kind, Page};
use crate::sync::{Ordering, lock};

/// Free bytes in slots that are no reason yet to empty slabs.
const SPARSE_MIN: u64 = 8 << 20;

impl Heap {
    /// The fewest free pages with memory behind them that there were since the last call: nobody has missed these.
    pub fn dirty_low(&self) -> usize {
        let mut inner = lock(&self.inner);
        let low = inner.dirty_low;
        inner.dirty_low = inner.dirty_free;
        low as usize
    }

    /// Pages that we may have touched: those that belong to somebody, and free ones that did.
    pub fn touched_pages(&self) -> u64 {
        let inner = lock(&self.inner);
        inner.pages.len() as u64 - u64::from(inner.free_pages - inner.dirty_free)
    }

    /// The next run of free pages from page `at` on, of at most `count`, behind which there is no memory unless
    /// somebody else has touched it: first page and number.
    pub fn next_untouched(&self, at: usize, count: usize) -> Option<(usize, usize)> {
        let inner = lock(&self.inner);
        let is_untouched = |page: &&Page| page.kind == Kind::Free && !page.dirty;
        let mut runs = inner.free_runs.range(..=at as u32).next_back().into_iter();
        let runs = runs.by_ref().chain(inner.free_runs.range(at as u32 + 1..));
        for (&first, &length) in runs {
            let (begin, end) = ((first as usize).max(at), (first + length) as usize);
            if let Some(skipped) = inner.pages[begin.min(end)..end].iter().position(|page| is_untouched(&page)) {
                let rest = &inner.pages[begin + skipped..end];
                return Some((begin + skipped, rest.iter().take(count).take_while(is_untouched).count()));
            }
        }
        None
    }

    /// Takes note that there is memory behind these pages, as far as they are free. Returns how many are.
    pub fn note_touched(&self, pages: impl Iterator<Item = usize>) -> usize {
        let mut inner = lock(&self.inner);
        let mut count = 0;
        for page in pages {
            let page = &mut inner.pages[page];
            if page.kind == Kind::Free && !page.dirty {
                page.dirty = true;
                count += 1;
            }
        }
        inner.dirty_free += count;
        drop(inner);
        self.note_slack();
        count as usize
    }

    /// Whether so many slots are free that some slabs should be emptied into others.
    pub fn is_sparse(&self) -> bool {
        let usage = self.usage();
        usage.free_slots > usage.allocated / 4 + SPARSE_MIN
    }

    /// Finds out whether there is still something that might be given back: see [`Self::has_slack`]. Sparse slabs count
    /// unless emptying them has just failed.
    pub fn settle(&self, slabs_too: bool) {
        self.slack.store(false, Ordering::Relaxed);
        if lock(&self.inner).dirty_free > 0 || slabs_too && self.is_sparse() {
            self.note_slack();
        }
    }

    /// Whether memory that is free might be given back to the kernel, now or soon. A hint.
    #[inline]
    pub fn has_slack(&self) -> bool {
        // Relaxed: a hint.
        self.slack.load(Ordering::Relaxed)
    }

    /// Sets a run of such pages aside, of at most `count`, so that nobody gets them while they are given back to the
    /// kernel: first page and number. Then [`Self::return_clean`].
    pub fn take_dirty(&self, count: usize) -> Option<(usize, usize)> {
        let mut inner = lock(&self.inner);
        if inner.dirty_free == 0 {
            return None;
        }
        let is_dirty = |inner: &Inner, page: u32| {
            inner.pages.get(page as usize).is_some_and(|page| page.kind == Kind::Free && page.dirty)
        };
        let total = inner.pages.len() as u32;
        let begin = inner.dirty_rover;
        let first = (begin..total).chain(0..begin.min(total)).find(|&page| is_dirty(&inner, page))?;
        let mut end = first;
        while end - first < count as u32 && is_dirty(&inner, end) {
            inner.take_exactly(end);
            end += 1;
        }
        inner.dirty_rover = end;
        Some((first as usize, (end - first) as usize))
    }

    /// Takes back pages that have no memory behind them any more (or still have, if the kernel `refused`).
    pub fn return_clean(&self, first: usize, count: usize, refused: bool) {
        let mut inner = lock(&self.inner);
        for page in first..first + count {
            inner.give_pages(page as u32, 1, refused);
        }
        self.note_slack();
    }
}
