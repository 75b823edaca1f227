//! Writing a key.
//!
//! # Design
//!
//! A write prepares its entry outside of any lock, locks the bucket, makes sure that the bucket is still the right
//! one, swings one slot, unlocks, and only then retires the old entry. Everything conditional is one primitive,
//! [`Writer::put`] with a [`Guard`]: "if absent", "if present", "if still this version". Increments read without a
//! lock and put with `Guard::Version`; somebody always wins, so that is lock-free. A new expiry alone needs no new
//! entry, see [`super::lifetime`].
//!
//! # Invariants
//!
//! - A refused write (guard, memory) leaves everything as it was.

use super::bucket::{BucketRef, SLOTS, Slot};
use super::change::Change;
use super::entry::{Expiry, FLAG_EXPIRY, HEADER_WORDS, Shape};
use super::error::{WriteError, check_sizes};
use super::expiry_code;
use super::guard::{Guard, Outcome};
use super::heap::Cache;
use super::held::HeldEntry;
use super::layout::{BUCKET_WORDS, address, bucket_start};
use super::manner::{Lifetime, Manner};
use super::options::Eviction;
use super::sieve::Id;
use super::table::Table;
use super::unevictable::Mark;
use super::writer::{Sparing, Writer, announce};
use crate::limits;
use crate::sync::{Memory, Ordering, copy_in, prefetch};

/// Entries of which a writer tells the sieve at once.
const ARRIVALS_GATHERED_MAX: usize = if cfg!(loom) { 1 } else { 32 };

impl<M: Memory> Table<M> {
    /// Puts a slot behind the last bucket of a full chain, in a new overflow bucket. `false` without memory.
    fn append(&self, cache: &mut Cache, last: BucketRef<'_>, slot: Slot, announce: impl FnOnce(Slot)) -> bool {
        let Some(start) = self.allocate(cache, BUCKET_WORDS) else { return false };
        let link = Slot::link(start);
        let overflow = self.overflow(link);
        overflow.clear_slots();
        overflow.set_slot(0, last.slot(SLOTS - 1));
        overflow.set_slot(1, slot);
        announce(link);
        last.set_slot(SLOTS - 1, link);
        failpoint!("put.chained");
        true
    }
}

impl<M: Memory> Writer<M> {
    /// Writes a key, if `guard` holds. A key whose time has passed at `now_ms` counts as absent.
    ///
    /// # Errors
    /// Key or value too long, no memory, or a full bucket: then everything is as it was.
    pub fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Option<Expiry>,
        guard: Guard,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        self.put_marked(key, value, expiry, guard, Mark::AsBefore, now_ms)
    }

    /// The same, saying whether the entry may be evicted.
    ///
    /// # Errors
    /// As [`Self::put`], or if too much is never to be evicted.
    pub fn put_marked(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Option<Expiry>,
        guard: Guard,
        mark: Mark,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        self.put_as(key, value, Manner::new(guard, expiry, mark), now_ms)
    }

    /// The same with all that can be said of a write.
    ///
    /// # Errors
    /// As [`Self::put_marked`].
    pub fn put_as(
        &mut self,
        key: &[u8],
        value: &[u8],
        manner: Manner,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        check_sizes(key.len(), value.len())?;
        let hash = self.table.constants().hash(key);
        // The bucket's line comes while the entry is made: it is the one cache miss of a small write.
        prefetch(&self.table.words()[bucket_start(address(hash, self.table.buckets()))]);
        let shape = Shape::of(key.len(), value.len(), manner.lifetime.needs_word());
        let start = match self.table.allocate(&mut self.cache, shape.words()) {
            Some(start) => start,
            None => match self.reserve_guarded(shape, hash, key, manner, &now_ms)? {
                Some(start) => start,
                None => return Ok(Outcome::Refused),
            },
        };
        self.fill(start, shape, key, value, manner.lifetime.known());
        self.publish_entry(hash, key, (start, shape), manner, now_ms)
    }

    /// Makes room for an entry, if the guard of its write holds and its bucket has a place: what is refused evicts
    /// nothing. `None` if the guard does not hold.
    #[cold]
    fn reserve_guarded(
        &mut self,
        shape: Shape,
        hash: u64,
        key: &[u8],
        Manner { guard, mark, wants_old, .. }: Manner,
        now_ms: &impl Fn() -> u64,
    ) -> Result<Option<u64>, WriteError> {
        let bucket = self.table.lock(hash);
        let found = self.table.find(&bucket, hash, key).entry;
        let is_full = found.is_none() && !self.table.has_room(&bucket, key.len());
        let is_long = found.is_none() && !self.table.has_hole(&bucket);
        let living = found.filter(|(_, _, entry)| !entry.has_expired(now_ms));
        let live = living.map(|(_, _, entry)| entry.version());
        let unevictable = living.filter(|(home, index, _)| home.slot(*index).is_unevictable());
        let unevictable_before = unevictable.map(|(_, _, entry)| entry.shape.words());
        if !guard.allows(live) {
            if wants_old {
                self.replaced = living.map(|(home, index, entry)| HeldEntry::new(&self.table, home.slot(index), entry));
            }
            bucket.unlock_unchanged();
            return Ok(None);
        }
        bucket.unlock_unchanged();
        if mark.is_unevictable(unevictable_before.is_some())
            && !self.table.unevictable.may_replace(unevictable_before, shape.words())
        {
            return Err(WriteError::UnevictableFull(self.table.unevictable.bytes_max()));
        }
        if is_full {
            self.make_way(hash, key.len(), now_ms())?;
        }
        // If it has to be there: or the guard would not hold any more when there is room.
        self.sparing.hash = live.filter(|_| guard != Guard::Always).map(|_| hash);
        let reserved = if is_long { self.reserve_with_bucket(shape) } else { self.reserve(shape) };
        self.sparing = Sparing::default();
        reserved.map(Some)
    }

    /// Makes room for an entry whose chain needs another overflow bucket. Room for that goes to our own free slots.
    fn reserve_with_bucket(&mut self, shape: Shape) -> Result<u64, WriteError> {
        let words = shape.words();
        // What is certain comes last, so that neither has evicted anything if the other one is not to be had.
        if self.may_evict_for(words) {
            let room = self.table.allocate(&mut self.cache, BUCKET_WORDS).or_else(|| self.make_room(BUCKET_WORDS));
            let room = room.ok_or(WriteError::OutOfMemory(words * 8))?;
            self.sparing.start = Some(room);
            // Unless it lies in the middle of the only row of pages that there could be.
            let reserved = self.may_evict_for(words).then(|| self.reserve(shape));
            let Self { table, cache, .. } = self;
            table.heap.free(table.words(), cache, room, BUCKET_WORDS);
            if let Some(reserved) = reserved {
                return reserved;
            }
            self.sparing.start = None;
        }
        self.sparing.pages = 1;
        self.reserve(shape)
    }

    /// The second half of [`Self::put`]: makes the entry at `start`, of which all but the version is written, the
    /// key's, or frees it.
    pub(super) fn publish_entry(
        &mut self,
        hash: u64,
        key: &[u8],
        (start, shape): (u64, Shape),
        manner: Manner,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        // Borrowed, not cloned: the count of an `Arc` is a line that all workers would write to.
        let Self { table, cache, published, has_written, arrivals, replaced, commits, .. } = self;
        let Manner { guard, lifetime, mark, wants_old } = manner;
        failpoint!("put.prepared");
        let bucket = table.lock(hash);
        failpoint!("put.locked");
        let place = table.find(&bucket, hash, key);
        let live = place.entry.filter(|&(_, _, entry)| !entry.has_expired(&now_ms));
        if !guard.allows(live.map(|(_, _, entry)| entry.version())) {
            if wants_old {
                *replaced = live.map(|(home, index, entry)| HeldEntry::new(table, home.slot(index), entry));
            }
            bucket.unlock_unchanged();
            table.heap.free(table.words(), cache, start, shape.words());
            return Ok(Outcome::Refused);
        }
        let version = table.version_of_change(&bucket);
        // Relaxed: published with the slot.
        table.words()[start as usize + 1].store(version, Ordering::Relaxed);
        if lifetime == Lifetime::AsBefore {
            let expiry = live.and_then(|(_, _, entry)| entry.expiry()).unwrap_or(Expiry::NEVER);
            // Relaxed: as above. The entry has the word.
            table.words()[start as usize + HEADER_WORDS].store(expiry.0, Ordering::Relaxed);
        }
        let code = expiry_code::code(table.entry(Slot::entry(hash, start)).expiry());
        let old = place.entry.map(|(home, index, entry)| (home.slot(index), entry.shape.words()));
        let unevictable_before = old.filter(|(old, _)| old.is_unevictable()).map(|(_, words)| words);
        let is_unevictable = mark.is_unevictable(unevictable_before.is_some() && live.is_some());
        if is_unevictable || unevictable_before.is_some() {
            let after = is_unevictable.then_some(shape.words());
            if let Err(full) = table.unevictable.replace(unevictable_before, after) {
                bucket.unlock_unchanged();
                table.heap.free(table.words(), cache, start, shape.words());
                return Err(full);
            }
        }
        let slot = Slot::entry(hash, start).with_expiry_code(code).with_unevictable(is_unevictable);
        // Also one that becomes evictable: the sieve has no id of it.
        let arrives = !is_unevictable && (old.is_none() || unevictable_before.is_some());
        match (place.entry, place.hole) {
            (Some((home, index, _)), _) => {
                announce(commits, table, &bucket, (home, index, slot), Some(start));
                let seen = if arrives { !table.sieve.seen_mark() } else { home.slot(index).seen() };
                // The key keeps its place in the sieve's queue; writing it again is a use of it.
                home.set_slot(index, slot.with_seen(seen).with_visited(live.is_some()));
            }
            (None, hole) => {
                let slot = slot.with_seen(!table.sieve.seen_mark());
                let has_slot = hole.is_some() || place.hops < limits::CHAIN_HOPS_MAX;
                if !has_slot || !table.takes_key(&bucket, key.len()) {
                    if is_unevictable {
                        table.unevictable.depart(shape.words());
                    }
                    bucket.unlock_unchanged();
                    if let Err(full) = self.make_way(hash, key.len(), now_ms()) {
                        let Self { table, cache, .. } = self;
                        table.heap.free(table.words(), cache, start, shape.words());
                        return Err(full);
                    }
                    return self.publish_entry(hash, key, (start, shape), manner, now_ms);
                }
                if let Some((home, index)) = hole {
                    announce(commits, table, &bucket, (home, index, slot), Some(start));
                    home.set_slot(index, slot);
                } else if !table.append(cache, place.last, slot, |link| {
                    announce(commits, table, &bucket, (place.last, SLOTS - 1, link), Some(start));
                }) {
                    if is_unevictable {
                        table.unevictable.depart(shape.words());
                    }
                    bucket.unlock_unchanged();
                    // Room for an overflow bucket goes to our own free slots, where the next attempt finds it.
                    self.sparing.start = Some(start);
                    let room = self.make_room(BUCKET_WORDS);
                    let Self { table, cache, sparing, .. } = self;
                    sparing.start = None;
                    let Some(room) = room else {
                        table.heap.free(table.words(), cache, start, shape.words());
                        return Err(WriteError::OutOfMemory(shape.words() * 8));
                    };
                    table.heap.free(table.words(), cache, room, BUCKET_WORDS);
                    return self.publish_entry(hash, key, (start, shape), manner, now_ms);
                }
            }
        }
        failpoint!("put.linked");
        if wants_old {
            // Out of its slot, it is not retired yet, and so still there.
            *replaced = live.zip(old).map(|((_, _, entry), (old, _))| HeldEntry::new(table, old, entry));
        }
        let inserted = live.is_none();
        table.tell(Change::Written { key, start, is_unevictable }, published);
        *has_written = true;
        if slot.expires() || old.is_some_and(|(old, _)| old.expires()) {
            table.count_expiring(bucket.bucket, old, Some((slot, shape.words())));
        }
        bucket.unlock();
        failpoint!("put.unlocked");
        let is_new = old.is_none();
        if let Some((old, words)) = old {
            table.retire(cache, old.at(), words);
        } else {
            table.add_entries(1);
        }
        if arrives && table.eviction == Eviction::AllkeysSieve {
            arrivals.push(Id::new(hash));
            if arrivals.len() >= ARRIVALS_GATHERED_MAX {
                self.tell_arrivals();
            }
        }
        if is_new {
            self.grow();
        }
        Ok(Outcome::Done { version, inserted })
    }

    /// Fills an entry; all but its version.
    fn fill(&self, start: u64, shape: Shape, key: &[u8], value: &[u8], expiry: Option<Expiry>) {
        let entry = &self.table.words()[start as usize..start as usize + shape.words()];
        // Relaxed: nobody can reach the entry before a slot points at it (Release in `set_slot`).
        entry[0].store(shape.pack(), Ordering::Relaxed);
        if shape.expires {
            const { assert!(FLAG_EXPIRY == 1 && HEADER_WORDS == 2) };
            entry[HEADER_WORDS].store(expiry.unwrap_or(Expiry::NEVER).0, Ordering::Relaxed);
        }
        copy_in(key, &entry[shape.key_at()..]);
        copy_in(value, &entry[shape.value_at()..]);
    }
}
