//! Why a file could not be written, or read.

use std::io;
use std::path::{Path, PathBuf};

use super::rdb::DecodeError;
use crate::shm::shortage;

/// Why a file could not be written, or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refuses something.
    #[error("{doing} {}: {}", .path.display(), shortage::in_words(.error))]
    System {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is damaged, or none that can be read.
    #[error("{}: {error}; {} before it", .path.display(), whole_entries(*.whole))]
    Damaged {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        error: DecodeError,
        /// How many entries before that place are whole, as far as can be told.
        whole: u64,
    },
    /// Another server has the folder.
    #[error("another server has the folder {}: stop that one, or choose another folder", .0.display())]
    Taken(PathBuf),
    /// The file has something in it that a table cannot have.
    #[error("{}: it has {what}, which a table cannot have: nothing was loaded", .path.display())]
    Foreign {
        /// Its path.
        path: PathBuf,
        /// What that is, and how many there are.
        what: String,
    },
}

impl Error {
    /// What the system said while something was being done with a file.
    pub fn system<T>(doing: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Self> {
        result.map_err(|error| Self::System { doing, path: path.to_owned(), error })
    }

    /// That something damaged stands at a byte of a file.
    pub fn damaged(path: &Path, at: u64, what: &str) -> Self {
        Self::of_decoding(path, DecodeError::Damaged { at, what: what.to_owned() }, 0)
    }

    /// What a decoder has found, behind so many whole entries.
    #[cold]
    pub fn of_decoding(path: &Path, error: DecodeError, whole: u64) -> Self {
        match error {
            DecodeError::Io(error) => Self::System { doing: "reading", path: path.to_owned(), error },
            error => Self::Damaged { path: path.to_owned(), error, whole },
        }
    }
}

fn whole_entries(count: u64) -> String {
    match count {
        0 => "there are no whole entries".to_owned(),
        1 => "there is 1 whole entry".to_owned(),
        _ => format!("there are {count} whole entries"),
    }
}
