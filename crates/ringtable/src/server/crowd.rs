//! The crowd: how many clients and workers want to run, and what a worker tells its clients of itself.
//!
//! A worker counts the clients that were active within a **window** of [`WINDOW_NS`], and adds up what all workers have
//! counted. If they and their workers are more than the processors there are, it is crowded, and nobody should spin. In
//! its line of the table's header it says whether it is awake, on which processor, and whether it is crowded.

use super::runtime::Runtime;
use crate::ring::wait::State;
use crate::shm::clock::current_cpu;
use crate::sync::{Memory, Ordering};
use crate::table::layout::{H_WORKER_STATES, STRIDE};

/// For how long a client that sent something counts as one that wants to run, in nanoseconds.
const WINDOW_NS: u64 = 1_000_000;

/// What one worker knows of it.
#[derive(Default)]
pub(super) struct Crowd {
    is_crowded: bool,
    window: u64,
    window_started_ns: u64,
    active_in_window: u64,
    active: u64,
    /// What the worker last published of itself.
    published: u64,
}

impl Crowd {
    /// Whether more want to run than can.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// The number of the current window.
    #[inline]
    pub fn window(&self) -> u64 {
        self.window
    }

    /// The processor that the worker was last on.
    pub fn cpu(&self) -> u64 {
        self.published >> 8
    }

    /// Keeps up to date what is known, and what worker `index` says of itself.
    #[inline]
    pub fn observe(&mut self, now_ns: u64, index: usize, runtime: &Runtime) {
        if now_ns - self.window_started_ns >= WINDOW_NS {
            self.begin_window(now_ns, index, runtime);
        }
        self.publish(false, index, runtime);
    }

    fn begin_window(&mut self, now_ns: u64, index: usize, runtime: &Runtime) {
        // A window that lasted longer was slept through.
        let is_fresh = now_ns - self.window_started_ns < 2 * WINDOW_NS;
        self.active = if is_fresh { self.active_in_window } else { 0 };
        self.active_in_window = 0;
        self.window += 1;
        self.window_started_ns = now_ns;
        let now_ms = now_ns / 1_000_000;
        let wanted = if self.active > 0 { self.active + 1 } else { 0 };
        // Relaxed, both: hints for spinners, see `ring::wait`.
        runtime.workers[index].activity.store(now_ms << 16 | wanted.min(0xffff), Ordering::Relaxed);
        let recent = |activity: u64| if now_ms.saturating_sub(activity >> 16) <= 4 { activity & 0xffff } else { 0 };
        let all: u64 = runtime.workers.iter().map(|mailbox| recent(mailbox.activity.load(Ordering::Relaxed))).sum();
        self.is_crowded = all > runtime.cpus as u64;
    }

    /// Says whether worker `index` sleeps, if that is news.
    pub fn publish(&mut self, asleep: bool, index: usize, runtime: &Runtime) {
        let state = State { asleep, crowded: self.is_crowded, cpu: current_cpu() }.pack();
        if state != self.published {
            self.published = state;
            // Relaxed: a hint for spinners, see `ring::wait`.
            let words = runtime.store.table.memory().words();
            words[H_WORKER_STATES + index * STRIDE].store(state, Ordering::Relaxed);
            runtime.workers[index].asleep.store(asleep, Ordering::Relaxed);
        }
    }

    /// Takes into account clients that are active for the first time in this window.
    pub fn count(&mut self, clients: u64, cpus: usize) {
        self.active_in_window += clients;
        if self.active_in_window > self.active {
            self.active = self.active_in_window;
            self.is_crowded |= self.active + 1 > cpus as u64;
        }
    }
}
