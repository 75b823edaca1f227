//! A member of an exchange: a client of a classic topology, as the server sees it.
//!
//! What it asks comes in pieces, which several workers may take from the queue at the same time. So a member is behind
//! a lock, puts its pieces in order, and its requests are executed one after the other by whoever brings the piece that
//! completes them. Its replies are cut into pieces in the same order.
//!
//! Everything it sends is a private copy by the time it gets here; what cannot be ends its connection (I4).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::buffers::KEPT_MAX;
use super::end::End;
use super::executor::{Again, Executor};
use super::outgoing::Outgoing;
use super::request_memory::RequestMemory;
use super::socket::Socket;
use super::statistics::Statistics;
use super::store::Store;
use crate::command::Flow;
use crate::command::record;
use crate::limits;
use crate::ring::broadcast::{Broadcast, Sender};
use crate::ring::exchange::{ReplyHead, RequestHead};
use crate::shm::doorbell::Doorbell;
use crate::sync::{Ordering, copy_in};

/// Pieces that came too early, above which workers take no more until the one ahead of them is here: another worker
/// has it in hand, and may have lost its processor. (Each of the others may have one in hand, too, and bring one more
/// before it notices.)
const EARLY_MAX: usize = 64;

/// What a member's turn came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Replies were sent.
    pub sent: bool,
    /// Replies wait for room, or too many pieces for those ahead of them: nothing more should be taken.
    pub blocked: bool,
    /// It should have another turn, whether it sends anything or not.
    pub more: bool,
}

pub(super) struct Member {
    pub number: u16,
    pub generation: u16,
    /// The number of its connection.
    pub connection: u64,
    /// The sign of its life; the worker that watches it has it too.
    pub socket: Arc<Socket>,
    /// Rung by us; the client has it only inside an epoll instance.
    pub bell: Doorbell,
    /// The window (of whoever serves it) in which it was last active.
    pub window: u64,
    /// The piece that comes next.
    sequence: u32,
    /// Pieces that came before those ahead of them, and since when the first one is missed.
    early: BTreeMap<u32, Vec<u8>>,
    early_since_ns: u64,
    /// Where the workers' rounds were when it had been missed for too long.
    pub missed_at: Option<Vec<u64>>,
    /// Records as they arrive, from `parsed` on.
    incoming: Vec<u8>,
    parsed: usize,
    /// How far the next request has come, if it takes several turns.
    again: Option<Again>,
    /// Whether the last turn has ended before all that was complete was executed.
    unfinished: bool,
    /// Reply records that were not sent yet.
    outgoing: Outgoing,
    /// Bytes of it that count as unfinished requests.
    counted: usize,
    /// Why it gets nothing any more; it is gone only when its socket is closed.
    ended: Option<End>,
    /// Its socket is closed: what it has asked is executed, and nobody waits for the replies.
    gone: bool,
}

impl Member {
    pub fn new(number: u16, generation: u16, connection: u64, socket: Arc<Socket>, bell: Doorbell) -> Self {
        Self {
            number,
            generation,
            connection,
            socket,
            bell,
            window: 0,
            sequence: 0,
            early: BTreeMap::new(),
            early_since_ns: 0,
            missed_at: None,
            incoming: Vec::new(),
            parsed: 0,
            again: None,
            unfinished: false,
            outgoing: Outgoing::default(),
            counted: 0,
            ended: None,
            gone: false,
        }
    }

    /// Whether it still gets what it asks for.
    pub fn is_served(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether there is something complete that was not executed to its end.
    pub fn is_busy(&self) -> bool {
        self.unfinished
    }

    /// Takes a piece that was sent by this member.
    pub fn accept(&mut self, head: RequestHead, piece: &[u8], now_ns: u64) -> Result<(), End> {
        let ahead = head.sequence.wrapping_sub(self.sequence);
        if ahead as usize > EARLY_MAX + 2 * limits::WORKERS_MAX {
            return Err(End::Slot);
        }
        if ahead > 0 {
            if self.early.is_empty() {
                self.early_since_ns = now_ns;
            }
            self.early.insert(head.sequence, piece.to_vec());
            return Ok(());
        }
        if self.parsed == self.incoming.len() {
            self.incoming.clear();
            self.parsed = 0;
        }
        self.append(piece)?;
        while let Some(piece) = self.early.remove(&self.sequence) {
            self.early_since_ns = now_ns;
            self.append(&piece)?;
        }
        Ok(())
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), End> {
        self.sequence = self.sequence.wrapping_add(1);
        self.missed_at = None;
        self.incoming.try_reserve(piece.len()).map_err(|_| End::Memory)?;
        self.incoming.extend_from_slice(piece);
        Ok(())
    }

    /// Since when a piece is missed though later ones have come.
    pub fn missing_since_ns(&self) -> Option<u64> {
        (!self.early.is_empty()).then_some(self.early_since_ns)
    }

    /// Executes what has arrived, as far as its replies find room, and sends them.
    pub fn turn(&mut self, executor: &mut Executor, sender: &Sender, ring: Broadcast<'_>) -> Result<Served, End> {
        let mut turn = Served { sent: self.send(sender, ring), ..Served::default() };
        let (mut requests, mut hungry) = (0, false);
        while !executor.is_turn_over(requests, 0) && self.outgoing.len() < limits::REPLY_BACKLOG_MAX {
            if self.again.as_ref().is_some_and(Again::is_waiting) {
                break;
            }
            let rest = &self.incoming[self.parsed..];
            let size = rest.first_chunk::<8>().map(|word| u64::from_ne_bytes(*word));
            let size = size.map(|word| record::record_size(word, limits::REQUEST_SIZE_MAX)).transpose();
            let Some(record) = size.map_err(|_| End::Record)?.and_then(|size| rest.get(..size)) else {
                hungry = true;
                break;
            };
            let again = self.again.take();
            requests += usize::from(again.is_none());
            let executed = executor.execute_record(record, &mut self.outgoing, again.unwrap_or_default())?;
            if executed.flow == Flow::Again {
                self.again = Some(executed.again);
                break;
            }
            self.parsed += record.len();
            if executed.flow == Flow::Close {
                // The last reply has to leave before the connection does.
                self.send(sender, ring);
                return Err(End::Quit);
            }
        }
        turn.sent |= self.send(sender, ring);
        if self.outgoing.has_let_go() {
            executor.engine.writer.rescan();
        }
        turn.blocked = !self.outgoing.is_empty() || self.early.len() >= EARLY_MAX;
        self.unfinished = !hungry;
        turn.more = !hungry || !self.early.is_empty();
        self.tidy(executor)?;
        Ok(turn)
    }

    /// Keeps account of what is held for requests that are not complete, and lets go of large buffers.
    fn tidy(&mut self, executor: &Executor) -> Result<(), End> {
        if self.parsed == self.incoming.len() {
            self.incoming.clear();
            self.parsed = 0;
            // It comes in small pieces, beside which a buffer for a large request costs little to make.
            if self.incoming.capacity() > limits::IDLE_BUFFER_MAX {
                self.incoming = Vec::new();
            }
            self.outgoing.keep(limits::IDLE_BUFFER_MAX);
        } else if self.parsed > KEPT_MAX {
            self.incoming.drain(..self.parsed);
            self.parsed = 0;
        }
        let held = self.incoming.len() + self.early.values().map(Vec::len).sum::<usize>();
        let all = self.count(held, &executor.store.requests);
        if executor.store.requests.is_too_much_unfinished(all, held) { Err(End::Memory) } else { Ok(()) }
    }

    /// Counts what is held anew. Returns how much all clients have.
    fn count(&mut self, held: usize, memory: &RequestMemory) -> u64 {
        memory.recount(std::mem::replace(&mut self.counted, held), held)
    }

    /// Cuts replies into pieces and sends them as far as there is room. Returns whether any went.
    fn send(&mut self, sender: &Sender, ring: Broadcast<'_>) -> bool {
        if self.gone {
            self.outgoing.clear();
        }
        let mut went = false;
        while !self.outgoing.is_empty() {
            let Some(place) = sender.try_claim(ring) else { break };
            let rest = self.outgoing.next();
            let mut size = 0;
            sender.publish(ring, place, |body| {
                size = rest.len().min(8 * (body.len() - 1));
                let head = ReplyHead { size, member: self.number, generation: self.generation };
                // Relaxed: published by the Release in `publish`.
                body[0].store(head.pack(), Ordering::Relaxed);
                copy_in(&rest[..size], &body[1..]);
            });
            self.outgoing.advance(size);
            went = true;
        }
        went
    }

    /// Ends its connection: tells it why, and serves it no more. It may still write to the rings, as long as its own
    /// end of the socket is open.
    pub fn retire(&mut self, end: End, store: &Store, statistics: &Statistics) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(end);
        self.forget(store);
        statistics.count_end(end);
        end.say_goodbye(&self.socket);
        failpoint!("expel.told");
        // Its reading side only: that its end is closed too, we have to see to believe.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Write);
    }

    /// Its socket is closed. What it had published is still executed, unless it was retired before.
    pub fn depart(&mut self, statistics: &Statistics) {
        self.gone = true;
        if self.ended.is_none() {
            statistics.count_end(End::Gone);
        }
    }

    /// Drops what it has asked and would be answered, and ends its leases: it asks for nothing more.
    pub fn forget(&mut self, store: &Store) {
        store.leases.end(self.connection);
        self.count(0, &store.requests);
        self.early.clear();
        (self.incoming, self.parsed) = (Vec::new(), 0);
        self.outgoing = Outgoing::default();
        self.again = None;
        self.unfinished = false;
    }
}
