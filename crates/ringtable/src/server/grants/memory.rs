//! The segment that grants lie in, and its header.
//!
//! # Design
//!
//! The header has what the layout depends on, so that nobody takes another layout for this one, and the counters that
//! go on above all that was given: of connections, and of the tokens of each section. The counters are used where they
//! lie, and there is no other copy of them.

use std::io;

use super::layout::{H_CONNECTIONS, H_LEASE_TOKENS, H_PERMIT_TOKENS, LAYOUT, SEGMENT_WORDS};
use crate::shm::clock::wall_ms;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, Ordering};

/// The segment, mapped.
pub struct GrantMemory(Mapping);

impl GrantMemory {
    /// A new segment, in which nothing is granted; and itself, for whoever comes after this server.
    ///
    /// # Errors
    /// If the system refuses memory or descriptors.
    pub fn create() -> io::Result<(Self, Segment)> {
        let segment = Segment::create("ringtable-grants", SEGMENT_WORDS * 8)?;
        let memory = Self::new(segment.map_writable()?);
        segment.seal(false)?;
        // Above all tokens of servers before, as long as each gives less than 2^18 of them in a millisecond.
        let first_token = first_token();
        memory.set(H_LEASE_TOKENS, first_token);
        memory.set(H_PERMIT_TOKENS, first_token);
        for (index, &value) in LAYOUT.iter().enumerate() {
            memory.set(index, value);
        }
        Ok((memory, segment))
    }

    pub(super) fn new(mapping: Mapping) -> Self {
        Self(mapping)
    }

    /// A number that no other connection has or had.
    pub fn new_connection(&self) -> u64 {
        // Relaxed: only that it is unique matters.
        self.0.words()[H_CONNECTIONS].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A word, as this process has written it, or as an Acquire has made it visible.
    pub fn get(&self, at: usize) -> u64 {
        // Relaxed: the lock around all grants orders its holders.
        self.0.words()[at].load(Ordering::Relaxed)
    }

    /// Stores a word that does not count before a seal does.
    pub fn set(&self, at: usize, value: u64) {
        // Relaxed: the seal is a Release.
        self.0.words()[at].store(value, Ordering::Relaxed);
    }

    /// Stores a seal, behind all that it covers.
    pub fn seal(&self, at: usize, seal: u64) {
        // Release, with the Acquire in `sealed`.
        self.0.words()[at].store(seal, Ordering::Release);
    }

    /// A seal, before all that it covers.
    pub fn sealed(&self, at: usize) -> u64 {
        // Acquire, with the Release in `seal`.
        self.0.words()[at].load(Ordering::Acquire)
    }

    /// Lets children that are forked from now on use it, too.
    #[cfg(test)]
    pub fn inherit(&self) -> io::Result<()> {
        self.0.inherit()
    }

    /// Its words.
    #[cfg(test)]
    pub fn words(&self) -> &[crate::sync::AtomicU64] {
        self.0.words()
    }

    /// The segment, for whoever comes next.
    #[cfg(test)]
    pub fn into_mapping(self) -> Mapping {
        self.0
    }
}

/// What tokens begin above.
pub fn first_token() -> u64 {
    wall_ms() << 18
}
