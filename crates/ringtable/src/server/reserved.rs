//! The reserved place of a full server: who runs it can still ask how it does.
//!
//! # Design
//!
//! When there are as many clients as there may be, one more connection gets in: over the unix socket, by the server's
//! own user or root, and one at a time. It is for looking, not for the table: what the table of commands
//! marks with [`Flag::WhenFull`](crate::command::spec::Flag::WhenFull) is answered, and anything else is refused in the
//! words that every client of a full server hears, and ends the connection. So clients of the same user that come by
//! mistake keep the place no longer than it takes to refuse them. A client in the place does not count as one.
//!
//! # Not promised
//!
//! A process of the same user that connects and asks for nothing keeps the place for as long as it likes.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::folder::{Trust, own_user};
use crate::shm::peer;

/// The place.
pub(super) struct Reserved {
    is_taken: Arc<AtomicBool>,
    /// Whose server it is: the process may become another user's later.
    user: u32,
}

/// That a connection has the place. Dropping it frees the place.
pub(super) struct Reservation {
    is_taken: Arc<AtomicBool>,
    /// The words with which everything is refused that is not answered there.
    pub refusal: String,
}

impl Reserved {
    pub fn new() -> Self {
        Self { is_taken: Arc::default(), user: own_user() }
    }

    /// The place for this connection, if it may have it. Only the accepting thread asks.
    pub fn take(&self, socket: impl AsFd, is_local: bool, refusal: &str) -> Option<Reservation> {
        let trust = Trust { users: vec![self.user] };
        let may = is_local && peer::user(socket).is_ok_and(|user| trust.includes(user));
        // Relaxed: it guards nothing but the count of those who have the place.
        let is_given = may && !self.is_taken.swap(true, Ordering::Relaxed);
        is_given.then(|| Reservation { is_taken: Arc::clone(&self.is_taken), refusal: refusal.to_owned() })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.is_taken.store(false, Ordering::Relaxed);
    }
}

/// What every other client hears of a full server.
pub(super) fn refusal(clients: usize, most: usize) -> String {
    format!("MAXCLIENTS max number of clients reached: {clients} of {most}")
}
