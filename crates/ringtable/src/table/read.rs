//! Reading by the server: by its workers, and by whatever else goes over all entries ([`crate::disk`]).
//!
//! It reads as clients do, and takes the bucket's lock only where a client would ask the server: if writers get in the
//! way too often. A worker's lookup is never [`Lookup::Contended`].

use super::entry::EntryRef;
use super::held::HeldEntry;
use super::lookup::{self, Lookup, Sink};
use super::options::Eviction;
use super::pairs::{Pairs, Want};
use super::table::Table;
use super::writer::Writer;
use super::{reader, walk};
use crate::limits;
use crate::sync::{Arc, Memory};

impl<M: Memory> Writer<M> {
    /// Looks a key up, however much others write.
    pub fn get(&mut self, key: &[u8], now_ms: impl Fn() -> u64, sink: &mut impl Sink) -> Lookup {
        if key.len() > limits::KEY_SIZE_MAX {
            return Lookup::Miss;
        }
        let hash = self.table.constants().hash(key);
        self.table.settle_hash(hash);
        let answer = lookup::lookup(self.table.words(), hash, key, &now_ms, sink);
        if let Lookup::Hit(found) = answer
            && !found.visited
            && self.table.eviction == Eviction::AllkeysSieve
        {
            self.table.touch(hash);
        }
        if answer != Lookup::Contended {
            return answer;
        }
        let guard = self.table.lock(hash);
        let answer = match self.table.find(&guard, hash, key).entry {
            None => Lookup::Miss,
            Some((bucket, index, entry)) => match entry.expiry() {
                Some(expiry) if expiry.has_passed(now_ms()) => Lookup::Expired,
                expiry => {
                    let size = entry.shape.value_size;
                    match sink.begin(size) {
                        None => Lookup::NoRoom(size),
                        Some(room) => {
                            if !room.is_empty() {
                                crate::sync::copy_out(entry.value_words(), room);
                            }
                            let slot = bucket.slot(index);
                            bucket.set_slot(index, slot.with_visited(true));
                            Lookup::Hit(lookup::Found {
                                version: entry.version(),
                                expiry,
                                size,
                                visited: true,
                                is_unevictable: slot.is_unevictable(),
                            })
                        }
                    }
                }
            },
        };
        guard.unlock_unchanged();
        answer
    }

    /// All entries of the bucket that `key` falls in, but those whose time has passed, if they have at most `size_max`
    /// bytes together; else how many they have.
    ///
    /// Copies of the first ones go into `out`, as many as fit [`limits::COPIED_LOCKED_MAX`]: others wait meanwhile.
    /// What is held instead is for the caller to copy.
    pub fn read_bucket(
        &mut self,
        key: &[u8],
        size_max: usize,
        now_ms: impl Fn() -> u64,
        out: &mut Pairs,
    ) -> Result<Vec<HeldEntry<M>>, usize> {
        let (guard, mut held) = (self.table.lock(self.table.constants().hash(key)), Vec::new());
        let size_of = |entry: EntryRef<'_>| entry.shape.key_size + entry.shape.value_size;
        let entries = || self.table.entry_slots(&guard).map(|(_, _, slot)| (slot, self.table.entry(slot)));
        let size = entries().map(|(_, entry)| size_of(entry)).sum();
        if size <= size_max {
            for (slot, entry) in entries().filter(|(_, entry)| !entry.has_expired(&now_ms)) {
                let may_copy = out.size() + size_of(entry) <= limits::COPIED_LOCKED_MAX;
                if !may_copy || out.push_entry(slot, entry, Want::Values).is_none() {
                    held.push(HeldEntry::new(&self.table, slot, entry));
                }
            }
        }
        guard.unlock_unchanged();
        if size <= size_max { Ok(held) } else { Err(size) }
    }

    /// One step of a walk over the table: see [`Table::scan`].
    pub fn scan(&mut self, cursor: u64, want: Want, now_ms: impl Fn() -> u64, out: &mut Pairs) -> u64 {
        self.table.scan(cursor, want, now_ms, out)
    }

    /// All entries of bucket `index`, also those whose time has passed, into `out`. Returns whether there is such a
    /// bucket.
    pub fn read_bucket_at(&mut self, index: u64, want: Want, out: &mut Pairs) -> bool {
        if index >= self.table.buckets() {
            return false;
        }
        self.table.copy_bucket(index, want, &|| 0, out);
        true
    }

    /// Keeps the entry of a key where it is, for reading it in place: see [`super::reclaim`].
    pub fn hold(&mut self, key: &[u8], now_ms: impl Fn() -> u64) -> Option<HeldEntry<M>> {
        HeldEntry::of(&self.table, key, now_ms)
    }
}

impl<M: Memory> Table<M> {
    /// One step of a walk over the table: see [`walk::step`].
    pub fn scan(&self, cursor: u64, want: Want, now_ms: impl Fn() -> u64, out: &mut Pairs) -> u64 {
        let read = |index, into: &mut Pairs| {
            self.copy_bucket(index, want, &now_ms, into);
            Ok(())
        };
        let next = walk::step(self.words(), cursor, |key| self.constants().hash(key), read, out);
        // The bucket was split again and again: nothing was read, and the next step does it.
        next.unwrap_or(if cursor == 0 { walk::first_cursor(self.buckets()) } else { cursor })
    }

    /// Copies the entries of a bucket, but those whose time has passed, and those for which there is no memory.
    ///
    /// As readers do, so that nobody waits meanwhile; with the lock only if writers get in the way too often.
    fn copy_bucket(&self, index: u64, want: Want, now_ms: &impl Fn() -> u64, out: &mut Pairs) {
        self.settle_at(index);
        if reader::read_chain(self.words(), index, want, now_ms, out).is_err()
            && let Some(guard) = self.lock_at(index)
        {
            for (_, _, slot) in self.entry_slots(&guard) {
                let entry = self.entry(slot);
                if !entry.has_expired(now_ms) {
                    let _ = out.push_entry(slot, entry, want);
                }
            }
            guard.unlock_unchanged();
        }
    }
}

impl<M: Memory> HeldEntry<M> {
    /// Keeps the entry of a key where it is, if there is one: see [`super::reclaim`].
    pub fn of(table: &Arc<Table<M>>, key: &[u8], now_ms: impl Fn() -> u64) -> Option<Self> {
        if key.len() > limits::KEY_SIZE_MAX {
            return None;
        }
        let hash = table.constants().hash(key);
        let guard = table.lock(hash);
        let live = table.find(&guard, hash, key).entry.filter(|&(_, _, entry)| !entry.has_expired(&now_ms));
        let held = live.map(|(bucket, index, entry)| Self::new(table, bucket.slot(index), entry));
        guard.unlock_unchanged();
        held
    }
}
