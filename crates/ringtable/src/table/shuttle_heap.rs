//! Model of the heap: workers that allocate and free, while others clear slabs and runs of pages, condemn all slabs,
//! and take pages away.
//!
//! It is too large for all interleavings, so some are tried, at random (`model::explore`): slots of a few sizes and
//! extents, in two dozen pages of sixteen words.
//!
//! # Allowed
//!
//! - An allocation that fails: the memory is there, but in the wrong places, or in other workers' caches.
//! - A clearing that moves nothing: what lives there is gone, or finds no other place.
//!
//! # Forbidden
//!
//! - Memory that belongs to two at a time, or to one and to the heap: a word of it changes while somebody has it.
//! - Memory outside of the pages that are for it.
//! - Memory that is lost: when all is given back, all pages are free, and in one row.
//!
//! # What this cannot show
//!
//! Shuttle's atomics are sequentially consistent: that the memory of an entry is filled anew behind a fence is for
//! `loom_table` to show (`a_reader_against_reuse_by_another_worker`).

use std::collections::BTreeMap;
use std::sync::Mutex as Plain;

use shuttle::thread;

use super::heap::{Cache, Clearing, Heap};
use super::layout::{PAGE_WORDS, page_map_pages, page_map_start};
use crate::sync::{Arc, AtomicU64, Ordering, heap_words, model};

const PAGES: usize = 26;
/// The first page is the header's, and the last ones are the page map's.
const FIRST_PAGE: usize = 1;
/// Pages that are taken for good, as the bucket array takes them.
const TAKEN_MAX: usize = 2;
/// Steps of each worker.
const STEPS: usize = 14;
/// Words that are asked for: slots of slabs of one page and of several, and an extent.
const SIZES: [usize; 6] = [2, 3, 3, 5, 20, 70];

/// Pieces that were moved, in all runs. Not an object of the model.
static MOVED: model::Count = model::Count::new();

/// A piece of memory that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    words: usize,
}

struct Stage {
    segment: Box<[AtomicU64]>,
    heap: Heap,
    /// Who has what, by its number. Not an object of the model: it is never locked while another thread may go on.
    pieces: Plain<BTreeMap<u64, Piece>>,
    /// Pages that were taken for good.
    taken: AtomicU64,
}

impl Stage {
    /// Takes note that a piece has an owner. `instead_of` is where it was before.
    fn own(&self, number: u64, piece: Piece, instead_of: Option<Piece>) -> bool {
        let mut pieces = self.pieces.lock().expect("nobody panics meanwhile");
        if pieces.get(&number).copied() != instead_of {
            return false;
        }
        let range = piece.start..piece.start + piece.words as u64;
        assert!(
            range.start as usize >= FIRST_PAGE * PAGE_WORDS && range.end as usize <= page_map_start(self.segment.len()),
            "forbidden: {piece:?} is not within the segment"
        );
        for (other, &Piece { start, words }) in pieces.iter() {
            let apart = range.end <= start || start + words as u64 <= range.start;
            assert!(apart, "forbidden: {piece:?} of {number} lies in what {other} has, {start} and {words} words");
        }
        pieces.insert(number, piece);
        true
    }

    fn mark(&self, number: u64, Piece { start, words }: Piece) {
        for place in [start as usize, start as usize + words - 1] {
            self.segment[place].store(number, Ordering::Relaxed);
        }
    }

    fn check(&self, number: u64, piece: Piece) {
        for place in [piece.start as usize, piece.start as usize + piece.words - 1] {
            let found = self.segment[place].load(Ordering::Relaxed);
            assert_eq!(found, number, "forbidden: word {place} of {piece:?} has changed while it was ours");
        }
    }

    /// Takes a piece out of the books, to be freed.
    fn disown(&self, number: u64) -> Option<Piece> {
        self.pieces.lock().expect("nobody panics meanwhile").remove(&number)
    }

    /// Does what the writer does with a clearing: moves what it finds there.
    fn clear(&self, clearing: &Clearing, cache: &mut Cache) {
        for &start in &clearing.starts {
            let found = {
                let pieces = self.pieces.lock().expect("nobody panics meanwhile");
                pieces.iter().map(|(&number, &piece)| (number, piece)).find(|(_, piece)| piece.start == start)
            };
            let Some((number, from)) = found else { continue };
            let Some(start) = self.heap.allocate(&self.segment, cache, from.words) else { continue };
            let to = Piece { start, ..from };
            self.mark(number, to);
            if self.own(number, to, Some(from)) {
                MOVED.add(1);
                self.heap.free_all(&self.segment, std::iter::once(from.start));
            } else {
                self.heap.free(&self.segment, cache, to.start, to.words);
            }
        }
        self.heap.drain(&self.segment, cache);
        self.heap.finish_clearing(&self.segment, clearing);
    }

    /// A worker's steps.
    fn work(&self, worker: u64, random: &mut fastrand::Rng) {
        let mut cache = Cache::default();
        for step in 0..STEPS as u64 {
            let number = 1 + worker * 100 + step;
            match random.u8(..10) {
                0..5 => {
                    let words = SIZES[random.usize(..SIZES.len())];
                    if let Some(start) = self.heap.allocate(&self.segment, &mut cache, words) {
                        let piece = Piece { start, words };
                        self.mark(number, piece);
                        self.own(number, piece, None);
                    }
                }
                5..9 if step > 0 => {
                    let number = 1 + worker * 100 + random.u64(..step);
                    if let Some(piece) = self.disown(number) {
                        self.check(number, piece);
                        self.heap.free(&self.segment, &mut cache, piece.start, piece.words);
                    }
                }
                _ => self.heap.drain(&self.segment, &mut cache),
            }
        }
        self.heap.drain(&self.segment, &mut cache);
    }

    /// The steps of who makes room.
    fn tidy(&self, random: &mut fastrand::Rng) {
        let mut cache = Cache::default();
        for _ in 0..STEPS / 2 {
            let clearing = match random.u8(..8) {
                0..3 => self.heap.close_sparse_slab(&[]),
                3..5 => self.heap.close_run(random.usize(1..6), &[], random.bool()),
                5 => self.heap.close_page(random.usize(FIRST_PAGE..PAGES)),
                6 => {
                    if random.bool() {
                        self.heap.condemn_all(&self.segment);
                    } else if let Some((first, count)) = self.heap.take_dirty(3) {
                        // They go back to the kernel, and are zeroes.
                        let words = &self.segment[first * PAGE_WORDS..][..count * PAGE_WORDS];
                        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                        self.heap.return_clean(first, count, false);
                    }
                    None
                }
                _ => {
                    // As the bucket array does, one after the other. Of two who try the same, one gets it.
                    let taken = self.taken.load(Ordering::Relaxed);
                    let next = FIRST_PAGE + taken as usize;
                    if (taken as usize) < TAKEN_MAX && self.heap.take_page(next) {
                        self.taken.fetch_add(1, Ordering::Relaxed);
                    }
                    None
                }
            };
            if let Some(clearing) = clearing {
                self.clear(&clearing, &mut cache);
            }
        }
        self.heap.drain(&self.segment, &mut cache);
    }

    /// When all threads are over: gives all back, and requires that all is free.
    fn settle(&self) {
        let mut cache = Cache::default();
        let pieces = std::mem::take(&mut *self.pieces.lock().expect("nobody panics meanwhile"));
        for (number, piece) in pieces {
            self.check(number, piece);
            self.heap.free(&self.segment, &mut cache, piece.start, piece.words);
        }
        self.heap.drain(&self.segment, &mut cache);
        self.heap.release(&self.segment);
        let pages = PAGES - FIRST_PAGE - page_map_pages(self.segment.len());
        let free = pages - self.taken.load(Ordering::Relaxed) as usize;
        let usage = self.heap.usage();
        assert_eq!((usage.allocated, usage.free_slots), (0, 0), "forbidden: memory is lost, {usage:?}");
        assert_eq!(usage.free_pages as usize, free * PAGE_WORDS * 8, "forbidden: pages are lost");
        let all = self.heap.allocate_events(&self.segment, free * PAGE_WORDS);
        assert!(all.is_some(), "forbidden: free pages that do not lie in a row");
    }
}

fn stage() -> Arc<Stage> {
    Arc::new(Stage {
        segment: heap_words(PAGES * PAGE_WORDS),
        heap: Heap::new(PAGES * PAGE_WORDS, FIRST_PAGE),
        pieces: Plain::default(),
        taken: AtomicU64::new(0),
    })
}

#[test]
fn memory_belongs_to_one_and_all_comes_back() {
    model::explore(|random| {
        let stage = stage();
        let mut threads = Vec::new();
        for worker in 0..2 {
            let (stage, mut random) = (Arc::clone(&stage), random.fork());
            threads.push(thread::spawn(move || stage.work(worker, &mut random)));
        }
        for _ in 0..2 {
            let (stage, mut random) = (Arc::clone(&stage), random.fork());
            threads.push(thread::spawn(move || stage.tidy(&mut random)));
        }
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        stage.settle();
    });
    assert!(MOVED.any(), "the model is too small: nothing was ever moved");
}
