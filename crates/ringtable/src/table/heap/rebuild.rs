//! The heap of a segment whose server is dead, built anew from the page map and from what the buckets point at.
//!
//! # Design
//!
//! The page map ([`super::map`]) says where slabs and extents are. Whoever walks over the buckets claims each place
//! that a slot points at ([`Rebuild::claim`]). What is claimed is in use, and all the rest is free: the slots that
//! workers had at hand, drafts, what was being written or had just been unlinked, and what was in a list of free slots.
//! So nothing of these lists is believed; they are made anew in the end ([`Rebuild::finish`]).
//!
//! Of a slab the slots behind the last one in use count as never touched. Slabs and extents without any use are free
//! pages, of which nobody knows whether there is memory behind them: the server finds that out as it does for pages
//! that readers have touched.
//!
//! # Invariants
//!
//! - Whatever the map holds, and whatever is claimed, nothing outside of the pages for entries is handed out, no two
//!   runs overlap, and a place is claimed once.
//! - Nothing is stored before the end but words of the map that are mended.

use std::collections::{BTreeMap, BTreeSet};

use super::allocator::Heap;
use super::classes::{CLASSES, class_words, kind_of, slab_pages, slab_slots};
use super::map::{PageMap, Run};
use super::pages::{Census, Inner, Kind, Page};
use super::slabs::slot_start;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::table::layout::PAGE_WORDS;

/// Why a place is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing of that size begins there.
    Nothing,
    /// It was claimed already.
    Taken,
}

/// What is known of a heap while it is built anew.
#[derive(Debug)]
pub struct Rebuild<'a> {
    segment: &'a [AtomicU64],
    /// All pages that entries may lie in are free at first. In the end the rest is made of them. For the moment `free`
    /// of a slab or extent is how many places in it were claimed.
    heap: Inner,
    /// For the first page of a slab or extent, where its bits begin.
    bits_at: Vec<usize>,
    /// A bit for each slot, and one for each extent: whether it was claimed.
    bits: Vec<u64>,
    /// The first page of the ring of events.
    events: Option<u32>,
    /// Pages whose word of the map is damaged.
    damaged: BTreeSet<u32>,
    /// Words of the map that were damaged, or contradicted others.
    damage: u64,
}

impl<'a> Rebuild<'a> {
    /// Reads the map of a segment whose bucket array ends before page `first_page`.
    pub fn new(segment: &'a [AtomicU64], first_page: usize) -> Self {
        let heap = Inner::new(segment.len(), first_page);
        let mut rebuild = Self {
            segment,
            bits_at: vec![0; heap.pages.len()],
            heap,
            bits: Vec::new(),
            events: None,
            damaged: BTreeSet::new(),
            damage: 0,
        };
        rebuild.read_map();
        rebuild
    }

    fn read_map(&mut self) {
        let map = PageMap::of(self.segment);
        for page in 0..self.heap.pages.len() as u32 {
            match map.get(page) {
                Ok(None) => {}
                Ok(Some((run, length))) if self.may_begin(page, run, length) => self.put(page, run, length),
                Ok(Some(_)) => {
                    self.damage += 1;
                    map.clear(page);
                }
                Err(_) => {
                    self.damage += 1;
                    self.damaged.insert(page);
                    map.clear(page);
                }
            }
        }
    }

    /// Whether such a run may begin at a page.
    fn may_begin(&self, page: u32, run: Run, length: u32) -> bool {
        let is_size = match run {
            Run::Slab(class) => length as usize == slab_pages(class),
            Run::Extent => length as usize * PAGE_WORDS > super::classes::CLASS_WORDS_MAX,
            Run::Events => self.events.is_none(),
        };
        let pages = page.checked_add(length).and_then(|end| self.heap.pages.get(page as usize..end as usize));
        is_size && pages.is_some_and(|pages| pages.iter().all(|page| page.kind == Kind::Free))
    }

    fn put(&mut self, first: u32, run: Run, length: u32) {
        let (kind, class, slots) = match run {
            Run::Slab(class) => (Kind::Slab, class, slab_slots(class) as usize),
            Run::Extent => (Kind::Extent, 0, 1),
            Run::Events => (Kind::Fixed, 0, 0),
        };
        let page = Page { kind, class: class as u8, first, length, ..Page::default() };
        self.heap.pages[first as usize..(first + length) as usize].fill(page);
        self.bits_at[first as usize] = self.bits.len();
        self.bits.resize(self.bits.len() + slots.div_ceil(64), 0);
        if run == Run::Events {
            self.events = Some(first);
        }
    }

    /// The word at which the ring of events begins, and how many words its pages have.
    pub fn events(&self) -> Option<(u64, usize)> {
        let first = self.events?;
        Some((u64::from(first) * PAGE_WORDS as u64, self.heap.pages[first as usize].length as usize * PAGE_WORDS))
    }

    /// Takes the pages of a ring of events that the map does not know of, if they are nobody's: it is the map that is
    /// damaged.
    pub fn restore_events(&mut self, start: u64, words: usize) -> bool {
        let (first, length) = ((start as usize / PAGE_WORDS) as u32, words.div_ceil(PAGE_WORDS) as u32);
        let may = (start as usize).is_multiple_of(PAGE_WORDS) && self.may_begin(first, Run::Events, length);
        if may {
            self.damage += u64::from(!self.damaged.contains(&first));
            self.put(first, Run::Events, length);
            PageMap::of(self.segment).set(first, Run::Events, length);
        }
        may
    }

    /// Gives up the ring of events: its pages are free.
    pub fn drop_events(&mut self) {
        if let Some(first) = self.events.take() {
            PageMap::of(self.segment).clear(first);
            let length = self.heap.pages[first as usize].length;
            self.heap.pages[first as usize..(first + length) as usize].fill(Page::default());
        }
    }

    /// Words of the page map that were damaged, or contradicted others, so far.
    pub fn damage(&self) -> u64 {
        self.damage
    }

    /// The first page and the number of the slot that begins at word `start`, or of the extent that does.
    fn place(&self, start: u64) -> Option<(u32, u32)> {
        let page = self.heap.pages.get(usize::try_from(start).ok()? / PAGE_WORDS)?;
        let within = start as usize - page.first as usize * PAGE_WORDS;
        match page.kind {
            Kind::Slab => slot_at(usize::from(page.class), within).map(|slot| (page.first, slot)),
            Kind::Extent => (within == 0).then_some((page.first, 0)),
            _ => None,
        }
    }

    /// Loads what is known of the place at word `start`, so that it is at hand when it is claimed. What is returned
    /// means nothing.
    #[inline]
    pub fn fetch(&self, start: u64) -> u64 {
        self.place(start).map_or(0, |(first, slot)| self.bits[self.bits_at[first as usize] + slot as usize / 64])
    }

    /// Whether something of `words` words may begin at word `start`, as far as is known, and is nobody's yet.
    ///
    /// # Errors
    /// Why not.
    fn find(&self, start: u64, words: usize) -> Result<(u32, u32), Refusal> {
        let (first, slot) = self.place(start).ok_or(Refusal::Nothing)?;
        let page = &self.heap.pages[first as usize];
        let fits = match page.kind {
            Kind::Extent => kind_of(words) == CLASSES && words.div_ceil(PAGE_WORDS) == page.length as usize,
            _ => kind_of(words) == usize::from(page.class),
        };
        let is_taken = self.bits[self.bits_at[first as usize] + slot as usize / 64] >> (slot % 64) & 1 != 0;
        match (fits, is_taken) {
            (false, _) => Err(Refusal::Nothing),
            (true, true) => Err(Refusal::Taken),
            (true, false) => Ok((first, slot)),
        }
    }

    /// Whether [`Self::claim`] would go well without mending anything.
    pub fn may_claim(&self, start: u64, words: usize) -> Result<(), Refusal> {
        self.find(start, words).map(drop)
    }

    /// Takes note that what begins at word `start` and has `words` words is in use.
    ///
    /// # Errors
    /// If no such thing can begin there, or it was claimed before.
    pub fn claim(&mut self, start: u64, words: usize) -> Result<(), Refusal> {
        let (first, slot) = self.find(start, words)?;
        self.mark(first, slot);
        Ok(())
    }

    /// The same of an entry that is known to be whole: where the map says nothing, it is the map that is damaged, and
    /// is mended.
    ///
    /// # Errors
    /// If something else is there, or it was claimed before.
    pub fn claim_whole(&mut self, start: u64, words: usize) -> Result<(), Refusal> {
        if self.place(start).is_none() {
            self.mend(start, words);
        }
        self.claim(start, words)
    }

    fn mark(&mut self, first: u32, slot: u32) {
        self.bits[self.bits_at[first as usize] + slot as usize / 64] |= 1 << (slot % 64);
        let page = &mut self.heap.pages[first as usize];
        page.free += 1;
        page.used_once = page.used_once.max(slot + 1);
    }

    /// Undoes [`Self::claim`].
    pub fn release(&mut self, start: u64) {
        if let Some((first, slot)) = self.place(start) {
            self.bits[self.bits_at[first as usize] + slot as usize / 64] &= !(1 << (slot % 64));
            self.heap.pages[first as usize].free -= 1;
        }
    }

    /// Takes note that whatever begins at word `start` is kept by somebody, if anything does and nobody has claimed it.
    /// Returns how many words it has.
    pub fn keep(&mut self, start: u64) -> Option<usize> {
        let (first, _) = self.place(start)?;
        let page = self.heap.pages[first as usize];
        let words = match page.kind {
            Kind::Extent => page.length as usize * PAGE_WORDS,
            _ => class_words(usize::from(page.class)),
        };
        self.claim(start, words).ok().map(|()| words)
    }

    /// Finds out from an entry what its page belongs to: of the slabs or extents that would have it begin at a slot,
    /// and lie in pages that are nobody's, one that begins where the map is damaged, else the only one.
    fn mend(&mut self, start: u64, words: usize) {
        let page = (start as usize / PAGE_WORDS) as u32;
        let (run, length) = match kind_of(words) {
            CLASSES => (Run::Extent, words.div_ceil(PAGE_WORDS)),
            class => (Run::Slab(class), slab_pages(class)),
        };
        let begins_there = |first: u32| {
            let within = start as usize - first as usize * PAGE_WORDS;
            match run {
                Run::Slab(class) => slot_at(class, within).is_some(),
                _ => within == 0,
            }
        };
        let from = page.saturating_sub(length as u32 - 1);
        let possible: Vec<u32> =
            (from..=page).filter(|&first| begins_there(first) && self.may_begin(first, run, length as u32)).collect();
        let known = possible.iter().find(|first| self.damaged.contains(first));
        let first = match (known, &possible[..]) {
            (Some(&first), _) => first,
            (None, &[first]) => {
                // Nobody has noticed before: it has become 0.
                self.damage += 1;
                first
            }
            _ => return,
        };
        self.put(first, run, length as u32);
        PageMap::of(self.segment).set(first, run, length as u32);
    }

    /// The heap, once all that is in use was claimed.
    pub fn finish(self) -> Heap {
        let Self { segment, mut heap, bits_at, bits, .. } = self;
        let pages = &mut heap.pages;
        // Release: as at the end of `Heap::allocate`, for the links of the free lists: a reader that still copies what
        // was there is warned.
        fence(Ordering::Release);
        let mut partial = vec![Vec::new(); CLASSES];
        let mut census = vec![Census::default(); CLASSES];
        let mut free_runs = BTreeMap::new();
        let (mut free_pages, mut extent_pages) = (0, 0);
        let mut at = 0;
        while let Some(&page) = pages.get(at as usize) {
            let Page { kind, class, length, free: used, used_once, .. } = page;
            if kind == Kind::Free || kind != Kind::Fixed && used == 0 {
                let length = if kind == Kind::Free { 1 } else { length };
                PageMap::of(segment).clear(at);
                pages[at as usize..(at + length) as usize].fill(Page::default());
                free_pages += length;
                match free_runs.last_entry() {
                    Some(mut last) if last.key() + last.get() == at => *last.get_mut() += length,
                    _ => drop(free_runs.insert(at, length)),
                }
                at += length;
                continue;
            }
            if kind == Kind::Extent {
                extent_pages += u64::from(length);
                (pages[at as usize].free, pages[at as usize].used_once) = (0, 0);
            }
            if kind == Kind::Slab {
                let class = usize::from(class);
                let (slots, mut first_free) = (slab_slots(class), 0);
                let is_used = |slot: u32| bits[bits_at[at as usize] + slot as usize / 64] >> (slot % 64) & 1 != 0;
                for slot in (0..used_once).rev().filter(|&slot| !is_used(slot)) {
                    // Relaxed: read by holders of the heap's lock.
                    segment[slot_start(at, class, slot)].store(u64::from(first_free), Ordering::Relaxed);
                    first_free = slot + 1;
                }
                let free = slots - used;
                census[class].slots += u64::from(slots);
                census[class].free += u64::from(free);
                if free > 0 {
                    partial[class].push(at);
                }
                let page = &mut pages[at as usize];
                (page.free, page.first_free, page.listed) = (free, first_free, 0);
                if free > 0 {
                    page.listed = partial[class].len() as u32;
                }
            }
            at += length.max(1);
        }
        (heap.free_runs, heap.free_pages) = (free_runs, free_pages);
        (heap.partial, heap.census, heap.extent_pages) = (partial, census, extent_pages);
        Heap::with(heap)
    }
}

/// The slot that begins so many words behind the beginning of a slab.
fn slot_at(class: usize, within: usize) -> Option<u32> {
    let words = class_words(class);
    let slot = (within / words) as u32;
    (within.is_multiple_of(words) && slot < slab_slots(class)).then_some(slot)
}
