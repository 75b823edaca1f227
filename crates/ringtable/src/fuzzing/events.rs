//! A watcher of a ring of events: of an honest one it misses nothing without being told, and of one that holds anything
//! it says that it is damaged.

use super::guarded::Guarded;
use crate::input::Input;
use crate::sync::{Memory, Ordering};
use crate::table::events::{Consumer, Damaged, Event, Kind, Next, Producer, Ring, RingLocation, Start};
use crate::table::layout::{H_EVENTS, PAGE_WORDS};

const CAPACITY: usize = 64;
/// Three records with such a key fit.
const KEY_SIZE_MAX: usize = 100;

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 3 {
        0 => honest(&mut input),
        1 => damaged(&mut input),
        _ => anywhere(&mut input),
    }
}

/// The ring of a run, at the end of its memory.
fn ring(memory: &Guarded) -> Ring<'_> {
    let words = memory.words();
    Ring::new(&words[words.len() - Ring::words(CAPACITY)..])
}

fn publish(producer: &mut Producer, ring: Ring<'_>, input: &mut Input<'_>) -> (Event, Vec<u8>) {
    let kinds = [Kind::Set, Kind::Delete, Kind::Expire, Kind::Evict, Kind::Flush];
    let size = input.below(KEY_SIZE_MAX + 1);
    let event = Event { kind: kinds[input.below(5)], version: input.word(), size: size as u64 };
    let key = vec![size as u8; size];
    producer.publish(ring, event, &key);
    (event, key)
}

fn honest(input: &mut Input<'_>) {
    let memory = Guarded::new(512);
    let ring = ring(&memory);
    let (mut producer, mut consumer) = (Producer::create(ring), Consumer::new(Start::default()));
    let (mut published, mut seen, mut key) = (Vec::new(), 0, Vec::new());
    while !input.is_empty() {
        if !input.byte().is_multiple_of(4) {
            published.push(publish(&mut producer, ring, input));
            continue;
        }
        match consumer.next(ring, &mut key) {
            Ok(Next::Nothing) => assert_eq!(seen, published.len()),
            Ok(Next::Event(event)) => {
                assert_eq!((&event, &key), (&published[seen].0, &published[seen].1));
                seen += 1;
            }
            Ok(Next::Lagged(count)) => {
                assert!(count > 0);
                seen += count as usize;
                assert_eq!(seen, published.len() - 1, "it goes on with the newest");
            }
            other => panic!("{other:?} of an honest ring"),
        }
    }
}

fn damaged(input: &mut Input<'_>) {
    let memory = Guarded::new(512);
    let (words, ring) = (memory.words(), ring(&memory));
    let first = words.len() - Ring::words(CAPACITY);
    let mut producer = Producer::create(ring);
    let start = Start { position: input.nasty(0), sequence: input.nasty(0) };
    let (mut consumer, mut key) = (Consumer::new(start), Vec::new());
    while !input.is_empty() {
        match input.byte() % 4 {
            0 => drop(publish(&mut producer, ring, input)),
            1 => {
                let word = &words[first + input.below(Ring::words(CAPACITY))];
                word.store(input.nasty(word.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            2 => consumer = Consumer::new(Start { position: input.nasty(64), sequence: input.nasty(0) }),
            _ => look(&mut consumer, ring, &mut key),
        }
    }
}

fn look(consumer: &mut Consumer, ring: Ring<'_>, key: &mut Vec<u8>) {
    let _ = consumer.has_news(ring);
    match consumer.next(ring, key) {
        Ok(Next::Event(_)) => assert!(key.len() <= CAPACITY * 8),
        Ok(Next::Lagged(count)) => assert!(count > 0),
        Ok(Next::Nothing | Next::Contended) | Err(Damaged(_)) => {}
    }
}

/// A header that says that the ring is anywhere.
fn anywhere(input: &mut Input<'_>) {
    let memory = Guarded::new(PAGE_WORDS + 512);
    let words = memory.words();
    let honest = ((PAGE_WORDS + 100) as u64) << 8 | 6;
    words[H_EVENTS].store(input.nasty(honest), Ordering::Relaxed);
    if let Some(place) = RingLocation::load(words) {
        let (mut consumer, mut key) = (Consumer::new(Start::default()), Vec::new());
        while !input.is_empty() {
            let word = &words[PAGE_WORDS + input.below(512)];
            word.store(input.nasty(0), Ordering::Relaxed);
            look(&mut consumer, place.ring(words), &mut key);
        }
    }
}
