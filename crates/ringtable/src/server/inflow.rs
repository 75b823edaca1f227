//! The large value of a `SET` while it arrives, whatever brings it.
//!
//! A value of `limits::LARGE_VALUE_SIZE` or more is not gathered with the rest of its request: it flows into the entry
//! that it is going to be (`table::draft`), a piece a turn. What is left of the request is executed once all has come.
//! Room that has to be searched for is ordered ([`super::room`]); nothing of the value is taken meanwhile. Where there
//! is no room for the entry, the request is gathered as a whole, since there may be room when it has come. What cannot
//! be gathered either flows nowhere, for the sake of the requests behind it, and the request is refused.

use super::executor::Executor;
use crate::command::{Order, Streamed};
use crate::ring::spsc::{Consumer, Ring};
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::{Draft, Terms, WriteError};

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

/// What comes first of a large value.
pub(super) enum Begin {
    /// It flows.
    Flow(Inflow),
    /// Its request is gathered instead.
    Gather,
    /// Room for it is ordered.
    Wait(Arc<Order>),
}

impl Begin {
    /// Looks for room for a value of `size` bytes of a key.
    pub fn with(executor: &mut Executor, key: &[u8], size: usize) -> Self {
        match executor.engine.writer.draft_soon(key, size, Terms::Arriving).transpose() {
            Some(found) => Self::of(found, size, executor),
            None => {
                let order = Order::new(key, size, Terms::Arriving, executor.engine.worker);
                executor.store.room.order(Arc::clone(&order));
                Self::Wait(order)
            }
        }
    }

    /// A value of `size` bytes that is dropped as it comes.
    pub fn nowhere(size: usize) -> Self {
        Self::Flow(Inflow::Nowhere { reason: WriteError::OutOfMemory(size), missing: size })
    }

    /// Takes what has become of an order.
    pub fn of_order(order: &Order, executor: &Executor) -> Self {
        let found = order.take().unwrap_or(Err(WriteError::OutOfMemory(order.size)));
        Self::of(found, order.size, executor)
    }

    fn of(found: Result<Draft<Mapping>, WriteError>, size: usize, executor: &Executor) -> Self {
        match found {
            Ok(draft) => {
                failpoint!("inflow.begun");
                Self::Flow(Inflow::Entry(draft))
            }
            Err(WriteError::OutOfMemory(needed)) if executor.store.requests.may_gather(needed) => Self::Gather,
            Err(reason) => Self::Flow(Inflow::Nowhere { reason, missing: size }),
        }
    }
}

impl Inflow {
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
            Self::Entry(draft) => Streamed::Entry(draft),
            Self::Nowhere { reason, .. } => Streamed::Refused(reason),
        }
    }
}
