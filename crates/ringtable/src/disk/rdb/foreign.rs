//! Values that are no strings: how long they are, so that they can be passed over.
//!
//! # Not promised
//!
//! A type that came later than this is an error, since nobody here knows how long its values are.

use std::io::Read;

use super::decoder::{Decoder, Dialect, damaged};
use super::error::DecodeError;

/// What the pieces of a module's value are.
mod module {
    pub const END: u64 = 0;
    pub const SIGNED: u64 = 1;
    pub const UNSIGNED: u64 = 2;
    pub const FLOAT: u64 = 3;
    pub const DOUBLE: u64 = 4;
    pub const STRING: u64 = 5;
}

impl<R: Read> Decoder<R> {
    /// Passes over a value, and returns what such values are called. `at` is where its type stands.
    pub(super) fn skip_value(&mut self, code: u8, at: u64) -> Result<&'static str, DecodeError> {
        Ok(match (code, self.dialect()) {
            (1, _) => self.skip_strings(1, "lists")?,
            (2, _) => self.skip_strings(1, "sets")?,
            (3, _) => {
                for _ in 0..self.length()? {
                    self.skip_string()?;
                    // A number as text, or one byte for what is no number, or infinite.
                    let size = self.source().byte()?;
                    self.source().skip(if size >= 253 { 0 } else { u64::from(size) })?;
                }
                "sorted sets"
            }
            (4, _) => self.skip_strings(2, "hashes")?,
            (5, _) => {
                for _ in 0..self.length()? {
                    self.skip_string()?;
                    self.source().skip(8)?;
                }
                "sorted sets"
            }
            (7, _) => {
                self.length()?;
                self.skip_module()?;
                "values of modules"
            }
            (9 | 13 | 16, _) => self.skip_packed("hashes")?,
            (10, _) => self.skip_packed("lists")?,
            (11 | 20, _) => self.skip_packed("sets")?,
            (12 | 17, _) => self.skip_packed("sorted sets")?,
            (14, _) => self.skip_strings(1, "lists")?,
            (15 | 19 | 21, _) => {
                self.skip_stream(code)?;
                "streams"
            }
            (18, _) => {
                for _ in 0..self.length()? {
                    self.length()?;
                    self.skip_string()?;
                }
                "lists"
            }
            (22, Dialect::Valkey) => {
                for _ in 0..self.length()? {
                    self.skip_string()?;
                    self.skip_string()?;
                    self.source().skip(8)?;
                }
                "hashes"
            }
            (22 | 24, Dialect::Redis) => {
                self.source().skip(if code == 24 { 8 } else { 0 })?;
                for _ in 0..self.length()? {
                    self.length()?;
                    self.skip_string()?;
                    self.skip_string()?;
                }
                "hashes"
            }
            (23 | 25, Dialect::Redis) => {
                self.source().skip(if code == 25 { 8 } else { 0 })?;
                self.skip_packed("hashes")?
            }
            _ => return Err(DecodeError::Unknown { at, what: format!("a value of type {code}") }),
        })
    }

    fn skip_packed(&mut self, name: &'static str) -> Result<&'static str, DecodeError> {
        self.skip_string()?;
        Ok(name)
    }

    fn skip_strings(&mut self, strings_each: u64, name: &'static str) -> Result<&'static str, DecodeError> {
        for _ in 0..self.length()?.saturating_mul(strings_each) {
            self.skip_string()?;
        }
        Ok(name)
    }

    fn skip_lengths(&mut self, count: u64) -> Result<(), DecodeError> {
        (0..count).try_for_each(|_| self.length().map(drop))
    }

    fn skip_stream(&mut self, code: u8) -> Result<(), DecodeError> {
        for _ in 0..self.length()? {
            self.skip_string()?;
            self.skip_string()?;
        }
        // How many there are, the last number; in later versions the first one, the highest deleted, how many there
        // ever were.
        self.skip_lengths(if code >= 19 { 8 } else { 3 })?;
        for _ in 0..self.length()? {
            self.skip_string()?;
            self.skip_lengths(if code >= 19 { 3 } else { 2 })?;
            for _ in 0..self.length()? {
                // A number, and when it was delivered; how often.
                self.source().skip(16 + 8)?;
                self.length()?;
            }
            for _ in 0..self.length()? {
                self.skip_string()?;
                self.source().skip(if code >= 21 { 16 } else { 8 })?;
                let pending = self.length()?;
                self.source().skip(pending.saturating_mul(16))?;
            }
        }
        Ok(())
    }

    /// Passes over the pieces of a module's value.
    pub(super) fn skip_module(&mut self) -> Result<(), DecodeError> {
        loop {
            let at = self.position();
            match self.length()? {
                module::END => return Ok(()),
                module::SIGNED | module::UNSIGNED => {
                    self.length()?;
                }
                module::FLOAT => self.source().skip(4)?,
                module::DOUBLE => self.source().skip(8)?,
                module::STRING => self.skip_string()?,
                other => return Err(damaged(at, format_args!("a piece of kind {other} of a module's value"))),
            }
        }
    }
}
