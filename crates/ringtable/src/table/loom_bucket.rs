//! Model of a bucket's version (a seqlock) on its own: one writer, one reader, two words that belong together.
//!
//! The words are stored relaxed. Those of the table mostly are not: `BucketRef::set_slot` is a Release, which in the
//! table makes the fence in `BucketRef::lock` redundant for slots. What the module header of [`super::bucket`] promises
//! does not hang on that, and the version of a new bucket (`BucketRef::new_locked`) does hang on the fence.
//!
//! # Allowed
//!
//! - Both words as they were before the change, or both as after it.
//! - No answer: the version was odd, or another one when the reader looked again.
//!
//! # Forbidden
//!
//! - One word of each: the reader saw a store of the writer's, so it has to see that the version is odd or later.
//! - The words from before a change that the reader knows of (the writer has told it, as a reply tells a client): an
//!   acknowledged write is seen by everybody from then on.
//!
//! # What this cannot show
//!
//! That the reader's loads are over before its second look: see `loom_table`.

use loom::thread;

use super::bucket::BucketRef;
use super::layout::BUCKET_WORDS;
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, heap_words, model};

/// What a reader got.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Seen {
    Before,
    After,
    Nothing,
}

/// A bucket, and two words behind it that its version covers.
fn words() -> Arc<Box<[AtomicU64]>> {
    Arc::new(heap_words(BUCKET_WORDS + 2))
}

fn bucket(words: &[AtomicU64]) -> BucketRef<'_> {
    BucketRef::at(words, 0).expect("the bucket lies within the words")
}

/// Changes both words from 0 to 1. Relaxed: the version orders them.
fn change(words: &[AtomicU64]) {
    let guard = bucket(words).lock();
    for word in &words[BUCKET_WORDS..] {
        word.store(1, Ordering::Relaxed);
    }
    guard.unlock();
}

/// Reads both words once.
fn read(words: &[AtomicU64]) -> Seen {
    let Some(version) = bucket(words).begin_read() else { return Seen::Nothing };
    let [first, second] = [0, 1].map(|index| words[BUCKET_WORDS + index].load(Ordering::Relaxed));
    if !bucket(words).end_read(version) {
        return Seen::Nothing;
    }
    assert_eq!(first, second, "forbidden: half of a change");
    if first == 0 { Seen::Before } else { Seen::After }
}

#[test]
fn a_change_is_seen_whole_or_not_at_all() {
    let seen = model::outcomes(|| {
        let words = words();
        let reading = {
            let words = Arc::clone(&words);
            thread::spawn(move || read(&words))
        };
        change(&words);
        reading.join().expect("the reader ends")
    });
    assert!(seen.into_iter().eq([Seen::Before, Seen::After, Seen::Nothing]), "the model is too small");
}

#[test]
fn a_change_that_was_acknowledged_is_seen() {
    let seen = model::outcomes(|| {
        let (words, acknowledged) = (words(), Arc::new(AtomicBool::new(false)));
        let reading = {
            let (words, acknowledged) = (Arc::clone(&words), Arc::clone(&acknowledged));
            thread::spawn(move || {
                // Acquire: as a client sees its reply in the lane.
                let known = acknowledged.load(Ordering::Acquire);
                (known, read(&words))
            })
        };
        change(&words);
        acknowledged.store(true, Ordering::Release);
        let (known, seen) = reading.join().expect("the reader ends");
        assert!(!known || seen == Seen::After, "forbidden: {seen:?}, after the reply");
        (known, seen)
    });
    assert!(seen.contains(&(true, Seen::After)), "the model is too small: the reply never came first");
}

/// A second writer comes as the first one leaves: it sees what that one did.
#[test]
fn two_writers_do_not_lose_a_change() {
    let seen = model::outcomes(|| {
        let words = words();
        // Relaxed: under the lock.
        let add = |words: &[AtomicU64]| {
            let guard = bucket(words).lock();
            let word = &words[BUCKET_WORDS];
            let before = word.load(Ordering::Relaxed);
            word.store(before + 1, Ordering::Relaxed);
            guard.unlock();
            before
        };
        let adding = {
            let words = Arc::clone(&words);
            thread::spawn(move || add(&words))
        };
        let ours = add(&words);
        let theirs = adding.join().expect("the other writer ends");
        assert_eq!(ours + theirs, 1, "forbidden: one of two additions is lost");
        ours
    });
    assert_eq!(seen.len(), 2, "the model is too small: always the same writer first");
}
