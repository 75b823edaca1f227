//! The sender: a thread that sends what calls have left behind, though the process may make no further call.
//!
//! # Design
//!
//! A call that gives up may leave the rest of a large request, and words behind it ([`super::unsent`]). Other clients
//! may wait for what these say: a lock is free again, a value is not computed. So a thread of this process enters the
//! gate as a call does, and sends as room comes. It stays there for [`limits::SENDER_STAY`] at most at a time, so that
//! calls that wait outside come first then; and it ends when all has gone.
//!
//! It keeps nothing alive: between two stays it has no more than a weak reference to its connection, and inside of the
//! gate whatever ends the waits of calls (`close`, the server's death, the end of the client) ends its own.
//!
//! # Not promised
//!
//! If no thread can be started, what was left goes with the next call over the connection. A forked child has no
//! sender of its parent's, and none of its connections either.

use std::sync::Weak;

use crate::shm::signals::block_signals;

/// Starts a thread that takes a step after the other, until one says that it was the last, or nobody else has what the
/// steps are taken with. Returns whether there is such a thread.
pub(super) fn start<T: Send + Sync + 'static>(reference: Weak<T>, step: fn(&T) -> bool) -> bool {
    let run = move || {
        // They are for the threads of the program.
        block_signals();
        while reference.upgrade().is_some_and(|one| step(&one)) {}
    };
    std::thread::Builder::new().name("ringtable-sender".to_owned()).spawn(run).is_ok()
}
