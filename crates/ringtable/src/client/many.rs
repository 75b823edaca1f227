//! Batches: many keys by one call, their requests pipelined or their cache misses overlapped.

use super::blocking::BlockingLink;
use super::error::Error;
use super::handle::Client;
use super::in_place::overlapped;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::reads::{Keys, get_from_server};
use super::replies::{fill, integer, unexpected};
use super::validate::{check_key, check_value};
use super::write_options::{SetWords, Writes};
use crate::command::reply::Reply;
use crate::table::lookup::Sink;

impl Client {
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
        overlapped(reader, keys, sink, |_, _| Ok(None), each, patience)
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
            let ask = |key: &[u8], sink: &mut S| get_from_server(connection, key, sink, patience).map(Some);
            return overlapped(reader, keys, sink, ask, each, patience).map(drop);
        }
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| {
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

    /// Writes many keys, pipelined.
    ///
    /// # Errors
    /// As [`Self::set`]: the first one met; other keys may have been written.
    pub fn set_many(&self, items: &[(&[u8], &[u8])], ttl_ms: Option<u64>, patience: Patience<'_>) -> Result<(), Error> {
        items.iter().try_for_each(|(key, value)| check_key(key).and(check_value(value)))?;
        let digits = ttl_ms.map(|ttl_ms| ttl_ms.to_string());
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| {
            let (key, value) = items[index];
            let mut words = SetWords::new(key, value);
            if let Some(digits) = &digits {
                words.ttl(digits);
            }
            link.push(NUMBERS.set, words.as_slice(), patience)
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
        self.count_of_each(NUMBERS.del, keys, patience)
    }

    /// Asks one thing of each key, pipelined, whose answers are counts. Returns their sum. The keys were checked.
    pub(super) fn count_of_each(&self, number: u16, keys: &[&[u8]], patience: Patience<'_>) -> Result<u64, Error> {
        let mut count = 0;
        self.of_each(number, keys, patience, |reply| {
            count += integer(reply)? as u64;
            Ok(())
        })?;
        Ok(count)
    }

    /// Asks one thing of each key, pipelined. The keys were checked.
    pub(super) fn of_each(
        &self,
        number: u16,
        keys: &[&[u8]],
        patience: Patience<'_>,
        mut each: impl FnMut(Reply) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| {
            link.push(number, &[keys[index]], patience)
        };
        self.pipeline(keys.len(), request, patience, |_, reply| each(reply))
    }
}
