//! Shared memory and what goes with it: the only module that makes system calls on memory.
//!
//! - [`segment`]: sealed memfd segments and their mappings,
//! - [`descriptors`]: passing descriptors over unix sockets,
//! - [`doorbell`]: waking a process that sleeps,
//! - [`peer`]: who is at the other end of a unix socket,
//! - [`fork`]: what a forked child must not keep,
//! - [`signals`]: what the engine's threads do not take,
//! - [`random`]: numbers that a forked child has not, too,
//! - [`shortage`]: what the system has no more of, in words,
//! - [`clock`]: time and processors.

pub mod clock;
pub mod random;
pub mod signals;
pub mod shortage;
pub mod peer;
pub mod fork;
#[cfg(test)]
pub mod killed;
pub mod segment;
pub mod descriptors;
pub mod doorbell;
