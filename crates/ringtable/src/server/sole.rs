//! That one server at a time is at work on what a keeper holds.
//!
//! # Design
//!
//! Whoever follows a server has to be sure that it has ended. A keeper is told so by the kernel, as its parent. But a
//! server may outlive its keeper, and a service manager may start another keeper with what it was given to store. So a
//! server has a lock on the segment of notes, as a process (a record lock of POSIX, which no fork and no passed
//! descriptor shares), and the kernel takes it back when the process has ended.
//!
//! # Invariants
//!
//! - No other descriptor of that file is closed in the process as long as the server is at work: that would end the
//!   lock.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::shm::segment::Segment;

/// For how long the server before may take to be gone, of which one knows that it has been killed.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

/// The lock, until it is dropped.
pub(super) struct Sole(Segment);

impl Sole {
    /// Takes it.
    ///
    /// # Errors
    /// Another process has it, and keeps it.
    pub fn take(notes: Segment) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let locked = fcntl_lock(notes.descriptor().as_fd(), FlockOperation::NonBlockingLockExclusive);
            match locked {
                Ok(()) => return Ok(Self(notes)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                    let words = "another server is at work on this table still: end that first";
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, words));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The segment of notes.
    pub fn notes(&self) -> &Segment {
        &self.0
    }

    /// Leaves it to another server: this one does nothing any more.
    pub fn leave(&self) {
        let _ = fcntl_lock(self.0.descriptor().as_fd(), FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::fork::Descriptor;
    use crate::shm::killed::killed_at;
    use crate::sync::{Memory, Ordering};

    #[test]
    fn another_process_has_it_until_it_has_ended() {
        let segment = Segment::create("ringtable-test", 4_096).unwrap();
        let mapping = segment.map_writable().unwrap();
        mapping.inherit().unwrap();
        let word = &mapping.words()[0];
        // A child has none of its parent's but what is passed to it.
        let passed = rustix::io::fcntl_dupfd_cloexec(segment.descriptor(), 0).unwrap();
        let has_it = || {
            word.load(Ordering::Acquire) == 1
                && fcntl_lock(segment.descriptor().as_fd(), FlockOperation::NonBlockingLockExclusive).is_err()
        };
        let take = || {
            let notes = Segment::from_foreign(Descriptor::make(|| Ok(passed)).unwrap()).unwrap();
            let _sole = Sole::take(notes).unwrap();
            word.store(1, Ordering::Release);
            loop {
                std::thread::park();
            }
        };
        killed_at(take, has_it);
        let sole = Sole::take(segment).unwrap();
        sole.leave();
    }
}
