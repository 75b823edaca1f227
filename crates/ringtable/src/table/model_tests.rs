//! Random histories of a table beside a plain map, with its memory full again and again, and its clock under control.
//!
//! Each test prints its seed; RINGTABLE_TEST_SEED replays one. What several threads do at once cannot be replayed, but
//! what each of them asks for can.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::lookup::Buffer;
use super::*;
use crate::sync::{Arc, AtomicBool, AtomicU64, Memory, Ordering, heap_words};

pub(super) type Words = Arc<Box<[AtomicU64]>>;

pub(super) fn random() -> fastrand::Rng {
    let seed =
        std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("RINGTABLE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// What a history is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) pages: usize,
    pub(super) buckets: u64,
    pub(super) keys: u32,
    /// Bytes of a value, most of the time, and of a large one.
    pub(super) small: usize,
    pub(super) large: usize,
    pub(super) eviction: Eviction,
}

pub(super) const SMALL: Shape =
    Shape { pages: 24, buckets: 1, keys: 3_000, small: 60, large: 3_000, eviction: Eviction::Never };

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    value: Vec<u8>,
    expiry: Option<u64>,
    version: u64,
    unevictable: bool,
}

impl Entry {
    fn is_alive(&self, now_ms: u64) -> bool {
        self.expiry.is_none_or(|expiry| expiry > now_ms)
    }
}

/// A table and what should be in it.
pub(super) struct History {
    pub(super) shape: Shape,
    pub(super) random: fastrand::Rng,
    pub(super) writers: Vec<Writer<Words>>,
    pub(super) reader: Reader<Words>,
    /// Also what has expired and was not removed, as far as is known.
    model: HashMap<Vec<u8>, Entry>,
    pub(super) held: Vec<(HeldEntry<Words>, Vec<u8>)>,
    now_ms: u64,
    pub(super) refused: u32,
}

impl History {
    pub(super) fn new(shape: Shape, random: fastrand::Rng) -> Self {
        println!("{shape:?}");
        let words: Words = Arc::new(heap_words(shape.pages * layout::PAGE_WORDS));
        let options = Options { buckets: shape.buckets, seed: 42, workers: 2, spin_ns: 0, eviction: shape.eviction };
        let table = Arc::new(Table::create(Arc::clone(&words), &options).unwrap());
        Self {
            shape,
            random,
            writers: vec![Writer::new(Arc::clone(&table)), Writer::new(table)],
            reader: Reader::attach(words).unwrap(),
            model: HashMap::new(),
            held: Vec::new(),
            now_ms: 1_000_000,
            refused: 0,
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.u32(..self.shape.keys);
        let mut key = format!("key{number}").into_bytes();
        // Some are long.
        if number.is_multiple_of(50) {
            key.resize(700, b'k');
        }
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let size = match self.random.u8(..32) {
            0 => self.random.usize(..=self.shape.large),
            1 => 0,
            _ => self.random.usize(..=self.shape.small),
        };
        let first = self.random.u8(..);
        (0..size).map(|index| first.wrapping_add((index % 253) as u8)).collect()
    }

    fn expiry(&mut self) -> Option<u64> {
        match self.random.u8(..8) {
            0 => Some(self.now_ms + self.random.u64(1..20)),
            1 => Some(self.now_ms + self.random.u64(1..1 << 40)),
            _ => None,
        }
    }

    fn writer(&mut self) -> usize {
        self.random.usize(..self.writers.len())
    }

    /// Whether the table may have let go of an entry that is alive.
    fn may_be_lost(&self, entry: &Entry) -> bool {
        match self.shape.eviction {
            _ if entry.unevictable => false,
            Eviction::Never => false,
            Eviction::AllkeysSieve => true,
            Eviction::VolatileTtl => entry.expiry.is_some(),
        }
    }

    /// What is found of a key, which the model agrees with; what was lost is lost to the model, too.
    fn get(&mut self, key: &[u8]) -> Option<Entry> {
        let (now_ms, mut buffer, writer) = (self.now_ms, Buffer::default(), self.writer());
        let lookup = if self.random.bool() {
            self.reader.get(key, || now_ms, &mut buffer)
        } else {
            self.writers[writer].get(key, || now_ms, &mut buffer)
        };
        let found = match lookup {
            Lookup::Hit(found) => {
                let expiry = found.expiry.map(|Expiry(at)| at);
                // Nobody can see that, but for what is lost.
                let unevictable = self.model.get(key).is_some_and(|entry| entry.unevictable);
                Some(Entry { value: buffer.take(), expiry, version: found.version, unevictable })
            }
            Lookup::Miss | Lookup::Expired => None,
            other => panic!("{other:?}, though nobody writes"),
        };
        let expected = self.model.get(key).filter(|entry| entry.is_alive(now_ms));
        if found.is_none() && expected.is_some_and(|entry| self.may_be_lost(entry)) {
            self.model.remove(key);
            return None;
        }
        assert_eq!(found.as_ref(), expected, "{}", key.escape_ascii());
        found
    }

    fn put(&mut self) {
        let (key, value, expiry, now_ms) = (self.key(), self.value(), self.expiry(), self.now_ms);
        let before = self.get(&key);
        let guard = match self.random.u8(..8) {
            0 => Guard::Absent,
            1 => Guard::Present,
            2 => Guard::Version(before.as_ref().map_or(7, |entry| entry.version)),
            3 => Guard::Version(self.random.u64(..1 << 20) * 2),
            _ => Guard::Always,
        };
        let allowed = match guard {
            Guard::Always => true,
            Guard::Absent => before.is_none(),
            Guard::Present => before.is_some(),
            Guard::Version(version) => before.as_ref().is_some_and(|entry| entry.version == version),
        };
        let mark = match self.random.u8(..24) {
            0 => Mark::Unevictable,
            1 => Mark::Evictable,
            _ => Mark::AsBefore,
        };
        let (lifetime, wants_old) = match self.random.u8(..16) {
            0 | 1 => (Lifetime::AsBefore, self.random.bool()),
            2 => (Lifetime::Until(expiry.map(Expiry)), true),
            _ => (Lifetime::Until(expiry.map(Expiry)), false),
        };
        let manner = Manner { guard, lifetime, mark, wants_old };
        let unevictable = mark.is_unevictable(before.as_ref().is_some_and(|entry| entry.unevictable));
        let writer = self.writer();
        let in_pieces = self.random.u8(..8) == 0;
        // What other workers hold back is not known beforehand.
        let is_alone = self.random.u8(..4) == 0;
        if is_alone {
            self.writers.iter_mut().for_each(Writer::release);
        }
        let evicted = self.evicted();
        let outcome = if in_pieces {
            self.put_in_pieces(writer, &key, &value, manner)
        } else {
            self.writers[writer].put_as(&key, &value, manner, || now_ms)
        };
        let replaced = self.writers[writer].take_replaced();
        if let (Some(before), Ok(_), true) = (&before, &outcome, wants_old) {
            let lost = self.may_be_lost(before);
            assert!(replaced.as_ref().map_or(lost, |old| old.bytes() == before.value), "not what was there");
        } else {
            assert!(replaced.is_none(), "what nobody wanted, or what was not there");
        }
        match outcome {
            Ok(Outcome::Done { version, inserted }) => {
                // To make room, a cache may have let go of the very key that is written.
                let lost = before.as_ref().is_some_and(|entry| self.may_be_lost(entry));
                assert!(allowed || lost && guard == Guard::Absent, "{guard:?} held, with {before:?}");
                assert!(inserted == before.is_none() || lost);
                // A bucket's versions only ever rise; a key that is gone and comes again gets a higher one, too.
                assert!(before.as_ref().is_none_or(|before| before.version < version));
                let expiry = match lifetime {
                    // If it was lost before it was written, nobody knows until when it would have been there.
                    Lifetime::AsBefore if lost => self.expiry_in_table(writer, &key),
                    Lifetime::AsBefore => before.and_then(|before| before.expiry),
                    Lifetime::Until(_) => expiry,
                };
                self.model.insert(key, Entry { value, expiry, version, unevictable });
            }
            Ok(Outcome::Refused) => {
                assert!(in_pieces || evicted == self.evicted(), "a refused write has changed something: {guard:?}");
                let lost = before.as_ref().is_some_and(|entry| self.may_be_lost(entry));
                assert!(!allowed || lost, "{guard:?} did not hold, with {before:?}");
            }
            Err(WriteError::UnevictableFull(most)) => {
                assert!(unevictable && (in_pieces || evicted == self.evicted()));
                assert!(self.writers[0].table().unevictable().bytes() <= most);
                self.make_room();
            }
            Err(WriteError::OutOfMemory(_)) => {
                self.refused += 1;
                assert!(!is_alone || evicted == self.evicted(), "evicted in vain for {} bytes", value.len());
                assert_eq!(self.get(&key), self.model.get(&key).filter(|entry| entry.is_alive(now_ms)).cloned());
                if self.refused.is_multiple_of(50) {
                    self.check_all();
                }
                self.make_room();
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// A value that arrives bit by bit.
    fn put_in_pieces(
        &mut self,
        writer: usize,
        key: &[u8],
        value: &[u8],
        manner: Manner,
    ) -> Result<Outcome, WriteError> {
        let terms = if self.random.bool() { Terms::Arriving } else { Terms::Whole(manner.guard) };
        let (now_ms, writer) = (self.now_ms, &mut self.writers[writer]);
        let mut draft = writer.draft(key, value.len(), terms)?;
        let mut rest = value;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(self.random.usize(1..=rest.len()));
            draft.fill(piece);
            rest = left;
        }
        writer.put_draft(key, draft, manner, || now_ms)
    }

    /// Until when the table has a key that was just written.
    fn expiry_in_table(&mut self, writer: usize, key: &[u8]) -> Option<u64> {
        let now_ms = self.now_ms;
        match self.writers[writer].get(key, || now_ms, &mut Buffer::default()) {
            Lookup::Hit(found) => found.expiry.map(|Expiry(at)| at),
            other => panic!("{other:?}, though it was just written"),
        }
    }

    /// Gives a key another expiry, or takes it away.
    fn renew(&mut self) {
        let (key, expiry, now_ms) = (self.key(), self.expiry(), self.now_ms);
        let (before, writer) = (self.get(&key), self.writer());
        let guard = match (&before, self.random.bool()) {
            (Some(before), true) => Guard::Version(before.version + self.random.u64(..2)),
            _ => Guard::Present,
        };
        let allowed = guard.allows(before.as_ref().map(|entry| entry.version));
        match self.writers[writer].renew(&key, expiry.map(Expiry), guard, || now_ms) {
            Ok(Outcome::Refused) => {
                assert!(!allowed || before.is_some_and(|entry| self.may_be_lost(&entry)), "{guard:?}");
            }
            Ok(Outcome::Done { version, .. }) => {
                let before = before.filter(|_| allowed).expect("forbidden: a guard that did not hold");
                let is_changed = expiry.is_some() || before.expiry.is_some();
                assert!(if is_changed { before.version < version } else { before.version == version });
                self.model.insert(key, Entry { expiry, version, ..before });
            }
            Err(WriteError::OutOfMemory(_)) => self.refused += 1,
            Err(WriteError::UnevictableFull(_)) => assert!(before.is_some_and(|entry| entry.unevictable)),
            Err(other) => panic!("{other}"),
        }
    }

    /// Entries evicted so far.
    fn evicted(&self) -> u64 {
        self.writers[0].table().tally().evicted.load(Ordering::Relaxed)
    }

    /// As somebody would whose writes are refused.
    fn make_room(&mut self) {
        match self.random.u8(..4) {
            0 => self.held.clear(),
            1 => self.sweep(),
            _ => {}
        }
        let mut keys: Vec<Vec<u8>> = self.model.keys().cloned().collect();
        keys.sort();
        self.random.shuffle(&mut keys);
        for key in keys.into_iter().take(self.random.usize(..200)) {
            self.delete(&key);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let (before, now_ms, writer) = (self.get(key), self.now_ms, self.writer());
        let deleted = match self.random.u8(..4) {
            0 => {
                let version = before.as_ref().map_or(9, |entry| entry.version) + self.random.u64(..2);
                let deleted = self.writers[writer].delete_version(key, version, || now_ms);
                assert_eq!(deleted, before.is_some_and(|before| before.version == version));
                deleted
            }
            _ => {
                let deleted = self.writers[writer].delete(key, || now_ms);
                assert_eq!(deleted, before.is_some());
                deleted
            }
        };
        if deleted {
            self.model.remove(key);
        }
    }

    fn sweep(&mut self) {
        let (now_ms, writer) = (self.now_ms, self.writer());
        while !self.writers[writer].sweep_some(100, now_ms) {}
    }

    /// Keeps a value in place for a while: it stays as it was, whatever becomes of its key.
    fn hold(&mut self) {
        if self.held.len() > 5 {
            let (held, value) = self.held.swap_remove(self.random.usize(..self.held.len()));
            assert_eq!(held.bytes(), value);
        }
        let (key, now_ms, writer) = (self.key(), self.now_ms, self.writer());
        let entry = self.get(&key);
        let held = self.writers[writer].hold(&key, || now_ms);
        assert_eq!(held.is_some(), entry.is_some());
        self.held.extend(held.zip(entry.map(|entry| entry.value)));
    }

    fn clear(&mut self) {
        let writer = self.writer();
        let mut next = Some(0);
        while let Some(first) = next {
            next = self.writers[writer].clear_some(first, self.random.u64(1..500));
        }
        self.model.clear();
        while self.random.u8(..8) > 0 && self.writers[writer].table().shrink_some(self.random.u64(1..500)) {}
    }

    /// Everything that is alive is there, once; and nothing else.
    pub(super) fn check_all(&mut self) {
        let now_ms = self.now_ms;
        let (mut pairs, mut cursor) = (Pairs::default(), 0);
        loop {
            cursor = self.reader.scan(cursor, Want::Values, || now_ms, &mut pairs).unwrap();
            if cursor == 0 {
                break;
            }
        }
        let mut seen = HashMap::new();
        for pair in pairs.iter() {
            assert_eq!(seen.insert(pair.key.to_vec(), pair.value.len()), None, "twice: {}", pair.key.escape_ascii());
            let entry = self.model.get(pair.key).filter(|entry| entry.is_alive(now_ms));
            assert_eq!(entry.map(|entry| &entry.value[..]), Some(pair.value), "{}", pair.key.escape_ascii());
        }
        let lost: Vec<Vec<u8>> = self
            .model
            .iter()
            .filter(|(key, entry)| entry.is_alive(now_ms) && !seen.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in lost {
            let entry = self.model.remove(&key).unwrap();
            assert!(self.may_be_lost(&entry), "lost: {}", key.escape_ascii());
        }
        assert!(self.reader.entries() >= pairs.len() as u64);
        assert!(self.held.iter().all(|(held, value)| held.bytes() == value));
    }

    pub(super) fn run(&mut self, steps: u32) {
        self.go_on(steps);
        self.end();
    }

    /// Some random steps.
    pub(super) fn go_on(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.random.u16(..1_000) {
                0..500 => self.put(),
                500..650 => {
                    let key = self.key();
                    self.delete(&key);
                }
                650..900 => {
                    let key = self.key();
                    self.get(&key);
                }
                900..920 => self.hold(),
                920..940 => self.now_ms += self.random.u64(..10),
                940..950 => self.sweep(),
                950..960 => {
                    let writer = self.writer();
                    self.writers[writer].release();
                    self.writers[writer].rescan();
                    self.writers[writer].empty_a_slab();
                }
                960..964 => self.check_all(),
                964 => self.clear(),
                965 => self.now_ms += 1 << 33,
                966..986 => self.renew(),
                _ => {}
            }
        }
        self.check_all();
    }

    /// Removes all there is.
    fn end(&mut self) {
        // What has expired goes with the next sweeps, and then the count is exact.
        self.held.clear();
        self.sweep();
        self.sweep();
        let now_ms = self.now_ms;
        self.model.retain(|_, entry| entry.is_alive(now_ms));
        assert_eq!(self.reader.entries(), self.model.len() as u64);
        let table = Arc::clone(self.writers[0].table());
        let unevictable = self.model.values().filter(|entry| entry.unevictable).count() as u64;
        assert_eq!(table.unevictable().entries(), unevictable);
        self.clear();
        assert_eq!((table.unevictable().entries(), table.unevictable().bytes()), (0, 0));
        self.check_all();
        self.writers.iter_mut().for_each(|writer| writer.release());
        self.writers[0].rescan();
        assert_eq!(self.reader.entries(), 0);
    }
}

#[test]
fn smoke() {
    let mut history = History::new(SMALL, fastrand::Rng::with_seed(1));
    history.run(500);
}

#[test]
fn a_table_that_grows_and_shrinks_is_a_map() {
    History::new(Shape { pages: 64, keys: 20_000, ..SMALL }, random()).run(40_000);
}

#[test]
fn a_table_that_is_full_again_and_again_is_a_map() {
    let mut history = History::new(Shape { pages: 8, keys: 6_000, small: 200, large: 150_000, ..SMALL }, random());
    history.run(30_000);
    assert!(history.refused > 0, "it was never full");
}

#[test]
fn a_table_without_room_for_buckets_is_a_map() {
    // One page of buckets, and hardly any other.
    let mut history =
        History::new(Shape { pages: 5, buckets: 1_024, keys: 9_000, small: 20, large: 5_000, ..SMALL }, random());
    history.run(40_000);
    assert!(history.refused > 0, "it was never full");
}

#[test]
fn a_cache_is_a_part_of_a_map() {
    for eviction in [Eviction::AllkeysSieve, Eviction::VolatileTtl] {
        let shape = Shape { pages: 8, keys: 6_000, small: 200, large: 150_000, eviction, ..SMALL };
        let mut history = History::new(shape, random());
        history.run(25_000);
        let evicted = history.writers[0].table().tally().evicted.load(Ordering::Relaxed);
        assert!(evicted > 0, "it was never full");
    }
}

/// Values that take a large part of the memory, beside small ones of all sizes, views and values that are arriving:
/// what is refused has evicted nothing, and a cache refuses nothing for which a row of pages could be had.
#[test]
fn a_write_that_is_refused_evicts_nothing() {
    refuse_and_look(random(), 20);
}

/// In these, all was evicted for a row of most pages, which was then not looked for; and an overflow bucket was put in
/// the middle of the only row that there could be.
#[test]
fn a_row_of_most_pages_is_found_where_it_can_be() {
    for seed in [2, 158_572_667_340_715_316] {
        refuse_and_look(fastrand::Rng::with_seed(seed), 40);
    }
}

fn refuse_and_look(mut random: fastrand::Rng, rounds: usize) {
    let (mut refused, mut done) = ([0; 2], [0; 2]);
    for round in 0..rounds {
        let eviction = [Eviction::AllkeysSieve, Eviction::VolatileTtl][round % 2];
        let pages = random.usize(12..200);
        let options = Options { buckets: 64, seed: 1, workers: 1, spin_ns: 0, eviction };
        let table = Arc::new(Table::create(heap_words(pages * layout::PAGE_WORDS), &options).unwrap());
        let mut writer = Writer::new(Arc::clone(&table));
        let sizes = [1 << random.u32(4..19), 1 << random.u32(4..15), random.usize(1..2_000)];
        // Of what may not go by expiry there is this much at most.
        let stays_max = random.usize(..pages << 16);
        let (mut held, mut drafts, mut stays) = (Vec::new(), Vec::new(), 0);
        let mut fill = |random: &mut fastrand::Rng, writer: &mut Writer<_>, amount: usize| {
            let mut written = 0;
            while written < amount {
                let most = *random.choice(&sizes).unwrap();
                let (number, size) = (random.u32(..50_000), random.usize(..most));
                let expires = stays >= stays_max || random.bool();
                stays += if expires { 0 } else { size + 64 };
                let expiry = expires.then(|| Expiry(random.u64(2_000..1 << 40)));
                let _ = writer.put(&number.to_le_bytes(), &vec![1; size], expiry, Guard::Always, || 1_000);
                written += size + 64;
            }
        };
        fill(&mut random, &mut writer, pages << 17);
        for _ in 0..random.usize(..4) {
            held.extend(writer.hold(&random.u32(..50_000).to_le_bytes(), || 1_000));
            drafts.extend(writer.draft(b"none", random.usize(1 << 16..1 << 18), Terms::Arriving));
        }
        for _ in 0..8 {
            let state = |writer: &Writer<_>| {
                let table: &Arc<Table<Box<[AtomicU64]>>> = writer.table();
                (table.tally().evicted.load(Ordering::Relaxed), table.entries())
            };
            let (before, size) = (state(&writer), random.usize(1..pages << 16));
            let guard = *random.choice(&[Guard::Always, Guard::Absent, Guard::Present, Guard::Version(1)]).unwrap();
            let key = random.u32(..50_000).to_le_bytes();
            match writer.put(&key, &vec![2; size], None, guard, || 1_000) {
                Ok(Outcome::Done { .. }) => done[round % 2] += 1,
                answer => {
                    assert_eq!(before, state(&writer), "{answer:?} for {size} bytes of {pages} pages, {options:?}");
                    let fixed = table.buckets().div_ceil(layout::PAGE_BUCKETS as u64) as usize + 1;
                    let could = (size + 100).div_ceil(1 << 16) + fixed + super::sieve::SPARE_MAX <= pages;
                    let is_alone = held.is_empty() && drafts.is_empty() && guard == Guard::Always;
                    assert!(!(is_alone && could && eviction == Eviction::AllkeysSieve), "{answer:?} {size} of {pages}");
                    refused[round % 2] += 1;
                }
            }
            let more = random.usize(..pages << 16);
            fill(&mut random, &mut writer, more);
        }
    }
    println!("{done:?} done, {refused:?} refused");
}

/// Keys that differ in nothing that a slot knows of, all in one chain: each is told from the others by itself alone.
#[test]
fn keys_of_one_bucket_and_one_tag_are_told_apart() {
    let mut history = History::new(Shape { pages: 40, ..SMALL }, random());
    let table = Arc::clone(history.writers[0].table());
    table.splitting.store(true, Ordering::Relaxed); // it stays at one bucket
    let tag = |key: &[u8]| table.constants().hash(key) >> 48;
    let keys: Vec<Vec<u8>> =
        (0..10_000_000_u32).map(|n| n.to_le_bytes().to_vec()).filter(|key| tag(key) == 0xffff).take(100).collect();
    // The tag of links, which no entry has: theirs is the one below it.
    let below = (0..10_000_000_u32).map(|n| n.to_be_bytes().to_vec()).filter(|key| tag(key) == 0xfffe).take(50);
    let keys: Vec<Vec<u8>> = keys.into_iter().chain(below).collect();
    assert!(keys.len() == 150, "{} keys", keys.len());
    let mut model: HashMap<&[u8], Vec<u8>> = HashMap::new();
    for step in 0..20_000 {
        let key = &keys[history.random.usize(..keys.len())];
        let (writer, value) = (step % 2, vec![step as u8; history.random.usize(..30)]);
        if history.random.u8(..3) > 0 {
            history.writers[writer].put(key, &value, None, Guard::Always, || 0).unwrap();
            model.insert(key, value);
        } else {
            assert_eq!(history.writers[writer].delete(key, || 0), model.remove(&key[..]).is_some());
        }
        let key = &keys[history.random.usize(..keys.len())];
        let mut buffer = Buffer::default();
        let hit = matches!(history.reader.get(key, || 0, &mut buffer), Lookup::Hit(_));
        assert_eq!(hit.then(|| buffer.take()).as_ref(), model.get(&key[..]));
    }
    assert_eq!(history.reader.entries(), model.len() as u64);
}

/// A damaged table may hold an entry any number of times, and say of its buckets what it likes, also in between.
#[test]
fn a_damaged_table_costs_a_reader_no_more_memory_than_it_has() {
    let history = &mut History::new(Shape { pages: 12, buckets: 8, ..SMALL }, random());
    history.writers[0].put(b"key", &[1; 20_000], None, Guard::Always, || 0).unwrap();
    let (words, reader) = (history.reader.words(), &history.reader);
    let home = layout::bucket_start(layout::address(reader.hash(b"key"), 8));
    let entry = (1..8).map(|slot| words[home + slot].load(Ordering::Relaxed)).find(|&slot| slot != 0).unwrap();
    words[home + 1..home + 7].iter().for_each(|slot| slot.store(entry, Ordering::Relaxed));
    words[home + 7].store(super::bucket::Slot::link(home as u64).0, Ordering::Relaxed);
    let mut pairs = Pairs::default();
    assert!(reader.read_bucket(b"key", Want::Values, || 0, &mut pairs).is_err());
    assert!(pairs.is_empty() && pairs.capacity() <= 4 * size_of_val(words), "{} bytes", pairs.capacity());
    // All buckets with the same entries.
    words[home + 7].store(0, Ordering::Relaxed);
    words[layout::H_BUCKETS].store(1_024, Ordering::Relaxed);
    for bucket in 0..1_024 {
        let start = layout::bucket_start(bucket);
        for word in 1..7 {
            words[start + word].store(entry, Ordering::Relaxed);
        }
    }
    let (mut cursor, mut steps) = (0, 0);
    loop {
        cursor = reader.scan(cursor, Want::Values, || 0, &mut pairs).unwrap();
        pairs.clear();
        steps += 1;
        if cursor == 0 {
            break;
        }
    }
    assert!(steps == 1_024 && pairs.capacity() <= 4 * size_of_val(words), "{steps}, {} bytes", pairs.capacity());
}

/// The count of buckets is looked at once more behind everything else, and may be anything then.
#[test]
fn a_count_that_becomes_nonsense_under_a_reader_is_no_harm() {
    let history = &mut History::new(SMALL, random());
    history.writers[0].put(b"key", b"value", Some(Expiry(10)), Guard::Always, || 0).unwrap();
    let (words, reader) = (history.reader.words(), &history.reader);
    let honest = words[layout::H_BUCKETS].load(Ordering::Relaxed);
    for count in [0, 1 << 62, 1 << 63, u64::MAX] {
        words[layout::H_BUCKETS].store(honest, Ordering::Relaxed);
        let later = || {
            words[layout::H_BUCKETS].store(count, Ordering::Relaxed);
            0
        };
        let _ = reader.get(b"key", later, &mut Buffer::default());
    }
}

/// A walk with a cursor that no walk has come to once went over the whole table in its first step, and compared all
/// keys with each other, while a worker's other clients waited.
#[test]
fn a_cursor_that_is_made_up_costs_no_more_than_an_honest_one() {
    let history = &mut History::new(Shape { pages: 64, buckets: 1, ..SMALL }, random());
    for number in 0..20_000_u32 {
        history.writers[0].put(&number.to_le_bytes(), b"", None, Guard::Always, || 0).unwrap();
    }
    assert!(history.writers[0].table().buckets() > 1_000);
    let random_ones: Vec<u64> = (0..100).map(|_| history.random.u64(..33 << 32)).collect();
    for made_up in [1, 1 << 32, (1 << 32) + 1, 2 << 32, 32 << 32, 33 << 32, u64::MAX].into_iter().chain(random_ones) {
        let (mut pairs, mut in_place) = (Pairs::default(), Pairs::default());
        let next = history.writers[0].scan(made_up, Want::Keys, || 0, &mut pairs);
        assert!(pairs.len() < 50 && (next == 0 || next > made_up), "{made_up:#x}: {} keys, {next:#x}", pairs.len());
        assert_eq!(history.reader.scan(made_up, Want::Keys, || 0, &mut in_place), Ok(next));
        assert!(pairs.iter().eq(in_place.iter()));
    }
}

/// A walk that began in many buckets comes to each of the few that are left again and again.
#[test]
fn a_walk_in_a_table_that_shrinks_gives_each_key_once() {
    let history = &mut History::new(Shape { pages: 64, buckets: 4, ..SMALL }, random());
    let writer = &mut history.writers[0];
    let (many, mut stay) = (0..5_000_u32, Vec::new());
    for number in many.clone() {
        writer.put(&number.to_le_bytes(), b"", None, Guard::Always, || 0).unwrap();
    }
    let buckets = writer.table().buckets();
    let (mut pairs, mut cursor) = (Pairs::default(), 0);
    for _ in 0..buckets / 2 {
        cursor = writer.scan(cursor, Want::Keys, || 0, &mut pairs);
    }
    for number in many {
        let key = number.to_le_bytes();
        if layout::address(history.reader.hash(&key), buckets) < 4 {
            stay.push(key);
        } else {
            writer.delete(&key, || 0);
        }
    }
    while writer.table().shrink_some(1_000) {}
    assert_eq!(writer.table().buckets(), 4);
    while cursor != 0 {
        cursor = writer.scan(cursor, Want::Keys, || 0, &mut pairs);
    }
    assert!(!stay.is_empty());
    for key in stay {
        assert_eq!(pairs.iter().filter(|pair| pair.key == key).count(), 1, "{key:?}");
    }
}

/// A value tells its key, how often the key was written, and repeats a pattern that follows from both.
fn value_of(key: u32, count: u32, size: usize) -> Vec<u8> {
    let mut value = [key.to_le_bytes(), count.to_le_bytes()].concat();
    let mut pattern = fastrand::Rng::with_seed(u64::from(key) << 32 | u64::from(count));
    value.extend(std::iter::repeat_n(pattern.u64(..).to_le_bytes(), size / 8).flatten());
    value
}

/// How often the key was written when it got this value, which has to be one of its own.
fn count_in(key: u32, value: &[u8]) -> u32 {
    let count = u32::from_le_bytes(value[4..8].try_into().unwrap());
    assert!(value == value_of(key, count, value.len() - 8), "torn, or another key's than {key}");
    count
}

/// Readers beside writers while buckets split and are given up, memory runs out, and entries move: what they see was
/// written for that key, and never goes back.
fn readers_beside_writers(eviction: Eviction, pages: usize, sizes: RangeInclusive<usize>, steps: u32) {
    const KEYS: u32 = 400;
    let mut random = random();
    let words: Words = Arc::new(heap_words(pages * layout::PAGE_WORDS));
    let options = Options { buckets: 1, seed: 7, workers: 2, spin_ns: 0, eviction };
    let table = Arc::new(Table::create(Arc::clone(&words), &options).unwrap());
    let (stop, hits, written) = (AtomicBool::new(false), AtomicU64::new(0), heap_words(KEYS as usize));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (mut random, words) = (random.fork(), Arc::clone(&words));
                let (stop, hits, written) = (&stop, &hits, &written);
                scope.spawn(move || {
                    let (reader, mut buffer, mut seen) =
                        (Reader::attach(words).unwrap(), Buffer::default(), vec![0; KEYS as usize]);
                    let mut pairs = Pairs::default();
                    let mut check = |key: u32, value: &[u8]| {
                        let count = count_in(key, value);
                        let most = written.words()[key as usize].load(Ordering::Acquire);
                        assert!(u64::from(count) <= most, "a value that is yet to be written");
                        assert!(count >= seen[key as usize], "key {key} goes back from {}", seen[key as usize]);
                        seen[key as usize] = count;
                        hits.fetch_add(1, Ordering::Relaxed);
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let key = random.u32(..KEYS);
                        match reader.get(&key.to_le_bytes(), || 0, &mut buffer) {
                            Lookup::Hit(_) => check(key, buffer.bytes()),
                            Lookup::Miss | Lookup::Contended => {}
                            other => panic!("{other:?}"),
                        }
                        pairs.clear();
                        if random.u8(..16) == 0
                            && reader.read_bucket(&key.to_le_bytes(), Want::Values, || 0, &mut pairs).is_ok()
                        {
                            for pair in pairs.iter() {
                                let key = u32::from_le_bytes(pair.key.try_into().unwrap());
                                if key < KEYS {
                                    check(key, pair.value);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..2_u32)
            .map(|thread| {
                let (mut random, mut writer) = (random.fork(), Writer::new(Arc::clone(&table)));
                let (written, sizes) = (&written, sizes.clone());
                scope.spawn(move || {
                    for step in 0..steps {
                        // Each key has one writer, so that its values have an order.
                        let key = random.u32(..KEYS / 2) * 2 + thread;
                        match random.u8(..8) {
                            0 => drop(writer.delete(&key.to_le_bytes(), || 0)),
                            1 => {
                                let fresh = (KEYS + random.u32(..2_000) * 2 + thread).to_le_bytes();
                                let _ = writer.put(&fresh, &[0; 40], None, Guard::Always, || 0);
                            }
                            _ => {
                                let count = written.words()[key as usize].load(Ordering::Relaxed) + 1;
                                written.words()[key as usize].store(count, Ordering::Release);
                                let value = value_of(key, count as u32, random.usize(sizes.clone()));
                                // A full table refuses some.
                                let _ = writer.put(&key.to_le_bytes(), &value, None, Guard::Always, || 0);
                            }
                        }
                        if thread == 0 && step % 4_000 == 3_999 {
                            let mut next = Some(0);
                            while let Some(first) = next {
                                next = writer.clear_some(first, 64);
                            }
                            while writer.table().shrink_some(64) {}
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    assert!(hits.load(Ordering::Relaxed) > 0);
    println!("{} hits, {} buckets", hits.load(Ordering::Relaxed), table.buckets());
}

#[test]
fn readers_see_what_was_written_while_the_table_grows_and_shrinks() {
    readers_beside_writers(Eviction::Never, 64, 0..=200, 40_000);
}

#[test]
fn readers_see_what_was_written_while_memory_runs_out() {
    readers_beside_writers(Eviction::Never, 12, 0..=5_000, 20_000);
}

#[test]
fn readers_see_what_was_written_while_entries_are_evicted_and_moved() {
    readers_beside_writers(Eviction::AllkeysSieve, 12, 0..=30_000, 20_000);
}
