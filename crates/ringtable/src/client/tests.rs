//! The steps of a link, over each transport, and those of a watch, against a server that does only what a test has it
//! do.
//!
//! All is one thread. A step that waited would wait for ever, since nobody acts meanwhile. (At the end there is a whole
//! client, since it repeats whole calls.)

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::channel::Channel;
use super::error::Error;
use super::fuzzing::{GEOMETRY, Wire, connect};
use super::link::{Link, Pushed};
use super::sharing::Sharing;
use super::socket::SocketLink;
use super::subscription::{Change, Subscription};
use crate::command::known::Known;
use crate::command::record::RecordWriter;
use crate::command::reply::{Reply, ReplyWriter};
use crate::limits;
use crate::ring::broadcast;
use crate::ring::exchange::{Exchange, ReplyHead};
use crate::ring::lane::{self, Lane};
use crate::ring::{mpmc, spsc};
use crate::shm::doorbell::{Doorbell, Listener, timespec};
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, Memory, Ordering, copy_in};
use crate::table::layout::PAGE_WORDS;
use crate::table::{Eviction, Guard, Options, Table, Writer};
use crate::{client, command};

const TRANSPORTS: [&str; 3] = ["lane", "rings", "socket"];

/// The seat that `connect` gives a client in rings.
const MEMBER: u16 = 1;
const GENERATION: u16 = 7;

/// The server's end of one transport.
enum Server {
    Lane { wire: Wire, requests: spsc::Consumer, responses: spsc::Producer },
    Rings { wire: Wire, requests: mpmc::Consumer, responses: broadcast::Sender },
    Socket(UnixStream),
}

impl Server {
    /// A server and the link of its only client.
    fn new(transport: &str) -> (Self, Link) {
        let (server, channel) = match transport {
            "lane" => {
                let (wire, channel) = connect(true);
                let (requests, responses) = (spsc::Consumer::default(), spsc::Producer::default());
                (Self::Lane { wire, requests, responses }, channel)
            }
            "rings" => {
                let (wire, channel) = connect(false);
                let responses = broadcast::Sender::new(GEOMETRY.members);
                responses.admit(Exchange::new(wire.memory.words(), GEOMETRY).responses(), MEMBER);
                (Self::Rings { wire, requests: mpmc::Consumer::default(), responses }, channel)
            }
            _ => {
                let (near, far) = UnixStream::pair().unwrap();
                near.set_nonblocking(true).unwrap();
                far.set_nonblocking(true).unwrap();
                let socket = SocketLink::new(Descriptor::make(|| Ok(near.into())).unwrap());
                (Self::Socket(far), Channel::Socket(Box::new(socket)))
            }
        };
        (server, Link::new(channel, Known::ALL, Arc::<Sharing>::default()))
    }

    /// Takes the bytes of requests that are there, and returns how many.
    fn take(&mut self) -> usize {
        match self {
            Self::Lane { wire, requests, .. } => {
                let ring = Lane::new(wire.memory.words()).requests();
                let size = requests.available(ring, limits::LANE_RING_SIZE).unwrap();
                requests.skip(size);
                requests.release(ring);
                size
            }
            Self::Rings { wire, requests, .. } => {
                let queue = Exchange::new(wire.memory.words(), GEOMETRY).queue();
                let mut size = 0;
                while let mpmc::Next::Taken(taken) = requests.take(queue) {
                    requests.release(queue, taken);
                    size += GEOMETRY.piece_size();
                }
                size
            }
            Self::Socket(far) => {
                let (mut size, mut bytes) = (0, vec![0; 64 << 10]);
                while let Ok(more @ 1..) = far.read(&mut bytes) {
                    size += more;
                }
                size
            }
        }
    }

    /// How many bytes of replies the client has not taken.
    fn unread(&mut self, link: &mut Link) -> usize {
        match self {
            Self::Lane { wire, responses, .. } => {
                let ring = Lane::new(wire.memory.words()).responses();
                limits::LANE_RING_SIZE - responses.room(ring, limits::LANE_RING_SIZE).unwrap()
            }
            Self::Rings { wire, responses, .. } => {
                let ring = Exchange::new(wire.memory.words(), GEOMETRY).responses();
                let cursors = responses.listening(ring).map(|(_, cursor)| responses.tail() - cursor);
                GEOMETRY.piece_size() * cursors.max().unwrap_or_default() as usize
            }
            Self::Socket(_) => match link.channel() {
                Channel::Socket(socket) => rustix::io::ioctl_fionread(&**socket).unwrap() as usize,
                _ => unreachable!("it was made with the server"),
            },
        }
    }

    /// Answers a request with some bytes.
    fn answer(&mut self, bytes: &[u8]) {
        self.send(
            &self.encoded(|record| record.bulk(bytes), &[format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"]),
        );
    }

    /// Refuses one.
    fn refuse(&mut self) {
        self.send(&self.encoded(|record| record.error("ERR no"), &[b"-ERR no\r\n"]));
    }

    /// A reply as this transport has it.
    fn encoded(&self, record: impl FnOnce(&mut RecordWriter<'_, Vec<u8>>), resp: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Socket(_) => out = resp.concat(),
            Self::Lane { .. } | Self::Rings { .. } => {
                let mut writer = RecordWriter::new(&mut out);
                record(&mut writer);
                writer.finish();
            }
        }
        out
    }

    /// Sends bytes, which have to fit.
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Lane { wire, responses, .. } => {
                let ring = Lane::new(wire.memory.words()).responses();
                assert!(responses.room(ring, bytes.len()).unwrap() >= bytes.len());
                responses.write(ring, bytes);
                responses.publish(ring);
            }
            Self::Rings { wire, responses, .. } => {
                let ring = Exchange::new(wire.memory.words(), GEOMETRY).responses();
                for piece in bytes.chunks(GEOMETRY.piece_size()) {
                    let place = responses.try_claim(ring).expect("there is room");
                    responses.publish(ring, place, |body| {
                        let head = ReplyHead { size: piece.len(), member: MEMBER, generation: GENERATION };
                        body[0].store(head.pack(), Ordering::Relaxed);
                        copy_in(piece, &body[1..]);
                    });
                }
            }
            Self::Socket(far) => far.write_all(bytes).unwrap(),
        }
    }
}

fn number(name: &str) -> u16 {
    command::number(name)
}

/// Pushes requests of some size until there is no room, and returns how many were taken.
fn fill(link: &mut Link) -> usize {
    let value = [b'v'; 1_000];
    for count in 0..100_000 {
        if link.push(number("SET"), &[b"key", &value]).unwrap() == Pushed::Full {
            return count;
        }
        link.publish().unwrap();
    }
    panic!("a link that takes all there is, and has nobody who reads");
}

/// Pushes one more request.
fn push(link: &mut Link) -> Pushed {
    link.push(number("GET"), &[&[b'k'; 1_000]]).unwrap()
}

#[test]
fn a_reply_is_pending_until_all_of_it_has_come() {
    for transport in TRANSPORTS {
        let (mut server, mut link) = Server::new(transport);
        link.begin().unwrap();
        assert_eq!(link.push(number("GET"), &[b"key"]).unwrap(), Pushed::Taken);
        assert!(link.publish().unwrap(), "{transport}");
        assert_eq!(link.receive().unwrap(), Poll::Pending, "{transport}");
        assert!(server.take() > 0);
        let reply = server.encoded(|record| record.bulk(&[b'v'; 60]), &[b"$60\r\n", &[b'v'; 60], b"\r\n"]);
        let (begin, end) = reply.split_at(32);
        server.send(begin);
        assert_eq!(link.receive().unwrap(), Poll::Pending, "{transport}");
        server.send(end);
        assert_eq!(link.receive().unwrap(), Poll::Ready(Reply::Bulk(vec![b'v'; 60])), "{transport}");
    }
}

/// Publishes all that was pushed, and has the server take it.
fn depart(server: &mut Server, link: &mut Link) {
    while !link.publish().unwrap() {
        assert!(server.take() > 0);
    }
    server.take();
}

/// Answers requests and receives the replies, so many.
fn answer_all(server: &mut Server, link: &mut Link, count: usize) {
    for index in 0..count {
        server.take();
        link.publish().unwrap();
        server.answer(&index.to_ne_bytes());
        assert_eq!(link.receive().unwrap(), Poll::Ready(Reply::Bulk(index.to_ne_bytes().to_vec())));
    }
    assert_eq!(link.receive().unwrap(), Poll::Pending);
}

#[test]
fn a_request_that_does_not_fit_fits_when_the_server_has_taken_others() {
    for transport in TRANSPORTS {
        let (mut server, mut link) = Server::new(transport);
        link.begin().unwrap();
        let taken = fill(&mut link);
        assert!(taken > 0, "{transport}");
        // It stays so, however often one tries.
        assert_eq!(push(&mut link), Pushed::Full, "{transport}");
        assert_eq!(link.receive().unwrap(), Poll::Pending, "{transport}");
        while push(&mut link) == Pushed::Full {
            assert!(server.take() > 0, "{transport}");
            link.publish().unwrap();
        }
        answer_all(&mut server, &mut link, taken + 1);
    }
}

/// So nothing deadlocks: the server may be waiting for room for just these.
#[test]
fn a_request_that_does_not_fit_takes_the_replies_that_there_are() {
    for transport in TRANSPORTS {
        let (mut server, mut link) = Server::new(transport);
        link.begin().unwrap();
        assert_eq!(push(&mut link), Pushed::Taken);
        depart(&mut server, &mut link);
        let taken = 1 + fill(&mut link);
        server.answer(b"first");
        assert_eq!(push(&mut link), Pushed::Full, "{transport}");
        assert_eq!(server.unread(&mut link), 0, "{transport}");
        // It is there still, before those that come later.
        assert_eq!(link.receive().unwrap(), Poll::Ready(Reply::Bulk(b"first".to_vec())), "{transport}");
        answer_all(&mut server, &mut link, taken - 1);
    }
}

#[test]
fn a_request_larger_than_the_lane_goes_in_pieces() {
    let (mut server, mut link) = Server::new("lane");
    link.begin().unwrap();
    let value = vec![b'v'; 3 * limits::LANE_RING_SIZE];
    assert_eq!(link.push(number("SET"), &[b"key", &value]).unwrap(), Pushed::Taken);
    let mut size = 0;
    while !link.publish().unwrap() {
        // The next one waits until the last piece has gone.
        assert_eq!(push(&mut link), Pushed::Full);
        size += server.take();
    }
    size += server.take();
    assert!(size > value.len());
    assert_eq!(push(&mut link), Pushed::Taken);
    answer_all(&mut server, &mut link, 2);
}

#[test]
fn replies_of_posted_writes_are_settled_and_not_received() {
    for transport in TRANSPORTS {
        let (mut server, mut link) = Server::new(transport);
        for hash in [1, 2] {
            link.begin_post().unwrap();
            assert_eq!(link.post(number("SET"), &[b"key", b"value"], hash).unwrap(), Pushed::Taken);
        }
        assert!(link.publish().unwrap());
        assert_eq!(link.settle(Some(1)).unwrap(), Poll::Pending, "{transport}");
        assert_eq!(link.settle(Some(3)).unwrap(), Poll::Ready(()), "{transport}");
        server.take();
        server.answer(b"of 1");
        assert_eq!(link.settle(Some(1)).unwrap(), Poll::Ready(()), "{transport}");
        assert_eq!(link.settle(None).unwrap(), Poll::Pending, "{transport}");
        link.begin().unwrap();
        assert_eq!(push(&mut link), Pushed::Taken);
        depart(&mut server, &mut link);
        server.refuse();
        assert_eq!(link.receive().unwrap(), Poll::Pending, "{transport}");
        assert_eq!(link.settle(None).unwrap(), Poll::Ready(()), "{transport}");
        server.answer(b"ours");
        assert_eq!(link.receive().unwrap(), Poll::Ready(Reply::Bulk(b"ours".to_vec())), "{transport}");
        // The refusal surfaces once.
        assert!(matches!(link.begin(), Err(Error::Refused(words)) if words == "ERR no"), "{transport}");
        link.begin().unwrap();
    }
}

#[test]
fn replies_of_a_call_that_was_given_up_are_dropped() {
    for transport in TRANSPORTS {
        let (mut server, mut link) = Server::new(transport);
        link.begin().unwrap();
        for _ in 0..3 {
            assert_eq!(push(&mut link), Pushed::Taken);
        }
        depart(&mut server, &mut link);
        server.answer(b"taken");
        assert!(link.receive().unwrap().is_ready(), "{transport}");
        server.answer(b"has come");
        // The next call finds two owed: one is there, one is still to come.
        link.begin().unwrap();
        assert_eq!(push(&mut link), Pushed::Taken);
        assert_eq!(link.receive().unwrap(), Poll::Pending, "{transport}");
        depart(&mut server, &mut link);
        server.answer(b"is late");
        assert_eq!(link.receive().unwrap(), Poll::Pending, "{transport}");
        server.answer(b"ours");
        assert_eq!(link.receive().unwrap(), Poll::Ready(Reply::Bulk(b"ours".to_vec())), "{transport}");
    }
}

#[test]
fn a_server_that_has_gone_is_an_error_and_not_pending() {
    let (server, mut link) = Server::new("socket");
    link.begin().unwrap();
    assert_eq!(push(&mut link), Pushed::Taken);
    drop(server);
    assert!(matches!(link.publish().and_then(|_| link.receive()), Err(Error::Gone(_))));
}

/// A server's end of a watch, and the watcher's.
struct Watched {
    writer: Writer<Mapping>,
    bell: Doorbell,
    state: Mapping,
    socket: UnixStream,
    subscription: Subscription,
}

impl Watched {
    fn new(prefix: &[u8]) -> Self {
        let segment = |size| Segment::create("ringtable-test", size).unwrap();
        let (table, state) = (segment(64 * PAGE_WORDS * 8), segment(4_096));
        let options = Options { buckets: 1, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut writer = Writer::new(Arc::new(Table::create(table.map_writable().unwrap(), &options).unwrap()));
        let (near, far) = UnixStream::pair().unwrap();
        let bell = Doorbell::new().unwrap();
        let dup = |descriptor: BorrowedFd<'_>| Descriptor::make(|| rustix::io::dup(descriptor)).unwrap();
        let passed = vec![
            table.read_only().unwrap(),
            dup(state.descriptor().as_fd()),
            dup(Listener::new(&bell).unwrap().as_fd()),
        ];
        let start = writer.watch().unwrap();
        let state = state.map_writable().unwrap();
        let socket = Descriptor::make(|| Ok(near.into())).unwrap();
        let subscription = Subscription::join(socket, passed, start, prefix).unwrap();
        Self { writer, bell, state, socket: far, subscription }
    }

    fn set(&mut self, key: &[u8]) {
        self.writer.put(key, b"value", None, Guard::Always, || 1_000).unwrap();
    }

    /// Whether the server has to ring.
    fn sleeps(&self) -> bool {
        lane::must_ring(&self.state.words()[0])
    }

    /// The keys of the changes that a step takes.
    fn take(&mut self) -> Poll<Vec<Vec<u8>>> {
        self.subscription.take().unwrap().map(|changes| {
            let key = |change| match change {
                Change::Event { key, .. } => key,
                Change::Lagged(count) => panic!("{count} events were missed"),
            };
            changes.into_iter().map(key).collect()
        })
    }
}

#[test]
fn changes_are_pending_until_there_are_some() {
    let mut watched = Watched::new(b"a");
    assert_eq!(watched.take(), Poll::Pending);
    watched.set(b"a1");
    watched.set(b"b1");
    watched.set(b"a2");
    assert_eq!(watched.take(), Poll::Ready(vec![b"a1".to_vec(), b"a2".to_vec()]));
    assert_eq!(watched.take(), Poll::Pending);
    // Nothing of these was wanted: they are taken, and there is nothing more.
    (0..2 * limits::EVENT_BATCH_MAX).for_each(|_| watched.set(b"b2"));
    assert_eq!(watched.take(), Poll::Ready(vec![]));
    assert_eq!(watched.take(), Poll::Ready(vec![]));
    assert_eq!(watched.take(), Poll::Pending);
}

#[test]
fn a_watch_is_armed_only_while_there_is_nothing() {
    let mut watched = Watched::new(b"");
    watched.set(b"key");
    assert!(!watched.subscription.arm() && !watched.sleeps(), "there is something to take");
    assert!(watched.take().is_ready());
    assert!(watched.subscription.arm() && watched.sleeps());
    let look = |watched: &Watched| watched.subscription.listen(Duration::ZERO);
    look(&watched).unwrap();
    watched.set(b"key");
    watched.bell.ring();
    let readable = |watched: &Watched| {
        let mut polled = [PollFd::new(watched.subscription.alarm(), PollFlags::IN)];
        poll(&mut polled, Some(&timespec(Duration::ZERO))).unwrap() == 1
    };
    assert!(readable(&watched), "the alarm is what an event loop waits for");
    watched.subscription.disarm();
    look(&watched).unwrap();
    assert!(!readable(&watched) && !watched.sleeps());
    // The server's end is told when all is taken, and not before.
    watched.socket.shutdown(Shutdown::Both).unwrap();
    look(&watched).unwrap();
    assert!(watched.take().is_ready());
    assert!(matches!(look(&watched), Err(Error::Gone(_))));
}

#[test]
fn a_call_that_no_server_survives_is_given_up() {
    let path = std::env::temp_dir().join(format!("ringtable-repeat-{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"+OK\r\n").unwrap();
        socket
    });
    let options =
        client::Options { transport: client::Transport::Socket, reconnect: true, ..client::Options::default() };
    let client = client::Client::connect(&path, &options, client::Patience::endless()).unwrap();
    let mut calls = 0;
    let mut ask = |repeat, error: fn() -> Error| {
        calls = 0;
        let outcome = client.repeated(repeat, client::Patience::endless(), |_| {
            calls += 1;
            Err::<(), _>(error())
        });
        (calls, outcome.unwrap_err())
    };
    let (gone, unsent) = (|| Error::Gone("it is".into()), || Error::Unsent("it is".into()));
    assert!(matches!(ask(client::Repeat::Always, gone), (count, Error::Gone(_)) if count == 1 + limits::REPEATS_MAX));
    assert!(
        matches!(ask(client::Repeat::Unsent, unsent), (count, Error::Unsent(_)) if count == 1 + limits::REPEATS_MAX)
    );
    assert!(matches!(ask(client::Repeat::Unsent, gone), (1, Error::Gone(_))), "it may have been done");
    assert!(matches!(ask(client::Repeat::Always, || Error::Lost(3)), (1, Error::Lost(3))), "nobody else tells");
    assert!(matches!(ask(client::Repeat::Always, || Error::Absent("it is".into())), (1, Error::Absent(_))));
    drop(server.join().unwrap());
    std::fs::remove_file(&path).unwrap();
}
