//! What a writer is about to commit, told before it does: for whoever comes after a writer that has died.
//!
//! # Design
//!
//! A change of an entry is committed by one store: that of its slot. A writer that dies right behind it has told
//! nobody, and one that dies right before it has done nothing. So a writer that wants it has a **log**, some words in
//! memory that outlives it, and announces there what it is about to commit: the bucket, the version under which it has
//! that locked, the word of the slot, and what that is to be. Then the change was committed if
//!
//! - the bucket has another version now: it was unlocked, and with a higher version only if it was changed; or
//! - it is still locked under that version, so that nobody else has changed anything, and the slot is as announced.
//!
//! The log counts what was announced since the request began. It has two places for announcements, and its count says
//! which of them is the last one: the other one is written, and then the count, by one store with Release.
//!
//! # Invariants
//!
//! - Only what a request asks for is announced, and all of that: not what goes for want of room, or since its time has
//!   passed.
//! - An announcement is followed by its store, unless the writer dies in between.
//! - What is found is noted ([`find`]): a bucket that is repaired afterwards gets another version, so that another look
//!   would find something else.
//!
//! # Not promised
//!
//! A change that is committed by several words (an expiry in place) counts as not committed until its bucket is
//! unlocked.

use super::bucket::{BucketRef, Slot};
use super::entry::EntryRef;
use super::layout::bucket_start;
use crate::sync::{Arc, AtomicU64, Memory, Ordering};

/// Words of a log.
pub const LOG_WORDS: usize = 16;
/// How many changes were announced since the request began.
const COUNT: usize = 0;
/// The first of two announcements: bucket, version, word of the slot (0: none), slot.
const ANNOUNCED: usize = 1;
const ANNOUNCED_WORDS: usize = 4;
/// Bytes of a value that is looked at where it may be an answer: a number.
const VALUE_SIZE_MAX: usize = 64;

/// The log of a writer.
#[derive(Debug)]
pub(super) struct CommitLog<M> {
    memory: Arc<M>,
    at: usize,
    count: u64,
}

/// A change that is about to be committed, in the chain of a locked bucket.
pub(super) struct Announcement<'a> {
    /// The number of the bucket, and its version while it is locked.
    pub bucket: u64,
    pub version: u64,
    /// The slot that is stored, and what it holds then; `None` if it is more than one word.
    pub slot: Option<(BucketRef<'a>, usize, Slot)>,
}

impl<M: Memory> CommitLog<M> {
    /// A log in these words, from word `at` on.
    pub(super) fn new(memory: Arc<M>, at: usize) -> Self {
        let mut log = Self { memory, at, count: 1 };
        log.begin();
        log
    }

    fn store(&self, index: usize, value: u64, ordering: Ordering) {
        self.memory.words()[self.at + index].store(value, ordering);
    }

    /// A request begins: nothing of it is committed.
    #[inline]
    pub(super) fn begin(&mut self) {
        if self.count > 0 {
            self.count = 0;
            // Release: as in `announce`.
            self.store(COUNT, 0, Ordering::Release);
        }
    }

    /// Tells what is about to be committed.
    pub(super) fn announce(&mut self, words: &[AtomicU64], announcement: &Announcement<'_>) {
        let &Announcement { bucket, version, slot } = announcement;
        let next = self.count + 1;
        let place = ANNOUNCED + (next % 2) as usize * ANNOUNCED_WORDS;
        let (at, slot) = slot.map_or((0, 0), |(bucket, index, slot)| (bucket.start(words) + 1 + index, slot.0));
        for (nth, value) in [bucket, version, at as u64, slot].into_iter().enumerate() {
            // Relaxed: the count is a Release.
            self.store(place + nth, value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `find`. The store that commits is one, too, and comes behind it.
        self.store(COUNT, next, Ordering::Release);
        self.count = next;
    }
}

/// What a request has committed before its writer died.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// How many changes.
    pub count: u64,
    /// The last one's entry, if it is there still, and was not changed since: its version, and its value if that is
    /// small.
    pub entry: Option<(u64, Option<Vec<u8>>)>,
}

/// Finds out what was committed of what a log announces, in the segment of a table that nobody writes to, before it is
/// repaired. What was not is taken out of the log.
pub fn find(log: &[AtomicU64], segment: &[AtomicU64]) -> Commits {
    // Acquire: pairs with the Release in `announce`.
    let count = log[COUNT].load(Ordering::Acquire);
    if count == 0 {
        return Commits::default();
    }
    let place = ANNOUNCED + (count % 2) as usize * ANNOUNCED_WORDS;
    // Relaxed: ordered by the Acquire.
    let [bucket, version, at, slot] = [0, 1, 2, 3].map(|nth| log[place + nth].load(Ordering::Relaxed));
    let slot = Slot(slot);
    let found = usize::try_from(bucket).ok().filter(|&bucket| bucket < segment.len()).and_then(|bucket| {
        let bucket = BucketRef::at(segment, bucket_start(bucket as u64))?;
        Some((bucket.version(), segment.get(at as usize)?.load(Ordering::Relaxed)))
    });
    // What was announced and makes no sense was not committed.
    let (now, there) = found.unwrap_or((0, 0));
    let is_there = at != 0 && Slot(there).is_same_place(slot);
    if now < version || now == version && !is_there {
        log[COUNT].store(count - 1, Ordering::Relaxed);
        return Commits { count: count - 1, entry: None };
    }
    let is_last = is_there && now <= version + 1 && slot.is_entry();
    let entry = EntryRef::at(segment, slot.at()).filter(|_| is_last);
    Commits { count, entry: entry.map(|entry| (entry.version(), entry.small_value(VALUE_SIZE_MAX))) }
}
