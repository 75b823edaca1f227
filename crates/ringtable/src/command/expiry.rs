//! Times to live, as commands are given them, and the moment at which they are over.

use super::refusal::Refusal;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::Expiry;

/// The longest time to live, in milliseconds.
const AFTER_MS_MAX: i64 = limits::TTL_MAX_S as i64 * 1_000;

/// The expiry in `after` units of `unit_ms` from now, which may lie in the past, but not before 1970.
///
/// # Errors
/// In Redis' words, and then the limit, if it is too far away.
pub(super) fn expiry_in(after: i64, unit_ms: i64, command: &str) -> Result<Expiry, Refusal> {
    let after_ms = after.checked_mul(unit_ms).filter(|&after_ms| after_ms <= AFTER_MS_MAX);
    let at_ms = after_ms.and_then(|after_ms| after_ms.checked_add(i64::try_from(wall_ms()).ok()?));
    at_ms.map(|at_ms| Expiry(at_ms.max(0) as u64)).ok_or_else(|| invalid(command))
}

/// The expiry of something that is to live for `after` units of `unit_ms`, which has to be some time.
pub(super) fn time_to_live(after: i64, unit_ms: i64, command: &str) -> Result<Expiry, Refusal> {
    if after > 0 { expiry_in(after, unit_ms, command) } else { Err(invalid(command)) }
}

fn invalid(command: &str) -> Refusal {
    Refusal::err(format_args!(
        "invalid expire time in '{command}' command: allowed are seconds above 0 and up to {}",
        limits::TTL_MAX_S
    ))
}
