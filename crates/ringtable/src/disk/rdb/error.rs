//! Why a file could not be read.

use std::io;

/// Why a file could not be read. Places are bytes from its beginning, from 0 on.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is damaged, or is no such file.
    #[error("at byte {at} there is {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is there, in words that follow "there is".
        what: String,
    },
    /// It has something in it of which nobody here knows how long it is.
    #[error("at byte {at} there is {what}, which only the program that wrote the file can read")]
    Unknown {
        /// Where.
        at: u64,
        /// What is there.
        what: String,
    },
    /// A value needs more memory than there is.
    #[error("at byte {at} there is a string of {size} bytes, for which there is no memory")]
    OutOfMemory {
        /// Where.
        at: u64,
        /// How many bytes it has.
        size: usize,
    },
    /// The system could not read it.
    #[error(transparent)]
    Io(#[from] io::Error),
}
