//! The census of pages and slots: how many there are, and how many there would be if something went.

use super::allocator::Heap;
use super::classes::{CLASS_WORDS_MAX, CLASSES, class_of, class_words, slab_pages, slab_slots};
use super::pages::{Census, Inner, Kind};
use crate::sync::lock;
use crate::table::layout::PAGE_WORDS;

/// Bytes of the heap by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In slots and extents that were handed out, those included that workers hold back for their next entries.
    pub allocated: u64,
    /// In free slots of slabs.
    pub free_slots: u64,
    /// In pages that belong to nobody.
    pub free_pages: u64,
}

impl Heap {
    /// What there is.
    pub fn usage(&self) -> Usage {
        let inner = lock(&self.inner);
        let bytes = |words: u64| words * 8;
        let page_bytes = |pages: u64| bytes(pages * PAGE_WORDS as u64);
        let slots = |of: fn(&Census) -> u64| -> u64 {
            inner.census.iter().enumerate().map(|(class, census)| of(census) * class_words(class) as u64).sum()
        };
        let free_slots = slots(|census| census.free);
        Usage {
            allocated: bytes(slots(|census| census.slots) - free_slots) + page_bytes(inner.extent_pages),
            free_slots: bytes(free_slots),
            free_pages: page_bytes(u64::from(inner.free_unreserved())),
        }
    }

    /// Pages that belong to nobody.
    pub fn free_pages(&self) -> usize {
        lock(&self.inner).free_unreserved() as usize
    }

    /// Pages that an entry of `words` words asks for when no slot is free: those of a slab, or of an extent.
    pub fn run_pages(words: usize) -> usize {
        if words > CLASS_WORDS_MAX { words.div_ceil(PAGE_WORDS) } else { slab_pages(class_of(words)) }
    }

    /// Slots of a size class that were handed out.
    pub fn used_slots(&self, class: usize) -> u64 {
        let Census { slots, free } = lock(&self.inner).census[class];
        slots - free
    }

    /// Pages that would belong to nobody if so many slots of each class went, and so many pages of extents
    /// (`gone(CLASSES)`), and what is left in each class were moved together.
    pub fn pages_without(&self, gone: impl Fn(usize) -> u64) -> u64 {
        lock(&self.inner).pages_if(gone(CLASSES), |class, census| census.free + gone(class))
    }

    /// Pages that would belong to nobody if only so many slots of each class stayed, and so many pages of extents
    /// (`staying(CLASSES)`), and those of each class were moved together.
    pub fn pages_beside(&self, staying: impl Fn(usize) -> u64) -> u64 {
        let inner = lock(&self.inner);
        let extents = inner.extent_pages.saturating_sub(staying(CLASSES));
        inner.pages_if(extents, |class, census| census.slots.saturating_sub(staying(class)))
    }

    /// Whether there are `count` pages in a row in which nothing lies that has to stay, as what begins at one of the
    /// words of `kept` does, which are in order. Elsewhere there have to be those pages that are reserved and will be,
    /// which are `reserved_max` at most.
    ///
    /// Looks from the high end, and no further than needed: most of the time that is `count` pages.
    pub fn has_run_without(&self, count: usize, reserved_max: usize, kept: &[u64]) -> bool {
        let inner = lock(&self.inner);
        let besides = reserved_max.min(inner.reserved as usize);
        let (mut all, mut here, mut longest) = (0, 0, 0);
        let mut end = inner.pages.len() as u32;
        while end > 0 && (longest < count || all < count + besides) {
            let page = inner.pages[end as usize - 1];
            let first = match page.kind {
                Kind::Free => inner.free_runs.range(..end).next_back().map_or(end - 1, |(&first, _)| first),
                _ => page.first,
            };
            if page.kind == Kind::Fixed || Inner::is_any_in(kept, first, end - first) {
                here = 0;
            } else {
                (all, here) = (all + (end - first) as usize, here + (end - first) as usize);
                longest = longest.max(here);
            }
            end = first;
        }
        longest >= count && all >= count + besides
    }
}

impl Inner {
    /// Pages that would belong to nobody if so many pages of extents were free besides, and so many slots of each
    /// class, and what is left in each class were moved together.
    fn pages_if(&self, extents: u64, free: impl Fn(usize, &Census) -> u64) -> u64 {
        let slabs = self.census.iter().enumerate().map(|(class, census)| {
            free(class, census).min(census.slots) / u64::from(slab_slots(class)) * slab_pages(class) as u64
        });
        u64::from(self.free_unreserved()) + slabs.sum::<u64>() + extents
    }
}
