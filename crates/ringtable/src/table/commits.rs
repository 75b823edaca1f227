//! What a writer is about to commit, told before it does: for whoever comes after a writer that has died.
//!
//! # Design
//!
//! A change of an entry is committed by one store: that of its slot, or of its expiry in place. A writer that dies
//! right behind it has told nobody, and one that dies right before it has done nothing. So a writer that wants it has a
//! **log**, some words in memory that outlives it, and announces there what it is about to commit: the bucket, the
//! version under which it has that locked, the word that is stored, and what that is to be. Then the change was
//! committed if
//!
//! - the bucket has another version now: it was unlocked, and with a higher version only if it was changed; or
//! - it is still locked under that version, so that nobody else has changed anything, and that word is as announced.
//!
//! The log counts what was announced since the request began. It has two places for announcements, and its count says
//! which of them is the last one: the other one is written, and then the count, by one store with Release.
//!
//! What a request ends outside of the table, a permit, is announced by its token: it was ended if it was there then,
//! and is there no more.
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
//! That the last entry is found: another change of its bucket may have followed, of another writer.

use super::bucket::BucketRef;
use super::entry::EntryRef;
use super::layout::bucket_start;
use crate::sync::{Arc, AtomicU64, Memory, Ordering, fence};

/// Words of a log.
pub const LOG_WORDS: usize = 16;
/// How many changes were announced since the request began.
const COUNT: usize = 0;
/// The first of two announcements: bucket, version, word, value, which bits of that count, and the entry.
const ANNOUNCED: usize = 1;
const ANNOUNCED_WORDS: usize = 6;
/// The token of the permit that the request ends, or 0.
const ENDING: usize = ANNOUNCED + 2 * ANNOUNCED_WORDS;
/// Bytes of a value that is looked at where it may be an answer: a number.
const VALUE_SIZE_MAX: usize = 64;

/// The log of a writer.
#[derive(Debug)]
pub(super) struct CommitLog<M> {
    memory: Arc<M>,
    at: usize,
    count: u64,
    ending: u64,
}

/// A change that is about to be committed, in the chain of a locked bucket.
pub(super) struct Announcement {
    /// The number of the bucket, and its version while it is locked.
    pub bucket: u64,
    pub version: u64,
    /// The word of the segment that is stored, what it holds then, and which bits of that count.
    pub word: usize,
    pub value: u64,
    pub mask: u64,
    /// The word at which the key's entry begins then; 0 if it has none.
    pub entry: u64,
}

impl<M: Memory> CommitLog<M> {
    /// A log in these words, from word `at` on.
    pub(super) fn new(memory: Arc<M>, at: usize) -> Self {
        let mut log = Self { memory, at, count: 1, ending: 1 };
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
        if self.ending > 0 {
            self.ending = 0;
            // Release: as in `announce`.
            self.store(ENDING, 0, Ordering::Release);
        }
    }

    /// Tells that a permit is about to be ended, which there is.
    pub(super) fn announce_end(&mut self, token: u64) {
        self.ending = token;
        // Relaxed: the fence orders it before the stores that end the permit; read when this process is dead.
        self.store(ENDING, token, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Tells what is about to be committed.
    #[inline]
    pub(super) fn announce(&mut self, announcement: Announcement) {
        let Announcement { bucket, version, word, value, mask, entry } = announcement;
        let log = &self.memory.words()[self.at..][..LOG_WORDS];
        let next = self.count + 1;
        let place = ANNOUNCED + (next % 2) as usize * ANNOUNCED_WORDS;
        for (nth, value) in [bucket, version, word as u64, value, mask, entry].into_iter().enumerate() {
            // Relaxed: the count is a Release.
            log[place + nth].store(value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `find`. The store that commits is one, too, and comes behind it.
        log[COUNT].store(next, Ordering::Release);
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
    /// The token of the permit that it ends, or is about to end; 0 for none.
    pub ending: u64,
}

/// Finds out what was committed of what a log announces, in the segment of a table that nobody writes to, before it is
/// repaired. What was not is taken out of the log.
pub fn find(log: &[AtomicU64], segment: &[AtomicU64]) -> Commits {
    // Acquire: pairs with the Release in `announce`. Relaxed: whoever has written it is dead.
    let (count, ending) = (log[COUNT].load(Ordering::Acquire), log[ENDING].load(Ordering::Relaxed));
    if count == 0 {
        return Commits { ending, ..Commits::default() };
    }
    let place = ANNOUNCED + (count % 2) as usize * ANNOUNCED_WORDS;
    // Relaxed: ordered by the Acquire.
    let announced = [0, 1, 2, 3, 4, 5].map(|nth| log[place + nth].load(Ordering::Relaxed));
    let [bucket, version, word, value, mask, entry] = announced;
    let found = usize::try_from(bucket).ok().filter(|&bucket| bucket < segment.len()).and_then(|bucket| {
        let bucket = BucketRef::at(segment, bucket_start(bucket as u64))?;
        Some((bucket.version(), segment.get(usize::try_from(word).ok()?)?.load(Ordering::Relaxed)))
    });
    // What was announced and makes no sense was not committed.
    let (now, there) = found.unwrap_or((0, 0));
    let is_there = mask != 0 && (there ^ value) & mask == 0;
    if now < version || now == version && !is_there {
        log[COUNT].store(count - 1, Ordering::Relaxed);
        return Commits { count: count - 1, entry: None, ending };
    }
    // Locked still, or unlocked and not changed since.
    let entry = EntryRef::at(segment, entry).filter(|_| entry != 0 && is_there && now <= version + 1);
    let entry = entry.map(|entry| (entry.version(), entry.small_value(VALUE_SIZE_MAX)));
    Commits { count, entry, ending }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap_words;

    #[test]
    fn the_end_of_a_permit_is_known_until_the_next_request_begins() {
        let memory = Arc::new(heap_words(LOG_WORDS));
        let ending = || find(&memory, &[]).ending;
        let mut log = CommitLog::new(Arc::clone(&memory), 0);
        assert_eq!(ending(), 0);
        log.announce_end(77);
        assert_eq!(ending(), 77);
        // A server that comes later begins the log anew, too.
        log = CommitLog::new(Arc::clone(&memory), 0);
        assert_eq!(ending(), 0);
        log.announce_end(78);
        log.begin();
        assert_eq!(ending(), 0);
    }
}
