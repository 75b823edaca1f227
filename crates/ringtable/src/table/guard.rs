//! The guard of a write, the condition on which it is done, and its outcome.

/// When a [`super::writer::Writer::put`] is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Whatever is there.
    Always,
    /// If the key is absent (or its time has passed).
    Absent,
    /// If the key is there.
    Present,
    /// If the key is there and still has this version.
    Version(u64),
}

impl Guard {
    /// Whether it holds for a key that is there with such a version, or is absent.
    #[inline]
    pub fn allows(self, live: Option<u64>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => live.is_none(),
            Self::Present => live.is_some(),
            Self::Version(version) => live == Some(version),
        }
    }
}

/// What became of a [`super::writer::Writer::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the new entry has this version.
    Done {
        /// Never the same twice for a key.
        version: u64,
        /// Whether the key is new.
        inserted: bool,
    },
    /// The guard did not hold.
    Refused,
}
