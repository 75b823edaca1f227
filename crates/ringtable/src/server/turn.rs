//! A client's turn: what it came to, and the budget of time, requests and bytes that ends it (I5).

use crate::command::Upgrade;
use crate::limits;
use crate::shm::clock::monotonic_ns;

/// Turns with work in a row after which a client is one that asks for much: a value of 128 KiB takes three.
pub(super) const STREAK_MAX: u32 = 4;

/// What one turn of a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There was nothing to do, or nothing could be done.
    Idle,
    /// Something was done; there may be more.
    Worked,
    /// The client asks for another kind of connection.
    Upgrade(Upgrade),
}

/// What a turn has taken so far.
#[derive(Default)]
pub(super) struct Budget {
    /// Whether work was taken up in this turn, and when the first piece of this or the last such turn was.
    begun: bool,
    began_ns: u64,
    /// Bytes of the table that were gone over in this turn, whether anything of them is sent or not.
    passed: usize,
}

impl Budget {
    /// Takes note of when the work of this turn began, if it has not begun before.
    #[inline]
    pub fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.began_ns = monotonic_ns();
        }
    }

    /// When the last turn with work began.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// When this turn is over, by the monotonic clock.
    #[inline]
    pub fn ends_ns(&self) -> u64 {
        self.began_ns + limits::TURN_NS_MAX
    }

    /// Counts bytes of the table that were gone over.
    #[inline]
    pub fn pass(&mut self, size: usize) {
        self.passed += size;
    }

    /// Whether the client has had its share, after so many requests and so many bytes of them.
    #[inline]
    pub fn is_over(&self, requests: usize, bytes: usize) -> bool {
        requests >= limits::TURN_REQUESTS_MAX
            || bytes + self.passed >= limits::TURN_BYTES_MAX
            || self.begun
                && requests.is_multiple_of(limits::TURN_REQUESTS_PER_CLOCK)
                && monotonic_ns() - self.began_ns >= limits::TURN_NS_MAX
    }

    /// Ends the turn. Returns whether anything was done in it.
    #[inline]
    pub fn end(&mut self) -> bool {
        self.passed = 0;
        std::mem::take(&mut self.begun)
    }
}
