//! Rings over plain memory, and how to wait at them.
//!
//! - [`spsc`]: a byte stream of framed records between one producer and one consumer,
//! - [`lane`]: the layout of a client's lane: two such rings, waiting flags, pins,
//! - [`wait`]: whether to spin or to sleep.

pub mod lane;
pub mod spsc;
pub mod wait;

#[cfg(all(test, loom))]
mod loom_doorbell;
#[cfg(all(test, loom))]
mod loom_spsc;
