//! Requests with large values, cut at random places, over a lane and over a socket: their replies are, byte for byte,
//! those of the same requests executed one by one and as a whole.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{Options, Server};
use crate::command::alone::Alone;
use crate::command::arguments::Arguments;
use crate::command::protocol::Protocol;
use crate::command::record::{RECORD_VERSION, RecordWriter, RequestHead};
use crate::command::reply::ReplyWriter;
use crate::command::resp::{self, RespWriter};
use crate::command::{self, Flow};
use crate::ring::lane::{LANE_VERSION, Lane};
use crate::ring::spsc::{Consumer, Producer};
use crate::shm::descriptors::{self, OLD_KERNEL};
use crate::shm::doorbell::Doorbell;
use crate::shm::segment::Segment;
use crate::sync::{Memory, as_uninit};
use crate::table::layout::LAYOUT_VERSION;
use crate::table::{self, Eviction};

/// Reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(30);
const MEMORY: u64 = 64 << 20;
type Request = Vec<Vec<u8>>;

/// Executes requests one by one and as a whole: what those that flow in pieces are compared with.
struct Reference(Alone);

impl Reference {
    fn new() -> Self {
        let options = table::Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        Self(Alone::new(MEMORY as usize, &options))
    }

    fn execute(&mut self, request: &Request, reply: &mut dyn ReplyWriter, protocol: Protocol) {
        let number = command::find(&request[0]).unwrap().number;
        let mut progress = 0;
        while let (Flow::Again, _, come) = self.0.turn(number, &request[1..], reply, protocol, progress) {
            progress = come;
        }
    }
}

fn random_requests(random: &mut fastrand::Rng) -> Vec<Request> {
    let options: [&[&[u8]]; 9] =
        [&[], &[], &[], &[b"NX"], &[b"XX", b"EX", b"100"], &[b"PX", b"0"], &[b"PX"], &[b"?"], &[b"NX", b"XX"]];
    let sizes = [0, 1, 100, 65_535, 65_536, 65_537, 65_543, 131_000, 131_072, 200_001, 300_000];
    (0..40)
        .map(|_| {
            let key = vec![b'k'; [0, 1, 8, 300][random.usize(..4)]];
            match random.u8(..4) {
                0 => vec![b"GET".to_vec(), key],
                1 if random.bool() => vec![b"DEL".to_vec(), key],
                _ => {
                    let first = random.u8(..);
                    let size = sizes[random.usize(..sizes.len())];
                    let value = (0..size).map(|index| first.wrapping_add((index % 251) as u8)).collect();
                    let options = options[random.usize(..options.len())].iter().map(|option| option.to_vec());
                    [b"SET".to_vec(), key, value].into_iter().chain(options).collect()
                }
            }
        })
        .collect()
}

/// The size of the next piece that goes.
fn random_size(random: &mut fastrand::Rng) -> usize {
    let max = [8, 64, 3_000, 70_000][random.usize(..4)];
    random.usize(1..=max)
}

fn start(name: &str) -> (Server, UnixStream) {
    let path = std::env::temp_dir().join(format!("ringtable-{name}-{}.sock", std::process::id()));
    let address = path.clone().into_os_string();
    let options = Options { address, workers: 1, max_memory: MEMORY, spin_ns: Some(0), ..Options::default() };
    let server = Server::start(&options).unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    (server, socket)
}

/// A key that makes the worker that meets it panic.
const PANIC: &[u8] = b"panic, please";

/// Panics if the arguments of a command ask for that.
pub(super) fn panic_if_asked(arguments: &Arguments<'_>) {
    assert!(arguments.is_empty() || arguments.get(0) != PANIC, "a test says so");
}

#[test]
fn a_panic_ends_the_server() {
    let (server, mut socket) = start("panic");
    let mut other = UnixStream::connect(server.path()).unwrap();
    let (mut request, mut rest) = (Vec::new(), Vec::new());
    resp::write_request(&mut request, &[b"GET", PANIC]);
    socket.write_all(&request).unwrap();
    for socket in [&mut socket, &mut other] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        // The end of the connection, in whichever way.
        let _ = socket.read_to_end(&mut rest);
    }
    assert!(server.wait(DEADLINE));
    assert!(!server.is_running());
    let said = server.failure().unwrap();
    assert!(said.starts_with("worker 0 has panicked") && said.ends_with("a test says so"), "{said}");
    assert!(!server.path().exists());
    assert!(UnixStream::connect(server.path()).is_err());
    let address = server.path().into();
    let next = Server::start(&Options { address, workers: 1, max_memory: MEMORY, ..Options::default() }).unwrap();
    assert!(next.is_running() && next.failure().is_none());
    server.stop();
    assert!(next.path().exists());
}

#[test]
fn over_a_socket_requests_cut_at_random_come_to_the_same_as_whole_ones() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reference = Reference::new();
    let (_server, mut socket) = start("cut-socket");
    let mut sender = socket.try_clone().unwrap();
    for _ in 0..20 {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for request in random_requests(&mut random) {
            let arguments: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            resp::write_request(&mut stream, &arguments);
            let mut writer = RespWriter::new(&mut expected, Protocol::Resp2);
            reference.execute(&request, &mut writer, Protocol::Resp2);
        }
        let mut replies = vec![0; expected.len()];
        std::thread::scope(|scope| {
            let (mut random, stream, sender) = (random.fork(), &stream, &mut sender);
            scope.spawn(move || {
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    let (piece, left) = rest.split_at(random_size(&mut random).min(rest.len()));
                    sender.write_all(piece).unwrap();
                    rest = left;
                }
            });
            socket.read_exact(&mut replies).unwrap();
        });
        assert!(replies == expected, "seed {seed}");
    }
}

#[test]
fn over_a_lane_requests_cut_at_random_come_to_the_same_as_whole_ones() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reference = Reference::new();
    let (_server, mut socket) = start("cut-lane");
    let mut request = Vec::new();
    let versions = [LANE_VERSION.to_string(), RECORD_VERSION.to_string()];
    resp::write_request(&mut request, &[b"RING.LANE", versions[0].as_bytes(), versions[1].as_bytes()]);
    socket.write_all(&request).unwrap();
    rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::IN)], None).unwrap();
    let (mut status, mut passed) = ([0; 64], Vec::new());
    let size = descriptors::receive(socket.as_fd(), &mut status, &mut passed).unwrap();
    assert!(status.starts_with(b"+LANE ") && status[..size].ends_with(b"\r\n"));
    let bell = Doorbell::from_foreign(passed.remove(2));
    let segment = Segment::from_foreign(passed.remove(1)).unwrap();
    let mapping = segment.map_writable().unwrap();
    segment.seal(true).unwrap();
    bell.ring();
    let lane = Lane::new(mapping.words());
    let (mut requests, mut responses) = (Producer::default(), Consumer::default());
    for _ in 0..20 {
        let (mut stream, mut expected, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        for request in random_requests(&mut random) {
            let arguments: Vec<&[u8]> = request[1..].iter().map(Vec::as_slice).collect();
            let number = command::find(&request[0]).unwrap().number;
            RequestHead::new(number, &arguments).unwrap().append_to(&mut stream);
            let mut writer = RecordWriter::new(&mut expected);
            reference.execute(&request, &mut writer, Protocol::Resp3);
            writer.finish();
        }
        let mut rest = &stream[..];
        let begin = Instant::now();
        while replies.len() < expected.len() {
            assert!(begin.elapsed() < DEADLINE, "seed {seed}: {} bytes of replies have come", replies.len());
            let room = requests.room(lane.requests(), rest.len()).unwrap();
            let size = random_size(&mut random).next_multiple_of(8).min(room).min(rest.len());
            requests.write(lane.requests(), &rest[..size]);
            rest = &rest[size..];
            if requests.publish(lane.requests()) {
                bell.ring();
            }
            let ready = responses.available(lane.responses(), 1 << 20).unwrap();
            let taken = replies.len()..replies.len() + ready.min(random_size(&mut random).next_multiple_of(8));
            replies.resize(taken.end, 0);
            responses.read(lane.responses(), as_uninit(&mut replies[taken]));
            if responses.release(lane.responses()) {
                bell.ring();
            }
        }
        assert!(rest.is_empty() && replies == expected, "seed {seed}");
    }
}

// Descriptors that nobody wants

/// A file that makes who closes it last wait, for as long as the other one is open and does not read.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&near, Some(Duration::from_secs(1 << 30))).unwrap();
    near.set_nonblocking(true).unwrap();
    while (&near).write(&[0; 64 << 10]).is_ok() {}
    (near, far)
}

/// Passes a file and closes it: from then on the last one to let go of it is the other side. Unless that was faster,
/// and then we wait.
fn pass(through: &UnixStream, bytes: &[u8], passed: impl AsFd + 'static) {
    let _ = descriptors::send(through, bytes, &[passed.as_fd(); 4]);
    drop(passed);
}

fn ping(socket: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut reply = vec![0; 64];
    socket.write_all(b"PING\r\n")?;
    let size = socket.read(&mut reply)?;
    reply.truncate(size);
    Ok(reply)
}

/// All that the server says until it ends the connection.
fn last_words(mut socket: UnixStream) -> String {
    let mut said = Vec::new();
    if let Err(error) = socket.read_to_end(&mut said) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    said.escape_ascii().to_string()
}

/// What a client passes for which the server would have to wait, each over a connection of its own.
const WAYS: &[fn(UnixStream, TcpStream)] = &[
    |attacker, near| {
        pass(&attacker, b"PING\r\n", near);
        assert_eq!(last_words(attacker), REFUSED);
    },
    // Behind requests that are answered, and in a part of one.
    |mut attacker, near| {
        assert_eq!(ping(&mut attacker).unwrap(), b"+PONG\r\n");
        attacker.write_all(b"PI").unwrap();
        pass(&attacker, b"NG\r\n", near);
        assert_eq!(last_words(attacker), REFUSED);
    },
    // Gone at once, with all of it on its way.
    |attacker, near| {
        for _ in 0..50 {
            pass(&attacker, b"PING\r\n", near.try_clone().unwrap());
        }
        pass(&attacker, b"PING\r\n", near);
    },
    // In the queue of a socket in the queue.
    |attacker, near| {
        let (outer, inner) = UnixStream::pair().unwrap();
        pass(&outer, b"x", near);
        drop(outer);
        pass(&attacker, b"x", inner);
        assert_eq!(last_words(attacker), REFUSED);
    },
    // With a byte of urgent data, which is not read with the others.
    |mut attacker, near| {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [near.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let _ = rustix::net::sendmsg(&attacker, &[IoSlice::new(b"x")], &mut control, SendFlags::OOB);
        drop(near);
        let _ = attacker.write_all(b"PING\r\n");
        last_words(attacker);
    },
    // Where nothing is said any more.
    |attacker, near| pass_behind(attacker, b"RING.LANE", &[LANE_VERSION, RECORD_VERSION], near),
    |attacker, near| pass_behind(attacker, b"RING.WATCH", &[LAYOUT_VERSION], near),
];
const REFUSED: &str = r"-PROTOCOL this server takes no descriptors\r\n";

fn pass_behind(mut attacker: UnixStream, join: &[u8], versions: &[u64], near: TcpStream) {
    let versions: Vec<String> = versions.iter().map(u64::to_string).collect();
    let words: Vec<&[u8]> = std::iter::once(join).chain(versions.iter().map(String::as_bytes)).collect();
    let mut request = Vec::new();
    resp::write_request(&mut request, &words);
    attacker.write_all(&request).unwrap();
    rustix::event::poll(&mut [PollFd::new(&attacker, PollFlags::IN)], None).unwrap();
    let (mut status, mut passed) = ([0; 64], Vec::new());
    let size = descriptors::receive(attacker.as_fd(), &mut status, &mut passed).unwrap();
    assert!(!passed.is_empty(), "{}", status[..size].escape_ascii());
    pass(&attacker, b"x", near);
    assert_eq!(last_words(attacker), REFUSED);
}

/// Where the kernel does not refuse descriptors, nobody waits for what becomes of those that clients pass.
#[test]
fn on_an_old_kernel_nobody_waits_for_what_clients_pass() {
    OLD_KERNEL.set(true);
    let path = std::env::temp_dir().join(format!("ringtable-passed-{}.sock", std::process::id()));
    let address = path.to_str().unwrap().to_owned();
    let options = Options {
        address: address.into(),
        workers: 1,
        max_memory: MEMORY,
        clients_max: 8,
        spin_ns: Some(0),
        ..Options::default()
    };
    let server = Server::start(&options).unwrap();
    OLD_KERNEL.set(false);
    let connect = || {
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    // Behind the server, so that it is stopped when nothing lingers any more, should this fail.
    let (mut fars, mut attackers) = (Vec::new(), Vec::new());
    let mut honest = connect();
    for way in WAYS {
        let ((near, far), attacker) = (lingering(), connect());
        fars.push(far);
        let attacker = std::thread::spawn(move || way(attacker, near));
        let began = Instant::now();
        // An attacker that waits itself does no harm.
        while !attacker.is_finished() && began.elapsed() < Duration::from_millis(500) {
            assert_eq!(ping(&mut honest).unwrap(), b"+PONG\r\n");
        }
        assert_eq!(ping(&mut honest).unwrap(), b"+PONG\r\n");
        attackers.push(attacker);
    }
    // At a door that is closed, and in its queue when the server stops.
    let full: Vec<_> = (0..16).map(|_| connect()).collect();
    for _ in 0..8 {
        let (near, far) = lingering();
        fars.push(far);
        let attacker = connect();
        attackers.push(std::thread::spawn(move || pass(&attacker, b"PING\r\n", near)));
        assert_eq!(ping(&mut honest).unwrap(), b"+PONG\r\n");
    }
    server.stop();
    drop((fars, full));
    for attacker in attackers {
        attacker.join().unwrap();
    }
}
