//! Adding buckets as the table fills up, and taking them away from an empty end.
//!
//! # Design
//!
//! Growth is linear hashing, a bucket at a time: after an insert that makes the table too full, the worker locks the
//! bucket to split and its new sibling, fills the sibling, publishes the new count, takes what has gone out of the
//! source, and unlocks both. No pause, no second table. Only one worker splits at a time; the others go on.
//!
//! A table that was emptied gives up its last bucket as long as that is empty, likewise one at a time. So nothing ever
//! moves to a lower bucket, and a walk over all keys need not know of it.
//!
//! # Invariants
//!
//! - At most two buckets are locked by a worker, the source before its sibling, which is the last one: no deadlock.
//! - At any instruction each entry is in the bucket that is its own by the count: a server may die in between, and
//!   leaves it there ([`super::adopt`]). So the sibling's overflow buckets are new ones; without memory for them the
//!   split is put off.
//! - Pages of the bucket array never become anything else, so that whoever looked for a key in a bucket that was given
//!   up in the meantime finds a bucket there, be it an empty one.
//! - Versions go on counting: a bucket that is given up leaves a higher one than its own to its source, from which it
//!   gets its version should it be made anew. So a worker that locks a bucket that is gone (its memory stays a
//!   bucket's, or becomes zeroes) never finds its own version in a new one.

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot};
use super::deadline::Deadline;
use super::heap::Cache;
use super::layout::{
    BUCKET_WORDS, H_BUCKETS, H_BUCKETS_SEALED, PAGE_BUCKETS, PAGE_WORDS, address, bucket_start, split_source,
};
use super::options::Eviction;
use super::seal::seal;
use super::table::Table;
use super::writer::Writer;
use crate::limits;
use crate::sync::{Arc, Memory, Ordering, yield_now};

/// Overflow buckets that so many entries need.
fn overflow_buckets(entries: usize) -> usize {
    entries.saturating_sub(SLOTS).div_ceil(SLOTS - 1)
}

/// Buckets that are added at once when a chain is at its end.
const CAUGHT_UP_AT_ONCE: usize = 256;

impl<M: Memory> Table<M> {
    /// Keeps others from changing the number of buckets while `change` runs; `None` if another worker is at it.
    pub(super) fn alone<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        // Acquire: pairs with the Release below, so that we see the count as the last one left it.
        if self.splitting.swap(true, Ordering::Acquire) {
            return None;
        }
        let done = change();
        // Release: pairs with the Acquire above.
        self.splitting.store(false, Ordering::Release);
        Some(done)
    }

    /// Publishes another number of buckets. Only for the holder of `splitting`, and of the last bucket's lock.
    fn publish_buckets(&self, count: u64) {
        // Relaxed: for the server that comes when this one is dead. By now either number would be right.
        self.words()[H_BUCKETS_SEALED].store(seal(count, H_BUCKETS as u64), Ordering::Relaxed);
        // Release: pairs with the Acquire in `layout::load_buckets`, `Table::buckets` and `Table::lock`.
        self.words()[H_BUCKETS].store(count, Ordering::Release);
    }

    /// Lays slots out in an empty chain that nobody can find yet, but for its last slots that are left over. `false`
    /// without memory for its overflow buckets.
    fn lay_out(&self, cache: &mut Cache, home: BucketRef<'_>, slots: &[Slot]) -> bool {
        let mut spare = Vec::new();
        for _ in 0..overflow_buckets(slots.len()) {
            let Some(start) = self.allocate(cache, BUCKET_WORDS) else {
                spare.into_iter().for_each(|start| self.heap.free(self.words(), cache, start, BUCKET_WORDS));
                return false;
            };
            spare.push(start);
        }
        let (mut bucket, mut rest) = (home, slots);
        loop {
            let here = if spare.is_empty() { rest.len() } else { SLOTS - 1 };
            for (index, &slot) in rest[..here].iter().enumerate() {
                bucket.set_slot(index, slot);
            }
            rest = &rest[here..];
            let Some(start) = spare.pop() else { return true };
            let link = Slot::link(start);
            self.overflow(link).clear_slots();
            bucket.set_slot(SLOTS - 1, link);
            bucket = self.overflow(link);
        }
    }

    /// Moves entries of a locked chain into its holes, so that it has no more overflow buckets than it needs. Returns
    /// those that were taken out, to be freed after unlocking.
    fn compact(&self, guard: &BucketGuard<'_>) -> Vec<u64> {
        let mut freed = Vec::new();
        loop {
            let chain: Vec<_> = self.chain(guard).collect();
            let [rest @ .., last] = &chain[..] else { return freed };
            let Some(before) = rest.last().filter(|_| rest.len() > overflow_buckets(self.entry_slots(guard).count()))
            else {
                return freed;
            };
            let mut holes = rest.iter().flat_map(|&bucket| (0..SLOTS).map(move |index| (bucket, index)));
            let mut remaining = EMPTY;
            for index in (0..SLOTS).filter(|&index| last.slot(index).is_entry()) {
                match holes.find(|&(bucket, index)| bucket.slot(index) == EMPTY) {
                    Some((bucket, hole)) => {
                        bucket.set_slot(hole, last.slot(index));
                        last.set_slot(index, EMPTY);
                    }
                    // The last one of all takes the place of the link.
                    None => remaining = last.slot(index),
                }
            }
            freed.push(before.slot(SLOTS - 1).at());
            before.set_slot(SLOTS - 1, remaining);
        }
    }

    /// Gives up the last bucket, if it is empty. `false` if it is not, or no more can be given up.
    fn give_up_one(&self) -> bool {
        // Relaxed: only the holder of `splitting` changes the count.
        let count = self.words()[H_BUCKETS].load(Ordering::Relaxed);
        if count <= self.buckets_min {
            return false;
        }
        let mut source = self.lock_there(split_source(count - 1));
        let last = self.lock_there(count - 1);
        let is_empty = (0..SLOTS).all(|index| last.bucket.slot(index) == EMPTY);
        if is_empty {
            // More than the last bucket is left with: a worker that locks it from now on, and is late to see that it
            // is gone, must not take the one that is made anew for it.
            source.raise(last.version + 2);
            self.publish_buckets(count - 1);
            failpoint!("shrink.counted");
            last.unlock();
            source.unlock();
        } else {
            last.unlock_unchanged();
            source.unlock_unchanged();
        }
        is_empty
    }

    /// Gives up to `count` empty buckets at the end up. Returns whether there may be more.
    pub fn shrink_some(&self, count: u64) -> bool {
        self.alone(|| (0..count).all(|_| self.give_up_one())).unwrap_or(false)
    }

    /// Calls `give_back` with a run of at most `count` pages that the bucket array does not use any more, the first and
    /// how many, if there are any. Returns whether there may be more. The table does not grow meanwhile.
    pub fn give_back_bucket_pages(&self, count: u64, give_back: impl FnOnce(usize, usize)) -> bool {
        self.alone(|| {
            let buckets = self.words()[H_BUCKETS].load(Ordering::Relaxed);
            let used = bucket_start(buckets).div_ceil(PAGE_WORDS) as u64;
            // Relaxed: changed only by the holder of `splitting`.
            let dirty = self.bucket_pages_dirty.load(Ordering::Relaxed);
            let first = used.max(dirty.saturating_sub(count));
            if first >= dirty {
                return false;
            }
            give_back(first as usize, (dirty - first) as usize);
            self.bucket_pages_dirty.store(first, Ordering::Relaxed);
            first > used
        })
        .unwrap_or(false)
    }
}

/// Pages that others may have touched by reading.
impl<M: Memory> Table<M> {
    /// Pages that we may have touched.
    pub fn touched_pages(&self) -> u64 {
        // Relaxed: two figures, of a moment each.
        let untouched =
            self.bucket_pages.load(Ordering::Relaxed).saturating_sub(self.bucket_pages_dirty.load(Ordering::Relaxed));
        self.heap.touched_pages() - untouched
    }

    /// Takes note that there may be memory behind all pages of the bucket array.
    pub fn note_touched_bucket_pages(&self) {
        self.alone(|| {
            // Relaxed: changed only by the holder of `splitting`.
            let pages = self.bucket_pages.load(Ordering::Relaxed);
            self.bucket_pages_dirty.fetch_max(pages, Ordering::Relaxed);
        });
    }
}

impl<M: Memory> Writer<M> {
    /// Adds buckets while the table is too full. Cheap if it is not, or if another worker is at it.
    pub(super) fn grow(&mut self) {
        // At most a few at once: growth is spread over inserts, a bucket each would do.
        for _ in 0..2 {
            if self.table.entries() <= self.table.buckets() * limits::BUCKET_LOAD {
                return;
            }
            let table = Arc::clone(&self.table);
            if table.alone(|| self.split_one()) != Some(true) {
                return;
            }
        }
    }

    /// Adds all the buckets that are missing, or some hundred. Returns whether any was added, also by another worker.
    pub(super) fn catch_up(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        let before = table.buckets();
        let deadline = Deadline::after(limits::GROWTH_PATIENCE_NS);
        let mut added = 0;
        while added < CAUGHT_UP_AT_ONCE && table.entries() > table.buckets() * limits::BUCKET_LOAD {
            match table.alone(|| self.split_one()) {
                Some(true) => added += 1,
                Some(false) => break,
                // As with a bucket's lock: another worker has to go on, which waits for nobody but workers.
                None if deadline.has_come() => break,
                None => yield_now(),
            }
        }
        table.buckets() > before
    }

    /// Adds the buckets that so many entries will need, as far as there is room: while there are no entries, that is
    /// cheaper than when they have come.
    pub fn expect(&mut self, entries: u64) {
        let table = Arc::clone(&self.table);
        let wanted = entries / limits::BUCKET_LOAD;
        while table.buckets() < wanted && table.alone(|| self.split_one()) == Some(true) {}
    }

    /// Splits the next bucket. `false` if there is no room for a new one.
    pub(super) fn split_one(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        // Relaxed: only the holder of `splitting` changes the count.
        let count = table.words()[H_BUCKETS].load(Ordering::Relaxed);
        let page = bucket_start(count) / PAGE_WORDS;
        if count >= limits::BUCKETS_MAX {
            return false;
        }
        // Relaxed, here and below: changed only by the holder of `splitting`.
        if page as u64 >= table.bucket_pages.load(Ordering::Relaxed) {
            if !self.take_bucket_page(page) {
                return false;
            }
            failpoint!("split.page");
            // The memory may have been a slab's: no bucket of the page is locked, whatever it held.
            for bucket in count..count + PAGE_BUCKETS as u64 {
                table.bucket(bucket).unlock_fresh();
            }
            table.bucket_pages.store(page as u64 + 1, Ordering::Relaxed);
        }
        table.bucket_pages_dirty.fetch_max(page as u64 + 1, Ordering::Relaxed);
        let source = table.lock_there(split_source(count));
        let target = table.bucket(count).new_locked(source.version);
        failpoint!("split.locked");

        let is_going = |slot: Slot| address(table.hash_of(table.entry(slot)), count + 1) == count;
        let going: Vec<_> = table.entry_slots(&source).filter(|&(_, _, slot)| is_going(slot)).collect();
        if going.is_empty() {
            // Nothing moves: readers of the source need not even try again.
            table.publish_buckets(count + 1);
            target.unlock();
            source.unlock_unchanged();
            return true;
        }
        let slots: Vec<Slot> = going.iter().map(|&(_, _, slot)| slot).collect();
        if !table.lay_out(&mut self.cache, target.bucket, &slots) {
            // It is no bucket of the table yet.
            target.unlock();
            source.unlock_unchanged();
            return false;
        }
        failpoint!("split.filled");
        // Before unlocking: a reader that finds the source unlocked and a key gone finds the new count too. Before the
        // source loses its entries, so that at any instruction each of them is in the bucket that is its own by the
        // count.
        table.publish_buckets(count + 1);
        failpoint!("split.counted");
        for &(bucket, index, _) in &going {
            bucket.set_slot(index, EMPTY);
        }
        let overflow = table.compact(&source);
        if let Some(expiring) = &table.expiring {
            for _ in slots.iter().filter(|slot| slot.is_volatile()) {
                expiring.leave(split_source(count));
                expiring.come(count);
            }
        }
        target.unlock();
        source.unlock();
        failpoint!("split.unlocked");
        for start in overflow {
            table.heap.free(table.words(), &mut self.cache, start, BUCKET_WORDS);
        }
        true
    }

    /// Takes a page for the bucket array, and moves what lives there out of the way.
    fn take_bucket_page(&mut self, page: usize) -> bool {
        let table = Arc::clone(&self.table);
        if table.heap.take_page(page) {
            return true;
        }
        self.release();
        let Some(clearing) = table.heap.close_page(page) else { return false };
        self.clear(&clearing, table.eviction == Eviction::AllkeysSieve);
        table.heap.take_page(page)
    }
}
