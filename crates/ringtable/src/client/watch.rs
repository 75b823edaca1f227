//! A watch: the table's changes, read in place out of the server's ring of events.
//!
//! # Design
//!
//! A watch is a connection of its own. Its steps are those of [`super::subscription`]; here a thread waits between
//! them, or an event loop does. A thread does not spin before it sleeps: most watches wait long for a change, and many
//! may wait at a time.
//!
//! A watch goes on over another connection if its server has gone and the next one has the same table: the ring of
//! events lies in it, and nothing else is lost. What is missing there is told ([`Change::Lagged`]).
//!
//! # Edges
//!
//! - Those of [`super::subscription`].
//! - Closed by another thread: [`Error::WatchClosed`] to a thread that waits. In a forked child: the same.
//! - No server follows, or one with another table, or whose ring of events is another: [`Error::Gone`].

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::connect::connect;
use super::error::{Error, system};
use super::gate::Gate;
use super::handshake::{await_upgrade, begin_upgrade};
use super::joining::joined;
use super::patience::Patience;
use super::replies::unexpected;
use super::socket::SocketLink;
use super::subscription::{Change, Subscription, begin, watch_request};
use crate::address::{self, Location};
use crate::command::reply::Reply;
use crate::folder::Trust;
use crate::shm::fork::{self, Descriptor};
use crate::sync::lock;

/// A watch, for any number of threads; each event goes to one of them.
pub struct Watch {
    location: Location,
    trust: Trust,
    prefix: Vec<u8>,
    subscription: Gate<Option<Subscription>>,
    /// A connection that is about to take the place of the one of before, whose server has gone.
    joining: Mutex<Option<Joining>>,
    /// A second descriptor of the socket, to end the watch while another thread waits in it.
    life: Mutex<Descriptor>,
    closed: AtomicBool,
    alarm: AtomicI32,
    generation: u64,
}

/// A connection whose server was asked to let it watch, and has not answered yet.
struct Joining {
    plain: SocketLink,
    passed: Vec<Descriptor>,
    descriptor: RawFd,
}

impl Joining {
    /// Asks the server there.
    fn begin(location: &Location, trust: &Trust, patience: &mut Patience<'_>) -> Result<(Self, Descriptor), Error> {
        patience.start();
        let socket = connect(location, trust, patience)?;
        let (life, descriptor) = (duplicate(&socket)?, socket.as_fd().as_raw_fd());
        let mut plain = SocketLink::new(socket);
        begin_upgrade(&mut plain, &watch_request());
        Ok((Self { plain, passed: Vec::new(), descriptor }, life))
    }

    /// Waits for its answer. May be called again if the patience was over.
    fn status(&mut self, patience: &mut Patience<'_>) -> Result<String, Error> {
        patience.start();
        await_upgrade(&mut self.plain, &mut self.passed, patience)
    }

    fn finish(self, status: String, prefix: &[u8]) -> Result<Subscription, Error> {
        failpoint!("watch.joined");
        let start = begin(&status).ok_or_else(|| unexpected(Reply::Status(status.into())))?;
        Subscription::join(self.plain.into_socket(), self.passed, start, prefix)
    }
}

fn duplicate(socket: &Descriptor) -> Result<Descriptor, Error> {
    system("duplicating the socket", socket.duplicate().map_err(Into::into))
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
        patience: Patience<'_>,
    ) -> Result<Self, Error> {
        let location = address::location(address)?;
        if let Location::Tcp(_) | Location::Udp(_) = location {
            return Err(Error::NoSharedMemory(location));
        }
        let (subscription, life) = joined(patience, |mut patience| {
            let (mut joining, life) = Joining::begin(&location, trust, &mut patience)?;
            let status = joining.status(&mut patience)?;
            Ok((joining.finish(status, prefix)?, life))
        })?;
        let alarm = AtomicI32::new(subscription.alarm().as_fd().as_raw_fd());
        Ok(Self {
            location,
            trust: trust.clone(),
            prefix: prefix.to_vec(),
            subscription: Gate::new(Some(subscription)),
            joining: Mutex::new(None),
            life: Mutex::new(life),
            closed: AtomicBool::new(false),
            alarm,
            generation: fork::generation(),
        })
    }

    /// Where the server listens.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Waits until there are changes, and returns some. If the server has gone, it goes on with the next one if
    /// `rejoins`.
    ///
    /// # Errors
    /// [`Error::Gone`] when the server is gone, and no other one has its table; [`Error::WatchClosed`]; whatever ends
    /// the patience.
    pub fn wait(&self, rejoins: bool, patience: Patience<'_>) -> Result<Vec<Change>, Error> {
        self.with(patience, |subscription, patience| {
            patience.start();
            loop {
                // Before anything is taken out, which an interruption would lose. Without waiting: what is there comes
                // first, and that no server follows is told when nothing is left.
                if rejoins && let Some(error @ Error::Gone(_)) = subscription.end() {
                    let _ = self.follow(subscription, error, Patience::new(Some(Duration::ZERO), &|| false));
                }
                match subscription.take()? {
                    // None of these were wanted, so that time may have passed.
                    Poll::Ready(changes) if changes.is_empty() => {
                        patience.slice()?;
                        patience.check_interrupted()?;
                    }
                    Poll::Ready(changes) => return Ok(changes),
                    Poll::Pending => match sleep(subscription, patience) {
                        Err(error @ Error::Gone(_)) if rejoins => self.follow(subscription, error, *patience)?,
                        outcome => outcome?,
                    },
                }
            }
        })
    }

    /// Goes on with the next server, if that of before has gone.
    ///
    /// # Errors
    /// [`Error::Gone`] when no other one has its table; [`Error::WatchClosed`]; whatever ends the patience.
    pub fn rejoin(&self, patience: Patience<'_>) -> Result<(), Error> {
        self.with(patience, |subscription, patience| match subscription.listen(Duration::ZERO) {
            Err(error @ Error::Gone(_)) => self.follow(subscription, error, *patience),
            outcome => outcome.map(drop),
        })
    }

    /// The same, without looking. Why the server has gone is in the words of `gone`.
    #[cold]
    fn follow(&self, subscription: &mut Subscription, gone: Error, patience: Patience<'_>) -> Result<(), Error> {
        // Relaxed: as in `close`.
        let is_ended = || self.closed.load(Ordering::Relaxed) || patience.is_interrupted();
        let next = joined(patience.asking(&is_ended), |mut patience| {
            // One that was not answered in time waits still.
            let waits = lock(&self.joining).take();
            let mut joining = match waits {
                Some(joining) => joining,
                None => {
                    let (joining, life) = Joining::begin(&self.location, &self.trust, &mut patience)?;
                    *lock(&self.life) = life;
                    joining
                }
            };
            // Another thread may have closed the one of before. Relaxed: the lock orders it; see `close`.
            if self.closed.load(Ordering::Relaxed) {
                return Err(Error::WatchClosed);
            }
            match joining.status(&mut patience) {
                Ok(status) => joining.finish(status, &self.prefix),
                Err(error) => {
                    if matches!(error, Error::Timeout(_) | Error::Interrupted) {
                        *lock(&self.joining) = Some(joining);
                    }
                    Err(error)
                }
            }
        });
        let next = match next {
            Err(Error::NotFound { .. }) => return Err(gone),
            next => next?,
        };
        if !subscription.go_on(next) {
            return Err(gone);
        }
        self.alarm.store(subscription.alarm().as_fd().as_raw_fd(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns the changes that are there, or some of them; and whether the server is known to have gone, so that it is
    /// time to [`Self::rejoin`].
    ///
    /// # Errors
    /// As [`Self::wait`], but for the server's end.
    pub fn take(&self, patience: Patience<'_>) -> Result<(Vec<Change>, bool), Error> {
        self.with(patience, |subscription, _| {
            let has_gone = matches!(subscription.end(), Some(Error::Gone(_)));
            let changes = match subscription.take()? {
                Poll::Ready(changes) => changes,
                Poll::Pending => Vec::new(),
            };
            Ok((changes, has_gone))
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

    /// The descriptor to wait for before [`Self::rejoin`] is tried again; `None` if that has to be some time later.
    pub fn joining(&self) -> Option<RawFd> {
        lock(&self.joining).as_ref().map(|joining| joining.descriptor)
    }

    /// The descriptor to wait for, between [`Self::arm`] and [`Self::disarm`]. It stays the watch's own. Behind
    /// [`Self::rejoin`] there is another one.
    ///
    /// # Errors
    /// [`Error::WatchClosed`].
    pub fn descriptor(&self) -> Result<RawFd, Error> {
        if !self.is_ours() || self.closed.load(Ordering::Relaxed) {
            return Err(Error::WatchClosed);
        }
        // Relaxed: it changes in a call of the caller's, or in that of another thread that it knows of.
        Ok(self.alarm.load(Ordering::Relaxed))
    }

    /// Ends the watch, also for a thread that waits in it. An event loop that waits is woken, and its
    /// [`Self::disarm`] does the rest: until then the descriptor stays open. May be called again.
    pub fn close(&self, patience: Patience<'_>) {
        if !self.is_ours() {
            return;
        }
        // Relaxed: a thread that waits finds the socket closed, and looks here then.
        self.closed.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(&*lock(&self.life), rustix::net::Shutdown::Both);
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
    let slice = match patience.slice() {
        Ok(slice) => slice,
        // A look at least, however short the time.
        Err(error) => return subscription.listen(Duration::ZERO).and(Err(error)),
    };
    let outcome = if subscription.arm() { subscription.listen(slice) } else { Ok(false) };
    subscription.disarm();
    outcome?;
    if subscription.has_news() { Ok(()) } else { patience.check_interrupted() }
}
