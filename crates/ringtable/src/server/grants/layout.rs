//! Where everything lies in the segment of grants: `docs/memory-layout.md` draws it.

use crate::limits;

/// `ringgrnt` in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ringgrnt");
/// To be raised with any change of what is in the segment.
pub const LAYOUT_VERSION: u64 = 1;

/// Words of a page of the system. The header has one.
const PAGE_WORDS: usize = 512;
/// The highest number that a connection was given. Apart from the others: it is taken without a lock.
pub const H_CONNECTIONS: usize = 16;
pub const H_LEASE_TOKENS: usize = 32;
pub const H_PERMIT_TOKENS: usize = 33;

/// Bytes of a name in a record, and in each block.
pub const NAME_PART_SIZE: usize = 56;
/// Words of that.
pub const NAME_PART_WORDS: usize = NAME_PART_SIZE / 8;
/// Words of a block: those, and the link.
pub const BLOCK_WORDS: usize = NAME_PART_WORDS + 1;

/// Words of a record.
pub const RECORD_WORDS: usize = R_NAME + NAME_PART_WORDS;

/// The seal; 0 if nothing is granted.
pub const R_SEAL: usize = 0;
/// The name's size and the name's permits, 32 bits each.
pub const R_SHAPE: usize = 1;
pub const R_CONNECTION: usize = 2;
pub const R_TOKEN: usize = 3;
pub const R_TICKET: usize = 4;
/// Two words, of which the seal names the one that counts.
pub const R_ENDS: usize = 5;
pub const R_NAME_CHECKSUM: usize = 7;
pub const R_NAME_CHAIN: usize = 8;
/// The first part of the name.
pub const R_NAME: usize = 9;

/// Which of the two ends counts.
pub const SEAL_END: u64 = 1;
/// Set in every seal, so that none is 0.
pub const SEAL_SET: u64 = 2;

/// A part of the segment with records and blocks of its own.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The word with the highest token that was given.
    pub tokens_at: usize,
    pub records_at: usize,
    pub records: usize,
    pub blocks_at: usize,
    pub blocks: usize,
}

impl Section {
    /// One for so many grants, whose names have so many bytes together, which begins on the page at that word.
    ///
    /// A name of `n` bytes needs `n / 56` blocks at most, since its first part is in the record.
    const fn new(tokens_at: usize, at: usize, records: usize, names_size: usize) -> Self {
        let records_at = at.next_multiple_of(PAGE_WORDS);
        let blocks_at = records_at + records * RECORD_WORDS;
        Self { tokens_at, records_at, records, blocks_at, blocks: names_size / NAME_PART_SIZE }
    }

    const fn end(&self) -> usize {
        self.blocks_at + self.blocks * BLOCK_WORDS
    }
}

/// Where the leases are, and where the permits.
pub const LEASES: Section = Section::new(H_LEASE_TOKENS, PAGE_WORDS, limits::LEASES_MAX, limits::LEASE_KEYS_SIZE_MAX);
/// See [`LEASES`].
pub const PERMITS: Section =
    Section::new(H_PERMIT_TOKENS, LEASES.end(), limits::LOCKS_MAX, limits::LOCK_NAMES_SIZE_MAX);

/// Words of the segment, in whole pages.
pub const SEGMENT_WORDS: usize = PERMITS.end().next_multiple_of(PAGE_WORDS);

/// What the header begins with, from word 0 on: all that the layout depends on.
pub const LAYOUT: [u64; 9] = [
    MAGIC,
    LAYOUT_VERSION,
    SEGMENT_WORDS as u64,
    RECORD_WORDS as u64,
    BLOCK_WORDS as u64,
    LEASES.records as u64,
    LEASES.blocks as u64,
    PERMITS.records as u64,
    PERMITS.blocks as u64,
];
