//! The errors of a write that cannot be done.

use super::bucket::ENTRIES_MAX;
use crate::limits;

/// Why a write cannot be done. Everything is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The key is longer than [`limits::KEY_SIZE_MAX`].
    #[error("the key has {0} bytes, at most {max} are allowed", max = limits::KEY_SIZE_MAX)]
    KeyTooLong(usize),
    /// The value is longer than [`limits::VALUE_SIZE_MAX`].
    #[error("the value has {0} bytes, at most {max} are allowed", max = limits::VALUE_SIZE_MAX)]
    ValueTooLarge(usize),
    /// There is no memory left for an entry of so many bytes.
    #[error("no room for an entry of {0} bytes")]
    OutOfMemory(usize),
    /// The bucket that the key falls in is full: see [`super::chain_limit`].
    #[error("the key's bucket has {max} entries, and can have no more", max = ENTRIES_MAX)]
    BucketFull,
    /// The entry is never to be evicted, and all such would have more bytes than they may.
    #[error("the entries that are never evicted may have {0} bytes together, and would have more")]
    UnevictableFull(u64),
    /// The key is long, and the bucket that it falls in has as many bytes of long keys as it may have.
    #[error(
        "the long keys of the key's bucket, this one included, would have more than {max} bytes",
        max = limits::CHAIN_KEYS_SIZE_MAX
    )]
    BucketKeysFull,
}

/// Whether a key and a value are small enough.
pub(super) fn check_sizes(key: usize, value: usize) -> Result<(), WriteError> {
    if key > limits::KEY_SIZE_MAX {
        return Err(WriteError::KeyTooLong(key));
    }
    if value > limits::VALUE_SIZE_MAX { Err(WriteError::ValueTooLarge(value)) } else { Ok(()) }
}
