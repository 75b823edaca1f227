//! Making room for large entries, from a thread of its own.
//!
//! # Design
//!
//! In a full table room for a large entry is made by evicting entries and moving others: some milliseconds a MiB, and a
//! third of a second for 100 MiB of small ones. No other client shall wait for that. So a worker makes room for at most
//! [`limits::ROOM_AT_ONCE_MAX`] bytes itself, and leaves the rest to this thread: an order at a time, in the order in
//! which they came. The client that has asked waits for its answer; its worker is rung for when there is one.
//!
//! The thread has a writer of its own, like a worker. It holds nothing back between two orders.
//!
//! # Not promised
//!
//! - A client that writes large values may wait for the room of all others that do so at the same time.
//! - Room that was found counts as taken. What others write meanwhile may take what was freed before all is found.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::command::Order;
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::segment::Mapping;
use crate::sync::{Arc, lock};
use crate::table::{Draft, Table, WriteError, Writer};

/// Pause before another try, where other workers have in hand what is there to be had.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// What the thread and the workers that ask it share.
#[derive(Default)]
pub(super) struct Room {
    state: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    orders: VecDeque<Arc<Order>>,
    /// Whether the thread is to end.
    stopped: bool,
}

impl Room {
    /// Has an order answered. Its worker is rung for then.
    pub fn order(&self, order: Arc<Order>) {
        lock(&self.state).orders.push_back(order);
        failpoint!("room.ordered");
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_one();
    }

    /// The next order that somebody waits for; `None` once the server stops.
    fn next(&self) -> Option<Arc<Order>> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            match state.orders.pop_front() {
                // Its client has gone.
                Some(order) if Arc::strong_count(&order) == 1 => {}
                Some(order) => return Some(order),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The thread, until the server stops. `answered` is told of each order's worker, and whether there are events.
    pub fn run(&self, table: &Arc<Table<Mapping>>, answered: impl Fn(usize, bool)) {
        let mut writer = Writer::new(Arc::clone(table));
        while let Some(order) = self.next() {
            let found = self.make(&mut writer, &order);
            writer.release();
            failpoint!("room.made");
            order.answer(found);
            answered(order.worker, writer.take_published());
        }
    }

    fn make(&self, writer: &mut Writer<Mapping>, order: &Order) -> Result<Draft<Mapping>, WriteError> {
        let began_ns = monotonic_ns();
        loop {
            writer.take_crowded();
            let found = writer.draft(&order.key, order.size, order.terms);
            let is_late = monotonic_ns() - began_ns >= limits::ROOM_PATIENCE_NS;
            if found.is_ok() || !writer.take_crowded() || is_late || lock(&self.state).stopped {
                return found;
            }
            writer.release();
            thread::sleep(RETRY_PAUSE);
        }
    }
}
