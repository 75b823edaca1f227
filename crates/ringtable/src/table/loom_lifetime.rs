//! Models of a new expiry: a worker that changes two words of an entry in place, against readers and other workers.
//!
//! The real `expire` on an entry that has the word for it.
//!
//! # Allowed
//!
//! - A reader finds the value with the version and the expiry from before, until the change has returned; or with those
//!   from after it, from its unlocking on. Or `Contended`.
//! - A move, a split, a write by version come before the change, or find it.
//!
//! # Forbidden
//!
//! - A version with an expiry that is not its own, or a miss.
//! - What was before, for a reader that knows of the reply.
//! - A move that brings back what was before; a split that loses it; a write by the version from before that is done
//!   after it.
//! - A slot whose code is not that of its entry's expiry: the sweep would not find it.

use loom::thread;

use super::entry::Expiry;
use super::lookup::Buffer;
use super::loom_table::{Key, NEW, OLD, Stage, Words, no_time, put};
use super::{Guard, Lookup, Outcome, Reader, Writer, expiry_code};
use crate::sync::{Arc, AtomicBool, Ordering, model};

const BEFORE: Expiry = Expiry(5_000);
const AFTER: Expiry = Expiry(1_000_000);

/// What a reader got: version and expiry; nothing if it was contended.
type Seen = Option<(u64, Expiry)>;

/// The same stage, the wanted key with a time to live. Returns it with the key's version.
fn mortal(mut stage: Stage) -> (Stage, u64) {
    let outcome = stage.writer.put(&stage.wanted, OLD, Some(BEFORE), Guard::Always, no_time);
    let Ok(Outcome::Done { version, .. }) = outcome else { panic!("the table has room: {outcome:?}") };
    (stage, version)
}

fn expire(writer: &mut Writer<Words>, key: &Key) {
    assert_eq!(writer.expire(key, AFTER, no_time), Ok(true), "forbidden: a key that was there is not found");
}

fn look(reader: &Reader<Words>, key: &Key) -> Seen {
    let mut value = Buffer::default();
    match reader.get(key, no_time, &mut value) {
        Lookup::Hit(found) => {
            assert_eq!(value.bytes(), OLD, "forbidden: another value");
            Some((found.version, found.expiry.expect("forbidden: an entry without the expiry that it had")))
        }
        Lookup::Contended => None,
        other => panic!("forbidden: {other:?}"),
    }
}

/// What the key has when nobody changes the table any more; its slot has the code for it.
fn at_last(writer: &Writer<Words>, key: &Key) -> (u64, Expiry) {
    let table = writer.table();
    let hash = table.constants().hash(key);
    let guard = table.lock(hash);
    let (bucket, index, entry) = table.find(&guard, hash, key).entry.expect("forbidden: the key is gone");
    let expiry = entry.expiry();
    assert_eq!(bucket.slot(index).expiry_code(), expiry_code::code(expiry), "forbidden: a code of another expiry");
    guard.unlock_unchanged();
    (entry.version(), expiry.expect("forbidden: an entry without the expiry that it had"))
}

#[test]
fn a_reader_against_a_new_expiry() {
    let outcomes = model::bounded_outcomes(|| {
        let (Stage { mut writer, reader, wanted, .. }, before) = mortal(Stage::one_key());
        let acknowledged = Arc::new(AtomicBool::new(false));
        let reading = {
            let acknowledged = Arc::clone(&acknowledged);
            thread::spawn(move || {
                // Acquire: as a client sees its reply in the lane.
                let known = acknowledged.load(Ordering::Acquire);
                (known, look(&reader, &wanted), reader)
            })
        };
        expire(&mut writer, &wanted);
        // Release: as a worker publishes a reply.
        acknowledged.store(true, Ordering::Release);
        let (known, seen, _) = reading.join().expect("the reader ends");
        let after = at_last(&writer, &wanted);
        assert!(after.0 > before && after.1 == AFTER, "forbidden: {after:?} in the end");
        let is_old = seen == Some((before, BEFORE));
        assert!(is_old || seen.is_none_or(|seen| seen == after), "forbidden: {seen:?} between {before} and {after:?}");
        assert!(!known || seen == Some(after), "forbidden: {seen:?} after the reply");
        (known, is_old, seen.is_some())
    });
    let all = [(false, false, false), (false, false, true), (false, true, true), (true, false, true)];
    assert!(outcomes.into_iter().eq(all), "the model is too small");
}

#[test]
fn a_new_expiry_against_a_move() {
    let outcomes = model::bounded_outcomes(|| {
        let (Stage { mut writer, reader, wanted, .. }, before) = mortal(Stage::one_key());
        let start = super::loom_move::start_of(writer.table(), &wanted);
        let mut second = Writer::new(Arc::clone(writer.table()));
        let expiring = thread::spawn(move || {
            expire(&mut second, &wanted);
            second
        });
        writer.relocate(start, false);
        let _second = expiring.join().expect("the other worker ends");
        let after = at_last(&writer, &wanted);
        assert!(after.0 > before && after.1 == AFTER, "forbidden: {after:?}, the move undid the change");
        assert_eq!(look(&reader, &wanted), Some(after), "forbidden: readers see something else");
        writer.table().tally().moved.load(Ordering::Relaxed)
    });
    assert_eq!(outcomes.len(), 2, "the model is too small: it was always, or never, moved");
}

#[test]
fn a_new_expiry_against_a_split() {
    let outcomes = model::bounded_outcomes(|| {
        let (Stage { mut writer, reader, wanted, other, .. }, before) = mortal(Stage::about_to_split());
        let mut second = Writer::new(Arc::clone(writer.table()));
        let expiring = thread::spawn(move || {
            expire(&mut second, &wanted);
            second
        });
        put(&mut writer, &other, NEW);
        let _second = expiring.join().expect("the other worker ends");
        assert_eq!(writer.table().buckets(), 2);
        let after = at_last(&writer, &wanted);
        assert!(after.0 > before && after.1 == AFTER, "forbidden: {after:?}, the split lost the change");
        assert_eq!(look(&reader, &wanted), Some(after), "forbidden: readers see something else");
        after.0
    });
    assert!(outcomes.len() > 1, "the model is too small: always the same worker first");
}

#[test]
fn a_new_expiry_against_a_write_by_version() {
    let outcomes = model::bounded_outcomes(|| {
        let (Stage { mut writer, wanted, .. }, before) = mortal(Stage::one_key());
        let mut second = Writer::new(Arc::clone(writer.table()));
        let writing = thread::spawn(move || {
            let outcome = second.put(&wanted, NEW, Some(BEFORE), Guard::Version(before), no_time);
            (outcome.expect("there is room"), second)
        });
        expire(&mut writer, &wanted);
        let (outcome, _second) = writing.join().expect("the other worker ends");
        let (version, expiry) = at_last(&writer, &wanted);
        assert_eq!(expiry, AFTER, "forbidden: a write by the version from before undid the change");
        match outcome {
            Outcome::Done { version: written, .. } => assert!(written < version, "forbidden: done behind the change"),
            Outcome::Refused => {}
        }
        outcome == Outcome::Refused
    });
    assert_eq!(outcomes.len(), 2, "the model is too small: always the same worker first");
}
