//! An exchange, as the server has it: the request queue and the broadcast ring that the clients of a classic topology
//! share. `--topology shared` has one for all workers, `sharded` one for each.
//!
//! # Design
//!
//! Any worker of an exchange takes pieces from the queue at its [`super::port`], copies them out, and hands them to
//! their [`Member`], which executes what is complete. A member whose replies find no room, or whose request takes
//! several turns, goes on the list of the worker that served it last. While anybody's replies wait for room, that
//! worker takes nothing more: the ring is full for all.
//!
//! # I7: who is dead, stopped or slow stops nobody
//!
//! - **Dead** (its socket is closed, I1): its cursor counts no more, its claims are given back, and its number is used
//!   again once everything that it had published was executed and no worker has a piece of it in hand.
//! - **Stopped between claim and publish**: its slot is quarantined after [`limits::CLAIM_PATIENCE_NS`]; see
//!   `ring::mpmc` for why that is not the same as taking it back.
//! - **Stopped, or slow, while the response ring is full**: who has not moved its cursor for `--slow-consumer-timeout`
//!   while others waited is expelled: its cursor counts no more and it is told why on its socket, of which the server
//!   closes its own side only. Its number and its claims remain its own until its side is closed too.
//!
//! # Wake-ups
//!
//! A client rings only if no worker is awake; a worker that finds more than it takes in one turn wakes another one, as
//! long as fewer are awake than there are processors.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::end::{End, send_now, tell_failure};
use super::executor::Executor;
use super::member::Member;
use super::options::Options;
use super::socket::Socket;
use super::store::Store;
use super::topology::Topology;
use crate::command::known::Known;
use crate::ring::broadcast::Sender;
use crate::ring::exchange::{Exchange as RingsView, Geometry, Workers};
use crate::ring::lane;
use crate::ring::mpmc::{Census, Consumer};
use crate::shm::descriptors;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, Ordering, lock};

/// A member's number, and who has it.
#[derive(Default)]
pub(super) struct Seat {
    /// Counts the members that have had it.
    generation: u16,
    pub member: Option<Member>,
}

/// A listening member that did not go on while we looked.
#[derive(Clone, Copy, Default)]
struct Lag {
    cursor: u64,
    /// For how long, of the time in which we looked.
    lasted_ns: u64,
}

/// Who keeps the response ring full.
struct Lags {
    members: Vec<Lag>,
    /// When somebody looked last.
    looked_ns: u64,
}

/// Looks that it takes at least before a member is expelled. What lies between two of them counts for one such part of
/// the time-out at most: the server itself may have been stopped, and the member with it.
const LOOKS_MIN: u64 = 4;

/// How often a worker has begun and ended a round. On lines of its own: each is written to by one worker, in every
/// round.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Round(AtomicU64);

impl Round {
    /// Begins or ends a round.
    ///
    /// Release: pairs with the Acquire in `load`: what this worker did before with what it had in hand has happened.
    /// Acquire: what it does next is not done before it said so.
    pub fn turn(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// How far the worker is. Acquire: pairs with the Release in `turn`.
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What all workers of an exchange share.
pub(super) struct Exchange {
    mapping: Mapping,
    segment: Segment,
    pub geometry: Geometry,
    pub workers: Workers,
    pub consumer: Consumer,
    pub sender: Sender,
    /// Rung by clients; every worker of the exchange watches it, and one of them wakes up.
    pub bell: Doorbell,
    pub seats: Box<[Mutex<Seat>]>,
    /// Seats that nobody has.
    free: Mutex<Vec<u16>>,
    lags: Mutex<Lags>,
    pub slow_consumer_timeout_ns: u64,
    /// For each worker, odd while it has pieces in hand: a worker that was seen at an even number, or at another one
    /// than before, has none left of those that it had then.
    pub rounds: Box<[Round]>,
    /// Pieces that belonged to nobody, or to nobody who is served.
    pub dropped: AtomicU64,
    /// How often a slot was stepped over because its owner stood still.
    pub quarantined: AtomicU64,
    /// Slots that the dead had claimed.
    pub recovered: AtomicU64,
}

impl Exchange {
    /// Makes the exchanges of a server: none for lanes, one for all workers, or one for each.
    pub fn create_all(options: &Options) -> io::Result<Vec<Arc<Self>>> {
        let geometry =
            Geometry { slot_words: options.slot_size / 8, slots: options.ring_slots, members: options.clients_max };
        let shards = match options.topology {
            Topology::Lanes => 0,
            Topology::Shared => 1,
            Topology::Sharded => options.workers,
        };
        let workers = |shard| match options.topology {
            Topology::Sharded => Workers { first: shard, count: 1 },
            _ => Workers { first: 0, count: options.workers },
        };
        let slow_consumer_timeout_ns = options.slow_consumer_timeout_ms * 1_000_000;
        (0..shards)
            .map(|shard| Self::create(geometry, workers(shard), slow_consumer_timeout_ns).map(Arc::new))
            .collect()
    }

    /// The exchange of a worker among all of a server.
    pub fn of_worker(worker: usize, topology: Topology, exchanges: &[Arc<Self>]) -> Option<Arc<Self>> {
        let shard = if topology == Topology::Sharded { worker } else { 0 };
        exchanges.get(shard).map(Arc::clone)
    }

    /// Makes an exchange for these workers.
    fn create(geometry: Geometry, workers: Workers, slow_consumer_timeout_ns: u64) -> io::Result<Self> {
        let segment = Segment::create("ringtable-exchange", geometry.size())?;
        let mapping = segment.map_writable()?;
        segment.seal(false)?;
        RingsView::new(mapping.words(), geometry).create(workers);
        Ok(Self {
            mapping,
            segment,
            geometry,
            workers,
            consumer: Consumer::default(),
            sender: Sender::new(geometry.members),
            bell: Doorbell::new()?,
            seats: (0..geometry.members).map(|_| Mutex::default()).collect(),
            free: Mutex::new((0..geometry.members as u16).rev().collect()),
            lags: Mutex::new(Lags { members: vec![Lag::default(); geometry.members], looked_ns: 0 }),
            slow_consumer_timeout_ns,
            rounds: (0..workers.count).map(|_| Round::default()).collect(),
            dropped: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
        })
    }

    /// Lets no worker wait for another one any more.
    pub fn close(&self) {
        self.sender.close();
    }

    pub fn view(&self) -> RingsView<'_> {
        RingsView::new(self.mapping.words(), self.geometry)
    }

    /// Slots of the queue by what they are at.
    pub fn census(&self) -> Census {
        self.view().queue().census()
    }

    /// Slots of either ring.
    pub fn slots(&self) -> usize {
        self.geometry.slots
    }

    /// What was found in the queue that no honest client leaves behind.
    pub fn repaired(&self) -> u64 {
        self.consumer.repaired()
    }

    /// How many members there are, those included that were expelled and have not gone.
    pub fn members(&self) -> usize {
        self.geometry.members - lock(&self.free).len()
    }

    /// Makes the client at the other end of `socket`, whose connection has that number, a member, and tells it so.
    /// Returns its number as a member.
    pub fn join(&self, socket: &Arc<Socket>, connection: u64, store: &Store) -> io::Result<u16> {
        let Some(number) = lock(&self.free).pop() else {
            let all = self.geometry.members;
            send_now(
                socket,
                &format!("MAXCLIENTS max number of clients reached: {all} of {all}, some of them leaving"),
            );
            return Err(io::Error::other("no seat is free"));
        };
        let joined = (|| -> io::Result<()> {
            let bell = Doorbell::new()?;
            let listener = Listener::new(&bell)?;
            let generation = {
                let mut seat = lock(&self.seats[usize::from(number)]);
                seat.generation = seat.generation.wrapping_add(1);
                let generation = seat.generation;
                seat.member = Some(Member::new(number, generation, connection, Arc::clone(socket), bell));
                generation
            };
            lock(&self.lags).members[usize::from(number)] = Lag::default();
            failpoint!("join.seated");
            self.sender.admit(self.view().responses(), number);
            // Relaxed: it does not run yet.
            self.view().client_state(number).store(0, Ordering::Relaxed);
            let segment = self.segment.descriptor();
            let passed = [store.table_to_pass().as_fd(), segment.as_fd(), self.bell.as_fd(), listener.as_fd()];
            let message = format!("+RINGS {number} {generation} {}\r\n", Known::ours());
            descriptors::send_all(&**socket, message.as_bytes(), &passed)?;
            failpoint!("join.told");
            Ok(())
        })();
        if let Err(error) = joined {
            // It was never told its number: nothing of it can be in the rings.
            self.vacate(number);
            tell_failure(socket, "let another client join its rings", &error);
            return Err(error);
        }
        Ok(number)
    }

    /// Where the workers' rounds are.
    pub fn rounds_now(&self) -> Vec<u64> {
        self.rounds.iter().map(Round::load).collect()
    }

    /// Whether no worker has anything in hand any more that it had then.
    pub fn have_workers_moved_on(&self, then: &[u64]) -> bool {
        then.iter().zip(&self.rounds).all(|(then, round)| then.is_multiple_of(2) || round.load() != *then)
    }

    pub fn vacate(&self, number: u16) {
        self.sender.dismiss(number);
        lock(&self.seats[usize::from(number)]).member = None;
        lock(&self.free).push(number);
    }

    /// Ends a member's connection; see [`Member::retire`].
    pub fn retire(&self, member: &mut Member, end: End, executor: &Executor) {
        self.sender.dismiss(member.number);
        failpoint!("expel.dismissed");
        member.retire(end, &executor.store, &executor.statistics);
    }

    /// The same by its number.
    pub fn retire_number(&self, number: u16, end: End, executor: &Executor) {
        if let Some(member) = &mut lock(&self.seats[usize::from(number)]).member {
            self.retire(member, end, executor);
        }
    }

    /// Looks who keeps the response ring full: wakes those that sleep, and expels those that have not moved for too
    /// long. By any worker that finds no room.
    pub fn look_for_slow_consumers(&self, executor: &Executor, now_ns: u64) {
        let Ok(mut lags) = self.lags.try_lock() else { return };
        let Lags { members, looked_ns } = &mut *lags;
        // Workers read the clock each for themselves, so that what another one has noted may be a little ahead of us.
        let passed_ns = now_ns.saturating_sub(*looked_ns).min(self.slow_consumer_timeout_ns / LOOKS_MIN);
        *looked_ns = now_ns.max(*looked_ns);
        let (view, tail) = (self.view(), self.sender.tail());
        let mut expelled = Vec::new();
        for (number, cursor) in self.sender.listening(view.responses()) {
            // Not only the slowest: where several stand still, each would else hold the others up in its turn.
            if cursor >= tail {
                continue;
            }
            let lag = &mut members[usize::from(number)];
            // Nobody who reads goes back: one that only moves to and fro gets nowhere either.
            if cursor > lag.cursor {
                *lag = Lag { cursor, lasted_ns: 0 };
            } else {
                lag.lasted_ns += passed_ns;
            }
            if lag.lasted_ns >= self.slow_consumer_timeout_ns {
                expelled.push(number);
            } else if lane::must_ring(view.client_state(number)) {
                self.ring(number);
            }
        }
        for number in expelled {
            members[usize::from(number)] = Lag::default();
            self.retire_number(number, End::SlowConsumer, executor);
        }
    }

    /// Wakes a member.
    pub fn ring(&self, number: u16) {
        if let Some(member) = &lock(&self.seats[usize::from(number)]).member {
            member.bell.ring();
        }
    }
}
