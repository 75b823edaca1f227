//! The course of a server from its start to its end, for those that wait for that.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// How far a server has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(super) enum Phase {
    #[default]
    Running,
    /// It takes no more requests, or will not in a moment.
    Ending,
    /// Its threads are about to be gone; its name is free.
    Ended,
}

/// How far the server has come, and why it has failed if it has.
#[derive(Default)]
pub(super) struct Course {
    state: Mutex<(Phase, Option<String>)>,
    changed: Condvar,
}

impl Course {
    pub fn go_on_to(&self, phase: Phase) {
        let mut state = lock(&self.state);
        if state.0 < phase {
            state.0 = phase;
            self.changed.notify_all();
        }
    }

    /// It runs still: its end was called off.
    pub fn go_back_to_running(&self) {
        let mut state = lock(&self.state);
        if state.0 == Phase::Ending {
            state.0 = Phase::Running;
        }
    }

    /// The first failure counts: it may be what others come of.
    pub fn note_failure(&self, words: String) {
        lock(&self.state).1.get_or_insert(words);
    }

    /// Waits for the end, at most until then. Returns whether it has come.
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        while state.0 != Phase::Ended {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            // A thread that panicked with the lock has done nothing halfway.
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        lock(&self.state).0
    }

    /// Why it has failed, if it has.
    pub fn failure(&self) -> Option<String> {
        lock(&self.state).1.clone()
    }
}
