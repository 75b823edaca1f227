//! The cost of waking a sleeping thread on this machine: the longest time for which spinning can pay.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Pid;

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
    let (tell_id, id) = std::sync::mpsc::channel();
    let mut costs = std::thread::scope(|scope| -> io::Result<_> {
        let run = || {
            block_signals();
            let _ = tell_id.send(rustix::thread::gettid());
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
        let sleeper_id = id.recv().map_err(io::Error::other)?;
        let mut costs = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            keep_apart(sleeper_id);
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

/// Has a thread run anywhere but on our processor. In real life whoever rings goes on working there. The scheduler
/// likes to wake a thread where the one runs that rings, if that is where it was last: that costs a tenth, and is found
/// again and again then.
///
/// Returns which one that was; `None` if the system refuses it, or there is no other one. Then it is as the scheduler
/// likes.
fn keep_apart(sleeper: Pid) -> Option<usize> {
    let mut elsewhere = rustix::thread::sched_getaffinity(None).ok()?;
    let here = rustix::thread::sched_getcpu();
    elsewhere.unset(here);
    if elsewhere.count() == 0 {
        return None;
    }
    rustix::thread::sched_setaffinity(Some(sleeper), &elsewhere).ok().map(|()| here)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_sleeper_is_kept_from_the_processor_of_who_rings() {
        let (tell_id, id) = std::sync::mpsc::channel();
        let (is_over, over) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            tell_id.send(rustix::thread::gettid()).unwrap();
            over.recv().unwrap_err();
        });
        let id = id.recv().unwrap();
        let ours = rustix::thread::sched_getaffinity(None).unwrap();
        let kept = super::keep_apart(id);
        let theirs = rustix::thread::sched_getaffinity(Some(id)).unwrap();
        assert_eq!(kept.is_some(), ours.count() > 1, "unless there is no other processor");
        assert!(kept.is_none_or(|here| !theirs.is_set(here)));
        drop(is_over);
        sleeper.join().unwrap();
    }

    #[test]
    fn a_wake_up_costs_something_and_not_the_world() {
        let cost = super::measure_ns().unwrap();
        println!("a wake-up costs {cost} ns here");
        assert!((100..=crate::limits::SPIN_NS_MAX).contains(&cost));
    }
}
