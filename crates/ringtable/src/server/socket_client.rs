//! A client that speaks RESP over its socket, as any Redis client does: a unix socket, or a TCP connection.

use std::io::IoSlice;

use rustix::event::epoll::EventFlags;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::backlog::{Backlog, TooMuch};
use super::buffers::{self, KEPT_MAX, RECEIVE_SIZE};
use super::end::End;
use super::executor::{Again, Executor};
use super::inflow::{Begin, Inflow};
use super::outgoing::Outgoing;
use super::request_memory::RequestMemory;
use super::reserved;
use super::socket::Socket;
use super::topology::Topology;
use super::turn::Turn;
use super::waking::Waking;
use crate::command::arguments::Arguments;
use crate::command::connection::{NO_PINS, greet};
use crate::command::protocol::Protocol;
use crate::command::reply::ReplyWriter;
use crate::command::resp::{Parsed, RequestLimits, RequestParser, RespWriter};
use crate::command::transaction::Transaction;
use crate::command::{self, COMMANDS, Command, Effect, Order, Streamed};
use crate::limits;
use crate::sync::{Arc, Ordering};

/// Most pieces of replies sent by one system call.
const PIECES_MAX: usize = 8;

pub(super) struct SocketClient {
    socket: Option<Socket>,
    /// What the last event said; until `recv` or `send` would block, it still holds.
    readable: bool,
    writable: bool,
    waking: Waking,
    parser: RequestParser,
    /// Requests as they arrive, from `parsed` on.
    incoming: Vec<u8>,
    /// The most bytes that it has had since it was made.
    touched: usize,
    parsed: usize,
    /// Bytes of it that count as unfinished requests: all, if they are many.
    counted: usize,
    /// What has come behind that, while replies found no room.
    backlog: Backlog,
    /// Whether nothing more will come: the client has closed its side, and may still read.
    finished: bool,
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
    outgoing: Outgoing,
    protocol: Protocol,
    transaction: Transaction,
    closing: bool,
    reason: End,
}

impl SocketClient {
    pub fn new(socket: Socket) -> Self {
        Self {
            socket: Some(socket),
            readable: true,
            writable: true,
            waking: Waking::default(),
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
            finished: false,
            hungry: true,
            request_size: 0,
            order: None,
            inflow: None,
            streamed: None,
            again: None,
            outgoing: Outgoing::default(),
            protocol: Protocol::Resp2,
            transaction: Transaction::default(),
            closing: false,
            reason: End::Quit,
        }
    }

    /// Takes note of what the kernel reports.
    pub fn notice(&mut self, flags: EventFlags) {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    /// Whether there may be something to do: something has come, or there is room for replies. A hint: the turn looks
    /// properly.
    pub fn has_news(&self) -> bool {
        if self.is_held_up() {
            self.writable || self.readable
        } else {
            self.readable || !self.hungry || !self.backlog.is_empty() || self.writable && !self.outgoing.is_empty()
        }
    }

    /// Whether no further request may be executed before replies have gone.
    fn is_held_up(&self) -> bool {
        self.closing || self.outgoing.len() >= limits::REPLY_BACKLOG_MAX
    }

    /// Whether it has the reserved place.
    pub fn has_reservation(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.reservation.is_some())
    }

    /// Gives the socket away, to become the sign of life of a lane.
    pub fn give_up_socket(&mut self) -> Option<Socket> {
        self.socket.take()
    }

    /// Serves the client for its share of time: replies first, then requests as long as their replies find room.
    pub fn turn(&mut self, executor: &mut Executor) -> Result<Turn, End> {
        let turn = self.serve(executor);
        // Who goes while we end the connection has ended for our reason.
        turn.map_err(|end| if self.closing { self.reason } else { end })
    }

    fn serve(&mut self, executor: &mut Executor) -> Result<Turn, End> {
        // What may go out in this turn.
        let mut share = limits::TURN_BYTES_MAX;
        let mut worked = self.send(&mut share)?;
        let (mut requests, mut bytes) = (0, 0);
        while !executor.is_turn_over(requests, bytes) && !self.is_held_up() {
            if self.is_waiting() {
                break;
            }
            if let Some(again) = self.again.take() {
                worked = true;
                self.execute(executor, again);
                if self.again.is_some() {
                    break;
                }
                continue;
            }
            if let Some((order, start)) = self.order.take() {
                self.begin_inflow(Begin::of_order(&order, executor), start);
            }
            if self.hungry {
                let received = self.take_more(executor)?;
                if received == 0 {
                    break;
                }
                worked = true;
                bytes += received;
                // To read a request takes time too, whether anything comes of it or not.
                executor.engine.budget.begin();
            }
            if !self.let_value_flow() {
                continue;
            }
            match self.parser.parse(&self.incoming[self.parsed..]) {
                Ok(Parsed::Incomplete { .. }) => {
                    self.hungry = true;
                    if requests > 0 {
                        break; // replies first: the next receive is for the next turn
                    }
                }
                Ok(Parsed::Paused) => {
                    worked = true;
                    break;
                }
                Ok(Parsed::LargeValue { key, start, size }) => {
                    // Nothing is evicted, nor gathered, for what will be refused whatever it is.
                    let begin = if self.transaction.is_begun() || self.has_reservation() {
                        Begin::nowhere(size)
                    } else {
                        Begin::with(executor, &self.incoming[self.parsed..][key], size)
                    };
                    self.begin_inflow(begin, start);
                }
                Ok(Parsed::Complete { size }) => {
                    worked = true;
                    requests += 1;
                    self.request_size = size;
                    let streamed = self.streamed.take();
                    let effect = self.execute(executor, Again { progress: 0, streamed });
                    if self.again.is_some() {
                        break;
                    }
                    if let Effect::Lane | Effect::Rings | Effect::Watch = effect {
                        match self.upgrade_obstacle(effect, executor.topology) {
                            None => return Ok(Turn::Upgrade(effect)),
                            Some(obstacle) => self.writer().error(obstacle),
                        }
                    }
                }
                Err(error) => {
                    self.writer().error(&format!("ERR {error}"));
                    self.closing = true;
                    self.reason = End::Protocol;
                }
            }
        }
        worked |= self.send(&mut share)?;
        if self.is_held_up() && !self.writable {
            worked |= self.receive_ahead(executor)?;
        }
        if self.outgoing.has_let_go() {
            executor.engine.writer.rescan();
        }
        if self.closing && self.outgoing.is_empty() {
            return Err(self.reason);
        }
        Ok(if worked { Turn::Worked } else { Turn::Idle })
    }

    /// Why the socket cannot be given up now, to become the sign of life of a lane, a member of the rings or a watch.
    fn upgrade_obstacle(&self, effect: Effect, topology: Topology) -> Option<&'static str> {
        if self.socket.as_ref().is_some_and(|socket| !socket.is_local) {
            Some("ERR lanes, rings and watches need a unix socket, since TCP cannot pass descriptors: use the path")
        } else if self.parsed < self.incoming.len() || !self.backlog.is_empty() || !self.outgoing.is_empty() {
            Some("ERR RING.LANE, RING.RINGS and RING.WATCH have to wait for the replies to what was sent before them")
        } else if effect == Effect::Lane && topology != Topology::Lanes {
            Some("TOPOLOGY this server's clients share rings: join them with RING.RINGS")
        } else if effect == Effect::Rings && topology == Topology::Lanes {
            Some("TOPOLOGY this server gives each client a lane: ask for one with RING.LANE")
        } else {
            None
        }
    }

    fn writer(&mut self) -> RespWriter<'_, Outgoing> {
        RespWriter::new(&mut self.outgoing, self.protocol)
    }

    /// Executes the request that the parser has just completed.
    fn execute(&mut self, executor: &mut Executor, again: Again) -> Effect {
        let Some((name, ranges)) = self.parser.arguments().split_first() else {
            self.parsed += self.request_size;
            return Effect::None;
        };
        let reservation = self.socket.as_ref().and_then(|socket| socket.reservation.as_ref());
        let bytes = &self.incoming[self.parsed..];
        let mut writer = RespWriter::new(&mut self.outgoing, self.protocol);
        let known = command::find(&bytes[name.clone()]);
        if reservation.is_none()
            && let Some(answer) = self.transaction.answer(&bytes[name.clone()])
        {
            match answer {
                Ok(status) => writer.status(status),
                Err(error) => writer.error(error),
            }
            self.parsed += self.request_size;
            return Effect::None;
        }
        let last = ranges.last().map(|last| &bytes[last.clone()]);
        let effect = match (known, reservation) {
            (Some(_), _) if self.parser.is_inline() && last.is_some_and(is_http_version) => {
                writer.error("ERR Protocol error: this is no HTTP server");
                self.reason = End::Protocol;
                Effect::Close
            }
            (_, Some(reservation))
                if !known.is_some_and(|number| reserved::answers(COMMANDS[usize::from(number)].name)) =>
            {
                executor.statistics.clients_refused.fetch_add(1, Ordering::Relaxed);
                writer.error(&reservation.refusal);
                self.reason = End::Full;
                Effect::Close
            }
            (Some(number), _) => {
                let command =
                    Command { spec: &COMMANDS[usize::from(number)], arguments: Arguments::new(bytes, ranges) };
                let executed = executor.engine.execute(command, &mut writer, self.protocol, again);
                failpoint!("socket.executed");
                self.again = (executed.effect == Effect::Again).then_some(executed.again);
                executed.effect
            }
            (None, _) if self.parser.is_inline() => {
                let words = command::unknown(&bytes[name.clone()]).0;
                writer.error(&format!("{words} in a plain line: the connection ends"));
                self.reason = End::Protocol;
                Effect::Close
            }
            (None, _) => {
                writer.error(&command::unknown(&bytes[name.clone()]).0);
                Effect::None
            }
        };
        match effect {
            Effect::Protocol(protocol) => {
                self.protocol = protocol;
                greet(&mut self.writer(), protocol, bench.connection);
            }
            Effect::Close => self.closing = true,
            // Its bytes are needed again.
            Effect::Again => return effect,
            Effect::Pins => writer.error(NO_PINS),
            Effect::None | Effect::Lane | Effect::Rings | Effect::Watch => {}
        }
        self.parsed += self.request_size;
        effect
    }

    /// Whether its next request can do nothing before another thread has made room for it, which rings for the worker.
    pub fn is_waiting(&self) -> bool {
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

    /// Gets more for the parser: what waits of what has come before, or what comes now. Returns how many bytes.
    fn take_more(&mut self, executor: &mut Executor) -> Result<usize, End> {
        self.count(self.incoming.len() - self.parsed, &executor.store.requests)?;
        // What has been parsed makes room for what comes.
        self.incoming.drain(..self.parsed);
        self.parsed = 0;
        if self.incoming.is_empty() && self.incoming.capacity() > KEPT_MAX {
            executor.discarded.put(std::mem::take(&mut self.incoming), std::mem::take(&mut self.touched));
        }
        if self.incoming.len() > limits::REQUEST_SIZE_MAX {
            return Err(End::Memory);
        }
        let piece = self.backlog.take(&executor.store.requests);
        let received = if piece.is_none() { self.receive(executor)? } else { 0 };
        let more = piece.as_deref().unwrap_or(&executor.received[..received]);
        buffers::reserve(&mut self.incoming, more.len(), limits::REQUEST_SIZE_MAX).map_err(|_| End::Memory)?;
        self.incoming.extend_from_slice(more);
        self.touched = self.touched.max(self.incoming.len());
        let size = more.len();
        executor.discarded.make_up_for(size);
        self.hungry = size == 0;
        if self.hungry && self.finished {
            // The replies to what it has sent still go to it, as far as it takes them.
            self.closing = true;
            self.reason = End::Gone;
        }
        Ok(size)
    }

    /// Receives although nothing can be done with it now: many clients send all before they read. Returns whether
    /// anything came.
    fn receive_ahead(&mut self, executor: &mut Executor) -> Result<bool, End> {
        let size = self.receive(executor)?;
        if size == 0 {
            return Ok(false);
        }
        executor.engine.budget.begin();
        // What a client sends whose connection is about to end is dropped: it has yet to read why.
        if !self.closing
            && let Err(TooMuch) = self.backlog.put(&executor.received[..size], &executor.store.requests)
        {
            self.drop_unfinished(executor);
            self.writer().error(
                "BACKLOG too many bytes of requests wait since the replies to those before them are not read: read \
                 replies while you send",
            );
            self.closing = true;
            self.reason = End::Backlog;
        }
        Ok(true)
    }

    /// Receives what has come into `executor.received`. Returns how many bytes.
    fn receive(&mut self, executor: &mut Executor) -> Result<usize, End> {
        if !self.readable {
            return Ok(0);
        }
        let Some(socket) = &self.socket else { return Ok(0) };
        let received = match socket.receive(&mut executor.received) {
            Err(End::Descriptors) if !self.closing => {
                self.writer().error("PROTOCOL this server takes no descriptors");
                (self.closing, self.reason) = (true, End::Descriptors);
                return Ok(0);
            }
            received => received?,
        };
        (self.readable, self.finished) = (received.is_some_and(|size| size > 0), received == Some(0));
        Ok(received.unwrap_or(0))
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

    /// Sends replies as far as the socket takes them, and at most `share` bytes. Returns whether any went.
    fn send(&mut self, share: &mut usize) -> Result<bool, End> {
        if self.outgoing.is_empty() || !self.writable || *share == 0 {
            return Ok(false);
        }
        let Some(socket) = &self.socket else { return Ok(false) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = if self.outgoing.is_in_pieces() {
            let mut left = *share;
            let pieces = self.outgoing.pieces().map_while(|piece| {
                let size = piece.len().min(left);
                left -= size;
                (size > 0).then(|| IoSlice::new(&piece[..size]))
            });
            let pieces: Vec<_> = pieces.take(PIECES_MAX).collect();
            let mut control = SendAncillaryBuffer::default();
            self.waking.measured(|| rustix::net::sendmsg(socket, &pieces, &mut control, flags))?
        } else {
            let next = self.outgoing.next();
            let next = &next[..next.len().min(*share)];
            self.waking.measured(|| rustix::net::send(socket, next, flags))?
        };
        match sent {
            Ok(size) => {
                self.outgoing.advance(size);
                *share -= size;
                Ok(size > 0)
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.writable = false;
                Ok(false)
            }
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(_) => Err(End::Gone),
        }
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
