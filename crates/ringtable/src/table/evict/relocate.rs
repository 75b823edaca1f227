//! Moving entries and overflow buckets, so that free memory lies in a row.
//!
//! # Design
//!
//! A move is a write like any other: copy, lock, check that the slot still points at the original, swing it, unlock.
//! The copy keeps the entry's version: to a client that compares versions, nothing has happened.

use crate::sync::{Arc, Memory, Ordering, copy_words};
use crate::table::bucket::{BucketRef, SLOTS, Slot};
use crate::table::change::Removal;
use crate::table::entry::EntryRef;
use crate::table::heap::Clearing;
use crate::table::layout::BUCKET_WORDS;
use crate::table::table::Table;
use crate::table::writer::Writer;

/// Clearings without success after which the heap asks all workers for the slots they hold, and which come to an end.
pub(super) const VAIN_MAX: usize = 8;

impl<M: Memory> Table<M> {
    /// Whether a slot of that kind in the chain of `hash` points at word `start`.
    pub(super) fn is_pointed_at(&self, hash: u64, start: u64, kind: fn(Slot) -> bool) -> bool {
        let guard = self.lock(hash);
        let pointed = self.pointer(&guard, start).is_some_and(|(_, _, slot)| kind(slot));
        guard.unlock_unchanged();
        pointed
    }
}

impl<M: Memory> Writer<M> {
    /// Moves what lives in a clearing, evicts what finds no other place (if it may, by the policy too), and ends the
    /// clearing.
    pub(in crate::table) fn clear(&mut self, clearing: &Clearing, may_evict: bool) {
        failpoint!("move.closed");
        self.clearing = true;
        for &start in &clearing.starts {
            self.relocate(start, may_evict);
        }
        self.clearing = false;
        self.table.heap.drain(self.table.words(), &mut self.cache);
        self.table.heap.finish_clearing(self.table.words(), clearing);
    }

    /// Moves what lives at word `start`, an entry or an overflow bucket, if anything does. Returns whether nothing
    /// lives there any more.
    ///
    /// What is there may be anything: the rest of an entry that is gone, one that is being written, or an overflow
    /// bucket that looks like an entry. It is believed only if a slot of the right kind points at it.
    pub(in crate::table) fn relocate(&mut self, start: u64, may_evict: bool) -> bool {
        let table = Arc::clone(&self.table);
        let words = table.words();
        if let Some(entry) = EntryRef::at(words, start)
            && let (hash, version) = (self.table.hash_of(entry), entry.version())
            && table.is_pointed_at(hash, start, Slot::is_entry)
        {
            let size = entry.shape.words();
            let copy = table.heap.allocate(words, &mut self.cache, size);
            if let Some(copy) = copy {
                // Published with the slot. If the original changes under us, it is not pointed at any more.
                copy_words(&words[start as usize..][..size], &words[copy as usize..][..size]);
                failpoint!("move.copied");
            }
            let guard = table.lock(hash);
            // The same entry as before we copied it: whatever it was that we first saw there.
            let is_same = |slot: Slot| {
                let now = slot.is_entry().then(|| table.entry(slot));
                now.is_some_and(|now| now.shape == entry.shape && now.version() == version)
            };
            let pointer = table.pointer(&guard, start).filter(|&(_, _, slot)| is_same(slot));
            let Some((bucket, index, slot)) = pointer else {
                guard.unlock_unchanged();
                if let Some(copy) = copy {
                    table.heap.free(words, &mut self.cache, copy, size);
                }
                return true;
            };
            if let Some(copy) = copy {
                bucket.set_slot(index, slot.moved_to(copy));
                failpoint!("move.linked");
                guard.unlock();
                failpoint!("move.unlocked");
                table.tally.moved.fetch_add(1, Ordering::Relaxed);
                table.retire_moved(start);
            } else if may_evict && table.may_go(slot) && self.sparing.hash != Some(hash) {
                let left = table.take_out(&guard, (bucket, index), Removal::Evicted, &mut self.published);
                guard.unlock();
                self.free(left);
            } else {
                guard.unlock_unchanged();
                return false;
            }
            return true;
        }
        self.relocate_overflow(start)
    }

    /// Moves the overflow bucket at word `start`, if there is one. Returns whether none is there any more.
    fn relocate_overflow(&mut self, start: u64) -> bool {
        let table = Arc::clone(&self.table);
        let words = table.words();
        let Some(overflow) = BucketRef::at(words, start as usize) else { return true };
        // It is never empty, and any entry in it tells which chain it belongs to.
        let inside = (0..SLOTS).map(|index| overflow.slot(index)).filter(|slot| slot.is_entry());
        let Some(hash) =
            inside.filter_map(|slot| EntryRef::at(words, slot.at())).map(|entry| self.table.hash_of(entry)).next()
        else {
            return true;
        };
        if !table.is_pointed_at(hash, start, Slot::is_link) {
            return true;
        }
        let Some(copy) = table.heap.allocate(words, &mut self.cache, BUCKET_WORDS) else { return false };
        let guard = table.lock(hash);
        let pointer = table.pointer(&guard, start).filter(|(_, _, slot)| slot.is_link());
        let Some((before, index, _)) = pointer else {
            guard.unlock_unchanged();
            table.heap.free(words, &mut self.cache, copy, BUCKET_WORDS);
            return true;
        };
        let moved = table.overflow(Slot::link(copy));
        for index in 0..SLOTS {
            moved.set_slot(index, overflow.slot(index));
        }
        before.set_slot(index, Slot::link(copy));
        guard.unlock();
        table.retire_moved(start);
        true
    }
}
