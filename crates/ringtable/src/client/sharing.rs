//! The part of a connection, besides its link, that the threads of a process share without waiting for each other.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::answers::Answers;
use super::unsent::Unsent;
use crate::limits;
use crate::sync::lock;

/// How many posted writes are on their way, a buffer for a large reply, the answers that threads wait for, and what
/// is still to be sent.
#[derive(Default)]
pub(super) struct Sharing {
    /// Posted writes whose replies have not come.
    pub posted: AtomicUsize,
    /// A buffer for the next large reply: fresh memory comes from the kernel page by page, at a multiple of the price
    /// of copying.
    spare: Mutex<Vec<u8>>,
    pub answers: Answers,
    pub unsent: Unsent,
}

impl Sharing {
    /// An empty buffer with room for `size` bytes; `None` if there is no memory.
    pub fn take_buffer(&self, size: usize) -> Option<Vec<u8>> {
        let mut buffer = std::mem::take(&mut *lock(&self.spare));
        buffer.clear();
        buffer.try_reserve_exact(size).ok()?;
        Some(buffer)
    }

    /// Keeps no buffer any more.
    pub fn forget_buffer(&self) {
        *lock(&self.spare) = Vec::new();
    }

    /// Keeps a buffer for later, unless it is too large to keep.
    pub fn give_buffer(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= limits::SPARE_BUFFER_SIZE_MAX {
            *lock(&self.spare) = buffer;
        }
    }
}
