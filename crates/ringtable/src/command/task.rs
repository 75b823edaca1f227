//! Work that another thread does, and that a request waits for.
//!
//! The request is executed again when it is done ([`super::flow::Flow::Again`]). Its worker serves others meanwhile,
//! and is rung then.

use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};

/// Work that another thread does for a request.
#[derive(Debug)]
pub struct Task {
    /// The number of the worker that waits.
    pub worker: usize,
    is_done: AtomicBool,
    outcome: Mutex<Option<Result<(), String>>>,
}

impl Task {
    /// A task of a worker.
    pub fn new(worker: usize) -> Arc<Self> {
        Arc::new(Self { worker, is_done: AtomicBool::new(false), outcome: Mutex::new(None) })
    }

    /// Whether it is done. If not, who waits is rung for when it is.
    #[inline]
    pub fn is_done(&self) -> bool {
        // Relaxed: a hint; the lock guards the outcome, and the ring that follows makes the worker look again.
        self.is_done.load(Ordering::Relaxed)
    }

    /// Says that it is done, and what came of it.
    pub fn end(&self, outcome: Result<(), String>) {
        *lock(&self.outcome) = Some(outcome);
        self.is_done.store(true, Ordering::Relaxed);
    }

    /// What came of it, once.
    pub fn outcome(&self) -> Option<Result<(), String>> {
        lock(&self.outcome).take()
    }
}
