//! A lock whose waiting can time out and be interrupted, which `std`'s mutex cannot.
//!
//! While a thread waits inside for the server, the program's signal handlers may run on it, and they may call the same
//! client. They would wait for the very thread that they run on, so they are refused ([`Error::Reentrant`]).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, TryLockError};

use super::{Error, Patience};
use crate::sync::lock;

/// A number that no other thread has while this one lives.
#[inline]
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

/// A value that one thread at a time may use.
pub(super) struct Gate<T> {
    value: Mutex<T>,
    /// The number of the thread that is inside, or 0. Relaxed throughout: a thread compares it with its own number
    /// only, and that nobody else stores.
    inside: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<()>,
    opened: Condvar,
}

impl<T> Gate<T> {
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(()),
            opened: Condvar::new(),
        }
    }

    /// Uses the value, after waiting for its turn.
    #[inline]
    pub fn enter<R>(
        &self,
        mut patience: Patience<'_>,
        work: impl FnOnce(&mut T, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut guard = match self.try_lock() {
            Some(guard) => guard,
            None if self.inside.load(Ordering::Relaxed) == this_thread() => return Err(Error::Reentrant),
            None => self.wait(&mut patience)?,
        };
        self.inside.store(this_thread(), Ordering::Relaxed);
        let result = work(&mut guard, &mut patience);
        self.inside.store(0, Ordering::Relaxed);
        drop(guard);
        // Relaxed: a waiter that is missed here looks again when its slice of patience is over.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.queue));
            self.opened.notify_one();
        }
        result
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.value.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    #[cold]
    fn wait(&self, patience: &mut Patience<'_>) -> Result<MutexGuard<'_, T>, Error> {
        patience.start();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = loop {
            let queue = lock(&self.queue);
            if let Some(guard) = self.try_lock() {
                break Ok(guard);
            }
            match patience.slice() {
                Ok(slice) => drop(self.opened.wait_timeout(queue, slice)),
                Err(error) => break Err(error),
            }
            if let Err(error) = patience.check_interrupted() {
                break Err(error);
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }
}
