//! A lock whose waiting can time out and be interrupted, which `std`'s mutex cannot, and comes to an end.
//!
//! # Design
//!
//! One word says which thread is inside, and whether others wait: an open gate is entered and left by an exchange of
//! that word each. A thread that finds the gate closed takes a ticket, and sleeps. A thread that leaves opens the gate
//! and wakes the first in the queue; any thread that is awake may slip in before that one, since all would wait for one
//! that wakes up otherwise. Only when the first has waited for [`limits::GATE_PATIENCE`] the gate is handed over to it
//! without being opened, and that once in as long a time: so the longest wait is some such times for each thread in the
//! queue, and the gate is nearly as busy as if nobody were ever let in in order.
//!
//! While a thread waits inside for the server, the program's signal handlers may run on it, and they may call the same
//! client. They would wait for the very thread that they run on, so they are refused ([`Error::Reentrant`]). A thread
//! that looks for signals while it waits outside leaves the queue for so long, and keeps its place: the gate is not
//! handed over to a thread underneath a handler that waits for it, too.
//!
//! # Invariants
//!
//! - Somebody sleeps in the queue only if the word says so, or if the gate is open and the first was woken.
//! - A child that is forked inside leaves the queue alone: its lock may be held by a thread that is not there.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Instant;

use super::error::Error;
use super::patience::{Checks, Patience};
use crate::limits;
use crate::sync::lock;

/// Nobody is inside.
const OPEN: usize = 0;
/// Beside the number of who is inside: somebody waits.
const WAITED: usize = 1;

/// A number that no other thread has while this one lives; never 0, and even.
#[inline]
fn this_thread() -> usize {
    thread_local!(static PLACE: u64 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

/// A value that one thread at a time may use.
pub(super) struct Gate<T> {
    /// [`OPEN`], or the number of the thread that is inside, perhaps with [`WAITED`].
    state: AtomicUsize,
    queue: Mutex<Queue>,
    value: UnsafeCell<T>,
}

#[allow(unsafe_code)]
// SAFETY: the value is used by one thread at a time, which may be any.
unsafe impl<T: Send> Sync for Gate<T> {}

/// The threads that wait, in the order of their coming.
#[derive(Default)]
struct Queue {
    tickets: VecDeque<Arc<Ticket>>,
    /// When the gate was last handed over.
    handed_over: Option<Instant>,
}

struct Ticket {
    thread: Thread,
    number: usize,
    since: Instant,
    /// Whether the gate was handed over to it. Relaxed: written and read under the queue's lock.
    is_inside: AtomicBool,
}

/// A thread's stay inside.
struct Stay<'a, T> {
    gate: &'a Gate<T>,
    me: usize,
    patience: Patience<'a>,
}

impl<T> Drop for Stay<'_, T> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of who enters next.
        let left = self.gate.state.compare_exchange(self.me, OPEN, Ordering::Release, Ordering::Relaxed);
        if left.is_err() && !self.patience.is_inherited() {
            self.gate.let_in_next();
        }
    }
}

impl<T> Gate<T> {
    pub fn new(value: T) -> Self {
        Self { state: AtomicUsize::new(OPEN), queue: Mutex::default(), value: UnsafeCell::new(value) }
    }

    /// Uses the value, after waiting for its turn.
    #[inline]
    pub fn enter<R>(
        &self,
        mut patience: Patience<'_>,
        work: impl FnOnce(&mut T, &mut Patience<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let me = this_thread();
        // Acquire: pairs with the Release of who was inside before, in `Stay::drop` or `let_in_next`.
        match self.state.compare_exchange(OPEN, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {}
            Err(state) if state & !WAITED == me => return Err(Error::Reentrant),
            Err(_) => self.wait(me, &mut patience)?,
        }
        let _stay = Stay { gate: self, me, patience };
        #[allow(unsafe_code)]
        // SAFETY: the word says that this thread is inside, where it was not before, and no other one gets in before
        // `_stay` is dropped. (In a forked child there is no other one.)
        let value = unsafe { &mut *self.value.get() };
        work(value, &mut patience)
    }

    /// Enters the gate if it is open. If not, the word says that somebody waits.
    fn take_or_mark(&self, me: usize, others_wait: bool) -> bool {
        let inside = if others_wait { me | WAITED } else { me };
        // Relaxed: what the exchange compares with. Marking guards nothing: a thread that leaves takes the queue's lock
        // because of it, and that is held here.
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let (new, ordering) = match state {
                // Acquire: as in `enter`.
                OPEN => (inside, Ordering::Acquire),
                _ if state & WAITED != 0 => return false,
                _ => (state | WAITED, Ordering::Relaxed),
            };
            match self.state.compare_exchange_weak(state, new, ordering, Ordering::Relaxed) {
                Ok(_) => return state == OPEN,
                Err(now) => state = now,
            }
        }
    }

    #[cold]
    fn wait(&self, me: usize, patience: &mut Patience<'_>) -> Result<(), Error> {
        patience.start();
        let (thread, since) = (std::thread::current(), Instant::now());
        let ticket = Arc::new(Ticket { thread, number: me, since, is_inside: AtomicBool::new(false) });
        let mut checks = Checks::default();
        loop {
            if self.line_up(&ticket) {
                return Ok(());
            }
            let slice = patience.slice();
            if let Ok(slice) = &slice {
                std::thread::park_timeout(*slice);
            }
            if checks.is_due() || slice.is_err() {
                if !self.stand_aside(&ticket) {
                    return Ok(());
                }
                slice?;
                patience.check_interrupted()?;
            }
        }
    }

    /// Enters the gate if it is open, or was handed over; else the ticket is in the queue.
    fn line_up(&self, ticket: &Arc<Ticket>) -> bool {
        let mut queue = lock(&self.queue);
        if ticket.is_inside.load(Ordering::Relaxed) {
            return true;
        }
        let place = queue.place(ticket);
        let others_wait = queue.tickets.len() > usize::from(place.is_some());
        if self.take_or_mark(ticket.number, others_wait) {
            place.map(|place| queue.tickets.remove(place));
            return true;
        }
        if place.is_none() {
            let place = queue.tickets.partition_point(|other| other.since <= ticket.since);
            queue.tickets.insert(place, Arc::clone(ticket));
        }
        false
    }

    /// Takes the ticket out of the queue. Returns `false` if the gate is entered instead.
    fn stand_aside(&self, ticket: &Arc<Ticket>) -> bool {
        let mut queue = lock(&self.queue);
        if ticket.is_inside.load(Ordering::Relaxed) {
            return false;
        }
        if let Some(place) = queue.place(ticket) {
            queue.tickets.remove(place);
        }
        // We may have been woken for an open gate, and the others rely on that: we enter it, or it is closed by one who
        // knows that they wait.
        queue.tickets.is_empty() || !self.take_or_mark(ticket.number, true)
    }

    /// Leaves the gate, whose word says that somebody waits.
    #[cold]
    fn let_in_next(&self) {
        let mut queue = lock(&self.queue);
        let is_time = |since: Instant| since.elapsed() >= limits::GATE_PATIENCE;
        let hands_over =
            queue.tickets.front().is_some_and(|first| is_time(first.since)) && queue.handed_over.is_none_or(is_time);
        let first = if hands_over { queue.tickets.pop_front() } else { queue.tickets.front().cloned() };
        let state = match &first {
            Some(first) if hands_over => {
                first.is_inside.store(true, Ordering::Relaxed);
                queue.handed_over = Some(Instant::now());
                if queue.tickets.is_empty() { first.number } else { first.number | WAITED }
            }
            _ => OPEN,
        };
        // Release: pairs with the Acquire of who enters. To whom it is handed over, the queue's lock does the same.
        self.state.store(state, Ordering::Release);
        drop(queue);
        if let Some(first) = first {
            first.thread.unpark();
        }
    }
}

#[cfg(test)]
impl<T> Gate<T> {
    fn waiting(&self) -> usize {
        lock(&self.queue).tickets.len()
    }
}

impl Queue {
    fn place(&self, ticket: &Arc<Ticket>) -> Option<usize> {
        self.tickets.iter().position(|other| Arc::ptr_eq(other, ticket))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn brief(timeout: Duration) -> Patience<'static> {
        Patience::new(Some(timeout), &|| false)
    }

    fn wait_until(condition: impl Fn() -> bool) {
        while !condition() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_is_inside_and_may_not_enter_again() {
        let gate = Gate::new(1);
        let outcome = gate.enter(Patience::endless(), |value, _| {
            *value += 1;
            assert!(matches!(gate.enter(Patience::endless(), |_, _| Ok(())), Err(Error::Reentrant)));
            Ok(*value)
        });
        assert_eq!(outcome.unwrap(), 2);
        assert_eq!(gate.enter(Patience::endless(), |value, _| Ok(*value + 1)).unwrap(), 3);
    }

    /// It was open for whoever came first, which is who had just left, again and again.
    #[test]
    fn who_has_waited_for_long_comes_next() {
        let (gate, done) = (Gate::new(()), AtomicBool::new(false));
        let state = std::thread::scope(|scope| {
            let waiting = gate.enter(Patience::endless(), |(), _| {
                let waiting = scope.spawn(|| {
                    gate.enter(Patience::endless(), |(), _| {
                        wait_until(|| gate.waiting() > 0 || done.load(Ordering::Relaxed));
                        Ok(())
                    })
                });
                wait_until(|| gate.waiting() > 0);
                std::thread::sleep(limits::GATE_PATIENCE);
                Ok(waiting)
            });
            // The gate has been handed over, and stays closed until we wait, too.
            let state = gate.state.load(Ordering::Relaxed);
            let is_handed_over = lock(&gate.queue).handed_over.is_some();
            gate.enter(Patience::endless(), |(), _| Ok(())).unwrap();
            done.store(true, Ordering::Relaxed);
            waiting.unwrap().join().unwrap().unwrap();
            assert!(is_handed_over, "it was opened for whoever comes first, which may have been the right one");
            state
        });
        assert_eq!(state & WAITED, 0);
        assert_ne!(state, OPEN, "it was opened for whoever comes first");
        assert_eq!((gate.state.into_inner(), lock(&gate.queue).tickets.len()), (OPEN, 0));
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let gate = Gate::new(());
        std::thread::scope(|scope| {
            gate.enter(Patience::endless(), |(), _| {
                let late = scope.spawn(|| gate.enter(brief(Duration::ZERO), |(), _| Ok(())));
                assert!(matches!(late.join().unwrap(), Err(Error::Timeout(_))));
                let interrupted = scope.spawn(|| gate.enter(Patience::new(None, &|| true), |(), _| Ok(())));
                assert!(matches!(interrupted.join().unwrap(), Err(Error::Interrupted)));
                assert_eq!(gate.waiting(), 0);
                Ok(())
            })
            .unwrap();
        });
        assert_eq!(gate.state.into_inner(), OPEN);
    }

    /// Some give up at any moment, also when they were just woken; the others get in all the same.
    #[test]
    fn each_of_many_gets_in_one_at_a_time() {
        const THREADS: u64 = 6;
        const TIMES: u64 = 3_000;
        let gate = Gate::new((0, false));
        let enter = |patience| {
            gate.enter(patience, |(count, occupied), _| {
                assert!(!std::mem::replace(occupied, true), "two at a time");
                *count += 1;
                std::thread::yield_now();
                *occupied = false;
                Ok(())
            })
        };
        let hasty_times: u64 = std::thread::scope(|scope| {
            let hasty = (0..THREADS).map(|thread| {
                let times = move |time: u64| Duration::from_micros(time * (thread + 1) % 50);
                scope.spawn(move || (0..TIMES).filter(|&time| enter(brief(times(time))).is_ok()).count() as u64)
            });
            let hasty: Vec<_> = hasty.collect();
            let patient: Vec<_> = (0..THREADS)
                .map(|_| scope.spawn(|| (0..TIMES).for_each(|_| enter(Patience::endless()).unwrap())))
                .collect();
            patient.into_iter().for_each(|thread| thread.join().unwrap());
            hasty.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(lock(&gate.queue).tickets.len(), 0);
        assert_eq!(gate.value.into_inner(), (THREADS * TIMES + hasty_times, false));
    }
}
