//! The bookkeeping of a heap in words, for the server that goes on with the segment of one that has ended in order.
//!
//! # Design
//!
//! All that is private to a heap is known of its pages ([`super::pages`]): what each is used for, and of a slab how many
//! slots are free, where their list begins, and what was never used. The lists themselves lie in the segment. What
//! follows from the pages (free runs, slabs with free slots, counts) is made anew.
//!
//! # Invariants
//!
//! - Each slab and extent has to be the one that the page map ([`super::map`]) names, and nothing else may be in the
//!   map. What does not fit is refused as a whole: then the heap is rebuilt ([`super::rebuild`]).
//! - It is saved when no writer holds free slots, and nothing is being cleared.

use super::allocator::Heap;
use super::classes::{CLASSES, slab_pages, slab_slots};
use super::gaps::Gaps;
use super::map::{PageMap, Run};
use super::pages::{Census, Inner, Kind, Page};
use crate::sync::{AtomicU64, lock};
use crate::table::layout::PAGE_WORDS;

/// Words of a page.
const SAVED_WORDS: usize = 4;
const KINDS: [Kind; 4] = [Kind::Free, Kind::Slab, Kind::Extent, Kind::Fixed];

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

impl Page {
    fn save(self) -> Option<[u64; SAVED_WORDS]> {
        let kind = KINDS.iter().position(|&kind| kind == self.kind).filter(|_| !self.closed)?;
        let flags = kind as u32 | u32::from(self.dirty) << 8 | u32::from(self.class) << 16;
        Some([
            pair(flags, self.first),
            pair(self.length, self.free),
            pair(self.used_once, self.first_free),
            u64::from(self.used_bits),
        ])
    }

    fn restore(words: &[u64]) -> Option<Self> {
        let &[kind_and_first, sizes, slots, used_bits] = words else { return None };
        let ((flags, first), (length, free), (used_once, first_free)) =
            (halves(kind_and_first), halves(sizes), halves(slots));
        let kind = *KINDS.get((flags & 0xff) as usize)?;
        let (dirty, class, used_bits) = (flags >> 8 & 1 != 0, (flags >> 16) as u8, u32::try_from(used_bits).ok()?);
        Some(Self {
            kind,
            dirty,
            class,
            closed: false,
            first,
            length,
            free,
            used_once,
            first_free,
            listed: 0,
            used_bits,
        })
    }
}

impl Heap {
    /// All of its bookkeeping; `None` if something is on its way that nobody could go on with.
    pub fn save(&self, segment: &[AtomicU64]) -> Option<Vec<u64>> {
        let mut inner = lock(&self.inner);
        inner.release_empty_slabs(segment);
        let gaps = inner.gaps.bits();
        let mut words = vec![inner.pages.len() as u64, gaps.len() as u64];
        for page in &inner.pages {
            words.extend(page.save()?);
        }
        words.extend(gaps);
        Some(words)
    }

    /// The heap of a segment with what [`Self::save`] has made of it; `None` if that does not fit the segment.
    pub fn restore(segment: &[AtomicU64], words: &[u64]) -> Option<Self> {
        let (&[count, gaps], words) = words.split_first_chunk()?;
        let (count, gaps) = (usize::try_from(count).ok()?, usize::try_from(gaps).ok()?);
        let is_whole =
            count == segment.len() / PAGE_WORDS && count.checked_mul(SAVED_WORDS)?.checked_add(gaps)? == words.len();
        let (pages, gaps) = words.split_at_checked(count * SAVED_WORDS).filter(|_| is_whole)?;
        let mut heap = Inner::new(segment.len(), count);
        heap.pages = pages.chunks_exact(SAVED_WORDS).map(Page::restore).collect::<Option<_>>()?;
        let mut with_gaps = 0;
        let mut at = 0;
        while let Some(&page) = heap.pages.get(at) {
            let length = heap.take_note_of(segment, at as u32, page)?;
            if page.used_bits != 0 {
                with_gaps += 1;
                let end = page.used_bits as usize - 1 + page.used_once.div_ceil(64) as usize;
                gaps.get(..end)?;
            }
            at += length as usize;
        }
        heap.dirty_low = heap.dirty_free;
        heap.gaps = Gaps::new(gaps.to_vec(), with_gaps);
        Some(Self::with(heap))
    }
}

impl Inner {
    /// Counts what begins at a page, if it can be. Returns how many pages that has.
    fn take_note_of(&mut self, segment: &[AtomicU64], first: u32, page: Page) -> Option<u32> {
        let mapped = PageMap::of(segment).get(first).ok()?;
        let is_alike = |other: &Page| (other.kind, other.first, other.length) == (page.kind, first, page.length);
        let end = (first as usize).checked_add(page.length as usize)?;
        match page.kind {
            Kind::Free if mapped.is_none() => {
                self.free_pages += 1;
                self.dirty_free += u32::from(page.dirty);
                match self.free_runs.last_entry() {
                    Some(mut last) if last.key() + last.get() == first => *last.get_mut() += 1,
                    _ => drop(self.free_runs.insert(first, 1)),
                }
                Some(1)
            }
            Kind::Fixed if mapped.is_none_or(|(run, _)| run == Run::Events) => Some(1),
            Kind::Extent if mapped == Some((Run::Extent, page.length)) => {
                self.pages.get(first as usize..end).filter(|pages| pages.iter().all(is_alike))?;
                self.extent_pages += u64::from(page.length);
                Some(page.length)
            }
            Kind::Slab => {
                let class = usize::from(page.class);
                if class >= CLASSES || mapped != Some((Run::Slab(class), slab_pages(class) as u32)) {
                    return None;
                }
                let slots = slab_slots(class);
                let is_possible = page.length as usize == slab_pages(class)
                    && page.free < slots
                    && page.used_once <= slots
                    && page.first_free <= page.used_once;
                self.pages.get(first as usize..end).filter(|pages| is_possible && pages.iter().all(is_alike))?;
                let Census { slots: all, free } = &mut self.census[class];
                (*all, *free) = (*all + u64::from(slots), *free + u64::from(page.free));
                if page.free > 0 {
                    self.list(class, first);
                }
                Some(page.length)
            }
            _ => None,
        }
    }
}
