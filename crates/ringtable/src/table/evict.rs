//! Making room: evicting entries, and moving them so that what is free lies in a row.
//!
//! # Design
//!
//! An allocation that finds nothing calls [`Writer::make_room`], which goes on until there is room or nothing is left
//! to do, by whatever of these is cheapest now:
//!
//! 1. **Clear a slab.** A size class whose free slots would fill a slab has them spread over many: what lives in its
//!    emptiest slab moves to the others, and the slab's pages are free for any class.
//! 2. **Clear a run.** If enough pages are free, but not in a row: what lives in the row with the least in it moves.
//! 3. **Evict** some entries, by the table's policy ([`Eviction`]).
//!
//! So a table that was full of small values can become one of large values, and back, and entries leave in the order
//! that the policy says, whatever their size. What finds no other place when a run is cleared is evicted out of order.
//!
//! # Refusals
//!
//! A write that is refused has evicted nothing. So a search begins with the question whether evicting can lead there:
//!
//! - In a cache anything may go but what is [`Kept`], so it can if there is a run of pages without any such thing. That
//!   is looked up page by page, from the high end, until the first run that will do; or not at all, if the size class
//!   has more slots in use than can be kept. Entries that are never evicted ([`super::unevictable`]) move out of the
//!   way: there have to be the pages beside them, if they were moved together.
//! - Where only what expires may go, it can if the size class has enough such entries ([`super::expiring`]). Else a run
//!   of pages is closed, and what stays moves out of it. Only when all of that has moved, or will for certain find the
//!   slot of an entry that expires elsewhere, does the first entry go ([`Writer::evict_run`]).
//!
//! A condition is looked at before there is room for its write, and the key that it is about is spared.
//!
//! What other workers take, pin or hold meanwhile may still make a search fail that has evicted something. It does not
//! wait for them: the request is taken up again in a later turn ([`Writer::take_crowded`]).
//!
//! A move is a write like any other: copy, lock, check that the slot still points at the original, swing it, unlock.
//! The copy keeps the entry's version: to who compares versions, nothing has happened.
//!
//! # Invariants
//!
//! - Nothing is ever lost that the policy does not allow to be evicted.
//! - Every loop ends: each step frees something, or counts towards a limit.

use super::bucket::{BucketRef, SLOTS, Slot};
use super::deadline::Deadline;
use super::entry::{EntryRef, Expiry, Shape};
use super::error::WriteError;
use super::events::Kind;
use super::heap::{self, BATCH, CLASSES, Clearing, Heap};
use super::layout::{BUCKET_WORDS, PAGE_WORDS};
use super::options::Eviction;
use super::sieve::{self, Id};
use super::table::Table;
use super::writer::Writer;
use crate::limits;
use crate::sync::{Arc, AtomicU64, Memory, Ordering, copy_words, lock};

/// Entries evicted between two looks whether slabs or pages can be cleared now.
const EVICTED_AT_ONCE: usize = 16;
/// Entries that the hand passes at most before one is evicted though it was used: about a millisecond.
const PASSED_MAX: usize = 4_096;
/// Nanoseconds for which it does so: in long chains each takes some microseconds.
const PASSED_NS_MAX: u64 = 1_000_000;
/// Entries that the hand passes between two looks at the clock.
const PASSED_PER_CLOCK: usize = 64;
/// Buckets that are walked over at once to give their entries new ids.
const REFILLED_AT_ONCE: u64 = 1_024;
/// Ids above which no further bucket is.
const REFILLED_IDS_MAX: usize = 8 * REFILLED_AT_ONCE as usize;
/// Ids that are looked at when too many are stale, for each that arrives.
const TIDIED_PER_ARRIVAL: usize = 4;
/// Stale ids that are no reason to tidy up yet.
const STALE_MIN: u64 = if cfg!(loom) { 2 } else { 16_384 };
/// Entries of which the one that expires soonest is evicted.
const SAMPLE_SIZE: usize = 16;
/// Buckets that are walked over for a sample, of blocks in which something expires, before a smaller one will do.
const WALKED_MAX: usize = 256;
/// Clearings without success after which the heap asks all workers for the slots they hold, and which come to an end.
const VAIN_MAX: usize = 8;

impl<M: Memory> Writer<M> {
    /// Allocates memory for an entry.
    pub(super) fn reserve(&mut self, shape: Shape) -> Result<u64, WriteError> {
        let start = self.table.allocate(&mut self.cache, shape.words());
        start.or_else(|| self.make_room(shape.words())).ok_or(WriteError::OutOfMemory(shape.words() * 8))
    }

    /// Memory for `words` words that were not to be had: evicts and moves entries until there is. `None` if that does
    /// not help, or is not allowed; [`Writer::take_crowded`] says whether that is due to other workers.
    #[cold]
    pub(super) fn make_room(&mut self, words: usize) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let searching = Searching::begin(&table.searchers);
        let mut kept = Kept::default();
        let may_evict = self.may_evict_beside(words, &mut kept);
        let found = match table.eviction {
            // All that is not kept may go: where that would not do, nothing will.
            Eviction::AllkeysSieve if !may_evict => None,
            Eviction::VolatileTtl if !may_evict => {
                self.search(words, false, &mut kept).or_else(|| self.evict_run(words, &mut kept))
            }
            _ => self.search(words, may_evict, &mut kept),
        };
        if found.is_none() && may_evict {
            table.heap.drain(table.words(), &mut self.cache);
            table.heap.recall();
            self.crowded = searching.is_anybody_else() || table.heap.has_holders();
        }
        found
    }

    /// Whether entries may be evicted by the policy, one after the other, to find `words` words: only if that is known
    /// to lead there, unless others take, pin or hold something meanwhile.
    ///
    /// Most of the time this looks at a few counts, or at as many pages as are wanted.
    pub(super) fn may_evict_for(&self, words: usize) -> bool {
        self.may_evict_beside(words, &mut Kept::default())
    }

    fn may_evict_beside(&self, words: usize, kept: &mut Kept) -> bool {
        /// Free slots of a class that other workers hold back.
        const HELD_BACK_MAX: u64 = (limits::WORKERS_MAX * 2 * BATCH) as u64;
        let table = &self.table;
        let (pages, kind) = (Heap::run_pages(words) + self.sparing.pages, heap::kind_of(words));
        // How many there may be; there is no need to know which, if others would do.
        let kept_max = table.reclaimer.keepers_max() + lock(&table.draft_starts).len() as u64 + 2;
        match (table.eviction, &table.expiring) {
            (Eviction::AllkeysSieve, _) => {
                let is_common = kind < CLASSES
                    && kind != heap::kind_of(BUCKET_WORDS)
                    && table.heap.used_slots(kind) > kept_max + HELD_BACK_MAX + table.unevictable.amount(kind);
                is_common
                    || self.is_room_beside_unevictable(pages)
                        && table.heap.has_run_without(pages, sieve::SPARE_MAX, kept.starts(self))
            }
            (Eviction::VolatileTtl, Some(expiring)) => kind < CLASSES && expiring.amount(kind) > kept_max,
            _ => false,
        }
    }

    /// Whether there would be so many pages if all went that may.
    fn is_room_beside_unevictable(&self, pages: usize) -> bool {
        let unevictable = &self.table.unevictable;
        unevictable.entries() == 0
            || self.table.heap.pages_beside(|kind| unevictable.amount(kind)) >= (pages + sieve::SPARE_MAX) as u64
    }

    fn search(&mut self, words: usize, may_evict: bool, kept: &mut Kept) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let pages = Heap::run_pages(words);
        let (mut vain, mut evicted) = (0, 0);
        loop {
            // The slots that we hold back may be what a slab lacks to be empty.
            table.heap.drain(table.words(), &mut self.cache);
            let free_before = table.heap.free_pages();
            if vain < VAIN_MAX && self.clear_something(pages, free_before, may_evict, kept) {
                if table.heap.free_pages() <= free_before {
                    vain += 1;
                    table.heap.recall();
                    *kept = Kept::default();
                }
            } else {
                let mut now = 0;
                while may_evict && now < EVICTED_AT_ONCE && self.evict(1) == 1 {
                    now += 1;
                    // Most often the first one leaves a slot of the right size.
                    if let Some(start) = table.heap.allocate_at_hand(table.words(), &mut self.cache, words) {
                        return Some(start);
                    }
                }
                if table.eviction == Eviction::AllkeysSieve {
                    table.sieve.give_back(&table.heap);
                }
                if now == 0 {
                    let start = table.allocate(&mut self.cache, words);
                    return start.or_else(|| self.make_room_at_last(words, may_evict, kept));
                }
                evicted += now;
                vain = vain.saturating_sub(usize::from(evicted.is_multiple_of(64)));
                if evicted > table.words().len() / super::entry::HEADER_WORDS {
                    return None; // others take all we free
                }
            }
            if let Some(start) = table.allocate(&mut self.cache, words) {
                return Some(start);
            }
        }
    }

    /// Clears a slab or, if `free_pages` are enough, a run of `pages` pages. `false` if there is nothing to clear.
    fn clear_something(&mut self, pages: usize, free_pages: usize, may_evict: bool, kept: &mut Kept) -> bool {
        let table = Arc::clone(&self.table);
        let mut clearing = None;
        if table.heap.has_sparse_class() {
            clearing = table.heap.close_sparse_slab(kept.starts(self));
        }
        // With a margin: what moves leaves gaps too.
        if clearing.is_none() && 4 * free_pages >= 5 * pages {
            clearing = table.heap.close_run(pages, kept.starts(self), !may_evict);
        }
        if let Some(clearing) = &clearing {
            self.clear(clearing, may_evict);
        }
        clearing.is_some()
    }

    /// The same for a run of pages where not all entries may go: those go that expire and lie in one run of pages.
    /// Before the first one does, all that stays has moved out of the run, or is certain to find room.
    fn evict_run(&mut self, words: usize, kept: &mut Kept) -> Option<u64> {
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
            table.heap.finish_clearing(&clearing);
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
                let left = table.take_out(&guard, (bucket, index), Kind::Evict, &mut self.published);
                guard.unlock();
                self.free(left);
            }
            None => guard.unlock_unchanged(),
        }
    }

    /// Moves what lives in a nearly empty slab to others. Returns whether that has freed pages.
    pub fn empty_a_slab(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        table.heap.drain(table.words(), &mut self.cache);
        let before = table.heap.free_pages();
        let mut kept = Kept::default();
        let Some(clearing) = table.heap.close_sparse_slab(kept.starts(self)) else { return false };
        self.clear(&clearing, false);
        table.heap.free_pages() > before
    }

    /// What remains when nothing can be evicted: gathers what is free, wherever it lies.
    fn make_room_at_last(&mut self, words: usize, may_evict: bool, kept: &mut Kept) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let pages = Heap::run_pages(words);
        for _ in 0..VAIN_MAX {
            table.heap.drain(table.words(), &mut self.cache);
            let usage = table.heap.usage();
            // With a margin, since what moves leaves gaps too; but not where all has gone that may, for this very row.
            let needed = (pages * PAGE_WORDS * 8) as u64;
            if usage.free_pages + usage.free_slots < if may_evict { needed } else { needed * 5 / 4 } {
                return None;
            }
            let clearing = table.heap.close_run(pages, kept.starts(self), !may_evict)?;
            self.clear(&clearing, may_evict);
            if let Some(start) = table.allocate(&mut self.cache, words) {
                return Some(start);
            }
            table.heap.recall();
            *kept = Kept::default();
        }
        None
    }

    /// Moves what lives in a clearing, evicts what finds no other place (if it may, by the policy too), and ends the
    /// clearing.
    pub(super) fn clear(&mut self, clearing: &Clearing, may_evict: bool) {
        failpoint!("move.closed");
        self.clearing = true;
        for &start in &clearing.starts {
            self.relocate(start, may_evict);
        }
        self.clearing = false;
        self.table.heap.drain(self.table.words(), &mut self.cache);
        self.table.heap.finish_clearing(clearing);
    }

    /// Moves what lives at word `start`, an entry or an overflow bucket, if anything does. Returns whether nothing
    /// lives there any more.
    ///
    /// What is there may be anything: the rest of an entry that is gone, one that is being written, or an overflow
    /// bucket that looks like an entry. It is believed only if a slot of the right kind points at it.
    pub(super) fn relocate(&mut self, start: u64, may_evict: bool) -> bool {
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
                let left = table.take_out(&guard, (bucket, index), Kind::Evict, &mut self.published);
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

    /// Evicts up to `count` entries by the table's policy. Returns how many.
    fn evict(&mut self, count: usize) -> usize {
        match self.table.eviction {
            Eviction::Never => 0,
            Eviction::AllkeysSieve => self.move_hand(count),
            Eviction::VolatileTtl => (0..count).take_while(|_| self.evict_soonest()).count(),
        }
    }

    /// Moves the hand of the sieve until `count` entries are evicted, or none is left. Returns how many were.
    fn move_hand(&mut self, count: usize) -> usize {
        self.tell_arrivals();
        self.table.take_hints();
        let (mut evicted, mut passed) = (0, 0);
        let mut deadline = None;
        while evicted < count {
            let Some((id, mark)) = self.table.sieve.advance() else {
                if self.refill() {
                    continue;
                }
                break;
            };
            if self.look_at(id, mark, Some(passed >= PASSED_MAX)) {
                (evicted, passed, deadline) = (evicted + 1, 0, None);
            } else {
                passed += 1;
                if passed > self.table.sieve.ids() as usize + 2 * PASSED_MAX {
                    break; // only the one that is spared is left
                }
                if passed.is_multiple_of(PASSED_PER_CLOCK)
                    && deadline.get_or_insert_with(|| Deadline::after(PASSED_NS_MAX)).has_come()
                {
                    passed = passed.max(PASSED_MAX);
                }
            }
        }
        evicted
    }

    /// What the hand does when it comes to an id. `evict` is whether an entry goes even if it was used; `None` if none
    /// goes at all. Returns whether an entry was evicted.
    fn look_at(&mut self, id: Id, mark: bool, evict: Option<bool>) -> bool {
        let table = Arc::clone(&self.table);
        let guard = table.lock(id.low());
        let found = table
            .chain(&guard)
            .flat_map(|bucket| (0..SLOTS).map(move |index| (bucket, index, bucket.slot(index))))
            .find(|(_, _, slot)| id.fits(*slot) && slot.seen() != mark);
        let Some((bucket, index, slot)) = found else {
            // Gone, or seen in this round already.
            guard.unlock_unchanged();
            return false;
        };
        if slot.is_unevictable() {
            // It has become so since it arrived, and needs no id any more.
            guard.unlock_unchanged();
            return false;
        }
        let goes = evict.is_some_and(|even_if_used| even_if_used || !slot.is_visited()) && !self.is_spared(slot);
        if goes {
            let left = table.take_out(&guard, (bucket, index), Kind::Evict, &mut self.published);
            failpoint!("evict.unlinked");
            guard.unlock();
            self.free(left);
        } else {
            let kept = slot.with_seen(mark).with_visited(slot.is_visited() && evict.is_none());
            bucket.set_slot(index, kept);
            guard.unlock_unchanged();
            table.sieve.keep(id);
        }
        goes
    }

    /// Tells the sieve of entries that have arrived, and drops ids of entries that are gone if there are too many.
    pub(super) fn tell_arrivals(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        let told = self.arrivals.len();
        let table = Arc::clone(&self.table);
        // Also while the table fills up and nothing is evicted: readers keep a few hundred hints, no more.
        table.take_hints();
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for _ in 0..VAIN_MAX {
            if table.sieve.provide(&table.heap) {
                break;
            }
            // The queue has a page or two left, and needs one more soon: like any entry, it gets one by eviction.
            if let Some(clearing) = table.heap.close_sparse_slab(Kept::default().starts(self)) {
                self.clear(&clearing, true);
            } else {
                self.evict(EVICTED_AT_ONCE);
            }
        }
        table.sieve.arrive(&mut arrivals);
        self.arrivals = arrivals;
        if table.sieve.ids() > 2 * table.entries() + STALE_MIN {
            for _ in 0..told * TIDIED_PER_ARRIVAL {
                if let Some((id, mark)) = table.sieve.advance() {
                    self.look_at(id, mark, None);
                }
            }
        }
    }

    /// Gives entries ids anew, if some are without. Returns whether there are ids now.
    fn refill(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        while let Some(first) = table.sieve.needs_refill(table.entries().saturating_sub(table.unevictable.entries())) {
            let mark = table.sieve.seen_mark();
            let mut ids = Vec::new();
            let mut end = (first + REFILLED_AT_ONCE).min(table.buckets());
            for index in first..end {
                if ids.len() >= REFILLED_IDS_MAX {
                    end = index;
                    break;
                }
                let Some(guard) = table.lock_at(index) else { continue };
                for (bucket, index) in
                    table.chain(&guard).flat_map(|bucket| (0..SLOTS).map(move |index| (bucket, index)))
                {
                    let slot = bucket.slot(index);
                    if slot.is_entry() && !slot.is_unevictable() {
                        bucket.set_slot(index, slot.with_seen(!mark));
                        ids.push(Id::new(self.table.hash_of(table.entry(slot))));
                    }
                }
                guard.unlock_unchanged();
            }
            let added = !ids.is_empty();
            table.sieve.provide(&table.heap);
            table.sieve.arrive(&mut ids);
            table.sieve.refilled_to(if end >= table.buckets() { 0 } else { end });
            if added && table.sieve.ids() > 0 {
                return true;
            }
            if end >= table.buckets() {
                break;
            }
        }
        table.sieve.ids() > 0
    }

    /// Evicts, of a sample of the entries that expire, the one that does so soonest. `false` if none expires.
    fn evict_soonest(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        let Some(expiring) = &table.expiring else { return false };
        let buckets = table.buckets();
        let begin = fastrand::u64(..buckets);
        let (mut sampled, mut walked) = (0, 0);
        let mut soonest: Option<(Expiry, u64, u64, u64)> = None;
        'walk: for (from, to) in [(begin, buckets), (0, begin)] {
            let mut next = from;
            while let Some(index) = expiring.next(next, to) {
                next = index + 1;
                walked += 1;
                if self.sample(index, &mut sampled, &mut soonest)
                    && (sampled >= SAMPLE_SIZE || walked >= WALKED_MAX && sampled > 0)
                {
                    break 'walk;
                }
            }
        }
        let Some((_, index, start, version)) = soonest else { return false };
        if let Some(guard) = table.lock_at(index) {
            let is_same = |slot: Slot| slot.is_entry() && table.entry(slot).version() == version;
            let found = table.pointer(&guard, start).filter(|&(_, _, slot)| is_same(slot));
            if let Some((bucket, index, _)) = found {
                let left = table.take_out(&guard, (bucket, index), Kind::Evict, &mut self.published);
                guard.unlock();
                self.free(left);
            } else {
                guard.unlock_unchanged(); // it went without us
            }
        }
        true
    }

    /// Adds the entries of bucket `index` that expire to a sample: how many, and the one that does so soonest, with its
    /// bucket, place and version. Returns whether it was walked over.
    fn sample(&self, index: u64, sampled: &mut usize, soonest: &mut Option<(Expiry, u64, u64, u64)>) -> bool {
        let table = &self.table;
        let home = table.bucket(index);
        // A look without the lock: most buckets have none.
        if !(0..SLOTS).any(|index| home.slot(index).is_volatile() || home.slot(index).is_link()) {
            return true;
        }
        let Some(guard) = table.lock_at(index) else { return false };
        for slot in table.chain(&guard).flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index))) {
            if slot.is_volatile() && !self.is_spared(slot) {
                let entry = table.entry(slot);
                *sampled += 1;
                if let Some(expiry) = entry.expiry()
                    && soonest.as_ref().is_none_or(|(least, ..)| expiry < *least)
                {
                    *soonest = Some((expiry, index, slot.at(), entry.version()));
                }
            }
        }
        guard.unlock_unchanged();
        true
    }

    /// Whether a slot of a locked chain points at the entry that is not to be evicted for the write in hand.
    fn is_spared(&self, slot: Slot) -> bool {
        self.sparing.hash.is_some_and(|hash| {
            slot.tag() == super::bucket::tag(hash) && self.table.hash_of(self.table.entry(slot)) == hash
        })
    }
}

/// The words at which something begins that neither goes nor moves: what is pinned, held or in the limbo, drafts, and
/// what is spared. Gathered when somebody asks.
#[derive(Default)]
struct Kept(Option<Vec<u64>>);

impl Kept {
    /// All of them, in order.
    fn starts<M: Memory>(&mut self, writer: &Writer<M>) -> &[u64] {
        self.0.get_or_insert_with(|| {
            let Writer { table, sparing, .. } = writer;
            let mut starts = table.reclaimer.kept();
            starts.extend(lock(&table.draft_starts).iter());
            starts.extend(sparing.start);
            if let Some(hash) = sparing.hash {
                let guard = table.lock(hash);
                let slots = table.chain(&guard).flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index)));
                starts.extend(slots.filter(|&slot| slot.is_entry() && writer.is_spared(slot)).map(Slot::at));
                guard.unlock_unchanged();
            }
            // Pins may be nonsense (I4).
            starts.retain(|&start| start < table.words().len() as u64);
            starts.sort_unstable();
            starts
        })
    }

    /// Adds what was found to find no other place.
    fn add(&mut self, more: Vec<u64>) {
        let starts = self.0.get_or_insert_default();
        starts.extend(more);
        starts.sort_unstable();
    }
}

/// A worker that is making room, counted.
struct Searching<'a>(&'a AtomicU64);

impl<'a> Searching<'a> {
    fn begin(searchers: &'a AtomicU64) -> Self {
        // Relaxed, here and below: a count that guards no data.
        searchers.fetch_add(1, Ordering::Relaxed);
        Self(searchers)
    }

    fn is_anybody_else(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

impl Drop for Searching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<M: Memory> Table<M> {
    /// Whether the policy lets the entry go that a slot points at.
    pub(super) fn may_go(&self, slot: Slot) -> bool {
        match self.eviction {
            Eviction::Never => false,
            Eviction::AllkeysSieve => !slot.is_unevictable(),
            Eviction::VolatileTtl => slot.is_volatile(),
        }
    }

    /// Whether a slot of that kind in the chain of `hash` points at word `start`.
    fn is_pointed_at(&self, hash: u64, start: u64, kind: fn(Slot) -> bool) -> bool {
        let guard = self.lock(hash);
        let pointed = self.pointer(&guard, start).is_some_and(|(_, _, slot)| kind(slot));
        guard.unlock_unchanged();
        pointed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, heap_words};
    use crate::table::layout::PAGE_WORDS;
    use crate::table::{Guard, Lookup, Mark, Options, Outcome, WriteError};

    type Words = Box<[AtomicU64]>;

    fn writer(pages: usize, eviction: Eviction) -> Writer<Words> {
        let options = Options { buckets: 64, seed: 1, workers: 1, spin_ns: 0, eviction };
        Writer::new(Arc::new(Table::create(heap_words(pages * PAGE_WORDS), &options).unwrap()))
    }

    fn put(writer: &mut Writer<Words>, key: &str, size: usize) -> Result<(), WriteError> {
        let value = vec![key.len() as u8; size];
        writer.put(key.as_bytes(), &value, None, Guard::Always, || 1_000).map(drop)
    }

    fn has(writer: &mut Writer<Words>, key: &str) -> bool {
        matches!(writer.get(key.as_bytes(), || 1_000, &mut crate::table::reader::Presence), Lookup::Hit(_))
    }

    #[test]
    fn the_entry_that_nobody_asked_for_goes_first() {
        let mut writer = writer(256, Eviction::AllkeysSieve);
        let mut count = 0;
        while writer.table.tally.evicted.load(Ordering::Relaxed) == 0 {
            put(&mut writer, &format!("key {count}"), 1_000).unwrap();
            count += 1;
            assert!(has(&mut writer, "key 0"));
        }
        assert!(has(&mut writer, "key 0") && !has(&mut writer, "key 1"));
        for more in count..10 * count {
            put(&mut writer, &format!("key {more}"), 1_000).unwrap();
            assert!(has(&mut writer, "key 0"));
        }
        assert!(writer.table.entries() * 10 > count * 9, "{} of {count}", writer.table.entries());
    }

    #[test]
    fn values_of_any_size_find_room_after_values_of_any_other() {
        let mut writer = writer(128, Eviction::AllkeysSieve);
        for (round, size) in [100, 1 << 20, 5_000, 3 << 20, 17, 200_000, 1_000].into_iter().enumerate() {
            for count in 0..(40 << 20) / (size + 64) {
                put(&mut writer, &format!("{round} {count}"), size).unwrap();
            }
            assert!(writer.table.heap.usage().allocated < 128 * 65_536);
        }
        assert!(writer.table.tally.moved.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn without_eviction_what_is_free_is_gathered_and_nothing_is_lost() {
        let mut writer = writer(64, Eviction::Never);
        let mut keys = Vec::new();
        while put(&mut writer, &format!("key {}", keys.len()), 200).is_ok() {
            keys.push(format!("key {}", keys.len()));
        }
        // Every second one goes: half the memory is free, and no page of it.
        for key in keys.iter().step_by(2) {
            assert!(writer.delete(key.as_bytes(), || 1_000));
        }
        put(&mut writer, "large", 1 << 20).unwrap();
        assert!(has(&mut writer, "large"));
        assert!(keys.iter().skip(1).step_by(2).all(|key| has(&mut writer, key)));
        assert!(matches!(put(&mut writer, "larger", 3 << 20), Err(WriteError::OutOfMemory(_))));
    }

    #[test]
    fn of_entries_that_expire_the_soonest_go() {
        let mut writer = writer(16, Eviction::VolatileTtl);
        put(&mut writer, "stays", 1_000).unwrap();
        let mut count = 0;
        while writer.table.tally.evicted.load(Ordering::Relaxed) < 1_000 {
            let expiry = Some(crate::table::Expiry(2_000 + count * 1_000));
            writer.put(format!("key {count}").as_bytes(), &[0; 1_000], expiry, Guard::Always, || 1_000).unwrap();
            count += 1;
        }
        assert!(has(&mut writer, "stays"));
        let alive = (0..count).filter(|n| has(&mut writer, &format!("key {n}"))).collect::<Vec<_>>();
        let mean = alive.iter().sum::<u64>() / alive.len() as u64;
        assert!(mean > count / 2, "the later ones stay: mean {mean} of {count}");
    }

    /// An overflow bucket whose memory looked like an entry of the same chain was once moved as one, with fewer words
    /// than a bucket has, so that a free list was overwritten: its first word is not used, and holds what was there.
    #[test]
    fn an_overflow_bucket_that_looks_like_an_entry_is_moved_as_what_it_is() {
        let mut writer = writer(16, Eviction::Never);
        writer.table.splitting.store(true, Ordering::Relaxed); // the chains are to be long
        let keys: Vec<String> = (0..1_000).map(|n| format!("key {n}")).collect();
        keys.iter().for_each(|key| put(&mut writer, key, 10).unwrap());
        let table = Arc::clone(&writer.table);
        let links: Vec<u64> = (0..table.buckets())
            .filter_map(|index| {
                let link = table.bucket(index).slot(SLOTS - 1);
                link.is_link().then(|| link.at())
            })
            .collect();
        assert!(links.len() > 32);
        let nameless = crate::table::entry::Shape { key_size: 0, value_size: 3, expires: false };
        for start in links {
            table.words()[start as usize].store(nameless.pack(), Ordering::Relaxed);
            writer.relocate(start, false);
            let gone = (0..table.buckets()).all(|index| table.bucket(index).slot(SLOTS - 1).at() != start);
            assert!(gone, "it was moved");
        }
        assert!(keys.iter().all(|key| has(&mut writer, key)));
        assert_eq!(table.tally.moved.load(Ordering::Relaxed), 0, "no entry was");
    }

    /// Two workers that fill a small table over and over, with long chains: what is moved is as it was, and whole.
    #[test]
    fn what_is_moved_by_several_workers_stays_whole() {
        use std::sync::Arc as Shared;
        let seed =
            std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
        println!("RINGTABLE_TEST_SEED={seed}");
        let options = Options { buckets: 64, seed: 1, workers: 2, spin_ns: 0, eviction: Eviction::AllkeysSieve };
        let table = Shared::new(Table::create(heap_words(48 * PAGE_WORDS), &options).unwrap());
        // It does not grow: all chains are long.
        table.splitting.store(true, Ordering::Relaxed);
        let value_of = |key: u64, size: usize| vec![(key % 251) as u8; size];
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (table, mut random) = (Shared::clone(&table), fastrand::Rng::with_seed(seed ^ worker));
                scope.spawn(move || {
                    let mut writer = Writer::new(table);
                    let mut buffer = crate::table::reader::Buffer::default();
                    for step in 0..100_000 {
                        let key = random.u64(..60_000);
                        // Small ones for a while, then larger ones, so that memory changes hands.
                        let size = 1 << random.usize(0..if step / 5_000 % 2 == 0 { 6 } else { 14 });
                        match random.u8(..8) {
                            0..5 => {
                                let value = value_of(key, random.usize(..=size));
                                let began = std::time::Instant::now();
                                let mut put = || {
                                    let done = writer.put(&key.to_le_bytes(), &value, None, Guard::Always, || 1_000);
                                    (done, writer.take_crowded())
                                };
                                let done = loop {
                                    match put() {
                                        (Err(_), true) if began.elapsed().as_secs() < 60 => {
                                            std::thread::yield_now();
                                        }
                                        (done, _) => break done,
                                    }
                                };
                                assert!(done.is_ok(), "{done:?}");
                            }
                            5..7 => {
                                if let Lookup::Hit(_) = writer.get(&key.to_le_bytes(), || 1_000, &mut buffer) {
                                    let value = buffer.bytes();
                                    assert!(value.iter().all(|&byte| u64::from(byte) == key % 251), "key {key}");
                                }
                            }
                            _ => drop(writer.delete(&key.to_le_bytes(), || 1_000)),
                        }
                    }
                    writer.release();
                });
            }
        });
        // All entries are found by their keys, and there are as many as are counted.
        let mut writer = Writer::new(Shared::clone(&table));
        let (mut cursor, mut found) = (0, 0);
        loop {
            let mut pairs = crate::table::Pairs::default();
            cursor = writer.scan(cursor, crate::table::Want::Values, || 1_000, &mut pairs);
            found += pairs.len() as u64;
            for pair in pairs.iter() {
                assert!(matches!(writer.get(pair.key, || 1_000, &mut crate::table::reader::Presence), Lookup::Hit(_)));
            }
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(found, table.entries());
        while let Some(next) = writer.clear_some(0, u64::MAX >> 1) {
            assert!(next > 0);
        }
        writer.release();
        assert_eq!((table.entries(), table.heap.usage().allocated), (0, 0));
    }

    /// A search that found nothing gave way a thousand times, to nobody: beside programs that compute that took more
    /// than a second, for which all other clients of the worker waited.
    #[test]
    fn who_finds_no_room_waits_only_for_others_that_make_some() {
        let mut writer = writer(32, Eviction::AllkeysSieve);
        for count in 0..5_000 {
            put(&mut writer, &format!("key {count}"), 200).unwrap();
        }
        let table = Arc::clone(&writer.table);
        // Nobody knows of it: as if another worker had it in hand.
        put(&mut writer, "large", 10 * PAGE_WORDS * 8 - 100).unwrap();
        let hash = table.constants().hash(b"large");
        let guard = table.lock(hash);
        let (bucket, index, _) = table.find(&guard, hash, b"large").entry.unwrap();
        let _ = table.take_out(&guard, (bucket, index), Kind::Delete, &mut false);
        guard.unlock();
        let before = crate::sync::YIELDS.get();
        assert!(put(&mut writer, "too large", 25 * PAGE_WORDS * 8).is_err());
        assert!(!writer.take_crowded(), "there is nobody else");
        table.searchers.fetch_add(1, Ordering::Relaxed);
        assert!(put(&mut writer, "too large", 25 * PAGE_WORDS * 8).is_err());
        assert!(writer.take_crowded() && !writer.take_crowded());
        table.searchers.fetch_sub(1, Ordering::Relaxed);
        let mut other = Writer::new(Arc::clone(&table));
        put(&mut other, "small", 10).unwrap();
        assert!(put(&mut writer, "too large", 25 * PAGE_WORDS * 8).is_err());
        assert!(writer.take_crowded(), "the other one holds slots");
        other.heed_recall();
        assert!(put(&mut writer, "too large", 25 * PAGE_WORDS * 8).is_err());
        assert!(!writer.take_crowded());
        assert_eq!(before, crate::sync::YIELDS.get(), "nobody is given way to in the middle of a turn");
    }

    /// Of a write whose condition does not hold nothing is seen, also where it would have had to make room.
    #[test]
    fn a_condition_that_does_not_hold_evicts_nothing() {
        for eviction in [Eviction::AllkeysSieve, Eviction::VolatileTtl] {
            let mut writer = writer(16, eviction);
            let mut write = |key: u64, size: usize, guard: Guard| {
                writer.put(&key.to_le_bytes(), &vec![1; size], Some(Expiry(u64::MAX - 1)), guard, || 1_000).unwrap()
            };
            for key in 0..3_000 {
                write(key, 500, Guard::Always);
            }
            assert_eq!(write(2_999, 200_000, Guard::Absent), Outcome::Refused);
            assert_eq!(write(9_999, 200_000, Guard::Present), Outcome::Refused);
            assert_eq!(write(2_999, 200_000, Guard::Version(1)), Outcome::Refused);
            let (entries, evicted) = (writer.table.entries(), writer.table.tally.evicted.load(Ordering::Relaxed));
            assert_eq!(evicted + entries, 3_000);
        }
    }

    /// A value too large for what may go once took all of that, and was refused. One for which there would be room gets
    /// it, though what stays lies everywhere in between.
    #[test]
    fn of_entries_that_expire_none_goes_in_vain() {
        let mut writer = writer(256, Eviction::VolatileTtl);
        let mut write = |key: u64, size: usize, expiry: Option<Expiry>| {
            writer.put(&key.to_le_bytes(), &vec![1; size], expiry, Guard::Always, || 1_000)
        };
        // A third stays.
        for key in 0..12_000 {
            write(key, 1_000, (key % 3 > 0).then_some(Expiry(1 << 40))).unwrap();
        }
        assert!(matches!(write(20_000, 12 << 20, None), Err(WriteError::OutOfMemory(_))));
        write(20_001, 4 << 20, None).unwrap();
        assert!(matches!(write(20_002, 9 << 20, None), Err(WriteError::OutOfMemory(_))));
        let evicted = writer.table.tally.evicted.load(Ordering::Relaxed);
        assert!((1_000..7_000).contains(&evicted), "{evicted} of 8,000");
        let mut stays = (0..12_000_u64).filter(|key| key % 3 == 0);
        let is_there = |writer: &mut Writer<Words>, key: u64| {
            matches!(writer.get(&key.to_le_bytes(), || 1_000, &mut crate::table::reader::Presence), Lookup::Hit(_))
        };
        assert!(stays.all(|key| is_there(&mut writer, key)));
        assert_eq!(writer.table.entries(), 12_001 - evicted);
    }

    /// A key that has to be there for its own write is not what goes to make room for it.
    #[test]
    fn a_write_never_evicts_the_key_that_it_is_about() {
        for eviction in [Eviction::AllkeysSieve, Eviction::VolatileTtl] {
            let mut writer = writer(16, eviction);
            let mut write = |key: u64, size: usize, expiry: u64, guard: Guard| {
                writer.put(&key.to_le_bytes(), &vec![1; size], Some(Expiry(expiry)), guard, || 1_000)
            };
            // The oldest, and the one that expires soonest.
            write(0, 100, 2_000, Guard::Always).unwrap();
            for key in 1..3_000 {
                write(key, 500, 1 << 40, Guard::Always).unwrap();
                let done = write(0, 100 + key as usize % 50, 2_000, Guard::Present);
                assert!(matches!(done, Ok(Outcome::Done { .. })), "{done:?}");
            }
            let done = write(0, 250_000, 2_000, Guard::Present);
            assert!(matches!(done, Ok(Outcome::Done { .. })), "{done:?}");
        }
    }

    #[test]
    fn what_is_counted_of_entries_that_expire_is_what_there_is() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writer = writer(64, Eviction::VolatileTtl);
        for round in 0..60_000_u64 {
            let (key, size) =
                (random.u64(..20_000).to_le_bytes(), 1 << random.u32(..if round % 500 == 0 { 19 } else { 8 }));
            let expiry = random.bool().then(|| Expiry(2_000 + random.u64(..1_000_000)));
            match random.u8(..10) {
                0 => drop(writer.delete(&key, || 1_000)),
                1 if round % 100 == 0 => drop(writer.sweep_some(u64::MAX >> 1, 2_000 + round * 5)),
                2 if round % 10_000 < 10 => {
                    let mut next = Some(0);
                    while let Some(first) = next {
                        next = writer.clear_some(first, 100);
                    }
                    while writer.table.shrink_some(100) {}
                }
                _ => drop(writer.put(&key, &vec![1; size], expiry, Guard::Always, || 1_000)),
            }
            if round % 5_000 == 4_999 {
                let (mut all, mut amounts) = (0, vec![0; CLASSES + 1]);
                let table = &writer.table;
                for index in 0..table.buckets() {
                    let guard = table.lock_at(index).unwrap();
                    for slot in table.chain(&guard).flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index))) {
                        if slot.is_volatile() {
                            let words = table.entry(slot).shape.words();
                            let kind = heap::kind_of(words);
                            amounts[kind] += if kind < CLASSES { 1 } else { words.div_ceil(PAGE_WORDS) as u64 };
                            all += 1;
                            assert_eq!(table.expiring.as_ref().unwrap().next(index, index + 1), Some(index));
                        }
                    }
                    guard.unlock_unchanged();
                }
                let expiring = table.expiring.as_ref().unwrap();
                assert_eq!(table.tally.expiring.load(Ordering::Relaxed), all);
                assert_eq!((0..=CLASSES).map(|kind| expiring.amount(kind)).collect::<Vec<_>>(), amounts);
                assert_eq!(expiring.all(), all);
            }
        }
    }

    #[test]
    fn what_is_unevictable_stays_whatever_comes() {
        for (eviction, expiry) in [(Eviction::AllkeysSieve, None), (Eviction::VolatileTtl, Some(Expiry(1 << 40)))] {
            let options = Options { buckets: 64, seed: 1, workers: 1, spin_ns: 0, eviction };
            let table = Arc::new(Table::create(heap_words(256 * PAGE_WORDS), &options).unwrap());
            let mut writer = Writer::new(Arc::clone(&table));
            let mut put = |key: &[u8], size: usize, mark: Mark| {
                let outcome = writer.put_marked(key, &vec![1; size], expiry, Guard::Always, mark, || 0);
                outcome.map(|outcome| assert!(matches!(outcome, Outcome::Done { .. })))
            };
            // A third of the table, among others, of all sizes.
            let size_of = |n: u32| if n.is_multiple_of(100) { 70_000 } else { n as usize % 400 };
            let kept: Vec<(Vec<u8>, usize)> = (0..1_500).map(|n: u32| (n.to_le_bytes().to_vec(), size_of(n))).collect();
            for (key, size) in &kept {
                put(key, *size, Mark::Unevictable).unwrap();
                put(&[&key[..], b"other"].concat(), *size, Mark::AsBefore).unwrap();
            }
            for n in 0..20_000_u32 {
                put(&[b"filler", &n.to_le_bytes()[..]].concat(), (n % 3_000) as usize, Mark::AsBefore).unwrap();
                if n % 1_000 == 0 {
                    put(b"large", 500_000, Mark::AsBefore).unwrap();
                }
            }
            // Written again, moved, and given a new time: so they stay.
            for (key, size) in &kept {
                put(key, *size, Mark::AsBefore).unwrap();
            }
            put(b"large", 700_000, Mark::AsBefore).unwrap();
            assert_eq!(table.unevictable().entries(), kept.len() as u64);
            assert!(table.tally().evicted.load(Ordering::Relaxed) > 10_000);
            for (key, size) in &kept {
                let mut buffer = crate::table::reader::Buffer::default();
                assert!(matches!(writer.get(key, || 0, &mut buffer), Lookup::Hit(_)), "{size} bytes");
                assert_eq!(buffer.take(), vec![1; *size]);
            }
            // There is an end to it, and what is refused has evicted nothing.
            let mut put = |key: &[u8], size: usize, mark: Mark| {
                writer.put_marked(key, &vec![1; size], expiry, Guard::Always, mark, || 0)
            };
            let mut n = 0_u32;
            let refused = loop {
                n += 1;
                let evicted = table.tally().evicted.load(Ordering::Relaxed);
                if let Err(error) = put(&[b"more", &n.to_le_bytes()[..]].concat(), 1_000, Mark::Unevictable) {
                    assert_eq!(evicted, table.tally().evicted.load(Ordering::Relaxed));
                    break error;
                }
            };
            assert_eq!(refused, WriteError::UnevictableFull(table.unevictable().bytes_max()));
            put(b"filler", 1_000, Mark::AsBefore).unwrap();
            // What may be evicted again, is.
            for (key, size) in &kept {
                put(key, *size, Mark::Evictable).unwrap();
            }
            assert_eq!(table.unevictable().entries(), u64::from(n) - 1);
            for n in 1..n {
                assert!(writer.delete(&[b"more", &n.to_le_bytes()[..]].concat(), || 0));
            }
            assert_eq!((table.unevictable().entries(), table.unevictable().bytes()), (0, 0));
            writer.put(b"large", &vec![1; 14 << 20], expiry, Guard::Always, || 0).unwrap();
            let mut presence = crate::table::reader::Presence;
            let left = kept.iter().filter(|(key, _)| matches!(writer.get(key, || 0, &mut presence), Lookup::Hit(_)));
            assert!(left.count() < kept.len());
        }
    }

    #[test]
    fn where_nothing_may_be_evicted_writes_are_refused_at_once() {
        let options = Options { buckets: 64, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::AllkeysSieve };
        let table = Arc::new(Table::create(heap_words(32 * PAGE_WORDS), &options).unwrap());
        table.unevictable().limit(u64::MAX);
        let mut writer = Writer::new(Arc::clone(&table));
        let mut n = 0_u64;
        while writer.put_marked(&n.to_le_bytes(), &[1; 500], None, Guard::Always, Mark::Unevictable, || 0).is_ok() {
            n += 1;
        }
        assert!(n > 2_000);
        for size in [1, 500, 5_000, 300_000] {
            let refused = writer.put(b"other", &vec![1; size], None, Guard::Always, || 0);
            assert!(matches!(refused, Err(WriteError::OutOfMemory(_))) || size == 1, "{size} bytes: {refused:?}");
        }
        assert_eq!((table.unevictable().entries(), table.tally().evicted.load(Ordering::Relaxed)), (n, 0));
    }

    #[test]
    fn ids_of_entries_that_are_gone_do_not_pile_up() {
        let mut writer = writer(64, Eviction::AllkeysSieve);
        for round in 0..300_000 {
            put(&mut writer, &format!("key {}", round % 10), 10).unwrap();
            writer.delete(format!("key {}", round % 10).as_bytes(), || 1_000);
        }
        assert!(writer.table.sieve.ids() <= STALE_MIN + 100, "{}", writer.table.sieve.ids());
    }
}
