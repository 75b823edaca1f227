//! What changes a disk, step by step: recorded, and made to fail, for tests. A normal build only does it.
//!
//! # Design
//!
//! All that changes files and folders passes [`step`]. With the feature `failpoints` a process can be told to write
//! down each step that was done ([`record`]), in the order in which they were done: what the disk of a machine may hold
//! that died at any of them is made out of that (`proof/images.py`). Steps can be told to fail ([`fail`]), which are
//! not done then, as by a disk that breaks; and to take long ([`slow_down`]).
//!
//! A line of a recording is a head of five numbers (little endian: kind `u8`, inode `u64`, size of the path `u16`, size
//! of the second path `u16`, size of the bytes `u32`), and those three. Truncating has its size in place of bytes. A
//! write counts as whole: where there is room, none is cut short.

use std::os::fd::BorrowedFd;
use std::path::Path;

/// Something that changes what is on a disk.
#[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only recordings read what is in it"))]
pub(super) enum Step<'a> {
    /// Makes a folder.
    MakeFolder(&'a Path),
    /// Makes a file.
    Create(&'a Path),
    /// Writes bytes behind what is there.
    Write(BorrowedFd<'a>, &'a [u8]),
    /// Waits until a file is on the disk, or what names are in a folder.
    Sync(BorrowedFd<'a>),
    /// Cuts a file off.
    Truncate(BorrowedFd<'a>, u64),
    /// Gives a file another name.
    Rename(&'a Path, &'a Path),
    /// Removes a file.
    Remove(&'a Path),
}

/// Does a step.
///
/// # Errors
/// Those of `work`; what a test wants.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(super) fn step<T>(_: Step<'_>, work: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    work()
}

#[cfg(feature = "failpoints")]
pub(super) use recording::step;
#[cfg(feature = "failpoints")]
pub use recording::{fail, record, slow_down};

#[cfg(feature = "failpoints")]
mod recording {
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Mutex;
    use std::time::Duration;

    use rustix::fs::{Mode, OFlags};

    use super::Step;
    use crate::shm::fork::Descriptor;
    use crate::sync::lock;

    struct Recorder {
        file: Option<Descriptor>,
        failing: Option<Failing>,
        slow: Option<(&'static str, Duration)>,
    }

    /// So many steps of a kind fail, behind some that do not.
    struct Failing {
        kind: &'static str,
        before: u32,
        count: u32,
        number: i32,
    }

    static RECORDER: Mutex<Recorder> = Mutex::new(Recorder { file: None, failing: None, slow: None });

    /// The kinds of steps, by their numbers in a recording. The last one is a sync that has failed.
    const KINDS: [&str; 8] = ["folder", "create", "write", "sync", "truncate", "rename", "remove", "unsynced"];

    /// Writes all steps from now on behind what is in this file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn record(path: &Path) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let file = Descriptor::make(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR))?;
        lock(&RECORDER).file = Some(file);
        Ok(())
    }

    /// Lets all steps of this kind take so long, and longer. Returns whether there is such a kind.
    pub fn slow_down(kind: &str, by: Duration) -> bool {
        let Some(kind) = KINDS.into_iter().find(|known| *known == kind) else { return false };
        lock(&RECORDER).slow = Some((kind, by));
        true
    }

    /// Lets `count` steps of this kind fail with the error of this number, behind so many that do not. Returns whether
    /// there is such a kind.
    pub fn fail(kind: &str, before: u32, count: u32, number: i32) -> bool {
        let Some(kind) = KINDS.into_iter().find(|known| *known == kind) else { return false };
        lock(&RECORDER).failing = Some(Failing { kind, before, count, number });
        true
    }

    pub(in super::super) fn step<T>(step: Step<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let kind = step.kind();
        let slow = lock(&RECORDER).slow;
        if let Some((_, by)) = slow.filter(|&(slow, _)| slow == kind) {
            std::thread::sleep(by);
        }
        // To its end: the order of the steps is that of their lines.
        let mut recorder = lock(&RECORDER);
        if recorder.failing.is_none() && recorder.file.is_none() {
            drop(recorder);
            return work();
        }
        let refused = recorder.failing.as_mut().and_then(|failing| failing.refuse(kind));
        let outcome = refused.map_or_else(work, |number| Err(io::Error::from_raw_os_error(number)));
        if let Some(file) = &recorder.file {
            match (&outcome, kind) {
                (Ok(_), kind) => step.write(kind, file)?,
                (Err(_), "sync") => step.write("unsynced", file)?,
                // Nothing was done.
                (Err(_), _) => {}
            }
        }
        outcome
    }

    impl Failing {
        fn refuse(&mut self, kind: &str) -> Option<i32> {
            if self.kind != kind {
                return None;
            }
            if self.before > 0 {
                self.before -= 1;
                return None;
            }
            self.count = self.count.checked_sub(1)?;
            Some(self.number)
        }
    }

    impl Step<'_> {
        fn kind(&self) -> &'static str {
            match self {
                Self::MakeFolder(_) => "folder",
                Self::Create(_) => "create",
                Self::Write(..) => "write",
                Self::Sync(_) => "sync",
                Self::Truncate(..) => "truncate",
                Self::Rename(..) => "rename",
                Self::Remove(_) => "remove",
            }
        }

        fn write(&self, kind: &str, file: &Descriptor) -> io::Result<()> {
            let nothing = Path::new("");
            let of_path = |path: &Path| path.symlink_metadata().map(|found| found.ino());
            let of_file = |file| rustix::fs::fstat(file).map(|found| found.st_ino);
            let size_bytes;
            let (inode, path, second, bytes): (u64, &Path, &Path, &[u8]) = match self {
                Self::MakeFolder(path) | Self::Create(path) => (of_path(path)?, path, nothing, &[]),
                Self::Write(file, bytes) => (of_file(file)?, nothing, nothing, bytes),
                Self::Sync(file) => (of_file(file)?, nothing, nothing, &[]),
                Self::Truncate(file, size) => {
                    size_bytes = size.to_le_bytes();
                    (of_file(file)?, nothing, nothing, &size_bytes)
                }
                Self::Rename(from, to) => (of_path(to)?, from, to, &[]),
                Self::Remove(path) => (0, path, nothing, &[]),
            };
            let (path, second) = (path.as_os_str().as_bytes(), second.as_os_str().as_bytes());
            let number = KINDS.iter().position(|known| *known == kind).unwrap_or_default() as u8;
            let mut line = vec![number];
            line.extend(inode.to_le_bytes());
            line.extend((path.len() as u16).to_le_bytes());
            line.extend((second.len() as u16).to_le_bytes());
            line.extend((bytes.len() as u32).to_le_bytes());
            for part in [path, second, bytes] {
                line.extend(part);
            }
            while !line.is_empty() {
                let count = rustix::io::write(file, &line)?;
                line.drain(..count);
            }
            Ok(())
        }
    }
}
