//! Whether to spin or to sleep: each side publishes `{asleep, crowded, cpu}`, and the other decides by it.
//!
//! # Design
//!
//! Spinning pays only if the other side is awake on another processor: then an answer comes within a microsecond. If it
//! is on ours, or asleep, spinning only keeps it from running. And if more clients and workers want to run than there
//! are processors, every spinner takes a processor from somebody with work to do. In all those cases one gives way, or
//! parks.
//!
//! A client that has just rung a sleeping worker is the exception: the worker is on its way, most likely on a processor
//! that was idle, and a client that slept too would have to be woken in its turn; then each would find the other asleep
//! for ever after (we measured 50 us a round trip instead of 2). So it spins for as long as both wake-ups would take.
//!
//! Even when it pays, one spins for no longer than a wake-up costs on this machine, which is measured at start (3 to 5
//! us on bare metal, 17 to 35 us on some small virtual machines): so one never spends more than twice what the best
//! choice would have cost (the ski-rental argument: A. Karlin et al., "Competitive randomized algorithms for
//! non-uniform problems", SODA 1990).
//!
//! A worker that has been getting requests faster than it could be woken for each spins somewhat longer ([`Pauses`]):
//! when such requests come at random times, the next one is as near as ever however long one has waited, and the bound
//! above would send the worker to sleep in every tenth pause.
//!
//! Parking is expensive: the next message costs a wake-up, and often an interrupt to another processor. So before
//! parking one gives way ([`Yields`]) a few times: whoever is awaited is likely among those who run meanwhile, and
//! finds nobody to wake; and a side that stays runnable is moved to another processor by the kernel if there is room on
//! one, which a sleeper is not. That holds as long as the others give way in their turn. Next to somebody who computes,
//! a yield takes a whole time slice; one such yield, and yielding is left alone for a while.
//!
//! # Not promised
//!
//! Processors change hands at any time: what is published is a hint, and a wrong one costs microseconds only.

/// What a side publishes about itself, packed in one word.
///
/// Bit 0: asleep, ring me. Bit 1: more runnable parties than processors, as far as the server can tell (only servers
/// publish it). From bit 8: the processor it last ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// It sleeps, or is about to.
    pub asleep: bool,
    /// Nobody should spin.
    pub crowded: bool,
    /// The processor it last ran on.
    pub cpu: u64,
}

impl State {
    /// As a word.
    #[inline]
    pub fn pack(self) -> u64 {
        u64::from(self.asleep) | u64::from(self.crowded) << 1 | self.cpu << 8
    }

    /// From a word. Every word is valid.
    #[inline]
    pub fn unpack(word: u64) -> Self {
        Self { asleep: word & 1 != 0, crowded: word & 2 != 0, cpu: word >> 8 }
    }

    /// Whether it pays for one who runs on `our_cpu` to spin for something from the one that published this.
    #[inline]
    pub fn worth_spinning(self, our_cpu: u64) -> bool {
        !self.asleep && !self.crowded && self.cpu != our_cpu
    }

    /// The same for one who has just rung the other side if it was asleep.
    #[inline]
    pub fn worth_spinning_after_ringing(self, our_cpu: u64) -> bool {
        !self.crowded && (self.asleep || self.cpu != our_cpu)
    }
}

/// How long a worker has been waiting for requests lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses {
    /// Moving average in nanoseconds.
    mean_ns: u64,
}

impl Pauses {
    /// By how much a worker in demand spins longer. Four times the cost of a wake-up covers all but one in fifty of
    /// pauses as long as that on average, and nearly all shorter ones; it is also the most that is lost when the
    /// requests end.
    const IN_DEMAND: u64 = 4;

    /// Takes a pause into account.
    #[inline]
    pub fn record(&mut self, pause_ns: u64) {
        // One long pause should not outweigh all short ones around it, hence the limit.
        self.mean_ns = (7 * self.mean_ns + pause_ns.min(1_000_000)) / 8;
    }

    /// For how long to spin, if a wake-up costs `wake_ns`.
    #[inline]
    pub fn spin_limit_ns(&self, wake_ns: u64) -> u64 {
        if self.mean_ns < wake_ns { Self::IN_DEMAND * wake_ns } else { wake_ns }
    }
}

/// Waiting by giving way to others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Yields {
    /// Waits for which yielding is left alone.
    skip: u32,
}

impl Yields {
    /// Fewest yields before giving up: one lets the others of our processor run, the next sees what came of it.
    const COUNT_MIN: u32 = 3;
    /// A yield that takes longer than this was taken by somebody who computes, in nanoseconds.
    const COSTLY_NS: u64 = 1_000_000;
    /// Waits for which yielding is left alone after that: a time slice costs about as much as parking so many times.
    const SKIP: u32 = 100;

    /// Yields once, unless that was costly a short while ago.
    pub fn once(&mut self, clock: impl Fn() -> u64) {
        if self.is_left_alone() {
            return;
        }
        let started = clock();
        crate::sync::yield_now();
        if clock() - started > Self::COSTLY_NS {
            self.skip = Self::SKIP;
        }
    }

    /// Yields until there is news, for at least `limit_ns` nanoseconds of `clock`. Returns whether there is.
    pub fn until(&mut self, limit_ns: u64, clock: impl Fn() -> u64, news: impl Fn() -> bool) -> bool {
        if self.is_left_alone() {
            return false;
        }
        let started = clock();
        let (mut last, mut count) = (started, 0);
        loop {
            crate::sync::yield_now();
            if news() {
                return true;
            }
            let now = clock();
            if now - last > Self::COSTLY_NS {
                self.skip = Self::SKIP;
                return false;
            }
            last = now;
            count += 1;
            if count >= Self::COUNT_MIN && now - started >= limit_ns {
                return false;
            }
        }
    }

    /// Whether yielding was costly a short while ago. Counts a wait.
    fn is_left_alone(&mut self) -> bool {
        let left_alone = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        left_alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spins_only_for_who_is_awake_elsewhere_with_room_for_both() {
        let awake = State { asleep: false, crowded: false, cpu: 3 };
        assert_eq!(State::unpack(awake.pack()), awake);
        assert!(awake.worth_spinning(0));
        assert!(!awake.worth_spinning(3));
        assert!(!State { asleep: true, ..awake }.worth_spinning(0));
        assert!(State { asleep: true, cpu: 0, ..awake }.worth_spinning_after_ringing(0));
        assert!(!State { asleep: true, crowded: true, ..awake }.worth_spinning_after_ringing(0));
        assert!(!State { crowded: true, ..awake }.worth_spinning(0));
    }

    #[test]
    fn a_worker_in_demand_spins_longer_and_a_forgotten_one_does_not() {
        let mut pauses = Pauses::default();
        for _ in 0..50 {
            pauses.record(9_000);
        }
        assert_eq!(pauses.spin_limit_ns(20_000), 80_000);
        for _ in 0..50 {
            pauses.record(500_000);
        }
        assert_eq!(pauses.spin_limit_ns(20_000), 20_000);
    }

    #[test]
    fn yielding_ends_by_news_by_time_and_by_cost() {
        let time = std::cell::Cell::new(0);
        let clock = |step: u64| {
            let time = &time;
            move || {
                time.set(time.get() + step);
                time.get()
            }
        };
        assert!(Yields::default().until(100, clock(10), || time.get() > 50));
        assert!(!Yields::default().until(100, clock(10), || false));
        let mut yields = Yields::default();
        assert!(!yields.until(u64::MAX, clock(Yields::COSTLY_NS + 1), || false));
        let before = time.get();
        assert!(!yields.until(100, clock(10), || false));
        yields.once(clock(10));
        assert_eq!(time.get(), before, "left alone after a costly one");
        let mut yields = Yields::default();
        yields.once(clock(10));
        yields.once(clock(Yields::COSTLY_NS + 1));
        let before = time.get();
        yields.once(clock(10));
        assert_eq!(time.get(), before, "left alone after a costly one");
    }
}
