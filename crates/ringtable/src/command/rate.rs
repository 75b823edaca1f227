//! `RING.LIMIT`: one step of a rate limiter.
//!
//! # Design
//!
//! The state of a limiter is the value of a key: what the rate is, and how much of it is used. A step reads it, and
//! writes it by version, in a loop, as an increment does ([`super::counters`]); a step that is refused writes nothing.
//!
//! Times are those of the server's monotonic clock. The expiry of the entry, which is wall-clock time, is for its
//! memory alone: it lies behind the moment from which on the state says nothing. An entry that went before would let
//! too much through, so it is never evicted.
//!
//! - **Fixed**: at most `count` in the window of one period that the first call opens.
//! - **Sliding** is the generic cell rate algorithm: each call moves a *theoretical arrival time* on by
//!   `period / count` from where it is, or from now; a call that would move it more than a period ahead of now is
//!   refused. So in any span `t` at most `count + count * t / period` are let through. Times are kept multiplied by
//!   `count`, so that nothing is ever rounded.
//!
//! ```text
//! state    F or S | count: u64 | period in ns: u64 | used: u128, little-endian
//! used     of a fixed one, end of the window in ns << 64 | calls in it; of a sliding one, arrival time in ns * count
//! ```

use super::arguments::{Arguments, not_an_integer};
use super::atomic::positive;
use super::context::Context;
use super::lookup::find;
use super::refusal::{Refusal, shown};
use crate::limits;
use crate::shm::clock::{monotonic_ns, wall_ms};
use crate::table::{Expiry, Guard, Mark, Outcome};

const STATE_SIZE: usize = 33;

/// What is let through, and how that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    is_sliding: bool,
    count: u64,
    period_ns: u64,
}

/// What a step comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// What is used from now on; `None` if the call was refused.
    used: Option<u128>,
    /// How many more there may be now.
    remaining: u64,
    /// After how many nanoseconds as many could be let through again as were asked for; 0 if they were.
    retry_ns: u64,
    /// After how many nanoseconds the state says nothing any more.
    kept_ns: u64,
}

impl Rate {
    fn step(self, used: Option<u128>, cost: u64, now_ns: u64) -> Step {
        if self.is_sliding { self.slide(used, cost, now_ns) } else { self.fixed(used, cost, now_ns) }
    }

    fn fixed(self, used: Option<u128>, cost: u64, now_ns: u64) -> Step {
        let (end_ns, calls) = used.map_or((0, 0), |used| ((used >> 64) as u64, used as u64));
        // Nothing is used of a window that is over.
        let (end_ns, calls) = match end_ns > now_ns {
            true => (end_ns.min(now_ns + self.period_ns), calls.min(self.count)),
            false => (now_ns + self.period_ns, 0),
        };
        let (free, left_ns) = (self.count - calls, end_ns - now_ns);
        match free.checked_sub(cost) {
            Some(remaining) => {
                let used = Some(u128::from(end_ns) << 64 | u128::from(calls + cost));
                Step { used, remaining, retry_ns: 0, kept_ns: left_ns }
            }
            None => Step { used: None, remaining: free, retry_ns: left_ns, kept_ns: left_ns },
        }
    }

    fn slide(self, used: Option<u128>, cost: u64, now_ns: u64) -> Step {
        let (count, period) = (u128::from(self.count), u128::from(self.period_ns));
        // All of these are times multiplied by the count: below 2^64 * 2^32 each, by the limits of a rate.
        let (now, whole) = (u128::from(now_ns) * count, period * count);
        let arrival = used.map_or(now, |used| used.clamp(now, now + whole));
        let next = arrival + period * u128::from(cost);
        let nanoseconds = |scaled: u128| scaled.div_ceil(count) as u64;
        if next <= now + whole {
            let remaining = ((now + whole - next) / period) as u64;
            return Step { used: Some(next), remaining, retry_ns: 0, kept_ns: nanoseconds(next - now) };
        }
        let (remaining, retry_ns) = (((now + whole - arrival) / period) as u64, nanoseconds(next - now - whole));
        Step { used: None, remaining, retry_ns, kept_ns: nanoseconds(arrival - now) }
    }

    fn encode(self, used: u128) -> [u8; STATE_SIZE] {
        let mut state = [0; STATE_SIZE];
        state[0] = if self.is_sliding { b'S' } else { b'F' };
        state[1..9].copy_from_slice(&self.count.to_le_bytes());
        state[9..17].copy_from_slice(&self.period_ns.to_le_bytes());
        state[17..].copy_from_slice(&used.to_le_bytes());
        state
    }

    /// What is used, as a state says; `None` if that is no state of this rate's.
    fn decode(self, state: &[u8]) -> Option<u128> {
        let used: [u8; 16] = state.get(17..STATE_SIZE)?.try_into().ok()?;
        let used = u128::from_le_bytes(used);
        (self.encode(used)[..] == *state).then_some(used)
    }
}

/// `RING.LIMIT key count nanoseconds [FIXED | SLIDING] [cost]`: whether `cost` more calls are within the rate, how many
/// more would be, and after how many nanoseconds to ask again.
pub(super) fn ring_limit(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let key = arguments.get(0);
    let (count, period_ns) = (positive(arguments.get(1))?, positive(arguments.get(2))?);
    let mut rest = 3;
    let is_sliding = match (rest < arguments.len()).then(|| arguments.get(rest)) {
        Some(word) if word.eq_ignore_ascii_case(b"SLIDING") => Some(true),
        Some(word) if word.eq_ignore_ascii_case(b"FIXED") => Some(false),
        _ => None,
    };
    rest += usize::from(is_sliding.is_some());
    let cost = if rest < arguments.len() { positive(arguments.get(rest))? } else { 1 };
    if rest + 1 < arguments.len() {
        return Err(not_an_integer(arguments.get(rest)));
    }
    let (most, most_ns) = (limits::RATE_COUNT_MAX, limits::RATE_PERIOD_NS_MAX);
    if count > most || period_ns > most_ns {
        return Err(Refusal::err(format_args!(
            "a rate of {count} in {period_ns} ns; at most {most} in at most {most_ns} ns are allowed"
        )));
    }
    if cost > count {
        return Err(Refusal::err(format_args!("{cost} at once are never within a rate of {count} in {period_ns} ns")));
    }
    let rate = Rate { is_sliding: is_sliding.unwrap_or(false), count, period_ns };
    loop {
        let (used, guard) = match find(context, key, STATE_SIZE)? {
            Some(found) => {
                let state = if found.size == STATE_SIZE { context.scratch.bytes() } else { &[] };
                let used = rate.decode(state).ok_or_else(|| not_of(rate, key, found.size))?;
                (Some(used), Guard::Version(found.version))
            }
            None => (None, Guard::Absent),
        };
        let step = rate.step(used, cost, monotonic_ns());
        if let Some(used) = step.used {
            let expiry = Some(Expiry(wall_ms() + step.kept_ns.div_ceil(1_000_000) + limits::RATE_KEPT_MORE_MS));
            let state = rate.encode(used);
            let outcome = context.writer.put_marked(key, &state, expiry, guard, Mark::Unevictable, wall_ms)?;
            if outcome == Outcome::Refused {
                continue;
            }
        }
        context.reply.array(3);
        context.reply.integer(i64::from(step.used.is_some()));
        context.reply.integer(step.remaining as i64);
        context.reply.integer(step.retry_ns as i64);
        return Ok(());
    }
}

fn not_of(rate: Rate, key: &[u8], size: usize) -> Refusal {
    let Rate { count, period_ns, .. } = rate;
    Refusal::err(format_args!(
        "'{}' holds {size} bytes that are no state of a limiter of {count} in {period_ns} ns, in this way of counting: \
         another rate needs another key",
        shown(key)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(is_sliding: bool, count: u64, period_ns: u64) -> Rate {
        Rate { is_sliding, count, period_ns }
    }

    /// How many calls of those that come at these times are let through.
    fn let_through(rate: Rate, times: impl Iterator<Item = u64>) -> Vec<u64> {
        let (mut used, mut through) = (None, Vec::new());
        for now_ns in times {
            let step = rate.step(used, 1, now_ns);
            if step.used.is_some() {
                (used, through) = (step.used, [through, vec![now_ns]].concat());
            }
        }
        through
    }

    #[test]
    fn a_window_is_opened_by_the_first_call() {
        let rate = rate(false, 3, SECOND);
        let through = let_through(rate, (0..25).map(|tenth| 7 * SECOND + tenth * SECOND / 10));
        let expected = [0, 1, 2, 10, 11, 12, 20, 21, 22].map(|tenth| 7 * SECOND + tenth * SECOND / 10);
        assert_eq!(through, expected);
        let step = rate.step(Some(u128::from(8 * SECOND) << 64 | 3), 1, 7 * SECOND + 1);
        assert_eq!((step.used, step.remaining, step.retry_ns), (None, 0, SECOND - 1));
    }

    #[test]
    fn sliding_lets_all_through_at_once_and_then_one_at_a_time() {
        let rate = rate(true, 3, SECOND);
        let mut used = None;
        for remaining in [2, 1, 0] {
            let step = rate.step(used, 1, SECOND);
            assert_eq!((step.remaining, step.retry_ns), (remaining, 0));
            used = step.used;
        }
        // A third of a second is not a whole number of nanoseconds: rounded up, and exact there.
        let step = rate.step(used, 1, SECOND);
        assert_eq!((step.used, step.retry_ns), (None, 333_333_334));
        assert!(rate.step(used, 1, SECOND + 333_333_333).used.is_none());
        assert!(rate.step(used, 1, SECOND + 333_333_334).used.is_some());
        assert_eq!(rate.step(used, 2, SECOND).retry_ns, 666_666_667);
    }

    #[test]
    fn no_span_sees_more_than_is_promised() {
        for (count, period_ns) in [(1, 1), (3, 10), (7, 1_000), (10, 7), (1_000, SECOND)] {
            let mut times: Vec<_> =
                (0..4_000_u64).map(|index| 1_000 + index * index % 7 + index * period_ns / 50).collect();
            times.sort_unstable();
            for is_sliding in [false, true] {
                let through = let_through(rate(is_sliding, count, period_ns), times.iter().copied());
                assert!(!through.is_empty());
                for (first, begin) in through.iter().enumerate().step_by(17) {
                    for (last, end) in through.iter().enumerate().skip(first) {
                        let (calls, span) = ((last - first + 1) as u64, end - begin);
                        let most = match is_sliding {
                            true => count + count * span / period_ns,
                            false => count * (span / period_ns + 2),
                        };
                        assert!(calls <= most, "{calls} in {span} ns of {count} in {period_ns} ns, {is_sliding}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_rates_do_not_overflow() {
        for is_sliding in [false, true] {
            let rate = rate(is_sliding, limits::RATE_COUNT_MAX, limits::RATE_PERIOD_NS_MAX);
            for used in [None, Some(0), Some(u128::MAX)] {
                let step = rate.step(used, limits::RATE_COUNT_MAX, u64::MAX / 4);
                assert!(step.retry_ns <= limits::RATE_PERIOD_NS_MAX && step.kept_ns <= limits::RATE_PERIOD_NS_MAX);
            }
        }
    }

    #[test]
    fn a_state_is_one_rate_s() {
        let (one, used) = (rate(true, 3, SECOND), 12_345);
        assert_eq!(one.decode(&one.encode(used)), Some(used));
        for other in [rate(false, 3, SECOND), rate(true, 4, SECOND), rate(true, 3, SECOND + 1)] {
            assert_eq!(other.decode(&one.encode(used)), None);
        }
        assert_eq!((one.decode(b""), one.decode(&[b'S'; STATE_SIZE + 1])), (None, None));
    }
}
