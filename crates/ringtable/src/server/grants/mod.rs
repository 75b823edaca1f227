//! What is granted, in memory that outlives the server: which connection holds which lease, lock or permit.
//!
//! # Design
//!
//! Leases ([`super::leases`]) and permits ([`super::permits`]) are found by maps that are private to the server. What
//! counts is here: a **record** for each grant, in a segment of its own, which no client maps. Whoever has the segment
//! after the server can rebuild the maps from it ([`adoption`]), so that a grant ends with its connection, and not with
//! the server. The maps are changed right behind their record, under the same lock.
//!
//! There is a **section** for leases and one for permits. A lease is a grant like any other: its name has one permit.
//! A section has as many records as may be held at a time, and as many blocks as the names of those may need, in any
//! mixture. So neither is ever missing, and nothing fails once the limits have been looked at. What is used is taken
//! from the low end, and only that takes memory.
//!
//! A record has the first 56 bytes of its name; what is more is in a **chain** of blocks. All who hold permits of one
//! name share its chain.
//!
//! # Death at any instruction
//!
//! A record counts if its first word, the **seal**, is not 0. The seal is a checksum of the other words; of the two
//! words for the end of its time it covers only the one that its lowest bit names.
//!
//! - **Granting**: the chain and all other words first, then the seal, by one store with Release. Before it there is no
//!   grant, behind it there is one.
//! - **Extending**: the new end goes into the word that the seal does not cover; then one store of another seal, which
//!   names that word. Before it the record has its old end, behind it the new one, and it is valid all the time.
//! - **Ending**: the seal becomes 0, and only behind a fence the record and its chain are used for something else. The
//!   chain of a name with several permits goes with the last of them.
//! - **Handing over** a permit is to end one grant and then to make another. In between nobody holds the permit: those
//!   who were waiting for it are gone with the server, and ask again.
//! - A token is taken from its counter before it is in any record, and a connection's number before it is in use.
//!
//! The death of a process takes none of its stores back, and loses none in the middle, so that only the compiler and
//! the processor have to keep this order; and that is what Release and the fence are for.
//!
//! # Invariants
//!
//! - A grant that is in the maps has a record, and only such: between two operations under the lock.
//! - A block is in one chain at most, and a chain belongs to one name of one section.
//! - No counter ever falls, so that tokens go on above all that were given, and no number is given twice.
//!
//! # Not promised
//!
//! Who waits for a grant, and what was handed over with a lease, is not kept: those ask again. Before that they give
//! their ticket back, since they may have been granted what they have not heard of. Memory that was touched once stays:
//! some 41 MiB if all limits were reached. A segment of another layout leaves nothing to adopt.
//!
//! A checksum finds what was damaged by accident. It protects from nobody who can write to the segment: that is the
//! server alone.

mod layout;
mod memory;
mod free_list;
mod names;
mod record;
mod table;

mod adoption;
#[cfg(test)]
mod tests;

pub(super) use adoption::{Adopted, Found};
pub(super) use layout::{LAYOUT_VERSION, LEASES, PERMITS};
pub(super) use memory::GrantMemory;
pub(super) use names::Name;
pub(super) use record::Record;
pub(super) use table::{Grants, Slot};
