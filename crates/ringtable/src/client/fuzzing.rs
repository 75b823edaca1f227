//! A client whose server has gone mad, for [`crate::fuzzing`]: what it finds in a lane or in rings is anything. It gets
//! replies or an error, does not wait for what never comes, and takes no more memory than has arrived.

use std::os::fd::{AsFd, OwnedFd};

use super::channel::Channel;
use super::handshake::{join, parse_answer};
use super::sharing::Sharing;
use crate::command::COMMANDS;
use crate::command::known::Known;
use crate::command::record::RecordWriter;
use crate::command::reply::ReplyWriter;
use crate::input::Input;
use crate::ring::exchange::{Exchange, Geometry, ReplyHead, Workers};
use crate::ring::lane::{LANE_SIZE, Lane};
use crate::ring::spsc;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, Memory, Ordering, copy_in};
use crate::table::layout::PAGE_WORDS;
use crate::table::{Eviction, Options, Table};

const STEPS_MAX: usize = 60;
pub(super) const GEOMETRY: Geometry = Geometry { slot_words: 8, slots: 16, members: 2 };
/// Words of a lane that both sides read and write, and of an exchange the cursors besides.
const CONTROL_WORDS: usize = 512;

/// Whether a server's answer to a join tells what a client has to know.
pub fn is_answer(status: &str) -> bool {
    parse_answer(status).is_some()
}

/// The server's side: memory, and what an honest one has of its own.
struct Server {
    wire: Wire,
    responses: spsc::Producer,
    /// Messages of the broadcast ring so far.
    messages: u64,
    /// Records that were not sent yet.
    unsent: Vec<u8>,
}

/// The server's end of a lane or of rings: the memory, and what the client was passed with it.
pub(super) struct Wire {
    pub memory: Mapping,
    _bells: [Doorbell; 2],
    _socket: OwnedFd,
}

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let is_lane = input.byte().is_multiple_of(2);
    let (wire, mut channel) = connect(is_lane);
    let mut server = Server { wire, responses: spsc::Producer::default(), messages: 0, unsent: Vec::new() };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let alive = match input.byte() % 8 {
            0 | 1 => ask(&mut channel, &mut input),
            2 | 3 => {
                answer(&mut server.unsent, &mut input);
                true
            }
            4 => {
                if is_lane {
                    server.send()
                } else {
                    server.broadcast(&mut input)
                }
                true
            }
            5 => {
                let words = server.wire.memory.words();
                let end = if input.byte().is_multiple_of(4) { words.len() } else { CONTROL_WORDS };
                let word = &words[input.below(end)];
                word.store(input.nasty(word.load(Ordering::Relaxed)), Ordering::Relaxed);
                true
            }
            _ => receive(&mut channel),
        };
        if !alive {
            break; // an error ends the connection
        }
    }
}

/// A connection as [`super::connection::Connection::open`] makes it, to a server that is only its memory.
pub(super) fn connect(is_lane: bool) -> (Wire, Channel) {
    let sealed = |size: usize| {
        let segment = Segment::create("ringtable-fuzz", size).expect("there is memory");
        let mapping = segment.map_writable().expect("there is memory");
        (segment, mapping)
    };
    let (table, table_memory) = sealed(4 * PAGE_WORDS * 8);
    let options = Options { buckets: 1, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::AllkeysSieve };
    Table::create(table_memory, &options).expect("it fits");
    let (segment, memory) = sealed(if is_lane { LANE_SIZE } else { GEOMETRY.size() });
    if is_lane {
        Lane::new(memory.words()).create(0);
    } else {
        Exchange::new(memory.words(), GEOMETRY).create(Workers { first: 0, count: 1 });
    }
    let bells = [(); 2].map(|()| Doorbell::new().expect("the system lets us"));
    let listener = Listener::new(&bells[1]).expect("the system lets us");
    let dup = |descriptor: std::os::fd::BorrowedFd<'_>| {
        Descriptor::make(|| rustix::io::dup(descriptor)).expect("the system lets us")
    };
    let passed = vec![
        table.read_only().expect("the system lets us"),
        dup(segment.descriptor().as_fd()),
        dup(bells[0].as_fd()),
        dup(listener.as_fd()),
    ];
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("the system lets us");
    let status = if is_lane { format!("LANE {}", Known::ours()) } else { format!("RINGS 1 7 {}", Known::ours()) };
    let near = Descriptor::make(|| Ok(near.into())).expect("the system lets us");
    let joined = join(near, &status, passed, &Arc::<Sharing>::default());
    let (_, channel, _) = joined.unwrap_or_else(|error| panic!("an honest server: {error}"));
    (Wire { memory, _bells: bells, _socket: far.into() }, channel)
}

impl Server {
    /// Sends what waits for room, as far as it fits the lane.
    fn send(&mut self) {
        let ring = Lane::new(self.wire.memory.words()).responses();
        let Ok(room) = self.responses.room(ring, self.unsent.len()) else { return };
        let size = room.min(self.unsent.len());
        self.responses.write(ring, &self.unsent[..size]);
        self.unsent.drain(..size);
        self.responses.publish(ring);
    }

    /// Sends a piece to the member that we watch, or to another one, over whatever is in the slot.
    fn broadcast(&mut self, input: &mut Input<'_>) {
        let slots = &self.wire.memory.words()[self.wire.memory.words().len() - GEOMETRY.slots * GEOMETRY.slot_words..];
        let slot = &slots[self.messages as usize % GEOMETRY.slots * GEOMETRY.slot_words..][..GEOMETRY.slot_words];
        let size = self.unsent.len().min(GEOMETRY.piece_size());
        let head = ReplyHead { size, member: 1, generation: 7 }.pack();
        let lies = input.byte().is_multiple_of(16);
        slot[1].store(if lies { input.nasty(head) } else { head }, Ordering::Relaxed);
        copy_in(&self.unsent[..size], &slot[2..]);
        self.unsent.drain(..size);
        self.messages += 1;
        slot[0].store(self.messages, Ordering::Release);
    }
}

/// Asks for something. Returns whether the connection lasts.
fn ask(channel: &mut Channel, input: &mut Input<'_>) -> bool {
    let number = COMMANDS[input.below(COMMANDS.len())].number;
    let value = vec![b'v'; input.below(3_000)];
    let arguments: [&[u8]; 2] = [b"key", &value];
    channel.try_push(number, &arguments).and_then(|_| channel.publish()).is_ok()
}

/// Takes all replies that there are. Returns whether the connection lasts.
fn receive(channel: &mut Channel) -> bool {
    loop {
        match channel.try_receive() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return false;
            }
        }
    }
}

/// The record of a reply, or of something else.
fn answer(unsent: &mut Vec<u8>, input: &mut Input<'_>) {
    let begin = unsent.len();
    let mut writer = RecordWriter::new(unsent);
    match input.byte() % 6 {
        0 => writer.ok(),
        1 => writer.nil(),
        2 => writer.bulk(&vec![b'b'; usize::from(input.byte())]),
        3 => writer.bulk(&vec![b'b'; input.below(200_000)]),
        4 => writer.error("ERR no"),
        _ => {
            writer.array(2);
            writer.integer(-1);
            writer.status("PONG");
        }
    }
    writer.finish();
    if input.byte().is_multiple_of(8) {
        let words = (unsent.len() - begin) / 8;
        let at = begin + 8 * input.below(words.min(256));
        let word = u64::from_ne_bytes(unsent[at..at + 8].try_into().expect("eight bytes"));
        unsent[at..at + 8].copy_from_slice(&input.nasty(word).to_ne_bytes());
    }
}
