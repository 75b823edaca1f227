//! Buffers for requests: how large they get, what is kept of them, and how large ones are given back in steps.

use std::collections::TryReserveError;

/// Most bytes received by one system call.
pub(super) const RECEIVE_SIZE: usize = 64 << 10;
/// A buffer larger than this is not kept from one request to the next: that of a value of 1 MiB is.
pub(super) const KEPT_MAX: usize = (1 << 20) + (64 << 10);
/// Bytes of a discarded buffer that are given back in one step, in about 100 µs.
const DISCARDED_AT_ONCE: usize = 4 << 20;

/// Makes room for `more` bytes in a buffer that may need `most` more in the end.
///
/// A large buffer gets all its addresses at once, but no memory before something is written there: to make it longer
/// would be to copy it again and again, for tens of milliseconds.
pub(super) fn reserve(buffer: &mut Vec<u8>, more: usize, most: usize) -> Result<(), TryReserveError> {
    let is_large = buffer.len() + more > KEPT_MAX;
    if is_large && buffer.capacity() - buffer.len() < more && buffer.try_reserve_exact(most.max(more)).is_ok() {
        return Ok(());
    }
    buffer.try_reserve(more)
}

/// Large buffers that nobody needs any more, on their way back to the system.
#[derive(Default)]
pub(super) struct Discarded(Vec<Vec<u8>>);

impl Discarded {
    /// Takes a buffer that nobody needs any more, and of which no more than the first `touched` bytes were ever
    /// written. Its memory is given back in steps.
    pub fn put(&mut self, mut buffer: Vec<u8>, touched: usize) {
        // Behind them there are only addresses, which cost nothing.
        buffer.clear();
        buffer.shrink_to(touched);
        if buffer.capacity() > DISCARDED_AT_ONCE {
            self.0.push(buffer);
        }
    }

    /// The same of many buffers that are much together.
    pub fn put_all(&mut self, buffers: impl Iterator<Item = Vec<u8>>) {
        self.0.extend(buffers);
    }

    /// Makes room for `size` bytes that were received, out of what was discarded, twice as much: so clients cannot have
    /// buffers discarded faster than they are given back.
    #[inline]
    pub fn make_up_for(&mut self, size: usize) {
        self.give_back(2 * size);
    }

    /// Gives one step's share back. Returns whether there is more.
    #[inline]
    pub fn tend(&mut self) -> bool {
        self.give_back(DISCARDED_AT_ONCE)
    }

    /// Gives so many bytes back. Returns whether there is more.
    #[inline]
    fn give_back(&mut self, share: usize) -> bool {
        !self.0.is_empty() && self.cut(share)
    }

    #[cold]
    fn cut(&mut self, mut share: usize) -> bool {
        while share > 0
            && let Some(buffer) = self.0.last_mut()
        {
            // Of large allocations this cuts the end off, which is all that costs time: a page fault's worth per page.
            let size = buffer.capacity();
            let rest = size.saturating_sub(share);
            share -= size - rest;
            buffer.truncate(rest);
            buffer.shrink_to(rest);
            if rest == 0 {
                self.0.pop();
            }
        }
        !self.0.is_empty()
    }
}
