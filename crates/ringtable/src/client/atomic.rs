//! Changes of what other processes change, too: by version, and within bounds.

use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::replies::{integer, unexpected};
use super::validate::{check_key, check_value};
use super::write_options::{SetWords, Stay};
use crate::command::reply::Reply;
use crate::table::Mark;
use crate::table::lookup::Buffer;

/// What a sum has to keep within, and what a new key gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Milliseconds that a key lives that is new.
    pub ttl_ms_if_new: Option<u64>,
    /// The least sum.
    pub least: Option<i64>,
    /// The largest sum.
    pub most: Option<i64>,
    /// Whether the key may be evicted.
    pub mark: Mark,
}

impl Bounds {
    /// The options of `RING.INCR` that have a number, each with that.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let number = |number: Option<i64>| number.map(|number| number.to_string());
        let options = [
            ("PX", self.ttl_ms_if_new.map(|ttl_ms| ttl_ms.to_string())),
            ("MIN", number(self.least)),
            ("MAX", number(self.most)),
        ];
        options.into_iter().filter_map(|(option, number)| Some((option, number?))).collect()
    }
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
        match self.request(NUMBERS.ring_getv, &[key], patience)? {
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
        stay: Stay,
        version: u64,
        patience: Patience<'_>,
    ) -> Result<Option<u64>, Error> {
        check_key(key)?;
        check_value(value)?;
        let (version, mut digits) = (version.to_string(), String::new());
        let mut words = SetWords::new(key, value);
        words.stay(stay, &mut digits);
        words.if_version(&version);
        match self.request(NUMBERS.set, words.as_slice(), patience)? {
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
        Ok(integer(self.request(NUMBERS.ring_delv, &[key, version.to_string().as_bytes()], patience)?)? == 1)
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
        let (by, options) = (by.to_string(), bounds.options());
        let mut arguments = vec![key, by.as_bytes()];
        arguments.extend(options.iter().flat_map(|(option, number)| [option.as_bytes(), number.as_bytes()]));
        arguments.extend(bounds.mark.word().map(str::as_bytes));
        match self.request(NUMBERS.ring_incr, &arguments, patience)? {
            Reply::Nil => Ok(None),
            other => integer(other).map(Some),
        }
    }
}
