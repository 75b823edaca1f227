//! Models of the ring of events: a producer that laps a watcher.
//!
//! The ring has room for three records of five words and one word that stays over, so that the fourth record is
//! preceded by padding. Two records are there before the threads begin, and the watcher begins with the first of them
//! or behind both; the producer writes two more, the second of which overwrites what lies at the watcher's beginning.
//!
//! # Allowed
//!
//! - From the first record on: the records, or a lap, which leads to any of the later ones: that the fourth is being
//!   written may be seen before any word of the third is, and even before the second is seen to be the newest.
//! - Nothing, as long as the watcher does not see the tail move; also after a lap, which goes by another word.
//!
//! # Forbidden
//!
//! - A torn record, or one that is not the next: the watcher has looked at words that were being overwritten, and must
//!   have noticed by the intent.
//! - A wrong count: what was missed and what was read do not add up to the number of the next record.
//! - [`super::events::Damaged`]: this producer is well. It shows when a position is seen before the record that it
//!   names.
//!
//! # What this cannot show
//!
//! As in the table's models, a load never sees a store that comes later in the run: that the copying is over before the
//! look at the intent is shown by what the fence between them acquires, and by that alone.

use std::collections::BTreeSet;

use loom::thread;

use super::events::{Consumer, Event, Kind, Next, Producer, Ring, Start};
use crate::sync::{Arc, heap_words, model};

const CAPACITY: usize = 16;
const RECORD_WORDS: u64 = 5;
/// Records that are there before the threads begin.
const BEFORE: u64 = 2;
/// Records that are written while the watcher reads.
const MEANWHILE: u64 = 2;

/// Record number `sequence`: no two have a word in common, but the head.
fn event(sequence: u64) -> (Event, [u8; 8]) {
    let event = Event { kind: Kind::Set, version: 100 + sequence, size: 200 + sequence };
    (event, (300 + sequence).to_ne_bytes())
}

/// What a watcher has seen: nothing, the record of that number, or that it has missed so many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Seen {
    Nothing,
    Record(u64),
    Lagged(u64),
}

/// Lets a watcher that begins with record number `first` look `looks` times, while the producer goes on.
fn race(first: u64, looks: usize) -> BTreeSet<Vec<Seen>> {
    model::bounded_outcomes(move || {
        let words = Arc::new(heap_words(Ring::words(CAPACITY)));
        let mut producer = Producer::create(Ring::new(&words));
        for sequence in 0..BEFORE {
            let (event, key) = event(sequence);
            producer.publish(Ring::new(&words), event, &key);
        }
        let watching = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let ring = Ring::new(&words);
                let mut consumer = Consumer::new(Start { position: first * RECORD_WORDS, sequence: first });
                let (mut seen, mut expected, mut key) = (Vec::new(), first, Vec::new());
                for _ in 0..looks {
                    seen.push(match consumer.next(ring, &mut key).expect("forbidden: the producer is well") {
                        Next::Nothing => Seen::Nothing,
                        Next::Lagged(count) => {
                            assert!(count > 0, "forbidden: a lap without a loss");
                            expected += count;
                            Seen::Lagged(count)
                        }
                        Next::Event(found) => {
                            let found = (found, key.as_slice());
                            let (event, key) = event(expected);
                            assert_eq!(found, (event, &key[..]), "forbidden: not the record number {expected}");
                            expected += 1;
                            Seen::Record(expected - 1)
                        }
                        Next::Contended => panic!("forbidden: the newest record is never overwritten by the next one"),
                    });
                }
                assert!(expected <= BEFORE + MEANWHILE, "forbidden: {expected} records");
                seen
            })
        };
        for sequence in BEFORE..BEFORE + MEANWHILE {
            let (event, key) = event(sequence);
            producer.publish(Ring::new(&words), event, &key);
        }
        watching.join().expect("the watcher ends")
    })
}

#[test]
fn a_watcher_that_is_lapped() {
    let allowed = [
        [Seen::Record(0), Seen::Record(1)],
        [Seen::Lagged(1), Seen::Record(1)],
        [Seen::Lagged(2), Seen::Record(2)],
        [Seen::Lagged(2), Seen::Nothing],
        [Seen::Lagged(3), Seen::Record(3)],
        [Seen::Lagged(3), Seen::Nothing],
    ];
    assert_eq!(race(0, 2), allowed.map(Vec::from).into(), "either forbidden, or the model is too small");
}

#[test]
fn a_watcher_that_keeps_up() {
    let allowed = [
        [Seen::Nothing, Seen::Nothing],
        [Seen::Nothing, Seen::Record(2)],
        [Seen::Record(2), Seen::Nothing],
        [Seen::Record(2), Seen::Record(3)],
    ];
    assert_eq!(race(BEFORE, 2), allowed.map(Vec::from).into(), "either forbidden, or the model is too small");
}
