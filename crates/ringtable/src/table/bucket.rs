//! A bucket: a version and seven slots in one cache line, and the chain of overflow buckets behind it.
//!
//! ```text
//! word 0     version: even when stable, odd while a worker changes the chain (it is the write lock)
//! word 1…7   slots: tag 16 bits | visited 1 | seen 1 | expiry code 5 | unevictable 1 | word of the entry 40; 0 = empty
//! ```
//!
//! *Visited* and *seen* belong to eviction ([`super::sieve`]), the expiry code to the sweep ([`super::sweep`]), and
//! *unevictable* marks what eviction leaves alone ([`super::unevictable`]); readers pass over them.
//! *Visited* may be set without the lock, by a compare-and-set of the whole slot: the memory of a home bucket never
//! becomes anything else, and a mark that is lost is no harm.
//!
//! The last slot may hold a link instead of an entry: its tag is [`LINK_TAG`], which no hash has. An overflow bucket
//! has the same shape; its word 0 is not used, since the home bucket's version covers the whole chain.
//!
//! # Reading and writing (a seqlock)
//!
//! Writer: version to odd by CAS (Acquire: the last holder's changes are seen); fence(Release); relaxed stores; version
//! to even (Release). Reader: version (Acquire, by fence); relaxed loads; fence(Acquire); version again (Relaxed).
//! If a reader saw any store of a writer, the writer's fence(Release) before it pairs with the reader's fence(Acquire)
//! after it, so the second look at the version finds the odd value or a later one, and the reader tries again.
//! If the reader began after the writer's last Release, its first look pairs with that and it sees everything.
//!
//! Source: H.-J. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.

use super::layout::BUCKET_WORDS;
use crate::limits;
use crate::sync::{AtomicU64, Ordering, fence, spin_loop, yield_now};

/// Slots of a bucket.
pub const SLOTS: usize = BUCKET_WORDS - 1;
/// Most entries of a bucket, those in its overflow buckets included.
pub const ENTRIES_MAX: usize = SLOTS + limits::CHAIN_HOPS_MAX * (SLOTS - 1);
/// The tag of a link; no hash has it.
pub const LINK_TAG: u64 = 0xffff;
/// An empty slot: word 0 lies in the header, so no entry begins there.
pub const EMPTY: Slot = Slot(0);

/// Bits of a slot that tell where the entry begins: 8 TiB.
pub const AT_BITS: u32 = 40;
const AT_MASK: u64 = (1 << AT_BITS) - 1;
/// The bits of a slot that no mark changes: its tag, and where its entry begins.
pub const UNMARKED: u64 = 0xffff << 48 | AT_MASK;
const UNEVICTABLE: u64 = 1 << AT_BITS;
const EXPIRY_SHIFT: u32 = AT_BITS + 1;
const EXPIRY_MASK: u64 = 0x1f << EXPIRY_SHIFT;
const SEEN: u64 = 1 << 46;
const VISITED: u64 = 1 << 47;

const _: () = assert!(limits::MAX_MEMORY_MAX / 8 <= 1 << AT_BITS, "every word of a segment can be pointed at");

/// A slot: nothing, an entry, or (the last one) a link to an overflow bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot for an entry at word `at` whose key has `hash`.
    #[inline]
    pub fn entry(hash: u64, at: u64) -> Self {
        Self(tag(hash) << 48 | at)
    }

    /// The slot that links an overflow bucket at word `at`.
    #[inline]
    pub fn link(at: u64) -> Self {
        Self(LINK_TAG << 48 | at)
    }

    /// The 16 bits that tell most keys apart without looking at their entries.
    #[inline]
    pub fn tag(self) -> u64 {
        self.0 >> 48
    }

    /// The word at which the entry or overflow bucket begins.
    #[inline]
    pub fn at(self) -> u64 {
        self.0 & AT_MASK
    }

    /// The same slot for an entry at word `at`, with all its marks.
    #[inline]
    pub fn moved_to(self, at: u64) -> Self {
        Self(self.0 & !AT_MASK | at)
    }

    /// Whether the entry was used since the hand of the sieve came by.
    #[inline]
    pub fn is_visited(self) -> bool {
        self.0 & VISITED != 0
    }

    /// The same slot, visited or not.
    #[inline]
    pub fn with_visited(self, visited: bool) -> Self {
        Self(self.0 & !VISITED | if visited { VISITED } else { 0 })
    }

    /// In which of two kinds of rounds the hand of the sieve has seen the entry last.
    #[inline]
    pub fn seen(self) -> bool {
        self.0 & SEEN != 0
    }

    /// The same slot, seen in such a round.
    #[inline]
    pub fn with_seen(self, seen: bool) -> Self {
        Self(self.0 & !SEEN | if seen { SEEN } else { 0 })
    }

    /// When the entry expires, as the sweep has it: 0 for never.
    #[inline]
    pub fn expiry_code(self) -> u64 {
        (self.0 & EXPIRY_MASK) >> EXPIRY_SHIFT
    }

    /// The same slot with an expiry code, less than 32.
    #[inline]
    pub fn with_expiry_code(self, code: u64) -> Self {
        Self(self.0 & !EXPIRY_MASK | code << EXPIRY_SHIFT)
    }

    /// Whether it holds an entry that expires.
    #[inline]
    pub fn expires(self) -> bool {
        self.is_entry() && self.expiry_code() != 0
    }

    /// Whether it holds an entry that is never to be evicted.
    #[inline]
    pub fn is_unevictable(self) -> bool {
        self.is_entry() && self.0 & UNEVICTABLE != 0
    }

    /// The same slot, never to be evicted, or to be.
    #[inline]
    pub fn with_unevictable(self, unevictable: bool) -> Self {
        Self(self.0 & !UNEVICTABLE | if unevictable { UNEVICTABLE } else { 0 })
    }

    /// Whether it holds an entry that expires, and may be evicted for that.
    #[inline]
    pub fn is_volatile(self) -> bool {
        self.expires() && !self.is_unevictable()
    }

    /// Whether it holds an entry.
    #[inline]
    pub fn is_entry(self) -> bool {
        self != EMPTY && self.tag() != LINK_TAG
    }

    /// Whether it holds a link.
    #[inline]
    pub fn is_link(self) -> bool {
        self.tag() == LINK_TAG
    }
}

/// The tag of a hash: its upper bits, which do not choose the bucket; the value of a link is left out.
#[inline]
pub fn tag(hash: u64) -> u64 {
    (hash >> 48).min(LINK_TAG - 1)
}

/// The eight words of a bucket.
#[derive(Clone, Copy)]
pub struct BucketRef<'a>(&'a [AtomicU64; BUCKET_WORDS]);

impl<'a> BucketRef<'a> {
    /// The bucket that begins at word `start`, if it lies within the segment.
    #[inline]
    pub fn at(segment: &'a [AtomicU64], start: usize) -> Option<Self> {
        Some(Self(segment.get(start..)?.first_chunk()?))
    }

    /// Whether both are the same bucket.
    pub fn is(self, other: BucketRef<'_>) -> bool {
        std::ptr::eq(self.0, other.0)
    }

    /// The word of the segment at which it begins.
    pub fn start(self, segment: &[AtomicU64]) -> usize {
        (self.0.as_ptr().addr() - segment.as_ptr().addr()) / size_of::<AtomicU64>()
    }

    /// What slot `index` (0 to 6) holds.
    ///
    /// Relaxed: see the module header; readers check the version behind a fence, writers hold the lock.
    #[inline]
    pub fn slot(self, index: usize) -> Slot {
        Slot(self.0[1 + index].load(Ordering::Relaxed))
    }

    /// Changes a slot. Only for the holder of the home bucket.
    ///
    /// Release: the entry is complete before any slot points at it (I3), also for one who reads the slot alone.
    #[inline]
    pub fn set_slot(self, index: usize, slot: Slot) {
        self.0[1 + index].store(slot.0, Ordering::Release);
    }

    /// Empties all slots. Only for the holder of the home bucket, or of fresh memory.
    pub fn clear_slots(self) {
        for index in 0..SLOTS {
            self.set_slot(index, EMPTY);
        }
    }

    /// The version for a reader that is about to look at the chain; `None` while a writer is at work.
    ///
    /// Acquire (by fence, since on read-only memory only relaxed loads are defined): pairs with the Release in
    /// [`BucketGuard::unlock`].
    #[inline]
    pub fn begin_read(self) -> Option<u64> {
        let version = self.0[0].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (version & 1 == 0).then_some(version)
    }

    /// Whether all that was loaded since [`Self::begin_read`] belongs together.
    ///
    /// fence(Acquire): pairs with the fence(Release) in [`Self::lock`]; see the module header. The load may then be
    /// relaxed: it cannot be older than what the loads before the fence have seen.
    #[inline]
    pub fn end_read(self, version: u64) -> bool {
        fence(Ordering::Acquire);
        self.0[0].load(Ordering::Relaxed) == version
    }

    /// Whether this home bucket had neither entries nor a chain at some moment of this call. Not so if a writer is at
    /// work: then nobody can tell without the lock.
    pub fn is_empty(self) -> bool {
        self.begin_read()
            .is_some_and(|version| (0..SLOTS).all(|index| self.slot(index) == EMPTY) && self.end_read(version))
    }

    /// The version as it is, for who takes the table over.
    ///
    /// Acquire: pairs with the Release in [`BucketGuard::unlock`].
    pub fn version(self) -> u64 {
        self.0[0].load(Ordering::Acquire)
    }

    /// Takes the write lock, or takes it over: whoever may have it is dead, and nobody else writes.
    pub fn take_over(self) -> BucketGuard<'a> {
        let version = self.version() & !1;
        // Relaxed, and Release: as in `lock`.
        self.0[0].store(version | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        BucketGuard { bucket: self, version }
    }

    /// Marks a slot of this home bucket as visited, if it still holds `slot`, without taking the lock.
    ///
    /// Relaxed: a mark guards nothing, and the slot's entry stays as it was published.
    #[inline]
    pub fn mark_visited(self, index: usize, slot: Slot) {
        let marked = slot.with_visited(true);
        let _ = self.0[1 + index].compare_exchange(slot.0, marked.0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes the write lock, waiting for another worker to finish if need be (it does so in well under a microsecond
    /// unless it loses its processor, hence the yield).
    pub fn lock(self) -> BucketGuard<'a> {
        let mut attempts = 0_u32;
        loop {
            // Relaxed: only a hint whether trying is worth it.
            let version = self.0[0].load(Ordering::Relaxed);
            // Acquire on success: pairs with the Release in `unlock`. Relaxed on failure: nothing is read.
            if version & 1 == 0
                && self.0[0].compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                // Release: pairs with the fence(Acquire) in `end_read`: a reader that sees a store of ours sees the odd
                // version.
                // (For slots their own Release does the same; for the words of an entry that change, nothing else.)
                fence(Ordering::Release);
                return BucketGuard { bucket: self, version };
            }
            attempts += 1;
            if attempts.is_multiple_of(64) { yield_now() } else { spin_loop() }
        }
    }

    /// Forgets what this memory held before it became a bucket: now it is one that is not locked.
    ///
    /// Relaxed: the bucket count that makes it reachable is published with Release after this.
    pub fn unlock_fresh(self) {
        self.0[0].store(0, Ordering::Relaxed);
    }

    /// Makes a bucket that no key maps to yet, empty and locked, with the version of its split partner: versions go on
    /// counting upwards for keys that move here.
    ///
    /// It is locked as any other: a worker that looked for a key when the table was larger may still hold it for a
    /// moment.
    ///
    /// Relaxed: the bucket count that makes it reachable is published with Release after this.
    pub fn new_locked(self, version: u64) -> BucketGuard<'a> {
        debug_assert!(version & 1 == 0);
        let mut guard = self.lock();
        self.clear_slots();
        self.0[0].store(version + 1, Ordering::Relaxed);
        guard.version = version;
        guard
    }
}

/// The write lock of a bucket and its chain. Dropped without being unlocked (by a panic), it lets go all the same: a
/// bucket that stayed locked would keep all others waiting for ever.
#[must_use]
pub struct BucketGuard<'a> {
    /// The home bucket.
    pub bucket: BucketRef<'a>,
    /// Its version before it was locked (even).
    pub version: u64,
}

impl BucketGuard<'_> {
    /// Ends a change: readers that began before it try again.
    ///
    /// Release: pairs with the Acquire in `begin_read` and `lock`.
    pub fn unlock(self) {
        self.bucket.0[0].store(self.version + 2, Ordering::Release);
        std::mem::forget(self);
    }

    /// Lets go without having stored anything: readers in between need not try again.
    ///
    /// Release: pairs with the Acquire in `lock`, as in [`Self::unlock`].
    pub fn unlock_unchanged(self) {
        self.bucket.0[0].store(self.version, Ordering::Release);
        std::mem::forget(self);
    }
}

impl BucketGuard<'_> {
    /// Has the bucket leave with a version above this one at least, which is even, also if its holder dies.
    ///
    /// Relaxed: readers see another odd version, and lockers wait as before.
    pub fn raise(&mut self, version: u64) {
        if version > self.version {
            self.version = version;
            self.bucket.0[0].store(version + 1, Ordering::Relaxed);
        }
    }

    /// Whether it is still locked by us. It may not be if it was given up by a table that shrank, before we locked it.
    ///
    /// Relaxed: a worker looks at the bucket count with Acquire once it has locked, so that all that came before that
    /// count is visible.
    pub fn is_ours(&self) -> bool {
        self.bucket.0[0].load(Ordering::Relaxed) == self.version + 1
    }

    /// Lets go of a bucket that turned out to be the wrong one. It may be one that a shrunken table has given up, whose
    /// memory may become zeroes at any time, and after that a new bucket that somebody else holds.
    ///
    /// Release: as in [`Self::unlock_unchanged`]. By compare-and-set: our version never comes again, so if another one
    /// is there, the lock is not ours any more.
    pub fn abandon(self) {
        let held = self.version + 1;
        let _ = self.bucket.0[0].compare_exchange(held, self.version, Ordering::Release, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for BucketGuard<'_> {
    fn drop(&mut self) {
        // Release: as in `unlock`.
        self.bucket.0[0].store(self.version + 2, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap_words;

    #[test]
    fn versions_tell_a_reader_of_every_change() {
        let words = heap_words(BUCKET_WORDS);
        let bucket = BucketRef::at(&words, 0).unwrap();
        let version = bucket.begin_read().unwrap();
        assert!(bucket.end_read(version));
        let guard = bucket.lock();
        assert_eq!(bucket.begin_read(), None);
        guard.unlock_unchanged();
        assert!(bucket.end_read(version));
        bucket.lock().unlock();
        assert!(!bucket.end_read(version));
    }

    #[test]
    fn no_hash_looks_like_a_link() {
        assert!(Slot::entry(u64::MAX, 16).is_entry());
        assert!(Slot::link(16).is_link() && !Slot::link(16).is_entry());
        assert!(!EMPTY.is_entry() && !EMPTY.is_link());
        assert_eq!(Slot::entry(0x1234 << 48, 99).at(), 99);
    }

    #[test]
    fn marks_leave_the_rest_of_a_slot_alone() {
        let plain = Slot::entry(0xfffe << 48, (1 << AT_BITS) - 1);
        let marked = plain.with_visited(true).with_seen(true).with_expiry_code(31).with_unevictable(true);
        assert_eq!((marked.tag(), marked.at(), marked.expiry_code()), (plain.tag(), plain.at(), 31));
        assert!(marked.is_visited() && marked.seen() && marked.is_entry() && marked.is_unevictable());
        let unmarked =
            |slot: Slot| slot.with_visited(false).with_seen(false).with_expiry_code(0).with_unevictable(false);
        assert_eq!(unmarked(marked), plain);
        assert_eq!(unmarked(marked.moved_to(7)).at(), 7);
        assert!(marked.moved_to(7).is_unevictable() && !marked.is_volatile());
        let words = heap_words(BUCKET_WORDS);
        let bucket = BucketRef::at(&words, 0).unwrap();
        bucket.set_slot(2, plain);
        bucket.mark_visited(2, marked);
        assert_eq!(bucket.slot(2), plain, "another slot was meant");
        bucket.mark_visited(2, plain);
        assert_eq!(bucket.slot(2), plain.with_visited(true));
    }

    #[test]
    fn a_bucket_outside_the_segment_is_none() {
        let words = heap_words(BUCKET_WORDS + 3);
        assert!(BucketRef::at(&words, 3).is_some());
        assert!(BucketRef::at(&words, 4).is_none());
        assert!(BucketRef::at(&words, usize::MAX).is_none());
    }
}
