//! Where the entries are that expire: for eviction by expiry, which takes a sample of them, and has to know beforehand
//! what it could free.
//!
//! # Design
//!
//! Counts of the entries that expire and may be evicted ([`super::bucket::Slot::is_volatile`]), in private memory, and
//! only in tables that evict by expiry. They change under the lock of the bucket whose
//! chain the entry comes to or leaves.
//!
//! - **By bucket**: for each block of [`BLOCK`] buckets, and for each group of [`GROUP`] blocks, how many entries in
//!   them expire. A walk that begins at a random bucket skips what has none, so that a sample costs the same in a table
//!   of any size, however few expire. Blocks of a group are made when the first entry comes to it; they take 8 bytes
//!   for 32 buckets, which are 2 KiB.
//! - **By size class**: how many slots, or pages of extents, would be free if all of them went.
//!
//! Redis has an index of all keys that expire; that costs memory for each of them, and work at each change.
//!
//! # Invariants
//!
//! - The counts are exact for a bucket that is locked, and for all when no worker is in the middle of a change. Whoever
//!   looks at them without lock takes them for hints.

use super::heap::CLASSES;
use super::unevictable::amount_of;
use crate::sync::{AtomicU64, OnceLock, Ordering};

/// Buckets of a block.
const BLOCK: u64 = 32;
/// Blocks of a group.
const GROUP: u64 = 1_024;

#[derive(Debug, Default)]
struct Group {
    /// Entries that expire in all of its blocks.
    count: AtomicU64,
    blocks: OnceLock<Box<[AtomicU64]>>,
}

/// The counts of one table. All accesses are relaxed: see the module header.
#[derive(Debug)]
pub struct Expiring {
    groups: Box<[Group]>,
    /// By size class: slots; behind those, pages of extents.
    classes: Box<[AtomicU64]>,
}

impl Expiring {
    /// None yet, in a table that never has more than so many buckets.
    pub fn new(buckets_max: u64) -> Self {
        let groups = (0..buckets_max.div_ceil(BLOCK * GROUP)).map(|_| Group::default()).collect();
        Self { groups, classes: (0..=CLASSES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// An entry that expires has come to the chain of a locked bucket.
    pub fn come(&self, bucket: u64) {
        let group = &self.groups[(bucket / (BLOCK * GROUP)) as usize];
        let blocks = group.blocks.get_or_init(|| (0..GROUP).map(|_| AtomicU64::new(0)).collect());
        blocks[(bucket / BLOCK % GROUP) as usize].fetch_add(1, Ordering::Relaxed);
        group.count.fetch_add(1, Ordering::Relaxed);
    }

    /// One has left it.
    pub fn leave(&self, bucket: u64) {
        let group = &self.groups[(bucket / (BLOCK * GROUP)) as usize];
        if let Some(blocks) = group.blocks.get() {
            blocks[(bucket / BLOCK % GROUP) as usize].fetch_sub(1, Ordering::Relaxed);
            group.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An entry of so many words that expires has come to the table.
    pub fn arrive(&self, words: usize) {
        let (kind, amount) = amount_of(words);
        self.classes[kind].fetch_add(amount, Ordering::Relaxed);
    }

    /// One has left it.
    pub fn depart(&self, words: usize) {
        let (kind, amount) = amount_of(words);
        self.classes[kind].fetch_sub(amount, Ordering::Relaxed);
    }

    /// Slots of a size class in which entries expire; behind the last class, pages of extents.
    pub fn amount(&self, kind: usize) -> u64 {
        self.classes[kind].load(Ordering::Relaxed)
    }

    /// How many entries expire, by the counts of buckets.
    #[cfg(test)]
    pub fn all(&self) -> u64 {
        self.groups.iter().map(|group| group.count.load(Ordering::Relaxed)).sum()
    }

    /// The first bucket from `bucket` on, and below `end`, in whose block something expires.
    pub fn next(&self, bucket: u64, end: u64) -> Option<u64> {
        let mut at = bucket;
        while at < end {
            let group = &self.groups[(at / (BLOCK * GROUP)) as usize];
            let blocks = group.blocks.get().filter(|_| group.count.load(Ordering::Relaxed) > 0);
            let Some(blocks) = blocks else {
                at = (at / (BLOCK * GROUP) + 1) * (BLOCK * GROUP);
                continue;
            };
            if blocks[(at / BLOCK % GROUP) as usize].load(Ordering::Relaxed) > 0 {
                return Some(at);
            }
            at = (at / BLOCK + 1) * BLOCK;
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::table::heap::kind_of;
    use crate::table::layout::PAGE_WORDS;

    #[test]
    fn a_walk_skips_what_has_none() {
        let expiring = Expiring::new(10 * BLOCK * GROUP + 1);
        assert_eq!(expiring.next(0, u64::from(u32::MAX).min(10 * BLOCK * GROUP)), None);
        let here = 7 * BLOCK * GROUP + 5 * BLOCK + 3;
        expiring.come(here);
        expiring.come(here + 1);
        assert_eq!(expiring.next(0, 10 * BLOCK * GROUP), Some(7 * BLOCK * GROUP + 5 * BLOCK));
        assert_eq!(expiring.next(here - 1, 10 * BLOCK * GROUP), Some(here - 1));
        assert_eq!(expiring.next(here + BLOCK, 10 * BLOCK * GROUP), None);
        assert_eq!(expiring.next(0, here - BLOCK), None);
        expiring.leave(here);
        assert!(expiring.next(0, 10 * BLOCK * GROUP).is_some());
        expiring.leave(here);
        assert_eq!(expiring.next(0, 10 * BLOCK * GROUP), None);
    }

    #[test]
    fn sizes_count_as_slots_or_as_pages() {
        let expiring = Expiring::new(1);
        expiring.arrive(10);
        expiring.arrive(10);
        expiring.arrive(100 * PAGE_WORDS + 1);
        assert_eq!((expiring.amount(kind_of(10)), expiring.amount(CLASSES)), (2, 101));
        expiring.depart(10);
        expiring.depart(100 * PAGE_WORDS + 1);
        assert_eq!((expiring.amount(kind_of(10)), expiring.amount(CLASSES)), (1, 0));
    }
}
