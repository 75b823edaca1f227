//! A server that dies behind any store of any change: what the next one finds.
//!
//! A change is done once, and its stores are recorded. Then, for each number of them, a table that has had these alone
//! is taken over. Of each key it has the old state or the new one; nothing is damaged, lost or locked; watchers learn
//! of the change, or that they may have missed one; and it goes on.

use std::collections::{BTreeMap, BTreeSet};

use super::tests::*;
use super::*;
use crate::shm::killed::killed_at;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, heap_words, recording};
use crate::table::bucket::{ENTRIES_MAX, SLOTS};
use crate::table::commits::{self, LOG_WORDS};
use crate::table::events::{Consumer, Next, Start};
use crate::table::layout::{PAGE_BUCKETS, address, split_source};
use crate::table::lookup::Buffer;
use crate::table::model_tests::{Words, random};
use crate::table::{Expiry, Guard, Lookup, Manner, Mark, Outcome, Reader, Terms, Writer};

/// Stores in a row that fill the same entry, of which not each is tried.
const TRIED_EACH: usize = 12;
const TRIED_OF: usize = 1_009;

/// What a key has: value, expiry and version.
type State = (Vec<u8>, Option<Expiry>, u64);

/// All that can be found.
fn contents(words: &Words) -> BTreeMap<Vec<u8>, State> {
    let reader = Reader::attach(Arc::clone(words)).unwrap();
    let (mut pairs, mut cursor) = (crate::table::Pairs::default(), 0);
    loop {
        cursor = reader.scan(cursor, crate::table::Want::Keys, || 0, &mut pairs).unwrap();
        if cursor == 0 {
            break;
        }
    }
    let state = |key: &[u8]| {
        let mut buffer = Buffer::default();
        match reader.get(key, || 0, &mut buffer) {
            Lookup::Hit(found) => (buffer.take(), found.expiry, found.version),
            other => panic!("{other:?}"),
        }
    };
    let all: BTreeMap<_, _> = pairs.iter().map(|pair| (pair.key.to_vec(), state(pair.key))).collect();
    assert_eq!(all.len(), pairs.len(), "a key is there twice");
    all
}

fn copy_of(words: &Words) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

fn table_of(words: &[u64], stores: &[(usize, u64)]) -> Words {
    let copy: Words = Arc::new(heap_words(words.len()));
    copy.iter().zip(words).for_each(|(copy, &word)| copy.store(word, Ordering::Relaxed));
    stores.iter().for_each(|&(index, value)| copy[index].store(value, Ordering::Relaxed));
    copy
}

/// A change: all words and what could be found before it, its stores, and what can be found now.
struct Recorded {
    before: Vec<u64>,
    was: BTreeMap<Vec<u8>, State>,
    stores: Vec<(usize, u64)>,
    is: BTreeMap<Vec<u8>, State>,
}

fn recorded(words: &Words, change: impl FnOnce()) -> Recorded {
    let (before, was) = (copy_of(words), contents(words));
    recording::begin();
    change();
    let stores = recording::stored(words);
    recording::end();
    Recorded { before, was, stores, is: contents(words) }
}

/// What a watcher that was there hears: how many events, and how many it has missed.
fn heard(words: &Words, start: Start) -> (u64, u64) {
    let (mut consumer, mut key) = (Consumer::new(start), Vec::new());
    let ring = RingLocation::load(words).unwrap().ring(words);
    let (mut events, mut missed) = (0, 0);
    loop {
        match consumer.next(ring, &mut key).unwrap() {
            Next::Event(_) => events += 1,
            Next::Lagged(count) => missed += count,
            Next::Nothing => return (events, missed),
            Next::Contended => panic!("nobody writes"),
        }
    }
}

/// Cuts a change behind each of its stores.
fn cut(what: &str, writer: &mut Writer<Words>, change: impl FnOnce(&mut Writer<Words>)) {
    cut_with(what, writer, (&[], 0), change);
}

/// The same with a key that has had that version once.
fn cut_with(
    what: &str,
    writer: &mut Writer<Words>,
    (once, version): (&[u8], u64),
    change: impl FnOnce(&mut Writer<Words>),
) {
    let words = Arc::clone(writer.table().memory());
    let watched = RingLocation::load(&words).map(|_| writer.watch().unwrap());
    let log = PAGE_WORDS - LOG_WORDS;
    writer.log_commits(Arc::new(Arc::clone(&words)), log);
    let Recorded { before, was, stores, is } = recorded(&words, || change(writer));
    let committed = |words: &Words| commits::find(&words[log..PAGE_WORDS], words);
    let changed = |now: &BTreeMap<Vec<u8>, State>| {
        let all: BTreeSet<_> = was.keys().chain(now.keys()).collect();
        all.into_iter().filter(|key| was.get(*key) != now.get(*key)).count() as u64
    };
    // All that has changed was asked for; or nothing; or some of it, and others had to go for it.
    let (all_committed, all_changed) = (committed(&table_of(&before, &stores)).count, changed(&is));
    assert!(!stores.is_empty(), "{what} changes nothing");
    let (mut repaired, mut in_a_row) = (0, 0);
    for cut in 0..=stores.len() {
        let follows = cut > 1 && cut < stores.len() && stores[cut].0 == stores[cut - 1].0 + 1;
        in_a_row = if follows { in_a_row + 1 } else { 0 };
        if in_a_row > TRIED_EACH && in_a_row % TRIED_OF != 0 {
            continue;
        }
        let left = table_of(&before, &stores[..cut]);
        let commits = committed(&left);
        let (table, report) = Table::adopt(Arc::clone(&left), writer.table().eviction(), &[]).unwrap();
        let place = format!("{what}, {cut} stores of {}: {report}", stores.len());
        assert_eq!(report.all_damage(), 0, "{place}");
        repaired += report.repaired(Repair::Locked);
        for index in 0..(table.bucket_pages.load(Ordering::Relaxed) - 1) * PAGE_BUCKETS as u64 {
            let version = table.bucket(index).version();
            assert!(version & 1 == 0, "{place}: bucket {index} is locked");
        }
        table.audit(&[]);
        let now = contents(&left);
        let keys = was.keys().chain(is.keys()).chain(now.keys());
        let mut has_changed = false;
        for key in keys {
            let [old, new, found] = [&was, &is, &now].map(|all| all.get(key));
            has_changed |= found != old;
            // A version may be there that was to come with another expiry, before which its process died.
            let is_renewed = matches!((old, new, found), (Some(old), Some(new), Some(found))
                if found.0 == old.0 && found.1 == old.1 && found.2 == new.2);
            assert!(found == old || found == new || is_renewed, "{place}: {}", key.escape_ascii());
        }
        let done = cut == stores.len();
        assert!(!done || now == is, "{place}: it was done");
        // Whoever comes after it knows what was committed, however often it looks.
        assert_eq!(committed(&left).count, commits.count, "{place}: another look finds something else");
        // Before a new expiry there may be its version.
        let is_begun = commits.count == 0
            && now.iter().all(|(key, state)| was.get(key).is_some_and(|old| (&old.0, old.1) == (&state.0, state.1)));
        if all_committed == all_changed && !is_begun {
            assert_eq!(commits.count, changed(&now), "{place}: commits");
        }
        assert!(commits.count <= changed(&now), "{place}: commits that nobody finds");
        if let Some((version, value)) = commits.entry {
            let is_it = |state: &State| state.2 == version && value.as_ref().is_none_or(|value| *value == state.0);
            assert!(now.values().any(is_it), "{place}: the entry that was committed");
        }
        let mut next = Writer::new(Arc::new(table));
        if cut % 2 == 0 {
            check_all(&mut next);
        }
        // It goes on: with versions that nobody has had, and growing. (A key of a bucket that has shrunk is written to
        // the bucket that it came of, and again when it is split.)
        if watched.is_some() {
            next.watch().unwrap();
        }
        let touched = was.keys().chain(is.keys()).filter(|key| was.get(*key) != is.get(*key)).take(3);
        for key in touched {
            let had = was.get(key).into_iter().chain(now.get(key)).map(|state| state.2).max();
            assert!(Some(again(&mut next, key)) > had, "{place}");
        }
        assert!(version == 0 || again(&mut next, once) > version, "{place}");
        put(&mut next, b"one more", b"x");
        if let Some(start) = watched {
            let (events, missed) = heard(&left, start);
            let touched = was.keys().chain(is.keys()).filter(|key| was.get(*key) != is.get(*key)).take(3);
            let puts = 1 + touched.count() as u64 + u64::from(version > 0);
            // To delete all keys is told once, behind the last one; before that it is known to be under way.
            assert!(!has_changed || events + missed > puts, "{place}: untold, {events} and {missed}");
        }
        let table = Arc::clone(next.table());
        for _ in 0..3 {
            table.alone(|| next.split_one());
        }
        check_all(&mut next);
        next.release();
        table.audit(&[]);
        assert_eq!(table.found().unwrap().all_damage(), 0, "{place}");
        for (key, state) in &now {
            let again = was.get(key) != is.get(key) || key == b"one more" || version > 0 && key == once;
            let found = contents_of(&left, key);
            let is_evicted = found.is_none() && table.eviction() != Eviction::Never;
            assert!(again || is_evicted || found.as_ref() == Some(state), "{place}: {}", key.escape_ascii());
        }
    }
    assert!(repaired > 0, "{what} was never cut while a bucket was locked");
}

/// Writes a key, and returns its version.
fn again(writer: &mut Writer<Words>, key: &[u8]) -> u64 {
    match writer.put(key, b"again", None, Guard::Always, || 0) {
        Ok(Outcome::Done { version, .. }) => version,
        other => panic!("{other:?}"),
    }
}

fn contents_of(words: &Words, key: &[u8]) -> Option<State> {
    let (reader, mut buffer) = (Reader::attach(Arc::clone(words)).unwrap(), Buffer::default());
    match reader.get(key, || 0, &mut buffer) {
        Lookup::Hit(found) => Some((buffer.take(), found.expiry, found.version)),
        _ => None,
    }
}

/// Keys that fall into a bucket when there are so many.
fn keys_of(writer: &Writer<Words>, bucket: u64, buckets: u64) -> impl Iterator<Item = Vec<u8>> + use<> {
    let constants = writer.table().constants().clone();
    (0_u32..).map(|n| n.to_le_bytes().to_vec()).filter(move |key| address(constants.hash(key), buckets) == bucket)
}

fn watched(pages: usize, buckets: u64, eviction: Eviction) -> Writer<Words> {
    let mut writer = writer(pages + 5, buckets, eviction);
    writer.watch().unwrap();
    writer
}

fn expire(writer: &mut Writer<Words>, key: &[u8], at: u64) {
    assert_eq!(writer.expire(key, Expiry(at), || NOW), Ok(true));
}

#[test]
fn writing_a_key() {
    let mut writer = watched(24, 4, Eviction::Never);
    cut("the first key", &mut writer, |writer| put(writer, b"key", b"value"));
    cut("another value", &mut writer, |writer| put(writer, b"key", b"another"));
    cut("a larger one", &mut writer, |writer| put(writer, b"key", &[1; 3_000]));
    cut("one on a condition", &mut writer, |writer| {
        let Lookup::Hit(found) = writer.get(b"key", || NOW, &mut Buffer::default()) else { panic!("it is there") };
        writer.put(b"key", b"2", None, Guard::Version(found.version), || NOW).unwrap();
    });
    cut("a mark", &mut writer, |writer| {
        writer.put_marked(b"lock", b"1", Some(Expiry(9_000)), Guard::Absent, Mark::Unevictable, || NOW).unwrap();
    });
    cut("a value that has arrived", &mut writer, |writer| {
        let mut draft = writer.draft(b"large", 70_000, Terms::Arriving).unwrap();
        draft.fill(&[1; 70_000]);
        writer.put_draft(b"large", draft, Manner::new(Guard::Always, None, Mark::AsBefore), || NOW).unwrap();
    });
    cut("an extent in its place", &mut writer, |writer| put(writer, b"large", &[3; 270_000]));
    cut("a small one in the place of that", &mut writer, |writer| put(writer, b"large", b"small"));
    let keys: Vec<_> = keys_of(&writer, 2, 4).take(SLOTS + 2).collect();
    let table = Arc::clone(writer.table());
    table.alone(|| {
        keys[..SLOTS].iter().for_each(|key| put(&mut writer, key, b"full"));
        cut("an overflow bucket", &mut writer, |writer| put(writer, &keys[SLOTS], b"chained"));
        cut("an entry in it", &mut writer, |writer| put(writer, &keys[SLOTS + 1], b"chained"));
    });
}

#[test]
fn removing_keys() {
    let mut writer = watched(16, 4, Eviction::Never);
    let table = Arc::clone(writer.table());
    let keys: Vec<_> = keys_of(&writer, 1, 4).take(3 * SLOTS).collect();
    table.alone(|| {
        for (nth, key) in keys.iter().enumerate() {
            let expiry = (nth % 3 == 0).then_some(Expiry(2_000));
            writer.put(key, &[nth as u8; 40], expiry, Guard::Always, || NOW).unwrap();
        }
        cut("deleting", &mut writer, |writer| assert!(writer.delete(&keys[1], || NOW)));
        cut("coming across what has expired", &mut writer, |writer| writer.delete_expired(&keys[0], || 3_000));
        cut("the sweep", &mut writer, |writer| assert!(writer.sweep_some(100, 3_000)));
        // Those in the last overflow bucket: it goes with the last of them.
        let chained: Vec<_> =
            keys[2 * SLOTS..].iter().filter(|key| contents_of(table.memory(), key).is_some()).collect();
        cut("an overflow bucket that is emptied", &mut writer, |writer| {
            chained.iter().for_each(|key| assert!(writer.delete(key, || NOW)));
        });
        cut("all keys of some buckets", &mut writer, |writer| _ = writer.clear_some(0, 3));
    });
    put(&mut writer, b"key", &[0; 300_000]);
    cut("all keys, in one step", &mut writer, |writer| {
        assert_eq!(writer.clear_some(0, 100), None);
    });
}

#[test]
fn another_expiry() {
    let mut writer = watched(8, 4, Eviction::VolatileTtl);
    put(&mut writer, b"small", b"1");
    put(&mut writer, b"large", &[1; 500]);
    cut("an entry without the word for it", &mut writer, |writer| expire(writer, b"small", 90_000));
    cut("a later one", &mut writer, |writer| expire(writer, b"small", 900_000));
    cut("a large entry", &mut writer, |writer| expire(writer, b"large", 90_000));
    cut("none any more", &mut writer, |writer| _ = writer.renew(b"small", None, Guard::Present, || NOW).unwrap());
    cut("the expiry from before", &mut writer, |writer| {
        let manner =
            Manner { lifetime: crate::table::Lifetime::AsBefore, ..Manner::new(Guard::Always, None, Mark::AsBefore) };
        writer.put_as(b"large", b"x", manner, || NOW).unwrap();
    });
}

#[test]
fn growing_and_shrinking() {
    for chain in [1, 4, SLOTS, 2 * SLOTS, 40, 100] {
        let mut writer = watched(8, 4, Eviction::VolatileTtl);
        let table = Arc::clone(writer.table());
        let keys: Vec<_> = keys_of(&writer, 0, 4).take(chain).collect();
        table.alone(|| {
            for (nth, key) in keys.iter().enumerate() {
                let expiry = (nth % 2 == 0).then_some(Expiry(2_000_000));
                writer.put(key, &[nth as u8; 9], expiry, Guard::Always, || NOW).unwrap();
            }
        });
        assert_eq!(split_source(table.buckets()), 0);
        cut(&format!("a split of {chain}"), &mut writer, |writer| {
            assert_eq!(table.alone(|| writer.split_one()), Some(true));
        });
    }
    let mut writer = watched(8, PAGE_BUCKETS as u64, Eviction::Never);
    (0..300_u32).for_each(|n| put(&mut writer, &n.to_le_bytes(), b"x"));
    let table = Arc::clone(writer.table());
    cut("a page of buckets", &mut writer, |writer| assert_eq!(table.alone(|| writer.split_one()), Some(true)));
    let last = PAGE_BUCKETS as u64;
    let key = keys_of(&writer, last, last + 1).next().unwrap();
    // The last bucket has higher versions than the one that it came of.
    let version = (0..10).map(|_| again(&mut writer, &key)).max().unwrap();
    let gone: Vec<_> = contents(table.memory()).into_keys().collect();
    let constants = table.constants().clone();
    for key in gone.into_iter().filter(|key| address(constants.hash(key), last + 1) == last) {
        assert!(writer.delete(&key, || NOW));
    }
    cut_with("a bucket less", &mut writer, (&key, version), |writer| {
        table.shrink_some(1);
        assert_eq!(writer.table().buckets(), last);
    });
}

#[test]
fn moving_and_evicting() {
    let mut writer = watched(8, 4, Eviction::Never);
    let table = Arc::clone(writer.table());
    let keys: Vec<_> = keys_of(&writer, 3, 4).take(3 * SLOTS).collect();
    table.alone(|| keys.iter().for_each(|key| put(&mut writer, key, &[5; 64])));
    let starts = || {
        let guard = table.lock_at(3).unwrap();
        let links: Vec<_> = table.slots(&guard).map(|(_, _, slot)| slot).filter(|slot| slot.is_link()).collect();
        let entry = table.entry_slots(&guard).next().unwrap().2.at();
        guard.unlock_unchanged();
        (links[0].at(), links[1].at(), entry)
    };
    let (first, second, entry) = starts();
    cut("an entry moves", &mut writer, |writer| assert!(writer.relocate(entry, false)));
    cut("an overflow bucket moves", &mut writer, |writer| assert!(writer.relocate(first, false)));
    cut("the last one moves", &mut writer, |writer| assert!(writer.relocate(second, false)));

    let mut writer = watched(12, 4, Eviction::Never);
    (0..3_000_u32).for_each(|n| put(&mut writer, &n.to_le_bytes(), &[7; 60]));
    (0..3_000_u32).filter(|n| n % 10 > 0).for_each(|n| assert!(writer.delete(&n.to_le_bytes(), || NOW)));
    cut("a slab is emptied", &mut writer, |writer| assert!(writer.empty_a_slab()));

    for eviction in [Eviction::AllkeysSieve, Eviction::VolatileTtl] {
        let mut writer = watched(14, 4, eviction);
        let evicted = |writer: &Writer<Words>| writer.table().tally().evicted.load(Ordering::Relaxed);
        let mut number = 0_u32;
        while evicted(&writer) == 0 {
            writer.put(&number.to_le_bytes(), &[1; 2_000], Some(Expiry(9_000)), Guard::Always, || NOW).unwrap();
            number += 1;
        }
        writer.release();
        let before = evicted(&writer);
        cut("evicting for an entry", &mut writer, |writer| {
            for more in 0..2 {
                let key = (number + more).to_le_bytes();
                writer.put(&key, &[2; 2_000], Some(Expiry(9_000)), Guard::Always, || NOW).unwrap();
            }
        });
        assert!(evicted(&writer) > before);
        let large = |writer: &mut Writer<Words>| {
            writer.put(b"large", &vec![2; 150_000], Some(Expiry(9_000)), Guard::Always, || NOW).map(drop)
        };
        if eviction == Eviction::VolatileTtl {
            continue; // the same by another order, and by many more stores
        }
        let before = evicted(&writer);
        cut_some("evicting for a large entry", &mut writer, |writer| large(writer).unwrap());
        assert!(evicted(&writer) > before);
    }

    let mut writer = watched(8, 1_000, Eviction::AllkeysSieve);
    let keys: Vec<_> = keys_of(&writer, 7, 1_000).take(ENTRIES_MAX + 1).collect();
    keys[..ENTRIES_MAX].iter().for_each(|key| put(&mut writer, key, b""));
    cut("making way in a chain", &mut writer, |writer| put(writer, &keys[ENTRIES_MAX], b""));
}

/// As [`cut`], for many changes in a row: the last stores alone, and some hundred.
fn cut_some(what: &str, writer: &mut Writer<Words>, change: impl FnOnce(&mut Writer<Words>)) {
    let words = Arc::clone(writer.table().memory());
    let Recorded { before, was, stores, is } = recorded(&words, || change(writer));
    for cut in (0..stores.len()).step_by(stores.len() / 60 + 1) {
        let left = table_of(&before, &stores[..cut]);
        let (table, report) = Table::adopt(Arc::clone(&left), writer.table().eviction(), &[]).unwrap();
        assert_eq!(report.all_damage(), 0, "{what}, {cut} of {}: {report}", stores.len());
        table.audit(&[]);
        for (key, state) in contents(&left) {
            assert!(was.get(&key) == Some(&state) || is.get(&key) == Some(&state), "{what}, {cut}");
        }
    }
}

#[test]
fn the_ring_of_events_is_made() {
    let mut writer = writer(32, 4, Eviction::Never);
    put(&mut writer, b"key", b"value");
    cut("the first watcher", &mut writer, |writer| {
        writer.watch().unwrap();
        put(writer, b"key", b"another");
    });
    // One that is full, and begins anew.
    cut("a long key", &mut writer, |writer| put(writer, &[1; 65_535], b"1"));
    (0..5_u8).for_each(|n| put(&mut writer, &[n; 60_000], b"1"));
    cut("events over others", &mut writer, |writer| put(writer, &[9; 40_000], b"1"));
}

/// What two workers do to keys of their own: each time a key is deleted or has a value that tells how often it was
/// changed. Numbers of changes that were begun, and of those that were done, are in memory that outlives them.
fn work(table: &Arc<Table<Arc<Mapping>>>, notes: &[AtomicU64], worker: usize, seed: u64) {
    let (mut writer, mut random) = (Writer::new(Arc::clone(table)), fastrand::Rng::with_seed(seed));
    loop {
        let key = random.usize(..KEYS / 2) * 2 + worker;
        let number = notes[2 * key].load(Ordering::Relaxed) + 1;
        notes[2 * key].store(number, Ordering::SeqCst);
        let done = match changed(key, number) {
            Some(value) => writer.put(&key.to_ne_bytes(), &value, None, Guard::Always, || 0).is_ok(),
            None => {
                writer.delete(&key.to_ne_bytes(), || 0);
                true
            }
        };
        if random.u8(..200) == 0 {
            // Others, so that buckets split, and entries move.
            let more = (KEYS as u64 + random.u64(..3_000) * 2 + worker as u64).to_ne_bytes();
            let _ = match random.bool() {
                true => writer.put(&more, &[1; 50], None, Guard::Always, || 0).is_ok(),
                false => writer.delete(&more, || 0),
            };
            writer.empty_a_slab();
        }
        assert!(done, "there is room");
        notes[2 * key + 1].store(number, Ordering::SeqCst);
    }
}

const KEYS: usize = 600;

/// The value of a key after so many changes, if it has one.
fn changed(key: usize, number: u64) -> Option<Vec<u8>> {
    let size = fastrand::Rng::with_seed(number ^ (key as u64) << 32).usize(..700);
    (!number.is_multiple_of(5)).then(|| [&number.to_ne_bytes()[..], &vec![key as u8; size]].concat())
}

/// Two workers are killed at whatever instruction, again and again.
#[test]
fn a_process_that_is_killed_leaves_each_key_as_it_was_or_as_it_was_to_be() {
    const DEATHS: usize = 40;
    let mut random = random();
    let segment = Segment::create("ringtable-test", 96 * PAGE_WORDS * 8).unwrap();
    let noted = Segment::create("ringtable-test", (KEYS * 16_usize).next_multiple_of(4_096)).unwrap();
    let notes = noted.map_writable().unwrap();
    notes.inherit().unwrap();
    let options = crate::table::Options { buckets: 4, seed: 7, workers: 2, spin_ns: 0, eviction: Eviction::Never };
    let map = || {
        let mapping = segment.map_writable().unwrap();
        mapping.inherit().unwrap();
        Arc::new(mapping)
    };
    let mut table = Arc::new(Table::create(map(), &options).unwrap());
    let (mut locked, mut in_hand) = (0, 0);
    for _ in 0..DEATHS {
        let all = || (0..KEYS).map(|key| notes.words()[2 * key + 1].load(Ordering::SeqCst)).sum::<u64>();
        let (before, seeds) = (all(), [random.u64(..), random.u64(..)]);
        let enough = before + random.u64(1..5_000);
        let both = || {
            std::thread::scope(|scope| {
                scope.spawn(|| work(&table, notes.words(), 1, seeds[1]));
                work(&table, notes.words(), 0, seeds[0]);
            });
        };
        killed_at(both, || all() >= enough);
        let (next, report) = Table::adopt(map(), Eviction::Never, &[]).unwrap();
        assert_eq!(report.all_damage(), 0, "{report}");
        next.audit(&[]);
        assert_eq!(next.unchecked(), next.buckets(), "no entry had to be looked at");
        locked += report.repaired(Repair::Locked);
        let mut reader = Writer::new(Arc::new(next));
        for key in 0..KEYS {
            let [begun, done] = [2 * key, 2 * key + 1].map(|at| notes.words()[at].load(Ordering::SeqCst));
            let mut buffer = Buffer::default();
            let is_there = matches!(reader.get(&key.to_ne_bytes(), || 0, &mut buffer), Lookup::Hit(_));
            let found = is_there.then(|| buffer.take());
            let (old, new) = (if done > 0 { changed(key, done) } else { None }, changed(key, begun));
            assert!(found == old || found == new, "{report}: key {key}, {done} changes of {begun}");
            in_hand += u64::from(begun > done);
            // Whichever it is, the next change is another one.
            notes.words()[2 * key + 1].store(begun, Ordering::SeqCst);
            if found != new {
                match new {
                    Some(value) => _ = reader.put(&key.to_ne_bytes(), &value, None, Guard::Always, || 0).unwrap(),
                    None => _ = reader.delete(&key.to_ne_bytes(), || 0),
                }
            }
        }
        reader.release();
        table = Arc::clone(reader.table());
    }
    println!("{locked} buckets were locked, {in_hand} changes in hand, {} buckets", table.buckets());
    assert!(in_hand > 0 && table.buckets() > 100);
}
