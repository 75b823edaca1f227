//! A worker: one thread with one event loop over its clients' lanes and sockets.
//!
//! # Design
//!
//! A client is **hot** while the worker looks at it in every round, and **cold** while only its doorbell or its socket
//! brings it back. Lanes become cold, their waiting flag set, when they have been idle for [`IDLE_ROUNDS_MAX`] rounds,
//! and all of them when the worker goes to sleep. So a busy lane costs no system call, and an idle one nothing at all.
//!
//! Without work the worker spins for as long as that may pay (`ring::wait`), then sleeps in `epoll_wait` without a
//! time-out. It tells its clients in its line of the table's header whether they should spin for it: awake, on which
//! processor, and whether it is crowded: whether the clients that sent something within the last [`WINDOW_NS`], at any
//! worker, and the workers that served them are more than the processors there are.
//!
//! Sleeping clients are rung not after their own turn but after up to [`RINGS_GATHERED_MAX`] turns: ringing the first
//! of them wakes a processor (several microseconds on a virtual machine), and the others then find it awake.
//!
//! A round may be long: many clients with dear requests, each of which has a turn of up to `limits::TURN_NS_MAX`. So
//! that a client that asks for little does not wait for all of them, the worker turns to such ones every [`ATTEND_NS`]:
//! it rings those that were served, polls, and serves those that had nothing to ask a few turns ago, or when it last
//! looked. New connections have yet to show that they are such ones. (The idea of serving new flows
//! before old ones is that of the FQ-CoDel scheduler, RFC 8290.)
//!
//! While freed memory waits in the limbo, a worker that sleeps looks at it from time to time: see `pins`.
//!
//! Sockets are watched edge-triggered too: an event says "look", and the client's own turn reads and writes as far as
//! its share goes.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::exchange::Station;
use super::housekeeping;
use super::lane_client::{LaneClient, Offer, check_silent};
use super::outgoing::Outgoing;
use super::pins::{self, Lingering};
use super::socket::Socket;
use super::socket_client::SocketClient;
use super::statistics::{End, WorkerStatistics, tell_failure};
use super::watch_client::WatchClient;
use super::{Shared, Topology};
use crate::command::connection::{NO_PINS, greet};
use crate::command::protocol::Protocol;
use crate::command::record::{self, RecordWriter};
use crate::command::reply::ReplyWriter;
use crate::command::{self, Command, Context, Effect, Streamed};
use crate::limits;
use crate::ring::wait::{Pauses, State, Yields};
use crate::shm::clock::{current_cpu, monotonic_ns};
use crate::shm::doorbell::{Doorbell, timespec, watch};
use crate::shm::fork::Descriptor;
use crate::shm::segment::Mapping;
use crate::sync::{Memory, lock, spin_loop};
use crate::table::layout::{H_WORKER_STATES, STRIDE};
use crate::table::reader::Buffer;
use crate::table::reclaim::BoardId;
use crate::table::{Pairs, Writer};

/// Rounds without a request after which a lane is watched by its doorbell only.
const IDLE_ROUNDS_MAX: u32 = 500;
/// Rounds with work after which sockets and doorbells are looked at, work or not.
const ROUNDS_PER_POLL: u32 = 16;
/// Nanoseconds after which a worker turns to those who ask for little, in the middle of a round of long turns.
const ATTEND_NS: u64 = 100_000;
/// Turns with work in a row after which a client is one that asks for much: a value of 128 KiB takes three.
const STREAK_MAX: u32 = 4;
/// For how long a client that sent something counts as one that wants to run, in nanoseconds.
const WINDOW_NS: u64 = 1_000_000;
/// Looks at the lanes between two looks at the clock.
const SPINS_PER_CLOCK: u32 = 16;
/// Clients served before those among them that sleep are rung.
const RINGS_GATHERED_MAX: usize = 16;
/// For how long a worker sleeps at most that has to look after something even if nobody rings.
const NAP: Duration = Duration::from_micros(100);
/// Most events taken from the kernel at once.
const EVENTS_MAX: usize = 64;
/// Bytes of a discarded buffer that are given back in one step, in about 100 µs.
const DISCARDED_AT_ONCE: usize = 4 << 20;
/// Most bytes received by one system call.
pub(super) const RECEIVE_SIZE: usize = 64 << 10;
/// A buffer larger than this is not kept from one request to the next: that of a value of 1 MiB is.
pub(super) const BUFFER_KEPT_MAX: usize = (1 << 20) + (64 << 10);

/// Where a worker gets new clients, and what it says of itself to other threads.
pub(super) struct Mailbox {
    arrivals: Mutex<Vec<Socket>>,
    bell: Doorbell,
    clients: AtomicUsize,
    /// Milliseconds << 16 | parties that wanted to run in the window that ended then.
    activity: AtomicU64,
    /// Whether the worker sleeps: a hint for those who look for one to wake.
    asleep: AtomicBool,
}

impl Mailbox {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            arrivals: Mutex::default(),
            bell: Doorbell::new()?,
            clients: AtomicUsize::new(0),
            activity: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
        })
    }

    /// Hands over a connection.
    pub fn deliver(&self, socket: Socket) {
        // Who has the reserved place does not count.
        self.clients.fetch_add(usize::from(socket.reservation.is_none()), Ordering::Relaxed);
        lock(&self.arrivals).push(socket);
        failpoint!("accept.delivered");
        self.bell.ring();
    }

    pub fn ring(&self) {
        self.bell.ring();
    }

    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// How many clients the worker has, or is about to have.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

/// What one turn of a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There was nothing to do, or nothing could be done.
    Idle,
    /// Something was done; there may be more.
    Worked,
    /// The client asks for what this effect says: a lane, a seat at the rings of a classic topology, or a watch.
    Upgrade(Effect),
}

/// What a worker needs to execute requests, whoever sent them.
pub(super) struct Bench {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub writer: Writer<Mapping>,
    /// The number of the connection whose turn it is.
    pub connection: u64,
    scratch: Buffer,
    pairs: Pairs,
    /// A private copy of the request in hand.
    pub record: Vec<u8>,
    /// What a socket has just given, for those that keep it.
    pub received: Box<[u8]>,
    /// Large buffers that nobody needs any more.
    discarded: Vec<Vec<u8>>,
    ranges: Vec<Range<usize>>,
    /// Bytes of the table that were gone over in this turn, whether anything of them is sent or not.
    passed: usize,
    /// Writes done in this turn.
    writes: u64,
    requests: u64,
    /// Whether work was taken up in this turn, and when the first piece of this or the last such turn was.
    begun: bool,
    turn_began_ns: u64,
}

/// What a connection has to do after a request, and how far the request has come if it takes several turns.
pub(super) struct Executed {
    pub effect: Effect,
    pub again: Again,
}

/// How far a request has come, and what has come of its value if that does not stand in it.
#[derive(Default)]
pub(super) struct Again {
    pub progress: u64,
    pub streamed: Option<Streamed>,
}

impl Again {
    /// Whether it can do nothing before another thread has made room for it.
    pub fn is_waiting(&self) -> bool {
        self.streamed.as_ref().is_some_and(Streamed::is_waiting)
    }
}

impl Bench {
    /// The bench of worker `index`.
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        Self {
            index,
            writer: Writer::new(Arc::clone(&shared.table)),
            connection: 0,
            shared,
            scratch: Buffer::default(),
            pairs: Pairs::default(),
            record: Vec::new(),
            received: vec![0; RECEIVE_SIZE].into(),
            discarded: Vec::new(),
            ranges: Vec::new(),
            passed: 0,
            writes: 0,
            requests: 0,
            begun: false,
            turn_began_ns: 0,
        }
    }

    /// Takes note of when the work of this turn began, if it has not begun before.
    #[inline]
    pub fn begin_turn(&mut self) {
        if !self.begun {
            self.begun = true;
            self.turn_began_ns = monotonic_ns();
        }
    }

    /// Executes a request, or goes on with one that has come as far as `again` says. The reply goes to `reply`.
    pub fn execute(
        &mut self,
        command: Command<'_>,
        reply: &mut dyn ReplyWriter,
        protocol: Protocol,
        again: Again,
    ) -> Executed {
        let Again { progress, streamed } = again;
        #[cfg(test)]
        super::tests::panic_if_asked(&command.arguments);
        self.begin_turn();
        if progress == 0 {
            self.requests += 1;
            self.writes += u64::from(command.spec.writes);
        }
        let mut context = Context {
            writer: &mut self.writer,
            scratch: &mut self.scratch,
            pairs: &mut self.pairs,
            streamed,
            reply,
            host: &*self.shared,
            connection: self.connection,
            worker: self.index,
            protocol,
            progress,
            effect: Effect::None,
            turn_ends_ns: self.turn_began_ns + limits::TURN_NS_MAX,
            passed: 0,
        };
        command::execute(&mut context, command);
        let (effect, passed) = (context.effect, context.passed);
        let again = Again { progress: context.progress, streamed: context.streamed };
        let executed = Executed { effect, again };
        self.passed += passed + self.scratch.bytes().len() + self.pairs.size();
        executed
    }

    /// Executes a request that came as a record, or goes on with it. The reply goes to the end of `outgoing`, as one.
    pub fn execute_record(&mut self, record: &[u8], outgoing: &mut Outgoing, again: Again) -> Result<Executed, End> {
        let mut ranges = std::mem::take(&mut self.ranges);
        let executed = record::decode_request(record, &mut ranges).map_err(|_| End::Record).map(|command| {
            let mut writer = RecordWriter::new(outgoing);
            let executed = self.execute(command, &mut writer, Protocol::Resp3, again);
            match executed.effect {
                Effect::Protocol(protocol) => greet(&mut writer, protocol, self.connection),
                Effect::Lane | Effect::Rings => {
                    writer.error("ERR this connection has a lane, or has joined the rings, already");
                }
                Effect::Watch => writer.error("ERR a watch is a connection of its own: ask for it on a new one"),
                Effect::Pins if self.shared.topology == Topology::Lanes => writer.ok(),
                Effect::Pins => writer.error(NO_PINS),
                _ => {}
            }
            writer.finish();
            executed
        });
        self.ranges = ranges;
        executed
    }

    /// Takes a buffer that nobody needs any more, and of which no more than the first `touched` bytes were ever
    /// written. Its memory is given back in steps.
    pub fn discard(&mut self, mut buffer: Vec<u8>, touched: usize) {
        // Behind them there are only addresses, which cost nothing.
        buffer.clear();
        buffer.shrink_to(touched);
        if buffer.capacity() > DISCARDED_AT_ONCE {
            self.discarded.push(buffer);
        }
    }

    /// Frees some of what those have left behind who are gone. Returns whether there is more.
    #[inline]
    fn tend_left_behind(&mut self) -> bool {
        let leases = &self.shared.leases;
        (leases.has_ended() && leases.tend()) | self.give_discarded_back(DISCARDED_AT_ONCE)
    }

    /// Makes room for `size` bytes that were received, out of what was discarded, twice as much: so clients cannot have
    /// buffers discarded faster than they are given back.
    #[inline]
    pub fn make_up_for(&mut self, size: usize) {
        self.give_discarded_back(2 * size);
    }

    /// The same of many buffers that are much together.
    pub fn discard_all(&mut self, buffers: impl Iterator<Item = Vec<u8>>) {
        self.discarded.extend(buffers);
    }

    /// Gives so many bytes of discarded buffers back. Returns whether there is more.
    #[inline]
    fn give_discarded_back(&mut self, share: usize) -> bool {
        !self.discarded.is_empty() && self.cut_discarded(share)
    }

    #[cold]
    fn cut_discarded(&mut self, mut share: usize) -> bool {
        while share > 0
            && let Some(buffer) = self.discarded.last_mut()
        {
            // Of large allocations this cuts the end off, which is all that costs time: a page fault's worth per page.
            let size = buffer.capacity();
            let rest = size.saturating_sub(share);
            share -= size - rest;
            buffer.truncate(rest);
            buffer.shrink_to(rest);
            if rest == 0 {
                self.discarded.pop();
            }
        }
        !self.discarded.is_empty()
    }

    pub fn statistics(&self) -> &WorkerStatistics {
        &self.shared.statistics.workers[self.index]
    }

    /// Whether the client whose turn it is has had its share, after so many requests and so many bytes of them.
    #[inline]
    pub fn is_turn_over(&self, requests: usize, bytes: usize) -> bool {
        requests >= limits::TURN_REQUESTS_MAX
            || bytes + self.passed >= limits::TURN_BYTES_MAX
            || self.begun
                && requests.is_multiple_of(limits::TURN_REQUESTS_PER_CLOCK)
                && monotonic_ns() - self.turn_began_ns >= limits::TURN_NS_MAX
    }

    /// Ends a turn: counts what was done in it.
    pub fn end_turn(&mut self) {
        if !self.begun {
            return;
        }
        self.begun = false;
        self.statistics().requests.fetch_add(self.requests, Ordering::Relaxed);
        if self.writes > 0 {
            self.statistics().record_writes(monotonic_ns() - self.turn_began_ns, self.writes);
        }
        (self.requests, self.writes, self.passed) = (0, 0, 0);
        if self.pairs.capacity() > BUFFER_KEPT_MAX {
            self.pairs = Pairs::default();
        }
        if self.record.capacity() > BUFFER_KEPT_MAX {
            let record = std::mem::take(&mut self.record);
            let touched = record.capacity();
            self.discard(record, touched);
        }
    }
}

enum Connection {
    /// Has been given a lane, and has not sealed it yet.
    Offered(Box<Offer>),
    Lane(Box<LaneClient>),
    Socket(Box<SocketClient>),
    /// A member of the exchange: its number, and the sign of its life.
    Member(u16, Arc<Socket>),
    Watch(Box<WatchClient>),
    /// Served no more; its views keep entries in place.
    Lingering(Lingering),
}

impl Connection {
    /// Whether it keeps more memory for what follows than an idle client shall.
    fn keeps_much(&self) -> bool {
        let kept = match self {
            Self::Lane(lane) => lane.kept(),
            Self::Socket(socket) => socket.kept(),
            _ => 0,
        };
        kept > limits::IDLE_BUFFER_MAX
    }

    /// Whether it can do nothing before another thread has made room for its request.
    fn is_waiting(&self) -> bool {
        match self {
            Self::Lane(lane) => lane.is_waiting(),
            Self::Socket(socket) => socket.is_waiting(),
            _ => false,
        }
    }
}

struct Client {
    connection: Connection,
    /// The number of the connection, which stays when it is upgraded.
    number: u64,
    hot: bool,
    idle_rounds: u32,
    /// Turns with work since the last one without.
    streak: u32,
    /// The window in which it was last active.
    window: u64,
    /// Whether it is among those that keep large buffers, and whether it has worked since that was last looked at.
    keeps_much: bool,
    has_worked: bool,
}

impl Client {
    /// Takes note of a turn with work.
    fn note_work(&mut self) {
        self.idle_rounds = 0;
        self.has_worked = true;
        self.streak = self.streak.saturating_add(1);
    }
}

/// A place for a client; `serial` tells later users of the place apart in events that come late.
#[derive(Default)]
struct Place {
    serial: u32,
    client: Option<Client>,
}

/// What an event is about, packed into its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Mailbox,
    /// The queue of the exchange.
    Queue,
    Socket {
        place: usize,
        serial: u32,
    },
    Bell {
        place: usize,
        serial: u32,
    },
}

impl Source {
    fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Self::Mailbox => u64::MAX,
            Self::Queue => u64::MAX - 1,
            Self::Socket { place, serial } => (place as u64) << 33 | u64::from(serial) << 1,
            Self::Bell { place, serial } => (place as u64) << 33 | u64::from(serial) << 1 | 1,
        })
    }

    fn unpack(data: EventData) -> Self {
        let token = data.u64();
        let (place, serial) = ((token >> 33) as usize, (token >> 1) as u32);
        match token {
            u64::MAX => Self::Mailbox,
            _ if token == u64::MAX - 1 => Self::Queue,
            _ if token & 1 == 0 => Self::Socket { place, serial },
            _ => Self::Bell { place, serial },
        }
    }
}

/// The thread's state.
pub(super) struct Worker {
    bench: Bench,
    /// In a classic topology.
    station: Option<Station>,
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
    /// The same in the middle of a long round.
    courtesies: Yields,
    /// What we last published of ourselves.
    published: u64,
    crowded: bool,
    window: u64,
    window_started_ns: u64,
    active_in_window: u64,
    active: u64,
    /// When the limbo was last looked at.
    limbo_looked_ns: u64,
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = Descriptor::make(|| epoll::create(epoll::CreateFlags::CLOEXEC))?;
        let mailbox = &shared.workers[index];
        watch(&epoll, &mailbox.bell, Source::Mailbox.pack(), EventFlags::IN | EventFlags::ET)?;
        let exchange = shared.topology.exchange_of(index, &shared.exchanges);
        if let Some(exchange) = &exchange {
            // One of the workers that share the bell is enough.
            let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
            watch(&epoll, &exchange.bell, Source::Queue.pack(), flags)?;
        }
        Ok(Self {
            station: exchange.map(|exchange| Station::new(exchange, index)),
            bench: Bench::new(index, shared),
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
            courtesies: Yields::default(),
            published: 0,
            crowded: false,
            window: 0,
            window_started_ns: 0,
            active_in_window: 0,
            active: 0,
            limbo_looked_ns: 0,
        })
    }

    /// The event loop, until the server stops.
    pub fn run(mut self) {
        // Acquire: pairs with the Release in `Shared::stop`.
        while !self.bench.shared.stopping.load(Ordering::Acquire) {
            let now = monotonic_ns();
            self.observe(now);
            self.look_after(now);
            self.attended_ns = now;
            if self.serve_hot() | self.serve_station(now) {
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
        for place in 0..self.places.len() {
            self.end(place, End::Stopped);
        }
        self.bench.writer.release();
    }

    /// Does what is due though nobody asks for it. Returns for how long we may sleep if nobody wakes us.
    fn look_after(&mut self, now: u64) -> Option<Duration> {
        let idle = self.tend_idle(now);
        let Self { bench, limbo_looked_ns, .. } = self;
        bench.writer.heed_recall();
        let naps = [
            housekeeping::tend(&bench.shared, &mut bench.writer, now),
            pins::tend_limbo(&mut bench.writer, limbo_looked_ns),
            idle,
            bench.shared.leases.tend_handovers(now).map(Duration::from_nanos),
        ];
        if bench.tend_left_behind() { Some(Duration::ZERO) } else { naps.into_iter().flatten().min() }
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
        let Self { bench, places, keeping, .. } = self;
        keeping.retain(|&place| {
            let Some(client) = &mut places[place].client else { return false };
            if std::mem::take(&mut client.has_worked) {
                return true;
            }
            match &mut client.connection {
                Connection::Lane(lane) => lane.let_go(),
                Connection::Socket(socket) => socket.let_go(bench),
                _ => {}
            }
            client.keeps_much = client.connection.keeps_much();
            client.keeps_much
        });
        (!keeping.is_empty()).then(|| Duration::from_nanos(limits::IDLE_NS))
    }

    /// Keeps up to date what we say of ourselves.
    fn observe(&mut self, now: u64) {
        if now - self.window_started_ns >= WINDOW_NS {
            // A window that lasted longer was slept through.
            let fresh = now - self.window_started_ns < 2 * WINDOW_NS;
            self.active = if fresh { self.active_in_window } else { 0 };
            self.active_in_window = 0;
            self.window += 1;
            self.window_started_ns = now;
            let now_ms = now / 1_000_000;
            let wanted = if self.active > 0 { self.active + 1 } else { 0 };
            let mailboxes = &self.bench.shared.workers;
            mailboxes[self.bench.index].activity.store(now_ms << 16 | wanted.min(0xffff), Ordering::Relaxed);
            let recent = |activity: u64| if now_ms.saturating_sub(activity >> 16) <= 4 { activity & 0xffff } else { 0 };
            let all: u64 = mailboxes.iter().map(|mailbox| recent(mailbox.activity.load(Ordering::Relaxed))).sum();
            self.crowded = all > self.bench.shared.cpus as u64;
        }
        self.publish(false);
    }

    fn publish(&mut self, asleep: bool) {
        let state = State { asleep, crowded: self.crowded, cpu: current_cpu() }.pack();
        if state != self.published {
            self.published = state;
            // Relaxed: a hint for spinners, see `ring::wait`.
            let words = self.bench.shared.table.memory().words();
            words[H_WORKER_STATES + self.bench.index * STRIDE].store(state, Ordering::Relaxed);
            self.bench.shared.workers[self.bench.index].asleep.store(asleep, Ordering::Relaxed);
        }
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
            if self.bench.turn_began_ns > self.attended_ns + ATTEND_NS {
                self.attended_ns = self.bench.turn_began_ns;
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
        let mut served = false;
        for index in 0..self.hot.len() {
            let place = self.hot[index];
            let Some(client) = &mut self.places[place].client else { continue };
            let asks = match &client.connection {
                Connection::Lane(lane) => lane.has_news(),
                Connection::Socket(socket) => socket.has_news(),
                _ => false,
            };
            if !asks {
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
            // Who was rung may have been put on this very processor, and waits for the end of our time slice otherwise.
            self.courtesies.once(monotonic_ns);
        }
    }

    /// Serves the members of the exchange, if there is one. Returns whether there was anything to do.
    fn serve_station(&mut self, now: u64) -> bool {
        let Some(station) = &mut self.station else { return false };
        let mut active = 0;
        let worked = station.serve(&mut self.bench, now, self.window, &mut active);
        self.count_active(active);
        worked
    }

    /// Takes into account clients that are active for the first time in this window.
    fn count_active(&mut self, clients: u64) {
        self.active_in_window += clients;
        if self.active_in_window > self.active {
            self.active = self.active_in_window;
            self.crowded |= self.active + 1 > self.bench.shared.cpus as u64;
        }
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
                Ok(true) => drop(self.bench.statistics().rings.fetch_add(1, Ordering::Relaxed)),
                Err(end) => self.end(place, end),
            }
        }
        self.served = served;
        if self.bench.writer.take_published() {
            let rung = self.bench.shared.watchers.ring_sleepers();
            self.bench.statistics().rings.fetch_add(rung, Ordering::Relaxed);
        }
    }

    /// One turn of one client, which may be its last. Returns whether there was anything to do.
    fn turn(&mut self, place: usize) -> bool {
        let Some(client) = self.places[place].client.as_mut() else { return false };
        self.bench.connection = client.number;
        let turn = match &mut client.connection {
            Connection::Lane(lane) => lane.turn(&mut self.bench),
            Connection::Socket(socket) => socket.turn(&mut self.bench),
            Connection::Member(_, socket) => check_silent(socket).map(|()| Turn::Idle),
            Connection::Offered(_) | Connection::Watch(_) => Ok(Turn::Idle), // it asks nothing
            Connection::Lingering(lingering) => lingering.check().map(|()| Turn::Idle),
        };
        self.bench.end_turn();
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
                if client.window != self.window {
                    client.window = self.window;
                    self.count_active(1);
                }
            }
            Ok(Turn::Upgrade(effect)) => self.upgrade(place, effect),
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
        let cpu = self.published >> 8;
        !self.crowded
            && now - self.last_work_ns < self.pauses.spin_limit_ns(self.bench.shared.spin_ns)
            && (self.lanes().any(|lane| lane.client_state().worth_spinning(cpu))
                || self.station.as_ref().is_some_and(|station| station.is_member_awake(cpu, false)))
    }

    /// Whether giving way may pay: in a crowd, or to a client on our own processor.
    fn may_yield(&self, now: u64) -> bool {
        let lately = now - self.last_work_ns < self.bench.shared.spin_ns;
        let is_anybody_awake = || {
            self.lanes().any(|lane| !lane.client_state().asleep)
                || self.station.as_ref().is_some_and(|station| station.is_member_awake(0, true))
        };
        self.crowded || lately && is_anybody_awake()
    }

    /// Whether a client has published something. A hint: its turn looks properly.
    fn has_news(&self) -> bool {
        self.lanes().any(LaneClient::has_news) || self.station.as_ref().is_some_and(Station::has_news)
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
        let news = yields.until(self.bench.shared.spin_ns, monotonic_ns, || self.has_news());
        self.yields = yields;
        news
    }

    fn lanes(&self) -> impl Iterator<Item = &LaneClient> {
        self.hot.iter().filter_map(|&place| match &self.places[place].client {
            Some(Client { connection: Connection::Lane(lane), .. }) => Some(&**lane),
            _ => None,
        })
    }

    /// Sleeps until a doorbell or a socket wakes us, unless something came at the last moment.
    fn sleep(&mut self) {
        self.publish(true);
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
        if let Some(station) = &self.station {
            worked |= !station.announce_sleep();
            limit = if station.is_restless() { Some(NAP) } else { limit };
        }
        if !worked {
            // For others, who may need it more while we sleep.
            self.bench.writer.release();
            self.poll(limit);
            self.bench.statistics().wakeups.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(station) = &self.station {
            station.announce_awake();
        }
        self.publish(false);
    }

    /// Takes events from the kernel, waiting for them until there are some, or for at most `limit`.
    fn poll(&mut self, limit: Option<Duration>) {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; EVENTS_MAX];
        let timeout = limit.map(timespec);
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else { return };
        for event in events.iter() {
            match Source::unpack(event.data) {
                Source::Mailbox => {
                    self.take_arrivals();
                    for place in std::mem::take(&mut self.waiting) {
                        self.heat(place);
                    }
                }
                Source::Queue => {} // we look at it anyway
                Source::Bell { place, serial } if self.is_current(place, serial) => self.answer_bell(place),
                Source::Socket { place, serial } if self.is_current(place, serial) => {
                    let alive = match self.places[place].client.as_mut().map(|client| &mut client.connection) {
                        Some(Connection::Socket(socket)) => {
                            socket.notice(event.flags);
                            Ok(())
                        }
                        Some(Connection::Offered(offer)) => offer.check_socket(),
                        Some(Connection::Lane(lane)) => lane.check_socket(),
                        Some(Connection::Member(_, socket)) => check_silent(socket),
                        Some(Connection::Watch(watch)) => watch.check_socket(),
                        Some(Connection::Lingering(lingering)) => lingering.check(),
                        None => Ok(()),
                    };
                    if let Err(end) = alive {
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
                (Connection::Lane(Box::new(LaneClient::new(*offer, &self.bench.shared))), true)
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
        let arrivals = std::mem::take(&mut *lock(&self.bench.shared.workers[self.bench.index].arrivals));
        for socket in arrivals {
            let place = self.free.pop().unwrap_or_else(|| {
                self.places.push(Place::default());
                self.places.len() - 1
            });
            failpoint!("accept.taken");
            let serial = self.places[place].serial;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            let source = Source::Socket { place, serial }.pack();
            let watched = watch(&self.epoll, &socket, source, flags);
            if let Err(error) = &watched {
                tell_failure(&socket, "watch another connection", error);
            }
            let connection = Connection::Socket(Box::new(SocketClient::new(socket)));
            let number = self.bench.shared.leases.new_connection();
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
            if watched.is_err() {
                self.end(place, End::Memory);
            }
        }
    }

    /// Turns a socket client into one with a lane, a member of the exchange, or one that is told of changes.
    fn upgrade(&mut self, place: usize, to: Effect) {
        let Place { serial, client: Some(client) } = &mut self.places[place] else { return };
        let Connection::Socket(socket) = &mut client.connection else { return };
        let (serial, index) = (*serial, self.bench.index);
        let Some(given_up) = socket.give_up_socket() else { return };
        let upgraded = match (&self.station, to) {
            (Some(station), Effect::Rings) => {
                let socket = Arc::new(given_up);
                let joined = station.exchange.join(&socket, client.number, &self.bench.shared);
                joined.map(|number| client.connection = Connection::Member(number, socket))
            }
            (_, Effect::Watch) => {
                let watch = WatchClient::create(given_up, &self.bench.shared, &mut self.bench.writer);
                watch.map(|watch| client.connection = Connection::Watch(Box::new(watch)))
            }
            _ => {
                let (epoll, source) = (&self.epoll, Source::Bell { place, serial }.pack());
                let watched = |bell: &Doorbell| watch(epoll, bell, source, EventFlags::IN | EventFlags::ET);
                Offer::make(given_up, index, &self.bench.shared, watched).map(|offer| {
                    self.bench.shared.statistics.lanes.fetch_add(1, Ordering::Relaxed);
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
    fn drop_pins(&mut self, board: BoardId) {
        self.bench.shared.table.reclaimer().unregister(board);
        self.bench.writer.rescan();
    }

    /// Ends a connection.
    fn end(&mut self, place: usize, end: End) {
        if end == End::Gone && self.is_offered(place) {
            // Its ring may be among the events that we have not come to, and a request of its behind it.
            self.take_into_service(place);
        }
        let Some(client) = self.places[place].client.take() else { return };
        let (shared, number) = (Arc::clone(&self.bench.shared), client.number);
        let has_reservation = matches!(&client.connection, Connection::Socket(socket) if socket.has_reservation());
        if let Connection::Lane(mut lane) = client.connection {
            if end == End::Gone {
                failpoint!("end.noticed");
                self.bench.connection = number;
                let more = lane.execute_rest(&mut self.bench);
                self.bench.end_turn();
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
            lane.drop_unfinished(&mut self.bench);
            shared.leases.end(number);
            shared.statistics.lanes.fetch_sub(1, Ordering::Relaxed);
            // Counted before it is told: who has heard of its end finds it in the figures.
            shared.statistics.count_end(end);
            failpoint!("end.counted");
            lane.say_goodbye(end);
            match (end, lane.board) {
                (End::Gone | End::Stopped, Some(board)) => self.drop_pins(board),
                (_, Some(_)) => {
                    // Its views live on, until its own end of the socket is closed.
                    let connection = lane.linger().map(Connection::Lingering);
                    self.places[place].client = connection.map(|connection| Client { connection, ..client });
                    return;
                }
                // To close what is dear to wake takes long.
                (End::Dear, None) => shared.returning.close(lane),
                (_, None) => {}
            }
        } else if let Connection::Offered(offer) = client.connection {
            let _ = epoll::delete(&self.epoll, offer.request_bell().as_fd());
            shared.leases.end(number);
            shared.statistics.lanes.fetch_sub(1, Ordering::Relaxed);
            shared.statistics.count_end(end);
            offer.say_goodbye(end);
        } else if let Connection::Lingering(lingering) = &client.connection {
            self.drop_pins(lingering.board);
        } else if let (Connection::Member(number, _), Some(station)) = (&client.connection, &mut self.station) {
            if end == End::Gone {
                station.depart(*number, &shared);
            } else {
                // It keeps its seat until its own end of the socket is closed.
                station.exchange.retire_number(*number, end, &shared);
                if end != End::Stopped {
                    self.places[place].client = Some(client);
                    return;
                }
            }
        } else {
            shared.leases.end(number);
            shared.statistics.count_end(end);
            match client.connection {
                Connection::Socket(mut socket) => {
                    socket.drop_unfinished(&mut self.bench);
                    if end == End::Dear {
                        shared.returning.close(Box::new(socket.give_up_socket()));
                    }
                }
                Connection::Watch(watch) => watch.say_goodbye(end),
                _ => {}
            }
        }
        // Replies that have not gone held their values.
        self.bench.writer.rescan();
        self.places[place].serial = self.places[place].serial.wrapping_add(1);
        self.free.push(place);
        shared.workers[self.bench.index].clients.fetch_sub(usize::from(!has_reservation), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_who_is_meant() {
        for source in [
            Source::Mailbox,
            Source::Queue,
            Source::Socket { place: 0, serial: 0 },
            Source::Bell { place: 1 << 20, serial: u32::MAX },
            Source::Socket { place: 77, serial: 5 },
        ] {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }
}
