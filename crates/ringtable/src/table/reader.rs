//! A table that somebody else writes: all that a client does with it in place.
//!
//! # Invariants
//!
//! - A [`Reader`] needs read access only, and does loads only (I2). Whatever the segment holds, nothing outside of it
//!   is touched, and every loop ends.
//!
//! # Not promised
//!
//! After [`limits::READ_RETRIES_MAX`] attempts the answer is [`Lookup::Contended`], or [`Contended`]: ask the server.

use super::bucket::{BucketRef, SLOTS, tag};
use super::entry::EntryRef;
use super::header::{AttachError, Constants};
use super::hints::{self, AccessLog};
use super::layout::{self, H_CLOSED, address, bucket_start, load_buckets};
use super::lookup::{Found, Lookup, Sink, lookup, prefetch_lines};
use super::pairs::{Contended, Pairs, Want};
use super::walk;
use crate::limits;
use crate::sync::{AtomicU64, Memory, Ordering, prefetch, spin_loop};

/// A table that somebody else writes.
pub struct Reader<M> {
    memory: M,
    constants: Constants,
    hints: Option<Box<dyn AccessLog>>,
}

impl<M: Memory> Reader<M> {
    /// Attaches to a segment that a server made.
    ///
    /// # Errors
    /// If it is no table, or one of another layout.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        let constants = Constants::attach(&memory)?;
        Ok(Self { memory, constants, hints: None })
    }

    /// Leaves hints of what it uses on a log of ours, if the server wants any.
    pub fn leave_hints(&mut self, log: Box<dyn AccessLog>) {
        self.hints = hints::are_wanted(self.words()).then_some(log);
    }

    /// Takes note that an entry was used.
    #[inline]
    pub fn note(&self, hash: u64, found: &Found) {
        if !found.visited
            && let Some(log) = &self.hints
        {
            hints::leave(&**log, hash);
        }
    }

    /// What stays the same for the life of the table.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// The segment's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The words of the segment.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.constants.hash(key)
    }

    /// Looks a key up. `now_ms` (wall clock) is asked only if the entry has an expiry.
    #[inline]
    pub fn get(&self, key: &[u8], now_ms: impl Fn() -> u64, sink: &mut impl Sink) -> Lookup {
        self.get_hashed(self.hash(key), key, now_ms, sink)
    }

    /// As [`Self::get`], for who has the hash already.
    #[inline]
    pub fn get_hashed(&self, hash: u64, key: &[u8], now_ms: impl Fn() -> u64, sink: &mut impl Sink) -> Lookup {
        let answer = lookup(self.words(), hash, key, now_ms, sink);
        if let Lookup::Hit(found) = &answer {
            self.note(hash, found);
        }
        answer
    }

    /// First step of overlapping many lookups: fetches the bucket.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        let words = self.words();
        if let Some(buckets) = load_buckets(words)
            && let Some(word) = words.get(bucket_start(address(hash, buckets)))
        {
            prefetch(word);
        }
    }

    /// Second step: fetches the first lines of the entry that has the tag.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let words = self.words();
        let Some(buckets) = load_buckets(words) else { return };
        let Some(bucket) = BucketRef::at(words, bucket_start(address(hash, buckets))) else { return };
        for index in 0..SLOTS {
            let slot = bucket.slot(index);
            if slot.tag() == tag(hash) && slot.is_entry() {
                return prefetch_lines(words, slot.at() as usize);
            }
        }
    }

    /// All entries of the bucket that `key` falls in, but those whose time has passed, into `out`.
    ///
    /// # Errors
    /// [`Contended`]: ask the server.
    pub fn read_bucket(
        &self,
        key: &[u8],
        want: Want,
        now_ms: impl Fn() -> u64,
        out: &mut Pairs,
    ) -> Result<(), Contended> {
        let (words, hash, before) = (self.words(), self.hash(key), out.len());
        for _ in 0..limits::READ_RETRIES_MAX {
            let Some(buckets) = load_buckets(words) else { return Err(Contended) };
            let index = address(hash, buckets);
            if try_read_chain(words, index, want, &now_ms, out)
                && load_buckets(words).is_some_and(|buckets| address(hash, buckets) == index)
            {
                return Ok(());
            }
            // A chain that was read well may still be that of the wrong bucket.
            out.truncate(before);
            spin_loop();
        }
        Err(Contended)
    }

    /// Goes on with a walk over all keys by one bucket: see [`super::walk`].
    ///
    /// # Errors
    /// [`Contended`]: ask the server.
    pub fn scan(&self, cursor: u64, want: Want, now_ms: impl Fn() -> u64, out: &mut Pairs) -> Result<u64, Contended> {
        let read = |index, into: &mut Pairs| read_chain(self.words(), index, want, &now_ms, into);
        walk::step(self.words(), cursor, |key| self.hash(key), read, out)
    }

    /// Number of entries, expired ones that were not removed yet included.
    pub fn entries(&self) -> u64 {
        layout::load_entries(self.words())
    }

    /// Whether the server has stopped in good order.
    #[inline]
    pub fn is_closed(&self) -> bool {
        // Relaxed: a hint to look at the socket; nothing else is read because of it.
        self.words()[H_CLOSED].load(Ordering::Relaxed) != 0
    }
}

/// Copies what is wanted of all entries of bucket `index` whose time has not passed; `false` if a change got in
/// between.
fn try_read_chain(words: &[AtomicU64], index: u64, want: Want, now_ms: &impl Fn() -> u64, out: &mut Pairs) -> bool {
    let (before, size_before) = (out.len(), out.size());
    let mut read = || {
        let home = BucketRef::at(words, bucket_start(index))?;
        let version = home.begin_read()?;
        let mut bucket = home;
        for _ in 0..=limits::CHAIN_HOPS_MAX {
            for slot in (0..SLOTS).map(|index| bucket.slot(index)).filter(|slot| slot.is_entry()) {
                let entry = EntryRef::at(words, slot.at())?;
                // Were the sizes real? See `attempt`.
                if !home.end_read(version) {
                    return None;
                }
                if !entry.has_expired(now_ms) {
                    out.push_entry(slot, entry, want)?;
                }
                // In a damaged table an entry may be there any number of times.
                if out.size() - size_before > size_of_val(words) {
                    return None;
                }
            }
            let last = bucket.slot(SLOTS - 1);
            if !last.is_link() {
                return home.end_read(version).then_some(());
            }
            bucket = BucketRef::at(words, last.at() as usize)?;
        }
        None
    };
    let done = read().is_some();
    if !done {
        out.truncate(before);
    }
    done
}

/// As [`try_read_chain`], with retries.
pub(super) fn read_chain(
    words: &[AtomicU64],
    index: u64,
    want: Want,
    now_ms: &impl Fn() -> u64,
    out: &mut Pairs,
) -> Result<(), Contended> {
    for _ in 0..limits::READ_RETRIES_MAX {
        if try_read_chain(words, index, want, now_ms, out) {
            return Ok(());
        }
        spin_loop();
    }
    Err(Contended)
}
