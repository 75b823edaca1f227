//! One grant as a record: sixteen words, two cache lines.
//!
//! The seal covers all other words but the name, whose checksum it covers, and that
//! end of the two which does not count.

use super::layout::{SEAL_END, SEAL_SET};
use super::names::{Name, checksum};

/// A grant, without the bytes of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub connection: u64,
    pub token: u64,
    pub ticket: u64,
    /// How many permits the name has; 1 if it is a lease, or a lock.
    pub permits: u32,
    /// When it is over, by the monotonic clock.
    pub ends_ns: Option<u64>,
    pub name: Name,
}

impl Record {
    pub(super) fn shape(&self) -> u64 {
        u64::from(self.name.size) | u64::from(self.permits) << 32
    }

    /// The word that tells the end, 0 for none.
    pub(super) fn end(&self) -> u64 {
        self.ends_ns.unwrap_or(0)
    }

    /// The seal if the end stands in that one of its two words.
    pub(super) fn seal(&self, end: u64) -> u64 {
        let words = [
            self.shape(),
            self.connection,
            self.token,
            self.ticket,
            self.end(),
            self.name.checksum,
            u64::from(self.name.first),
            end,
        ];
        checksum(words.map(u64::to_ne_bytes).as_flattened()) & !SEAL_END | SEAL_SET | end
    }
}
