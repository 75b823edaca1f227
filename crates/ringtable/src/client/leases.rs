//! Values that one process computes and others wait for: leases.
//!
//! # Design
//!
//! [`Client::get_or_lease`] waits until a key has a value, or it is ours to compute. There is no queue: a client that
//! was refused the lease asks to be told when that is over, or the key is written, and then looks and asks again. The
//! server never waits for anybody: it answers "pending", and pushes the answer when it has one ([`super::answers`]).
//! Before it sleeps, and ten times a second, a client that waits looks at the table in place, too: so what it is not
//! told of, since it was written at the very moment of asking, costs time only.
//!
//! Over the rings of a classic topology nothing can be pushed. There a client looks again and again, each time after a
//! longer pause, and asks for the lease with each look.
//!
//! A computed value that finds no room in the table is handed over to the clients that wait ([`Client::hand_over`]):
//! with each request for the lease they tell the token of the one that they were refused for.
//!
//! A call that is given up may be granted its lease afterwards, and nobody would know the token. So each request has a
//! ticket, and a call that ends without an answer sends word after it that what the ticket got is not wanted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::answers::Expected;
use super::blocking::BlockingLink;
use super::connection::Connection;
use super::error::Error;
use super::handle::Client;
use super::held_leases;
use super::numbers::NUMBERS;
use super::options::Transport;
use super::patience::{Patience, for_answers, left};
use super::replies::{integer, unexpected};
use super::validate::{check_key, check_value};
use super::write_options::{SetWords, Stay};
use crate::command::reply::Reply;
use crate::command::{self, Unwritten, pending};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::Expiry;
use crate::table::lookup::{Buffer, Found};

/// The ticket that the next request for a lease or a lock has; unique in this process is enough.
static NEXT_TICKET: AtomicU64 = AtomicU64::new(1);

/// How long to wait for room to say that a lease is not wanted.
const UNWANTED_PATIENCE: Duration = Duration::from_millis(100);

/// What [`Client::get_or_lease`] comes to.
#[derive(Debug)]
pub enum LeaseOutcome {
    /// There is a value.
    Value(Vec<u8>),
    /// It is the caller's turn to compute it, and then to give back the lease with this token.
    Lease(u64),
}

/// How old a value may be, in milliseconds that it has left to live: it is kept for longer than it is fresh.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staleness {
    /// What is kept has at least so much left as long as it is fresh.
    pub fresh_ms: u64,
    /// With at least so much left it will do while somebody else computes another one.
    pub stale_ms: u64,
    /// With at least so much left it will do if computing another one fails.
    pub on_error_ms: u64,
}

impl Staleness {
    /// Whether an entry is fresh that was found in place.
    pub fn finds_fresh(&self, found: &Found) -> bool {
        self.fresh_ms == 0 || self.is_fresh(left_ms(found))
    }

    /// Whether what has so much left (`None` for one that does not expire) is fresh.
    fn is_fresh(&self, left_ms: Option<u64>) -> bool {
        left_ms.is_none_or(|left_ms| left_ms >= self.fresh_ms)
    }
}

/// How a client that was refused a lease learns that it may be over.
enum Waiting<'a> {
    /// The server tells.
    ToBeTold(Told<'a>),
    /// Nobody does: it looks and asks again after a pause.
    Pause(Duration),
}

impl Waiting<'_> {
    /// Waits, for so long at most. Returns whether it is time to ask again.
    fn wait(&mut self, limit: Duration, patience: Patience<'_>) -> Result<bool, Error> {
        match self {
            Self::ToBeTold(told) => told.wait(limit, patience),
            Self::Pause(pause) => {
                std::thread::sleep((*pause).min(limit));
                Ok(true)
            }
        }
    }
}

/// The wait of a client that the server tells when a lease is over. If it ends without that, it is called off.
pub(super) struct Told<'a> {
    connection: &'a Connection,
    pub expected: Expected<'a>,
    key: &'a [u8],
    is_told: bool,
    /// Whether the server that knew of it is dead, and the one that has told it goes on in its stead.
    pub is_forgotten: bool,
}

impl<'a> Told<'a> {
    /// The wait for an answer with this ticket, which has to do with a key. It is asked for next.
    pub fn new(connection: &'a Connection, expected: Expected<'a>, key: &'a [u8]) -> Self {
        Self { connection, expected, key, is_told: false, is_forgotten: false }
    }

    /// Takes note that there is nothing to wait for, nor to call off.
    pub fn end(&mut self) {
        self.is_told = true;
    }

    /// Waits to be told, for so long at most. Returns whether it was.
    pub fn wait(&mut self, limit: Duration, patience: Patience<'_>) -> Result<bool, Error> {
        let answer = self.connection.await_answer(&self.expected, limit, patience);
        // An answer, or the end of the connection: there is nothing to call off.
        self.is_told = match &answer {
            Ok(answer) => answer.is_some(),
            Err(error) => error.ends_connection(),
        };
        self.is_forgotten = matches!(answer, Ok(Some(Reply::Nil)));
        Ok(answer?.is_some())
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !self.is_told && self.connection.is_ours() {
            insist(self.connection, NUMBERS.ring_unwait, &[self.key, self.expected.ticket().to_string().as_bytes()]);
        }
    }
}

/// What came of a request for a lease.
enum Asked {
    Granted(u64),
    /// Somebody else has it, with this token.
    Taken(u64),
    /// The one that was waited for has ended, and the value is not in the table.
    Over(Option<Vec<u8>>),
}

/// What was found of a key: its value, and how much time that has left.
type Looked = Option<(Vec<u8>, Option<u64>)>;

impl Client {
    /// Asks for the lease of a key, after that with the token `after` was waited for; 0 for none.
    fn lease(&self, key: &[u8], after: u64, patience: Patience<'_>) -> Result<Asked, Error> {
        check_key(key)?;
        let ticket = next_ticket().to_string();
        let after = after.to_string();
        match self.request(NUMBERS.ring_lease, &[key, ticket.as_bytes(), b"AFTER", after.as_bytes()], patience) {
            Ok(Reply::Integer(token)) if token > 0 => Ok(Asked::Granted(token as u64)),
            Ok(Reply::Integer(token)) => Ok(Asked::Taken(token.unsigned_abs())),
            Ok(Reply::Bulk(value)) => Ok(Asked::Over(Some(value))),
            Ok(Reply::Nil) => Ok(Asked::Over(None)),
            Ok(other) => Err(unexpected(other)),
            Err(error) => {
                if matches!(error, Error::Timeout(_) | Error::Interrupted) {
                    self.insist(NUMBERS.ring_unlease, &[key, b"TICKET", ticket.as_bytes()]);
                }
                Err(error)
            }
        }
    }

    /// Writes what was computed under a lease. Returns why not, if the table has no place for it, or this process no
    /// memory to send it: then nothing has changed.
    ///
    /// # Errors
    /// Those of posted writes before, and of the connection.
    pub fn store(&self, key: &[u8], value: &[u8], stay: Stay, patience: Patience<'_>) -> Result<Option<Error>, Error> {
        check_key(key)?;
        if let Err(error) = check_value(value) {
            return Ok(Some(error));
        }
        let mut digits = String::new();
        let mut words = SetWords::new(key, value);
        words.stay(stay, &mut digits);
        let stored = self.connection(patience)?.locked(patience, |link, patience| {
            // The error of a write that was posted before is not this one's.
            link.settle(None, patience)?;
            let sent =
                link.exchange(1, |link, _, patience| link.push(NUMBERS.set, words.as_slice(), patience), patience);
            match sent {
                Err(error @ Error::NoRoom(_)) => Ok(Some(error)),
                Err(error) => Err(error),
                Ok(()) => match link.receive(patience)? {
                    Reply::Status(_) => Ok(None),
                    other => Ok(Some(unexpected(other))),
                },
            }
        })?;
        match stored {
            Some(Error::Refused(words)) if command::is_for_want_of_room(&words) => Ok(Some(Error::Refused(words))),
            Some(error @ Error::NoRoom(_)) => Ok(Some(error)),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Gives back a lease, on the thread that got it, though the key has no new value; and hands what came of it over
    /// to those who wait. Returns whether this connection had it.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn hand_over(
        &self,
        key: &[u8],
        token: u64,
        outcome: Unwritten<'_>,
        patience: Patience<'_>,
    ) -> Result<bool, Error> {
        check_key(key)?;
        held_leases::remove(self.location(), token);
        let token = token.to_string();
        let (word, value): (&[u8], _) = match outcome {
            Unwritten::NotStored(value) => (b"UNSTORED", value),
            Unwritten::Failed => (b"FAILED", None),
        };
        let value = value.filter(|value| value.len() <= limits::HANDOVER_VALUE_SIZE_MAX);
        let arguments: [&[u8]; 4] = [key, token.as_bytes(), word, value.unwrap_or_default()];
        let count = if value.is_some() { 4 } else { 3 };
        match self.request(NUMBERS.ring_handover, &arguments[..count], patience) {
            Ok(reply) => Ok(integer(reply)? == 1),
            Err(error) => {
                self.insist(NUMBERS.ring_unlease, &[key, token.as_bytes()]);
                Err(error)
            }
        }
    }

    /// Gives back a lease, on the thread that got it. Returns whether this connection had it.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn unlease(&self, key: &[u8], token: u64, patience: Patience<'_>) -> Result<bool, Error> {
        check_key(key)?;
        held_leases::remove(self.location(), token);
        let token = token.to_string();
        failpoint!("lease.returning");
        match self.request(NUMBERS.ring_unlease, &[key, token.as_bytes()], patience) {
            Ok(reply) => {
                failpoint!("lease.returned");
                Ok(integer(reply)? == 1)
            }
            Err(error) => {
                // It may not even have been sent: the error of a posted write surfaces before.
                self.insist(NUMBERS.ring_unlease, &[key, token.as_bytes()]);
                Err(error)
            }
        }
    }

    /// Sends word that what a call has asked for is not wanted, over the connection of the moment.
    fn insist(&self, number: u16, arguments: &[&[u8]]) {
        if let Ok(connection) = self.connection(Patience::new(Some(UNWANTED_PATIENCE), &|| false)) {
            insist(connection, number, arguments);
        }
    }

    /// Waits until a key has a value, or its lease is ours, for `limit` at most. A value that is stale is returned,
    /// too, but only if the lease is somebody else's; and one that will do if computing fails, if that one says so, or
    /// if it takes too long. The patience is that of each request, and not of the waiting for others; a limit of that
    /// is one for the server, too.
    ///
    /// # Errors
    /// [`Error::NoConnection`] over UDP; [`Error::Awaited`] if neither comes in time; [`Error::Timeout`] if it is the
    /// server that does not answer; [`Error::OwnLease`] if the lease is this thread's; those of asking for it,
    /// [`Error::Refused`] if there are too many.
    pub fn get_or_lease(
        &self,
        key: &[u8],
        staleness: Staleness,
        limit: Option<Duration>,
        patience: Patience<'_>,
    ) -> Result<LeaseOutcome, Error> {
        if self.transport() == Transport::Udp {
            return Err(Error::NoConnection { what: "a lease, which get_or_set asks for," });
        }
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut fallback = None;
        let error = match self.look_and_ask(key, staleness, deadline, for_answers(patience, limit), &mut fallback) {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => Error::Awaited(limit.unwrap_or_default()),
            Err(error @ Error::Timeout(_)) => error,
            Err(error) => return Err(error),
        };
        fallback.map(LeaseOutcome::Value).ok_or(error)
    }

    /// Looks and asks until there is something, or the time is over that there is to wait for others: `None`.
    /// `fallback` is what will do if nothing comes of it.
    fn look_and_ask(
        &self,
        key: &[u8],
        staleness: Staleness,
        deadline: Option<Instant>,
        patience: Patience<'_>,
        fallback: &mut Option<Vec<u8>>,
    ) -> Result<Option<LeaseOutcome>, Error> {
        let (mut waiting, mut pause) = (None::<Waiting<'_>>, limits::LEASE_POLL_MIN);
        // The token of the lease that is waited for.
        let mut refused_for = 0;
        loop {
            let (old, left_ms) = match self.look(key, staleness, patience)? {
                Some((value, left_ms)) if staleness.is_fresh(left_ms) => return Ok(Some(LeaseOutcome::Value(value))),
                Some((value, Some(left_ms))) => (Some(value), left_ms),
                _ => (None, 0),
            };
            let is_usable = old.is_some() && left_ms >= staleness.stale_ms;
            *fallback = old.filter(|_| is_usable || left_ms >= staleness.on_error_ms);
            if let Some(told) = &mut waiting
                && !is_usable
            {
                let limit = left(deadline);
                if limit.is_zero() {
                    return Ok(None);
                }
                if told.wait(limit, patience)? {
                    waiting = None;
                }
                patience.check_interrupted()?;
                continue;
            }
            let token = match self.lease(key, refused_for, patience)? {
                Asked::Granted(token) => {
                    failpoint!("lease.got");
                    return self.look_again(key, token, staleness, patience).map(Some);
                }
                Asked::Taken(token) => token,
                Asked::Over(Some(value)) => return Ok(Some(LeaseOutcome::Value(value))),
                Asked::Over(None) => match fallback.take() {
                    Some(old) => return Ok(Some(LeaseOutcome::Value(old))),
                    // It may be our turn now, as if we asked for the first time.
                    None => {
                        refused_for = 0;
                        continue;
                    }
                },
            };
            if refused_for == 0 {
                refused_for = token.max(1);
            }
            if is_usable && let Some(old) = fallback.take() {
                return Ok(Some(LeaseOutcome::Value(old)));
            }
            if held_leases::has(self.location(), key) {
                return Err(Error::OwnLease(format!("'{}'", command::shown(key))));
            }
            // Before anything is asked for that there is no time left to wait for.
            if left(deadline).is_zero() {
                return Ok(None);
            }
            waiting = self.ask_to_be_told(key, token, &mut pause, patience)?;
            patience.check_interrupted()?;
        }
    }

    /// Asks the server to say when the lease with this token is over; `None` if it is.
    fn ask_to_be_told<'a>(
        &'a self,
        key: &'a [u8],
        token: u64,
        pause: &mut Duration,
        patience: Patience<'_>,
    ) -> Result<Option<Waiting<'a>>, Error> {
        let connection = self.connection(patience)?;
        let ticket = next_ticket();
        if connection.known.has(NUMBERS.ring_wait)
            && let Some(expected) = connection.expect(ticket, patience)?
        {
            let (token, number) = (token.to_string(), ticket.to_string());
            let mut told = Told::new(connection, expected, key);
            let arguments: [&[u8]; 3] = [key, token.as_bytes(), number.as_bytes()];
            match connection.ask(NUMBERS.ring_wait, &arguments, Some(&told.expected), patience) {
                Ok(Reply::Status(words)) if pending::is_postponed(&words) => {
                    failpoint!("lease.waiting");
                    return Ok(Some(Waiting::ToBeTold(told)));
                }
                Ok(Reply::Status(_)) => {
                    told.end();
                    return Ok(None);
                }
                Ok(other) => return Err(unexpected(other)),
                // There are too many that wait, or it is an older server.
                Err(Error::Refused(_)) => told.end(),
                Err(error) => return Err(error),
            }
        }
        let next = (2 * *pause).min(limits::LEASE_POLL_MAX);
        Ok(Some(Waiting::Pause(std::mem::replace(pause, next))))
    }
    /// Looks whether somebody has written the key just before its lease became ours.
    fn look_again(
        &self,
        key: &[u8],
        token: u64,
        staleness: Staleness,
        patience: Patience<'_>,
    ) -> Result<LeaseOutcome, Error> {
        let looked = self.look(key, staleness, patience);
        match looked {
            Ok(Some((_, left_ms))) if staleness.is_fresh(left_ms) => {}
            Ok(_) => {
                held_leases::add(self.location(), key, token);
                return Ok(LeaseOutcome::Lease(token));
            }
            Err(_) => {}
        }
        let given_back = self.unlease(key, token, patience);
        let (value, _) = looked?.unwrap_or_default();
        given_back.map(|_| LeaseOutcome::Value(value))
    }

    /// The value of a key that will do though computing another one has failed.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_on_error(
        &self,
        key: &[u8],
        staleness: Staleness,
        patience: Patience<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let found = self.look(key, staleness, patience)?;
        let will_do = |left_ms: Option<u64>| left_ms.is_none_or(|left_ms| left_ms >= staleness.on_error_ms);
        Ok(found.filter(|(_, left_ms)| will_do(*left_ms)).map(|(value, _)| value))
    }

    /// The value of a key, and how much time it has left.
    fn look(&self, key: &[u8], staleness: Staleness, patience: Patience<'_>) -> Result<Looked, Error> {
        let mut value = Buffer::default();
        if let Some(found) = self.find_in_place(key, &mut value, patience)? {
            return Ok(found.map(|found| (value.take(), left_ms(&found))));
        }
        if staleness.fresh_ms == 0 {
            return Ok(self.get_owned(key, patience)?.map(|value| (value, None)));
        }
        let (mut value, mut left_ms) = (Reply::Nil, 0);
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| {
            link.push(if index == 0 { NUMBERS.get } else { NUMBERS.pttl }, &[key], patience)
        };
        self.pipeline(2, request, patience, |index, reply| {
            if index == 0 {
                value = reply;
            } else {
                left_ms = integer(reply)?;
            }
            Ok(())
        })?;
        // -1 is an entry that does not expire, -2 one that has gone meanwhile.
        let left_ms = (left_ms != -1).then(|| left_ms.max(0).unsigned_abs());
        match value {
            Reply::Nil => Ok(None),
            Reply::Bulk(value) => Ok(Some((value, left_ms))),
            other => Err(unexpected(other)),
        }
    }
}

/// After a call that did not come to its end: sends word that what it has asked for is not wanted.
pub(super) fn insist(connection: &Connection, number: u16, arguments: &[&[u8]]) {
    connection.send_word(number, arguments, Patience::new(Some(UNWANTED_PATIENCE), &|| false));
}

/// A ticket that no other request of this process has or had.
pub(super) fn next_ticket() -> u64 {
    // Relaxed: only that it is unique matters.
    NEXT_TICKET.fetch_add(1, Ordering::Relaxed)
}

/// How many milliseconds an entry has left; `None` for one that does not expire.
fn left_ms(found: &Found) -> Option<u64> {
    found.expiry.map(|Expiry(at_ms)| at_ms.saturating_sub(wall_ms()))
}
