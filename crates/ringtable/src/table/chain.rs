//! Locked buckets: finding the one of a key, and going over its chain.
//!
//! # Invariants
//!
//! - A key lies in the chain of the bucket that its hash maps to under the current bucket count, and nowhere else. So
//!   the lock of that bucket is the lock of the key.
//! - A bucket that was locked may turn out to be the wrong one, since the table has grown or shrunk: it is let go of,
//!   and the next one is tried.

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot, tag};
use super::change::State;
use super::entry::EntryRef;
use super::layout::{BUCKET_WORDS, H_BUCKETS, address, bucket_start};
use super::table::Table;
use crate::sync::{Memory, Ordering};

/// Where a key is, or could go, in the chain of a locked bucket.
pub(super) struct KeyLocation<'a> {
    /// The entry with the key, and the bucket and slot that point at it.
    pub(super) entry: Option<(BucketRef<'a>, usize, EntryRef<'a>)>,
    /// The first empty slot.
    pub(super) hole: Option<(BucketRef<'a>, usize)>,
    /// The last bucket of the chain, and how many are linked before it.
    pub(super) last: BucketRef<'a>,
    pub(super) hops: usize,
}

impl<M: Memory> Table<M> {
    /// Locks the bucket a hash maps to.
    pub(super) fn lock(&self, hash: u64) -> BucketGuard<'_> {
        loop {
            // Relaxed: `lock` acquires; the mapping is looked at again under the lock, and a bucket whose keys may
            // move is locked by the one who moves them, before the count changes.
            let index = address(hash, self.words()[H_BUCKETS].load(Ordering::Relaxed));
            let guard = self.bucket(index).lock();
            // Acquire: pairs with the Release of a new count in `super::growth`. If the bucket was given up and made
            // anew while we had it, we see that the lock is not ours any more.
            if address(hash, self.words()[H_BUCKETS].load(Ordering::Acquire)) != index || !guard.is_ours() {
                guard.abandon();
            } else if let Some(guard) = self.settled(index, guard) {
                return guard;
            }
        }
    }

    /// Locks bucket `index`; `None` if there is no such bucket any more.
    pub(super) fn lock_at(&self, index: u64) -> Option<BucketGuard<'_>> {
        loop {
            let guard = self.lock_unsettled(index)?;
            if let Some(guard) = self.settled(index, guard) {
                return Some(guard);
            }
        }
    }

    /// The same for one who only deletes all that is there: what has to be checked may be so still.
    pub(super) fn lock_unsettled(&self, index: u64) -> Option<BucketGuard<'_>> {
        let guard = self.bucket(index).lock();
        // Acquire: as in `lock`.
        if index < self.words()[H_BUCKETS].load(Ordering::Acquire) && guard.is_ours() {
            return Some(guard);
        }
        guard.abandon();
        None
    }

    /// Locks bucket `index`, which nobody can give up meanwhile.
    pub(super) fn lock_there(&self, index: u64) -> BucketGuard<'_> {
        loop {
            if let Some(guard) = self.settled(index, self.bucket(index).lock()) {
                return guard;
            }
        }
    }

    /// Has the chain of a bucket checked, for one who reads it without the lock.
    #[inline]
    pub(super) fn settle_at(&self, index: u64) {
        if let Some(outstanding) = &self.outstanding
            && outstanding.has(index)
            && let Some(guard) = self.lock_at(index)
        {
            guard.unlock_unchanged();
        }
    }

    /// The same for the bucket that a hash maps to.
    #[inline]
    pub(super) fn settle_hash(&self, hash: u64) {
        if self.outstanding.is_some() {
            self.settle_at(address(hash, self.buckets()));
        }
    }

    pub(super) fn bucket(&self, index: u64) -> BucketRef<'_> {
        BucketRef::at(self.words(), bucket_start(index)).expect("the bucket count never exceeds the segment")
    }

    pub(super) fn entry(&self, slot: Slot) -> EntryRef<'_> {
        EntryRef::at(self.words(), slot.at()).expect("slots point at entries that a writer made")
    }

    /// Looks for a key in a locked chain.
    pub(super) fn find<'a>(&'a self, guard: &BucketGuard<'a>, hash: u64, key: &[u8]) -> KeyLocation<'a> {
        let mut place = KeyLocation { entry: None, hole: None, last: guard.bucket, hops: 0 };
        for (hops, bucket) in self.chain(guard).enumerate() {
            (place.last, place.hops) = (bucket, hops);
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot == EMPTY {
                    place.hole = place.hole.or(Some((bucket, index)));
                } else if slot.tag() == tag(hash) {
                    let entry = self.entry(slot);
                    if entry.has_key(key) {
                        place.entry = Some((bucket, index, entry));
                        return place;
                    }
                }
            }
        }
        place
    }

    /// The buckets of a locked chain.
    pub(super) fn chain<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = BucketRef<'a>> {
        std::iter::successors(Some(guard.bucket), |bucket| {
            let last = bucket.slot(SLOTS - 1);
            last.is_link().then(|| self.overflow(last))
        })
    }

    /// The slot that points at word `start`, in a locked chain.
    pub(super) fn pointer<'a>(&'a self, guard: &BucketGuard<'a>, start: u64) -> Option<(BucketRef<'a>, usize, Slot)> {
        self.slots(guard).find(|(_, _, slot)| slot.at() == start && *slot != EMPTY)
    }

    /// The slots of a locked chain, whatever they hold, and where they are.
    pub(super) fn slots<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = (BucketRef<'a>, usize, Slot)> {
        self.chain(guard).flat_map(|bucket| (0..SLOTS).map(move |index| (bucket, index, bucket.slot(index))))
    }

    /// Those of them that hold entries.
    pub(super) fn entry_slots<'a>(
        &'a self,
        guard: &BucketGuard<'a>,
    ) -> impl Iterator<Item = (BucketRef<'a>, usize, Slot)> {
        self.slots(guard).filter(|(_, _, slot)| slot.is_entry())
    }

    pub(super) fn overflow(&self, link: Slot) -> BucketRef<'_> {
        BucketRef::at(self.words(), link.at() as usize).expect("links point at buckets that a writer made")
    }

    /// The number of a home bucket.
    pub(super) fn index_of(&self, home: BucketRef<'_>) -> u64 {
        ((home.start(self.words()) - bucket_start(0)) / BUCKET_WORDS) as u64
    }

    /// Has the journal note once more what a key has come to: a server that is dead may have changed it without.
    pub fn note_again(&self, key: &[u8]) {
        let hash = self.constants().hash(key);
        let guard = self.lock(hash);
        self.note_state(match self.find(&guard, hash, key).entry {
            Some((bucket, index, entry)) => {
                let slot = bucket.slot(index);
                State::Written { key, entry, start: slot.at(), is_unevictable: slot.is_unevictable() }
            }
            None => State::Gone(key),
        });
        guard.unlock_unchanged();
    }

    /// The hash of an entry's key.
    pub(super) fn hash_of(&self, entry: EntryRef<'_>) -> u64 {
        self.constants().hash_of(entry)
    }
}
