//! A client that speaks RESP over its socket, as any Redis client does: a unix socket, or a TCP connection.

use std::io::IoSlice;

use rustix::event::epoll::EventFlags;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};

use super::end::End;
use super::executor::Executor;
use super::resp_session::{RespSession, Step};
use super::socket::Socket;
use super::turn::Turn;
use super::waking::Waking;
use crate::limits;

/// Most pieces of replies sent by one system call.
const PIECES_MAX: usize = 8;

pub(super) struct SocketClient {
    socket: Option<Socket>,
    /// What the last event said; until `recv` or `send` would block, it still holds.
    readable: bool,
    writable: bool,
    waking: Waking,
    /// Whether nothing more will come: the client has closed its side, and may still read.
    finished: bool,
    /// Bytes that were dropped since all replies of a connection that closes have gone.
    dropped: usize,
    /// Whether the client was told that nothing more comes.
    has_said_all: bool,
    pub session: RespSession,
}

impl SocketClient {
    /// A client that has just come.
    pub fn new(mut socket: Socket) -> Self {
        let reservation = socket.reservation.take();
        Self {
            session: RespSession::new(socket.abilities, reservation),
            socket: Some(socket),
            readable: true,
            writable: true,
            waking: Waking::default(),
            finished: false,
            dropped: 0,
            has_said_all: false,
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
        if self.session.is_parked() {
            self.readable || self.writable && !self.session.outgoing.is_empty()
        } else if self.session.is_held_up() {
            self.writable || self.readable
        } else {
            self.readable || self.session.has_news() || self.writable && !self.session.outgoing.is_empty()
        }
    }

    /// Gives the socket away, to become the sign of life of a lane.
    pub fn give_up_socket(&mut self) -> Option<Socket> {
        self.socket.take()
    }

    /// Serves the client for its share of time: replies first, then requests as long as their replies find room.
    pub fn turn(&mut self, executor: &mut Executor) -> Result<Turn, End> {
        let turn = self.serve(executor);
        // A client that goes while we end the connection has ended for our reason.
        turn.map_err(|end| self.session.closing().unwrap_or(end))
    }

    fn serve(&mut self, executor: &mut Executor) -> Result<Turn, End> {
        if self.session.outgoing.is_held_back() {
            // Further requests are executed meanwhile, as long as there is room for their replies.
            executor.engine.wait_for_log()?;
        }
        // What may go out in this turn.
        let mut share = limits::TURN_BYTES_MAX;
        let mut worked = self.send(&mut share)?;
        let (mut requests, mut bytes) = (0, 0);
        while !executor.is_turn_over(requests, bytes) && !self.session.is_held_up() && !self.session.has_to_wait() {
            match self.session.advance(executor) {
                Step::Hungry => {
                    let received = self.receive_more(executor)?;
                    if received == 0 {
                        break;
                    }
                    worked = true;
                    bytes += received;
                    // To read a request takes time too, whether anything comes of it or not.
                    executor.engine.budget.begin();
                }
                // Replies first: the next receive is for the next turn.
                Step::Incomplete if requests > 0 => break,
                Step::Incomplete | Step::Flowing => {}
                Step::Executed => (worked, requests) = (true, requests + 1),
                Step::Finished => worked = true,
                Step::Paused => {
                    worked = true;
                    break;
                }
                Step::Upgrade(kind) => return Ok(Turn::Upgrade(kind)),
            }
        }
        worked |= self.send(&mut share)?;
        if self.session.is_parked() || self.session.is_held_up() && !self.writable {
            worked |= self.receive_ahead(executor)?;
        }
        if self.session.outgoing.has_let_go() {
            executor.engine.writer.rescan();
        }
        match self.session.closing() {
            Some(reason) if self.session.outgoing.is_empty() => {
                if self.drop_more(executor)? {
                    Ok(Turn::Worked)
                } else if self.is_delivering() {
                    Ok(if worked { Turn::Worked } else { Turn::Idle })
                } else {
                    Err(reason)
                }
            }
            _ => Ok(if worked { Turn::Worked } else { Turn::Idle }),
        }
    }

    /// Gets more for the session: what waits of what has come before, or what comes now. Returns how many bytes.
    fn receive_more(&mut self, executor: &mut Executor) -> Result<usize, End> {
        self.session.make_room(executor)?;
        let received = if self.session.has_backlog() { 0 } else { self.receive(executor)? };
        let size = self.session.take(received, executor)?;
        if size == 0 && self.finished {
            // The replies to what it has sent still go to it, as far as it takes them.
            self.session.close(End::Gone);
        }
        Ok(size)
    }

    /// Receives although nothing can be done with it now. Returns whether anything came.
    fn receive_ahead(&mut self, executor: &mut Executor) -> Result<bool, End> {
        let size = self.receive(executor)?;
        if size == 0 {
            if self.finished && self.session.is_parked() {
                // It may have died, of which over TCP nothing else tells: so it is not told any more.
                self.session.close(End::Gone);
            }
            return Ok(false);
        }
        executor.engine.budget.begin();
        self.session.keep_ahead(size, executor);
        Ok(true)
    }

    /// Drops what has come for a connection that is about to close. To close it with bytes that nobody has read would
    /// be to reset it, and the client might not get to read why it ends. Returns whether there may be more; a client
    /// that never stops sending is not waited for.
    fn drop_more(&mut self, executor: &mut Executor) -> Result<bool, End> {
        let size = self.receive(executor)?;
        self.dropped += size;
        Ok(size > 0 && self.dropped <= limits::REQUEST_BACKLOG_MAX)
    }

    /// Whether the kernel has yet to deliver replies, over TCP, of a connection that is about to close: if the client
    /// sent something after that, the connection would be reset, and what is on its way would be lost.
    fn is_delivering(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        if socket.abilities.passes_descriptors || self.finished || self.dropped > limits::REQUEST_BACKLOG_MAX {
            return false;
        }
        if !self.has_said_all {
            // With that the kernel tells us when all is delivered.
            self.has_said_all = true;
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
        // Until the next event.
        self.writable = false;
        socket.has_undelivered()
    }

    /// Receives what has come into the executor's buffer. Returns how many bytes.
    fn receive(&mut self, executor: &mut Executor) -> Result<usize, End> {
        if !self.readable {
            return Ok(0);
        }
        let Some(socket) = &self.socket else { return Ok(0) };
        let received = match socket.receive(&mut executor.received) {
            Err(End::Descriptors) if self.session.closing().is_none() => {
                self.session.fail("PROTOCOL this server takes no descriptors", End::Descriptors);
                return Ok(0);
            }
            received => received?,
        };
        (self.readable, self.finished) = (received.is_some_and(|size| size > 0), received == Some(0));
        Ok(received.unwrap_or(0))
    }

    /// Sends replies as far as the socket takes them, and at most `share` bytes. Returns whether any went.
    fn send(&mut self, share: &mut usize) -> Result<bool, End> {
        if self.session.outgoing.is_empty() || !self.writable || *share == 0 || self.session.outgoing.is_held_back() {
            return Ok(false);
        }
        let Some(socket) = &self.socket else { return Ok(false) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = if self.session.outgoing.is_in_pieces() {
            let mut left = *share;
            let pieces = self.session.outgoing.pieces().map_while(|piece| {
                let size = piece.len().min(left);
                left -= size;
                (size > 0).then(|| IoSlice::new(&piece[..size]))
            });
            let pieces: Vec<_> = pieces.take(PIECES_MAX).collect();
            let mut control = SendAncillaryBuffer::default();
            self.waking.measured(|| rustix::net::sendmsg(socket, &pieces, &mut control, flags))?
        } else {
            let next = self.session.outgoing.next();
            let next = &next[..next.len().min(*share)];
            self.waking.measured(|| rustix::net::send(socket, next, flags))?
        };
        match sent {
            Ok(size) => {
                self.session.outgoing.advance(size);
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
