//! The large value of a `SET` while it arrives, whatever brings it.
//!
//! A value of `limits::LARGE_VALUE_SIZE` or more is not gathered with the rest of its request: it flows into the entry
//! that it is going to be (`table::draft`), a piece a turn. What is left of the request is executed once all has come.
//! Where there is no room for the entry, the request is gathered as a whole, since there may be room when it has come.
//! What cannot be gathered either flows nowhere, for the sake of the requests behind it, and the request is refused.

use std::collections::TryReserveError;

use super::worker::{BUFFER_KEPT_MAX, Bench};
use crate::command::Streamed;
use crate::ring::spsc::{Consumer, Ring};
use crate::shm::segment::Mapping;
use crate::table::{Draft, WriteError};

/// Where a large value flows to.
pub(super) enum Inflow {
    /// Into its entry.
    Entry(Draft<Mapping>),
    /// Nowhere: it is refused.
    Nowhere {
        /// Why.
        reason: WriteError,
        /// Bytes that are still to come.
        missing: usize,
    },
}

/// Makes room for `more` bytes in a buffer that may need `most` more in the end.
///
/// A large buffer gets all its addresses at once, but no memory before something is written there: to make it longer
/// would be to copy it again and again, for tens of milliseconds.
pub(super) fn reserve(buffer: &mut Vec<u8>, more: usize, most: usize) -> Result<(), TryReserveError> {
    let is_large = buffer.len() + more > BUFFER_KEPT_MAX;
    if is_large && buffer.capacity() - buffer.len() < more && buffer.try_reserve_exact(most.max(more)).is_ok() {
        return Ok(());
    }
    buffer.try_reserve(more)
}

impl Inflow {
    /// Makes room for a value of `size` bytes of a key. `None` if its request should be gathered instead.
    pub fn begin(bench: &mut Bench, key: &[u8], size: usize) -> Option<Self> {
        match bench.writer.draft(key, size) {
            Ok(draft) => {
                failpoint!("inflow.begun");
                Some(Self::Entry(draft))
            }
            Err(WriteError::OutOfMemory(needed)) if bench.shared.may_gather(needed) => None,
            Err(reason) => Some(Self::Nowhere { reason, missing: size }),
        }
    }

    /// Bytes that are still to come.
    #[inline]
    pub fn missing(&self) -> usize {
        match self {
            Self::Entry(draft) => draft.missing(),
            Self::Nowhere { missing, .. } => *missing,
        }
    }

    /// Takes bytes that have come, which are at most those that are missing.
    pub fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Entry(draft) => {
                draft.fill(bytes);
                failpoint!("inflow.piece");
            }
            Self::Nowhere { missing, .. } => *missing -= bytes.len(),
        }
    }

    /// Takes `size` bytes (whole words, those that fill up the last one included) out of a ring that has them.
    pub fn take_words(&mut self, consumer: &mut Consumer, ring: Ring<'_>, size: usize) {
        match self {
            Self::Entry(draft) => {
                draft.fill_words(size, |words| consumer.read_words(ring, words));
                failpoint!("inflow.piece");
            }
            Self::Nowhere { missing, .. } => {
                consumer.skip(size);
                *missing = missing.saturating_sub(size);
            }
        }
    }

    /// What a request gets for its value, all of which has come.
    pub fn finish(self) -> Streamed {
        match self {
            Self::Entry(draft) => Ok(draft),
            Self::Nowhere { reason, .. } => Err(reason),
        }
    }
}
