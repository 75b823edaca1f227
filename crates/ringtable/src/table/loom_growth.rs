//! Models of a table that gives up its last bucket, as one that was emptied does, and may make it anew.
//!
//! The table began with four buckets and has a fifth one, which is empty and has a page of its own. One thread gives
//! that up, and does what may come next: its memory goes back to the kernel, which here is to say that it becomes
//! zeroes; a key of it is written; the table grows again. Another thread reads, or writes, as one who still believes in
//! five buckets.
//!
//! # Allowed
//!
//! - A key that is there throughout: its value. One that is written after the bucket was given up: a miss until that
//!   has returned, its value from then on. `Contended`, always.
//! - A thread that locks the last bucket has it before it is given up, or after it was made anew, or finds that it is
//!   gone.
//!
//! # Forbidden
//!
//! - A miss of a key that was there throughout, or whose writing was acknowledged: a reader that found the last bucket
//!   empty has to see that it does not count any more.
//! - To lock a bucket that was given up and to believe that it is still there, or there again: another worker holds
//!   the new one, and both change it.
//! - Of two writers, that one undoes what the other did; a key that is there twice.
//! - A version that comes again.
//!
//! # What this cannot show
//!
//! That the kernel makes zeroes is a store of zeroes here, word by word. What else is said in `loom_table`.

use loom::thread;

use super::bucket::BucketRef;
use super::layout::{PAGE_WORDS, bucket_start};
use super::loom_table::{FOREIGN, NEW, OLD, Seen, Stage, Words, get, no_time, put, race};
use super::{Pairs, Table, Want, Writer};
use crate::sync::{Arc, Memory, Ordering, model};

/// The bucket that is given up, and made anew.
const LAST: u64 = 4;
/// What it is split from.
const SOURCE: u64 = 0;

/// A table of five buckets, the last of which is empty and can be given up. The wanted key would lie in it, and is not
/// there. So many entries are there that the table grows if it is asked whether it should.
fn emptied() -> Stage {
    let mut stage = Stage::new(LAST).others(2, (SOURCE, LAST + 1)).other(0, (SOURCE, LAST + 1));
    for index in [1, 2, 3] {
        let key = stage.key(0, (index, LAST + 1));
        put(&mut stage.writer, &key, FOREIGN);
    }
    assert_eq!(stage.writer.table().buckets(), LAST + 1);
    Stage { wanted: stage.key(0, (LAST, LAST + 1)), ..stage }
}

/// Gives the last bucket up.
fn give_up(table: &Table<Words>) {
    table.shrink_some(1);
}

/// Gives the pages behind the last bucket back.
///
/// Release: who finds a page of zeroes finds all that the server did before the system call. So it is with the kernel,
/// which takes the page out of all processes before it returns, and puts a fresh one in where somebody asks for it. A
/// swap, since loom does not see that a plain store comes after another thread's compare-and-exchange.
fn give_back(table: &Table<Words>) {
    table.give_back_bucket_pages(1, |first, count| {
        for word in &table.words()[first * PAGE_WORDS..][..count * PAGE_WORDS] {
            word.swap(0, Ordering::AcqRel);
        }
    });
}

/// The version of a bucket, when all threads are over.
fn version(table: &Table<Words>, index: u64) -> u64 {
    table.memory().words()[bucket_start(index)].load(Ordering::Relaxed)
}

#[test]
fn a_reader_against_a_bucket_that_is_given_up() {
    race(
        || {
            let stage = emptied();
            // A key of the bucket that the last one was split from.
            Stage { wanted: stage.other, ..stage }.wanted(0, (SOURCE, LAST + 1))
        },
        |writer, _, _| {
            give_up(writer.table());
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

/// The key goes where the last bucket was split from, since there is no last bucket any more.
#[test]
fn a_reader_against_a_key_of_the_bucket_that_is_given_up() {
    race(
        emptied,
        |writer, wanted, _| {
            give_up(writer.table());
            assert_eq!(writer.table().buckets(), LAST);
            let table = Arc::clone(writer.table());
            // The table is not to grow at once.
            table.alone(|| put(writer, wanted, NEW))
        },
        &[Seen::New, Seen::Miss, Seen::Contended],
        Seen::New,
    );
}

/// The table grows again, and the key that has come meanwhile moves to the new bucket.
#[test]
fn a_reader_against_a_bucket_that_is_made_anew() {
    race(
        || {
            let mut stage = emptied();
            give_up(stage.writer.table());
            give_back(stage.writer.table());
            let table = Arc::clone(stage.writer.table());
            stage.version = table.alone(|| put(&mut stage.writer, &stage.wanted, OLD));
            stage
        },
        |writer, _, _| {
            writer.grow();
            assert!(writer.table().buckets() > LAST);
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

/// A worker comes to lock the last bucket, and is late.
#[test]
fn a_lock_against_a_bucket_that_is_made_anew() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, .. } = emptied();
        let table = Arc::clone(writer.table());
        let before = version(&table, LAST);
        let locking = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                table.lock_at(LAST).map(|guard| {
                    let version = guard.version;
                    guard.unlock_unchanged();
                    version
                })
            })
        };
        give_up(&table);
        give_back(&table);
        let anew = table.alone(|| writer.split_one());
        let locked = locking.join().expect("the other worker ends");
        assert_eq!((anew, table.buckets()), (Some(true), LAST + 1), "forbidden: the bucket is not made anew");
        let after = version(&table, LAST);
        assert_eq!(after % 2, 0, "forbidden: the bucket stays locked");
        assert!(after > before + 2, "forbidden: version {after}, and it was {before} before it was given up");
        assert!(
            locked.is_none_or(|version| version == before || version == after),
            "forbidden: locked with version {locked:?}, neither the old bucket's, {before}, nor the new one's, {after}"
        );
        locked.map(|version| version == after)
    });
    assert!(outcomes.into_iter().eq([None, Some(false), Some(true)]), "the model is too small");
}

/// A worker writes a key of the last bucket while that is given up and made anew.
#[test]
fn an_insert_against_a_bucket_that_is_made_anew() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, .. } = emptied();
        let table = Arc::clone(writer.table());
        let entries = table.entries();
        let mut second = Writer::new(Arc::clone(&table));
        let writing = thread::spawn(move || {
            let version = put(&mut second, &wanted, NEW);
            (version, second)
        });
        give_up(&table);
        let given_up = table.buckets() == LAST;
        give_back(&table);
        table.alone(|| writer.split_one());
        let (written, _) = writing.join().expect("the other worker ends");
        assert_eq!(get(&reader, &wanted), (Seen::New, Some(written)), "forbidden: a write is lost");
        assert_eq!(reader.entries(), entries + 1, "forbidden: a count that is not that of the entries");
        let mut pairs = Pairs::default();
        let mut cursor = 0;
        loop {
            cursor = reader.scan(cursor, Want::Keys, no_time, &mut pairs).expect("nobody writes");
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(pairs.len() as u64, entries + 1, "forbidden: a key is there twice, or not at all");
        for index in 0..table.buckets() {
            let bucket = BucketRef::at(table.memory().words(), bucket_start(index)).expect("it lies in the segment");
            assert!(bucket.begin_read().is_some(), "forbidden: bucket {index} stays locked");
        }
        given_up
    });
    assert_eq!(outcomes.len(), 2, "the model is too small: the last bucket was always, or never, given up");
}

/// A walk finds a key that was there throughout exactly once, though the table gives a bucket up and makes it anew.
#[test]
fn a_walk_against_a_bucket_that_is_given_up() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { writer, reader, other, .. } = emptied();
        let table = Arc::clone(writer.table());
        let walking = thread::spawn(move || {
            let (mut cursor, mut pairs) = (0, Pairs::default());
            let whole = loop {
                match reader.scan(cursor, Want::Keys, no_time, &mut pairs) {
                    Ok(0) => break true,
                    Ok(next) => cursor = next,
                    Err(_) => break false,
                }
            };
            (whole.then(|| pairs.iter().filter(|pair| pair.key == other).count()), pairs.len(), reader)
        });
        give_up(&table);
        let (count, all, _) = walking.join().expect("the walk ends");
        assert!(count.is_none_or(|count| count == 1 && all == 5), "forbidden: {count:?} times, {all} keys in all");
        count
    });
    assert!(outcomes.into_iter().eq([None, Some(1)]), "the model is too small");
}
