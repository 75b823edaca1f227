//! The session of a client that speaks RESP, whatever carries its bytes: requests as they arrive, how far the one in
//! hand has come, and replies on their way.
//!
//! It neither receives nor sends. Its transport feeds it ([`RespSession::take`]), has it go on
//! ([`RespSession::advance`]), and takes the replies from [`RespSession::outgoing`].
//!
//! A reply that comes later ([`crate::command::pending`]) is a push in version 3. In version 2 there is none, and the
//! session is *parked*: it executes nothing until it is told. What comes meanwhile waits as it does when replies find
//! no room ([`super::backlog`]).

use super::backlog::{Backlog, TooMuch};
use super::buffers::{self, KEPT_MAX, RECEIVE_SIZE};
use super::end::End;
use super::executor::{Again, Executor};
use super::inflow::{Begin, Inflow};
use super::outgoing::Outgoing;
use super::request_memory::RequestMemory;
use super::reserved::Reservation;
use super::socket::Abilities;
use super::topology::Topology;
use crate::command::arguments::Arguments;
use crate::command::connection::{NO_PINS, greet};
use crate::command::protocol::Protocol;
use crate::command::reply::ReplyWriter;
use crate::command::resp::{Parsed, RequestLimits, RequestParser, RespWriter};
use crate::command::spec::Flag;
use crate::command::transaction::Transaction;
use crate::command::{self, Command, ConnectionChange, Flow, Order, Streamed, Upgrade, pending};
use crate::limits;
use crate::sync::{Arc, Ordering};

/// What one step of a session came to.
pub(super) enum Step {
    /// It needs more bytes.
    Hungry,
    /// The request that is arriving is not complete, after all the bytes that there are.
    Incomplete,
    /// A request begins to flow past, or what arrived was none: go on.
    Flowing,
    /// A request was executed.
    Executed,
    /// One is done that had been begun before.
    Finished,
    /// A request needs further turns, or so does reading it.
    Paused,
    /// The client asks for another kind of connection, and may have it.
    Upgrade(Upgrade),
}

/// What the server has of the client.
pub(super) struct RespSession {
    /// What its connection can do.
    abilities: Abilities,
    /// The reserved place, if it has that.
    reservation: Option<Reservation>,
    parser: RequestParser,
    /// Requests as they arrive, from `parsed` on.
    incoming: Vec<u8>,
    /// The most bytes that it has had since it was made.
    touched: usize,
    parsed: usize,
    /// Bytes of it that count as unfinished requests: all, if they are many.
    counted: usize,
    /// What has come behind that, while replies found no room, or it was parked.
    backlog: Backlog,
    /// Whether the parser has seen all of `incoming` and wants more.
    hungry: bool,
    /// Bytes of the request that the parser has completed last.
    request_size: usize,
    /// Room that is being made for a large value, and where that stands in its request.
    order: Option<(Arc<Order>, usize)>,
    /// A large value that flows past the rest of its request, and where it would stand in it.
    inflow: Option<(Inflow, usize)>,
    /// The same once all of it has come.
    streamed: Option<Streamed>,
    /// How far the request has come that the parser has completed and that takes several turns.
    again: Option<Again>,
    /// The ticket of the answer that it is parked for.
    parked: Option<u64>,
    pub outgoing: Outgoing,
    protocol: Protocol,
    transaction: Transaction,
    closing: bool,
    reason: End,
}

impl RespSession {
    /// A session over a connection that can do so much, perhaps in the reserved place.
    pub fn new(abilities: Abilities, reservation: Option<Reservation>) -> Self {
        Self {
            abilities,
            reservation,
            parser: RequestParser::new(RequestLimits {
                arguments_max: limits::ARGUMENTS_MAX,
                arguments_at_once: limits::TURN_ARGUMENTS_MAX,
                argument_size_max: limits::VALUE_SIZE_MAX,
                inline_size_max: limits::INLINE_SIZE_MAX,
                large_value_size: limits::LARGE_VALUE_SIZE,
            }),
            incoming: Vec::new(),
            touched: 0,
            parsed: 0,
            counted: 0,
            backlog: Backlog::default(),
            hungry: true,
            request_size: 0,
            order: None,
            inflow: None,
            streamed: None,
            again: None,
            parked: None,
            outgoing: Outgoing::default(),
            protocol: Protocol::Resp2,
            transaction: Transaction::default(),
            closing: false,
            reason: End::Quit,
        }
    }

    /// Whether there is something to do without anything that comes. A hint: the turn looks properly.
    pub fn has_news(&self) -> bool {
        !self.hungry || !self.backlog.is_empty()
    }

    /// Whether no further request may be executed now: replies have to go first, or it is parked.
    pub fn is_held_up(&self) -> bool {
        self.closing || self.is_parked() || self.outgoing.len() >= limits::REPLY_BACKLOG_MAX
    }

    /// Whether it does nothing before it is told.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Gives the client the answer with this ticket. Returns whether it gets it.
    pub fn tell(&mut self, ticket: u64, answer: Option<u64>) -> bool {
        if self.closing {
            return false;
        }
        if self.parked == Some(ticket) {
            self.parked = None;
        } else if self.protocol == Protocol::Resp3 {
            pending::announce(&mut self.writer(), ticket);
        } else {
            // It has said meanwhile that it knows no pushes.
            return false;
        }
        pending::answer(&mut self.writer(), answer);
        true
    }

    /// Whether it has the reserved place.
    pub fn has_reservation(&self) -> bool {
        self.reservation.is_some()
    }

    /// Why the connection ends once all replies have gone, if it does.
    pub fn closing(&self) -> Option<End> {
        self.closing.then_some(self.reason)
    }

    /// Has the connection end once all replies have gone.
    pub fn close(&mut self, reason: End) {
        (self.closing, self.reason, self.parked) = (true, reason, None);
    }

    /// The same, with an error as the last reply.
    pub fn fail(&mut self, words: &str, reason: End) {
        self.writer().error(words);
        self.close(reason);
    }

    /// Goes on: with the request that was begun, or the next one.
    pub fn advance(&mut self, executor: &mut Executor) -> Step {
        if let Some(again) = self.again.take() {
            self.execute(executor, again);
            return if self.again.is_some() { Step::Paused } else { Step::Finished };
        }
        if let Some((order, start)) = self.order.take() {
            self.begin_inflow(Begin::of_order(&order, executor), start);
        }
        if self.hungry {
            return Step::Hungry;
        }
        if !self.let_value_flow() {
            return Step::Flowing;
        }
        match self.parser.parse(&self.incoming[self.parsed..]) {
            Ok(Parsed::Incomplete { .. }) => {
                self.hungry = true;
                Step::Incomplete
            }
            Ok(Parsed::Paused) => Step::Paused,
            Ok(Parsed::LargeValue { key, start, size }) => {
                // Nothing is evicted, nor gathered, for what will be refused whatever it is.
                let begin = if self.transaction.is_begun() || self.has_reservation() {
                    Begin::nowhere(size)
                } else {
                    Begin::with(executor, &self.incoming[self.parsed..][key], size)
                };
                self.begin_inflow(begin, start);
                Step::Flowing
            }
            Ok(Parsed::Complete { size }) => {
                self.request_size = size;
                let streamed = self.streamed.take();
                let upgrade = self.execute(executor, Again { streamed, ..Again::default() });
                if self.again.is_some() {
                    return Step::Paused;
                }
                if let Some(upgrade) = upgrade {
                    match self.upgrade_obstacle(upgrade, executor.engine.topology) {
                        None => return Step::Upgrade(upgrade),
                        Some(obstacle) => self.writer().error(obstacle),
                    }
                }
                Step::Executed
            }
            Err(error) => {
                self.fail(&format!("ERR {error}"), End::Protocol);
                Step::Flowing
            }
        }
    }

    /// Why the connection cannot be upgraded now, to become the sign of life of a lane, a member of the rings or a
    /// watch.
    fn upgrade_obstacle(&self, upgrade: Upgrade, topology: Topology) -> Option<&'static str> {
        if !self.abilities.passes_descriptors {
            Some("ERR lanes, rings and watches need a unix socket, since TCP cannot pass descriptors: use the path")
        } else if self.parsed < self.incoming.len() || !self.backlog.is_empty() || !self.outgoing.is_empty() {
            Some("ERR RING.LANE, RING.RINGS and RING.WATCH have to wait for the replies to what was sent before them")
        } else if upgrade == Upgrade::Lane && topology != Topology::Lanes {
            Some("TOPOLOGY this server's clients share rings: join them with RING.RINGS")
        } else if upgrade == Upgrade::Rings && topology == Topology::Lanes {
            Some("TOPOLOGY this server gives each client a lane: ask for one with RING.LANE")
        } else {
            None
        }
    }

    fn writer(&mut self) -> RespWriter<'_, Outgoing> {
        RespWriter::new(&mut self.outgoing, self.protocol)
    }

    /// Executes the request that the parser has just completed, or goes on with it. Returns what kind of connection the
    /// client asks for, if it does.
    fn execute(&mut self, executor: &mut Executor, again: Again) -> Option<Upgrade> {
        let mut upgrade = None;
        if let Some((name, ranges)) = self.parser.arguments().split_first() {
            let bytes = &self.incoming[self.parsed..];
            let (name, arguments) = (&bytes[name.clone()], Arguments::new(bytes, ranges));
            let mut writer = RespWriter::new(&mut self.outgoing, self.protocol);
            let known = command::find(name);
            if self.reservation.is_none()
                && let Some(answer) = self.transaction.answer(known)
            {
                match answer {
                    Ok(status) => writer.status(status),
                    Err(error) => writer.error(error),
                }
            } else if self.parser.is_inline() && known.is_some() && arguments.iter().last().is_some_and(is_http_version)
            {
                writer.error("ERR Protocol error: this is no HTTP server");
                self.close(End::Protocol);
            } else if let Some(reservation) = &self.reservation
                && !known.is_some_and(|spec| spec.has(Flag::WhenFull))
            {
                executor.statistics.clients_refused.fetch_add(1, Ordering::Relaxed);
                writer.error(&reservation.refusal);
                self.close(End::Full);
            } else if let Some(spec) = known {
                let command = Command { spec, arguments };
                let executed = executor.engine.execute(command, &mut writer, self.protocol, again);
                failpoint!("socket.executed");
                let durable = executed.durable;
                match executed.flow {
                    Flow::Next => {}
                    Flow::Close => self.closing = true,
                    Flow::Again => {
                        // Its bytes are needed again.
                        self.again = Some(executed.again);
                        return None;
                    }
                }
                match executed.change {
                    None => {}
                    Some(ConnectionChange::Protocol(protocol)) => {
                        self.protocol = protocol;
                        greet(&mut self.writer(), protocol, executor.engine.connection, executor.engine.table_id());
                    }
                    Some(ConnectionChange::Pins) => self.writer().error(NO_PINS),
                    Some(ConnectionChange::Upgrade(kind)) => upgrade = Some(kind),
                    Some(ConnectionChange::Pending(ticket)) if self.protocol == Protocol::Resp2 => {
                        self.parked = Some(ticket);
                    }
                    Some(ConnectionChange::Pending(ticket)) => pending::postpone(&mut self.writer(), ticket),
                }
                if let Some(durable) = durable {
                    self.outgoing.wait_for(durable);
                }
            } else if self.parser.is_inline() {
                let words = command::unknown(name).0;
                writer.error(&format!("{words} in a plain line: the connection ends"));
                self.close(End::Protocol);
            } else {
                writer.error(&command::unknown(name).0);
            }
        }
        self.parsed += self.request_size;
        upgrade
    }

    /// Whether it can do nothing before another thread has done something, which rings for the worker: has made room
    /// for its next request, or has brought what it has written to the disk.
    pub fn is_waiting(&self) -> bool {
        self.has_to_wait() || self.outgoing.is_held_back()
    }

    /// Whether its next request has to wait for another thread.
    pub fn has_to_wait(&self) -> bool {
        self.again.as_ref().is_some_and(Again::is_waiting)
            || self.order.as_ref().is_some_and(|(order, _)| !order.is_done())
    }

    /// Takes note of where a large value goes, which stands at `start` in its request.
    fn begin_inflow(&mut self, begin: Begin, start: usize) {
        match begin {
            Begin::Flow(inflow) => self.inflow = Some((inflow, start)),
            Begin::Gather => {}
            Begin::Wait(order) => self.order = Some((order, start)),
        }
    }

    /// Takes what has come of a large value out of the request. Returns whether there is anything for the parser.
    fn let_value_flow(&mut self) -> bool {
        let Some((inflow, start)) = &mut self.inflow else { return true };
        let start = self.parsed + *start;
        let end = self.incoming.len().min(start + inflow.missing());
        inflow.take(&self.incoming[start..end]);
        self.incoming.drain(start..end);
        let complete = inflow.missing() == 0;
        if complete {
            self.parser.leave_out();
            self.streamed = self.inflow.take().map(|(inflow, _)| inflow.finish());
        }
        self.hungry = !complete;
        complete
    }

    /// Whether bytes wait that have come before.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Makes room for what comes: what has been parsed goes.
    pub fn make_room(&mut self, executor: &mut Executor) -> Result<(), End> {
        self.count(self.incoming.len() - self.parsed, &executor.store.requests)?;
        self.incoming.drain(..self.parsed);
        self.parsed = 0;
        if self.incoming.is_empty() && self.incoming.capacity() > KEPT_MAX {
            executor.discarded.put(std::mem::take(&mut self.incoming), std::mem::take(&mut self.touched));
        }
        if self.incoming.len() > limits::REQUEST_SIZE_MAX { Err(End::Memory) } else { Ok(()) }
    }

    /// Takes what waits of what has come before, or else the first `received` bytes of what the executor has received.
    /// Returns how many bytes.
    pub fn take(&mut self, received: usize, executor: &mut Executor) -> Result<usize, End> {
        let piece = self.backlog.take(&executor.store.requests);
        let more = piece.as_deref().unwrap_or(&executor.received[..received]);
        buffers::reserve(&mut self.incoming, more.len(), limits::REQUEST_SIZE_MAX).map_err(|_| End::Memory)?;
        self.incoming.extend_from_slice(more);
        self.touched = self.touched.max(self.incoming.len());
        let size = more.len();
        executor.discarded.make_up_for(size);
        self.hungry = size == 0;
        Ok(size)
    }

    /// Keeps the first `received` bytes of what the executor has received, with which nothing can be done now: many
    /// clients send all before they read.
    pub fn keep_ahead(&mut self, received: usize, executor: &mut Executor) {
        // What a client sends whose connection is about to end is dropped: it has yet to read why.
        if !self.closing
            && let Err(TooMuch) = self.backlog.put(&executor.received[..received], &executor.store.requests)
        {
            self.drop_unfinished(executor);
            let words = if self.is_parked() {
                "BACKLOG too many bytes of requests wait behind one whose answer is yet to come: read it before you \
                 send more"
            } else {
                "BACKLOG too many bytes of requests wait since the replies to those before them are not read: read \
                 replies while you send"
            };
            self.fail(words, End::Backlog);
        }
    }

    /// Bytes of memory that are kept for what follows, while nothing is under way.
    pub fn kept(&self) -> usize {
        if self.parsed == self.incoming.len() { self.incoming.capacity().max(self.outgoing.kept()) } else { 0 }
    }

    /// Lets go of large buffers that are kept.
    pub fn let_go(&mut self, executor: &mut Executor) {
        if self.parsed == self.incoming.len() {
            executor.discarded.put(std::mem::take(&mut self.incoming), std::mem::take(&mut self.touched));
            self.parsed = 0;
        }
        self.outgoing.keep(limits::IDLE_BUFFER_MAX);
    }

    /// Keeps account of large requests that are gathered; all clients' together stay bounded.
    fn count(&mut self, held: usize, memory: &RequestMemory) -> Result<(), End> {
        let held = if held > RECEIVE_SIZE { held } else { 0 };
        let before = std::mem::replace(&mut self.counted, held);
        if held == before {
            return Ok(());
        }
        let all = memory.recount(before, held);
        if held > before && memory.is_too_much_unfinished(all, held) { Err(End::Memory) } else { Ok(()) }
    }

    /// Forgets what has come and will not be executed.
    pub fn drop_unfinished(&mut self, executor: &mut Executor) {
        (self.order, self.inflow, self.streamed, self.again) = (None, None, None, None);
        let _ = self.count(0, &executor.store.requests);
        executor.discarded.put(std::mem::take(&mut self.incoming), std::mem::take(&mut self.touched));
        self.parsed = 0;
        self.backlog.clear(executor);
    }
}

/// Whether the line that ends with this word may be the first one of an HTTP request.
///
/// A web page can make its reader's browser send requests to any port of the reader's machine, and the page chooses
/// some of their lines. `GET` and `DEL` may begin one, so it is known by its end; so that nothing else of it is
/// executed, nor of other protocols, a plain line that is no command ends the connection.
fn is_http_version(word: &[u8]) -> bool {
    word.len() >= 6 && word[..5].eq_ignore_ascii_case(b"HTTP/") && word[5].is_ascii_digit()
}
