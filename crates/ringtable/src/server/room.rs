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
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Shared;
use crate::command::Order;
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::segment::Mapping;
use crate::sync::{Arc, lock};
use crate::table::{Draft, WriteError, Writer};

/// Pause before another try, where other workers have in hand what is there to be had.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// What the thread and those who ask it share.
#[derive(Default)]
pub(super) struct Room {
    orders: Mutex<VecDeque<Arc<Order>>>,
    changed: Condvar,
}

impl Room {
    /// Has an order answered. Its worker is rung for then.
    pub fn order(&self, order: Arc<Order>) {
        lock(&self.orders).push_back(order);
        failpoint!("room.ordered");
        self.changed.notify_one();
    }

    /// Wakes the thread, to stop.
    pub fn stop(&self) {
        // With the lock: who has looked whether to stop, and is about to sleep, is woken.
        let _orders = lock(&self.orders);
        self.changed.notify_one();
    }

    /// The next order that somebody waits for; `None` once the server stops.
    fn next(&self, shared: &Shared) -> Option<Arc<Order>> {
        let mut orders = lock(&self.orders);
        loop {
            // Acquire: pairs with the Release in `Shared::stop`.
            if shared.stopping.load(Ordering::Acquire) {
                return None;
            }
            match orders.pop_front() {
                // Its client has gone.
                Some(order) if Arc::strong_count(&order) == 1 => {}
                Some(order) => return Some(order),
                None => orders = self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The thread, until the server stops.
pub(super) fn run(shared: &Shared) {
    let mut writer = Writer::new(Arc::clone(&shared.table));
    while let Some(order) = shared.room.next(shared) {
        let found = make(&mut writer, &order, shared);
        writer.release();
        failpoint!("room.made");
        order.answer(found);
        if writer.take_published() {
            shared.watchers.ring_sleepers();
        }
        shared.workers[order.worker].ring();
    }
}

fn make(writer: &mut Writer<Mapping>, order: &Order, shared: &Shared) -> Result<Draft<Mapping>, WriteError> {
    let began_ns = monotonic_ns();
    loop {
        writer.take_crowded();
        let found = writer.draft(&order.key, order.size, order.terms);
        let is_over = monotonic_ns() - began_ns >= limits::ROOM_PATIENCE_NS || shared.stopping.load(Ordering::Relaxed);
        if found.is_ok() || !writer.take_crowded() || is_over {
            return found;
        }
        writer.release();
        thread::sleep(RETRY_PAUSE);
    }
}
