//! The expiry code: the time at which an entry expires, in the five bits of its slot that there are for it.
//!
//! The code is the time in units of [`UNIT_MS`], modulo 31. It is ambiguous: of the entries that expire much later, one
//! in 31 is looked at in vain for each unit of time that a round of the sweep takes.

use super::entry::Expiry;

/// Unit of an expiry code, in milliseconds.
pub const UNIT_MS: u64 = 1_024;
const CODES: u64 = 31;

/// The code of an expiry: 1 to 31; 0 for none.
#[inline]
pub fn code(expiry: Option<Expiry>) -> u64 {
    expiry.map_or(0, |Expiry(at_ms)| 1 + at_ms / UNIT_MS % CODES)
}

/// Whether an entry with that code may have expired between two times.
#[inline]
pub fn may_be_due(code: u64, from_ms: u64, to_ms: u64) -> bool {
    let (from, to) = (from_ms / UNIT_MS, to_ms / UNIT_MS);
    code != 0 && (to - from.min(to) >= CODES - 1 || (code - 1 + CODES - from % CODES) % CODES <= to - from.min(to))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_due_is_never_passed_over() {
        for start in [0, 1_700_000_000_123_u64] {
            for length in [0, 1, 1_000, 5_000, 31_000, 40_000, 1_000_000] {
                for at in (start..start + length).step_by(997).chain([start, start + length]) {
                    assert!(may_be_due(code(Some(Expiry(at))), start, start + length), "{at} {start} {length}");
                }
            }
        }
        assert!(!may_be_due(code(None), 0, u64::MAX));
    }

    #[test]
    fn few_others_are_looked_at() {
        let (from, to) = (1_700_000_000_000, 1_700_000_001_000);
        let later = |n: u64| code(Some(Expiry(to + 2 * UNIT_MS + n * 977)));
        let vain = (0..10_000).filter(|&n| may_be_due(later(n), from, to)).count();
        assert!(vain < 1_000, "{vain} of 10,000");
    }
}
