//! Calls for processes that change the same key: by version, within bounds, by lease.
//!
//! # Leases
//!
//! [`Client::get_or_lease`] waits until a key has a value, or it is ours to compute. There is no queue: who waits looks
//! at the table in place again and again, each time after a longer pause, and soon asks for the lease with each look,
//! too, so that it passes on at once when its holder dies. The server never waits for anybody.
//!
//! A call that is given up may be granted its lease afterwards, and nobody would know the token. So each request has a
//! ticket, and a call that ends without an answer sends word after it that what the ticket got is not wanted.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Client, Error, Patience, check_key, check_value, held, integer, unexpected};
use crate::command::{self, reply::Reply};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::Expiry;
use crate::table::reader::{Buffer, Found};

/// The numbers of the commands that methods here use.
struct Numbers {
    get: u16,
    set: u16,
    pttl: u16,
    getv: u16,
    delv: u16,
    incr: u16,
    lease: u16,
    unlease: u16,
}

static NUMBERS: LazyLock<Numbers> = LazyLock::new(|| Numbers {
    get: command::number("GET"),
    set: command::number("SET"),
    pttl: command::number("PTTL"),
    getv: command::number("RING.GETV"),
    delv: command::number("RING.DELV"),
    incr: command::number("RING.INCR"),
    lease: command::number("RING.LEASE"),
    unlease: command::number("RING.UNLEASE"),
});

/// See [`super::prepare`].
pub(super) fn prepare() {
    LazyLock::force(&NUMBERS);
}

/// The ticket that the next request for a lease has; unique in this process is enough.
static NEXT_TICKET: AtomicU64 = AtomicU64::new(1);

/// How long to wait for room to say that a lease is not wanted.
const UNWANTED_PATIENCE: Duration = Duration::from_millis(100);

/// What a sum has to keep within, and what a new key gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Milliseconds that a key lives that is new.
    pub ttl_ms_if_new: Option<u64>,
    /// The least sum.
    pub least: Option<i64>,
    /// The largest sum.
    pub most: Option<i64>,
}

/// What [`Client::get_or_lease`] comes to.
#[derive(Debug)]
pub enum Turn {
    /// There is a value.
    Value(Vec<u8>),
    /// It is the caller's turn to compute it, and then to give back the lease with this token.
    Lease(u64),
}

impl Client {
    /// The value of a key, and its version.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_with_version(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<(Vec<u8>, u64)>, Error> {
        let mut value = Buffer::default();
        if let Some(found) = self.find_in_place(key, &mut value, patience)? {
            return Ok(found.map(|found| (value.take(), found.version)));
        }
        match self.request(NUMBERS.getv, &[key], patience)? {
            Reply::Nil => Ok(None),
            Reply::Array(parts) => match <[Reply; 2]>::try_from(parts) {
                Ok([Reply::Bulk(value), Reply::Integer(version)]) => Ok(Some((value, version as u64))),
                Ok(other) => Err(unexpected(Reply::Array(other.into()))),
                Err(other) => Err(unexpected(Reply::Array(other))),
            },
            other => Err(unexpected(other)),
        }
    }

    /// Writes a key that still has this version, or that is absent if it is 0. Returns the new version, or `None` if it
    /// was not so.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_if_version(
        &self,
        key: &[u8],
        value: &[u8],
        ttl_ms: Option<u64>,
        version: u64,
        patience: Patience<'_>,
    ) -> Result<Option<u64>, Error> {
        check_key(key)?;
        check_value(value)?;
        let (version, ttl_ms) = (version.to_string(), ttl_ms.map(|ttl_ms| ttl_ms.to_string()));
        let plain: [&[u8]; 4] = [key, value, b"IFVERSION", version.as_bytes()];
        let reply = match &ttl_ms {
            None => self.request(NUMBERS.set, &plain, patience)?,
            Some(ttl_ms) => {
                let [key, value, option, version] = plain;
                self.request(NUMBERS.set, &[key, value, option, version, b"PX", ttl_ms.as_bytes()], patience)?
            }
        };
        match reply {
            Reply::Integer(version) => Ok(Some(version as u64)),
            Reply::Nil => Ok(None),
            other => Err(unexpected(other)),
        }
    }

    /// Deletes a key that still has this version. Returns whether it had.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn delete_if_version(&self, key: &[u8], version: u64, patience: Patience<'_>) -> Result<bool, Error> {
        check_key(key)?;
        Ok(integer(self.request(NUMBERS.delv, &[key, version.to_string().as_bytes()], patience)?)? == 1)
    }

    /// Adds to the integer that a key holds (0 if there is none). Returns the sum, or `None` if it were out of bounds:
    /// then nothing has changed.
    ///
    /// # Errors
    /// [`Error::Refused`] if it holds no integer, or the sum would be none.
    pub fn increment_within(
        &self,
        key: &[u8],
        by: i64,
        bounds: &Bounds,
        patience: Patience<'_>,
    ) -> Result<Option<i64>, Error> {
        check_key(key)?;
        let mut words: Vec<(&[u8], String)> = Vec::new();
        words.extend(bounds.ttl_ms_if_new.map(|ttl_ms| (&b"PX"[..], ttl_ms.to_string())));
        words.extend(bounds.least.map(|least| (&b"MIN"[..], least.to_string())));
        words.extend(bounds.most.map(|most| (&b"MAX"[..], most.to_string())));
        let by = by.to_string();
        let mut arguments = vec![key, by.as_bytes()];
        arguments.extend(words.iter().flat_map(|(option, number)| [*option, number.as_bytes()]));
        match self.request(NUMBERS.incr, &arguments, patience)? {
            Reply::Nil => Ok(None),
            other => integer(other).map(Some),
        }
    }

    /// Asks for the lease of a key. Returns its token, or `None` if somebody has it.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`] if there are too many leases.
    pub fn lease(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<u64>, Error> {
        check_key(key)?;
        // Relaxed: only that it is unique matters.
        let ticket = NEXT_TICKET.fetch_add(1, Ordering::Relaxed).to_string();
        match self.request(NUMBERS.lease, &[key, ticket.as_bytes()], patience) {
            Ok(reply) => Ok(Some(integer(reply)? as u64).filter(|&token| token > 0)),
            Err(error) => {
                if matches!(error, Error::Timeout(_) | Error::Interrupted) {
                    self.insist(&[key, b"TICKET", ticket.as_bytes()]);
                }
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
        held::remove(self.location(), token);
        let token = token.to_string();
        failpoint!("lease.returning");
        match self.request(NUMBERS.unlease, &[key, token.as_bytes()], patience) {
            Ok(reply) => {
                failpoint!("lease.returned");
                Ok(integer(reply)? == 1)
            }
            Err(error) => {
                // It may not even have been sent: the error of a posted write surfaces before.
                self.insist(&[key, token.as_bytes()]);
                Err(error)
            }
        }
    }

    /// After a call that did not come to its end: sends word that its lease is not wanted, which is executed after all
    /// that was sent before. On a connection that has no room even for that, only its end gives the lease back.
    fn insist(&self, unlease: &[&[u8]]) {
        let patience = Patience::new(Some(UNWANTED_PATIENCE), &|| false);
        let Ok(connection) = self.connection(patience) else { return };
        let _ = connection.locked(patience, |link, patience| {
            // Nobody waits for the reply: the next call finds it owed, and drops it.
            link.exchange(1, |link, _, patience| link.push(NUMBERS.unlease, unlease, patience), patience)
        });
    }

    /// Waits until a key has a value, or its lease is ours. A value with less than `stale_ms` left to live is stale: it
    /// is returned too, but only if the lease is somebody else's.
    ///
    /// # Errors
    /// [`Error::Awaited`] if neither comes in time; [`Error::OwnLease`] if the lease is this thread's; those of
    /// [`Self::lease`].
    pub fn get_or_lease(&self, key: &[u8], stale_ms: u64, mut patience: Patience<'_>) -> Result<Turn, Error> {
        patience.start();
        let mut refused = false;
        self.poll(key, stale_ms, patience, &mut refused).map_err(|error| match error {
            // What the time went for is the value, not the last request on the way to it.
            Error::Timeout(timeout) if refused => Error::Awaited(timeout),
            other => other,
        })
    }

    /// Looks and asks until there is something; `refused` tells whether somebody else had the lease.
    fn poll(&self, key: &[u8], stale_ms: u64, patience: Patience<'_>, refused: &mut bool) -> Result<Turn, Error> {
        let mut pause = limits::LEASE_POLL_MIN;
        loop {
            let stale = match self.look(key, stale_ms, patience)? {
                Some((value, true)) => return Ok(Turn::Value(value)),
                Some((value, false)) => Some(value),
                None => None,
            };
            // At once; and then not before it is likely that something has changed.
            if !*refused || pause >= limits::LEASE_ASK_MIN {
                if let Some(token) = self.lease(key, patience)? {
                    failpoint!("lease.got");
                    return self.look_again(key, token, stale_ms, patience);
                }
                *refused = true;
            }
            if let Some(value) = stale {
                return Ok(Turn::Value(value));
            }
            if held::has(self.location(), key) {
                return Err(Error::OwnLease(shown(key)));
            }
            std::thread::sleep(pause.min(patience.slice()?));
            patience.check_interrupted()?;
            // Before anything is asked for that there is no time left to wait for.
            patience.slice()?;
            pause = (2 * pause).min(limits::LEASE_POLL_MAX);
        }
    }

    /// Looks whether somebody has written the key just before its lease became ours.
    fn look_again(&self, key: &[u8], token: u64, stale_ms: u64, patience: Patience<'_>) -> Result<Turn, Error> {
        match self.look(key, stale_ms, patience) {
            Ok(None | Some((_, false))) => {
                held::add(self.location(), key, token);
                Ok(Turn::Lease(token))
            }
            looked => {
                let given_back = self.unlease(key, token, patience);
                let (value, _) = looked?.unwrap_or_default();
                given_back.map(|_| Turn::Value(value))
            }
        }
    }

    /// The value of a key, and whether it is fresh.
    fn look(&self, key: &[u8], stale_ms: u64, patience: Patience<'_>) -> Result<Option<(Vec<u8>, bool)>, Error> {
        let mut value = Buffer::default();
        if let Some(found) = self.find_in_place(key, &mut value, patience)? {
            return Ok(found.map(|found| (value.take(), is_fresh(&found, stale_ms))));
        }
        if stale_ms == 0 {
            return Ok(self.get_owned(key, patience)?.map(|value| (value, true)));
        }
        let (mut value, mut left_ms) = (Reply::Nil, 0);
        let request = |link: &mut super::link::Link, index: usize, patience: &mut Patience<'_>| {
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
        // -1 is an entry that does not expire.
        let fresh = left_ms == -1 || left_ms >= i64::try_from(stale_ms).unwrap_or(i64::MAX);
        match value {
            Reply::Nil => Ok(None),
            Reply::Bulk(value) => Ok(Some((value, fresh))),
            other => Err(unexpected(other)),
        }
    }
}

/// A key for messages.
fn shown(key: &[u8]) -> String {
    const SHOWN_SIZE: usize = 60;
    let cut = if key.len() > SHOWN_SIZE { "…" } else { "" };
    format!("'{}{cut}'", key[..key.len().min(SHOWN_SIZE)].escape_ascii())
}

/// Whether a value has at least so much time left.
pub fn is_fresh(found: &Found, stale_ms: u64) -> bool {
    stale_ms == 0 || found.expiry.is_none_or(|Expiry(at_ms)| at_ms.saturating_sub(wall_ms()) >= stale_ms)
}
