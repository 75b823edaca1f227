//! The allocator: it hands memory out and takes it back, by way of the workers' caches.

use super::cache::Cache;
use super::classes::{CLASS_WORDS_MAX, batch, class_of};
use super::map::Run;
use super::pages::Inner;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, fence, lock};
use crate::table::layout::PAGE_WORDS;

/// The heap of one segment.
#[derive(Debug)]
pub struct Heap {
    pub(super) inner: Mutex<Inner>,
    /// Whether there may be free pages with memory behind them, or many free slots.
    pub(super) slack: AtomicBool,
    /// Goes up when workers are to give back the free slots that they hold.
    recalls: AtomicU64,
    /// Workers that hold free slots, or did a moment ago.
    holders: AtomicU64,
}

impl Heap {
    /// A heap over `words` words, all pages from `first_page` up to the page map being free.
    pub fn new(words: usize, first_page: usize) -> Self {
        Self::with(Inner::new(words, first_page))
    }

    pub(super) fn with(inner: Inner) -> Self {
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
                lock(&self.inner).release_empty_slabs(segment);
                self.try_allocate(segment, cache, words)?
            }
        };
        // Release: pairs with the fence(Acquire) in `BucketRef::end_read`, see the header of the folder.
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
            let first = lock(&self.inner).take_run(segment, words.div_ceil(PAGE_WORDS) as u32, Run::Extent)?;
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
            lock(&self.inner).give_run(segment, (start / PAGE_WORDS as u64) as u32);
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
    #[cfg(test)]
    pub fn release(&self, segment: &[AtomicU64]) {
        lock(&self.inner).release_empty_slabs(segment);
        self.note_slack();
    }

    /// Whole pages for `words` words of the ring of events, which never moves and is never given back.
    pub fn allocate_events(&self, segment: &[AtomicU64], words: usize) -> Option<u64> {
        let first = lock(&self.inner).take_run(segment, words.div_ceil(PAGE_WORDS) as u32, Run::Events)?;
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

    /// Whether something of `words` words has the size of the slot or extent that begins at word `start`.
    pub fn fits(&self, start: u64, words: usize) -> bool {
        lock(&self.inner).fits(start, words)
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

    pub(super) fn note_slack(&self) {
        // Relaxed, here and below: a hint. Looked at first, so that the line stays shared.
        if !self.slack.load(Ordering::Relaxed) {
            self.slack.store(true, Ordering::Relaxed);
        }
    }
}
