//! Rings over plain memory, and how to wait at them.
//!
//! - [`spsc`]: a byte stream of framed records between one producer and one consumer,
//! - [`lane`]: the layout of a client's lane: two such rings, waiting flags, pins,
//! - [`mpmc`]: a queue of slots between many producers and many consumers,
//! - [`broadcast`]: a ring of slots that all readers see,
//! - [`exchange`]: the layout of what the clients of a classic topology share: one queue, one broadcast ring,
//! - [`wait`]: whether to spin or to sleep.

pub mod wait;
pub mod spsc;
pub mod lane;
pub mod mpmc;
pub mod broadcast;
pub mod exchange;

#[cfg(all(test, loom, not(shuttle)))]
mod loom_broadcast;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_doorbell;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_mpmc;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_spsc;
#[cfg(all(test, not(loom)))]
mod tests;
