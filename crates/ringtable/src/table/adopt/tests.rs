//! A table that is taken over goes on as if nothing had been: its memory, its counts and its keys are compared.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::sync::{Arc, AtomicBool, AtomicUsize, lock};
use crate::table::bucket::{BucketGuard, SLOTS, Slot};
use crate::table::events::{Consumer, Event, Kind, Next};
use crate::table::heap::{CLASSES, taken_words};
use crate::table::layout::{BUCKET_WORDS, PAGE_BUCKETS, address};
use crate::table::model_tests::{History, SMALL, Shape, Words, random};
use crate::table::reclaim::{HazardRecord, Pinned, pin, unpin};
use crate::table::unevictable::amount_of;
use crate::table::{Expiry, Guard, Lookup, Mark, Options, Reader, Terms, Writer};

pub(super) const NOW: u64 = 1_000;

impl<M: Memory> Table<M> {
    /// Compares all bookkeeping with what is there. No writer holds free slots, and `kept` is what nothing points at.
    pub(super) fn audit(&self, kept: &[u64]) {
        self.audit_slots(kept, |index, guard, slot| {
            let entry = self.entry(slot);
            let hash = self.hash_of(entry);
            assert_eq!(address(hash, self.buckets()), index);
            let version = entry.version() - self.constants().first_version;
            assert!(version < guard.version && version & 1 != 0, "{version} {}", guard.version);
            assert_eq!(slot.expiry_code(), crate::table::expiry_code::code(entry.expiry()));
            assert_eq!(taken_words(entry.shape.words()), self.heap.slot_words(slot.at()));
        });
        if self.unchecked() == 0 {
            let is_empty = |bucket: &BucketRef<'_>| (0..SLOTS).all(|index| !bucket.slot(index).is_entry());
            for guard in (0..self.buckets()).map(|index| self.lock_at(index).unwrap()) {
                assert!(!self.chain(&guard).skip(1).any(|bucket| is_empty(&bucket)), "an empty overflow bucket");
                guard.unlock_unchanged();
            }
        }
    }

    /// The same of slots alone, and of entries only what `look` looks at.
    pub(super) fn audit_slots(&self, kept: &[u64], look: impl Fn(u64, &BucketGuard<'_>, Slot)) {
        let words = self.words();
        let mut used: BTreeMap<u64, usize> = kept.iter().map(|&start| (start, self.heap.slot_words(start))).collect();
        let (mut entries, mut expires, mut volatile) = (0, 0, 0);
        let mut amounts = [vec![0; CLASSES + 1], vec![0; CLASSES + 1]];
        let (mut unevictable, mut bytes) = (0, 0);
        for index in 0..self.buckets() {
            let guard = self.lock_unsettled(index).unwrap();
            for bucket in self.chain(&guard).skip(1) {
                assert_eq!(used.insert(bucket.start(words) as u64, BUCKET_WORDS), None);
            }
            for (_, _, slot) in self.entry_slots(&guard) {
                look(index, &guard, slot);
                let taken = self.heap.slot_words(slot.at());
                assert_eq!(used.insert(slot.at(), taken), None, "two slots of one entry");
                let (kind, amount) = amount_of(taken);
                entries += 1;
                expires += u64::from(slot.expires());
                volatile += u64::from(slot.is_volatile());
                amounts[0][kind] += if slot.is_volatile() { amount } else { 0 };
                amounts[1][kind] += if slot.is_unevictable() { amount } else { 0 };
                unevictable += u64::from(slot.is_unevictable());
                bytes += if slot.is_unevictable() { taken as u64 * 8 } else { 0 };
            }
            guard.unlock_unchanged();
        }
        assert_eq!(self.entries(), entries);
        assert_eq!(self.tally().expiring.load(Ordering::Relaxed), expires);
        assert_eq!((self.unevictable().entries(), self.unevictable().bytes()), (unevictable, bytes));
        let [volatile_by_kind, unevictable_by_kind] = amounts;
        assert!((0..=CLASSES).map(|kind| self.unevictable().amount(kind)).eq(unevictable_by_kind));
        if let Some(expiring) = &self.expiring {
            assert!((0..=CLASSES).map(|kind| expiring.amount(kind)).eq(volatile_by_kind));
        }
        assert!(self.expiring.as_ref().is_none_or(|expiring| expiring.all() == volatile));
        let bucket_pages = self.bucket_pages.load(Ordering::Relaxed) as usize;
        assert_eq!(bucket_pages, bucket_start(self.buckets()).div_ceil(PAGE_WORDS));
        let mut fixed = vec![0..bucket_pages, page_map_start(words.len()) / PAGE_WORDS..words.len() / PAGE_WORDS];
        if let Some(ring) = RingLocation::load(words) {
            fixed.push(ring.start() / PAGE_WORDS..(ring.start() + ring.words()).div_ceil(PAGE_WORDS));
        }
        self.heap.audit(words, &used, &fixed);
    }
}

/// Another server takes the table over.
fn adopted(table: &Table<Words>) -> (Arc<Table<Words>>, Report) {
    let (table, report) = Table::adopt(Arc::clone(table.memory()), table.eviction(), &[]).unwrap();
    table.audit(&[]);
    assert_eq!(table.unchecked(), table.buckets(), "nothing is damaged: no entry had to be looked at");
    (Arc::new(table), report)
}

/// Has all chains checked that were not yet.
pub(super) fn check_all(writer: &mut Writer<Words>) {
    while writer.check_some(7) || writer.table().unchecked() > 0 {}
}

pub(super) fn writer(pages: usize, buckets: u64, eviction: Eviction) -> Writer<Words> {
    let options = Options { buckets, seed: 42, workers: 1, spin_ns: 0, eviction };
    let words: Words = Arc::new(crate::sync::heap_words(pages * PAGE_WORDS));
    Writer::new(Arc::new(Table::create(words, &options).unwrap()))
}

pub(super) fn put(writer: &mut Writer<Words>, key: &[u8], value: &[u8]) {
    writer.put(key, value, None, Guard::Always, || NOW).unwrap();
}

fn value(table: &Arc<Table<Words>>, key: &[u8]) -> Option<Vec<u8>> {
    let reader = Reader::attach(Arc::clone(table.memory())).unwrap();
    let mut buffer = crate::table::lookup::Buffer::default();
    match reader.get(key, || NOW, &mut buffer) {
        Lookup::Hit(_) => Some(buffer.take()),
        Lookup::Miss => None,
        other => panic!("{other:?}"),
    }
}

impl History {
    /// The server dies at rest, with all that it had in private memory, and another one takes over.
    fn pass_on(&mut self) {
        let before = Arc::clone(self.writers[0].table());
        // Something that was arriving, and will not.
        let size = self.random.usize(1..5_000);
        std::mem::forget(self.writers[0].draft(b"draft", size, Terms::Arriving));
        let (table, report) = adopted(&before);
        let same = |figure: fn(&Table<Words>) -> u64| assert_eq!(figure(&before), figure(&table), "{report}");
        same(|table| table.entries());
        same(|table| table.buckets());
        same(|table| table.tally().expiring.load(Ordering::Relaxed));
        same(|table| table.unevictable().entries());
        same(|table| table.unevictable().bytes());
        same(|table| table.constants().first_version);
        same(|table| table.buckets_min);
        assert_eq!(report.to_string(), format!("{} entries", table.entries()));
        self.writers = vec![Writer::new(Arc::clone(&table)), Writer::new(Arc::clone(&table))];
        self.held.clear();
        // All of the rest is checked before it goes on, or some of it, or nothing.
        match self.random.u8(..3) {
            0 => {
                check_all(&mut self.writers[0]);
                table.audit(&[]);
                assert_eq!(table.found(), Some(report));
            }
            1 => _ = self.writers[1].check_some(self.random.u64(..table.buckets())),
            _ => {}
        }
    }

    /// The server ends in order, and another one goes on with what it says of its memory.
    fn resign(&mut self) -> bool {
        self.held.clear();
        for writer in &mut self.writers {
            writer.rescan();
            writer.release();
        }
        let before = Arc::clone(self.writers[0].table());
        let Some(saved) = before.save() else { return false };
        let after = Table::go_on(Arc::clone(before.memory()), before.eviction(), &saved).expect("it fits");
        after.audit(&before.reclaimer.retired());
        let same = |figure: fn(&Table<Words>) -> u64| assert_eq!(figure(&before), figure(&after));
        same(|table| table.entries());
        same(|table| table.buckets_min);
        same(|table| table.heap.usage().allocated);
        same(|table| table.reclaimer.entries_retired());
        same(|table| table.unchecked());
        let table = Arc::new(after);
        self.writers = vec![Writer::new(Arc::clone(&table)), Writer::new(table)];
        true
    }

    /// Returns how many entries were evicted.
    fn across_deaths(&mut self, deaths: u32, steps: u32) -> u64 {
        let mut evicted = 0;
        for _ in 0..deaths {
            self.go_on(steps);
            evicted += self.writers[0].table().tally().evicted.load(Ordering::Relaxed);
            self.pass_on();
            self.check_all();
        }
        self.run(steps);
        self.pass_on();
        evicted
    }
}

#[test]
fn smoke() {
    let mut writer = writer(8, 4, Eviction::Never);
    put(&mut writer, b"key", b"value");
    writer.put_marked(b"other", &[7; 5_000], Some(Expiry(9_000)), Guard::Always, Mark::Unevictable, || NOW).unwrap();
    let (table, report) = adopted(writer.table());
    assert_eq!((report.entries, report.all_damage()), (2, 0));
    assert_eq!(value(&table, b"key").unwrap(), b"value");
    let mut writer = Writer::new(Arc::clone(&table));
    assert!(writer.delete(b"key", || NOW) && writer.delete(b"other", || NOW));
    writer.release();
    let (table, report) = adopted(&table);
    assert_eq!((report.entries, table.entries(), table.heap().usage().allocated), (0, 0, 0));
}

#[test]
fn a_table_that_passes_from_server_to_server_is_a_map() {
    for shape in [
        SMALL,
        Shape { pages: 65, keys: 20_000, ..SMALL },
        Shape { pages: 9, keys: 6_000, small: 200, large: 150_000, ..SMALL },
        Shape { pages: 40, keys: 500, small: 2_000, large: 700_000, ..SMALL },
        // One page of buckets, and hardly any other: long chains.
        Shape { pages: 6, buckets: 1_024, keys: 9_000, small: 20, large: 5_000, ..SMALL },
    ] {
        History::new(shape, random()).across_deaths(10, 2_000);
    }
}

#[test]
fn a_cache_that_passes_from_server_to_server_is_a_part_of_a_map() {
    for eviction in [Eviction::AllkeysSieve, Eviction::VolatileTtl] {
        let shape = Shape { pages: 9, keys: 6_000, small: 200, large: 150_000, eviction, ..SMALL };
        assert!(History::new(shape, random()).across_deaths(10, 2_000) > 0, "it was never full");
    }
}

#[test]
fn a_table_that_was_emptied_in_part_goes_on_with_what_is_left() {
    let mut writer = writer(64, 4, Eviction::Never);
    for number in 0..20_000_u32 {
        put(&mut writer, &number.to_le_bytes(), &[1; 40]);
    }
    let (before, buckets) = (writer.table().entries(), writer.table().buckets());
    let mut next = 0;
    while next < buckets / 2 {
        next = writer.clear_some(next, 100).unwrap();
    }
    let (table, _) = adopted(writer.table());
    assert!(table.entries() < before * 2 / 3 && table.entries() > before / 3);
    let mut writer = Writer::new(table);
    let mut next = Some(0);
    while let Some(first) = next {
        next = writer.clear_some(first, 1_000);
    }
    while writer.table().shrink_some(1_000) {}
    let (table, report) = adopted(writer.table());
    assert_eq!((report.entries, table.buckets()), (0, 4));
    // The pages of buckets that are gone are free.
    assert_eq!(table.free_bytes(), (64 - 1 - 1 - 1) * PAGE_WORDS as u64 * 8);
    let mut writer = Writer::new(table);
    for number in 0..20_000_u32 {
        put(&mut writer, &number.to_le_bytes(), &[2; 40]);
    }
    assert!(writer.table().buckets() > PAGE_BUCKETS as u64 * 2);
    adopted(writer.table());
}

#[test]
fn what_a_client_pins_stays_though_nothing_points_at_it() {
    struct Pins(Words);
    impl HazardRecord for Pins {
        fn pins(&self) -> &[AtomicU64] {
            &self.0
        }
    }
    let mut first = writer(40, 4, Eviction::Never);
    let pins: Words = Arc::new(crate::sync::heap_words(4));
    first.table().reclaimer().register(Box::new(Pins(Arc::clone(&pins))));
    let sizes = [100, 300_000];
    let mut places = Vec::new();
    for (nth, size) in sizes.into_iter().enumerate() {
        put(&mut first, &[nth as u8], &vec![nth as u8; size]);
        let reader = Reader::attach(Arc::clone(first.table().memory())).unwrap();
        let key = [nth as u8];
        let found = pin(reader.words(), &pins[nth], reader.hash(&key), &key, || NOW);
        let Pinned::Hit(_, range) = found else { panic!("{found:?}") };
        places.push(range);
        put(&mut first, &[nth as u8], b"another");
    }
    let pinned: Vec<u64> = pins.iter().map(|pin| pin.load(Ordering::Relaxed)).collect();
    // One that is the table's, one that is free, and nonsense.
    let nonsense = [pinned[0] + 1, 0, 5, u64::MAX, 39 * PAGE_WORDS as u64, pinned[0], 20 * PAGE_WORDS as u64];
    let all: Vec<u64> = pinned.iter().copied().chain(nonsense).collect();
    let (table, report) = Table::adopt(Arc::clone(first.table().memory()), Eviction::Never, &all).unwrap();
    assert_eq!((report.entries, report.all_damage()), (2, 0));
    table.audit(&pinned[..2]);
    assert_eq!(table.reclaimer().entries_retired(), 2);
    table.reclaimer().register(Box::new(Pins(Arc::clone(&pins))));
    let table = Arc::new(table);
    let mut writer = Writer::new(Arc::clone(&table));
    writer.rescan();
    for number in 0..2_000_u32 {
        put(&mut writer, &(number % 100).to_le_bytes(), &vec![9; number as usize]);
    }
    for (nth, range) in places.into_iter().enumerate() {
        let word = u64::from_ne_bytes([nth as u8; 8]);
        assert!(table.words()[range].iter().take(12).all(|value| value.load(Ordering::Relaxed) == word));
        unpin(&pins[nth]);
    }
    writer.rescan();
    assert_eq!(table.reclaimer().entries_retired(), 0);
    writer.release();
    adopted(&table);
}

#[test]
fn watchers_go_on_where_they_were() {
    let mut writer = writer(64, 4, Eviction::Never);
    let mut consumer = Consumer::new(writer.watch().unwrap());
    let (mut key, mut seen) = (Vec::new(), 0_u64);
    for round in 0..5_u64 {
        for number in 0..1_000 {
            put(&mut writer, &(round * 1_000 + number).to_ne_bytes(), &[0; 10]);
        }
        let (table, report) = adopted(writer.table());
        assert_eq!(report.all_damage(), 0);
        assert_eq!(table.events().count(), (round + 1) * 1_000);
        writer = Writer::new(table);
        writer.watch().unwrap();
        let words = writer.table().words();
        let ring = RingLocation::load(words).unwrap().ring(words);
        while let Next::Event(Event { kind: Kind::Set, size: 10, .. }) = consumer.next(ring, &mut key).unwrap() {
            assert_eq!(key, seen.to_ne_bytes());
            seen += 1;
        }
        assert_eq!(seen, (round + 1) * 1_000);
    }
}

/// What a watcher that was there before finds: kinds of events, and how many it has missed.
fn found(table: &Table<Words>, consumer: &mut Consumer) -> (Vec<Kind>, u64) {
    let (words, mut key, mut kinds, mut missed) = (table.memory(), Vec::new(), Vec::new(), 0);
    let ring = RingLocation::load(words).unwrap().ring(words);
    loop {
        match consumer.next(ring, &mut key).unwrap() {
            Next::Event(event) => kinds.push(event.kind),
            Next::Lagged(count) => missed += count,
            Next::Nothing => return (kinds, missed),
            Next::Contended => panic!("nobody writes"),
        }
    }
}

#[test]
fn watchers_are_told_as_long_as_they_are_awaited_and_then_that_they_are_not() {
    let mut writer = writer(64, 4, Eviction::Never);
    let mut consumer = Consumer::new(writer.watch().unwrap());
    for round in 0..3 {
        let (table, _) = adopted(writer.table());
        writer = Writer::new(table);
        let events = Arc::clone(writer.table());
        assert_eq!((events.events().watchers(), events.events().is_awaiting()), (0, true));
        put(&mut writer, b"told", b"value");
        assert_eq!(found(writer.table(), &mut consumer), (vec![Kind::Set], 0));
        // One that has come again goes, and so does the time in which others may.
        writer.watch().unwrap();
        assert_eq!(events.events().watchers(), 1);
        if round % 2 == 0 {
            events.unwatch();
            events.await_watchers_no_more();
        } else {
            events.await_watchers_no_more();
            events.unwatch();
        }
        events.await_watchers_no_more();
        assert_eq!((events.events().watchers(), events.events().is_watched()), (0, false));
        put(&mut writer, b"untold", b"value");
        assert_eq!(found(writer.table(), &mut consumer), (vec![], 1));
        // Somebody else comes, and is told again.
        let start = writer.watch().unwrap();
        put(&mut writer, b"told", b"value");
        assert_eq!(found(writer.table(), &mut Consumer::new(start)), (vec![Kind::Set], 0));
        assert_eq!(found(writer.table(), &mut consumer), (vec![Kind::Set], 0));
    }
}

#[test]
fn a_cache_that_is_taken_over_full_evicts_and_refuses_nothing() {
    let mut writer = writer(16, 4, Eviction::AllkeysSieve);
    for number in 0..20_000_u32 {
        put(&mut writer, &number.to_le_bytes(), &[1; 100]);
    }
    let (table, report) = adopted(writer.table());
    let mut writer = Writer::new(Arc::clone(&table));
    for number in 0..20_000_u32 {
        put(&mut writer, &number.to_be_bytes(), &[2; 100]);
    }
    let entries = table.entries();
    // There are fewer ids at first, which leaves some pages for entries.
    assert!(entries.abs_diff(report.entries) < report.entries / 5, "{entries} and {}", report.entries);
    assert!(lock(&table.sweep).bucket == 0 && table.sieve.ids() > 0);
}

/// The dead server had locked some buckets; readers see what was written for a key, and never miss it.
#[test]
fn readers_read_on_while_a_table_is_taken_over() {
    const KEYS: u32 = 400;
    const ROUNDS: usize = if cfg!(miri) { 3 } else { 150 };
    let mut first = writer(120, 4, Eviction::Never);
    (0..KEYS).for_each(|number| put(&mut first, &number.to_le_bytes(), &[number as u8; 10]));
    let words = Arc::clone(first.table().memory());
    let (stop, hits, mut random) = (AtomicBool::new(false), AtomicUsize::new(0), random());
    std::thread::scope(|scope| {
        let read = |seed| {
            let (reader, mut random) = (Reader::attach(Arc::clone(&words)).unwrap(), fastrand::Rng::with_seed(seed));
            let (stop, hits) = (&stop, &hits);
            scope.spawn(move || {
                let mut buffer = crate::table::lookup::Buffer::default();
                while !stop.load(Ordering::Relaxed) {
                    let number = random.u32(..KEYS);
                    match reader.get(&number.to_le_bytes(), || NOW, &mut buffer) {
                        Lookup::Hit(_) => {
                            assert!(buffer.bytes().iter().all(|&byte| byte == number as u8), "torn, or another's");
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                        Lookup::Contended => {}
                        other => panic!("{other:?} of {number}"),
                    }
                }
            })
        };
        let readers = [read(1), read(2)];
        let adopting = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut table = Arc::clone(first.table());
            for _ in 0..ROUNDS {
                let locked: BTreeSet<u64> = (0..random.usize(1..8)).map(|_| random.u64(..table.buckets())).collect();
                locked.iter().for_each(|&index| std::mem::forget(table.lock_at(index)));
                let report;
                (table, report) = adopted(&table);
                assert_eq!((report.repaired(Repair::Locked), report.all_damage()), (locked.len() as u64, 0));
                let mut writer = Writer::new(Arc::clone(&table));
                for _ in 0..200 {
                    let (number, size) = (random.u32(..KEYS), random.usize(..3_000));
                    put(&mut writer, &number.to_le_bytes(), &vec![number as u8; size]);
                }
                put(&mut writer, &random.u32(KEYS..KEYS + 4_000).to_le_bytes(), b"more");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        adopting.unwrap();
    });
    assert!(cfg!(miri) || hits.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_table_of_servers_that_end_in_order_is_a_map() {
    for eviction in [Eviction::Never, Eviction::AllkeysSieve] {
        for shape in [SMALL, Shape { pages: 65, keys: 20_000, ..SMALL }, Shape { large: 150_000, ..SMALL }] {
            let mut history = History::new(Shape { eviction, ..shape }, random());
            let mut resigned = 0;
            for _ in 0..10 {
                history.go_on(2_000);
                resigned += u32::from(history.resign());
                history.check_all();
            }
            // Some in between die, so that there are slots between others that no list has.
            history.pass_on();
            check_all(&mut history.writers[0]);
            history.go_on(500);
            resigned += u32::from(history.resign());
            history.run(2_000);
            history.pass_on();
            assert!(resigned > 5, "{resigned}");
        }
    }
}

#[test]
fn what_a_server_has_left_is_taken_as_a_whole_or_not_at_all() {
    let mut writer = writer(120, 4, Eviction::Never);
    for number in 0..2_000_u32 {
        put(&mut writer, &number.to_le_bytes(), &vec![1; number as usize % 700]);
    }
    for number in 0..1_000_u32 {
        writer.delete(&number.to_le_bytes(), || NOW);
    }
    writer.release();
    let table = Arc::clone(writer.table());
    let saved = table.save().unwrap();
    let go_on = |saved: &[u64]| Table::go_on(Arc::clone(table.memory()), table.eviction(), saved).ok();
    assert!(go_on(&saved).is_some());
    let mut random = random();
    for at in 0..saved.len() {
        let mut wrong = saved.clone();
        wrong[at] ^= 1 << random.u32(..64);
        assert!(go_on(&wrong).is_none(), "word {at}");
        assert!(go_on(&saved[..at]).is_none(), "{at} words");
    }
    // Those of another moment.
    put(&mut writer, b"large", &[1; 100_000]);
    assert!(go_on(&saved).is_none());
    let saved = table.save();
    assert!(saved.is_some_and(|saved| go_on(&saved).is_some()), "a writer holds no slots for large entries");
    // What is on its way is nobody else's.
    let draft = writer.draft(b"draft", 5_000, Terms::Arriving).unwrap();
    assert_eq!(table.save(), None);
    drop(draft);
}
