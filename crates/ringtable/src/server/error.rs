//! The errors of a server that does not start, worded for its user.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::address::AddressError;
use crate::disk;
use crate::folder::{FolderError, own_user};
use crate::shm::shortage;
use crate::table::WriteError;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of range.
    #[error("{option} is {value}; allowed are {least} to {most} {unit}")]
    Option {
        /// Which.
        option: &'static str,
        /// What was asked for.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
        /// Of what.
        unit: &'static str,
    },
    /// An option, and a keeper.
    #[error("{option} and a keeper do not go together: {why}")]
    Kept {
        /// Which option.
        option: &'static str,
        /// Why they do not.
        why: &'static str,
    },
    /// A size that has to be a power of two is none.
    #[error("{option} is {value} {unit}, which is no power of two; the next one is {}", .value.next_power_of_two())]
    NoPowerOfTwo {
        /// Which.
        option: &'static str,
        /// What was asked for.
        value: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The socket would have a mode that no socket of a server has.
    #[error(
        "--mode is {0:04o} (octal); allowed are 0600 for this user, 0660 for a group too, and 0666 for all users: who \
         may connect may read and write everything"
    )]
    Mode(u32),
    /// The socket cannot be given to a group.
    #[error("giving {} to group {group}: {error}: user {} has to be a member of it", .path.display(), own_user())]
    Group {
        /// The socket's path.
        path: PathBuf,
        /// The group.
        group: u32,
        /// What the system said.
        error: io::Error,
    },
    /// The address means nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address of a port can be reached from other machines.
    #[error(
        "{option} is {address}; allowed are addresses that only this machine reaches, 127.0.0.0/8 and [::1]: who can \
         connect may read and write everything, and there are no passwords"
    )]
    NotLoopback {
        /// Which option.
        option: &'static str,
        /// What was asked for.
        address: SocketAddr,
    },
    /// There is one already.
    #[error("a server is already running at {0}: choose another name, or stop that one")]
    Exists(PathBuf),
    /// What lies at the path of the socket, or of its lock, is no server's.
    #[error("{} is {what}, and is left alone: choose another path, or move it away", .path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What lies there.
        what: String,
    },
    /// The folder of the socket cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The buckets to begin with do not fit the memory.
    #[error("{buckets} buckets need {needed} bytes, more than the {max_memory} bytes of --max-memory leave room for")]
    NoRoom {
        /// Buckets asked for.
        buckets: u64,
        /// Bytes they need.
        needed: usize,
        /// Bytes there are.
        max_memory: u64,
    },
    /// The folder of the table, or what is in it.
    #[error(transparent)]
    Data(#[from] disk::Error),
    /// An option is about something that there is not.
    #[error("{option} needs {needed}")]
    Needs {
        /// Which.
        option: &'static str,
        /// What it needs, and the option for that.
        needed: &'static str,
    },
    /// Replies wait for the disk only where that is built.
    #[error("--fsync always does not go together with --udp, nor with a classic topology: their replies do not wait")]
    NotAlways,
    /// There is a log, and the server was not told to go on with it.
    #[error("{} has the log of a table: go on with it (--log), or choose another folder", .0.display())]
    Logged(PathBuf),
    /// A folder of Redis or Valkey, of which a server would load nothing.
    #[error(
        "{} is of Redis or Valkey, and there is nothing of ringtable's in that folder: load it into a server that runs \
         (`ringtable load FILE`), and choose another folder for this one",
        .0.display()
    )]
    Foreign(PathBuf),
    /// The table has no room for what it was to begin with.
    #[error(
        "{} does not fit the table: behind {loaded} entries, {error}; give it more room (--max-memory, \
         --max-unevictable), make it a cache, or move the file away",
        .path.display()
    )]
    Unloadable {
        /// The file.
        path: PathBuf,
        /// How many entries had room.
        loaded: u64,
        /// Why the next one had none.
        error: WriteError,
    },
    /// Somebody does not want it any more.
    #[error("interrupted while the table was being loaded: what is on the disk is as it was")]
    Interrupted,
    /// There is no room for another thread.
    #[error(
        "starting a thread: there is no room for another one ({0}); see `ulimit -u`, and the control group's limit"
    )]
    NoThread(io::Error),
    /// The system refuses something.
    #[error("{doing}: {}", shortage::in_words(.error))]
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: io::Error,
    },
}

impl Error {
    /// Whether the system has run out of something: another try may succeed later.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::NoThread(_) => true,
            Self::System { error, .. } | Self::Folder(FolderError::System { error, .. }) => {
                shortage::is_shortage(error)
            }
            _ => false,
        }
    }
}

/// Adds to an error of the system what was being done.
pub(super) fn doing<T>(what: impl Into<String>, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::System { doing: what.into(), error })
}
