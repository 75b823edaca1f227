//! Going over a file with entries: first to see whether it is whole, then to load it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::file::DiskFile;
use super::rdb::{Decoder, Entry, Item, Skipped};

/// Items between two looks at whether to go on.
const ITEMS_PER_CHECK: u64 = 4_096;

/// What a file has in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// How many entries.
    pub entries: u64,
    /// What a table cannot have, and how many of that.
    pub skipped: BTreeMap<Skipped, u64>,
    /// Whether a checksum says that all of it is as it was written.
    pub is_checked: bool,
    /// Bytes of the file.
    pub size: u64,
}

impl Contents {
    /// What was passed over, in words: how many, and what.
    pub fn skipped_in_words(&self) -> Option<String> {
        if self.skipped.is_empty() {
            return None;
        }
        let words: Vec<_> = self.skipped.iter().map(|(what, count)| format!("{count} {}", what.name())).collect();
        Some(words.join(", "))
    }
}

/// A file that is read from its beginning to its end.
pub struct Reading {
    path: PathBuf,
    decoder: Decoder<DiskFile>,
    contents: Contents,
    /// How many entries came before the last checksum.
    checked: u64,
}

impl Reading {
    /// Begins with a file.
    ///
    /// # Errors
    /// Those of the system; if it is no such file.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        match Decoder::begin(Error::system("reading", path, DiskFile::open(path))?) {
            Ok(decoder) => Ok(Self { path: path.to_owned(), decoder, contents: Contents::default(), checked: 0 }),
            Err(error) => Err(Error::of_decoding(path, error, 0)),
        }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// If the file is damaged there. Nothing may be asked behind that.
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, Error> {
        loop {
            match self.decoder.next_item() {
                Ok(Item::Entry) => break,
                Ok(Item::Checked) => self.checked = self.contents.entries,
                Ok(Item::Skipped(what)) => *self.contents.skipped.entry(what).or_default() += 1,
                Ok(Item::End { is_checked }) => {
                    (self.contents.is_checked, self.contents.size) = (is_checked, self.decoder.position());
                    return Ok(None);
                }
                Err(error) => {
                    let whole = if self.decoder.is_ours() { self.checked } else { self.contents.entries };
                    return Err(Error::of_decoding(&self.path, error, whole));
                }
            }
        }
        self.contents.entries += 1;
        Ok(Some(self.decoder.entry()))
    }

    /// What was read so far.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.decoder.position()
    }
}

/// Goes over a whole file. `goes_on` is told the bytes that were read, now and then, and says whether to go on; `None`
/// if not.
///
/// # Errors
/// If the file is damaged, or cannot be read.
pub fn survey(path: &Path, mut goes_on: impl FnMut(u64) -> bool) -> Result<Option<Contents>, Error> {
    let mut reading = Reading::begin(path)?;
    let mut items = 0_u64;
    while reading.next_entry()?.is_some() {
        items += 1;
        if items.is_multiple_of(ITEMS_PER_CHECK) && !goes_on(reading.position()) {
            return Ok(None);
        }
    }
    Ok(Some(reading.contents))
}
