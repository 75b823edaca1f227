//! The end of a chain: what happens when the bucket that a key falls in is full.
//!
//! # Design
//!
//! All that is done to a key goes over its bucket's chain, under the bucket's lock if it is a write. With the seed,
//! which a client can read, one can choose any number of keys that fall into one bucket. So a chain has an end,
//! [`super::bucket::ENTRIES_MAX`]: the cost of a request has one, too, and who chooses such keys fills a bucket and
//! nothing else. For the same reason the long keys of a chain have so many bytes together at most,
//! [`limits::CHAIN_KEYS_SIZE_MAX`]: keys that differ in their last bytes only are compared to their ends. Their sum is
//! computed when a long key comes, and costs nobody else anything.
//!
//! Others do not meet it. The table has five entries for each bucket, so that a chain of twenty is an event. Only where
//! growth falls behind chains are long: a few buckets to begin with, and a worker that loses its processor while it
//! splits one; or no room for more buckets. When a chain is at its end, the writer
//!
//! 1. lets growth catch up,
//! 2. removes what has expired,
//! 3. evicts one of the chain's entries, by the table's policy.
//!
//! If it is its long keys that are at their end, only long ones go, as many as it takes. If none of these helps, the
//! write is refused ([`WriteError::BucketFull`], [`WriteError::BucketKeysFull`]), and has evicted nothing. A key that
//! is there is always overwritten: that takes no slot.

use super::bucket::{BucketGuard, BucketRef, EMPTY, SLOTS, Slot};
use super::change::Removal;
use super::error::WriteError;
use super::options::Eviction;
use super::table::Table;
use super::writer::Writer;
use crate::limits;
use crate::sync::{Arc, Memory};

impl<M: Memory> Table<M> {
    /// Whether another entry with a key of so many bytes finds a place in a locked chain.
    pub(super) fn has_room(&self, guard: &BucketGuard<'_>, key_size: usize) -> bool {
        let has_slot = self.chain(guard).count() <= limits::CHAIN_HOPS_MAX || self.has_hole(guard);
        has_slot && self.takes_key(guard, key_size)
    }

    /// Whether a locked chain takes another key of so many bytes, if there is a slot.
    #[inline]
    pub(super) fn takes_key(&self, guard: &BucketGuard<'_>, key_size: usize) -> bool {
        key_size <= limits::LONG_KEY_SIZE || self.takes_long_key(guard, key_size, |_| true)
    }

    /// Whether a locked chain would take another long key, if it had only those of its entries that `stay`.
    #[cold]
    fn takes_long_key(&self, guard: &BucketGuard<'_>, key_size: usize, mut stays: impl FnMut(Slot) -> bool) -> bool {
        let staying = self.entry_slots(guard).map(|(_, _, slot)| slot).filter(|&slot| stays(slot));
        let long: usize = staying.map(|slot| self.long_key_size(slot)).sum();
        long + key_size <= limits::CHAIN_KEYS_SIZE_MAX
    }

    /// Bytes of an entry's key if it is a long one, else 0.
    fn long_key_size(&self, slot: Slot) -> usize {
        Some(self.entry(slot).shape.key_size).filter(|&size| size > limits::LONG_KEY_SIZE).unwrap_or(0)
    }

    /// Whether it finds one without another overflow bucket.
    pub(super) fn has_hole(&self, guard: &BucketGuard<'_>) -> bool {
        self.chain(guard).any(|bucket| (0..SLOTS).any(|index| bucket.slot(index) == EMPTY))
    }

    /// The entry of a locked chain that goes first for a key of so many bytes, if any may go.
    fn first_to_go<'a>(&'a self, guard: &BucketGuard<'a>, key_size: usize) -> Option<(BucketRef<'a>, usize)> {
        let only_long = !self.takes_key(guard, key_size);
        if only_long && !self.takes_long_key(guard, key_size, |slot| !self.may_go(slot)) {
            return None;
        }
        let would_help = |slot: Slot| self.may_go(slot) && (!only_long || self.long_key_size(slot) > 0);
        let all: Vec<_> = self.entry_slots(guard).filter(|&(_, _, slot)| would_help(slot)).collect();
        let chosen = match self.eviction {
            Eviction::Never => None,
            // Of those that nobody has used lately any one: the first would often be the one that has just come.
            Eviction::AllkeysSieve => {
                let (before, from) = all.split_at(fastrand::usize(..=all.len()));
                let mut round = from.iter().chain(before);
                round.clone().find(|(_, _, slot)| !slot.is_visited()).or(round.next())
            }
            Eviction::VolatileTtl => all.iter().min_by_key(|(_, _, slot)| self.entry(*slot).expiry()),
        };
        chosen.map(|&(bucket, index, _)| (bucket, index))
    }
}

impl<M: Memory> Writer<M> {
    /// Makes room for a key of so many bytes in the chain of a hash, which is at its end. There may be some then.
    ///
    /// # Errors
    /// Which end it is, if there is none.
    #[cold]
    pub(super) fn make_way(&mut self, hash: u64, key_size: usize, now_ms: u64) -> Result<(), WriteError> {
        if self.catch_up() {
            return Ok(());
        }
        let table = Arc::clone(&self.table);
        let guard = table.lock(hash);
        if table.has_room(&guard, key_size) {
            guard.unlock_unchanged();
            return Ok(());
        }
        let is_expiring = |slot: Slot| slot.expiry_code() != 0;
        let mut left = table.take_expired(&guard, is_expiring, now_ms, &mut self.published);
        // More than once only for a long key, which takes the place of shorter ones.
        while !table.has_room(&guard, key_size)
            && let Some(place) = table.first_to_go(&guard, key_size)
        {
            left.push(table.take_out(&guard, place, Removal::Evicted, &mut self.published));
        }
        let takes_key = table.takes_key(&guard, key_size);
        let has_room = table.has_room(&guard, key_size);
        if left.is_empty() {
            guard.unlock_unchanged()
        } else {
            guard.unlock()
        }
        left.into_iter().for_each(|left| self.free(left));
        match (has_room, takes_key) {
            (true, _) => Ok(()),
            (false, true) => Err(WriteError::BucketFull),
            (false, false) => Err(WriteError::BucketKeysFull),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::bucket::ENTRIES_MAX;
    use super::*;
    use crate::sync::{AtomicU64, Ordering, heap_words};
    use crate::table::layout::{H_BUCKETS, PAGE_WORDS, address};
    use crate::table::lookup::Presence;
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

    const LONGEST_MAX: usize = limits::CHAIN_KEYS_SIZE_MAX / limits::KEY_SIZE_MAX;

    /// A table of a hundred buckets with room for long keys, and such keys that fall into one of them.
    fn table_for_long_keys(eviction: Eviction) -> (Writer<Words>, impl Fn(usize, usize) -> Vec<Vec<u8>>) {
        let options = Options { buckets: 100, seed: 5, workers: 1, spin_ns: 0, eviction };
        let table = Table::create(Arc::new(heap_words(1_024 * PAGE_WORDS)), &options).unwrap();
        let constants = table.constants().clone();
        // They differ at their ends only, so that each is compared as a whole.
        let keys = move |size: usize, count: usize| {
            let all = (0..10_000_000_u64).map(|n| [&vec![7; size - 8][..], &n.to_le_bytes()].concat());
            all.filter(|key| address(constants.hash(key), 100) == 7).take(count).collect()
        };
        (Writer::new(Arc::new(table)), keys)
    }

    fn is_there(writer: &mut Writer<Words>, key: &[u8]) -> bool {
        matches!(writer.get(key, || 1_000, &mut Presence), Lookup::Hit(_))
    }

    /// 259 of them once were 16 MiB to compare for each request, and to copy for each step of a walk.
    #[test]
    fn a_chain_has_so_many_bytes_of_long_keys_and_no_more() {
        let (mut writer, keys) = table_for_long_keys(Eviction::Never);
        let long = keys(limits::KEY_SIZE_MAX, LONGEST_MAX + 10);
        let (there, more) = long.split_at(LONGEST_MAX);
        put_all(&mut writer, there, None);
        let allocated = writer.table().heap().usage().allocated;
        for key in more {
            assert_eq!(put(&mut writer, key, None), Err(WriteError::BucketKeysFull));
            assert!(!is_there(&mut writer, key));
            put(&mut writer, &there[3], None).unwrap();
        }
        assert!(writer.table().heap().usage().allocated <= allocated + (1 << 18), "what was refused is free");
        // Shorter ones have all of the slots.
        let short = keys(limits::LONG_KEY_SIZE, ENTRIES_MAX - LONGEST_MAX + 1);
        let (last, short) = short.split_last().unwrap();
        put_all(&mut writer, short, None);
        assert_eq!(put(&mut writer, last, None), Err(WriteError::BucketFull));
        assert!(there.iter().chain(short).all(|key| is_there(&mut writer, key)));
        // Room is room.
        assert!(writer.delete(&there[0], || 1_000));
        put(&mut writer, &more[0], None).unwrap();
        assert!(writer.delete(&short[0], || 1_000));
        assert_eq!(put(&mut writer, &more[1], None), Err(WriteError::BucketKeysFull));
    }

    #[test]
    fn a_cache_evicts_long_keys_for_a_long_one() {
        let (mut writer, keys) = table_for_long_keys(Eviction::AllkeysSieve);
        let short = keys(100, 20);
        put_all(&mut writer, &short, None);
        let long = keys(10_000, 230);
        put_all(&mut writer, &long, None);
        let before = writer.table().entries();
        let longest = keys(limits::KEY_SIZE_MAX, 100);
        for key in &longest {
            put(&mut writer, key, None).unwrap();
            assert!(is_there(&mut writer, key), "the new one is there");
        }
        assert!(short.iter().all(|key| is_there(&mut writer, key)), "short ones would not have helped");
        let count =
            |writer: &mut Writer<Words>, keys: &[Vec<u8>]| keys.iter().filter(|key| is_there(writer, key)).count();
        let (long, longest) = (count(&mut writer, &long), count(&mut writer, &longest));
        let size = long * 10_000 + longest * limits::KEY_SIZE_MAX;
        let most = limits::CHAIN_KEYS_SIZE_MAX;
        assert!(size <= most && size > most - 2 * limits::KEY_SIZE_MAX, "{size} of {most}, {before} entries before");
    }

    #[test]
    fn what_is_refused_for_its_long_key_evicts_nothing_and_what_has_expired_makes_way() {
        let (mut writer, keys) = table_for_long_keys(Eviction::VolatileTtl);
        let lasting = keys(limits::KEY_SIZE_MAX, LONGEST_MAX);
        let (longest, lasting) = lasting.split_last().unwrap();
        put_all(&mut writer, lasting, None);
        // What is left of the bytes is enough for one of the longest, and a few of these go for it.
        let expiring = keys(limits::LONG_KEY_SIZE + 1, 64);
        put_all(&mut writer, &expiring[..63], Some(9_000));
        put(&mut writer, longest, None).unwrap();
        let evicted = writer.table().tally().evicted.load(Ordering::Relaxed);
        assert!((60..=63).contains(&evicted), "{evicted}");
        // Of those that are left none would make enough room.
        let entries = writer.table().entries();
        let other = keys(30_000, 1);
        assert_eq!(put(&mut writer, &other[0], None), Err(WriteError::BucketKeysFull));
        assert_eq!(writer.table().entries(), entries);
        assert!(writer.delete(&lasting[0], || 1_000));
        put(&mut writer, &other[0], Some(2_000)).unwrap();
        assert_eq!(writer.put(longest, b"", None, Guard::Absent, || 2_000), Ok(Outcome::Refused));
        assert!(writer.put(&lasting[0], b"", None, Guard::Always, || 2_000).is_ok());
        assert_eq!(writer.table().tally().expired.load(Ordering::Relaxed), 1);
    }

    /// A table of the longest keys alone, grown from one bucket: others do not meet the limit.
    #[test]
    fn a_table_of_long_keys_is_short_of_memory_and_not_of_room_in_a_chain() {
        for buckets in [1, 1_000] {
            let options = Options { buckets, seed: 5, workers: 1, spin_ns: 0, eviction: Eviction::Never };
            let table = Arc::new(Table::create(heap_words(1_024 * PAGE_WORDS), &options).unwrap());
            let mut writer = Writer::new(Arc::clone(&table));
            let key = |n: u64| [&vec![7; limits::KEY_SIZE_MAX - 8][..], &n.to_le_bytes()].concat();
            let refused = (0..).find_map(|n| writer.put(&key(n), b"", None, Guard::Always, || 0).err());
            assert!(matches!(refused, Some(WriteError::OutOfMemory(_))), "{refused:?} after {}", table.entries());
        }
    }

    /// Half a gigabyte once was hashed before it was found to be no key.
    #[test]
    fn what_is_too_long_for_a_key_is_absent() {
        let (mut writer, _, _) = table(Eviction::Never);
        let key = vec![7; limits::KEY_SIZE_MAX + 1];
        assert_eq!(put(&mut writer, &key, None), Err(WriteError::KeyTooLong(key.len())));
        assert!(!is_there(&mut writer, &key) && !writer.delete(&key, || 1_000));
        assert!(writer.hold(&key, || 1_000).is_none());
        assert_eq!(writer.expire(&key, Expiry(2_000), || 1_000), Ok(false));
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
        for (buckets, pages) in [(1, 64), (1, 512), (10_000, 512)] {
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
