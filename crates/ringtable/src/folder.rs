//! The folder of a socket, and whom one trusts with it: what server and client do before they bind or connect.
//!
//! A name in the directory of names ([`crate::address::directory`]) means "my server of that name" to whoever connects,
//! so nobody else may be able to put anything there. A folder is opened once, looked at by its descriptor, and used by
//! its descriptor: whatever becomes of its name meanwhile, what was looked at is what is used.
//!
//! That of a path is the caller's choice, and only opened. Whose server it is that answers there, clients ask the
//! kernel, of every unix socket.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::net::SocketAddrUnix;

use crate::address::{SOCKET_PATH_SIZE_MAX, SocketPath};
use crate::shm::fork::Descriptor;
use crate::shm::shortage;

/// The users that are trusted with what is read and written, besides this process's own: root, who can do anything
/// anyway, and those that were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The numbers of those users.
    pub users: Vec<u32>,
}

impl Trust {
    /// Whether a user is trusted.
    pub fn includes(&self, user: u32) -> bool {
        user == own_user() || user == ROOT || self.users.contains(&user)
    }
}

const ROOT: u32 = 0;

/// The user whom this process acts for.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It is none, or cannot be opened.
    #[error("opening the folder {}: {}", .folder.display(), shortage::in_words(.error))]
    System {
        /// Its path.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// This user may not do in it, or on the way to it, what is to be done.
    #[error("{doing}: {why}: set $RINGTABLE_DIR to a folder of user {}, or give a path in one", own_user())]
    Denied {
        /// What was being done.
        doing: String,
        /// See [`denial`].
        why: String,
    },
    /// It is a link, which may lead elsewhere tomorrow; or no folder.
    #[error("the folder of names {} is {what}: set $RINGTABLE_DIR to the folder itself", .folder.display())]
    NoFolder {
        /// Its path.
        folder: PathBuf,
        /// What lies there.
        what: String,
    },
    /// It belongs to somebody who is not trusted.
    #[error(
        "the folder of names {} belongs to user {user}, who could put a server of their own there: set $RINGTABLE_DIR \
         to a folder of user {}",
        .folder.display(), own_user()
    )]
    Foreign {
        /// Its path.
        folder: PathBuf,
        /// Whose it is.
        user: u32,
    },
    /// Others may write to it, who are not trusted.
    #[error(
        "others may write to the folder of names {} (mode {mode:04o}, of user {user}), and could put a server of their \
         own there: {}",
        .folder.display(), closing(.folder, *.user)
    )]
    Open {
        /// Its path.
        folder: PathBuf,
        /// Its mode.
        mode: u32,
        /// Whose it is.
        user: u32,
    },
}

/// What to do about a folder that others may write to.
fn closing(folder: &Path, owner: u32) -> String {
    let own = own_user();
    let mine = folder.join(format!("ringtable-{own}"));
    let instead =
        format!("set $RINGTABLE_DIR to a folder of user {own}, such as {} (a server makes it)", mine.display());
    // Only its owner can change it.
    if own == owner || own == ROOT { format!("`chmod go-w` it, or {instead}") } else { instead }
}

/// What denies this process a path: a folder that lets it not pass, or what lies at the path.
pub fn denial(path: &Path) -> String {
    let own = own_user();
    let folders: Vec<_> = path.ancestors().skip(1).collect();
    for folder in folders.into_iter().rev() {
        // One looks into a folder by passing through it.
        if matches!(rustix::fs::stat(folder.join(".")), Err(rustix::io::Errno::ACCESS)) {
            return match rustix::fs::stat(folder) {
                Ok(found) => {
                    format!("the folder {} ({}) does not let user {own} pass", folder.display(), owner(&found))
                }
                Err(_) => format!("the folder {} does not let user {own} pass", folder.display()),
            };
        }
    }
    match rustix::fs::stat(path) {
        Ok(found) => format!("{} ({}) is not writable for user {own}", path.display(), owner(&found)),
        Err(error) => io::Error::from(error).to_string(),
    }
}

/// The mode of what was seen, and whose it is, for people.
fn owner(found: &Stat) -> String {
    let mode = Mode::from_raw_mode(found.st_mode).as_raw_mode();
    format!("mode {mode:04o}, of user {}, group {}", found.st_uid, found.st_gid)
}

/// An opened folder.
#[derive(Debug)]
pub struct Folder {
    descriptor: Descriptor,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder of a socket, and checks it if it is that of names.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub fn of(socket: &SocketPath, trust: &Trust) -> Result<Self, FolderError> {
        let path = socket.folder();
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::ACCESS => {
                FolderError::Denied { doing: format!("opening the folder {}", path.display()), why: denial(path) }
            }
            error => FolderError::System { folder: path.to_owned(), error: error.into() },
        };
        let links = if socket.is_named() { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | links;
        let folder = match Descriptor::make(|| rustix::fs::open(path, flags, Mode::empty())) {
            Ok(descriptor) => Self { descriptor, path: path.to_owned() },
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if socket.is_named() => {
                return Err(FolderError::NoFolder { folder: path.to_owned(), what: what_else(path) });
            }
            Err(error) => return Err(failed(error)),
        };
        if socket.is_named() {
            folder.check(&rustix::fs::fstat(&folder).map_err(failed)?, trust)?;
        }
        Ok(folder)
    }

    fn check(&self, found: &Stat, trust: &Trust) -> Result<(), FolderError> {
        if !trust.includes(found.st_uid) {
            return Err(FolderError::Foreign { folder: self.path.clone(), user: found.st_uid });
        }
        let mode = Mode::from_raw_mode(found.st_mode);
        // In a sticky one, as /tmp is, others can put what is not there yet, and not replace what is.
        if mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX) {
            let (mode, user) = (mode.as_raw_mode(), found.st_uid);
            return Err(FolderError::Open { folder: self.path.clone(), mode, user });
        }
        Ok(())
    }

    /// What lies under a name in it; not what a link leads to.
    ///
    /// # Errors
    /// Those of the system: `NOENT` if nothing does.
    pub fn look_at(&self, name: &OsStr) -> rustix::io::Result<Stat> {
        rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The address of a socket in it for `connect`: of this very folder, as long as there is a `/proc`.
    ///
    /// # Errors
    /// If it fits no address.
    pub fn address(&self, name: &OsStr) -> rustix::io::Result<SocketAddrUnix> {
        let through_proc = through_proc(&self.descriptor);
        match (rustix::fs::fstat(self), rustix::fs::stat(&through_proc)) {
            (Ok(own), Ok(found)) if is_same(&own, &found) => SocketAddrUnix::new(through_proc.join(name)),
            _ => SocketAddrUnix::new(self.path.join(name)),
        }
    }

    /// The address of a socket in it for `bind`: the one that others see, and know the socket by, if it fits. (Programs
    /// that clean folders leave alone what the kernel lists as bound there.)
    ///
    /// # Errors
    /// If it fits no address, or the folder's name has become another one's.
    pub fn address_to_bind(&self, name: &OsStr) -> rustix::io::Result<SocketAddrUnix> {
        let path = self.path.join(name);
        if path.as_os_str().len() > SOCKET_PATH_SIZE_MAX {
            return SocketAddrUnix::new(through_proc(&self.descriptor).join(name));
        }
        if self.is_in_place() { SocketAddrUnix::new(path) } else { Err(rustix::io::Errno::NOENT) }
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// If there is none left.
    pub fn duplicate(&self) -> rustix::io::Result<Descriptor> {
        self.descriptor.duplicate()
    }

    /// Whether its path still leads to it.
    pub fn is_in_place(&self) -> bool {
        match (rustix::fs::fstat(self), rustix::fs::stat(&self.path)) {
            (Ok(own), Ok(found)) => is_same(&own, &found),
            _ => false,
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A path of what a descriptor is open for.
pub fn through_proc(descriptor: &Descriptor) -> PathBuf {
    Path::new("/proc/self/fd").join(descriptor.number().to_string())
}

/// Whether two looks saw the same file.
pub fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// What lies at a path where a folder should be.
fn what_else(path: &Path) -> String {
    match (rustix::fs::readlink(path, Vec::new()), rustix::fs::lstat(path)) {
        (Ok(target), _) => format!("a symbolic link (to {})", target.to_string_lossy()),
        (_, Ok(found)) => kind(&found).to_owned(),
        _ => "no folder".to_owned(),
    }
}

/// What kind of file was seen, in words.
pub fn kind(found: &Stat) -> &'static str {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "no file of a known kind",
    }
}
