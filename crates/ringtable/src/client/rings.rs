//! The rings of a classic topology, as a client sees them. No step of it waits.
//!
//! # Design
//!
//! Requests are gathered as one stream of records, cut into pieces and put into the queue as far as there is room; what
//! does not fit waits here. Replies come among everybody else's through the broadcast ring. We listen to that ring only
//! while replies are owed to us, so that a client that does something else holds nobody back.
//!
//! A client that was expelled, because it kept the others waiting, learns it here: from its socket, or from a message
//! that was overwritten while it was read.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::alarm::Alarm;
use super::awaited::Awaited;
use super::error::{Error, system};
use crate::command::record::{self, RequestHead as RecordHead};
use crate::command::reply::Reply;
use crate::limits;
use crate::ring::broadcast::Receiver;
use crate::ring::exchange::{Exchange, Geometry, ReplyHead, RequestHead};
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{AtomicU64, Memory, as_uninit, copy_in, copy_out};

/// Request bytes gathered, above which a request waits for room.
const GATHERED_MAX: usize = 64 << 10;
/// Messages read, above which the server is told so before all are read.
const UNANNOUNCED_MAX: u64 = 32;
/// How long a client sleeps before it looks for room in the queue again, which rings no doorbell.
const ROOM_NAP: Duration = Duration::from_micros(500);
/// Of a reply larger than this, the bytes are handed on where they are.
const LARGE_SIZE: usize = 64 << 10;
/// A buffer larger than this is not kept.
const BUFFER_KEPT_MAX: usize = 1 << 20;

/// Our seat, as the server's answer tells it.
pub(super) struct Seat {
    number: u16,
    generation: u16,
}

impl Seat {
    /// Reads the status `RINGS number generation`.
    pub fn parse(status: &str) -> Option<Self> {
        let mut words = status.split(' ');
        let (name, number, generation) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (name == "RINGS" && words.next().is_none()).then_some(Self { number, generation })
    }
}

pub(super) struct RingsLink {
    mapping: Mapping,
    geometry: Geometry,
    seat: Seat,
    /// The workers any of which may serve us.
    workers: Range<usize>,
    request_bell: Doorbell,
    alarm: Alarm,
    receiver: Receiver,
    /// Pieces sent.
    sequence: u32,
    /// Records that were not sent yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// Whether something was published since a worker was last rung.
    unrung: bool,
    /// Replies owed to us.
    owed: usize,
    /// Reply records as they arrive, from `parsed` on.
    incoming: Vec<u8>,
    parsed: usize,
    /// The record that comes next, if there is no memory for it.
    dropped: Option<Dropped>,
    piece: Vec<u8>,
}

/// A reply record that is dropped as it comes: so many of its bytes are still to come.
struct Dropped {
    size: usize,
    left: usize,
}

/// What a waiting client looks at.
pub(super) struct RingsNews<'a> {
    exchange: Exchange<'a>,
    alarm: &'a Alarm,
    request_bell: &'a Doorbell,
    receiver: &'a Receiver,
    number: u16,
    /// Whether there is something to send.
    is_unsent: bool,
    /// Whether room in the queue is news, too.
    wants_room: bool,
}

impl Awaited for RingsNews<'_> {
    /// There may be news for ever: it may all be of others.
    const NEWS_PER_CHECK: u32 = 256;

    #[inline]
    fn has_news(&self) -> bool {
        self.receiver.has_news(self.exchange.responses()) || self.wants_room && self.exchange.queue().has_room()
    }

    fn alarm(&self) -> &Alarm {
        self.alarm
    }

    fn client_state(&self) -> &AtomicU64 {
        self.exchange.client_state(self.number)
    }

    fn wake_server(&self) {
        if !self.exchange.is_watched() {
            self.request_bell.ring();
        }
    }

    fn nap(&self) -> Option<Duration> {
        self.is_unsent.then_some(ROOM_NAP)
    }
}

impl RingsLink {
    /// Takes over the rings that the server passed, which has so many workers.
    pub fn join(
        socket: Descriptor,
        seat: Seat,
        rings: Descriptor,
        request_bell: Descriptor,
        bell_listener: Descriptor,
        workers: usize,
    ) -> Result<Self, Error> {
        let segment = system("taking the rings", Segment::from_foreign(rings))?;
        let mapping = system("mapping the rings", segment.map_writable())?;
        let attached = Exchange::attach(mapping.words(), workers);
        let (exchange, workers) = attached.map_err(|error| Error::Version(error.to_string()))?;
        let geometry = exchange.geometry();
        if usize::from(seat.number) >= geometry.members {
            let (number, members) = (seat.number, geometry.members);
            return Err(Error::Protocol(format!("seat number {number} of {members}")));
        }
        Ok(Self {
            workers: workers.first..workers.first + workers.count,
            request_bell: Doorbell::from_foreign(request_bell),
            alarm: Alarm::new(socket, bell_listener)?,
            receiver: Receiver::new(seat.number),
            mapping,
            geometry,
            seat,
            sequence: 0,
            outgoing: Vec::new(),
            sent: 0,
            unrung: false,
            owed: 0,
            incoming: Vec::new(),
            parsed: 0,
            dropped: None,
            piece: Vec::new(),
        })
    }

    /// The workers that may serve us.
    pub fn workers(&self) -> Range<usize> {
        self.workers.clone()
    }

    #[inline]
    fn exchange(&self) -> Exchange<'_> {
        Exchange::new(self.mapping.words(), self.geometry)
    }

    /// Gathers a request; `false` while too many wait for room in the queue.
    pub fn try_push(&mut self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        if self.outgoing.len() - self.sent > GATHERED_MAX {
            self.publish();
            if self.outgoing.len() - self.sent > GATHERED_MAX {
                return Ok(false);
            }
        }
        let head = RecordHead::new(number, arguments).map_err(|error| Error::Protocol(error.to_string()))?;
        self.outgoing.try_reserve(head.size()).map_err(|_| Error::NoRoom(head.size()))?;
        head.append_to(&mut self.outgoing);
        self.owed += 1;
        Ok(true)
    }

    /// Sends what was gathered as far as there is room, and wakes a worker if all sleep. Returns whether all has gone.
    pub fn publish(&mut self) -> bool {
        self.send();
        if self.unrung {
            self.unrung = false;
            failpoint!("rings.published");
            if self.exchange().must_ring() {
                self.request_bell.ring();
            }
        }
        self.outgoing.is_empty()
    }

    /// Whether something was gathered that has not gone.
    pub fn has_rest(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn send(&mut self) {
        if self.sent == self.outgoing.len() {
            return;
        }
        let exchange = Exchange::new(self.mapping.words(), self.geometry);
        if !self.receiver.is_listening() {
            self.receiver.listen(exchange.responses());
        }
        let queue = exchange.queue();
        while self.sent < self.outgoing.len() {
            let Some(claim) = queue.try_claim(self.seat.number) else { break };
            let rest = &self.outgoing[self.sent..];
            let size = rest.len().min(self.geometry.piece_size());
            let head = RequestHead { size, generation: self.seat.generation, sequence: self.sequence };
            failpoint!("rings.writing");
            let body = queue.body(&claim);
            // Relaxed: published by the Release in `publish`.
            body[0].store(head.pack(), Ordering::Relaxed);
            copy_in(&rest[..size], &body[1..]);
            failpoint!("rings.written");
            // Else we have stood still for so long that the others were let by: the piece is sent again.
            if queue.publish(claim) {
                self.sequence = self.sequence.wrapping_add(1);
                self.sent += size;
                self.unrung = true;
            }
        }
        if self.sent == self.outgoing.len() {
            (self.sent, self.outgoing) = (0, kept(std::mem::take(&mut self.outgoing)));
        }
    }

    /// The next reply, if all of it has come.
    pub fn try_receive(&mut self) -> Result<Option<Reply>, Error> {
        if let Some(reply) = self.parse()? {
            return Ok(Some(reply));
        }
        if !self.receiver.is_listening() {
            return Ok(None);
        }
        while self.receive_piece()? {
            if let Some(reply) = self.parse()? {
                return Ok(Some(reply));
            }
        }
        let exchange = Exchange::new(self.mapping.words(), self.geometry);
        if self.receiver.is_listening() && self.receiver.unannounced() > 0 {
            self.receiver.announce(exchange.responses());
        }
        Ok(None)
    }

    /// Reads one message of the ring, ours or not. Returns whether there was one.
    fn receive_piece(&mut self) -> Result<bool, Error> {
        // Before it is taken: a piece without room would be lost. Of a record that has begun, the rest is dropped then.
        let size_max = self.geometry.piece_size();
        let has_room = self.incoming.try_reserve(size_max).is_ok() || self.incoming.try_reserve_exact(size_max).is_ok();
        if !has_room && self.dropped.is_none() && !self.drop_record() {
            return Err(Error::NoRoom(size_max));
        }
        let ring = Exchange::new(self.mapping.words(), self.geometry).responses();
        let Some(body) = self.receiver.next(ring).map_err(|_| self.lapped())? else { return Ok(false) };
        // Relaxed: ordered by the Acquire in `next`, and believed only after `check`.
        let head = ReplyHead::unpack(body[0].load(Ordering::Relaxed));
        let ours = head.member == self.seat.number && head.generation == self.seat.generation;
        if ours {
            if head.size > self.geometry.piece_size() {
                let (size, most) = (head.size, self.geometry.piece_size());
                return Err(Error::Protocol(format!("a piece of {size} bytes in a slot for {most}")));
            }
            self.piece.resize(head.size, 0);
            copy_out(&body[1..], as_uninit(&mut self.piece));
        }
        failpoint!("rings.copied");
        self.receiver.check(ring).map_err(|_| self.lapped())?;
        failpoint!("rings.checked");
        if ours {
            let dropped = self.dropped.as_mut().map_or(0, |dropped| {
                let size = dropped.left.min(self.piece.len());
                dropped.left -= size;
                size
            });
            self.incoming.extend_from_slice(&self.piece[dropped..]);
        }
        if self.receiver.unannounced() >= UNANNOUNCED_MAX {
            self.receiver.announce(ring);
        }
        Ok(true)
    }

    /// The size of the next record, if its head has come.
    fn next_size(&self) -> Result<Option<usize>, Error> {
        let head = self.incoming[self.parsed..].first_chunk::<8>();
        head.map(|word| record::record_size(u64::from_ne_bytes(*word), limits::REPLY_SIZE_MAX))
            .transpose()
            .map_err(|error| Error::Protocol(error.to_string()))
    }

    /// Drops what has come of the next record, which has not come as a whole, and what is still to come of it. Returns
    /// whether there is such a record.
    fn drop_record(&mut self) -> bool {
        let Ok(Some(size)) = self.next_size() else { return false };
        self.dropped = Some(Dropped { size, left: size - (self.incoming.len() - self.parsed).min(size) });
        self.incoming.truncate(self.parsed);
        (self.parsed, self.incoming) = (0, kept(std::mem::take(&mut self.incoming)));
        true
    }

    /// Decodes the next reply of those that have arrived.
    fn parse(&mut self) -> Result<Option<Reply>, Error> {
        match self.dropped {
            Some(Dropped { left: 0, size }) => {
                self.dropped = None;
                return Ok(Some(self.noted(Reply::Dropped(size))));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let garbled = |error: record::RecordError| Error::Protocol(error.to_string());
        let Some(size) = self.next_size()? else { return Ok(None) };
        let rest = &self.incoming[self.parsed..];
        let Some(record) = rest.get(..size) else {
            // The rest of a large reply comes behind what is here already, and what was read takes no room for long.
            if self.parsed > 0 && (size > LARGE_SIZE || self.parsed >= LARGE_SIZE) {
                self.incoming.drain(..self.parsed);
                self.parsed = 0;
            }
            let missing = size - self.incoming.len().min(size);
            // Room for a whole piece more: what there is room for before it is known how large the piece is.
            if self.incoming.try_reserve_exact(missing + self.geometry.piece_size()).is_err() {
                self.drop_record();
            }
            return Ok(None);
        };
        let reply = if self.parsed == 0 && size == self.incoming.len() && size > LARGE_SIZE {
            record::decode_owned(std::mem::take(&mut self.incoming)).map_err(garbled)?
        } else {
            let reply = record::decode_reply(record).map_err(garbled)?;
            self.parsed += size;
            if self.parsed == self.incoming.len() {
                (self.parsed, self.incoming) = (0, kept(std::mem::take(&mut self.incoming)));
            }
            reply
        };
        Ok(Some(self.noted(reply)))
    }

    /// Takes note of a reply that has come.
    fn noted(&mut self, reply: Reply) -> Reply {
        self.owed = self.owed.saturating_sub(1);
        if self.owed == 0 && self.receiver.is_listening() {
            failpoint!("rings.leaving");
            let exchange = Exchange::new(self.mapping.words(), self.geometry);
            self.receiver.leave(exchange.responses());
        }
        reply
    }

    /// What to wait for: messages, or room for what was gathered.
    pub fn awaited(&mut self) -> RingsNews<'_> {
        let is_unsent = !self.publish();
        let exchange = Exchange::new(self.mapping.words(), self.geometry);
        // Room that could not be had a moment ago is no news: it may be none (of quarantined slots, say).
        let wants_room = is_unsent && !exchange.queue().has_room();
        let (alarm, request_bell) = (&self.alarm, &self.request_bell);
        let (receiver, number) = (&self.receiver, self.seat.number);
        RingsNews { exchange, alarm, request_bell, receiver, number, is_unsent, wants_room }
    }

    /// Why what we were reading was overwritten.
    fn lapped(&self) -> Error {
        match self.alarm.last_words() {
            error @ Error::Expelled(_) => error,
            // It dismisses first, and then says so.
            _ => Error::Expelled("this client was too slow to read its replies".to_owned()),
        }
    }
}

/// An emptied buffer to use again, unless it is large.
fn kept(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    if buffer.capacity() > BUFFER_KEPT_MAX { Vec::new() } else { buffer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_two_numbers() {
        let seat = Seat::parse("RINGS 12 3").unwrap();
        assert_eq!((seat.number, seat.generation), (12, 3));
        for status in ["RINGS", "RINGS 1", "RINGS 1 2 3", "LANE 1 2", "RINGS 70000 1", "RINGS -1 1", ""] {
            assert!(Seat::parse(status).is_none(), "{status:?}");
        }
    }
}
