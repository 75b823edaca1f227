//! What the models of the rings and of the doorbell cannot show, on real threads: many laps, many threads, and a
//! processor that orders loads and stores in its own way. Messages have several words, so that one that is put together
//! of two is seen.
//!
//! The random parts come from a seed that is printed. How the threads meet is up to the machine all the same.

use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

use super::broadcast::{Broadcast, Lapped, Receiver, Sender};
use super::lane::{announce_awake, announce_sleep, must_ring};
use super::mpmc::{Census, Consumer, Next, Queue};
use super::spsc;
use crate::sync::{AtomicBool, AtomicU64, Memory, Ordering, as_uninit, heap_words, yield_now};

const SLOT_WORDS: usize = 5;
/// One in so many of all steps is done where an interpreter looks for undefined behaviour (Miri): it is slow.
const SHARE: u64 = if cfg!(miri) { 1_000 } else { 1 };
/// A ring that is stuck fails the test after this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives way to the others until there is something.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut since = None;
    loop {
        if let Some(found) = look() {
            return found;
        }
        yield_now();
        assert!(since.get_or_insert_with(Instant::now).elapsed() < PATIENCE, "no {what} for {PATIENCE:?}");
    }
}

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

fn fill(body: &[AtomicU64], word: u64) {
    body.iter().for_each(|place| place.store(word, Ordering::Relaxed));
}

/// The word that a body is full of; `None` if it is a mixture.
fn word(body: &[AtomicU64]) -> Option<u64> {
    let first = body[0].load(Ordering::Relaxed);
    body.iter().all(|word| word.load(Ordering::Relaxed) == first).then_some(first)
}

/// A queue of a few slots, with its server's side.
struct Shared {
    tail: AtomicU64,
    slots: Box<[AtomicU64]>,
    consumer: Consumer,
}

impl Shared {
    fn queue(&self) -> Queue<'_> {
        Queue::new(&self.tail, self.slots.words(), SLOT_WORDS)
    }

    /// Sends messages number 0 to `count` as `owner`, and is late or dies every now and then. What is said to be sent
    /// is not sent again, and what is not is.
    fn produce(&self, owner: u16, count: u64, random: &mut fastrand::Rng) {
        let mut number = 0;
        while number < count {
            let claim = wait_for("room", || self.queue().try_claim(owner));
            let body = self.queue().body(&claim);
            match random.u32(..1_000) {
                // Dead, with half of the body written; and found dead a little later.
                0 => {
                    fill(&body[2..], u64::MAX);
                    drop(claim);
                    (0..random.u32(..20)).for_each(|_| yield_now());
                    self.queue().recover(owner);
                    continue;
                }
                // Stopped for a while.
                1..5 => {
                    fill(&body[2..], u64::MAX);
                    (0..random.u32(..20)).for_each(|_| yield_now());
                }
                _ => {}
            }
            fill(body, u64::from(owner) << 32 | number);
            number += u64::from(self.queue().publish(claim));
        }
    }

    /// A turn of a worker's. Returns whether there was anything.
    fn consume(&self, seen: &[Vec<AtomicU8>], random: &mut fastrand::Rng) -> bool {
        match self.consumer.take(self.queue()) {
            Next::Taken(taken) => {
                let (owner, word) = (taken.owner, word(self.consumer.body(self.queue(), &taken)));
                self.consumer.release(self.queue(), taken);
                let word = word.expect("a message of two others' words");
                assert_eq!(word >> 32, u64::from(owner), "a message that is not its owner's");
                let before = seen[usize::from(owner)][(word & 0xffff_ffff) as usize].fetch_add(1, Ordering::Relaxed);
                assert_eq!(before, 0, "taken twice");
                true
            }
            Next::Claimed { position } => {
                if random.u32(..4) == 0 {
                    self.consumer.quarantine(self.queue(), position);
                }
                yield_now();
                true
            }
            Next::Empty => {
                assert!(!self.consumer.repair(self.queue(), || true), "an honest queue was repaired");
                yield_now();
                false
            }
        }
    }
}

#[test]
fn everything_published_arrives_once_and_all_slots_come_back() {
    const PRODUCERS: usize = 3;
    const WORKERS: usize = 2;
    let seed = seed();
    // The fewer slots, the more often threads change places: these take about the same time.
    for (slots, each) in [(1, 2_000), (2, 5_000), (4, 30_000), (16, 300_000)] {
        let each = each / SHARE;
        let shared =
            Shared { tail: AtomicU64::new(0), slots: heap_words(slots * SLOT_WORDS), consumer: Consumer::default() };
        let seen: Vec<Vec<AtomicU8>> = (0..PRODUCERS).map(|_| (0..each).map(|_| AtomicU8::new(0)).collect()).collect();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (shared, seen, over) = (&shared, &seen, &over);
            for worker in 0..WORKERS {
                let mut random = fastrand::Rng::with_seed(seed ^ worker as u64);
                scope.spawn(move || while shared.consume(seen, &mut random) || !over.load(Ordering::Acquire) {});
            }
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|owner| {
                    let mut random = fastrand::Rng::with_seed(!seed ^ owner as u64);
                    scope.spawn(move || shared.produce(owner as u16, each, &mut random))
                })
                .collect();
            let ended: Vec<_> = producers.into_iter().map(|producer| producer.join()).collect();
            over.store(true, Ordering::Release);
            ended.into_iter().for_each(|ended| ended.expect("a producer fails"));
        });
        while shared.consume(&seen, &mut fastrand::Rng::with_seed(seed)) {}
        assert!(seen.iter().flatten().all(|times| times.load(Ordering::Relaxed) == 1), "a message was lost");
        assert_eq!(shared.queue().census(), Census::default(), "{slots} slots, seed {seed}");
        assert_eq!(shared.consumer.repaired(), 0, "{slots} slots, seed {seed}");
    }
}

/// A broadcast ring of a few slots.
struct Air {
    tail: AtomicU64,
    cursors: Box<[AtomicU64]>,
    slots: Box<[AtomicU64]>,
    sender: Sender,
    over: AtomicBool,
}

impl Air {
    fn broadcast(&self) -> Broadcast<'_> {
        Broadcast::new(&self.tail, &self.cursors, 1, self.slots.words(), SLOT_WORDS)
    }

    fn send(&self, from: u64, count: u64) {
        for number in 0..count {
            let place = wait_for("room", || self.sender.try_claim(self.broadcast()));
            self.sender.publish(self.broadcast(), place, |body| fill(body, from << 32 | number));
        }
    }

    /// The next message, as who has sent it and its number.
    fn receive(&self, reader: &mut Receiver) -> Result<Option<(usize, u64)>, Lapped> {
        let Some(body) = reader.next(self.broadcast())? else { return Ok(None) };
        let word = word(body);
        reader.check(self.broadcast())?;
        let word = word.expect("a message of two others' words is believed");
        Ok(Some(((word >> 32) as usize, word & 0xffff_ffff)))
    }

    /// Receives up to `most` messages, until all is over. `next` has the number that is due from each sender; 0 stands
    /// for any.
    fn listen(&self, reader: &mut Receiver, next: &mut [u64], most: u64, gaps: u64) -> Result<(), Lapped> {
        let mut received = 0;
        while received < most {
            // Before looking: what was sent before it was over is then there to be seen.
            let over = self.over.load(Ordering::Acquire);
            match self.receive(reader)? {
                Some((from, number)) => {
                    assert!(next[from] == number || next[from] == 0, "{number} of {from}, {} is due", next[from]);
                    next[from] = number + 1;
                    received += 1;
                    if reader.unannounced() >= gaps {
                        reader.announce(self.broadcast());
                    }
                }
                None if over => break,
                None => {
                    reader.announce(self.broadcast());
                    yield_now();
                }
            }
        }
        Ok(())
    }
}

#[test]
fn every_listener_sees_all_and_the_dismissed_see_no_mixture() {
    const SENDERS: usize = 3;
    let seed = seed();
    for (slots, each) in [(1, 2_000), (2, 5_000), (8, 50_000)] {
        let each = each / SHARE;
        let air = Air {
            tail: AtomicU64::new(0),
            cursors: heap_words(4),
            slots: heap_words(slots * SLOT_WORDS),
            sender: Sender::new(4),
            over: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            let air = &air;
            // Two that see everything.
            for number in 0..2 {
                let mut reader = Receiver::new(number);
                air.sender.admit(air.broadcast(), number);
                reader.listen(air.broadcast());
                scope.spawn(move || {
                    let mut next = [0; SENDERS];
                    air.listen(&mut reader, &mut next, u64::MAX, 1 + u64::from(number)).expect("a listener is lapped");
                    assert_eq!(next, [each; SENDERS], "not all were seen");
                });
            }
            // One that comes and goes.
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut reader = Receiver::new(2);
                air.sender.admit(air.broadcast(), 2);
                while !air.over.load(Ordering::Acquire) {
                    reader.listen(air.broadcast());
                    let most = random.u64(1..20);
                    air.listen(&mut reader, &mut [0; SENDERS], most, 1).expect("a listener is lapped");
                    reader.leave(air.broadcast());
                    yield_now();
                }
            });
            // One that is dismissed again and again, and reads on until it notices.
            scope.spawn(move || {
                let mut reader = Receiver::new(3);
                while !air.over.load(Ordering::Acquire) {
                    air.sender.admit(air.broadcast(), 3);
                    reader.listen(air.broadcast());
                    air.sender.dismiss(3);
                    let _ = air.listen(&mut reader, &mut [0; SENDERS], u64::MAX, 1);
                    reader.leave(air.broadcast());
                }
            });
            let senders: Vec<_> = (0..SENDERS).map(|from| scope.spawn(move || air.send(from as u64, each))).collect();
            let ended: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
            air.over.store(true, Ordering::Release);
            ended.into_iter().for_each(|ended| ended.expect("a sender fails"));
        });
    }
}

/// A ring of four words, and a flag for each side that says that it sleeps.
struct Lane {
    positions: Box<[AtomicU64]>,
    data: Box<[AtomicU64]>,
    flags: Box<[AtomicU64]>,
}

const SENDER: usize = 0;
const TAKER: usize = 1;

impl Lane {
    fn new() -> Self {
        Self { positions: heap_words(2), data: heap_words(4), flags: heap_words(2) }
    }

    fn ring(&self) -> spsc::Ring<'_> {
        spsc::Ring { tail: &self.positions[0], head: &self.positions[1], data: &self.data }
    }

    /// Waits for `look`: looks, says that it sleeps, looks once more, and sleeps until it is rung.
    fn wait<T>(&self, side: usize, bell: &Bell, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = look() {
                return found;
            }
            announce_sleep(&self.flags[side], 0);
            let found = look();
            if found.is_none() {
                bell.wait();
            }
            announce_awake(&self.flags[side], 0);
            if let Some(found) = found {
                return found;
            }
        }
    }
}

/// A bell that keeps a ring for whoever comes to wait later, as an eventfd does.
#[derive(Default)]
struct Bell {
    rung: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let rung = self.rung.lock().unwrap();
        let (mut rung, late) = self.changed.wait_timeout_while(rung, PATIENCE, |rung| !*rung).unwrap();
        assert!(!late.timed_out(), "a wake-up is lost: nobody has rung for {PATIENCE:?}");
        *rung = false;
    }
}

/// Words go through a ring that is full or empty all the time: neither a word of another lap nor a lost wake-up.
#[test]
fn every_word_goes_through_a_lane_and_nobody_sleeps_for_ever() {
    let seed = seed();
    let words = 400_000 / SHARE;
    let (lane, bells) = (Lane::new(), [Bell::default(), Bell::default()]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut producer, mut random, mut next) = (spsc::Producer::default(), fastrand::Rng::with_seed(seed), 0);
            while next < words {
                let most = random.u64(1..=3).min(words - next);
                let room = lane.wait(SENDER, &bells[SENDER], || {
                    Some(producer.room(lane.ring(), 8).unwrap()).filter(|&room| room >= 8)
                });
                let end = next + most.min(room as u64 / 8);
                (next..end).for_each(|number| producer.write(lane.ring(), &number.to_ne_bytes()));
                next = end;
                producer.publish(lane.ring());
                if must_ring(&lane.flags[TAKER]) {
                    bells[TAKER].ring();
                }
            }
        });
        let (mut consumer, mut next) = (spsc::Consumer::default(), 0);
        while next < words {
            lane.wait(TAKER, &bells[TAKER], || {
                Some(consumer.available(lane.ring(), 8).unwrap()).filter(|&size| size >= 8)
            });
            let mut word = [0; 8];
            consumer.read(lane.ring(), as_uninit(&mut word));
            assert_eq!(u64::from_ne_bytes(word), next, "a word of another lap");
            next += 1;
            consumer.release(lane.ring());
            if must_ring(&lane.flags[SENDER]) {
                bells[SENDER].ring();
            }
        }
    });
}
