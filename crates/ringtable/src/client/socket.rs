//! The plain socket, as the client sees it, unix or TCP: RESP, for servers without lanes and for comparison.
//!
//! No step of it waits.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags};

use super::error::{Error, system};
use super::life::gone;
use crate::command::numbered;
use crate::command::reply::Reply;
use crate::command::resp::{HEADER_SIZE_MAX, ReplyLimits, ReplyParser, write_request};
use crate::limits;
use crate::shm::descriptors;
use crate::shm::fork::Descriptor;
use crate::shm::shortage;

/// Request bytes gathered before they are sent without being asked to.
const GATHERED_MAX: usize = 64 << 10;
/// Bytes around a word of a request, and before all of them, at most.
const WORD_FRAMING_MAX: usize = HEADER_SIZE_MAX + 2;
/// Room for what is received by one system call, at least.
const RECEIVE_SIZE: usize = 64 << 10;

/// A buffer for replies that is larger than this does not stay so.
const INCOMING_KEPT_MAX: usize = limits::SPARE_BUFFER_SIZE_MAX;

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
        }
    }

    /// A second descriptor of the socket.
    pub fn duplicate(&self) -> Result<Descriptor, Error> {
        system("duplicating the socket", self.socket.duplicate().map_err(Into::into))
    }

    pub fn into_socket(self) -> Descriptor {
        self.socket
    }

    /// Gathers a request by its words, for [`Self::try_receive_passed`].
    pub fn ask(&mut self, words: &[&[u8]]) {
        write_request(&mut self.outgoing, words);
    }

    /// Sends what was gathered, and takes the next reply if all of it has come, with the descriptors that came with it.
    pub fn try_receive_passed(&mut self, passed: &mut Vec<Descriptor>) -> Result<Option<Reply>, Error> {
        let mut bytes = [0; 4_096];
        loop {
            // A server that is full answers before it is asked, and closes: what it said counts more than the error.
            let flushed = self.flush();
            if let Some(reply) = self.parse()? {
                return Ok(Some(reply));
            }
            let size = match descriptors::receive(&self.socket, &mut bytes, passed) {
                Ok(0) => return Err(flushed.err().unwrap_or_else(gone)),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if shortage::is_shortage(&error) => {
                    return Err(Error::System { doing: "taking the server's descriptors in this process", error });
                }
                Err(_) => return Err(gone()),
            };
            self.incoming.extend_from_slice(&bytes[..size]);
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
        let name = numbered(number).expect("calls send commands that exist").name.as_bytes();
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

    /// Whether something was gathered that has not gone.
    pub fn has_rest(&self) -> bool {
        !self.outgoing.is_empty()
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
                self.answered += u64::from(!matches!(reply, Reply::Push(_)));
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

    /// What to wait for: something to receive, or room for what waits to go.
    pub fn awaited(&mut self) -> Result<PollFlags, Error> {
        Ok(if self.blocked && !self.flush()? { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN })
    }
}

impl AsFd for SocketLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
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
        let (get, key) = (command::number("GET"), [0; 1_000]);
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
