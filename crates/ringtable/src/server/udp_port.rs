//! The UDP port of a server: datagrams in, datagrams out, for clients that have nothing but that.
//!
//! One worker serves it, which gives it a turn in each of its rounds, as it does a client: so a flood of datagrams,
//! right or wrong, takes no more of the worker than one busy client. What does not fit the socket is lost, and asked
//! for again: nothing waits for a client (I5). Whoever sends what is wrong is not answered, or with no more bytes than
//! it has sent, until it has shown that it gets what is sent to its address ([`super::udp_session`]).
//!
//! Whoever has no session is answered as long as that is cheap ([`super::waking`]): to wake a client takes the worker's
//! time, and one with 500,000 waiters on its socket had 30 ms of it for each greeting of 40 bytes.
//!
//! In the middle of a long round the worker turns to the port, too ([`UdpPort::attend`]): for sessions that ask for
//! little, and as long as little else comes. What the others ask is put off until the port's turn in the round.
//!
//! A client over UDP has no sign of life (I1). So it gets nothing that lasts as long as it lives: no leases, no pins,
//! no shared memory. It has a session, which costs little, and is forgotten after a while.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::executor::{Again, Executor};
use super::headcount::Headcount;
use super::outgoing::Outgoing;
use super::statistics::Statistics;
use super::turn::STREAK_MAX;
use super::udp_session::{Accepted, Cookies, Full, Sessions};
use super::waking::SharedWaking;
use crate::command::known::Known;
use crate::command::record::{DATAGRAM_HEAD_SIZE, DATAGRAM_RECORD_SIZE_MAX, Datagram, DatagramError, RecordWriter};
use crate::command::reply::ReplyWriter;
use crate::command::spec::Flag;
use crate::command::{self, Flow};
use crate::limits;
use crate::shm::fork::Descriptor;

/// Datagrams that are taken in the middle of a round at most.
const ATTENDED_MAX: usize = 16;

/// A UDP port, bound, and the address that it has.
pub(super) struct BoundPort {
    socket: Descriptor,
    pub address: SocketAddr,
}

impl BoundPort {
    /// Binds a loopback address; port 0 lets the kernel choose.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = Descriptor::make(|| rustix::net::socket_with(family, SocketType::DGRAM, flags, None))?;
        // As much as the kernel grants: what finds no room is asked for again.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, limits::UDP_RECEIVE_BUFFER);
        rustix::net::bind(&socket, &address)?;
        Self::of(socket)
    }

    /// One that is bound.
    pub fn of(socket: Descriptor) -> io::Result<Self> {
        let address = rustix::net::getsockname(&socket)?.try_into()?;
        Ok(Self { socket, address })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The port, as its worker has it.
pub(super) struct UdpPort {
    pub socket: Descriptor,
    /// What the last event said; until nothing more can be received, it still holds.
    pub readable: bool,
    boot: u64,
    cookies: Cookies,
    sessions: Sessions,
    /// The tokens of sessions that were left with something to execute.
    busy: VecDeque<u64>,
    outgoing: Outgoing,
    datagram: Vec<u8>,
    /// Datagrams and requests that were taken up in this turn, and bytes.
    taken: usize,
    taken_size: usize,
    /// The number of this turn; a look counts as one.
    turn: u64,
    /// Whether it is one in the middle of a round.
    is_attending: bool,
    /// Turns in a row in which more came than a turn takes, or what no session asks for.
    streak: u32,
    is_flooded: bool,
    /// What waking all of its clients has cost.
    waking: SharedWaking,
    statistics: Arc<Statistics>,
    /// The window of the worker's crowd in which it was last active.
    pub window: u64,
}

impl UdpPort {
    /// The port of a server whose clients are counted there, and whose table has the number `boot`.
    pub fn new(bound: BoundPort, headcount: Arc<Headcount>, statistics: Arc<Statistics>, boot: u64) -> Self {
        Self {
            socket: bound.socket,
            readable: true,
            boot,
            cookies: Cookies::new(),
            sessions: Sessions::new(headcount, Arc::clone(&statistics)),
            busy: VecDeque::new(),
            outgoing: Outgoing::default(),
            datagram: Vec::new(),
            taken: 0,
            taken_size: 0,
            turn: 0,
            is_attending: false,
            streak: 0,
            is_flooded: false,
            waking: SharedWaking::default(),
            statistics,
            window: 0,
        }
    }

    /// One turn: sessions that were left in the middle of something, then what has come. Returns whether there was
    /// anything.
    pub fn serve(&mut self, executor: &mut Executor, now_ns: u64) -> bool {
        self.turn += 1;
        if self.busy.is_empty() && !self.readable {
            self.streak = 0;
            return false;
        }
        self.begin_turn(executor);
        for _ in 0..self.busy.len() {
            if self.is_turn_over(executor) {
                break;
            }
            if let Some(token) = self.busy.pop_front() {
                self.go_on(token, executor);
            }
        }
        self.receive(executor, now_ns);
        self.end_turn(executor)
    }

    /// A turn in the middle of a round: what sessions ask that ask for little is done, and what others ask is put off.
    /// A port that is flooded has to wait for its turn in the round. Returns whether there was anything.
    pub fn attend(&mut self, executor: &mut Executor, now_ns: u64) -> bool {
        self.turn += 1;
        if !self.readable {
            self.streak = 0;
            return false;
        }
        if self.streak >= STREAK_MAX {
            return false;
        }
        self.is_attending = true;
        self.begin_turn(executor);
        self.receive(executor, now_ns);
        self.is_attending = false;
        self.end_turn(executor)
    }

    fn begin_turn(&mut self, executor: &mut Executor) {
        executor.engine.listing_size = limits::UDP_LISTING_SIZE;
        executor.engine.returned_size_max = limits::UDP_VALUE_SIZE;
        (self.taken, self.taken_size, self.is_flooded) = (0, 0, false);
    }

    /// Returns whether there was anything in it.
    fn end_turn(&mut self, executor: &mut Executor) -> bool {
        executor.engine.listing_size = limits::DUMP_SIZE_MAX;
        executor.engine.returned_size_max = limits::VALUE_SIZE_MAX;
        executor.end_turn();
        self.streak = if self.is_flooded || self.readable { self.streak.saturating_add(1) } else { 0 };
        self.taken > 0
    }

    /// Takes what has come, until the turn is over.
    fn receive(&mut self, executor: &mut Executor, now_ns: u64) {
        let mut received = std::mem::take(&mut executor.received);
        while self.readable && !self.is_turn_over(executor) {
            match rustix::net::recvfrom(&self.socket, &mut received[..], RecvFlags::DONTWAIT) {
                Ok((_, size, from)) => {
                    // To read a datagram takes time too, whether anything comes of it or not.
                    executor.engine.budget.begin();
                    (self.taken, self.taken_size) = (self.taken + 1, self.taken_size + size + DATAGRAM_HEAD_SIZE);
                    if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                        self.take(&received[..size], from, executor, now_ns);
                    }
                }
                Err(Errno::AGAIN) => self.readable = false,
                // An error of what was sent before. It is told once.
                Err(_) => self.taken += 1,
            }
        }
        executor.received = received;
    }

    fn is_turn_over(&self, executor: &Executor) -> bool {
        self.is_attending && self.taken >= ATTENDED_MAX || executor.is_turn_over(self.taken, self.taken_size)
    }

    /// Takes one datagram, which may be anything, from anybody.
    fn take(&mut self, datagram: &[u8], from: SocketAddr, executor: &mut Executor, now_ns: u64) {
        count(&self.statistics.udp_datagrams);
        // Unless it turns out to be what a session asks.
        let was_flooded = std::mem::replace(&mut self.is_flooded, true);
        match Datagram::decode(datagram) {
            Ok(Datagram::Hello { nonce }) => self.offer_cookie(from, nonce),
            Ok(Datagram::Join { boot, cookie, nonce, leaving }) => {
                if boot != self.boot || cookie != self.cookies.of(from) {
                    count(&self.statistics.udp_datagrams_wrong);
                    return self.offer_cookie(from, nonce);
                }
                if self.waking.is_spent() {
                    return count(&self.statistics.udp_unanswered);
                }
                if self.sessions.are_full() {
                    self.sessions.look(now_ns);
                }
                let connection = || executor.store.leases.new_connection();
                let [_, commands] = Known::ours().words();
                let answer = match self.sessions.join(from, nonce, leaving, now_ns, connection) {
                    Ok(token) => Datagram::Joined { boot, token, nonce, commands },
                    // The server is about to end: it looks as if it had ended.
                    Err(_) if self.sessions.are_closed() => return,
                    Err(Full { most, is_of_sessions }) => {
                        count(&self.statistics.clients_refused);
                        count(&self.statistics.udp_sessions_refused);
                        Datagram::Full { nonce, most: most as u64, is_of_sessions }
                    }
                };
                self.send(from, &answer);
            }
            Ok(Datagram::Request { boot, token, number, floor, record }) => {
                let session = self.sessions.hear(from, token, now_ns).filter(|_| boot == self.boot);
                let Some(session) = session else {
                    count(&self.statistics.udp_tokens_unknown);
                    return self.offer_cookie(from, token);
                };
                let has_waited = self.is_attending && self.busy.contains(&token);
                let is_put_off = has_waited || self.is_attending && session.asks_for_much(self.turn);
                session.note_work(self.turn, has_waited);
                let accepted = session.accept(number, floor, record);
                if let Accepted::Now | Accepted::Later = accepted {
                    self.is_flooded = was_flooded;
                }
                match accepted {
                    Accepted::Now if is_put_off => {
                        session.put_off(record);
                        if !has_waited {
                            self.busy.push_back(token);
                        }
                    }
                    Accepted::Now => {
                        executor.record.clear();
                        executor.record.extend_from_slice(record);
                        self.execute(token, executor, Again::default());
                    }
                    Accepted::Later => {}
                    Accepted::Answered(reply) => {
                        count(&self.statistics.udp_answered_again);
                        self.datagram.clear();
                        self.datagram.extend_from_slice(reply);
                        self.send_reply(token);
                    }
                    Accepted::Old => count(&self.statistics.udp_datagrams_old),
                    Accepted::Wrong => count(&self.statistics.udp_datagrams_wrong),
                }
                if !is_put_off {
                    self.execute_early(token, executor);
                }
            }
            Ok(Datagram::Leave { boot, token }) => {
                if boot == self.boot {
                    self.sessions.leave(from, token);
                }
            }
            // Servers say such things.
            Ok(Datagram::Cookie { .. } | Datagram::Joined { .. } | Datagram::Full { .. } | Datagram::Reply { .. }) => {
                count(&self.statistics.udp_datagrams_wrong);
            }
            Err(error) => {
                count(&self.statistics.udp_datagrams_wrong);
                if let DatagramError::Version(_) = error {
                    // It learns which version is spoken here.
                    self.offer_cookie(from, 0);
                }
            }
        }
    }

    /// Goes on with a session that was left in the middle of something.
    fn go_on(&mut self, token: u64, executor: &mut Executor) {
        let Some((session, _)) = self.sessions.get(token) else { return };
        session.note_work(self.turn, true);
        if let Some((record, again)) = session.again.take() {
            self.taken += 1;
            executor.record = record;
            self.execute(token, executor, again);
        }
        self.execute_early(token, executor);
    }

    /// Executes what had come before its turn, if that is now.
    fn execute_early(&mut self, token: u64, executor: &mut Executor) {
        while let Some(record) = self.sessions.get(token).and_then(|(session, _)| session.take_next()) {
            self.taken += 1;
            executor.record = record;
            self.execute(token, executor, Again::default());
        }
    }

    /// Executes the request in `executor.record`, or goes on with it, and sends the reply, unless it takes several
    /// turns.
    fn execute(&mut self, token: u64, executor: &mut Executor, again: Again) {
        let Some((session, _)) = self.sessions.get(token) else { return };
        executor.engine.turn_to(session.connection, None);
        let number = executor.record.get(4..6).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        if let Some(spec) = command::numbered(number).filter(|spec| spec.has(Flag::Connected)) {
            let name = spec.name;
            refuse(&mut self.outgoing, &format!("ERR {name} needs a connection, and there is none over UDP"));
        } else {
            match executor.execute_own_record(&mut self.outgoing, again) {
                Ok(executed) if executed.flow == Flow::Again => {
                    session.again = Some((std::mem::take(&mut executor.record), executed.again));
                    return self.busy.push_back(token);
                }
                Ok(_) => {}
                Err(_) => {
                    count(&self.statistics.udp_datagrams_wrong);
                    refuse(&mut self.outgoing, "ERR a malformed request, or a command that this server does not know");
                }
            }
        }
        let size = self.outgoing.len();
        let holds_values = self.outgoing.is_in_pieces();
        if size > DATAGRAM_RECORD_SIZE_MAX {
            let most = DATAGRAM_RECORD_SIZE_MAX;
            let words = format!("ERR the reply has {size} bytes, and over UDP at most {most} fit a datagram");
            refuse(&mut self.outgoing, &words);
        }
        let reply = Datagram::Reply { boot: self.boot, token, number: session.next(), record: &[] };
        self.datagram.clear();
        self.datagram.extend_from_slice(&reply.head());
        self.outgoing.pieces().for_each(|piece| self.datagram.extend_from_slice(piece));
        self.outgoing.clear();
        if holds_values {
            executor.engine.writer.rescan();
        }
        session.answer(&self.datagram);
        self.send_reply(token);
    }

    /// Sends the reply in `datagram` to a session's client, unless it is one that takes too much time to wake.
    fn send_reply(&mut self, token: u64) {
        let Some((session, address)) = self.sessions.get(token) else { return };
        if session.is_silenced {
            return;
        }
        let took_ns = self.waking.measured(|| send(&self.socket, address, &self.datagram));
        if session.waking.note(took_ns).is_err() {
            self.sessions.silence(token);
        }
    }

    /// Offers a cookie to who sends from an address. It has shown nothing yet, and may not be there.
    fn offer_cookie(&mut self, to: SocketAddr, about: u64) {
        let (boot, cookie, [commands, _]) = (self.boot, self.cookies.of(to), Known::ours().words());
        self.send(to, &Datagram::Cookie { boot, cookie, about, commands });
    }

    /// Answers one that has no session, unless such are too expensive to wake.
    fn send(&mut self, to: SocketAddr, message: &Datagram<'_>) {
        if self.waking.is_spent() {
            return count(&self.statistics.udp_unanswered);
        }
        self.waking.measured(|| send(&self.socket, to, &message.head()));
    }

    /// Forgets sessions of which nothing was heard for a while. Returns when to look again.
    #[inline]
    pub fn tend(&mut self, now_ns: u64) -> Option<Duration> {
        if self.sessions.is_look_due(now_ns) {
            self.sessions.look(now_ns);
        }
        self.sessions.look_again_ns(now_ns).map(Duration::from_nanos)
    }
}

fn count(figure: &AtomicU64) {
    // Relaxed: a figure.
    figure.fetch_add(1, Ordering::Relaxed);
}

/// Makes an error the reply, in place of whatever there is of one.
fn refuse(outgoing: &mut Outgoing, words: &str) {
    outgoing.clear();
    let mut writer = RecordWriter::new(outgoing);
    writer.error(words);
    writer.finish();
}

/// Sends a datagram, or loses it if there is no room.
fn send(socket: &Descriptor, to: SocketAddr, datagram: &[u8]) {
    let _ = rustix::net::sendto(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::command::record::RequestHead;
    use crate::server::options::Options;
    use crate::server::runtime::Runtime;
    use crate::shm::clock::monotonic_ns;

    /// A port and its worker's executor, without its thread.
    struct Place {
        port: UdpPort,
        executor: Executor,
        address: SocketAddr,
    }

    impl Place {
        fn new() -> Self {
            let options = Options { workers: 1, max_memory: 4 << 20, spin_ns: Some(0), ..Options::default() };
            let runtime = Arc::new(Runtime::new(&options).unwrap());
            let bound = BoundPort::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let (store, statistics) = (Arc::clone(&runtime.store), Arc::clone(&runtime.statistics));
            let host = Arc::clone(&runtime);
            Self {
                address: bound.address,
                port: UdpPort::new(bound, Arc::clone(&runtime.headcount), Arc::clone(&statistics), 1),
                executor: Executor::new(0, store, statistics, host, runtime.topology),
            }
        }

        /// A turn in the round, after a look at the events.
        fn serve(&mut self) {
            self.port.readable = true;
            self.port.serve(&mut self.executor, monotonic_ns());
        }

        /// A turn in the middle of a round. Loopback delivers at once, and here nobody asks between two turns.
        fn attend(&mut self) {
            let mut byte = [0_u8];
            let peeked = rustix::net::recv(&self.port.socket, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK);
            self.port.readable = peeked.is_ok();
            self.port.attend(&mut self.executor, monotonic_ns());
        }

        fn stranger(&self) -> UdpSocket {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.connect(self.address).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        }

        fn client(&mut self) -> Client {
            let mut client = Client { socket: self.stranger(), boot: 0, token: 0, number: 0 };
            let mut bytes = [0; DATAGRAM_HEAD_SIZE];
            client.socket.send(&Datagram::Hello { nonce: 1 }.head()).unwrap();
            self.serve();
            client.socket.recv(&mut bytes).unwrap();
            let Ok(Datagram::Cookie { boot, cookie, .. }) = Datagram::decode(&bytes) else { panic!("{bytes:?}") };
            client.socket.send(&Datagram::Join { boot, cookie, nonce: 2, leaving: 0 }.head()).unwrap();
            self.serve();
            client.socket.recv(&mut bytes).unwrap();
            let Ok(Datagram::Joined { token, .. }) = Datagram::decode(&bytes) else { panic!("{bytes:?}") };
            (client.boot, client.token) = (boot, token);
            client
        }
    }

    struct Client {
        socket: UdpSocket,
        boot: u64,
        token: u64,
        number: u64,
    }

    impl Client {
        fn ask(&mut self) {
            self.number += 1;
            let (boot, token, number) = (self.boot, self.token, self.number);
            let mut datagram = Datagram::Request { boot, token, number, floor: 1, record: &[] }.head().to_vec();
            RequestHead::new(command::number("PING"), &[]).unwrap().append_to(&mut datagram);
            self.socket.send(&datagram).unwrap();
        }

        /// How many replies have come since it last looked.
        fn replies(&self) -> usize {
            let mut bytes = [0; 1 << 10];
            std::iter::from_fn(|| self.socket.recv(&mut bytes).ok()).count()
        }

        /// Asks, and tells whether it is answered in the middle of a round.
        fn is_attended(&mut self, place: &mut Place) -> bool {
            self.ask();
            place.attend();
            self.replies() == 1
        }
    }

    #[test]
    fn smoke() {
        let mut place = Place::new();
        let mut client = place.client();
        client.ask();
        place.serve();
        assert_eq!(client.replies(), 1);
        place.attend();
        assert!(client.is_attended(&mut place));
    }

    #[test]
    fn in_the_middle_of_a_round_those_are_served_who_ask_for_little() {
        let mut place = Place::new();
        let (mut little, mut much) = (place.client(), place.client());
        assert!(!little.is_attended(&mut place), "new ones have yet to show that they ask for little");
        place.serve();
        assert_eq!(little.replies(), 1);
        much.ask();
        place.serve();
        assert_eq!(much.replies(), 1);
        let answered = (0..20).filter(|_| much.is_attended(&mut place)).count();
        assert_eq!(answered as u32, STREAK_MAX - 1, "one turn was in the round");
        assert!(little.is_attended(&mut place), "nobody else is put off");
        place.serve();
        assert_eq!(much.replies(), 20 - answered, "what was put off is done in order");
        assert!(!much.is_attended(&mut place), "who waits for its turn has not been silent");
        place.serve();
        place.attend();
        assert_eq!(much.replies(), 1);
        assert!(much.is_attended(&mut place));
    }

    #[test]
    fn a_flood_of_what_no_session_asks_waits_for_its_turn() {
        let mut place = Place::new();
        let (mut client, stranger) = (place.client(), place.stranger());
        client.ask();
        place.serve();
        for _ in 0..STREAK_MAX {
            stranger.send(b"nonsense").unwrap();
            place.attend();
        }
        assert_eq!(client.replies(), 1);
        assert!(!client.is_attended(&mut place));
        stranger.send(b"nonsense").unwrap();
        place.serve();
        assert_eq!(client.replies(), 1);
        assert!(!client.is_attended(&mut place), "it has not ended");
        place.serve();
        place.attend();
        assert_eq!(client.replies(), 1);
        assert!(client.is_attended(&mut place));
    }

    #[test]
    fn a_turn_in_the_middle_of_a_round_is_short() {
        let mut place = Place::new();
        let stranger = place.stranger();
        for _ in 0..=ATTENDED_MAX {
            stranger.send(b"nonsense").unwrap();
        }
        place.attend();
        assert_eq!((place.port.taken, place.port.readable), (ATTENDED_MAX, true));
    }
}
