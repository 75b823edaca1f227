//! Calls that change what goes with a value, and not the value: those that take it out, that give it another time to
//! live, or none, and that deal with all keys which begin alike.

use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::replies::{LeftMs, bytes, integer, left_ms, unexpected};
use super::validate::check_key;
use crate::command::float::parse_float;
use crate::command::reply::Reply;

/// The reply of a command that answers with a value, or with nil where there is none.
fn value(reply: Reply) -> Result<Option<Vec<u8>>, Error> {
    match reply {
        Reply::Nil => Ok(None),
        other => bytes(other).map(Some),
    }
}

impl Client {
    /// Deletes a key. Returns the value that it had, as one step.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn get_and_delete(&self, key: &[u8], patience: Patience<'_>) -> Result<Option<Vec<u8>>, Error> {
        check_key(key)?;
        value(self.request(NUMBERS.getdel, &[key], patience)?)
    }

    /// Gives a key a new time to live, or none. Returns its value, as one step.
    ///
    /// # Errors
    /// No memory for the first time to live of a small value; those of the connection.
    pub fn get_and_expire(
        &self,
        key: &[u8],
        ttl_ms: Option<u64>,
        patience: Patience<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        check_key(key)?;
        let digits = ttl_ms.map(|ttl_ms| ttl_ms.to_string());
        let reply = match &digits {
            Some(digits) => self.request(NUMBERS.getex, &[key, b"PX", digits.as_bytes()], patience)?,
            None => self.request(NUMBERS.getex, &[key, b"PERSIST"], patience)?,
        };
        value(reply)
    }

    /// Takes the time to live of a key away. Returns whether it had one.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn persist(&self, key: &[u8], patience: Patience<'_>) -> Result<bool, Error> {
        check_key(key)?;
        Ok(integer(self.request(NUMBERS.persist, &[key], patience)?)? == 1)
    }

    /// Has the server take note that keys are used, pipelined. Returns how many there are.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn touch(&self, keys: &[&[u8]], patience: Patience<'_>) -> Result<u64, Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        self.count_of_each(NUMBERS.touch, keys, patience)
    }

    /// What is left to each of many keys, pipelined.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn ttl_many(&self, keys: &[&[u8]], patience: Patience<'_>) -> Result<Vec<LeftMs>, Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut left = Vec::new();
        left.try_reserve_exact(keys.len()).map_err(|_| Error::NoRoom(keys.len() * size_of::<LeftMs>()))?;
        self.of_each(NUMBERS.pttl, keys, patience, |reply| {
            left.push(left_ms(reply)?);
            Ok(())
        })?;
        Ok(left)
    }

    /// Adds to the number that a key holds (0 if there is none). Returns the sum.
    ///
    /// # Errors
    /// [`Error::Refused`] if it holds no number, or the sum would be infinite.
    pub fn increment_float(&self, key: &[u8], by: f64, patience: Patience<'_>) -> Result<f64, Error> {
        check_key(key)?;
        let digits = bytes(self.request(NUMBERS.incrbyfloat, &[key, by.to_string().as_bytes()], patience)?)?;
        parse_float(&digits).ok_or_else(|| unexpected(Reply::Bulk(digits)))
    }

    /// Deletes all keys that begin with `prefix`. Returns how many it has deleted.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn delete_prefix(&self, prefix: &[u8], patience: Patience<'_>) -> Result<u64, Error> {
        check_key(prefix)?;
        Ok(integer(self.request(NUMBERS.ring_delprefix, &[prefix], patience)?)? as u64)
    }
}
