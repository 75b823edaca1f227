//! A watch: the table's changes, read in place out of the server's ring of events.
//!
//! # Design
//!
//! A watch is a connection of its own. The server passes the table, read-only; a segment in whose one word the watcher
//! says whether it sleeps; and something to sleep on, which also tells the server's death. From then on nobody is
//! asked: the watcher reads what is there, and sleeps when there is nothing more. It does not spin before that: whoever
//! is told of changes by others waits long, as a rule, and many may wait at a time.
//!
//! # Edges
//!
//! - Lapped: [`Change::Lagged`] with the number of events that were missed; the next one is the newest of them.
//! - The server has gone: what it published before comes first, then [`Error::Gone`].
//! - Closed by another thread: [`Error::WatchClosed`] to who waits. In a forked child: the same.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::connect::connect;
use super::error::{Error, system};
use super::gate::Gate;
use super::handshake::upgrade;
use super::in_place::{TableReader, attach};
use super::life::last_words;
use super::patience::Patience;
use super::replies::unexpected;
use super::socket::SocketLink;
use crate::address::{self, Location};
use crate::command::reply::Reply;
use crate::command::{self, integer::parse_integer};
use crate::folder::Trust;
use crate::limits;
use crate::ring::lane;
use crate::shm::doorbell::{Listener, Woken};
use crate::shm::fork::{self, Descriptor};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{AtomicU64, Memory};
use crate::table::events::{Consumer, Event, Kind, Next, Place, Start};
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
pub fn watch_request() -> [String; 3] {
    ["RING.WATCH".into(), LAYOUT_VERSION.to_string(), format!("{:016x}", *command::FINGERPRINT)]
}

/// A watch, for any number of threads; each event goes to one of them.
pub struct Watch {
    location: Location,
    ears: Gate<Option<Ears>>,
    /// A second descriptor of the socket, to end the watch while another thread waits in it.
    life: Descriptor,
    closed: AtomicBool,
    listener: RawFd,
    generation: u64,
}

impl Watch {
    /// Watches the keys that begin with `prefix`: whatever is written after this has returned is seen.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody listens; [`Error::Refused`] if the server has no memory for the events; others.
    pub fn connect(
        address: impl AsRef<OsStr>,
        prefix: &[u8],
        trust: &Trust,
        mut patience: Patience<'_>,
    ) -> Result<Self, Error> {
        let location = address::location(address)?;
        if let Location::Tcp(_) = location {
            return Err(Error::NoSharedMemory(location));
        }
        patience.start();
        let socket = connect(&location, trust, &mut patience)?;
        let life = system("duplicating the socket", socket.duplicate().map_err(Into::into))?;
        let mut plain = SocketLink::new(socket);
        let (status, passed) = upgrade(&mut plain, &watch_request(), &mut patience)?;
        failpoint!("watch.joined");
        let start = begin(&status).ok_or_else(|| unexpected(Reply::Status(status.into())))?;
        let ears = Ears::join(plain.into_socket(), passed, start, prefix)?;
        let listener = ears.listener.as_fd().as_raw_fd();
        let generation = fork::generation();
        Ok(Self { location, ears: Gate::new(Some(ears)), life, closed: AtomicBool::new(false), listener, generation })
    }

    /// Where the server listens.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Waits until there are changes, and returns some.
    ///
    /// # Errors
    /// [`Error::Gone`] when the server is gone; [`Error::WatchClosed`]; whatever ends the patience.
    pub fn wait(&self, patience: Patience<'_>) -> Result<Vec<Change>, Error> {
        self.with(patience, |ears, patience| {
            patience.start();
            loop {
                let (changes, rest) = ears.take()?;
                if !changes.is_empty() {
                    return Ok(changes);
                }
                match rest {
                    // None of these were wanted, so that time may have passed.
                    ControlFlow::Continue(()) => {
                        patience.slice()?;
                        patience.check_interrupted()?;
                    }
                    ControlFlow::Break(()) => ears.sleep(patience)?,
                }
            }
        })
    }

    /// Returns the changes that are there, or some of them.
    ///
    /// # Errors
    /// As [`Self::wait`], but for the server's end.
    pub fn take(&self, patience: Patience<'_>) -> Result<Vec<Change>, Error> {
        self.with(patience, |ears, _| Ok(ears.take()?.0))
    }

    /// For event loops: prepares for waiting until [`Self::descriptor`] is readable, and then for [`Self::disarm`].
    /// Returns `false` if there is something to take already; then there is nothing to wait for.
    ///
    /// # Errors
    /// [`Error::WatchClosed`].
    pub fn arm(&self, patience: Patience<'_>) -> Result<bool, Error> {
        self.with(patience, |ears, _| {
            lane::announce_sleep(ears.state(), 0);
            ears.armed = !ears.has_news();
            if !ears.armed {
                lane::announce_awake(ears.state(), 0);
            }
            Ok(ears.armed)
        })
    }

    /// For event loops: ends the waiting, whether the descriptor became readable or not.
    ///
    /// # Errors
    /// [`Error::Gone`] when the server is gone and nothing is left to take; [`Error::WatchClosed`].
    pub fn disarm(&self, patience: Patience<'_>) -> Result<(), Error> {
        let outcome = self.enter(patience, |ears, _| {
            ears.armed = false;
            lane::announce_awake(ears.state(), 0);
            ears.listen(Duration::ZERO)
        });
        if self.closed.load(Ordering::Relaxed) {
            self.let_go(patience);
            return Err(Error::WatchClosed);
        }
        outcome
    }

    /// The descriptor to wait for, between [`Self::arm`] and [`Self::disarm`]. It stays the watch's own.
    ///
    /// # Errors
    /// [`Error::WatchClosed`].
    pub fn descriptor(&self) -> Result<RawFd, Error> {
        if self.is_ours() && !self.closed.load(Ordering::Relaxed) { Ok(self.listener) } else { Err(Error::WatchClosed) }
    }

    /// Ends the watch, also for a thread that waits in it. An event loop that waits is woken, and its
    /// [`Self::disarm`] does the rest: until then the descriptor stays open. May be called again.
    pub fn close(&self, patience: Patience<'_>) {
        if !self.is_ours() {
            return;
        }
        // Relaxed: whoever waits finds the socket closed, and looks here then.
        self.closed.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.life, rustix::net::Shutdown::Both);
        self.let_go(patience);
    }

    /// Ends the listening, unless an event loop is at it; may be called again.
    fn let_go(&self, patience: Patience<'_>) {
        let _ = self.ears.enter(patience, |ears, _| {
            if ears.as_ref().is_some_and(|ears| !ears.armed) {
                *ears = None;
            }
            Ok(())
        });
    }

    fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    fn with<R>(
        &self,
        patience: Patience<'_>,
        work: impl FnOnce(&mut Ears, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let outcome = self.enter(patience, work);
        if self.is_ours() && self.closed.load(Ordering::Relaxed) {
            // By another thread while we waited, or by a signal handler in ours, which could not wait for us to end:
            // what it did looks like the server's end.
            self.let_go(Patience::new(Some(Duration::ZERO), &|| false));
            return Err(Error::WatchClosed);
        }
        outcome
    }

    fn enter<R>(
        &self,
        patience: Patience<'_>,
        work: impl FnOnce(&mut Ears, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        // Before the gate: in a forked child it may be held by a thread that does not exist there.
        if !self.is_ours() {
            return Err(Error::WatchClosed);
        }
        self.ears.enter(patience, |ears, patience| match ears {
            Some(ears) => work(ears, patience),
            None => Err(Error::WatchClosed),
        })
    }
}

/// What it takes to listen.
struct Ears {
    reader: TableReader,
    place: Place,
    consumer: Consumer,
    prefix: Vec<u8>,
    /// The key that was read last.
    key: Vec<u8>,
    state: Mapping,
    listener: Listener,
    socket: Descriptor,
    /// Whether an event loop waits for the listener.
    armed: bool,
}

impl Ears {
    /// Takes over what the server passed: table, state, something to sleep on.
    fn join(socket: Descriptor, passed: Vec<Descriptor>, start: Start, prefix: &[u8]) -> Result<Self, Error> {
        let count = passed.len();
        let [table, state, listener]: [Descriptor; 3] =
            passed.try_into().map_err(|_| Error::Protocol(format!("a watch comes with 3 descriptors, not {count}")))?;
        let reader = attach(table)?;
        let place = Place::load(reader.words());
        let place = place.ok_or_else(|| Error::Protocol("the table's header names no ring of events".to_owned()))?;
        let segment = system("taking the watch's segment", Segment::from_foreign(state))?;
        let state = system("mapping the watch's segment", segment.map_writable())?;
        // The server looks at it only then.
        system("sealing the watch's segment", segment.seal(true))?;
        let listener = system("taking the doorbell", Listener::from_foreign(listener, &socket))?;
        let consumer = Consumer::new(start);
        let (prefix, key) = (prefix.to_vec(), Vec::new());
        Ok(Self { reader, place, consumer, prefix, key, state, listener, socket, armed: false })
    }

    fn state(&self) -> &AtomicU64 {
        &self.state.words()[0]
    }

    fn has_news(&self) -> bool {
        self.consumer.has_news(self.place.ring(self.reader.words()))
    }

    /// Takes a batch: those of its changes that are wanted, and whether to go on, as there may be more.
    fn take(&mut self) -> Result<(Vec<Change>, ControlFlow<()>), Error> {
        let ring = self.place.ring(self.reader.words());
        let mut changes = Vec::new();
        for _ in 0..limits::EVENT_BATCH_MAX {
            match self.consumer.next(ring, &mut self.key).map_err(|error| Error::Protocol(error.to_string()))? {
                Next::Nothing => return Ok((changes, ControlFlow::Break(()))),
                Next::Contended => break,
                Next::Lagged(count) => changes.push(Change::Lagged(count)),
                // What empties the table concerns every key.
                Next::Event(event) if event.kind == Kind::Flush || self.key.starts_with(&self.prefix) => {
                    changes.push(Change::Event { event, key: self.key.clone() });
                }
                Next::Event(_) => {}
            }
        }
        Ok((changes, ControlFlow::Continue(())))
    }

    /// Sleeps until there is something, but not longer than a slice of the patience.
    fn sleep(&self, patience: &mut Patience<'_>) -> Result<(), Error> {
        let slice = patience.slice()?;
        lane::announce_sleep(self.state(), 0);
        failpoint!("watch.announced");
        let outcome = if self.has_news() { Ok(()) } else { self.listen(slice) };
        lane::announce_awake(self.state(), 0);
        outcome?;
        if self.has_news() { Ok(()) } else { patience.check_interrupted() }
    }

    /// Waits for the doorbell, or for the server's end.
    fn listen(&self, timeout: Duration) -> Result<(), Error> {
        match self.listener.wait(timeout) {
            // What it published before its end comes first.
            Ok(Woken { socket: true, .. }) if !self.has_news() => Err(last_words(&self.socket)),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(Error::System { doing: "waiting for events", error }),
        }
    }
}

/// Where to begin, out of the server's `WATCH position sequence`.
fn begin(words: &str) -> Option<Start> {
    let mut words = words.split(' ');
    if words.next() != Some("WATCH") {
        return None;
    }
    let mut number = || u64::try_from(parse_integer(words.next()?.as_bytes())?).ok();
    Some(Start { position: number()?, sequence: number()? })
}
