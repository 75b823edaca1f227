//! The port of a worker at an exchange: where it takes pieces of requests and serves the members that have sent them.

use std::sync::Arc;

use super::end::End;
use super::exchange::Exchange;
use super::executor::Executor;
use super::mailbox::Mailbox;
use super::member::Member;
use super::statistics::Statistics;
use crate::limits;
use crate::ring::exchange::RequestHead;
use crate::ring::lane;
use crate::ring::mpmc::{Next, Taken};
use crate::ring::wait::State;
use crate::sync::{Ordering, as_uninit, copy_out, lock};

/// A member that is gone and whose number is still its own, as a dead process is that nobody has waited for.
struct Zombie {
    number: u16,
    /// Where the queue's tail was when it went: before this lies all that it has published.
    tail: u64,
    /// Where the workers' rounds were when the queue had come to there.
    rounds: Option<Vec<u64>>,
}

/// What a worker has to do besides taking pieces. Apart from the rest of its port, so that members are served while
/// the exchange is borrowed: the count of its `Arc` is a line that all workers would write to.
#[derive(Default)]
struct Pending {
    /// Members that this worker has to come back to.
    members: Vec<u16>,
    /// Whether replies wait for room.
    blocked: bool,
    /// Members that were sent something and may have to be rung.
    served: Vec<u16>,
}

impl Pending {
    /// One turn of a member. Returns whether it got anywhere.
    fn turn(&mut self, exchange: &Exchange, member: &mut Member, executor: &mut Executor, now_ns: u64) -> bool {
        if !member.is_served() {
            return false;
        }
        executor.engine.turn_to(member.connection, None);
        let outcome = member.turn(executor, &exchange.sender, exchange.view().responses());
        executor.end_turn();
        let turn = match outcome {
            Ok(turn) => turn,
            Err(end) => {
                exchange.retire(member, end, executor);
                return true;
            }
        };
        if turn.sent {
            self.served.push(member.number);
        }
        // Pieces come within microseconds of those behind them. One that never does was lost to nonsense in the ring,
        // and its sender waits for a reply that will not come; but a worker may have it in hand and stand still.
        let is_overdue = |since_ns| now_ns.saturating_sub(since_ns) > exchange.slow_consumer_timeout_ns;
        if member.missing_since_ns().is_some_and(is_overdue)
            && exchange.have_workers_moved_on(member.missed_at.get_or_insert_with(|| exchange.rounds_now()))
        {
            exchange.retire(member, End::Slot, executor);
        } else if turn.blocked || turn.more {
            self.blocked |= turn.blocked;
            if !self.members.contains(&member.number) {
                self.members.push(member.number);
            }
        }
        turn.sent
    }
}

/// A worker's place at an exchange.
pub(super) struct Port {
    pub exchange: Arc<Exchange>,
    /// The worker's number among those of the exchange.
    index: usize,
    /// Processors of the machine.
    cpus: usize,
    pending: Pending,
    zombies: Vec<Zombie>,
    /// A claimed slot that keeps us waiting, and since when.
    claimed: Option<(u64, u64)>,
    piece: Vec<u8>,
}

impl Port {
    /// The place of `worker` on a machine with so many processors.
    pub fn new(exchange: Arc<Exchange>, worker: usize, cpus: usize) -> Self {
        let index = worker - exchange.workers.first;
        Self {
            exchange,
            index,
            cpus,
            pending: Pending::default(),
            zombies: Vec::new(),
            claimed: None,
            piece: Vec::new(),
        }
    }

    /// Does what there is to do, up to a worker's share. Returns whether there was anything; `active` counts members
    /// that had not been active in `window` before.
    pub fn serve(
        &mut self,
        executor: &mut Executor,
        mailboxes: &[Mailbox],
        now_ns: u64,
        window: u64,
        active: &mut u64,
    ) -> bool {
        self.exchange.rounds[self.index].turn();
        let mut worked = self.go_on(executor, now_ns);
        let mut taken = 0;
        while !self.pending.blocked && taken < limits::TURN_REQUESTS_MAX {
            match self.exchange.consumer.take(self.exchange.view().queue()) {
                Next::Taken(piece) => {
                    taken += 1;
                    self.deliver(piece, executor, now_ns, window, active);
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
            self.wake_another(mailboxes);
        }
        if self.pending.blocked {
            self.exchange.look_for_slow_consumers(executor, now_ns);
        }
        self.ring_served(executor);
        if !self.zombies.is_empty() {
            self.reap(executor);
        }
        worked
    }

    /// Gives members that were left in the middle of something another turn.
    fn go_on(&mut self, executor: &mut Executor, now_ns: u64) -> bool {
        let Self { exchange, pending, .. } = self;
        let mut members = std::mem::take(&mut pending.members);
        if pending.blocked && !members.is_empty() {
            // The first one gets the room, and one with large replies takes all of it.
            members.rotate_left(1);
        }
        pending.blocked = false;
        let mut worked = false;
        for number in members {
            if let Some(member) = &mut lock(&exchange.seats[usize::from(number)]).member {
                worked |= pending.turn(exchange, member, executor, now_ns);
            }
        }
        worked
    }

    /// Copies a piece out of its slot, and hands it to who has sent it.
    fn deliver(&mut self, taken: Taken, executor: &mut Executor, now_ns: u64, window: u64, active: &mut u64) {
        let Self { exchange, pending, piece, .. } = self;
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
            Ok(()) => drop(pending.turn(exchange, member, executor, now_ns)),
            Err(end) => {
                exchange.dropped.fetch_add(1, Ordering::Relaxed);
                exchange.retire(member, end, executor);
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
    fn wake_another(&self, mailboxes: &[Mailbox]) {
        let Exchange { workers, .. } = &*self.exchange;
        let awake = self.exchange.view().awake() as usize;
        if awake < workers.count.min(self.cpus) && self.has_news() {
            for mailbox in &mailboxes[workers.first..workers.first + workers.count] {
                if mailbox.is_asleep() {
                    mailbox.ring();
                    return;
                }
            }
        }
    }

    /// Wakes members that were sent something and sleep.
    fn ring_served(&mut self, executor: &Executor) {
        let served = &mut self.pending.served;
        served.sort_unstable();
        served.dedup();
        for number in served.drain(..) {
            if lane::must_ring(self.exchange.view().client_state(number)) {
                self.exchange.ring(number);
                executor.counts().rings.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The socket of a member is closed: no thread of it runs any more.
    pub fn depart(&mut self, number: u16, statistics: &Statistics) {
        let exchange = &self.exchange;
        exchange.sender.dismiss(number);
        if let Some(member) = &mut lock(&exchange.seats[usize::from(number)]).member {
            member.depart(statistics);
        }
        failpoint!("end.departed");
        let queue = exchange.view().queue();
        exchange.recovered.fetch_add(queue.recover(number) as u64, Ordering::Relaxed);
        failpoint!("end.recovered");
        self.zombies.push(Zombie { number, tail: queue.tail(), rounds: None });
    }

    /// Gives the numbers of members that are gone to others, once nothing of them is left anywhere.
    fn reap(&mut self, executor: &Executor) {
        let Self { exchange, zombies, .. } = self;
        let (head, now) = (exchange.consumer.head(), exchange.view().queue().tail());
        // Compared as a difference: the tail is a hint that others may have scribbled on.
        let is_ahead = |tail: u64| tail.wrapping_sub(head).wrapping_sub(1) < exchange.geometry.slots as u64;
        zombies.retain_mut(|zombie| {
            // Nor is what it was then believed any longer than the tail says that there is something: somebody may have
            // scribbled twice, and then the head would never come to there.
            if is_ahead(zombie.tail) && is_ahead(now) {
                return true;
            }
            if !exchange.have_workers_moved_on(zombie.rounds.get_or_insert_with(|| exchange.rounds_now())) {
                return true;
            }
            {
                let mut seat = lock(&exchange.seats[usize::from(zombie.number)]);
                if seat.member.as_ref().is_some_and(Member::is_busy) {
                    return true;
                }
                if let Some(member) = &mut seat.member {
                    member.forget(&executor.store);
                }
            }
            failpoint!("end.forgotten");
            exchange.vacate(zombie.number);
            false
        });
    }

    /// Whether there is something to take, or, if nothing may be taken for lack of room, room. A hint.
    #[inline]
    pub fn has_news(&self) -> bool {
        if self.pending.blocked {
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
        !self.pending.members.is_empty()
            || !self.zombies.is_empty()
            || self.exchange.consumer.waits_for_claimer(self.exchange.view().queue())
    }
}
