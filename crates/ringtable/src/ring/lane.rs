//! The layout of a lane: one client's segment, with a request ring and a response ring.
//!
//! ```text
//! bytes        words      written by
//! 0            0          server   magic; 1 version; 2 ring size; 3 worker
//! 128          16         client   request tail
//! 256          32         server   request head
//! 384          48         server   response tail
//! 512          64         client   response head
//! 640          80         client   client's state (see `wait`)
//! 768          96         server   server's waiting flag
//! 896          112        server   hints taken so far
//! 1024         128 … 191  client   pins
//! 1536         192        client   hints left so far
//! 1664         208 … 463  client   the last hints
//! 4096         512 …      client   request data
//! 4096 + ring             server   response data
//! ```
//!
//! The client can write everywhere in it. The server therefore believes nothing that it did not write itself and keep a
//! private copy of (I4); a client that scribbles over its lane harms itself alone. What it could do to the memory
//! itself, through the descriptor, it has to give up before the server looks at the lane: it maps the lane, seals it
//! strictly (see `shm/segment.rs`), and rings.
//!
//! # Doorbells
//!
//! A side that publishes something and finds the other one waiting rings its doorbell; a side that wants to sleep says
//! so and looks once more:
//!
//! ```text
//! publisher                              sleeper
//! store position (Release)               store waiting flag (Relaxed)
//! fence(SeqCst)            [A]           fence(SeqCst)            [B]
//! load waiting flag -> ring              load position -> do not sleep
//! ```
//!
//! The fences are totally ordered: if A comes first, the sleeper sees the position; if B does, the publisher sees the
//! flag. So no wake-up is lost. Fences rather than SeqCst accesses, because that is the form the model checker checks.

use super::spsc::Ring;
use crate::limits;
use crate::sync::{AtomicU64, Ordering, fence};

const STRIDE: usize = if cfg!(loom) { 1 } else { 16 };
/// First word: "ringlane" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ringlane");
/// Version of this layout and of the records that flow through it.
pub const LANE_VERSION: u64 = 3;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 1;
const RING_SIZE_AT: usize = 2;
const WORKER_AT: usize = 3;
const REQUEST_TAIL: usize = if cfg!(loom) { 4 } else { STRIDE };
const REQUEST_HEAD: usize = REQUEST_TAIL + STRIDE;
const RESPONSE_TAIL: usize = REQUEST_HEAD + STRIDE;
const RESPONSE_HEAD: usize = RESPONSE_TAIL + STRIDE;
const CLIENT_STATE: usize = RESPONSE_HEAD + STRIDE;
const SERVER_WAITING: usize = CLIENT_STATE + STRIDE;
const HINTS_TAKEN: usize = if cfg!(loom) { SERVER_WAITING + 1 } else { SERVER_WAITING + STRIDE };
/// First pin slot.
pub const PINS: usize = if cfg!(loom) { SERVER_WAITING + 1 } else { 128 };
const HINT_TAIL: usize = if cfg!(loom) { SERVER_WAITING + 1 } else { 192 };
const HINTS: usize = if cfg!(loom) { SERVER_WAITING + 1 } else { HINT_TAIL + STRIDE };
const DATA: usize = if cfg!(loom) { SERVER_WAITING + 2 } else { 512 };
const RING_WORDS: usize = limits::LANE_RING_SIZE / 8;

/// Words of a lane segment.
pub const LANE_WORDS: usize = DATA + 2 * RING_WORDS;
/// Bytes of a lane segment.
pub const LANE_SIZE: usize = LANE_WORDS * 8;

const _: () = {
    assert!(limits::LANE_RING_SIZE.is_power_of_two());
    assert!(cfg!(loom) || HINTS_TAKEN + STRIDE <= PINS);
    assert!(cfg!(loom) || PINS + limits::PINS_MAX <= HINT_TAIL);
    assert!(cfg!(loom) || HINTS + limits::HINTS_MAX <= DATA);
    assert!(limits::HINTS_MAX.is_power_of_two());
    assert!(cfg!(loom) || SERVER_WAITING + STRIDE <= PINS);
    assert!(cfg!(loom) || LANE_SIZE.is_multiple_of(4096));
};

/// Why a segment is not believed to be a lane.
#[derive(Debug, thiserror::Error)]
#[error("the lane has {field} {found}, this client understands {expected}")]
pub struct LaneError {
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub found: u64,
    /// What it should hold.
    pub expected: u64,
}

/// A view of a lane's words.
#[derive(Clone, Copy)]
pub struct Lane<'a>(&'a [AtomicU64]);

impl<'a> Lane<'a> {
    /// A view of `words`.
    ///
    /// # Panics
    /// If there are not [`LANE_WORDS`] of them.
    #[inline]
    pub fn new(words: &'a [AtomicU64]) -> Self {
        assert!(words.len() == LANE_WORDS, "a lane has {LANE_WORDS} words, not {}", words.len());
        Self(words)
    }

    /// Writes what a client checks when it joins. By the server, before it passes the segment.
    pub fn create(self, worker: usize) {
        // Relaxed: passing the descriptor orders it.
        for (index, value) in [
            (MAGIC_AT, MAGIC),
            (VERSION_AT, LANE_VERSION),
            (RING_SIZE_AT, limits::LANE_RING_SIZE as u64),
            (WORKER_AT, worker as u64),
        ] {
            self.0[index].store(value, Ordering::Relaxed);
        }
    }

    /// Checks what the server wrote, and returns the number of the worker that serves the lane. By the client.
    ///
    /// # Errors
    /// If it is no lane, or one of another layout.
    pub fn attach(self) -> Result<usize, LaneError> {
        // Relaxed: as in `create`.
        let check = |field, index: usize, expected| match self.0[index].load(Ordering::Relaxed) {
            found if found == expected => Ok(()),
            found => Err(LaneError { field, found, expected }),
        };
        check("magic number", MAGIC_AT, MAGIC)?;
        check("version", VERSION_AT, LANE_VERSION)?;
        check("ring size", RING_SIZE_AT, limits::LANE_RING_SIZE as u64)?;
        let worker = self.0[WORKER_AT].load(Ordering::Relaxed);
        if worker >= limits::WORKERS_MAX as u64 {
            return Err(LaneError { field: "worker", found: worker, expected: limits::WORKERS_MAX as u64 - 1 });
        }
        Ok(worker as usize)
    }

    /// The ring from client to server.
    #[inline]
    pub fn requests(self) -> Ring<'a> {
        Ring { tail: &self.0[REQUEST_TAIL], head: &self.0[REQUEST_HEAD], data: &self.0[DATA..DATA + RING_WORDS] }
    }

    /// The ring from server to client.
    #[inline]
    pub fn responses(self) -> Ring<'a> {
        Ring { tail: &self.0[RESPONSE_TAIL], head: &self.0[RESPONSE_HEAD], data: &self.0[DATA + RING_WORDS..] }
    }

    /// What the client says of itself: see [`super::wait::State`].
    #[inline]
    pub fn client_state(self) -> &'a AtomicU64 {
        &self.0[CLIENT_STATE]
    }

    /// What the client pins entries of the table with: see the reclaiming of the table's memory.
    #[inline]
    pub fn pins(self) -> &'a [AtomicU64] {
        &self.0[PINS..PINS + limits::PINS_MAX]
    }

    /// How many hints the client has left: see the table's hints.
    #[inline]
    pub fn hint_tail(self) -> &'a AtomicU64 {
        &self.0[HINT_TAIL]
    }

    /// The last hints that the client has left.
    #[inline]
    pub fn hints(self) -> &'a [AtomicU64] {
        &self.0[HINTS..HINTS + limits::HINTS_MAX]
    }

    /// How many of the client's hints the server has taken.
    #[inline]
    pub fn hints_taken(self) -> &'a AtomicU64 {
        &self.0[HINTS_TAKEN]
    }

    /// Not 0 while the server does not look at this lane unless its doorbell rings.
    #[inline]
    pub fn server_waiting(self) -> &'a AtomicU64 {
        &self.0[SERVER_WAITING]
    }
}

/// Publisher's half of the doorbell protocol: whether the sleeper behind `flag` has to be rung. Call it after
/// publishing.
///
/// SeqCst fence: [A] of the module header, pairs with the one in [`announce_sleep`].
#[inline]
pub fn must_ring(flag: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    // Relaxed: ordered by the fence; the flag guards no data.
    flag.load(Ordering::Relaxed) & 1 != 0
}

/// Sleeper's half: says that we sleep unless rung. Look at the positions once more after it.
///
/// SeqCst fence: [B] of the module header, pairs with the one in [`must_ring`].
#[inline]
pub fn announce_sleep(flag: &AtomicU64, state: u64) {
    // Relaxed: ordered by the fence.
    flag.store(state | 1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Says that we are awake again. Nothing depends on when it is seen: a ring too many is harmless, hence Relaxed.
#[inline]
pub fn announce_awake(flag: &AtomicU64, state: u64) {
    flag.store(state & !1, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap_words;

    #[test]
    fn a_fresh_lane_is_believed_and_a_damaged_one_is_not() {
        let words = heap_words(LANE_WORDS);
        assert!(Lane::new(&words).attach().is_err());
        Lane::new(&words).create(5);
        assert_eq!(Lane::new(&words).attach().unwrap(), 5);
        words[VERSION_AT].store(9, Ordering::Relaxed);
        assert_eq!(
            Lane::new(&words).attach().unwrap_err().to_string(),
            "the lane has version 9, this client understands 3"
        );
    }

    #[test]
    fn the_two_rings_do_not_touch() {
        let words = heap_words(LANE_WORDS);
        let lane = Lane::new(&words);
        assert_eq!(lane.requests().data.len(), RING_WORDS);
        assert_eq!(lane.responses().data.len(), RING_WORDS);
        assert!(std::ptr::eq(&lane.requests().data[RING_WORDS - 1], &words[DATA + RING_WORDS - 1]));
        assert!(std::ptr::eq(&lane.responses().data[0], &words[DATA + RING_WORDS]));
    }

    #[test]
    fn the_pins_lie_where_nothing_else_does() {
        let words = heap_words(LANE_WORDS);
        let pins = Lane::new(&words).pins();
        assert_eq!(pins.len(), limits::PINS_MAX);
        assert!(std::ptr::eq(&pins[0], &words[128]) && std::ptr::eq(&pins[63], &words[191]));
    }
}
