//! Taking a segment over: what is granted in it, and what of it is damaged.
//!
//! Nothing is believed before it was checked, and what is wrong is dropped and counted, and costs nothing else: a
//! record by itself, and a chain by the checksum of its name. The counters in the header have no checksum. Each of them
//! is raised above all that the records tell, and a token also above all that a clock allows, so that none is given
//! twice whatever became of the counter.
//!
//! The connections whose grants are found are not all there any more: who adopts ends those that it did not get.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::free_list::FreeList;
use super::layout::{
    H_CONNECTIONS, LAYOUT, NAME_PART_SIZE, NAME_PART_WORDS, R_CONNECTION, R_ENDS, R_NAME, R_NAME_CHAIN,
    R_NAME_CHECKSUM, R_SEAL, R_SHAPE, R_TICKET, R_TOKEN, RECORD_WORDS, SEAL_END, SEGMENT_WORDS, Section,
};
use super::memory::{GrantMemory, first_token};
use super::names::{Name, Names, checksum, split};
use super::record::Record;
use super::table::{Grants, Slot};
use crate::limits;
use crate::shm::segment::Mapping;
use crate::sync::Memory;

/// Numbers above it are no server's: replies have signed integers.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// One that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub slot: Slot,
    pub record: Record,
    pub name: Arc<[u8]>,
}

/// A section that was taken over.
pub struct Adopted {
    pub grants: Grants,
    pub found: Vec<Found>,
    /// How many records were dropped, and counters raised, since they were damaged.
    pub damaged: usize,
}

impl GrantMemory {
    /// Takes a segment over.
    ///
    /// # Errors
    /// If it is none of this layout.
    pub fn adopt(mapping: Mapping) -> Result<Self, String> {
        let words = mapping.words().len();
        if words != SEGMENT_WORDS {
            return Err(format!("the segment of grants has {words} words, and {SEGMENT_WORDS} are expected"));
        }
        let memory = Self::new(mapping);
        match LAYOUT.iter().enumerate().find(|&(index, &word)| memory.get(index) != word) {
            None => Ok(memory),
            Some((index, word)) => {
                let found = memory.get(index);
                Err(format!("word {index} of the segment of grants is {found:#x}, and {word:#x} is expected"))
            }
        }
    }

    /// Raises a counter to `lowest` at least. Returns whether it was damaged: below what is known to have been given.
    fn raise(&self, at: usize, given: u64, lowest: u64) -> bool {
        let counter = self.get(at);
        let plausible = if counter <= NUMBER_MAX { counter } else { 0 };
        self.set(at, plausible.max(given).max(lowest));
        plausible < given || plausible != counter
    }
}

/// What is known of a name while its holders are gathered.
struct Known {
    described: Name,
    permits: u32,
    holders: u32,
}

/// What was found so far.
struct Search<'a> {
    memory: &'a GrantMemory,
    section: Section,
    /// By name.
    known: HashMap<Arc<[u8]>, Known>,
    /// Names by the first block of their chain.
    by_chain: HashMap<u32, Arc<[u8]>>,
    tokens: HashSet<u64>,
    blocks: Vec<bool>,
}

impl Search<'_> {
    /// The grant in the record at a word, if nothing is wrong with it.
    fn read(&mut self, at: usize, seal: u64) -> Option<(Record, Arc<[u8]>)> {
        let get = |index: usize| self.memory.get(at + index);
        let (shape, end) = (get(R_SHAPE), get(R_ENDS + (seal & SEAL_END) as usize));
        let first = u32::try_from(get(R_NAME_CHAIN)).ok()?;
        let record = Record {
            connection: get(R_CONNECTION),
            token: get(R_TOKEN),
            ticket: get(R_TICKET),
            permits: (shape >> 32) as u32,
            ends_ns: (end > 0).then_some(end),
            name: Name { size: shape as u32, first, checksum: get(R_NAME_CHECKSUM) },
        };
        let good = record.seal(seal & SEAL_END) == seal
            && record.name.size as usize <= limits::KEY_SIZE_MAX
            && (1..=limits::LOCKS_MAX as u32).contains(&record.permits)
            && (1..=NUMBER_MAX).contains(&record.connection)
            && (1..=NUMBER_MAX).contains(&record.token)
            && !self.tokens.contains(&record.token);
        if !good {
            return None;
        }
        let inline = (0..NAME_PART_WORDS).flat_map(|index| get(R_NAME + index).to_ne_bytes());
        let inline: Vec<u8> = inline.take((record.name.size as usize).min(NAME_PART_SIZE)).collect();
        let name = self.name(&record, &inline)?;
        self.tokens.insert(record.token);
        Some((record, name))
    }

    /// The name of a record, which is one more holder of it.
    fn name(&mut self, record: &Record, inline: &[u8]) -> Option<Arc<[u8]>> {
        let described = record.name;
        // One whose chain has been read is not read again for each of its holders.
        let shared = self.by_chain.get(&described.first).filter(|name| split(name).0 == inline).cloned();
        let name = match shared {
            Some(name) => name,
            None => self.read_name(described, inline)?,
        };
        let known = self.known.entry(Arc::clone(&name));
        let known = known.or_insert(Known { described, permits: record.permits, holders: 0 });
        let good = known.described == described && known.permits == record.permits && known.holders < known.permits;
        known.holders += u32::from(good);
        good.then_some(name)
    }

    /// Reads a name and takes the blocks of its chain, if it is what its checksum says, and they are nobody's.
    fn read_name(&mut self, described: Name, inline: &[u8]) -> Option<Arc<[u8]>> {
        let (rest, chain) = Names::read(self.memory, &self.section, described)?;
        let name: Arc<[u8]> = [inline, &rest].concat().into();
        if checksum(&name) != described.checksum {
            return None;
        }
        let mut own = HashSet::new();
        let is_free = |&block: &u32| !self.blocks[block as usize] && own.insert(block);
        // A name that is known, and has a chain, has another one.
        if !chain.iter().all(is_free) || !chain.is_empty() && self.known.contains_key(&name) {
            return None;
        }
        for &block in &chain {
            self.blocks[block as usize] = true;
        }
        if !chain.is_empty() {
            self.by_chain.insert(described.first, Arc::clone(&name));
        }
        Some(name)
    }
}

impl Grants {
    /// Takes a section over.
    pub fn adopt(memory: &Arc<GrantMemory>, section: Section) -> Adopted {
        let mut search = Search {
            memory,
            section,
            known: HashMap::new(),
            by_chain: HashMap::new(),
            tokens: HashSet::new(),
            blocks: vec![false; section.blocks],
        };
        let (mut found, mut damaged, mut slots) = (Vec::new(), 0, vec![false; section.records]);
        for (index, taken) in slots.iter_mut().enumerate() {
            let at = section.records_at + index * RECORD_WORDS;
            let seal = memory.sealed(at + R_SEAL);
            if seal == 0 {
                continue;
            }
            match search.read(at, seal) {
                Some((record, name)) => {
                    found.push(Found { slot: Slot(index as u32), record, name });
                    *taken = true;
                }
                None => {
                    memory.set(at + R_SEAL, 0);
                    damaged += 1;
                }
            }
        }
        let highest = |number: fn(&Record) -> u64| found.iter().map(|found| number(&found.record)).max().unwrap_or(0);
        damaged += usize::from(memory.raise(section.tokens_at, highest(|record| record.token), first_token()));
        damaged += usize::from(memory.raise(H_CONNECTIONS, highest(|record| record.connection), 0));
        let names = Names::with(Arc::clone(memory), &section, FreeList::without(&search.blocks));
        let grants = Self { memory: Arc::clone(memory), section, slots: FreeList::without(&slots), names };
        Adopted { grants, found, damaged }
    }
}
