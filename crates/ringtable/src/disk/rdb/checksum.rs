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

    /// The checksum of all of them.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}
