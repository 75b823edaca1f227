//! The end of a server that leaves all it has to another one, which is there already: an upgrade.
//!
//! # Design
//!
//! The keeper orders it ([`super::keeper`]). The server goes on serving, but begins no request that arrives in parts,
//! which its client would have to finish. Once none of that kind is on its way at any worker, or
//! [`limits::RESIGNATION_PATIENCE`] is over, no request is taken any more. The workers bring requests of several turns
//! to their end, and send replies that wait for room, as long as their clients read them. Those who wait ask the next
//! server, as they do behind a death, which knows what they were granted. Then all threads end, and the server touches
//! nothing any more: no socket is shut, no name is removed, nobody is told. What it had published, and noted of each
//! lane ([`super::notes`]), is what the next one finds; so this is a death at a moment that was chosen.
//!
//! If the keeper dies before, nobody could go on: then the server does.
//!
//! # Not promised
//!
//! What takes longer than that patience is cut off as by a death.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::limits;
use crate::sync::lock;

/// Whether the server is to resign, and how far it has come.
pub(super) struct Resignation {
    is_wanted: AtomicBool,
    moves: AtomicBool,
    /// Workers at which something is arriving.
    busy: Mutex<usize>,
    changed: Condvar,
    /// How often another server was to take over, and was not able to start.
    pub refused: AtomicUsize,
}

impl Resignation {
    /// Of a server with so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            is_wanted: AtomicBool::new(false),
            moves: AtomicBool::new(false),
            busy: Mutex::new(workers),
            changed: Condvar::new(),
            refused: AtomicUsize::new(0),
        }
    }

    /// Begins it. If it `moves`, the next server gets the entries alone ([`super::moving`]).
    pub fn order(&self, moves: bool) {
        self.moves.store(moves, Ordering::Relaxed);
        // Release: pairs with the Acquire in `moves`. Whoever is to see it soon is rung behind this.
        self.is_wanted.store(true, Ordering::Release);
    }

    /// Calls it off.
    pub fn call_off(&self) {
        // Relaxed: as in `is_wanted`.
        self.is_wanted.store(false, Ordering::Relaxed);
    }

    /// Whether the next server gets the entries alone.
    pub fn moves(&self) -> bool {
        // Acquire: pairs with the Release in `order`.
        self.is_wanted.load(Ordering::Acquire) && self.moves.load(Ordering::Relaxed)
    }

    /// Whether it was begun.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Takes note that nothing is arriving at a worker any more, once for each.
    pub fn note_finished(&self) {
        *lock(&self.busy) -= 1;
        self.changed.notify_all();
    }

    /// Waits until all workers have said so, as long as there is patience for it.
    pub fn wait(&self) {
        let deadline = Instant::now() + limits::RESIGNATION_PATIENCE;
        let mut busy = lock(&self.busy);
        while *busy > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            busy = self.changed.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
