//! Clearing a run of pages where only entries that expire may go.
//!
//! # Design
//!
//! A run of pages is closed, and the entries that stay move out of it. Only when all of these have moved, or will for
//! certain find the slot of an entry that expires elsewhere, does the first entry go.

use super::kept::Kept;
use super::relocate::VAIN_MAX;
use crate::sync::{Arc, Memory};
use crate::table::bucket::Slot;
use crate::table::change::Removal;
use crate::table::entry::EntryRef;
use crate::table::heap::{self, CLASSES, Heap};
use crate::table::writer::Writer;

impl<M: Memory> Writer<M> {
    /// Memory for `words` words where not all entries may go: those go that expire and lie in one run of pages. Before
    /// the first one does, all that stays has moved out of the run, or is certain to find room.
    pub(super) fn evict_run(&mut self, words: usize, kept: &mut Kept) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let expiring = table.expiring.as_ref()?;
        let pages = Heap::run_pages(words) + self.sparing.pages;
        if table.heap.pages_without(|kind| expiring.amount(kind)) < pages as u64 {
            return None;
        }
        let used: Vec<u64> = (0..CLASSES).map(|class| table.heap.used_slots(class)).collect();
        for _ in 0..VAIN_MAX {
            table.heap.drain(table.words(), &mut self.cache);
            // Of a size class as large a share stays everywhere, as far as is known.
            let stays = |start, kind, living: u64| match expiring.amount(kind) {
                going if kind < CLASSES => {
                    let used = used[kind].max(going).max(1);
                    (u128::from(living) * u128::from(used - going) / u128::from(used)) as u64
                }
                _ if EntryRef::at(table.words(), start).is_some_and(|entry| entry.expiry().is_some()) => 0,
                _ => living,
            };
            let mut clearing = table.heap.close_run_by(pages, kept.starts(self), false, stays)?;
            self.clearing = true;
            failpoint!("move.closed");
            let (goes, stays): (Vec<u64>, Vec<u64>) =
                clearing.starts.iter().partition(|&&start| self.expires_at(start));
            let mut moves = |start: &u64| {
                let has_moved = self.relocate(*start, false);
                table.heap.keep_clear(&mut clearing, *start);
                has_moved
            };
            let stays: Vec<u64> = stays.into_iter().filter(|start| !moves(start)).collect();
            // Slots that would come free elsewhere, if need be, by evicting what expires there.
            let mut left: Vec<i64> = (0..CLASSES).map(|class| expiring.amount(class).cast_signed()).collect();
            let certain = {
                let mut is_certain = true;
                let mut take = |words: usize, least: i64| match left.get_mut(heap::kind_of(words)) {
                    Some(left) => {
                        *left -= 1;
                        is_certain &= *left >= least;
                    }
                    None => is_certain &= least == i64::MIN,
                };
                table.heap.words_of(kept.starts(self), |words| take(words, i64::MIN));
                table.heap.words_of(&goes, |words| take(words, i64::MIN));
                table.heap.words_of(&stays, |words| take(words, 0));
                is_certain
            };
            if certain {
                // These first: what else is evicted lies elsewhere then, and nothing moves to where these were.
                for start in goes {
                    self.evict_at(start);
                    table.heap.keep_clear(&mut clearing, start);
                }
                for &start in &stays {
                    while !self.relocate(start, false) && self.evict_soonest() {}
                }
            }
            self.clearing = false;
            table.heap.drain(table.words(), &mut self.cache);
            table.heap.finish_clearing(table.words(), &clearing);
            if certain {
                return table.allocate(&mut self.cache, words);
            }
            kept.add(stays);
        }
        None
    }

    /// Whether an entry lives at word `start` that expires.
    fn expires_at(&self, start: u64) -> bool {
        EntryRef::at(self.table.words(), start).is_some_and(|entry| {
            entry.shape.expires && self.table.is_pointed_at(self.table.hash_of(entry), start, Slot::is_volatile)
        })
    }

    /// Evicts the entry at word `start`, if one lives there and expires.
    fn evict_at(&mut self, start: u64) {
        let table = Arc::clone(&self.table);
        let Some(entry) = EntryRef::at(table.words(), start) else { return };
        let guard = table.lock(self.table.hash_of(entry));
        match table.pointer(&guard, start).filter(|(_, _, slot)| slot.is_volatile()) {
            Some((bucket, index, _)) => {
                let left = table.take_out(&guard, (bucket, index), Removal::Evicted, &mut self.published);
                guard.unlock();
                self.free(left);
            }
            None => guard.unlock_unchanged(),
        }
    }
}
