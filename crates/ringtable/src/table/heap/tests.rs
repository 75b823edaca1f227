//! Memory that is handed out never overlaps, and all of it comes back.

use super::*;
use crate::sync::{heap_words, lock};
use crate::table::layout::PAGE_WORDS;

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
    assert_eq!((inner.free_pages, inner.dirty_free), (61, inner.pages.iter().filter(|page| page.dirty).count() as u32));
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
