//! Models of the table: the real writer and reader over a segment of a few words.
//!
//! Each model has one reader, one writer and one operation of each, begun on a table that was filled before. The
//! capacities are shrunk under `cfg(loom)`: pages of 16 words, buckets of three slots, an entry a bucket before the
//! table grows, two attempts of a reader.
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
//! - A miss of a key that was there throughout, be it updated, or moved by a split: to miss it at its old place, the
//!   reader has to see that it was emptied, and with that the odd version or the new bucket count.
//! - Anything but the new state for a reader that knows of the reply: an acknowledged write is seen by everybody.

use loom::thread;

use super::bucket::{BucketRef, SLOTS};
use super::layout::{BUCKET_WORDS, PAGE_BUCKETS, PAGE_WORDS, address, bucket_start};
use super::reader::{Buffer, Pair, Want};
use super::{Guard, Lookup, Options, Outcome, Reader, Table, Writer};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, heap_words, model};

type Words = Arc<Box<[AtomicU64]>>;
type Key = [u8; 8];

/// Header, buckets, buckets that a split adds, and some for entries.
const PAGES: usize = 6;
const SEED: u64 = 42;
/// Two words, so that they can be torn; all bytes of a value are the same.
const OLD: &[u8] = b"oooooooooooooooo";
const NEW: &[u8] = b"nnnnnnnnnnnnnnnn";
const FOREIGN: &[u8] = b"ffffffffffffffff";

/// What a reader got for a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Seen {
    Old,
    New,
    Miss,
    Contended,
}

/// What a race begins with.
struct Stage {
    writer: Writer<Words>,
    reader: Reader<Words>,
    /// The key that is read while the table is changed.
    wanted: Key,
    /// Another one.
    other: Key,
    /// The version of the wanted key's value, if it has one yet.
    version: Option<u64>,
}

impl Stage {
    /// A table of `buckets` buckets, in which `wanted` and `other` (bucket, number of buckets, number of the key among
    /// those that lie there) may become keys.
    fn new(buckets: u64, wanted: (u64, u64, usize), other: (u64, u64, usize)) -> Self {
        let words: Words = Arc::new(heap_words(PAGES * PAGE_WORDS));
        let options = Options { buckets, seed: SEED, workers: 1, spin_ns: 0 };
        let table = Table::create(Arc::clone(&words), &options).expect("the buckets fit");
        let reader = Reader::attach(words).expect("it is a table");
        let key = |(index, buckets, number): (u64, u64, usize)| {
            let lies_there = |key: &Key| address(reader.hash(key), buckets) == index;
            (0_u64..).map(u64::to_ne_bytes).filter(lies_there).nth(number).expect("there are many keys")
        };
        let (wanted, other) = (key(wanted), key(other));
        Self { writer: Writer::new(Arc::new(table)), reader, wanted, other, version: None }
    }

    /// A table that is not about to grow, with one key in it.
    fn one_key() -> Self {
        let mut stage = Self::new(PAGE_BUCKETS as u64, (0, 4, 0), (1, 4, 0));
        stage.version = Some(put(&mut stage.writer, &stage.wanted, OLD));
        stage
    }
}

fn no_time() -> u64 {
    0
}

/// Writes a key; returns its version.
fn put(writer: &mut Writer<Words>, key: &Key, value: &[u8]) -> u64 {
    match writer.put(key, value, None, Guard::Always, no_time) {
        Ok(Outcome::Done { version, .. }) => version,
        other => panic!("the table has room and the guard always holds: {other:?}"),
    }
}

/// Looks a key up; returns the version with it if it is there.
fn get(reader: &Reader<Words>, key: &Key) -> (Seen, Option<u64>) {
    let mut value = Buffer::default();
    match reader.get(key, no_time, &mut value) {
        Lookup::Hit(found) if value.bytes() == OLD => (Seen::Old, Some(found.version)),
        Lookup::Hit(found) if value.bytes() == NEW => (Seen::New, Some(found.version)),
        Lookup::Hit(found) => panic!("forbidden: a torn or foreign value: {:?}, {found:?}", value.bytes()),
        Lookup::Miss => (Seen::Miss, None),
        Lookup::Contended => (Seen::Contended, None),
        other => panic!("forbidden: {other:?}"),
    }
}

/// Runs `change` (returns the version of the wanted key's new value) on a table made by `prepare` while a reader looks
/// for the wanted key. Until the change has returned the reader may see one of `allowed`, from then on only `after`.
fn race(
    prepare: fn() -> Stage,
    change: fn(&mut Writer<Words>, &Key, &Key) -> Option<u64>,
    allowed: &'static [Seen],
    after: Seen,
) {
    let outcomes = model::outcomes(move || {
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
        assert_eq!(version, own_version, "forbidden: {seen:?} with the version of another one");
        (known, seen)
    });
    println!("{outcomes:?}");
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

/// The next entry takes the memory of the one that the update has replaced.
#[test]
fn a_reader_against_an_update_and_reuse() {
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
fn a_reader_against_a_delete_and_reuse() {
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

/// An insert makes the table grow from one bucket to two, and the wanted key moves to the new one.
#[test]
fn a_reader_against_a_split_that_moves_its_key() {
    race(
        || {
            let mut stage = Stage::new(1, (1, 2, 0), (0, 2, 0));
            stage.version = Some(put(&mut stage.writer, &stage.wanted, OLD));
            stage
        },
        |writer, _, other| {
            put(writer, other, FOREIGN);
            assert_eq!(writer.table().buckets(), 2);
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}
