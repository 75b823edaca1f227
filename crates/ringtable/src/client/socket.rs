//! The plain socket, as the client sees it, unix or TCP: RESP, for servers without lanes and for comparison.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::error::{Error, system};
use super::patience::{Checks, Patience};
use super::replies::refusal;
use crate::address::{Location, SOCKET_PATH_SIZE_MAX, SocketPath};
use crate::command::COMMANDS;
use crate::command::reply::Reply;
use crate::command::resp::{HEADER_SIZE_MAX, ReplyLimits, ReplyParser, write_request};
use crate::folder::{Folder, FolderError, Trust, denial, own_user};
use crate::limits;
use crate::shm::descriptors;
use crate::shm::doorbell::timespec;
use crate::shm::fork::Descriptor;
use crate::shm::{peer, shortage};

/// Request bytes gathered before they are sent without being asked to.
const GATHERED_MAX: usize = 64 << 10;
/// Bytes around a word of a request, and before all of them, at most.
const WORD_FRAMING_MAX: usize = HEADER_SIZE_MAX + 2;
/// Room for what is received by one system call, at least.
const RECEIVE_SIZE: usize = 64 << 10;

/// A buffer for replies that is larger than this does not stay so.
const INCOMING_KEPT_MAX: usize = limits::SPARE_BUFFER_SIZE_MAX;

/// How long to wait before asking a server again whose queue of connections is full.
const QUEUE_RETRY: Duration = Duration::from_millis(5);

/// A connected socket.
pub(super) fn connect(location: &Location, trust: &Trust, patience: &mut Patience<'_>) -> Result<Descriptor, Error> {
    match location {
        Location::Unix(place) => connect_unix(place, trust, patience),
        Location::Tcp(address) => connect_tcp(*address, patience),
    }
}

fn make_socket(family: AddressFamily) -> Result<Descriptor, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = Descriptor::make(|| rustix::net::socket_with(family, SocketType::STREAM, flags, None));
    system("making a socket", socket.map_err(Into::into))
}

fn connect_unix(place: &SocketPath, trust: &Trust, patience: &mut Patience<'_>) -> Result<Descriptor, Error> {
    let socket = make_socket(AddressFamily::UNIX)?;
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

fn connect_tcp(address: SocketAddr, patience: &mut Patience<'_>) -> Result<Descriptor, Error> {
    use rustix::io::Errno;
    let socket = make_socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    let refused = |error| not_found(Location::Tcp(address), error);
    match rustix::net::connect(&socket, &address) {
        // It goes on by itself, also after a signal.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(refused(error)),
    }
    await_readiness(&socket, PollFlags::OUT, patience)?;
    sockopt::socket_error(&socket).and_then(|outcome| outcome).map_err(refused)?;
    // Where nobody listens, the kernel may choose this very port for our end, and connects the socket with itself.
    if rustix::net::getsockname(&socket).is_ok_and(|ours| SocketAddr::try_from(ours) == Ok(address)) {
        return Err(refused(Errno::CONNREFUSED));
    }
    // Requests are sent when they are wanted to go: none should wait for more to come.
    system("setting TCP_NODELAY", sockopt::set_tcp_nodelay(&socket, true).map_err(Into::into))?;
    Ok(socket)
}

fn not_found(location: Location, error: impl Into<std::io::Error>) -> Error {
    let error = error.into();
    if shortage::is_shortage(&error) {
        Error::System { doing: "connecting", error }
    } else {
        Error::NotFound { location, error }
    }
}

pub(super) struct SocketLink {
    socket: Descriptor,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    parsed: usize,
    parser: ReplyParser,
    /// Whether the socket was full at the last `send`.
    blocked: bool,
    /// Requests gathered and replies received, ever.
    asked: u64,
    answered: u64,
    /// The requests are cut into stretches: how many there were when the present one began, and bytes of it.
    stretch_began: u64,
    stretch_size: usize,
    checks: Checks,
}

impl SocketLink {
    pub fn new(socket: Descriptor) -> Self {
        Self {
            socket,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            parsed: 0,
            parser: ReplyParser::new(ReplyLimits {
                elements_max: 1 << 24,
                bulk_size_max: limits::REPLY_SIZE_MAX,
                line_size_max: 64 << 10,
            }),
            blocked: false,
            asked: 0,
            answered: 0,
            stretch_began: 0,
            stretch_size: 0,
            checks: Checks::default(),
        }
    }

    pub fn into_socket(self) -> Descriptor {
        self.socket
    }

    /// One request and its reply, which may come with descriptors.
    pub fn handshake(
        &mut self,
        words: &[&[u8]],
        passed: &mut Vec<Descriptor>,
        patience: &mut Patience<'_>,
    ) -> Result<Reply, Error> {
        write_request(&mut self.outgoing, words);
        let mut bytes = [0; 4_096];
        loop {
            // A server that is full answers before it is asked, and closes: what it said counts more than the error.
            let flushed = self.flush();
            if let Some(reply) = self.parse()? {
                return Ok(reply);
            }
            await_readiness(&self.socket, PollFlags::IN, patience)?;
            let size = match descriptors::receive(&self.socket, &mut bytes, passed) {
                Ok(0) => return Err(flushed.err().unwrap_or_else(gone)),
                Ok(size) => size,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => continue,
                Err(error) if shortage::is_shortage(&error) => {
                    return Err(Error::System { doing: "taking the server's descriptors in this process", error });
                }
                Err(_) => return Err(gone()),
            };
            self.incoming.extend_from_slice(&bytes[..size]);
        }
    }

    /// Asks for version 3 of the protocol, whose replies have the same kinds as those of a lane.
    pub fn speak_resp3(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        match self.handshake(&[b"HELLO", b"3"], &mut Vec::new(), patience)? {
            // A server of old that knows only version 2 can still be talked to.
            Reply::Error(message) => match refusal(message) {
                Error::Refused(_) => Ok(()),
                error => Err(error),
            },
            _ => Ok(()),
        }
    }

    /// Gathers a request; `false` while the socket is full, or while replies have to be taken first.
    ///
    /// A server takes what is sent also while its replies are not read, up to a bound, and ends the connection beyond.
    /// So a full socket is no sign that it is time to read.
    pub fn try_push(&mut self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        if self.stretch_size > limits::SOCKET_STRETCH_SIZE {
            if self.answered < self.stretch_began {
                self.flush()?;
                return Ok(false);
            }
            (self.stretch_began, self.stretch_size) = (self.asked, 0);
        }
        if self.outgoing.len() - self.sent > GATHERED_MAX && !self.flush()? {
            return Ok(false);
        }
        let name = COMMANDS[usize::from(number)].name.as_bytes();
        let mut words = Vec::with_capacity(1 + arguments.len());
        words.push(name);
        words.extend_from_slice(arguments);
        let before = self.outgoing.len();
        let size = words.iter().map(|word| word.len() + WORD_FRAMING_MAX).sum::<usize>() + WORD_FRAMING_MAX;
        self.outgoing.try_reserve(size).map_err(|_| Error::NoRoom(size))?;
        write_request(&mut self.outgoing, &words);
        self.asked += 1;
        self.stretch_size += self.outgoing.len() - before;
        failpoint!("socket.gathered");
        Ok(true)
    }

    /// Sends what was gathered. Returns whether all of it has gone.
    pub fn flush(&mut self) -> Result<bool, Error> {
        while self.sent < self.outgoing.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.outgoing[self.sent..], flags) {
                Ok(size) => self.sent += size,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.blocked = true;
                    failpoint!("socket.full");
                    return Ok(false);
                }
                Err(_) => return Err(gone()),
            }
        }
        failpoint!("socket.sent");
        self.outgoing.clear();
        self.sent = 0;
        self.blocked = false;
        Ok(true)
    }

    fn parse(&mut self) -> Result<Option<Reply>, Error> {
        if self.parsed == self.incoming.len() {
            return Ok(None);
        }
        match self.parser.parse(&self.incoming[self.parsed..]) {
            Ok(None) => Ok(None),
            Ok(Some((reply, size))) => {
                self.parsed += size;
                if self.parsed == self.incoming.len() {
                    self.incoming.clear();
                    self.parsed = 0;
                }
                Ok(Some(reply))
            }
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }

    /// The next reply, if all of it has come.
    pub fn try_receive(&mut self) -> Result<Option<Reply>, Error> {
        loop {
            if let Some(reply) = self.parse()? {
                self.answered += 1;
                return Ok(Some(reply));
            }
            if self.parser.is_dropping() {
                self.parsed += self.parser.let_go();
            }
            self.incoming.drain(..self.parsed);
            self.parsed = 0;
            if !self.make_room() {
                if self.parser.is_dropping() || self.incoming.is_empty() {
                    return Err(Error::NoRoom(RECEIVE_SIZE));
                }
                // What there is no memory for is taken out of the socket all the same: others follow it.
                self.parsed = self.parser.let_go();
                continue;
            }
            match rustix::net::recv(&self.socket, spare_capacity(&mut self.incoming), RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(gone()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(_) => return Err(gone()),
            }
        }
    }

    /// Makes room for what is to come next. Returns whether there is memory for it.
    fn make_room(&mut self) -> bool {
        if self.incoming.capacity() > INCOMING_KEPT_MAX && self.incoming.len() < RECEIVE_SIZE {
            self.incoming.shrink_to(2 * RECEIVE_SIZE);
        }
        // A row of pieces is best received into a buffer that doubles; the last one that fits, into what is left.
        self.incoming.try_reserve(RECEIVE_SIZE).or_else(|_| self.incoming.try_reserve_exact(RECEIVE_SIZE)).is_ok()
    }

    /// Waits until something has come, or there is room for what waits to go.
    pub fn wait(&mut self, patience: &mut Patience<'_>) -> Result<(), Error> {
        let flags = if self.blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        await_readiness(&self.socket, flags, patience)?;
        // A signal may have come while we did not wait, and there may be news whenever we do.
        if self.checks.is_due() { patience.check_interrupted() } else { Ok(()) }
    }
}

fn await_readiness(socket: impl AsFd, flags: PollFlags, patience: &mut Patience<'_>) -> Result<(), Error> {
    patience.start();
    loop {
        let slice = timespec(patience.slice()?);
        match poll(&mut [PollFd::new(&socket, flags)], Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => patience.check_interrupted()?,
            Ok(_) => return Ok(()),
            Err(error) => return Err(Error::System { doing: "waiting for the server", error: error.into() }),
        }
    }
}

/// What the server has said on the socket of a lane, which is silent until the end; empty if it is just closed.
///
/// Peeking: several look, and each should find it.
pub(super) fn peek_words(socket: &Descriptor) -> rustix::io::Result<String> {
    let mut message = [0_u8; 256];
    let (_, size) = rustix::net::recv(socket, &mut message[..], RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
    Ok(String::from_utf8_lossy(&message[..size]).trim_start_matches('-').trim_end().to_owned())
}

/// Why the server has ended the connection whose socket is silent otherwise.
pub(super) fn last_words(socket: &Descriptor) -> Error {
    match peek_words(socket) {
        Ok(message) if !message.is_empty() => match message.split_once(' ') {
            Some(("LAGGARD", words)) => Error::Expelled(words.to_owned()),
            Some((code, words)) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => Error::Gone(words.to_owned()),
            _ => Error::Gone(message),
        },
        _ => gone(),
    }
}

/// The error for a socket that was closed without a word.
pub(super) fn gone() -> Error {
    Error::Gone("its socket is closed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::command;

    #[test]
    fn no_more_is_sent_ahead_of_replies_than_a_server_keeps() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        // A server that takes all that comes, and never answers.
        let server = std::thread::spawn(move || far.read_to_end(&mut Vec::new()).unwrap());
        let mut link = SocketLink::new(Descriptor::make(|| Ok(near.into())).unwrap());
        let (get, key) = (command::find(b"GET").unwrap(), [0; 1_000]);
        let mut gathered = 0;
        while gathered < limits::REQUEST_BACKLOG_MAX {
            if link.try_push(get, &[&key]).unwrap() {
                gathered += key.len();
            } else if !link.blocked {
                break; // it is for replies that it waits
            }
        }
        assert!(gathered > limits::SOCKET_STRETCH_SIZE);
        drop(link);
        assert!(server.join().unwrap() < 3 * limits::SOCKET_STRETCH_SIZE);
    }
}
