//! Model of the lane's byte stream: a producer and a consumer over a ring of two words.
//!
//! Four words go through, one and then two and then one at a time, so that the positions wrap, a batch lies across the
//! end of the ring, and each side finds the ring full or empty in some of the runs.
//!
//! # Allowed
//!
//! - The consumer finds nothing, or whole batches: the producer has not published more yet.
//! - The producer finds less room than it wants: the consumer has not released more yet.
//!
//! # Forbidden
//!
//! - A word other than the one written at that position, be it from the lap before or the zero from the beginning:
//!   who sees a position has to see the words before it.
//! - A part of a batch: nothing is readable before it is published, and a batch is published by one store.
//! - A [`super::spsc::PositionError`]: neither side of this ring is broken.
//!
//! # What this cannot show
//!
//! Loom runs each thread's operations in program order, so that a load never sees a store that comes later in the run
//! (no load buffering). But that is what the other pair of orderings prevents, the Release in
//! [`super::spsc::Consumer::release`] and the Acquire in [`super::spsc::Producer::room`]: that the consumer's reads
//! of a word be over before the producer overwrites it. With these relaxed, the model passes all the same. For this
//! there are many laps on real threads (`every_word_goes_through_a_lane_and_nobody_sleeps_for_ever` in `tests`).

use super::spsc::{Consumer, Producer, Ring};
use crate::sync::{Arc, AtomicU64, as_uninit, heap_words, model, spin_loop};

/// Words that the producer publishes at a time.
const BATCHES: [usize; 3] = [1, 2, 1];
const WORDS: usize = 4;

struct Memory {
    positions: Box<[AtomicU64]>,
    data: Box<[AtomicU64]>,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self { positions: heap_words(2), data: heap_words(2) })
    }

    fn ring(&self) -> Ring<'_> {
        Ring { tail: &self.positions[0], head: &self.positions[1], data: &self.data }
    }
}

/// What the word at `index` in the stream holds; never 0, which is what the ring holds at the beginning.
fn word(index: usize) -> u64 {
    0x0101_0101_0101_0101 * (index as u64 + 1)
}

/// What came to pass in a run.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Edges {
    /// The producer had to wait for room.
    full: bool,
    /// The consumer had to wait for words.
    empty: bool,
}

#[test]
fn what_is_read_is_what_was_written_in_order() {
    let seen = model::outcomes(|| {
        let memory = Memory::new();
        let producing = {
            let memory = Arc::clone(&memory);
            loom::thread::spawn(move || {
                let (mut producer, mut full, mut index) = (Producer::default(), false, 0);
                for batch in BATCHES {
                    while producer.room(memory.ring(), batch * 8).expect("forbidden: the consumer is well") < batch * 8
                    {
                        full = true;
                        spin_loop();
                    }
                    let bytes: Vec<u8> = (index..index + batch).flat_map(|index| word(index).to_ne_bytes()).collect();
                    producer.write(memory.ring(), &bytes);
                    producer.publish(memory.ring());
                    index += batch;
                }
                full
            })
        };
        let (mut consumer, mut empty, mut index) = (Consumer::default(), false, 0);
        for batch in BATCHES {
            while consumer.available(memory.ring(), batch * 8).expect("forbidden: the producer is well") == 0 {
                empty = true;
                spin_loop();
            }
            let available = consumer.available(memory.ring(), 8).expect("forbidden: the producer is well");
            assert!(available >= batch * 8, "forbidden: a part of a batch, {available} bytes at word {index}");
            let mut bytes = [0; 16];
            let bytes = &mut bytes[..batch * 8];
            consumer.read(memory.ring(), as_uninit(bytes));
            consumer.release(memory.ring());
            for bytes in bytes.as_chunks().0 {
                assert_eq!(u64::from_ne_bytes(*bytes), word(index), "forbidden: a word that is not the one at {index}");
                index += 1;
            }
        }
        assert_eq!(index, WORDS);
        let full = producing.join().expect("the producer ends");
        Edges { full, empty }
    });
    for (edge, happened) in [
        ("full", seen.iter().any(|edges| edges.full)),
        ("empty", seen.iter().any(|edges| edges.empty)),
        ("neither full nor empty", seen.contains(&Edges { full: false, empty: false })),
    ] {
        assert!(happened, "the model is too small: the ring was never {edge}");
    }
}
