//! A watch: the table's changes, read in place out of the server's ring of events.
//!
//! # Design
//!
//! A watch is a connection of its own. Its steps are those of [`super::subscription`]; here a thread waits between
//! them, or an event loop does. A thread does not spin before it sleeps: most watches wait long for a change, and many
//! may wait at a time.
//!
//! # Edges
//!
//! - Those of [`super::subscription`].
//! - Closed by another thread: [`Error::WatchClosed`] to a thread that waits. In a forked child: the same.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::connect::connect;
use super::error::{Error, system};
use super::gate::Gate;
use super::handshake::upgrade;
use super::patience::Patience;
use super::replies::unexpected;
use super::socket::SocketLink;
use super::subscription::{Change, Subscription, begin, watch_request};
use crate::address::{self, Location};
use crate::command::reply::Reply;
use crate::folder::Trust;
use crate::shm::fork::{self, Descriptor};

/// A watch, for any number of threads; each event goes to one of them.
pub struct Watch {
    location: Location,
    subscription: Gate<Option<Subscription>>,
    /// A second descriptor of the socket, to end the watch while another thread waits in it.
    life: Descriptor,
    closed: AtomicBool,
    alarm: RawFd,
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
        if let Location::Tcp(_) | Location::Udp(_) = location {
            return Err(Error::NoSharedMemory(location));
        }
        patience.start();
        let socket = connect(&location, trust, &mut patience)?;
        let life = system("duplicating the socket", socket.duplicate().map_err(Into::into))?;
        let mut plain = SocketLink::new(socket);
        let (status, passed) = upgrade(&mut plain, &watch_request(), &mut patience)?;
        failpoint!("watch.joined");
        let start = begin(&status).ok_or_else(|| unexpected(Reply::Status(status.into())))?;
        let subscription = Subscription::join(plain.into_socket(), passed, start, prefix)?;
        let alarm = subscription.alarm().as_fd().as_raw_fd();
        let generation = fork::generation();
        Ok(Self {
            location,
            subscription: Gate::new(Some(subscription)),
            life,
            closed: AtomicBool::new(false),
            alarm,
            generation,
        })
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
        self.with(patience, |subscription, patience| {
            patience.start();
            loop {
                match subscription.take()? {
                    // None of these were wanted, so that time may have passed.
                    Poll::Ready(changes) if changes.is_empty() => {
                        patience.slice()?;
                        patience.check_interrupted()?;
                    }
                    Poll::Ready(changes) => return Ok(changes),
                    Poll::Pending => sleep(subscription, patience)?,
                }
            }
        })
    }

    /// Returns the changes that are there, or some of them.
    ///
    /// # Errors
    /// As [`Self::wait`], but for the server's end.
    pub fn take(&self, patience: Patience<'_>) -> Result<Vec<Change>, Error> {
        self.with(patience, |subscription, _| {
            Ok(match subscription.take()? {
                Poll::Ready(changes) => changes,
                Poll::Pending => Vec::new(),
            })
        })
    }

    /// For event loops: prepares for waiting until [`Self::descriptor`] is readable, and then for [`Self::disarm`].
    /// Returns `false` if there is something to take already; then there is nothing to wait for.
    ///
    /// # Errors
    /// [`Error::WatchClosed`].
    pub fn arm(&self, patience: Patience<'_>) -> Result<bool, Error> {
        self.with(patience, |subscription, _| Ok(subscription.arm()))
    }

    /// For event loops: ends the waiting, whether the descriptor became readable or not.
    ///
    /// # Errors
    /// [`Error::Gone`] when the server is gone and nothing is left to take; [`Error::WatchClosed`].
    pub fn disarm(&self, patience: Patience<'_>) -> Result<(), Error> {
        let outcome = self.enter(patience, |subscription, _| {
            subscription.disarm();
            subscription.listen(Duration::ZERO).map(drop)
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
        if self.is_ours() && !self.closed.load(Ordering::Relaxed) { Ok(self.alarm) } else { Err(Error::WatchClosed) }
    }

    /// Ends the watch, also for a thread that waits in it. An event loop that waits is woken, and its
    /// [`Self::disarm`] does the rest: until then the descriptor stays open. May be called again.
    pub fn close(&self, patience: Patience<'_>) {
        if !self.is_ours() {
            return;
        }
        // Relaxed: a thread that waits finds the socket closed, and looks here then.
        self.closed.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&self.life, rustix::net::Shutdown::Both);
        self.let_go(patience);
    }

    /// Ends the listening, unless an event loop is at it; may be called again.
    fn let_go(&self, patience: Patience<'_>) {
        let _ = self.subscription.enter(patience, |subscription, _| {
            if subscription.as_ref().is_some_and(|subscription| !subscription.is_armed()) {
                *subscription = None;
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
        work: impl FnOnce(&mut Subscription, &mut Patience<'_>) -> Result<R, Error>,
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
        work: impl FnOnce(&mut Subscription, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        // Before the gate: in a forked child it may be held by a thread that does not exist there.
        if !self.is_ours() {
            return Err(Error::WatchClosed);
        }
        self.subscription.enter(patience, |subscription, patience| match subscription {
            Some(subscription) => work(subscription, patience),
            None => Err(Error::WatchClosed),
        })
    }
}

/// Sleeps until there is something, but not longer than a slice of the patience.
fn sleep(subscription: &mut Subscription, patience: &mut Patience<'_>) -> Result<(), Error> {
    let slice = patience.slice()?;
    let outcome = if subscription.arm() { subscription.listen(slice) } else { Ok(false) };
    subscription.disarm();
    outcome?;
    if subscription.has_news() { Ok(()) } else { patience.check_interrupted() }
}
