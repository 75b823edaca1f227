//! The table as a whole, on the heap: against a plain map, with growth, overflow and full memory, and under readers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64 as Counter, Ordering::Relaxed};

use super::lookup::{Buffer, Presence};
use super::reclaim::Pinned;
use super::*;
use crate::limits;
use crate::sync::{Arc, AtomicU64, heap_words};

type Words = Arc<Box<[AtomicU64]>>;

/// A table of `pages` pages of 64 KiB, and a reader of it.
fn table(pages: usize, buckets: u64) -> (Writer<Words>, Reader<Words>) {
    let words: Words = Arc::new(heap_words(pages * layout::PAGE_WORDS));
    let options = Options { buckets, seed: 42, workers: 1, spin_ns: 0, eviction: Eviction::Never };
    let table = Arc::new(Table::create(Arc::clone(&words), &options).unwrap());
    (Writer::new(table), Reader::attach(words).unwrap())
}

fn no_time() -> u64 {
    1_000
}

fn get(reader: &Reader<Words>, key: &[u8]) -> Option<Vec<u8>> {
    let mut value = Buffer::default();
    match reader.get(key, no_time, &mut value) {
        Lookup::Hit(_) => Some(value.take()),
        Lookup::Miss | Lookup::Expired => None,
        other => panic!("{other:?}"),
    }
}

fn seeded() -> fastrand::Rng {
    let seed =
        std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("RINGTABLE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

#[test]
fn smoke() {
    let (mut writer, reader) = table(8, 16);
    assert_eq!(get(&reader, b"key"), None);
    let outcome = writer.put(b"key", b"value", None, Guard::Always, no_time).unwrap();
    assert!(matches!(outcome, Outcome::Done { inserted: true, .. }));
    assert_eq!(get(&reader, b"key").unwrap(), b"value");
    assert!(writer.delete(b"key", no_time));
    assert!(!writer.delete(b"key", no_time));
    assert_eq!(get(&reader, b"key"), None);
}

#[test]
fn keys_and_values_of_all_sizes_come_back() {
    let (mut writer, reader) = table(256, 16);
    for (key_size, value_size) in
        [(0, 0), (1, 0), (7, 7), (8, 8), (9, 4_095), (64, 4_096), (65_535, 100_000), (3, 300_000), (16, 5_000_000)]
    {
        let (key, value) = (vec![b'k'; key_size], (0..value_size).map(|n| n as u8).collect::<Vec<u8>>());
        writer.put(&key, &value, None, Guard::Always, no_time).unwrap();
        assert_eq!(get(&reader, &key), Some(value), "key of {key_size}, value of {value_size} bytes");
    }
    assert_eq!(writer.put(&[0; 65_536], b"", None, Guard::Always, no_time), Err(WriteError::KeyTooLong(65_536)));
}

#[test]
fn guards_hold() {
    let (mut writer, _) = table(8, 16);
    let mut put = |value: &[u8], guard| writer.put(b"key", value, None, guard, no_time).unwrap();
    assert_eq!(put(b"0", Guard::Present), Outcome::Refused);
    assert_eq!(put(b"0", Guard::Version(1)), Outcome::Refused);
    let Outcome::Done { version, inserted: true } = put(b"1", Guard::Absent) else { panic!() };
    assert_eq!(put(b"2", Guard::Absent), Outcome::Refused);
    let Outcome::Done { version: second, inserted: false } = put(b"3", Guard::Version(version)) else { panic!() };
    assert_eq!(put(b"4", Guard::Version(version)), Outcome::Refused);
    assert!(second > version);
}

#[test]
fn a_version_never_comes_again() {
    let (mut writer, reader) = table(64, 1);
    let mut seen = std::collections::HashSet::new();
    for round in 0..200_u32 {
        writer.put(b"key", b"x", None, Guard::Always, no_time).unwrap();
        let Lookup::Hit(found) = reader.get(b"key", no_time, &mut Presence) else { panic!() };
        assert!(seen.insert(found.version));
        writer.delete(b"key", no_time);
        // Makes the table grow, so that the key moves between buckets.
        writer.put(&round.to_le_bytes(), b"", None, Guard::Always, no_time).unwrap();
    }
}

#[test]
fn an_entry_whose_time_has_passed_is_absent() {
    let (mut writer, reader) = table(8, 16);
    writer.put(b"key", b"old", Some(Expiry(2_000)), Guard::Always, no_time).unwrap();
    let look = |now_ms: u64| reader.get(b"key", || now_ms, &mut Presence);
    assert!(matches!(look(1_999), Lookup::Hit(found) if found.expiry == Some(Expiry(2_000))));
    assert_eq!(look(2_000), Lookup::Expired);
    let outcome = writer.put(b"key", b"new", None, Guard::Absent, || 2_000).unwrap();
    assert!(matches!(outcome, Outcome::Done { inserted: true, .. }));
    assert_eq!(writer.table().entries(), 1, "the old entry was replaced, not doubled");
    writer.put(b"gone", b"", Some(Expiry(5)), Guard::Always, || 0).unwrap();
    assert!(!writer.delete(b"gone", || 5), "deleting what has passed reports nothing");
    assert_eq!(writer.table().entries(), 1);
}

#[test]
fn random_operations_agree_with_a_plain_map() {
    let mut random = seeded();
    let (mut writer, reader) = table(96, 1 + random.u64(..20));
    let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for step in 0..60_000 {
        let key = format!("key{}", random.u32(..4_000)).into_bytes();
        match random.u8(..20) {
            0..10 => {
                let size = if random.u8(..50) == 0 { random.usize(..100_000) } else { random.usize(..200) };
                let value = vec![random.u8(..); size];
                match writer.put(&key, &value, None, Guard::Always, no_time) {
                    Ok(_) => drop(model.insert(key, value)),
                    Err(WriteError::OutOfMemory(_)) => {
                        assert_eq!(get(&reader, &key), model.get(&key).cloned(), "a refused write changes nothing");
                        for victim in model.keys().take(200).cloned().collect::<Vec<_>>() {
                            assert!(writer.delete(&victim, no_time));
                            model.remove(&victim);
                        }
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            10..14 => assert_eq!(writer.delete(&key, no_time), model.remove(&key).is_some()),
            14..19 => assert_eq!(get(&reader, &key), model.get(&key).cloned()),
            _ if step % 10_000 == 0 => {
                let mut next = Some(0);
                while let Some(first) = next {
                    next = writer.clear_some(first, 7);
                }
                model.clear();
            }
            _ => {}
        }
        assert_eq!(reader.entries(), model.len() as u64);
    }
    let (mut pairs, mut cursor) = (Pairs::default(), 0);
    loop {
        cursor = reader.scan(cursor, Want::Values, no_time, &mut pairs).unwrap();
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(pairs.len(), model.len());
    assert!(pairs.iter().all(|pair| model[pair.key] == pair.value));
    println!("{} entries in {} buckets", model.len(), writer.table().buckets());
}

#[test]
fn a_bucket_read_is_the_whole_chain() {
    let (mut writer, reader) = table(8, 1);
    for n in 0..500_u32 {
        writer.put(&n.to_le_bytes(), b"v", None, Guard::Always, no_time).unwrap();
    }
    let mut seen = 0;
    for n in 0..500_u32 {
        let (mut pairs, mut seen_by_writer) = (Pairs::default(), Pairs::default());
        reader.read_bucket(&n.to_le_bytes(), Want::Values, no_time, &mut pairs).unwrap();
        let held = writer.read_bucket(&n.to_le_bytes(), usize::MAX, no_time, &mut seen_by_writer).unwrap();
        assert!(seen_by_writer.size() <= limits::COPIED_LOCKED_MAX, "others wait meanwhile");
        held.iter().for_each(|held| seen_by_writer.push(&held.key(), held.bytes()).expect("there is memory"));
        assert!(pairs.iter().eq(seen_by_writer.iter()));
        assert!(pairs.iter().any(|pair| pair.key == n.to_le_bytes() && pair.value == b"v"));
        seen += 1;
    }
    assert_eq!(seen, 500);
}

#[test]
fn of_a_large_bucket_little_is_copied_while_it_is_locked() {
    let (mut writer, reader) = table(64, 1);
    let sizes = [10, 3_000, 1_000_000, 500, 2_000];
    for size in sizes {
        writer.put(&[size as u8; 16], &vec![size as u8; size], None, Guard::Always, no_time).unwrap();
    }
    writer.put(b"gone", b"value", Some(Expiry(no_time())), Guard::Always, || 0).unwrap();
    assert_eq!(writer.table().buckets(), 2, "the model is too small");
    for size in sizes {
        let (mut pairs, mut copied) = (Pairs::default(), Pairs::default());
        reader.read_bucket(&[size as u8; 16], Want::Values, no_time, &mut pairs).unwrap();
        let held = writer.read_bucket(&[size as u8; 16], usize::MAX, no_time, &mut copied).unwrap();
        assert!(copied.size() <= limits::COPIED_LOCKED_MAX && held.iter().all(|held| held.found().size >= 1_000));
        assert_eq!(writer.table().reclaimer().holds(), held.len() as u64);
        held.iter().for_each(|held| copied.push(&held.key(), held.bytes()).expect("there is memory"));
        let sorted = |pairs: &Pairs| {
            let mut all: Vec<_> = pairs.iter().map(|pair| (pair.key.to_vec(), pair.value.to_vec())).collect();
            all.sort();
            all
        };
        assert!(sorted(&copied) == sorted(&pairs));
        let all = pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum::<usize>();
        assert!(writer.read_bucket(&[size as u8; 16], all - 1, no_time, &mut Pairs::default()).is_err());
    }
    assert_eq!(writer.table().reclaimer().holds(), 0);
}

#[test]
fn without_room_for_buckets_chains_grow_and_nothing_is_lost() {
    let (mut writer, reader) = table(6, 1_024); // one page of buckets, four of entries
    let mut stored = 0_u32;
    while writer.put(&stored.to_le_bytes(), b"", None, Guard::Always, no_time).is_ok() {
        stored += 1;
    }
    assert!(stored > 5 * 1_024, "{stored}"); // more than the load at which it would grow
    for n in 0..stored {
        assert!(get(&reader, &n.to_le_bytes()).is_some());
    }
    for n in 0..stored {
        assert!(writer.delete(&n.to_le_bytes(), no_time));
    }
    assert_eq!(reader.entries(), 0);
}

#[test]
fn a_scan_during_growth_reports_every_old_key_exactly_once() {
    let mut random = seeded();
    let (mut writer, reader) = table(64, 3);
    for n in 0..300_u32 {
        writer.put(&n.to_le_bytes(), b"", None, Guard::Always, no_time).unwrap();
    }
    let (mut cursor, mut added, mut seen) = (0, 1_000_u32, HashMap::<Vec<u8>, u32>::new());
    loop {
        let mut pairs = Pairs::default();
        cursor = reader.scan(cursor, Want::Keys, no_time, &mut pairs).unwrap();
        for pair in pairs.iter() {
            *seen.entry(pair.key.to_vec()).or_default() += 1;
        }
        if cursor == 0 {
            break;
        }
        for _ in 0..random.u32(..10) {
            writer.put(&added.to_le_bytes(), b"", None, Guard::Always, no_time).unwrap();
            added += 1;
        }
    }
    assert!((0..300_u32).all(|n| seen.get(&n.to_le_bytes()[..]) == Some(&1)));
    assert!(seen.values().all(|&count| count == 1));
}

/// Seen by others while one worker deletes what another has inserted and not counted yet.
#[test]
fn a_count_below_nothing_is_none() {
    let (writer, reader) = table(8, 1);
    writer.table().add_entries(-1);
    assert_eq!((writer.table().entries(), reader.entries()), (0, 0));
    writer.table().add_entries(3);
    assert_eq!((writer.table().entries(), reader.entries()), (2, 2));
}

/// A worker that locked the last bucket after it was given up, and was stopped, once took the one that was made in its
/// place for it, if the memory had gone back to the kernel: both had the same version.
#[test]
fn a_bucket_that_is_made_anew_is_not_the_one_that_was_given_up() {
    let first = layout::PAGE_BUCKETS as u64;
    let (mut writer, _) = table(96, first); // the next bucket has a page of its own
    let table = Arc::clone(writer.table());
    assert_eq!(table.alone(|| writer.split_one()), Some(true));
    table.shrink_some(1);
    assert_eq!(table.buckets(), first);
    let late = table.bucket(first).lock();
    table.give_back_bucket_pages(1, |page, count| {
        let words = &table.words()[page * layout::PAGE_WORDS..][..count * layout::PAGE_WORDS];
        words.iter().for_each(|word| word.store(0, Relaxed));
    });
    let source = table.bucket(layout::split_source(first)).lock();
    let anew = table.bucket(first).new_locked(source.version);
    assert!(!late.is_ours(), "version {} is there twice", late.version);
    late.abandon();
    assert!(anew.is_ours(), "it was opened by who has not locked it");
    anew.unlock();
    source.unlock();
}

/// What the models cannot show, loads that are still on their way: a client's last look at what it has pinned is over
/// before its memory is used again.
#[test]
fn what_is_pinned_stays_while_everything_is_replaced() {
    const KEYS: u64 = 4;
    const VALUE_SIZE: usize = 200;
    const ROUNDS: u64 = if cfg!(miri) { 100 } else { 50_000 };
    let words: Words = Arc::new(heap_words(16 * layout::PAGE_WORDS));
    let options = Options { buckets: 4, seed: 7, workers: 2, spin_ns: 0, eviction: Eviction::Never };
    let table = Arc::new(Table::create(Arc::clone(&words), &options).unwrap());
    let (stop, views) = (AtomicBool::new(false), Counter::new(0));
    std::thread::scope(|scope| {
        for client in 0..2 {
            let pins: Words = Arc::new(heap_words(crate::limits::PINS_MAX));
            table.reclaimer().register(Box::new(Arc::clone(&pins)));
            let (stop, views, words) = (&stop, &views, &words);
            scope.spawn(move || {
                let reader = Reader::attach(Arc::clone(words)).unwrap();
                let mut random = fastrand::Rng::with_seed(client);
                while !stop.load(Relaxed) {
                    let key = random.u64(..KEYS).to_ne_bytes();
                    let pin = &pins[random.usize(..pins.len())];
                    let Pinned::Hit(found, range) = reclaim::pin(reader.words(), pin, reader.hash(&key), &key, no_time)
                    else {
                        continue;
                    };
                    let look = || {
                        let mut value = [0; VALUE_SIZE];
                        crate::sync::copy_out(&reader.words()[range.clone()], crate::sync::as_uninit(&mut value));
                        assert!(value.iter().all(|byte| *byte == value[0]), "a view of two values");
                        value[0]
                    };
                    assert_eq!(found.size, VALUE_SIZE);
                    let first = look();
                    (0..random.u8(..4)).for_each(|_| crate::sync::yield_now());
                    assert_eq!(look(), first, "a value changes while it is pinned");
                    reclaim::unpin(pin);
                    views.fetch_add(1, Relaxed);
                }
            });
        }
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let mut writer = Writer::new(Arc::clone(&table));
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let key = (round % KEYS).to_ne_bytes();
                        let value = [(2 * round + worker) as u8; VALUE_SIZE];
                        writer.put(&key, &value, None, Guard::Always, no_time).unwrap();
                        if round % 64 == 0 {
                            writer.rescan();
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    assert!(cfg!(miri) || views.load(Relaxed) > 0);
}

#[test]
fn readers_never_see_a_torn_or_foreign_value_while_everything_moves() {
    const KEYS: u32 = 300;
    const STEPS: u32 = if cfg!(miri) { 100 } else { 100_000 };
    let words: Words = Arc::new(heap_words(if cfg!(miri) { 16 } else { 128 } * layout::PAGE_WORDS));
    let options = Options { buckets: 1, seed: 7, workers: 2, spin_ns: 0, eviction: Eviction::Never };
    let table = Arc::new(Table::create(Arc::clone(&words), &options).unwrap());
    let (stop, hits) = (AtomicBool::new(false), Counter::new(0));
    // A value is its key, then copies of one byte: a mixture of two values shows.
    let check = |key: &[u8], value: &[u8]| {
        assert_eq!(&value[..4], key);
        assert!(value[4..].iter().all(|byte| *byte == value[4]), "torn value");
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (reader, mut value) = (Reader::attach(Arc::clone(&words)).unwrap(), Buffer::default());
                let mut random = fastrand::Rng::new();
                while !stop.load(Relaxed) {
                    let key = random.u32(..KEYS).to_le_bytes();
                    if let Lookup::Hit(_) = reader.get(&key, no_time, &mut value) {
                        check(&key, value.bytes());
                        hits.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|thread| {
                let mut writer = Writer::new(Arc::clone(&table));
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    for step in 0..STEPS {
                        let key = random.u32(..KEYS).to_le_bytes();
                        if random.u8(..4) == 0 {
                            writer.delete(&key, no_time);
                        } else {
                            let mut value = vec![random.u8(..); 5 + random.usize(..300)];
                            value[..4].copy_from_slice(&key);
                            writer.put(&key, &value, None, Guard::Always, no_time).unwrap();
                        }
                        if step % 50 == 0 {
                            // Fresh keys, so that buckets split all the while.
                            let fresh = (KEYS + step * 2 + thread as u32).to_le_bytes();
                            writer.put(&fresh, &fresh, None, Guard::Always, no_time).unwrap();
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Relaxed);
    });
    assert!(cfg!(miri) || hits.load(Relaxed) > 0);
}

#[test]
fn a_reader_survives_a_segment_of_garbage() {
    let mut random = seeded();
    let words: Words = Arc::new(heap_words(5 * layout::PAGE_WORDS));
    let options = Options { buckets: 64, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
    let mut writer = Writer::new(Arc::new(Table::create(Arc::clone(&words), &options).unwrap()));
    for n in 0..500_u32 {
        writer.put(&n.to_le_bytes(), b"value", None, Guard::Always, no_time).unwrap();
    }
    let reader = Reader::attach(Arc::clone(&words)).unwrap();
    let mut value = Buffer::default();
    for _ in 0..2_000 {
        for _ in 0..20 {
            let at = random.usize(layout::H_BUCKETS..words.len());
            let word = if random.bool() { random.u64(..) } else { random.u64(..words.len() as u64 * 2) };
            words[at].store(word, Relaxed);
        }
        for n in 0..20_u32 {
            reader.get(&n.to_le_bytes(), no_time, &mut value);
            let _ = reader.read_bucket(&n.to_le_bytes(), Want::Values, no_time, &mut Pairs::default());
        }
        let _ = reader.scan(random.u64(..), Want::Values, no_time, &mut Pairs::default());
    }
}

#[test]
fn a_watcher_sees_the_changes_of_each_key_in_their_order() {
    use super::events::{Consumer, Kind, Next, RingLocation};

    const ROUNDS: u64 = 2_000;
    const KEYS: u64 = 5;
    let (mut writer, reader) = table(64, 4);
    writer.put(b"before", b"", None, Guard::Always, no_time).unwrap();
    assert!(!writer.take_published(), "nobody watches");
    assert_eq!(RingLocation::load(reader.words()), None);
    let mut consumer = Consumer::new(writer.watch().unwrap());
    let ring = RingLocation::load(reader.words()).unwrap().ring(reader.words());

    let changes = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let mut writer = Writer::new(Arc::clone(writer.table()));
                scope.spawn(move || {
                    let mut changes = 0;
                    for round in 0..ROUNDS {
                        let key = (round % KEYS).to_ne_bytes();
                        if round % 3 == 2 {
                            changes += u64::from(writer.delete(&key, no_time));
                        } else {
                            writer.put(&key, &vec![0; round as usize % 50], None, Guard::Always, no_time).unwrap();
                            changes += 1;
                        }
                    }
                    assert!(writer.take_published());
                    assert!(!writer.take_published(), "asked once");
                    changes
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u64>()
    });
    assert_eq!(writer.clear_some(0, u64::MAX / 2), None);
    assert!(writer.take_published());

    // The ring has room for all of them.
    let (mut key, mut versions, mut seen) = (Vec::new(), HashMap::new(), 0);
    loop {
        match consumer.next(ring, &mut key).unwrap() {
            Next::Event(event) if event.kind == Kind::Flush => break,
            Next::Event(event) => {
                let before = versions.insert(key.clone(), event.version);
                assert!(before < Some(event.version), "{key:?}: {before:?}, then {event:?}");
                seen += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, changes);
    assert_eq!(consumer.next(ring, &mut key), Ok(Next::Nothing));

    writer.table().unwatch();
    writer.put(b"after", b"", None, Guard::Always, no_time).unwrap();
    assert!(!writer.take_published(), "nobody watches any more");
}
