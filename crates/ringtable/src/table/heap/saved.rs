//! The bookkeeping of a heap in words, for the server that goes on with the segment of one that has ended in order.
//!
//! # Design
//!
//! All that is private to a heap is known of its pages ([`super::pages`]): the use of each, and of a slab how many
//! slots are free, where their list begins, and what was never used. Pages that are used for one thing are said at
//! once, so that it takes 32 bytes for each slab and extent. The lists of free slots lie in the segment. What follows
//! from the pages (free runs, slabs with free slots, counts) is made anew.
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

/// Words of a run of pages that are used for one thing.
const SAVED_WORDS: usize = 4;
const KINDS: [Kind; 4] = [Kind::Free, Kind::Slab, Kind::Extent, Kind::Fixed];

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// What is said of a run whose first page is this one, and that has so many pages.
fn save(page: Page, length: u32) -> Option<[u64; SAVED_WORDS]> {
    let kind = KINDS.iter().position(|&kind| kind == page.kind).filter(|_| !page.closed)?;
    let flags = kind as u32 | u32::from(page.dirty) << 8 | u32::from(page.class) << 16;
    Some([
        pair(flags, length),
        pair(page.first, page.free),
        pair(page.used_once, page.first_free),
        u64::from(page.used_bits),
    ])
}

/// The first page of a run, and how many it has.
fn restore(words: &[u64]) -> Option<(Page, u32)> {
    let &[kind_and_length, first_and_free, slots, used_bits] = words else { return None };
    let ((flags, length), (first, free), (used_once, first_free)) =
        (halves(kind_and_length), halves(first_and_free), halves(slots));
    let kind = *KINDS.get((flags & 0xff) as usize)?;
    let (dirty, class, used_bits) = (flags >> 8 & 1 != 0, (flags >> 16) as u8, u32::try_from(used_bits).ok()?);
    let page = Page { kind, dirty, class, first, length, free, used_once, first_free, used_bits, ..Page::default() };
    Some((page, length))
}

impl Heap {
    /// Puts all of its bookkeeping behind `words`, whose end means nothing then if it returns `None`: something is on
    /// its way that nobody could go on with.
    pub fn save(&self, segment: &[AtomicU64], words: &mut Vec<u64>) -> Option<()> {
        let mut inner = lock(&self.inner);
        inner.release_empty_slabs(segment);
        let gaps = inner.gaps.bits();
        let start = words.len();
        words.extend([0, gaps.len() as u64]);
        let mut rest = &inner.pages[..];
        while let Some(&page) = rest.first() {
            let length = match page.kind {
                Kind::Free | Kind::Fixed => {
                    let is_alike = |other: &Page| (other.kind, other.dirty) == (page.kind, page.dirty);
                    rest.iter().position(|other| !is_alike(other)).unwrap_or(rest.len()) as u32
                }
                _ => page.length,
            };
            words.extend(save(page, length)?);
            rest = rest.get(length as usize..)?;
        }
        words[start] = ((words.len() - start - 2) / SAVED_WORDS) as u64;
        words.extend(gaps);
        Some(())
    }

    /// The heap of a segment with what [`Self::save`] has made of it; `None` if that does not fit the segment.
    pub fn restore(segment: &[AtomicU64], words: &[u64]) -> Option<Self> {
        let (&[runs, gaps], words) = words.split_first_chunk()?;
        let (runs, gaps) = (usize::try_from(runs).ok()?, usize::try_from(gaps).ok()?);
        let (runs, gaps) =
            words.split_at_checked(runs.checked_mul(SAVED_WORDS)?).filter(|(_, rest)| rest.len() == gaps)?;
        let count = segment.len() / PAGE_WORDS;
        // Nothing is free but what is said to be.
        let mut heap = Inner::new(segment.len(), count);
        let (mut at, mut with_gaps) = (0, 0);
        for (page, length) in runs.chunks_exact(SAVED_WORDS).map_while(restore) {
            let end = at + length as usize;
            heap.pages.get_mut(at..end)?.fill(page);
            heap.take_note_of(segment, at as u32, length)?;
            if page.used_bits != 0 {
                with_gaps += 1;
                gaps.get(..page.used_bits as usize - 1 + page.used_once.div_ceil(64) as usize)?;
            }
            at = end;
        }
        if at != count {
            return None;
        }
        heap.dirty_low = heap.dirty_free;
        heap.gaps = Gaps::new(gaps.to_vec(), with_gaps);
        Some(Self::with(heap))
    }
}

impl Inner {
    /// Counts a run, whose pages are known, if it can be there.
    fn take_note_of(&mut self, segment: &[AtomicU64], first: u32, length: u32) -> Option<()> {
        let map = PageMap::of(segment);
        let pages = first as usize..(first + length) as usize;
        let page = self.pages[first as usize];
        let mapped = map.get(first).ok()?;
        // Behind its first page, a run has no word of its own.
        let is_one = || (first + 1..first + length).all(|page| matches!(map.get(page), Ok(None)));
        match page.kind {
            Kind::Free if mapped.is_none() && is_one() => {
                let free = Page { dirty: page.dirty, ..Page::default() };
                self.pages[pages].fill(free);
                self.free_pages += length;
                self.dirty_free += if page.dirty { length } else { 0 };
                match self.free_runs.last_entry() {
                    Some(mut last) if last.key() + last.get() == first => *last.get_mut() += length,
                    _ => drop(self.free_runs.insert(first, length)),
                }
            }
            Kind::Fixed => {
                for (page, at) in self.pages[pages].iter_mut().zip(first..) {
                    let is_fixed = matches!(map.get(at), Ok(None | Some((Run::Events, _))));
                    *page = Page { first: at, length: 1, kind: page.kind, dirty: page.dirty, ..Page::default() };
                    if !is_fixed {
                        return None;
                    }
                }
            }
            Kind::Extent if mapped == Some((Run::Extent, length)) && page.first == first && is_one() => {
                self.extent_pages += u64::from(length);
            }
            Kind::Slab if page.first == first && is_one() => {
                let class = usize::from(page.class);
                if class >= CLASSES
                    || mapped != Some((Run::Slab(class), length))
                    || length as usize != slab_pages(class)
                {
                    return None;
                }
                let slots = slab_slots(class);
                if page.free >= slots || page.used_once > slots || page.first_free > page.used_once {
                    return None;
                }
                let Census { slots: all, free } = &mut self.census[class];
                (*all, *free) = (*all + u64::from(slots), *free + u64::from(page.free));
                if page.free > 0 {
                    self.list(class, first);
                }
            }
            _ => return None,
        }
        Some(())
    }
}
