//! The handle of a client: a connection to a server, made anew where that is wanted, and the three ways to ask it.
//!
//! A request and its reply, a pipeline of them, and a write that nobody waits for: all calls are made of these. The
//! files that follow this one in the folder's table of contents add the calls to [`Client`].

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::absence::Absence;
use super::blocking::BlockingLink;
use super::connection::Connection;
use super::error::Error;
use super::joining::joined;
use super::numbers::NUMBERS;
use super::options::{Options, Transport};
use super::patience::Patience;
use super::renewal::RenewableConnection;
use super::replies::unexpected;
use crate::address::{self, Location};
use crate::command::reply::Reply;

/// A connection to a server, for any number of threads.
pub struct Client {
    location: Location,
    pub(super) options: Options,
    pub(super) connection: RenewableConnection,
}

impl Client {
    /// Connects to the server of a table: a name, a path, a `unix://` or a `tcp://` URL. Each try has that patience.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody listens, [`Error::Awaiting`] if nobody has come to do so;
    /// [`Error::Version`] if the server is of another version; others.
    pub fn connect(address: impl AsRef<OsStr>, options: &Options, patience: Patience<'_>) -> Result<Self, Error> {
        let location = address::location(address)?;
        let mut absence = Absence::new(Instant::now(), options.wait);
        let connection = loop {
            match joined(patience, |patience| Connection::open(&location, options, patience)) {
                // There is none, or one that is ending.
                Err(error @ (Error::NotFound { .. } | Error::Gone(_))) => absence.wait(error, &location, &patience)?,
                opened => break opened?,
            }
        };
        Ok(Self { location, options: options.clone(), connection: RenewableConnection::new(connection) })
    }

    /// Where the server listens.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// How it talks to the server; never [`Transport::Auto`].
    pub fn transport(&self) -> Transport {
        self.connection.peek().transport
    }

    /// Whether it connects anew when its server has gone.
    pub fn is_renewable(&self) -> bool {
        self.options.reconnect
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

    /// The number of the table that the server has, or had at the last call; 0 if it does not tell.
    pub fn server_id(&self) -> u64 {
        self.connection.peek().server_id
    }

    /// The connection of this process: made anew in a forked child, and after the server's death if wanted. A call that
    /// has sent nothing yet need not know of that.
    #[inline]
    pub(super) fn connection(&self, patience: Patience<'_>) -> Result<&Connection, Error> {
        let connection = self.renewed(patience)?;
        match connection.check_alive() {
            Err(Error::Gone(_)) if self.options.reconnect => self.renewed(patience),
            outcome => outcome.map(|()| connection),
        }
    }

    #[inline]
    fn renewed(&self, patience: Patience<'_>) -> Result<&Connection, Error> {
        self.connection.get(patience, |patience| self.connect_again(patience))
    }

    /// Connects to the server that is there now. If that is of a version whose memory means nothing to this one, it
    /// talks over a plain socket: a process that was well yesterday is not to fail for an upgrade.
    fn connect_again(&self, patience: Patience<'_>) -> Result<Arc<Connection>, Error> {
        let open = |options: &Options| joined(patience, |patience| Connection::open(&self.location, options, patience));
        let opened = match open(&self.options) {
            Err(Error::Version(_)) if self.options.transport == Transport::Auto => {
                open(&Options { transport: Transport::Socket, ..self.options.clone() })
            }
            opened => opened,
        };
        opened.map_err(|error| match error {
            // It was there, and may be there again.
            Error::NotFound { location, error } if self.options.reconnect => {
                Error::Absent(format!("there is none at {location} now ({error}), and the next call looks again"))
            }
            // One that is ending.
            Error::Gone(words) if self.options.reconnect => Error::Absent(words),
            error => error,
        })
    }

    /// Waits until all posted writes are done.
    ///
    /// # Errors
    /// That of the first posted write that failed; those of the connection.
    pub fn flush(&self, patience: Patience<'_>) -> Result<(), Error> {
        let connection = self.connection(patience)?;
        connection.locked(patience, |link, patience| link.settle(None, patience))?;
        // Where nothing was on its way, nobody has said so far whether the server lives.
        connection.check_alive_now()
    }

    /// Waits until all that was written so far, by whomever, is on the disk of a server that has a log.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has none, or the disk has failed; those of [`Self::flush`].
    pub fn flush_to_disk(&self, patience: Patience<'_>) -> Result<(), Error> {
        self.flush(patience)?;
        match self.request(NUMBERS.ring_durable, &[], patience)? {
            Reply::Status(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// One request and its reply.
    #[inline]
    pub(super) fn request(&self, number: u16, arguments: &[&[u8]], patience: Patience<'_>) -> Result<Reply, Error> {
        self.connection(patience)?.request(number, arguments, patience)
    }

    /// `count` requests, and `each` of their replies in order.
    pub(super) fn pipeline(
        &self,
        count: usize,
        request: impl Fn(&mut BlockingLink, usize, &mut Patience<'_>) -> Result<(), Error>,
        patience: Patience<'_>,
        mut each: impl FnMut(usize, Reply) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.connection(patience)?.locked(patience, |link, patience| {
            link.exchange(count, &request, patience).map_err(|error| error.of_part(link.has_answers()))?;
            // All replies are taken, also behind one that is an error: the first error is what is reported.
            let mut outcome = Ok(());
            for index in 0..count {
                let reply = link.receive(patience).map_err(|error| error.of_part(index > 0))?;
                if outcome.is_ok() {
                    outcome = each(index, reply);
                }
            }
            outcome
        })
    }

    /// Sends a write without waiting for its reply.
    pub(super) fn post(&self, number: u16, arguments: &[&[u8]], patience: Patience<'_>) -> Result<(), Error> {
        let connection = self.connection(patience)?;
        let hash = connection.hash(arguments[0]);
        connection.locked(patience, |link, patience| link.post(number, arguments, hash, patience))
    }

    /// The same, if nothing has to be waited for: no server, no thread, no room; and if it is small enough to go as a
    /// whole. Returns whether it was sent.
    pub(super) fn try_post(&self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        let connection = self.connection.peek();
        // Of a server that has gone, and of a connection that was closed, the other one has more to say.
        if !connection.is_current() || connection.check_alive().is_err() {
            return Ok(false);
        }
        let hash = connection.hash(arguments[0]);
        let at_once = Patience::new(Some(Duration::ZERO), &|| false);
        match connection.locked(at_once, |link, _| link.try_post(number, arguments, hash)) {
            // Another thread has the link.
            Err(Error::Timeout(_)) => Ok(false),
            outcome => outcome,
        }
    }
}
