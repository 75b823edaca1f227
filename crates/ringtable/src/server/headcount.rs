//! How many clients a server has, by whatever way they come, and that they are never more than `--max-clients`; and
//! since when it has none, for a server that ends by itself then (`--linger`).
//!
//! The accepting thread lets connections in, and a worker sessions over UDP, at the same time. So counting one and
//! asking whether there is room for it are one step. A connection in the reserved place does not count.
//!
//! The last client that leaves a server which is to linger notes the time, and rings the accepting thread, whose sleep
//! has no end as long as anybody is there. Once [`Headcount::close`] has succeeded, nobody is there, and nobody comes
//! any more: that, too, is one step.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::shm::clock::monotonic_ns;
use crate::shm::doorbell::Doorbell;
use crate::sync::Arc;

/// In place of the count, once nobody may come any more.
const CLOSED: usize = usize::MAX;

/// The count of a server's clients.
pub(super) struct Headcount {
    clients: AtomicUsize,
    most: usize,
    linger: Option<Linger>,
}

/// What a server knows that ends by itself.
struct Linger {
    /// For how long it goes on without clients.
    pause: Duration,
    /// When the last one left, or when it all began.
    left_ns: AtomicU64,
    /// Rings when nobody is there any more.
    bell: Doorbell,
}

impl Headcount {
    /// Nobody is there yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        Self { clients: AtomicUsize::new(0), most, linger: None }
    }

    /// The same for a server that ends when it has had no clients for so long.
    ///
    /// # Errors
    /// If the system gives no doorbell.
    pub fn lingering(self, pause: Option<Duration>) -> io::Result<Self> {
        let Some(pause) = pause else { return Ok(self) };
        let linger = Linger { pause, left_ns: AtomicU64::new(monotonic_ns()), bell: Doorbell::new()? };
        Ok(Self { linger: Some(linger), ..self })
    }

    /// The server has started: from now on it waits for its first client.
    pub fn begin(&self) {
        if let Some(linger) = &self.linger {
            linger.left_ns.fetch_max(monotonic_ns(), Ordering::Relaxed);
        }
    }

    /// What rings when nobody is there any more, if anybody wants to know.
    pub fn bell(&self) -> Option<&Doorbell> {
        self.linger.as_ref().map(|linger| &linger.bell)
    }

    /// How long the server still waits for clients; `None` if it waits for none, or has some.
    pub fn pause(&self) -> Option<Duration> {
        let Linger { pause, left_ns, .. } = self.linger.as_ref()?;
        // Acquire: pairs with the Release of the leaving that made it 0, whose time is seen then.
        if self.clients.load(Ordering::Acquire) != 0 {
            return None;
        }
        let silent_ns = monotonic_ns().saturating_sub(left_ns.load(Ordering::Relaxed));
        Some(pause.saturating_sub(Duration::from_nanos(silent_ns)))
    }

    /// Lets nobody in any more, if nobody is there. Returns whether that is so.
    pub fn close(&self) -> bool {
        self.clients.compare_exchange(0, CLOSED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether nobody may come any more.
    pub fn is_closed(&self) -> bool {
        self.clients() == CLOSED
    }

    /// How many clients there are, or are about to be.
    pub fn clients(&self) -> usize {
        // Relaxed, but for what lingering needs: it guards nothing but itself.
        self.clients.load(Ordering::Relaxed)
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// Counts another one, if there is room for it. Returns whether there was.
    pub fn enter(&self) -> bool {
        let another = |clients| (clients < self.most).then(|| clients + 1);
        self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_ok()
    }

    /// Takes note that one that was counted has gone.
    pub fn leave(&self) {
        let Some(Linger { left_ns, bell, .. }) = &self.linger else {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        left_ns.fetch_max(monotonic_ns(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `pause`.
        if self.clients.fetch_sub(1, Ordering::Release) == 1 {
            bell.ring();
        }
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
    fn whoever_comes_keeps_it_open_and_nobody_comes_after_the_end() {
        let headcount = Headcount::new(2).lingering(Some(Duration::from_secs(3_600))).unwrap();
        assert!(headcount.pause().is_some_and(|pause| !pause.is_zero()));
        assert!(headcount.enter() && headcount.enter());
        headcount.leave();
        assert_eq!(headcount.pause(), None);
        assert!(!headcount.close());
        headcount.leave();
        assert!(headcount.pause().is_some());
        assert!(headcount.close() && headcount.is_closed());
        assert!(!headcount.enter() && !headcount.close());
        assert_eq!(headcount.pause(), None);
        let endless = Headcount::new(2).lingering(None).unwrap();
        assert_eq!((endless.pause(), endless.bell().is_none()), (None, true));
    }

    #[test]
    fn the_pause_begins_with_the_last_leaving() {
        let headcount = Headcount::new(1).lingering(Some(Duration::from_secs(3_600))).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert!(headcount.enter());
        let began = Instant::now();
        headcount.leave();
        let passed = Duration::from_secs(3_600) - headcount.pause().unwrap();
        assert!(passed <= began.elapsed(), "it did not begin with the leaving");
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
