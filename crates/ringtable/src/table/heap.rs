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
//! so a table may be found full that much too early. Pages are not moved: a long-lived entry on a low page can keep
//! the bucket array from growing, which makes chains longer and nothing else.

use std::collections::BTreeMap;

use super::layout::PAGE_WORDS;
use crate::sync::{AtomicU64, Mutex, Ordering, fence, lock};

/// Largest slot of a size class, in words; anything above is an extent of whole pages.
const CLASS_WORDS_MAX: usize = 4 * PAGE_WORDS;
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

/// Words of a slot of a class.
fn class_words(class: usize) -> usize {
    if class < FINE_CLASSES {
        return class + FINE_WORDS_MIN;
    }
    let (octave, step) = ((class - FINE_CLASSES) / STEPS, (class - FINE_CLASSES) % STEPS);
    let base = FINE_WORDS_MAX << octave;
    base + (step + 1) * base / STEPS
}

/// Pages of a slab: the fewest whose unused tail is at most a sixteenth.
fn slab_pages(class: usize) -> usize {
    let words = class_words(class);
    let tail = |pages: usize| (pages * PAGE_WORDS) % words;
    let enough = |pages: usize| pages * PAGE_WORDS >= words;
    let mut pages = 1;
    while pages < SLAB_PAGES_MAX && !(enough(pages) && tail(pages) * 16 <= pages * PAGE_WORDS) {
        pages += 1;
    }
    pages
}

/// Slots of a slab.
fn slab_slots(class: usize) -> u32 {
    (slab_pages(class) * PAGE_WORDS / class_words(class)) as u32
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
}

impl Default for Cache {
    fn default() -> Self {
        Self { slots: vec![Vec::new(); CLASSES], count: 0 }
    }
}

/// What is known of a page. For a slab, all is kept with its first page.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// First page of the slab this page belongs to.
    slab: u32,
    class: u8,
    /// Slots not handed out.
    free: u32,
    /// Slots handed out at least once: those above were never touched.
    used_once: u32,
    /// First slot of the free list, plus one; 0 = empty list.
    first_free: u32,
    /// Where the slab stands in its class's list of slabs with free slots, plus one; 0 = it does not.
    listed: u32,
}

#[derive(Debug)]
struct Inner {
    /// Free runs of pages: first page to number of pages; no two touch.
    free_runs: BTreeMap<u32, u32>,
    free_pages: u32,
    pages: Vec<Page>,
    /// By class: slabs that have free slots.
    partial: Vec<Vec<u32>>,
}

/// The heap of one segment.
#[derive(Debug)]
pub struct Heap(Mutex<Inner>);

impl Heap {
    /// A heap over `words` words, all pages from `first_page` on being free.
    pub fn new(words: usize, first_page: usize) -> Self {
        let count = words / PAGE_WORDS;
        let free = (count - first_page) as u32;
        let mut free_runs = BTreeMap::new();
        if free > 0 {
            free_runs.insert(first_page as u32, free);
        }
        Self(Mutex::new(Inner {
            free_runs,
            free_pages: free,
            pages: vec![Page::default(); count],
            partial: vec![Vec::new(); CLASSES],
        }))
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
                lock(&self.0).release_empty_slabs();
                self.try_allocate(segment, cache, words)?
            }
        };
        // Release: pairs with the fence(Acquire) in `BucketRef::end_read`, see the module header.
        fence(Ordering::Release);
        Some(start)
    }

    fn try_allocate(&self, segment: &[AtomicU64], cache: &mut Cache, words: usize) -> Option<u64> {
        if words > CLASS_WORDS_MAX {
            let first = lock(&self.0).take_run(words.div_ceil(PAGE_WORDS) as u32)?;
            return Some(u64::from(first) * PAGE_WORDS as u64);
        }
        let class = class_of(words);
        let slots = &mut cache.slots[class];
        if slots.is_empty() {
            lock(&self.0).take_slots(segment, class, batch(class), slots);
            cache.count += slots.len();
        }
        let start = slots.pop()?;
        cache.count -= 1;
        Some(start)
    }

    /// Takes back memory that [`Self::allocate`] gave for `words` words and that no slot points at any more.
    pub fn free(&self, segment: &[AtomicU64], cache: &mut Cache, start: u64, words: usize) {
        if words > CLASS_WORDS_MAX {
            let first = (start / PAGE_WORDS as u64) as u32;
            lock(&self.0).give_run(first, words.div_ceil(PAGE_WORDS) as u32);
            return;
        }
        let class = class_of(words);
        let slots = &mut cache.slots[class];
        slots.push(start);
        cache.count += 1;
        if slots.len() >= 2 * batch(class) {
            // The oldest go back: what was freed last is the likeliest to be in the processor's cache.
            cache.count -= batch(class);
            lock(&self.0).give_slots(segment, class, slots.drain(..batch(class)));
        }
    }

    /// Takes back all that a cache holds.
    pub fn drain(&self, segment: &[AtomicU64], cache: &mut Cache) {
        if cache.count == 0 {
            return;
        }
        let mut inner = lock(&self.0);
        for (class, slots) in cache.slots.iter_mut().enumerate() {
            inner.give_slots(segment, class, slots.drain(..));
        }
        cache.count = 0;
    }

    /// Takes exactly page `page` for the bucket array, if it is free.
    pub fn take_page(&self, page: usize) -> bool {
        lock(&self.0).take_exactly(page as u32)
    }

    /// Pages that belong to nobody.
    pub fn free_pages(&self) -> u64 {
        u64::from(lock(&self.0).free_pages)
    }
}

impl Inner {
    /// Takes `count` adjacent pages from the highest free run that has them.
    fn take_run(&mut self, count: u32) -> Option<u32> {
        let (&first, &length) = self.free_runs.iter().rev().find(|&(_, &length)| length >= count)?;
        if length == count {
            self.free_runs.remove(&first);
        } else {
            self.free_runs.insert(first, length - count);
        }
        self.free_pages -= count;
        Some(first + length - count)
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
        self.free_pages -= 1;
        true
    }

    fn give_run(&mut self, mut first: u32, mut count: u32) {
        self.free_pages += count;
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

    /// Moves up to `count` free slots of a class into `out`.
    fn take_slots(&mut self, segment: &[AtomicU64], class: usize, count: usize, out: &mut Vec<u64>) {
        while out.len() < count {
            let Some(&slab) = self.partial[class].last() else {
                let Some(slab) = self.take_run(slab_pages(class) as u32) else { return };
                for page in slab..slab + slab_pages(class) as u32 {
                    self.pages[page as usize].slab = slab;
                }
                let free = slab_slots(class);
                self.pages[slab as usize] = Page { slab, class: class as u8, free, ..Page::default() };
                self.list(class, slab);
                continue;
            };
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
            let slab = self.pages[start as usize / PAGE_WORDS].slab;
            let slot = (start as usize - slab as usize * PAGE_WORDS) / class_words(class);
            let page = &mut self.pages[slab as usize];
            debug_assert_eq!(usize::from(page.class), class);
            // Relaxed: read by a holder of our lock; a reader that still copies the old entry is warned by the fence.
            segment[start as usize].store(u64::from(page.first_free), Ordering::Relaxed);
            page.first_free = slot as u32 + 1;
            page.free += 1;
            let (free, listed) = (page.free, page.listed != 0);
            if !listed {
                self.list(class, slab);
            } else if free == slab_slots(class) && self.partial[class].len() > 1 {
                // One empty slab is kept, lest a single entry that comes and goes take and give pages all the time.
                self.unlist(class, slab);
                self.give_run(slab, slab_pages(class) as u32);
            }
        }
    }

    /// Gives up the empty slabs that were kept for the next to come.
    fn release_empty_slabs(&mut self) {
        for class in 0..CLASSES {
            let empty = |inner: &Self, slab: u32| inner.pages[slab as usize].free == slab_slots(class);
            while let Some(place) = self.partial[class].iter().position(|&slab| empty(self, slab)) {
                let slab = self.partial[class][place];
                self.unlist(class, slab);
                self.give_run(slab, slab_pages(class) as u32);
            }
        }
    }

    fn list(&mut self, class: usize, slab: u32) {
        self.partial[class].push(slab);
        self.pages[slab as usize].listed = self.partial[class].len() as u32;
    }

    fn unlist(&mut self, class: usize, slab: u32) {
        let place = std::mem::take(&mut self.pages[slab as usize].listed) as usize - 1;
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
        let inner = lock(&heap.0);
        let kept: u32 = inner
            .partial
            .iter()
            .flatten()
            .map(|&slab| slab_pages(usize::from(inner.pages[slab as usize].class)) as u32)
            .sum();
        assert_eq!(inner.free_pages + kept, 61);
        assert_eq!(inner.free_runs.values().sum::<u32>(), inner.free_pages);
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
