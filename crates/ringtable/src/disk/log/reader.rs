//! Reads a file of changes: first to see how much of it is whole, then to play it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::error::Error;
use super::super::file::DiskFile;
use super::super::rdb::{Checksum, DecodeError, Source, damaged};
use super::file::{HEAD, SUM, begun, of_head};
use super::manifest::changes_path;
use super::queue::UNEVICTABLE;
use crate::limits;
use crate::table::Expiry;

/// Bytes of a line at most.
const LINE_MAX: usize = 128;
/// Bytes behind damage that are searched for batches that came later: more than a server ever writes without a sync.
const SEARCHED_MAX: u64 = 256 << 20;

/// With what Redis begins to write, after each start.
const REDIS_BEGINS: &[u8] = b"*2\r\n$6\r\nSELECT\r\n";
/// Records between two looks at whether to go on.
const RECORDS_PER_CHECK: u64 = 4_096;

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
    /// In front of all checksums.
    nonce: u64,
    /// Bytes of the file before this one that were on the disk when this one was begun.
    before: u64,
    /// Where the batch begins.
    begin: u64,
    words: [Vec<u8>; 5],
    count: usize,
    is_unevictable: bool,
}

impl<R: Read> Decoder<R> {
    fn begin(from: R) -> Result<Self, DecodeError> {
        let mut decoder = Self {
            source: Source::new(from),
            nonce: 0,
            before: 0,
            begin: 0,
            words: Default::default(),
            count: 0,
            is_unevictable: false,
        };
        let line = decoder.line()?;
        let words = line.strip_prefix(HEAD.as_bytes()).and_then(head);
        let words = words.ok_or_else(|| damaged(0, format_args!("a line that begins no log of this version")))?;
        (decoder.nonce, decoder.before) = words;
        decoder.restart();
        Ok(decoder)
    }

    fn restart(&mut self) {
        self.begin = self.source.position();
        self.source.restart_sum(begun(self.nonce));
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
                    if (expected, begin) != (sum.value(), self.begin) {
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

/// What the first line of a file says behind its beginning: the nonce, and how much of the file before is whole.
fn head(words: &[u8]) -> Option<(u64, u64)> {
    let words: Vec<_> = words.split(|&byte| byte == b' ').collect();
    let [nonce, before, sum] = words[..] else { return None };
    let (nonce, before) = (hexadecimal(nonce)?, hexadecimal(before)?);
    (of_head(nonce, before) == hexadecimal(sum)?).then_some((nonce, before))
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

/// Looks how much is whole of the files of changes that a manifest names, in their order. `goes_on` is told the bytes
/// of a file that were read, now and then, and says whether to go on; `None` if not.
///
/// # Errors
/// Those of the system; [`Error::Damaged`] if something is damaged that was on the disk.
pub fn survey_logs(
    folder: &Path,
    changes: &[u64],
    mut goes_on: impl FnMut(u64) -> bool,
) -> Result<Option<Vec<(PathBuf, LogContents)>>, Error> {
    let mut found = Vec::new();
    for (index, &number) in changes.iter().enumerate() {
        let path = changes_path(folder, number);
        let synced = before(folder, changes.get(index + 1))?;
        let Some(contents) = survey_log(&path, synced, &mut goes_on)? else { return Ok(None) };
        found.push((path, contents));
    }
    Ok(Some(found))
}

/// How much of the file before the one of this number was on the disk when that was begun.
///
/// # Errors
/// As for [`survey_logs`].
pub fn before(folder: &Path, next: Option<&u64>) -> Result<u64, Error> {
    let Some(&next) = next else { return Ok(0) };
    let path = changes_path(folder, next);
    let file = Error::system("reading", &path, DiskFile::open(&path))?;
    Ok(Decoder::begin(file).map_err(|error| Error::of_decoding(&path, error, 0))?.before)
}

/// Looks how much of a file is whole, of which so many bytes were on the disk. `goes_on` is as for [`survey_logs`].
///
/// # Errors
/// As for [`survey_logs`].
pub fn survey_log(
    path: &Path,
    synced: u64,
    mut goes_on: impl FnMut(u64) -> bool,
) -> Result<Option<LogContents>, Error> {
    let file = Error::system("reading", path, DiskFile::open(path))?;
    let size = Error::system("reading", path, file.size())?;
    let mut contents = LogContents { size, ..LogContents::default() };
    // It was on the disk before anybody heard of the file.
    let mut decoder = Decoder::begin(file).map_err(|error| Error::of_decoding(path, error, 0))?;
    contents.whole = decoder.begin;
    let mut records = 0_u64;
    let error = loop {
        match decoder.next_item() {
            Ok(Some(Item::Record)) => {
                records += 1;
                decoder.is_unevictable = false;
                if records.is_multiple_of(RECORDS_PER_CHECK) && !goes_on(decoder.source.position()) {
                    return Ok(None);
                }
            }
            Ok(Some(Item::Batch)) => (contents.records, contents.whole) = (records, decoder.begin),
            Ok(None) if decoder.begin >= size.max(synced) => return Ok(Some(contents)),
            Ok(None) => break damaged(size, format_args!("the end of the file, where more was written")),
            Err(error) => break error,
        }
    };
    if is_of_redis(path, contents.whole)? {
        let what = "what Redis, or Valkey, has written behind ringtable's log: save the table there \
                    (`redis-cli SAVE`), and take it over with `ringtable load`; nothing is changed";
        return Err(Error::of_decoding(path, damaged(contents.whole, format_args!("{what}")), contents.records));
    }
    let is_torn = match &error {
        DecodeError::Io(_) => false,
        _ => contents.whole >= synced && !was_synced(path, decoder.nonce, contents.whole)?,
    };
    if is_torn { Ok(Some(contents)) } else { Err(Error::of_decoding(path, error, contents.records)) }
}

/// Whether what begins there was written by another program that goes on with our files: it names its database first.
fn is_of_redis(path: &Path, begin: u64) -> Result<bool, Error> {
    Ok(read_at(path, begin, REDIS_BEGINS.len() as u64)? == REDIS_BEGINS)
}

/// The bytes of a file from there on, at most so many.
fn read_at(path: &Path, begin: u64, most: u64) -> Result<Vec<u8>, Error> {
    let mut found = Vec::new();
    let mut read = || -> std::io::Result<()> {
        let mut file = DiskFile::open(path)?;
        file.seek(begin)?;
        file.take(most).read_to_end(&mut found)?;
        Ok(())
    };
    Error::system("reading", path, read())?;
    Ok(found)
}

/// Whether a later batch says that what begins at `begin` was on the disk before it.
///
/// The checksum of each place is that of what comes before it; two of them give that of what stands between. So the
/// time is that of one walk, whatever values have in them that looks like the end of a batch.
fn was_synced(path: &Path, nonce: u64, begin: u64) -> Result<bool, Error> {
    let rest = read_at(path, begin, SEARCHED_MAX)?;
    // What says so, if it is one: where it stands, where its batch begins, what its line says behind the checksum.
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(ahead) = find(&rest[at..], SUM.as_bytes()) {
        let (place, words) = (at + ahead, at + ahead + SUM.len());
        at = words;
        let Some(end) = rest[words..].iter().take(LINE_MAX).position(|&byte| byte == b'\n') else { continue };
        let Some((sum, from, synced)) = batch_end(&rest[words..words + end]) else { continue };
        let Some(from) = from.checked_sub(begin).and_then(|from| usize::try_from(from).ok()) else { continue };
        if synced > begin && from <= place {
            found.push((place, from, sum, words + 16..words + end + 1));
        }
    }
    let mut places: Vec<_> = found.iter().flat_map(|&(place, from, ..)| [(place, 0), (from, 0)]).collect();
    places.sort_unstable();
    let (mut sum, mut summed) = (Checksum::new(), 0);
    for (place, value) in &mut places {
        sum.update(&rest[summed..*place]);
        (summed, *value) = (*place, sum.value());
    }
    let until = |place: usize| places[places.partition_point(|&(other, _)| other < place)].1;
    Ok(found.into_iter().any(|(place, from, expected, words)| {
        let size = (place - from) as u64;
        let mut sum = Checksum::exchanged(until(place), until(from), begun(nonce).value(), size);
        sum.update(&rest[words]);
        sum.value() == expected
    }))
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
