//! The table of grants: making, extending and ending them, in the order that [`super`] argues for.

use std::sync::Arc;

use super::free_list::FreeList;
use super::layout::{
    R_CONNECTION, R_ENDS, R_NAME, R_NAME_CHAIN, R_NAME_CHECKSUM, R_SEAL, R_SHAPE, R_TICKET, R_TOKEN, RECORD_WORDS,
    SEAL_END, Section,
};
use super::memory::GrantMemory;
use super::names::{Name, Names, split, words_of};
use super::record::Record;
use crate::sync::{Ordering, fence};

/// The place of a record, as long as it is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(super) u32);

/// The grants of a section. Whoever has it alone writes there.
pub struct Grants {
    pub(super) memory: Arc<GrantMemory>,
    pub(super) section: Section,
    pub(super) slots: FreeList,
    pub(super) names: Names,
}

impl Grants {
    /// Those of a section of a new segment: none.
    pub fn new(memory: Arc<GrantMemory>, section: Section) -> Self {
        let names = Names::new(Arc::clone(&memory), &section);
        Self { memory, section, slots: FreeList::new(section.records), names }
    }

    fn word_of(&self, slot: Slot) -> usize {
        self.section.records_at + slot.0 as usize * RECORD_WORDS
    }

    /// A token that is higher than all before.
    pub fn next_token(&mut self) -> u64 {
        let token = self.memory.get(self.section.tokens_at) + 1;
        self.memory.set(self.section.tokens_at, token);
        token
    }

    /// Writes a name down that something is to be granted of.
    pub fn keep_name(&mut self, name: &[u8]) -> Name {
        self.names.keep(name)
    }

    /// Frees what a name takes, once nothing is granted of it any more.
    pub fn free_name(&mut self, name: Name) {
        self.names.free(name);
    }

    /// Grants something. `name` is the one that the record tells of.
    pub fn add(&mut self, record: &Record, name: &[u8]) -> Slot {
        let slot = Slot(self.slots.take());
        let at = self.word_of(slot);
        self.memory.set(at + R_SHAPE, record.shape());
        self.memory.set(at + R_CONNECTION, record.connection);
        self.memory.set(at + R_TOKEN, record.token);
        self.memory.set(at + R_TICKET, record.ticket);
        self.memory.set(at + R_ENDS, record.end());
        self.memory.set(at + R_NAME_CHECKSUM, record.name.checksum);
        self.memory.set(at + R_NAME_CHAIN, u64::from(record.name.first));
        for (index, word) in words_of(split(name).0).enumerate() {
            self.memory.set(at + R_NAME + index, word);
        }
        self.memory.seal(at + R_SEAL, record.seal(0));
        slot
    }

    /// Changes the end of what is granted to the one that `record` tells; all else in it is as it was.
    pub fn extend(&mut self, slot: Slot, record: &Record) {
        let at = self.word_of(slot);
        let other = !self.memory.get(at + R_SEAL) & SEAL_END;
        self.memory.set(at + R_ENDS + other as usize, record.end());
        self.memory.seal(at + R_SEAL, record.seal(other));
    }

    /// Ends what is granted.
    pub fn remove(&mut self, slot: Slot) {
        self.memory.set(self.word_of(slot) + R_SEAL, 0);
        // With the Acquire in `GrantMemory::sealed`: whoever sees anything that the record or its chain are used for
        // next, sees that it is over.
        fence(Ordering::Release);
        self.slots.give_back(slot.0);
    }
}
