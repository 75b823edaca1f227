//! The order in which entries are looked at when memory is short: the queue and the hand of SIEVE.
//!
//! # Design
//!
//! SIEVE keeps all entries in the order of their arrival. A hand goes from the oldest to the newest and begins anew
//! when it gets there: an entry that was used since it came by last (*visited*) loses its mark and stays where it is;
//! one that was not is evicted. Unlike in a clock, new entries do not take the place of evicted ones but arrive at the
//! far end, so that the hand soon meets those that nobody asks for a second time.
//!
//! A linked list would cost 16 bytes an entry. Here the queue holds 5 bytes for each, and they are not a place in
//! memory but 40 bits of the key's hash ([`Id`]): enough to find the entry's bucket at any size of the table, and the
//! entry in it. So an overwritten, moved or deleted entry needs no change in the queue. Two plain queues make up the
//! order:
//!
//! ```text
//!   oldest                      hand                       newest
//!     |---- behind the hand ----||------- ahead of it --------|
//!           passed: survivors        ahead: arrivals join here
//! ```
//!
//! The hand takes ids from the front of `ahead`; those of survivors join `passed` at its end. When `ahead` is empty,
//! `passed` becomes `ahead`, and a new round begins. The marks are in the slots of the buckets: *visited*, and *seen*,
//! a bit whose meaning turns around with every round and which tells a second id of the same entry (it was deleted,
//! and written again) from the first.
//!
//! # Invariants
//!
//! - An id without an entry, or a second one of the same entry, is dropped when the hand comes by. The writer moves the
//!   hand, without evicting anything, when there are too many such.
//! - An entry without an id is never evicted: so when fewer ids than entries are left, or none, the writer adds one for
//!   each entry anew ([`Sieve::needs_refill`]).
//! - The queue's memory is private to the server; for each 64 KiB of it a page of the segment stays unused
//!   ([`super::heap::Heap::reserve_page`]), so that all together stay within the table's memory.
//!
//! Source: Y. Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches",
//! NSDI 2024.

use std::collections::VecDeque;

use super::bucket::Slot;
use super::heap::Heap;
use super::layout::{PAGE_WORDS, address};
use crate::limits;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// Bits of the hash that choose the bucket, of the largest table there can be.
const LOW_BITS: u32 = 31;
const TAG_BITS: u32 = 40 - LOW_BITS;
const ID_SIZE: usize = 5;
/// Pages that are kept ready: ids that pass from one queue to the other need one before they leave another, in each.
const SPARE_MIN: usize = 2;
/// Most pages that are kept ready: what a queue without ids has of the table.
pub const SPARE_MAX: usize = 2 * SPARE_MIN;
/// Bytes of a piece of a queue: a page's.
const CHUNK_SIZE: usize = PAGE_WORDS * 8 / ID_SIZE * ID_SIZE;

const _: () = assert!(limits::BUCKETS_MAX == 1 << LOW_BITS, "an id finds the bucket in a table of any size");

/// Enough of a key's hash to find its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u64);

impl Id {
    /// The id of keys with that hash.
    #[inline]
    pub fn new(hash: u64) -> Self {
        let (tag, low) = (super::bucket::tag(hash), hash & ((1 << LOW_BITS) - 1));
        Self(low | (tag & ((1 << TAG_BITS) - 1)) << LOW_BITS)
    }

    /// The bits that choose the bucket, in the place of a hash.
    #[inline]
    pub fn low(self) -> u64 {
        self.0 & ((1 << LOW_BITS) - 1)
    }

    /// The bucket it belongs to when there are `buckets`.
    #[inline]
    pub fn bucket(self, buckets: u64) -> u64 {
        address(self.low(), buckets)
    }

    /// Whether it may be that of the entry that a slot of its bucket points at.
    #[inline]
    pub fn fits(self, slot: Slot) -> bool {
        slot.is_entry() && slot.tag() & ((1 << TAG_BITS) - 1) == self.0 >> LOW_BITS
    }
}

/// Ids, first in, first out.
#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Box<[u8]>>,
    /// Bytes taken from the first chunk.
    taken: usize,
    /// Bytes in the last chunk.
    filled: usize,
}

impl Queue {
    fn len(&self) -> usize {
        (self.chunks.len().saturating_sub(1) * CHUNK_SIZE + self.filled).saturating_sub(self.taken) / ID_SIZE
    }

    /// Adds an id, in a spare page if need be; `false` if there is none.
    fn push(&mut self, id: Id, spare: &mut usize) -> bool {
        if self.chunks.is_empty() || self.filled == CHUNK_SIZE {
            if *spare == 0 {
                return false;
            }
            *spare -= 1;
            self.chunks.push_back(vec![0; CHUNK_SIZE].into_boxed_slice());
            self.filled = 0;
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk[self.filled..self.filled + ID_SIZE].copy_from_slice(&id.0.to_le_bytes()[..ID_SIZE]);
            self.filled += ID_SIZE;
        }
        true
    }

    fn pop(&mut self, spare: &mut usize) -> Option<Id> {
        if self.len() == 0 {
            return None;
        }
        let mut bytes = [0; 8];
        bytes[..ID_SIZE].copy_from_slice(&self.chunks.front()?[self.taken..self.taken + ID_SIZE]);
        self.taken += ID_SIZE;
        if self.taken == CHUNK_SIZE || self.len() == 0 {
            self.chunks.pop_front();
            self.taken = 0;
            *spare += 1;
            if self.chunks.is_empty() {
                self.filled = 0;
            }
        }
        Some(Id(u64::from_le_bytes(bytes)))
    }
}

#[derive(Debug, Default)]
struct Inner {
    passed: Queue,
    ahead: Queue,
    /// Pages of the segment that are set aside and not used by either queue yet.
    spare: usize,
    /// Whether there was no memory for an id.
    lost: bool,
    /// The bucket where adding ids anew goes on.
    refill_at: u64,
}

impl Inner {
    /// Gives back what is more than the next ids need.
    fn give_spare_back(&mut self, heap: &Heap) {
        let surplus = self.spare.saturating_sub(SPARE_MAX);
        heap.unreserve_pages(surplus);
        self.spare -= surplus;
    }
}

/// The queue of one table.
#[derive(Debug, Default)]
pub struct Sieve {
    inner: Mutex<Inner>,
    /// Number of the hand's round.
    round: AtomicU64,
    /// Ids in the queue.
    ids: AtomicU64,
}

impl Sieve {
    /// How *seen* entries are marked in this round.
    #[inline]
    pub fn seen_mark(&self) -> bool {
        // Relaxed: a mark that is wrong makes an id be dropped too early, which refilling mends.
        self.round.load(Ordering::Relaxed) & 1 != 0
    }

    /// Ids in the queue.
    pub fn ids(&self) -> u64 {
        // Relaxed: a count to compare with that of entries.
        self.ids.load(Ordering::Relaxed)
    }

    /// Sets pages of the segment aside for what the queue needs next. `false` if there are none: then ids may get lost
    /// before long.
    pub fn provide(&self, heap: &Heap) -> bool {
        let mut inner = lock(&self.inner);
        while inner.spare < SPARE_MIN && heap.reserve_page() {
            inner.spare += 1;
        }
        inner.give_spare_back(heap);
        inner.spare >= SPARE_MIN
    }

    /// Gives pages back that the queue does not need any more since it has become shorter.
    pub fn give_back(&self, heap: &Heap) {
        lock(&self.inner).give_spare_back(heap);
    }

    /// Adds ids of entries that have just arrived.
    pub fn arrive(&self, ids: &mut Vec<Id>) {
        let mut inner = lock(&self.inner);
        let Inner { ahead, spare, lost, .. } = &mut *inner;
        for id in ids.drain(..) {
            if ahead.push(id, spare) {
                self.ids.fetch_add(1, Ordering::Relaxed);
            } else {
                *lost = true;
            }
        }
    }

    /// The next id that the hand comes to, and how entries are marked that it has seen; `None` if there is none left.
    pub fn advance(&self) -> Option<(Id, bool)> {
        let mut inner = lock(&self.inner);
        let Inner { passed, ahead, spare, .. } = &mut *inner;
        if ahead.len() == 0 {
            std::mem::swap(passed, ahead);
            self.round.fetch_add(1, Ordering::Relaxed);
        }
        let id = ahead.pop(spare)?;
        self.ids.fetch_sub(1, Ordering::Relaxed);
        Some((id, self.seen_mark()))
    }

    /// Puts an id back that the hand has passed without evicting its entry.
    pub fn keep(&self, id: Id) {
        let mut inner = lock(&self.inner);
        let Inner { passed, spare, lost, .. } = &mut *inner;
        if passed.push(id, spare) {
            self.ids.fetch_add(1, Ordering::Relaxed);
        } else {
            *lost = true;
        }
    }

    /// Whether entries are without an id: the next bucket to add those of, if so. `entries` is how many there are.
    pub fn needs_refill(&self, entries: u64) -> Option<u64> {
        let inner = lock(&self.inner);
        let missing = self.ids() < entries && (inner.lost || self.ids() == 0);
        (missing || inner.refill_at > 0).then_some(inner.refill_at)
    }

    /// Says at which bucket refilling goes on; 0 once it is done.
    pub fn refilled_to(&self, bucket: u64) {
        let mut inner = lock(&self.inner);
        inner.refill_at = bucket;
        inner.lost &= bucket != 0;
    }

    /// Forgets all ids of entries that are there still: they get others when the hand needs them.
    pub fn forget(&self, heap: &Heap) {
        self.clear(heap);
        lock(&self.inner).lost = true;
    }

    /// Forgets all ids: their entries are being deleted.
    pub fn clear(&self, heap: &Heap) {
        let mut inner = lock(&self.inner);
        inner.spare += inner.passed.chunks.len() + inner.ahead.chunks.len();
        (inner.passed, inner.ahead) = (Queue::default(), Queue::default());
        inner.give_spare_back(heap);
        self.ids.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ids_find_their_bucket_and_slot_at_any_size() {
        for hash in (1..1_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let id = Id::new(hash);
            for buckets in [1, 7, 1_000, 1 << 20, limits::BUCKETS_MAX] {
                assert_eq!(id.bucket(buckets), address(hash, buckets));
            }
            assert!(id.fits(Slot::entry(hash, 99)));
            assert!(!id.fits(Slot::entry(hash ^ 1 << 48, 99)));
            assert!(!id.fits(Slot::link(99)));
        }
    }

    #[test]
    fn the_order_is_that_of_arrival_and_all_pages_come_back() {
        let heap = Heap::new(65 * PAGE_WORDS, 1);
        let sieve = Sieve::default();
        let count = 50_000;
        for ids in (0..count).map(Id).collect::<Vec<_>>().chunks(100) {
            assert!(sieve.provide(&heap));
            sieve.arrive(&mut ids.to_vec());
        }
        let pages = (count as usize * ID_SIZE).div_ceil(CHUNK_SIZE) + SPARE_MIN;
        assert_eq!((sieve.ids(), 63 - heap.free_pages()), (count, pages));
        // Every second one stays.
        for expected in 0..count {
            let (id, seen) = sieve.advance().unwrap();
            assert_eq!((id, seen), (Id(expected), sieve.seen_mark()));
            if expected % 2 == 0 {
                sieve.keep(id);
            }
        }
        let round = sieve.seen_mark();
        for expected in (0..count).step_by(2) {
            assert_eq!(sieve.advance().unwrap(), (Id(expected), !round));
        }
        assert!(sieve.advance().is_none());
        sieve.clear(&heap);
        assert_eq!((sieve.ids(), heap.free_pages()), (0, 63 - 2 * SPARE_MIN));
    }

    #[test]
    fn without_memory_ids_are_lost_and_that_is_known() {
        let heap = Heap::new(3 * PAGE_WORDS, 1);
        let sieve = Sieve::default();
        let count = CHUNK_SIZE as u64;
        assert!(!sieve.provide(&heap));
        sieve.arrive(&mut (0..count).map(Id).collect());
        assert_eq!(sieve.ids(), count / ID_SIZE as u64);
        assert_eq!(sieve.needs_refill(count), Some(0));
        assert_eq!(sieve.needs_refill(1), None);
        sieve.clear(&heap);
    }
}
