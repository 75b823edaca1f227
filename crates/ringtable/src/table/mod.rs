//! The hash table in a segment: lock-free reading over read-only memory, writing by several worker threads.
//!
//! The files stand in order: each is made of those before it. A [`Writer`] is one concept whose methods are spread over
//! many files; also of these, each calls only what stands before it. So unlinking an entry needs no room, making room
//! moves and unlinks, and writing a key makes room.
//!
//! # Invariants
//!
//! - **I2** A [`reader::Reader`] needs read access only, and does loads only.
//! - **I3** Key, value and shape of an entry are immutable from the moment a slot points at it. A new value is a new
//!   entry, and one 64-bit slot is swung, so that at any instruction the table holds the old value or the new one.
//!   Expiry and version are two words that change only while the entry's bucket is locked, and with its version.
//! - A bucket's version is odd exactly while one worker holds it; every change to its chain happens in between.
//! - A key lies in the chain of the bucket that its hash maps to under the current bucket count, and nowhere else.
//! - Slots are packed by nobody: a hole may lie anywhere in a chain, but an overflow bucket is never empty.

// The options of a table, and the condition of a write.
pub mod guard;
pub mod options;

// The bytes of the segment.
pub mod layout;
mod seal;
pub mod bucket;
pub mod entry;
mod expiry_code;
pub mod events;
mod fingerprint;
pub mod header;
pub mod error;

// Reading without a lock, by anyone who can map the segment.
mod deadline;
pub mod hints;
pub mod pairs;
pub mod lookup;
pub mod walk;
pub mod reader;
pub mod reclaim;

// The server's knowledge of the segment, in private memory.
pub mod heap;
pub mod unevictable;
pub mod expiring;
pub mod sieve;
pub mod check;

// The table, a worker's access to it, and the parts of every change.
pub mod change;
pub mod commits;
#[allow(clippy::module_inception)] // `Table` is here
pub mod table;
mod memory;
mod settle;
mod chain;
pub mod held;
pub mod manner;
pub mod writer;
mod unlink;
mod touch;

// Making room: for entries, in the bucket array, in a chain.
pub mod evict;
mod release;
pub mod growth;
pub mod chain_limit;

// The work of a worker, for its clients and between their turns.
mod read;
mod remove;
mod put;
pub mod lifetime;
pub mod draft;
mod flush;
pub mod sweep;

// The work of a server that comes after another one.
pub mod adopt;

#[cfg(all(test, loom, not(shuttle)))]
mod loom_bucket;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_check;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_events;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_growth;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_hints;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_lifetime;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_move;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_pin;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_table;
#[cfg(all(test, not(loom)))]
mod model_tests;
#[cfg(all(test, shuttle))]
mod shuttle_heap;
#[cfg(all(test, shuttle))]
mod shuttle_table;
#[cfg(all(test, not(loom)))]
mod tests;

pub use adopt::Report;
pub use change::{Journal, State};
pub use draft::{Draft, Terms};
pub use entry::Expiry;
pub use error::WriteError;
pub use guard::{Guard, Outcome};
pub use header::AttachError;
pub use held::HeldEntry;
pub use lookup::{Lookup, Sink};
pub use manner::{Lifetime, Manner};
pub use options::{Eviction, Options};
pub use pairs::{Pair, Pairs, Want};
pub use reader::Reader;
pub use table::Table;
pub use unevictable::Mark;
pub use writer::Writer;
