//! The cost of waking a sleeping thread on this machine: the longest time for which spinning can pay.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::signals::block_signals;

/// How many wake-ups are measured; the median counts.
const ROUNDS: usize = 25;
/// How long the sleeper is left asleep before each, so that its processor goes idle as it does in real life.
const REST: Duration = Duration::from_micros(60);
/// How long either side waits at a time.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often it waits before a round is given up.
const WAITS_MAX: usize = 25;

/// The median time in nanoseconds from ringing a doorbell to the sleeper's running again. Takes a few milliseconds.
///
/// # Errors
/// If doorbells or threads cannot be made.
pub fn measure_ns() -> io::Result<u64> {
    let (to_sleeper, to_us) = (Doorbell::new()?, Doorbell::new()?);
    let (sleeper, us) = (Listener::new(&to_sleeper)?, Listener::new(&to_us)?);
    let (woken_at, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut costs = std::thread::scope(|scope| -> io::Result<_> {
        let run = || {
            block_signals();
            // Relaxed: the last ring comes behind it.
            while !over.load(Ordering::Relaxed) {
                if sleeper.wait(PATIENCE).is_ok_and(|woken| woken.bell) {
                    // Release: pairs with the Acquire below.
                    woken_at.store(monotonic_ns(), Ordering::Release);
                    to_us.ring();
                }
            }
        };
        std::thread::Builder::new().name("ringtable-wake".into()).spawn_scoped(scope, run)?;
        let mut costs = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            std::thread::sleep(REST);
            let rung_at = monotonic_ns();
            to_sleeper.ring();
            // Until this ring is answered: on a machine that stands still for a while, patience ends on either side,
            // and an answer that came too late must not be taken for the next one.
            for _ in 0..WAITS_MAX {
                let _ = us.wait(PATIENCE);
                // Acquire: pairs with the Release above.
                if let Some(cost) = woken_at.load(Ordering::Acquire).checked_sub(rung_at) {
                    costs.push(cost);
                    break;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        to_sleeper.ring();
        Ok(costs)
    })?;
    costs.sort_unstable();
    let median = costs.get(costs.len() / 2).ok_or_else(|| io::Error::other("a thread does not wake up"))?;
    Ok(*median.min(&limits::SPIN_NS_MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_wake_up_costs_something_and_not_the_world() {
        let cost = super::measure_ns().unwrap();
        println!("a wake-up costs {cost} ns here");
        assert!((100..=crate::limits::SPIN_NS_MAX).contains(&cost));
    }
}
