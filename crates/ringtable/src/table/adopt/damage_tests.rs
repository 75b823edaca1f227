//! A table whose memory was damaged before it is taken over: no panic, no endless loop, nothing outside of it touched;
//! of what is not damaged, everything is there, and as it was; and the damage is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::tests::*;
use super::*;
use crate::sync::{Arc, heap_words};
use crate::table::bucket::{SLOTS, Slot};
use crate::table::entry::EntryRef;
use crate::table::layout::{CONSTANT_WORDS, STRIDE, copy_start};
use crate::table::lookup::Buffer;
use crate::table::model_tests::{Words, random};
use crate::table::{Expiry, Guard, Lookup, Mark, Reader, Writer};

const ROUNDS: usize = if cfg!(miri) { 10 } else { 500 };

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
        let place = format!("{places:x?}: {report}");
        table.audit(&[]);
        let (reader, mut gone) = (Reader::attach(Arc::clone(&memory)).unwrap(), 0);
        let mut buffer = Buffer::default();
        for (key, (value, expiry)) in &self.keys {
            match reader.get(key, || NOW, &mut buffer) {
                Lookup::Hit(_) if lost.contains(key) => {}
                Lookup::Hit(found) => assert!(buffer.bytes() == value && found.expiry == *expiry, "{place}"),
                Lookup::Miss | Lookup::Expired => {
                    assert!(lost.contains(key), "{place}: lost {}", key.escape_ascii());
                    gone += 1;
                }
                other => panic!("{other:?}: {place}"),
            }
        }
        // A slot that has become 0 is like any empty one.
        let is_hidden = places.iter().any(|&(part, _, _, wrong)| wrong == 0 && matches!(part, Part::Slot | Part::Link));
        assert!(gone == 0 || is_hidden || report.all_damage() > 0, "{place}: untold");
        // It goes on.
        let mut writer = Writer::new(Arc::new(table));
        for (number, key) in self.keys.keys().enumerate().filter(|(number, _)| number % 7 == 0) {
            let _ = writer.put(key, &vec![1; number * 3], None, Guard::Always, || NOW);
        }
        for key in self.keys.keys() {
            writer.delete(key, || NOW);
        }
        writer.release();
        writer.table().heap().release(writer.table().words());
        writer.watch().unwrap();
        writer.table().audit(&[]);
        Some(report)
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
        for _ in 0..60 {
            let report = whole.damage(&mut random, 1, Some(part)).unwrap();
            counted += names.iter().map(|&name| report.damaged(name)).sum::<u64>();
        }
        // Some of it nobody can see, or it is no harm.
        assert!(counted > 5, "{part:?}: {counted}");
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
