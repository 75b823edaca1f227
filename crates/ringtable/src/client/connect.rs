//! Finding a server: a connected socket to where it listens, and whether its user is trusted.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::error::{Error, system};
use super::patience::Patience;
use super::readiness::await_readiness;
use crate::address::{self, Location, SOCKET_PATH_SIZE_MAX, SocketPath};
use crate::folder::{Folder, FolderError, Trust, denial, own_user};
use crate::limits;
use crate::shm::fork::Descriptor;
use crate::shm::{peer, shortage};

/// How long to wait before asking a server again whose queue of connections is full.
const QUEUE_RETRY: Duration = Duration::from_millis(5);

/// A connected socket.
pub(super) fn connect(location: &Location, trust: &Trust, patience: &mut Patience<'_>) -> Result<Descriptor, Error> {
    match location {
        Location::Unix(place) => connect_unix(place, trust, patience),
        Location::Tcp(address) => connect_tcp(*address, patience),
        Location::Udp(address) => connect_udp(*address),
    }
}

fn make_socket(family: AddressFamily, kind: SocketType) -> Result<Descriptor, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = Descriptor::make(|| rustix::net::socket_with(family, kind, flags, None));
    system("making a socket", socket.map_err(Into::into))
}

fn connect_unix(place: &SocketPath, trust: &Trust, patience: &mut Patience<'_>) -> Result<Descriptor, Error> {
    let socket = make_socket(AddressFamily::UNIX, SocketType::STREAM)?;
    let is_long = place.as_path().as_os_str().len() > SOCKET_PATH_SIZE_MAX;
    let folder = if is_long || place.is_named() { Some(open_folder(place, trust)?) } else { None };
    let address = match &folder {
        Some(folder) => folder.address(place.file_name()),
        None => SocketAddrUnix::new(place.as_path()),
    };
    let address = system("making a socket's address", address.map_err(Into::into))?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                check_server(&socket, place, trust)?;
                return Ok(socket);
            }
            Err(rustix::io::Errno::INTR) => patience.check_interrupted()?,
            // The server's queue is full: it is stopped, or overrun. There is nothing to wait on but time.
            Err(rustix::io::Errno::AGAIN) => {
                std::thread::sleep(patience.slice()?.min(QUEUE_RETRY));
                patience.check_interrupted()?;
            }
            Err(rustix::io::Errno::ACCESS) => {
                let why = denial(place.as_path());
                return Err(Error::Denied { location: Location::Unix(place.clone()), why });
            }
            Err(error) => return Err(not_found(Location::Unix(place.clone()), error)),
        }
    }
}

/// The folder of names, after the look that comes before a connection to a server in it; `None` where there is none.
///
/// # Errors
/// Those of connecting: [`Error::Untrusted`], [`Error::Denied`].
pub fn folder_of_names(trust: &Trust) -> Result<Option<PathBuf>, Error> {
    let place = address::socket_path("default")?;
    match open_folder(&place, trust) {
        Ok(_) => Ok(Some(place.folder().to_owned())),
        Err(Error::NotFound { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_folder(place: &SocketPath, trust: &Trust) -> Result<Folder, Error> {
    Folder::of(place, trust).map_err(|error| match error {
        FolderError::System { error, .. } => not_found(Location::Unix(place.clone()), error),
        FolderError::Denied { why, .. } => Error::Denied { location: Location::Unix(place.clone()), why },
        FolderError::Foreign { user, .. } => Error::Untrusted(format!("{error}, or {}", telling(user))),
        error => Error::Untrusted(error.to_string()),
    })
}

/// Makes sure that it is a trusted user's server that was found, before anything is sent or believed.
fn check_server(socket: &Descriptor, place: &SocketPath, trust: &Trust) -> Result<(), Error> {
    let user = system("asking whose server it is", peer::user(socket))?;
    if trust.includes(user) {
        return Ok(());
    }
    let own = own_user();
    Err(Error::Untrusted(format!(
        "the server at {place} is run by user {user}, and this process by user {own}: choose another address, or {}",
        telling(user)
    )))
}

fn telling(user: u32) -> String {
    format!(
        "say that you trust that user with all that you read and write there: trust_user={user} (--trust-user {user})"
    )
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Where nobody listens, the kernel may choose this very port for our end, and connects the socket with itself.
fn is_connected_with_itself(socket: &Descriptor, address: SocketAddr) -> bool {
    rustix::net::getsockname(socket).is_ok_and(|ours| SocketAddr::try_from(ours) == Ok(address))
}

/// A socket that sends to this address, and receives from there alone. That says nothing about who is there.
fn connect_udp(address: SocketAddr) -> Result<Descriptor, Error> {
    let socket = make_socket(family(address), SocketType::DGRAM)?;
    // As much as the kernel grants: what finds no room is asked for again.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, limits::UDP_RECEIVE_BUFFER);
    let connected = rustix::net::connect(&socket, &address);
    connected.map_err(|error| not_found(Location::Udp(address), error))?;
    if is_connected_with_itself(&socket, address) {
        return Err(not_found(Location::Udp(address), rustix::io::Errno::CONNREFUSED));
    }
    Ok(socket)
}

fn connect_tcp(address: SocketAddr, patience: &mut Patience<'_>) -> Result<Descriptor, Error> {
    use rustix::io::Errno;
    let socket = make_socket(family(address), SocketType::STREAM)?;
    let refused = |error| not_found(Location::Tcp(address), error);
    match rustix::net::connect(&socket, &address) {
        // It goes on by itself, also after a signal.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(refused(error)),
    }
    await_readiness(&socket, PollFlags::OUT, patience)?;
    sockopt::socket_error(&socket).and_then(|outcome| outcome).map_err(refused)?;
    if is_connected_with_itself(&socket, address) {
        return Err(refused(Errno::CONNREFUSED));
    }
    // Requests are sent when they are wanted to go: none should wait for more to come.
    system("setting TCP_NODELAY", sockopt::set_tcp_nodelay(&socket, true).map_err(Into::into))?;
    Ok(socket)
}

pub(super) fn not_found(location: Location, error: impl Into<std::io::Error>) -> Error {
    let error = error.into();
    if shortage::is_shortage(&error) {
        Error::System { doing: "connecting", error }
    } else {
        Error::NotFound { location, error }
    }
}
