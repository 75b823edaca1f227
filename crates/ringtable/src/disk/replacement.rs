//! A file that takes the place of another one when it is whole, and is on the disk then.
//!
//! # Design
//!
//! It is written beside its place, under a name that begins with [`PREFIX`]; then it is synced, renamed, and its folder
//! is synced. So whoever opens the path finds the old file or the new one, whatever dies, also the machine.
//!
//! What was written goes to the disk piece by piece meanwhile, and out of the page cache then: a file of gigabytes
//! leaves others their memory, and does not hold up the machine at its end.
//!
//! # Not promised
//!
//! A process that is killed leaves the file that it was writing.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::Error;
use super::file::{DiskFile, remove, rename};
use crate::shm::random::random;

/// With what the names begin of files that are not whole yet.
pub const PREFIX: &str = ".ringtable-";
/// Bytes after which what was written goes to the disk.
const PIECE_SIZE: u64 = 16 << 20;

/// A file that is being written, and is removed if it does not become whole.
#[derive(Debug)]
pub struct Replacement {
    file: DiskFile,
    /// Where it is as long as it is not whole; `None` once it is.
    beside: Option<PathBuf>,
    path: PathBuf,
    written: u64,
    /// How much of it is on its way to the disk.
    begun: u64,
}

impl Replacement {
    /// Begins a file that is this user's alone. A link is followed: what it leads to is replaced.
    ///
    /// # Errors
    /// Those of the system; if something lies there that is no file.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let system = |error| Error::System { doing: "writing", path: path.to_owned(), error };
        let target = match fs::canonicalize(path) {
            Ok(target) => {
                if !fs::metadata(&target).map_err(system)?.is_file() {
                    return Err(system(io::Error::other("there is something that is no file")));
                }
                target
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(system(error)),
        };
        if target.file_name().is_none() {
            return Err(system(Errno::ISDIR.into()));
        }
        let beside = target.with_file_name(format!("{PREFIX}{:016x}", random()));
        let file = DiskFile::create(&beside).map_err(system)?;
        Ok(Self { file, beside: Some(beside), path: target, written: 0, begun: 0 })
    }

    /// Puts the file in its place, once it is on the disk.
    ///
    /// # Errors
    /// Those of the system: then the old file is there, as it was, unless the error came at the very end.
    pub fn commit(mut self) -> Result<(), Error> {
        let done = self.put_in_place();
        Error::system("writing", &self.path, done)
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        self.file.sync()?;
        let Some(beside) = &self.beside else { return Ok(()) };
        rename(beside, &self.path)?;
        self.beside = None;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DiskFile::open_folder(folder)?.sync()
    }

    /// Sends what was written lately to the disk, and drops what was sent before.
    fn drain(&mut self) -> io::Result<()> {
        let range = |begin: u64, end: u64| (begin as libc::off64_t, (end - begin) as libc::off64_t);
        let descriptor = self.file.as_fd().as_raw_fd();
        let before = self.begun.saturating_sub(PIECE_SIZE);
        let (now, now_size) = range(self.begun, self.written);
        let (then, then_size) = range(before, self.begun);
        #[allow(unsafe_code)]
        // SAFETY: calls with numbers only; the descriptor is open as long as `self`.
        let answer = unsafe {
            let waits =
                libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            let mut answer = libc::sync_file_range(descriptor, now, now_size, libc::SYNC_FILE_RANGE_WRITE);
            if answer == 0 && then_size > 0 {
                answer = libc::sync_file_range(descriptor, then, then_size, waits);
                libc::posix_fadvise(descriptor, then, then_size, libc::POSIX_FADV_DONTNEED);
            }
            answer
        };
        let outcome = if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        self.begun = self.written;
        match outcome {
            // A file system that cannot do it: `sync` does all of it in the end.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE)) => Ok(()),
            outcome => outcome,
        }
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        if self.written - self.begun >= PIECE_SIZE {
            self.drain()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            let _ = remove(beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is removed with all that is in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("ringtable-test-{:016x}", random()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn it_takes_the_place_of_the_old_file_once_it_is_whole() {
        let folder = Folder::new();
        let path = folder.0.join("file");
        for text in [&b"first"[..], b"second"] {
            let before = fs::read(&path).ok();
            let mut file = Replacement::begin(&path).unwrap();
            file.write_all(text).unwrap();
            assert_eq!(fs::read(&path).ok(), before);
            file.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), text);
            assert_eq!(folder.names(), ["file"]);
        }
    }

    #[test]
    fn one_that_does_not_become_whole_leaves_nothing() {
        let folder = Folder::new();
        let mut file = Replacement::begin(&folder.0.join("file")).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(folder.names().len(), 1);
        drop(file);
        assert!(folder.names().is_empty());
    }

    #[test]
    fn what_a_link_leads_to_is_replaced() {
        let folder = Folder::new();
        fs::write(folder.0.join("file"), b"old").unwrap();
        std::os::unix::fs::symlink("file", folder.0.join("link")).unwrap();
        let mut file = Replacement::begin(&folder.0.join("link")).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(folder.names(), ["file", "link"]);
        assert_eq!(fs::read(folder.0.join("file")).unwrap(), b"new");
        assert!(fs::symlink_metadata(folder.0.join("link")).unwrap().is_symlink());
    }

    #[test]
    fn a_large_file_is_written_whole() {
        let folder = Folder::new();
        let path = folder.0.join("file");
        let mut file = Replacement::begin(&path).unwrap();
        let piece: Vec<u8> = (0..1 << 20).map(|index: u32| index as u8).collect();
        for _ in 0..50 {
            file.write_all(&piece).unwrap();
        }
        file.commit().unwrap();
        assert!(fs::read(&path).unwrap().chunks(1 << 20).all(|chunk| chunk == piece));
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let folder = Folder::new();
        for path in [folder.0.clone(), folder.0.join("none/file"), PathBuf::from("/dev/null"), PathBuf::from("..")] {
            let error = Replacement::begin(&path).unwrap_err();
            assert!(matches!(error, Error::System { .. }), "{error}");
        }
        assert!(folder.names().is_empty());
    }
}
