//! What has to be done though nobody asks for it: removing what has expired, giving memory back to the kernel.
//!
//! # Design
//!
//! There is no thread for it. Whoever makes such work is a worker that is awake, so each worker calls [`tend`] in every
//! round; it is one load while nothing is due. One of them does a step then, of half a millisecond or so, and says when
//! the next one is due, so that all steps together take about a twentieth of one processor. A worker that goes to sleep
//! while there is something to come back to sleeps until then at most; else it sleeps without a time-out, and an idle
//! server uses no processor time.
//!
//! - **Expiry** ([`crate::table::sweep`]): a round over all buckets begins every second.
//! - **Memory** that was free all through the last half second goes back to the kernel, a few MiB at a time.
//! - **Slabs** that are nearly empty, after many deletions, are emptied into others, so that their memory can go too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use super::Shared;
use crate::shm::clock::{monotonic_ns, wall_ms};
use crate::shm::segment::Mapping;
use crate::table::Writer;
use crate::table::layout::PAGE_WORDS;

/// Time between two steps.
const STEP_EVERY_NS: u64 = 10_000_000;
/// For how long a step may go on.
const STEP_NS: u64 = 500_000;
/// Time between the beginnings of two rounds of the sweep.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;
/// Buckets swept between two looks at the clock.
const SWEPT_AT_ONCE: u64 = 256;
/// For how long memory has to be free before it is given back.
const IDLE_MEMORY_NS: u64 = 500_000_000;
/// Pages given back at once: 4 MiB.
pub(super) const GIVEN_BACK_AT_ONCE: usize = 64;

/// The state of it, shared by all workers.
#[derive(Default)]
pub(super) struct Housekeeping {
    /// When the next step is due, by the monotonic clock.
    due_ns: AtomicU64,
    /// Whether the kernel takes memory back (not with a strict seal).
    refuses: AtomicBool,
    /// Bytes given back.
    pub given_back: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sweep_due_ns: u64,
    sweep_began_ns: u64,
    memory_due_ns: u64,
    /// When to look next which memory was free all the while.
    idle_due_ns: u64,
    /// Pages to give back.
    idle_pages: usize,
    /// Whether there is no use in emptying slabs before we look anew.
    vain: bool,
}

/// Does what is due. Returns for how long the worker may sleep if nobody wakes it; `None` for as long as it likes.
pub(super) fn tend(shared: &Shared, writer: &mut Writer<Mapping>, now_ns: u64) -> Option<Duration> {
    let house = &shared.housekeeping;
    let (sweeps, memory) = (writer.has_expiring(), house.has_memory(writer));
    if !sweeps && !memory {
        return None;
    }
    // Relaxed: a time to compare with; the lock orders the rest.
    let due_ns = house.due_ns.load(Ordering::Relaxed);
    if now_ns < due_ns {
        return Some(Duration::from_nanos(due_ns - now_ns));
    }
    let mut state = match house.state.try_lock() {
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
    if memory {
        if now_ns >= state.memory_due_ns {
            state.tidy_memory(shared, writer, now_ns);
        }
        next_ns = next_ns.min(state.memory_due_ns);
    }
    let next_ns = next_ns.max(now_ns + STEP_EVERY_NS);
    house.due_ns.store(next_ns, Ordering::Relaxed);
    Some(Duration::from_nanos(next_ns - now_ns))
}

impl State {
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

    fn tidy_memory(&mut self, shared: &Shared, writer: &mut Writer<Mapping>, now_ns: u64) {
        if now_ns >= self.idle_due_ns {
            // Slots that workers hold back may be all that keeps a slab.
            writer.release();
            let heap = writer.table().heap();
            self.idle_pages = heap.dirty_low();
            heap.settle(!self.vain);
            self.vain = false;
            self.idle_due_ns = now_ns + IDLE_MEMORY_NS;
        }
        if self.idle_pages > 0 {
            let given = shared.give_back(self.idle_pages.min(GIVEN_BACK_AT_ONCE));
            self.idle_pages = if given == 0 { 0 } else { self.idle_pages.saturating_sub(given) };
        } else if writer.table().heap().is_sparse() {
            while monotonic_ns() - now_ns < STEP_NS && !self.vain {
                self.vain = !writer.empty_a_slab();
            }
        } else {
            self.vain = true;
        }
        let more = self.idle_pages > 0 || !self.vain;
        self.memory_due_ns = if more { now_ns + STEP_EVERY_NS } else { self.idle_due_ns };
    }
}

impl Housekeeping {
    /// Whether there is memory that may be given back one day.
    fn has_memory(&self, writer: &Writer<Mapping>) -> bool {
        // Relaxed: the kernel's mind does not change.
        !self.refuses.load(Ordering::Relaxed) && writer.table().heap().has_slack()
    }
}

impl Shared {
    /// Gives up to `pages` free pages of the segment back to the kernel. Returns how many that were.
    pub(super) fn give_back(&self, pages: usize) -> usize {
        let mut all = 0;
        while all < pages
            && let Some((first, count)) = self.table.heap().take_dirty(pages - all)
        {
            failpoint!("pages.taken");
            let given = self.punch(first, count);
            failpoint!("pages.given");
            self.table.heap().return_clean(first, count, !given);
            if !given {
                break;
            }
            all += count;
        }
        all
    }

    /// The same for pages that the bucket array does not use any more.
    pub(super) fn give_back_buckets(&self, pages: usize) -> bool {
        let mut given = false;
        let more = self.table.give_back_bucket_pages(pages as u64, |first, count| given = self.punch(first, count));
        more && given
    }

    fn punch(&self, first: usize, count: usize) -> bool {
        let page_size = PAGE_WORDS * 8;
        let given = self.segment.punch((first * page_size) as u64, (count * page_size) as u64).is_ok();
        if given {
            self.housekeeping.given_back.fetch_add((count * page_size) as u64, Ordering::Relaxed);
        } else {
            self.housekeeping.refuses.store(true, Ordering::Relaxed);
        }
        given
    }
}
