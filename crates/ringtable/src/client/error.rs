//! The errors of a client's calls, worded for its user.

use std::io;
use std::time::Duration;

use crate::address::{AddressError, Location};
use crate::disk;
use crate::limits;
use crate::shm::shortage;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address means nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody listens there.
    #[error(
        "there is no table at {location} ({error}): start one with `ringtable server` (one that `ringtable.open` has \
         started ends some time after its last client), or check the name"
    )]
    NotFound {
        /// Where.
        location: Location,
        /// What the system said.
        error: io::Error,
    },
    /// The system does not let this user connect.
    #[error(
        "permission denied for {location}: {why}; run this as the server's user, or have the server opened to others \
         (`ringtable server --mode 0660 --group NAME`), in a folder that they may pass through"
    )]
    Denied {
        /// Where.
        location: Location,
        /// See [`crate::folder::denial`].
        why: String,
    },
    /// Shared memory is asked for where there can be none.
    #[error(
        "lanes, rings and watches need a unix socket, and {0} is none: connect by the server's name or the path of its \
         socket"
    )]
    NoSharedMemory(Location),
    /// What lasts as long as a connection is asked for where there is none.
    #[error(
        "{what} lasts as long as a connection, and over UDP there is none that the server could see end: connect by \
         the server's name, or over TCP"
    )]
    NoConnection {
        /// What was asked for.
        what: &'static str,
    },
    /// A request fits no datagram. Nothing was sent.
    #[error(
        "no datagram has room for '{command}' with a key of {first} bytes and a value (or other arguments) of {rest} \
         bytes: with its framing it has {size} bytes, at most {max} are allowed over UDP; connect by the server's \
         name, or over TCP",
        max = limits::UDP_DATAGRAM_SIZE_MAX
    )]
    NoDatagram {
        /// The name of the command.
        command: &'static str,
        /// Bytes of its first argument.
        first: usize,
        /// Bytes of the others.
        rest: usize,
        /// Bytes of the datagram, framing included.
        size: usize,
    },
    /// The server, or the folder of names, is that of a user who is not trusted. Nothing was sent.
    #[error("{0}")]
    Untrusted(String),
    /// The server is gone, or has ended this connection. What it was asked may have been done.
    #[error("the server is gone: {0}")]
    Gone(String),
    /// The server is gone, and nothing of the request was sent to it.
    #[error("the server is gone: {0}; nothing was sent to it")]
    Unsent(String),
    /// The server is gone, and there is no other one in its place.
    #[error("the server is gone: {0}")]
    Absent(String),
    /// The server is gone, with posted writes that it has not answered.
    #[error("the server is gone, and with it some of {0} posted writes, or all")]
    Lost(usize),
    /// A walk over the table of a server that is gone goes on at another one.
    #[error("the server is gone, and the walk over its table ends: the table of the one that has followed is another")]
    Lapsed,
    /// Nobody has come in time to where a server was waited for.
    #[error("{error}; waited {} seconds for one", .waited.as_secs_f64())]
    Awaiting {
        /// What was found at last.
        error: Box<Self>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The server has ended this connection for what came over it.
    #[error("the server has ended this connection: {0}")]
    Ended(String),
    /// The server has sent this client away, because it kept others waiting.
    #[error("the server has ended this connection: {0}")]
    Expelled(String),
    /// The call took longer than it was given.
    #[error("not done within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// Somebody else has had the lease of the key for longer.
    #[error(
        "the key was not written within {} s: another client has its lease, and computes its value still, or hangs",
        .0.as_secs_f64()
    )]
    Awaited(Duration),
    /// The server has not answered a party of a barrier, which may have come, or have left.
    #[error(
        "no answer within {} s from the server, which is stopped, or overloaded: this party may be counted, and the \
         others may have passed; the server lets it wait no more as soon as it goes on",
        .0.as_secs_f64()
    )]
    InDoubt(Duration),
    /// The caller's interruption check said so.
    #[error("interrupted")]
    Interrupted,
    /// The thread is inside of a call already.
    #[error(
        "this thread is in the middle of a call of the same table or watch: what runs meanwhile, as a signal handler \
         does, needs one of its own for this"
    )]
    Reentrant,
    /// The thread waits for the lease of a key that it has itself.
    #[error(
        "this very thread computes the value of {0} already, in a call that has not ended, and would wait for itself: \
         neither the function that computes it nor another task of the thread can ask for it"
    )]
    OwnLease(String),
    /// The interruption check has forked, and this is the child.
    #[error("this call was begun by the process that this one was forked from, and is that one's alone: call again")]
    Forked,
    /// The server is full.
    #[error("{0}: wait for others to leave, or start the server with a larger --max-clients")]
    TooManyClients(String),
    /// The server has as many clients over UDP as any may have.
    #[error(
        "the server has {0} clients over UDP, and none has more, whatever --max-clients says: wait for others to \
         leave, or connect to its socket"
    )]
    TooManySessions(u64),
    /// Client and server are of different versions.
    #[error("{0}")]
    Version(String),
    /// What came cannot be understood.
    #[error("the server sent what cannot be understood: {0}")]
    Protocol(String),
    /// The server refused; its words, beginning with a code word.
    #[error("{0}")]
    Refused(String),
    /// The key is too long.
    #[error("the key has {0} bytes, at most {max} are allowed", max = limits::KEY_SIZE_MAX)]
    KeyTooLong(usize),
    /// The value is too long.
    #[error("the value has {0} bytes, at most {max} are allowed", max = limits::VALUE_SIZE_MAX)]
    ValueTooLarge(usize),
    /// A command has too many arguments. Nothing was sent.
    #[error(
        "'{command}' has {count} arguments, at most {max} are allowed: send several, in a pipeline",
        max = limits::ARGUMENTS_MAX - 1
    )]
    TooManyArguments {
        /// Its name.
        command: String,
        /// How many.
        count: usize,
    },
    /// A command would begin or end a transaction. Nothing was sent.
    #[error("there are no transactions: nothing was sent")]
    NoTransactions,
    /// A command is too large. Nothing was sent.
    #[error(
        "'{command}' has {size} bytes in all, at most {max} are allowed: send several, in a pipeline",
        max = limits::REQUEST_SIZE_MAX
    )]
    TooLarge {
        /// Its name.
        command: String,
        /// Its bytes, framing included.
        size: usize,
    },
    /// There is no memory for a value of so many bytes here.
    #[error("no memory for a value of {0} bytes in this process")]
    NoRoom(usize),
    /// What the server has answered was dropped as it came, since there is no memory for it here.
    #[error(
        "this process has no memory for the server's reply of {0} bytes, which was dropped: the command itself was \
         executed, and what follows it is in order"
    )]
    ReplyDropped(usize),
    /// There are as many views as there may be.
    #[error(
        "this table has {max} views in this process, which is the most that one connection may have: close some, take \
         copies (copy_ok=True), or open the table once more",
        max = limits::PINS_MAX
    )]
    TooManyViews,
    /// The view was closed.
    #[error("this view was closed: make a new one")]
    ViewClosed,
    /// The view is that of the parent process.
    #[error(
        "this view belongs to the process that this one was forked from: buffers that were made there can be read \
         here, new ones need a view of this process"
    )]
    ViewInherited,
    /// The client was closed.
    #[error("this table was closed: connect again")]
    Closed,
    /// The watch was closed, or is that of the parent process.
    #[error("this watch was closed, or belongs to the process that this one was forked from: watch anew")]
    WatchClosed,
    /// The server has run out of what the system gives it; its words.
    #[error("{0}")]
    Short(String),
    /// A file could not be written or read.
    #[error(transparent)]
    File(#[from] disk::Error),
    /// The system refuses something.
    #[error("{doing}: {}", shortage::in_words(.error))]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl Error {
    /// Whether there is nothing more to say to the connection that the call was made over.
    pub fn ends_connection(&self) -> bool {
        self.is_gone() || matches!(self, Self::Closed | Self::Ended(_) | Self::Expelled(_))
    }

    /// Whether the server has gone, by what the call that met it says.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Unsent(_) | Self::Absent(_) | Self::Lost(_))
    }

    /// The same where a part of what was asked may have been done: then it is not to be asked again.
    pub(super) fn of_part(self, may_be_done: bool) -> Self {
        match self {
            Self::Unsent(words) if may_be_done => Self::Gone(words),
            error => error,
        }
    }

    /// Whether this process or the server has run out of what the system gives: another try may succeed later.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Short(_) => true,
            Self::System { error, .. } => shortage::is_shortage(error),
            _ => false,
        }
    }
}

/// What the system said while something was being done, as an error.
pub(super) fn system<T>(doing: &'static str, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::System { doing, error })
}
