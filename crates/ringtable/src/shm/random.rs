//! Random numbers of the kernel's.
//!
//! A generator inside of the process would not do where a number must not come twice: a forked child has its parent's,
//! in the state that it was in, and so all children of one parent have the same numbers.

use std::hash::{BuildHasher, RandomState};

use rustix::rand::{GetRandomFlags, getrandom};

/// A random number that is not 0, and that neither another process nor this one has had.
pub fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
        Ok(size) if size == bytes.len() && bytes != [0; 8] => u64::from_ne_bytes(bytes),
        // A kernel that has no randomness yet has given the standard library some other.
        _ => RandomState::new().hash_one(std::process::id()) | 1,
    }
}
