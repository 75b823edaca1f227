//! What all records have in common: whole words, a size that comes first, and what may be wrong with them.

/// The version of all records. Two sides that lay them out in other ways do not understand each other at all, and a
/// join is refused; commands that only one of them knows are no reason ([`crate::command::known`]).
pub const RECORD_VERSION: u64 = 1;

/// Bytes of the word that every record begins with.
pub const HEADER_SIZE: usize = 8;

/// A record that no honest peer sends. The connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The size is no multiple of 8, too small for what it should hold, or too large.
    #[error("a record claims {size} bytes (allowed: multiples of 8 from 8 to {max})")]
    Size {
        /// What it claims.
        size: usize,
        /// The largest that is allowed.
        max: usize,
    },
    /// The lengths of the arguments do not add up to the record's size.
    #[error("a record of {size} bytes claims arguments of {claimed} bytes")]
    Arguments {
        /// Size of the record.
        size: usize,
        /// What its arguments would need.
        claimed: usize,
    },
    /// There is no memory for the reply, which is none of the peer's doing.
    #[error("no memory for a reply")]
    NoMemory,
    /// A reply of a kind that there is not, or nested too deeply, or cut off.
    #[error("a reply that cannot be read: {0}")]
    Reply(&'static str),
}

/// The size that a record's first word claims, if it is one that can be.
pub fn record_size(word: u64, max: usize) -> Result<usize, RecordError> {
    let size = (word & 0xffff_ffff) as usize;
    if size < HEADER_SIZE || !size.is_multiple_of(8) || size > max {
        return Err(RecordError::Size { size, max });
    }
    Ok(size)
}
