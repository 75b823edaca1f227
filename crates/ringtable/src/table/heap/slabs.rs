//! Slots of slabs: handing them out, and taking them back.

use super::classes::{CLASSES, class_words, kind_of, slab_pages, slab_slots};
use super::map::Run;
use super::pages::{Inner, Kind};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::table::layout::PAGE_WORDS;

impl Inner {
    /// Moves up to `count` free slots of a class into `out`.
    pub(super) fn take_slots(&mut self, segment: &[AtomicU64], class: usize, count: usize, out: &mut Vec<u64>) {
        while out.len() < count {
            let Some(&slab) = self.partial[class].last() else {
                // A slab less than full is no reason to take pages for another one.
                if !out.is_empty() {
                    return;
                }
                let pages = slab_pages(class) as u32;
                let Some(slab) = self.take_run(segment, pages, Run::Slab(class)) else { return };
                let slots = slab_slots(class);
                self.pages[slab as usize].free = slots;
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
            } else if let Some(slot) = self.gaps.take(&mut page.used_bits, page.used_once) {
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

    pub(super) fn give_slots(&mut self, segment: &[AtomicU64], class: usize, starts: impl Iterator<Item = u64>) {
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
                    self.give_run(segment, slab);
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
                    self.give_run(segment, slab);
                } else if is_empty {
                    self.kept_empty[class] = slab + 1;
                }
            }
        }
    }

    /// Gives up the empty slabs that were kept for the next to come.
    pub(super) fn release_empty_slabs(&mut self, segment: &[AtomicU64]) {
        for class in 0..CLASSES {
            if let Some(slab) = self.kept_empty[class].checked_sub(1) {
                self.unlist(class, slab);
                self.give_run(segment, slab);
            }
        }
    }

    pub(super) fn list(&mut self, class: usize, slab: u32) {
        self.partial[class].push(slab);
        self.pages[slab as usize].listed = self.partial[class].len() as u32;
    }

    pub(super) fn unlist(&mut self, class: usize, slab: u32) {
        let place = std::mem::take(&mut self.pages[slab as usize].listed) as usize - 1;
        if self.kept_empty[class] == slab + 1 {
            self.kept_empty[class] = 0;
        }
        self.partial[class].swap_remove(place);
        if let Some(&moved) = self.partial[class].get(place) {
            self.pages[moved as usize].listed = place as u32 + 1;
        }
    }

    /// Whether a class has so many free slots that one of its slabs can be emptied into others. One empty slab may be
    /// kept for the next to come; it frees nothing to close that one.
    pub(super) fn is_sparse(&self, class: usize) -> bool {
        self.census[class].free >= u64::from(slab_slots(class)) && self.partial[class].len() > 1
    }

    /// Whether something of `words` words has the size of the slot or extent that begins at word `start`.
    pub(super) fn fits(&self, start: u64, words: usize) -> bool {
        let page = self.pages[self.pages[start as usize / PAGE_WORDS].first as usize];
        match page.kind {
            Kind::Extent => kind_of(words) == CLASSES && words.div_ceil(PAGE_WORDS) == page.length as usize,
            _ => kind_of(words) == usize::from(page.class),
        }
    }

    /// Words of the slot or extent that begins at word `start`.
    pub(super) fn slot_words(&self, start: u64) -> usize {
        let page = self.pages[self.pages[start as usize / PAGE_WORDS].first as usize];
        if page.kind == Kind::Extent { page.length as usize * PAGE_WORDS } else { class_words(usize::from(page.class)) }
    }
}

/// The word at which a slot begins.
pub(super) fn slot_start(slab: u32, class: usize, slot: u32) -> usize {
    slab as usize * PAGE_WORDS + slot as usize * class_words(class)
}
