//! The pages of the heap: the use of each, and the free ones.

use std::collections::BTreeMap;

use super::classes::{CLASSES, slab_slots};
use super::gaps::Gaps;
use super::map::{PageMap, Run};
use crate::sync::AtomicU64;
use crate::table::layout::{PAGE_WORDS, page_map_pages};

/// What a page is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    #[default]
    Free,
    /// Slots of one size class.
    Slab,
    /// Like a slab, but all that lives in it is about to be unlinked: it hands out no slot any more, keeps no list of
    /// free ones, and goes as a whole when the last one has come back.
    Condemned,
    /// One entry.
    Extent,
    /// Something that stays where it is: buckets, the ring of events.
    Fixed,
}

/// What is known of a page. For a slab or an extent, all but `kind`, `dirty` and `first` is kept with its first page.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Page {
    pub(super) kind: Kind,
    /// Whether the kernel may have given memory for it.
    pub(super) dirty: bool,
    pub(super) class: u8,
    /// Whether a slab hands out no slots for the time being, since it is being cleared.
    pub(super) closed: bool,
    /// First page of the slab or extent this page belongs to.
    pub(super) first: u32,
    /// Pages of the slab or extent.
    pub(super) length: u32,
    /// Slots not handed out.
    pub(super) free: u32,
    /// Slots handed out at least once: those above were never touched.
    pub(super) used_once: u32,
    /// First slot of the free list, plus one; 0 = empty list.
    pub(super) first_free: u32,
    /// Where the slab stands in its class's list of slabs with free slots, plus one; 0 = it does not.
    pub(super) listed: u32,
    /// Where its bits in [`Inner::gaps`] begin, plus one; 0 = it has none.
    pub(super) used_bits: u32,
}

/// How much of a size class there is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    pub(super) slots: u64,
    pub(super) free: u64,
}

/// All pages, and the slots in them, as the heap knows them under its lock.
#[derive(Debug)]
pub(super) struct Inner {
    /// Free runs of pages: first page to number of pages; no two touch.
    pub(super) free_runs: BTreeMap<u32, u32>,
    pub(super) free_pages: u32,
    /// Free pages that nobody gets, since memory elsewhere is used in their stead.
    pub(super) reserved: u32,
    /// Free pages that the kernel may have given memory for, and the fewest of them since `Heap::dirty_low` was
    /// asked.
    pub(super) dirty_free: u32,
    pub(super) dirty_low: u32,
    pub(super) extent_pages: u64,
    pub(super) pages: Vec<Page>,
    /// By class: slabs that have free slots.
    pub(super) partial: Vec<Vec<u32>>,
    /// By class: the one of these that is empty and kept for the next to come, plus one; 0 = none.
    pub(super) kept_empty: Vec<u32>,
    pub(super) census: Vec<Census>,
    /// Free slots of slabs that were taken over.
    pub(super) gaps: Gaps,
    /// Where the search for pages to clear, and for those to give back, goes on.
    pub(super) clear_rover: u32,
    pub(super) dirty_rover: u32,
    /// Where the search for the emptiest slab of a class goes on.
    pub(super) sparse_rover: usize,
}

impl Inner {
    /// All pages of `words` words from `first_page` on are free, but those of the page map.
    pub(super) fn new(words: usize, first_page: usize) -> Self {
        let count = words / PAGE_WORDS;
        let end = count.saturating_sub(page_map_pages(words)).max(first_page.min(count));
        let free = (end - first_page.min(end)) as u32;
        let mut free_runs = BTreeMap::new();
        if free > 0 {
            free_runs.insert(first_page as u32, free);
        }
        let fixed = |page: usize| Page { kind: Kind::Fixed, first: page as u32, length: 1, ..Page::default() };
        let pages = (0..count)
            .map(|page| if (first_page..end).contains(&page) { Page::default() } else { fixed(page) })
            .collect();
        Self {
            free_runs,
            free_pages: free,
            reserved: 0,
            dirty_free: 0,
            dirty_low: 0,
            extent_pages: 0,
            pages,
            partial: vec![Vec::new(); CLASSES],
            kept_empty: vec![0; CLASSES],
            census: vec![Census::default(); CLASSES],
            gaps: Gaps::default(),
            clear_rover: 0,
            dirty_rover: 0,
            sparse_rover: 0,
        }
    }

    /// Free pages that may be used. (Those that are set aside for a moment may be among the reserved ones.)
    pub(super) fn free_unreserved(&self) -> u32 {
        self.free_pages.saturating_sub(self.reserved)
    }

    /// Whether one of the words of `kept`, which are in order, lies in these pages.
    pub(super) fn is_any_in(kept: &[u64], first: u32, count: u32) -> bool {
        let word = |page: u32| u64::from(page) * PAGE_WORDS as u64;
        kept.get(kept.partition_point(|&start| start < word(first))).is_some_and(|&start| start < word(first + count))
    }

    /// Takes `count` adjacent pages from the highest free run that has them.
    pub(super) fn take_run(&mut self, segment: &[AtomicU64], count: u32, run: Run) -> Option<u32> {
        if self.free_unreserved() < count {
            return None;
        }
        let (&first, &length) = self.free_runs.iter().rev().find(|&(_, &length)| length >= count)?;
        if length == count {
            self.free_runs.remove(&first);
        } else {
            self.free_runs.insert(first, length - count);
        }
        let first = first + length - count;
        let (kind, class) = match run {
            Run::Slab(class) => (Kind::Slab, class),
            Run::Extent => (Kind::Extent, 0),
            Run::Events => (Kind::Fixed, 0),
        };
        self.occupy(first, count, kind);
        self.pages[first as usize].class = class as u8;
        PageMap::of(segment).set(first, run, count);
        Some(first)
    }

    pub(super) fn take_exactly(&mut self, page: u32) -> bool {
        let Some((&first, &length)) = self.free_runs.range(..=page).next_back() else { return false };
        if page >= first + length {
            return false;
        }
        self.free_runs.remove(&first);
        if page > first {
            self.free_runs.insert(first, page - first);
        }
        if page + 1 < first + length {
            self.free_runs.insert(page + 1, first + length - page - 1);
        }
        self.occupy(page, 1, Kind::Fixed);
        true
    }

    /// Takes note of what free pages, out of their run already, are used for now.
    fn occupy(&mut self, first: u32, count: u32, kind: Kind) {
        self.free_pages -= count;
        for page in first..first + count {
            let dirty = self.pages[page as usize].dirty;
            self.dirty_free -= u32::from(dirty);
            // Kept: it says what the page was, should it come back untouched.
            self.pages[page as usize] = Page { kind, first, length: count, dirty, ..Page::default() };
        }
        self.dirty_low = self.dirty_low.min(self.dirty_free);
        if kind == Kind::Extent {
            self.extent_pages += u64::from(count);
        }
    }

    /// Frees a whole slab or extent.
    pub(super) fn give_run(&mut self, segment: &[AtomicU64], first: u32) {
        PageMap::of(segment).clear(first);
        let Page { kind, class, length, used_bits, .. } = self.pages[first as usize];
        if used_bits != 0 {
            self.gaps.close();
        }
        match kind {
            Kind::Extent => self.extent_pages -= u64::from(length),
            Kind::Slab | Kind::Condemned => {
                let census = &mut self.census[usize::from(class)];
                let slots = u64::from(slab_slots(usize::from(class)));
                (census.slots, census.free) = (census.slots - slots, census.free - slots);
            }
            Kind::Free | Kind::Fixed => debug_assert!(false, "neither slab nor extent"),
        }
        self.give_pages(first, length, true);
    }

    /// Makes pages free; `dirty` if there may be memory behind them.
    pub(super) fn give_pages(&mut self, mut first: u32, mut count: u32, dirty: bool) {
        self.free_pages += count;
        self.dirty_free += if dirty { count } else { 0 };
        for page in first..first + count {
            self.pages[page as usize] = Page { dirty, ..Page::default() };
        }
        if let Some((&before, &length)) = self.free_runs.range(..first).next_back()
            && before + length == first
        {
            self.free_runs.remove(&before);
            first = before;
            count += length;
        }
        if let Some(length) = self.free_runs.remove(&(first + count)) {
            count += length;
        }
        self.free_runs.insert(first, count);
    }
}
