//! The one place that every change of an entry passes. It tells the listeners.
//!
//! # Design
//!
//! A function that changes an entry says so with a [`Change`], once, while the bucket of its key is locked: a key is
//! written (`Writer::publish_entry`), its entry gets another expiry (`Writer::expire`), it is removed for whatever
//! reason (`Table::take_out`), or all keys are (`Writer::clear_some`). The [`ChangeSink`] passes it on to listeners:
//! watchers, by way of the ring of events ([`super::events`]), and a [`Journal`], if there is one.
//!
//! A change names the entry; what a listener wants to know of it is looked up only if there is a listener. With none, a
//! change costs two loads.
//!
//! # Invariants
//!
//! - Every change is told exactly once. A write that is refused, and one whose condition does not hold, tells nothing.
//! - The entry that a change names is complete, and is the key's at that moment: its bucket is locked. So the changes
//!   of a key are told in their order.
//!
//! # Not a change
//!
//! An entry that is moved to other memory or to another bucket keeps its key, value, version and expiry; an entry that
//! is marked as used does, too. Nobody is told of these.
//!
//! # Not promised
//!
//! To delete all keys takes several turns, and is told behind the last one: a key that is written meanwhile, to a
//! bucket that was emptied already, is told of before, and stays. A journal is told of each key instead.

use std::fmt;
use std::sync::OnceLock;

use super::entry::{EntryRef, Expiry};
use super::events::{Broadcast, Event, Kind};
use crate::sync::AtomicU64;

/// What has become of a key, or of all keys. Entries are named by the word at which they begin.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    /// The key has this entry now: it is new, or has taken the place of another one.
    Written {
        /// The key.
        key: &'a [u8],
        /// Its entry.
        start: u64,
        /// Whether that is never evicted.
        is_unevictable: bool,
    },
    /// The key's entry, this one, has another expiry, and another version.
    Renewed(&'a [u8], u64),
    /// The key has no entry any more.
    Removed {
        /// The one that it had.
        start: u64,
        /// Higher than the versions that the key's entries had.
        version: u64,
        /// Why it was removed.
        why: Removal,
    },
    /// All keys that there were have none.
    Flushed,
}

/// Why a key was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Somebody has asked for it.
    Deleted,
    /// Its time has passed.
    Expired,
    /// Its room was needed.
    Evicted,
}

/// What a key has come to, as a journal is told.
#[derive(Clone, Copy)]
pub enum State<'a> {
    /// It has this entry.
    Written {
        /// The key.
        key: &'a [u8],
        /// Its entry.
        entry: EntryRef<'a>,
        /// The word at which that begins: see [`super::HeldEntry::of_locked`].
        start: u64,
        /// Whether it is never evicted.
        is_unevictable: bool,
    },
    /// Its entry has this expiry now, or none.
    Renewed(&'a [u8], Option<Expiry>),
    /// It has none; this is the one that it had.
    Removed(EntryRef<'a>),
    /// It has none.
    Gone(&'a [u8]),
}

/// Takes note of all changes, each key's in their order.
///
/// It is told while the key's bucket is locked, and so must not wait for anybody who may want a bucket.
pub trait Journal: Send + Sync {
    /// A key has changed.
    fn note(&self, state: State<'_>);
}

/// Passes changes on to listeners.
#[derive(Default)]
pub(super) struct ChangeSink {
    /// Watchers.
    events: Broadcast,
    journal: OnceLock<Box<dyn Journal>>,
}

impl fmt::Debug for ChangeSink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ChangeSink").field("events", &self.events).finish_non_exhaustive()
    }
}

impl ChangeSink {
    /// One whose watchers are told by that ring.
    pub(super) fn with(events: Broadcast) -> Self {
        Self { events, journal: OnceLock::new() }
    }

    /// Has all changes from now on noted, which nobody makes yet.
    pub(super) fn write_journal(&self, journal: Box<dyn Journal>) {
        assert!(self.journal.set(journal).is_ok(), "a table has one journal");
    }

    /// Notes that a key goes, with all others: that is told to nobody else key by key.
    pub(super) fn note_removal(&self, words: &[AtomicU64], start: u64) {
        if let (Some(journal), Some(entry)) = (self.journal.get(), EntryRef::at(words, start)) {
            journal.note(State::Removed(entry));
        }
    }

    /// Notes once more what a key has come to.
    pub(super) fn note_state(&self, state: State<'_>) {
        if let Some(journal) = self.journal.get() {
            journal.note(state);
        }
    }

    /// Whether changes are noted.
    pub(super) fn has_journal(&self) -> bool {
        self.journal.get().is_some()
    }

    /// Takes a change of the table in whose segment these words are. Returns whether watchers were told.
    #[inline]
    pub(super) fn tell(&self, words: &[AtomicU64], change: Change<'_>) -> bool {
        if let Some(journal) = self.journal.get() {
            note(&**journal, words, change);
        }
        let is_watched = self.events.is_watched();
        if is_watched {
            self.tell_watchers(words, change);
        }
        is_watched
    }

    /// The watchers, and the ring that tells them.
    pub(super) fn events(&self) -> &Broadcast {
        &self.events
    }

    #[cold]
    #[inline(never)]
    fn tell_watchers(&self, words: &[AtomicU64], change: Change<'_>) {
        let publish = |kind, version, size: usize, key: &[u8]| {
            self.events.publish(words, Event { kind, version, size: size as u64 }, key);
        };
        let entry = |start| EntryRef::at(words, start).expect("a change is one of an entry that a writer made");
        match change {
            Change::Written { key, start, .. } | Change::Renewed(key, start) => {
                let entry = entry(start);
                publish(Kind::Set, entry.version(), entry.shape.value_size, key);
            }
            Change::Removed { start, version, why } => {
                let kind = match why {
                    Removal::Deleted => Kind::Delete,
                    Removal::Expired => Kind::Expire,
                    Removal::Evicted => Kind::Evict,
                };
                publish(kind, version, 0, &entry(start).key());
            }
            Change::Flushed => publish(Kind::Flush, 0, 0, b""),
        }
    }
}

/// Tells a journal of a change. That all keys are deleted it has been told key by key.
fn note(journal: &dyn Journal, words: &[AtomicU64], change: Change<'_>) {
    let entry = |start| EntryRef::at(words, start).expect("a change is one of an entry that a writer made");
    match change {
        Change::Written { key, start, is_unevictable } => {
            journal.note(State::Written { key, entry: entry(start), start, is_unevictable });
        }
        Change::Renewed(key, start) => journal.note(State::Renewed(key, entry(start).expiry())),
        Change::Removed { start, .. } => journal.note(State::Removed(entry(start))),
        Change::Flushed => {}
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashMap;

    use super::super::bucket::ENTRIES_MAX;
    use super::super::events::{Consumer, Next, RingLocation};
    use super::super::layout::PAGE_WORDS;
    use super::super::{Eviction, Expiry, Guard, Manner, Mark, Options, Outcome, Pairs, Table, Terms, Want, Writer};
    use super::*;
    use crate::sync::{Arc, Memory, Ordering, heap_words};

    type Words = Box<[AtomicU64]>;

    /// One that listens.
    struct Listener {
        table: Arc<Table<Words>>,
        consumer: Consumer,
        key: Vec<u8>,
    }

    impl Listener {
        fn new(writer: &mut Writer<Words>) -> Self {
            let consumer = Consumer::new(writer.watch().unwrap());
            Self { table: Arc::clone(writer.table()), consumer, key: Vec::new() }
        }

        /// What was told since the last call.
        fn told(&mut self) -> Vec<(Event, Vec<u8>)> {
            let words = self.table.words();
            let ring = RingLocation::load(words).unwrap().ring(words);
            let mut told = Vec::new();
            loop {
                match self.consumer.next(ring, &mut self.key).unwrap() {
                    Next::Event(event) => told.push((event, self.key.clone())),
                    Next::Nothing => return told,
                    other => panic!("{other:?}: the ring is too small for what one step changes"),
                }
            }
        }
    }

    fn writer(eviction: Eviction, buckets: u64) -> Writer<Words> {
        let options = Options { buckets, seed: 1, workers: 1, spin_ns: 0, eviction };
        Writer::new(Arc::new(Table::create(heap_words(64 * PAGE_WORDS), &options).unwrap()))
    }

    /// Where the entry of a key begins.
    fn start_of(table: &Table<impl Memory>, key: &[u8]) -> u64 {
        let hash = table.constants().hash(key);
        let guard = table.lock(hash);
        let (bucket, index, _) = table.find(&guard, hash, key).entry.unwrap();
        let start = bucket.slot(index).at();
        guard.unlock_unchanged();
        start
    }

    fn set(writer: &mut Writer<Words>, key: &[u8], size: usize, expiry: Option<Expiry>) {
        let done = writer.put(key, &vec![7; size], expiry, Guard::Always, || 1_000);
        assert!(matches!(done, Ok(Outcome::Done { .. })), "{done:?}");
    }

    /// Does one thing after the other, and compares what was told of each with what it should be: kind, key, size.
    #[test]
    fn every_kind_of_change_is_told_exactly_once() {
        const SOON: Option<Expiry> = Some(Expiry(2_000));
        let mut writer = writer(Eviction::Never, 4);
        let mut listener = Listener::new(&mut writer);
        type Expected<'a> = &'a [(Kind, &'a [u8], u64)];
        let mut after = |what: &str, act: &mut dyn FnMut(&mut Writer<Words>), expected: Expected<'_>| {
            act(&mut writer);
            let mut told = listener.told();
            told.sort_by(|(_, left), (_, right)| left.cmp(right));
            let told: Vec<_> = told.iter().map(|(event, key)| (event.kind, &key[..], event.size)).collect();
            assert_eq!(told, expected, "{what}");
            assert_eq!(writer.take_published(), !expected.is_empty(), "{what}");
        };

        after("a new key", &mut |writer| set(writer, b"key", 3, None), &[(Kind::Set, b"key", 3)]);
        after("a new value", &mut |writer| set(writer, b"key", 5, None), &[(Kind::Set, b"key", 5)]);
        let mut refused = |guard: Guard| {
            let mut act = |writer: &mut Writer<Words>| {
                assert_eq!(writer.put(b"key", b"", None, guard, || 1_000), Ok(Outcome::Refused));
            };
            after("a condition that does not hold", &mut act, &[]);
        };
        refused(Guard::Absent);
        refused(Guard::Version(1));
        let mut large = |writer: &mut Writer<Words>| {
            let mut draft = writer.draft(b"large", 100_000, Terms::Arriving).unwrap();
            draft.fill(&[1; 100_000]);
            writer.put_draft(b"large", draft, Manner::new(Guard::Always, None, Mark::AsBefore), || 1_000).unwrap();
        };
        after("a value that has arrived in pieces", &mut large, &[(Kind::Set, b"large", 100_000)]);
        let too_large = &mut |writer: &mut Writer<Words>| {
            assert!(writer.put(b"key", &vec![0; 5 << 20], None, Guard::Always, || 1_000).is_err());
        };
        after("no room", too_large, &[]);
        let mut mark = |writer: &mut Writer<Words>| {
            writer.put_marked(b"lock", b"", None, Guard::Always, Mark::Unevictable, || 1_000).unwrap();
        };
        after("a mark", &mut mark, &[(Kind::Set, b"lock", 0)]);

        let mut expire = |what: &str, key: &[u8], is_there: bool, expected: Expected<'_>| {
            let act = &mut |writer: &mut Writer<Words>| {
                assert_eq!(writer.expire(key, Expiry(9_000), || 3_000), Ok(is_there));
            };
            after(what, act, expected);
        };
        expire("a new expiry in place", b"large", true, &[(Kind::Set, b"large", 100_000)]);
        expire("one for an entry without the word for it", b"key", true, &[(Kind::Set, b"key", 5)]);
        expire("one for nobody", b"absent", false, &[]);
        let mut persist = |what: &str, expected: Expected<'_>| {
            let act = &mut |writer: &mut Writer<Words>| {
                assert_ne!(writer.renew(b"key", None, Guard::Always, || 3_000), Ok(Outcome::Refused));
            };
            after(what, act, expected);
        };
        persist("an expiry that goes", &[(Kind::Set, b"key", 5)]);
        persist("one that has gone", &[]);

        let mut relocate = |writer: &mut Writer<Words>| {
            let start = start_of(writer.table(), b"large");
            assert!(writer.relocate(start, false));
            assert_ne!(start_of(writer.table(), b"large"), start);
        };
        after("a move", &mut relocate, &[]);
        after("a use", &mut |writer| writer.table().touch(writer.table().constants().hash(b"key")), &[]);

        let mut delete = |what: &str, key: &[u8], now: u64, was_there: bool, expected: Expected<'_>| {
            let act = &mut |writer: &mut Writer<Words>| assert_eq!(writer.delete(key, || now), was_there);
            after(what, act, expected);
        };
        delete("a key that goes", b"key", 1_000, true, &[(Kind::Delete, b"key", 0)]);
        delete("a key that is gone", b"key", 1_000, false, &[]);
        let mut version = 0;
        let mut again = |writer: &mut Writer<Words>| {
            let Ok(Outcome::Done { version: now, .. }) = writer.put(b"key", b"", None, Guard::Absent, || 1_000) else {
                panic!("it is absent");
            };
            version = now;
            assert!(!writer.delete_version(b"key", version - 1, || 1_000));
        };
        after("a key that comes again", &mut again, &[(Kind::Set, b"key", 0)]);
        let act = &mut |writer: &mut Writer<Words>| assert!(writer.delete_version(b"key", version, || 1_000));
        after("a key of that version", act, &[(Kind::Delete, b"key", 0)]);

        let mut due = |what: &str, act: &mut dyn FnMut(&mut Writer<Words>), told: (Kind, &[u8], u64)| {
            after("an expiry", &mut |writer| set(writer, b"due", 4, SOON), &[(Kind::Set, b"due", 4)]);
            after(what, act, &[told]);
        };
        let expired: (Kind, &[u8], u64) = (Kind::Expire, b"due", 0);
        due("deleting what is due", &mut |writer| assert!(!writer.delete(b"due", || 3_000)), expired);
        due("coming across it", &mut |writer| writer.delete_expired(b"due", || 3_000), expired);
        let too_late = &mut |writer: &mut Writer<Words>| {
            assert_eq!(writer.expire(b"due", Expiry(9_000), || 3_000), Ok(false));
        };
        due("a new expiry too late", too_late, expired);
        let late = &mut |writer: &mut Writer<Words>| {
            let done = writer.put(b"due", b"new", None, Guard::Absent, || 3_000);
            assert!(matches!(done, Ok(Outcome::Done { inserted: true, .. })), "{done:?}");
        };
        due("a new value in its place", late, (Kind::Set, b"due", 3));
        due("the sweep", &mut |writer| while !writer.sweep_some(100, 3_000) {}, expired);

        let mut flush = |writer: &mut Writer<Words>| {
            let mut next = Some(0);
            while let Some(first) = next {
                next = writer.clear_some(first, 1);
            }
            assert_eq!(writer.table().entries(), 0);
        };
        after("all keys", &mut flush, &[(Kind::Flush, b"", 0)]);
    }

    /// In a bucket that is full, one goes for another; and of what is in the way of a run of pages.
    #[test]
    fn what_goes_for_another_is_told_exactly_once() {
        let mut writer = writer(Eviction::AllkeysSieve, 1);
        let mut listener = Listener::new(&mut writer);
        let table = Arc::clone(writer.table());
        // While another worker splits, as it were.
        table.alone(|| (0..ENTRIES_MAX as u64).for_each(|n| set(&mut writer, &n.to_le_bytes(), 100, None)));
        assert_eq!(listener.told().len(), ENTRIES_MAX);
        table.alone(|| set(&mut writer, b"one more", 100, None));
        let told: Vec<_> = listener.told().iter().map(|(event, _)| event.kind).collect();
        assert_eq!(told, [Kind::Evict, Kind::Set]);
        // All the memory there is: what is in the way cannot move.
        while table.heap.allocate(table.words(), &mut writer.cache, 16).is_some() {}
        let start = start_of(&table, b"one more");
        assert!(writer.relocate(start, true));
        let told = listener.told();
        assert_eq!(
            told.iter().map(|(event, key)| (event.kind, &key[..])).collect::<Vec<_>>(),
            [(Kind::Evict, &b"one more"[..])]
        );
    }

    /// A map to which is done what was told has the keys of the table, and their versions and sizes.
    #[test]
    fn what_is_told_makes_another_table_the_same() {
        let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(fastrand::u64(..));
        println!("RINGTABLE_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for eviction in Eviction::ALL {
            let mut writer = writer(eviction, 4);
            let mut listener = Listener::new(&mut writer);
            let mut other: HashMap<Vec<u8>, (u64, u64)> = HashMap::new();
            let mut versions: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut counts = [0; 6];
            for step in 0..30_000_u64 {
                let (now, key) = (1_000 + step, random.u64(..8_000).to_le_bytes());
                let most = 1 << random.u32(..if step % 100 == 0 { 17 } else { 13 });
                let value = vec![1; random.usize(..most)];
                let expiry = random.bool().then(|| Expiry(now + random.u64(1..20_000)));
                match random.u8(..20) {
                    _ if step % 4_000 == 3_000 => {
                        let mut next = Some(0);
                        while let Some(first) = next {
                            next = writer.clear_some(first, 100);
                        }
                        while writer.table().shrink_some(100) {}
                    }
                    0 => drop(writer.delete(&key, || now)),
                    1 => drop(writer.expire(&key, Expiry(now + 5_000), || now)),
                    2 => drop(writer.put(&key, &value, expiry, Guard::Absent, || now)),
                    3 => drop(writer.put_marked(&key, &value, expiry, Guard::Present, Mark::Unevictable, || now)),
                    4 => drop(writer.put_marked(&key, &value, expiry, Guard::Always, Mark::Evictable, || now)),
                    5 if step % 50 == 0 => drop(writer.sweep_some(u64::MAX >> 1, now)),
                    6 => drop(writer.empty_a_slab()),
                    7 => {
                        if let Ok(mut draft) = writer.draft(&key, value.len(), Terms::Whole(Guard::Present)) {
                            draft.fill(&value);
                            let _ = writer.put_draft(
                                &key,
                                draft,
                                Manner::new(Guard::Present, expiry, Mark::AsBefore),
                                || now,
                            );
                        }
                    }
                    _ => drop(writer.put(&key, &value, expiry, Guard::Always, || now)),
                }
                for (event, key) in listener.told() {
                    counts[event.kind as usize] += 1;
                    if event.kind == Kind::Flush {
                        other.clear();
                        continue;
                    }
                    let before = versions.insert(key.clone(), event.version);
                    assert!(before < Some(event.version), "{key:?}: {before:?}, then {event:?}");
                    match event.kind {
                        Kind::Set => drop(other.insert(key, (event.version, event.size))),
                        _ => assert!(other.remove(&key).is_some(), "{event:?} of a key that is not there"),
                    }
                }
                if step % 5_000 == 4_999 {
                    let (table, mut pairs) = (Arc::clone(writer.table()), Pairs::default());
                    (0..table.buckets()).for_each(|index| {
                        assert!(writer.read_bucket_at(index, Want::Keys, &mut pairs));
                    });
                    let ours: HashMap<_, _> = pairs
                        .iter()
                        .map(|pair| {
                            let entry = EntryRef::at(table.words(), start_of(&table, pair.key));
                            (pair.key.to_vec(), (entry.unwrap().version(), pair.value_size as u64))
                        })
                        .collect();
                    assert_eq!(ours.len() as u64, table.entries());
                    assert!(ours == other, "{} keys here, {} there", ours.len(), other.len());
                    let tally = table.tally();
                    assert_eq!(counts[Kind::Evict as usize], tally.evicted.load(Ordering::Relaxed));
                    assert_eq!(counts[Kind::Expire as usize], tally.expired.load(Ordering::Relaxed));
                }
            }
            println!("{eviction:?}: {counts:?}");
            let evicts = eviction != Eviction::Never;
            let is_all = [1, 2, 3, 5].iter().all(|&kind| counts[kind] > 0);
            assert!(is_all && (counts[4] > 0) == evicts, "{counts:?}");
        }
    }
}
