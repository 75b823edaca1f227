//! Waiting for a socket, within the caller's patience.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

use super::error::Error;
use super::patience::Patience;
use crate::shm::doorbell::timespec;

/// Waits until the socket can be read from, or written to, as `flags` say.
pub(super) fn await_readiness(socket: impl AsFd, flags: PollFlags, patience: &mut Patience<'_>) -> Result<(), Error> {
    patience.start();
    loop {
        let slice = timespec(patience.slice()?);
        match poll(&mut [PollFd::new(&socket, flags)], Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => patience.check_interrupted()?,
            Ok(_) => return Ok(()),
            Err(error) => return Err(Error::System { doing: "waiting for the server", error: error.into() }),
        }
    }
}
