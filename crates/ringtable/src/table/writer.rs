//! Changes to the table by the server's worker threads.
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
//! - Watchers are told of a change while its bucket is still locked: see [`super::events`].
//! - The entry count is changed after the bucket is unlocked: it may lag behind for a moment, even below nothing, and
//!   is exact when all workers rest.

use std::collections::BTreeSet;

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot};
use super::entry::{EntryRef, Expiry, FLAG_EXPIRY, HEADER_WORDS, Shape};
use super::error::{WriteError, check_sizes};
use super::events::{Broadcast, Event, Kind, Start};
use super::evict::Sparing;
use super::expiring::Expiring;
use super::guard::{Guard, Outcome};
use super::header::Constants;
use super::heap::{Cache, Heap};
use super::hints::Hints;
use super::layout::{
    BUCKET_WORDS, H_BUCKETS, H_CLOSED, H_ENTRIES, HEADER_WORDS as TABLE_HEADER_WORDS, PAGE_BUCKETS, PAGE_WORDS,
    address, bucket_start, load_entries,
};
use super::options::{Eviction, Options};
use super::pairs::{Pairs, Want};
use super::reader::{self, Lookup, Sink};
use super::reclaim::{Held, Reclaimer};
use super::sieve::{Id, Sieve};
use super::sweep::Sweep;
use super::unevictable::{Mark, Unevictable};
use super::{expiry_code, walk};
use crate::limits;
use crate::sync::{Arc, AtomicBool, AtomicU64, Memory, Mutex, Ordering, copy_in, prefetch};

/// Entries of which a writer tells the sieve at once.
const ARRIVALS_GATHERED_MAX: usize = if cfg!(loom) { 1 } else { 32 };

/// Entries that are deleted at once when all are, but for the rest of a bucket.
const CLEARED_AT_ONCE: usize = 2_048;

/// The table as the server has it: the segment, and what is private to the server.
#[derive(Debug)]
pub struct Table<M> {
    memory: M,
    constants: Constants,
    /// What the versions of entries begin above, see [`first_version`].
    first_version: u64,
    pub(super) heap: Heap,
    /// Where entries go that were unlinked.
    pub(super) reclaimer: Reclaimer,
    /// Bytes that drafts have reserved.
    pub(super) drafts: AtomicU64,
    /// The words at which drafts begin.
    pub(super) draft_starts: Mutex<BTreeSet<u64>>,
    /// Workers that are making room.
    pub(super) searchers: AtomicU64,
    /// Whether a worker is splitting a bucket, or joining two.
    pub(super) splitting: AtomicBool,
    /// Buckets that there were at the beginning, fewer than which there never are.
    pub(super) buckets_min: u64,
    /// The end of the pages that the bucket array has taken, and of those that may have memory behind them.
    pub(super) bucket_pages: AtomicU64,
    /// See [`Self::bucket_pages`].
    pub(super) bucket_pages_dirty: AtomicU64,
    events: Broadcast,
    pub(super) eviction: Eviction,
    pub(super) sieve: Sieve,
    /// If entries are evicted by their expiry.
    pub(super) expiring: Option<Expiring>,
    /// What is never evicted.
    pub(super) unevictable: Unevictable,
    pub(super) hints: Hints,
    pub(super) sweep: Mutex<Sweep>,
    pub(super) tally: Tally,
}

/// What is counted of a table. All relaxed: figures for people, and for the decision whether there is something to do.
#[derive(Debug, Default)]
pub struct Tally {
    /// Entries that have an expiry.
    pub expiring: AtomicU64,
    /// Entries that were removed since their time had passed.
    pub expired: AtomicU64,
    /// Entries that were removed to make room.
    pub evicted: AtomicU64,
    /// Entries that were moved to make room in a row.
    pub moved: AtomicU64,
}

/// Memory that an entry has left behind, to be freed once its bucket is unlocked.
#[must_use]
pub(super) struct Left {
    start: u64,
    words: usize,
    /// An overflow bucket that has become empty.
    overflow: Option<u64>,
}

/// What a worker thread needs to change the table.
#[derive(Debug)]
pub struct Writer<M: Memory> {
    pub(super) table: Arc<Table<M>>,
    pub(super) cache: Cache,
    /// Whether this writer has published events since it was last asked.
    pub(super) published: bool,
    /// Entries that the sieve has not been told of yet.
    pub(super) arrivals: Vec<Id>,
    /// What is not to be evicted for the write in hand.
    pub(super) sparing: Sparing,
    /// Whether it is clearing pages: what comes free then does not go by way of its own free slots, from which what
    /// moves out of these pages would move in again.
    pub(super) clearing: bool,
    /// Whether the last search for room found none since other workers have it in hand, see [`Self::take_crowded`].
    pub(super) crowded: bool,
}

/// Where a key is, or could go, in the chain of a locked bucket.
pub(super) struct Place<'a> {
    /// The entry with the key, and the bucket and slot that point at it.
    pub(super) entry: Option<(BucketRef<'a>, usize, EntryRef<'a>)>,
    /// The first empty slot.
    hole: Option<(BucketRef<'a>, usize)>,
    /// The last bucket of the chain, and how many are linked before it.
    last: BucketRef<'a>,
    hops: usize,
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

impl<M: Memory> Table<M> {
    /// Makes an empty table in fresh memory (all zeroes).
    ///
    /// # Errors
    /// [`WriteError::OutOfMemory`] if the buckets do not fit.
    pub fn create(memory: M, options: &Options) -> Result<Self, WriteError> {
        let words = memory.words().len();
        let pages = (options.buckets as usize).div_ceil(PAGE_BUCKETS);
        let first_page = TABLE_HEADER_WORDS / PAGE_WORDS + pages;
        if first_page >= words / PAGE_WORDS {
            return Err(WriteError::OutOfMemory(options.buckets as usize * BUCKET_WORDS * 8));
        }
        let constants = Constants::create(&memory, options);
        let heap = Heap::new(words, first_page);
        let sieve = Sieve::default();
        if options.eviction == Eviction::AllkeysSieve {
            sieve.provide(&heap);
        }
        let buckets_max = (words / BUCKET_WORDS) as u64;
        let expiring = (options.eviction == Eviction::VolatileTtl).then(|| Expiring::new(buckets_max));
        Ok(Self {
            memory,
            constants,
            first_version: first_version(),
            heap,
            reclaimer: Reclaimer::default(),
            drafts: AtomicU64::new(0),
            draft_starts: Mutex::new(BTreeSet::new()),
            searchers: AtomicU64::new(0),
            splitting: AtomicBool::new(false),
            buckets_min: options.buckets,
            bucket_pages: AtomicU64::new(first_page as u64),
            bucket_pages_dirty: AtomicU64::new(first_page as u64),
            events: Broadcast::new(),
            eviction: options.eviction,
            sieve,
            expiring,
            unevictable: Unevictable::new(words),
            hints: Hints::default(),
            sweep: Mutex::new(Sweep::default()),
            tally: Tally::default(),
        })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// The segment's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// What stays the same for the life of the table.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        load_entries(self.words())
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u64 {
        // Acquire: pairs with the Release in `Writer::split_one`; the last bucket is there.
        self.words()[H_BUCKETS].load(Ordering::Acquire)
    }

    /// Bytes that belong to nobody, in whole pages.
    pub fn free_bytes(&self) -> u64 {
        (self.heap.free_pages() * PAGE_WORDS * 8) as u64
    }

    /// What became of the memory for entries.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// What is counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What happens when memory is short.
    pub fn eviction(&self) -> Eviction {
        self.eviction
    }

    /// The boards of readers, if their hints are of any use.
    pub fn hints(&self) -> Option<&Hints> {
        (self.eviction == Eviction::AllkeysSieve).then_some(&self.hints)
    }

    /// What is never evicted, and how much of that there may be.
    pub fn unevictable(&self) -> &Unevictable {
        &self.unevictable
    }

    /// Bytes reserved for values that are still arriving.
    pub fn draft_bytes(&self) -> u64 {
        // Relaxed: a figure for people.
        self.drafts.load(Ordering::Relaxed)
    }

    /// Who watches, and what they are told.
    pub fn events(&self) -> &Broadcast {
        &self.events
    }

    /// Tells readers that the server has stopped in good order.
    pub fn close(&self) {
        // Relaxed: a hint to look at the socket; see `Reader::is_closed`.
        self.words()[H_CLOSED].store(1, Ordering::Relaxed);
    }

    /// Locks the bucket a hash maps to.
    pub(super) fn lock(&self, hash: u64) -> BucketGuard<'_> {
        loop {
            // Relaxed: `lock` acquires; the mapping is looked at again under the lock, and a bucket whose keys may
            // move is locked by the one who moves them, before the count changes.
            let index = address(hash, self.words()[H_BUCKETS].load(Ordering::Relaxed));
            let guard = self.bucket(index).lock();
            // Acquire: pairs with the Release of a new count in `super::growth`. If the bucket was given up and made
            // anew while we had it, we see that the lock is not ours any more.
            if address(hash, self.words()[H_BUCKETS].load(Ordering::Acquire)) == index && guard.is_ours() {
                return guard;
            }
            guard.abandon();
        }
    }

    /// Locks bucket `index`; `None` if there is no such bucket any more.
    pub(super) fn lock_at(&self, index: u64) -> Option<BucketGuard<'_>> {
        let guard = self.bucket(index).lock();
        // Acquire: as in `lock`.
        if index < self.words()[H_BUCKETS].load(Ordering::Acquire) && guard.is_ours() {
            return Some(guard);
        }
        guard.abandon();
        None
    }

    pub(super) fn bucket(&self, index: u64) -> BucketRef<'_> {
        BucketRef::at(self.words(), bucket_start(index)).expect("the bucket count never exceeds the segment")
    }

    pub(super) fn entry(&self, slot: Slot) -> EntryRef<'_> {
        EntryRef::at(self.words(), slot.at()).expect("slots point at entries that a writer made")
    }

    /// Looks for a key in a locked chain.
    pub(super) fn find<'a>(&'a self, guard: &BucketGuard<'a>, hash: u64, key: &[u8]) -> Place<'a> {
        let mut place = Place { entry: None, hole: None, last: guard.bucket, hops: 0 };
        for (hops, bucket) in self.chain(guard).enumerate() {
            (place.last, place.hops) = (bucket, hops);
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot == EMPTY {
                    place.hole = place.hole.or(Some((bucket, index)));
                } else if slot.tag() == super::bucket::tag(hash) {
                    let entry = self.entry(slot);
                    if entry.has_key(key) {
                        place.entry = Some((bucket, index, entry));
                        return place;
                    }
                }
            }
        }
        place
    }

    /// The buckets of a locked chain.
    pub(super) fn chain<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = BucketRef<'a>> {
        std::iter::successors(Some(guard.bucket), |bucket| {
            let last = bucket.slot(SLOTS - 1);
            last.is_link().then(|| self.overflow(last))
        })
    }

    pub(super) fn overflow(&self, link: Slot) -> BucketRef<'_> {
        BucketRef::at(self.words(), link.at() as usize).expect("links point at buckets that a writer made")
    }

    pub(super) fn add_entries(&self, change: i64) {
        // Relaxed: see `load_entries`.
        self.words()[H_ENTRIES].fetch_add(change as u64, Ordering::Relaxed);
    }

    /// The version of what the holder of a bucket changes. Unique for the key: the bucket's version goes up with every
    /// change, also across splits.
    pub(super) fn version_of_change(&self, guard: &BucketGuard<'_>) -> u64 {
        self.first_version + guard.version + 1
    }

    /// Tells the watchers, if there are any, of a change to a key whose bucket is locked still. Returns whether
    /// there are.
    #[inline]
    pub(super) fn publish(&self, kind: Kind, key: &[u8], version: u64, size: usize) -> bool {
        let watched = self.events.watchers() > 0;
        if watched {
            self.events.publish(self.words(), Event { kind, version, size: size as u64 }, key);
        }
        watched
    }

    /// Puts a slot behind the last bucket of a full chain, in a new overflow bucket. `false` without memory.
    fn append(&self, cache: &mut Cache, last: BucketRef<'_>, slot: Slot) -> bool {
        let Some(start) = self.allocate(cache, BUCKET_WORDS) else { return false };
        let link = Slot::link(start);
        let overflow = self.overflow(link);
        overflow.clear_slots();
        overflow.set_slot(0, last.slot(SLOTS - 1));
        overflow.set_slot(1, slot);
        last.set_slot(SLOTS - 1, link);
        failpoint!("put.chained");
        true
    }

    /// Takes an overflow bucket that has become empty out of its chain; returns its word, to be freed after unlocking.
    pub(super) fn unlink_if_empty(&self, guard: &BucketGuard<'_>, bucket: BucketRef<'_>) -> Option<u64> {
        if (0..SLOTS).any(|index| bucket.slot(index).is_entry()) {
            return None;
        }
        for before in self.chain(guard) {
            let link = before.slot(SLOTS - 1);
            if link.is_link() && self.overflow(link).is(bucket) {
                let next = bucket.slot(SLOTS - 1);
                before.set_slot(SLOTS - 1, if next.is_link() { next } else { EMPTY });
                return Some(link.at());
            }
        }
        None // the home bucket itself: it stays
    }

    /// Takes an entry out of a locked chain, tells the watchers, counts. Then unlock, and [`Writer::free`].
    pub(super) fn take_out(
        &self,
        guard: &BucketGuard<'_>,
        (bucket, index): (BucketRef<'_>, usize),
        kind: Kind,
        published: &mut bool,
    ) -> Left {
        let slot = bucket.slot(index);
        let entry = self.entry(slot);
        bucket.set_slot(index, EMPTY);
        if self.events.watchers() > 0 {
            *published |= self.publish(kind, &entry.key(), self.version_of_change(guard), 0);
        }
        let count = match kind {
            Kind::Expire => Some(&self.tally.expired),
            Kind::Evict => Some(&self.tally.evicted),
            _ => None,
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let left = Left { start: slot.at(), words: entry.shape.words(), overflow: None };
        self.count_expiring(guard.bucket, Some((slot, left.words)), None);
        if slot.is_unevictable() {
            self.unevictable.depart(left.words);
        }
        Left { overflow: self.unlink_if_empty(guard, bucket), ..left }
    }

    /// Takes note of an entry in the chain of a locked bucket that was replaced by another one: of the slot and of the
    /// words of each.
    pub(super) fn count_expiring(
        &self,
        home: BucketRef<'_>,
        before: Option<(Slot, usize)>,
        after: Option<(Slot, usize)>,
    ) {
        let count = &self.tally.expiring;
        let expires = |entry: Option<(Slot, usize)>| entry.is_some_and(|(slot, _)| slot.expires());
        match (expires(before), expires(after)) {
            (false, true) => drop(count.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(count.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if let Some(expiring) = &self.expiring {
            let words =
                |entry: Option<(Slot, usize)>| entry.filter(|(slot, _)| slot.is_volatile()).map(|(_, words)| words);
            let (before, after) = (words(before), words(after));
            if before == after {
                return;
            }
            let bucket = self.index_of(home);
            if let Some(words) = before {
                expiring.leave(bucket);
                expiring.depart(words);
            }
            if let Some(words) = after {
                expiring.come(bucket);
                expiring.arrive(words);
            }
        }
    }

    /// The number of a home bucket.
    pub(super) fn index_of(&self, home: BucketRef<'_>) -> u64 {
        ((home.start(self.words()) - bucket_start(0)) / BUCKET_WORDS) as u64
    }
}

impl<M: Memory> Writer<M> {
    /// A writer for one thread.
    pub fn new(table: Arc<Table<M>>) -> Self {
        Self {
            table,
            cache: Cache::default(),
            published: false,
            arrivals: Vec::new(),
            sparing: Sparing::default(),
            clearing: false,
            crowded: false,
        }
    }

    /// The table it writes.
    pub fn table(&self) -> &Arc<Table<M>> {
        &self.table
    }

    /// Looks a key up, however much others write.
    pub fn get(&mut self, key: &[u8], now_ms: impl Fn() -> u64, sink: &mut impl Sink) -> Lookup {
        if key.len() > limits::KEY_SIZE_MAX {
            return Lookup::Miss;
        }
        let hash = self.table.constants.hash(key);
        let answer = reader::lookup(self.table.words(), hash, key, &now_ms, sink);
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
                            Lookup::Hit(reader::Found { version: entry.version(), expiry, size, visited: true })
                        }
                    }
                }
            },
        };
        guard.unlock_unchanged();
        answer
    }

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
        check_sizes(key.len(), value.len())?;
        let hash = self.table.constants.hash(key);
        // The bucket's line comes while the entry is made: it is the one cache miss of a small write.
        prefetch(&self.table.words()[bucket_start(address(hash, self.table.buckets()))]);
        let shape = Shape::of(key.len(), value.len(), expiry.is_some());
        let start = match self.table.allocate(&mut self.cache, shape.words()) {
            Some(start) => start,
            None => match self.reserve_guarded(shape, hash, key, (guard, mark), &now_ms)? {
                Some(start) => start,
                None => return Ok(Outcome::Refused),
            },
        };
        self.fill(start, shape, key, value, expiry);
        self.publish_entry(hash, key, (start, shape), guard, mark, now_ms)
    }

    /// Makes room for an entry, if the guard of its write holds and its bucket has a place: what is refused evicts
    /// nothing. `None` if the guard does not hold.
    #[cold]
    fn reserve_guarded(
        &mut self,
        shape: Shape,
        hash: u64,
        key: &[u8],
        (guard, mark): (Guard, Mark),
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
        bucket.unlock_unchanged();
        if !guard.allows(live) {
            return Ok(None);
        }
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
        guard: Guard,
        mark: Mark,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        // Borrowed, not cloned: the count of an `Arc` is a line that all workers would write to.
        let Self { table, cache, published, arrivals, .. } = self;
        failpoint!("put.prepared");
        let bucket = table.lock(hash);
        failpoint!("put.locked");
        let place = table.find(&bucket, hash, key);
        let live = place.entry.filter(|&(_, _, entry)| !entry.has_expired(&now_ms));
        if !guard.allows(live.map(|(_, _, entry)| entry.version())) {
            bucket.unlock_unchanged();
            table.heap.free(table.words(), cache, start, shape.words());
            return Ok(Outcome::Refused);
        }
        let version = table.version_of_change(&bucket);
        // Relaxed: published with the slot.
        table.words()[start as usize + 1].store(version, Ordering::Relaxed);
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
                    return self.publish_entry(hash, key, (start, shape), guard, mark, now_ms);
                }
                if let Some((home, index)) = hole {
                    home.set_slot(index, slot);
                } else if !table.append(cache, place.last, slot) {
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
                    return self.publish_entry(hash, key, (start, shape), guard, mark, now_ms);
                }
            }
        }
        failpoint!("put.linked");
        let inserted = live.is_none();
        *published |= table.publish(Kind::Set, key, version, shape.value_size);
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

    /// Deletes a key. Returns whether it was there and its time had not passed.
    pub fn delete(&mut self, key: &[u8], now_ms: impl Fn() -> u64) -> bool {
        self.remove(key, |_| true, now_ms)
    }

    /// Deletes a key if it still has this version. Returns whether it had, and its time had not passed.
    pub fn delete_version(&mut self, key: &[u8], version: u64, now_ms: impl Fn() -> u64) -> bool {
        self.remove(key, |entry| entry.version() == version, now_ms)
    }

    /// Deletes a key if its time has passed.
    pub fn delete_expired(&mut self, key: &[u8], now_ms: impl Fn() -> u64) {
        let now = now_ms();
        self.remove(key, |entry| entry.has_expired(|| now), || now);
    }

    fn remove(&mut self, key: &[u8], which: impl Fn(EntryRef<'_>) -> bool, now_ms: impl Fn() -> u64) -> bool {
        if key.len() > limits::KEY_SIZE_MAX {
            return false;
        }
        let Self { table, published, .. } = self;
        let hash = table.constants.hash(key);
        let guard = table.lock(hash);
        let Some((bucket, index, entry)) = table.find(&guard, hash, key).entry.filter(|&(_, _, entry)| which(entry))
        else {
            guard.unlock_unchanged();
            return false;
        };
        let live = !entry.has_expired(&now_ms);
        let kind = if live { Kind::Delete } else { Kind::Expire };
        let left = table.take_out(&guard, (bucket, index), kind, published);
        failpoint!("delete.unlinked");
        guard.unlock();
        failpoint!("delete.unlocked");
        self.free(left);
        live
    }

    /// Frees what an entry has left behind that was taken out of its chain, which is unlocked.
    pub(super) fn free(&mut self, left: Left) {
        let Self { table, cache, .. } = self;
        if self.clearing {
            table.retire_all(std::iter::once(left.start).chain(left.overflow).collect());
        } else {
            table.retire(cache, left.start, left.words);
            if let Some(overflow) = left.overflow {
                table.heap.free(table.words(), cache, overflow, BUCKET_WORDS);
            }
        }
        table.add_entries(-1);
    }

    /// Deletes all entries of up to `count` buckets from bucket `first` on, of fewer if there are many in them; returns
    /// the bucket to go on with, `None` at the end. Called until then, nothing that was there at the beginning
    /// survives, though it is not one atomic step.
    ///
    /// The entries themselves are not touched: whole slabs come back at once (unless somebody reads in place).
    pub fn clear_some(&mut self, first: u64, count: u64) -> Option<u64> {
        if first == 0 {
            self.release();
            self.table.heap.condemn_all();
            self.table.sieve.clear(&self.table.heap);
        }
        let table = &self.table;
        let (mut deleted, mut expiring) = (0, 0);
        let mut left: Vec<u64> = Vec::new();
        let (mut aging, mut unevictable): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        // The count is loaded anew each time: a bucket split off meanwhile has a higher number, and so comes later.
        let mut end = (first + count).min(table.buckets());
        for index in first..end {
            if left.len() >= CLEARED_AT_ONCE {
                end = index;
                break;
            }
            let Some(guard) = table.lock_at(index) else { break };
            let before = left.len();
            for bucket in table.chain(&guard) {
                for slot in (0..SLOTS).map(|index| bucket.slot(index)).filter(|&slot| slot != EMPTY) {
                    left.push(slot.at());
                    deleted += i64::from(slot.is_entry());
                    expiring += u64::from(slot.expires());
                    if let Some(expiring) = table.expiring.as_ref().filter(|_| slot.is_volatile()) {
                        expiring.leave(index);
                        aging.push(slot.at());
                    }
                    if slot.is_unevictable() {
                        unevictable.push(slot.at());
                    }
                }
            }
            if left.len() == before {
                guard.unlock_unchanged();
                continue;
            }
            guard.bucket.clear_slots();
            failpoint!("flush.emptied");
            guard.unlock();
        }
        if !left.is_empty() {
            failpoint!("flush.unlinked");
        }
        if let Some(expiring) = &table.expiring {
            table.heap.words_of(&aging, |words| expiring.depart(words));
        }
        table.heap.words_of(&unevictable, |words| table.unevictable.depart(words));
        table.retire_all(left);
        table.tally.expiring.fetch_sub(expiring, Ordering::Relaxed);
        table.add_entries(-deleted);
        if end < table.buckets() {
            return Some(end);
        }
        self.published |= self.table.publish(Kind::Flush, b"", 0, 0);
        None
    }

    /// Whether a write was refused since the last call that may go well in a moment: for want of memory, while other
    /// workers had in hand what is there to be had. They were making room, too, or held free slots back.
    #[inline]
    pub fn take_crowded(&mut self) -> bool {
        std::mem::take(&mut self.crowded)
    }

    /// Whether watchers were told of anything since the last call, and may have to be woken.
    #[inline]
    pub fn take_published(&mut self) -> bool {
        std::mem::take(&mut self.published)
    }

    /// Counts a watcher, and says where in the ring of events it begins. Undone by [`Broadcast::unwatch`].
    ///
    /// # Errors
    /// [`WriteError::OutOfMemory`] if there is no room for the ring, which the first watcher needs.
    pub fn watch(&mut self) -> Result<Start, WriteError> {
        let table = Arc::clone(&self.table);
        let allocate = |words| table.heap.allocate_fixed(words);
        table.events.watch(table.words(), allocate).map_err(WriteError::OutOfMemory)
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
    ) -> Result<Vec<Held<M>>, usize> {
        let (guard, mut held) = (self.table.lock(self.table.constants.hash(key)), Vec::new());
        let size_of = |entry: EntryRef<'_>| entry.shape.key_size + entry.shape.value_size;
        let entries = || self.slots(&guard).map(|slot| (slot, self.table.entry(slot)));
        let size = entries().map(|(_, entry)| size_of(entry)).sum();
        if size <= size_max {
            for (slot, entry) in entries().filter(|(_, entry)| !entry.has_expired(&now_ms)) {
                let may_copy = out.size() + size_of(entry) <= limits::COPIED_LOCKED_MAX;
                if !may_copy || out.push_entry(entry, Want::Values).is_none() {
                    held.push(Held::new(&self.table, slot, entry));
                }
            }
        }
        guard.unlock_unchanged();
        if size <= size_max { Ok(held) } else { Err(size) }
    }

    /// One step of a walk over the table: see [`walk::step`].
    pub fn scan(&mut self, cursor: u64, want: Want, now_ms: impl Fn() -> u64, out: &mut Pairs) -> u64 {
        let table = &self.table;
        let read = |index, into: &mut Pairs| {
            self.copy_bucket(index, want, &now_ms, into);
            Ok(())
        };
        let next = walk::step(table.words(), cursor, |key| table.constants.hash(key), read, out);
        // The bucket was split again and again: nothing was read, and the next step does it.
        next.unwrap_or(if cursor == 0 { walk::first_cursor(table.buckets()) } else { cursor })
    }

    /// All entries of bucket `index`, also those whose time has passed, into `out`. Returns whether there is such a
    /// bucket.
    pub fn read_bucket_at(&mut self, index: u64, want: Want, out: &mut Pairs) -> bool {
        if index >= self.table.buckets() {
            return false;
        }
        self.copy_bucket(index, want, &|| 0, out);
        true
    }

    /// Copies the entries of a bucket, but those whose time has passed, and those for which there is no memory.
    ///
    /// As readers do, so that nobody waits meanwhile; with the lock only if writers get in the way too often.
    fn copy_bucket(&self, index: u64, want: Want, now_ms: &impl Fn() -> u64, out: &mut Pairs) {
        if reader::read_chain(self.table.words(), index, want, now_ms, out).is_err()
            && let Some(guard) = self.table.lock_at(index)
        {
            for entry in self.slots(&guard).map(|slot| self.table.entry(slot)) {
                if !entry.has_expired(now_ms) {
                    let _ = out.push_entry(entry, want);
                }
            }
            guard.unlock_unchanged();
        }
    }

    /// The slots of a locked chain that hold entries.
    fn slots<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = Slot> {
        self.table
            .chain(guard)
            .flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index)))
            .filter(|slot| slot.is_entry())
    }

    /// Keeps the entry of a key where it is, for reading it in place: see [`super::reclaim`].
    pub fn hold(&mut self, key: &[u8], now_ms: impl Fn() -> u64) -> Option<Held<M>> {
        if key.len() > limits::KEY_SIZE_MAX {
            return None;
        }
        let hash = self.table.constants.hash(key);
        let guard = self.table.lock(hash);
        let live = self.table.find(&guard, hash, key).entry.filter(|&(_, _, entry)| !entry.has_expired(&now_ms));
        let held = live.map(|(bucket, index, entry)| Held::new(&self.table, bucket.slot(index), entry));
        guard.unlock_unchanged();
        held
    }

    /// Takes back what was deleted and is read by nobody any more. Returns how many bytes that is.
    pub fn rescan(&mut self) -> u64 {
        self.table.rescan(&mut self.cache)
    }

    /// Gives the free memory this writer holds back to all.
    pub fn release(&mut self) {
        self.tell_arrivals();
        self.table.heap.drain(self.table.words(), &mut self.cache);
    }

    /// The same if another worker is in need of it.
    #[inline]
    pub fn heed_recall(&mut self) {
        self.table.heap.heed_recall(self.table.words(), &mut self.cache);
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

    /// Allocates memory for an entry.
    pub(super) fn reserve(&mut self, shape: Shape) -> Result<u64, WriteError> {
        let start = self.table.allocate(&mut self.cache, shape.words());
        start.or_else(|| self.make_room(shape.words())).ok_or(WriteError::OutOfMemory(shape.words() * 8))
    }
}
