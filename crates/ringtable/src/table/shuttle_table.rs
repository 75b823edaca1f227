//! Models of the whole table while memory is short and everything moves: workers that write and delete, a reader, a
//! client that pins, and housekeeping that empties slabs, shrinks the table and gives pages back.
//!
//! They are too large for all interleavings, so some are tried, at random (`model::explore`). Every key is written by
//! one worker, with values that tell their number: so it is known what may be found.
//!
//! # Allowed
//!
//! - A write that is refused for want of memory, and leaves everything as it was; but not in a table with much room.
//! - Where entries may be evicted: a miss of any key.
//! - `Contended`: writers got in the way.
//!
//! # Forbidden
//!
//! - A value of another key, a torn one, one that was never written; for a reader, one older than it has seen before.
//! - Without eviction: anything but what its worker has written last, for that worker.
//! - A value that changes while a client pins or a worker holds it.
//! - In the end: a key that is there twice or in the wrong bucket, a count that is not that of the entries, a bucket
//!   that stays locked, memory that is lost or belongs to two.
//! - A count of entries below nothing, which would seem to be a very large one.
//! - A mark of the sieve that brings back what it was meant for.
//!
//! # What this cannot show
//!
//! Shuttle's atomics are sequentially consistent: all that orderings and fences are for is in the `loom_*` models.

use std::collections::{BTreeMap, BTreeSet};

use shuttle::thread;

use super::bucket::{EMPTY, SLOTS, Slot};
use super::layout::{PAGE_WORDS, address};
use super::lookup::Buffer;
use super::reclaim::{HazardRecord, Pinned, pin, unpin};
use super::{Eviction, Guard, Lookup, Options, Outcome, Reader, Table, WriteError, Writer};
use crate::sync::model::{self, Count};
use crate::sync::{Arc, AtomicU64, Ordering, as_uninit, copy_out, heap_words, yield_now};

type Words = Arc<Box<[AtomicU64]>>;

const WORKERS: u64 = 2;
/// Keys of each worker.
const KEYS: u64 = 6;
/// Steps of each thread.
const STEPS: u64 = 12;
/// Words of values, the first of which is their number: entries of slabs of one page and of several, and extents.
const VALUE_WORDS: [usize; 6] = [1, 1, 2, 6, 20, 66];

#[derive(Clone)]
struct Pins(Words);

impl HazardRecord for Pins {
    fn pins(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn no_time() -> u64 {
    0
}

fn key(worker: u64, number: u64) -> [u8; 8] {
    (worker << 8 | number).to_ne_bytes()
}

/// Value number `number` of a key: that, and words which say whose it is.
fn value(key: [u8; 8], number: u64, words: usize) -> Vec<u8> {
    let mut value = number.to_ne_bytes().to_vec();
    (1..words).for_each(|_| value.extend(key.map(|byte| byte ^ number as u8)));
    value
}

/// The number of a value of that key.
fn number_of(key: [u8; 8], bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty() && !chunks.is_empty(), "forbidden: a value of {} bytes", bytes.len());
    let number = u64::from_ne_bytes(chunks[0]);
    assert!(number < 1_000, "forbidden: {number} is no value's number");
    assert!(bytes == value(key, number, chunks.len()), "forbidden: a value of {key:?} is torn, or another key's");
    number
}

fn create(pages: usize, buckets: u64, eviction: Eviction) -> (Arc<Table<Words>>, Words) {
    // Besides, the second page of the header and that of the page map.
    let words: Words = Arc::new(heap_words((pages + 2) * PAGE_WORDS));
    let options = Options { buckets, seed: 42, workers: WORKERS as usize, spin_ns: 0, eviction };
    (Arc::new(Table::create(Arc::clone(&words), &options).expect("the buckets fit")), words)
}

/// The numbers of the values of a worker's keys, as far as it knows them.
type Known = BTreeMap<u64, Option<u64>>;

/// A worker's steps.
fn work(table: Arc<Table<Words>>, worker: u64, happened: &Happened, random: &mut fastrand::Rng) -> Known {
    let strict = table.eviction() == Eviction::Never;
    let mut writer = Writer::new(table);
    let mut known = Known::new();
    for step in 1..=STEPS {
        let which = random.u64(..KEYS);
        let key = key(worker, which);
        let before = known.get(&which).copied().flatten();
        match random.u8(..10) {
            0..5 => {
                let bytes = value(key, step, VALUE_WORDS[random.usize(..VALUE_WORDS.len())]);
                match writer.put(&key, &bytes, None, Guard::Always, no_time) {
                    Ok(Outcome::Done { .. }) => drop(known.insert(which, Some(step))),
                    Err(WriteError::OutOfMemory(_)) => happened.refused.add(1),
                    other => panic!("forbidden: {other:?}"),
                }
            }
            5..8 => {
                let was_there = writer.delete(&key, no_time);
                assert!(
                    !strict || was_there == before.is_some(),
                    "forbidden: deleted {was_there}, and it was {before:?}"
                );
                assert!(!was_there || before.is_some(), "forbidden: what was deleted is back");
                known.insert(which, None);
            }
            8 => {
                let mut buffer = Buffer::default();
                let found = match writer.get(&key, no_time, &mut buffer) {
                    Lookup::Hit(_) => Some(number_of(key, buffer.bytes())),
                    Lookup::Miss => None,
                    other => panic!("forbidden: {other:?}"),
                };
                assert!(found == before || !strict && found.is_none(), "forbidden: {found:?}, and it was {before:?}");
            }
            _ => {
                if let Some(held) = writer.hold(&key, no_time) {
                    let look = || {
                        let entry = super::entry::EntryRef::at(held.table.words(), held.start).expect("it is an entry");
                        let mut bytes = vec![0; entry.shape.value_size];
                        copy_out(entry.value_words(), as_uninit(&mut bytes));
                        number_of(key, &bytes)
                    };
                    let first = look();
                    assert_eq!(Some(first), before, "forbidden: a value that was not written last is held");
                    (0..random.u8(..20)).for_each(|_| yield_now());
                    assert_eq!(look(), first, "forbidden: a value changes while it is held");
                }
            }
        }
    }
    writer.release();
    known
}

/// Any key.
fn any_key(random: &mut fastrand::Rng) -> [u8; 8] {
    key(random.u64(..WORKERS), random.u64(..KEYS))
}

/// A client that copies, and one that makes views.
fn read(words: Words, pins: &Pins, random: &mut fastrand::Rng) {
    let reader = Reader::attach(words).expect("it is a table");
    let mut seen: BTreeMap<[u8; 8], u64> = BTreeMap::new();
    for _ in 0..STEPS {
        let key = any_key(random);
        let number = if random.bool() {
            let mut buffer = Buffer::default();
            match reader.get(&key, no_time, &mut buffer) {
                Lookup::Hit(_) => number_of(key, buffer.bytes()),
                _ => continue,
            }
        } else {
            let pinned = &pins.0[0];
            let Pinned::Hit(found, range) = pin(reader.words(), pinned, reader.hash(&key), &key, no_time) else {
                continue;
            };
            let look = || {
                let mut bytes = vec![0; found.size];
                copy_out(&reader.words()[range.clone()], as_uninit(&mut bytes));
                number_of(key, &bytes)
            };
            let first = look();
            (0..random.u8(..20)).for_each(|_| yield_now());
            assert_eq!(look(), first, "forbidden: a value changes while it is pinned");
            unpin(pinned);
            first
        };
        let before = seen.insert(key, number);
        assert!(before <= Some(number), "forbidden: value {number}, and {before:?} was there before");
    }
}

/// Where the entry of a key begins, if it is there.
fn start_of(table: &Table<Words>, key: [u8; 8]) -> Option<u64> {
    let hash = table.constants().hash(&key);
    let guard = table.lock(hash);
    let start = table.find(&guard, hash, &key).entry.map(|(bucket, index, _)| bucket.slot(index).at());
    guard.unlock_unchanged();
    start
}

fn zero(table: &Table<Words>, first: usize, count: usize) {
    let words = &table.words()[first * PAGE_WORDS..][..count * PAGE_WORDS];
    words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
}

/// What a worker does when it has nothing else to do, and what clients ask it for.
fn keep_house(table: Arc<Table<Words>>, happened: &Happened, random: &mut fastrand::Rng) {
    let mut writer = Writer::new(Arc::clone(&table));
    for _ in 0..STEPS {
        match random.u8(..8) {
            0..2 => drop(writer.empty_a_slab()),
            2 => {
                // A run of pages, as for a large value; or those of some entry, as for the next bucket.
                let clearing = match start_of(&table, any_key(random)) {
                    Some(start) => table.heap().close_page(start as usize / PAGE_WORDS),
                    None => table.heap().close_run(random.usize(1..5), &[], random.bool()),
                };
                if let Some(clearing) = clearing {
                    writer.clear(&clearing, table.eviction() == Eviction::AllkeysSieve);
                }
            }
            3 => {
                let before = table.buckets();
                table.shrink_some(random.u64(1..4));
                happened.given_up.add(u64::from(table.buckets() < before));
            }
            4 => drop(table.give_back_bucket_pages(2, |first, count| zero(&table, first, count))),
            5 => {
                if let Some((first, count)) = table.heap().take_dirty(3) {
                    zero(&table, first, count);
                    table.heap().return_clean(first, count, false);
                }
            }
            6 => table.touch(table.constants().hash(&any_key(random))),
            _ => drop(writer.rescan()),
        }
    }
    writer.release();
}

/// When all threads are over: whether all that is there is there once, and where it belongs, and what is not is free.
fn settle(table: &Arc<Table<Words>>, words: &Words) -> BTreeSet<[u8; 8]> {
    let mut writer = Writer::new(Arc::clone(table));
    writer.rescan();
    writer.release();
    assert_eq!(table.reclaimer().entries_retired(), 0, "forbidden: memory that nobody keeps stays in the retire list");
    let (mut keys, mut starts, mut used) = (BTreeSet::new(), BTreeSet::new(), 0);
    for index in 0..table.buckets() {
        let home = table.bucket(index);
        assert!(home.begin_read().is_some(), "forbidden: bucket {index} stays locked");
        let guard = table.lock_at(index).expect("it is there");
        for slot in table.chain(&guard).flat_map(|bucket| (0..SLOTS).map(move |index| bucket.slot(index))) {
            if slot == EMPTY {
                continue;
            }
            assert!(starts.insert(slot.at()), "forbidden: two slots point at word {}", slot.at());
            used += 8 * table.heap().slot_words(slot.at());
            if slot.is_link() {
                continue;
            }
            let key: [u8; 8] = table.entry(slot).key().as_slice().try_into().expect("forbidden: a key of another size");
            let hash = table.constants().hash(&key);
            assert_eq!(address(hash, table.buckets()), index, "forbidden: {key:?} lies in the wrong bucket");
            assert_eq!(Slot::entry(hash, 0).tag(), slot.tag(), "forbidden: a slot with another key's tag");
            assert!(keys.insert(key), "forbidden: {key:?} is there twice");
        }
        guard.unlock_unchanged();
    }
    assert_eq!(table.entries(), keys.len() as u64, "forbidden: a count that is not that of the entries");
    assert_eq!(table.heap().usage().allocated as usize, used, "forbidden: memory is lost, or belongs to two");
    let reader = Reader::attach(Arc::clone(words)).expect("it is a table");
    for &key in &keys {
        let mut buffer = Buffer::default();
        let found = reader.get(&key, no_time, &mut buffer);
        assert!(matches!(found, Lookup::Hit(_)), "forbidden: {found:?} for {key:?}, which is there");
        number_of(key, buffer.bytes());
    }
    keys
}

/// What has happened in all runs of a model. Not an object of it.
#[derive(Debug)]
struct Happened {
    moved: Count,
    evicted: Count,
    refused: Count,
    given_up: Count,
}

impl Happened {
    const fn new() -> Self {
        Self { moved: Count::new(), evicted: Count::new(), refused: Count::new(), given_up: Count::new() }
    }
}

/// All of it at once, in a segment of `pages` pages.
fn all_at_once(pages: usize, eviction: Eviction, happened: &'static Happened, random: &mut fastrand::Rng) {
    let (table, words) = create(pages, 2, eviction);
    let pins = Pins(Arc::new(heap_words(1)));
    table.reclaimer().register(Box::new(pins.clone()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (table, mut random) = (Arc::clone(&table), random.fork());
            thread::spawn(move || work(table, worker, happened, &mut random))
        })
        .collect();
    let reading = {
        let (words, pins, mut random) = (Arc::clone(&words), pins, random.fork());
        thread::spawn(move || read(words, &pins, &mut random))
    };
    let keeping = {
        let (table, mut random) = (Arc::clone(&table), random.fork());
        thread::spawn(move || keep_house(table, happened, &mut random))
    };
    let known: Vec<_> = workers.into_iter().map(|thread| thread.join().expect("it ends")).collect();
    reading.join().expect("it ends");
    keeping.join().expect("it ends");
    happened.moved.add(table.tally().moved.load(Ordering::Relaxed));
    happened.evicted.add(table.tally().evicted.load(Ordering::Relaxed));
    let keys = settle(&table, &words);
    if eviction == Eviction::Never {
        let expected: BTreeSet<_> = (0..WORKERS)
            .zip(&known)
            .flat_map(|(worker, known)| {
                known.iter().filter(|known| known.1.is_some()).map(move |(&n, _)| key(worker, n))
            })
            .collect();
        assert_eq!(keys, expected, "forbidden: not the keys that were written last");
    }
    // And all goes.
    let mut writer = Writer::new(Arc::clone(&table));
    let mut next = Some(0);
    while let Some(first) = next {
        next = writer.clear_some(first, 3);
    }
    writer.rescan();
    writer.release();
    assert_eq!((table.entries(), table.heap().usage().allocated), (0, 0), "forbidden: something outlives a flush");
}

#[test]
fn with_room_nothing_is_lost() {
    static HAPPENED: Happened = Happened::new();
    model::explore(|random| all_at_once(160, Eviction::Never, &HAPPENED, random));
    let Happened { moved, given_up, refused, .. } = &HAPPENED;
    assert!(!refused.any(), "forbidden: a write is refused, though most of the memory is free: {HAPPENED:?}");
    assert!(moved.any() && given_up.any(), "the model is too small: {HAPPENED:?}");
}

#[test]
fn in_a_full_table_nothing_is_lost() {
    static HAPPENED: Happened = Happened::new();
    model::explore(|random| all_at_once(14, Eviction::Never, &HAPPENED, random));
    let Happened { moved, given_up, refused, .. } = &HAPPENED;
    assert!(moved.any() && given_up.any() && refused.any(), "the model is too small: {HAPPENED:?}");
}

#[test]
fn in_a_full_cache_nothing_is_torn() {
    static HAPPENED: Happened = Happened::new();
    model::explore(|random| all_at_once(18, Eviction::AllkeysSieve, &HAPPENED, random));
    let Happened { moved, given_up, evicted, .. } = &HAPPENED;
    assert!(moved.any() && given_up.any() && evicted.any(), "the model is too small: {HAPPENED:?}");
}

/// One worker inserts a key that another one deletes: it may have been counted out before it is counted in.
#[test]
fn a_count_is_never_below_nothing() {
    model::explore(|_| {
        let (table, words) = create(12, 4, Eviction::Never);
        let ours = key(0, 0);
        let deleting = {
            let (mut writer, reader) = (Writer::new(Arc::clone(&table)), Reader::attach(words).expect("it is a table"));
            thread::spawn(move || (writer.delete(&ours, no_time), reader.entries(), writer.table().entries()))
        };
        let mut writer = Writer::new(Arc::clone(&table));
        let done = writer.put(&ours, &value(ours, 1, 1), None, Guard::Always, no_time);
        assert!(done.is_ok(), "the table has room: {done:?}");
        let (deleted, read, known) = deleting.join().expect("it ends");
        assert!(read <= 1 && known <= 1, "forbidden: {read} and {known} entries, when there is one key");
        assert_eq!(table.entries(), u64::from(!deleted), "forbidden: a count that is not that of the entries");
    });
}

/// A mark is set without the lock, while a worker moves, replaces or deletes the entry, and its memory goes to another.
#[test]
fn a_mark_brings_nothing_back() {
    model::explore(|random| {
        let (table, words) = create(12, 4, Eviction::Never);
        let mut writer = Writer::new(Arc::clone(&table));
        let (ours, theirs) = (key(0, 0), key(0, 1));
        let put = |writer: &mut Writer<Words>, key: [u8; 8]| {
            let done = writer.put(&key, &value(key, 1, 2), None, Guard::Always, no_time);
            assert!(done.is_ok(), "the table has room: {done:?}");
        };
        put(&mut writer, ours);
        let hash = table.constants().hash(&ours);
        let marking = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.touch(hash))
        };
        let change = random.u8(..3);
        match change {
            0 => {
                let home = table.bucket(address(hash, table.buckets()));
                let slot = (0..SLOTS).map(|index| home.slot(index)).find(|slot| slot.is_entry()).expect("it is there");
                writer.relocate(slot.at(), false);
            }
            1 => put(&mut writer, ours),
            _ => assert!(writer.delete(&ours, no_time)),
        }
        put(&mut writer, theirs);
        marking.join().expect("it ends");
        writer.release();
        let expected = if change == 2 { BTreeSet::from([theirs]) } else { BTreeSet::from([ours, theirs]) };
        assert_eq!(settle(&table, &words), expected, "forbidden: not the keys that were written");
    });
}
