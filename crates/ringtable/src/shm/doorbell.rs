//! Doorbells: waking a process that sleeps, over eventfds that are watched edge-triggered and never read.
//!
//! A ring is one `write` of 1 to an eventfd. Sleepers watch it with `EPOLLET`, which reports every write, so nobody
//! spends a system call on reading the counter back (2^64 rings would fill it).
//!
//! Towards the server a client rings a [`Doorbell`] that the worker's epoll watches: whatever the client does to that
//! eventfd, the worker neither reads nor writes it. Towards the client the server rings a doorbell of its own, and
//! the client holds no descriptor of it, only a [`Listener`], an epoll instance in which the server has put it. That
//! matters for I5: `O_NONBLOCK` belongs to the file that all copies of a descriptor share, so a client holding the
//! eventfd could fill its counter, clear the flag, and make the worker's next ring wait for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};

use super::fork::Descriptor;
use super::shortage;

/// A duration as the kernel takes it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// The ringing side.
#[derive(Debug)]
pub struct Doorbell(Descriptor);

impl Doorbell {
    /// A new doorbell.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Descriptor::make(|| rustix::event::eventfd(0, flags))?))
    }

    /// A doorbell that another process passed.
    pub fn from_foreign(fd: Descriptor) -> Self {
        Self(fd)
    }

    /// The descriptor of it.
    pub fn into_descriptor(self) -> Descriptor {
        self.0
    }

    /// Wakes whoever watches. Errors do not matter: a full counter has been rung before, and a dead peer shows
    /// elsewhere.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What woke a [`Listener`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// The doorbell rang since the last wait.
    pub bell: bool,
    /// The socket has something to read, or its other end is closed.
    pub socket: bool,
}

/// Has an epoll instance watch something.
///
/// # Errors
/// Those of the system; if it lets nothing more be watched, one that says so.
pub fn watch(epoll: impl AsFd, what: impl AsFd, data: EventData, flags: EventFlags) -> io::Result<()> {
    shortage::of_watching(epoll::add(epoll, what, data, flags))
}

/// The client's waiting side: an epoll instance with the server's doorbell and the client's own socket in it.
#[derive(Debug)]
pub struct Listener(Descriptor);

const BELL: u64 = 0;
const SOCKET: u64 = 1;

impl Listener {
    /// Made by the server: watches `bell`.
    pub fn new(bell: &Doorbell) -> io::Result<Self> {
        let fd = Descriptor::make(|| epoll::create(epoll::CreateFlags::CLOEXEC))?;
        watch(&fd, bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Self(fd))
    }

    /// Taken over by the client: watches its `socket` too.
    pub fn from_foreign(fd: Descriptor, socket: impl AsFd) -> io::Result<Self> {
        watch(&fd, socket, EventData::new_u64(SOCKET), EventFlags::IN | EventFlags::RDHUP)?;
        Ok(Self(fd))
    }

    /// A second descriptor of the same instance, which becomes readable when there is something to wait for, and stays
    /// so until somebody takes it with [`Self::wait`].
    ///
    /// # Errors
    /// Those of the system.
    pub fn duplicate(&self) -> io::Result<Descriptor> {
        self.0.duplicate().map_err(Into::into)
    }

    /// Waits for the bell or the socket, for at most `timeout`.
    ///
    /// # Errors
    /// `Interrupted` when a signal arrived first.
    pub fn wait(&self, timeout: Duration) -> io::Result<Woken> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 2];
        let (events, _) = epoll::wait(&self.0, &mut events, Some(&timespec(timeout)))?;
        let mut woken = Woken::default();
        for event in events.iter() {
            match event.data.u64() {
                BELL => woken.bell = true,
                _ => woken.socket = true,
            }
        }
        Ok(woken)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ring_wakes_once() {
        let bell = Doorbell::new().unwrap();
        let listener = Listener::new(&bell).unwrap();
        let none = Duration::ZERO;
        assert_eq!(listener.wait(none).unwrap(), Woken::default());
        for _ in 0..3 {
            bell.ring();
            assert_eq!(listener.wait(none).unwrap(), Woken { bell: true, socket: false });
            assert_eq!(listener.wait(none).unwrap(), Woken::default());
        }
    }

    #[test]
    fn a_closed_socket_wakes_and_stays() {
        let bell = Doorbell::new().unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let listener = Listener::from_foreign(Listener::new(&bell).unwrap().0, &near).unwrap();
        drop(far);
        for _ in 0..2 {
            assert!(listener.wait(Duration::ZERO).unwrap().socket);
        }
    }
}
