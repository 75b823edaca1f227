//! The leases that this thread has.
//!
//! A call that waits for a lease of its own thread waits for ever: the one that would give it back is the call that
//! waits, or another task of the same thread (a greenlet, say), which does not run meanwhile. So each thread remembers
//! which values it computes, over whichever of its connections.
//!
//! A server is known by where it listens: one that a thread reaches by two addresses, its socket's and its port's,
//! counts as two.

use std::cell::RefCell;

use crate::address::Location;
use crate::shm::fork;

struct HeldLease {
    server: Location,
    key: Vec<u8>,
    token: u64,
    /// A forked child has none of its parent's leases.
    generation: u64,
}

thread_local!(static HELD: RefCell<Vec<HeldLease>> = const { RefCell::new(Vec::new()) });

/// Remembers a lease that this thread was given.
pub fn add(server: &Location, key: &[u8], token: u64) {
    let held = HeldLease { server: server.clone(), key: key.to_vec(), token, generation: fork::generation() };
    // At its end a thread has no such list any more, nor anybody to wait for.
    let _ = HELD.try_with(|list| list.borrow_mut().push(held));
}

/// Forgets a lease that this thread gives back.
pub fn remove(server: &Location, token: u64) {
    let _ = HELD.try_with(|list| list.borrow_mut().retain(|held| held.token != token || held.server != *server));
}

/// Whether this thread has the lease of a key.
pub fn has(server: &Location, key: &[u8]) -> bool {
    let is_it = |held: &HeldLease| held.generation == fork::generation() && held.key == key && held.server == *server;
    HELD.try_with(|list| list.borrow().iter().any(is_it)).unwrap_or(false)
}
