//! Which files a log has, in their order, as Redis writes it down.
//!
//! ```text
//! file appendonly.aof.2.base.rdb seq 2 type b
//! file appendonly.aof.5.incr.aof seq 5 type i
//! #ringtable-sum SUM
//! ```
//!
//! Redis passes over the last line, which has the checksum of those before it: without the files that a lost line had
//! named the rest would still look like a log.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::data_folder::{files_in, remove_unfinished};
use super::super::error::Error;
use super::super::file::{DiskFile, remove};
use super::super::rdb::Checksum;
use super::super::replacement::Replacement;
use super::file::SUM;

/// The folder, in that of the server.
pub const FOLDER: &str = "appendonlydir";
const NAME: &str = "appendonly.aof.manifest";
const PREFIX: &str = "appendonly.aof.";
/// Bytes at most: files are few, for a rewrite removes those before it.
const SIZE_MAX: u64 = 1 << 20;
/// A number of a file at most, behind which there is room for the next ones.
const NUMBER_MAX: u64 = 1 << 62;

/// Which files there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The number of the snapshot.
    pub base: u64,
    /// Those of the files of changes, in their order.
    pub changes: Vec<u64>,
}

impl Manifest {
    /// The one in a folder; `None` if there is none.
    ///
    /// # Errors
    /// Those of the system; if it is damaged, or has files that nobody here has written.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(NAME);
        let read = || -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            DiskFile::open(&path)?.take(SIZE_MAX).read_to_end(&mut text)?;
            Ok(text)
        };
        let text = match read() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Error::system("reading", &path, Err(error)),
        };
        let lines = text.len().saturating_sub(sum_of(b"").len());
        let (text, sum) = text.split_at(lines);
        if sum != sum_of(text).as_bytes() {
            return Err(Error::damaged(&path, lines as u64, "no checksum of what is before it"));
        }
        let mut at = 0;
        let mut manifest = Self::default();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let damaged = || Error::damaged(&path, at, "a line that names no file of a log of ringtable's");
            let words = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')).ok_or_else(damaged)?;
            let words: Vec<_> = words.split(' ').collect();
            let ["file", name, "seq", number, "type", kind] = words[..] else { return Err(damaged()) };
            let number: u64 = number.parse().ok().filter(|&number| number <= NUMBER_MAX).ok_or_else(damaged)?;
            match kind {
                "b" if name == base_name(number) && manifest.base == 0 && number > 0 => manifest.base = number,
                "i" if name == changes_name(number) && manifest.changes.last().is_none_or(|&last| last < number) => {
                    manifest.changes.push(number);
                }
                _ => return Err(damaged()),
            }
            at += line.len() as u64;
        }
        if manifest.base == 0 {
            return Err(Error::damaged(&path, at, "the end, and no snapshot was named"));
        }
        Ok(Some(manifest))
    }

    /// Puts it into a folder, in place of the one that is there; it is on the disk then.
    ///
    /// # Errors
    /// Those of the system.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(NAME);
        let mut text = format!("file {} seq {} type b\n", base_name(self.base), self.base);
        for &number in &self.changes {
            text += &format!("file {} seq {number} type i\n", changes_name(number));
        }
        text += &sum_of(text.as_bytes());
        let mut file = Replacement::begin(&path)?;
        Error::system("writing", &path, file.write_all(text.as_bytes()))?;
        file.commit()
    }

    /// That there are no files of changes in a folder without a manifest: none is made before one names it.
    ///
    /// # Errors
    /// Those of the system; [`Error::Damaged`] if there are.
    pub fn check_absent(folder: &Path) -> Result<(), Error> {
        if !folder.is_dir() {
            return Ok(());
        }
        let is_of_changes = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".incr.aof"))
        };
        match files_in(folder)?.iter().find(|path| is_of_changes(path)) {
            Some(path) => Err(Error::damaged(
                &folder.join(NAME),
                0,
                &format!(
                    "no such file, though there are files that it has named ({}): copy it, too, or move them away",
                    path.display()
                ),
            )),
            None => Ok(()),
        }
    }

    /// The number of the next file of changes.
    pub fn next(&self) -> u64 {
        self.changes.last().map_or(1, |last| last + 1)
    }

    /// Removes all files of a log that are not named here, and what was not finished.
    ///
    /// # Errors
    /// Those of the system.
    pub fn remove_others(&self, folder: &Path) -> Result<(), Error> {
        remove_unfinished(folder)?;
        for path in files_in(folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !path.is_dir()) else { continue };
            let number = |suffix: &str| rest.strip_suffix(suffix).and_then(|digits| digits.parse::<u64>().ok());
            let is_named = match (number(".base.rdb"), number(".incr.aof")) {
                (Some(number), _) => number == self.base,
                (_, Some(number)) => self.changes.contains(&number),
                _ => true,
            };
            if !is_named {
                Error::system("removing", &path, remove(&path))?;
            }
        }
        Ok(())
    }
}

/// The last line, behind these.
fn sum_of(lines: &[u8]) -> String {
    format!("{SUM}{:016x}\n", Checksum::of(lines))
}

/// Where the snapshot of that number is.
pub fn base_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(base_name(number))
}

/// Where the file of changes of that number is.
pub fn changes_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(changes_name(number))
}

fn base_name(number: u64) -> String {
    format!("{PREFIX}{number}.base.rdb")
}

fn changes_name(number: u64) -> String {
    format!("{PREFIX}{number}.incr.aof")
}
