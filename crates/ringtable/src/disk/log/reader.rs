//! Reads a file of changes: first to see how much of it is whole, then to play it.

use std::io::Read;
use std::path::Path;

use super::super::error::Error;
use super::super::file::DiskFile;
use super::super::rdb::{Checksum, DecodeError, Source, damaged};
use super::file::{HEAD, SUM, begun};
use super::queue::UNEVICTABLE;
use crate::limits;
use crate::table::Expiry;

/// Bytes of a line at most.
const LINE_MAX: usize = 128;
/// Bytes of a nonce and its checksum.
const NONCE_SIZE: usize = 33;
/// Bytes behind damage that are searched for batches that came later.
const SEARCHED_MAX: u64 = 1 << 30;

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// It has this value.
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// When it will be gone.
        expiry: Option<Expiry>,
        /// Whether it is never evicted.
        is_unevictable: bool,
    },
    /// It has another time, or none.
    Renew(&'a [u8], Option<Expiry>),
    /// It is gone.
    Delete(&'a [u8]),
}

/// What a file of changes has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogContents {
    /// How many records.
    pub records: u64,
    /// Bytes of it that are whole: behind them nothing is to be read, nor was ever durable.
    pub whole: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// What stands next in a file.
enum Item {
    Record,
    /// The line behind a batch, which is right.
    Batch,
}

struct Decoder<R> {
    source: Source<R>,
    /// In front of all checksums; `None` in a file that ringtable has not written, which has none.
    nonce: Option<u64>,
    begin: u64,
    words: [Vec<u8>; 5],
    count: usize,
    is_unevictable: bool,
}

impl<R: Read> Decoder<R> {
    fn begin(from: R) -> Result<Self, DecodeError> {
        let mut decoder = Self {
            source: Source::new(from),
            nonce: None,
            begin: 0,
            words: Default::default(),
            count: 0,
            is_unevictable: false,
        };
        if decoder.source.peek()? == Some(b'#') {
            let line = decoder.line()?;
            let nonce = line.strip_prefix(HEAD.as_bytes()).and_then(nonce_of);
            let nonce = nonce.ok_or_else(|| damaged(0, format_args!("a line that begins no log of this version")))?;
            decoder.nonce = Some(nonce);
            decoder.restart();
        }
        Ok(decoder)
    }

    fn restart(&mut self) {
        self.begin = self.source.position();
        self.source.restart_sum(begun(self.nonce.unwrap_or(0)));
    }

    /// What comes next; `None` at the end.
    fn next_item(&mut self) -> Result<Option<Item>, DecodeError> {
        loop {
            let at = self.source.position();
            let Some(first) = self.source.peek()? else { return Ok(None) };
            if first == b'#' {
                let mut sum = self.source.sum();
                let line = self.line()?;
                if let Some(words) = line.strip_prefix(SUM.as_bytes()) {
                    let Some((expected, begin, _)) = batch_end(words) else {
                        return Err(damaged(at, format_args!("a checksum that is none")));
                    };
                    sum.update(&words[16..]);
                    sum.update(b"\n");
                    if self.nonce.is_some() && (expected, begin) != (sum.value(), self.begin) {
                        let from = self.begin;
                        return Err(damaged(at, format_args!("a checksum that is not that of what begins at {from}")));
                    }
                    self.restart();
                    return Ok(Some(Item::Batch));
                }
                self.is_unevictable |= line.len() + 1 == UNEVICTABLE.len() && UNEVICTABLE.starts_with(&line);
                continue;
            }
            self.command()?;
            return Ok(Some(Item::Record));
        }
    }

    /// A line, without its end.
    fn line(&mut self) -> Result<Vec<u8>, DecodeError> {
        let at = self.source.position();
        let mut line = Vec::new();
        loop {
            match self.source.byte()? {
                b'\n' => return Ok(line),
                byte if line.len() < LINE_MAX => line.push(byte),
                _ => return Err(damaged(at, format_args!("a line of more than {LINE_MAX} bytes"))),
            }
        }
    }

    fn number(&mut self, kind: u8, most: usize) -> Result<usize, DecodeError> {
        let at = self.source.position();
        let line = self.line()?;
        let digits = line.strip_prefix(&[kind]).and_then(|rest| rest.strip_suffix(b"\r"));
        let number = digits.and_then(decimal).and_then(|number| usize::try_from(number).ok());
        number
            .filter(|&number| number <= most)
            .ok_or_else(|| damaged(at, format_args!("no number up to {most} behind a '{}'", char::from(kind))))
    }

    fn command(&mut self) -> Result<(), DecodeError> {
        let at = self.source.position();
        self.count = self.number(b'*', self.words.len())?;
        if self.count < 2 {
            return Err(damaged(at, format_args!("a command of fewer than two words")));
        }
        for index in 0..self.count {
            let most = [16, limits::KEY_SIZE_MAX, limits::VALUE_SIZE_MAX, 16, 20][index];
            let size = self.number(b'$', most)?;
            let mut word = std::mem::take(&mut self.words[index]);
            word.clear();
            let appended = self.source.append(size, &mut word);
            self.words[index] = word;
            appended?;
            let end = self.source.position();
            if self.source.bytes::<2>()? != *b"\r\n" {
                return Err(damaged(end, format_args!("a word that goes on where it should end")));
            }
        }
        if self.operation().is_none() {
            let name = String::from_utf8_lossy(&self.words[0]).into_owned();
            return Err(damaged(at, format_args!("the command {name:?}, which is none of a log of ringtable's")));
        }
        Ok(())
    }

    /// What was read.
    fn operation(&self) -> Option<Operation<'_>> {
        let [name, key, value, option, time] = &self.words;
        let expiry = |digits: &[u8]| decimal(digits).map(Expiry);
        Some(match (&name[..], self.count) {
            (b"SET", 3 | 5) => {
                let expiry = match self.count {
                    3 => None,
                    _ if option == b"PXAT" => Some(expiry(time)?),
                    _ => return None,
                };
                Operation::Set { key, value, expiry, is_unevictable: self.is_unevictable }
            }
            (b"DEL", 2) => Operation::Delete(key),
            (b"PERSIST", 2) => Operation::Renew(key, None),
            (b"PEXPIREAT", 3) => Operation::Renew(key, Some(expiry(value)?)),
            _ => return None,
        })
    }
}

/// The nonce of a file, behind what it begins with.
fn nonce_of(words: &[u8]) -> Option<u64> {
    let (nonce, sum) = words.split_at_checked(16)?;
    let nonce = hexadecimal(nonce)?;
    let sum = hexadecimal(sum.strip_prefix(b" ")?)?;
    (Checksum::of(&nonce.to_le_bytes()) == sum).then_some(nonce)
}

/// What stands in the line behind a batch: the checksum, where it begins, how much was on the disk.
fn batch_end(words: &[u8]) -> Option<(u64, u64, u64)> {
    let words: Vec<_> = words.split(|&byte| byte == b' ').collect();
    let [sum, begin, synced] = words[..] else { return None };
    Some((hexadecimal(sum)?, decimal(begin)?, decimal(synced)?))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// Looks how much of a file is whole. `is_last` says whether it may have a torn tail: a file that another one follows
/// was synced as a whole.
///
/// # Errors
/// Those of the system; [`Error::Damaged`] if something is damaged that was on the disk.
pub fn survey_log(path: &Path, is_last: bool) -> Result<LogContents, Error> {
    let file = || Error::system("reading", path, DiskFile::open(path));
    let size = Error::system("reading", path, file()?.size())?;
    let mut contents = LogContents { size, ..LogContents::default() };
    let mut records = 0;
    let outcome = (|| {
        let mut decoder = Decoder::begin(file()?).map_err(|error| Error::of_decoding(path, error, 0))?;
        let is_ours = decoder.nonce.is_some();
        contents.whole = decoder.begin;
        loop {
            match decoder.next_item().map_err(|error| Error::of_decoding(path, error, contents.records))? {
                Some(Item::Record) => {
                    records += 1;
                    decoder.is_unevictable = false;
                    if is_ours {
                        continue;
                    }
                }
                Some(Item::Batch) => {}
                None if is_ours && decoder.begin < size => {
                    let error =
                        damaged(size, format_args!("the end of the file, and no checksum of what is before it"));
                    return Err(Error::of_decoding(path, error, contents.records));
                }
                None => return Ok(()),
            }
            (contents.records, contents.whole) = (records, decoder.source.position());
        }
    })();
    let Err(error) = outcome else { return Ok(contents) };
    // Its first line was on the disk before anybody heard of the file.
    let may_be_torn = matches!(error, Error::Damaged { .. }) && is_last && contents.whole > 0;
    let is_torn = may_be_torn && !was_synced(path, contents.whole, size)?;
    if is_torn { Ok(contents) } else { Err(error) }
}

/// Whether a later batch says that what begins at `begin` was on the disk before it.
fn was_synced(path: &Path, begin: u64, size: u64) -> Result<bool, Error> {
    let search = || -> std::io::Result<bool> {
        let mut file = DiskFile::open(path)?;
        let mut head = vec![0; HEAD.len() + NONCE_SIZE];
        if file.read_exact(&mut head).is_err() {
            return Ok(false);
        }
        let Some(nonce) = head.strip_prefix(HEAD.as_bytes()).and_then(nonce_of) else { return Ok(false) };
        file.seek(begin)?;
        let mut rest = Vec::new();
        file.take(SEARCHED_MAX.min(size - begin)).read_to_end(&mut rest)?;
        let mut at = 0;
        while let Some(found) = find(&rest[at..], SUM.as_bytes()) {
            at += found;
            let end = rest[at..].iter().take(LINE_MAX).position(|&byte| byte == b'\n').unwrap_or(0);
            let line = &rest[at + SUM.len()..(at + end).max(at + SUM.len())];
            if let Some((sum, from, synced)) = batch_end(line)
                && synced > begin
                && let Some(from) = from.checked_sub(begin).and_then(|from| usize::try_from(from).ok())
                && from <= at
            {
                let mut digest = begun(nonce);
                digest.update(&rest[from..at]);
                digest.update(&line[16..]);
                digest.update(b"\n");
                if digest.value() == sum {
                    return Ok(true);
                }
            }
            at += SUM.len();
        }
        Ok(false)
    };
    Error::system("reading", path, search())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Plays the first `whole` bytes of a file, which were looked at before.
///
/// # Errors
/// Those of the system, and of `each`; if the file has changed meanwhile.
pub fn play<E: From<Error>>(
    path: &Path,
    whole: u64,
    mut each: impl FnMut(Operation<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let file = Error::system("reading", path, DiskFile::open(path))?;
    let failed = |error| Error::of_decoding(path, error, 0);
    let mut decoder = Decoder::begin(file.take(whole)).map_err(failed)?;
    while let Some(item) = decoder.next_item().map_err(failed)? {
        if let Item::Record = item {
            if let Some(operation) = decoder.operation() {
                each(operation)?;
            }
            decoder.is_unevictable = false;
        }
    }
    Ok(())
}
