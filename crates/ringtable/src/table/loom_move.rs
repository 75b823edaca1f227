//! Models of moving: a worker that clears pages copies an entry, or an overflow bucket, and swings what points at it.
//!
//! The real `relocate` against a reader, a client that pins, and other workers; where it says so, the memory that the
//! original leaves behind is used again at once.
//!
//! # Allowed
//!
//! - A reader finds the value, with the version that it had before it was moved: nothing has happened to it. Or
//!   `Contended`: it came while the slot was changed.
//! - A worker that changes or deletes the key comes before the move, which then finds something else and leaves it
//!   alone, or after it.
//! - A client pins the original, whose memory is then kept until it lets go; or the copy.
//!
//! # Forbidden
//!
//! - A miss, another value, another version.
//! - A move that brings back what was replaced or deleted: it was copied before, and is swung in after.
//! - The memory of the original used again while somebody looks at it.
//! - Memory of either that is lost, or free twice.
//!
//! # What this cannot show
//!
//! As in `loom_table`: a copy that is made while the original's memory is reused is shown by what the worker sees under
//! the lock, not by loads that are on their way. Nor can it show marks of the sieve, which are set by a
//! compare-and-exchange while the holder of the lock stores to the same slot: loom does not see that the store comes
//! after what it has replaced. Those, and several moves at a time in pages that are closed, are in `shuttle_table`.

use loom::thread;

use super::bucket::{SLOTS, Slot};
use super::layout::BUCKET_WORDS;
use super::loom_table::{FOREIGN, Key, NEW, OLD, Seen, Stage, Words, get, no_time, put, race};
use super::reclaim::{Pinned, pin, unpin};
use super::{Table, Writer};
use crate::sync::{Arc, AtomicBool, Ordering, as_uninit, copy_out, heap_words, model};

/// The slot of a key, when nobody changes the table.
fn slot_of(table: &Table<Words>, key: &[u8]) -> Option<Slot> {
    let hash = table.constants().hash(key);
    let guard = table.lock(hash);
    let slot = table.find(&guard, hash, key).entry.map(|(bucket, index, _)| bucket.slot(index));
    guard.unlock_unchanged();
    slot
}

/// The word at which the entry of a key begins, which is there.
pub(super) fn start_of(table: &Table<Words>, key: &[u8]) -> u64 {
    slot_of(table, key).expect("the key is there").at()
}

/// The word at which the overflow bucket of the first bucket begins, which is there.
fn overflow_start(table: &Table<Words>) -> u64 {
    let link = table.bucket(0).slot(SLOTS - 1);
    assert!(link.is_link());
    link.at()
}

/// Bytes of the heap that are handed out, when all workers have given back what they hold.
fn allocated(writers: &mut [&mut Writer<Words>]) -> u64 {
    for writer in writers.iter_mut() {
        writer.release();
    }
    writers[0].table().heap().usage().allocated
}

/// Bytes of `count` entries, and of `overflows` overflow buckets: all entries here are of one size.
fn bytes(count: u64, overflows: u64) -> u64 {
    let shape = super::entry::Shape { key_size: size_of::<Key>(), value_size: OLD.len(), expires: false };
    8 * (count * shape.words() as u64 + overflows * BUCKET_WORDS as u64)
}

#[test]
fn a_reader_against_a_move() {
    race(
        Stage::one_key,
        |writer, wanted, other| {
            let start = start_of(writer.table(), wanted);
            writer.relocate(start, false);
            put(writer, other, FOREIGN);
            assert_eq!(start_of(writer.table(), other), start, "the model is too small: it is not used again");
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

#[test]
fn an_update_against_a_move() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, .. } = Stage::one_key();
        let start = start_of(writer.table(), &wanted);
        let mut second = Writer::new(Arc::clone(writer.table()));
        let updating = thread::spawn(move || {
            let version = put(&mut second, &wanted, NEW);
            (version, second)
        });
        writer.relocate(start, false);
        let (version, mut second) = updating.join().expect("the other worker ends");
        assert_eq!(get(&reader, &wanted), (Seen::New, Some(version)), "forbidden: the update is undone");
        let moved = writer.table().tally().moved.load(Ordering::Relaxed);
        assert_eq!(allocated(&mut [&mut writer, &mut second]), bytes(1, 0), "forbidden: memory is lost, or free twice");
        moved
    });
    assert_eq!(outcomes.len(), 2, "the model is too small: it was always, or never, moved");
}

#[test]
fn a_delete_against_a_move() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, .. } = Stage::one_key();
        let start = start_of(writer.table(), &wanted);
        let mut second = Writer::new(Arc::clone(writer.table()));
        let deleting = thread::spawn(move || {
            assert!(second.delete(&wanted, no_time), "forbidden: a key that was there is not found");
            second
        });
        writer.relocate(start, false);
        let mut second = deleting.join().expect("the other worker ends");
        assert_eq!(get(&reader, &wanted), (Seen::Miss, None), "forbidden: what was deleted is back");
        assert_eq!(reader.entries(), 0, "forbidden: a count that is not that of the entries");
        let moved = writer.table().tally().moved.load(Ordering::Relaxed);
        assert_eq!(allocated(&mut [&mut writer, &mut second]), 0, "forbidden: memory is lost, or free twice");
        moved
    });
    assert_eq!(outcomes.len(), 2, "the model is too small: it was always, or never, moved");
}

/// The memory of the original goes to another key while it is being moved: what was copied is a mixture, perhaps, and
/// nobody must believe it.
#[test]
fn a_reuse_against_a_move() {
    model::bounded_outcomes(|| {
        // In the same bucket, where the move looks for what points at the original.
        let stage = Stage::new(4).wanted(0, (0, 4)).other(1, (0, 4));
        let Stage { mut writer, reader, wanted, other, .. } = stage;
        let start = start_of(writer.table(), &wanted);
        let mut second = Writer::new(Arc::clone(writer.table()));
        let reusing = thread::spawn(move || {
            assert!(second.delete(&wanted, no_time), "forbidden: a key that was there is not found");
            put(&mut second, &other, NEW);
            second
        });
        writer.relocate(start, false);
        let _second = reusing.join().expect("the other worker ends");
        assert_eq!(get(&reader, &wanted).0, Seen::Miss, "forbidden: what was deleted is back");
        assert_eq!(get(&reader, &other).0, Seen::New, "forbidden: a key is lost");
    });
}

/// What became of the memory of the original, and where the client has found the value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum View {
    Original { kept: bool },
    Copy,
    Contended,
}

#[test]
fn a_view_against_a_move() {
    let outcomes = model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, .. } = Stage::one_key();
        let start = start_of(writer.table(), &wanted);
        let (pins, looked): (Words, _) = (Arc::new(heap_words(1)), Arc::new(AtomicBool::new(false)));
        writer.table().reclaimer().register(Box::new(Arc::clone(&pins)));
        let viewing = {
            let (pins, looked) = (Arc::clone(&pins), Arc::clone(&looked));
            thread::spawn(move || {
                let found = match pin(reader.words(), &pins[0], reader.hash(&wanted), &wanted, no_time) {
                    Pinned::Hit(found, words) => {
                        let at = pins[0].load(Ordering::Relaxed);
                        let mut value = vec![0; found.size];
                        copy_out(&reader.words()[words], as_uninit(&mut value));
                        assert_eq!(value, OLD, "forbidden: a view of something else");
                        // Relaxed, here and where it is loaded: it is what has to be ordered.
                        looked.store(true, Ordering::Relaxed);
                        unpin(&pins[0]);
                        Some(at)
                    }
                    Pinned::Contended => None,
                    Pinned::Miss => panic!("forbidden: a miss, though the key was there throughout"),
                };
                (found, reader)
            })
        };
        writer.relocate(start, false);
        let kept = writer.table().reclaimer().entries_retired() > 0 && writer.rescan() == 0;
        let looked = looked.load(Ordering::Relaxed);
        match viewing.join().expect("the client ends").0 {
            None => View::Contended,
            Some(at) if at != start => View::Copy,
            Some(_) => {
                assert!(kept || looked, "forbidden: memory is free while somebody looks at it");
                View::Original { kept }
            }
        }
    });
    let allowed = [View::Original { kept: false }, View::Original { kept: true }, View::Copy, View::Contended];
    assert!(outcomes.into_iter().eq(allowed), "the model is too small");
}

/// A table whose first bucket has an overflow bucket, in which there is the wanted key and no other one.
fn chain() -> Stage {
    let mut stage = Stage::new(8).others(3, (0, 8)).wanted(3, (0, 8));
    let neighbour = stage.key(2, (0, 8));
    assert!(stage.writer.delete(&neighbour, no_time));
    stage
}

#[test]
fn a_reader_against_a_move_of_its_overflow_bucket() {
    race(
        chain,
        |writer, _, _| {
            let start = overflow_start(writer.table());
            writer.relocate(start, false);
            assert_ne!(overflow_start(writer.table()), start, "the model is too small: it was not moved");
            // As large as a bucket: it takes the memory of the one that is gone.
            put_sized(writer, b"somebody", b"anything");
            assert_eq!(start_of(writer.table(), b"somebody"), start, "the model is too small: it is not used again");
            None
        },
        &[Seen::Old, Seen::Contended],
        Seen::Old,
    );
}

fn put_sized(writer: &mut Writer<Words>, key: &[u8], value: &[u8]) {
    let done = writer.put(key, value, None, super::Guard::Always, no_time);
    assert!(done.is_ok(), "the table has room: {done:?}");
}

/// Another worker deletes what is in the overflow bucket, which goes with it: it is not swung in again by the move.
#[test]
fn a_delete_against_a_move_of_its_overflow_bucket() {
    model::bounded_outcomes(|| {
        let Stage { mut writer, reader, wanted, .. } = chain();
        let entries = reader.entries();
        let neighbours: Vec<Key> = {
            let stage = Stage::new(8);
            (0..2).map(|number| stage.key(number, (0, 8))).collect()
        };
        let start = overflow_start(writer.table());
        let mut second = Writer::new(Arc::clone(writer.table()));
        let deleting = thread::spawn(move || {
            assert!(second.delete(&wanted, no_time), "forbidden: a key that was there is not found");
            second
        });
        writer.relocate(start, false);
        let mut second = deleting.join().expect("the other worker ends");
        assert_eq!(get(&reader, &wanted), (Seen::Miss, None), "forbidden: what was deleted is back");
        for neighbour in neighbours {
            assert!(slot_of(writer.table(), &neighbour).is_some(), "forbidden: a key of the chain is lost");
        }
        let link = writer.table().bucket(0).slot(SLOTS - 1);
        assert!(!link.is_link(), "forbidden: an empty overflow bucket is back");
        let allocated = allocated(&mut [&mut writer, &mut second]);
        assert_eq!(allocated, bytes(entries - 1, 0), "forbidden: memory is lost, or free twice");
    });
}
