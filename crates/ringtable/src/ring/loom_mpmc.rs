//! Models of the queue: producers and consumers over one or two slots, and what a late or a dead claimer leaves behind.
//!
//! Every model ends with a consumer that takes what is left, when all threads are over, and then fills the queue: so a
//! message or a slot that was lost is found, whoever has lost it.
//!
//! # Allowed
//!
//! - A producer finds the queue full while somebody has not given a slot back yet.
//! - A consumer finds nothing, or a slot that is claimed, while a producer is on its way.
//! - A claimer that lets the others wait is quarantined, and told so; or it is faster, and its message is taken.
//!
//! # Forbidden
//!
//! - A message that was published and is not taken; one that is taken twice, or though its producer was told that it
//!   was not sent.
//! - A word of a body other than the one that its producer wrote, and messages of one producer out of order.
//! - A slot that does not come back when its owner has given it back, or was recovered.
//! - A repair: all producers here are honest, however late or dead they are.
//!
//! # What this cannot show
//!
//! Loom executes each thread in program order, and orders the stores to a word as they were executed. So it cannot show
//! what the Release in [`super::mpmc::Consumer::release`] and in `give_back`, and the Acquire of the claim, prevent:
//! that the next producer's writes to a body come before the last reads of it, or before an earlier producer's writes.
//!
//! Of the accesses to a word, loom compares each with the last one only, when it looks for runs in another order. A
//! producer looks at a stamp before it changes it, which hides a consumer that looked before; so in all models the
//! producer comes first, in the main thread, and loom then finds the runs in which the others are faster.

use std::collections::BTreeMap;

use loom::thread;

use super::mpmc::{Census, Claim, Consumer, Next, Queue};
use crate::sync::{Arc, AtomicU64, Memory, Ordering, heap_words, model, spin_loop};

const SLOT_WORDS: usize = 3;
const LAPS: u64 = 3;

struct Ring {
    tail: AtomicU64,
    slots: Box<[AtomicU64]>,
    consumer: Consumer,
}

/// A message as it came out: who has sent it, and the number that it had.
type Message = (u16, u64);

/// What a consumer found.
enum Found {
    Nothing,
    Claimed(u64),
    Message(Message),
}

impl Ring {
    fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self { tail: AtomicU64::new(0), slots: heap_words(slots * SLOT_WORDS), consumer: Consumer::default() })
    }

    fn queue(&self) -> Queue<'_> {
        Queue::new(&self.tail, self.slots.words(), SLOT_WORDS)
    }

    /// Writes message `number` and publishes it, as far as it was in time.
    fn fill(&self, claim: Claim, owner: u16, number: u64) -> bool {
        for word in self.queue().body(&claim) {
            word.store(u64::from(owner) << 8 | number, Ordering::Relaxed);
        }
        self.queue().publish(claim)
    }

    /// Sends a message if there is room. A claimer that is told that it was late does not try again.
    fn send(&self, owner: u16, number: u64) -> bool {
        self.queue().try_claim(owner).is_some_and(|claim| self.fill(claim, owner, number))
    }

    fn take(&self) -> Found {
        match self.consumer.take(self.queue()) {
            Next::Empty => Found::Nothing,
            Next::Claimed { position } => Found::Claimed(position),
            Next::Taken(taken) => {
                let body = self.consumer.body(self.queue(), &taken);
                let words = [body[0].load(Ordering::Relaxed), body[1].load(Ordering::Relaxed)];
                let owner = taken.owner;
                self.consumer.release(self.queue(), taken);
                assert_eq!(words[0], words[1], "forbidden: a message of two others' words");
                assert_eq!(words[0] >> 8, u64::from(owner), "forbidden: a message that is not its owner's");
                Found::Message((owner, words[0] & 0xff))
            }
        }
    }

    /// A server's turns: takes, quarantines what is claimed, and looks for damage when there is nothing.
    fn serve(&self, turns: usize) -> Vec<Message> {
        let mut taken = Vec::new();
        for _ in 0..turns {
            match self.take() {
                Found::Message(message) => taken.push(message),
                Found::Claimed(position) => drop(self.consumer.quarantine(self.queue(), position)),
                Found::Nothing => drop(self.consumer.repair(self.queue(), || true)),
            }
        }
        taken
    }

    /// When all threads are over: takes what is left, and requires that `taken` and that are what was `sent`, and that
    /// all slots are back. `taken` is in the order in which one consumer took.
    fn settle(&self, mut taken: Vec<Message>, sent: &[Message]) {
        loop {
            match self.take() {
                Found::Message(message) => taken.push(message),
                Found::Claimed(position) => panic!("forbidden: position {position} stays claimed"),
                Found::Nothing => break,
            }
        }
        let by_owner = |messages: &[Message]| {
            let mut owners = BTreeMap::<u16, Vec<u64>>::new();
            for &(owner, number) in messages {
                owners.entry(owner).or_default().push(number);
            }
            owners
        };
        assert_eq!(by_owner(&taken), by_owner(sent), "forbidden: what was taken is not what was sent");
        assert_eq!(self.queue().census(), Census::default(), "forbidden: a slot that does not come back");
        for slot in 0..self.slots.len() / SLOT_WORDS {
            assert!(self.send(9, 1), "forbidden: a slot is lost, the queue is full at {slot}");
        }
        assert_eq!(self.consumer.repaired(), 0, "forbidden: an honest queue was repaired");
    }
}

/// Runs `work` in a thread of its own.
fn spawn<T: 'static>(ring: &Arc<Ring>, work: impl FnOnce(&Ring) -> T + 'static) -> thread::JoinHandle<T> {
    let ring = Arc::clone(ring);
    thread::spawn(move || work(&ring))
}

/// The numbers of those that were sent, as messages.
fn sent(owner: u16, numbers: impl IntoIterator<Item = (u64, bool)>) -> Vec<Message> {
    numbers.into_iter().filter(|&(_, sent)| sent).map(|(number, _)| (owner, number)).collect()
}

/// One slot, again and again: what a producer sends in each lap is what the consumer takes in it.
#[test]
fn a_slot_is_used_lap_after_lap() {
    let seen = model::outcomes(|| {
        let ring = Ring::new(1);
        let consuming = spawn(&ring, |ring| {
            let mut empty = false;
            for number in 1..=LAPS {
                let message = loop {
                    match ring.take() {
                        Found::Message(message) => break message,
                        Found::Nothing | Found::Claimed(_) => empty = true,
                    }
                    spin_loop();
                };
                assert_eq!(message, (1, number), "forbidden: another message than the one that was sent");
            }
            empty
        });
        let mut full = false;
        for number in 1..=LAPS {
            while !ring.send(1, number) {
                full = true;
                spin_loop();
            }
        }
        let empty = consuming.join().expect("the consumer ends");
        ring.settle(Vec::new(), &[]);
        (full, empty)
    });
    assert!(seen.contains(&(true, true)), "the model is too small: never full or never empty, {seen:?}");
}

/// Two producers, one of which sends twice, and a consumer, over two slots: one of the three finds room only if the
/// consumer was there before.
#[test]
fn what_two_send_one_takes() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(2);
        let first = spawn(&ring, |ring| sent(1, [(1, ring.send(1, 1))]));
        let consuming = spawn(&ring, |ring| match ring.take() {
            Found::Message(message) => vec![message],
            Found::Nothing | Found::Claimed(_) => Vec::new(),
        });
        let mut all = sent(2, [(1, ring.send(2, 1)), (2, ring.send(2, 2))]);
        let taken = consuming.join().expect("the consumer ends");
        all.extend(first.join().expect("the first ends"));
        let early = taken.len();
        ring.settle(taken, &all);
        (early, all.len())
    });
    for allowed in [(0, 2), (1, 2), (1, 3)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?} taken early and sent, {seen:?}");
    }
}

/// Two messages, two consumers, and a producer that sends if it finds room.
#[test]
fn two_consumers_share_what_is_there() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(2);
        assert!(ring.send(1, 1) && ring.send(1, 2));
        let consume = |ring: &Ring| match ring.take() {
            Found::Message(message) => message,
            Found::Nothing | Found::Claimed(_) => panic!("forbidden: a message that was sent is not found"),
        };
        let (one, other) = (spawn(&ring, consume), spawn(&ring, consume));
        let third = ring.send(1, 3);
        let split = vec![one.join().expect("it ends"), other.join().expect("it ends")];
        let mut taken = split.clone();
        taken.sort_unstable();
        ring.settle(taken, &sent(1, [(1, true), (2, true), (3, third)]));
        (split, third)
    });
    for allowed in [(vec![(1, 1), (1, 2)], true), (vec![(1, 2), (1, 1)], true), (vec![(1, 1), (1, 2)], false)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?}, {seen:?}");
    }
}

/// A claimer that lets a consumer wait publishes after all, while the consumer quarantines it and another one sends.
#[test]
fn a_late_message_is_taken_or_known_not_to_be() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(2);
        let claim = ring.queue().try_claim(1).expect("there is room");
        let late = spawn(&ring, move |ring| sent(1, [(1, ring.fill(claim, 1, 1))]));
        let serving = spawn(&ring, |ring| ring.serve(3));
        let other = sent(2, [(1, ring.send(2, 1)), (2, ring.send(2, 2))]);
        let taken = serving.join().expect("it ends");
        let late = late.join().expect("it ends");
        ring.settle(taken, &[late.clone(), other.clone()].concat());
        (late.len(), other.len())
    });
    for allowed in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?} of the late one and the other");
    }
}

/// The claimer is dead. The server recovers what it held while another worker steps over it and a producer goes on.
#[test]
fn a_dead_claimer_leaves_its_slot() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(2);
        drop(ring.queue().try_claim(1));
        let recovering = spawn(&ring, |ring| ring.queue().recover(1));
        let serving = spawn(&ring, |ring| ring.serve(2));
        let sent = sent(2, [(1, ring.send(2, 1)), (2, ring.send(2, 2))]);
        let taken = serving.join().expect("it ends");
        assert_eq!(recovering.join().expect("it ends"), 1, "forbidden: the claim was not found");
        let early = taken.len();
        ring.settle(taken, &sent);
        (early, sent.len())
    });
    for allowed in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?} taken early and sent, {seen:?}");
    }
}

/// A quarantined slot is given back while a producer comes by in the next lap, and a consumer behind it.
#[test]
fn a_slot_given_back_in_the_next_lap_is_in_it_or_behind_it() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(2);
        let claim = ring.queue().try_claim(1).expect("there is room");
        assert!(ring.send(2, 1));
        assert_eq!(ring.serve(2), [(2, 1)]);
        let late = spawn(&ring, move |ring| ring.fill(claim, 1, 1));
        let serving = spawn(&ring, |ring| ring.serve(1));
        let sent = sent(2, [(2, ring.send(2, 2)), (3, ring.send(2, 3))]);
        let taken = serving.join().expect("it ends");
        assert!(!late.join().expect("it ends"), "forbidden: a message that was stepped over counts as sent");
        let early = taken.len();
        ring.settle(taken, &sent);
        (early, sent.len())
    });
    for allowed in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?} taken early and sent, {seen:?}");
    }
}

/// Two workers take what a producer sends; either looks for damage when it finds nothing, and there is none.
#[test]
fn honest_queues_are_not_repaired() {
    let seen = model::bounded_outcomes(|| {
        let ring = Ring::new(1);
        assert!(ring.send(1, 1));
        let (one, other) = (spawn(&ring, |ring| ring.serve(2)), spawn(&ring, |ring| ring.serve(1)));
        let sent = sent(1, [(1, true), (2, ring.send(1, 2))]);
        let (one, other) = (one.join().expect("it ends"), other.join().expect("it ends"));
        let mut taken = [one.clone(), other.clone()].concat();
        taken.sort_unstable();
        ring.settle(taken, &sent);
        (sent.len(), one.len(), other.len())
    });
    for allowed in [(1, 1, 0), (1, 0, 1), (2, 1, 0), (2, 0, 1), (2, 1, 1)] {
        assert!(seen.contains(&allowed), "the model is too small: never {allowed:?} sent and taken, {seen:?}");
    }
}
