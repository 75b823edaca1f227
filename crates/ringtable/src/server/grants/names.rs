//! The names of what is granted: the first part of each lies in its records, the rest in a chain of blocks.
//!
//! A block is one cache line: 56 bytes of the name, and the place of the next block. How many there are follows from
//! the size of the name, so that no chain is endless, and the last block's link means nothing. A chain that is free
//! stays as it is until its blocks are taken, one by one: to free it takes no longer if it is long.

use std::sync::Arc;

use rapidhash::v3::{DEFAULT_RAPID_SECRETS, rapidhash_v3_inline};

use super::free_list::FreeList;
use super::layout::{BLOCK_WORDS, NAME_PART_SIZE, NAME_PART_WORDS, Section};
use super::memory::GrantMemory;
use crate::limits;

const _: () = assert!(limits::KEY_SIZE_MAX <= u32::MAX as usize, "the size of a name has 32 bits");

/// A name whose chain is written: what a record says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// In bytes.
    pub size: u32,
    /// The index of the first block, plus 1; 0 if the record has all of it.
    pub first: u32,
    /// A checksum of all its bytes.
    pub checksum: u64,
}

impl Name {
    /// How many blocks its chain has.
    fn blocks(self) -> usize {
        (self.size as usize).saturating_sub(NAME_PART_SIZE).div_ceil(NAME_PART_SIZE)
    }
}

/// The first part of a name, and the others.
pub fn split(name: &[u8]) -> (&[u8], &[u8]) {
    name.split_at(name.len().min(NAME_PART_SIZE))
}

/// A checksum that is the same in all builds.
#[inline]
pub fn checksum(bytes: &[u8]) -> u64 {
    rapidhash_v3_inline::<true, false, true>(bytes, &DEFAULT_RAPID_SECRETS)
}

/// The words of a part of a name, the last one filled up with zeroes.
pub fn words_of(part: &[u8]) -> impl Iterator<Item = u64> {
    part.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    })
}

/// What is left of a chain that is free: the index of its first block, plus 1, and how many blocks it has.
struct FreeChain {
    first: u32,
    blocks: usize,
}

/// The chains of a section.
pub struct Names {
    memory: Arc<GrantMemory>,
    blocks_at: usize,
    /// Blocks of no chain.
    blocks: FreeList,
    /// None of them is empty.
    free_chains: Vec<FreeChain>,
}

impl Names {
    pub fn new(memory: Arc<GrantMemory>, section: &Section) -> Self {
        Self::with(memory, section, FreeList::new(section.blocks))
    }

    /// With the blocks that are free.
    pub fn with(memory: Arc<GrantMemory>, section: &Section, blocks: FreeList) -> Self {
        Self { memory, blocks_at: section.blocks_at, blocks, free_chains: Vec::new() }
    }

    /// A block that is free: the first of the chain that was freed last, if there is one.
    fn take(&mut self) -> u32 {
        let Some(chain) = self.free_chains.last_mut() else { return self.blocks.take() };
        let block = chain.first - 1;
        chain.blocks -= 1;
        if chain.blocks == 0 {
            self.free_chains.pop();
        } else {
            chain.first = self.memory.get(self.blocks_at + block as usize * BLOCK_WORDS + NAME_PART_WORDS) as u32;
        }
        block
    }

    /// Writes what of a name does not fit into a record.
    pub fn keep(&mut self, name: &[u8]) -> Name {
        let mut link = 0;
        // From its end, so that each block knows the next one.
        for part in split(name).1.chunks(NAME_PART_SIZE).rev() {
            let block = self.take();
            let at = self.blocks_at + block as usize * BLOCK_WORDS;
            for (index, word) in words_of(part).enumerate() {
                self.memory.set(at + index, word);
            }
            self.memory.set(at + NAME_PART_WORDS, u64::from(link));
            link = block + 1;
        }
        Name { size: name.len() as u32, first: link, checksum: checksum(name) }
    }

    /// Frees the chain of a name that no record has any more, in one step, however long it is.
    pub fn free(&mut self, name: Name) {
        let blocks = name.blocks();
        if blocks > 0 {
            self.free_chains.push(FreeChain { first: name.first, blocks });
        }
    }
}

impl Names {
    /// All that a name's chain says of it, behind its first part, and the blocks of the chain; `None` if it leads out
    /// of the section.
    pub fn read(memory: &GrantMemory, section: &Section, name: Name) -> Option<(Vec<u8>, Vec<u32>)> {
        let (mut bytes, mut blocks, mut link) = (Vec::new(), Vec::new(), u64::from(name.first));
        for _ in 0..name.blocks() {
            let block = link.checked_sub(1).filter(|&block| block < section.blocks as u64)?;
            let at = section.blocks_at + block as usize * BLOCK_WORDS;
            bytes.extend((0..NAME_PART_WORDS).flat_map(|index| memory.get(at + index).to_ne_bytes()));
            blocks.push(block as u32);
            link = memory.get(at + NAME_PART_WORDS);
        }
        bytes.truncate((name.size as usize).saturating_sub(NAME_PART_SIZE));
        Some((bytes, blocks))
    }
}
