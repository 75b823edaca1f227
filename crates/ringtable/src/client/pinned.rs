//! The table as views keep it: mapped, with its lane and its socket, for as long as a pin is taken.
//!
//! # Design
//!
//! Which pins are in use is known to this process alone, a bit each, and shared by its threads. The server believes the
//! pins of a client as long as its socket is open (I1). So a view keeps the socket, the lane and the mapping of the
//! table, also when its table is closed: what closing lets go of, the last view lets go of then.
//!
//! Views that objects hold are closed by nobody. So they take some of the pins alone, and keep so many bytes at most.
//! If the process forks, the child has such an object, too, and nobody knows for how long: what was held at a fork
//! stays pinned until the table is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::error::Error;
use super::life::Life;
use crate::limits;
use crate::ring::lane::Lane;
use crate::shm::fork;
use crate::shm::segment::Mapping;
use crate::sync::{AtomicU64, Memory};
use crate::table::reclaim;

/// The table is in use.
const OPEN: u8 = 0;
/// It was closed, and the last view lets go of its memory.
const CLOSED: u8 = 1;
/// The same, and of its socket.
const HUNG_UP: u8 = 2;

/// What the views of a connection share, and keep alive.
pub(super) struct PinnedTable {
    pub table: Arc<Mapping>,
    lane: Arc<Mapping>,
    life: Arc<Life>,
    /// A bit for each pin: whether a view has it.
    used: AtomicU64,
    /// A bit for each pin of an object that is gone, and that a child may have.
    kept: AtomicU64,
    /// Bytes that objects hold.
    held: AtomicU64,
    /// Whether the server was told to look at our pins.
    registered: AtomicBool,
    state: AtomicU8,
    generation: u64,
}

impl PinnedTable {
    pub fn new(table: Arc<Mapping>, lane: Arc<Mapping>, life: Arc<Life>) -> Self {
        Self {
            table,
            lane,
            life,
            used: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            held: AtomicU64::new(0),
            registered: AtomicBool::new(false),
            state: AtomicU8::new(OPEN),
            generation: fork::generation(),
        }
    }

    /// Whether it is that of this process, and not of the one that this was forked from.
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// The word of a pin.
    #[inline]
    pub fn pin(&self, number: usize) -> &AtomicU64 {
        &Lane::new(self.lane.words()).pins()[number]
    }

    /// Takes a pin that no view has, of the first `count`.
    #[inline]
    pub fn take(&self, count: usize) -> Result<Option<usize>, Error> {
        const { assert!(limits::PINS_MAX == u64::BITS as usize) };
        let mut used = self.used.load(Ordering::Relaxed);
        let number = loop {
            let number = used.trailing_ones() as usize;
            if number >= count {
                return Ok(None);
            }
            // SeqCst: against a thread that closes the table: either it sees our bit, or we see below that it is
            // closed. Acquire in it: pairs with `give`, so that the pin is written after its last user has cleared it.
            match self.used.compare_exchange_weak(used, used | 1 << number, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break number,
                Err(now) => used = now,
            }
        };
        if self.state.load(Ordering::SeqCst) != OPEN {
            self.give(number);
            return Err(Error::Closed);
        }
        Ok(Some(number))
    }

    /// Gives a pin back, which is cleared.
    #[inline]
    pub fn give(&self, number: usize) {
        // SeqCst: as in `take`; Release in it pairs with the Acquire there.
        let left = self.used.fetch_and(!(1 << number), Ordering::SeqCst) & !(1 << number);
        if left == 0 {
            self.let_go_if_closed();
        }
    }

    /// Notes that an object holds so many bytes more; `false` if that were too many.
    pub fn hold(&self, size: usize) -> bool {
        // Relaxed: a count that guards nothing.
        let held = |held: u64| held.checked_add(size as u64).filter(|&sum| sum <= limits::HELD_SIZE_MAX);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, held).is_ok()
    }

    /// Notes that an object holds them no more.
    pub fn release(&self, size: usize) {
        self.held.fetch_sub(size as u64, Ordering::Relaxed);
    }

    /// Leaves a pin, and the count of its bytes, as it is until the table is closed.
    pub fn keep(&self, number: usize) {
        // SeqCst: against a thread that closes the table: either it finds our bit, or we see below that it is closed.
        self.kept.fetch_or(1 << number, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) != OPEN {
            self.give_kept();
        }
    }

    /// Gives the pins back that were kept, each of them once.
    fn give_kept(&self) {
        let mut kept = self.kept.swap(0, Ordering::SeqCst);
        while kept != 0 {
            let number = kept.trailing_zeros() as usize;
            reclaim::unpin(self.pin(number));
            self.give(number);
            kept &= kept - 1;
        }
    }

    /// Closes the table: lets go of its memory, and if `hang_up`, of its socket, as soon as there are no views.
    pub fn close(&self, hang_up: bool) {
        self.state.fetch_max(if hang_up { HUNG_UP } else { CLOSED }, Ordering::SeqCst);
        self.give_kept();
        if self.used.load(Ordering::SeqCst) == 0 {
            self.let_go_if_closed();
        }
    }

    /// Whoever comes last does it; two who both do so do no harm.
    #[cold]
    fn let_go_if_closed(&self) {
        let state = self.state.load(Ordering::SeqCst);
        if state == HUNG_UP {
            self.life.hang_up();
            // The link is gone, and without views nobody writes to the pins.
            let _ = self.lane.let_go();
        }
        if state != OPEN {
            // Other threads may be reading; they find nothing, ask the link, and learn that it is gone.
            let _ = self.table.let_go();
        }
    }

    /// Notes that the server looks at our pins from now on.
    pub fn register(&self) {
        // Release: pairs with the Acquire in `is_registered`.
        self.registered.store(true, Ordering::Release);
    }

    /// Whether a view can be made without asking the server for anything.
    #[inline]
    pub fn is_registered(&self) -> bool {
        // Acquire: pairs with the Release in `register`; the server's answer is in the past of the pins to come.
        self.registered.load(Ordering::Acquire)
    }
}
