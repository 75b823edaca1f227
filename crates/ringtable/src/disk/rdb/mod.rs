//! Entries in a file of the Redis database format (RDB): what Redis and Valkey load, and what they write.
//!
//! # Format
//!
//! ```text
//! "REDIS0009"                          magic, and the version: 9, which Redis has read since 5.0
//! 250 name value                       a remark (`AUX`); readers pass over those that they do not know
//! 254 number                           the entries behind it are those of this database: 0
//! 251 entries expiring                 how many there are, about
//! [252 time] [249 255] 0 key value     an entry: with a time if it expires (8 bytes, little-endian, milliseconds since
//!                                      1970), and with the highest frequency if it is never evicted
//! 255 checksum                         the end: CRC-64 of all before it, 8 bytes, little-endian
//! ```
//!
//! Key, value, names and texts have their length before them; a length has 1, 2, 5 or 9 bytes ([`encoder`]).
//!
//! # Remarks of our own
//!
//! - `ringtable`: the version of the program. Only in a file with this remark the highest frequency means that an
//!   entry is never evicted: other programs write it for keys that are used often.
//! - `ringtable-crc`: the checksum of all before the remark, as 16 hexadecimal digits, at least once in
//!   [`encoder::BLOCK_SIZE`] bytes, or behind a larger entry. So damage is found near its place, and what is before it
//!   can be told from what is not: the format itself has one checksum, at its end.
//!
//! # Invariants
//!
//! - A decoder believes nothing that it reads: lengths are compared with their limits, and memory is taken for what has
//!   come and not for what is announced. Damage is an error that names the byte.
//! - What a decoder gives of a file of ours may be used behind the next [`decoder::Item::Checked`] only.
//!
//! Source of the format: `rdb.c` of Redis 7.0, `rdb.h` of Redis 7.4 and of Valkey 9.0.

mod format;
mod checksum;
mod entry;
mod error;

// Writing.
pub mod encoder;

// Reading.
mod source;
mod lzf;
pub mod decoder;
mod foreign;

#[cfg(test)]
mod tests;

pub(super) use checksum::Checksum;
pub(super) use decoder::damaged;
pub use decoder::{Decoder, Item, Skipped};
pub use encoder::Encoder;
pub use entry::Entry;
pub use error::DecodeError;
pub(super) use source::Source;
