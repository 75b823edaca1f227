//! A client with a lane, as the server sees it: everything it can write is read once, checked, then used (I4).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::pins::{Lingering, PinBoard};
use super::statistics::{End, send_now};
use super::worker::{BUFFER_KEPT_MAX, Bench, Turn};
use crate::command::Effect;
use crate::command::record;
use crate::limits;
use crate::ring::lane::{self, LANE_SIZE, Lane};
use crate::ring::spsc::{Consumer, Producer};
use crate::ring::wait::State;
use crate::shm::descriptors;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, as_uninit};
use crate::table::reclaim::BoardId;

/// A request whose bytes have not all arrived.
struct Unfinished {
    size: usize,
    bytes: Vec<u8>,
}

pub(super) struct LaneClient {
    mapping: Arc<Mapping>,
    /// Once the pins in the lane count.
    pub board: Option<BoardId>,
    socket: Descriptor,
    /// Rung by the client; watched by the worker, never read or written here.
    request_bell: Doorbell,
    /// Rung by us; the client has it only inside an epoll instance.
    response_bell: Doorbell,
    requests: Consumer,
    responses: Producer,
    unfinished: Option<Unfinished>,
    /// A request that takes several turns, and how far it has come.
    again: Option<(Vec<u8>, u64)>,
    /// Whole reply records that did not fit the ring yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    closing: bool,
}

impl LaneClient {
    /// Makes a lane and passes it to the client at the other end of `socket`.
    pub fn create(socket: Descriptor, worker: usize, shared: &Shared) -> io::Result<Self> {
        let made = (|| -> io::Result<_> {
            let segment = Segment::create("ringtable-lane", LANE_SIZE)?;
            let mapping = segment.map_writable()?;
            segment.seal(false)?;
            Lane::new(mapping.words()).create(worker);
            let (request_bell, response_bell) = (Doorbell::new()?, Doorbell::new()?);
            let listener = Listener::new(&response_bell)?;
            let passed = [
                shared.table_read_only.as_fd(),
                segment.descriptor().as_fd().try_clone_to_owned()?.as_fd(),
                request_bell.as_fd(),
                listener.as_fd(),
            ]
            .map(|fd| fd.try_clone_to_owned());
            let passed = passed.into_iter().collect::<io::Result<Vec<_>>>()?;
            let passed: Vec<_> = passed.iter().map(|fd| fd.as_fd()).collect();
            let message = b"+LANE\r\n";
            if descriptors::send(&socket, message, &passed)? != message.len() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok((mapping, request_bell, response_bell))
        })();
        if let Err(error) = &made {
            send_now(&socket, &format!("ERR the server cannot make a lane: {error}"));
        }
        let (mapping, request_bell, response_bell) = made?;
        Ok(Self {
            mapping: Arc::new(mapping),
            board: None,
            socket,
            request_bell,
            response_bell,
            requests: Consumer::default(),
            responses: Producer::default(),
            unfinished: None,
            again: None,
            outgoing: Vec::new(),
            sent: 0,
            closing: false,
        })
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
        let mut worked = self.send_replies()?;
        let (mut requests, mut bytes) = (0, 0);
        while requests < limits::TURN_REQUESTS_MAX
            && bytes < limits::TURN_BYTES_MAX
            && self.outgoing.len() - self.sent < limits::REPLY_BACKLOG_MAX
            && !self.closing
        {
            if let Some((record, progress)) = self.again.take() {
                worked = true;
                bench.record = record;
                self.execute(bench, progress)?;
            } else {
                let (taken, complete) = self.take_request(bench)?;
                if taken == 0 {
                    break;
                }
                worked = true;
                bytes += taken;
                if complete {
                    requests += 1;
                    self.execute(bench, 0)?;
                }
            }
            if self.again.is_some() {
                break;
            }
        }
        if worked {
            self.send_replies()?;
            let lane = Lane::new(self.mapping.words());
            self.responses.publish(lane.responses());
            self.requests.release(lane.requests());
        }
        if self.closing && self.outgoing.is_empty() {
            return Err(End::Quit);
        }
        Ok(if worked { Turn::Worked } else { Turn::Idle })
    }

    /// Wakes the client if it sleeps. To be called after a turn that worked. Returns whether it had to be.
    pub fn ring_if_asleep(&self) -> bool {
        let asleep = lane::must_ring(self.lane().client_state());
        if asleep {
            self.response_bell.ring();
        }
        asleep
    }

    /// Copies (a part of) the next request into private memory. Returns the bytes taken, and whether `bench.record` now
    /// holds a complete request.
    fn take_request(&mut self, bench: &mut Bench) -> Result<(usize, bool), End> {
        let ring = Lane::new(self.mapping.words()).requests();
        let available = self.requests.available(ring, 8).map_err(|_| End::Position)?;
        if available == 0 {
            return Ok((0, false));
        }
        let unfinished = match &mut self.unfinished {
            Some(unfinished) => unfinished,
            None => {
                let word = self.requests.peek(ring);
                let size = record::record_size(word, limits::REQUEST_SIZE_MAX).map_err(|_| End::Record)?;
                // The common case: all of it is there.
                if size <= available || self.requests.available(ring, size).map_err(|_| End::Position)? >= size {
                    bench.record.resize(size, 0);
                    self.requests.read(ring, as_uninit(&mut bench.record));
                    return Ok((size, true));
                }
                self.unfinished.insert(Unfinished { size, bytes: Vec::new() })
            }
        };
        // Memory grows with what has arrived, never with what is announced, and all clients' together stay bounded.
        let begin = unfinished.bytes.len();
        let piece = available.min(unfinished.size - begin).min(limits::TURN_BYTES_MAX);
        let all = bench.shared.statistics.unfinished.fetch_add(piece as u64, Ordering::Relaxed) + piece as u64;
        if all > bench.shared.unfinished_max() || unfinished.bytes.try_reserve(piece).is_err() {
            bench.shared.statistics.unfinished.fetch_sub(piece as u64, Ordering::Relaxed);
            return Err(End::Memory);
        }
        unfinished.bytes.resize(begin + piece, 0);
        self.requests.read(ring, as_uninit(&mut unfinished.bytes[begin..]));
        let complete = unfinished.bytes.len() == unfinished.size;
        if complete && let Some(finished) = self.unfinished.take() {
            bench.shared.statistics.unfinished.fetch_sub(finished.size as u64, Ordering::Relaxed);
            bench.record = finished.bytes;
        }
        Ok((piece, complete))
    }

    /// Executes the request in `bench.record`, or goes on with it.
    fn execute(&mut self, bench: &mut Bench, progress: u64) -> Result<(), End> {
        let record = std::mem::take(&mut bench.record);
        let executed = bench.execute_record(&record, &mut self.outgoing, progress)?;
        self.closing |= executed.effect == Effect::Close;
        if executed.effect == Effect::Pins && self.board.is_none() {
            // The reply is published after this.
            let board = PinBoard(Arc::clone(&self.mapping));
            self.board = Some(bench.shared.table.reclaimer().register(Box::new(board)));
        }
        if executed.effect == Effect::Again {
            self.again = Some((record, executed.progress));
        } else {
            bench.record = record;
        }
        Ok(())
    }

    /// Moves replies into the ring as far as there is room. Returns whether there were any that went.
    fn send_replies(&mut self) -> Result<bool, End> {
        let left = self.outgoing.len() - self.sent;
        if left == 0 {
            return Ok(false);
        }
        let ring = Lane::new(self.mapping.words()).responses();
        let room = self.responses.room(ring, left).map_err(|_| End::Position)?;
        let piece = room.min(left);
        self.responses.write(ring, &self.outgoing[self.sent..self.sent + piece]);
        self.sent += piece;
        if self.sent == self.outgoing.len() {
            self.sent = 0;
            self.outgoing.clear();
            if self.outgoing.capacity() > BUFFER_KEPT_MAX {
                self.outgoing = Vec::new();
            }
        }
        Ok(piece > 0)
    }

    /// Whether the client lives.
    pub fn check_socket(&self) -> Result<(), End> {
        check_silent(&self.socket)
    }

    /// Executes what a client that is gone had published: a posted write counts once it is in the lane.
    ///
    /// Bounded by the ring's size: a client that closes its socket and goes on writing gets no further.
    pub fn execute_rest(&mut self, bench: &mut Bench) {
        let mut bytes = 0;
        while bytes < limits::LANE_RING_SIZE {
            self.outgoing.clear();
            self.sent = 0;
            if let Some((record, progress)) = self.again.take() {
                bench.record = record;
                if self.execute(bench, progress).is_err() {
                    break;
                }
                continue;
            }
            match self.take_request(bench) {
                Ok((taken, complete)) if taken > 0 => {
                    bytes += taken;
                    if complete && self.execute(bench, 0).is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
    }

    /// Forgets a request that will never be complete.
    pub fn drop_unfinished(&mut self, shared: &Shared) {
        if let Some(unfinished) = self.unfinished.take() {
            shared.statistics.unfinished.fetch_sub(unfinished.bytes.len() as u64, Ordering::Relaxed);
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
pub(super) fn check_silent(socket: &Descriptor) -> Result<(), End> {
    let mut byte = [0_u8; 1];
    match rustix::net::recv(socket, &mut byte[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Err(End::Gone),
        Ok(_) => Err(End::Protocol),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
        Err(_) => Err(End::Gone),
    }
}
