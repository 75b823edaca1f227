//! Files, whose descriptors no forked child keeps.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::recorder::{Step, step};
use crate::shm::fork::Descriptor;

/// A file, or a folder to be synced.
#[derive(Debug)]
pub struct DiskFile(Descriptor);

impl DiskFile {
    /// Opens a file for reading, which has to be one: nothing here waits for who writes a pipe.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = Self(Descriptor::make(|| rustix::fs::open(path, flags, Mode::empty()))?);
        match FileType::from_raw_mode(rustix::fs::fstat(&file.0)?.st_mode) {
            FileType::RegularFile => Ok(file),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::other("there is something that is no file")),
        }
    }

    /// Makes a file that is this user's alone, where there is nothing.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mode = Mode::RUSR | Mode::WUSR;
        step(Step::Create(path), || Ok(Self(Descriptor::make(|| rustix::fs::open(path, flags, mode))?)))
    }

    /// Makes a file that has no name, and is memory.
    ///
    /// # Errors
    /// Those of the system.
    pub fn in_memory(name: &str) -> io::Result<Self> {
        Ok(Self(Descriptor::make(|| rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC))?))
    }

    /// Opens a folder, to sync what names are in it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open_folder(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(Descriptor::make(|| rustix::fs::open(path, flags, Mode::empty()))?))
    }

    /// Waits until all of it is on the disk.
    ///
    /// # Errors
    /// Those of the system: nobody knows what is on the disk then.
    pub fn sync(&self) -> io::Result<()> {
        step(Step::Sync(self.0.as_fd()), || Ok(rustix::fs::fsync(&self.0)?))
    }
}

impl DiskFile {
    /// Waits until its bytes are on the disk, and what is needed to find them.
    ///
    /// # Errors
    /// As for [`Self::sync`].
    pub fn sync_data(&self) -> io::Result<()> {
        step(Step::Sync(self.0.as_fd()), || Ok(rustix::fs::fdatasync(&self.0)?))
    }

    /// How many bytes it has.
    ///
    /// # Errors
    /// Those of the system.
    pub fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.0)?.st_size as u64)
    }

    /// Goes on at this byte.
    ///
    /// # Errors
    /// Those of the system.
    pub fn seek(&mut self, at: u64) -> io::Result<()> {
        rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Start(at))?;
        Ok(())
    }
}

/// Cuts a file off behind so many bytes, and waits until that is on the disk.
///
/// # Errors
/// Those of the system.
pub fn truncate(path: &Path, size: u64) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = Descriptor::make(|| rustix::fs::open(path, flags, Mode::empty()))?;
    step(Step::Truncate(file.as_fd(), size), || Ok(rustix::fs::ftruncate(&file, size)?))?;
    step(Step::Sync(file.as_fd()), || Ok(rustix::fs::fsync(&file)?))
}

/// Gives a file another name, and what has that name none. The folder is to be synced behind it.
///
/// # Errors
/// Those of the system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step(Step::Rename(from, to), || std::fs::rename(from, to))
}

/// Removes a file.
///
/// # Errors
/// Those of the system.
pub fn remove(path: &Path) -> io::Result<()> {
    step(Step::Remove(path), || std::fs::remove_file(path))
}

/// Makes a folder that is this user's alone, where there is nothing. The one above it is to be synced behind that.
///
/// # Errors
/// Those of the system.
pub fn create_folder(path: &Path) -> io::Result<()> {
    step(Step::MakeFolder(path), || std::fs::DirBuilder::new().mode(0o700).create(path))
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for DiskFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        step(Step::Write(self.0.as_fd(), bytes), || Ok(rustix::io::write(&self.0, bytes)?))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
