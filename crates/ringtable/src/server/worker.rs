//! A worker: one thread with one event loop over its clients' lanes and sockets.
//!
//! # Design
//!
//! A client is **hot** while the worker looks at it in every round, and **cold** while only its doorbell or its socket
//! brings it back. Lanes become cold, their waiting flag set, when they have been idle for [`IDLE_ROUNDS_MAX`] rounds,
//! and all of them when the worker goes to sleep. So a busy lane costs no system call, and an idle one nothing at all.
//!
//! Without work the worker spins for as long as that may pay (`ring::wait`), then sleeps in `epoll_wait` without a
//! time-out. It tells its clients whether they should spin for it: see [`super::crowd`].
//!
//! Sleeping clients are rung not after their own turn but after up to [`RINGS_GATHERED_MAX`] turns: ringing the first
//! of them wakes a processor (several microseconds on a virtual machine), and the others then find it awake.
//!
//! A round may be long: many clients with expensive requests, each of which has a turn of up to `limits::TURN_NS_MAX`.
//! So that a client that asks for little does not wait for all of them, the worker turns to such ones every
//! [`ATTEND_NS`]: it rings those that were served, polls, and serves those that had nothing to ask a few turns ago, or
//! when it last looked. New connections have yet to show that they are such ones. At the UDP port it does the same,
//! session by session. (The idea of serving new flows before old ones is that of the FQ-CoDel scheduler, RFC 8290.)
//!
//! While freed memory waits in the retire list, a worker that sleeps looks at it from time to time: see `pins`.
//!
//! Answers that come later ([`crate::command::pending`]) are found in every round, some at a time, by whichever worker
//! is awake. It gives them to its own clients, and those of others to their worker, through its mailbox. A place that
//! has another client by then is known by the number of the connection.
//!
//! Sockets are watched edge-triggered too: an event says "look", and the client's own turn reads and writes as far as
//! its share goes.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventFlags};

use super::connection::{Client, Connection};
use super::crowd::Crowd;
use super::end::{End, tell_failure};
use super::exchange::Exchange;
use super::executor::{Executor, Intake};
use super::keeper::KeptLane;
use super::lane_client::LaneClient;
use super::lane_heirs::HeirLane;
use super::lane_offer::Offer;
use super::notes::Note;
use super::pins;
use super::port::Port;
use super::runtime::Runtime;
use super::socket::Socket;
use super::socket_client::SocketClient;
use super::source::Source;
use super::turn::{STREAK_MAX, Turn};
use super::udp_port::{BoundPort, UdpPort};
use super::waiters::Waiter;
use super::watch_client::WatchClient;
use crate::command::{Recipient, Upgrade};
use crate::limits;
use crate::ring::wait::{Pauses, Yields};
use crate::shm::clock::monotonic_ns;
use crate::shm::doorbell::{Doorbell, timespec, watch};
use crate::shm::fork::Descriptor;
use crate::sync::{Arc, Ordering, spin_loop};
use crate::table::reclaim::HazardRecordId;

/// Rounds without a request after which a lane is watched by its doorbell only.
const IDLE_ROUNDS_MAX: u32 = 500;
/// Rounds with work after which sockets and doorbells are looked at, work or not.
const ROUNDS_PER_POLL: u32 = 16;
/// Nanoseconds after which a worker turns to those who ask for little, in the middle of a round of long turns.
const ATTEND_NS: u64 = 100_000;
/// Looks at the lanes between two looks at the clock.
const SPINS_PER_CLOCK: u32 = 16;
/// Clients served before those among them that sleep are rung.
const RINGS_GATHERED_MAX: usize = 16;
/// For how long a worker sleeps at most that has to look after something even if nobody rings.
const NAP: Duration = Duration::from_micros(100);
/// Clients that are told of the end of a lease before others have their turns: some 50 µs.
const TOLD_AT_ONCE: usize = 64;
/// Most events taken from the kernel at once.
const EVENTS_MAX: usize = 64;

/// A place for a client; `serial` tells later users of the place apart in events that come late.
#[derive(Default)]
struct Place {
    serial: u32,
    client: Option<Client>,
}

/// The thread's state.
pub(super) struct Worker {
    runtime: Arc<Runtime>,
    executor: Executor,
    /// In a classic topology.
    port: Option<Port>,
    /// The server's UDP port, if it has one and this is the worker that serves it.
    udp_port: Option<UdpPort>,
    epoll: Descriptor,
    places: Vec<Place>,
    free: Vec<usize>,
    hot: Vec<usize>,
    /// Lanes that were served and may have to be rung.
    served: Vec<usize>,
    /// Clients that wait for room, for which the mailbox is rung.
    waiting: Vec<usize>,
    /// Clients that keep large buffers, and when those were last looked at.
    keeping: Vec<usize>,
    kept_looked_ns: u64,
    last_work_ns: u64,
    pauses: Pauses,
    busy_rounds: u32,
    /// When those that ask for little were last turned to, or the round began.
    attended_ns: u64,
    yields: Yields,
    /// Those in the middle of a long round, for clients that were rung.
    round_yields: Yields,
    crowd: Crowd,
    /// When the retire list was last looked at.
    retired_looked_ns: u64,
    /// Whether nothing is on its way that another server could not go on with: see [`super::resignation`].
    has_finished: bool,
}

impl Worker {
    /// Worker `index` of a server, which serves this UDP port, too.
    pub fn new(index: usize, runtime: Arc<Runtime>, udp_port: Option<BoundPort>) -> io::Result<Self> {
        let epoll = Descriptor::make(|| epoll::create(epoll::CreateFlags::CLOEXEC))?;
        let mailbox = &runtime.workers[index];
        watch(&epoll, &mailbox.bell, Source::Mailbox.pack(), EventFlags::IN | EventFlags::ET)?;
        let exchange = Exchange::of_worker(index, runtime.topology, &runtime.exchanges);
        if let Some(exchange) = &exchange {
            // One of the workers that share the bell is enough.
            let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
            watch(&epoll, &exchange.bell, Source::Queue.pack(), flags)?;
        }
        let (headcount, statistics) = (&runtime.headcount, &runtime.statistics);
        let table = runtime.store.table.constants().id;
        let udp_port = udp_port.map(|bound| UdpPort::new(bound, Arc::clone(headcount), Arc::clone(statistics), table));
        if let Some(port) = &udp_port {
            watch(&epoll, &port.socket, Source::Udp.pack(), EventFlags::IN | EventFlags::ET)?;
        }
        let (store, statistics) = (Arc::clone(&runtime.store), Arc::clone(&runtime.statistics));
        let host = Arc::clone(&runtime);
        let executor = Executor::new(index, store, statistics, host, runtime.topology);
        Ok(Self {
            port: exchange.map(|exchange| Port::new(exchange, index, runtime.cpus)),
            udp_port,
            executor,
            runtime,
            epoll,
            places: Vec::new(),
            free: Vec::new(),
            hot: Vec::new(),
            served: Vec::new(),
            waiting: Vec::new(),
            keeping: Vec::new(),
            kept_looked_ns: 0,
            last_work_ns: 0,
            pauses: Pauses::default(),
            busy_rounds: 0,
            attended_ns: 0,
            yields: Yields::default(),
            round_yields: Yields::default(),
            crowd: Crowd::default(),
            retired_looked_ns: 0,
            has_finished: false,
        })
    }

    /// Logs from now on what it commits. In that log is what the server before has committed of the request that it
    /// had in hand, and counts until all lanes are adopted.
    pub fn begin_log(&mut self) {
        if let Some(keeper) = &self.runtime.keeper {
            let engine = &mut self.executor.engine;
            let (memory, at) = keeper.notes.log(engine.worker);
            engine.writer.log_commits(memory, at);
        }
    }

    /// The event loop, until the server stops.
    pub fn run(mut self) {
        // Acquire: pairs with the Release in `Runtime::stop`.
        while !self.runtime.stopping.load(Ordering::Acquire) {
            let now = monotonic_ns();
            self.crowd.observe(now, self.executor.engine.worker, &self.runtime);
            self.look_after(now);
            if self.runtime.resignation.is_wanted() {
                self.finish();
            } else {
                // It may have been called off.
                self.executor.intake = Intake::All;
            }
            self.attended_ns = now;
            if self.serve_hot() | self.serve_port(now) | self.at_udp_port(UdpPort::serve, now) {
                self.pauses.record(now - self.last_work_ns);
                self.last_work_ns = now;
                self.busy_rounds += 1;
                if self.busy_rounds.is_multiple_of(ROUNDS_PER_POLL) {
                    self.poll(Some(Duration::ZERO));
                }
            } else if self.may_spin(now) {
                self.spin();
            } else if !(self.may_yield(now) && self.yield_until_news()) {
                self.sleep();
            }
        }
        if self.runtime.resignation.is_wanted() {
            return self.resign();
        }
        self.runtime.store.table.watch_to_the_end();
        for place in 0..self.places.len() {
            self.end(place, End::Stopped);
        }
        self.executor.engine.writer.release();
    }

    /// Begins no request any more that arrives in parts, and says so once none is on its way.
    #[cold]
    fn finish(&mut self) {
        self.executor.intake = Intake::Whole;
        let mut lanes = self.places.iter().filter_map(|place| place.client.as_ref()?.lane());
        if !self.has_finished && !lanes.any(LaneClient::is_receiving) {
            self.has_finished = true;
            self.runtime.resignation.note_finished();
        }
    }

    /// Takes no request any more, brings what was begun to its end, and leaves all there is to another server.
    fn resign(mut self) {
        self.executor.intake = Intake::Nothing;
        let began_ns = monotonic_ns();
        let (mut left, mut moved_ns) = (usize::MAX, began_ns);
        loop {
            let mut now_left = 0;
            for place in 0..self.places.len() {
                if self.left_to_do(place) > 0 {
                    self.turn(place);
                    now_left += self.left_to_do(place);
                }
            }
            self.ring_served();
            let now_ns = monotonic_ns();
            if now_left != left {
                (left, moved_ns) = (now_left, now_ns);
            }
            // A client that reads nothing keeps nobody waiting.
            let is_over = now_ns - began_ns > limits::RESIGNATION_PATIENCE.as_nanos() as u64;
            if left == 0 || is_over || now_ns - moved_ns > limits::RESIGNATION_PAUSE.as_nanos() as u64 {
                break;
            }
            std::thread::yield_now();
        }
        if self.runtime.resignation.moves() {
            // What it has of theirs is known to nobody behind it.
            for place in 0..self.places.len() {
                let lane = self.places[place].client.as_ref().and_then(Client::lane);
                if lane.is_some_and(|lane| !lane.is_at_rest()) {
                    self.end(place, End::Broken);
                }
            }
        }
        self.executor.engine.writer.release();
        // Nothing is closed, nobody is told: it is another server's.
        if self.runtime.keeper.as_ref().is_some_and(|keeper| keeper.is_heir) {
            for client in self.places.drain(..).filter_map(|place| place.client) {
                if let Some(remains) = client.connection.leave() {
                    self.runtime.left_lanes.add(remains);
                }
            }
        }
        std::mem::forget(self);
    }

    fn left_to_do(&self, place: usize) -> usize {
        self.places[place].client.as_ref().and_then(Client::lane).map_or(0, LaneClient::left_to_do)
    }

    /// Does what is due though nobody asks for it. Returns for how long we may sleep if nobody wakes us.
    fn look_after(&mut self, now: u64) -> Option<Duration> {
        let idle = self.tend_idle(now);
        let permits = self.executor.store.leases.tend_permits(now).map(Duration::from_nanos);
        // What was left behind may be waited for.
        let is_busy = self.executor.tend_left_behind() | self.tell_waiters();
        let Self { executor, retired_looked_ns, .. } = self;
        let (store, writer) = (&executor.store, &mut executor.engine.writer);
        writer.heed_recall();
        let naps = [
            store.housekeeping.tend(writer, &store.returning, now),
            pins::tend_retired(writer, retired_looked_ns),
            idle,
            store.leases.tend_handovers(now).map(Duration::from_nanos),
            permits,
            self.udp_port.as_mut().and_then(|port| port.tend(now)),
        ];
        if is_busy { Some(Duration::ZERO) } else { naps.into_iter().flatten().min() }
    }

    /// Tells some of those that have waited: our clients, or their worker. Returns whether there were any.
    #[inline]
    fn tell_waiters(&mut self) -> bool {
        let mailbox = &self.runtime.workers[self.executor.engine.worker];
        let has_any = mailbox.has_told() || self.executor.store.leases.has_to_tell();
        if has_any {
            self.tell_some();
        }
        has_any
    }

    #[cold]
    fn tell_some(&mut self) {
        let (runtime, own) = (Arc::clone(&self.runtime), self.executor.engine.worker);
        for waiter in runtime.workers[own].take_told(TOLD_AT_ONCE) {
            self.tell(waiter);
        }
        let mut told = runtime.store.leases.take_told(TOLD_AT_ONCE);
        let worker_of = |waiter: &Waiter| waiter.recipient.map(|recipient| recipient.worker);
        told.sort_by_key(worker_of);
        for batch in told.chunk_by(|one, next| worker_of(one) == worker_of(next)) {
            match worker_of(&batch[0]) {
                Some(worker) if worker == own => batch.iter().for_each(|&waiter| self.tell(waiter)),
                Some(worker) => runtime.workers[worker].tell(batch),
                None => {}
            }
        }
    }

    /// Gives one of our clients the answer that it waits for, if it is still there.
    fn tell(&mut self, waiter: Waiter) {
        let Waiter { connection, ticket, recipient: Some(Recipient { place, .. }), answer, .. } = waiter else {
            return;
        };
        let Some(client) = self.places.get_mut(place).and_then(|place| place.client.as_mut()) else { return };
        // The place may be another client's by now.
        if client.number == connection && client.connection.tell(ticket, answer) {
            self.heat(place);
        }
    }

    /// Takes large buffers from clients that have not worked since the last look. Returns when to look again.
    #[inline]
    fn tend_idle(&mut self, now: u64) -> Option<Duration> {
        if self.keeping.is_empty() {
            return None;
        }
        let since = now.saturating_sub(self.kept_looked_ns);
        if since < limits::IDLE_NS {
            return Some(Duration::from_nanos(limits::IDLE_NS - since));
        }
        self.kept_looked_ns = now;
        let Self { executor, places, keeping, .. } = self;
        keeping.retain(|&place| {
            let Some(client) = &mut places[place].client else { return false };
            if std::mem::take(&mut client.has_worked) {
                return true;
            }
            client.connection.let_go(executor);
            client.keeps_much = client.connection.keeps_much();
            client.keeps_much
        });
        (!keeping.is_empty()).then(|| Duration::from_nanos(limits::IDLE_NS))
    }

    /// Gives each hot client a turn. Returns whether there was anything to do.
    fn serve_hot(&mut self) -> bool {
        let (mut worked, mut index) = (false, 0);
        while let Some(&place) = self.hot.get(index) {
            let turn = self.turn(place);
            worked |= turn;
            let Some(client) = self.places[place].client.as_mut() else {
                self.hot.swap_remove(index);
                continue;
            };
            if turn {
                client.note_work();
            } else {
                client.idle_rounds += 1;
                client.streak = 0;
                if client.idle_rounds > IDLE_ROUNDS_MAX && self.cool(place) {
                    self.hot.swap_remove(index);
                    continue;
                }
            }
            index += 1;
            if self.served.len() >= RINGS_GATHERED_MAX {
                self.ring_served();
            }
            let began_ns = self.executor.engine.budget.began_ns();
            if began_ns > self.attended_ns + ATTEND_NS {
                self.attended_ns = began_ns;
                self.attend();
            }
        }
        self.ring_served();
        worked
    }

    /// Rings those that were served, and serves those that had nothing to ask a few turns ago, and have now.
    fn attend(&mut self) {
        self.ring_served();
        self.poll(Some(Duration::ZERO));
        let mut served = self.at_udp_port(UdpPort::attend, self.attended_ns);
        for index in 0..self.hot.len() {
            let place = self.hot[index];
            let Some(client) = &mut self.places[place].client else { continue };
            if !client.connection.has_news() {
                client.streak = 0;
            } else if client.streak < STREAK_MAX
                && self.turn(place)
                && let Some(client) = &mut self.places[place].client
            {
                client.note_work();
                served = true;
            }
        }
        self.ring_served();
        if served {
            // A client that was rung may have been put on this very processor, and waits for the end of our time slice
            // otherwise.
            self.round_yields.once(monotonic_ns);
        }
    }

    /// Serves the members of the exchange, if there is one. Returns whether there was anything to do.
    fn serve_port(&mut self, now: u64) -> bool {
        let Some(port) = &mut self.port else { return false };
        let mut active = 0;
        let worked = port.serve(&mut self.executor, &self.runtime.workers, now, self.crowd.window(), &mut active);
        self.crowd.count(active, self.runtime.cpus);
        worked
    }

    /// Gives the UDP port a turn, if there is one. Returns whether there was anything to do.
    fn at_udp_port(&mut self, turn: impl FnOnce(&mut UdpPort, &mut Executor, u64) -> bool, now: u64) -> bool {
        let Some(port) = &mut self.udp_port else { return false };
        let worked = turn(port, &mut self.executor, now);
        if worked && port.window != self.crowd.window() {
            port.window = self.crowd.window();
            self.crowd.count(1, self.runtime.cpus);
        }
        worked
    }

    /// Wakes the clients that were served and sleep.
    fn ring_served(&mut self) {
        if !self.served.is_empty() {
            failpoint!("reply.released");
        }
        let mut served = std::mem::take(&mut self.served);
        for place in served.drain(..) {
            let Some(Client { connection: Connection::Lane(lane), .. }) = &mut self.places[place].client else {
                continue;
            };
            match lane.ring_if_asleep() {
                Ok(false) => {}
                Ok(true) => drop(self.executor.counts().rings.fetch_add(1, Ordering::Relaxed)),
                Err(end) => self.end(place, end),
            }
        }
        self.served = served;
        if self.executor.engine.writer.take_published() {
            let rung = self.runtime.store.watchers.ring_sleepers();
            self.executor.counts().rings.fetch_add(rung, Ordering::Relaxed);
        }
    }

    /// One turn of one client, which may be its last. Returns whether there was anything to do.
    fn turn(&mut self, place: usize) -> bool {
        let Some(client) = self.places[place].client.as_mut() else { return false };
        self.executor.engine.turn_to(client.number, Some(place));
        let turn = client.connection.turn(&mut self.executor);
        self.executor.end_turn();
        if client.connection.is_waiting() && !self.waiting.contains(&place) {
            self.waiting.push(place);
        }
        if !client.keeps_much && client.connection.keeps_much() {
            client.keeps_much = true;
            self.keeping.push(place);
        }
        match turn {
            Ok(Turn::Idle) => return false,
            Ok(Turn::Worked) => {
                if let Connection::Lane(_) = client.connection {
                    self.served.push(place);
                }
                if client.window != self.crowd.window() {
                    client.window = self.crowd.window();
                    self.crowd.count(1, self.runtime.cpus);
                }
            }
            Ok(Turn::Upgrade(kind)) => self.upgrade(place, kind),
            Err(end) => self.end(place, end),
        }
        true
    }

    /// Makes a hot client cold. Returns whether that worked out: with a lane, a request may have come at the last
    /// moment.
    fn cool(&mut self, place: usize) -> bool {
        if let Some(Client { connection: Connection::Lane(lane), .. }) = &self.places[place].client {
            lane.announce_sleep();
            if self.turn(place) {
                if let Some(Client { connection: Connection::Lane(lane), .. }) = &self.places[place].client {
                    lane.announce_awake();
                }
                return false;
            }
        }
        if let Some(client) = &mut self.places[place].client {
            client.hot = false;
        }
        true
    }

    /// Makes a client hot.
    fn heat(&mut self, place: usize) {
        let Some(client) = &mut self.places[place].client else { return };
        if let Connection::Lane(lane) = &client.connection {
            lane.announce_awake();
        }
        client.idle_rounds = 0;
        if !client.hot {
            client.hot = true;
            self.hot.push(place);
        }
    }

    /// Whether spinning may pay: see `ring::wait`.
    fn may_spin(&self, now: u64) -> bool {
        let cpu = self.crowd.cpu();
        !self.crowd.is_crowded()
            && now - self.last_work_ns < self.pauses.spin_limit_ns(self.runtime.spin_ns)
            && (self.lanes().any(|lane| lane.client_state().worth_spinning(cpu))
                || self.port.as_ref().is_some_and(|port| port.is_member_awake(cpu, false)))
    }

    /// Whether giving way may pay: in a crowd, or to a client on our own processor.
    fn may_yield(&self, now: u64) -> bool {
        let lately = now - self.last_work_ns < self.runtime.spin_ns;
        let is_anybody_awake = || {
            self.lanes().any(|lane| !lane.client_state().asleep)
                || self.port.as_ref().is_some_and(|port| port.is_member_awake(0, true))
        };
        self.crowd.is_crowded() || lately && is_anybody_awake()
    }

    /// Whether a client has published something. A hint: its turn looks properly.
    fn has_news(&self) -> bool {
        self.lanes().any(LaneClient::has_news) || self.port.as_ref().is_some_and(Port::has_news)
    }

    fn spin(&self) {
        for _ in 0..SPINS_PER_CLOCK {
            if self.has_news() {
                return;
            }
            spin_loop();
        }
    }

    /// Gives way to others, whose requests we wait for.
    fn yield_until_news(&mut self) -> bool {
        let mut yields = self.yields;
        let news = yields.until(self.runtime.spin_ns, monotonic_ns, || self.has_news());
        self.yields = yields;
        news
    }

    fn lanes(&self) -> impl Iterator<Item = &LaneClient> {
        self.hot.iter().filter_map(|&place| self.places[place].client.as_ref().and_then(Client::lane))
    }

    /// Sleeps until a doorbell or a socket wakes us, unless something came at the last moment.
    fn sleep(&mut self) {
        self.crowd.publish(true, self.executor.engine.worker, &self.runtime);
        let mut worked = false;
        let mut index = 0;
        while let Some(&place) = self.hot.get(index) {
            if self.places[place].client.is_some() && !self.cool(place) {
                worked = true;
                index += 1;
            } else {
                self.hot.swap_remove(index);
            }
        }
        self.ring_served();
        let mut limit = self.look_after(monotonic_ns());
        if let Some(port) = &self.port {
            worked |= !port.announce_sleep();
            limit = if port.is_restless() { Some(NAP) } else { limit };
        }
        if !worked {
            // For others, who may need it more while we sleep.
            self.executor.engine.writer.release();
            self.poll(limit);
            self.executor.counts().wakeups.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(port) = &self.port {
            port.announce_awake();
        }
        self.crowd.publish(false, self.executor.engine.worker, &self.runtime);
    }

    /// Takes events from the kernel, waiting for them until there are some, or for at most `limit`.
    fn poll(&mut self, limit: Option<Duration>) {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; EVENTS_MAX];
        let timeout = limit.map(timespec);
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else { return };
        for event in events.iter() {
            match Source::unpack(event.data) {
                Source::Mailbox => {
                    self.show_life();
                    self.take_arrivals();
                    for place in std::mem::take(&mut self.waiting) {
                        self.heat(place);
                    }
                }
                Source::Queue => {} // we look at it anyway
                Source::Udp => {
                    if let Some(port) = &mut self.udp_port {
                        port.readable = true;
                    }
                }
                Source::Bell { place, serial } if self.is_current(place, serial) => self.answer_bell(place),
                Source::Socket { place, serial } if self.is_current(place, serial) => {
                    if let Some(client) = &mut self.places[place].client
                        && let Err(end) = client.connection.notice(event.flags)
                    {
                        self.end(place, end);
                    }
                    // Also one whose connection we have ended and who is still there: its death may lie behind bytes
                    // that we have not read yet, and of which no event tells again.
                    self.heat(place);
                }
                _ => {} // about a client that is gone
            }
        }
    }

    /// Looks at a client that has rung: its first ring says that it has sealed its lane.
    fn answer_bell(&mut self, place: usize) {
        if self.is_offered(place) && !self.take_into_service(place) {
            self.end(place, End::Unsealed);
        }
        self.heat(place);
    }

    fn is_offered(&self, place: usize) -> bool {
        matches!(&self.places[place].client, Some(Client { connection: Connection::Offered(_), .. }))
    }

    /// Serves a lane from now on, if it is sealed. Returns whether it is.
    fn take_into_service(&mut self, place: usize) -> bool {
        let Some(client) = self.places[place].client.take() else { return false };
        let (connection, is_sealed) = match client.connection {
            Connection::Offered(offer) if offer.is_sealed() => {
                (Connection::Lane(Box::new(LaneClient::new(*offer, &self.runtime.store))), true)
            }
            connection => (connection, false),
        };
        self.places[place].client = Some(Client { connection, ..client });
        is_sealed
    }

    fn is_current(&self, place: usize, serial: u32) -> bool {
        self.places.get(place).is_some_and(|found| found.serial == serial && found.client.is_some())
    }

    fn take_arrivals(&mut self) {
        for socket in self.runtime.workers[self.executor.engine.worker].take_arrivals() {
            let place = self.new_place();
            failpoint!("accept.taken");
            let serial = self.places[place].serial;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            let source = Source::Socket { place, serial }.pack();
            let watched = watch(&self.epoll, &socket, source, flags);
            if let Err(error) = &watched {
                tell_failure(&socket, "watch another connection", error);
            }
            let connection = Connection::Socket(Box::new(SocketClient::new(socket)));
            let number = self.runtime.store.leases.new_connection();
            self.place(place, connection, number);
            if watched.is_err() {
                self.end(place, End::Memory);
            }
        }
    }

    /// Goes on with a client of another server, which is dead. What that has done for it is on the disk, where that is
    /// waited for, or why not (`synced`).
    pub fn adopt(&mut self, lane: HeirLane, synced: &Result<(), String>) {
        let HeirLane { lane, noted, commits, segment, mapping, request_bell, response_bell, socket } = lane;
        let runtime = Arc::clone(&self.runtime);
        let Some(keeper) = &runtime.keeper else { return };
        let place = self.new_place();
        let serial = self.places[place].serial;
        let socket = Socket::found(socket, KeptLane::found(keeper, lane), runtime.disposer.as_ref());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let watched = watch(&self.epoll, &socket, Source::Socket { place, serial }.pack(), flags);
        let watched = watched.and_then(|()| {
            let flags = EventFlags::IN | EventFlags::ET;
            watch(&self.epoll, &request_bell, Source::Bell { place, serial }.pack(), flags)
        });
        let note = Some(Note::go_on(Arc::clone(&keeper.notes), lane));
        let offer = Offer { segment, mapping, socket, request_bell, response_bell, note };
        let (lane, end) = LaneClient::adopt(offer, &runtime.store, (&noted, &commits), synced);
        // The server before had let it in: there is room for it.
        runtime.headcount.enter();
        runtime.workers[self.executor.engine.worker].adopt_client();
        runtime.statistics.lanes.fetch_add(1, Ordering::Relaxed);
        self.place(place, Connection::Lane(Box::new(lane)), noted.connection);
        self.heat(place);
        // There are answers for it.
        self.served.push(place);
        if let Some(end) = end.or(watched.is_err().then_some(End::Memory)) {
            self.end(place, end);
        }
    }

    /// Says that this worker has its turns, if the keeper asks.
    fn show_life(&self) {
        if let Some(question) = self.runtime.liveness.answer(self.executor.engine.worker)
            && let Some(keeper) = &self.runtime.keeper
        {
            keeper.tell_alive(question);
        }
    }

    /// A place that no client has.
    fn new_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        })
    }

    /// Puts a client there.
    fn place(&mut self, place: usize, connection: Connection, number: u64) {
        // The place may still be among the hot ones, from the client before.
        let hot = self.hot.contains(&place);
        // That it asks for little is to be seen: connections are cheap.
        let streak = STREAK_MAX;
        self.places[place].client = Some(Client {
            connection,
            number,
            hot,
            idle_rounds: 0,
            streak,
            window: 0,
            keeps_much: false,
            has_worked: true,
        });
    }

    /// Turns a socket client into one with a lane, a member of the exchange, or one that is told of changes.
    fn upgrade(&mut self, place: usize, to: Upgrade) {
        let Place { serial, client: Some(client) } = &mut self.places[place] else { return };
        let Connection::Socket(socket) = &mut client.connection else { return };
        let (serial, index) = (*serial, self.executor.engine.worker);
        let Some(given_up) = socket.give_up_socket() else { return };
        let upgraded = match (&self.port, to) {
            (Some(port), Upgrade::Rings) => {
                let socket = Arc::new(given_up);
                let joined = port.exchange.join(&socket, client.number, &self.runtime.store);
                joined.map(|number| client.connection = Connection::Member(number, socket))
            }
            (_, Upgrade::Watch) => {
                let watch = WatchClient::create(given_up, &self.runtime.store, &mut self.executor.engine.writer);
                watch.map(|watch| client.connection = Connection::Watch(Box::new(watch)))
            }
            _ => {
                let (epoll, source) = (&self.epoll, Source::Bell { place, serial }.pack());
                let watched = |bell: &Doorbell| watch(epoll, bell, source, EventFlags::IN | EventFlags::ET);
                let (store, keeper) = (&self.runtime.store, self.runtime.keeper.as_ref());
                Offer::make(given_up, (client.number, index), store, keeper, watched).map(|offer| {
                    self.runtime.statistics.lanes.fetch_add(1, Ordering::Relaxed);
                    failpoint!("join.passed");
                    client.connection = Connection::Offered(Box::new(offer));
                })
            }
        };
        if let Err(error) = upgraded {
            self.end(
                place,
                match error.kind() {
                    // It has not waited for the answer.
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => End::Gone,
                    // Without descriptors, memory or a seat: the client was told, and the socket is closed.
                    _ => End::Memory,
                },
            );
        }
    }

    /// Lets the pins of a client that is gone count no more.
    fn drop_pins(&mut self, hazards: HazardRecordId) {
        self.runtime.store.table.reclaimer().unregister(hazards);
        self.executor.engine.writer.rescan();
    }

    /// Ends a connection.
    fn end(&mut self, place: usize, end: End) {
        if end == End::Gone && self.is_offered(place) {
            // Its ring may be among the events that we have not come to, and a request of its behind it.
            self.take_into_service(place);
        }
        let Some(client) = self.places[place].client.take() else { return };
        let (runtime, number) = (Arc::clone(&self.runtime), client.number);
        let has_reservation = client.connection.has_reservation();
        if let Connection::Lane(mut lane) = client.connection {
            if end == End::Gone {
                failpoint!("end.noticed");
                self.executor.engine.turn_to(number, None);
                let more = lane.execute_rest(&mut self.executor);
                self.executor.end_turn();
                failpoint!("end.executed");
                if more {
                    // Others have their turns in between.
                    self.places[place].client = Some(Client { connection: Connection::Lane(lane), ..client });
                    self.heat(place);
                    return;
                }
            }
            // The client holds a copy of the doorbell, so closing ours would not end our watching it.
            let _ = epoll::delete(&self.epoll, lane.request_bell().as_fd());
            lane.drop_unfinished(&mut self.executor);
            runtime.store.leases.end(number);
            runtime.statistics.lanes.fetch_sub(1, Ordering::Relaxed);
            // Counted before it is told: who has heard of its end finds it in the figures.
            runtime.statistics.count_end(end);
            failpoint!("end.counted");
            lane.say_goodbye(end);
            match (end, lane.hazards) {
                (End::Gone | End::Stopped, Some(hazards)) => self.drop_pins(hazards),
                (_, Some(_)) => {
                    // Its views live on, until its own end of the socket is closed.
                    let connection = lane.linger().map(Connection::Lingering);
                    self.places[place].client = connection.map(|connection| Client { connection, ..client });
                    return;
                }
                // To close what is expensive to wake takes long.
                (End::Expensive, None) => runtime.store.returning.close(lane),
                (_, None) => {}
            }
        } else if let Connection::Offered(offer) = client.connection {
            let _ = epoll::delete(&self.epoll, offer.request_bell.as_fd());
            runtime.store.leases.end(number);
            runtime.statistics.lanes.fetch_sub(1, Ordering::Relaxed);
            runtime.statistics.count_end(end);
            offer.say_goodbye(end);
        } else if let Connection::Lingering(lingering) = &client.connection {
            self.drop_pins(lingering.hazards);
        } else if let (Connection::Member(number, _), Some(port)) = (&client.connection, &mut self.port) {
            if end == End::Gone {
                port.depart(*number, &runtime.statistics);
            } else {
                // It keeps its seat until its own end of the socket is closed.
                port.exchange.retire_number(*number, end, &self.executor);
                if end != End::Stopped {
                    self.places[place].client = Some(client);
                    return;
                }
            }
        } else {
            runtime.store.leases.end(number);
            runtime.statistics.count_end(end);
            match client.connection {
                Connection::Socket(mut socket) => {
                    socket.session.drop_unfinished(&mut self.executor);
                    if end == End::Expensive {
                        runtime.store.returning.close(Box::new(socket.give_up_socket()));
                    }
                }
                Connection::Watch(watch) => watch.say_goodbye(end),
                _ => {}
            }
        }
        // Replies that have not gone held their values.
        self.executor.engine.writer.rescan();
        self.places[place].serial = self.places[place].serial.wrapping_add(1);
        self.free.push(place);
        if !has_reservation {
            runtime.workers[self.executor.engine.worker].forget_client();
            runtime.headcount.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::SendFlags;

    use super::super::fuzzing::{connection, drain, runtime};
    use super::super::topology::Topology;
    use super::*;
    use crate::table::Eviction;

    /// A worker whose thread does not run, and its server.
    fn worker() -> (Worker, Arc<Runtime>) {
        let runtime = runtime(Topology::Lanes, Eviction::Never);
        (Worker::new(0, Arc::clone(&runtime), None).unwrap(), runtime)
    }

    fn arrive(worker: &mut Worker) -> OwnedFd {
        let (server, client) = connection();
        worker.runtime.workers[0].deliver(server);
        worker.poll(Some(Duration::ZERO));
        client
    }

    /// Sends a line, and returns what has come when the worker has done all that there is to do for its clients.
    fn ask(worker: &mut Worker, client: &OwnedFd, line: &str) -> String {
        let line = format!("{line}\r\n");
        assert_eq!(rustix::net::send(client, line.as_bytes(), SendFlags::DONTWAIT), Ok(line.len()));
        serve(worker);
        heard(client)
    }

    fn serve(worker: &mut Worker) {
        worker.poll(Some(Duration::ZERO));
        while worker.serve_hot() {}
    }

    fn heard(client: &OwnedFd) -> String {
        let mut replies = Vec::new();
        drain(client, &mut replies);
        replies.escape_ascii().to_string()
    }

    /// A lease of `key`: its token.
    fn lease(worker: &mut Worker, holder: &OwnedFd) -> String {
        let reply = ask(worker, holder, "RING.LEASE key");
        reply.strip_prefix(':').and_then(|rest| rest.strip_suffix(r"\r\n")).expect("a token").to_owned()
    }

    fn join_in_version_3(worker: &mut Worker) -> OwnedFd {
        let client = arrive(worker);
        assert!(ask(worker, &client, "HELLO 3").starts_with('%'));
        client
    }

    const TOLD: &str = r">3\r\n$11\r\nring.answer\r\n:7\r\n+OK\r\n";

    #[test]
    fn who_waits_is_told_also_through_the_mailbox() {
        let (mut worker, runtime) = worker();
        let (waiter, holder) = (join_in_version_3(&mut worker), arrive(&mut worker));
        for through_the_mailbox in [false, true] {
            let token = lease(&mut worker, &holder);
            assert_eq!(ask(&mut worker, &waiter, &format!("RING.WAIT key {token} 7")), r"+PENDING 7\r\n");
            assert_eq!(ask(&mut worker, &holder, &format!("RING.UNLEASE key {token}")), r":1\r\n");
            if through_the_mailbox {
                // As another worker does that comes first.
                runtime.workers[0].tell(&runtime.store.leases.take_told(10));
            }
            assert_eq!(heard(&waiter), "");
            assert_eq!(worker.look_after(monotonic_ns()), Some(Duration::ZERO), "those who were told have their turns");
            serve(&mut worker);
            assert_eq!(heard(&waiter), TOLD);
            assert_ne!(worker.look_after(monotonic_ns()), Some(Duration::ZERO));
        }
    }

    #[test]
    fn whoever_has_the_place_of_one_that_is_gone_is_not_told_in_its_stead() {
        let (mut worker, runtime) = worker();
        let (waiter, holder) = (join_in_version_3(&mut worker), arrive(&mut worker));
        let token = lease(&mut worker, &holder);
        assert_eq!(ask(&mut worker, &waiter, &format!("RING.WAIT key {token} 7")), r"+PENDING 7\r\n");
        assert_eq!(ask(&mut worker, &holder, &format!("RING.UNLEASE key {token}")), r":1\r\n");
        let told = runtime.store.leases.take_told(10);
        let place = told[0].recipient.expect("it is told").place;
        drop(waiter);
        serve(&mut worker);
        let next = join_in_version_3(&mut worker);
        assert!(worker.places[place].client.as_ref().is_some_and(|client| client.number != told[0].connection));
        runtime.workers[0].tell(&told);
        assert_eq!(worker.look_after(monotonic_ns()), Some(Duration::ZERO));
        assert_eq!(ask(&mut worker, &next, "PING"), r"+PONG\r\n");
    }

    #[test]
    fn more_than_belongs_in_a_round_is_told_in_several() {
        let (mut worker, _) = worker();
        let (waiter, holder) = (join_in_version_3(&mut worker), arrive(&mut worker));
        let token = lease(&mut worker, &holder);
        let count = 5 * TOLD_AT_ONCE / 2;
        for ticket in 1..=count {
            ask(&mut worker, &waiter, &format!("RING.WAIT key {token} {ticket}"));
        }
        ask(&mut worker, &holder, &format!("RING.UNLEASE key {token}"));
        for pushes in [TOLD_AT_ONCE, TOLD_AT_ONCE, TOLD_AT_ONCE / 2, 0] {
            worker.look_after(monotonic_ns());
            serve(&mut worker);
            assert_eq!(heard(&waiter).matches("ring.answer").count(), pushes);
        }
    }
}
