//! Reads the entries of a file: see [`super`] for the format.
//!
//! # What a table cannot have
//!
//! Values that are no strings, entries of other databases than the first one, and keys and values that are too large
//! are passed over, and given as [`Item::Skipped`], so that they can be counted or refused. Functions, and what modules
//! have left beside the entries, too. Remarks, sizes and frequencies of use are passed over silently.

use std::io::Read;

use super::entry::Entry;
use super::error::DecodeError;
use super::format::{FREQUENCY_UNEVICTABLE, REMARK_CHECKSUM, REMARK_PROGRAM, STRING, opcode};
use super::lzf;
use super::source::Source;
use crate::limits;
use crate::table::Expiry;

/// Bytes of the name of a remark, and of its text, that are kept.
const REMARK_SIZE_MAX: usize = 64;

/// What a file says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// An entry: see [`Decoder::entry`].
    Entry,
    /// Something that a table cannot have.
    Skipped(Skipped),
    /// All that came before is as it was written: a checksum says so.
    Checked,
    /// Nothing: that was all, and it is as it was written. If the file has no checksum, nobody knows that.
    End {
        /// Whether it has a checksum.
        is_checked: bool,
    },
}

/// What was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skipped {
    /// A value of another type, which is this in the plural.
    Type(&'static str),
    /// An entry of another database than the first one.
    OtherDatabase,
    /// A key of more than [`limits::KEY_SIZE_MAX`] bytes.
    LongKey,
    /// A value of more than [`limits::VALUE_SIZE_MAX`] bytes.
    LargeValue,
    /// A library of functions.
    Functions,
    /// What a module has left.
    ModuleData,
}

impl Skipped {
    /// What it is, in the plural.
    pub fn name(self) -> &'static str {
        match self {
            Self::Type(name) => name,
            Self::OtherDatabase => "entries of other databases",
            Self::LongKey => "keys of more than 65,535 bytes",
            Self::LargeValue => "values of more than 512 MiB",
            Self::Functions => "libraries of functions",
            Self::ModuleData => "data of modules",
        }
    }
}

/// Who has written a file, as far as that says what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Redis,
    Valkey,
}

/// Reads a file from its beginning to its end, once.
pub struct Decoder<R> {
    source: Source<R>,
    dialect: Dialect,
    version: u32,
    /// Whether a program of ours has written it.
    is_ours: bool,
    database: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    expiry: Option<Expiry>,
    is_unevictable: bool,
}

impl<R: Read> Decoder<R> {
    /// Begins with the first bytes of a file.
    ///
    /// # Errors
    /// If it is none that can be read here.
    pub fn begin(from: R) -> Result<Self, DecodeError> {
        let mut source = Source::new(from);
        let magic: [u8; 9] = source.bytes().map_err(|error| match error {
            DecodeError::Damaged { .. } => no_magic(),
            error => error,
        })?;
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u32>().ok();
        let (dialect, version) = match (magic.strip_prefix(b"REDIS"), magic.strip_prefix(b"VALKEY")) {
            (Some(digits), _) => (Dialect::Redis, number(digits).ok_or_else(no_magic)?),
            (_, Some(digits)) => (Dialect::Valkey, number(digits).ok_or_else(no_magic)?),
            _ => return Err(no_magic()),
        };
        let (key, value, expiry) = (Vec::new(), Vec::new(), None);
        let (database, is_ours, is_unevictable) = (0, false, false);
        Ok(Self { source, dialect, version, is_ours, database, key, value, expiry, is_unevictable })
    }

    /// Whether a file begins like one that can be read here.
    pub fn has_magic(begin: &[u8]) -> bool {
        begin.starts_with(b"REDIS0") || begin.starts_with(b"VALKEY")
    }

    /// How many bytes of the file were read.
    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// Whether a program of ours has written it, as far as it was read: then there is an [`Item::Checked`] behind at
    /// most [`super::encoder::BLOCK_SIZE`] bytes and an entry.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// What the file says next. Nothing may be asked behind the end, or behind an error.
    ///
    /// # Errors
    /// If it is damaged there.
    pub fn next_item(&mut self) -> Result<Item, DecodeError> {
        (self.expiry, self.is_unevictable) = (None, false);
        loop {
            let at = self.source.position();
            let code = self.source.byte()?;
            match code {
                opcode::END => return self.end(at),
                opcode::REMARK => {
                    if self.remark(at)? {
                        return Ok(Item::Checked);
                    }
                }
                opcode::DATABASE => self.database = self.length()?,
                opcode::SIZES => {
                    self.length()?;
                    self.length()?;
                }
                opcode::EXPIRY_MS => {
                    let ms = u64::from_le_bytes(self.source.bytes()?);
                    // What has a time before 1970 was gone then.
                    self.expiry = Some(Expiry(if ms > i64::MAX as u64 { 0 } else { ms }));
                }
                opcode::EXPIRY_S => {
                    let seconds = i32::from_le_bytes(self.source.bytes()?);
                    self.expiry = Some(Expiry(u64::try_from(seconds).unwrap_or(0) * 1_000));
                }
                opcode::FREQUENCY => {
                    self.is_unevictable = self.source.byte()? == FREQUENCY_UNEVICTABLE && self.is_ours;
                }
                opcode::IDLE => {
                    self.length()?;
                }
                opcode::SLOT_INFO => {
                    for _ in 0..3 {
                        self.length()?;
                    }
                }
                opcode::SLOT_IMPORT => {
                    self.skip_string()?;
                    for _ in 0..self.length()?.saturating_mul(2) {
                        self.length()?;
                    }
                }
                opcode::FUNCTION => {
                    self.skip_string()?;
                    return Ok(Item::Skipped(Skipped::Functions));
                }
                opcode::MODULE_REMARK => {
                    for _ in 0..3 {
                        self.length()?;
                    }
                    self.skip_module()?;
                    return Ok(Item::Skipped(Skipped::ModuleData));
                }
                STRING => return Ok(self.read_entry()?.map_or(Item::Entry, Item::Skipped)),
                other => {
                    self.skip_string()?;
                    let name = self.skip_value(other, at)?;
                    return Ok(Item::Skipped(Skipped::Type(name)));
                }
            }
        }
    }

    /// The entry that was read last.
    #[inline]
    pub fn entry(&self) -> Entry<'_> {
        let Self { key, value, expiry, is_unevictable, .. } = self;
        Entry { key, value, expiry: *expiry, is_unevictable: *is_unevictable }
    }

    /// Reads key and value, unless a table cannot have them.
    #[inline]
    fn read_entry(&mut self) -> Result<Option<Skipped>, DecodeError> {
        self.key.clear();
        let (mut key, mut value) = (std::mem::take(&mut self.key), std::mem::take(&mut self.value));
        let has_key = self.string(limits::KEY_SIZE_MAX, &mut key);
        self.key = key;
        if !has_key? {
            self.skip_string()?;
            return Ok(Some(Skipped::LongKey));
        }
        value.clear();
        let has_value = self.string(limits::VALUE_SIZE_MAX, &mut value);
        self.value = value;
        Ok(if !has_value? {
            Some(Skipped::LargeValue)
        } else if self.database != 0 {
            Some(Skipped::OtherDatabase)
        } else {
            None
        })
    }

    /// Reads a remark. Returns whether it is a checksum, which is right.
    fn remark(&mut self, at: u64) -> Result<bool, DecodeError> {
        let sum = self.source.sum_before_last();
        let (mut name, mut text) = (Vec::new(), Vec::new());
        let is_short = self.string(REMARK_SIZE_MAX, &mut name)? & self.string(REMARK_SIZE_MAX, &mut text)?;
        if is_short && name == REMARK_PROGRAM {
            self.is_ours = true;
        }
        if !is_short || name != REMARK_CHECKSUM {
            return Ok(false);
        }
        let expected = std::str::from_utf8(&text).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        if expected == Some(sum) {
            return Ok(true);
        }
        let what = format!("a checksum that is not that of the bytes before it ({sum:016x})");
        Err(DecodeError::Damaged { at, what })
    }

    fn end(&mut self, at: u64) -> Result<Item, DecodeError> {
        let mut is_checked = false;
        // The first versions have no checksum.
        if self.version >= 5 {
            let first = self.source.byte()?;
            let sum = self.source.sum_before_last();
            let rest: [u8; 7] = self.source.bytes()?;
            let expected = rest.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)) << 8 | u64::from(first);
            // Redis writes 0 where it was told to compute none.
            is_checked = expected != 0;
            if is_checked && expected != sum {
                let what = format!("a checksum that is not that of the bytes before it ({sum:016x})");
                return Err(DecodeError::Damaged { at: at + 1, what });
            }
        }
        if !self.source.is_at_end()? {
            let what = "more, where the file should end".into();
            return Err(DecodeError::Damaged { at: self.source.position(), what });
        }
        Ok(Item::End { is_checked })
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn source(&mut self) -> &mut Source<R> {
        &mut self.source
    }

    /// Reads a length, which is no number in disguise.
    #[inline]
    pub(super) fn length(&mut self) -> Result<u64, DecodeError> {
        let at = self.source.position();
        match self.length_or_kind()? {
            Ok(length) => Ok(length),
            Err(kind) => Err(damaged(at, format_args!("a string of kind {kind}, where a length should be"))),
        }
    }

    /// Reads a length, or the kind of a string that is written in another way.
    #[inline]
    fn length_or_kind(&mut self) -> Result<Result<u64, u8>, DecodeError> {
        let at = self.source.position();
        let first = self.source.byte()?;
        Ok(Ok(match first >> 6 {
            0 => u64::from(first),
            1 => u64::from(first & 0x3f) << 8 | u64::from(self.source.byte()?),
            3 => return Ok(Err(first & 0x3f)),
            _ => match first {
                0x80 => u64::from(u32::from_be_bytes(self.source.bytes()?)),
                0x81 => u64::from_be_bytes(self.source.bytes()?),
                _ => return Err(damaged(at, format_args!("{first}, which begins no length"))),
            },
        }))
    }

    /// Appends a string to `out`, and returns whether it has at most `most` bytes: else it is passed over.
    #[inline]
    fn string(&mut self, most: usize, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let at = self.source.position();
        match self.length_or_kind()? {
            Ok(size) if size <= most as u64 => {
                self.source.append(size as usize, out)?;
                Ok(true)
            }
            Ok(size) => {
                self.source.skip(size)?;
                Ok(false)
            }
            Err(kind) => self.encoded(kind, at, most, out),
        }
    }

    /// Appends a string that is written as a number, or compressed.
    fn encoded(&mut self, kind: u8, at: u64, most: usize, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let number = match kind {
            0 => i32::from(i8::from_le_bytes(self.source.bytes()?)),
            1 => i32::from(i16::from_le_bytes(self.source.bytes()?)),
            2 => i32::from_le_bytes(self.source.bytes()?),
            3 => return self.compressed(at, most, out),
            _ => return Err(damaged(at, format_args!("a string of kind {kind}, of which there is none"))),
        };
        out.extend_from_slice(number.to_string().as_bytes());
        Ok(true)
    }

    fn compressed(&mut self, at: u64, most: usize, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let (packed_size, size) = (self.length()?, self.length()?);
        // LZF makes no more than 264 bytes of three: more is a lie, and would be a way to fill the memory.
        if size > packed_size.saturating_mul(88) {
            return Err(damaged(at, format_args!("{packed_size} bytes that were {size} bytes, it says")));
        }
        if size > most as u64 || packed_size > size.saturating_mul(2).saturating_add(16) {
            self.source.skip(packed_size)?;
            return Ok(false);
        }
        let mut packed = Vec::new();
        self.source.append(packed_size as usize, &mut packed)?;
        let size = size as usize;
        out.try_reserve(size).map_err(|_| DecodeError::OutOfMemory { at, size })?;
        lzf::decompress(&packed, size, out)
            .map(|()| true)
            .ok_or_else(|| damaged(at, format_args!("a compressed string that is damaged")))
    }

    /// Passes over a string.
    pub(super) fn skip_string(&mut self) -> Result<(), DecodeError> {
        let at = self.source.position();
        match self.length_or_kind()? {
            Ok(size) => self.source.skip(size),
            Err(3) => {
                let packed_size = self.length()?;
                self.length()?;
                self.source.skip(packed_size)
            }
            Err(kind @ 0..3) => self.source.skip(1 << kind),
            Err(kind) => Err(damaged(at, format_args!("a string of kind {kind}, of which there is none"))),
        }
    }
}

/// That something damaged stands at a byte.
#[cold]
pub fn damaged(at: u64, what: std::fmt::Arguments<'_>) -> DecodeError {
    DecodeError::Damaged { at, what: what.to_string() }
}

#[cold]
fn no_magic() -> DecodeError {
    damaged(0, format_args!("neither \"REDIS\" nor \"VALKEY\" and a version, with which such a file begins"))
}
