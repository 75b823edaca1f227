//! Changes to the table by the server's worker threads, and its growth.
//!
//! # Design
//!
//! A write prepares its entry outside of any lock, locks the bucket, makes sure that the bucket is still the right
//! one, swings one slot, unlocks, and only then frees the old entry. Everything conditional is one primitive,
//! [`Writer::put`] with a [`Guard`]: "if absent", "if present", "if still this version". Increments and changes of
//! expiry read without a lock and put with `Guard::Version`; somebody always wins, so that is lock-free.
//!
//! Growth is linear hashing, a bucket at a time: after an insert that makes the table too full, the worker locks the
//! bucket to split and its new sibling, moves entries, publishes the new count, and unlocks both. No pause, no second
//! table. Only one worker splits at a time; the others go on.
//!
//! # Invariants
//!
//! - At most two buckets are locked by a worker, the second one being new and unknown to all others: no deadlock.
//! - A refused write (guard, memory) leaves everything as it was.
//! - Watchers are told of a change while its bucket is still locked: see [`super::events`].
//! - The entry count is changed after the bucket is unlocked: it may lag behind for a moment, and is exact when all
//!   workers rest.

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot};
use super::entry::{EntryRef, Expiry, FLAG_EXPIRY, HEADER_WORDS, Shape};
use super::events::{Broadcast, Event, Kind, Start};
use super::heap::{Cache, Heap};
use super::layout::{
    BUCKET_WORDS, Constants, H_BUCKETS, H_CLOSED, H_ENTRIES, HEADER_WORDS as TABLE_HEADER_WORDS, Options, PAGE_BUCKETS,
    PAGE_WORDS, address, bucket_start, split_source,
};
use super::pairs::{Pairs, Want};
use super::reader::{self, Lookup, Sink};
use crate::limits;
use crate::sync::{Arc, AtomicBool, AtomicU64, Memory, Ordering, copy_in, prefetch};

/// When a [`Writer::put`] is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Whatever is there.
    Always,
    /// If the key is absent (or its time has passed).
    Absent,
    /// If the key is there.
    Present,
    /// If the key is there and still has this version.
    Version(u64),
}

/// What became of a [`Writer::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the new entry has this version.
    Done {
        /// Never the same twice for a key.
        version: u64,
        /// Whether the key is new.
        inserted: bool,
    },
    /// The guard did not hold.
    Refused,
}

/// Why a write cannot be done. Everything is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The key is longer than [`limits::KEY_SIZE_MAX`].
    #[error("the key has {0} bytes, at most {max} are allowed", max = limits::KEY_SIZE_MAX)]
    KeyTooLong(usize),
    /// The value is longer than [`limits::VALUE_SIZE_MAX`].
    #[error("the value has {0} bytes, at most {max} are allowed", max = limits::VALUE_SIZE_MAX)]
    ValueTooLarge(usize),
    /// There is no memory left for an entry of so many bytes.
    #[error("no room for an entry of {0} bytes")]
    OutOfMemory(usize),
}

/// The table as the server has it: the segment, and what is private to the server.
#[derive(Debug)]
pub struct Table<M> {
    memory: M,
    constants: Constants,
    heap: Heap,
    /// Whether a worker is splitting a bucket.
    splitting: AtomicBool,
    events: Broadcast,
}

/// What a worker thread needs to change the table.
#[derive(Debug)]
pub struct Writer<M: Memory> {
    table: Arc<Table<M>>,
    cache: Cache,
    /// Whether this writer has published events since it was last asked.
    published: bool,
}

/// Where a key is, or could go, in the chain of a locked bucket.
struct Place<'a> {
    /// The entry with the key, and the bucket and slot that point at it.
    entry: Option<(BucketRef<'a>, usize, EntryRef<'a>)>,
    /// The first empty slot.
    hole: Option<(BucketRef<'a>, usize)>,
    /// The last bucket of the chain.
    last: BucketRef<'a>,
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
        Ok(Self { memory, constants, heap, splitting: AtomicBool::new(false), events: Broadcast::new() })
    }

    fn words(&self) -> &[AtomicU64] {
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
        // Relaxed: a count for people and for the decision to grow.
        self.words()[H_ENTRIES].load(Ordering::Relaxed)
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u64 {
        // Acquire: pairs with the Release in `Writer::split_one`; the last bucket is there.
        self.words()[H_BUCKETS].load(Ordering::Acquire)
    }

    /// Bytes that belong to nobody, in whole pages.
    pub fn free_bytes(&self) -> u64 {
        self.heap.free_pages() * PAGE_WORDS as u64 * 8
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
    fn lock(&self, hash: u64) -> BucketGuard<'_> {
        loop {
            // Relaxed: `lock` acquires; the mapping is looked at again under the lock, and a bucket whose keys may
            // move is locked by the one who moves them, before the count changes.
            let index = address(hash, self.words()[H_BUCKETS].load(Ordering::Relaxed));
            let guard = self.bucket(index).lock();
            if address(hash, self.words()[H_BUCKETS].load(Ordering::Relaxed)) == index {
                return guard;
            }
            guard.unlock_unchanged();
        }
    }

    fn bucket(&self, index: u64) -> BucketRef<'_> {
        BucketRef::at(self.words(), bucket_start(index)).expect("the bucket count never exceeds the segment")
    }

    fn entry(&self, slot: Slot) -> EntryRef<'_> {
        EntryRef::at(self.words(), slot.at()).expect("slots point at entries that a writer made")
    }

    /// Looks for a key in a locked chain.
    fn find<'a>(&'a self, guard: &BucketGuard<'a>, hash: u64, key: &[u8]) -> Place<'a> {
        let mut place = Place { entry: None, hole: None, last: guard.bucket };
        for bucket in self.chain(guard) {
            place.last = bucket;
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
    fn chain<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = BucketRef<'a>> {
        std::iter::successors(Some(guard.bucket), |bucket| {
            let last = bucket.slot(SLOTS - 1);
            last.is_link().then(|| self.overflow(last))
        })
    }

    fn overflow(&self, link: Slot) -> BucketRef<'_> {
        BucketRef::at(self.words(), link.at() as usize).expect("links point at buckets that a writer made")
    }

    fn add_entries(&self, change: i64) {
        // Relaxed: see `entries`.
        self.words()[H_ENTRIES].fetch_add(change as u64, Ordering::Relaxed);
    }

    /// Tells the watchers, if there are any, of a change to a key whose bucket is locked still. Returns whether
    /// there are.
    #[inline]
    fn publish(&self, kind: Kind, key: &[u8], version: u64, size: usize) -> bool {
        let watched = self.events.watchers() > 0;
        if watched {
            self.events.publish(self.words(), Event { kind, version, size: size as u64 }, key);
        }
        watched
    }

    /// Puts a slot behind the last bucket of a full chain, in a new overflow bucket. `false` without memory.
    fn append(&self, cache: &mut Cache, last: BucketRef<'_>, slot: Slot) -> bool {
        let Some(start) = self.heap.allocate(self.words(), cache, BUCKET_WORDS) else { return false };
        let link = Slot::link(start);
        let overflow = self.overflow(link);
        overflow.clear_slots();
        overflow.set_slot(0, last.slot(SLOTS - 1));
        overflow.set_slot(1, slot);
        last.set_slot(SLOTS - 1, link);
        true
    }

    /// Takes an overflow bucket that has become empty out of its chain; returns its word, to be freed after unlocking.
    fn unlink_if_empty(&self, guard: &BucketGuard<'_>, bucket: BucketRef<'_>) -> Option<u64> {
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
}

impl<M: Memory> Writer<M> {
    /// A writer for one thread.
    pub fn new(table: Arc<Table<M>>) -> Self {
        Self { table, cache: Cache::default(), published: false }
    }

    /// The table it writes.
    pub fn table(&self) -> &Arc<Table<M>> {
        &self.table
    }

    /// Looks a key up, however much others write.
    pub fn get(&mut self, key: &[u8], now_ms: impl Fn() -> u64, sink: &mut impl Sink) -> Lookup {
        let hash = self.table.constants.hash(key);
        let answer = reader::lookup(self.table.words(), hash, key, &now_ms, sink);
        if answer != Lookup::Contended {
            return answer;
        }
        let guard = self.table.lock(hash);
        let answer = match self.table.find(&guard, hash, key).entry {
            None => Lookup::Miss,
            Some((_, _, entry)) => match entry.expiry() {
                Some(expiry) if expiry.has_passed(now_ms()) => Lookup::Expired,
                expiry => {
                    let size = entry.shape.value_size;
                    match sink.begin(size) {
                        None => Lookup::NoRoom(size),
                        Some(room) => {
                            if !room.is_empty() {
                                crate::sync::copy_out(entry.value_words(), room);
                            }
                            Lookup::Hit(reader::Found { version: entry.version(), expiry, size })
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
    /// Key or value too long, or no memory: then everything is as it was.
    pub fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Option<Expiry>,
        guard: Guard,
        now_ms: impl Fn() -> u64,
    ) -> Result<Outcome, WriteError> {
        if key.len() > limits::KEY_SIZE_MAX {
            return Err(WriteError::KeyTooLong(key.len()));
        }
        if value.len() > limits::VALUE_SIZE_MAX {
            return Err(WriteError::ValueTooLarge(value.len()));
        }
        let hash = self.table.constants.hash(key);
        // The bucket's line comes while the entry is made: it is the one cache miss of a small write.
        prefetch(&self.table.words()[bucket_start(address(hash, self.table.buckets()))]);
        let (start, shape) = self.prepare(key, value, expiry)?;
        // Borrowed, not cloned: the count of an `Arc` is a line that all workers would write to.
        let Self { table, cache, published } = self;
        let bucket = table.lock(hash);
        let place = table.find(&bucket, hash, key);
        let live = place.entry.filter(|&(_, _, entry)| !entry.has_expired(&now_ms));
        let allowed = match guard {
            Guard::Always => true,
            Guard::Absent => live.is_none(),
            Guard::Present => live.is_some(),
            Guard::Version(version) => live.is_some_and(|(_, _, entry)| entry.version() == version),
        };
        if !allowed {
            bucket.unlock_unchanged();
            table.heap.free(table.words(), cache, start, shape.words());
            return Ok(Outcome::Refused);
        }
        // Unique for the key: the bucket's version goes up with every change, also across splits.
        let version = bucket.version + 1;
        // Relaxed: published with the slot.
        table.words()[start as usize + 1].store(version, Ordering::Relaxed);
        let slot = Slot::entry(hash, start);
        let old = match (place.entry, place.hole) {
            (Some((home, index, entry)), _) => {
                let old = home.slot(index).at();
                home.set_slot(index, slot);
                Some((old, entry.shape.words()))
            }
            (None, Some((home, index))) => {
                home.set_slot(index, slot);
                None
            }
            (None, None) => {
                if !table.append(cache, place.last, slot) {
                    bucket.unlock_unchanged();
                    table.heap.free(table.words(), cache, start, shape.words());
                    return Err(WriteError::OutOfMemory(shape.words() * 8));
                }
                None
            }
        };
        let inserted = live.is_none();
        *published |= table.publish(Kind::Set, key, version, value.len());
        bucket.unlock();
        if let Some((start, words)) = old {
            table.heap.free(table.words(), cache, start, words);
        } else {
            table.add_entries(1);
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
        let Self { table, cache, published } = self;
        let hash = table.constants.hash(key);
        let guard = table.lock(hash);
        let Some((bucket, index, entry)) = table.find(&guard, hash, key).entry.filter(|&(_, _, entry)| which(entry))
        else {
            guard.unlock_unchanged();
            return false;
        };
        let live = !entry.has_expired(&now_ms);
        let start = bucket.slot(index).at();
        bucket.set_slot(index, EMPTY);
        let unlinked = table.unlink_if_empty(&guard, bucket);
        let kind = if live { Kind::Delete } else { Kind::Expire };
        *published |= table.publish(kind, key, guard.version + 1, 0);
        guard.unlock();
        table.heap.free(table.words(), cache, start, entry.shape.words());
        if let Some(overflow) = unlinked {
            table.heap.free(table.words(), cache, overflow, BUCKET_WORDS);
        }
        table.add_entries(-1);
        live
    }

    /// Deletes all entries of up to `count` buckets from bucket `first` on; returns the bucket to go on with, `None` at
    /// the end. Called until then, nothing that was there at the beginning survives, though it is not one atomic step.
    pub fn clear_some(&mut self, first: u64, count: u64) -> Option<u64> {
        let Self { table, cache, .. } = self;
        let mut deleted = 0;
        // The count is loaded anew each time: a bucket split off meanwhile has a higher number, and so comes later.
        let end = (first + count).min(table.buckets());
        for index in first..end {
            let guard = table.bucket(index).lock();
            let slots: Vec<Slot> = table
                .chain(&guard)
                .flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index)))
                .filter(|slot| *slot != EMPTY)
                .collect();
            if slots.is_empty() {
                guard.unlock_unchanged();
                continue;
            }
            guard.bucket.clear_slots();
            guard.unlock();
            for slot in slots {
                let words = if slot.is_link() {
                    BUCKET_WORDS
                } else {
                    deleted += 1;
                    table.entry(slot).shape.words()
                };
                table.heap.free(table.words(), cache, slot.at(), words);
            }
        }
        table.add_entries(-deleted);
        if end < table.buckets() {
            return Some(end);
        }
        self.published |= self.table.publish(Kind::Flush, b"", 0, 0);
        None
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
        let allocate = |words| table.heap.allocate(table.words(), &mut self.cache, words);
        table.events.watch(table.words(), allocate).map_err(WriteError::OutOfMemory)
    }

    /// All entries of the bucket that `key` falls in, but those whose time has passed, into `out`, if they have at most
    /// `size_max` bytes together; else how many they have.
    pub fn read_bucket(
        &mut self,
        key: &[u8],
        size_max: usize,
        now_ms: impl Fn() -> u64,
        out: &mut Pairs,
    ) -> Result<(), usize> {
        let guard = self.table.lock(self.table.constants.hash(key));
        let size = self.entries(&guard).map(|entry| entry.shape.key_size + entry.shape.value_size).sum();
        if size <= size_max {
            self.copy_chain(&guard, Want::Values, &now_ms, out);
        }
        guard.unlock_unchanged();
        if size <= size_max { Ok(()) } else { Err(size) }
    }

    /// One step of a walk over the table: see [`reader::scan`].
    pub fn scan(&mut self, cursor: u64, want: Want, now_ms: impl Fn() -> u64, out: &mut Pairs) -> u64 {
        let read = |index, into: &mut Pairs| {
            let guard = self.table.bucket(index).lock();
            self.copy_chain(&guard, want, &now_ms, into);
            guard.unlock_unchanged();
            Ok(())
        };
        // The bucket count of our own table is never out of range, so this cannot fail; 0 ends the walk.
        reader::scan(self.table.words(), cursor, read, out).unwrap_or(0)
    }

    /// All entries of bucket `index`, also those whose time has passed, into `out`. Returns whether there is such a
    /// bucket.
    pub fn read_bucket_at(&mut self, index: u64, want: Want, out: &mut Pairs) -> bool {
        if index >= self.table.buckets() {
            return false;
        }
        let guard = self.table.bucket(index).lock();
        self.copy_chain(&guard, want, &|| 0, out);
        guard.unlock_unchanged();
        true
    }

    /// Copies the entries of a locked chain, but those whose time has passed, and those for which there is no memory.
    fn copy_chain(&self, guard: &BucketGuard<'_>, want: Want, now_ms: &impl Fn() -> u64, out: &mut Pairs) {
        for entry in self.entries(guard).filter(|entry| !entry.has_expired(now_ms)) {
            let _ = out.push_entry(entry, want);
        }
    }

    /// The entries of a locked chain.
    fn entries<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = EntryRef<'a>> {
        self.table
            .chain(guard)
            .flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index)))
            .filter(|slot| slot.is_entry())
            .map(|slot| self.table.entry(slot))
    }

    /// Gives the free memory this writer holds back to all.
    pub fn release(&mut self) {
        self.table.heap.drain(self.table.words(), &mut self.cache);
    }

    /// Allocates and fills an entry; all but its version.
    fn prepare(&mut self, key: &[u8], value: &[u8], expiry: Option<Expiry>) -> Result<(u64, Shape), WriteError> {
        let shape = Shape { key_size: key.len(), value_size: value.len(), expires: expiry.is_some() };
        let words = self.table.words();
        let start = self.table.heap.allocate(words, &mut self.cache, shape.words());
        let start = start.ok_or(WriteError::OutOfMemory(shape.words() * 8))?;
        let entry = &words[start as usize..start as usize + shape.words()];
        // Relaxed: nobody can reach the entry before a slot points at it (Release in `set_slot`).
        entry[0].store(shape.pack(), Ordering::Relaxed);
        if let Some(Expiry(at_ms)) = expiry {
            const { assert!(FLAG_EXPIRY == 1 && HEADER_WORDS == 2) };
            entry[HEADER_WORDS].store(at_ms, Ordering::Relaxed);
        }
        copy_in(key, &entry[shape.key_at()..]);
        copy_in(value, &entry[shape.value_at()..]);
        Ok((start, shape))
    }

    /// Adds buckets while the table is too full. Cheap if it is not, or if another worker is at it.
    fn grow(&mut self) {
        // At most a few at once: growth is spread over inserts, a bucket each would do.
        for _ in 0..2 {
            let table = &self.table;
            if table.entries() <= table.buckets() * limits::BUCKET_LOAD {
                return;
            }
            // Acquire: pairs with the Release below, so that we see the count as the last splitter left it.
            if table.splitting.swap(true, Ordering::Acquire) {
                return;
            }
            let grown = self.split_one();
            // Release: pairs with the Acquire above.
            self.table.splitting.store(false, Ordering::Release);
            if !grown {
                return;
            }
        }
    }

    /// Splits the next bucket. `false` if there is no room for a new one.
    fn split_one(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        // Relaxed: only the holder of `splitting` changes the count.
        let count = table.words()[H_BUCKETS].load(Ordering::Relaxed);
        let page = bucket_start(count) / PAGE_WORDS;
        if count >= limits::BUCKETS_MAX {
            return false;
        }
        if bucket_start(count).is_multiple_of(PAGE_WORDS) && !table.heap.take_page(page) {
            return false;
        }
        let source = table.bucket(split_source(count)).lock();
        // The new bucket's memory may have been a slab's: it is emptied before anybody can find it.
        let target = table.bucket(count).new_locked(source.version);

        let chain: Vec<BucketRef<'_>> = table.chain(&source).collect();
        let mut overflow: Vec<u64> = Vec::new();
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        for slot in chain.iter().flat_map(|bucket| (0..SLOTS).map(|index| bucket.slot(index))) {
            if slot.is_link() {
                overflow.push(slot.at());
            } else if slot != EMPTY {
                let hash = self.hash_of(table.entry(slot));
                if address(hash, count + 1) == count { go.push(slot) } else { stay.push(slot) }
            }
        }
        if go.is_empty() {
            // Nothing moves: readers of the source need not even try again.
            table.words()[H_BUCKETS].store(count + 1, Ordering::Release);
            target.unlock();
            source.unlock_unchanged();
            return true;
        }
        // Both chains together need no more overflow buckets than the one had: n entries need (n - 7) / 6 of them,
        // rounded up, and that of a sum is at least the sum of those.
        self.rebuild(source.bucket, &stay, &mut overflow);
        self.rebuild(target.bucket, &go, &mut overflow);
        // Release: pairs with the Acquire in `layout::load_buckets`. Before unlocking: who finds the source unlocked
        // and a key gone finds the new count too.
        table.words()[H_BUCKETS].store(count + 1, Ordering::Release);
        target.unlock();
        source.unlock();
        for start in overflow {
            table.heap.free(table.words(), &mut self.cache, start, BUCKET_WORDS);
        }
        true
    }

    /// The hash of an entry's key.
    fn hash_of(&self, entry: EntryRef<'_>) -> u64 {
        let size = entry.shape.key_size;
        let mut inline = [0; 64];
        if let Some(key) = inline.get_mut(..size) {
            crate::sync::copy_out(entry.key_words(), crate::sync::as_uninit(key));
            return self.table.constants.hash(key);
        }
        let mut key = vec![0; size];
        crate::sync::copy_out(entry.key_words(), crate::sync::as_uninit(&mut key));
        self.table.constants.hash(&key)
    }

    /// Lays `slots` out anew in a chain, taking overflow buckets from `spare`.
    fn rebuild(&self, home: BucketRef<'_>, slots: &[Slot], spare: &mut Vec<u64>) {
        let mut bucket = home;
        let mut rest = slots;
        loop {
            bucket.clear_slots();
            let here = if rest.len() > SLOTS { SLOTS - 1 } else { rest.len() };
            for (index, slot) in rest[..here].iter().enumerate() {
                bucket.set_slot(index, *slot);
            }
            rest = &rest[here..];
            if rest.is_empty() {
                return;
            }
            let link = Slot::link(spare.pop().expect("a split needs no more overflow buckets than there were"));
            bucket.set_slot(SLOTS - 1, link);
            bucket = self.table.overflow(link);
        }
    }
}
