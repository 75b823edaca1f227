//! The large value of a `SET` on its way into its entry.
//!
//! # Design
//!
//! To copy a large value takes long, and so may the search for its room: entries are evicted for it, and others moved,
//! for milliseconds a MiB. Neither is done at once. The value flows into an entry that nobody can find yet
//! ([`crate::table`]'s drafts), a piece a turn; and where the room has to be searched for, a thread of its own does so
//! ([`Order`]), while the client waits and its worker serves others.
//!
//! # Invariants
//!
//! - An order is answered exactly once, also when nobody waits for the answer any more; then what was found is given
//!   back.
//! - A client has one order at a time: so many there are at most.

use crate::shm::segment::Mapping;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
use crate::table::{Draft, Terms, WriteError};

/// A value that does not go to its entry with the request.
#[derive(Debug)]
pub enum Streamed {
    /// Room for it is being made.
    Ordered(Arc<Order>),
    /// It is in its entry, or a part of it.
    Entry(Draft<Mapping>),
    /// There was no room for it.
    Refused(WriteError),
}

impl Streamed {
    /// Whether nothing can be done about it yet.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Ordered(order) if !order.is_done())
    }
}

impl From<Result<Draft<Mapping>, WriteError>> for Streamed {
    fn from(result: Result<Draft<Mapping>, WriteError>) -> Self {
        match result {
            Ok(draft) => Self::Entry(draft),
            Err(error) => Self::Refused(error),
        }
    }
}

/// An order for the entry of a large value, which another thread makes room for.
#[derive(Debug)]
pub struct Order {
    /// The key.
    pub key: Vec<u8>,
    /// Bytes of the value.
    pub size: usize,
    /// On what terms.
    pub terms: Terms,
    /// The number of the worker that waits.
    pub worker: usize,
    is_done: AtomicBool,
    answer: Mutex<Option<Result<Draft<Mapping>, WriteError>>>,
}

impl Order {
    /// An order of a worker.
    pub fn new(key: &[u8], size: usize, terms: Terms, worker: usize) -> Arc<Self> {
        let (is_done, answer) = (AtomicBool::new(false), Mutex::new(None));
        Arc::new(Self { key: key.to_vec(), size, terms, worker, is_done, answer })
    }

    /// Whether there is an answer. If not, who asks is rung for when there is.
    #[inline]
    pub fn is_done(&self) -> bool {
        // Relaxed: a hint; the lock guards the answer, and the ring that follows makes the worker look again.
        self.is_done.load(Ordering::Relaxed)
    }

    /// Answers it.
    pub fn answer(&self, answer: Result<Draft<Mapping>, WriteError>) {
        *lock(&self.answer) = Some(answer);
        self.is_done.store(true, Ordering::Relaxed);
    }

    /// The answer, once.
    pub fn take(&self) -> Option<Result<Draft<Mapping>, WriteError>> {
        lock(&self.answer).take()
    }
}
