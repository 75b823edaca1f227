//! The budget for waking a client: one that takes too much processor time is served no more.
//!
//! A ring or a send wakes all that wait on the file, before it returns, and a client may have hundreds of thousands of
//! `poll` entries on its end of the socket, or on what it was given to sleep on: then it takes a tenth of a second, and
//! no system call could be cut short. So a client that is expensive to wake, again and again, is served no more.
//!
//! Over UDP a client is nobody before it has a session, and may have as many sessions and addresses as it likes, with
//! the same waiters. So there is one more budget there, for all of them together ([`SharedWaking`]): once it is spent,
//! those without a session are not answered, and no session is made, until what was spent is a small part of the time.
//!
//! What counts is processor time. A call that takes long by the clock only makes suspicious, since the thread may have
//! lost its processor in the middle of it; the next one is measured by both. So a cheap one costs two looks at the
//! clock, 40 ns. (To read the processor time is a system call, 1.4 µs on a virtual machine.) With the shared budget,
//! all calls are measured by both for twenty times as long as the suspicious one took: so those of which nothing is
//! known, one for each suspicion, are a small part of the time, too.

use super::end::End;
use crate::limits;
use crate::shm::clock::{monotonic_ns, thread_cpu_ns};

/// What waking one client has cost.
#[derive(Default)]
pub(super) struct Waking {
    /// Whether the last call took long.
    is_suspect: bool,
    /// Processor time of the expensive calls. Cheap ones let it be forgotten.
    expensive_ns: u64,
}

impl Waking {
    /// Makes a call that may wake the client, and returns what came of it.
    ///
    /// # Errors
    /// If the client is too expensive; the call was made all the same.
    #[inline]
    pub fn measured<T>(&mut self, call: impl FnOnce() -> T) -> Result<T, End> {
        let cpu_ns = self.is_suspect.then(thread_cpu_ns);
        let began_ns = monotonic_ns();
        let result = call();
        if monotonic_ns() - began_ns < limits::WAKE_NS_MAX {
            self.is_suspect = false;
            self.forget();
            return Ok(result);
        }
        self.judge(cpu_ns)?;
        Ok(result)
    }

    /// Takes note of what a call has cost that was measured elsewhere: processor time if it was expensive, else 0.
    ///
    /// # Errors
    /// If the client is too expensive.
    pub fn note(&mut self, took_ns: u64) -> Result<(), End> {
        if took_ns == 0 {
            self.forget();
        }
        self.add(took_ns)
    }

    /// Takes note of a cheap call.
    #[inline]
    fn forget(&mut self) {
        self.expensive_ns -= self.expensive_ns.div_ceil(16);
    }

    fn add(&mut self, took_ns: u64) -> Result<(), End> {
        self.expensive_ns += took_ns;
        if self.expensive_ns > limits::WAKING_NS_MAX { Err(End::Expensive) } else { Ok(()) }
    }

    #[cold]
    fn judge(&mut self, cpu_ns: Option<u64>) -> Result<(), End> {
        self.is_suspect = true;
        self.add(expensive_since(cpu_ns))
    }
}

/// The processor time that a call has taken since `before`, if that was looked at, and if it is much; else 0.
fn expensive_since(before: Option<u64>) -> u64 {
    let took_ns = before.map_or(0, |before| thread_cpu_ns() - before);
    if took_ns < limits::WAKE_NS_MAX { 0 } else { took_ns }
}

/// What waking clients has cost that cannot be told apart.
#[derive(Default)]
pub(super) struct SharedWaking {
    /// Processor time of the expensive calls. The time that passes lets it be forgotten.
    expensive_ns: u64,
    looked_ns: u64,
    /// Until when calls are measured by both clocks.
    suspect_until_ns: u64,
}

impl SharedWaking {
    /// Makes a call that may wake one of them. Returns the processor time that it took if it is known to have been
    /// expensive, else 0.
    #[inline]
    pub fn measured(&mut self, call: impl FnOnce()) -> u64 {
        let began_ns = monotonic_ns();
        let cpu_ns = (began_ns < self.suspect_until_ns).then(thread_cpu_ns);
        call();
        let ended_ns = monotonic_ns();
        if ended_ns - began_ns < limits::WAKE_NS_MAX { 0 } else { self.judge(cpu_ns, began_ns, ended_ns) }
    }

    #[cold]
    fn judge(&mut self, cpu_ns: Option<u64>, began_ns: u64, ended_ns: u64) -> u64 {
        let suspect_until_ns = ended_ns + limits::SHARED_WAKING_SHARE * (ended_ns - began_ns);
        self.suspect_until_ns = self.suspect_until_ns.max(suspect_until_ns);
        let took_ns = expensive_since(cpu_ns);
        self.expensive_ns += took_ns;
        took_ns
    }

    /// Whether they have been so expensive that none of them is to be woken now.
    #[inline]
    pub fn is_spent(&mut self) -> bool {
        self.expensive_ns > 0 && self.is_spent_at(monotonic_ns())
    }

    fn is_spent_at(&mut self, now_ns: u64) -> bool {
        let passed_ns = now_ns.saturating_sub(self.looked_ns);
        self.looked_ns = now_ns;
        self.expensive_ns = self.expensive_ns.saturating_sub(passed_ns / limits::SHARED_WAKING_SHARE);
        self.expensive_ns > limits::WAKING_NS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn burn(duration_ns: u64) {
        let began = thread_cpu_ns();
        while thread_cpu_ns() - began < duration_ns {}
    }

    #[test]
    fn who_is_expensive_again_and_again_is_served_no_more() {
        let mut waking = Waking::default();
        let expensive = || burn(2 * limits::WAKE_NS_MAX);
        let calls = (0..1_000).take_while(|_| waking.measured(expensive).is_ok()).count() as u64;
        // But for the first one, which only made suspicious.
        assert!((2..=1 + limits::WAKING_NS_MAX / (2 * limits::WAKE_NS_MAX)).contains(&calls), "{calls} calls");
    }

    #[test]
    fn who_makes_us_wait_is_not_to_blame() {
        let mut waking = Waking::default();
        for _ in 0..30 {
            let slept = waking.measured(|| std::thread::sleep(Duration::from_nanos(4 * limits::WAKE_NS_MAX)));
            assert_eq!(slept, Ok(()));
        }
        assert_eq!(waking.expensive_ns, 0);
    }

    #[test]
    fn those_who_share_a_budget_have_a_small_part_of_the_time() {
        let mut shared = SharedWaking::default();
        assert!(!shared.is_spent());
        let cost_ns = 2 * limits::WAKE_NS_MAX;
        assert_eq!(shared.measured(|| burn(cost_ns)), 0, "the first one only makes suspicious");
        let calls =
            (0..1_000).take_while(|_| shared.measured(|| burn(cost_ns)) > 0 && !shared.is_spent()).count() as u64;
        let most = limits::WAKING_NS_MAX / cost_ns;
        // A twentieth more in the time that passes meanwhile.
        assert!((most / 2..=2 * most).contains(&calls), "{calls} calls");
        let (now_ns, spent_ns) = (monotonic_ns(), shared.expensive_ns - limits::WAKING_NS_MAX);
        assert!(shared.is_spent_at(now_ns));
        assert!(!shared.is_spent_at(now_ns + limits::SHARED_WAKING_SHARE * spent_ns));
        assert!(!shared.is_spent_at(now_ns + limits::SHARED_WAKING_SHARE * 2 * limits::WAKING_NS_MAX));
        assert_eq!(shared.expensive_ns, 0);
        for _ in 0..5 {
            let slept = shared.measured(|| std::thread::sleep(Duration::from_nanos(4 * limits::WAKE_NS_MAX)));
            assert_eq!((slept, shared.expensive_ns), (0, 0), "who makes us wait is not to blame");
        }
    }

    #[test]
    fn what_was_expensive_once_is_forgotten() {
        let mut waking = Waking { is_suspect: true, expensive_ns: limits::WAKING_NS_MAX };
        // Long enough for many of them to be cheap, however often this thread loses its processor.
        for _ in 0..10_000 {
            assert_eq!(waking.measured(|| ()), Ok(()));
        }
        assert_eq!(waking.expensive_ns, 0);
    }
}
