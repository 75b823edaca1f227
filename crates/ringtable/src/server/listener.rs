//! The sockets at the door, and the guarantee that a name has one server.
//!
//! Beside `NAME.sock` lies `NAME.lock`, on which a server holds an exclusive `flock` for as long as it lives. Who
//! gets the lock is the server; a socket that lies there all the same is a dead one's and is replaced. The lock goes
//! with the process, however it dies.
//!
//! A TCP port is another door beside that, for clients that know no unix sockets. It has no mode bits: whoever reaches
//! it may come in, so it is open to this machine alone (loopback). Descriptors cannot be passed through it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::worker::Arrival;
use super::{Error, Shared, doing};
use crate::address;
use crate::shm::fork::Descriptor;
use std::sync::atomic::Ordering;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// The bound sockets, and the lock on the name of the first. Dropping it removes both files.
pub(super) struct Listener {
    socket: Descriptor,
    tcp: Option<Descriptor>,
    tcp_address: Option<SocketAddr>,
    _lock: Descriptor,
    path: PathBuf,
    lock_path: PathBuf,
}

impl Listener {
    pub fn open(address: &str, tcp: Option<SocketAddr>) -> Result<Self, Error> {
        let path = address::socket_path(address)?;
        if path.parent() == Some(&address::directory()) {
            make_directory(&address::directory())?;
        }
        let lock_path = path.with_extension("lock");
        let Some(lock) = doing(format!("locking {}", lock_path.display()), take_lock(&lock_path))? else {
            return Err(Error::Exists(path));
        };
        failpoint!("start.locked");
        let socket = doing(format!("listening at {}", path.display()), bind(&path))?;
        failpoint!("start.bound");
        let mut listener = Self { socket, tcp: None, tcp_address: None, _lock: lock, path, lock_path };
        if let Some(address) = tcp {
            // From here on the listener removes its files, should the port be somebody else's.
            let (socket, bound) = doing(format!("listening at tcp://{address}"), bind_tcp(address))?;
            (listener.tcp, listener.tcp_address) = (Some(socket), Some(bound));
        }
        Ok(listener)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The TCP port that is listened at.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// Other descriptors of the sockets, for the accepting thread.
    pub fn doors(&self) -> io::Result<Vec<Door>> {
        let door = |socket: &Descriptor, is_local| Ok(Door { socket: socket.duplicate()?, is_local });
        let unix = std::iter::once(door(&self.socket, true));
        unix.chain(self.tcp.iter().map(|socket| door(socket, false))).collect()
    }

    /// Removes the socket's name: nobody can connect any more.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A listening socket, as the accepting thread has it.
pub(super) struct Door {
    socket: Descriptor,
    /// Whether its connections are unix sockets.
    is_local: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove();
        // While we still hold it: see `take_lock` for who waits for it.
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Makes the user's directory of sockets, and refuses one that others could have prepared.
fn make_directory(directory: &Path) -> Result<(), Error> {
    let what = || format!("making the directory {}", directory.display());
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return doing(what(), Err(error)),
        _ => {}
    }
    let found = doing(what(), std::fs::symlink_metadata(directory))?;
    let user = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != user {
        let error = io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it is no directory of user {user} (owner {}): set $RINGTABLE_DIR to one", found.uid()),
        );
        return doing(what(), Err(error));
    }
    Ok(())
}

/// The exclusive lock on `path`; `None` if somebody has it.
fn take_lock(path: &Path) -> io::Result<Option<Descriptor>> {
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = Descriptor::make(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            other => other?,
        }
        // The last holder may have removed the file between our opening and our locking it: then our lock guards
        // nothing, and we try again with the file that is there now.
        let locked = rustix::fs::fstat(&fd)?;
        match std::fs::metadata(path) {
            Ok(named) if named.ino() == locked.st_ino && named.dev() == locked.st_dev => return Ok(Some(fd)),
            _ => continue,
        }
    }
}

fn bind(path: &Path) -> io::Result<Descriptor> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // a dead server's socket, or none: we hold the lock
    }
    let socket = make_socket(AddressFamily::UNIX)?;
    // On Linux the name gets the mode of the socket itself, so that there is no moment in which others may connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn make_socket(family: AddressFamily) -> io::Result<Descriptor> {
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    Ok(Descriptor::make(|| rustix::net::socket_with(family, kind, flags, None))?)
}

/// Listens at a loopback address. Returns the address with the port that the kernel chose if `address` left it open.
fn bind_tcp(address: SocketAddr) -> io::Result<(Descriptor, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = make_socket(family)?;
    // Connections of a server that has ended occupy the port for a minute; a server that runs still does.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let bound = rustix::net::getsockname(&socket)?.try_into()?;
    Ok((socket, bound))
}

/// The accepting thread: gives each connection to the worker with the fewest.
pub(super) fn accept(doors: &[Door], shared: &Shared) {
    use rustix::event::{PollFd, PollFlags, poll};
    super::block_signals();
    for door in doors {
        // Non-blocking, because a client may have gone again between `poll` and `accept`.
        let _ = rustix::io::ioctl_fionbio(&door.socket, true);
    }
    let mut ready: Vec<_> = doors.iter().map(|door| PollFd::new(&door.socket, PollFlags::IN)).collect();
    ready.push(PollFd::from_borrowed_fd(shared.stop_bell.as_fd(), PollFlags::IN));
    // Acquire: pairs with the Release in `Shared::stop`.
    while !shared.stopping.load(Ordering::Acquire) {
        if poll(&mut ready, None).is_err() {
            continue;
        }
        for (door, polled) in doors.iter().zip(&ready) {
            if !polled.revents().is_empty() {
                accept_one(door, shared);
            }
        }
    }
    for door in doors {
        // Who is in the queue, or still comes, is refused instead of waiting for nobody.
        let _ = rustix::net::shutdown(&door.socket, rustix::net::Shutdown::Both);
    }
}

fn accept_one(door: &Door, shared: &Shared) {
    match Descriptor::make(|| rustix::net::accept_with(&door.socket, SocketFlags::CLOEXEC)) {
        Ok(connection) => {
            if !door.is_local {
                // Replies are sent when they are whole: none should wait for more to come.
                let _ = sockopt::set_tcp_nodelay(&connection, true);
            }
            failpoint!("accept.accepted");
            admit(Arrival { socket: connection, is_local: door.is_local }, shared);
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
        Err(_) => {
            // Out of descriptors, most likely: leave the connection waiting, and do not spin meanwhile.
            shared.statistics.accept_failures.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn admit(arrival: Arrival, shared: &Shared) {
    let clients: usize = shared.workers.iter().map(|worker| worker.clients()).sum();
    if clients >= shared.clients_max {
        shared.statistics.clients_refused.fetch_add(1, Ordering::Relaxed);
        let message = format!("-MAXCLIENTS max number of clients reached: {clients} of {}\r\n", shared.clients_max);
        let _ = rustix::net::send(
            &arrival.socket,
            message.as_bytes(),
            rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
        );
        return;
    }
    // More workers than processors serve nobody faster, and cost a switch between threads for every request.
    let useful = shared.workers.len().min(shared.cpus);
    if let Some(worker) = shared.workers[..useful].iter().min_by_key(|worker| worker.clients()) {
        shared.statistics.clients_accepted.fetch_add(1, Ordering::Relaxed);
        worker.deliver(arrival);
    }
}
