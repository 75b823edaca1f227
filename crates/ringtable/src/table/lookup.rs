//! Looking a key up, by anyone who can map the segment: loads only, no lock, no read-modify-write (I2).
//!
//! # Algorithm
//!
//! Load the bucket count; find the bucket; begin reading its version; walk the chain comparing tags; for a tag that
//! matches, check the entry's place and sizes against the segment **before** using them, compare the key, copy the
//! value; then check the version, and that the bucket count still maps the hash to this bucket (else the key may have
//! moved to a new bucket before we came, and a miss would be false). If either check fails, try again.
//!
//! # Invariants
//!
//! - Whatever the segment holds, nothing outside it is touched and every loop ends.
//! - A value is reported only if version and mapping held from before the first look at it until after the last.
//!
//! # Not promised
//!
//! After [`limits::READ_RETRIES_MAX`] attempts the answer is [`Lookup::Contended`]: ask the server.

use std::mem::MaybeUninit;

use super::bucket::{BucketRef, EMPTY, SLOTS, Slot, tag};
use super::entry::{EntryRef, Expiry};
use super::layout::{H_BUCKETS, address, bucket_start, load_buckets};
use crate::limits;
use crate::sync::{AtomicU64, Ordering, as_uninit, copy_out, prefetch, spin_loop};

/// Where a lookup puts a value.
pub trait Sink {
    /// Gives room for exactly `size` bytes, dropping what it may have held before; `None` if that cannot be had.
    ///
    /// Called once or several times for a lookup: what was written before the last call is void.
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]>;
}

/// A value in a vector. Only what a [`Lookup::Hit`] reports is valid: see [`Buffer::take`].
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// The value of the last lookup, if that was a hit.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives the value away.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// Forgets the value, and keeps its memory for the next one.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Sink for Buffer {
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        self.0.clear();
        self.0.try_reserve_exact(size).ok()?;
        self.0.resize(size, 0);
        Some(as_uninit(&mut self.0))
    }
}

/// A sink for who wants to know only whether there is a value.
#[derive(Debug)]
pub struct Presence;

impl Sink for Presence {
    fn begin(&mut self, _size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        Some(&mut [])
    }
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The value is in the sink.
    Hit(Found),
    /// There is no such key.
    Miss,
    /// There is one, but its time has passed: to everybody but the server, a miss.
    Expired,
    /// Writers got in the way too often.
    Contended,
    /// The sink has no room for a value of so many bytes.
    NoRoom(usize),
}

/// What belongs to a value that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Never the same twice for a key.
    pub version: u64,
    /// When it will be gone.
    pub expiry: Option<Expiry>,
    /// Bytes of the value.
    pub size: usize,
    /// Whether the sieve knows already that it was used lately.
    pub visited: bool,
    /// Whether the entry is never evicted.
    pub is_unevictable: bool,
}

/// The lookup itself, shared by readers and workers.
#[inline]
pub(super) fn lookup(
    words: &[AtomicU64],
    hash: u64,
    key: &[u8],
    now_ms: impl Fn() -> u64,
    sink: &mut impl Sink,
) -> Lookup {
    for _ in 0..limits::READ_RETRIES_MAX {
        let Some(buckets) = load_buckets(words) else { return Lookup::Contended };
        let index = address(hash, buckets);
        let Some(home) = BucketRef::at(words, bucket_start(index)) else { return Lookup::Contended };
        let Some(version) = home.begin_read() else {
            spin_loop();
            continue;
        };
        failpoint!("read.begun");
        let Some(answer) = attempt(words, home, version, hash, key, &now_ms, sink) else { continue };
        failpoint!("read.copied");
        // `end_read` first: its fence also orders the look at the bucket count behind all that was read.
        // Relaxed: if the split that moved our key was over when we began, `begin_read` has made its count visible.
        if home.end_read(version) {
            let count = words[H_BUCKETS].load(Ordering::Relaxed);
            if count == buckets || (count != 0 && address(hash, count) == index) {
                return answer;
            }
        }
    }
    Lookup::Contended
}

/// One attempt; `None` if what was seen cannot be (a change is under way).
#[inline]
fn attempt(
    words: &[AtomicU64],
    home: BucketRef<'_>,
    version: u64,
    hash: u64,
    key: &[u8],
    now_ms: &impl Fn() -> u64,
    sink: &mut impl Sink,
) -> Option<Lookup> {
    let Some((slot, entry)) = find(words, home, hash, key)? else { return Some(Lookup::Miss) };
    let (found_version, expiry) = (entry.version(), entry.expiry());
    if expiry.is_some_and(|expiry| expiry.has_passed(now_ms())) {
        return Some(Lookup::Expired);
    }
    let size = entry.shape.value_size;
    // Before room is made for a value: was its size real? Else a torn one might ask for half a gigabyte.
    if !home.end_read(version) {
        return None;
    }
    let Some(room) = sink.begin(size) else { return Some(Lookup::NoRoom(size)) };
    if !room.is_empty() {
        failpoint!("read.found");
        copy_out(entry.value_words(), room);
    }
    let (visited, is_unevictable) = (slot.is_visited(), slot.is_unevictable());
    Some(Lookup::Hit(Found { version: found_version, expiry, size, visited, is_unevictable }))
}

/// The entry of a key in a chain, and the slot that points at it; outer `None` if what was seen cannot be.
#[inline]
#[allow(clippy::type_complexity)]
pub(super) fn find<'a>(
    words: &'a [AtomicU64],
    home: BucketRef<'_>,
    hash: u64,
    key: &[u8],
) -> Option<Option<(Slot, EntryRef<'a>)>> {
    let wanted = tag(hash);
    let mut bucket = home;
    for _ in 0..=limits::CHAIN_HOPS_MAX {
        for index in 0..SLOTS {
            let slot = bucket.slot(index);
            if slot.tag() != wanted || slot == EMPTY {
                continue;
            }
            // The entry's next lines are fetched along with its first, whose sizes say where the value begins: one
            // cache miss instead of two, one after the other.
            prefetch_lines(words, slot.at() as usize);
            let entry = EntryRef::at(words, slot.at())?;
            if !entry.has_key(key) {
                continue;
            }
            return Some(Some((slot, entry)));
        }
        let last = bucket.slot(SLOTS - 1);
        if !last.is_link() {
            return Some(None);
        }
        bucket = BucketRef::at(words, last.at() as usize)?;
    }
    None
}

/// Fetches what a small entry at word `start` consists of.
#[inline]
pub(super) fn prefetch_lines(words: &[AtomicU64], start: usize) {
    const LINE_WORDS: usize = 8;
    for line in 0..3 {
        if let Some(word) = words.get(start + line * LINE_WORDS) {
            prefetch(word);
        }
    }
}
