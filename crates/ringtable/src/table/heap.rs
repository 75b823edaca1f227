//! Memory for entries and overflow buckets: size classes in slabs of whole pages, extents above that.
//!
//! # Design
//!
//! The segment behind the header is one range of 64 KiB pages. The bucket array takes pages from the low end, one after
//! the other; slabs and extents take runs of pages from the high end. A slab serves one size class; free slots of a
//! slab form a list through their own first words, and slots never used yet are counted, so fresh pages stay untouched
//! until needed. Each worker has a [`Cache`] of free slots per class, refilled and emptied in batches, so that the one
//! lock here is taken once in [`BATCH`] operations.
//!
//! Size classes go in steps of 8 bytes up to 256 bytes and in steps of 12.5 % up to 256 KiB: the finer steps at the
//! small end are what keeps an entry of 16 + 100 bytes within its 40 bytes of overhead.
//!
//! Where memory is free but in the wrong places (in slabs of another class, or not in a row), pages are cleared: the
//! heap closes a slab or a run of pages ([`Heap::close_sparse_slab`], [`Heap::close_run`]), the writer moves what lives
//! there, and the heap takes the pages as free. That also keeps a change of value sizes from starving.
//!
//! Free pages that had memory behind them are *dirty*. The server gives dirty pages back to the kernel that nobody has
//! needed for a while ([`Heap::dirty_low`], [`Heap::take_dirty`]).
//!
//! # Invariants
//!
//! - A page belongs to the bucket array, to one slab, to one extent, or to one free run.
//! - The lists live in memory that only the server can write (I2); all other bookkeeping is private to it, and could be
//!   rebuilt by walking the buckets.
//! - Memory is filled only behind a fence(Release) that comes after the unlocking that made it unreachable: a reader
//!   that still copies the old contents, and sees any of the new, also sees the bucket's new version.
//!
//! # Not promised
//!
//! Memory that all workers together hold in their caches (at most 64 KiB per class and worker) is not lent to others,
//! so a table may be found full that much too early. An entry that is read in place for long, on a low page, can keep
//! the bucket array from growing, which makes chains longer and nothing else.

use std::collections::{BTreeMap, VecDeque};

use super::layout::PAGE_WORDS;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, fence, lock};

/// Largest slot of a size class, in words; anything above is an extent of whole pages.
pub const CLASS_WORDS_MAX: usize = 4 * PAGE_WORDS;
/// Up to here classes go in steps of one word.
const FINE_WORDS_MAX: usize = 32;
/// Smallest slot, in words: the header of an entry.
const FINE_WORDS_MIN: usize = 2;
const FINE_CLASSES: usize = FINE_WORDS_MAX - FINE_WORDS_MIN + 1;
const STEPS: usize = 8;
/// Number of size classes.
pub const CLASSES: usize = FINE_CLASSES
    + if CLASS_WORDS_MAX > FINE_WORDS_MAX { STEPS * (CLASS_WORDS_MAX / FINE_WORDS_MAX).ilog2() as usize } else { 0 };
/// Most slots that go from the heap to a cache, or back, at once.
pub const BATCH: usize = if cfg!(loom) { 1 } else { 32 };
/// Most bytes that go to a cache at once, if that is fewer slots.
const BATCH_WORDS: usize = 32 << 7;
/// Free bytes in slots that are no reason yet to empty slabs.
const SPARSE_MIN: u64 = 8 << 20;
/// Most pages of a slab.
const SLAB_PAGES_MAX: usize = 16;

/// The class whose slots are the smallest that hold `words`.
fn class_of(words: usize) -> usize {
    if words <= FINE_WORDS_MAX {
        return words.saturating_sub(FINE_WORDS_MIN);
    }
    let octave = (words - 1).ilog2() as usize;
    let step = (1 << octave) / STEPS;
    let steps = (words - (1 << octave)).div_ceil(step);
    FINE_CLASSES + (octave - FINE_WORDS_MAX.ilog2() as usize) * STEPS + steps - 1
}

/// The size class that serves `words` words; [`CLASSES`] for an extent.
#[inline]
pub fn kind_of(words: usize) -> usize {
    if words > CLASS_WORDS_MAX { CLASSES } else { class_of(words) }
}

/// Words that an entry of `words` words takes: those of its slot, or of its pages.
pub fn taken_words(words: usize) -> usize {
    if words > CLASS_WORDS_MAX { words.next_multiple_of(PAGE_WORDS) } else { class_words(class_of(words)) }
}

/// What a size class looks like.
#[derive(Clone, Copy)]
struct Class {
    /// Words of a slot.
    words: usize,
    /// Pages of a slab: the fewest whose unused tail is at most a sixteenth.
    pages: usize,
    /// Slots of a slab.
    slots: u32,
}

impl Class {
    const fn new(class: usize) -> Self {
        let words = if class < FINE_CLASSES {
            class + FINE_WORDS_MIN
        } else {
            let (octave, step) = ((class - FINE_CLASSES) / STEPS, (class - FINE_CLASSES) % STEPS);
            let base = FINE_WORDS_MAX << octave;
            base + (step + 1) * base / STEPS
        };
        let mut pages = 1;
        while pages < SLAB_PAGES_MAX
            && (pages * PAGE_WORDS < words || (pages * PAGE_WORDS) % words * 16 > pages * PAGE_WORDS)
        {
            pages += 1;
        }
        Self { words, pages, slots: (pages * PAGE_WORDS / words) as u32 }
    }
}

/// All classes, worked out when this is compiled: freeing a slot should not need a division or a search.
static CLASS: [Class; CLASSES] = {
    let mut classes = [Class::new(0); CLASSES];
    let mut class = 1;
    while class < CLASSES {
        classes[class] = Class::new(class);
        class += 1;
    }
    classes
};

/// Words of a slot of a class.
#[inline]
fn class_words(class: usize) -> usize {
    CLASS[class].words
}

/// Pages of a slab.
#[inline]
fn slab_pages(class: usize) -> usize {
    CLASS[class].pages
}

/// Slots of a slab.
#[inline]
fn slab_slots(class: usize) -> u32 {
    CLASS[class].slots
}

/// How many slots a cache takes or gives at once.
fn batch(class: usize) -> usize {
    (BATCH_WORDS / class_words(class)).clamp(1, BATCH)
}

/// A worker's free slots, by class. Give it back with [`Heap::drain`].
#[derive(Debug)]
pub struct Cache {
    slots: Vec<Vec<u64>>,
    /// Slots of all classes together.
    count: usize,
    /// Whether it counts among those that hold slots.
    holds: bool,
    /// How often the heap had asked for them when we last looked.
    recalls: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { slots: vec![Vec::new(); CLASSES], count: 0, holds: false, recalls: 0 }
    }
}

/// What a page is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
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
struct Page {
    kind: Kind,
    /// Whether the kernel may have given memory for it.
    dirty: bool,
    class: u8,
    /// Whether a slab hands out no slots for the time being, since it is being cleared.
    closed: bool,
    /// First page of the slab or extent this page belongs to.
    first: u32,
    /// Pages of the slab or extent.
    length: u32,
    /// Slots not handed out.
    free: u32,
    /// Slots handed out at least once: those above were never touched.
    used_once: u32,
    /// First slot of the free list, plus one; 0 = empty list.
    first_free: u32,
    /// Where the slab stands in its class's list of slabs with free slots, plus one; 0 = it does not.
    listed: u32,
}

/// How much of a size class there is.
#[derive(Clone, Copy, Debug, Default)]
struct Census {
    slots: u64,
    free: u64,
}

#[derive(Debug)]
struct Inner {
    /// Free runs of pages: first page to number of pages; no two touch.
    free_runs: BTreeMap<u32, u32>,
    free_pages: u32,
    /// Free pages that nobody gets, since memory elsewhere is used in their stead.
    reserved: u32,
    /// Free pages that the kernel may have given memory for, and the fewest of them since [`Heap::dirty_low`] was
    /// asked.
    dirty_free: u32,
    dirty_low: u32,
    extent_pages: u64,
    pages: Vec<Page>,
    /// By class: slabs that have free slots.
    partial: Vec<Vec<u32>>,
    /// By class: the one of these that is empty and kept for the next to come, plus one; 0 = none.
    kept_empty: Vec<u32>,
    census: Vec<Census>,
    /// Where the search for pages to clear, and for those to give back, goes on.
    clear_rover: u32,
    dirty_rover: u32,
    /// Where the search for the emptiest slab of a class goes on.
    sparse_rover: usize,
}

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

/// The heap of one segment.
#[derive(Debug)]
pub struct Heap {
    inner: Mutex<Inner>,
    /// Whether there may be free pages with memory behind them, or many free slots.
    slack: AtomicBool,
    /// Goes up when workers are to give back the free slots that they hold.
    recalls: AtomicU64,
    /// Workers that hold free slots, or did a moment ago.
    holders: AtomicU64,
}

/// Pages that are being cleared: what lives there is to be moved or removed, then [`Heap::finish_clearing`].
#[derive(Debug, Default)]
#[must_use]
pub struct Clearing {
    /// Free pages that were set aside, as first page and number.
    free: Vec<(u32, u32)>,
    /// Slabs that were closed.
    slabs: Vec<u32>,
    /// Extents, as first page and number, in their order.
    extents: Vec<(u32, u32)>,
    /// The words at which something may live: slots of the slabs, and extents.
    pub starts: Vec<u64>,
}

impl Heap {
    /// A heap over `words` words, all pages from `first_page` on being free.
    pub fn new(words: usize, first_page: usize) -> Self {
        let count = words / PAGE_WORDS;
        let free = (count - first_page) as u32;
        let mut free_runs = BTreeMap::new();
        if free > 0 {
            free_runs.insert(first_page as u32, free);
        }
        let fixed = |page: usize| Page { kind: Kind::Fixed, first: page as u32, length: 1, ..Page::default() };
        let pages = (0..count).map(|page| if page < first_page { fixed(page) } else { Page::default() }).collect();
        let inner = Inner {
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
            clear_rover: 0,
            dirty_rover: 0,
            sparse_rover: 0,
        };
        Self {
            inner: Mutex::new(inner),
            slack: AtomicBool::new(false),
            recalls: AtomicU64::new(0),
            holders: AtomicU64::new(0),
        }
    }

    /// Memory for `words` words, as the word it begins at; `None` if there is none.
    ///
    /// What it holds is undefined. Fill it with relaxed stores and publish it with Release.
    pub fn allocate(&self, segment: &[AtomicU64], cache: &mut Cache, words: usize) -> Option<u64> {
        let start = match self.try_allocate(segment, cache, words) {
            Some(start) => start,
            None => {
                // What we hold back ourselves may be what is missing.
                self.drain(segment, cache);
                lock(&self.inner).release_empty_slabs();
                self.try_allocate(segment, cache, words)?
            }
        };
        // Release: pairs with the fence(Acquire) in `BucketRef::end_read`, see the module header.
        fence(Ordering::Release);
        Some(start)
    }

    /// The same, without going to any lengths for it.
    pub fn allocate_at_hand(&self, segment: &[AtomicU64], cache: &mut Cache, words: usize) -> Option<u64> {
        let start = self.try_allocate(segment, cache, words)?;
        // Release: as in `allocate`.
        fence(Ordering::Release);
        Some(start)
    }

    fn try_allocate(&self, segment: &[AtomicU64], cache: &mut Cache, words: usize) -> Option<u64> {
        if words > CLASS_WORDS_MAX {
            let first = lock(&self.inner).take_run(words.div_ceil(PAGE_WORDS) as u32, Kind::Extent)?;
            return Some(u64::from(first) * PAGE_WORDS as u64);
        }
        self.heed_recall(segment, cache);
        let class = class_of(words);
        let slots = &mut cache.slots[class];
        if slots.is_empty() {
            lock(&self.inner).take_slots(segment, class, batch(class), slots);
            cache.count += slots.len();
            self.note_holder(cache);
        }
        let start = cache.slots[class].pop()?;
        cache.count -= 1;
        Some(start)
    }

    /// Takes back memory that [`Self::allocate`] gave for `words` words and that no slot points at any more.
    pub fn free(&self, segment: &[AtomicU64], cache: &mut Cache, start: u64, words: usize) {
        if words > CLASS_WORDS_MAX {
            lock(&self.inner).give_run((start / PAGE_WORDS as u64) as u32);
            return self.note_slack();
        }
        let class = class_of(words);
        let slots = &mut cache.slots[class];
        slots.push(start);
        cache.count += 1;
        self.note_holder(cache);
        let slots = &mut cache.slots[class];
        if slots.len() >= 2 * batch(class) {
            // The oldest go back: what was freed last is the likeliest to be in the processor's cache.
            cache.count -= batch(class);
            lock(&self.inner).give_slots(segment, class, slots.drain(..batch(class)));
            self.note_slack();
        }
    }

    /// Takes back all that a cache holds.
    pub fn drain(&self, segment: &[AtomicU64], cache: &mut Cache) {
        if std::mem::take(&mut cache.holds) {
            // Relaxed: a count that guards no data.
            self.holders.fetch_sub(1, Ordering::Relaxed);
        }
        if cache.count == 0 {
            return;
        }
        let mut inner = lock(&self.inner);
        for (class, slots) in cache.slots.iter_mut().enumerate() {
            inner.give_slots(segment, class, slots.drain(..));
        }
        cache.count = 0;
        self.note_slack();
    }

    /// Makes every worker give back the free slots it holds, soon.
    pub fn recall(&self) {
        // Relaxed: see `heed_recall`.
        self.recalls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back all that a cache holds, if that was asked for since the last call.
    #[inline]
    pub fn heed_recall(&self, segment: &[AtomicU64], cache: &mut Cache) {
        // Relaxed: a request that is heard a little later is heard all the same.
        let recalls = self.recalls.load(Ordering::Relaxed);
        if cache.recalls != recalls {
            cache.recalls = recalls;
            self.drain(segment, cache);
        }
    }

    /// Whether there are workers that hold free slots.
    pub fn has_holders(&self) -> bool {
        // Relaxed: a count that guards no data.
        self.holders.load(Ordering::Relaxed) > 0
    }

    /// Takes note that a cache holds slots.
    #[inline]
    fn note_holder(&self, cache: &mut Cache) {
        if !cache.holds {
            cache.holds = true;
            // Relaxed: as in `drain`.
            self.holders.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives up the empty slabs that were kept for the next to come.
    pub fn release(&self) {
        lock(&self.inner).release_empty_slabs();
        self.note_slack();
    }

    /// Whole pages for `words` words of something that never moves and is never given back.
    pub fn allocate_fixed(&self, words: usize) -> Option<u64> {
        let first = lock(&self.inner).take_run(words.div_ceil(PAGE_WORDS) as u32, Kind::Fixed)?;
        // Release: as in `allocate`.
        fence(Ordering::Release);
        Some(u64::from(first) * PAGE_WORDS as u64)
    }

    /// Takes exactly page `page` for the bucket array, if it is free.
    pub fn take_page(&self, page: usize) -> bool {
        let mut inner = lock(&self.inner);
        inner.free_unreserved() > 0 && inner.take_exactly(page as u32)
    }

    /// Sets a free page aside in exchange for as much memory outside of the segment. `false` if there is none.
    pub fn reserve_page(&self) -> bool {
        let mut inner = lock(&self.inner);
        let is_free = inner.free_unreserved() > 0;
        inner.reserved += u32::from(is_free);
        is_free
    }

    /// Ends what [`Self::reserve_page`] began, for `pages` pages.
    pub fn unreserve_pages(&self, pages: usize) {
        lock(&self.inner).reserved -= pages as u32;
    }

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

/// Giving memory back to the kernel, and making room where memory is free but lies in the wrong places.
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

    fn note_slack(&self) {
        // Relaxed, here and below: a hint. Looked at first, so that the line stays shared.
        if !self.slack.load(Ordering::Relaxed) {
            self.slack.store(true, Ordering::Relaxed);
        }
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

    /// Whether there is a class whose slabs have room for what lives in one of them.
    pub fn has_sparse_class(&self) -> bool {
        let inner = lock(&self.inner);
        (0..CLASSES).any(|class| inner.is_sparse(class))
    }

    /// Closes the emptiest known slab of a class whose other slabs have room for what lives in it; `None` if no class
    /// has so many free slots. None in which something begins at one of the words of `kept`, which are in order.
    pub fn close_sparse_slab(&self, kept: &[u64]) -> Option<Clearing> {
        /// How many slabs of a class are compared.
        const COMPARED_MAX: usize = 64;
        let mut inner = lock(&self.inner);
        let share = |class: usize| {
            let Census { slots, free } = inner.census[class];
            free * 1_000 / slots.max(1)
        };
        let class = (0..CLASSES).filter(|&class| inner.is_sparse(class)).max_by_key(|&class| share(class))?;
        // Not always the same ones: where full slabs have gathered, there are no empty ones.
        inner.sparse_rover = inner.sparse_rover.wrapping_add(COMPARED_MAX);
        let listed = &inner.partial[class];
        let compared = (0..listed.len().min(COMPARED_MAX)).map(|nth| listed[(inner.sparse_rover + nth) % listed.len()]);
        let movable = compared.filter(|&slab| !Inner::is_any_in(kept, slab, inner.pages[slab as usize].length));
        let slab = movable.max_by_key(|&slab| inner.pages[slab as usize].free)?;
        let mut clearing = Clearing::default();
        inner.close(slab, &mut clearing);
        Some(clearing)
    }

    /// Closes the slab or extent that a page belongs to; `None` if it cannot be cleared.
    pub fn close_page(&self, page: usize) -> Option<Clearing> {
        let mut inner = lock(&self.inner);
        let Page { kind, first, closed, .. } = *inner.pages.get(page)?;
        let mut clearing = Clearing::default();
        match kind {
            Kind::Slab if !closed => inner.close(first, &mut clearing),
            Kind::Extent => clearing.starts.push(u64::from(first) * PAGE_WORDS as u64),
            _ => return None,
        }
        Some(clearing)
    }

    /// Closes adjacent pages, `count` of them or somewhat more, with as little living in them as can be found, and
    /// nothing that begins at one of the words of `kept`, which are in order. If all of it `must_fit` elsewhere, it
    /// does, as far as that can be told from how much is free of each class.
    pub fn close_run(&self, count: usize, kept: &[u64], must_fit: bool) -> Option<Clearing> {
        self.close_run_by(count, kept, must_fit, |_, _, living| living)
    }

    /// The same by another measure of what lives there: of the slab or extent of a kind (see [`kind_of`]) that begins
    /// at a word, and has so many words in use.
    pub fn close_run_by(
        &self,
        count: usize,
        kept: &[u64],
        must_fit: bool,
        measure: impl Fn(u64, usize, u64) -> u64,
    ) -> Option<Clearing> {
        /// Slabs, extents and free runs that are looked at, besides those of the run itself.
        const LOOKED_AT_MAX: usize = 4_096;
        let mut inner = lock(&self.inner);
        let total = inner.pages.len() as u32;
        // The objects in the window: first page, pages, words that live there.
        let mut window: VecDeque<(u32, u32, u64)> = VecDeque::new();
        let (mut pages, mut cost) = (0, 0);
        let mut best: Option<(u64, u32, u32)> = None;
        let mut at = if inner.clear_rover < total { inner.clear_rover } else { 0 };
        for _ in 0..LOOKED_AT_MAX + count {
            if at >= total {
                break;
            }
            let (length, living) = inner.object(at);
            let Some(living) = living.filter(|_| !Inner::is_any_in(kept, at, length)) else {
                window.clear();
                (pages, cost) = (0, 0);
                at += length;
                continue;
            };
            let page = &inner.pages[at as usize];
            let kind = if page.kind == Kind::Extent { CLASSES } else { usize::from(page.class) };
            let living = if living > 0 { measure(u64::from(at) * PAGE_WORDS as u64, kind, living) } else { 0 };
            window.push_back((at, length, living));
            (pages, cost) = (pages + length, cost + living);
            at += length;
            while let Some(&(_, length, living)) = window.front()
                && (pages - length) as usize >= count
            {
                window.pop_front();
                (pages, cost) = (pages - length, cost - living);
            }
            if pages as usize >= count
                && best.is_none_or(|(least, ..)| cost < least)
                && (!must_fit || inner.fits_elsewhere(window.iter().map(|&(first, length, _)| (first, length))))
            {
                best = window.front().map(|&(first, ..)| (cost, first, pages));
            }
        }
        inner.clear_rover = if at >= total { 0 } else { at };
        let (_, mut first, mut pages) = best?;
        // What is free at either end and more than needed stays free: others may be in need of it.
        let surplus = pages - count as u32;
        let last = inner.free_runs.range(..first + pages).next_back();
        if inner.pages[first as usize].kind == Kind::Free {
            (first, pages) = (first + surplus, pages - surplus);
        } else if let Some((&start, &length)) = last
            && start + length >= first + pages
        {
            pages -= surplus.min(first + pages - start);
        }
        let mut clearing = Clearing::default();
        let mut at = first;
        while at < first + pages {
            let (length, _) = inner.object(at);
            match inner.pages[at as usize].kind {
                Kind::Free => {
                    let end = (at + length).min(first + pages);
                    for page in at..end {
                        inner.take_exactly(page);
                    }
                    clearing.free.push((at, end - at));
                }
                Kind::Slab => inner.close(at, &mut clearing),
                Kind::Extent => {
                    clearing.starts.push(u64::from(at) * PAGE_WORDS as u64);
                    clearing.extents.push((at, length));
                }
                Kind::Condemned | Kind::Fixed => {}
            }
            at += length;
        }
        Some(clearing)
    }

    /// Sets the pages aside, too, of an extent in a clearing that has just been moved or removed, if `start` was one's:
    /// what is moved next must not come to lie there.
    pub fn keep_clear(&self, clearing: &mut Clearing, start: u64) {
        let page = (start / PAGE_WORDS as u64) as u32;
        let Ok(found) = clearing.extents.binary_search_by_key(&page, |&(first, _)| first) else { return };
        let (first, count) = clearing.extents[found];
        let mut inner = lock(&self.inner);
        for page in first..first + count {
            if inner.take_exactly(page) {
                clearing.free.push((page, 1));
            }
        }
    }

    /// Gives free what has become free of pages that were being cleared, and opens the rest again.
    pub fn finish_clearing(&self, clearing: &Clearing) {
        let mut inner = lock(&self.inner);
        for page in clearing.free.iter().flat_map(|&(first, count)| first..first + count) {
            let dirty = inner.pages[page as usize].dirty;
            inner.give_pages(page, 1, dirty);
        }
        for &slab in &clearing.slabs {
            let Page { kind, class, closed, free, .. } = inner.pages[slab as usize];
            if kind != Kind::Slab || !closed {
                continue; // condemned meanwhile, and perhaps gone
            }
            inner.pages[slab as usize].closed = false;
            if free == slab_slots(usize::from(class)) {
                inner.give_run(slab);
            } else if free > 0 {
                inner.list(usize::from(class), slab);
            }
        }
        self.note_slack();
    }

    /// Condemns all slabs there are: they hand out no slot any more, and go when the last one has come back.
    pub fn condemn_all(&self) {
        let mut inner = lock(&self.inner);
        for slab in 0..inner.pages.len() as u32 {
            let Page { kind, first, class, .. } = inner.pages[slab as usize];
            if kind == Kind::Slab && first == slab {
                if inner.pages[slab as usize].listed != 0 {
                    inner.unlist(usize::from(class), slab);
                }
                let page = &mut inner.pages[slab as usize];
                page.kind = Kind::Condemned;
                if page.free == slab_slots(usize::from(class)) {
                    inner.give_run(slab);
                }
            }
        }
        drop(inner);
        self.note_slack();
        self.recall();
    }

    /// Takes back many slots and extents at once, by the words they begin at, without touching their memory where that
    /// can be avoided.
    pub fn free_all(&self, segment: &[AtomicU64], starts: impl Iterator<Item = u64>) {
        let mut inner = lock(&self.inner);
        for start in starts {
            let first = inner.pages[start as usize / PAGE_WORDS].first;
            let page = inner.pages[first as usize];
            match page.kind {
                Kind::Extent => inner.give_run(first),
                _ => inner.give_slots(segment, usize::from(page.class), std::iter::once(start)),
            }
        }
        self.note_slack();
    }

    /// Words of the slot or extent that begins at word `start`.
    pub fn slot_words(&self, start: u64) -> usize {
        lock(&self.inner).slot_words(start)
    }

    /// The same for many, one after the other.
    pub fn words_of(&self, starts: &[u64], mut take: impl FnMut(usize)) {
        let inner = lock(&self.inner);
        starts.iter().for_each(|&start| take(inner.slot_words(start)));
    }
}

impl Inner {
    /// Free pages that may be used. (Those that are set aside for a moment may be among the reserved ones.)
    fn free_unreserved(&self) -> u32 {
        self.free_pages.saturating_sub(self.reserved)
    }

    /// Pages that would belong to nobody if so many pages of extents were free besides, and so many slots of each
    /// class, and what is left in each class were moved together.
    fn pages_if(&self, extents: u64, free: impl Fn(usize, &Census) -> u64) -> u64 {
        let slabs = self.census.iter().enumerate().map(|(class, census)| {
            free(class, census).min(census.slots) / u64::from(slab_slots(class)) * slab_pages(class) as u64
        });
        u64::from(self.free_unreserved()) + slabs.sum::<u64>() + extents
    }

    /// Whether a class has so many free slots that one of its slabs can be emptied into others. One empty slab may be
    /// kept for the next to come; it frees nothing to close that one.
    fn is_sparse(&self, class: usize) -> bool {
        self.census[class].free >= u64::from(slab_slots(class)) && self.partial[class].len() > 1
    }

    /// Whether one of the words of `kept`, which are in order, lies in these pages.
    fn is_any_in(kept: &[u64], first: u32, count: u32) -> bool {
        let word = |page: u32| u64::from(page) * PAGE_WORDS as u64;
        kept.get(kept.partition_point(|&start| start < word(first))).is_some_and(|&start| start < word(first + count))
    }

    fn slot_words(&self, start: u64) -> usize {
        let page = self.pages[self.pages[start as usize / PAGE_WORDS].first as usize];
        if page.kind == Kind::Extent { page.length as usize * PAGE_WORDS } else { class_words(usize::from(page.class)) }
    }

    /// Takes `count` adjacent pages from the highest free run that has them.
    fn take_run(&mut self, count: u32, kind: Kind) -> Option<u32> {
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
        self.occupy(first, count, kind);
        Some(first)
    }

    fn take_exactly(&mut self, page: u32) -> bool {
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
    fn give_run(&mut self, first: u32) {
        let Page { kind, class, length, .. } = self.pages[first as usize];
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
    fn give_pages(&mut self, mut first: u32, mut count: u32, dirty: bool) {
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

    /// The slab, extent or free run that begins at a page: its pages, and how many words live there; `None` if it has
    /// to stay.
    fn object(&self, first: u32) -> (u32, Option<u64>) {
        let page = &self.pages[first as usize];
        let rest = page.first + page.length - first.min(page.first + page.length);
        match page.kind {
            Kind::Free => {
                let run = self.free_runs.range(..=first).next_back();
                (run.map_or(1, |(&start, &length)| start + length - first), Some(0))
            }
            Kind::Slab if !page.closed && page.first == first => {
                let class = usize::from(page.class);
                (rest, Some(u64::from(slab_slots(class) - page.free) * class_words(class) as u64))
            }
            Kind::Extent if page.first == first => (rest, Some(u64::from(page.length) * PAGE_WORDS as u64)),
            // What the search happens to begin in the middle of is passed over.
            Kind::Slab | Kind::Extent | Kind::Condemned | Kind::Fixed => (rest.max(1), None),
        }
    }

    /// Whether what lives in these objects (first page and pages of each) would find room in free slots and free pages
    /// that are not among them.
    fn fits_elsewhere(&self, objects: impl Iterator<Item = (u32, u32)>) -> bool {
        // Pages that are free elsewhere, and by class the slots that are.
        let mut pages = i64::from(self.free_unreserved());
        let mut slots: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
        for (first, length) in objects {
            let page = &self.pages[first as usize];
            match page.kind {
                Kind::Slab => {
                    let class = usize::from(page.class);
                    let (free, living) =
                        slots.entry(class).or_insert_with(|| (self.census[class].free.cast_signed(), 0));
                    *free -= i64::from(page.free);
                    *living += i64::from(slab_slots(class) - page.free);
                }
                _ => pages -= i64::from(length),
            }
        }
        for (class, (free, living)) in slots {
            let slabs = (living - free).max(0).cast_unsigned().div_ceil(u64::from(slab_slots(class)));
            pages -= slabs.cast_signed() * slab_pages(class) as i64;
        }
        pages >= 0
    }

    /// Closes a slab, and takes note of what may live in it.
    fn close(&mut self, slab: u32, clearing: &mut Clearing) {
        let page = self.pages[slab as usize];
        let class = usize::from(page.class);
        if page.listed != 0 {
            self.unlist(class, slab);
        }
        self.pages[slab as usize].closed = true;
        clearing.slabs.push(slab);
        clearing.starts.extend((0..page.used_once).map(|slot| slot_start(slab, class, slot) as u64));
    }

    /// Moves up to `count` free slots of a class into `out`.
    fn take_slots(&mut self, segment: &[AtomicU64], class: usize, count: usize, out: &mut Vec<u64>) {
        while out.len() < count {
            let Some(&slab) = self.partial[class].last() else {
                // A slab less than full is no reason to take pages for another one.
                if !out.is_empty() {
                    return;
                }
                let Some(slab) = self.take_run(slab_pages(class) as u32, Kind::Slab) else { return };
                let slots = slab_slots(class);
                (self.pages[slab as usize].class, self.pages[slab as usize].free) = (class as u8, slots);
                let census = &mut self.census[class];
                (census.slots, census.free) = (census.slots + u64::from(slots), census.free + u64::from(slots));
                self.list(class, slab);
                continue;
            };
            if self.kept_empty[class] == slab + 1 {
                self.kept_empty[class] = 0;
            }
            let page = &mut self.pages[slab as usize];
            let slot = if page.first_free != 0 {
                let slot = page.first_free - 1;
                // Relaxed: written by a holder of our lock.
                page.first_free = segment[slot_start(slab, class, slot)].load(Ordering::Relaxed) as u32;
                slot
            } else {
                page.used_once += 1;
                page.used_once - 1
            };
            page.free -= 1;
            self.census[class].free -= 1;
            if page.free == 0 {
                self.unlist(class, slab);
            }
            out.push(slot_start(slab, class, slot) as u64);
        }
    }

    fn give_slots(&mut self, segment: &[AtomicU64], class: usize, starts: impl Iterator<Item = u64>) {
        // Release: as at the end of `Heap::allocate`, here for the links of the free list.
        fence(Ordering::Release);
        for start in starts {
            let slab = self.pages[start as usize / PAGE_WORDS].first;
            let page = &mut self.pages[slab as usize];
            debug_assert_eq!(usize::from(page.class), class);
            if page.kind == Kind::Slab {
                let slot = (start as usize - slab as usize * PAGE_WORDS) / class_words(class);
                // Relaxed: read by a holder of our lock; a reader that still copies the old entry is warned by the
                // fence.
                segment[start as usize].store(u64::from(page.first_free), Ordering::Relaxed);
                page.first_free = slot as u32 + 1;
            }
            page.free += 1;
            self.census[class].free += 1;
            let page = *page;
            let is_empty = page.free == slab_slots(class);
            if page.kind == Kind::Condemned {
                if is_empty {
                    self.give_run(slab);
                }
            } else if page.closed {
                // Whoever clears it looks at it when done.
            } else {
                if page.listed == 0 {
                    self.list(class, slab);
                }
                // One empty slab is kept, lest a single entry that comes and goes take and give pages all the time.
                if is_empty && self.partial[class].len() > 1 {
                    self.unlist(class, slab);
                    self.give_run(slab);
                } else if is_empty {
                    self.kept_empty[class] = slab + 1;
                }
            }
        }
    }

    /// Gives up the empty slabs that were kept for the next to come.
    fn release_empty_slabs(&mut self) {
        for class in 0..CLASSES {
            if let Some(slab) = self.kept_empty[class].checked_sub(1) {
                self.unlist(class, slab);
                self.give_run(slab);
            }
        }
    }

    fn list(&mut self, class: usize, slab: u32) {
        self.partial[class].push(slab);
        self.pages[slab as usize].listed = self.partial[class].len() as u32;
    }

    fn unlist(&mut self, class: usize, slab: u32) {
        let place = std::mem::take(&mut self.pages[slab as usize].listed) as usize - 1;
        if self.kept_empty[class] == slab + 1 {
            self.kept_empty[class] = 0;
        }
        self.partial[class].swap_remove(place);
        if let Some(&moved) = self.partial[class].get(place) {
            self.pages[moved as usize].listed = place as u32 + 1;
        }
    }
}

/// The word at which a slot begins.
fn slot_start(slab: u32, class: usize, slot: u32) -> usize {
    slab as usize * PAGE_WORDS + slot as usize * class_words(class)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap_words;

    #[test]
    fn memory_comes_and_goes() {
        let (segment, mut cache) = (heap_words(8 * PAGE_WORDS), Cache::default());
        let heap = Heap::new(segment.len(), 1);
        let start = heap.allocate(&segment, &mut cache, 17).unwrap();
        assert!(start as usize >= PAGE_WORDS && start as usize + 17 <= segment.len());
        heap.free(&segment, &mut cache, start, 17);
        heap.drain(&segment, &mut cache);
        assert_eq!(heap.free_pages(), 6, "one empty slab is kept");
        assert_eq!(heap.usage().allocated, 0);
    }

    #[test]
    fn classes_hold_what_they_should_and_waste_little() {
        for words in 1..=CLASS_WORDS_MAX {
            let class = class_of(words);
            assert!(class < CLASSES);
            assert!(class_words(class) >= words);
            assert!(class == 0 || class_words(class - 1) < words, "{words} words would fit a smaller class");
        }
        for class in 0..CLASSES {
            assert!(slab_slots(class) >= 1);
            let used = slab_slots(class) as usize * class_words(class);
            assert!(used * 100 >= slab_pages(class) * PAGE_WORDS * 92, "class {class}");
        }
    }

    #[test]
    fn random_use_never_overlaps_and_all_memory_comes_back() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let segment = heap_words(64 * PAGE_WORDS);
        let heap = Heap::new(segment.len(), 3);
        let mut caches = [Cache::default(), Cache::default()];
        let mut live: Vec<(u64, usize)> = Vec::new();
        let mut owners = vec![false; segment.len()];
        for _ in 0..20_000 {
            let cache = &mut caches[random.usize(..2)];
            if random.bool() {
                let words = match random.u8(..10) {
                    0 => random.usize(CLASS_WORDS_MAX + 1..6 * PAGE_WORDS),
                    1..3 => random.usize(2..CLASS_WORDS_MAX),
                    _ => random.usize(2..40),
                };
                if let Some(start) = heap.allocate(&segment, cache, words) {
                    let range = start as usize..start as usize + words;
                    assert!(range.start >= 3 * PAGE_WORDS && range.end <= segment.len());
                    assert!(!owners[range.clone()].iter().any(|&owned| owned), "overlap at {range:?}");
                    owners[range].fill(true);
                    live.push((start, words));
                }
            } else if !live.is_empty() {
                let (start, words) = live.swap_remove(random.usize(..live.len()));
                owners[start as usize..start as usize + words].fill(false);
                heap.free(&segment, cache, start, words);
            }
        }
        for (start, words) in live {
            heap.free(&segment, &mut caches[0], start, words);
        }
        for cache in &mut caches {
            heap.drain(&segment, cache);
        }
        assert_eq!(heap.usage().allocated, 0);
        heap.release();
        let inner = lock(&heap.inner);
        assert_eq!(
            (inner.free_pages, inner.dirty_free),
            (61, inner.pages.iter().filter(|page| page.dirty).count() as u32)
        );
        assert_eq!(inner.free_runs.len(), 1);
        assert!(inner.census.iter().all(|census| census.slots == 0 && census.free == 0));
    }

    /// A run of free pages that came about meanwhile was once set aside as a whole, for as long as it took to find that
    /// nothing lived there: all other workers found no memory.
    #[test]
    fn clearing_a_run_takes_no_more_free_pages_than_it_needs() {
        let (segment, mut cache) = (heap_words(20 * PAGE_WORDS), Cache::default());
        let heap = Heap::new(segment.len(), 1);
        // From the high end: an entry, a gap of a page, an entry; and all the rest is free.
        let extents = [6 * PAGE_WORDS, PAGE_WORDS * 5, 6 * PAGE_WORDS];
        let starts = extents.map(|words| heap.allocate(&segment, &mut cache, words).unwrap());
        heap.free(&segment, &mut cache, starts[1], extents[1]);
        for count in 1..=7 {
            let before = heap.free_pages();
            let clearing = heap.close_run(count, &[], false).unwrap();
            assert!(before - heap.free_pages() <= count, "{} pages for {count}", before - heap.free_pages());
            heap.finish_clearing(&clearing);
            assert_eq!(heap.free_pages(), before);
        }
    }

    #[test]
    fn bucket_pages_are_taken_one_by_one_until_entries_are_met() {
        let (segment, mut cache) = (heap_words(4 * PAGE_WORDS), Cache::default());
        let heap = Heap::new(segment.len(), 1);
        let start = heap.allocate(&segment, &mut cache, 2).unwrap() as usize;
        assert_eq!(start / PAGE_WORDS, 3, "entries come from the high end");
        assert!(heap.take_page(1) && heap.take_page(2));
        assert!(!heap.take_page(1) && !heap.take_page(3) && !heap.take_page(4));
        assert_eq!(heap.free_pages(), 0);
        assert!(heap.allocate(&segment, &mut cache, 40).is_none());
    }
}
