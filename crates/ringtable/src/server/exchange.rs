//! An exchange, as the server has it: the request queue and the broadcast ring that the clients of a classic topology
//! share. `--topology shared` has one for all workers, `sharded` one for each.
//!
//! # Design
//!
//! Any worker of an exchange takes pieces from the queue ([`Station::serve`]), copies them out, and hands them to their
//! [`Member`], which executes what is complete. A member whose replies find no room, or whose request takes several
//! turns, goes on the list of the worker that served it last. While anybody's replies wait for room, that worker takes
//! nothing more: the ring is full for all.
//!
//! # I7: who is dead, stopped or slow stops nobody
//!
//! - **Dead** (its socket is closed, I1): its cursor counts no more, its claims are given back, and its number is used
//!   again once everything that it had published was executed and no worker has a piece of it in hand.
//! - **Stopped between claim and publish**: its slot is quarantined after [`limits::CLAIM_PATIENCE_NS`]; see
//!   `ring::mpmc` for why that is not the same as taking it back.
//! - **Stopped, or slow, while the response ring is full**: who has not moved its cursor for `--laggard-timeout` while
//!   others waited is expelled: its cursor counts no more and it is told why on its socket, of which the server closes
//!   its own side only. Its number and its claims remain its own until its side is closed too.
//!
//! # Wake-ups
//!
//! A client rings only if no worker is awake; a worker that finds more than it takes in one turn wakes another one, as
//! long as fewer are awake than there are processors.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::Shared;
use super::member::Member;
use super::socket::Socket;
use super::statistics::{End, send_now, tell_failure};
use super::worker::Bench;
use crate::limits;
use crate::ring::broadcast::Sender;
use crate::ring::exchange::{Exchange as View, Geometry, RequestHead, Workers};
use crate::ring::lane;
use crate::ring::mpmc::{Census, Consumer, Next, Taken};
use crate::ring::wait::State;
use crate::shm::descriptors;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, Ordering, as_uninit, copy_out, lock};

/// A member's number, and who has it.
#[derive(Default)]
struct Seat {
    /// Counts those who have had it.
    generation: u16,
    member: Option<Member>,
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
struct Round(AtomicU64);

impl Round {
    /// Begins or ends a round.
    ///
    /// Release: pairs with the Acquire in `load`: what this worker did before with what it had in hand has happened.
    /// Acquire: what it does next is not done before it said so.
    fn turn(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// How far the worker is. Acquire: pairs with the Release in `turn`.
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What all workers of an exchange share.
pub(super) struct Exchange {
    mapping: Mapping,
    segment: Segment,
    geometry: Geometry,
    workers: Workers,
    consumer: Consumer,
    sender: Sender,
    /// Rung by clients; every worker of the exchange watches it, and one of them wakes up.
    pub bell: Doorbell,
    seats: Box<[Mutex<Seat>]>,
    /// Seats that nobody has.
    free: Mutex<Vec<u16>>,
    lags: Mutex<Lags>,
    laggard_timeout_ns: u64,
    /// For each worker, odd while it has pieces in hand: a worker that was seen at an even number, or at another one
    /// than before, has none left of those that it had then.
    rounds: Box<[Round]>,
    /// Pieces that belonged to nobody, or to nobody who is served.
    pub dropped: AtomicU64,
    /// How often a slot was stepped over because its owner stood still.
    pub quarantined: AtomicU64,
    /// Slots that the dead had claimed.
    pub recovered: AtomicU64,
}

impl Exchange {
    /// Makes an exchange for these workers.
    pub fn create(geometry: Geometry, workers: Workers, laggard_timeout_ns: u64) -> io::Result<Self> {
        let segment = Segment::create("ringtable-exchange", geometry.size())?;
        let mapping = segment.map_writable()?;
        segment.seal(false)?;
        View::new(mapping.words(), geometry).create(workers);
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
            laggard_timeout_ns,
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

    fn view(&self) -> View<'_> {
        View::new(self.mapping.words(), self.geometry)
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
    pub fn join(&self, socket: &Arc<Socket>, connection: u64, shared: &Shared) -> io::Result<u16> {
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
            let passed = [shared.table_to_pass().as_fd(), segment.as_fd(), self.bell.as_fd(), listener.as_fd()];
            let message = format!("+RINGS {number} {generation}\r\n");
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
    fn rounds_now(&self) -> Vec<u64> {
        self.rounds.iter().map(Round::load).collect()
    }

    /// Whether no worker has anything in hand any more that it had then.
    fn have_workers_moved_on(&self, then: &[u64]) -> bool {
        then.iter().zip(&self.rounds).all(|(then, round)| then.is_multiple_of(2) || round.load() != *then)
    }

    fn vacate(&self, number: u16) {
        self.sender.dismiss(number);
        lock(&self.seats[usize::from(number)]).member = None;
        lock(&self.free).push(number);
    }

    /// Ends a member's connection; see [`Member::retire`].
    fn retire(&self, member: &mut Member, end: End, shared: &Shared) {
        self.sender.dismiss(member.number);
        failpoint!("expel.dismissed");
        member.retire(end, shared);
    }

    /// The same by its number.
    pub fn retire_number(&self, number: u16, end: End, shared: &Shared) {
        if let Some(member) = &mut lock(&self.seats[usize::from(number)]).member {
            self.retire(member, end, shared);
        }
    }

    /// Looks who keeps the response ring full: wakes those that sleep, and expels those that have not moved for too
    /// long. By any worker that finds no room.
    fn look_for_laggards(&self, shared: &Shared, now_ns: u64) {
        let Ok(mut lags) = self.lags.try_lock() else { return };
        let Lags { members, looked_ns } = &mut *lags;
        // Workers read the clock each for themselves, so that what another one has noted may be a little ahead of us.
        let passed_ns = now_ns.saturating_sub(*looked_ns).min(self.laggard_timeout_ns / LOOKS_MIN);
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
            if lag.lasted_ns >= self.laggard_timeout_ns {
                expelled.push(number);
            } else if lane::must_ring(view.client_state(number)) {
                self.ring(number);
            }
        }
        for number in expelled {
            members[usize::from(number)] = Lag::default();
            self.retire_number(number, End::Laggard, shared);
        }
    }

    /// Wakes a member.
    fn ring(&self, number: u16) {
        if let Some(member) = &lock(&self.seats[usize::from(number)]).member {
            member.bell.ring();
        }
    }
}

/// A member that is gone and has not been buried yet.
struct Departed {
    number: u16,
    /// Where the queue's tail was when it went: before this lies all that it has published.
    tail: u64,
    /// Where the workers' rounds were when the queue had come to there.
    rounds: Option<Vec<u64>>,
}

/// What a worker has to do besides taking pieces. Apart from the rest of its station, so that members are served while
/// the exchange is borrowed: the count of its `Arc` is a line that all workers would write to.
#[derive(Default)]
struct Agenda {
    /// Members that this worker has to come back to.
    pending: Vec<u16>,
    /// Whether replies wait for room.
    blocked: bool,
    /// Members that were sent something and may have to be rung.
    served: Vec<u16>,
}

impl Agenda {
    /// One turn of a member. Returns whether it got anywhere.
    fn turn(&mut self, exchange: &Exchange, member: &mut Member, bench: &mut Bench, now_ns: u64) -> bool {
        if !member.is_served() {
            return false;
        }
        bench.connection = member.connection;
        let outcome = member.turn(bench, &exchange.sender, exchange.view().responses());
        bench.end_turn();
        let turn = match outcome {
            Ok(turn) => turn,
            Err(end) => {
                exchange.retire(member, end, &bench.shared);
                return true;
            }
        };
        if turn.sent {
            self.served.push(member.number);
        }
        // Pieces come within microseconds of those behind them. One that never does was lost to nonsense in the ring,
        // and its sender waits for a reply that will not come; but a worker may have it in hand and stand still.
        let is_overdue = |since_ns| now_ns.saturating_sub(since_ns) > exchange.laggard_timeout_ns;
        if member.missing_since_ns().is_some_and(is_overdue)
            && exchange.have_workers_moved_on(member.missed_at.get_or_insert_with(|| exchange.rounds_now()))
        {
            exchange.retire(member, End::Slot, &bench.shared);
        } else if turn.blocked || turn.more {
            self.blocked |= turn.blocked;
            if !self.pending.contains(&member.number) {
                self.pending.push(member.number);
            }
        }
        turn.sent
    }
}

/// A worker's place at an exchange.
pub(super) struct Station {
    pub exchange: Arc<Exchange>,
    /// The worker's number among those of the exchange.
    index: usize,
    agenda: Agenda,
    departed: Vec<Departed>,
    /// A claimed slot that keeps us waiting, and since when.
    claimed: Option<(u64, u64)>,
    piece: Vec<u8>,
}

impl Station {
    pub fn new(exchange: Arc<Exchange>, worker: usize) -> Self {
        let index = worker - exchange.workers.first;
        Self { exchange, index, agenda: Agenda::default(), departed: Vec::new(), claimed: None, piece: Vec::new() }
    }

    /// Does what there is to do, up to a worker's share. Returns whether there was anything; `active` counts members
    /// that had not been active in `window` before.
    pub fn serve(&mut self, bench: &mut Bench, now_ns: u64, window: u64, active: &mut u64) -> bool {
        self.exchange.rounds[self.index].turn();
        let mut worked = self.go_on(bench, now_ns);
        let mut taken = 0;
        while !self.agenda.blocked && taken < limits::TURN_REQUESTS_MAX {
            match self.exchange.consumer.take(self.exchange.view().queue()) {
                Next::Taken(piece) => {
                    taken += 1;
                    self.deliver(piece, bench, now_ns, window, active);
                }
                Next::Claimed { position } => {
                    self.wait_for_claimer(position, now_ns);
                    break;
                }
                Next::Empty => break,
            }
        }
        worked |= taken > 0;
        self.exchange.rounds[self.index].turn();
        if taken == limits::TURN_REQUESTS_MAX {
            self.wake_another(bench);
        }
        if self.agenda.blocked {
            self.exchange.look_for_laggards(&bench.shared, now_ns);
        }
        self.ring_served(bench);
        if !self.departed.is_empty() {
            self.bury(bench);
        }
        worked
    }

    /// Gives members that were left in the middle of something another turn.
    fn go_on(&mut self, bench: &mut Bench, now_ns: u64) -> bool {
        let Self { exchange, agenda, .. } = self;
        let mut pending = std::mem::take(&mut agenda.pending);
        if agenda.blocked && !pending.is_empty() {
            // Who goes first gets the room, and one with large replies takes all of it.
            pending.rotate_left(1);
        }
        agenda.blocked = false;
        let mut worked = false;
        for number in pending {
            if let Some(member) = &mut lock(&exchange.seats[usize::from(number)]).member {
                worked |= agenda.turn(exchange, member, bench, now_ns);
            }
        }
        worked
    }

    /// Copies a piece out of its slot, and hands it to who has sent it.
    fn deliver(&mut self, taken: Taken, bench: &mut Bench, now_ns: u64, window: u64, active: &mut u64) {
        let Self { exchange, agenda, piece, .. } = self;
        let queue = exchange.view().queue();
        let body = exchange.consumer.body(queue, &taken);
        // Relaxed: ordered by the Acquire in `take`.
        let head = RequestHead::unpack(body[0].load(Ordering::Relaxed));
        let sensible = (1..=exchange.geometry.piece_size()).contains(&head.size);
        if sensible {
            piece.resize(head.size, 0);
            copy_out(&body[1..], as_uninit(piece));
        }
        let number = taken.owner;
        exchange.consumer.release(queue, taken);
        failpoint!("queue.released");
        let mut seat = exchange.seats.get(usize::from(number)).map(lock);
        let member = seat.as_mut().and_then(|seat| seat.member.as_mut());
        // A head that is nonsense may well name another generation.
        let expected = |member: &&mut Member| member.is_served() && (member.generation == head.generation || !sensible);
        let Some(member) = member.filter(expected) else {
            exchange.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if member.window != window {
            member.window = window;
            *active += 1;
        }
        let accepted = match sensible {
            true => member.accept(head, piece, now_ns),
            false => Err(End::Slot),
        };
        match accepted {
            Ok(()) => drop(agenda.turn(exchange, member, bench, now_ns)),
            Err(end) => {
                exchange.dropped.fetch_add(1, Ordering::Relaxed);
                exchange.retire(member, end, &bench.shared);
            }
        }
    }

    /// Steps over a slot that is claimed and not published once its owner has had its time.
    fn wait_for_claimer(&mut self, position: u64, now_ns: u64) {
        match self.claimed {
            Some((waited_for, since_ns)) if waited_for == position => {
                if now_ns - since_ns >= limits::CLAIM_PATIENCE_NS {
                    self.claimed = None;
                    let exchange = &self.exchange;
                    if exchange.consumer.quarantine(exchange.view().queue(), position) {
                        failpoint!("queue.quarantined");
                        exchange.quarantined.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            _ => self.claimed = Some((position, now_ns)),
        }
    }

    /// Wakes another worker if there is more to do than we take, and a processor to do it on.
    fn wake_another(&self, bench: &Bench) {
        let Exchange { workers, .. } = &*self.exchange;
        let awake = self.exchange.view().awake() as usize;
        if awake < workers.count.min(bench.shared.cpus) && self.has_news() {
            for mailbox in &bench.shared.workers[workers.first..workers.first + workers.count] {
                if mailbox.is_asleep() {
                    mailbox.ring();
                    return;
                }
            }
        }
    }

    /// Wakes members that were sent something and sleep.
    fn ring_served(&mut self, bench: &Bench) {
        let served = &mut self.agenda.served;
        served.sort_unstable();
        served.dedup();
        for number in served.drain(..) {
            if lane::must_ring(self.exchange.view().client_state(number)) {
                self.exchange.ring(number);
                bench.statistics().rings.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The socket of a member is closed: no thread of it runs any more.
    pub fn depart(&mut self, number: u16, shared: &Shared) {
        let exchange = &self.exchange;
        exchange.sender.dismiss(number);
        if let Some(member) = &mut lock(&exchange.seats[usize::from(number)]).member {
            member.depart(shared);
        }
        failpoint!("end.departed");
        let queue = exchange.view().queue();
        exchange.recovered.fetch_add(queue.recover(number) as u64, Ordering::Relaxed);
        failpoint!("end.recovered");
        self.departed.push(Departed { number, tail: queue.tail(), rounds: None });
    }

    /// Gives the numbers of members that are gone to others, once nothing of them is left anywhere.
    fn bury(&mut self, bench: &Bench) {
        let Self { exchange, departed, .. } = self;
        let (head, now) = (exchange.consumer.head(), exchange.view().queue().tail());
        // Compared as a difference: the tail is a hint that others may have scribbled on.
        let is_ahead = |tail: u64| tail.wrapping_sub(head).wrapping_sub(1) < exchange.geometry.slots as u64;
        departed.retain_mut(|departed| {
            // Nor is what it was then believed any longer than the tail says that there is something: somebody may have
            // scribbled twice, and then the head would never come to there.
            if is_ahead(departed.tail) && is_ahead(now) {
                return true;
            }
            if !exchange.have_workers_moved_on(departed.rounds.get_or_insert_with(|| exchange.rounds_now())) {
                return true;
            }
            {
                let mut seat = lock(&exchange.seats[usize::from(departed.number)]);
                if seat.member.as_ref().is_some_and(Member::is_busy) {
                    return true;
                }
                if let Some(member) = &mut seat.member {
                    member.forget(&bench.shared);
                }
            }
            failpoint!("end.forgotten");
            exchange.vacate(departed.number);
            false
        });
    }

    /// Whether there is something to take, or, if nothing may be taken for lack of room, room. A hint.
    #[inline]
    pub fn has_news(&self) -> bool {
        if self.agenda.blocked {
            return self.exchange.sender.has_room(self.exchange.view().responses());
        }
        self.exchange.consumer.has_news(self.exchange.view().queue())
    }

    /// Whether a member that waits for replies is awake on another processor, or (`anywhere`) on any.
    pub fn is_member_awake(&self, our_cpu: u64, anywhere: bool) -> bool {
        let view = self.exchange.view();
        self.exchange.sender.listening(view.responses()).any(|(number, _)| {
            // Relaxed: a hint, see `ring::wait`.
            let state = State::unpack(view.client_state(number).load(Ordering::Relaxed));
            if anywhere { !state.asleep } else { state.worth_spinning(our_cpu) }
        })
    }

    /// Says that this worker sleeps. Returns whether it may; [`Self::announce_awake`] has to be called in either case.
    pub fn announce_sleep(&self) -> bool {
        self.exchange.view().announce_sleep();
        let exchange = &self.exchange;
        // A worker at an even number has released the slots that it had in hand.
        let is_copying = || exchange.rounds.iter().any(|round| !round.load().is_multiple_of(2));
        !self.has_news() && !exchange.consumer.repair(exchange.view().queue(), is_copying)
    }

    /// Says that this worker is awake.
    pub fn announce_awake(&self) {
        self.exchange.view().announce_awake();
    }

    /// Whether something has to be looked after even if nobody rings.
    pub fn is_restless(&self) -> bool {
        !self.agenda.pending.is_empty()
            || !self.departed.is_empty()
            || self.exchange.consumer.waits_for_claimer(self.exchange.view().queue())
    }
}
