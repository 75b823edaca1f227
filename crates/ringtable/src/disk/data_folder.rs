//! The folder in which a server keeps its table.
//!
//! ```text
//! ringtable.lock               has a `flock` on it as long as a server has the folder
//! snapshot-1764524695123.rdb   a snapshot, by the millisecond since 1970 at which it was begun
//! .ringtable-…                 one that is being written, or was left by a server that was killed
//! ```
//!
//! # Invariants
//!
//! - **I11** One server has the folder at a time. Nothing is removed from it but snapshots, by the form of their names,
//!   and what begins with [`PREFIX`].

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::Error;
use super::file::{DiskFile, create_folder, remove};
use super::replacement::PREFIX;
use crate::shm::fork::Descriptor;

/// What Redis and Valkey call their snapshot.
pub const DUMP_OF_REDIS: &str = "dump.rdb";
const LOCK: &str = "ringtable.lock";
const SNAPSHOT: &str = "snapshot-";
const RDB: &str = ".rdb";
/// Digits of the milliseconds in a name, until the year 2286; there may be more.
const DIGITS: usize = 13;
/// Milliseconds that a name may have at most, behind which there is room for the next ones.
const TIME_MAX: u64 = 1 << 62;
/// Pause between two tries to take the lock of a server that is about to end.
const PAUSE: Duration = Duration::from_millis(1);

/// A folder that is this server's.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    lock: Descriptor,
}

impl DataFolder {
    /// Takes the folder, which is made if there is none. A server that has it may take so long to be gone.
    ///
    /// # Errors
    /// [`Error::Taken`]; those of the system.
    pub fn take(path: &Path, patience: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + patience;
        make_folder(path)?;
        let path = Error::system("opening", path, fs::canonicalize(path))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = path.join(LOCK);
        let opened = Descriptor::make(|| rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR));
        let lock = Error::system("opening", &file, opened.map_err(io::Error::from))?;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(Error::Taken(path)),
                Err(error) => return Err(Error::System { doing: "locking", path: file, error: error.into() }),
            }
        }
        let folder = Self { path, lock };
        remove_unfinished(&folder.path)?;
        Ok(folder)
    }

    /// Leaves it to another server.
    pub fn leave(&self) {
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a snapshot goes that is begun now.
    pub fn place_of_new(&self, now_ms: u64) -> PathBuf {
        // Later than all others, though the clock was set back.
        let newest = self.snapshots().ok().and_then(|all| all.first().and_then(|newest| time_of(newest)));
        let now_ms = newest.map_or(now_ms, |newest_ms| now_ms.max(newest_ms + 1));
        self.path.join(format!("{SNAPSHOT}{now_ms:0DIGITS$}{RDB}"))
    }

    /// All snapshots, the newest one first.
    ///
    /// # Errors
    /// Those of the system.
    pub fn snapshots(&self) -> Result<Vec<PathBuf>, Error> {
        snapshots_in(&self.path)
    }

    /// Removes all snapshots but the newest ones.
    ///
    /// # Errors
    /// Those of the system.
    pub fn keep(&self, count: usize) -> Result<(), Error> {
        for path in self.snapshots()?.into_iter().skip(count) {
            Error::system("removing", &path, remove(&path))?;
        }
        Ok(())
    }
}

/// Removes what was begun in a folder, and never became whole.
///
/// # Errors
/// Those of the system.
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), Error> {
    for path in files_in(folder)? {
        let is_unfinished = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if path.file_name().is_some_and(is_unfinished) && !path.is_dir() {
            Error::system("removing", &path, remove(&path))?;
        }
    }
    Ok(())
}

/// Makes a folder that is this user's alone, with those above it, where there is none; it is on the disk then.
///
/// # Errors
/// Those of the system.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(above)?;
    match create_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => Error::system("making", path, made)?,
    }
    Error::system("syncing", above, DiskFile::open_folder(above).and_then(|folder| folder.sync()))
}

/// Whether there is room for so many bytes more in the file system of a folder.
///
/// # Errors
/// That there is not; those of the system.
pub fn room_for(folder: &Path, bytes: u64) -> Result<(), Error> {
    let found = rustix::fs::statvfs(folder).map_err(io::Error::from);
    let found = Error::system("looking at", folder, found)?;
    if found.f_bavail.saturating_mul(found.f_frsize) < bytes {
        return Error::system("writing to", folder, Err(Errno::NOSPC.into()));
    }
    Ok(())
}

/// All snapshots in a folder, the newest one first.
///
/// # Errors
/// Those of the system.
pub(super) fn snapshots_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = files_in(folder)?;
    found.retain(|path| time_of(path).is_some() && !path.is_dir());
    found.sort_by_key(|path| std::cmp::Reverse(time_of(path)));
    Ok(found)
}

/// The paths of all files in a folder.
///
/// # Errors
/// Those of the system.
pub(super) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = Descriptor::make(|| rustix::fs::open(folder, flags, Mode::empty()))?;
        let mut found = Vec::new();
        let mut buffer = Vec::with_capacity(16 << 10);
        let mut entries = rustix::fs::RawDir::new(&opened, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                found.push(folder.join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name)));
            }
        }
        Ok(found)
    };
    Error::system("looking into", folder, list())
}

/// When a snapshot was begun, by its name; `None` if it is none.
fn time_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix(SNAPSHOT)?.strip_suffix(RDB)?;
    let is_number = digits.len() >= DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|&time| is_number && time <= TIME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::random::random;

    /// A folder that is removed with all that is in it.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("ringtable-test-{:016x}", random())))
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn one_has_it_at_a_time() {
        let place = Temporary::new();
        let folder = DataFolder::take(&place.0, Duration::ZERO).unwrap();
        let refused = DataFolder::take(&place.0, Duration::ZERO).unwrap_err();
        assert!(matches!(&refused, Error::Taken(path) if *path == folder.path()), "{refused}");
        folder.leave();
        let next = DataFolder::take(&place.0, Duration::ZERO).unwrap();
        drop(next);
        DataFolder::take(&place.0, Duration::ZERO).unwrap();
    }

    #[test]
    fn the_newest_snapshots_are_kept_and_nothing_else_is_touched() {
        let place = Temporary::new();
        fs::create_dir(&place.0).unwrap();
        let others = ["snapshot-1.rdb", "snapshot-1764524695123.rdb.bak", "dump.rdb", "snapshot-17645246951x3.rdb"];
        for name in others.into_iter().chain([".ringtable-0123"]) {
            fs::write(place.0.join(name), b"").unwrap();
        }
        let folder = DataFolder::take(&place.0, Duration::ZERO).unwrap();
        let mut made = Vec::new();
        // The clock stands still, and is set back.
        for now_ms in [1_764_524_695_123, 1_764_524_695_123, 1_764_524_000_000, 1_764_524_700_000] {
            let path = folder.place_of_new(now_ms);
            fs::write(&path, b"").unwrap();
            made.insert(0, path);
            assert_eq!(folder.snapshots().unwrap(), made);
        }
        folder.keep(2).unwrap();
        assert_eq!(folder.snapshots().unwrap(), made[..2]);
        let mut expected: Vec<String> = others.map(str::to_owned).to_vec();
        expected.extend(made[..2].iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()));
        expected.push(LOCK.to_owned());
        expected.sort();
        assert_eq!(place.names(), expected);
    }
}
