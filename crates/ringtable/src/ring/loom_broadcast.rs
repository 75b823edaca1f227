//! Models of the broadcast ring: threads of one process that send, and readers that come, go, or were dismissed.
//!
//! # Allowed
//!
//! - A sender finds no room while a reader that listens has not announced that it is past the slot.
//! - A reader that begins to listen misses what was claimed before it had begun.
//! - One that was dismissed finds that it was lapped; or it was faster, and what it copied is whole.
//!
//! # Forbidden
//!
//! - A reader that listens and is lapped, or misses what was claimed after it had begun to listen: two stores (of the
//!   cursor, of the tail) must not both be missed by the loads behind them.
//! - A message that is not the one of its position, or is put together of two, and is believed.
//! - A reader that has left and holds senders back.
//!
//! # What this cannot show
//!
//! As in the other models, that a reader's reads of a slot are over before it is written again (see `loom_spsc`): the
//! cursors' Release and Acquire, and those of the minimum that hands them on. Nor that a sender's writes to a slot come
//! before those of the next one: loom orders the stores to a word as they were executed.

use loom::thread;

use super::broadcast::{Broadcast, Lapped, Place, Receiver, Sender};
use crate::sync::{Arc, AtomicBool, AtomicU64, Memory, Ordering, heap_words, model, spin_loop};

const SLOT_WORDS: usize = 3;

struct Ring {
    tail: AtomicU64,
    cursors: Box<[AtomicU64]>,
    slots: Box<[AtomicU64]>,
    sender: Sender,
    /// Whether the reader has begun to listen.
    listens: AtomicBool,
}

impl Ring {
    /// A ring with one reader, which was admitted.
    fn new(slots: usize) -> Arc<Self> {
        let ring = Self {
            tail: AtomicU64::new(0),
            cursors: heap_words(1),
            slots: heap_words(slots * SLOT_WORDS),
            sender: Sender::new(1),
            listens: AtomicBool::new(false),
        };
        ring.sender.admit(ring.broadcast(), 0);
        Arc::new(ring)
    }

    fn broadcast(&self) -> Broadcast<'_> {
        Broadcast::new(&self.tail, &self.cursors, 1, self.slots.words(), SLOT_WORDS)
    }

    fn fill(&self, place: Place, number: u64) {
        self.sender.publish(self.broadcast(), place, |body| {
            for word in body {
                word.store(number, Ordering::Relaxed);
            }
        });
    }

    fn send(&self, number: u64) -> bool {
        self.sender.try_claim(self.broadcast()).map(|place| self.fill(place, number)).is_some()
    }

    fn receive(&self, reader: &mut Receiver) -> Result<Option<u64>, Lapped> {
        let Some(body) = reader.next(self.broadcast())? else { return Ok(None) };
        let words = [body[0].load(Ordering::Relaxed), body[1].load(Ordering::Relaxed)];
        reader.check(self.broadcast())?;
        assert_eq!(words[0], words[1], "forbidden: a message of two others' words is believed");
        Ok(Some(words[0]))
    }

    /// A reader that listens.
    fn listener(&self) -> Receiver {
        let mut reader = Receiver::new(0);
        reader.listen(self.broadcast());
        reader
    }

    /// When all threads are over: what is left for the reader.
    fn rest(&self, reader: &mut Receiver) -> Vec<u64> {
        std::iter::from_fn(|| self.receive(reader).expect("forbidden: a reader that listens is lapped")).collect()
    }
}

/// Runs `work` in a thread of its own.
fn spawn<T: 'static>(ring: &Arc<Ring>, work: impl FnOnce(&Ring) -> T + 'static) -> thread::JoinHandle<T> {
    let ring = Arc::clone(ring);
    thread::spawn(move || work(&ring))
}

/// One slot, again and again: nothing is overwritten before it was read.
#[test]
fn a_listener_gates_the_sender() {
    let seen = model::outcomes(|| {
        let ring = Ring::new(1);
        let mut reader = ring.listener();
        let receiving = spawn(&ring, move |ring| {
            let mut empty = false;
            for number in 1..=2 {
                let found = loop {
                    match ring.receive(&mut reader).expect("forbidden: a reader that listens is lapped") {
                        Some(found) => break found,
                        None => empty = true,
                    }
                    spin_loop();
                };
                assert_eq!(found, number, "forbidden: another message than the one that was sent");
                reader.announce(ring.broadcast());
            }
            empty
        });
        let mut full = false;
        for number in 1..=2 {
            while !ring.send(number) {
                full = true;
                spin_loop();
            }
        }
        (full, receiving.join().expect("the reader ends"))
    });
    assert!(seen.iter().any(|&(full, _)| full) && seen.iter().any(|&(_, empty)| empty), "the model is too small");
}

/// Two threads send, over two slots.
#[test]
fn what_two_threads_send_a_listener_sees() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(2);
        let mut reader = ring.listener();
        let other = spawn(&ring, |ring| ring.send(10));
        let receiving = spawn(&ring, move |ring| {
            let found = ring.receive(&mut reader).expect("forbidden: a reader that listens is lapped");
            reader.announce(ring.broadcast());
            (reader, found)
        });
        let sent = [ring.send(1), ring.send(2)];
        let other = other.join().expect("the other ends");
        let (mut reader, early) = receiving.join().expect("the reader ends");
        let mut all: Vec<_> = early.into_iter().chain(ring.rest(&mut reader)).collect();
        let ours: Vec<_> = all.iter().copied().filter(|&number| number < 10).collect();
        assert!(ours.is_sorted(), "forbidden: out of order, {ours:?}");
        all.sort_unstable();
        let expected: Vec<_> = [(1, sent[0]), (2, sent[1]), (10, other)]
            .into_iter()
            .filter_map(|(number, sent)| sent.then_some(number))
            .collect();
        assert_eq!(all, expected, "forbidden: what was seen is not what was sent");
        (early.is_some(), all.len())
    });
    for allowed in [(false, 2), (true, 2), (true, 3)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?} seen early and sent, {seen:?}");
    }
}

/// What a sender sent, and whether it knew at the claim that the reader listens.
fn send_all(ring: &Ring, numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, bool)> {
    let mut sent = Vec::new();
    for number in numbers {
        // Acquire, and Release below: as the request of a client that listens for the reply.
        let listens = ring.listens.load(Ordering::Acquire);
        if ring.send(number) {
            sent.push((number, listens));
        }
    }
    sent
}

/// A reader begins to listen while a sender, or two, fill a ring in which `before` went round and look for room.
fn comes(slots: usize, before: u64, ours: u64, theirs: u64) -> impl Fn() -> (usize, usize) + Send + Sync + 'static {
    move || {
        let ring = Ring::new(slots);
        (0..before).for_each(|_| assert!(ring.send(30), "forbidden: nobody listens, and there is no room"));
        let coming = spawn(&ring, |ring| {
            let reader = ring.listener();
            ring.listens.store(true, Ordering::Release);
            reader
        });
        let other = (theirs > 0).then(|| spawn(&ring, move |ring| send_all(ring, 11..=10 + theirs)));
        let sent = send_all(&ring, 1..=ours);
        let other = other.map(|other| other.join().expect("it ends")).unwrap_or_default();
        let mut reader = coming.join().expect("the reader comes");
        let found = ring.rest(&mut reader);
        for (number, listened) in sent.iter().chain(&other) {
            assert!(!listened || found.contains(number), "forbidden: {number} was claimed after listen() and not seen");
        }
        let (sent, other): (Vec<_>, Vec<_>) = (numbers(&sent), numbers(&other));
        for sent in [sent, other] {
            let seen: Vec<_> = found.iter().copied().filter(|number| sent.contains(number)).collect();
            assert!(sent.ends_with(&seen), "forbidden: {sent:?} were sent, and {seen:?} seen");
        }
        // The ring is as good as before.
        let room = slots - found.len();
        for number in 0..room as u64 {
            assert!(ring.send(20 + number), "forbidden: no room after {found:?}");
        }
        assert_eq!(ring.rest(&mut reader).len(), room, "forbidden: what came after is not seen");
        (found.len(), room)
    }
}

fn numbers(sent: &[(u64, bool)]) -> Vec<u64> {
    sent.iter().map(|&(number, _)| number).collect()
}

#[test]
fn who_comes_sees_all_from_there() {
    let seen = model::outcomes(comes(1, 0, 3, 0));
    assert!(seen.contains(&(0, 1)) && seen.contains(&(1, 0)), "the model is too small: {seen:?}");
}

/// The same with a second sender, which believes the minimum that the first has found.
#[test]
fn who_comes_sees_all_of_two_senders_from_there() {
    let seen = model::bounded_outcomes(comes(2, 2, 1, 1));
    assert!(seen.contains(&(0, 2)) && seen.contains(&(2, 0)), "the model is too small: {seen:?}");
}

/// A reader takes a message and leaves, while a sender waits for its room.
#[test]
fn who_leaves_holds_nothing_back() {
    let seen = model::outcomes(|| {
        let ring = Ring::new(1);
        let mut reader = ring.listener();
        let leaving = spawn(&ring, move |ring| {
            let found = ring.receive(&mut reader).expect("forbidden: a reader that listens is lapped");
            reader.leave(ring.broadcast());
            found
        });
        let sent = [ring.send(1), ring.send(2)];
        assert!(sent[0], "forbidden: held back by nobody");
        let found = leaving.join().expect("the reader ends");
        assert!(matches!(found, None | Some(1)), "forbidden: another message than the one that was sent");
        assert!(ring.send(3), "forbidden: held back by a reader that has left");
        (found.is_some(), sent[1])
    });
    for allowed in [(true, false), (true, true), (false, true)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?}, {seen:?}");
    }
}

/// A reader that was dismissed copies a message while the next one is written over it.
#[test]
fn who_was_dismissed_is_lapped_or_copies_a_whole_message() {
    let seen = model::outcomes(|| {
        let ring = Ring::new(1);
        let mut reader = ring.listener();
        assert!(ring.send(1) && !ring.send(2));
        ring.sender.dismiss(0);
        let receiving = spawn(&ring, move |ring| ring.receive(&mut reader));
        assert!(ring.send(2), "forbidden: held back by a reader that was dismissed");
        let found = receiving.join().expect("the reader ends");
        assert!(!matches!(found, Ok(Some(2..))), "forbidden: the message of another position");
        found.map_err(|Lapped| ())
    });
    for allowed in [Ok(None), Ok(Some(1)), Err(())] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?}, {seen:?}");
    }
}

/// A reader is dismissed while a sender waits for it, and reads on.
#[test]
fn who_is_dismissed_meanwhile_holds_nothing_back() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(1);
        let mut reader = ring.listener();
        assert!(ring.send(1), "forbidden: held back by nobody");
        let receiving = spawn(&ring, move |ring| {
            let found = ring.receive(&mut reader);
            reader.announce(ring.broadcast());
            found
        });
        let dismissing = spawn(&ring, |ring| ring.sender.dismiss(0));
        let early = ring.send(2);
        dismissing.join().expect("it ends");
        let found = receiving.join().expect("the reader ends");
        assert!(early || ring.send(2), "forbidden: held back by a reader that was dismissed");
        assert!(!matches!(found, Ok(Some(2..))), "forbidden: the message of another position");
        (early, found.map_err(|Lapped| ()))
    });
    for allowed in [(false, Ok(Some(1))), (true, Ok(Some(1))), (true, Err(()))] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?}, {seen:?}");
    }
}

/// A sender stands still before it has published, and nobody who listens has anything to do with its message: the next
/// one in its slot waits for it.
#[test]
fn a_sender_that_stands_still_keeps_its_slot() {
    let seen = model::outcomes(|| {
        let ring = Ring::new(1);
        let place = ring.sender.try_claim(ring.broadcast()).expect("there is room");
        let mut reader = ring.listener();
        let late = spawn(&ring, move |ring| ring.fill(place, 1));
        assert!(ring.send(2), "forbidden: no room, though the reader does not wait for the slot");
        late.join().expect("the late one ends");
        ring.rest(&mut reader)
    });
    assert_eq!(Vec::from_iter(seen), [vec![2]], "forbidden: a message that was overwritten by the one before");
}
