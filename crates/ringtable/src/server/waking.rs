//! The budget for waking a client: one that takes too much processor time is served no more.
//!
//! A ring or a send wakes all that wait on the file, before it returns, and a client may have hundreds of thousands of
//! `poll` entries on its end of the socket, or on what it was given to sleep on: then it takes a tenth of a second, and
//! no system call could be cut short. So a client that is expensive to wake, again and again, is served no more.
//!
//! What counts is processor time. A call that takes long by the clock only makes suspicious, since the thread may have
//! lost its processor in the middle of it; the next one is measured by both. So a cheap one costs two looks at the
//! clock, 40 ns.

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
            self.expensive_ns -= self.expensive_ns.div_ceil(16);
            return Ok(result);
        }
        self.judge(cpu_ns)?;
        Ok(result)
    }

    #[cold]
    fn judge(&mut self, cpu_ns: Option<u64>) -> Result<(), End> {
        self.is_suspect = true;
        let took_ns = cpu_ns.map_or(0, |before| thread_cpu_ns() - before);
        if took_ns >= limits::WAKE_NS_MAX {
            self.expensive_ns += took_ns;
        }
        if self.expensive_ns > limits::WAKING_NS_MAX { Err(End::Expensive) } else { Ok(()) }
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
    fn what_was_expensive_once_is_forgotten() {
        let mut waking = Waking { is_suspect: true, expensive_ns: limits::WAKING_NS_MAX };
        // Long enough for many of them to be cheap, however often this thread loses its processor.
        for _ in 0..10_000 {
            assert_eq!(waking.measured(|| ()), Ok(()));
        }
        assert_eq!(waking.expensive_ns, 0);
    }
}
