//! Waiting for a socket, within the caller's patience.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::error::Error;
use super::patience::Patience;
use crate::shm::doorbell::timespec;

/// Waits until the socket can be read from, or written to, as `flags` say.
pub(super) fn await_readiness(socket: impl AsFd, flags: PollFlags, patience: &mut Patience<'_>) -> Result<(), Error> {
    await_readiness_for(socket, flags, None, patience)
}

/// The same, for `limit` at most.
pub(super) fn await_readiness_for(
    socket: impl AsFd,
    flags: PollFlags,
    limit: Option<Duration>,
    patience: &mut Patience<'_>,
) -> Result<(), Error> {
    patience.start();
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        let slice = timespec(patience.slice()?.min(left));
        match poll(&mut [PollFd::new(&socket, flags)], Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => patience.check_interrupted()?,
            Ok(_) => return Ok(()),
            Err(error) => return Err(Error::System { doing: "waiting for the server", error: error.into() }),
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(());
        }
    }
}
