//! Where everything lies in a table segment.
//!
//! All positions are in 64-bit words from the start of the segment. `docs/memory-layout.md` draws the bytes.
//!
//! ```text
//! page 0              header: constants, bucket count, entry count, a line per worker
//! page 1 … ->         buckets, 64 bytes each, growing upwards
//! … <- last page      entries (size classes and extents), growing downwards
//! ```
//!
//! The two ranges share the segment and end where they meet, so `--max-memory` is simply the segment's size: nothing
//! can use more, whoever touches whatever.
//!
//! # Compatibility
//!
//! A reader attaches only if magic, version and [`FINGERPRINT`] agree. The fingerprint is computed from the constants
//! below, so that a change of layout cannot be forgotten to be announced.

use super::evict::Eviction;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

use crate::limits;
use crate::sync::{AtomicU64, Memory, Ordering, fence};

/// Words between fields written by different parties: two cache lines, since processors fetch lines in pairs.
pub const STRIDE: usize = if cfg!(loom) { 1 } else { 16 };

/// First word of every segment: "ringtabl" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ringtabl");
/// Version of the layout and of the rules in this module's header.
pub const LAYOUT_VERSION: u64 = 4;
/// Which hash function: rapidhash v3 with secrets derived from the seed ([`RapidSecrets::seed`]) and protected mixing
/// ([`Constants::hash`]). Its output is the same in all builds.
pub const HASH_RAPID_V3_PROTECTED: u64 = 4;

/// Written once, before any client is told of the segment: magic number.
pub const H_MAGIC: usize = 0;
/// Written once: [`LAYOUT_VERSION`].
pub const H_VERSION: usize = 1;
/// Written once: [`FINGERPRINT`].
pub const H_FINGERPRINT: usize = 2;
/// Written once: words of the segment.
pub const H_WORDS: usize = 3;
/// Written once: hash algorithm.
pub const H_HASH: usize = 4;
/// Written once: random seed of the hash. Who cannot read it cannot compute which keys collide; a client can, and
/// [`limits::CHAIN_HOPS_MAX`] bounds what comes of it.
pub const H_SEED: usize = 5;
/// Written once: worker threads.
pub const H_WORKERS: usize = 6;
/// Written once: nanoseconds for which a client may spin.
pub const H_SPIN_NS: usize = 7;
/// Where the ring of events is: see [`super::events::Place`]. Written once, by the worker with the first watcher.
pub const H_EVENTS: usize = 8;
/// Written once: not 0 if readers are to say what they use: see [`super::hints`].
pub const H_HINTS: usize = 9;
/// Number of buckets; level and split of linear hashing in one word. Written by the worker that grows the table.
pub const H_BUCKETS: usize = if cfg!(loom) { 10 } else { STRIDE };
/// Number of entries, expired ones that were not removed yet included. Written by all workers.
pub const H_ENTRIES: usize = H_BUCKETS + STRIDE;
/// Not 0 once the server has stopped in good order. Written once, by the server.
pub const H_CLOSED: usize = H_ENTRIES + STRIDE;
/// One line per worker: `crate::ring::wait` says what it holds. Written by that worker.
pub const H_WORKER_STATES: usize = H_CLOSED + STRIDE;

/// Words of a page: 64 KiB, the unit in which buckets and entries share the segment.
pub const PAGE_WORDS: usize = if cfg!(loom) { 16 } else { 8_192 };
/// Words of the header, a whole page.
pub const HEADER_WORDS: usize = PAGE_WORDS;
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

/// A number that changes whenever anything about the layout does (FNV-1a over its constants).
pub const FINGERPRINT: u64 = {
    let facts = [
        LAYOUT_VERSION,
        HASH_RAPID_V3_PROTECTED,
        STRIDE as u64,
        PAGE_WORDS as u64,
        BUCKET_WORDS as u64,
        H_EVENTS as u64,
        H_HINTS as u64,
        super::bucket::AT_BITS as u64,
        H_BUCKETS as u64,
        H_ENTRIES as u64,
        H_CLOSED as u64,
        H_WORKER_STATES as u64,
        super::bucket::LINK_TAG,
        super::entry::HEADER_WORDS as u64,
        super::entry::FLAG_EXPIRY,
        super::entry::ALIGNED_VALUE_SIZE as u64,
        super::events::RECORD_HEADER_WORDS as u64,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut index = 0;
    while index < facts.len() {
        hash = (hash ^ facts[index]).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
};

/// What a new table is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Buckets to begin with.
    pub buckets: u64,
    /// Seed of the hash.
    pub seed: u64,
    /// Worker threads that will write.
    pub workers: usize,
    /// Nanoseconds for which clients may spin.
    pub spin_ns: u64,
    /// What happens when memory is short.
    pub eviction: Eviction,
}

/// Why a segment is not believed to be a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It is too small to hold even a header.
    #[error("the table segment has {0} words, too few for its header")]
    TooSmall(usize),
    /// It does not begin with the magic number.
    #[error("the segment is not a ringtable (it begins with {0:#018x})")]
    NotATable(u64),
    /// Another version of ringtable made it.
    #[error(
        "the server's table has layout version {found} (fingerprint {fingerprint:#018x}), this client understands \
         version {LAYOUT_VERSION} ({FINGERPRINT:#018x}): install the same version of ringtable on both sides"
    )]
    Version {
        /// The server's layout version.
        found: u64,
        /// The server's fingerprint.
        fingerprint: u64,
    },
    /// A field holds what no server writes.
    #[error("the table's header is damaged: {field} is {value}")]
    Damaged {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// What stays the same for the life of a table, copied out of its header and checked.
#[derive(Clone, Debug)]
pub struct Constants {
    pub(super) secrets: RapidSecrets,
    /// Worker threads of the server.
    pub workers: usize,
    /// Nanoseconds for which a client may spin.
    pub spin_ns: u64,
}

impl Constants {
    /// Writes a header into fresh memory. The bucket array is not touched: its pages are zeroes, and a zero bucket is
    /// an empty one.
    pub(super) fn create(memory: &impl Memory, options: &Options) -> Self {
        let words = memory.words();
        // Relaxed: nobody else has the segment yet; passing its descriptor orders all this before any use.
        let store = |index: usize, value: u64| words[index].store(value, Ordering::Relaxed);
        store(H_MAGIC, MAGIC);
        store(H_VERSION, LAYOUT_VERSION);
        store(H_FINGERPRINT, FINGERPRINT);
        store(H_WORDS, words.len() as u64);
        store(H_HASH, HASH_RAPID_V3_PROTECTED);
        store(H_SEED, options.seed);
        store(H_WORKERS, options.workers as u64);
        store(H_SPIN_NS, options.spin_ns);
        store(H_HINTS, u64::from(options.eviction == Eviction::AllkeysSieve));
        store(H_BUCKETS, options.buckets);
        Self { secrets: RapidSecrets::seed(options.seed), workers: options.workers, spin_ns: options.spin_ns }
    }

    /// Reads and checks the header of a segment that another process made.
    pub(super) fn attach(memory: &impl Memory) -> Result<Self, AttachError> {
        let words = memory.words();
        if words.len() <= HEADER_WORDS {
            return Err(AttachError::TooSmall(words.len()));
        }
        // Relaxed: constants, written before the descriptor was passed to us.
        let load = |index: usize| words[index].load(Ordering::Relaxed);
        if load(H_MAGIC) != MAGIC {
            return Err(AttachError::NotATable(load(H_MAGIC)));
        }
        let (found, fingerprint) = (load(H_VERSION), load(H_FINGERPRINT));
        if found != LAYOUT_VERSION || fingerprint != FINGERPRINT {
            return Err(AttachError::Version { found, fingerprint });
        }
        let check =
            |field, value, good: bool| if good { Ok(value) } else { Err(AttachError::Damaged { field, value }) };
        check("its size in words", load(H_WORDS), load(H_WORDS) == words.len() as u64)?;
        check("the hash algorithm", load(H_HASH), load(H_HASH) == HASH_RAPID_V3_PROTECTED)?;
        let workers = load(H_WORKERS);
        check("the number of workers", workers, (1..=limits::WORKERS_MAX as u64).contains(&workers))?;
        let spin_ns = load(H_SPIN_NS);
        check("the spin limit in ns", spin_ns, spin_ns <= limits::SPIN_NS_MAX)?;
        Ok(Self { secrets: RapidSecrets::seed(load(H_SEED)), workers: workers as usize, spin_ns })
    }

    /// The hash of a key.
    ///
    /// Avalanched, not compact, and protected: each step multiplies two words and adds them to the product. Without
    /// that, a word of the key that equals a secret makes the product nothing, whatever the rest of the key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_inline::<true, false, true>(key, &self.secrets)
    }
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
    use std::collections::HashSet;

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

    /// The constants that rapidhash is published with.
    const PUBLISHED: [u64; 7] = [
        0x2d35_8dcc_aa6c_78a5,
        0x8bb8_4b93_962e_acc9,
        0x4b33_a62e_d433_d4a3,
        0x4d5a_2da5_1de1_aa47,
        0xa076_1d64_78bd_642f,
        0xe703_7ed1_a0b4_28db,
        0x90ed_1765_281c_388c,
    ];

    fn with_seed(seed: u64) -> Constants {
        Constants { secrets: RapidSecrets::seed(seed), workers: 1, spin_ns: 0 }
    }

    /// A word of the key that equals a secret once made the rest of the key count for nothing.
    #[test]
    fn no_part_of_a_key_makes_the_rest_count_for_nothing() {
        let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(fastrand::u64(..));
        println!("RINGTABLE_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        // Lengths of each kind, and at the edges between them.
        let lengths = [9, 12, 15, 16, 17, 24, 32, 33, 48, 49, 64, 80, 81, 96, 97, 112, 113, 128, 224, 225, 336, 400];
        for length in (0..4).flat_map(|_| lengths) {
            let constants = with_seed(random.u64(..));
            let secrets = constants.secrets.secrets.into_iter().chain([constants.secrets.seed]);
            for secret in secrets.chain(PUBLISHED) {
                // As it is, and with what the hash mixes into a word.
                for word in [secret, secret ^ length as u64, secret ^ 0xaaaa_aaaa_aaaa_aaaa] {
                    for place in 0..=length - 8 {
                        let mut hash_of_random = || {
                            let mut key: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                            key[place..place + 8].copy_from_slice(&word.to_le_bytes());
                            constants.hash(&key)
                        };
                        // Some bits of the rest may count for nothing to one who has chosen the word by the secrets,
                        // all of them never.
                        let hashes: HashSet<_> = (0..8).map(|_| hash_of_random()).collect();
                        assert!(hashes.len() > 1, "{word:#x} at {place} of {length} bytes");
                    }
                }
            }
        }
    }

    /// Clients derive it from the seed, and may be of another build.
    #[test]
    fn the_hash_is_the_same_in_all_builds() {
        let key: Vec<u8> = (0..=255).collect();
        let hashes = [0, 1, 3, 4, 8, 16, 17, 100, 113, 256].map(|size| with_seed(7).hash(&key[..size]));
        assert_eq!(
            hashes,
            [
                4_266_909_717_899_242_858,
                12_355_643_998_618_392_161,
                5_700_188_146_005_119_854,
                5_622_101_435_025_870_060,
                3_327_624_377_211_724_290,
                2_477_485_163_251_116_576,
                13_661_031_066_407_249_038,
                17_592_419_454_073_761_934,
                4_323_448_923_985_842_275,
                6_429_265_953_692_070_838,
            ]
        );
    }

    #[test]
    fn a_header_is_believed_only_if_everything_fits() {
        let memory = crate::sync::heap_words(4 * PAGE_WORDS);
        assert!(matches!(Constants::attach(&memory), Err(AttachError::NotATable(0))));
        Constants::create(&memory, &Options { buckets: 3, seed: 1, workers: 2, spin_ns: 0, eviction: Eviction::Never });
        assert_eq!(Constants::attach(&memory).unwrap().workers, 2);
        for (index, value) in [(H_VERSION, 1), (H_FINGERPRINT, 0), (H_WORDS, 1), (H_HASH, 9), (H_WORKERS, 0)] {
            let right = memory[index].swap(value, Ordering::Relaxed);
            assert!(Constants::attach(&memory).is_err(), "word {index} = {value}");
            memory[index].store(right, Ordering::Relaxed);
        }
        assert!(matches!(Constants::attach(&crate::sync::heap_words(8)), Err(AttachError::TooSmall(8))));
    }
}
