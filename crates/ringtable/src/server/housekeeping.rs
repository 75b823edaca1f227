//! What has to be done though nobody asks for it: removing what has expired, noticing what memory is of no use.
//!
//! # Design
//!
//! There is no thread for it, but for what is given back to the kernel ([`super::returning`]). Whoever makes such work
//! is a worker that is awake, so each worker calls [`Housekeeping::tend`] in every round; it is one load while nothing
//! is due. One of them does a step then, of half a millisecond or so, and says when the next one is due, so that all
//! steps together take about a twentieth of one processor. A worker that goes to sleep while there is something to come
//! back to sleeps until then at most; else it sleeps without a time-out, and an idle server uses no processor time.
//!
//! - **Expiry** ([`crate::table::sweep`]): a round over all buckets begins every second.
//! - **Memory** that was free all through the last half second is to go back to the kernel.
//! - **Slabs** that are nearly empty, after many deletions, are emptied into others, so that their memory can go too.
//! - **Chains** of a table that was taken over, of which nobody has changed any yet, are checked
//!   ([`crate::table::check`]).
//! - **Watchers** of a table that was taken over are awaited for some seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use super::returning::Returning;
use crate::shm::clock::{monotonic_ns, wall_ms};
use crate::shm::segment::Mapping;
use crate::table::Writer;

/// Time between two steps.
const STEP_EVERY_NS: u64 = 10_000_000;
/// For how long a step may go on.
const STEP_NS: u64 = 500_000;
/// Time between the beginnings of two rounds of the sweep.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;
/// Buckets swept between two looks at the clock.
const SWEPT_AT_ONCE: u64 = 256;
/// Buckets whose chains are checked between two looks at the clock.
const CHECKED_AT_ONCE: u64 = 32;
/// For how long watchers of a server that is dead may come again without missing anything.
const WATCHERS_AWAITED_NS: u64 = 10_000_000_000;
/// For how long memory has to be free before it is given back.
const IDLE_MEMORY_NS: u64 = 500_000_000;

/// The state of it, shared by all workers.
#[derive(Default)]
pub(super) struct Housekeeping {
    /// When the next step is due, by the monotonic clock.
    due_ns: AtomicU64,
    state: Mutex<Schedule>,
}

#[derive(Default)]
struct Schedule {
    sweep_due_ns: u64,
    sweep_began_ns: u64,
    check_due_ns: u64,
    /// When watchers are awaited no more; 0 before anybody has looked.
    awaited_until_ns: u64,
    memory_due_ns: u64,
    /// When to look next which memory was free all the while.
    idle_due_ns: u64,
    /// Whether there is no use in emptying slabs before we look anew.
    vain: bool,
}

impl Housekeeping {
    /// Does what is due. Returns for how long the worker may sleep if nobody wakes it; `None` for as long as it likes.
    pub fn tend(&self, writer: &mut Writer<Mapping>, returning: &Returning, now_ns: u64) -> Option<Duration> {
        let memory = !returning.refuses() && writer.table().heap().has_slack();
        let (sweeps, checks) = (writer.has_expiring(), writer.table().unchecked() > 0);
        let awaits = writer.table().events().is_awaiting();
        if !sweeps && !memory && !checks && !awaits {
            return None;
        }
        // Relaxed: a time to compare with; the lock orders the rest.
        let due_ns = self.due_ns.load(Ordering::Relaxed);
        if now_ns < due_ns {
            return Some(Duration::from_nanos(due_ns - now_ns));
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(Duration::from_nanos(STEP_EVERY_NS)),
        };
        let mut next_ns = now_ns + SWEEP_EVERY_NS;
        if sweeps {
            if now_ns >= state.sweep_due_ns {
                state.sweep(writer, now_ns);
            }
            next_ns = next_ns.min(state.sweep_due_ns);
        }
        if checks {
            if now_ns >= state.check_due_ns {
                state.check(writer, now_ns);
            }
            next_ns = next_ns.min(state.check_due_ns);
        }
        if awaits {
            if state.awaited_until_ns == 0 {
                state.awaited_until_ns = now_ns + WATCHERS_AWAITED_NS;
            }
            if now_ns >= state.awaited_until_ns {
                writer.table().await_watchers_no_more();
            }
            next_ns = next_ns.min(state.awaited_until_ns);
        }
        if memory {
            if now_ns >= state.memory_due_ns {
                state.tidy_memory(returning, writer, now_ns);
            }
            next_ns = next_ns.min(state.memory_due_ns);
        }
        let next_ns = next_ns.max(now_ns + STEP_EVERY_NS);
        self.due_ns.store(next_ns, Ordering::Relaxed);
        Some(Duration::from_nanos(next_ns - now_ns))
    }
}

impl Schedule {
    fn sweep(&mut self, writer: &mut Writer<Mapping>, now_ns: u64) {
        if self.sweep_began_ns == 0 {
            self.sweep_began_ns = now_ns;
        }
        let now_ms = wall_ms();
        self.sweep_due_ns = now_ns + STEP_EVERY_NS;
        while monotonic_ns() - now_ns < STEP_NS {
            if writer.sweep_some(SWEPT_AT_ONCE, now_ms) {
                self.sweep_due_ns = (self.sweep_began_ns + SWEEP_EVERY_NS).max(self.sweep_due_ns);
                self.sweep_began_ns = 0;
                break;
            }
        }
    }

    fn check(&mut self, writer: &mut Writer<Mapping>, now_ns: u64) {
        // Some in any case: the sweep may have taken the whole step.
        while writer.check_some(CHECKED_AT_ONCE) && monotonic_ns() - now_ns < STEP_NS {}
        self.check_due_ns = now_ns + STEP_EVERY_NS;
    }

    fn tidy_memory(&mut self, returning: &Returning, writer: &mut Writer<Mapping>, now_ns: u64) {
        if now_ns >= self.idle_due_ns {
            // Slots that workers hold back may be all that keeps a slab.
            writer.release();
            let heap = writer.table().heap();
            let idle_pages = heap.dirty_low();
            if idle_pages > 0 {
                returning.ask(idle_pages);
            }
            heap.settle(!self.vain);
            self.vain = false;
            self.idle_due_ns = now_ns + IDLE_MEMORY_NS;
        }
        if writer.table().heap().is_sparse() {
            while monotonic_ns() - now_ns < STEP_NS && !self.vain {
                self.vain = !writer.empty_a_slab();
            }
        } else {
            self.vain = true;
        }
        self.memory_due_ns = if self.vain { self.idle_due_ns } else { now_ns + STEP_EVERY_NS };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::segment::Segment;
    use crate::sync::Arc;
    use crate::table::layout::PAGE_WORDS;
    use crate::table::{Eviction, Guard, Options, Table};

    #[test]
    fn a_table_that_was_taken_over_is_checked_in_steps_until_nothing_is_left() {
        let segment = Segment::create("ringtable-test", 128 * PAGE_WORDS * 8).unwrap();
        let options = Options { buckets: 4, seed: 7, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let before = Table::create(segment.map_writable().unwrap(), &options).unwrap();
        let mut writer = Writer::new(Arc::new(before));
        for number in 0..30_000_u32 {
            writer.put(&number.to_le_bytes(), &[1; 100], None, Guard::Always, || 0).unwrap();
        }
        let (table, report) = Table::adopt(segment.map_writable().unwrap(), Eviction::Never, &[]).unwrap();
        let table = Arc::new(table);
        let mut writer = Writer::new(Arc::clone(&table));
        let returning = Returning::new(Arc::clone(&table), segment, 128 * PAGE_WORDS * 8).unwrap();
        let (mut housekeeping, mut steps) = (Housekeeping::default(), 0);
        while table.unchecked() > 0 {
            let before = table.unchecked();
            let sleep = housekeeping.tend(&mut writer, &returning, monotonic_ns()).expect("there is more to do");
            assert!(table.unchecked() < before && sleep >= Duration::from_nanos(STEP_EVERY_NS));
            let left = table.unchecked();
            let due_ns = housekeeping.due_ns.load(Ordering::Relaxed);
            assert!(left == 0 || housekeeping.tend(&mut writer, &returning, due_ns - 1).is_some());
            assert_eq!(table.unchecked(), left, "it is not due yet");
            // As if it had slept.
            (*housekeeping.due_ns.get_mut(), housekeeping.state.get_mut().unwrap().check_due_ns) = (0, 0);
            steps += 1;
        }
        assert!(steps > 1 && table.found() == Some(report));
        assert_eq!(housekeeping.tend(&mut writer, &returning, monotonic_ns()), None, "nothing is left");
    }
}
