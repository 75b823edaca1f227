//! What wakes a client that sleeps over shared memory: its doorbell, or the end of its server.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::error::{Error, system};
use super::life::last_words;
use crate::shm::doorbell::{Listener, Woken};
use crate::shm::fork::Descriptor;

/// Something to sleep on. Its descriptor becomes readable when there is a reason to wake up.
pub(super) struct Alarm {
    listener: Listener,
    /// Silent as long as the server lives.
    socket: Descriptor,
}

impl Alarm {
    /// Takes over the listener that the server has passed.
    pub fn new(socket: Descriptor, listener: Descriptor) -> Result<Self, Error> {
        let listener = system("taking the doorbell", Listener::from_foreign(listener, &socket))?;
        Ok(Self { listener, socket })
    }

    /// Sleeps until the doorbell rings, for at most `timeout`; with none, just looks. Returns whether a signal came
    /// instead.
    ///
    /// # Errors
    /// Why the server has ended the connection, unless there is news: what it published before its end comes first.
    pub fn listen(&self, timeout: Duration, has_news: impl FnOnce() -> bool) -> Result<bool, Error> {
        match self.listener.wait(timeout) {
            Ok(Woken { socket: true, .. }) if !has_news() => Err(self.last_words()),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(Error::System { doing: "waiting for the server", error }),
        }
    }

    /// A second descriptor of it, for a thread that looks whether there is a reason to wake up, and takes none.
    pub fn duplicate(&self) -> Result<Descriptor, Error> {
        system("duplicating the doorbell", self.listener.duplicate())
    }

    /// Why the server has ended the connection.
    pub fn last_words(&self) -> Error {
        last_words(&self.socket)
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
