//! A client's socket, as the server has it: nothing that a client passes through it gets in.
//!
//! Over a unix socket a client may pass descriptors. The server wants none, and must not even drop them: who lets go of
//! a file last may have to wait for it in the kernel. A TCP socket that lingers (`SO_LINGER`), for one, waits until its
//! peer has read what was sent, for ever if it likes; and with it would all clients of that worker (I5). Linux 6.16 and
//! later refuse such messages if a socket wants that ([`crate::shm::descriptors::refuse`]). On older ones
//!
//! - nothing is taken out of a socket before a look has told that no descriptors come with it; else the connection ends
//!   ([`Socket::receive`]). Such a look costs a system call more for each one that receives;
//! - unix sockets, in whose queues there may be descriptors still, are closed by somebody who never waits
//!   ([`super::disposer`]).

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, Shutdown, sockopt};

use super::disposer::Disposer;
use super::end::End;
use super::keeper::KeptLane;
use super::reserved::Reservation;
use crate::shm::fork::Descriptor;

/// What a connection can do, beyond carrying bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// Whether we can pass descriptors through it, as over a unix socket.
    pub passes_descriptors: bool,
}

/// The socket of one client. Dropping it closes it, and never waits.
pub(super) struct Socket {
    descriptor: ManuallyDrop<Descriptor>,
    pub abilities: Abilities,
    /// The reserved place, if it has that.
    pub reservation: Option<Reservation>,
    /// The lane beside it, if a keeper holds that, and this socket too.
    pub kept: Option<KeptLane>,
    /// Who closes it, if descriptors may be on their way through it.
    disposer: Option<Disposer>,
}

impl Socket {
    /// A socket that was accepted. `disposer`: see [`Disposer::if_needed`].
    pub fn new(descriptor: Descriptor, abilities: Abilities, disposer: Option<&Disposer>) -> Self {
        let disposer = disposer.filter(|_| abilities.passes_descriptors).cloned();
        if disposer.is_some() {
            // A byte of urgent data would be dropped with what comes with it, and a look would not show it. Where there
            // is none of it on unix sockets, this is refused.
            let _ = sockopt::set_socket_oobinline(&descriptor, true);
        }
        Self { descriptor: ManuallyDrop::new(descriptor), abilities, reservation: None, kept: None, disposer }
    }

    /// The socket of a client whose lane another server has left, which is dead.
    pub fn found(descriptor: Descriptor, kept: KeptLane, disposer: Option<&Disposer>) -> Self {
        let mut socket = Self::new(descriptor, Abilities { passes_descriptors: true }, disposer);
        socket.kept = Some(kept);
        socket
    }

    /// Leaves the socket, and the number of the lane beside it, to another server. `None` if no keeper has held that:
    /// then it is left open, until this process lets go of all that it has.
    pub fn leave(self) -> Option<(usize, Descriptor)> {
        let mut socket = ManuallyDrop::new(self);
        let lane = socket.kept.take()?.leave();
        #[allow(unsafe_code)]
        // SAFETY: the socket is not dropped, and not used afterwards.
        let descriptor = unsafe { ManuallyDrop::take(&mut socket.descriptor) };
        Some((lane, descriptor))
    }

    /// Receives what has come. `None` if nothing has, and no bytes at the end of the stream.
    pub fn receive(&self, bytes: &mut [u8]) -> Result<Option<usize>, End> {
        loop {
            let received = if self.disposer.is_some() {
                self.receive_without_descriptors(bytes)?
            } else {
                rustix::net::recv(self, &mut *bytes, RecvFlags::DONTWAIT).map(|(_, size)| size)
            };
            match received {
                Ok(size) => return Ok(Some(size)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {} // it has not waited
                Err(_) => return Err(End::Gone),
            }
        }
    }

    /// Whether some of what was sent over TCP, or the end of it, has yet to reach the other end.
    pub fn has_undelivered(&self) -> bool {
        let mut size: libc::c_int = 0;
        #[allow(unsafe_code)]
        // SAFETY: the kernel writes one `int`, which is what there is room for.
        let status = unsafe { libc::ioctl(self.descriptor.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut size) };
        status == 0 && size > 0
    }

    /// Looks whether the client lives. A socket that is but a sign of life says nothing else: anything that comes ends
    /// the connection.
    pub fn check_silent(&self) -> Result<(), End> {
        match self.receive(&mut [0])? {
            None => Ok(()),
            Some(0) => Err(End::Gone),
            Some(_) => Err(End::Protocol),
        }
    }

    /// The same, but for a message that has descriptors: it stays where it is.
    fn receive_without_descriptors(&self, bytes: &mut [u8]) -> Result<rustix::io::Result<usize>, End> {
        let mut no_control = RecvAncillaryBuffer::default();
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let seen = rustix::net::recvmsg(self, &mut [IoSliceMut::new(bytes)], &mut no_control, flags);
        Ok(match seen {
            Ok(seen) if seen.flags.contains(ReturnFlags::CTRUNC) => return Err(End::Descriptors),
            // Nobody else receives here, so these are the bytes that were looked at.
            Ok(seen) => rustix::net::recv(self, &mut bytes[..seen.bytes], RecvFlags::DONTWAIT).map(|(_, size)| size),
            Err(error) => Err(error),
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: the field is taken once, here, and not used afterwards.
        let descriptor = unsafe { ManuallyDrop::take(&mut self.descriptor) };
        if self.disposer.is_some() || self.kept.is_some() {
            // The client learns of it at once, whoever else has the socket.
            let _ = rustix::net::shutdown(&descriptor, Shutdown::Both);
        }
        if let Some(disposer) = &self.disposer {
            disposer.close(descriptor);
        }
    }
}
