//! A client: connects by name, path or URL; reads in place; asks the server for everything else.
//!
//! - [`Client`]: what can be asked, as methods; threads may share one,
//! - [`connection`]: one connection: the reader, the link, and whether the server lives,
//! - [`cell`]: the connection of the moment: renewed in a forked child, and after the server's death if wanted,
//! - [`link`]: requests out, replies in, in order, over any transport: [`lane`], [`rings`] or [`socket`],
//! - [`waiting`]: how long to spin for an answer in shared memory, and when to sleep,
//! - [`gate`]: the lock before the link, whose waiting can be interrupted,
//! - [`atomic`]: changing what others change too, by version, within bounds, by lease,
//! - [`held`]: which leases this thread has, so that it does not wait for itself,
//! - [`watch`]: the table's changes, over a connection of its own,
//! - [`view`]: values in place, which stay there as long as they are looked at,
//! - [`classic`]: the classic client's loop.
//!
//! # Invariants
//!
//! - **I6** No call hangs: every wait ends by its event, by the server's death, by the [`Patience`] of the caller.
//! - Both rings may be full and nothing deadlocks: who waits for room takes replies in the meantime.
//! - A call that was given up leaves the link in order: replies still owed to it are dropped when they come.
//! - In a forked child a client makes a connection of its own at its first use.
//! - What a call has sent is never sent again over another connection, and its answer comes over one.
//!
//! # Consistency
//!
//! An acknowledged write is visible to every process when the call returns. A posted write is visible to the client
//! that made it (a read of its key waits for it), and to others soon; its errors surface at the client's next call.

pub mod atomic;
mod cell;
pub mod classic;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate;
mod held;
mod lane;
mod link;
mod rings;
mod socket;
mod view;
mod waiting;
pub mod watch;

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, Instant};

use crate::address::{self, AddressError, Location};
use crate::command::reply::Reply;
use crate::command::{self, arguments::parse_integer};
use crate::folder::Trust;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::shm::fork;
use crate::shm::shortage;
use crate::table::reader::{Buffer, Found, Sink};
use crate::table::{Lookup, Mark, Pairs, Want};
use cell::Cell;
use connection::{Connection, TableReader};
use link::Link;
pub use view::View;

/// Where reads go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// To the table itself, in place. Over a plain socket, to the server all the same.
    #[default]
    Direct,
    /// To the server, as requests.
    Server,
}

/// When a write returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// When every process sees it.
    #[default]
    Acknowledged,
    /// When it is on its way.
    Posted,
}

/// How to talk to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over shared memory, if the server has any for its clients (a lane, or rings), else over the socket, as over TCP.
    #[default]
    Auto,
    /// Over a lane, or not at all.
    Lane,
    /// Over the rings of a classic topology, or not at all.
    Rings,
    /// Over the socket.
    Socket,
}

/// What a client is made with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where reads go.
    pub reads: Reads,
    /// How to talk to the server.
    pub transport: Transport,
    /// Whether the calls that follow one that has ended with [`Error::Gone`] or [`Error::Expelled`] connect anew, to
    /// whichever server listens there then. Else they end in the same way.
    pub reconnect: bool,
    /// Whose servers it connects to, at unix sockets; TCP ports tell nobody whose they are.
    pub trust: Trust,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address means nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody listens there.
    #[error("there is no table at {location} ({error}): start one with `ringtable server`, or check the name")]
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
    /// The server, or the folder of names, is that of a user who is not trusted. Nothing was sent.
    #[error("{0}")]
    Untrusted(String),
    /// The server is gone, or has ended this connection.
    #[error("the server is gone: {0}")]
    Gone(String),
    /// The server has sent this client away, because it kept others waiting.
    #[error("the server has ended this connection: {0}")]
    Expelled(String),
    /// The call took longer than it was given.
    #[error("no answer within {} s; a write may still be done", .0.as_secs_f64())]
    Timeout(Duration),
    /// Somebody else has had the lease of the key for longer.
    #[error(
        "the key was not written within {} s: another client has its lease, and computes its value still, or hangs",
        .0.as_secs_f64()
    )]
    Awaited(Duration),
    /// The caller's interruption check said so.
    #[error("interrupted; a write may still be done")]
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
    /// Whether this process or the server has run out of what the system gives: another try may succeed later.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Short(_) => true,
            Self::System { error, .. } => shortage::is_shortage(error),
            _ => false,
        }
    }
}

/// How long a call may wait, and what may interrupt it.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    interrupted: &'a (dyn Fn() -> bool + Sync),
    generation: u64,
}

impl<'a> Patience<'a> {
    /// Patience for `timeout` (for ever, if `None`); `interrupted` is asked after every signal, and at least ten times
    /// a second while waiting. Once it has said yes, it has to say so for the rest of the call: an interrupt ends all
    /// of it, also where one wait follows another.
    pub fn new(timeout: Option<Duration>, interrupted: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { timeout, deadline: None, interrupted, generation: fork::generation() }
    }

    /// Patience without end.
    pub fn endless() -> Patience<'static> {
        Patience::new(None, &|| false)
    }

    /// Begins the time that the call has. Clocks are looked at only by calls that wait.
    fn start(&mut self) {
        if self.deadline.is_none()
            && let Some(timeout) = self.timeout
        {
            self.deadline = Instant::now().checked_add(timeout);
        }
    }

    /// How long to sleep at most before looking at the patience again.
    fn slice(&self) -> Result<Duration, Error> {
        let slice = Duration::from_millis(limits::SIGNAL_CHECK_MS);
        match (self.deadline, self.timeout) {
            (Some(deadline), Some(timeout)) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() { Err(Error::Timeout(timeout)) } else { Ok(slice.min(left)) }
            }
            _ => Ok(slice),
        }
    }

    /// Asks whether the caller was interrupted.
    ///
    /// What asks may run a signal handler, and that may fork. In the child nothing of the call is left but its stack:
    /// after an error of this no memory that was shared with the server may be touched, nor a descriptor.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if so; [`Error::Forked`] in the child of a fork.
    pub fn check_interrupted(&self) -> Result<(), Error> {
        if (self.interrupted)() {
            Err(Error::Interrupted)
        } else if self.is_inherited() {
            Err(Error::Forked)
        } else {
            Ok(())
        }
    }

    /// Looks, in the middle of work that waits for nobody, whether the call may go on.
    fn check(&mut self) -> Result<(), Error> {
        self.start();
        self.slice()?;
        self.check_interrupted()
    }

    /// Whether the call was begun by the process that this one was forked from.
    fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }
}

/// When a `set` is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    #[default]
    Always,
    /// If the key is absent.
    Absent,
    /// If the key is there.
    Present,
}

/// How long an entry stays: what a write says of it besides key, value and condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// Milliseconds after which it is gone; `None` for never.
    pub ttl_ms: Option<u64>,
    /// Whether it may be evicted before.
    pub mark: Mark,
}

impl Stay {
    /// Adds the words that say so, as `SET` has them. `digits` is a place for its number.
    fn push_words<'a>(&self, words: &mut Vec<&'a [u8]>, digits: &'a mut String) {
        if let Some(ttl_ms) = self.ttl_ms {
            *digits = ttl_ms.to_string();
            words.extend([&b"PX"[..], digits.as_bytes()]);
        }
        words.extend(self.mark.word().map(str::as_bytes));
    }
}

/// The numbers of the commands that methods use.
struct Numbers {
    get: u16,
    set: u16,
    del: u16,
    incrby: u16,
    pexpire: u16,
    pttl: u16,
    dbsize: u16,
    flushall: u16,
    scan: u16,
    ring_bucket: u16,
    ring_pins: u16,
}

static NUMBERS: std::sync::LazyLock<Numbers> = std::sync::LazyLock::new(|| Numbers {
    get: command::number("GET"),
    set: command::number("SET"),
    del: command::number("DEL"),
    incrby: command::number("INCRBY"),
    pexpire: command::number("PEXPIRE"),
    pttl: command::number("PTTL"),
    dbsize: command::number("DBSIZE"),
    flushall: command::number("FLUSHALL"),
    scan: command::number("SCAN"),
    ring_bucket: command::number("RING.BUCKET"),
    ring_pins: command::number("RING.PINS"),
});

/// Does now what the first call would do otherwise. A child that is forked while another thread is at it would wait for
/// that thread, which it does not have.
pub fn prepare() {
    fork::install();
    std::sync::LazyLock::force(&command::FINGERPRINT);
    std::sync::LazyLock::force(&NUMBERS);
    atomic::prepare();
}

/// A connection to a server, for any number of threads.
pub struct Client {
    location: Location,
    options: Options,
    connection: Cell,
}

impl Client {
    /// Connects to the server of a table: a name, a path, a `unix://` or a `tcp://` URL.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody listens; [`Error::Version`] if the server is of another version; others.
    pub fn connect(address: impl AsRef<OsStr>, options: &Options, patience: Patience<'_>) -> Result<Self, Error> {
        let location = address::location(address)?;
        let connection = Connection::open(&location, options, patience)?;
        Ok(Self { location, options: options.clone(), connection: Cell::new(connection) })
    }

    /// Where the server listens.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// How it talks to the server; never [`Transport::Auto`].
    pub fn transport(&self) -> Transport {
        self.connection.peek().transport
    }

    /// Whether it can read the table in place.
    pub fn reads_in_place(&self) -> bool {
        self.connection.peek().reader.is_some()
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Closes the connection. Posted writes that are in the lane are executed all the same.
    pub fn close(&self, patience: Patience<'_>) {
        self.connection.close(patience);
    }

    /// The connection of this process: made anew in a forked child, and after the server's death if wanted.
    #[inline]
    fn connection(&self, patience: Patience<'_>) -> Result<&Connection, Error> {
        self.connection.get(patience, |patience| self.connect_again(patience))
    }

    fn connect_again(&self, patience: Patience<'_>) -> Result<Connection, Error> {
        Connection::open(&self.location, &self.options, patience).map_err(|error| match error {
            // It was there, and may be there again.
            Error::NotFound { location, error } if self.options.reconnect => {
                Error::Gone(format!("there is none at {location} now ({error}), and the next call looks again"))
            }
            error => error,
        })
    }

    /// The reader, if reads are direct, the server lives, and no posted write of ours to a key with that hash is on
    /// its way.
    #[inline]
    fn direct(&self, keys: Keys<'_>, patience: Patience<'_>) -> Result<Option<&TableReader>, Error> {
        self.direct_on(self.connection(patience)?, keys, patience)
    }

    /// The same over this connection.
    #[inline]
    fn direct_on<'a>(
        &self,
        connection: &'a Connection,
        keys: Keys<'_>,
        patience: Patience<'_>,
    ) -> Result<Option<&'a TableReader>, Error> {
        let Some(reader) = connection.reader.as_ref().filter(|_| self.options.reads == Reads::Direct) else {
            return Ok(None);
        };
        connection.check_alive(reader)?;
        self.settle(connection, keys, patience)?;
        Ok(Some(reader))
    }

    /// Waits until no posted write of ours to these keys is on its way.
    #[inline]
    fn settle(&self, connection: &Connection, keys: Keys<'_>, patience: Patience<'_>) -> Result<(), Error> {
        if connection.posted() == 0 {
            return Ok(());
        }
        connection.locked(patience, |link, patience| {
            let hash = match (keys, &connection.reader) {
                (Keys::One(key), Some(reader)) => Some(reader.hash(key)),
                _ => None,
            };
            link.settle(hash, patience)
        })
    }

    /// The reader, if a read can be done now, without waiting for anybody.
    #[inline]
    fn try_direct(&self) -> Result<Option<&TableReader>, Error> {
        let connection = self.connection.peek();
        if self.options.reads != Reads::Direct || !connection.is_current() || connection.posted() > 0 {
            return Ok(None);
        }
        let Some(reader) = &connection.reader else { return Ok(None) };
        connection.check_alive(reader)?;
        Ok(Some(reader))
    }

    /// Looks up a key without waiting; `None` if that is not possible: then use [`Self::get`].
    ///
    /// # Errors
    /// As [`Self::get`].
    #[inline]
    pub fn try_get(&self, key: &[u8], sink: &mut impl Sink) -> Result<Option<bool>, Error> {
        Ok(self.try_find(key, sink)?.map(|found| found.is_some()))
    }

    /// The same with what belongs to the value; outer `None` if that is not possible.
    ///
    /// # Errors
    /// As [`Self::get`].
    #[inline]
    pub fn try_find(&self, key: &[u8], sink: &mut impl Sink) -> Result<Option<Option<Found>>, Error> {
        check_key(key)?;
        let Some(reader) = self.try_direct()? else { return Ok(None) };
        in_place(reader.get(key, wall_ms, sink))
    }

    /// Looks up a key in place; outer `None` if the server has to be asked.
    #[inline]
    fn find_in_place(
        &self,
        key: &[u8],
        sink: &mut impl Sink,
        patience: Patience<'_>,
    ) -> Result<Option<Option<Found>>, Error> {
        check_key(key)?;
        let Some(reader) = self.direct(Keys::One(key), patience)? else { return Ok(None) };
        in_place(reader.get(key, wall_ms, sink))
    }

    /// Looks up a key; its value goes to `sink`. Returns whether there is such a key.
    ///
    /// # Errors
    /// Those of the connection; [`Error::NoRoom`].
    #[inline]
    pub fn get(&self, key: &[u8], sink: &mut impl Sink, patience: Patience<'_>) -> Result<bool, Error> {
        match self.find_in_place(key, sink, patience)? {
            Some(found) => Ok(found.is_some()),
            None => get_from_server(self.connection(patience)?, key, sink, patience),
        }
    }

    /// The same for a value of a size that nobody knows yet, as bytes of its own.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_owned(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.find_owned(key, patience)?.map(|(value, _)| value))
    }

    /// The same with the value's version, if it was read in place.
    fn find_owned(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Versioned>, Error> {
        let mut value = Buffer::default();
        if let Some(found) = self.find_in_place(key, &mut value, patience)? {
            return Ok(found.map(|found| (value.take(), Some(found.version))));
        }
        Ok(self.ask_for(key, patience)?.map(|value| (value, None)))
    }

    /// Takes back what [`Self::get_owned`] gave, to be used for the next large value.
    pub fn give_back(&self, value: Vec<u8>) {
        if value.len() > limits::LANE_RING_SIZE {
            self.connection.peek().sharing.give_buffer(value);
        }
    }

    fn ask_for(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Vec<u8>>, Error> {
        ask_for(self.connection(patience)?, key, patience)
    }

    /// Looks up many keys without waiting; `false` if that is not possible: then use [`Self::get_many`].
    ///
    /// # Errors
    /// As [`Self::get_many`].
    pub fn try_get_many<S: Sink>(
        &self,
        keys: &[&[u8]],
        sink: &mut S,
        each: impl FnMut(usize, bool, &mut S),
        patience: Patience<'_>,
    ) -> Result<bool, Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let Some(reader) = self.try_direct()? else { return Ok(false) };
        // A bucket that stays contended is rare; an answer that is worth waiting for is not ours to wait for.
        match overlapped(reader, keys, sink, |_, _| Err(Error::NoRoom(0)), each, patience) {
            Err(Error::NoRoom(0)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Looks up many keys, overlapping their cache misses (or their requests). `each` is told, in order, whether key
    /// number `index` was found and, if so, finds its value in the sink.
    ///
    /// # Errors
    /// As [`Self::get`]; then `each` has been called for some keys only.
    pub fn get_many<S: Sink>(
        &self,
        keys: &[&[u8]],
        sink: &mut S,
        mut each: impl FnMut(usize, bool, &mut S),
        patience: Patience<'_>,
    ) -> Result<(), Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        // All values come from one server, also if it dies meanwhile and another one follows.
        let connection = self.connection(patience)?;
        if let Some(reader) = self.direct_on(connection, Keys::Many, patience)? {
            let ask = |key: &[u8], sink: &mut S| get_from_server(connection, key, sink, patience);
            return overlapped(reader, keys, sink, ask, each, patience);
        }
        let request = |link: &mut Link, index: usize, patience: &mut Patience<'_>| {
            link.push(NUMBERS.get, &[keys[index]], patience)
        };
        self.pipeline(keys.len(), request, patience, |index, reply| match reply {
            Reply::Nil => {
                each(index, false, sink);
                Ok(())
            }
            Reply::Bulk(value) => {
                fill(sink, &value)?;
                each(index, true, sink);
                Ok(())
            }
            other => Err(unexpected(other)),
        })
    }

    /// Writes a key. `ttl_ms` is its time to live. Returns whether it was done: with [`Writes::Posted`], always `true`.
    ///
    /// # Errors
    /// Key or value too long, no memory, those of the connection.
    #[inline]
    pub fn set(
        &self,
        key: &[u8],
        value: &[u8],
        stay: Stay,
        condition: Condition,
        writes: Writes,
        patience: Patience<'_>,
    ) -> Result<bool, Error> {
        check_key(key)?;
        check_value(value)?;
        let digits;
        let mut arguments: [&[u8]; 6] = [key, value, b"", b"", b"", b""];
        let mut count = 2;
        if let Some(ttl_ms) = stay.ttl_ms {
            digits = ttl_ms.to_string();
            arguments[count] = b"PX";
            arguments[count + 1] = digits.as_bytes();
            count += 2;
        }
        if let Some(word) = stay.mark.word() {
            arguments[count] = word.as_bytes();
            count += 1;
        }
        if condition != Condition::Always {
            arguments[count] = if condition == Condition::Absent { b"NX" } else { b"XX" };
            count += 1;
        }
        if writes == Writes::Posted {
            self.post(NUMBERS.set, &arguments[..count], patience)?;
            return Ok(true);
        }
        match self.request(NUMBERS.set, &arguments[..count], patience)? {
            Reply::Status(_) => Ok(true),
            Reply::Nil => Ok(false),
            other => Err(unexpected(other)),
        }
    }

    /// Writes many keys, pipelined.
    ///
    /// # Errors
    /// As [`Self::set`]: the first one met; other keys may have been written.
    pub fn set_many(&self, items: &[(&[u8], &[u8])], ttl_ms: Option<u64>, patience: Patience<'_>) -> Result<(), Error> {
        items.iter().try_for_each(|(key, value)| check_key(key).and(check_value(value)))?;
        let digits = ttl_ms.map(|ttl_ms| ttl_ms.to_string());
        let request = |link: &mut Link, index: usize, patience: &mut Patience<'_>| {
            let (key, value) = items[index];
            match &digits {
                None => link.push(NUMBERS.set, &[key, value], patience),
                Some(digits) => link.push(NUMBERS.set, &[key, value, b"PX", digits.as_bytes()], patience),
            }
        };
        self.pipeline(items.len(), request, patience, |_, reply| match reply {
            Reply::Status(_) => Ok(()),
            other => Err(unexpected(other)),
        })
    }

    /// Deletes keys, pipelined. Returns how many there were; with [`Writes::Posted`], how many were asked for.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn delete(&self, keys: &[&[u8]], writes: Writes, patience: Patience<'_>) -> Result<u64, Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        if writes == Writes::Posted {
            for key in keys {
                self.post(NUMBERS.del, &[key], patience)?;
            }
            return Ok(keys.len() as u64);
        }
        let mut deleted = 0;
        let request = |link: &mut Link, index: usize, patience: &mut Patience<'_>| {
            link.push(NUMBERS.del, &[keys[index]], patience)
        };
        self.pipeline(keys.len(), request, patience, |_, reply| {
            deleted += integer(reply)? as u64;
            Ok(())
        })?;
        Ok(deleted)
    }

    /// Adds to the integer that a key holds (0 if there is none). Returns the sum.
    ///
    /// # Errors
    /// [`Error::Refused`] if it holds no integer, or the sum would be out of range.
    pub fn increment(&self, key: &[u8], by: i64, patience: Patience<'_>) -> Result<i64, Error> {
        check_key(key)?;
        integer(self.request(NUMBERS.incrby, &[key, by.to_string().as_bytes()], patience)?)
    }

    /// Gives a key a new time to live. Returns whether there is such a key.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn expire(&self, key: &[u8], ttl_ms: i64, patience: Patience<'_>) -> Result<bool, Error> {
        check_key(key)?;
        Ok(integer(self.request(NUMBERS.pexpire, &[key, ttl_ms.to_string().as_bytes()], patience)?)? == 1)
    }

    /// Milliseconds left to a key: outer `None` if there is none, inner `None` if it does not expire.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn ttl_ms(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Option<u64>>, Error> {
        check_key(key)?;
        Ok(match integer(self.request(NUMBERS.pttl, &[key], patience)?)? {
            -2 => None,
            -1 => Some(None),
            left => Some(Some(left.max(0) as u64)),
        })
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn contains(&self, key: &[u8], patience: Patience<'_>) -> Result<bool, Error> {
        self.get(key, &mut crate::table::reader::Presence, patience)
    }

    /// How many entries there are, expired ones that were not removed yet included.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn entries(&self, patience: Patience<'_>) -> Result<u64, Error> {
        match self.direct(Keys::Many, patience)? {
            Some(reader) => Ok(reader.entries()),
            None => Ok(integer(self.request(NUMBERS.dbsize, &[], patience)?)? as u64),
        }
    }

    /// All entries of the bucket that a key falls in, into `out`.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn read_bucket(&self, key: &[u8], out: &mut Pairs, patience: Patience<'_>) -> Result<(), Error> {
        check_key(key)?;
        out.clear();
        if let Some(reader) = self.direct(Keys::Many, patience)?
            && reader.read_bucket(key, Want::Values, wall_ms, out).is_ok()
        {
            return Ok(());
        }
        bucket(self.request(NUMBERS.ring_bucket, &[key], patience)?, out)
    }

    /// One step of a walk over all keys, from cursor 0 until it is 0 again. A key that is there all the while comes
    /// exactly once. In place a step waits for nobody, and ends after [`limits::WALK_STEPS_MAX`] buckets
    /// though it has found no key: among many empty buckets the caller has its say, too.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn scan(&self, cursor: u64, patience: Patience<'_>) -> Result<(u64, Vec<Vec<u8>>), Error> {
        const COUNT: usize = 500;
        if let Some(reader) = self.direct(Keys::Many, patience)? {
            let (mut pairs, mut next, mut steps) = (Pairs::default(), cursor, 0);
            while let Ok(following) = reader.scan(next, Want::Keys, wall_ms, &mut pairs) {
                (next, steps) = (following, steps + 1);
                if next == 0 || pairs.len() >= COUNT || steps >= limits::WALK_STEPS_MAX {
                    break;
                }
            }
            // A bucket too contended to read in place is left to the server, at the next step or right now.
            if steps > 0 {
                return Ok((next, pairs.iter().map(|pair| pair.key.to_vec()).collect()));
            }
        }
        let arguments: [&[u8]; 3] = [&cursor.to_string().into_bytes(), b"COUNT", &COUNT.to_string().into_bytes()];
        let Reply::Array(parts) = self.request(NUMBERS.scan, &arguments, patience)? else {
            return Err(Error::Protocol("a scan that is no array".into()));
        };
        let mut parts = parts.into_iter();
        let (Some(Reply::Bulk(next)), Some(Reply::Array(keys))) = (parts.next(), parts.next()) else {
            return Err(Error::Protocol("a scan without cursor and keys".into()));
        };
        let next = std::str::from_utf8(&next).ok().and_then(|text| text.parse().ok());
        let next = next.ok_or_else(|| Error::Protocol("a cursor that is no number".into()))?;
        keys.into_iter().map(bytes).collect::<Result<_, _>>().map(|keys| (next, keys))
    }

    /// Deletes everything.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn clear(&self, patience: Patience<'_>) -> Result<(), Error> {
        match self.request(NUMBERS.flushall, &[], patience)? {
            Reply::Status(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Waits until all posted writes are done.
    ///
    /// # Errors
    /// That of the first posted write that failed; those of the connection.
    pub fn flush(&self, patience: Patience<'_>) -> Result<(), Error> {
        self.connection(patience)?.locked(patience, |link, patience| link.settle(None, patience))
    }

    /// Asks anything: the command's name, then its arguments.
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's words; those of the connection.
    pub fn call(&self, words: &[&[u8]], patience: Patience<'_>) -> Result<Reply, Error> {
        let mut replies = self.call_many(&[words], patience)?;
        match replies.pop() {
            Some(reply @ (Reply::Error(_) | Reply::Dropped(_))) => Err(unexpected(reply)),
            Some(reply) => Ok(reply),
            None => Err(Error::Protocol("no reply".into())),
        }
    }

    /// Asks many things, pipelined. Refusals are among the replies, and so are [`Reply::Dropped`] ones.
    ///
    /// # Errors
    /// Those of [`check_command`], before anything is sent; those of the connection.
    pub fn call_many(&self, commands: &[&[&[u8]]], patience: Patience<'_>) -> Result<Vec<Reply>, Error> {
        commands.iter().try_for_each(|words| check_command(words))?;
        // Names are looked up first: a name that is no command's is refused here, in the server's words.
        let numbers: Vec<Result<u16, Reply>> = commands
            .iter()
            .map(|words| {
                let name = words.first().copied().unwrap_or_default();
                command::find(name).ok_or_else(|| Reply::Error(command::unknown(name).0))
            })
            .collect();
        let known: Vec<usize> = (0..commands.len()).filter(|&index| numbers[index].is_ok()).collect();
        let mut replies: Vec<Reply> = numbers.iter().map(|number| number.clone().err().unwrap_or(Reply::Nil)).collect();
        let request = |link: &mut Link, index: usize, patience: &mut Patience<'_>| match numbers[known[index]] {
            Ok(number) => link.push(number, &commands[known[index]][1..], patience),
            Err(_) => Ok(()),
        };
        self.pipeline(known.len(), request, patience, |index, reply| {
            match reply {
                // Not a refusal of this one.
                Reply::Error(message) if message.starts_with("SHUTDOWN ") => return Err(refusal(message)),
                reply => replies[known[index]] = reply,
            }
            Ok(())
        })?;
        Ok(replies)
    }

    /// One request and its reply.
    #[inline]
    fn request(&self, number: u16, arguments: &[&[u8]], patience: Patience<'_>) -> Result<Reply, Error> {
        self.connection(patience)?.request(number, arguments, patience)
    }

    /// `count` requests, and `each` of their replies in order.
    fn pipeline(
        &self,
        count: usize,
        request: impl Fn(&mut Link, usize, &mut Patience<'_>) -> Result<(), Error>,
        patience: Patience<'_>,
        mut each: impl FnMut(usize, Reply) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.connection(patience)?.locked(patience, |link, patience| {
            link.exchange(count, &request, patience)?;
            // All replies are taken, also behind one that is an error: the first error is what is reported.
            let mut outcome = Ok(());
            for index in 0..count {
                let reply = link.receive(patience)?;
                if outcome.is_ok() {
                    outcome = each(index, reply);
                }
            }
            outcome
        })
    }

    /// Sends a write without waiting for its reply.
    fn post(&self, number: u16, arguments: &[&[u8]], patience: Patience<'_>) -> Result<(), Error> {
        let connection = self.connection(patience)?;
        let mut hash = 0;
        if let Some(reader) = &connection.reader {
            // Nothing else would tell: who does not wait for an answer does not miss it either.
            connection.check_alive(reader)?;
            hash = reader.hash(arguments[0]);
        }
        connection.locked(patience, |link, patience| link.post(number, arguments, hash, patience))
    }
}

fn ask_for(connection: &Connection, key: &[u8], patience: Patience<'_>) -> Result<Option<Vec<u8>>, Error> {
    match connection.request(NUMBERS.get, &[key], patience)? {
        Reply::Nil => Ok(None),
        Reply::Bulk(value) => Ok(Some(value)),
        other => Err(unexpected(other)),
    }
}

fn get_from_server(
    connection: &Connection,
    key: &[u8],
    sink: &mut impl Sink,
    patience: Patience<'_>,
) -> Result<bool, Error> {
    let value = ask_for(connection, key, patience)?;
    value.as_deref().map_or(Ok(()), |value| fill(sink, value))?;
    Ok(value.is_some())
}

/// What a lookup in place says; outer `None` if the server has to be asked.
#[inline]
fn in_place(lookup: Lookup) -> Result<Option<Option<Found>>, Error> {
    match lookup {
        Lookup::Hit(found) => Ok(Some(Some(found))),
        Lookup::Miss | Lookup::Expired => Ok(Some(None)),
        Lookup::NoRoom(size) => Err(Error::NoRoom(size)),
        Lookup::Contended => Ok(None),
    }
}

/// Looks up many keys in place, with their cache misses overlapping.
fn overlapped<S: Sink>(
    reader: &TableReader,
    keys: &[&[u8]],
    sink: &mut S,
    contended: impl Fn(&[u8], &mut S) -> Result<bool, Error>,
    mut each: impl FnMut(usize, bool, &mut S),
    mut patience: Patience<'_>,
) -> Result<(), Error> {
    /// Lookups under way at a time: about as many cache misses as a core keeps in flight.
    const OVERLAP: usize = 16;
    /// Groups of so many between two looks at the patience: some milliseconds.
    const GROUPS_PER_CHECK: usize = 1_024;
    let mut hashes = [0; OVERLAP];
    for (group, keys) in keys.chunks(OVERLAP).enumerate() {
        if (group + 1).is_multiple_of(GROUPS_PER_CHECK) {
            patience.check()?;
        }
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = reader.hash(key);
            reader.prefetch_bucket(*hash);
        }
        hashes[..keys.len()].iter().for_each(|&hash| reader.prefetch_entry(hash));
        for (place, (&hash, key)) in hashes.iter().zip(keys).enumerate() {
            let hit = match reader.get_hashed(hash, key, wall_ms, sink) {
                Lookup::Hit(_) => true,
                Lookup::Miss | Lookup::Expired => false,
                Lookup::NoRoom(size) => return Err(Error::NoRoom(size)),
                Lookup::Contended => contended(key, sink)?,
            };
            each(group * OVERLAP + place, hit, sink);
        }
    }
    Ok(())
}

/// The words of the request that asks for a lane.
pub fn lane_request() -> [String; 3] {
    let (version, fingerprint) = (crate::ring::lane::LANE_VERSION, *command::FINGERPRINT);
    ["RING.LANE".into(), version.to_string(), format!("{fingerprint:016x}")]
}

/// The words of the request that asks to join the rings of a classic topology.
pub fn rings_request() -> [String; 3] {
    let (version, fingerprint) = (crate::ring::exchange::EXCHANGE_VERSION, *command::FINGERPRINT);
    ["RING.RINGS".into(), version.to_string(), format!("{fingerprint:016x}")]
}

/// A value, and its version if that is known.
type Versioned = (Vec<u8>, Option<u64>);

/// Whose posted writes a read has to wait for.
enum Keys<'a> {
    One(&'a [u8]),
    Many,
}

/// Refuses a key that is too long.
///
/// # Errors
/// [`Error::KeyTooLong`].
#[inline]
pub fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.len() > limits::KEY_SIZE_MAX { Err(Error::KeyTooLong(key.len())) } else { Ok(()) }
}

/// Refuses a value that is too large.
///
/// # Errors
/// [`Error::ValueTooLarge`].
#[inline]
pub fn check_value(value: &[u8]) -> Result<(), Error> {
    if value.len() > limits::VALUE_SIZE_MAX { Err(Error::ValueTooLarge(value.len())) } else { Ok(()) }
}

/// Refuses a command that no server would read, whatever it is: a connection would end by it, and with it all others
/// that were sent over it.
///
/// # Errors
/// [`Error::TooManyArguments`], [`Error::TooLarge`]; [`Error::NoTransactions`] for what begins or ends one, since what
/// stands in between would be executed.
pub fn check_command(words: &[&[u8]]) -> Result<(), Error> {
    let name = || command::shown(words.first().copied().unwrap_or_default());
    let is = |name: &str| words.first().is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    if ["MULTI", "EXEC", "DISCARD"].into_iter().any(is) {
        return Err(Error::NoTransactions);
    }
    if words.len() > limits::ARGUMENTS_MAX {
        return Err(Error::TooManyArguments { command: name(), count: words.len() - 1 });
    }
    let size = words.iter().map(|word| word.len() + limits::WORD_FRAMING_MAX).sum();
    if size > limits::REQUEST_SIZE_MAX {
        return Err(Error::TooLarge { command: name(), size });
    }
    Ok(())
}

fn fill(sink: &mut impl Sink, value: &[u8]) -> Result<(), Error> {
    let room = sink.begin(value.len()).ok_or(Error::NoRoom(value.len()))?;
    for (to, from) in room.iter_mut().zip(value) {
        to.write(*from);
    }
    Ok(())
}

/// A refusal of the server as an error.
fn refusal(message: String) -> Error {
    let (code, words) = message.split_once(' ').unwrap_or(("", &message));
    match code {
        "MAXCLIENTS" => Error::TooManyClients(words.to_owned()),
        "VERSION" => Error::Version(words.to_owned()),
        "SHUTDOWN" => Error::Gone(words.to_owned()),
        "LIMIT" => Error::Short(words.to_owned()),
        _ => Error::Refused(message),
    }
}

fn unexpected(reply: Reply) -> Error {
    match reply {
        Reply::Error(message) => refusal(message),
        Reply::Dropped(size) => Error::ReplyDropped(size),
        other => Error::Protocol(format!("an unexpected reply: {other:?}").chars().take(200).collect()),
    }
}

fn integer(reply: Reply) -> Result<i64, Error> {
    match reply {
        Reply::Integer(value) => Ok(value),
        other => Err(unexpected(other)),
    }
}

fn bytes(reply: Reply) -> Result<Vec<u8>, Error> {
    match reply {
        Reply::Bulk(bytes) => Ok(bytes),
        other => Err(unexpected(other)),
    }
}

fn bucket(reply: Reply, out: &mut Pairs) -> Result<(), Error> {
    let Reply::Array(parts) = reply else { return Err(unexpected(reply)) };
    let mut parts = parts.into_iter();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        let (key, value) = (bytes(key)?, bytes(value)?);
        out.push(&key, &value).ok_or(Error::NoRoom(key.len() + value.len()))?;
    }
    Ok(())
}

/// The figures of `RING.STATS`, by name.
///
/// # Errors
/// If the reply is not what the command answers.
pub fn figures(reply: Reply) -> Result<Vec<(String, i64)>, Error> {
    let pairs = match reply {
        Reply::Map(pairs) => pairs,
        Reply::Array(parts) => {
            let mut parts = parts.into_iter();
            std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
        }
        other => return Err(unexpected(other)),
    };
    pairs
        .into_iter()
        .map(|(name, value)| {
            let name = String::from_utf8_lossy(&bytes(name)?).into_owned();
            let value = match value {
                Reply::Bulk(text) => {
                    parse_integer(&text).ok_or_else(|| Error::Protocol("a figure that is none".into()))?
                }
                other => integer(other)?,
            };
            Ok((name, value))
        })
        .collect()
}
