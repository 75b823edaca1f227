//! A table whose memory was damaged before it is taken over: no panic, no endless loop, nothing outside of it touched;
//! of what is not damaged, everything is there, and as it was, while checks are outstanding and behind them; and the
//! damage is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::tests::*;
use super::*;
use crate::sync::{Arc, heap_words};
use crate::table::bucket::{SLOTS, Slot};
use crate::table::entry::EntryRef;
use crate::table::layout::{CONSTANT_WORDS, STRIDE, copy_start};
use crate::table::lookup::Buffer;
use crate::table::model_tests::{Words, random};
use crate::table::{Expiry, Guard, Lookup, Mark, Outcome, Reader, Want, WriteError, Writer};

const ROUNDS: usize = if cfg!(miri) { 10 } else { 250 };

/// What a word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Constant,
    Count,
    Map,
    Copy,
    Version,
    Slot,
    Link,
    Entry,
    Chained,
    Events,
}

/// A table with something of everything, and what each of its words is for.
struct Whole {
    words: Vec<u64>,
    /// Value and expiry of each key.
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<Expiry>)>,
    parts: BTreeMap<Part, Vec<usize>>,
    /// The keys that are lost with a word.
    costs: BTreeMap<usize, BTreeSet<Vec<u8>>>,
}

fn key(number: u32) -> Vec<u8> {
    let mut key = number.to_le_bytes().to_vec();
    if number.is_multiple_of(37) {
        key.resize(300, b'k');
    }
    key
}

impl Whole {
    fn new() -> Self {
        let mut writer = writer(42, 40, Eviction::VolatileTtl);
        let table = Arc::clone(writer.table());
        writer.watch().unwrap();
        let mut keys = BTreeMap::new();
        // Long chains, since nobody splits.
        table.alone(|| {
            for number in 0..600_u32 {
                let size = match number % 50 {
                    0 => 40_000,
                    1 => 5_000,
                    2 if number == 2 => 270_000,
                    other => other as usize / 10 * 90,
                };
                let (value, expiry) = (vec![number as u8; size], (number % 3 == 0).then_some(Expiry(1 << 40)));
                let mark = if number % 7 == 0 { Mark::Unevictable } else { Mark::AsBefore };
                writer.put_marked(&key(number), &value, expiry, Guard::Always, mark, || NOW).unwrap();
                if number % 10 == 9 {
                    assert!(writer.delete(&key(number), || NOW));
                } else {
                    keys.insert(key(number), (value, expiry));
                }
            }
        });
        writer.release();
        let words = table.words();
        let mut whole = Self {
            words: words.iter().map(|word| word.load(Ordering::Relaxed)).collect(),
            keys,
            parts: BTreeMap::new(),
            costs: BTreeMap::new(),
        };
        whole.find_parts(&table);
        whole
    }

    fn find_parts(&mut self, table: &Table<Words>) {
        let words = table.words();
        let mut add =
            |part, places: &mut dyn Iterator<Item = usize>| self.parts.entry(part).or_default().extend(places);
        add(Part::Constant, &mut (0..CONSTANT_WORDS));
        add(Part::Count, &mut [H_BUCKETS, H_BUCKETS_SEALED, H_ENTRIES].into_iter());
        let (map, copy) = (page_map_start(words.len()), copy_start(words.len()));
        add(Part::Map, &mut (map..copy).filter(|&index| self.words[index] != 0));
        add(Part::Copy, &mut (copy..copy + 14));
        let ring = RingLocation::load(words).unwrap();
        let (ring, words_of_control) = (ring.start(), 3 * STRIDE);
        add(Part::Events, &mut (0..words_of_control).step_by(STRIDE).map(|index| ring + index));
        add(Part::Events, &mut (ring + words_of_control..ring + words_of_control + 4));
        for index in 0..table.buckets() {
            let guard = table.lock_at(index).unwrap();
            let home = bucket_start(index);
            add(Part::Version, &mut std::iter::once(home));
            let mut behind: Vec<usize> = Vec::new();
            for (bucket, slot, held) in table.slots(&guard) {
                let place = bucket.start(words) + 1 + slot;
                if bucket.start(words) != home && slot == 0 {
                    add(Part::Chained, &mut std::iter::once(place - 1));
                }
                if held.is_link() {
                    add(Part::Link, &mut std::iter::once(place));
                    behind.push(place);
                } else if held.is_entry() {
                    let entry = EntryRef::at(words, held.at()).unwrap();
                    let here = held.at() as usize..held.at() as usize + entry.shape.words();
                    add(Part::Slot, &mut std::iter::once(place));
                    add(Part::Entry, &mut here.clone().take(8));
                    for word in here.chain([place]).chain(behind.iter().copied()) {
                        self.costs.entry(word).or_default().insert(entry.key());
                    }
                }
            }
            guard.unlock_unchanged();
        }
        assert_eq!(self.parts.len(), 10, "{:?}", self.parts.keys());
    }

    fn memory(&self) -> Words {
        let words: Words = Arc::new(heap_words(self.words.len()));
        words.iter().zip(&self.words).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
        words
    }

    /// Another value for a word.
    fn wrong(&self, random: &mut fastrand::Rng, part: Part, word: usize) -> u64 {
        let value = self.words[word];
        let of = |part| self.words[*fastrand::Rng::with_seed(word as u64).choice(&self.parts[&part]).unwrap()];
        let wrong = match random.u8(..8) {
            0..=2 => value ^ 1 << random.u32(..64),
            3 => 0,
            4 => random.u64(..),
            5 => random.u64(..2 * self.words.len() as u64),
            6 => of(part),
            _ => of(*random.choice(&[Part::Slot, Part::Link, Part::Map, Part::Entry, Part::Version]).unwrap()),
        };
        if wrong == value { value ^ 1 } else { wrong }
    }

    /// Damages so many words, and compares what is left.
    fn damage(&self, random: &mut fastrand::Rng, count: usize, only: Option<Part>) -> Option<Report> {
        let memory = self.memory();
        let all: Vec<Part> = self.parts.keys().copied().collect();
        let (mut lost, mut places) = (BTreeSet::new(), Vec::new());
        for _ in 0..count {
            let part = only.unwrap_or_else(|| *random.choice(&all).unwrap());
            let word = *random.choice(&self.parts[&part]).unwrap();
            let wrong = self.wrong(random, part, word);
            memory[word].store(wrong, Ordering::Relaxed);
            lost.extend(self.costs.get(&word).into_iter().flatten().cloned());
            places.push((part, word, self.words[word], wrong));
        }
        let has = |part, word| places.iter().any(|place: &(Part, usize, u64, u64)| place.0 == part && place.1 == word);
        if has(Part::Count, H_BUCKETS) && has(Part::Count, H_BUCKETS_SEALED) {
            // Nobody can tell what is there. No panic all the same.
            let _ = Table::adopt(memory, Eviction::VolatileTtl, &[]);
            return None;
        }
        let adopted = Table::adopt(Arc::clone(&memory), Eviction::VolatileTtl, &[random.u64(..)]);
        let Ok((table, report)) = adopted else {
            // Only if a word and its copy are both damaged, or the copy and its checksum.
            let count = |part: Part| places.iter().filter(|place| place.0 == part).count();
            let is_both = count(Part::Copy) > 1 || count(Part::Constant) > 0 && count(Part::Copy) > 0;
            assert!(is_both, "{places:x?}: {:?}", adopted.err());
            return None;
        };
        let table = Arc::new(table);
        let place = format!("{places:x?}: {report}");
        table.audit_slots(&[], |_, _, _| {});
        let mut left = Left::new(self, &table, lost, place);
        left.is_there();
        // While checks are outstanding, and behind them.
        for _ in 0..random.usize(..40) * random.usize(..3) {
            left.step(random);
        }
        let gone = left.check_all();
        let report = table.found().unwrap();
        // A slot that has become 0 is like any empty one, and a link may have become the slot of an entry behind it.
        let is_behind = |link: usize, slot: u64| {
            let [behind, there] = [link, Slot(slot).at() as usize].map(|word| self.costs.get(&word));
            behind.zip(there).is_some_and(|(behind, there)| !behind.is_disjoint(there))
        };
        let is_hidden = places.iter().any(|&(part, word, _, wrong)| match part {
            Part::Slot => wrong == 0,
            Part::Link => wrong == 0 || is_behind(word, wrong),
            _ => false,
        });
        assert!(gone == 0 || is_hidden || report.all_damage() > 0, "{}: untold", left.place);
        for _ in 0..20 {
            left.step(random);
        }
        left.end(random);
        Some(report)
    }
}

/// What is left of a damaged table, and goes on.
struct Left {
    writer: Writer<Words>,
    reader: Reader<Words>,
    /// What is certainly there, unless it was evicted.
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<Expiry>)>,
    /// What may be there.
    damaged: BTreeSet<Vec<u8>>,
    /// For messages.
    place: String,
}

impl Left {
    fn new(whole: &Whole, table: &Arc<Table<Words>>, damaged: BTreeSet<Vec<u8>>, place: String) -> Self {
        let keys = whole.keys.clone().into_iter().filter(|(key, _)| !damaged.contains(key)).collect();
        let reader = Reader::attach(Arc::clone(table.memory())).unwrap();
        Self { writer: Writer::new(Arc::clone(table)), reader, keys, damaged, place }
    }

    /// Whether a key may have gone for another one.
    fn may_be_evicted(&self, expiry: Option<Expiry>) -> bool {
        expiry.is_some() && self.writer.table().tally().evicted.load(Ordering::Relaxed) > 0
    }

    /// Looks a key up, and compares.
    fn get(&mut self, key: &[u8]) {
        let (mut buffer, mut in_place) = (Buffer::default(), Buffer::default());
        // Where an entry beside it is damaged, a reader asks the server.
        let read = self.reader.get(key, || NOW, &mut in_place);
        let found = self.writer.get(key, || NOW, &mut buffer);
        let Some((value, expiry)) = self.keys.get(key) else {
            assert!(self.damaged.contains(key) || found == Lookup::Miss, "{}: {found:?}", self.place);
            return;
        };
        if found == Lookup::Miss && self.may_be_evicted(*expiry) {
            self.keys.remove(key);
            return;
        }
        for (found, buffer) in [(read, in_place), (found, buffer)] {
            match found {
                Lookup::Hit(found) if buffer.bytes() == value && found.expiry == *expiry => {}
                Lookup::Contended if self.writer.table().unchecked() > 0 || read == found => {}
                other => panic!("{}: {other:?} of {}", self.place, key.escape_ascii()),
            }
        }
        assert!(found != Lookup::Contended, "{}", self.place);
    }

    /// Compares all, as readers find it.
    fn is_there(&self) {
        let mut buffer = Buffer::default();
        for (key, (value, expiry)) in &self.keys {
            match self.reader.get(key, || NOW, &mut buffer) {
                Lookup::Hit(found) => assert!(buffer.bytes() == value && found.expiry == *expiry, "{}", self.place),
                Lookup::Contended if self.writer.table().unchecked() > 0 => {}
                Lookup::Miss if self.may_be_evicted(*expiry) => {}
                other => panic!("{}: {other:?} of {}", self.place, key.escape_ascii()),
            }
        }
    }

    /// Any key, also such as were never there.
    fn key(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let number = random.u32(..700);
        key(number)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, expiry: Option<Expiry>) {
        let is_there = self.keys.contains_key(&key);
        match self.writer.put(&key, &value, expiry, Guard::Always, || NOW) {
            Ok(Outcome::Done { inserted, .. }) => {
                let is_certain = !self.damaged.remove(&key);
                let evicted = self.writer.table().tally().evicted.load(Ordering::Relaxed) > 0;
                assert!(inserted != is_there || !is_certain || evicted, "{}", self.place);
                self.keys.insert(key, (value, expiry));
            }
            Ok(other) => panic!("{}: {other:?}", self.place),
            Err(error) => assert!(matches!(error, WriteError::OutOfMemory(_)), "{}: {error}", self.place),
        }
    }

    /// Something that a client, or the server, may do at any time.
    fn step(&mut self, random: &mut fastrand::Rng) {
        let key = self.key(random);
        let expiry = random.bool().then_some(Expiry((1 << 40) + random.u64(..100_000)));
        match random.u8(..20) {
            0..5 => {
                let size = [20, 90, 300, 6_000, 30_000][random.usize(..5)];
                self.put(key, vec![random.u8(..); random.usize(..size)], expiry);
            }
            5..7 => {
                let deleted = self.writer.delete(&key, || NOW);
                if let Some((_, expiry)) = self.keys.remove(&key) {
                    assert!(deleted || self.may_be_evicted(expiry), "{}", self.place);
                } else {
                    assert!(self.damaged.remove(&key) || !deleted, "{}", self.place);
                }
            }
            7..11 => self.get(&key),
            11 => {
                let done = match self.writer.renew(&key, expiry, Guard::Present, || NOW) {
                    Err(WriteError::OutOfMemory(_)) => return,
                    done => done.unwrap(),
                };
                match self.keys.get_mut(&key) {
                    Some(_) if done == Outcome::Refused => self.get(&key),
                    Some(state) => state.1 = expiry,
                    None => assert!(self.damaged.contains(&key) || done == Outcome::Refused, "{}", self.place),
                }
            }
            12 => {
                let held = self.writer.hold(&key, || NOW);
                match (held, self.keys.get(&key)) {
                    (Some(held), Some((value, _))) => assert!(held.bytes() == value, "{}", self.place),
                    (None, Some((_, expiry))) => assert!(self.may_be_evicted(*expiry), "{}", self.place),
                    (held, None) => assert!(held.is_none() || self.damaged.contains(&key), "{}", self.place),
                }
            }
            13 if random.u8(..4) == 0 => self.scan(),
            14 => {
                let mut pairs = crate::table::Pairs::default();
                let _ = self.writer.read_bucket(&key, 1 << 20, || NOW, &mut pairs);
                let _ = self.reader.read_bucket(&key, Want::Values, || NOW, &mut pairs);
                self.writer.table().touch(self.reader.hash(&key));
            }
            15 => _ = self.writer.sweep_some(random.u64(..20), NOW),
            16 => _ = self.writer.empty_a_slab(),
            17 => {
                let table = Arc::clone(self.writer.table());
                table.alone(|| self.writer.split_one());
                table.shrink_some(1);
            }
            18 => {
                // Wherever a slot points to, whatever is there.
                let table = Arc::clone(self.writer.table());
                let home = table.bucket(random.u64(..table.buckets()));
                let slot = home.slot(random.usize(..SLOTS));
                if slot.is_entry() {
                    self.writer.relocate(slot.at(), false);
                }
            }
            _ => _ = self.writer.check_some(random.u64(..4)),
        }
    }

    /// Walks over all keys: those that are certain are there once.
    fn scan(&mut self) {
        let (mut pairs, mut cursor) = (crate::table::Pairs::default(), 0);
        loop {
            cursor = self.writer.scan(cursor, Want::Values, || NOW, &mut pairs);
            if cursor == 0 {
                break;
            }
        }
        let mut seen = BTreeSet::new();
        for pair in pairs.iter() {
            assert!(seen.insert(pair.key.to_vec()), "{}: twice", self.place);
            match self.keys.get(pair.key) {
                Some((value, _)) => assert!(value == pair.value, "{}", self.place),
                None => assert!(self.damaged.contains(pair.key), "{}", self.place),
            }
        }
        let missing = self.keys.iter().filter(|(key, _)| !seen.contains(*key));
        for (key, (_, expiry)) in missing {
            assert!(self.may_be_evicted(*expiry), "{}: lost {}", self.place, key.escape_ascii());
        }
    }

    /// Has all that is left checked, and compares all. Returns how many keys have gone that were damaged, at least.
    fn check_all(&mut self) -> usize {
        check_all(&mut self.writer);
        self.writer.release();
        let table = Arc::clone(self.writer.table());
        let audited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| table.audit(&[])));
        assert!(audited.is_ok(), "{}", self.place);
        self.is_there();
        self.scan();
        let is_gone = |key: &&Vec<u8>| {
            matches!(self.reader.get(key, || NOW, &mut Buffer::default()), Lookup::Miss | Lookup::Expired)
        };
        let evicted = table.tally().evicted.load(Ordering::Relaxed) as usize;
        self.damaged.iter().filter(is_gone).count().saturating_sub(evicted)
    }

    /// Deletes all, one by one or at once: all memory comes back.
    fn end(mut self, random: &mut fastrand::Rng) {
        if random.bool() {
            self.keys.keys().chain(&self.damaged).for_each(|key| _ = self.writer.delete(key, || NOW));
        } else {
            flush(&mut self.writer);
        }
        self.writer.release();
        self.writer.table().heap().release(self.writer.table().words());
        let usage = self.writer.table().heap().usage();
        assert_eq!((self.writer.table().entries(), usage.allocated), (0, 0), "{}", self.place);
        self.writer.watch().unwrap();
        self.writer.table().audit(&[]);
    }
}

fn flush(writer: &mut Writer<Words>) {
    let mut next = Some(0);
    while let Some(first) = next {
        next = writer.clear_some(first, 7);
    }
}

#[test]
fn what_is_not_damaged_is_there_and_the_damage_is_counted() {
    let (whole, mut random) = (Whole::new(), random());
    let mut refused = 0;
    for round in 0..ROUNDS {
        let count = [1, 1, 1, 2, 5, 30][round % 6];
        refused += usize::from(whole.damage(&mut random, count, None).is_none());
    }
    assert!(refused < ROUNDS / 4, "{refused}");
}

#[test]
fn damage_of_each_kind_has_its_name() {
    let (whole, mut random) = (Whole::new(), random());
    for (part, names) in [
        (Part::Constant, &[Damage::Header][..]),
        (Part::Copy, &[Damage::Header]),
        (Part::Map, &[Damage::PageMap]),
        (Part::Version, &[Damage::Version]),
        (Part::Slot, &[Damage::Slot, Damage::Entry]),
        (Part::Link, &[Damage::Link]),
        (Part::Entry, &[Damage::Entry]),
        (Part::Events, &[Damage::Events]),
    ] {
        let mut counted = 0;
        for _ in 0..30 {
            let report = whole.damage(&mut random, 1, Some(part)).unwrap();
            counted += names.iter().map(|&name| report.damaged(name)).sum::<u64>();
        }
        // Some of it nobody can see, or it is no harm.
        assert!(counted > 2, "{part:?}: {counted}");
    }
}

/// All of it is nonsense, but for what is looked at first.
#[test]
fn a_segment_of_nonsense_is_an_empty_table() {
    let (whole, mut random) = (Whole::new(), random());
    for round in 0..30 {
        let memory = whole.memory();
        let (from, to) = (bucket_start(0), page_map_start(memory.len()) + (round % 2) * 40);
        for word in &memory[from..to] {
            let slot = Slot::entry(random.u64(..), random.u64(..memory.len() as u64)).0;
            let link = Slot::link(random.u64(..memory.len() as u64)).0;
            let all = [slot, link, random.u64(..), random.u64(..300), 0, u64::MAX];
            let value = *random.choice(&all).unwrap();
            word.store(value, Ordering::Relaxed);
        }
        let (table, report) = Table::adopt(memory, Eviction::AllkeysSieve, &[]).unwrap();
        assert!(report.all_damage() > 40 && report.entries == 0, "{report}");
        assert_eq!(table.unchecked(), 0, "nothing of it fits, so that all entries were looked at");
        table.audit(&[]);
        let mut writer = Writer::new(Arc::new(table));
        for number in 0..1_000 {
            put(&mut writer, &key(number), &[1; 100]);
        }
        writer.release();
        writer.table().audit(&[]);
    }
}

/// An overflow bucket that is linked twice belongs to the chain that it was made for.
#[test]
fn a_link_into_another_chain_costs_that_one_nothing() {
    let whole = Whole::new();
    let links = &whole.parts[&Part::Link];
    for (nth, &link) in links.iter().enumerate().take(30) {
        let memory = whole.memory();
        let other = links[(nth + 7) % links.len()];
        memory[link].store(whole.words[other], Ordering::Relaxed);
        let (table, report) = Table::adopt(Arc::clone(&memory), Eviction::Never, &[]).unwrap();
        table.audit(&[]);
        let lost = &whole.costs[&link];
        let there = |key: &Vec<u8>| {
            let reader = Reader::attach(Arc::clone(&memory)).unwrap();
            matches!(reader.get(key, || NOW, &mut Buffer::default()), Lookup::Hit(_))
        };
        assert!(whole.keys.keys().all(|key| lost.contains(key) || there(key)), "{report}");
        assert_eq!(report.damaged(Damage::Link), 1, "{report}");
        assert!(SLOTS == 7 && report.entries as usize >= whole.keys.len() - lost.len());
    }
}

/// Which of two slots is right, only the entry can tell: so all entries are looked at before anything is believed.
#[test]
fn a_slot_that_points_to_the_entry_of_another_costs_that_one_nothing() {
    let whole = Whole::new();
    let slots = &whole.parts[&Part::Slot];
    for (nth, &slot) in slots.iter().enumerate().take(60) {
        let memory = whole.memory();
        let other = slots[(nth * 7 + 31) % slots.len()];
        memory[slot].store(whole.words[other], Ordering::Relaxed);
        let (table, report) = Table::adopt(Arc::clone(&memory), Eviction::VolatileTtl, &[]).unwrap();
        assert_eq!((report.all_damage(), table.unchecked()), (1, 0), "{report}");
        let place = format!("{slot:x} as {other:x}: {report}");
        let mut left = Left::new(&whole, &Arc::new(table), whole.costs[&slot].clone(), place);
        assert_eq!(left.check_all(), whole.costs[&slot].len());
    }
}
