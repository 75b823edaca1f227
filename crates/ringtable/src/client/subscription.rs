//! The changes of a table as they come out of the server's ring of events, in steps that never wait.
//!
//! # Design
//!
//! The server passes the table, read-only; a segment in whose one word the watcher says whether it sleeps; and
//! something to sleep on, which also tells the server's death. From then on nobody is asked: [`Subscription::take`]
//! reads what is there, and is pending when there is nothing more. Then its driver waits, between [`Subscription::arm`]
//! and [`Subscription::disarm`], for the [`Alarm`]: [`super::watch`] has one that blocks a thread, and lends itself to
//! event loops.
//!
//! # Edges
//!
//! - Lapped: [`Change::Lagged`] with the number of events that were missed; the next one is the newest of them.
//! - The server has gone: what it published before comes first, then [`Error::Gone`]. Its driver may go on with the
//!   next one ([`Subscription::go_on`]).

use std::task::Poll;
use std::time::Duration;

use super::alarm::Alarm;
use super::error::{Error, system};
use super::in_place::{TableReader, attach};
use crate::command::integer::parse_integer;
use crate::limits;
use crate::ring::lane;
use crate::shm::clock::coarse_ms;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{AtomicU64, Memory};
use crate::table::events::{Consumer, Event, Kind, Next, RingLocation, Start};
use crate::table::layout::LAYOUT_VERSION;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key, or all of them, has changed.
    Event {
        /// How.
        event: Event,
        /// Which; empty for [`Kind::Flush`].
        key: Vec<u8>,
    },
    /// So many events came and went unread.
    Lagged(u64),
}

/// The words of the request that asks for a watch.
pub fn watch_request() -> [String; 2] {
    ["RING.WATCH".into(), LAYOUT_VERSION.to_string()]
}

/// Where to begin, out of the server's `WATCH position sequence`.
pub(super) fn begin(words: &str) -> Option<Start> {
    let mut words = words.split(' ');
    if words.next() != Some("WATCH") {
        return None;
    }
    let mut number = || u64::try_from(parse_integer(words.next()?.as_bytes())?).ok();
    Some(Start { position: number()?, sequence: number()? })
}

pub(super) struct Subscription {
    reader: TableReader,
    place: RingLocation,
    consumer: Consumer,
    prefix: Vec<u8>,
    /// The key that was read last.
    key: Vec<u8>,
    state: Mapping,
    alarm: Alarm,
    is_armed: bool,
    /// When it was looked last whether the server lives.
    life_checked_ms: u64,
}

impl Subscription {
    /// Takes over what the server passed: table, state, something to sleep on.
    pub fn join(socket: Descriptor, passed: Vec<Descriptor>, start: Start, prefix: &[u8]) -> Result<Self, Error> {
        let count = passed.len();
        let [table, state, listener]: [Descriptor; 3] =
            passed.try_into().map_err(|_| Error::Protocol(format!("a watch comes with 3 descriptors, not {count}")))?;
        let reader = attach(table)?;
        let place = RingLocation::load(reader.words());
        let place = place.ok_or_else(|| Error::Protocol("the table's header names no ring of events".to_owned()))?;
        let segment = system("taking the watch's segment", Segment::from_foreign(state))?;
        let state = system("mapping the watch's segment", segment.map_writable())?;
        // The server looks at it only then.
        system("sealing the watch's segment", segment.seal(true))?;
        let alarm = Alarm::new(socket, listener)?;
        let consumer = Consumer::new(start);
        let (prefix, key) = (prefix.to_vec(), Vec::new());
        let life_checked_ms = coarse_ms();
        Ok(Self { reader, place, consumer, prefix, key, state, alarm, is_armed: false, life_checked_ms })
    }

    /// Goes on over another connection, which has begun to watch. Returns whether that can be: it has to be the same
    /// table, with the same ring.
    pub fn go_on(&mut self, other: Self) -> bool {
        let is_same = self.reader.constants().id == other.reader.constants().id && self.place == other.place;
        // A ring that was made anew begins anew.
        let ring = self.place.ring(self.reader.words());
        let goes_on = is_same && self.consumer.is_at_home(ring, &other.consumer);
        if goes_on {
            let Self { state, alarm, .. } = other;
            (self.state, self.alarm, self.is_armed) = (state, alarm, false);
        }
        goes_on
    }

    fn state(&self) -> &AtomicU64 {
        &self.state.words()[0]
    }

    /// Whether there is anything to take. A hint.
    pub fn has_news(&self) -> bool {
        self.consumer.has_news(self.place.ring(self.reader.words()))
    }

    /// Takes a batch, of which those changes are returned that are wanted; none may be. Pending if there is nothing.
    pub fn take(&mut self) -> Result<Poll<Vec<Change>>, Error> {
        let ring = self.place.ring(self.reader.words());
        let mut changes = Vec::new();
        for _ in 0..limits::EVENT_BATCH_MAX {
            match self.consumer.next(ring, &mut self.key).map_err(|error| Error::Protocol(error.to_string()))? {
                Next::Nothing if changes.is_empty() => return Ok(Poll::Pending),
                Next::Nothing | Next::Contended => break,
                Next::Lagged(count) => changes.push(Change::Lagged(count)),
                // What empties the table concerns every key.
                Next::Event(event) if event.kind == Kind::Flush || self.key.starts_with(&self.prefix) => {
                    changes.push(Change::Event { event, key: self.key.clone() });
                }
                Next::Event(_) => {}
            }
        }
        Ok(Poll::Ready(changes))
    }

    /// What wakes the watcher.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Prepares for sleep on the alarm, and then for [`Self::disarm`]. Returns `false` if there is something to take
    /// already; then there is nothing to sleep for.
    pub fn arm(&mut self) -> bool {
        lane::announce_sleep(self.state(), 0);
        failpoint!("watch.announced");
        self.is_armed = !self.has_news();
        if !self.is_armed {
            lane::announce_awake(self.state(), 0);
        }
        self.is_armed
    }

    /// Says that we are awake again.
    pub fn disarm(&mut self) {
        self.is_armed = false;
        lane::announce_awake(self.state(), 0);
    }

    /// Looks every now and then whether the server has gone, though there is something to take: a watcher that always
    /// finds something never listens. Returns why it has.
    #[inline]
    pub fn end(&mut self) -> Option<Error> {
        let now = coarse_ms();
        if now.wrapping_sub(self.life_checked_ms) < limits::LIVENESS_CHECK_MS {
            return None;
        }
        self.life_checked_ms = now;
        self.alarm.listen(Duration::ZERO, || false).err()
    }

    /// Whether its driver sleeps, or is about to.
    pub fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// Sleeps until there is something, or just looks, for no time; see [`Alarm::listen`].
    pub fn listen(&self, timeout: Duration) -> Result<bool, Error> {
        self.alarm.listen(timeout, || self.has_news())
    }
}
