//! What can be asked: commands, their two codecs, and their execution on a table.
//!
//! # Design
//!
//! There is one table of commands, in [`commands`], and one function for each. What either codec has decoded becomes
//! the same [`Command`], and one [`execute`](fn@execute) serves both; a command answers through
//! [`reply::ReplyWriter`], whoever carries the answer. To add a command, write its function and add its line to the
//! table: all else (arity checks, transports, pipelines) follows.
//!
//! # Not here
//!
//! Input and output: the codecs work on bytes that somebody else reads and writes.

// What requests and replies are made of.
pub mod protocol;
pub mod integer;
pub mod float;
pub mod refusal;
pub mod arguments;
pub mod reply;
// Requests and replies as the Redis protocol has them, and as they flow through a lane.
pub mod resp;
pub mod record;
// What a command works with.
pub mod pending;
pub mod flow;
pub mod streamed;
pub mod task;
pub mod host;
pub mod context;
pub mod spec;
mod glob;
mod expiry;
pub mod set_options;
mod lookup;
// The commands.
mod keyspace;
mod take;
mod set;
mod counters;
mod scan;
mod prefix;
mod atomic;
mod locks;
mod barriers;
mod rate;
mod inspection;
mod persistence;
pub mod connection;
pub mod transaction;
// All of them, and how one is executed.
mod names;
pub mod commands;
pub mod known;
pub mod execute;
pub mod done;

/// Commands without a server, for tests and fuzzers.
#[cfg(any(test, fuzzing))]
pub mod alone;

#[cfg(test)]
mod manual;

pub use commands::{COMMANDS, find, number, numbered};
pub use context::Context;
pub use execute::{Command, execute};
pub use flow::{ConnectionChange, Flow, Upgrade};
pub use glob::pattern_of_prefix;
pub use host::{
    Host, LeaseAnswer, LeaseName, LockAnswer, LockRequest, LogState, Recipient, SavingState, Setting, Standing,
    Unwritten,
};
pub(crate) use integer::parse_cursor;
pub use refusal::{Refusal, is_for_want_of_room, shown, unknown, unknown_to_server};
pub use streamed::{Order, Streamed};
pub use task::Task;
