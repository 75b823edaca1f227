//! The layout of a table segment: where everything lies.
//!
//! All positions are in 64-bit words from the start of the segment. `docs/memory-layout.md` draws the bytes.
//!
//! ```text
//! page 0              header: constants, bucket count, entry count, a line per worker
//! page 1 … ->         buckets, 64 bytes each, growing upwards
//! … <-                entries (size classes and extents), growing downwards
//! last pages          the page map: what each page belongs to
//! ```
//!
//! Buckets and entries share the segment and end where they meet, so `--max-memory` is simply the segment's size:
//! nothing can use more, whoever touches whatever.
//!
//! # Compatibility
//!
//! A change of these constants, or of those of buckets, entries and events, changes [`super::fingerprint`].

use crate::limits;
use crate::sync::{AtomicU64, Ordering, fence};

/// Words between fields written by different parties: two cache lines, since processors fetch lines in pairs.
pub const STRIDE: usize = if cfg!(loom) { 1 } else { 16 };

/// First word of every segment: "ringtabl" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ringtabl");
/// Version of the layout and of the rules in this module's header.
pub const LAYOUT_VERSION: u64 = 7;
/// Which hash function: rapidhash v3 with secrets derived from the seed (`RapidSecrets::seed`) and protected mixing
/// ([`super::header::Constants::hash`]). Its output is the same in all builds.
pub const HASH_RAPID_V3_PROTECTED: u64 = 4;

/// Written once, before any client is told of the segment: magic number.
pub const H_MAGIC: usize = 0;
/// Written once: [`LAYOUT_VERSION`].
pub const H_VERSION: usize = 1;
/// Written once: [`super::fingerprint::FINGERPRINT`].
pub const H_FINGERPRINT: usize = 2;
/// Written once: words of the segment.
pub const H_WORDS: usize = 3;
/// Written once: hash algorithm.
pub const H_HASH: usize = 4;
/// Written once: random seed of the hash. A stranger that cannot read it cannot compute which keys collide; a
/// client can, and
/// [`limits::CHAIN_HOPS_MAX`] bounds what comes of it.
pub const H_SEED: usize = 5;
/// Written once: worker threads.
pub const H_WORKERS: usize = 6;
/// Written once: nanoseconds for which a client may spin.
pub const H_SPIN_NS: usize = 7;
/// Where the ring of events is: see [`super::events::RingLocation`]. Written once, by the worker with the first
/// watcher.
pub const H_EVENTS: usize = 8;
/// Written once: not 0 if readers are to say what they use: see [`super::hints`].
pub const H_HINTS: usize = 9;
/// Written once: the number of the table, which no other one has.
pub const H_ID: usize = 10;
/// Written once: what the versions of entries begin above.
pub const H_FIRST_VERSION: usize = 11;
/// Written once: buckets that there were at the beginning, fewer than which there never are.
pub const H_BUCKETS_MIN: usize = 12;
/// Number of buckets; level and split of linear hashing in one word. Written by the worker that grows the table.
pub const H_BUCKETS: usize = if cfg!(loom) { 13 } else { STRIDE };
/// The number of buckets once more, sealed: see [`super::seal`]. Written before it, by the same worker.
pub const H_BUCKETS_SEALED: usize = H_BUCKETS + 1;
/// How often all keys are being deleted, which takes several turns and is told at the end. Written by all workers.
pub const H_CLEARING: usize = H_BUCKETS + 2;
/// Number of entries, expired ones that were not removed yet included. Written by all workers.
pub const H_ENTRIES: usize = if cfg!(loom) { H_BUCKETS + 3 } else { H_BUCKETS + STRIDE };
/// Not 0 once the server has stopped in good order. Written once, by the server; or by one of another layout that goes
/// on with what is in the table: so it stays at this word in all layouts.
pub const H_CLOSED: usize = H_ENTRIES + STRIDE;
/// One line per worker: `crate::ring::wait` says what it holds. Written by that worker.
pub const H_WORKER_STATES: usize = H_CLOSED + STRIDE;

/// Words of a page: 64 KiB, the unit in which buckets and entries share the segment.
pub const PAGE_WORDS: usize = if cfg!(loom) { 16 } else { 8_192 };
/// Words of the header: a whole page.
pub const HEADER_WORDS: usize = if cfg!(loom) { 2 * PAGE_WORDS } else { PAGE_WORDS };
/// Words of a bucket: one cache line (under the model checker half of it: fewer slots, fewer states).
pub const BUCKET_WORDS: usize = if cfg!(loom) { 4 } else { 8 };
/// Bytes of a bucket: a cache line.
pub const BUCKET_SIZE: usize = 8 * BUCKET_WORDS;
/// Buckets in a page.
pub const PAGE_BUCKETS: usize = PAGE_WORDS / BUCKET_WORDS;

const _: () = {
    assert!(cfg!(loom) || H_WORKER_STATES + limits::WORKERS_MAX * STRIDE <= HEADER_WORDS);
    assert!(H_WORKER_STATES < HEADER_WORDS, "the header fits its page");
    assert!(cfg!(loom) || BUCKET_WORDS * 8 == 64, "a bucket is one cache line");
    assert!(PAGE_WORDS.is_multiple_of(BUCKET_WORDS), "no bucket straddles pages");
    assert!(size_of::<AtomicU64>() == 8 || cfg!(loom), "atomic words overlay plain words");
    assert!(cfg!(target_endian = "little"), "positions and lengths are packed for little-endian machines");
};

/// Words that stay the same for the life of a table, from the first one on, but for [`H_EVENTS`] and [`H_HINTS`].
pub const CONSTANT_WORDS: usize = H_BUCKETS_MIN + 1;
/// Words of their copy, behind the page map: with a checksum. (There is none under the model checker.)
pub const COPY_WORDS: usize = if cfg!(loom) { 0 } else { CONSTANT_WORDS + 1 };

/// Pages that the page map takes of a segment of so many words: a word for each page, and the copy of the header.
#[inline]
pub fn page_map_pages(words: usize) -> usize {
    (words / PAGE_WORDS + COPY_WORDS).div_ceil(PAGE_WORDS)
}

/// The word at which the copy of the header begins in a segment of so many words.
pub fn copy_start(words: usize) -> usize {
    page_map_start(words) + words / PAGE_WORDS
}

/// The word at which the page map begins in a segment of so many words: it is the last pages.
#[inline]
pub fn page_map_start(words: usize) -> usize {
    (words / PAGE_WORDS - page_map_pages(words)) * PAGE_WORDS
}

/// Which bucket a hash maps to when there are `buckets` of them (linear hashing).
///
/// With level `floor(log2(buckets))` and split `buckets - 2^level`, the buckets below the split have been split
/// already and are told apart by one more bit of the hash; any bucket count will do to begin with.
///
/// Source: W. Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980.
#[inline]
pub fn address(hash: u64, buckets: u64) -> u64 {
    // Any count at all will do: readers ask with one that they have not checked yet.
    let mask = (1 << buckets.ilog2()) - 1;
    let low = hash & (mask << 1 | 1);
    if low < buckets { low } else { hash & mask }
}

/// The bucket that is split next when there are `buckets`; the new one gets the number `buckets`.
#[inline]
pub fn split_source(buckets: u64) -> u64 {
    buckets - (1 << buckets.ilog2())
}

/// The word at which bucket `index` begins.
#[inline]
pub fn bucket_start(index: u64) -> usize {
    HEADER_WORDS + index as usize * BUCKET_WORDS
}

/// The current number of buckets, if it is one that fits the segment.
///
/// Acquire (by fence): pairs with the Release store in `Writer::split_one`, so that whoever sees the new count sees the
/// new bucket's version as its writer left it, not what the memory held before.
#[inline]
pub(super) fn load_buckets(words: &[AtomicU64]) -> Option<u64> {
    let buckets = words[H_BUCKETS].load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    let most = ((words.len() - HEADER_WORDS) / BUCKET_WORDS) as u64;
    (buckets != 0 && buckets <= most).then_some(buckets)
}

/// The current number of entries.
///
/// Two workers count what they have changed after they have unlocked it: if one deletes what another has just inserted,
/// there may be less than nothing for a moment.
///
/// Relaxed: a count for people, and for the decision to grow.
#[inline]
pub(super) fn load_entries(words: &[AtomicU64]) -> u64 {
    words[H_ENTRIES].load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_hash_has_one_bucket_and_growth_moves_it_to_the_sibling_only() {
        for buckets in 1..200_u64 {
            for hash in (0..2_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                let (before, after) = (address(hash, buckets), address(hash, buckets + 1));
                assert!(before < buckets && after <= buckets);
                assert!(before == after || (before == split_source(buckets) && after == buckets));
            }
        }
        for buckets in [1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX] {
            assert!(address(u64::MAX, buckets) < buckets && address(u64::MAX >> 1, buckets) < buckets);
        }
    }
}
