//! A client with a lane, as the server sees it: everything it can write is read once, checked, then used (I4).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::inflow::{self, Begin, Inflow};
use super::outgoing::Outgoing;
use super::pins::{Lingering, PinBoard};
use super::socket::Socket;
use super::statistics::{End, tell_failure};
use super::waking::Waking;
use super::worker::{Again, Bench, Turn};
use crate::command::record;
use crate::command::{Effect, Order, Streamed};
use crate::limits;
use crate::ring::lane::{self, LANE_SIZE, Lane};
use crate::ring::spsc::{Consumer, PositionError, Producer};
use crate::ring::wait::State;
use crate::shm::descriptors;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, as_uninit};
use crate::table::hints::HintBoardId;
use crate::table::reclaim::BoardId;

/// A request whose bytes have not all arrived, or one with a large value.
struct Unfinished {
    /// Bytes of its record, but those of a value that flows past it.
    size: usize,
    /// What has come of it.
    bytes: Vec<u8>,
    stage: Stage,
}

/// How far an unfinished request has come.
enum Stage {
    /// It may be a `SET` with a large value; so many bytes tell.
    Head(usize),
    /// It is one: behind so many bytes the value begins, and these are the sizes of key and value.
    Key { end: usize, key_size: usize, value_size: usize },
    /// Room for its value is being made.
    Wait(Arc<Order>),
    /// The value flows past.
    Value(Inflow),
    /// The rest comes, for a value that has come if there is one.
    Rest(Option<Streamed>),
}

impl Unfinished {
    /// The place for up to `size` more bytes of what is gathered. Memory grows with what has arrived, never with what
    /// is announced, and all clients' together stay bounded.
    fn make_room(&mut self, size: usize, shared: &Shared) -> Result<&mut [u8], End> {
        let end = match self.stage {
            Stage::Head(end) | Stage::Key { end, .. } => end,
            Stage::Wait(_) | Stage::Value(_) | Stage::Rest(_) => self.size,
        };
        let start = self.bytes.len();
        let size = size.min(end - start);
        let all = shared.statistics.unfinished.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
        if shared.is_too_much_unfinished(all, start + size)
            || inflow::reserve(&mut self.bytes, size, self.size - start).is_err()
        {
            shared.statistics.unfinished.fetch_sub(size as u64, Ordering::Relaxed);
            return Err(End::Memory);
        }
        self.bytes.resize(start + size, 0);
        Ok(&mut self.bytes[start..])
    }

    /// Counts what was gathered no more.
    fn forget_size(&self, shared: &Shared) {
        shared.statistics.unfinished.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }

    /// Goes on to the next stage if what this one waits for is here. Returns whether all is.
    fn advance(&mut self, bench: &mut Bench) -> bool {
        loop {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Rest(None)) {
                Stage::Head(end) if self.bytes.len() == end => match record::large_set_sizes(&self.bytes) {
                    Some((key_size, value_size)) => {
                        Stage::Key { end: end + key_size.next_multiple_of(8), key_size, value_size }
                    }
                    None => Stage::Rest(None),
                },
                Stage::Key { end, key_size, value_size } if self.bytes.len() == end => {
                    let key_at = end - key_size.next_multiple_of(8);
                    let begin = Begin::with(bench, &self.bytes[key_at..key_at + key_size], value_size);
                    self.begin(begin)
                }
                Stage::Wait(order) if order.is_done() => self.begin(Begin::of_order(&order, bench)),
                Stage::Value(inflow) if inflow.missing() == 0 => Stage::Rest(Some(inflow.finish())),
                stage => {
                    let is_last = matches!(stage, Stage::Rest(_));
                    self.stage = stage;
                    return is_last && self.bytes.len() == self.size;
                }
            }
        }
    }

    /// The stage that follows when it is known where the value goes.
    fn begin(&mut self, begin: Begin) -> Stage {
        match begin {
            Begin::Flow(inflow) => {
                self.size = record::cut_value(&mut self.bytes);
                Stage::Value(inflow)
            }
            Begin::Gather => Stage::Rest(None),
            Begin::Wait(order) => Stage::Wait(order),
        }
    }

    /// Whether nothing can be done about it yet.
    fn is_waiting(&self) -> bool {
        matches!(&self.stage, Stage::Wait(order) if !order.is_done())
    }
}

/// What a lane is made of.
pub(super) struct Parts {
    segment: Segment,
    mapping: Mapping,
    request_bell: Doorbell,
    response_bell: Doorbell,
    listener: Listener,
}

impl Parts {
    /// Makes a lane to be served by `worker`.
    pub fn make(worker: usize) -> io::Result<Self> {
        let segment = Segment::create("ringtable-lane", LANE_SIZE)?;
        let mapping = segment.map_writable()?;
        // While the pages are nobody's but ours: later a fault would wait for a client that has one in the works.
        mapping.populate();
        Lane::new(mapping.words()).create(worker);
        let (request_bell, response_bell) = (Doorbell::new()?, Doorbell::new()?);
        let listener = Listener::new(&response_bell)?;
        Ok(Self { segment, mapping, request_bell, response_bell, listener })
    }
}

pub(super) struct LaneClient {
    mapping: Arc<Mapping>,
    /// Once the pins in the lane count.
    pub board: Option<BoardId>,
    /// If hints are of use.
    hints: Option<HintBoardId>,
    socket: Socket,
    /// Rung by the client; watched by the worker, never read or written here.
    request_bell: Doorbell,
    /// Rung by us; the client has it only inside an epoll instance.
    response_bell: Doorbell,
    waking: Waking,
    requests: Consumer,
    responses: Producer,
    unfinished: Option<Unfinished>,
    /// A request that takes several turns, and how far it has come.
    again: Option<(Vec<u8>, Again)>,
    /// Reply records that did not fit the ring yet.
    outgoing: Outgoing,
    closing: bool,
    /// Whether its socket is closed: what it had published is executed, and nothing else.
    gone: bool,
}

/// A lane that a client was given and has not sealed yet: nobody looks at its memory.
///
/// Through its descriptor a client could punch holes into the lane, and a worker that touches a page would wait until
/// that is done; for seconds, if the client runs only when nobody else wants to. So it has to seal the lane strictly
/// once it has mapped it, and then rings. The worker asks the kernel for the seal. It does not set it itself, as that
/// waits for who is punching.
pub(super) struct Offer {
    segment: Segment,
    mapping: Mapping,
    socket: Socket,
    request_bell: Doorbell,
    response_bell: Doorbell,
}

impl Offer {
    /// Makes a lane and passes it to the client at the other end of `socket`. The doorbell that the client rings is
    /// given to `watch` before.
    pub fn make(
        socket: Socket,
        worker: usize,
        shared: &Shared,
        watch: impl FnOnce(&Doorbell) -> io::Result<()>,
    ) -> io::Result<Self> {
        let made = (|| -> io::Result<_> {
            let Parts { segment, mapping, request_bell, response_bell, listener } = Parts::make(worker)?;
            watch(&request_bell)?;
            let lane = segment.descriptor();
            let passed = [shared.table_to_pass().as_fd(), lane.as_fd(), request_bell.as_fd(), listener.as_fd()];
            failpoint!("join.made");
            descriptors::send_all(&socket, b"+LANE\r\n", &passed)?;
            drop(lane);
            Ok((segment, mapping, request_bell, response_bell))
        })();
        let (segment, mapping, request_bell, response_bell) =
            made.inspect_err(|error| tell_failure(&socket, "make a lane", error))?;
        Ok(Self { segment, mapping, socket, request_bell, response_bell })
    }

    /// Whether the client has kept its part.
    pub fn is_sealed(&self) -> bool {
        self.segment.is_strictly_sealed()
    }

    pub fn request_bell(&self) -> &Doorbell {
        &self.request_bell
    }

    /// Whether the client lives.
    pub fn check_socket(&self) -> Result<(), End> {
        check_silent(&self.socket)
    }

    /// Tells the client on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}

impl LaneClient {
    /// Takes a lane that was sealed into service.
    pub fn new(offer: Offer, shared: &Shared) -> Self {
        let mapping = Arc::new(offer.mapping);
        let hints = shared.table.hints().map(|hints| hints.register(Box::new(PinBoard(Arc::clone(&mapping)))));
        Self {
            mapping,
            board: None,
            hints,
            socket: offer.socket,
            request_bell: offer.request_bell,
            response_bell: offer.response_bell,
            waking: Waking::default(),
            requests: Consumer::default(),
            responses: Producer::default(),
            unfinished: None,
            again: None,
            outgoing: Outgoing::default(),
            closing: false,
            gone: false,
        }
    }

    fn lane(&self) -> Lane<'_> {
        Lane::new(self.mapping.words())
    }

    pub fn request_bell(&self) -> &Doorbell {
        &self.request_bell
    }

    /// What the client says of itself: a hint for spinning, never more.
    pub fn client_state(&self) -> State {
        State::unpack(self.lane().client_state().load(Ordering::Relaxed))
    }

    pub fn announce_sleep(&self) {
        lane::announce_sleep(self.lane().server_waiting(), 0);
    }

    pub fn announce_awake(&self) {
        lane::announce_awake(self.lane().server_waiting(), 0);
    }

    /// Whether the client has published something since the last turn, or made room for replies that wait for it. A
    /// hint: the turn looks properly.
    #[inline]
    pub fn has_news(&self) -> bool {
        let lane = self.lane();
        lane.requests().tail.load(Ordering::Relaxed) != self.requests.seen()
            || !self.outgoing.is_empty() && lane.responses().head.load(Ordering::Relaxed) != self.responses.head_seen()
    }

    /// Serves the client for its share of time: replies first, then requests as long as their replies find room.
    pub fn turn(&mut self, bench: &mut Bench) -> Result<Turn, End> {
        if self.gone {
            return Err(End::Gone);
        }
        // What may go out in this turn.
        let mut share = limits::TURN_BYTES_MAX;
        let mut worked = self.send_replies(&mut share)?;
        let (mut requests, mut bytes) = (0, 0);
        while !bench.is_turn_over(requests, bytes) && self.outgoing.len() < limits::REPLY_BACKLOG_MAX && !self.closing {
            if self.is_waiting() {
                break;
            }
            if let Some((record, again)) = self.again.take() {
                worked = true;
                bench.record = record;
                self.execute(bench, again)?;
            } else {
                let (taken, complete) = self.take_request(bench, limits::TURN_BYTES_MAX - bytes)?;
                if taken == 0 {
                    break;
                }
                worked = true;
                bytes += taken;
                if let Some(begin) = complete {
                    requests += 1;
                    self.execute(bench, begin)?;
                }
            }
            if self.again.is_some() {
                break;
            }
        }
        if worked {
            self.send_replies(&mut share)?;
            if self.outgoing.has_let_go() {
                bench.writer.rescan();
            }
            let lane = Lane::new(self.mapping.words());
            failpoint!("reply.written");
            self.responses.publish(lane.responses());
            failpoint!("reply.published");
            self.requests.release(lane.requests());
        }
        if self.closing && self.outgoing.is_empty() {
            return Err(End::Quit);
        }
        Ok(if worked { Turn::Worked } else { Turn::Idle })
    }

    /// Whether its next request can do nothing before another thread has made room for it, which rings for the worker.
    pub fn is_waiting(&self) -> bool {
        self.again.as_ref().is_some_and(|(_, again)| again.is_waiting())
            || self.unfinished.as_ref().is_some_and(Unfinished::is_waiting)
    }

    /// Wakes the client if it sleeps. To be called after a turn that worked. Returns whether it had to be.
    ///
    /// # Errors
    /// If that was too dear, again and again.
    pub fn ring_if_asleep(&mut self) -> Result<bool, End> {
        let asleep = lane::must_ring(self.lane().client_state());
        if asleep {
            self.waking.measured(|| self.response_bell.ring())?;
        }
        Ok(asleep)
    }

    /// Copies (a part of) the next request into private memory, a large value into its entry. Returns the bytes taken;
    /// and if `bench.record` now holds a complete request, how it begins. A part has at most `share` bytes.
    fn take_request(&mut self, bench: &mut Bench, share: usize) -> Result<(usize, Option<Again>), End> {
        let ring = Lane::new(self.mapping.words()).requests();
        let available = self.requests.available(ring, 8).map_err(|_| End::Position)?;
        if available == 0 {
            return Ok((0, None));
        }
        // Bytes that are taken already.
        let mut begun = 0;
        let unfinished = match &mut self.unfinished {
            Some(unfinished) => {
                // What it has waited for may be done.
                unfinished.advance(bench);
                unfinished
            }
            None => {
                let word = self.requests.peek(ring);
                let size = record::record_size(word, limits::REQUEST_SIZE_MAX).map_err(|_| End::Record)?;
                let large = record::large_set(word);
                let is_there =
                    |requests: &mut Consumer| Ok(size <= available || requests.available(ring, size)? >= size);
                // The common case: all of it is there.
                if large.is_none() && is_there(&mut self.requests).map_err(|_: PositionError| End::Position)? {
                    bench.record.resize(size, 0);
                    self.requests.read(ring, as_uninit(&mut bench.record));
                    return Ok((size, Some(Again::default())));
                }
                let stage = large.map_or(Stage::Rest(None), Stage::Head);
                let unfinished = self.unfinished.insert(Unfinished { size, bytes: Vec::new(), stage });
                // The word that was checked is the one that is used: in the ring there may be another one by now.
                unfinished.make_room(record::HEADER_SIZE, &bench.shared)?.copy_from_slice(&word.to_ne_bytes());
                self.requests.skip(record::HEADER_SIZE);
                begun = record::HEADER_SIZE;
                unfinished
            }
        };
        let mut piece = (available - begun).min(share);
        if let Stage::Value(inflow) = &mut unfinished.stage {
            piece = piece.min(inflow.missing().next_multiple_of(8));
            inflow.take_words(&mut self.requests, ring, piece);
        } else {
            let place = unfinished.make_room(piece, &bench.shared)?;
            piece = place.len();
            self.requests.read(ring, as_uninit(place));
        }
        let mut complete = None;
        if unfinished.advance(bench)
            && let Some(finished) = self.unfinished.take()
        {
            finished.forget_size(&bench.shared);
            bench.record = finished.bytes;
            let streamed = if let Stage::Rest(streamed) = finished.stage { streamed } else { None };
            complete = Some(Again { progress: 0, streamed });
        }
        Ok((begun + piece, complete))
    }

    /// Executes the request in `bench.record`, or goes on with it.
    fn execute(&mut self, bench: &mut Bench, again: Again) -> Result<(), End> {
        let record = std::mem::take(&mut bench.record);
        failpoint!("request.copied");
        let executed = bench.execute_record(&record, &mut self.outgoing, again)?;
        failpoint!("request.executed");
        self.closing |= executed.effect == Effect::Close;
        if executed.effect == Effect::Pins && self.board.is_none() {
            // The reply is published after this.
            let board = PinBoard(Arc::clone(&self.mapping));
            self.board = Some(bench.shared.table.reclaimer().register(Box::new(board)));
        }
        if executed.effect == Effect::Again {
            self.again = Some((record, executed.again));
        } else {
            bench.record = record;
        }
        Ok(())
    }

    /// Moves replies into the ring as far as there is room, and at most `share` bytes. Returns whether any went.
    fn send_replies(&mut self, share: &mut usize) -> Result<bool, End> {
        let before = *share;
        let ring = Lane::new(self.mapping.words()).responses();
        // Pieces are whole words, see `RecordWriter`.
        while *share > 0 && !self.outgoing.is_empty() {
            let next = self.outgoing.next();
            let wanted = next.len().min(*share);
            let piece = self.responses.room(ring, wanted).map_err(|_| End::Position)?.min(wanted);
            if piece == 0 {
                break;
            }
            self.responses.write(ring, &next[..piece]);
            self.outgoing.advance(piece);
            *share -= piece;
        }
        if *share == 0 && !self.outgoing.is_empty() {
            failpoint!("reply.piece");
        }
        Ok(*share < before)
    }

    /// Bytes of memory that are kept for what follows.
    pub fn kept(&self) -> usize {
        self.outgoing.kept()
    }

    /// Lets go of large buffers that are kept.
    pub fn let_go(&mut self) {
        self.outgoing.keep(limits::IDLE_BUFFER_MAX);
    }

    /// Whether the client lives.
    pub fn check_socket(&self) -> Result<(), End> {
        check_silent(&self.socket)
    }

    /// Executes what a client that is gone had published, up to the share of a turn: a posted write counts once it is
    /// in the lane. Returns whether there is more.
    ///
    /// All of it has at most the ring's size: a client that closes its socket and goes on writing gets no further,
    /// since nothing is given back to it.
    pub fn execute_rest(&mut self, bench: &mut Bench) -> bool {
        self.gone = true;
        let (mut requests, mut bytes) = (0, 0);
        while !bench.is_turn_over(requests, bytes) {
            self.outgoing.clear();
            if self.again.as_ref().is_some_and(|(_, again)| again.is_waiting()) {
                break;
            }
            if let Some((record, again)) = self.again.take() {
                bench.record = record;
                if self.execute(bench, again).is_err() {
                    return false;
                }
            } else {
                match self.take_request(bench, limits::TURN_BYTES_MAX - bytes) {
                    Ok((taken, complete)) if taken > 0 => {
                        bytes += taken;
                        requests += usize::from(complete.is_some());
                        if complete.is_some_and(|begin| self.execute(bench, begin).is_err()) {
                            return false;
                        }
                    }
                    _ => return false,
                }
            }
            if self.again.is_some() {
                break;
            }
        }
        true
    }

    /// Forgets a request that will never be complete, and what else the server has of a client that is gone.
    pub fn drop_unfinished(&mut self, bench: &mut Bench) {
        if let (Some(id), Some(hints)) = (self.hints.take(), bench.shared.table.hints()) {
            hints.unregister(id);
        }
        if let Some(unfinished) = self.unfinished.take() {
            unfinished.forget_size(&bench.shared);
            let touched = unfinished.bytes.len();
            bench.discard(unfinished.bytes, touched);
        }
    }

    /// What is left of a client whose connection we have ended, if its pins count.
    pub fn linger(self) -> Option<Lingering> {
        self.board.map(|board| Lingering::new(self.socket, board))
    }

    /// Tells the client on its socket why the connection ends.
    pub fn say_goodbye(&self, end: End) {
        end.say_goodbye(&self.socket);
    }
}

/// A socket that is but a sign of life says nothing else: anything that comes ends the connection.
pub(super) fn check_silent(socket: &Socket) -> Result<(), End> {
    match socket.receive(&mut [0])? {
        None => Ok(()),
        Some(0) => Err(End::Gone),
        Some(_) => Err(End::Protocol),
    }
}
