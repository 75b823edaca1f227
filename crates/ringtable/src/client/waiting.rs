//! Waiting for the server's answer, as a call that blocks its thread does: in shared memory by spinning as long as that
//! may pay, then giving way, then asleep.
//!
//! The same for a lane and for the rings of a classic topology; `ring::wait` says when what pays.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::PollFlags;

use super::awaited::Awaited;
use super::error::Error;
use super::in_place::TableReader;
use super::patience::{Checks, Patience};
use super::readiness::await_readiness_for;
use crate::ring::lane;
use crate::ring::wait::{State, Yields};
use crate::shm::clock::{current_cpu, monotonic_ns};
use crate::sync::{AtomicU64, spin_loop};
use crate::table::layout::{H_WORKER_STATES, STRIDE};

/// Looks for news between two looks at clock and server.
const SPINS_PER_CLOCK: u32 = 32;

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

/// What a client knows of waiting for its server.
pub(super) struct Waiting {
    /// The workers any of which may serve us; none over a socket.
    workers: Vec<WorkerState>,
    spin_ns: u64,
    yields: Yields,
    /// What we last published of ourselves.
    published: u64,
    /// Waits that ended without sleep, since there was something new.
    news: u32,
    checks: Checks,
}

impl Waiting {
    /// For shared memory. The reader has to live as long as what is made here; `workers` are those that may serve us.
    pub fn for_workers(reader: &TableReader, workers: std::ops::Range<usize>) -> Self {
        let state = |worker| WorkerState(&raw const reader.words()[H_WORKER_STATES + worker * STRIDE]);
        Self { workers: workers.map(state).collect(), spin_ns: reader.constants().spin_ns, ..Self::for_socket() }
    }

    /// For a socket, where there is nothing to spin for.
    pub fn for_socket() -> Self {
        Self {
            workers: Vec::new(),
            spin_ns: 0,
            yields: Yields::default(),
            published: 0,
            news: 0,
            checks: Checks::default(),
        }
    }

    /// Waits until there is something new.
    #[inline]
    pub fn wait<A: Awaited>(&mut self, awaited: &A, patience: &mut Patience<'_>) -> Result<(), Error> {
        let has_news = match self.spin(awaited) {
            Spun::News => true,
            Spun::Pointless => self.yield_until_news(awaited),
            Spun::InVain => false,
        };
        if !has_news {
            return self.sleep(awaited, patience);
        }
        self.news = self.news.wrapping_add(1);
        // Whatever it is that goes on for ever: not without the server, the caller's patience and its signals.
        if self.news.is_multiple_of(A::NEWS_PER_CHECK) { Self::check(awaited, patience) } else { Ok(()) }
    }

    /// Looks for something new for as long as that is cheaper than to sleep. Returns whether there is.
    pub fn spins_until_news<A: Awaited>(&mut self, awaited: &A) -> bool {
        matches!(self.spin(awaited), Spun::News)
    }

    /// What the client has last said of itself.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Waits until a socket is ready, as `flags` say, or until `limit` has passed.
    pub fn wait_for_socket(
        &mut self,
        socket: impl AsFd,
        flags: PollFlags,
        limit: Option<Duration>,
        patience: &mut Patience<'_>,
    ) -> Result<(), Error> {
        await_readiness_for(socket, flags, limit, patience)?;
        // A signal may have come while we did not wait, and there may be news whenever we do.
        if self.checks.is_due() { patience.check_interrupted() } else { Ok(()) }
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

    #[inline]
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
    fn sleep(&mut self, awaited: &impl Awaited, patience: &mut Patience<'_>) -> Result<(), Error> {
        patience.start();
        let slice = patience.slice()?.min(awaited.nap().unwrap_or(Duration::MAX));
        let outcome =
            if awaited.arm(self.published) { awaited.alarm().listen(slice, || awaited.has_news()) } else { Ok(false) };
        failpoint!("wait.woken");
        awaited.disarm(self.published);
        let signalled = outcome?;
        // A signal may also have come while we were awake.
        let must_check = signalled || self.checks.is_due() || !awaited.has_news();
        if must_check { patience.check_interrupted() } else { Ok(()) }
    }

    /// Looks whether the caller's patience and the connection last, without waiting.
    #[cold]
    fn check(awaited: &impl Awaited, patience: &mut Patience<'_>) -> Result<(), Error> {
        patience.start();
        patience.slice()?;
        // A ring of the bell that is taken here is no loss: we look for news next.
        let listened = awaited.alarm().listen(Duration::ZERO, || false);
        // There is news, which may be the answer.
        listened.map_err(|error| error.of_part(true))?;
        patience.check_interrupted()
    }
}
