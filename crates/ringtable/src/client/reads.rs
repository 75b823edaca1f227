//! Reads: in place where the table is mapped, else by asking the server.

use super::connection::Connection;
use super::error::Error;
use super::handle::Client;
use super::in_place::{TableReader, found};
use super::numbers::NUMBERS;
use super::options::Reads;
use super::patience::Patience;
use super::replies::{LeftMs, bucket, bytes, fill, integer, left_ms, unexpected};
use super::validate::check_key;
use crate::command::pattern_of_prefix;
use crate::command::reply::Reply;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::lookup::{Buffer, Found, Presence, Sink};
use crate::table::{Pairs, Want};

/// Keys that a step of a walk gives at least, as far as there are.
const SCANNED_AT_ONCE: usize = 500;

/// Whose posted writes a read has to wait for.
pub(super) enum Keys<'a> {
    One(&'a [u8]),
    Many,
}

/// A value, and its version if that is known.
type Versioned = (Vec<u8>, Option<u64>);

impl Client {
    /// The reader, if reads are direct, the server lives, and no posted write of ours to a key with that hash is on
    /// its way.
    #[inline]
    pub(super) fn direct(&self, keys: Keys<'_>, patience: Patience<'_>) -> Result<Option<&TableReader>, Error> {
        self.direct_on(self.connection(patience)?, keys, patience)
    }

    /// The same over this connection, whose server lived a moment ago: whoever has got it from [`Self::connection`] has
    /// looked.
    #[inline]
    pub(super) fn direct_on<'a>(
        &self,
        connection: &'a Connection,
        keys: Keys<'_>,
        patience: Patience<'_>,
    ) -> Result<Option<&'a TableReader>, Error> {
        let Some(reader) = connection.reader.as_ref().filter(|_| self.options.reads == Reads::Direct) else {
            return Ok(None);
        };
        self.settle(connection, keys, patience)?;
        Ok(Some(reader))
    }

    /// Waits until no posted write of ours to these keys is on its way.
    #[inline]
    pub(super) fn settle(&self, connection: &Connection, keys: Keys<'_>, patience: Patience<'_>) -> Result<(), Error> {
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
    pub(super) fn try_direct(&self) -> Result<Option<&TableReader>, Error> {
        let connection = self.connection.peek();
        if self.options.reads != Reads::Direct || !connection.is_current() || connection.posted() > 0 {
            return Ok(None);
        }
        let Some(reader) = &connection.reader else { return Ok(None) };
        connection.check_alive()?;
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
        found(reader.get(key, wall_ms, sink))
    }

    /// Looks up a key in place; outer `None` if the server has to be asked.
    #[inline]
    pub(super) fn find_in_place(
        &self,
        key: &[u8],
        sink: &mut impl Sink,
        patience: Patience<'_>,
    ) -> Result<Option<Option<Found>>, Error> {
        check_key(key)?;
        let Some(reader) = self.direct(Keys::One(key), patience)? else { return Ok(None) };
        found(reader.get(key, wall_ms, sink))
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
    pub(super) fn find_owned(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Versioned>, Error> {
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

    pub(super) fn ask_for(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Vec<u8>>, Error> {
        ask_for(self.connection(patience)?, key, patience)
    }

    /// What is left to a key.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn ttl_ms(&self, key: &[u8], patience: Patience<'_>) -> Result<LeftMs, Error> {
        check_key(key)?;
        left_ms(self.request(NUMBERS.pttl, &[key], patience)?)
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn contains(&self, key: &[u8], patience: Patience<'_>) -> Result<bool, Error> {
        self.get(key, &mut Presence, patience)
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

    /// One step of a walk over all keys that begin with `prefix`, from cursor 0 until it is 0 again. A key that is
    /// there all the while comes exactly once. In place a step waits for nobody, and ends after
    /// [`limits::WALK_STEPS_MAX`] buckets though it has found no key: among many empty buckets the caller has its say,
    /// too.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn scan(&self, cursor: u64, prefix: &[u8], patience: Patience<'_>) -> Result<(u64, Vec<Vec<u8>>), Error> {
        check_key(prefix)?;
        if let Some(reader) = self.direct(Keys::Many, patience)? {
            let (mut pairs, mut next, mut steps) = (Pairs::default(), cursor, 0);
            while let Ok(following) = reader.scan(next, Want::Keys, wall_ms, &mut pairs) {
                (next, steps) = (following, steps + 1);
                if next == 0 || pairs.len() >= SCANNED_AT_ONCE || steps >= limits::WALK_STEPS_MAX {
                    break;
                }
            }
            // A bucket too contended to read in place is left to the server, at the next step or right now.
            if steps > 0 {
                let keys = pairs.iter().map(|pair| pair.key).filter(|key| key.starts_with(prefix));
                return Ok((next, keys.map(<[u8]>::to_vec).collect()));
            }
        }
        self.scan_at_server(cursor, prefix, patience)
    }

    /// The same, by the server.
    pub(super) fn scan_at_server(
        &self,
        cursor: u64,
        prefix: &[u8],
        patience: Patience<'_>,
    ) -> Result<(u64, Vec<Vec<u8>>), Error> {
        let (cursor, count, pattern) = (cursor.to_string(), SCANNED_AT_ONCE.to_string(), pattern_of_prefix(prefix));
        let arguments: [&[u8]; 5] = [cursor.as_bytes(), b"COUNT", count.as_bytes(), b"MATCH", &pattern];
        let arguments = if prefix.is_empty() { &arguments[..3] } else { &arguments };
        let Reply::Array(parts) = self.request(NUMBERS.scan, arguments, patience)? else {
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
}

pub(super) fn ask_for(connection: &Connection, key: &[u8], patience: Patience<'_>) -> Result<Option<Vec<u8>>, Error> {
    match connection.request(NUMBERS.get, &[key], patience)? {
        Reply::Nil => Ok(None),
        Reply::Bulk(value) => Ok(Some(value)),
        other => Err(unexpected(other)),
    }
}

pub(super) fn get_from_server(
    connection: &Connection,
    key: &[u8],
    sink: &mut impl Sink,
    patience: Patience<'_>,
) -> Result<bool, Error> {
    let value = ask_for(connection, key, patience)?;
    value.as_deref().map_or(Ok(()), |value| fill(sink, value))?;
    Ok(value.is_some())
}
