//! The constants in a table's header, and the checks before a stranger's segment is believed.
//!
//! A reader attaches only if magic number, version and [`FINGERPRINT`] agree.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

use super::entry::EntryRef;
use super::fingerprint::FINGERPRINT;
use super::layout::{
    CONSTANT_WORDS, COPY_WORDS, H_BUCKETS, H_BUCKETS_MIN, H_BUCKETS_SEALED, H_EVENTS, H_FINGERPRINT, H_FIRST_VERSION,
    H_HASH, H_HINTS, H_ID, H_MAGIC, H_SEED, H_SPIN_NS, H_VERSION, H_WORDS, H_WORKERS, HASH_RAPID_V3_PROTECTED,
    HEADER_WORDS, LAYOUT_VERSION, MAGIC, copy_start,
};
use super::options::{Eviction, Options};
use super::seal::seal;
use crate::limits;
use crate::sync::{AtomicU64, Memory, Ordering, as_uninit, copy_out};

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
    /// The number of the table; 0 where it was given none.
    pub id: u64,
    /// What the versions of entries begin above, see [`first_version`].
    pub(super) first_version: u64,
}

/// An even number above all versions of tables that were made before: a client that has reconnected may still know a
/// version of a table that is gone, and must not meet it again. A bucket would have to change 2^17 times a millisecond
/// to get ahead of the clock; if the clock is set back, it takes a coincidence. Below 2^63 for a thousand years.
fn first_version() -> u64 {
    #[cfg(not(loom))]
    return crate::shm::clock::wall_ms() << 18;
    #[cfg(loom)]
    return 0;
}

/// The words of the copy of a header, with their checksum (FNV-1a) behind them, and where they belong in the header.
fn copied(load: impl Fn(usize) -> u64) -> impl Iterator<Item = u64> {
    let constants = (0..COPY_WORDS.min(CONSTANT_WORDS)).map(move |index| match index {
        H_EVENTS | H_HINTS => 0,
        index => load(index),
    });
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    constants.map(Some).chain([None]).take(COPY_WORDS).map(move |word| {
        hash = (hash ^ word.unwrap_or_default()).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        word.unwrap_or(hash)
    })
}

/// Copies the constants of a header, for a server that comes later and finds them damaged.
fn copy_constants(words: &[AtomicU64]) {
    // Relaxed: nobody else looks at the copy; the server that will comes when this one is dead.
    let header = copied(|index| words[index].load(Ordering::Relaxed));
    words
        .iter()
        .skip(copy_start(words.len()))
        .zip(header)
        .for_each(|(word, value)| word.store(value, Ordering::Relaxed));
}

/// Makes the constants and their copy the same again, if one of the two is damaged: the checksum tells which one.
/// Returns how many words were; `None` if both are.
pub(super) fn restore_constants(words: &[AtomicU64]) -> Option<u64> {
    if words.len() <= HEADER_WORDS {
        return Some(0);
    }
    // Relaxed: the writer is dead.
    let load = |index: usize| words.get(index).map_or(0, |word| word.load(Ordering::Relaxed));
    let start = copy_start(words.len());
    let (header, copy): (Vec<_>, Vec<_>) = (copied(load).collect(), copied(|index| load(start + index)).collect());
    let there: Vec<_> = (start..start + COPY_WORDS).map(load).collect();
    if copy == there {
        let constants = (0..copy.len().saturating_sub(1)).filter(|&index| header[index] != copy[index]);
        return Some(constants.map(|index| words[index].store(copy[index], Ordering::Relaxed)).count() as u64);
    }
    // The header is right if its checksum is there, or all of it but that.
    let is_right =
        header.last() == there.last() || header.split_last().map(|all| all.1) == there.split_last().map(|all| all.1);
    is_right.then(|| {
        copy_constants(words);
        1
    })
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
        let first_version = first_version();
        store(H_FIRST_VERSION, first_version);
        store(H_BUCKETS_MIN, options.buckets);
        store(H_BUCKETS_SEALED, seal(options.buckets, H_BUCKETS as u64));
        store(H_BUCKETS, options.buckets);
        copy_constants(words);
        let secrets = RapidSecrets::seed(options.seed);
        Self { secrets, workers: options.workers, spin_ns: options.spin_ns, id: 0, first_version }
    }

    /// Gives the table its number, before anybody else has the segment.
    pub(super) fn name(&mut self, memory: &impl Memory, id: u64) {
        // Relaxed: passing the descriptor orders it before any use.
        memory.words()[H_ID].store(id, Ordering::Relaxed);
        copy_constants(memory.words());
        self.id = id;
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
        let first_version = load(H_FIRST_VERSION);
        check("what versions begin above", first_version, first_version & 1 == 0 && first_version < 1 << 62)?;
        let secrets = RapidSecrets::seed(load(H_SEED));
        Ok(Self { secrets, workers: workers as usize, spin_ns, id: load(H_ID), first_version })
    }

    /// The hash of a key.
    ///
    /// Avalanched, not compact, and protected: each step multiplies two words and adds them to the product. Without
    /// that, a word of the key that equals a secret makes the product nothing, whatever the rest of the key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_inline::<true, false, true>(key, &self.secrets)
    }

    /// The hash of an entry's key.
    pub(super) fn hash_of(&self, entry: EntryRef<'_>) -> u64 {
        let size = entry.shape.key_size;
        let mut inline = [0; 64];
        if let Some(key) = inline.get_mut(..size) {
            copy_out(entry.key_words(), as_uninit(key));
            return self.hash(key);
        }
        let mut key = vec![0; size];
        copy_out(entry.key_words(), as_uninit(&mut key));
        self.hash(&key)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use super::super::layout::PAGE_WORDS;
    use super::*;

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
        Constants { secrets: RapidSecrets::seed(seed), workers: 1, spin_ns: 0, id: 0, first_version: 0 }
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
        for length in (0..2).flat_map(|_| lengths) {
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
