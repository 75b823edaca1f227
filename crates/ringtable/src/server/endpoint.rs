//! What a server has on disk: the socket that clients connect to, and beside it a lock, which says whose the path is.
//!
//! # Design
//!
//! The lock of `PATH` is `PATH.lock`: a file of our user's, for that user alone, which is empty or holds [`MARK`]. A
//! server has an exclusive `flock` on it for as long as it lives, and the lock goes with the process, however it dies.
//! Who has it may look at what lies at `PATH`, and replace it if it is a dead server's socket.
//!
//! # Invariants
//!
//! - Nothing is removed but a socket that no process has, and what this server has made. What it has made it knows by
//!   device and inode: it keeps the file open, so that no other one can get the same number. It finds it in the folder
//!   that it opened at the start, whatever the current folder is by then, or the name of that one.
//! - Nothing is opened for reading or writing but a lock of ours: a link, a fifo or a device in its place is not.
//! - The socket is its user's alone unless an [`Access`] says otherwise, which it has before anybody can connect. So
//!   do folders that are made for it; those that were there stay as they are.
//! - A start that fails leaves nothing behind, nor does an end in order. The next server clears away what a killed one
//!   has left.
//! - Two servers that have the same path, since the files of one were removed, do not remove each other's.
//!
//! # When files are removed
//!
//! Programs that clean `/tmp` remove files under living servers. The accepting thread has the kernel tell it when the
//! name of one of the two files goes ([`Endpoint::watch`]), and a little later makes it anew ([`Endpoint::look`]): who
//! removes the whole folder is not kept from it. Then it is the folder that has its place by then, or for names a new
//! one. Who finds the path taken leaves it to the other, lock and all. The kernel has few watches for each user;
//! without one, nothing is noticed, and all the rest stays true.
//!
//! # Not promised
//!
//! Between the last look at a dead socket and its removal are microseconds in which a program that does not know the
//! lock could put its own socket there. POSIX has no removal by inode.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Gid;

use super::error::{Error, doing};
use super::held::Held;
use crate::address::SocketPath;
use crate::folder::{Folder, FolderError, Trust, denial, is_same, kind, own_user, through_proc};
use crate::limits;
use crate::shm::descriptors;
use crate::shm::fork::Descriptor;

/// What a lock file holds: who finds it should know what it is.
const MARK: &[u8] = b"ringtable: the lock of the socket beside this file\n";
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Who may connect, besides the server's own user and root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// The mode of the socket.
    pub mode: Mode,
    /// The group that it is given to, if to any.
    pub group: Option<u32>,
}

impl Access {
    /// The mode of a folder that is made for the socket: who may connect may pass.
    fn of_folder(self) -> Mode {
        let passing = |who: Mode, may: Mode| if self.mode.intersects(who) { may } else { Mode::empty() };
        Mode::RWXU | passing(Mode::RWXG, Mode::XGRP) | passing(Mode::RWXO, Mode::XOTH)
    }

    /// Gives what we have made to the group.
    fn give(self, file: &Descriptor, path: &Path) -> Result<(), Error> {
        let Some(group) = self.group else { return Ok(()) };
        rustix::fs::chownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)
            .map_err(|error| Error::Group { path: path.to_owned(), group, error: error.into() })
    }
}

/// A path that is this server's, and the two files there. Dropping it removes them.
pub(super) struct Endpoint {
    place: SocketPath,
    access: Access,
    // The socket goes before the lock: who waits for the lock finds the path free.
    socket: Socket,
    lock: OwnFile,
    made: MadeFolders,
    is_hidden: bool,
}

struct Socket {
    listening: Arc<Descriptor>,
    file: OwnFile,
}

impl Endpoint {
    /// Makes the path this server's, and listens there.
    pub fn claim(place: &SocketPath, access: Access) -> Result<Self, Error> {
        Self::claim_with(place, access, usize::MAX)
    }

    /// Goes on with a path that was another server's, which is dead, by what that has left: the listening socket, the
    /// file of it, and the lock. What of it is not in its place any more is made anew by the next look.
    ///
    /// # Errors
    /// If they are of another path, or the folder cannot be opened.
    pub fn adopt(place: &SocketPath, access: Access, [listening, file, lock]: [Descriptor; 3]) -> Result<Self, Error> {
        let folder = Arc::new(Folder::of(place, &Trust::default())?);
        let own = |name: OsString, file| OwnFile { folder: Arc::clone(&folder), name, file };
        let socket = Socket { listening: Arc::new(listening), file: own(place.file_name().to_owned(), file) };
        let lock = own(lock_name(place), lock);
        if !lock.is_in_place() {
            // It may have been removed; then its old name tells.
            let link = format!("/proc/self/fd/{}", lock.file.as_fd().as_raw_fd());
            let path = doing("looking where the socket is", std::fs::read_link(link))?;
            let was = path.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
            if Path::new(&was).file_name() != Some(&lock.name) {
                let words =
                    format!("it is of the server whose lock was {was}, and not of {}", place.as_path().display());
                return doing("taking a socket over", Err(io::Error::other(words)));
            }
        }
        Ok(Self { place: place.clone(), access, socket, lock, made: MadeFolders::default(), is_hidden: false })
    }

    /// What outlives this server if somebody holds it.
    pub fn parts(&self) -> [(Held, BorrowedFd<'_>); 3] {
        [
            (Held::Listening, self.socket.listening.as_fd()),
            (Held::SocketFile, self.socket.file.file.as_fd()),
            (Held::Lock, self.lock.file.as_fd()),
        ]
    }

    /// The same as [`Self::claim`], making so many folders at most.
    fn claim_with(place: &SocketPath, access: Access, folders_max: usize) -> Result<Self, Error> {
        let mut tries = limits::CLAIM_TRIES_MAX;
        loop {
            match Self::try_claim(place, access, folders_max) {
                // A start that has failed has removed the folder that it had made, and that we have opened meanwhile.
                Err(error) if place.is_named() && error.is_not_found() && tries > 0 => tries -= 1,
                claimed => return claimed,
            }
        }
    }

    fn try_claim(place: &SocketPath, access: Access, folders_max: usize) -> Result<Self, Error> {
        let folders_max = if place.is_named() { folders_max } else { 0 };
        let made = MadeFolders::make(place.folder(), access, folders_max)?;
        let folder = Arc::new(Folder::of(place, &Trust::default())?);
        let lock = take_lock(&folder, place)?;
        failpoint!("start.locked");
        let socket = listen(&folder, place, access)?;
        failpoint!("start.bound");
        Ok(Self { place: place.clone(), access, socket, lock, made, is_hidden: false })
    }

    /// The start has succeeded: the folders that it made stay when the server ends. Who removed them would let another
    /// user have the name.
    pub fn keep_folders(&mut self) {
        self.made.0.clear();
    }

    /// The socket that clients connect to.
    pub fn listening(&self) -> &Arc<Descriptor> {
        &self.socket.listening
    }

    /// Removes the socket's name until the next look: this socket takes no more connections.
    pub fn withdraw(&self) {
        self.socket.file.remove();
    }

    /// Removes the socket's name, for good: nobody can connect any more.
    pub fn hide(&mut self) {
        self.is_hidden = true;
        self.socket.file.remove();
    }

    /// Leaves the path to others for good. Who kept the lock would keep everybody from a path at which it is not found.
    pub fn give_up(&self) {
        self.lock.remove();
    }

    /// Has the kernel tell `inotify` when one of the names goes. It watches the files, not the folder, in which a lot
    /// may happen that concerns nobody here.
    pub fn watch(&self, inotify: &Descriptor) -> io::Result<()> {
        // The number of a file's names is one of its attributes.
        let gone = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF;
        for file in [&self.socket.file, &self.lock] {
            inotify::add_watch(inotify, through_proc(&file.file), gone)?;
        }
        Ok(())
    }

    /// Looks whether both files are in their place, and makes anew what is not. Returns whether the socket is another
    /// one now.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::Taken`] say that there is something else now. Then it is [`Self::is_found`] that
    /// says whether it is in place of the socket, or of the lock alone.
    pub fn look(&mut self) -> Result<bool, Error> {
        if self.is_whole() {
            return Ok(false);
        }
        let folder = Arc::clone(&self.lock.folder);
        if !folder.is_in_place() {
            // The path counts, under which a new one may lie. For a name it is made anew, but not what is above it: who
            // has removed that has not done so by mistake.
            *self = Self::claim_with(&self.place, self.access, 1)?;
            self.keep_folders();
            return Ok(true);
        }
        if !self.lock.is_in_place() {
            self.lock = take_lock(&folder, &self.place)?;
        }
        if self.is_found() {
            return Ok(false);
        }
        self.socket = listen(&folder, &self.place, self.access)?;
        Ok(true)
    }

    /// Whether nothing has to be made anew: both files are in their place, or are not meant to be there any more.
    pub fn is_whole(&self) -> bool {
        self.is_hidden || (self.is_found() && self.lock.is_in_place())
    }

    /// Whether clients find the socket.
    pub fn is_found(&self) -> bool {
        self.socket.file.is_in_place()
    }
}

impl Error {
    fn is_not_found(&self) -> bool {
        let (Self::System { error, .. } | Self::Folder(FolderError::System { error, .. })) = self else { return false };
        error.kind() == io::ErrorKind::NotFound
    }
}

/// A file that this server has made, and its name. Dropping it removes the name, if it is still that of this file.
struct OwnFile {
    folder: Arc<Folder>,
    name: OsString,
    /// Open as long as we want to know it: the number of a file that nobody has may become another one's.
    file: Descriptor,
}

impl OwnFile {
    fn is_in_place(&self) -> bool {
        match (self.folder.look_at(&self.name), rustix::fs::fstat(&self.file)) {
            (Ok(named), Ok(own)) => is_same(&named, &own),
            _ => false,
        }
    }

    fn remove(&self) {
        if self.is_in_place() {
            let _ = rustix::fs::unlinkat(&*self.folder, &self.name, AtFlags::empty());
        }
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The name of a socket's lock.
fn lock_name(place: &SocketPath) -> OsString {
    let mut name = place.file_name().to_owned();
    name.push(".lock");
    name
}

/// Takes the lock of a socket.
fn take_lock(folder: &Arc<Folder>, place: &SocketPath) -> Result<OwnFile, Error> {
    let name = lock_name(place);
    let path = place.folder().join(&name);
    let locking = || format!("locking {}", path.display());
    for _ in 0..limits::CLAIM_TRIES_MAX {
        let Some((file, is_new)) = open_lock(folder, &name, &path)? else { continue };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::Exists(place.as_path().to_owned())),
            Err(error) => {
                if is_new {
                    drop(OwnFile { folder: Arc::clone(folder), name, file });
                }
                return doing(locking(), Err(error.into()));
            }
        }
        // The last holder may have removed the file between our opening and our locking it: then our lock guards
        // nothing, and we try again with the file that is there now.
        let own = OwnFile { folder: Arc::clone(folder), name: name.clone(), file };
        if own.is_in_place() {
            // An empty lock is as good, should the disk be full.
            let _ = rustix::io::pwrite(&own.file, MARK, 0);
            return Ok(own);
        }
    }
    doing(locking(), Err(busy()))
}

/// Opens the lock, or makes it, and says whether it did; `None` if it is another file by now.
///
/// What is no lock of ours is not even opened: a fifo would wait, a device may do anything.
fn open_lock(folder: &Folder, name: &OsString, path: &Path) -> Result<Option<(Descriptor, bool)>, Error> {
    let taken = |what: String| Err(Error::Taken { path: path.to_owned(), what });
    let doing = || format!("opening {}", path.display());
    let failed = |error: Errno| match error {
        Errno::ACCESS => FolderError::Denied { doing: doing(), why: denial_in(path) }.into(),
        error => Error::System { doing: doing(), error: error.into() },
    };
    let open = |flags: OFlags| {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        Descriptor::make(|| rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR))
    };
    match open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
        Ok(file) => {
            // As below, in `set_mode`. We have it open already; the mode is for the next server, should we be killed.
            let _ = rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR);
            return Ok(Some((file, true)));
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(failed(error)),
    }
    let seen = match folder.look_at(name) {
        Ok(seen) => seen,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return taken(format!("{}, not the lock of a server", kind(&seen)));
    }
    if seen.st_uid != own_user() {
        return taken(format!("a file of user {}", seen.st_uid));
    }
    let file = match open(OFlags::RDWR) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let opened = rustix::fs::fstat(&file).map_err(failed)?;
    let mut bytes = [0; MARK.len() + 1];
    let size = rustix::io::pread(&file, &mut bytes, 0).map_err(failed)?;
    if !is_same(&opened, &seen) || opened.st_nlink == 0 {
        return Ok(None);
    }
    let others = Mode::RWXG | Mode::RWXO;
    let is_private = !Mode::from_raw_mode(opened.st_mode).intersects(others) && opened.st_nlink == 1;
    // Its maker may have been killed before it was written.
    if !is_private || !MARK.starts_with(&bytes[..size]) {
        return taken("a file that no server has made as its lock".to_owned());
    }
    Ok(Some((file, false)))
}

/// Listens at a path whose lock we have.
fn listen(folder: &Arc<Folder>, place: &SocketPath, access: Access) -> Result<Socket, Error> {
    let listening = || format!("listening at {place}");
    for _ in 0..limits::CLAIM_TRIES_MAX {
        make_way(folder, place)?;
        let address = doing(listening(), folder.address_to_bind(place.file_name()).map_err(Into::into))?;
        // Room for the descriptor that is needed when there is no way back.
        let spare = doing(listening(), folder.duplicate().map_err(Into::into))?;
        let Some(socket) = doing(listening(), bind(&address).map_err(Into::into))? else { continue };
        drop(spare);
        let file = open_file(folder, place).and_then(|file| {
            let seen = rustix::fs::fstat(&file)?;
            let is_ours = FileType::from_raw_mode(seen.st_mode) == FileType::Socket && seen.st_uid == own_user();
            if !is_ours {
                return Err(Errno::NOENT);
            }
            set_mode(&file, Mode::RUSR | Mode::WUSR)?;
            Ok(file)
        });
        let file = match file {
            Ok(file) => OwnFile { folder: Arc::clone(folder), name: place.file_name().to_owned(), file },
            Err(error) => {
                // Another thread has taken that room. The socket is dead when it is closed, and then it can be removed
                // as such.
                drop(socket);
                let _ = make_way(folder, place);
                return doing(listening(), Err(error.into()));
            }
        };
        // Group first: for a moment the mode would be meant for another one.
        access.give(&file.file, place.as_path())?;
        doing(listening(), set_mode(&file.file, access.mode).map_err(Into::into))?;
        doing(listening(), rustix::net::listen(&socket, BACKLOG).map_err(Into::into))?;
        return Ok(Socket { listening: Arc::new(socket), file });
    }
    doing(listening(), Err(busy()))
}

/// A socket with that address; `None` if there is something.
fn bind(address: &SocketAddrUnix) -> Result<Option<Descriptor>, Errno> {
    let socket = unix_socket(SocketType::STREAM, SocketFlags::NONBLOCK)?;
    // On Linux the name gets the mode of the socket itself, so that there is no moment in which others may connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    descriptors::refuse(&socket);
    match rustix::net::bind(&socket, address) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::ADDRINUSE) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unix_socket(kind: SocketType, flags: SocketFlags) -> Result<Descriptor, Errno> {
    let flags = flags | SocketFlags::CLOEXEC;
    Descriptor::make(|| rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None))
}

/// Removes the socket that a dead server has left. Anything else stays, and is an error.
fn make_way(folder: &Folder, place: &SocketPath) -> Result<(), Error> {
    let looking = || format!("looking at {place}");
    let taken = |what: String| Err(Error::Taken { path: place.as_path().to_owned(), what });
    for _ in 0..limits::CLAIM_TRIES_MAX {
        let file = match open_file(folder, place) {
            Err(Errno::NOENT) => return Ok(()),
            file => doing(looking(), file.map_err(Into::into))?,
        };
        let seen = doing(looking(), rustix::fs::fstat(&file).map_err(Into::into))?;
        if FileType::from_raw_mode(seen.st_mode) != FileType::Socket {
            return taken(format!("{}, not a socket", kind(&seen)));
        }
        match probe(&file) {
            Err(Errno::CONNREFUSED) => remove_dead(folder, place, &seen)?,
            Err(Errno::PROTOTYPE) => return Err(Error::Exists(place.as_path().to_owned())),
            Err(Errno::ACCESS) => return taken(format!("a socket of user {}", seen.st_uid)),
            Ok(()) | Err(Errno::PERM) => return taken("another program's socket".to_owned()),
            Err(error) => return doing(looking(), Err(error.into())),
        }
    }
    doing(looking(), Err(busy()))
}

/// A descriptor of what lies at the path, whatever it is, without opening it.
fn open_file(folder: &Folder, place: &SocketPath) -> Result<Descriptor, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Descriptor::make(|| rustix::fs::openat(folder, place.file_name(), flags, Mode::empty()))
}

/// Asks whether any process has the socket: `CONNREFUSED` if none has. By a socket of another type than a server's,
/// which is refused as such (`PROTOTYPE`): a living server does not even learn of it, and one that is bound and does
/// not listen yet counts as living.
fn probe(file: &Descriptor) -> Result<(), Errno> {
    let socket = unix_socket(SocketType::DGRAM, SocketFlags::empty())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(through_proc(file))?)
}

fn remove_dead(folder: &Folder, place: &SocketPath, seen: &Stat) -> Result<(), Error> {
    // Looked at once more, as close to the removal as can be.
    match folder.look_at(place.file_name()) {
        Ok(named) if is_same(&named, seen) => {}
        _ => return Ok(()),
    }
    match rustix::fs::unlinkat(folder, place.file_name(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => doing(format!("removing the dead socket {place}"), Err(error.into())),
    }
}

/// Gives what we have made its mode, of which the umask may have taken away what we need ourselves.
fn set_mode(file: &Descriptor, mode: Mode) -> Result<(), Errno> {
    let found = rustix::fs::fstat(file)?;
    // What somebody has put in its place is not ours to change, and is noticed elsewhere.
    if Mode::from_raw_mode(found.st_mode).contains(mode) || found.st_uid != own_user() {
        return Ok(());
    }
    // The system call that needs no path refuses descriptors that are only for looking at.
    rustix::fs::chmod(through_proc(file), mode)
}

/// What denies this process to make a file, or to open it.
fn denial_in(path: &Path) -> String {
    match (path.symlink_metadata(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => denial(folder),
        _ => denial(path),
    }
}

fn busy() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "others make and remove it all the time")
}

/// The folders that were made for a path. Dropping it removes them again, as far as they are empty.
#[derive(Default)]
struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Makes what is missing, at most so many; of more, none.
    fn make(folder: &Path, access: Access, count_max: usize) -> Result<Self, Error> {
        let mut made = Self::default();
        let missing: Vec<_> = folder.ancestors().take_while(|ancestor| ancestor.symlink_metadata().is_err()).collect();
        if missing.len() > count_max {
            return Ok(made);
        }
        for folder in missing.into_iter().rev() {
            match std::fs::DirBuilder::new().mode(0o700).create(folder) {
                Ok(()) => {
                    made.0.push(folder.to_owned());
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let opened = Descriptor::make(|| rustix::fs::open(folder, flags, Mode::empty()));
                    let opened = doing(format!("opening the folder {}", folder.display()), opened.map_err(Into::into))?;
                    access.give(&opened, folder)?;
                    let given = set_mode(&opened, access.of_folder());
                    doing(format!("opening the folder {}", folder.display()), given.map_err(Into::into))?;
                }
                // By another server that starts.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let doing = format!("making the folder {}", folder.display());
                    return Err(match error.kind() {
                        io::ErrorKind::PermissionDenied => FolderError::Denied { doing, why: denial_in(folder) }.into(),
                        _ => Error::System { doing, error },
                    });
                }
            }
        }
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
