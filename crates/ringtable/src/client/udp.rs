//! UDP, as the client sees it: each request is a datagram, and so is each reply; what is lost is asked for again.
//!
//! No step of it waits.
//!
//! # Design
//!
//! The client greets the server, gets a cookie, and joins with it: then it has a session, whose name is a token, and in
//! which its requests are numbered (`server/udp_session.rs` says what the server does with the numbers). Requests whose
//! replies have not come stay in a window. Those are sent again, all of them, when a pause has passed in which no reply
//! came; the pause doubles each time. Replies are handed out in the order of the requests.
//!
//! # Invariants
//!
//! - A request has one number in one session as long as it may have been executed there. It is sent in another session
//!   only if it certainly was not: the same server, which keeps a session for [`limits::UDP_SESSION_IDLE`] after a
//!   request of it, does not know the session any more, and that time has not passed since the request was first sent.
//! - Else the call ends, and says that the request may have been done.
//!
//! # Deliberately absent
//!
//! A sign of life. A server that is gone is noticed when something is sent to it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::error::Error;
use crate::command;
use crate::command::known::Known;
use crate::command::record::{
    DATAGRAM_HEAD_SIZE, DATAGRAM_RECORD_SIZE_MAX, Datagram, DatagramError, RequestHead, decode_reply,
};
use crate::command::reply::Reply;
use crate::limits;
use crate::shm::clock::monotonic_ns;
use crate::shm::fork::{self, Descriptor};
use crate::shm::random::random;

const RETRY_MIN_NS: u64 = limits::UDP_RETRY_MIN.as_nanos() as u64;
const RETRY_MAX_NS: u64 = limits::UDP_RETRY_MAX.as_nanos() as u64;
/// For how long a request that was sent in a session that is not known any more was certainly not executed there, and
/// for how long a session that is not used is certainly there. With a margin: clocks are looked at before and after.
const CERTAIN_NS: u64 = limits::UDP_SESSION_IDLE.as_nanos() as u64 / 2;
/// Bytes of replies after which the server is told that they have come, though there is nothing new to ask: it executes
/// nothing more for a client of which it keeps as many as it may.
const TELL_SIZE: usize = limits::UDP_REPLIES_KEPT_MAX / 2;

/// How far the client has come with its server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for a cookie.
    Greeting,
    /// It has a cookie, and waits for a session.
    Joining,
    /// It has a session.
    Joined,
}

/// A request, and its reply if that has come.
struct Request {
    /// Its datagram, whose head is written anew each time that it is sent.
    datagram: Vec<u8>,
    /// When it was first sent in the session of the moment.
    sent_ns: Option<u64>,
    reply: Option<Reply>,
}

impl Request {
    fn is_awaited(&self) -> bool {
        self.reply.is_none() && self.sent_ns.is_some()
    }
}

pub(super) struct UdpLink {
    /// Connected, so that nobody but the server can send to it.
    socket: Descriptor,
    /// The process that it was made in.
    generation: u64,
    state: State,
    boot: u64,
    cookie: u64,
    /// What the answer to the last greeting, or request for a session, is known by.
    nonce: u64,
    /// The last session's; 0 before the first.
    token: u64,
    /// What the server has said of the commands that it knows.
    known: [u64; 2],
    /// The number of the first request in the window.
    floor: u64,
    window: VecDeque<Request>,
    /// Bytes of the requests in the window.
    size: usize,
    /// Whether requests are only measured, and not kept.
    pub measures: bool,
    /// Whether the socket was full when something was to be sent.
    blocked: bool,
    /// Bytes of replies that came since the server was last told which have come.
    untold: usize,
    /// When something was heard of the server.
    heard_ns: u64,
    /// When to ask again, and how long that is after the last time.
    retry_ns: u64,
    pause_ns: u64,
    /// Time that has passed in such pauses since something was heard.
    silence_ns: u64,
    incoming: Box<[u8]>,
}

impl UdpLink {
    /// Greets the server at the other end of a connected socket.
    pub fn new(socket: Descriptor) -> Result<Self, Error> {
        let mut link = Self {
            socket,
            generation: fork::generation(),
            state: State::Greeting,
            boot: 0,
            cookie: 0,
            nonce: 0,
            token: 0,
            known: [0; 2],
            floor: 1,
            window: VecDeque::new(),
            size: 0,
            measures: false,
            blocked: false,
            untold: 0,
            heard_ns: 0,
            retry_ns: 0,
            pause_ns: RETRY_MIN_NS,
            silence_ns: 0,
            incoming: vec![0; 64 << 10].into(),
        };
        link.begin(State::Greeting)?;
        Ok(link)
    }

    /// The number of the server's table, once there was a session.
    pub fn server_id(&self) -> u64 {
        self.boot
    }

    /// Which commands the server knows, once there was a session.
    pub fn known(&self) -> Known {
        Known::of_words(self.known)
    }

    /// Takes what has come. Returns whether the client has a session.
    pub fn try_join(&mut self) -> Result<bool, Error> {
        self.take_datagrams()?;
        self.ask_again_if_due()?;
        Ok(self.state == State::Joined)
    }

    /// Takes a request into the window, if there is room. Not sent yet.
    ///
    /// # Errors
    /// If no datagram has room for it; then nothing has changed.
    pub fn try_push(&mut self, number: u16, arguments: &[&[u8]]) -> Result<bool, Error> {
        let too_large = |size| Error::NoDatagram {
            command: command::numbered(number).map_or("?", |spec| spec.name),
            first: arguments.first().map_or(0, |key| key.len()),
            rest: arguments.iter().skip(1).map(|argument| argument.len()).sum(),
            size,
        };
        let head = RequestHead::new(number, arguments).map_err(|_| too_large(limits::REQUEST_SIZE_MAX))?;
        if head.size() > DATAGRAM_RECORD_SIZE_MAX {
            return Err(too_large(head.size() + DATAGRAM_HEAD_SIZE));
        }
        if self.measures {
            return Ok(true);
        }
        let is_full = self.size + head.size() > limits::UDP_WINDOW_SIZE && !self.window.is_empty();
        if is_full || self.window.len() >= limits::UDP_WINDOW {
            self.flush()?;
            return Ok(false);
        }
        if self.window.is_empty()
            && self.state == State::Joined
            && monotonic_ns().saturating_sub(self.heard_ns) > CERTAIN_NS
        {
            // The session may be gone. Another one costs a round trip, and leaves no doubt about what is sent in it.
            self.begin(State::Joining)?;
        }
        let mut datagram = Vec::new();
        datagram.try_reserve(DATAGRAM_HEAD_SIZE + head.size()).map_err(|_| Error::NoRoom(head.size()))?;
        datagram.resize(DATAGRAM_HEAD_SIZE, 0);
        head.append_to(&mut datagram);
        self.size += datagram.len();
        self.window.push_back(Request { datagram, sent_ns: None, reply: None });
        Ok(true)
    }

    /// Sends what was not sent yet. Returns whether all of it has gone.
    pub fn flush(&mut self) -> Result<bool, Error> {
        self.blocked = false;
        if self.state != State::Joined {
            return Ok(self.window.iter().all(|request| request.sent_ns.is_some() || request.reply.is_some()));
        }
        let is_waiting = self.window.iter().any(Request::is_awaited);
        for index in 0..self.window.len() {
            let request = &self.window[index];
            if request.sent_ns.is_none() && request.reply.is_none() {
                // Before it is sent: it may be executed at once.
                let now_ns = monotonic_ns();
                if !self.send_request(index)? {
                    return Ok(false);
                }
                self.window[index].sent_ns = Some(now_ns);
                if !is_waiting {
                    (self.pause_ns, self.retry_ns) = (RETRY_MIN_NS, now_ns + RETRY_MIN_NS);
                }
            }
        }
        Ok(true)
    }

    /// The reply to the first request in the window, if it has come.
    pub fn try_receive(&mut self) -> Result<Option<Reply>, Error> {
        if self.window.front().is_none_or(|request| request.reply.is_none()) {
            self.take_datagrams()?;
            self.ask_again_if_due()?;
        }
        if self.window.front().is_none_or(|request| request.reply.is_none()) {
            return Ok(None);
        }
        let request = self.window.pop_front();
        self.floor = self.floor.wrapping_add(1);
        self.size -= request.as_ref().map_or(0, |request| request.datagram.len());
        Ok(request.and_then(|request| request.reply))
    }

    /// What to wait for: something to receive, or room for what waits to go; and for how long at most.
    pub fn awaited(&self) -> (PollFlags, Duration) {
        let flags = if self.blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        (flags, Duration::from_nanos(self.retry_ns.saturating_sub(monotonic_ns())))
    }

    /// Ends the wait for a server that has been silent for long.
    pub fn check_silence(&self) -> Result<(), Error> {
        if self.silence_ns < limits::UDP_SILENCE_MAX.as_nanos() as u64 {
            return Ok(());
        }
        Err(self.gone(&format!("it has not answered for {} s", limits::UDP_SILENCE_MAX.as_secs())))
    }

    /// The error for a server that is gone.
    fn gone(&self, why: &str) -> Error {
        let is_in_doubt = self.window.iter().any(Request::is_awaited);
        match is_in_doubt {
            true => Error::Gone(format!("{why}, and what was asked of it may have been done")),
            false => Error::Unsent(why.to_owned()),
        }
    }

    /// Asks for a cookie, or for a session.
    fn begin(&mut self, state: State) -> Result<(), Error> {
        self.state = state;
        // Not one of a forked child's parent, or of its siblings: the server would take it for theirs, if they had its
        // port before, and its requests for such as were executed.
        self.nonce = random();
        (self.pause_ns, self.retry_ns) = (RETRY_MIN_NS, monotonic_ns() + RETRY_MIN_NS);
        self.ask().map(drop)
    }

    /// Sends, once more, what is to be answered. Returns whether all of it has gone.
    fn ask(&mut self) -> Result<bool, Error> {
        let Self { boot, cookie, nonce, token, .. } = *self;
        match self.state {
            State::Greeting => self.send(&Datagram::Hello { nonce }.head()),
            State::Joining => self.send(&Datagram::Join { boot, cookie, nonce, leaving: token }.head()),
            State::Joined => {
                for index in 0..self.window.len() {
                    if self.window[index].is_awaited() && !self.send_request(index)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    fn ask_again_if_due(&mut self) -> Result<(), Error> {
        if self.blocked {
            self.flush()?;
        }
        let is_waiting = self.state != State::Joined || self.window.iter().any(Request::is_awaited);
        if !is_waiting || monotonic_ns() < self.retry_ns {
            return Ok(());
        }
        self.silence_ns += self.pause_ns;
        self.pause_ns = (2 * self.pause_ns).min(RETRY_MAX_NS);
        self.retry_ns = monotonic_ns() + self.pause_ns;
        self.ask().map(drop)
    }

    fn send_request(&mut self, index: usize) -> Result<bool, Error> {
        // What has come is not asked for again, whatever has not been handed out of it.
        let come = self.window.iter().position(|request| request.reply.is_none()).unwrap_or(self.window.len());
        let head = Datagram::Request {
            boot: self.boot,
            token: self.token,
            number: self.floor.wrapping_add(index as u64),
            floor: self.floor.wrapping_add(come as u64),
            record: &[],
        };
        let mut datagram = std::mem::take(&mut self.window[index].datagram);
        datagram[..DATAGRAM_HEAD_SIZE].copy_from_slice(&head.head());
        let sent = self.send(&datagram);
        self.window[index].datagram = datagram;
        self.untold = 0;
        sent
    }

    fn send(&mut self, datagram: &[u8]) -> Result<bool, Error> {
        loop {
            match rustix::net::send(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.blocked = true;
                    return Ok(false);
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    /// The error for a socket that tells what became of datagrams before.
    fn lost(&self, error: Errno) -> Error {
        match error {
            Errno::CONNREFUSED => self.gone("nobody listens at its port"),
            error => self.gone(&format!("its port cannot be reached: {}", std::io::Error::from(error))),
        }
    }

    fn take_datagrams(&mut self) -> Result<(), Error> {
        let mut incoming = std::mem::take(&mut self.incoming);
        let outcome = self.take_datagrams_into(&mut incoming);
        self.incoming = incoming;
        outcome?;
        if self.untold >= TELL_SIZE
            && let Some(index) = self.window.iter().position(Request::is_awaited)
        {
            self.send_request(index)?;
        }
        Ok(())
    }

    fn take_datagrams_into(&mut self, incoming: &mut [u8]) -> Result<(), Error> {
        loop {
            match rustix::net::recv(&self.socket, &mut *incoming, RecvFlags::DONTWAIT) {
                // No datagram of a server is empty: another thread has ended the waits.
                Ok((_, 0)) => return Err(self.gone("its socket is closed")),
                Ok((_, size)) => self.take(&incoming[..size])?,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    fn take(&mut self, datagram: &[u8]) -> Result<(), Error> {
        match Datagram::decode(datagram) {
            Ok(Datagram::Cookie { boot, cookie, about, commands }) if self.is_about_us(about) => {
                self.known[0] = commands;
                self.heard();
                self.take_cookie(boot, cookie)
            }
            Ok(Datagram::Joined { boot, token, nonce, commands })
                if self.state == State::Joining && (boot, nonce) == (self.boot, self.nonce) =>
            {
                self.heard();
                (self.token, self.state) = (token, State::Joined);
                self.known[1] = commands;
                // What is to be handed out still has no number here.
                let come = self.window.iter().position(|request| request.reply.is_none()).unwrap_or(self.window.len());
                self.floor = 1_u64.wrapping_sub(come as u64);
                self.flush().map(drop)
            }
            Ok(Datagram::Full { nonce, most, is_of_sessions })
                if self.state == State::Joining && nonce == self.nonce =>
            {
                let refusal = if is_of_sessions {
                    format!("MAXSESSIONS {most}")
                } else {
                    format!("MAXCLIENTS max number of clients reached: {most} of {most}")
                };
                if self.token == 0 {
                    return Err(super::replies::refusal(refusal));
                }
                self.heard();
                self.refuse(&refusal);
                Ok(())
            }
            Ok(Datagram::Reply { boot, token, number, record })
                if self.state == State::Joined && (boot, token) == (self.boot, self.token) =>
            {
                let index = number.wrapping_sub(self.floor);
                if let Some(request) = self.window.get_mut(index as usize).filter(|request| request.is_awaited()) {
                    let reply = decode_reply(record).map_err(|error| Error::Protocol(error.to_string()))?;
                    request.reply = Some(reply);
                    self.untold += datagram.len();
                }
                self.heard();
                Ok(())
            }
            Err(error @ DatagramError::Version(_)) if self.state == State::Greeting => Err(version(&error.to_string())),
            // What came late, or for one that had this port before.
            _ => Ok(()),
        }
    }

    /// Whether a cookie is for what we wait for: for a session, or for an answer in one.
    fn is_about_us(&self, about: u64) -> bool {
        about == if self.state == State::Joined { self.token } else { self.nonce }
    }

    fn heard(&mut self) {
        self.heard_ns = monotonic_ns();
        self.silence_ns = 0;
        (self.pause_ns, self.retry_ns) = (RETRY_MIN_NS, self.heard_ns + RETRY_MIN_NS);
    }

    /// The server does not know us, or not any more.
    fn take_cookie(&mut self, boot: u64, cookie: u64) -> Result<(), Error> {
        if self.token != 0 && boot != self.boot {
            return Err(self.gone("another one listens at its port now"));
        }
        if self.state == State::Joining && (boot, cookie) == (self.boot, self.cookie) {
            return Ok(()); // it came twice
        }
        if self.state == State::Joined {
            self.forget_session();
        }
        (self.boot, self.cookie) = (boot, cookie);
        self.begin(State::Joining)
    }

    /// What waits for a session was not executed, and will not be: its callers are told so, who may ask again.
    fn refuse(&mut self, refusal: &str) {
        for request in &mut self.window {
            request.reply.get_or_insert_with(|| Reply::Error(refusal.into()));
        }
    }

    /// What was sent in a session that is forgotten was not executed if it was sent a short while ago, since the server
    /// would remember. What was sent before may have been executed: its callers are told so.
    fn forget_session(&mut self) {
        let now_ns = monotonic_ns();
        let is_certain = |request: &Request| {
            request.reply.is_none() && request.sent_ns.is_none_or(|sent_ns| now_ns.saturating_sub(sent_ns) < CERTAIN_NS)
        };
        let in_doubt = self.window.iter().rposition(|request| !is_certain(request)).map_or(0, |last| last + 1);
        for (index, request) in self.window.iter_mut().enumerate() {
            if index < in_doubt {
                let words = "SHUTDOWN it has forgotten this client, which was silent for too long; what was asked may \
                             have been done";
                request.reply.get_or_insert_with(|| Reply::Error(words.into()));
            } else {
                request.sent_ns = None;
            }
        }
    }
}

fn version(words: &str) -> Error {
    Error::Version(format!("the server has {words}: install the same version of ringtable on both sides"))
}

impl AsFd for UdpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for UdpLink {
    fn drop(&mut self) {
        // In a forked child the session is the parent's, and the descriptor is closed.
        if self.state == State::Joined && self.generation == fork::generation() {
            let _ = self.send(&Datagram::Leave { boot: self.boot, token: self.token }.head());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;
    use crate::command::record::RecordWriter;
    use crate::command::reply::ReplyWriter;

    /// A server that says what a test wants.
    struct Server {
        socket: UdpSocket,
        client: SocketAddr,
    }

    impl Server {
        fn new() -> (Self, UdpLink) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let near = UdpSocket::bind("127.0.0.1:0").unwrap();
            near.connect(socket.local_addr().unwrap()).unwrap();
            near.set_nonblocking(true).unwrap();
            let client = near.local_addr().unwrap();
            let link = UdpLink::new(Descriptor::make(|| Ok(near.into())).unwrap()).unwrap();
            (Self { socket, client }, link)
        }

        fn hear<R>(&self, hear: impl FnOnce(Datagram<'_>) -> R) -> R {
            let mut bytes = [0; 1 << 16];
            let size = self.socket.recv(&mut bytes).unwrap();
            hear(Datagram::decode(&bytes[..size]).unwrap())
        }

        /// Loopback delivers at once: what was said is there when this returns.
        fn say(&self, message: &Datagram<'_>) {
            let mut bytes = message.head().to_vec();
            if let Datagram::Reply { record, .. } = message {
                bytes.extend_from_slice(record);
            }
            self.socket.send_to(&bytes, self.client).unwrap();
        }

        fn offer_cookie(&self, boot: u64, about: u64) {
            self.say(&Datagram::Cookie { boot, cookie: 7, about, commands: u64::MAX });
        }

        /// Answers the request for a session with this token.
        fn grant(&self, link: &mut UdpLink, token: u64) {
            let (boot, nonce) = self.hear(|message| match message {
                Datagram::Join { boot, cookie: 7, nonce, .. } => (boot, nonce),
                other => panic!("{other:?}"),
            });
            self.say(&Datagram::Joined { boot, token, nonce, commands: 0 });
            assert!(link.try_join().unwrap());
        }

        /// The number, the floor and the token of the next request.
        fn request(&self) -> (u64, u64, u64) {
            self.hear(|message| match message {
                Datagram::Request { number, floor, token, .. } => (number, floor, token),
                other => panic!("{other:?}"),
            })
        }

        fn answer(&self, token: u64, number: u64, value: i64) {
            let mut record = Vec::new();
            let mut writer = RecordWriter::new(&mut record);
            writer.integer(value);
            writer.finish();
            self.say(&Datagram::Reply { boot: 1, token, number, record: &record });
        }
    }

    fn joined() -> (Server, UdpLink) {
        let (server, mut link) = Server::new();
        let nonce = server.hear(|message| match message {
            Datagram::Hello { nonce } => nonce,
            other => panic!("{other:?}"),
        });
        server.offer_cookie(1, nonce);
        assert!(!link.try_join().unwrap());
        server.grant(&mut link, 100);
        (server, link)
    }

    fn push(link: &mut UdpLink, count: usize) {
        for _ in 0..count {
            assert!(link.try_push(command::number("INCR"), &[b"key"]).unwrap());
        }
        link.flush().unwrap();
    }

    #[test]
    fn smoke() {
        let (server, mut link) = joined();
        push(&mut link, 2);
        assert_eq!((server.request(), server.request()), ((1, 1, 100), (2, 1, 100)));
        // Replies are handed out in the order of the requests.
        server.answer(100, 2, 22);
        assert_eq!(link.try_receive().unwrap(), None);
        server.answer(100, 1, 11);
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(11)));
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(22)));
        push(&mut link, 1);
        assert_eq!(server.request(), (3, 3, 100));
    }

    #[test]
    fn what_is_not_for_this_session_or_request_is_dropped() {
        let (server, mut link) = joined();
        push(&mut link, 1);
        for (token, number) in [(101, 1), (100, 0), (100, 2), (100, u64::MAX)] {
            server.answer(token, number, 5);
        }
        server.offer_cookie(1, 99);
        server.say(&Datagram::Joined { boot: 1, token: 5, nonce: 5, commands: 0 });
        server.say(&Datagram::Full { nonce: 5, most: 5, is_of_sessions: false });
        assert_eq!(link.try_receive().unwrap(), None);
        server.answer(100, 1, 5);
        server.answer(100, 1, 6);
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(5)));
        assert_eq!(link.try_receive().unwrap(), None);
    }

    #[test]
    fn what_was_certainly_not_executed_goes_on_in_another_session() {
        let (server, mut link) = joined();
        push(&mut link, 3);
        for _ in 0..3 {
            server.request();
        }
        server.answer(100, 1, 11);
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(11)));
        server.offer_cookie(1, 100);
        assert_eq!(link.try_receive().unwrap(), None);
        server.grant(&mut link, 200);
        assert_eq!((server.request(), server.request()), ((1, 1, 200), (2, 1, 200)));
        server.answer(200, 1, 22);
        server.answer(200, 2, 33);
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(22)));
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(33)));
    }

    /// A request of long ago may have been executed in the session that is forgotten: it is not sent once more.
    #[test]
    fn what_may_have_been_executed_is_not_sent_again() {
        let (server, mut link) = joined();
        push(&mut link, 2);
        for _ in 0..2 {
            server.request();
        }
        let first = link.window[0].sent_ns.unwrap();
        link.window[0].sent_ns = Some(first - CERTAIN_NS);
        server.offer_cookie(1, 100);
        let Some(Reply::Error(words)) = link.try_receive().unwrap() else { panic!("no error") };
        assert!(words.starts_with("SHUTDOWN ") && words.contains("may have been done"), "{words}");
        server.grant(&mut link, 200);
        assert_eq!(server.request(), (1, 1, 200), "the second one");
        server.answer(200, 1, 22);
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(22)));
    }

    #[test]
    fn another_server_is_asked_nothing() {
        let (server, mut link) = joined();
        push(&mut link, 1);
        server.request();
        server.offer_cookie(2, 100);
        let Err(Error::Gone(words)) = link.try_receive() else { panic!("no error") };
        assert!(words.contains("may have been done"), "{words}");
    }

    #[test]
    fn what_is_refused_for_want_of_a_session_is_never_sent() {
        let (server, mut link) = joined();
        link.heard_ns -= CERTAIN_NS + 1;
        push(&mut link, 2);
        let nonce = server.hear(|message| match message {
            Datagram::Join { nonce, .. } => nonce,
            other => panic!("{other:?}"),
        });
        server.say(&Datagram::Full { nonce, most: 5, is_of_sessions: false });
        for _ in 0..2 {
            let Some(Reply::Error(words)) = link.try_receive().unwrap() else { panic!("no error") };
            assert!(words.starts_with("MAXCLIENTS "), "{words}");
        }
        // There is room by then.
        push(&mut link, 1);
        link.retry_ns = 0;
        assert_eq!(link.try_receive().unwrap(), None);
        server.grant(&mut link, 200);
        assert_eq!(server.request(), (1, 1, 200));
        server.answer(200, 1, 33);
        assert_eq!(link.try_receive().unwrap(), Some(Reply::Integer(33)));
    }

    /// After a while the session may be gone, so another one is asked for before anything is sent.
    #[test]
    fn a_client_that_was_silent_joins_again_first() {
        let (server, mut link) = joined();
        link.heard_ns -= CERTAIN_NS + 1;
        push(&mut link, 1);
        server.grant(&mut link, 200);
        assert_eq!(server.request(), (1, 1, 200));
    }

    #[test]
    fn what_is_not_answered_is_asked_again_after_ever_longer_pauses() {
        let (server, mut link) = joined();
        push(&mut link, 1);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(server.request(), (1, 1, 100));
            pauses.push(link.pause_ns);
            link.retry_ns = 0;
            assert_eq!(link.try_receive().unwrap(), None);
        }
        assert!(pauses.is_sorted() && pauses[0] == RETRY_MIN_NS && pauses[9] == RETRY_MAX_NS, "{pauses:?}");
        assert!(link.check_silence().is_ok());
        link.silence_ns = limits::UDP_SILENCE_MAX.as_nanos() as u64;
        assert!(matches!(link.check_silence(), Err(Error::Gone(_))));
    }

    /// The server executes nothing more for a client whose replies it has to keep.
    #[test]
    fn the_server_is_told_that_large_replies_have_come() {
        let (server, mut link) = joined();
        push(&mut link, 2);
        assert_eq!((server.request(), server.request()), ((1, 1, 100), (2, 1, 100)));
        let mut record = Vec::new();
        let mut writer = RecordWriter::new(&mut record);
        writer.bulk(&vec![0; TELL_SIZE]);
        writer.finish();
        server.say(&Datagram::Reply { boot: 1, token: 100, number: 1, record: &record });
        assert!(matches!(link.try_receive().unwrap(), Some(Reply::Bulk(_))));
        assert_eq!(server.request(), (2, 2, 100));
    }

    #[test]
    fn the_window_is_bounded() {
        let (_server, mut link) = joined();
        push(&mut link, limits::UDP_WINDOW);
        assert!(!link.try_push(command::number("INCR"), &[b"key"]).unwrap());
        let (_server, mut link) = joined();
        let value = vec![0; 50_000];
        let pushed = (0..10).filter(|_| link.try_push(command::number("SET"), &[b"key", &value]).unwrap()).count();
        assert_eq!(pushed, limits::UDP_WINDOW_SIZE / 50_000);
    }

    #[test]
    fn whatever_a_server_says_is_dropped_or_an_error() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (server, mut link) = joined();
        for _ in 0..5_000 {
            let (boot, token, nonce) = (link.boot, link.token, link.nonce);
            let mut record = vec![0; 8 * random.usize(1..8)];
            random.fill(&mut record);
            let message = match random.u8(..5) {
                0 => Datagram::Cookie { boot, cookie: 7, about: token, commands: u64::MAX },
                1 => Datagram::Joined { boot, token: random.u64(..), nonce, commands: 0 },
                2 => Datagram::Full { nonce, most: 1, is_of_sessions: random.bool() },
                _ => Datagram::Reply { boot, token, number: link.floor.wrapping_add(random.u64(..4)), record: &record },
            };
            let mut bytes = message.head().to_vec();
            if let Datagram::Reply { record, .. } = message {
                bytes.extend_from_slice(record);
            }
            if random.bool() {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            server.socket.send_to(&bytes, server.client).unwrap();
            let _ = link.try_push(command::number("INCR"), &[b"key"]);
            let _ = link.flush();
            let _ = link.try_receive();
            assert!(link.window.len() <= limits::UDP_WINDOW);
        }
    }
}
