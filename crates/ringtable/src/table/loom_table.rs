//! Models of the table: the real writer and reader over a segment of a hundred words.
//!
//! Each model has one thread that changes the table (once, or with what reuses the memory thereafter) and one that
//! reads it once, on a table that was filled before the threads begin. The capacities are shrunk under `cfg(loom)`:
//! pages of 16 words, buckets of three slots, an entry a bucket before the table grows, two attempts of a reader.
//!
//! # Allowed
//!
//! - Update: the old value until the update has returned, the new one from its unlocking on.
//! - Delete: the old value until it has returned, a miss from its unlocking on.
//! - Insert, which may split a bucket or add one to a chain: for the new key a miss until it has returned, then its
//!   value; for all other keys their value, throughout.
//! - Always: `Contended`. The reader came twice while a writer was at work; it asks the server then.
//!
//! # Forbidden
//!
//! - A torn value, one of another key, or one with a version that is not its own: the reader has looked at memory that
//!   was reused, and must have noticed by the bucket's version.
//! - A miss of a key that was there throughout, be it updated, or moved by a split or within its chain: to miss it at
//!   its old place, the reader has to see a store of the one that moved it, and so the odd version or the new bucket
//!   count.
//! - A walk (`scan`) that leaves such a key out, or gives it twice.
//! - Anything but the new state for a reader that knows of the reply: an acknowledged write is seen by everybody.
//! - Of two writers, that one undoes what the other did.
//!
//! # What this cannot show
//!
//! Loom runs each thread's operations in program order: a load never sees a store that comes later in the run. So
//! nothing is learnt of an entry that is reused *while* a reader's earlier loads are still on their way, which is for
//! the reader's fence before its second look to prevent; that the fence is there is shown by what it acquires. The same
//! on real threads is `readers_never_see_a_torn_or_foreign_value_while_everything_moves` in `tests`.

use loom::thread;

use super::layout::{PAGE_WORDS, address};
use super::lookup::Buffer;
use super::{Eviction, Guard, Lookup, Options, Outcome, Pairs, Reader, Table, Want, Writer};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, heap_words, model};

pub(super) type Words = Arc<Box<[AtomicU64]>>;
pub(super) type Key = [u8; 8];

/// Two for the header, two for buckets, one for the page map, and some for entries.
const PAGES: usize = 9;
const SEED: u64 = 42;
/// Two words, so that they can be torn.
pub(super) const OLD: &[u8] = b"old, old, older.";
pub(super) const NEW: &[u8] = b"newer and newest";
pub(super) const FOREIGN: &[u8] = b"of another key!!";

/// What a reader got for a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Seen {
    Old,
    New,
    Miss,
    Contended,
}

/// What a race begins with.
pub(super) struct Stage {
    pub(super) writer: Writer<Words>,
    pub(super) reader: Reader<Words>,
    /// The key that is read while the table is changed.
    pub(super) wanted: Key,
    /// A key that the change is about if it is not about the wanted one.
    pub(super) other: Key,
    /// The version of the wanted key's value, if it has one yet.
    pub(super) version: Option<u64>,
}

impl Stage {
    /// An empty table of `buckets` buckets.
    pub(super) fn new(buckets: u64) -> Self {
        let words: Words = Arc::new(heap_words(PAGES * PAGE_WORDS));
        let options = Options { buckets, seed: SEED, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let table = Table::create(Arc::clone(&words), &options).expect("the buckets fit");
        let reader = Reader::attach(words).expect("it is a table");
        Self { writer: Writer::new(Arc::new(table)), reader, wanted: [0; 8], other: [0; 8], version: None }
    }

    /// Number `number` of the keys that lie in bucket `index` when there are `buckets` of them.
    pub(super) fn key(&self, number: usize, (index, buckets): (u64, u64)) -> Key {
        let lies_there = |key: &Key| address(self.reader.hash(key), buckets) == index;
        (0_u64..).map(u64::to_ne_bytes).filter(lies_there).nth(number).expect("there are many keys")
    }

    /// With the wanted key in the table.
    pub(super) fn wanted(mut self, number: usize, place: (u64, u64)) -> Self {
        self.wanted = self.key(number, place);
        self.version = Some(put(&mut self.writer, &self.wanted, OLD));
        self
    }

    /// With `count` other keys in the table, the first ones of those that lie there.
    pub(super) fn others(mut self, count: usize, place: (u64, u64)) -> Self {
        for number in 0..count {
            let key = self.key(number, place);
            put(&mut self.writer, &key, FOREIGN);
        }
        self
    }

    /// With a name for the other key of the race; it is not in the table, unless [`Self::others`] has put it there.
    pub(super) fn other(mut self, number: usize, place: (u64, u64)) -> Self {
        self.other = self.key(number, place);
        self
    }

    /// A table that is not about to grow, with the wanted key in it; the other one would lie in another bucket.
    pub(super) fn one_key() -> Self {
        Self::new(4).wanted(0, (0, 4)).other(0, (1, 4))
    }

    /// A table that splits its only bucket when the other key comes, and then moves the wanted key to the new one.
    pub(super) fn about_to_split() -> Self {
        Self::new(1).wanted(0, (1, 2)).other(0, (0, 2))
    }
}

pub(super) fn no_time() -> u64 {
    0
}

/// Writes a key; returns its version.
pub(super) fn put(writer: &mut Writer<Words>, key: &Key, value: &[u8]) -> u64 {
    match writer.put(key, value, None, Guard::Always, no_time) {
        Ok(Outcome::Done { version, .. }) => version,
        other => panic!("the table has room and the guard always holds: {other:?}"),
    }
}

/// Looks a key up; returns the version with it if it is there.
pub(super) fn get(reader: &Reader<Words>, key: &Key) -> (Seen, Option<u64>) {
    let mut value = Buffer::default();
    match reader.get(key, no_time, &mut value) {
        Lookup::Hit(found) if value.bytes() == OLD => (Seen::Old, Some(found.version)),
        Lookup::Hit(found) if value.bytes() == NEW => (Seen::New, Some(found.version)),
        Lookup::Hit(_) => panic!("forbidden: a torn or foreign value, {:?}", String::from_utf8_lossy(value.bytes())),
        Lookup::Miss => (Seen::Miss, None),
        Lookup::Contended => (Seen::Contended, None),
        other => panic!("forbidden: {other:?}"),
    }
}

/// Runs `change` (returns the version of the wanted key's new value, if it gives it one) on a table made by
/// `prepare`, while a reader looks for the wanted key. Until the change has returned the reader may see one of
/// `allowed`, from then on only `after`.
pub(super) fn race(
    prepare: fn() -> Stage,
    change: fn(&mut Writer<Words>, &Key, &Key) -> Option<u64>,
    allowed: &'static [Seen],
    after: Seen,
) {
    let outcomes = model::bounded_outcomes(move || {
        let Stage { mut writer, reader, wanted, other, version: old_version } = prepare();
        let acknowledged = Arc::new(AtomicBool::new(false));
        let reading = {
            let acknowledged = Arc::clone(&acknowledged);
            thread::spawn(move || {
                // Acquire: as a client sees its reply in the lane.
                let known = acknowledged.load(Ordering::Acquire);
                (known, get(&reader, &wanted), reader)
            })
        };
        let new_version = change(&mut writer, &wanted, &other);
        // Release: as a worker publishes a reply.
        acknowledged.store(true, Ordering::Release);
        let (known, (seen, version), _) = reading.join().expect("the reader ends");
        assert!(allowed.contains(&seen), "forbidden: {seen:?} while the table is changed");
        assert!(!known || seen == after, "forbidden: {seen:?} after the reply");
        let own_version = match seen {
            Seen::Old => old_version,
            Seen::New => new_version,
            Seen::Miss | Seen::Contended => None,
        };
        assert_eq!(version, own_version, "forbidden: {seen:?} with a version that is not its own");
        (known, seen)
    });
    let happened: Vec<Seen> = allowed.iter().copied().filter(|&seen| outcomes.contains(&(false, seen))).collect();
    assert_eq!(happened, allowed, "the model is too small: not all that is allowed happened");
    assert!(outcomes.contains(&(true, after)), "the model is too small: the reply never came first");
}

#[test]
fn a_reader_against_an_update() {
    race(
        Stage::one_key,
        |writer, wanted, _| Some(put(writer, wanted, NEW)),
        &[Seen::Old, Seen::New, Seen::Contended],
        Seen::New,
    );
}

#[test]
fn a_reader_against_a_delete() {
    race(
        Stage::one_key,
        |writer, wanted, _| {
            assert!(writer.delete(wanted, no_time));
            None
        },
        &[Seen::Old, Seen::Miss, Seen::Contended],
        Seen::Miss,
    );
}

#[test]
fn a_reader_against_an_insert() {
    race(
        || {
            let stage = Stage::new(4);
            Stage { wanted: stage.key(0, (0, 4)), ..stage }
        },
        |writer, wanted, _| Some(put(writer, wanted, NEW)),
        &[Seen::New, Seen::Miss, Seen::Contended],
        Seen::New,
    );
}

/// The next entry takes the memory of the one that the update has replaced.
#[test]
fn a_reader_against_reuse_after_an_update() {
    race(
        Stage::one_key,
        |writer, wanted, other| {
            let version = put(writer, wanted, NEW);
            put(writer, other, FOREIGN);
            Some(version)
        },
        &[Seen::Old, Seen::New, Seen::Contended],
        Seen::New,
    );
}

/// The next entry takes the memory of the one that was deleted.
#[test]
fn a_reader_against_reuse_after_a_delete() {
    race(
        Stage::one_key,
        |writer, wanted, other| {
            assert!(writer.delete(wanted, no_time));
            put(writer, other, FOREIGN);
            None
        },
        &[Seen::Old, Seen::Miss, Seen::Contended],
        Seen::Miss,
    );
}

/// It is another worker that reuses the memory: no fence or lock of the one that made it free helps it.
#[test]
fn a_reader_against_reuse_by_another_worker() {
    race(
        Stage::one_key,
        |writer, &wanted, other| {
            let mut first = Writer::new(Arc::clone(writer.table()));
            let updating = thread::spawn(move || {
                let version = put(&mut first, &wanted, NEW);
                first.release();
                version
            });
            let version = updating.join().expect("the first worker ends");
            put(writer, other, FOREIGN);
            Some(version)
        },
        &[Seen::Old, Seen::New, Seen::Contended],
        Seen::New,
    );
}

#[test]
fn a_reader_against_a_split_that_moves_its_key() {
    race(
        Stage::about_to_split,
        |writer, _, other| {
            put(writer, other, FOREIGN);
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

#[test]
fn a_reader_against_the_insert_that_makes_the_table_split() {
    race(
        || {
            let stage = Stage::new(1).others(1, (0, 2));
            Stage { wanted: stage.key(0, (1, 2)), ..stage }
        },
        |writer, wanted, _| Some(put(writer, wanted, NEW)),
        &[Seen::New, Seen::Miss, Seen::Contended],
        Seen::New,
    );
}

/// Two of four keys go, one of them from the overflow bucket, which then is nobody's.
#[test]
fn a_reader_against_a_split_of_a_chain() {
    race(
        || Stage::new(4).others(2, (0, 8)).others(1, (4, 8)).wanted(1, (4, 8)).other(0, (1, 4)),
        |writer, _, other| {
            put(writer, other, FOREIGN);
            assert_eq!(writer.table().buckets(), 5);
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

/// The wanted key lies in the last slot, and makes room there for a link.
#[test]
fn a_reader_against_a_chain_that_becomes_longer() {
    race(
        || Stage::new(4).others(2, (0, 4)).wanted(2, (0, 4)).other(3, (0, 4)),
        |writer, _, other| {
            put(writer, other, FOREIGN);
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

/// The overflow bucket before that of the wanted key becomes empty and is taken out of the chain, and the next entry,
/// which is as large, takes its memory: there the chain seems to end.
#[test]
fn a_reader_against_a_chain_that_becomes_shorter() {
    race(
        || {
            let mut stage = Stage::new(8).others(5, (0, 8)).wanted(5, (0, 8)).other(3, (0, 8));
            let neighbour = stage.key(2, (0, 8));
            assert!(stage.writer.delete(&neighbour, no_time));
            stage
        },
        |writer, _, other| {
            assert!(writer.delete(other, no_time));
            put(writer, b"somebody", b"anything");
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

/// A walk finds a key that was there throughout exactly once, though it moves to another bucket meanwhile, where its
/// update may be in the way of the walk.
#[test]
fn a_walk_against_a_split() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, other, .. } = Stage::about_to_split();
        let walking = thread::spawn(move || {
            let (mut cursor, mut pairs) = (0, Pairs::default());
            loop {
                let before = pairs.len();
                match reader.scan(cursor, Want::Keys, no_time, &mut pairs) {
                    Ok(0) => break,
                    Ok(next) => cursor = next,
                    Err(_) => {
                        // Else the server, who goes on from the same cursor, gives them once more.
                        assert_eq!(pairs.len(), before, "forbidden: keys from a step that was not done");
                        return (None, reader);
                    }
                }
            }
            let count = |key: &Key| pairs.iter().filter(|pair| pair.key == key).count();
            (Some((count(&wanted), count(&other))), reader)
        });
        put(&mut writer, &other, FOREIGN);
        put(&mut writer, &wanted, NEW);
        let (counts, _) = walking.join().expect("the walk ends");
        if let Some((wanted, other)) = counts {
            assert_eq!(wanted, 1, "forbidden: a key that was there throughout was given {wanted} times");
            assert!(other <= 1, "forbidden: a key was given {other} times");
        }
        counts
    });
    assert!(outcomes.into_iter().eq([None, Some((1, 0)), Some((1, 1))]), "the model is too small");
}

/// Reading a whole bucket gives the key one asks for.
#[test]
fn reading_a_bucket_against_a_split() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, other, .. } = Stage::about_to_split();
        let reading = thread::spawn(move || {
            let mut pairs = Pairs::default();
            let read = reader.read_bucket(&wanted, Want::Values, no_time, &mut pairs);
            (read.is_ok().then_some(pairs), reader)
        });
        put(&mut writer, &other, FOREIGN);
        let (pairs, _) = reading.join().expect("the reader ends");
        pairs.map(|pairs| {
            let values: Vec<&[u8]> = pairs.iter().filter(|pair| pair.key == wanted).map(|pair| pair.value).collect();
            assert_eq!(values, [OLD], "forbidden: not the value of a key that was there throughout");
            pairs.len()
        })
    });
    assert!(outcomes.into_iter().eq([None, Some(1), Some(2)]), "the model is too small");
}

/// One worker splits a bucket while another one updates a key that moves.
#[test]
fn an_update_against_a_split() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, other, version } = Stage::about_to_split();
        let mut second = Writer::new(Arc::clone(writer.table()));
        let updating = thread::spawn(move || {
            let version = put(&mut second, &wanted, NEW);
            (version, second)
        });
        put(&mut writer, &other, FOREIGN);
        let (new_version, _) = updating.join().expect("the other worker ends");
        assert!(version < Some(new_version), "forbidden: version {new_version} after {version:?}");
        assert_eq!(get(&reader, &wanted), (Seen::New, Some(new_version)), "forbidden: the update is lost");
        assert_eq!((reader.entries(), writer.table().buckets()), (2, 2), "forbidden: a key is there twice");
        new_version
    });
    assert!(outcomes.len() > 1, "the model is too small: always the same worker first");
}
