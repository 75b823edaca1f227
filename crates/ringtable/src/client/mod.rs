//! A client: connects by name, path or URL; reads in place; asks the server for everything else.
//!
//! # Invariants
//!
//! - **I6** No call hangs: every wait ends by its event, by the server's death, by the [`Patience`] of the caller.
//! - Both rings may be full and nothing deadlocks: a call that waits for room takes replies in the meantime.
//! - A call that was given up leaves the link in order: replies still owed to it are dropped when they come.
//! - In a forked child a client makes a connection of its own at its first use.
//! - A change that was sent is never sent again over another connection, and its answer comes over one.
//!
//! # Consistency
//!
//! An acknowledged write is visible to every process when the call returns. A posted write is visible to the client
//! that made it (a read of its key waits for it), and to others soon; its errors surface at the client's next call.
//!
//! # Deliberately absent
//!
//! A thread of its own, but for one that sends what calls have left behind (`sender.rs`); a cache of values.

// What calls are given, and what they come to.
mod error;
mod patience;
mod options;
mod write_options;
mod validate;
mod replies;
mod numbers;

// What a connection is made of.
mod readiness;
mod connect;
mod life;
mod in_place;
mod gate;
mod answers;
mod unsent;
mod sender;
mod sharing;
mod pinned;

// Requests and replies, in steps that never wait.
mod alarm;
mod awaited;
mod lane;
mod rings;
mod socket;
mod udp;
mod channel;
mod link;

// A connection, whose calls wait.
mod waiting;
mod blocking;
mod handshake;
mod joining;
mod opened;
mod connection;
mod renewal;
mod absence;

// Calls.
mod handle;
mod repeat;
mod reads;
mod writes;
mod many;
mod taking;
mod commands;
mod view;
mod atomic;
mod held_leases;
mod leases;
mod locks;
mod barriers;
mod rate;
mod snapshot;
mod load;
#[cfg(feature = "bench")]
pub mod classic;

// A connection for an event loop, which waits for none of its calls.
mod event_loop;

// Changes, over a connection of their own.
mod subscription;
mod watch;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

pub use crate::shm::fork::generation as process_generation;
pub use crate::shm::shortage::of_number as shortage;
pub use atomic::Bounds;
pub use connect::folder_of_names;
pub use error::Error;
pub use event_loop::{Arrival, LoopConnection, Submitted};
pub use handle::Client;
pub use handshake::{lane_request, rings_request};
pub use leases::{LeaseOutcome, Staleness};
pub use load::{Loaded, Loading};
pub use locks::{Contention, LockTerms, LockWait};
pub use numbers::prepare;
pub use options::{Options, Reads, Transport};
pub use patience::Patience;
pub use rate::{Allowance, Rate};
pub use repeat::Repeat;
pub use replies::{LeftMs, figures};
pub use snapshot::Progress;
pub use subscription::{Change, watch_request};
pub use validate::{check_command, check_key, check_value};
pub use view::View;
pub use watch::Watch;
pub use write_options::{Condition, Stay, Writes};
