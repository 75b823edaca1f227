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
//! A move is a write like any other: copy, lock, check that the slot still points at the original, swing it, unlock.
//! The copy keeps the entry's version: to who compares versions, nothing has happened.
//!
//! # Invariants
//!
//! - Nothing is ever lost that the policy does not allow to be evicted.
//! - Every loop ends: each step frees something, or counts towards a limit.

use super::bucket::{BucketRef, SLOTS, Slot};
use super::deadline::Deadline;
use super::entry::{EntryRef, Expiry};
use super::events::Kind;
use super::heap::{Clearing, Heap};
use super::layout::{BUCKET_WORDS, address};
use super::sieve::Id;
use super::writer::{Table, Writer};
use crate::sync::{Arc, Memory, Ordering, copy_words, yield_now};

/// What happens when memory is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// The write is refused.
    #[default]
    Never,
    /// Any entry may go, in the order of [`super::sieve`].
    AllkeysSieve,
    /// Entries with an expiry go, those first that expire soonest, of a sample.
    VolatileTtl,
}

impl Eviction {
    /// All of them, in the order of their numbers in the figures.
    pub const ALL: [Self; 3] = [Self::Never, Self::AllkeysSieve, Self::VolatileTtl];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "noeviction",
            Self::AllkeysSieve => "allkeys-sieve",
            Self::VolatileTtl => "volatile-ttl",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|eviction| eviction.name() == name)
    }
}

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
/// How often a worker that finds nothing to evict gives way to those that have taken it.
const WAITED_MAX: usize = if cfg!(loom) { 0 } else { 1_000 };
/// Clearings without success after which the heap asks all workers for the slots they hold, and which come to an end.
const VAIN_MAX: usize = 8;

impl<M: Memory> Table<M> {
    /// Marks the entries with that hash as used lately.
    pub fn touch(&self, hash: u64) {
        let home = self.bucket(address(hash, self.buckets()));
        let wanted = super::bucket::tag(hash);
        let mut found = false;
        for index in 0..SLOTS {
            let slot = home.slot(index);
            if slot.is_entry() && slot.tag() == wanted {
                found = true;
                if !slot.is_visited() {
                    home.mark_visited(index, slot);
                }
            }
        }
        if found || !home.slot(SLOTS - 1).is_link() {
            return;
        }
        // Overflow buckets may become anything else, so they are marked under the lock alone.
        let guard = self.lock(hash);
        for bucket in self.chain(&guard) {
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot.is_entry() && slot.tag() == wanted {
                    bucket.set_slot(index, slot.with_visited(true));
                }
            }
        }
        guard.unlock_unchanged();
    }

    /// The slot that points at word `start`, in a locked chain.
    fn pointer<'a>(
        &'a self,
        guard: &super::bucket::BucketGuard<'a>,
        start: u64,
    ) -> Option<(BucketRef<'a>, usize, Slot)> {
        self.chain(guard)
            .flat_map(|bucket| (0..SLOTS).map(move |index| (bucket, index, bucket.slot(index))))
            .find(|(_, _, slot)| slot.at() == start && *slot != super::bucket::EMPTY)
    }
}

impl<M: Memory> Writer<M> {
    /// Memory for `words` words that were not to be had: evicts and moves entries until there is. `None` if that does
    /// not help, or is not allowed.
    #[cold]
    pub(super) fn make_room(&mut self, words: usize) -> Option<u64> {
        let table = Arc::clone(&self.table);
        if !table.heap.can_ever_hold(words) {
            return None;
        }
        let pages = Heap::run_pages(words);
        let may_evict = table.eviction == Eviction::AllkeysSieve;
        let (mut vain, mut evicted, mut waited) = (0, 0, 0);
        loop {
            // The slots that we hold back may be what a slab lacks to be empty.
            table.heap.drain(table.words(), &mut self.cache);
            let before = table.heap.usage();
            let page_bytes = (pages * super::layout::PAGE_WORDS * 8) as u64;
            let cleared = if vain >= VAIN_MAX {
                false
            } else if let Some(clearing) = table.heap.close_sparse_slab() {
                self.clear(&clearing, may_evict);
                true
            } else if before.free_pages >= page_bytes + page_bytes / 4
                && let Some(clearing) = table.heap.close_run(pages)
            {
                self.clear(&clearing, may_evict);
                true
            } else {
                false
            };
            if cleared {
                if table.heap.usage().free_pages <= before.free_pages {
                    vain += 1;
                    table.heap.recall();
                }
            } else {
                let mut now = 0;
                while now < EVICTED_AT_ONCE && self.evict(1) == 1 {
                    now += 1;
                    // Most often the first one leaves a slot of the right size.
                    if let Some(start) = table.heap.allocate_at_hand(table.words(), &mut self.cache, words) {
                        return Some(start);
                    }
                }
                if now == 0 {
                    if let Some(start) = self.make_room_at_last(words, may_evict) {
                        return Some(start);
                    }
                    // What there is to evict, or what was freed by it, may be in the hands of other workers, which are
                    // making room themselves: slots that they keep, slabs that they clear. Also if no entry is left.
                    waited += 1;
                    if !may_evict || waited > WAITED_MAX {
                        return None;
                    }
                    yield_now();
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

    /// Moves what lives in a nearly empty slab to others. Returns whether that has freed pages.
    pub fn empty_a_slab(&mut self) -> bool {
        let table = Arc::clone(&self.table);
        table.heap.drain(table.words(), &mut self.cache);
        let before = table.heap.free_pages();
        let Some(clearing) = table.heap.close_sparse_slab() else { return false };
        self.clear(&clearing, false);
        table.heap.free_pages() > before
    }

    /// What remains when nothing can be evicted: gathers what is free, wherever it lies.
    fn make_room_at_last(&mut self, words: usize, may_evict: bool) -> Option<u64> {
        let table = Arc::clone(&self.table);
        let pages = Heap::run_pages(words);
        for _ in 0..VAIN_MAX {
            table.heap.drain(table.words(), &mut self.cache);
            let usage = table.heap.usage();
            // With a margin: what moves leaves gaps too.
            if usage.free_pages + usage.free_slots < (pages * super::layout::PAGE_WORDS * 8) as u64 * 5 / 4 {
                return None;
            }
            let clearing = table.heap.close_run(pages)?;
            self.clear(&clearing, may_evict);
            if let Some(start) = table.allocate(&mut self.cache, words) {
                return Some(start);
            }
            table.heap.recall();
        }
        None
    }

    /// Moves what lives in a clearing, evicts what finds no other place (if it may), and ends the clearing.
    pub(super) fn clear(&mut self, clearing: &Clearing, may_evict: bool) {
        failpoint!("move.closed");
        for &start in &clearing.starts {
            self.relocate(start, may_evict);
        }
        self.table.heap.drain(self.table.words(), &mut self.cache);
        self.table.heap.finish_clearing(clearing);
    }

    /// Moves what lives at word `start`, an entry or an overflow bucket, if anything does.
    ///
    /// What is there may be anything: the rest of an entry that is gone, one that is being written, or an overflow
    /// bucket that looks like an entry. It is believed only if a slot of the right kind points at it.
    pub(super) fn relocate(&mut self, start: u64, may_evict: bool) {
        let table = Arc::clone(&self.table);
        let words = table.words();
        if let Some(entry) = EntryRef::at(words, start)
            && let (hash, version) = (self.hash_of(entry), entry.version())
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
                return;
            };
            if let Some(copy) = copy {
                bucket.set_slot(index, slot.moved_to(copy));
                failpoint!("move.linked");
                guard.unlock();
                failpoint!("move.unlocked");
                table.tally.moved.fetch_add(1, Ordering::Relaxed);
                table.retire_moved(start);
            } else if may_evict {
                let left = table.take_out(&guard, (bucket, index), Kind::Evict, &mut self.published);
                guard.unlock();
                self.free(left);
            } else {
                guard.unlock_unchanged();
            }
            return;
        }
        self.relocate_overflow(start);
    }

    /// Moves the overflow bucket at word `start`, if there is one.
    fn relocate_overflow(&mut self, start: u64) {
        let table = Arc::clone(&self.table);
        let words = table.words();
        let Some(overflow) = BucketRef::at(words, start as usize) else { return };
        // It is never empty, and any entry in it tells which chain it belongs to.
        let inside = (0..SLOTS).map(|index| overflow.slot(index)).filter(|slot| slot.is_entry());
        let Some(hash) =
            inside.filter_map(|slot| EntryRef::at(words, slot.at())).map(|entry| self.hash_of(entry)).next()
        else {
            return;
        };
        if !table.is_pointed_at(hash, start, Slot::is_link) {
            return;
        }
        let Some(copy) = table.heap.allocate(words, &mut self.cache, BUCKET_WORDS) else { return };
        let guard = table.lock(hash);
        let pointer = table.pointer(&guard, start).filter(|(_, _, slot)| slot.is_link());
        let Some((before, index, _)) = pointer else {
            guard.unlock_unchanged();
            return table.heap.free(words, &mut self.cache, copy, BUCKET_WORDS);
        };
        let moved = table.overflow(Slot::link(copy));
        for index in 0..SLOTS {
            moved.set_slot(index, overflow.slot(index));
        }
        before.set_slot(index, Slot::link(copy));
        guard.unlock();
        table.retire_moved(start);
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
                if passed.is_multiple_of(PASSED_PER_CLOCK)
                    && deadline.get_or_insert_with(|| Deadline::after(PASSED_NS_MAX)).has_come()
                {
                    passed = PASSED_MAX;
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
        let goes = evict.is_some_and(|even_if_used| even_if_used || !slot.is_visited());
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
            if let Some(clearing) = table.heap.close_sparse_slab() {
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
        while let Some(first) = table.sieve.needs_refill(table.entries()) {
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
                    if slot.is_entry() {
                        bucket.set_slot(index, slot.with_seen(!mark));
                        ids.push(Id::new(self.hash_of(table.entry(slot))));
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
        // Relaxed: a count; entries that come or go meanwhile are somebody else's luck.
        if table.tally.expiring.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let buckets = table.buckets();
        let begin = fastrand::u64(..buckets);
        let mut sampled = 0;
        let mut soonest: Option<(Expiry, u64, u64, u64)> = None;
        for index in (begin..buckets).chain(0..begin) {
            let Some(guard) = table.lock_at(index) else { continue };
            for slot in table.chain(&guard).flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index))) {
                if slot.is_entry() && slot.expiry_code() != 0 {
                    let entry = table.entry(slot);
                    sampled += 1;
                    if let Some(expiry) = entry.expiry()
                        && soonest.as_ref().is_none_or(|(least, ..)| expiry < *least)
                    {
                        soonest = Some((expiry, index, slot.at(), entry.version()));
                    }
                }
            }
            guard.unlock_unchanged();
            if sampled >= SAMPLE_SIZE {
                break;
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
}

impl<M: Memory> Table<M> {
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
    use crate::table::{Guard, Lookup, Options, WriteError};

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
                                let done = writer.put(&key.to_le_bytes(), &value, None, Guard::Always, || 1_000);
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
