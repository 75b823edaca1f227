//! The heap of a segment whose server is dead, built anew from the page map and from what the buckets point at.
//!
//! # Design
//!
//! The page map ([`super::map`]) says where slabs and extents are. Whoever walks over the buckets claims each place
//! that a slot points at ([`Rebuild::claim`], [`Rebuild::claim_place`]). What is claimed is in use, and all the rest is
//! free: the slots that workers had at hand, drafts, what was being written or had just been unlinked, and what was in
//! a list of free slots.
//!
//! So nothing of these lists is believed. They are not made anew either: that would write to as many pages as have a
//! free slot, all over the segment, while others wait. The bits of what was claimed stay with the heap instead
//! ([`super::gaps`]).
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
use super::gaps::Gaps;
use super::map::{PageMap, Run};
use super::pages::{Census, Inner, Kind, Page};
use crate::sync::{AtomicU64, Ordering, fence, prefetch};
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
    /// All pages that entries may lie in are free at first. In the end the rest is made of them.
    heap: Inner,
    /// What begins in each page: all that a claim has to know, so that it stays in the processor's cache.
    sites: Vec<Site>,
    /// A bit for each slot, and one for each extent: whether it was claimed.
    bits: Vec<u64>,
    /// The first page of the ring of events.
    events: Option<u32>,
    /// Pages whose word of the map is damaged.
    damaged: BTreeSet<u32>,
    /// Words of the map that were damaged, or contradicted others.
    damage: u64,
}

/// What may begin in a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Places {
    #[default]
    None,
    Slots,
    /// An extent, at its first word.
    First,
}

/// What is known of a page for claims: 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Site {
    /// Where the bits of its slab or extent begin.
    bits_at: u32,
    places: Places,
    class: u8,
    /// Which page of its slab it is.
    nth: u8,
}

/// The place of a slot or an extent, by the number of its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl<'a> Rebuild<'a> {
    /// Reads the map of a segment whose bucket array ends before page `first_page`.
    pub fn new(segment: &'a [AtomicU64], first_page: usize) -> Self {
        let heap = Inner::new(segment.len(), first_page);
        let mut rebuild = Self {
            segment,
            sites: vec![Site::default(); heap.pages.len()],
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
        let pages = first as usize..(first + length) as usize;
        self.heap.pages[pages.clone()].fill(page);
        let places = match run {
            Run::Slab(_) => Places::Slots,
            Run::Extent => Places::First,
            Run::Events => Places::None,
        };
        for (nth, site) in self.sites[pages].iter_mut().enumerate() {
            let places = if places == Places::First && nth > 0 { Places::None } else { places };
            *site = Site { bits_at: self.bits.len() as u32, places, class: class as u8, nth: nth as u8 };
        }
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

    /// The slot or the extent that begins at word `start`.
    #[inline]
    pub fn place(&self, start: u64) -> Option<Place> {
        let start = usize::try_from(start).ok()?;
        let site = self.sites.get(start / PAGE_WORDS)?;
        let within = start % PAGE_WORDS + usize::from(site.nth) * PAGE_WORDS;
        let nth = match site.places {
            Places::Slots => slot_at(usize::from(site.class), within)?,
            Places::First if within == 0 => 0,
            _ => return None,
        };
        Some(Place(u64::from(site.bits_at) * 64 + u64::from(nth)))
    }

    /// Has the bit of a place at hand when it is claimed.
    #[inline]
    pub fn prefetch(&self, place: Place) {
        prefetch(&self.bits[(place.0 / 64) as usize]);
    }

    fn is_taken(&self, place: Place) -> bool {
        self.bits[(place.0 / 64) as usize] >> (place.0 % 64) & 1 != 0
    }

    /// Whether something of `words` words may begin at word `start`, as far as is known, and is nobody's yet.
    ///
    /// # Errors
    /// Why not.
    fn find(&self, start: u64, words: usize) -> Result<Place, Refusal> {
        let place = self.place(start).ok_or(Refusal::Nothing)?;
        let page = &self.heap.pages[start as usize / PAGE_WORDS];
        let fits = match page.kind {
            Kind::Extent => kind_of(words) == CLASSES && words.div_ceil(PAGE_WORDS) == page.length as usize,
            _ => kind_of(words) == usize::from(page.class),
        };
        match (fits, self.is_taken(place)) {
            (false, _) => Err(Refusal::Nothing),
            (true, true) => Err(Refusal::Taken),
            (true, false) => Ok(place),
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
        let place = self.find(start, words)?;
        self.claim_place(place)
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

    /// The same of whatever lies in a place, whatever its size.
    ///
    /// # Errors
    /// If it was claimed before.
    #[inline]
    pub fn claim_place(&mut self, Place(number): Place) -> Result<(), Refusal> {
        let (bits, bit) = (&mut self.bits[(number / 64) as usize], 1 << (number % 64));
        if *bits & bit != 0 {
            return Err(Refusal::Taken);
        }
        *bits |= bit;
        Ok(())
    }

    /// Whether what begins at word `start` was claimed.
    pub fn is_claimed(&self, start: u64) -> bool {
        self.place(start).is_some_and(|place| self.is_taken(place))
    }

    /// Words of the slot or extent that begins at word `start`; 0 if none can.
    pub fn place_words(&self, start: u64) -> usize {
        if self.place(start).is_none() {
            return 0;
        }
        let page = &self.heap.pages[start as usize / PAGE_WORDS];
        match page.kind {
            Kind::Extent => page.length as usize * PAGE_WORDS,
            _ => class_words(usize::from(page.class)),
        }
    }

    /// Undoes [`Self::claim`].
    pub fn release(&mut self, start: u64) {
        if let Some(Place(number)) = self.place(start) {
            self.bits[(number / 64) as usize] &= !(1 << (number % 64));
        }
    }

    /// Undoes all claims.
    pub fn release_all(&mut self) {
        self.bits.fill(0);
    }

    /// Takes note that whatever begins at word `start` is kept by somebody, if anything does and nobody has claimed it.
    /// Returns how many words it has.
    pub fn keep(&mut self, start: u64) -> Option<usize> {
        let place = self.place(start)?;
        self.claim_place(place).ok().map(|()| self.place_words(start))
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
        let Self { segment, mut heap, sites, bits, .. } = self;
        let pages = &mut heap.pages;
        // Release: as at the end of `Heap::allocate`, for what is handed out: a reader that still copies what was there
        // is warned.
        fence(Ordering::Release);
        let mut partial = vec![Vec::new(); CLASSES];
        let mut census = vec![Census::default(); CLASSES];
        let mut free_runs = BTreeMap::new();
        let (mut free_pages, mut extent_pages, mut with_gaps) = (0, 0, 0);
        let mut at = 0;
        while let Some(&page) = pages.get(at as usize) {
            let Page { kind, class, length, .. } = page;
            let class = usize::from(class);
            let bits_at = sites[at as usize].bits_at;
            let slots = if kind == Kind::Slab { slab_slots(class) } else { 1 };
            let used_bits = bits.get(bits_at as usize..).unwrap_or_default().iter().take(slots.div_ceil(64) as usize);
            let used: u32 = used_bits.clone().map(|bits| bits.count_ones()).sum();
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
            }
            if kind == Kind::Slab {
                let last = used_bits.enumerate().rfind(|(_, bits)| **bits != 0);
                let used_once = last.map_or(0, |(nth, bits)| nth as u32 * 64 + 64 - bits.leading_zeros());
                let free = slots - used;
                census[class].slots += u64::from(slots);
                census[class].free += u64::from(free);
                let page = &mut pages[at as usize];
                (page.free, page.used_once) = (free, used_once);
                if used < used_once {
                    page.used_bits = bits_at + 1;
                    with_gaps += 1;
                }
                if free > 0 {
                    partial[class].push(at);
                    page.listed = partial[class].len() as u32;
                }
            }
            at += length.max(1);
        }
        (heap.free_runs, heap.free_pages) = (free_runs, free_pages);
        (heap.partial, heap.census, heap.extent_pages) = (partial, census, extent_pages);
        heap.gaps = Gaps::new(bits, with_gaps);
        Heap::with(heap)
    }
}

/// The slot that begins so many words behind the beginning of a slab.
#[inline]
fn slot_at(class: usize, within: usize) -> Option<u32> {
    // 32 bits: a slab has no more words, and they are divided twice as quickly.
    let (words, within) = (class_words(class) as u32, within as u32);
    let slot = within / words;
    (slot * words == within && slot < slab_slots(class)).then_some(slot)
}
