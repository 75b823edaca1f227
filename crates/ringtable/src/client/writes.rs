//! Writes to single keys, and to all of them.

use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::patience::Patience;
use super::replies::{integer, unexpected};
use super::validate::{check_key, check_value};
use super::write_options::{Condition, SetWords, Stay, Writes};
use crate::command::reply::Reply;
use crate::limits;

impl Client {
    /// Writes a key. Returns whether it was done: with [`Writes::Posted`], always `true`.
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
        with_words(key, value, stay, condition, |words| {
            if writes == Writes::Posted {
                self.post(NUMBERS.set, words, patience)?;
                return Ok(true);
            }
            match self.request(NUMBERS.set, words, patience)? {
                Reply::Status(_) => Ok(true),
                Reply::Nil => Ok(false),
                other => Err(unexpected(other)),
            }
        })
    }

    /// Sets a value as [`Self::set`] does with [`Writes::Posted`], if nothing has to be waited for. Returns whether it
    /// was sent; if not, nothing was. The value has at most [`limits::POSTED_AT_ONCE_MAX`] bytes.
    ///
    /// # Errors
    /// Those of a posted write.
    pub fn try_post_set(&self, key: &[u8], value: &[u8], stay: Stay, condition: Condition) -> Result<bool, Error> {
        check_key(key)?;
        if value.len() > limits::POSTED_AT_ONCE_MAX {
            return Ok(false);
        }
        with_words(key, value, stay, condition, |words| self.try_post(NUMBERS.set, words))
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
}

/// Sends the words of a `SET`.
#[inline]
fn with_words<R>(key: &[u8], value: &[u8], stay: Stay, condition: Condition, send: impl FnOnce(&[&[u8]]) -> R) -> R {
    let mut digits = String::new();
    let mut words = SetWords::new(key, value);
    words.stay(stay, &mut digits);
    words.condition(condition);
    send(words.as_slice())
}
