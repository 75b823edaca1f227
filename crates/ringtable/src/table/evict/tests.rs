//! The promises of evicting and moving, whatever is in the table.

use super::hand::STALE_MIN;
use crate::sync::{Arc, AtomicU64, Ordering, heap_words};
use crate::table::bucket::SLOTS;
use crate::table::change::Removal;
use crate::table::entry::Expiry;
use crate::table::heap::{self, CLASSES};
use crate::table::layout::PAGE_WORDS;
use crate::table::{Eviction, Guard, Lookup, Mark, Options, Outcome, Table, WriteError, Writer};

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
    matches!(writer.get(key.as_bytes(), || 1_000, &mut crate::table::lookup::Presence), Lookup::Hit(_))
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
                let mut buffer = crate::table::lookup::Buffer::default();
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
            assert!(matches!(writer.get(pair.key, || 1_000, &mut crate::table::lookup::Presence), Lookup::Hit(_)));
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
    let _ = table.take_out(&guard, (bucket, index), Removal::Deleted, &mut false);
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
        matches!(writer.get(&key.to_le_bytes(), || 1_000, &mut crate::table::lookup::Presence), Lookup::Hit(_))
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
            let mut buffer = crate::table::lookup::Buffer::default();
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
        let mut presence = crate::table::lookup::Presence;
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
