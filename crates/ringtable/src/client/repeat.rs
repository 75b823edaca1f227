//! Calls that outlive their server: they go on with the next one, where that changes nothing about what they mean.
//!
//! # Design
//!
//! A call that reads is made again. A call that changes something is made again only if nothing of it was sent: whether
//! the server has done what it was sent, a client cannot know, so the caller is told ([`Error::Gone`]). If there is no
//! server, the call waits for one within its time-out, or else for as long as the options say.
//!
//! A call that finds its server gone before it has sent anything does not come here at all: it gets the next
//! connection at once (`Client::connection`).
//!
//! # Invariants
//!
//! - The loss of posted writes is told once ([`Error::Lost`]), by whichever call finds it, which is not repeated.
//! - A call meets so many servers at most that end under it ([`limits::REPEATS_MAX`]): one that kills its server does
//!   not kill all that follow.

use std::time::{Duration, Instant};

use super::absence::Absence;
use super::error::Error;
use super::handle::Client;
use super::patience::Patience;
use crate::limits;
use crate::shm::clock::coarse_ms;

/// What is done again when the server has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// A call that changes nothing.
    Always,
    /// A call that changes something: what was not sent.
    Unsent,
}

impl Client {
    /// Makes a call, and makes it again if its server has gone and that may be.
    ///
    /// # Errors
    /// Those of the call; [`Error::Absent`] if there is no server.
    #[inline]
    pub fn repeated<R>(
        &self,
        repeat: Repeat,
        patience: Patience<'_>,
        mut call: impl FnMut(Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if !self.options.reconnect {
            return call(patience);
        }
        let began_ms = coarse_ms();
        match call(patience) {
            Err(error) if error.is_gone() => self.repeat(error, repeat, patience, began_ms, call),
            outcome => outcome,
        }
    }

    #[cold]
    fn repeat<R>(
        &self,
        mut error: Error,
        repeat: Repeat,
        patience: Patience<'_>,
        began_ms: u64,
        mut call: impl FnMut(Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let elapsed = Duration::from_millis(coarse_ms().saturating_sub(began_ms));
        let now = Instant::now();
        let began = now.checked_sub(elapsed).unwrap_or(now);
        let patience = patience.begun(began);
        let mut absence = Absence::new(began, patience.timeout().or(self.options.wait));
        let mut repeats = 0;
        loop {
            match error {
                Error::Absent(_) => absence.wait(error, self.location(), &patience)?,
                Error::Unsent(_) if repeats < limits::REPEATS_MAX => repeats += 1,
                Error::Gone(_) if repeat == Repeat::Always && repeats < limits::REPEATS_MAX => repeats += 1,
                error => return Err(error),
            }
            match call(patience) {
                Err(again) if again.is_gone() => error = again,
                outcome => return outcome,
            }
        }
    }
}
