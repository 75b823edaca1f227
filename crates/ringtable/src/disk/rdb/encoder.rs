//! Writes entries as a file: see [`super`] for the format.
//!
//! # Lengths
//!
//! ```text
//! 00llllll                          below 64
//! 01llllll llllllll                 below 16,384, the higher bits first
//! 10000000 and 4 bytes, 10000001 and 8 bytes, the highest first
//! ```

use std::io::{self, Write};

use super::checksum::Checksum;
use super::entry::Entry;
use super::format::{FREQUENCY_UNEVICTABLE, MAGIC, REMARK_CHECKSUM, REMARK_PROGRAM, STRING, opcode};

/// Bytes behind which there is a checksum, as soon as an entry ends.
pub const BLOCK_SIZE: u64 = 4 << 20;
/// Bytes that are gathered before they are written. A value of so many is written from where it is.
const BUFFER_SIZE: usize = 256 << 10;

/// Writes entries, one after the other.
pub struct Encoder<W> {
    to: W,
    buffer: Vec<u8>,
    sum: Checksum,
    /// Bytes that were given to `to`.
    written: u64,
    /// Where the block begins that has no checksum yet.
    block_start: u64,
}

impl<W: Write> Encoder<W> {
    /// Begins a file of about so many entries, of which so many expire.
    ///
    /// # Errors
    /// Those of `to`, here and below.
    pub fn begin(to: W, entries: u64, expiring: u64) -> io::Result<Self> {
        let mut buffer = Vec::with_capacity(BUFFER_SIZE);
        buffer.extend_from_slice(MAGIC);
        let mut encoder = Self { to, buffer, sum: Checksum::new(), written: 0, block_start: 0 };
        encoder.remark(REMARK_PROGRAM, env!("CARGO_PKG_VERSION").as_bytes());
        encoder.buffer.extend_from_slice(&[opcode::DATABASE, 0, opcode::SIZES]);
        push_length(&mut encoder.buffer, entries as usize);
        push_length(&mut encoder.buffer, expiring as usize);
        Ok(encoder)
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// See [`Self::begin`].
    #[inline]
    pub fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if let Some(expiry) = entry.expiry {
            self.buffer.push(opcode::EXPIRY_MS);
            self.buffer.extend_from_slice(&expiry.0.to_le_bytes());
        }
        if entry.is_unevictable {
            self.buffer.extend_from_slice(&[opcode::FREQUENCY, FREQUENCY_UNEVICTABLE]);
        }
        self.buffer.push(STRING);
        push_length(&mut self.buffer, entry.key.len());
        self.buffer.extend_from_slice(entry.key);
        push_length(&mut self.buffer, entry.value.len());
        if entry.value.len() >= BUFFER_SIZE {
            self.flush()?;
            self.sum.update(entry.value);
            self.to.write_all(entry.value)?;
            self.written += entry.value.len() as u64;
        } else {
            self.buffer.extend_from_slice(entry.value);
        }
        if self.buffer.len() >= BUFFER_SIZE || self.size() - self.block_start >= BLOCK_SIZE {
            self.flush()?;
            if self.written - self.block_start >= BLOCK_SIZE {
                self.checksum();
            }
        }
        Ok(())
    }

    /// Bytes of the file so far.
    pub fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Ends the file. Returns how many bytes it has, and what it was written to.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn finish(mut self) -> io::Result<(u64, W)> {
        self.flush()?;
        self.checksum();
        self.buffer.push(opcode::END);
        self.flush()?;
        self.buffer.extend_from_slice(&self.sum.value().to_le_bytes());
        self.flush()?;
        self.to.flush()?;
        Ok((self.written, self.to))
    }

    /// Writes what was gathered.
    fn flush(&mut self) -> io::Result<()> {
        self.sum.update(&self.buffer);
        self.to.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends a block. All of it was written.
    fn checksum(&mut self) {
        let sum = format!("{:016x}", self.sum.value());
        self.remark(REMARK_CHECKSUM, sum.as_bytes());
        self.block_start = self.written;
    }

    fn remark(&mut self, name: &[u8], text: &[u8]) {
        self.buffer.push(opcode::REMARK);
        for word in [name, text] {
            push_length(&mut self.buffer, word.len());
            self.buffer.extend_from_slice(word);
        }
    }
}

#[inline]
fn push_length(out: &mut Vec<u8>, length: usize) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}
