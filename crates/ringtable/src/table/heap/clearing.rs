//! Clearing pages: where memory is free but in the wrong places, in slabs of another class or not in a row.
//!
//! # Design
//!
//! The heap closes a slab or a run of pages ([`Heap::close_sparse_slab`], [`Heap::close_run`]), the writer moves the
//! entries there, and the heap takes the pages as free ([`Heap::finish_clearing`]). That also keeps a change of value
//! sizes from starving.

use std::collections::{BTreeMap, VecDeque};

use super::allocator::Heap;
use super::classes::{CLASSES, class_words, slab_pages, slab_slots};
use super::pages::{Census, Inner, Kind, Page};
use super::slabs::slot_start;
use crate::sync::{AtomicU64, lock};
use crate::table::layout::PAGE_WORDS;

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
    pub fn finish_clearing(&self, segment: &[AtomicU64], clearing: &Clearing) {
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
                inner.give_run(segment, slab);
            } else if free > 0 {
                inner.list(usize::from(class), slab);
            }
        }
        self.note_slack();
    }
}

impl Inner {
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
}
