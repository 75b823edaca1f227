//! The patience of a call: how long it may wait, and what may interrupt it.

use std::time::{Duration, Instant};

use super::error::Error;
use crate::limits;
use crate::shm::fork;

/// How long a call may wait, and what may interrupt it.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    interrupted: &'a (dyn Fn() -> bool + Sync),
    generation: u64,
}

impl<'a> Patience<'a> {
    /// Patience for `timeout` (for ever, if `None`); `interrupted` is asked after every signal, and at least ten times
    /// a second while waiting. Once it has said yes, it has to say so for the rest of the call: an interrupt ends all
    /// of it, also where one wait follows another.
    pub fn new(timeout: Option<Duration>, interrupted: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { timeout, deadline: None, interrupted, generation: fork::generation() }
    }

    /// Patience without end.
    pub fn endless() -> Patience<'static> {
        Patience::new(None, &|| false)
    }

    /// Whether the call may wait for ever.
    pub(super) fn is_endless(&self) -> bool {
        self.timeout.is_none()
    }

    /// The same, if the time of the call has begun then.
    pub(super) fn begun(mut self, at: Instant) -> Self {
        self.deadline = self.deadline.or_else(|| at.checked_add(self.timeout?));
        self
    }

    /// The same, for no longer than that.
    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.timeout = Some(self.timeout.map_or(limit, |timeout| timeout.min(limit)));
        self
    }

    /// The same, but for what may interrupt it.
    pub(super) fn asking<'b>(self, interrupted: &'b (dyn Fn() -> bool + Sync)) -> Patience<'b> {
        Patience { interrupted, ..self }
    }

    /// Whether the caller was interrupted, as far as it says so.
    pub(super) fn is_interrupted(&self) -> bool {
        (self.interrupted)()
    }

    /// How long the call may take; `None` for ever.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Begins the time that the call has. Clocks are looked at only by calls that wait.
    pub(super) fn start(&mut self) {
        if self.deadline.is_none()
            && let Some(timeout) = self.timeout
        {
            self.deadline = Instant::now().checked_add(timeout);
        }
    }

    /// How long to sleep at most before looking at the patience again.
    pub(super) fn slice(&self) -> Result<Duration, Error> {
        let slice = Duration::from_millis(limits::SIGNAL_CHECK_MS);
        match (self.deadline, self.timeout) {
            (Some(deadline), Some(timeout)) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() { Err(Error::Timeout(timeout)) } else { Ok(slice.min(left)) }
            }
            _ => Ok(slice),
        }
    }

    /// Asks whether the caller was interrupted.
    ///
    /// What asks may run a signal handler, and that may fork. In the child nothing of the call is left but its stack:
    /// after an error of this no memory that was shared with the server may be touched, nor a descriptor.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if so; [`Error::Forked`] in the child of a fork.
    pub fn check_interrupted(&self) -> Result<(), Error> {
        if self.is_interrupted() {
            Err(Error::Interrupted)
        } else if self.is_inherited() {
            Err(Error::Forked)
        } else {
            Ok(())
        }
    }

    /// Looks, in the middle of work that waits for nobody, whether the call may go on.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.start();
        self.slice()?;
        self.check_interrupted()
    }

    /// Whether the call was begun by the process that this one was forked from.
    pub(super) fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }
}

/// The patience of each request of a call that waits for others, but no longer than `limit`.
pub(super) fn for_answers(patience: Patience<'_>, limit: Option<Duration>) -> Patience<'_> {
    limit.map_or(patience, |limit| patience.within(limit.max(limits::ANSWER_WAIT_MIN)))
}

/// How long to sleep at most: until the deadline, or until it is time to look for signals.
pub(super) fn left(deadline: Option<Instant>) -> Duration {
    let slice = Duration::from_millis(limits::SIGNAL_CHECK_MS);
    deadline.map_or(slice, |deadline| deadline.saturating_duration_since(Instant::now()).min(slice))
}

/// When the caller's signals were last looked at, for waits each of which ends soon, for something new.
pub(super) struct Checks(Instant);

impl Default for Checks {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Checks {
    /// Whether it is time to look again; if so, that is taken for done.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now.duration_since(self.0) >= Duration::from_millis(limits::SIGNAL_CHECK_MS);
        if is_due {
            self.0 = now;
        }
        is_due
    }
}
