//! Entries that neither go nor move to make room.

use crate::sync::{Memory, lock};
use crate::table::bucket::{Slot, tag};
use crate::table::options::Eviction;
use crate::table::table::Table;
use crate::table::writer::Writer;

impl<M: Memory> Table<M> {
    /// Whether the policy lets the entry go that a slot points at.
    pub(in crate::table) fn may_go(&self, slot: Slot) -> bool {
        match self.eviction {
            Eviction::Never => false,
            Eviction::AllkeysSieve => !slot.is_unevictable(),
            Eviction::VolatileTtl => slot.is_volatile(),
        }
    }
}

impl<M: Memory> Writer<M> {
    /// Whether a slot of a locked chain points at the entry that is not to be evicted for the write in hand.
    pub(super) fn is_spared(&self, slot: Slot) -> bool {
        self.sparing
            .hash
            .is_some_and(|hash| slot.tag() == tag(hash) && self.table.hash_of(self.table.entry(slot)) == hash)
    }
}

/// The words at which something begins that neither goes nor moves: what is pinned, held or in the retire list, drafts,
/// and what is spared. Gathered when somebody asks.
#[derive(Default)]
pub(in crate::table) struct Kept(Option<Vec<u64>>);

impl Kept {
    /// All of them, in order.
    pub(in crate::table) fn starts<M: Memory>(&mut self, writer: &Writer<M>) -> &[u64] {
        self.0.get_or_insert_with(|| {
            let Writer { table, sparing, .. } = writer;
            let mut starts = table.reclaimer.kept();
            starts.extend(lock(&table.draft_starts).iter());
            starts.extend(sparing.start);
            if let Some(hash) = sparing.hash {
                let guard = table.lock(hash);
                let slots = table.entry_slots(&guard).map(|(_, _, slot)| slot);
                starts.extend(slots.filter(|&slot| writer.is_spared(slot)).map(Slot::at));
                guard.unlock_unchanged();
            }
            // Pins may be nonsense (I4).
            starts.retain(|&start| start < table.words().len() as u64);
            starts.sort_unstable();
            starts
        })
    }

    /// Adds what was found to find no other place.
    pub(super) fn add(&mut self, more: Vec<u64>) {
        let starts = self.0.get_or_insert_default();
        starts.extend(more);
        starts.sort_unstable();
    }
}
