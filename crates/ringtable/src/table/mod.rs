//! The hash table in a segment: lock-free reading over read-only memory, writing by several worker threads.
//!
//! - [`layout`]: where everything lies, and the checks before a stranger's segment is believed,
//! - [`bucket`]: slots, versions and the chain of a bucket,
//! - [`chain`]: the end of a chain,
//! - [`entry`]: key, value and expiry in one piece of memory,
//! - `deadline`: when a worker has done enough,
//! - [`draft`]: entries whose value is still arriving,
//! - [`lifetime`]: a new expiry for an entry that is there,
//! - [`growth`]: more buckets, and fewer,
//! - [`sieve`], [`expiring`], [`evict`]: who goes when memory is short, and how room is made,
//! - [`hints`]: what direct readers tell of what they used,
//! - [`sweep`]: removing what has expired,
//! - [`heap`]: memory for entries: size classes, pages, extents,
//! - [`pairs`]: copies of many entries, in one buffer,
//! - [`events`]: the ring that tells watchers of changes,
//! - [`reclaim`]: memory of entries that are unlinked, and who keeps it from being used again,
//! - [`reader`]: lookups by anyone who can map the segment,
//! - [`walk`]: going over all keys,
//! - [`writer`]: changes by the server's workers, and growth.
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

pub mod bucket;
pub mod chain;
mod deadline;
pub mod draft;
pub mod entry;
pub mod events;
pub mod evict;
pub mod expiring;
pub mod error;
mod expiry_code;
mod fingerprint;
pub mod growth;
pub mod guard;
pub mod header;
pub mod options;
pub mod heap;
pub mod hints;
pub mod layout;
pub mod lifetime;
pub mod pairs;
pub mod reader;
pub mod reclaim;
pub mod sieve;
pub mod sweep;
pub mod unevictable;
pub mod walk;
pub mod writer;

#[cfg(all(test, loom, not(shuttle)))]
mod loom_bucket;
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

pub use draft::{Draft, Terms};
pub use entry::Expiry;
pub use error::WriteError;
pub use guard::{Guard, Outcome};
pub use header::AttachError;
pub use options::{Eviction, Options};
pub use pairs::{Pair, Pairs, Want};
pub use reader::{Lookup, Reader, Sink};
pub use reclaim::Held;
pub use unevictable::Mark;
pub use writer::{Table, Writer};
