//! The sessions of clients over UDP: who has one, and which of its requests were executed. It neither receives nor
//! sends.
//!
//! # Design
//!
//! A datagram may be lost, come twice, late, or from an address that is not its sender's. So a client shows first that
//! it gets what is sent to its address: it has to send back a **cookie**, a keyed hash of that address, for which the
//! server keeps nothing. With it the client joins, and gets a **token**, the name of a session that no other session of
//! any server has or had.
//!
//! A client numbers its requests from 1 on. A session executes them in the order of their numbers: what comes before
//! its turn is kept, or dropped if that would be too much. Each reply is kept until the client says that it has come
//! (by the floor in a later request), and a request that was executed is answered with the reply that is kept.
//!
//! # Invariants
//!
//! - A number of a session is executed at most once: `next` is where its next request is executed, and it only grows;
//!   a session that was forgotten is not made again, since tokens are random.
//! - A session is not forgotten before [`limits::UDP_SESSION_IDLE`] has passed since a request of it came, unless its
//!   client says so. A client that hears sooner than that after it has sent a request that its session is unknown
//!   knows that the request was not executed, and never will be.
//! - What a session keeps is bounded: [`limits::UDP_REPLIES_KEPT_MAX`] and one reply more,
//!   [`limits::UDP_EARLY_KEPT_MAX`], and [`limits::UDP_WINDOW`] requests; and so are the sessions, each of which counts
//!   as a client from when it is made until it is forgotten.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use super::end::End;
use super::executor::Again;
use super::headcount::{Counted, Headcount};
use super::statistics::Statistics;
use super::turn::STREAK_MAX;
use super::waking::Waking;
use crate::limits;
use crate::shm::random::random;
use crate::sync::{Arc, Ordering};

/// Nanoseconds for which a session is kept of which nothing is heard.
const IDLE_NS: u64 = limits::UDP_SESSION_IDLE.as_nanos() as u64;
/// Nanoseconds between two looks at which sessions are to be forgotten.
const LOOK_NS: u64 = IDLE_NS / 8;

/// The server's secret, which cookies are made with. It is another one each time that a server starts.
pub(super) struct Cookies(RandomState);

impl Cookies {
    pub fn new() -> Self {
        Self(RandomState::new())
    }

    /// The cookie of an address: SipHash with a random key, as the standard library keys its maps.
    pub fn of(&self, address: SocketAddr) -> u64 {
        self.0.hash_one(address)
    }
}

/// What a session has of one number.
enum Slot {
    /// Nothing yet.
    Awaited,
    /// The request, whose turn has not come.
    Early(Vec<u8>),
    /// The reply, a whole datagram.
    Answered(Vec<u8>),
}

/// What becomes of a request that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted<'a> {
    /// It is to be executed now, and answered.
    Now,
    /// Its turn comes later, or it is being executed, or it has to come again.
    Later,
    /// It was executed: the reply once more.
    Answered(&'a [u8]),
    /// Its client has said that it has the reply.
    Old,
    /// No honest client sends this.
    Wrong,
}

/// One client, as long as it is heard of.
pub(super) struct Session {
    address: SocketAddr,
    nonce: u64,
    heard_ns: u64,
    /// The number of its connection, as others have one.
    pub connection: u64,
    /// The first number that the client may ask for again.
    floor: u64,
    /// The number that is executed next.
    next: u64,
    /// From `floor` on: replies up to `next`, then requests.
    slots: VecDeque<Slot>,
    replies_size: usize,
    early_size: usize,
    /// The request `next`, if it takes several turns.
    pub again: Option<(Vec<u8>, Again)>,
    /// Turns of the port in a row in which it asked for something, up to the turn `asked_in`.
    streak: u32,
    asked_in: u64,
    pub waking: Waking,
    /// Whether it is answered nothing more. It is kept all the same: what is forgotten says that it was not executed.
    pub is_silenced: bool,
    _counted: Counted,
}

impl Session {
    fn new(address: SocketAddr, nonce: u64, connection: u64, now_ns: u64, counted: Counted) -> Self {
        Self {
            address,
            nonce,
            heard_ns: now_ns,
            connection,
            floor: 1,
            next: 1,
            slots: VecDeque::new(),
            replies_size: 0,
            early_size: 0,
            again: None,
            // That it asks for little is to be seen: sessions are cheap.
            streak: STREAK_MAX,
            asked_in: u64::MAX,
            waking: Waking::default(),
            is_silenced: false,
            _counted: counted,
        }
    }

    /// The number of the request that is executed now, or next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes a request, whose client has the replies to all before `floor`.
    pub fn accept(&mut self, number: u64, floor: u64, record: &[u8]) -> Accepted<'_> {
        if self.is_silenced {
            return Accepted::Later;
        }
        let is_sensible = 0 < floor && floor <= self.next && number.wrapping_sub(floor) < limits::UDP_WINDOW as u64;
        if !is_sensible {
            return Accepted::Wrong;
        }
        while self.floor < floor {
            if let Some(Slot::Answered(reply)) = self.slots.pop_front() {
                self.replies_size -= reply.len();
            }
            self.floor += 1;
        }
        if number < self.floor {
            return Accepted::Old;
        }
        let place = (number - self.floor) as usize;
        if number < self.next {
            return match &self.slots[place] {
                Slot::Answered(reply) => Accepted::Answered(reply),
                _ => Accepted::Later,
            };
        }
        if number == self.next && self.is_free() {
            self.take_early(place);
            return Accepted::Now;
        }
        let is_running = number == self.next && self.again.is_some();
        if !is_running && self.early_size + record.len() <= limits::UDP_EARLY_KEPT_MAX {
            let slot = self.slot(place);
            if let Slot::Awaited = slot {
                *slot = Slot::Early(record.to_vec());
                self.early_size += record.len();
            }
        }
        Accepted::Later
    }

    /// Takes note that it asks for something in this turn of the port, or still waits for what it has asked.
    pub fn note_work(&mut self, turn: u64, has_waited: bool) {
        if self.asked_in != turn {
            let is_in_a_row = has_waited || self.asked_in == turn - 1;
            self.streak = if is_in_a_row { self.streak.saturating_add(1) } else { 1 };
            self.asked_in = turn;
        }
    }

    /// Whether it has asked for something in many turns of the port in a row before this one.
    pub fn asks_for_much(&self, turn: u64) -> bool {
        self.asked_in >= turn - 1 && self.streak >= STREAK_MAX
    }

    /// Keeps the request whose turn it is for a later turn of the port. One too many has to come again.
    pub fn put_off(&mut self, record: &[u8]) {
        if self.early_size + record.len() <= limits::UDP_EARLY_KEPT_MAX {
            let place = (self.next - self.floor) as usize;
            *self.slot(place) = Slot::Early(record.to_vec());
            self.early_size += record.len();
        }
    }

    /// The request whose turn it is, if it has come before.
    pub fn take_next(&mut self) -> Option<Vec<u8>> {
        if !self.is_free() { None } else { self.take_early((self.next - self.floor) as usize) }
    }

    /// Keeps the reply to the request whose turn it was.
    pub fn answer(&mut self, reply: &[u8]) {
        let place = (self.next - self.floor) as usize;
        *self.slot(place) = Slot::Answered(reply.to_vec());
        self.replies_size += reply.len();
        self.next += 1;
    }

    /// Whether the next request may be executed.
    fn is_free(&self) -> bool {
        !self.is_silenced && self.again.is_none() && self.replies_size < limits::UDP_REPLIES_KEPT_MAX
    }

    fn slot(&mut self, place: usize) -> &mut Slot {
        while self.slots.len() <= place {
            self.slots.push_back(Slot::Awaited);
        }
        &mut self.slots[place]
    }

    fn take_early(&mut self, place: usize) -> Option<Vec<u8>> {
        let slot = self.slots.get_mut(place).filter(|slot| matches!(slot, Slot::Early(_)))?;
        let Slot::Early(record) = std::mem::replace(slot, Slot::Awaited) else { return None };
        self.early_size -= record.len();
        Some(record)
    }
}

/// All sessions of a server.
pub(super) struct Sessions {
    by_token: HashMap<u64, Session>,
    /// The token by the address and the nonce that it was asked for with.
    joined: HashMap<(SocketAddr, u64), u64>,
    headcount: Arc<Headcount>,
    statistics: Arc<Statistics>,
    looked_ns: u64,
}

/// That there is no room for another session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// How many there may be.
    pub most: usize,
    /// Whether that is of sessions alone, and not of all clients.
    pub is_of_sessions: bool,
}

impl Sessions {
    /// None yet. Each of them counts as a client.
    pub fn new(headcount: Arc<Headcount>, statistics: Arc<Statistics>) -> Self {
        Self { by_token: HashMap::new(), joined: HashMap::new(), headcount, statistics, looked_ns: 0 }
    }

    fn len(&self) -> usize {
        self.by_token.len()
    }

    /// Whether there is no room for another one.
    pub fn are_full(&self) -> bool {
        self.len() >= limits::UDP_SESSIONS_MAX || self.headcount.clients() >= self.headcount.most()
    }

    /// Whether the server is about to end.
    pub fn are_closed(&self) -> bool {
        self.headcount.is_closed()
    }

    /// The token of the session that was asked for, made if this is the first time. The address is the client's for
    /// certain. `leaving` is the token of the session that this one is in place of.
    ///
    /// # Errors
    /// If there is no room.
    pub fn join(
        &mut self,
        address: SocketAddr,
        nonce: u64,
        leaving: u64,
        now_ns: u64,
        connection: impl FnOnce() -> u64,
    ) -> Result<u64, Full> {
        if let Some(&token) = self.joined.get(&(address, nonce)) {
            return Ok(token);
        }
        self.leave(address, leaving);
        if self.len() >= limits::UDP_SESSIONS_MAX {
            return Err(Full { most: limits::UDP_SESSIONS_MAX, is_of_sessions: true });
        }
        let Some(counted) = Counted::enter(&self.headcount) else {
            return Err(Full { most: self.headcount.most(), is_of_sessions: false });
        };
        let token = random();
        self.by_token.insert(token, Session::new(address, nonce, connection(), now_ns, counted));
        self.joined.insert((address, nonce), token);
        // Relaxed: a figure.
        self.statistics.clients_accepted.fetch_add(1, Ordering::Relaxed);
        self.count();
        Ok(token)
    }

    /// The session with this token, if that is for this address, which has been heard of now.
    pub fn hear(&mut self, address: SocketAddr, token: u64, now_ns: u64) -> Option<&mut Session> {
        let session = self.by_token.get_mut(&token).filter(|session| session.address == address)?;
        session.heard_ns = now_ns;
        Some(session)
    }

    /// The session with this token, and where replies to it go.
    pub fn get(&mut self, token: u64) -> Option<(&mut Session, SocketAddr)> {
        let session = self.by_token.get_mut(&token)?;
        let address = session.address;
        Some((session, address))
    }

    /// Forgets a session whose client needs it no more.
    pub fn leave(&mut self, address: SocketAddr, token: u64) {
        if self.by_token.get(&token).is_some_and(|session| session.address == address) {
            self.forget(token, End::Quit);
        }
    }

    /// Executes and answers nothing more of a session, and keeps it all the same.
    pub fn silence(&mut self, token: u64) {
        if let Some(session) = self.by_token.get_mut(&token) {
            session.is_silenced = true;
            self.statistics.count_end(End::Expensive);
        }
    }

    fn forget(&mut self, token: u64, end: End) {
        if let Some(session) = self.by_token.remove(&token) {
            self.joined.remove(&(session.address, session.nonce));
            if !session.is_silenced {
                self.statistics.count_end(end);
            }
            self.count();
        }
    }

    fn count(&self) {
        // Relaxed: a figure.
        self.statistics.udp_sessions.store(self.len() as u64, Ordering::Relaxed);
    }

    /// Whether it is time to look for sessions to forget.
    #[inline]
    pub fn is_look_due(&self, now_ns: u64) -> bool {
        self.len() > 0 && now_ns.saturating_sub(self.looked_ns) >= LOOK_NS
    }

    /// Forgets the sessions of which nothing was heard for a while.
    #[cold]
    pub fn look(&mut self, now_ns: u64) {
        self.looked_ns = now_ns;
        // What is being executed goes on to its end.
        let is_idle = |session: &Session| session.again.is_none() && now_ns.saturating_sub(session.heard_ns) >= IDLE_NS;
        let idle: Vec<u64> =
            self.by_token.iter().filter(|(_, session)| is_idle(session)).map(|(&token, _)| token).collect();
        idle.into_iter().for_each(|token| self.forget(token, End::Gone));
    }

    /// In how many nanoseconds to look again.
    pub fn look_again_ns(&self, now_ns: u64) -> Option<u64> {
        (self.len() > 0).then(|| LOOK_NS.saturating_sub(now_ns.saturating_sub(self.looked_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn headcount(most: usize) -> Arc<Headcount> {
        Arc::new(Headcount::new(most))
    }

    fn sessions(headcount: &Arc<Headcount>) -> Sessions {
        Sessions::new(Arc::clone(headcount), Arc::new(Statistics::new(1)))
    }

    fn session() -> Session {
        Session::new(address(1), 1, 1, 0, Counted::enter(&headcount(1)).unwrap())
    }

    /// Executes what is to be executed, and appends the numbers to `executed`.
    fn run(session: &mut Session, mut is_next: bool, executed: &mut Vec<u64>) {
        while is_next || session.take_next().is_some() {
            is_next = false;
            let number = session.next();
            executed.push(number);
            session.answer(&number.to_ne_bytes());
        }
    }

    #[test]
    fn smoke() {
        let mut session = session();
        assert_eq!(session.accept(1, 1, b"request1"), Accepted::Now);
        session.answer(b"reply");
        assert_eq!(session.accept(1, 1, b"request1"), Accepted::Answered(b"reply"));
        assert_eq!(session.accept(2, 2, b"request2"), Accepted::Now);
        assert_eq!(session.accept(1, 1, b"request1"), Accepted::Old);
    }

    /// However datagrams are lost, doubled and reordered: each number once, in order, and answered with its own reply.
    #[test]
    fn each_request_is_executed_once_and_in_order() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut session, mut executed) = (session(), Vec::new());
        // The client: the first number without a reply, which have come beyond it, and what is on its way.
        let (mut floor, mut come, mut on_the_way) = (1, std::collections::BTreeSet::new(), Vec::new());
        while floor <= 2_000 {
            let number = floor + random.u64(..limits::UDP_WINDOW as u64);
            if !come.contains(&number) {
                on_the_way.push((number, floor));
            }
            let index = random.usize(..on_the_way.len().max(1));
            let Some(&(number, its_floor)) = on_the_way.get(index) else { continue };
            if random.u8(..3) > 0 {
                on_the_way.swap_remove(index); // else it comes once more
            }
            let (mut reply, mut is_next) = (None, false);
            match session.accept(number, its_floor, &[0; 8]) {
                Accepted::Now => is_next = true,
                Accepted::Answered(kept) => reply = Some(kept.to_vec()),
                Accepted::Later | Accepted::Old => {}
                Accepted::Wrong => panic!("{number} with floor {its_floor}"),
            }
            run(&mut session, is_next, &mut executed);
            // A reply that is not lost.
            if let Some(reply) = reply.filter(|_| random.bool()) {
                assert_eq!(reply, number.to_ne_bytes());
                come.insert(number);
                while come.remove(&floor) {
                    floor += 1;
                }
            }
        }
        assert!(executed.iter().copied().eq(1..=executed.len() as u64) && executed.len() >= 2_000);
    }

    #[test]
    fn what_no_honest_client_sends_changes_nothing() {
        let mut session = session();
        assert_eq!(session.accept(1, 1, &[0; 8]), Accepted::Now);
        session.answer(&[0; 8]);
        let window = limits::UDP_WINDOW as u64;
        for (number, floor) in
            [(0, 0), (1, 0), (1, 2), (3, 3), (1 + window, 1), (u64::MAX, 1), (u64::MAX, u64::MAX), (0, 1)]
        {
            assert_eq!(session.accept(number, floor, &[0; 8]), Accepted::Wrong, "{number} with floor {floor}");
        }
        assert_eq!((session.floor, session.next, session.slots.len()), (1, 2, 1));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut session = session();
        let large = vec![0; limits::UDP_EARLY_KEPT_MAX / 4];
        for number in 2..=limits::UDP_WINDOW as u64 {
            assert_eq!(session.accept(number, 1, &large), Accepted::Later);
        }
        assert_eq!(session.early_size, limits::UDP_EARLY_KEPT_MAX);
        // Replies that the client does not take hold up its own requests, and nothing is lost.
        assert_eq!(session.accept(1, 1, &large), Accepted::Now);
        session.answer(&vec![0; limits::UDP_REPLIES_KEPT_MAX]);
        assert_eq!(session.take_next(), None);
        assert_eq!(session.accept(2, 1, &large), Accepted::Later);
        assert_eq!(session.accept(2, 2, &large), Accepted::Now);
        session.answer(b"reply");
        assert_eq!(session.take_next(), Some(large));
    }

    #[test]
    fn a_request_that_takes_several_turns_is_begun_once() {
        let mut session = session();
        assert_eq!(session.accept(1, 1, &[0; 8]), Accepted::Now);
        session.again = Some((vec![0; 8], Again::default()));
        assert_eq!(session.accept(1, 1, &[0; 8]), Accepted::Later);
        assert_eq!(session.accept(2, 1, &[2; 8]), Accepted::Later);
        session.again = None;
        session.answer(b"reply");
        assert_eq!(session.take_next(), Some(vec![2; 8]));
    }

    #[test]
    fn who_asks_for_much_is_put_off() {
        let mut session = session();
        assert!(session.asks_for_much(1), "that it asks for little is to be seen");
        for turn in 1..STREAK_MAX as u64 {
            session.note_work(turn, false);
            session.note_work(turn, false);
            assert!(!session.asks_for_much(turn + 1));
        }
        session.note_work(STREAK_MAX as u64, false);
        assert!(session.asks_for_much(STREAK_MAX as u64 + 1) && !session.asks_for_much(STREAK_MAX as u64 + 2));
        // A session that waits for its turn has not been silent meanwhile.
        session.note_work(20, true);
        assert!(session.asks_for_much(21));
        session.note_work(30, false);
        assert!(!session.asks_for_much(31));
        assert_eq!(session.accept(1, 1, &[1; 8]), Accepted::Now);
        session.put_off(&[1; 8]);
        assert_eq!(session.accept(1, 1, &[1; 8]), Accepted::Now, "it comes again");
        session.put_off(&[1; 8]);
        assert_eq!(session.accept(2, 1, &[2; 8]), Accepted::Later);
        assert_eq!((session.take_next(), session.early_size), (Some(vec![1; 8]), 8));
        session.answer(b"reply");
        assert_eq!((session.take_next(), session.early_size), (Some(vec![2; 8]), 0));
    }

    #[test]
    fn a_silenced_session_executes_nothing_more() {
        let mut session = session();
        assert_eq!(session.accept(2, 1, &[0; 8]), Accepted::Later);
        assert_eq!(session.accept(1, 1, &[0; 8]), Accepted::Now);
        session.answer(b"reply");
        session.is_silenced = true;
        assert_eq!(session.take_next(), None);
        assert_eq!(session.accept(1, 1, &[0; 8]), Accepted::Later);
        assert_eq!(session.accept(2, 1, &[0; 8]), Accepted::Later);
    }

    #[test]
    fn a_token_is_for_one_address_and_never_granted_twice() {
        let mut sessions = sessions(&headcount(2));
        let token = sessions.join(address(1), 7, 0, 0, || 1).unwrap();
        assert_eq!(sessions.join(address(1), 7, 0, 0, || 2), Ok(token), "asked for twice, it is the same");
        assert!(sessions.hear(address(1), token, 0).is_some() && sessions.hear(address(2), token, 0).is_none());
        let other = sessions.join(address(2), 7, token, 0, || 3).unwrap();
        assert!(other != token && sessions.get(token).is_some(), "nobody leaves another one's session");
        let full = Full { most: 2, is_of_sessions: false };
        assert_eq!(sessions.join(address(3), 7, 0, 0, || 4), Err(full), "there are as many clients as there may be");
        let next = sessions.join(address(1), 8, token, 0, || 5).unwrap();
        assert!(next != token && sessions.get(token).is_none());
        sessions.leave(address(1), next);
        let again = sessions.join(address(1), 8, 0, 0, || 6).unwrap();
        assert!(again != next, "what comes late must not find what it was for");
    }

    #[test]
    fn a_session_is_forgotten_when_nothing_is_heard_of_it() {
        let headcount = headcount(2);
        let mut sessions = sessions(&headcount);
        let (silent, heard) =
            (sessions.join(address(1), 1, 0, 0, || 1).unwrap(), sessions.join(address(2), 1, 0, 0, || 2).unwrap());
        sessions.hear(address(2), heard, 1);
        assert!(sessions.is_look_due(IDLE_NS));
        sessions.look(IDLE_NS);
        assert!(sessions.get(silent).is_none() && sessions.get(heard).is_some());
        assert_eq!(headcount.clients(), 1);
        assert!(!sessions.is_look_due(IDLE_NS + 1));
        assert_eq!(sessions.look_again_ns(IDLE_NS + 1), Some(LOOK_NS - 1));
    }

    /// Each keeps some memory, so that there are never more of them than so many, whatever `--max-clients` says.
    #[test]
    fn sessions_have_a_limit_of_their_own() {
        let headcount = headcount(2 * limits::UDP_SESSIONS_MAX);
        let mut sessions = sessions(&headcount);
        for nonce in 0..limits::UDP_SESSIONS_MAX as u64 {
            assert!(!sessions.are_full() && sessions.join(address(1), nonce, 0, 0, || nonce).is_ok());
        }
        let full = Full { most: limits::UDP_SESSIONS_MAX, is_of_sessions: true };
        assert!(sessions.are_full());
        assert_eq!(sessions.join(address(2), 1, 0, 0, || 1), Err(full));
        assert_eq!(headcount.clients(), limits::UDP_SESSIONS_MAX);
        drop(sessions);
        assert_eq!(headcount.clients(), 0);
    }

    #[test]
    fn a_cookie_is_for_one_address_and_one_server() {
        let (cookies, others) = (Cookies::new(), Cookies::new());
        assert_eq!(cookies.of(address(1)), cookies.of(address(1)));
        assert_ne!(cookies.of(address(1)), cookies.of(address(2)));
        assert_ne!(cookies.of(address(1)), others.of(address(1)));
    }
}
