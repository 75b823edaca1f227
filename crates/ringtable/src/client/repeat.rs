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
        mut patience: Patience<'_>,
        mut call: impl FnMut(Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let began_ms = coarse_ms();
        let mut repeats = None;
        loop {
            match call(patience) {
                Err(error) if error.is_gone() && self.options.reconnect => {
                    let repeats = repeats.get_or_insert_with(|| Repeats::new(self, repeat, patience, began_ms));
                    patience = repeats.patience;
                    repeats.prepare(error)?;
                }
                outcome => return outcome,
            }
        }
    }
}

/// A call whose server has gone, from one time that it is made to the next.
struct Repeats<'a, 'b> {
    client: &'a Client,
    repeat: Repeat,
    /// That of the call, whose time has begun.
    patience: Patience<'b>,
    absence: Absence,
    count: usize,
}

impl<'a, 'b> Repeats<'a, 'b> {
    #[cold]
    fn new(client: &'a Client, repeat: Repeat, patience: Patience<'b>, began_ms: u64) -> Self {
        let elapsed = Duration::from_millis(coarse_ms().saturating_sub(began_ms));
        let now = Instant::now();
        let began = now.checked_sub(elapsed).unwrap_or(now);
        let absence = Absence::new(began, patience.timeout().or(client.options.wait));
        Self { client, repeat, patience: patience.begun(began), absence, count: 0 }
    }

    /// Waits until the call may be made again.
    ///
    /// # Errors
    /// That it may not, for which there are the words that `error` has.
    #[cold]
    fn prepare(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::Absent(_) => return self.absence.wait(error, self.client.location(), &self.patience),
            Error::Unsent(_) if self.count < limits::REPEATS_MAX => {}
            Error::Gone(_) if self.repeat == Repeat::Always && self.count < limits::REPEATS_MAX => {}
            error => return Err(error),
        }
        self.count += 1;
        Ok(())
    }
}
