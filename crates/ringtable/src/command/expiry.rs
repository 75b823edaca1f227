//! Times to live, as commands are given them, and the moment at which they are over.

use super::arguments::not_an_integer;
use super::integer::parse_integer;
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

/// An option that says until when something is there: a word, and then a number.
#[derive(Clone, Copy)]
pub(super) struct Until {
    unit_ms: i64,
    /// Whether the number is a time, since the beginning of 1970, or a span from now on.
    is_time: bool,
}

impl Until {
    /// `EX`, `PX`, `EXAT` or `PXAT`.
    pub fn of_word(word: &[u8]) -> Option<Self> {
        const WORDS: [(&[u8], Until); 4] = [
            (b"EX", Until { unit_ms: 1_000, is_time: false }),
            (b"PX", Until { unit_ms: 1, is_time: false }),
            (b"EXAT", Until { unit_ms: 1_000, is_time: true }),
            (b"PXAT", Until { unit_ms: 1, is_time: true }),
        ];
        WORDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|&(_, until)| until)
    }

    /// The expiry, which may lie in the past if it is a time.
    ///
    /// # Errors
    /// In Redis' words, and then the limit, if the number is none, not above 0, or too far away.
    pub fn expiry(self, digits: &[u8], command: &str) -> Result<Expiry, Refusal> {
        let number = parse_integer(digits).ok_or_else(|| not_an_integer(digits))?;
        if !self.is_time {
            return time_to_live(number, self.unit_ms, command);
        }
        let at_ms = number.checked_mul(self.unit_ms).and_then(|at_ms| u64::try_from(at_ms).ok());
        let most_ms = wall_ms().saturating_add(AFTER_MS_MAX as u64);
        at_ms.filter(|at_ms| (1..=most_ms).contains(at_ms)).map(Expiry).ok_or_else(|| invalid(command))
    }
}

fn invalid(command: &str) -> Refusal {
    Refusal::err(format_args!(
        "invalid expire time in '{command}' command: allowed are seconds above 0 and up to {}",
        limits::TTL_MAX_S
    ))
}
