//! How many clients a server has, by whatever way they come, and that they are never more than `--max-clients`.
//!
//! The accepting thread lets connections in, and a worker sessions over UDP, at the same time. So counting one and
//! asking whether there is room for it are one step. A connection in the reserved place does not count.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::Arc;

/// The count of a server's clients.
pub(super) struct Headcount {
    clients: AtomicUsize,
    most: usize,
}

impl Headcount {
    /// Nobody is there yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        Self { clients: AtomicUsize::new(0), most }
    }

    /// How many clients there are, or are about to be.
    pub fn clients(&self) -> usize {
        // Relaxed, here and below: it guards nothing but itself.
        self.clients.load(Ordering::Relaxed)
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// Counts another one, if there is room for it. Returns whether there was.
    pub fn enter(&self) -> bool {
        let another = |clients| (clients < self.most).then_some(clients + 1);
        self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_ok()
    }

    /// Takes note that one that was counted has gone.
    pub fn leave(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// That one is counted. Dropping it takes note that it has gone.
pub(super) struct Counted(Arc<Headcount>);

impl Counted {
    /// Counts another one, if there is room for it.
    pub fn enter(headcount: &Arc<Headcount>) -> Option<Self> {
        headcount.enter().then(|| Self(Arc::clone(headcount)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn smoke() {
        let headcount = Arc::new(Headcount::new(2));
        let first = Counted::enter(&headcount);
        assert!(first.is_some() && headcount.enter() && !headcount.enter() && Counted::enter(&headcount).is_none());
        drop(first);
        assert_eq!((headcount.clients(), headcount.most()), (1, 2));
        headcount.leave();
        assert_eq!(headcount.clients(), 0);
    }

    #[test]
    fn there_are_never_more_whoever_lets_them_in() {
        let headcount = Arc::new(Headcount::new(1));
        let start = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    start.wait();
                    // For many time slices, so that they run beside each other, whoever else does.
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_millis(300) {
                        let Some(one) = Counted::enter(&headcount) else { continue };
                        // It stays for a while, in which the others try, and one too many shows.
                        thread::sleep(Duration::from_micros(100));
                        assert!(headcount.clients() <= 1);
                        drop(one);
                    }
                });
            }
        });
        assert_eq!(headcount.clients(), 0);
    }
}
