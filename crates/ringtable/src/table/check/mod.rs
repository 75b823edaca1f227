//! Checking what a dead server has left: a chain at a time, before anything in it is changed.
//!
//! # Design
//!
//! A table is taken over by what its buckets and its page map say ([`super::adopt`]); to read each entry, too, would
//! take seconds. So the entries of a chain are checked later ([`chain`]): when its bucket is locked for the first time
//! ([`super::settle`]), or when a worker comes by that goes over all of them between its clients' turns. Which chains
//! are outstanding is a bit for each bucket ([`outstanding`]). What is found is counted by what it is ([`report`]).
//!
//! # Invariants
//!
//! - Nothing in a chain is changed before it was checked, but that marks of use are set, and that all of it is deleted.
//! - A table that was not taken over has none of this; one whose chains are all checked pays a load for each lock.

pub mod report;
pub(super) mod outstanding;
pub(super) mod chain;
