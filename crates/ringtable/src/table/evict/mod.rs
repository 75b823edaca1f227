//! Making room: evicting entries, and moving them so that free memory lies in a row.
//!
//! # Design
//!
//! An allocation that finds nothing calls [`Writer::make_room`](super::writer::Writer::make_room), which goes on until
//! there is room or nothing is left to do, by whatever of these is cheapest now:
//!
//! 1. **Clear a slab.** A size class whose free slots would fill a slab has them spread over many: what lives in its
//!    emptiest slab moves to the others, and the slab's pages are free for any class.
//! 2. **Clear a run.** If enough pages are free, but not in a row: what lives in the row with the least in it moves.
//! 3. **Evict** some entries, by the table's policy ([`super::options::Eviction`]).
//!
//! So a table that was full of small values can become one of large values, and back, and entries leave in the order
//! that the policy says, whatever their size. What finds no other place when a run is cleared is evicted out of order.
//!
//! # Refusals
//!
//! A write that is refused has evicted nothing. So a search begins with the question whether evicting can lead there:
//!
//! - In a cache anything may go but what is [`kept::Kept`], so it can if there is a run of pages without any such
//!   thing. That is looked up page by page, from the high end, until the first run that will do; or not at all, if the
//!   size class has more slots in use than can be kept. Entries that are never evicted ([`super::unevictable`]) move
//!   out of the way: there have to be the pages beside them, if they were moved together.
//! - Where only what expires may go, it can if the size class has enough such entries ([`super::expiring`]). Else a run
//!   of pages is closed, and what stays moves out of it. Only when all of that has moved, or will for certain find the
//!   slot of an entry that expires elsewhere, does the first entry go ([`run`]).
//!
//! A condition is looked at before there is room for its write, and the key that it is about is spared.
//!
//! What other workers take, pin or hold meanwhile may still make a search fail that has evicted something. It does not
//! wait for them: the request is taken up again in a later turn ([`super::writer::Writer::take_crowded`]).
//!
//! # Invariants
//!
//! - Nothing is ever lost that the policy does not allow to be evicted.
//! - Every loop ends: each step frees something, or counts towards a limit.

pub(super) mod kept;
mod relocate;
mod hand;
mod soonest;
mod run;
mod room;

#[cfg(all(test, not(loom)))]
mod tests;
