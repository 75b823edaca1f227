//! The server: owns the table, and serves clients over lanes and sockets with a few worker threads.
//!
//! # Invariants
//!
//! - **I1** A client is alive exactly as long as its socket.
//! - **I4** Nothing a client can write is believed: it is copied, checked, then used, and what is wrong ends that one
//!   client's connection with a counted reason.
//! - **I5** No client makes a worker wait: every system call on a client's descriptors is non-blocking, and work per
//!   turn is bounded.
//! - **I7** In the classic topologies, where all wait for the slowest, a client that is dead or stopped holds the
//!   others up for a bounded time at most.
//!
//! # Threads
//!
//! `workers` threads serve clients; one gives memory back ([`returning`]), and one makes room for large entries
//! ([`room`]); one more accepts connections ([`listener`]) and gives each to the worker that has the fewest, among at
//! most as many workers as there are processors: more of them would serve nobody faster. A client stays with its
//! worker, which keeps its requests in order. Nothing runs while nothing is asked: all threads sleep in the kernel
//! without time-outs, unless freed memory waits for somebody who reads it still. All signals are blocked in them: the
//! embedding program handles those.
//!
//! # Files
//!
//! In order from the bottom up: a file uses those that stand above its line. Store and runtime are apart, so that a
//! store can be served in another way, and so are sessions, which call the executor, and the executor, which calls none
//! of them.

// What a server is asked for, and how it says no.
mod error;
mod topology;
mod fsync;
mod options;

// How connections end, what is counted, what a turn may take.
mod end;
mod statistics;
mod buffers;
mod turn;
mod words;

// What outlives the server, and the keeper of it.
mod held;
mod inheritance;
mod estate;
mod passed;
mod notes;
mod lane_parts;
mod keeper;
mod lane_heirs;
mod liveness;
mod resignation;
mod sole;

// The store: the table, and what goes with it.
mod handovers;
mod waiters;
mod grants;
mod layouts;
mod permits;
mod group_names;
mod changes;
mod barriers;
mod leases;
mod waking;
mod watchers;
mod request_memory;
mod returning;
mod housekeeping;
mod room;
mod outgoing;
mod log;
mod restoring;
mod persistence;
mod bookkeeping;
mod moving;
mod store;

// The execution of requests.
mod executor;
mod inflow;

// Connections, by transport.
mod headcount;
mod disposer;
mod reserved;
mod socket;
mod pins;
mod backlog;
mod resp_session;
mod udp_session;
mod socket_client;
mod unfinished;
mod lane_offer;
mod lane_client;
mod member;
mod exchange;
mod watch_client;
mod connection;

// Threads.
pub mod wake;
mod course;
mod mailbox;
mod runtime;
mod figures;
mod port;
mod udp_port;
mod source;
mod crowd;
mod worker;
mod endpoint;
mod listener;
mod lifecycle;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use estate::{Estate, LeftLane};
pub use fsync::Fsync;
pub use held::Held;
pub use inheritance::{Inheritance, InheritedLane, LaneMemory};
pub use layouts::LAYOUTS;
pub use lifecycle::Server;
pub use options::Options;
pub use topology::Topology;
