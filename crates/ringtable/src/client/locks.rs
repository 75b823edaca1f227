//! Locks and semaphores, and waiting for a key to change.
//!
//! # Design
//!
//! A lock is asked for without waiting first: most are free, and then that is all. If it is taken, the request goes out
//! once more, to join the queue, and the thread waits for the push with the token ([`super::answers`]). One that was
//! taken the last time ([`Contention`]) is asked for with that second request alone. Over the rings of a classic
//! topology nothing can be pushed: there a client asks again after a pause, which grows.
//!
//! A call that ends without the lock may be granted it afterwards. So each request has a ticket, and the call sends
//! word behind it that what the ticket got is not wanted: the lock, or a place in the queue.
//!
//! What a connection was granted ends with it. So a call whose server has died may ask the next one, if the client goes
//! on with that: nothing of the first is left. The time that a call has for a server begins anew there, since what went
//! by was spent on waiting for others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::answers::Expected;
use super::connection::Connection;
use super::error::Error;
use super::handle::Client;
use super::leases::{Told, insist, next_ticket};
use super::numbers::NUMBERS;
use super::options::Transport;
use super::patience::{Patience, for_answers, left};
use super::repeat::Repeat;
use super::replies::{integer, unexpected};
use super::validate::check_key;
use crate::command::pending;
use crate::command::reply::Reply;
use crate::limits;

/// What is asked of a lock, or a semaphore.
#[derive(Clone, Copy, Debug)]
pub struct LockTerms {
    /// How many may have it at a time.
    pub permits: u64,
    /// Milliseconds after which it ends by itself.
    pub ttl_ms: Option<u64>,
}

/// For how long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Not at all.
    No,
    /// For so long.
    For(Duration),
    /// Until it comes.
    Forever,
}

impl LockWait {
    fn deadline(self) -> Option<Instant> {
        Instant::now().checked_add(self.limit()?)
    }

    fn limit(self) -> Option<Duration> {
        match self {
            Self::No => Some(Duration::ZERO),
            Self::For(limit) => Some(limit),
            Self::Forever => None,
        }
    }
}

/// Whether a lock was taken when it was last asked for.
#[derive(Default)]
pub struct Contention(AtomicBool);

impl Contention {
    /// Relaxed, here and below: a guess, which costs a request if it is wrong.
    fn is_likely(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, was_taken: bool) {
        self.0.store(was_taken, Ordering::Relaxed);
    }
}

/// A request for a lock, over one connection. If it ends without the token, it is called off.
struct Asked<'a> {
    connection: &'a Connection,
    name: &'a [u8],
    ticket: u64,
    is_over: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.connection.is_ours() {
            let ticket = self.ticket.to_string();
            insist(self.connection, NUMBERS.ring_unlock, &[self.name, b"TICKET", ticket.as_bytes()]);
        }
    }
}

/// Whether there is nothing to call off after this error: the connection has ended, or is not for this thread to use.
pub(super) fn is_end(error: &Error) -> bool {
    error.ends_connection() || matches!(error, Error::Forked | Error::Reentrant)
}

impl Client {
    /// Takes a lock, or a permit of a semaphore. Returns its token; `None` if it was not free in time. The patience is
    /// that of each request, and not of the waiting for others; a limit of that is one for the server, too.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it is the server that does not answer; [`Error::NoConnection`] over UDP;
    /// [`Error::Refused`] if there are too many; those of the connection.
    pub fn lock(
        &self,
        name: &[u8],
        terms: LockTerms,
        wait: LockWait,
        contention: &Contention,
        patience: Patience<'_>,
    ) -> Result<Option<u64>, Error> {
        check_key(name)?;
        self.check_connected("a lock")?;
        let (deadline, patience) = (wait.deadline(), for_answers(patience, wait.limit()));
        let mut pause = limits::LEASE_POLL_MIN;
        loop {
            if wait == LockWait::No || !contention.is_likely() {
                let taken = self.repeated(Repeat::Always, patience, |patience| {
                    self.try_lock(self.connection(patience)?, name, terms, patience)
                })?;
                if taken.is_some() || wait == LockWait::No {
                    return Ok(taken);
                }
            }
            let queued = self
                .connection(patience)
                .and_then(|connection| self.queue(connection, name, terms, contention, deadline, patience));
            match queued {
                Ok(Some(outcome)) => return Ok(outcome),
                // There is no queue over this transport.
                Ok(None) => {
                    std::thread::sleep(pause.min(left(deadline)));
                    pause = (2 * pause).min(limits::LEASE_POLL_MAX);
                    patience.check_interrupted()?;
                }
                Err(error) if error.is_gone() && self.options.reconnect => contention.note(false),
                Err(error) => return Err(error),
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// One request, which does not wait.
    fn try_lock(
        &self,
        connection: &Connection,
        name: &[u8],
        terms: LockTerms,
        patience: Patience<'_>,
    ) -> Result<Option<u64>, Error> {
        let mut asked = Asked { connection, name, ticket: next_ticket(), is_over: false };
        match asked.request(terms, None, patience)? {
            Reply::Integer(token) => Ok(u64::try_from(token).ok().filter(|&token| token > 0)),
            other => Err(unexpected(other)),
        }
    }

    /// Joins the queue, and waits. `None` if there is no queue over this transport; else what came of it in time.
    fn queue(
        &self,
        connection: &Connection,
        name: &[u8],
        terms: LockTerms,
        contention: &Contention,
        deadline: Option<Instant>,
        patience: Patience<'_>,
    ) -> Result<Option<Option<u64>>, Error> {
        let ticket = next_ticket();
        let Some(expected) = connection.expect(ticket, patience)? else { return Ok(None) };
        let mut asked = Asked { connection, name, ticket, is_over: false };
        let mut answer = asked.join(terms, &expected, patience)?;
        contention.note(answer.is_none());
        loop {
            match answer {
                Some(Reply::Integer(token)) if token > 0 => {
                    asked.is_over = true;
                    return Ok(Some(Some(token.unsigned_abs())));
                }
                // The server that knew of it is dead, and another one goes on in its stead. It knows by the ticket of a
                // permit that we have not heard of.
                Some(Reply::Nil) => {
                    answer = asked.join(terms, &expected, patience)?;
                    continue;
                }
                Some(other) => return Err(unexpected(other)),
                None => {}
            }
            let slice = left(deadline);
            if slice.is_zero() {
                return Ok(Some(None));
            }
            answer = match connection.await_answer(&expected, slice, patience) {
                Err(error) => {
                    asked.is_over = is_end(&error);
                    return Err(error);
                }
                Ok(answer) => answer,
            };
            if answer.is_none() {
                patience.check_interrupted()?;
            }
        }
    }

    /// Gives a lock back. Returns whether this connection had it.
    ///
    /// # Errors
    /// Those of the connection; then the server is told all the same, if that is possible.
    pub fn unlock(&self, name: &[u8], token: u64, patience: Patience<'_>) -> Result<bool, Error> {
        let digits = token.to_string();
        let arguments: [&[u8]; 2] = [name, digits.as_bytes()];
        match self.request(NUMBERS.ring_unlock, &arguments, patience) {
            Ok(reply) => Ok(integer(reply)? == 1),
            Err(error) => {
                if !is_end(&error)
                    && let Ok(connection) = self.connection(Patience::new(Some(Duration::ZERO), &|| false))
                {
                    insist(connection, NUMBERS.ring_unlock, &arguments);
                }
                Err(error)
            }
        }
    }

    /// Gives a lock a new time to live. Returns whether this connection has it.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn extend(&self, name: &[u8], token: u64, ttl_ms: u64, patience: Patience<'_>) -> Result<bool, Error> {
        let (token, ttl_ms) = (token.to_string(), ttl_ms.to_string());
        let reply = self.request(NUMBERS.ring_extend, &[name, token.as_bytes(), ttl_ms.as_bytes()], patience)?;
        Ok(integer(reply)? == 1)
    }

    /// How many have a lock, or a permit of a semaphore; with a token, 1 if it is that of one of this connection's.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn locked(&self, name: &[u8], token: Option<u64>, patience: Patience<'_>) -> Result<u64, Error> {
        check_key(name)?;
        self.check_connected("a lock")?;
        let token = token.map(|token| token.to_string());
        let arguments: [&[u8]; 2] = [name, token.as_deref().unwrap_or_default().as_bytes()];
        let count = 1 + usize::from(token.is_some());
        Ok(integer(self.request(NUMBERS.ring_locked, &arguments[..count], patience)?)?.max(0).unsigned_abs())
    }

    /// Waits until a key has another version than this one (0: none), for so long at most. Returns whether it has.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn await_change(
        &self,
        key: &[u8],
        version: u64,
        limit: Option<Duration>,
        patience: Patience<'_>,
    ) -> Result<bool, Error> {
        check_key(key)?;
        self.check_connected("waiting for a key")?;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let patience = for_answers(patience, limit);
        let mut pause = limits::LEASE_POLL_MIN;
        loop {
            if self.repeated(Repeat::Always, patience, |patience| self.version_of(key, patience))? != version {
                return Ok(true);
            }
            let slice = left(deadline);
            if slice.is_zero() {
                return Ok(false);
            }
            match self.await_push(key, version, deadline, patience) {
                Ok(Some(true)) => return Ok(true),
                // It is time to look again.
                Ok(Some(false)) => {}
                // Nothing is pushed over this transport.
                Ok(None) => {
                    std::thread::sleep(pause.min(slice));
                    pause = (2 * pause).min(limits::LEASE_POLL_MAX);
                    patience.check_interrupted()?;
                }
                // The key is absent at the next server, too, as long as nobody writes it.
                Err(error) if error.is_gone() && self.options.reconnect && version == 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The version of a key; 0 where there is none.
    fn version_of(&self, key: &[u8], patience: Patience<'_>) -> Result<u64, Error> {
        Ok(self.get_with_version(key, patience)?.map_or(0, |(_, version)| version))
    }

    /// Asks to be told when a key has another version, and waits for that. `None` if nobody is told over this
    /// transport; else whether it has one, as far as was told in time.
    fn await_push(
        &self,
        key: &[u8],
        version: u64,
        deadline: Option<Instant>,
        patience: Patience<'_>,
    ) -> Result<Option<bool>, Error> {
        let connection = self.connection(patience)?;
        let ticket = next_ticket();
        let Some(expected) = connection.expect(ticket, patience)? else { return Ok(None) };
        let mut told = Told::new(connection, expected, key);
        let (known, digits) = (version.to_string(), ticket.to_string());
        let arguments: [&[u8]; 3] = [key, known.as_bytes(), digits.as_bytes()];
        match connection.ask(NUMBERS.ring_await, &arguments, Some(&told.expected), patience) {
            Ok(Reply::Status(words)) if pending::is_postponed(&words) => {}
            Ok(Reply::Status(_)) => {
                told.end();
                return Ok(Some(true));
            }
            Ok(other) => return Err(unexpected(other)),
            Err(error) => {
                if matches!(error, Error::Refused(_)) || is_end(&error) {
                    told.end();
                }
                return Err(error);
            }
        }
        loop {
            let slice = left(deadline);
            if slice.is_zero() {
                return Ok(Some(false));
            }
            // Also if it is as before again.
            if told.wait(slice, patience)? {
                return Ok(Some(!told.is_forgotten));
            }
            patience.check_interrupted()?;
            // A write at the very moment of asking is told to nobody.
            if self.version_of(key, patience)? != version {
                return Ok(Some(true));
            }
        }
    }

    pub(super) fn check_connected(&self, what: &'static str) -> Result<(), Error> {
        if self.transport() == Transport::Udp { Err(Error::NoConnection { what }) } else { Ok(()) }
    }
}

impl Asked<'_> {
    /// Joins the queue, unless there is a permit. `None` if it waits.
    fn join(
        &mut self,
        terms: LockTerms,
        expected: &Expected<'_>,
        patience: Patience<'_>,
    ) -> Result<Option<Reply>, Error> {
        match self.request(terms, Some(expected), patience)? {
            Reply::Status(words) if pending::is_postponed(&words) => {
                self.is_over = false;
                Ok(None)
            }
            other => Ok(Some(other)),
        }
    }

    /// Sends it. Nothing is to be called off after a reply that grants nothing.
    fn request(
        &mut self,
        terms: LockTerms,
        expected: Option<&Expected<'_>>,
        patience: Patience<'_>,
    ) -> Result<Reply, Error> {
        let (ticket, permits) = (self.ticket.to_string(), terms.permits.to_string());
        let ttl_ms = terms.ttl_ms.map(|ttl_ms| ttl_ms.to_string());
        let mut arguments: [&[u8]; 6] = [self.name, ticket.as_bytes(), permits.as_bytes(), b"", b"", b""];
        let mut count = 3;
        if let Some(ttl_ms) = &ttl_ms {
            (arguments[3], arguments[4], count) = (b"PX", ttl_ms.as_bytes(), 5);
        }
        if expected.is_some() {
            arguments[count] = b"WAIT";
            count += 1;
        }
        let reply = self.connection.ask(NUMBERS.ring_lock, &arguments[..count], expected, patience);
        self.is_over = match &reply {
            Ok(_) | Err(Error::Refused(_)) => true,
            Err(error) => is_end(error),
        };
        reply
    }
}
