//! Whether all workers live: a question that is answered once each of them has had a turn.
//!
//! # Design
//!
//! The keeper asks ([`super::keeper`]), and every worker is rung for it. Whoever answers last says so. A worker that
//! never comes back from a turn, or a process that stands, answers nothing.
//!
//! # Not promised
//!
//! It is the workers that are asked. A thread that accepts connections, makes room or gives memory back may stand, and
//! nobody notices here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::lock;

/// A question, and who has answered it.
pub(super) struct Liveness {
    /// The question; 0 if there was none yet, or it is answered.
    open: AtomicU64,
    missing: Mutex<Vec<bool>>,
}

impl Liveness {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self { open: AtomicU64::new(0), missing: Mutex::new(vec![false; workers]) }
    }

    /// Asks all workers, which are to be rung behind this. A question that is open is dropped for this one.
    pub fn ask(&self, question: u64) {
        let mut missing = lock(&self.missing);
        missing.fill(true);
        // Relaxed: the ring comes behind it, and what is answered is decided under the lock.
        self.open.store(question, Ordering::Relaxed);
    }

    /// Answers for a worker. Returns the question if this was the last answer to it.
    #[inline]
    pub fn answer(&self, worker: usize) -> Option<u64> {
        // Relaxed: as in `ask`.
        if self.open.load(Ordering::Relaxed) == 0 { None } else { self.answer_open(worker) }
    }

    #[cold]
    fn answer_open(&self, worker: usize) -> Option<u64> {
        let mut missing = lock(&self.missing);
        missing[worker] = false;
        let is_last = !missing.contains(&true);
        // Relaxed: as in `ask`.
        is_last.then(|| self.open.swap(0, Ordering::Relaxed)).filter(|&question| question != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoke() {
        let liveness = Liveness::new(2);
        assert_eq!(liveness.answer(0), None, "nobody has asked");
        liveness.ask(7);
        assert_eq!(liveness.answer(1), None);
        assert_eq!(liveness.answer(1), None, "a worker does not answer for another one");
        assert_eq!(liveness.answer(0), Some(7));
        assert_eq!(liveness.answer(0), None, "it was answered");
    }

    #[test]
    fn a_question_in_place_of_an_open_one_is_answered_by_all() {
        let liveness = Liveness::new(2);
        liveness.ask(1);
        assert_eq!(liveness.answer(0), None);
        liveness.ask(2);
        assert_eq!(liveness.answer(1), None);
        assert_eq!(liveness.answer(0), Some(2));
    }
}
