//! The checksum of the format: CRC-64 by the polynomial of Jones, as Redis has it.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of bytes that come piece by piece.
#[derive(Clone)]
pub struct Checksum(Digest);

impl Checksum {
    /// That of nothing.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Redis))
    }

    /// That of some bytes.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut sum = Self::new();
        sum.update(bytes);
        sum.value()
    }

    /// With these bytes behind those before.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// That of the last `size` bytes of some, with others in front of them: by that of all, by that of those before,
    /// and by that of the others.
    pub fn exchanged(all: u64, before: u64, others: u64, size: u64) -> Self {
        // A checksum is the sum of what its parts would give with zeroes behind them: nothing is added at the ends.
        let value = all ^ crc_fast::checksum_combine(CrcAlgorithm::Crc64Redis, before ^ others, 0, size);
        Self(Digest::new_with_init_state(CrcAlgorithm::Crc64Redis, value))
    }

    /// The checksum of all of them.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}
