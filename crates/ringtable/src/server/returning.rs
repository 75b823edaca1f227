//! Giving back to the kernel what nobody uses, from a thread of its own: memory, and what a worker should not close.
//!
//! # Design
//!
//! To punch a hole one waits for whoever else has the table's file locked, such as a client that looks for holes in a
//! loop through its read-only descriptor (`SEEK_HOLE`) and was stopped in the middle of it; and it takes the longer the
//! more mappings there are. So no worker does it, they say what there is to do ([`Returning::ask`]).
//!
//! - **Memory that was free** for half a second goes a few MiB at a time, in about a twentieth of a processor. Workers
//!   notice it (`housekeeping`).
//! - **All that is free** goes at once after FLUSHALL, which waits for that for a while.
//! - **What clients have only read.** Whoever reads a hole through a shared mapping, read-only or not, has the kernel
//!   fill it with a page of zeroes, and so could make the whole segment resident. As long as any client may have the
//!   table mapped, also one whose connection has ended, the thread looks every [`LOOK_EVERY`] whether more is resident
//!   than we have touched; that is one question to the kernel. If so, it finds out where, and gives it back.
//!
//! - **Sockets and doorbells** that have too many waiters ([`super::waking`]): to close one wakes them all.
//!
//! Without clients, and without anything to do, it sleeps without a time-out.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use crate::shm::clock::monotonic_ns;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::shm::signals::block_signals;
use crate::sync::lock;
use crate::table::Table;
use crate::table::layout::PAGE_WORDS;

const PAGE_SIZE: usize = PAGE_WORDS * 8;
/// Pages given back at once: 4 MiB. Nobody else can have them meanwhile.
const GIVEN_BACK_AT_ONCE: usize = 64;
/// They are one part of so many of the table at most.
const GIVEN_BACK_SHARE: usize = 64;
/// A step is followed by a pause of so many times its length,
const PAUSE_TIMES: u32 = 19;
/// but not by a longer one: it may have been waiting itself.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Time between two looks for memory that clients have only read.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pages more than we have touched that are no reason to search for them: a MiB.
const STRAY_PAGES_MAX: u64 = 16;
/// Pages searched in one go, between which the heap's lock is free.
const SEARCHED_AT_ONCE: usize = 1_024;
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// What the thread and those that ask it share.
pub(super) struct Returning {
    table: Arc<Table<Mapping>>,
    segment: Segment,
    /// Bytes of the segment.
    size: usize,
    /// Whether the thread is to end.
    stopping: AtomicBool,
    bell: Doorbell,
    listener: Listener,
    /// Pages that were free long enough.
    idle_pages: AtomicUsize,
    /// How often all was asked for, and how many of these times it was given.
    asked: AtomicU64,
    answered: AtomicU64,
    /// Whether a client has been given the table.
    is_handed_out: AtomicBool,
    /// Whether the kernel takes nothing back (with a strict seal), or the thread does not run.
    refuses: AtomicBool,
    /// Bytes given back.
    pub given_back: AtomicU64,
    /// What is to be dropped.
    left: Mutex<Vec<Box<dyn Send>>>,
}

impl Returning {
    /// The memory of a table in its segment of `size` bytes.
    pub fn new(table: Arc<Table<Mapping>>, segment: Segment, size: usize) -> io::Result<Self> {
        let bell = Doorbell::new()?;
        Ok(Self {
            table,
            segment,
            size,
            stopping: AtomicBool::new(false),
            listener: Listener::new(&bell)?,
            bell,
            idle_pages: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            is_handed_out: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            given_back: AtomicU64::new(0),
            left: Mutex::default(),
        })
    }

    // Relaxed, in all that follows: the ring that comes after a word is written makes the thread look, and guards
    // nothing else; pages are handed from hand to hand under the heap's lock.

    /// Has so many free pages given back, by and by.
    pub fn ask(&self, pages: usize) {
        self.idle_pages.store(pages, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Has all that is free given back at once.
    pub fn ask_for_all(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Whether all that was asked for is done.
    pub fn has_answered(&self) -> bool {
        self.refuses() || self.answered.load(Ordering::Relaxed) == self.asked.load(Ordering::Relaxed)
    }

    /// Has nothing more given back: the kernel takes nothing, or there is no thread.
    pub fn refuse(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is given back.
    pub fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// Drops something, and closes what it has open, in our stead.
    pub fn close(&self, what: Box<dyn Send>) {
        lock(&self.left).push(what);
        self.bell.ring();
    }

    /// Ends the thread.
    pub fn stop(&self) {
        // Release: pairs with the Acquire in `run` and `find_strays`.
        self.stopping.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Takes note that a client is given the table, and may fill holes in it by reading from now on.
    pub fn note_reader(&self) {
        if !self.is_handed_out.swap(true, Ordering::Relaxed) {
            self.bell.ring();
        }
    }

    /// Bytes of the segment that take memory.
    pub fn resident(&self) -> u64 {
        self.segment.resident().unwrap_or(0)
    }

    /// The thread, until the server stops.
    pub fn run(&self) {
        block_signals();
        let mut looked_ns = monotonic_ns();
        // Acquire: pairs with the Release in `stop`.
        while !self.stopping.load(Ordering::Acquire) {
            // Not while the lock is held.
            let left = std::mem::take(&mut *lock(&self.left));
            drop(left);
            let now_ns = monotonic_ns();
            let asked = self.asked.load(Ordering::Relaxed);
            let since_look = Duration::from_nanos(now_ns - looked_ns);
            let wait = if !self.refuses() && self.answered.load(Ordering::Relaxed) != asked {
                self.find_strays();
                while self.give_back(GIVEN_BACK_AT_ONCE) > 0 || self.give_back_buckets() {
                    thread::yield_now(); // the heap's lock may be wanted by a worker on our processor
                }
                self.answered.store(asked, Ordering::Relaxed);
                Duration::ZERO
            } else if let pages @ 1.. = self.idle_pages.load(Ordering::Relaxed)
                && !self.refuses()
            {
                let given = self.give_back(pages.min(GIVEN_BACK_AT_ONCE));
                let left = if given == 0 { 0 } else { pages.saturating_sub(given) };
                // Nothing if it has changed meanwhile: then there is news.
                let _ = self.idle_pages.compare_exchange(pages, left, Ordering::Relaxed, Ordering::Relaxed);
                (Duration::from_nanos(monotonic_ns() - now_ns) * PAUSE_TIMES).min(PAUSE_MAX)
            } else if !self.is_handed_out.load(Ordering::Relaxed) || self.refuses() {
                FOR_EVER
            } else if since_look < LOOK_EVERY {
                LOOK_EVERY - since_look
            } else {
                looked_ns = now_ns;
                let strays = self.find_strays();
                self.idle_pages.fetch_max(strays, Ordering::Relaxed);
                Duration::ZERO
            };
            // Interrupted or not, what there is to do is looked at anew.
            let _ = self.listener.wait(wait);
        }
        self.refuse();
    }

    /// Gives up to `pages` free pages of the segment back to the kernel. Returns how many that were.
    fn give_back(&self, pages: usize) -> usize {
        let at_once = (self.size / PAGE_SIZE / GIVEN_BACK_SHARE).max(1);
        let mut all = 0;
        while all < pages
            && let Some((first, count)) = self.table.heap().take_dirty(at_once.min(pages - all))
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

    /// The same for pages that the bucket array does not use any more. Returns whether there may be more.
    fn give_back_buckets(&self) -> bool {
        let mut given = false;
        let count = GIVEN_BACK_AT_ONCE as u64;
        let more = self.table.give_back_bucket_pages(count, |first, count| given = self.punch(first, count));
        more && given
    }

    fn punch(&self, first: usize, count: usize) -> bool {
        let given = self.segment.punch((first * PAGE_SIZE) as u64, (count * PAGE_SIZE) as u64).is_ok();
        if given {
            self.given_back.fetch_add((count * PAGE_SIZE) as u64, Ordering::Relaxed);
        } else {
            self.refuse();
        }
        given
    }

    /// Finds free pages that we have not touched and that are resident all the same, if there must be some. From then
    /// on they count as touched. Returns how many they are.
    fn find_strays(&self) -> usize {
        let resident = self.resident() / PAGE_SIZE as u64;
        if resident <= self.table.touched_pages() + STRAY_PAGES_MAX {
            return 0;
        }
        let mut found = 0;
        let heap = self.table.heap();
        let mut at = 0;
        // Acquire: pairs with the Release in `stop`.
        while !self.stopping.load(Ordering::Acquire)
            && let Some((first, count)) = heap.next_untouched(at, SEARCHED_AT_ONCE)
        {
            at = first + count;
            let resident = self.table.memory().resident(first * PAGE_SIZE, PAGE_SIZE, count);
            found += heap.note_touched(resident.into_iter().map(|nth| first + nth));
        }
        self.table.note_touched_bucket_pages();
        while self.give_back_buckets() {}
        found
    }
}
