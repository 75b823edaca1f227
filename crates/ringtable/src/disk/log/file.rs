//! A file of changes that is being written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::super::error::Error;
use super::super::file::{DiskFile, remove};
use super::super::rdb::Checksum;
use super::queue::Batch;
use crate::shm::random::random;

/// With what a file begins; the nonce follows, how much of the file before is whole, and the checksum of both.
pub(super) const HEAD: &str = "#ringtable-log 1 ";
/// With what the line behind a batch begins.
pub(super) const SUM: &str = "#ringtable-sum ";

/// The checksum of what the first line says.
pub(super) fn of_head(nonce: u64, before: u64) -> u64 {
    let mut sum = begun(nonce);
    sum.update(&before.to_le_bytes());
    sum.value()
}

/// The checksum of a batch, with the nonce before it.
pub(super) fn begun(nonce: u64) -> Checksum {
    let mut sum = Checksum::new();
    sum.update(&nonce.to_le_bytes());
    sum
}

/// A file of changes that is being written, by batches.
pub struct LogFile {
    file: DiskFile,
    path: PathBuf,
    nonce: u64,
    /// Bytes that were written, and those of them that are on the disk.
    size: u64,
    synced: u64,
}

impl LogFile {
    /// Begins a file, which no manifest names yet. Of the file before it, so many bytes are on the disk.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(path: &Path, before: u64) -> Result<Self, Error> {
        let create = || -> io::Result<Self> {
            // One that was begun before, and that nobody has named.
            let _ = remove(path);
            let mut file = DiskFile::create(path)?;
            let nonce = random();
            let head = format!("{HEAD}{nonce:016x} {before:016x} {:016x}\n", of_head(nonce, before));
            file.write_all(head.as_bytes())?;
            file.sync()?;
            let size = head.len() as u64;
            Ok(Self { file, path: path.to_owned(), nonce, size, synced: size })
        };
        Error::system("writing", path, create())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that were written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are on the disk.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Whether all that was written is on the disk.
    pub fn is_synced(&self) -> bool {
        self.synced == self.size
    }

    /// Writes a batch, which is not empty.
    ///
    /// # Errors
    /// Those of the system: a part of it may be in the file then, and nothing may follow it.
    pub fn append(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut append = || -> io::Result<u64> {
            let mut sum = begun(self.nonce);
            for piece in batch.pieces() {
                sum.update(piece);
                self.file.write_all(piece)?;
            }
            let place = format!(" {} {}\n", self.size, self.synced);
            sum.update(place.as_bytes());
            let line = format!("{SUM}{:016x}{place}", sum.value());
            self.file.write_all(line.as_bytes())?;
            Ok(batch.size() + line.len() as u64)
        };
        self.size += {
            let path = self.path.clone();
            Error::system("writing", &path, append())?
        };
        Ok(())
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// Those of the system: nobody knows what is on the disk then, and that of this file never again.
    pub fn sync(&mut self) -> Result<(), Error> {
        if !self.is_synced() {
            Error::system("syncing", &self.path, self.file.sync_data())?;
            self.synced = self.size;
        }
        Ok(())
    }
}
