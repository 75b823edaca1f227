//! Barriers: parties that wait for each other.
//!
//! # Design
//!
//! A party comes with one request, and waits for the push that all have come ([`super::answers`]). Over the rings of a
//! classic topology nothing can be pushed: there it asks again with its ticket after a pause, which grows, and is the
//! same party.
//!
//! A party whose time is over leaves with one more request, whose reply says whether all have come meanwhile. So it has
//! passed, or counts no more, and knows which. One that is interrupted sends word that it leaves.
//!
//! A server that is stopped answers neither that it has come nor that it has left, and the call ends with
//! [`Error::InDoubt`]. The word that it leaves stands behind its request, for the server to find when it goes on. (To
//! close the connection would tell it the same, and end all other calls of this client.)
//!
//! Parties do not outlive their server. One that came to the next server by itself could wait there for those that had
//! passed at the first one.

use std::time::{Duration, Instant};

use super::answers::Expected;
use super::connection::Connection;
use super::error::Error;
use super::handle::Client;
use super::leases::{insist, next_ticket};
use super::locks::is_end;
use super::numbers::NUMBERS;
use super::patience::{Patience, for_answers, left};
use super::repeat::Repeat;
use super::replies::{integer, unexpected};
use super::validate::check_key;
use crate::command::pending;
use crate::command::reply::Reply;
use crate::limits;

/// A party that comes over one connection. If it ends without having passed or left, word is sent that it leaves.
struct Party<'a> {
    connection: &'a Connection,
    name: &'a [u8],
    parties: u64,
    ticket: u64,
    /// `None` if nothing is pushed over this transport.
    expected: Option<Expected<'a>>,
    /// How long to wait before it asks again then.
    pause: Duration,
    is_over: bool,
}

impl Drop for Party<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.connection.is_ours() {
            let ticket = self.ticket.to_string();
            insist(self.connection, NUMBERS.ring_barrier, &[self.name, b"LEAVE", ticket.as_bytes()]);
        }
    }
}

impl Client {
    /// Waits at a barrier until all its parties are there, for `limit` at most. Returns how many were still to come; or
    /// `None` if not all came in time, and this one counts no more. The patience is that of each request, and not of
    /// the waiting for others; a limit of that is one for the server, too.
    ///
    /// # Errors
    /// [`Error::InDoubt`] if the server does not answer; [`Error::NoConnection`] over UDP; [`Error::Refused`] if too
    /// many wait, or the parties do not agree on how many they are; those of the connection.
    pub fn barrier(
        &self,
        name: &[u8],
        parties: u64,
        limit: Option<Duration>,
        patience: Patience<'_>,
    ) -> Result<Option<u64>, Error> {
        check_key(name)?;
        self.check_connected("a barrier")?;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let patience = for_answers(patience, limit);
        // What was not sent counts nowhere, and may be sent to the next server.
        let (mut party, mut passed) = self.repeated(Repeat::Unsent, patience, |patience| {
            let mut party = Party::new(self.connection(patience)?, name, parties, patience)?;
            let passed = party.come(patience)?;
            Ok((party, passed))
        })?;
        while passed.is_none() {
            let slice = left(deadline);
            if slice.is_zero() {
                return party.leave(patience.within(limits::ANSWER_WAIT_MIN)).map_err(after_coming);
            }
            passed = party.wait(slice, patience).map_err(after_coming)?;
        }
        Ok(passed)
    }

    /// How many wait at a barrier.
    ///
    /// # Errors
    /// As [`Self::barrier`], but for a server that does not answer: [`Error::Timeout`].
    pub fn parties_waiting(&self, name: &[u8], patience: Patience<'_>) -> Result<u64, Error> {
        check_key(name)?;
        self.check_connected("a barrier")?;
        Ok(integer(self.request(NUMBERS.ring_barrier, &[name], patience)?)?.max(0).unsigned_abs())
    }
}

impl<'a> Party<'a> {
    fn new(connection: &'a Connection, name: &'a [u8], parties: u64, patience: Patience<'_>) -> Result<Self, Error> {
        let ticket = next_ticket();
        let expected = connection.expect(ticket, patience)?;
        let pause = limits::LEASE_POLL_MIN;
        Ok(Self { connection, name, parties, ticket, expected, pause, is_over: true })
    }

    /// Comes, or asks again. How many were still to come, if all are there.
    fn come(&mut self, patience: Patience<'_>) -> Result<Option<u64>, Error> {
        let (parties, ticket) = (self.parties.to_string(), self.ticket.to_string());
        let arguments: [&[u8]; 4] = [self.name, parties.as_bytes(), ticket.as_bytes(), b"WAIT"];
        let count = if self.expected.is_some() { 4 } else { 3 };
        self.is_over = false;
        match self.connection.ask(NUMBERS.ring_barrier, &arguments[..count], self.expected.as_ref(), patience) {
            Ok(Reply::Status(words)) if pending::is_postponed(&words) => Ok(None),
            Ok(answer) => self.take(answer),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Waits for so long at most, or until it is time to ask again.
    fn wait(&mut self, limit: Duration, patience: Patience<'_>) -> Result<Option<u64>, Error> {
        let Some(expected) = &self.expected else {
            std::thread::sleep(self.pause.min(limit));
            self.pause = (2 * self.pause).min(limits::LEASE_POLL_MAX);
            patience.check_interrupted()?;
            return self.come(patience);
        };
        match self.connection.await_answer(expected, limit, patience) {
            // The server that knew of it is dead, and another one goes on in its stead.
            Ok(Some(Reply::Nil)) => self.come(patience),
            Ok(Some(answer)) => self.take(answer),
            Ok(None) => patience.check_interrupted().map(|()| None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Waits no more. How many were still to come, if it has passed meanwhile.
    fn leave(mut self, mut patience: Patience<'_>) -> Result<Option<u64>, Error> {
        let ticket = self.ticket.to_string();
        let arguments: [&[u8]; 3] = [self.name, b"LEAVE", ticket.as_bytes()];
        match self.connection.request(NUMBERS.ring_barrier, &arguments, patience) {
            // It has passed: the server has told it, or is about to.
            Ok(Reply::Nil) => {}
            Ok(answer) => {
                let passed = self.take(answer);
                self.is_over = true;
                return passed;
            }
            Err(error) => return Err(self.failed(error)),
        }
        patience.start();
        loop {
            let slice = patience.slice().map_err(|error| self.failed(error))?;
            let Some(expected) = &self.expected else { return self.come(patience) };
            match self.connection.await_answer(expected, slice, patience) {
                // It has not: the server that knew of this party is dead, and another one knows who has passed.
                Ok(Some(Reply::Nil)) => {
                    self.is_over = true;
                    return Ok(None);
                }
                Ok(Some(answer)) => return self.take(answer),
                Ok(None) => patience.check_interrupted()?,
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Takes an answer: how many were still to come, if all are there.
    fn take(&mut self, answer: Reply) -> Result<Option<u64>, Error> {
        match answer {
            Reply::Integer(-1) => Ok(None),
            Reply::Integer(missing @ 0..) => {
                self.is_over = true;
                Ok(Some(missing.unsigned_abs()))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Takes note of an error, after some of which there is nothing to leave.
    fn failed(&mut self, error: Error) -> Error {
        self.is_over = is_end(&error) || matches!(error, Error::Refused(_));
        match error {
            Error::Timeout(limit) => Error::InDoubt(limit),
            other => other,
        }
    }
}

/// An error of a party that has come: what was not sent since then is no reason to begin anew.
fn after_coming(error: Error) -> Error {
    match error {
        Error::Unsent(words) | Error::Absent(words) => Error::Gone(words),
        other => other,
    }
}
