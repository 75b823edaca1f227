//! The end of a chain: what happens when the bucket that a key falls in is full.
//!
//! # Design
//!
//! All that is done to a key goes over its bucket's chain, under the bucket's lock if it is a write. With the seed,
//! which a client can read, one can choose any number of keys that fall into one bucket. So a chain has an end,
//! [`ENTRIES_MAX`]: the cost of a request has one, too, and who chooses such keys fills a bucket and nothing else.
//!
//! Others do not meet it. The table has five entries for each bucket, so that a chain of twenty is an event. Only where
//! growth falls behind chains are long: a few buckets to begin with, and a worker that loses its processor while it
//! splits one; or no room for more buckets. When a chain is at its end, the writer
//!
//! 1. lets growth catch up,
//! 2. removes what has expired,
//! 3. evicts one of the chain's entries, by the table's policy.
//!
//! If none of these helps, the write is refused ([`WriteError::BucketFull`](super::WriteError::BucketFull)). A key that
//! is there is always overwritten: that takes no slot.

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot};
use super::events::Kind;
use super::evict::Eviction;
use super::writer::{Left, Table, Writer};
use crate::limits;
use crate::sync::{Arc, Memory};

/// Most entries of a bucket, those in its overflow buckets included.
pub const ENTRIES_MAX: usize = SLOTS + limits::CHAIN_HOPS_MAX * (SLOTS - 1);

impl<M: Memory> Table<M> {
    /// The slots of a locked chain that hold entries, and where they are.
    fn slots<'a>(&'a self, guard: &BucketGuard<'a>) -> impl Iterator<Item = (BucketRef<'a>, usize, Slot)> {
        self.chain(guard)
            .flat_map(|bucket| (0..SLOTS).map(move |index| (bucket, index, bucket.slot(index))))
            .filter(|(_, _, slot)| slot.is_entry())
    }

    /// Whether another entry finds a place in a locked chain.
    pub(super) fn has_room(&self, guard: &BucketGuard<'_>) -> bool {
        self.chain(guard).count() <= limits::CHAIN_HOPS_MAX || self.has_hole(guard)
    }

    /// Whether it finds one without another overflow bucket.
    pub(super) fn has_hole(&self, guard: &BucketGuard<'_>) -> bool {
        self.chain(guard).any(|bucket| (0..SLOTS).any(|index| bucket.slot(index) == EMPTY))
    }

    /// Takes out of a locked chain what has expired at `now_ms`, of the entries that are worth a look; in one pass,
    /// however many they are. Then unlock, and [`Writer::free`] each.
    pub(super) fn take_expired(
        &self,
        guard: &BucketGuard<'_>,
        mut is_worth_a_look: impl FnMut(Slot) -> bool,
        now_ms: u64,
        published: &mut bool,
    ) -> Vec<Left> {
        let mut left = Vec::new();
        let mut next = Some(guard.bucket);
        while let Some(bucket) = next {
            // Now: the bucket is out of the chain once it is empty.
            let link = bucket.slot(SLOTS - 1);
            for index in 0..SLOTS {
                let slot = bucket.slot(index);
                if slot.is_entry() && is_worth_a_look(slot) && self.entry(slot).has_expired(|| now_ms) {
                    left.push(self.take_out(guard, (bucket, index), Kind::Expire, published));
                }
            }
            next = link.is_link().then(|| self.overflow(link));
        }
        left
    }

    /// The entry of a locked chain that goes first, if the table's policy lets any go.
    fn first_to_go<'a>(&'a self, guard: &BucketGuard<'a>) -> Option<(BucketRef<'a>, usize)> {
        let all: Vec<_> = self.slots(guard).collect();
        let chosen = match self.eviction {
            Eviction::Never => None,
            // Of those that nobody has used lately any one: the first would often be the one that has just come.
            Eviction::AllkeysSieve => {
                let (before, from) = all.split_at(fastrand::usize(..=all.len()));
                let mut round = from.iter().chain(before);
                round.clone().find(|(_, _, slot)| !slot.is_visited()).or(round.next())
            }
            Eviction::VolatileTtl => {
                let expiring = all.iter().filter(|(_, _, slot)| slot.expiry_code() != 0);
                expiring.min_by_key(|(_, _, slot)| self.entry(*slot).expiry())
            }
        };
        chosen.map(|&(bucket, index, _)| (bucket, index))
    }
}

impl<M: Memory> Writer<M> {
    /// Makes room in the chain of a hash, which is at its end. Returns whether there may be some now.
    #[cold]
    pub(super) fn make_way(&mut self, hash: u64, now_ms: u64) -> bool {
        if self.catch_up() {
            return true;
        }
        let table = Arc::clone(&self.table);
        let guard = table.lock(hash);
        if table.has_room(&guard) {
            guard.unlock_unchanged();
            return true;
        }
        let is_expiring = |slot: Slot| slot.expiry_code() != 0;
        let mut left = table.take_expired(&guard, is_expiring, now_ms, &mut self.published);
        if left.is_empty()
            && let Some(place) = table.first_to_go(&guard)
        {
            left.push(table.take_out(&guard, place, Kind::Evict, &mut self.published));
        }
        let is_made = !left.is_empty();
        if is_made {
            guard.unlock()
        } else {
            guard.unlock_unchanged()
        }
        left.into_iter().for_each(|left| self.free(left));
        is_made
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, Ordering, heap_words};
    use crate::table::layout::{H_BUCKETS, PAGE_WORDS, address};
    use crate::table::reader::Presence;
    use crate::table::{Expiry, Guard, Lookup, Options, Outcome, Reader, WriteError};

    type Words = Arc<Box<[AtomicU64]>>;

    /// A table of a thousand buckets, a reader of it, and keys that fall into one of its buckets.
    fn table(eviction: Eviction) -> (Writer<Words>, Reader<Words>, impl Iterator<Item = Vec<u8>>) {
        let words: Words = Arc::new(heap_words(64 * PAGE_WORDS));
        let options = Options { buckets: 1_000, seed: 5, workers: 1, spin_ns: 0, eviction };
        let writer = Writer::new(Arc::new(Table::create(Arc::clone(&words), &options).unwrap()));
        let (reader, constants) = (Reader::attach(words).unwrap(), writer.table().constants().clone());
        let keys = (0_u32..).map(|n| n.to_le_bytes().to_vec());
        (writer, reader, keys.filter(move |key| address(constants.hash(key), 1_000) == 7))
    }

    fn put(writer: &mut Writer<Words>, key: &[u8], expiry: Option<u64>) -> Result<Outcome, WriteError> {
        writer.put(key, b"value", expiry.map(Expiry), Guard::Always, || 1_000)
    }

    fn put_all(writer: &mut Writer<Words>, keys: &[Vec<u8>], expiry: Option<u64>) {
        for key in keys {
            put(writer, key, expiry).unwrap();
        }
    }

    fn count(reader: &Reader<Words>, keys: &[Vec<u8>], now_ms: u64) -> usize {
        let is_there = |key: &&Vec<u8>| matches!(reader.get(key, || now_ms, &mut Presence), Lookup::Hit(_));
        keys.iter().filter(is_there).count()
    }

    #[test]
    fn a_table_refuses_what_would_make_a_chain_longer_and_overwrites_what_is_there() {
        let (mut writer, reader, mut keys) = table(Eviction::Never);
        let there: Vec<_> = keys.by_ref().take(ENTRIES_MAX).collect();
        put_all(&mut writer, &there, None);
        let allocated = writer.table().heap().usage().allocated;
        let more: Vec<_> = keys.take(100).collect();
        for key in &more {
            assert_eq!(put(&mut writer, key, None), Err(WriteError::BucketFull));
            put(&mut writer, &there[7], None).unwrap();
        }
        assert_eq!((count(&reader, &there, 1_000), count(&reader, &more, 1_000)), (ENTRIES_MAX, 0));
        assert_eq!(writer.table().entries(), ENTRIES_MAX as u64);
        assert!(writer.table().heap().usage().allocated <= allocated + (1 << 16), "what was refused is free");
        // Of other buckets nothing is refused, and room is room.
        let elsewhere = (0..1_000_u64).map(|n| n.to_le_bytes().to_vec());
        let elsewhere: Vec<_> = elsewhere.filter(|key| address(reader.hash(key), 1_000) != 7).collect();
        put_all(&mut writer, &elsewhere, None);
        assert!(writer.delete(&there[7], || 1_000));
        assert!(put(&mut writer, &more[0], None).is_ok());
        assert_eq!(put(&mut writer, &more[1], None), Err(WriteError::BucketFull));
    }

    #[test]
    fn what_has_expired_makes_way() {
        let (mut writer, reader, mut keys) = table(Eviction::Never);
        let there: Vec<_> = keys.by_ref().take(ENTRIES_MAX).collect();
        put_all(&mut writer, &there, Some(2_000));
        let more: Vec<_> = keys.take(ENTRIES_MAX).collect();
        assert_eq!(put(&mut writer, &more[0], None), Err(WriteError::BucketFull));
        for key in &more {
            writer.put(key, b"", None, Guard::Always, || 2_000).unwrap();
        }
        assert_eq!((count(&reader, &there, 1_000), count(&reader, &more, 1_000)), (0, ENTRIES_MAX));
        assert_eq!(writer.table().tally().expired.load(Ordering::Relaxed), ENTRIES_MAX as u64);
        assert!(!writer.has_expiring());
    }

    #[test]
    fn a_cache_evicts_within_the_chain_what_nobody_uses() {
        let (mut writer, reader, mut keys) = table(Eviction::AllkeysSieve);
        put(&mut writer, b"elsewhere", None).unwrap();
        let used: Vec<_> = keys.by_ref().take(100).collect();
        put_all(&mut writer, &used, None);
        for key in keys.take(2_000) {
            for key in &used {
                assert!(matches!(writer.get(key, || 1_000, &mut Presence), Lookup::Hit(_)));
            }
            put(&mut writer, &key, None).unwrap();
            assert_eq!(count(&reader, &[key], 1_000), 1, "the new one is there");
        }
        assert_eq!(count(&reader, &used, 1_000), 100);
        assert_eq!(count(&reader, &[b"elsewhere".to_vec()], 1_000), 1);
        assert_eq!(writer.table().entries(), ENTRIES_MAX as u64 + 1);
        assert_eq!(writer.table().tally().evicted.load(Ordering::Relaxed), 2_100 - ENTRIES_MAX as u64);
    }

    #[test]
    fn of_those_that_expire_the_soonest_goes_and_no_other() {
        let (mut writer, reader, mut keys) = table(Eviction::VolatileTtl);
        let lasting: Vec<_> = keys.by_ref().take(ENTRIES_MAX - 2).collect();
        put_all(&mut writer, &lasting, None);
        let expiring: Vec<_> = keys.by_ref().take(4).collect();
        for (key, at) in expiring.iter().zip([9_000, 8_000, 7_000, 6_000]) {
            put(&mut writer, key, Some(at)).unwrap();
        }
        // The third took the place of the second, and the fourth that of the third.
        assert_eq!((0..4).map(|n| count(&reader, &expiring[n..=n], 1_000)).collect::<Vec<_>>(), [1, 0, 0, 1]);
        let last: Vec<_> = keys.take(3).collect();
        assert!(put(&mut writer, &last[0], None).is_ok() && put(&mut writer, &last[1], None).is_ok());
        assert_eq!(put(&mut writer, &last[2], None), Err(WriteError::BucketFull));
        assert_eq!(count(&reader, &lasting, 1_000), ENTRIES_MAX - 2);
    }

    /// As when a worker loses its processor while it splits one of few buckets, and the others go on.
    #[test]
    fn growth_that_has_fallen_behind_catches_up() {
        let words: Words = Arc::new(heap_words(64 * PAGE_WORDS));
        let options = Options { buckets: 1, seed: 5, workers: 2, spin_ns: 0, eviction: Eviction::Never };
        let table = Arc::new(Table::create(Arc::clone(&words), &options).unwrap());
        let (mut writer, reader) = (Writer::new(Arc::clone(&table)), Reader::attach(words).unwrap());
        let keys: Vec<_> = (0..1_000_u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let (first, more) = keys.split_at(ENTRIES_MAX);
        table.alone(|| put_all(&mut writer, first, None)).unwrap();
        assert_eq!(table.buckets(), 1);
        // Once more, with somebody to wait for.
        let (held, go_on) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                table.alone(|| {
                    held.wait();
                    go_on.wait();
                })
            });
            held.wait();
            scope.spawn(|| go_on.wait());
            put_all(&mut writer, more, None);
        });
        assert_eq!(count(&reader, &keys, 1_000), keys.len());
        assert!(table.entries() <= (table.buckets() + 2) * limits::BUCKET_LOAD);
    }

    /// A full table of the smallest entries, however few buckets it began with: it is memory that is short, not room in
    /// a chain.
    #[test]
    fn a_full_table_of_small_entries_is_short_of_memory_and_not_of_slots() {
        for (buckets, pages) in [(1, 64), (1, 1_024), (10_000, 1_024)] {
            let options = Options { buckets, seed: 5, workers: 1, spin_ns: 0, eviction: Eviction::Never };
            let table = Arc::new(Table::create(heap_words(pages * PAGE_WORDS), &options).unwrap());
            let mut writer = Writer::new(Arc::clone(&table));
            let refused = (0_u32..).find_map(|n| writer.put(&n.to_le_bytes(), b"", None, Guard::Always, || 0).err());
            assert!(matches!(refused, Some(WriteError::OutOfMemory(_))), "{refused:?}");
            let longest = (0..table.words()[H_BUCKETS].load(Ordering::Relaxed))
                .map(|index| {
                    let guard = table.lock_at(index).unwrap();
                    let entries = table.slots(&guard).count();
                    guard.unlock_unchanged();
                    entries
                })
                .max();
            println!("{buckets} buckets at first, {pages} pages: {longest:?} entries at most, {}", table.entries());
            assert!(longest.is_some_and(|longest| longest < ENTRIES_MAX / 4), "{longest:?}");
        }
    }
}
