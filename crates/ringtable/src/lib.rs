//! ringtable: a hash table that every process of a machine shares.
//!
//! A server process owns the table and its worker threads do all the writing; clients send requests through rings in
//! shared memory (or plain sockets) and read the table in place. `docs/architecture.md` has the whole picture.
//!
//! Layers, each using only those below it:
//!
//! - [`client`] and [`server`]: the two ends,
//! - [`folder`] and [`address`]: where a server is found, and whom one trusts with that,
//! - [`disk`]: files with the entries of a table,
//! - [`command`]: what can be asked, its codecs, and its execution on a table,
//! - [`table`] and [`ring`]: the data structures, over slices of atomics,
//! - [`shm`] and [`sync`]: shared memory, and the atomics themselves,
//! - [`failpoint`]: the steps of all protocols, by name, for tests that let a process die there.

// First: its macro is for all that follow.
#[macro_use]
pub mod failpoint;

#[cfg(all(any(test, fuzzing), not(loom)))]
mod input;
pub mod limits;
pub mod sync;
#[cfg(not(loom))]
pub mod shm;
pub mod ring;
pub mod table;
#[cfg(not(loom))]
pub mod command;
#[cfg(not(loom))]
pub mod disk;
#[cfg(not(loom))]
pub mod address;
#[cfg(not(loom))]
pub mod folder;
#[cfg(not(loom))]
pub mod arrival;
#[cfg(not(loom))]
pub mod client;
#[cfg(not(loom))]
pub mod server;

#[cfg(all(any(test, fuzzing), not(loom)))]
#[doc(hidden)]
pub mod fuzzing;
