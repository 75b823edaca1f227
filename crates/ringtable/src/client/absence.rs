//! A server that is not there, though it may come: how long a call waits for it.

use std::time::{Duration, Instant};

use super::error::Error;
use super::patience::Patience;
use crate::address::Location;
use crate::arrival::Arrival;
use crate::limits;

/// The wait for a server, from look to look.
pub(super) struct Absence {
    arrival: Option<Arrival>,
    began: Instant,
    limit: Option<Duration>,
}

impl Absence {
    /// The wait of a call that began at that time, for `limit` at most; for `None` it does not wait.
    pub fn new(began: Instant, limit: Option<Duration>) -> Self {
        Self { arrival: None, began, limit }
    }

    /// Waits until it is time to look again; then `error` is nothing to tell.
    ///
    /// # Errors
    /// That nobody came, for which there are the words that `error` has; whatever interrupts the call.
    pub fn wait(&mut self, error: Error, location: &Location, patience: &Patience<'_>) -> Result<(), Error> {
        let Some(limit) = self.limit else { return Err(error) };
        let left = limit.saturating_sub(self.began.elapsed());
        let arrival = self.arrival.get_or_insert_with(|| Arrival::new(location));
        arrival.wait(left.min(Duration::from_millis(limits::SIGNAL_CHECK_MS)));
        patience.check_interrupted()?;
        // A look without any time for it would come to that, and find a server that is slow where there is none.
        if self.began.elapsed() >= limit {
            return Err(Error::Awaiting { error: Box::new(error), waited: limit });
        }
        Ok(())
    }
}
