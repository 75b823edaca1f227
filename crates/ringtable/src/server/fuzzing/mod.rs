//! A worker without its thread, and clients without processes, for [`crate::fuzzing`].

pub mod datagrams;
pub mod exchange;
pub mod lane;
pub mod socket;

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::executor::Executor;
use super::options::Options;
use super::runtime::Runtime;
use super::socket::{Abilities, Socket};
use super::topology::Topology;
use crate::command::COMMANDS;
use crate::input::Input;
use crate::shm::clock::wall_ms;
use crate::shm::descriptors;
use crate::shm::fork::Descriptor;
use crate::sync::Arc;
use crate::table::{Eviction, Pairs, Want};

/// A small server of one worker, none of whose threads runs.
pub(super) fn runtime(topology: Topology, eviction: Eviction) -> Arc<Runtime> {
    let options = Options {
        workers: 1,
        buckets: 4,
        max_memory: 1 << 20,
        eviction,
        clients_max: 3,
        topology,
        ring_slots: 16,
        slot_size: 64,
        spin_ns: Some(0),
        ..Options::default()
    };
    let runtime = Runtime::new(&options).expect("the system lets us");
    // Its thread does not run.
    runtime.store.returning.refuse();
    Arc::new(runtime)
}

/// The executor of its worker.
fn executor(runtime: &Arc<Runtime>) -> Executor {
    let (store, statistics) = (Arc::clone(&runtime.store), Arc::clone(&runtime.statistics));
    let host = Arc::clone(runtime);
    Executor::new(0, store, statistics, host, runtime.topology)
}

/// The same of a server with lanes, which is full or a cache as the input wants it.
fn executor_with_lanes(input: &mut Input) -> Executor {
    let eviction = if input.byte().is_multiple_of(2) { Eviction::Never } else { Eviction::AllkeysSieve };
    executor(&runtime(Topology::Lanes, eviction))
}

/// The two ends of a connection: the server's, and the client's.
pub(super) fn connection() -> (Socket, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (server, client) = pair.expect("the system lets us");
    (
        Socket::new(
            Descriptor::make(|| Ok(server)).expect("the system lets us"),
            Abilities { passes_descriptors: true },
            None,
        ),
        client,
    )
}

/// What the server has said to a client, and the descriptors that came with it.
fn hear(client: &OwnedFd) -> (Vec<u8>, Vec<Descriptor>) {
    let (mut words, mut passed) = (vec![0; 256], Vec::new());
    let size = descriptors::receive(client.as_fd(), &mut words, &mut passed).expect("it has said something");
    words.truncate(size);
    (words, passed)
}

/// All that has come to a client.
pub(super) fn drain(client: &OwnedFd, into: &mut Vec<u8>) {
    let mut piece = [0; 16 << 10];
    while let Ok((_, size @ 1..)) = rustix::net::recv(client, &mut piece[..], RecvFlags::DONTWAIT) {
        into.extend_from_slice(&piece[..size]);
    }
}

/// A request: a command's number and arguments. Keys are few, values may be large.
fn request(input: &mut Input<'_>) -> (u16, Vec<Vec<u8>>) {
    let number = COMMANDS[input.below(COMMANDS.len())].number;
    let count = input.below(5);
    let arguments = (0..count)
        .map(|index| match (input.byte() % 6, index) {
            (0..3, 0) => vec![b'k'; input.below(4)],
            (3, _) => vec![b'v'; usize::from(input.short())],
            (4, _) => vec![b'w'; input.below(150_000)],
            _ => {
                let size = input.below(24);
                input.take(size).to_vec()
            }
        })
        .collect();
    (number, arguments)
}

/// What holds after whatever clients have done, once they are gone.
fn check(executor: &mut Executor) {
    assert_eq!(executor.store.requests.unfinished(), 0, "bytes of requests that nobody has");
    assert_eq!(executor.store.table.draft_bytes(), 0, "bytes of values that do not arrive any more");
    let (mut pairs, mut cursor) = (Pairs::default(), 0);
    loop {
        cursor = executor.engine.writer.scan(cursor, Want::Keys, wall_ms, &mut pairs);
        if cursor == 0 {
            break;
        }
    }
    assert!(pairs.len() as u64 <= executor.store.table.entries());
}
