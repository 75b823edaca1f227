//! Times to live, as commands are given them, and the moment at which they are over.

use super::refusal::Refusal;
use crate::shm::clock::wall_ms;
use crate::table::Expiry;

/// The expiry in `after` units of `unit_ms` from now; `None` if that is out of range. Never before 1970.
pub(super) fn expiry_in(after: i64, unit_ms: i64) -> Option<Expiry> {
    let at = after.checked_mul(unit_ms)?.checked_add(i64::try_from(wall_ms()).ok()?)?;
    Some(Expiry(at.max(0) as u64))
}

/// The expiry of something that is to live for `after` units of `unit_ms`, which has to be some time.
pub(super) fn time_to_live(after: i64, unit_ms: i64, command: &str) -> Result<Expiry, Refusal> {
    let at = (after > 0).then(|| expiry_in(after, unit_ms)).flatten();
    at.ok_or_else(|| Refusal::err(format_args!("invalid expire time in '{command}' command")))
}
