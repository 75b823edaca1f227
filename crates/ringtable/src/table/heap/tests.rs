//! Memory that is handed out never overlaps, and all of it comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::classes::{class_words, slab_pages, slab_slots};
use super::map::{PageMap, Run};
use super::pages::{Kind, Page};
use super::slabs::slot_start;
use super::*;
use crate::sync::{AtomicU64, Ordering, heap_words, lock};
use crate::table::layout::{PAGE_WORDS, page_map_start};

#[test]
fn memory_comes_and_goes() {
    let (segment, mut cache) = (heap_words(9 * PAGE_WORDS), Cache::default());
    let heap = Heap::new(segment.len(), 1);
    let start = heap.allocate(&segment, &mut cache, 17).unwrap();
    assert!(start as usize >= PAGE_WORDS && start as usize + 17 <= page_map_start(segment.len()));
    heap.free(&segment, &mut cache, start, 17);
    heap.drain(&segment, &mut cache);
    assert_eq!(heap.free_pages(), 6, "one empty slab is kept");
    assert_eq!(heap.usage().allocated, 0);
}

#[test]
fn random_use_never_overlaps_and_all_memory_comes_back() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let segment = heap_words(65 * PAGE_WORDS);
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
                assert!(range.start >= 3 * PAGE_WORDS && range.end <= page_map_start(segment.len()));
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
    heap.release(&segment);
    let inner = lock(&heap.inner);
    assert_eq!((inner.free_pages, inner.dirty_free), (61, inner.pages.iter().filter(|page| page.dirty).count() as u32));
    assert_eq!(inner.free_runs.len(), 1);
    assert!(segment[page_map_start(segment.len())..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    assert!(inner.census.iter().all(|census| census.slots == 0 && census.free == 0));
}

/// A run of free pages that came about meanwhile was once set aside as a whole, for as long as it took to find that
/// nothing lived there: all other workers found no memory.
#[test]
fn clearing_a_run_takes_no_more_free_pages_than_it_needs() {
    let (segment, mut cache) = (heap_words(21 * PAGE_WORDS), Cache::default());
    let heap = Heap::new(segment.len(), 1);
    // From the high end: an entry, a gap of a page, an entry; and all the rest is free.
    let extents = [6 * PAGE_WORDS, PAGE_WORDS * 5, 6 * PAGE_WORDS];
    let starts = extents.map(|words| heap.allocate(&segment, &mut cache, words).unwrap());
    heap.free(&segment, &mut cache, starts[1], extents[1]);
    for count in 1..=7 {
        let before = heap.free_pages();
        let clearing = heap.close_run(count, &[], false).unwrap();
        assert!(before - heap.free_pages() <= count, "{} pages for {count}", before - heap.free_pages());
        heap.finish_clearing(&segment, &clearing);
        assert_eq!(heap.free_pages(), before);
    }
}

#[test]
fn bucket_pages_are_taken_one_by_one_until_entries_are_met() {
    let (segment, mut cache) = (heap_words(5 * PAGE_WORDS), Cache::default());
    let heap = Heap::new(segment.len(), 1);
    let start = heap.allocate(&segment, &mut cache, 2).unwrap() as usize;
    assert_eq!(start / PAGE_WORDS, 3, "entries come from the high end, below the page map");
    assert!(heap.take_page(1) && heap.take_page(2));
    assert!(!heap.take_page(1) && !heap.take_page(3) && !heap.take_page(4));
    assert_eq!(heap.free_pages(), 0);
    assert!(heap.allocate(&segment, &mut cache, 40).is_none());
}

impl Heap {
    /// Compares all bookkeeping with what is in use: the words that each place has, by the word at which it begins.
    /// Nobody holds free slots. `fixed` pages are neither free nor of slabs or extents.
    pub fn audit(&self, segment: &[AtomicU64], used: &BTreeMap<u64, usize>, fixed: &[Range<usize>]) {
        let inner = lock(&self.inner);
        let map = PageMap::of(segment);
        let mut seen = 0;
        let (mut free_pages, mut extent_pages, mut census) = (Vec::new(), 0, vec![(0, 0); CLASSES]);
        let mut at = 0;
        while at < inner.pages.len() {
            let page = inner.pages[at];
            let (first, start) = (at as u32, (at * PAGE_WORDS) as u64);
            let length = if page.kind == Kind::Free { 1 } else { (page.length as usize).max(1) };
            let end = ((at + length) * PAGE_WORDS) as u64;
            let here: Vec<_> = used.range(start..end).map(|(&start, &words)| (start, words)).collect();
            let is_fixed = fixed.iter().any(|range| range.contains(&at));
            assert_eq!(page.kind == Kind::Fixed, is_fixed, "page {at}");
            if page.kind != Kind::Free {
                let of_run = |page: &Page| page.kind == inner.pages[at].kind && page.first == first;
                assert!(inner.pages[at..at + length].iter().all(of_run), "page {at}");
            }
            match page.kind {
                Kind::Free => {
                    assert!(here.is_empty(), "{here:?} in free page {at}");
                    free_pages.push(first);
                    assert_eq!(map.get(first).unwrap(), None, "page {at}");
                }
                Kind::Extent => {
                    assert_eq!(here, [(start, length * PAGE_WORDS)]);
                    extent_pages += length as u64;
                    assert_eq!(map.get(first).unwrap(), Some((Run::Extent, length as u32)));
                }
                Kind::Slab => {
                    let class = usize::from(page.class);
                    assert_eq!((length, page.closed), (slab_pages(class), false));
                    assert_eq!(map.get(first).unwrap(), Some((Run::Slab(class), length as u32)));
                    let mut free: BTreeSet<u32> = (page.used_once..slab_slots(class)).collect();
                    let mut next = page.first_free;
                    while let Some(slot) = next.checked_sub(1) {
                        assert!(slot < page.used_once && free.insert(slot), "slot {slot} of page {at} is free twice");
                        next = segment[slot_start(first, class, slot)].load(Ordering::Relaxed) as u32;
                    }
                    for slot in
                        (0..slab_slots(class)).filter(|&slot| inner.gaps.has(page.used_bits, page.used_once, slot))
                    {
                        assert!(free.insert(slot), "slot {slot} of page {at} is free twice");
                    }
                    for &(start, words) in &here {
                        let within = start as usize - at * PAGE_WORDS;
                        assert!(words == class_words(class) && within.is_multiple_of(words), "{start} in page {at}");
                        assert!(free.insert((within / words) as u32), "{start} is in use and free");
                    }
                    assert!(free.into_iter().eq(0..slab_slots(class)), "slots of page {at} are nobody's");
                    assert_eq!(page.free as usize, slab_slots(class) as usize - here.len());
                    census[class].0 += u64::from(slab_slots(class));
                    census[class].1 += u64::from(page.free);
                    let place = inner.partial[class].iter().position(|&slab| slab == first);
                    assert_eq!(place.map_or(0, |place| place + 1), page.listed as usize, "page {at}");
                    assert_eq!(page.listed > 0, page.free > 0);
                }
                Kind::Condemned | Kind::Fixed => assert!(here.is_empty()),
            }
            seen += here.len();
            at += length;
        }
        assert_eq!(seen, used.len());
        let runs = inner.free_runs.iter().flat_map(|(&first, &count)| first..first + count);
        assert!(runs.eq(free_pages.iter().copied()));
        let ends: Vec<_> = inner.free_runs.iter().map(|(&first, &count)| first + count).collect();
        assert!(ends.iter().all(|end| !inner.free_runs.contains_key(end)), "free runs that touch");
        assert_eq!((inner.free_pages as usize, inner.extent_pages), (free_pages.len(), extent_pages));
        let known: Vec<_> = inner.census.iter().map(|census| (census.slots, census.free)).collect();
        assert_eq!(known, census);
        assert_eq!(inner.partial.iter().map(Vec::len).sum::<usize>(), {
            inner.pages.iter().filter(|page| page.listed > 0 && page.kind == Kind::Slab).count()
        });
    }
}

#[test]
fn what_was_saved_is_refused_where_the_page_map_says_something_else() {
    let (segment, mut cache) = (heap_words(17 * PAGE_WORDS), Cache::default());
    let heap = Heap::new(segment.len(), 1);
    let small = heap.allocate(&segment, &mut cache, 17).unwrap();
    let large = heap.allocate(&segment, &mut cache, CLASS_WORDS_MAX + 1).unwrap();
    heap.drain(&segment, &mut cache);
    let mut saved = Vec::new();
    heap.save(&segment, &mut saved).unwrap();
    let restored = Heap::restore(&segment, &saved).unwrap();
    assert_eq!(restored.usage().allocated, heap.usage().allocated);
    assert_eq!((restored.free_pages(), restored.slot_words(small)), (heap.free_pages(), heap.slot_words(small)));
    let map = PageMap::of(&segment);
    let page = |start: u64| (start / PAGE_WORDS as u64) as u32;
    let free = (1..16).find(|&page| matches!(map.get(page), Ok(None))).unwrap();
    for (first, run, pages) in
        [(page(small), Run::Slab(3), slab_pages(3) as u32), (page(large), Run::Slab(3), 1), (free, Run::Extent, 2)]
    {
        let (before, length) = map.get(first).unwrap().map_or((None, 0), |(run, length)| (Some(run), length));
        map.set(first, run, pages);
        assert!(Heap::restore(&segment, &saved).is_none(), "{run:?}");
        match before {
            Some(run) => map.set(first, run, length),
            None => map.clear(first),
        }
    }
    assert!(Heap::restore(&segment, &saved).is_some());
}
