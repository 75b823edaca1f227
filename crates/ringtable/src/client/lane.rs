//! The lane, as the client sees it. No step of it waits.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::alarm::Alarm;
use super::awaited::Awaited;
use super::error::{Error, system};
use super::sharing::Sharing;
use crate::command::record::{self, RequestHead};
use crate::command::reply::Reply;
use crate::limits;
use crate::ring::lane::{self, LANE_SIZE, Lane};
use crate::ring::spsc::{Consumer, PositionError, Producer};
use crate::shm::doorbell::Doorbell;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{AtomicU64, Memory, as_uninit};
use crate::table::hints::AccessLog;

/// A request that is larger than what fits the ring at once, on its way: so many of its bytes have gone.
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

/// A reply that is larger than what has come of it, or fits the ring at once: so many of its bytes have come.
struct Incoming {
    /// What has come; `None` if it is dropped, for want of memory.
    bytes: Option<Vec<u8>>,
    come: usize,
    size: usize,
    is_push: bool,
}

/// Where direct reads leave hints for the server: in the lane.
pub(super) struct LaneHints(pub Arc<Mapping>);

impl AccessLog for LaneHints {
    fn tail(&self) -> &AtomicU64 {
        Lane::new(self.0.words()).hint_tail()
    }

    fn hints(&self) -> &[AtomicU64] {
        Lane::new(self.0.words()).hints()
    }

    fn taken(&self) -> &AtomicU64 {
        Lane::new(self.0.words()).hints_taken()
    }
}

pub(super) struct LaneLink {
    mapping: Arc<Mapping>,
    /// The worker that serves us.
    worker: usize,
    request_bell: Doorbell,
    alarm: Alarm,
    sharing: Arc<Sharing>,
    requests: Producer,
    responses: Consumer,
    /// Whether a request found no room: then room is news too.
    wants_room: bool,
    /// A request's bytes that did not fit: they go before anything else.
    unsent: Option<Outgoing>,
    /// A reply that has come in part.
    incoming: Option<Incoming>,
    record: Vec<u8>,
}

/// What a waiting client looks at.
pub(super) struct LaneNews<'a> {
    lane: Lane<'a>,
    alarm: &'a Alarm,
    request_bell: &'a Doorbell,
    requests: &'a Producer,
    responses: &'a Consumer,
    /// Whether room is news, too.
    wants_room: bool,
}

impl Awaited for LaneNews<'_> {
    const NEWS_PER_CHECK: u32 = 4_096;

    #[inline]
    fn has_news(&self) -> bool {
        // Relaxed: a hint; the link's steps look properly.
        self.lane.responses().tail.load(Ordering::Relaxed) != self.responses.seen()
            || (self.wants_room && self.lane.requests().head.load(Ordering::Relaxed) != self.requests.head_seen())
    }

    fn alarm(&self) -> &Alarm {
        self.alarm
    }

    fn client_state(&self) -> &AtomicU64 {
        self.lane.client_state()
    }

    fn wake_server(&self) {
        // Relaxed: ordered by the caller's fence.
        if self.lane.server_waiting().load(Ordering::Relaxed) & 1 != 0 {
            self.request_bell.ring();
        }
    }

    fn nap(&self) -> Option<Duration> {
        None
    }
}

fn broken(error: PositionError) -> Error {
    Error::Protocol(error.to_string())
}

impl LaneLink {
    /// Takes over a lane that the server passed, which has so many workers.
    pub fn join(
        socket: Descriptor,
        lane: Descriptor,
        request_bell: Descriptor,
        listener: Descriptor,
        workers: usize,
        sharing: Arc<Sharing>,
    ) -> Result<Self, Error> {
        let segment = system("taking the lane", Segment::from_foreign(lane))?;
        if segment.size() != LANE_SIZE {
            let (found, ours) = (segment.size(), LANE_SIZE);
            return Err(Error::Version(format!("the server's lanes have {found} bytes, this client's {ours}")));
        }
        let mapping = system("mapping the lane", segment.map_writable())?;
        system("sealing the lane", segment.seal(true))?;
        let worker = Lane::new(mapping.words()).attach().map_err(|error| Error::Version(error.to_string()))?;
        if worker >= workers {
            return Err(Error::Protocol(format!("the lane belongs to worker {worker} of {workers}")));
        }
        let alarm = Alarm::new(socket, listener)?;
        let request_bell = Doorbell::from_foreign(request_bell);
        // The lane is sealed: from now on the server looks at it.
        request_bell.ring();
        Ok(Self {
            worker,
            request_bell,
            alarm,
            mapping: Arc::new(mapping),
            sharing,
            requests: Producer::default(),
            responses: Consumer::default(),
            wants_room: false,
            unsent: None,
            incoming: None,
            record: Vec::new(),
        })
    }

    /// The workers that may serve us.
    pub fn workers(&self) -> Range<usize> {
        self.worker..self.worker + 1
    }

    /// The lane's memory.
    pub fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    /// Writes a request if there is room for all of it, or takes over one that is larger than the ring. Returns whether
    /// it has.
    #[inline]
    pub fn try_push(&mut self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        if self.unsent.is_some() && !self.send_unsent()? {
            return Ok(false);
        }
        let head = RequestHead::new(number, arguments).map_err(|error| Error::Protocol(error.to_string()))?;
        let ring = Lane::new(self.mapping.words()).requests();
        self.wants_room = self.requests.room(ring, head.size()).map_err(broken)? < head.size();
        if self.wants_room {
            return if head.size() > limits::LANE_RING_SIZE { self.take_over(&head) } else { Ok(false) };
        }
        failpoint!("lane.writing");
        head.write(&mut self.requests, ring);
        failpoint!("lane.written");
        Ok(true)
    }

    /// For a request that the ring cannot hold: the link owns a copy of it from now on, and sends it on as room
    /// appears, even if the caller loses patience.
    #[cold]
    fn take_over(&mut self, head: &RequestHead<'_>) -> Result<bool, Error> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(head.size()).map_err(|_| Error::NoRoom(head.size()))?;
        head.append_to(&mut bytes);
        self.unsent = Some(Outgoing { bytes, sent: 0 });
        self.wants_room = false;
        self.send_unsent()?;
        Ok(true)
    }

    /// Sends what is left of a large request as far as there is room. Returns whether all of it has gone.
    #[inline]
    fn send_unsent(&mut self) -> Result<bool, Error> {
        let Some(unsent) = &mut self.unsent else { return Ok(true) };
        let ring = Lane::new(self.mapping.words()).requests();
        let left = &unsent.bytes[unsent.sent..];
        let room = self.requests.room(ring, left.len()).map_err(broken)?;
        let piece = room.min(left.len());
        self.requests.write(ring, &left[..piece]);
        unsent.sent += piece;
        let done = unsent.sent == unsent.bytes.len();
        if done {
            self.unsent = None;
        }
        self.publish_written();
        if piece > 0 && !done {
            failpoint!("lane.piece");
        }
        Ok(done)
    }

    /// Sends what there is room for, and wakes the server if it sleeps. Returns whether all has gone.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, Error> {
        if self.unsent.is_some() {
            return self.send_unsent();
        }
        self.publish_written();
        Ok(true)
    }

    /// Whether a request has gone in part.
    pub fn has_rest(&self) -> bool {
        self.unsent.is_some()
    }

    /// Lets the server see what was written, and wakes it if it sleeps.
    #[inline]
    fn publish_written(&mut self) {
        let lane = Lane::new(self.mapping.words());
        if self.requests.publish(lane.requests()) {
            failpoint!("lane.published");
            if lane::must_ring(lane.server_waiting()) {
                self.request_bell.ring();
            }
        }
    }

    /// The next reply, if all of it has come.
    #[inline]
    pub fn try_receive(&mut self) -> Result<Option<Reply>, Error> {
        let ring = Lane::new(self.mapping.words()).responses();
        if self.incoming.is_some() {
            return self.receive_piece();
        }
        let available = self.responses.available(ring, 8).map_err(broken)?;
        if available == 0 {
            return Ok(None);
        }
        let word = self.responses.peek(ring);
        if record::is_ok(word) {
            self.responses.skip(record::HEADER_SIZE);
            failpoint!("lane.reply");
            self.responses.release(ring);
            return Ok(Some(Reply::Status("OK".into())));
        }
        let garbled = |error: record::RecordError| Error::Protocol(error.to_string());
        let size = record::record_size(word, limits::REPLY_SIZE_MAX).map_err(garbled)?;
        if size > available && self.responses.available(ring, size).map_err(broken)? < size {
            // Without memory for all of it, it is taken out of the ring all the same: others follow it.
            let (bytes, is_push) = (self.sharing.take_buffer(size), record::is_push(word));
            self.incoming = Some(Incoming { bytes, come: 0, size, is_push });
            return self.receive_piece();
        }
        self.record.resize(size, 0);
        self.responses.read(ring, as_uninit(&mut self.record));
        failpoint!("lane.reply");
        self.responses.release(ring);
        record::decode_reply(&self.record).map(Some).map_err(garbled)
    }

    fn receive_piece(&mut self) -> Result<Option<Reply>, Error> {
        let ring = Lane::new(self.mapping.words()).responses();
        let Some(incoming) = &mut self.incoming else { return Ok(None) };
        let available = self.responses.available(ring, limits::LANE_RING_SIZE).map_err(broken)?;
        let piece = available.min(incoming.size - incoming.come);
        match &mut incoming.bytes {
            Some(bytes) => {
                bytes.resize(incoming.come + piece, 0);
                self.responses.read(ring, as_uninit(&mut bytes[incoming.come..]));
            }
            None => self.responses.skip(piece),
        }
        incoming.come += piece;
        self.responses.release(ring);
        if incoming.come < incoming.size {
            if piece > 0 {
                failpoint!("lane.reply_piece");
            }
            // A server that sleeps for want of room is woken now, and not when we have waited for the rest in vain.
            if piece > 0 && lane::must_ring(Lane::new(self.mapping.words()).server_waiting()) {
                self.request_bell.ring();
            }
            return Ok(None);
        }
        let (record, size, is_push) = (incoming.bytes.take(), incoming.size, incoming.is_push);
        self.incoming = None;
        let reply = record.map_or(Ok(record::dropped(is_push, size)), record::decode_owned);
        reply.map(Some).map_err(|error| Error::Protocol(error.to_string()))
    }

    /// What to wait for: a reply (or a piece of one), or room for a request that waits for it. `None` if there may be
    /// something new already.
    pub fn awaited(&mut self) -> Result<Option<LaneNews<'_>>, Error> {
        // What the caller waits for may hang on the rest of a large request.
        self.publish()?;
        if self.wants_room {
            // Room that has appeared since we looked is news once. The caller may not be one who asks for it: what
            // stayed news for ever would keep it from noticing that the server is gone.
            let seen = self.requests.head_seen();
            let ring = Lane::new(self.mapping.words()).requests();
            self.requests.room(ring, limits::LANE_RING_SIZE).map_err(broken)?;
            if self.requests.head_seen() != seen {
                return Ok(None);
            }
        }
        Ok(Some(self.news()))
    }

    /// What becomes readable when a client that sleeps is rung for, or its server has ended.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }

    /// What to look at for something new.
    #[inline]
    pub fn news(&self) -> LaneNews<'_> {
        LaneNews {
            lane: Lane::new(self.mapping.words()),
            alarm: &self.alarm,
            request_bell: &self.request_bell,
            requests: &self.requests,
            responses: &self.responses,
            wants_room: self.wants_room || self.unsent.is_some(),
        }
    }
}
