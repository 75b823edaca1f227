//! Waiting for the server's answer in shared memory: spinning as long as that may pay, then giving way, then asleep.
//!
//! The same for a lane and for the rings of a classic topology; `ring::wait` says when what pays.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::Error;
use super::in_place::TableReader;
use super::life::last_words;
use super::patience::{Checks, Patience};
use crate::ring::lane;
use crate::ring::wait::{State, Yields};
use crate::shm::clock::{current_cpu, monotonic_ns};
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::fork::Descriptor;
use crate::sync::{AtomicU64, spin_loop};
use crate::table::layout::{H_WORKER_STATES, STRIDE};

/// Looks for news between two looks at clock and server.
const SPINS_PER_CLOCK: u32 = 32;
/// Waits that end at once, for something new, between two looks at the server, the caller's patience and its signals.
const NEWS_PER_CHECK: u32 = 4_096;

/// What is waited for, and how to say that we wait.
pub(super) trait Awaited {
    /// Whether there is anything new. A hint; who acts on it looks properly.
    fn has_news(&self) -> bool;

    /// Where we say whether we sleep, and on which processor we run.
    fn client_state(&self) -> &AtomicU64;

    /// Whether nobody looks at what we have published unless rung. To be called behind a fence.
    fn is_server_asleep(&self) -> bool;
}

/// Where a worker says whether to spin for it: a word of the table's mapping, which lives as long as the reader beside
/// the link in its connection.
struct WorkerState(*const AtomicU64);

#[allow(unsafe_code)]
// SAFETY: the word is an atomic in a mapping that outlives the link.
unsafe impl Send for WorkerState {}

impl WorkerState {
    #[inline]
    fn load(&self) -> State {
        #[allow(unsafe_code)]
        // SAFETY: see the type. Relaxed: a hint, see `ring::wait`.
        let word = unsafe { (*self.0).load(Ordering::Relaxed) };
        State::unpack(word)
    }
}

/// How spinning has ended.
enum Spun {
    /// There is something new.
    News,
    /// Not begun, or broken off: the worker needs our processor, or there is a crowd.
    Pointless,
    /// As long as it may pay.
    InVain,
}

/// What a client needs to wait for its server.
pub(super) struct Waiting {
    /// Silent as long as the server lives.
    socket: Descriptor,
    request_bell: Doorbell,
    listener: Listener,
    /// The workers any of which may serve us.
    workers: Vec<WorkerState>,
    spin_ns: u64,
    yields: Yields,
    /// What we last published of ourselves.
    published: u64,
    /// Waits that ended at once, since there was something new.
    news: u32,
    checks: Checks,
}

impl Waiting {
    /// The reader has to live as long as what is made here; `workers` are those that may serve us.
    pub fn new(
        socket: Descriptor,
        request_bell: Doorbell,
        listener: Listener,
        reader: &TableReader,
        workers: std::ops::Range<usize>,
    ) -> Self {
        let state = |worker| WorkerState(&raw const reader.words()[H_WORKER_STATES + worker * STRIDE]);
        Self {
            socket,
            request_bell,
            listener,
            workers: workers.map(state).collect(),
            spin_ns: reader.constants().spin_ns,
            yields: Yields::default(),
            published: 0,
            news: 0,
            checks: Checks::default(),
        }
    }

    /// Wakes a worker.
    #[inline]
    pub fn ring(&self) {
        self.request_bell.ring();
    }

    /// Waits until there is something new; for at most `limit`, if what is waited for rings no doorbell.
    pub fn wait(
        &mut self,
        awaited: &impl Awaited,
        limit: Option<Duration>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        match self.spin(awaited) {
            Spun::News => {
                self.news = self.news.wrapping_add(1);
                // Whatever it is that goes on for ever: not without the server, the caller's patience and its signals.
                if self.news.is_multiple_of(NEWS_PER_CHECK) { self.check(patience) } else { Ok(()) }
            }
            Spun::Pointless if self.yield_until_news(awaited) => Ok(()),
            Spun::Pointless | Spun::InVain => self.sleep(awaited, limit, patience),
        }
    }

    /// What the workers say of themselves: the one that it is best to spin for, if there are several.
    #[inline]
    fn workers(&self, cpu: u64) -> State {
        let mut best = self.workers[0].load();
        for worker in &self.workers[1..] {
            if !best.asleep && best.cpu != cpu {
                break;
            }
            let state = worker.load();
            if !state.asleep {
                best = state;
            }
        }
        best
    }

    fn spin(&mut self, awaited: &impl Awaited) -> Spun {
        let cpu = current_cpu();
        let state = State { asleep: false, crowded: false, cpu }.pack();
        if state != self.published {
            self.published = state;
            lane::announce_awake(awaited.client_state(), state);
        }
        let (mut started, mut limit_ns) = (None, self.spin_ns);
        loop {
            if awaited.has_news() {
                return Spun::News;
            }
            let worker = self.workers(cpu);
            if !worker.worth_spinning_after_ringing(cpu) {
                return Spun::Pointless;
            }
            if worker.asleep {
                limit_ns = 2 * self.spin_ns;
            }
            for _ in 0..SPINS_PER_CLOCK {
                if awaited.has_news() {
                    return Spun::News;
                }
                spin_loop();
            }
            let now = monotonic_ns();
            if now - *started.get_or_insert(now) >= limit_ns {
                return Spun::InVain;
            }
        }
    }

    /// Gives way to others, one of whom is the worker.
    fn yield_until_news(&mut self, awaited: &impl Awaited) -> bool {
        self.yields.until(self.spin_ns, monotonic_ns, || awaited.has_news())
    }

    #[cold]
    fn sleep(
        &mut self,
        awaited: &impl Awaited,
        limit: Option<Duration>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        patience.start();
        let slice = patience.slice()?.min(limit.unwrap_or(Duration::MAX));
        lane::announce_sleep(awaited.client_state(), self.published);
        failpoint!("wait.announced");
        let mut signalled = false;
        let outcome = if awaited.has_news() {
            Ok(())
        } else {
            // A server that waits for us to take replies (or for what we published) is rung before we sleep ourselves:
            // the fence in `announce_sleep` orders this look behind everything that we released.
            if awaited.is_server_asleep() {
                self.request_bell.ring();
            }
            match self.listener.wait(slice) {
                Ok(woken) if woken.socket && !awaited.has_news() => Err(last_words(&self.socket)),
                Ok(_) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                    signalled = true;
                    Ok(())
                }
                Err(error) => Err(Error::System { doing: "waiting for the server", error }),
            }
        };
        failpoint!("wait.woken");
        lane::announce_awake(awaited.client_state(), self.published);
        outcome?;
        // A signal may also have come while we were awake.
        let must_check = signalled || self.checks.is_due() || !awaited.has_news();
        if must_check { patience.check_interrupted() } else { Ok(()) }
    }

    /// Looks whether the caller's patience and the connection last, without waiting.
    #[cold]
    pub fn check(&self, patience: &mut Patience<'_>) -> Result<(), Error> {
        patience.start();
        patience.slice()?;
        // A ring of the bell that is taken here is no loss: we look for news next.
        if self.listener.wait(Duration::ZERO).is_ok_and(|woken| woken.socket) {
            return Err(last_words(&self.socket));
        }
        patience.check_interrupted()
    }

    /// Why the server has ended the connection.
    pub fn last_words(&self) -> Error {
        last_words(&self.socket)
    }
}
