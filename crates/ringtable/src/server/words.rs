//! What a server says to whoever runs it, on standard error.

use std::io::{self, Write};
use std::time::Duration;

use crate::shm::doorbell::timespec;

/// Says something on standard error, unless that would wait for somebody to read.
pub(super) fn tell(words: &str) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut ready, Some(&timespec(Duration::ZERO))).is_ok_and(|ready| ready > 0) {
        let _ = stderr.write_all(format!("ringtable: {words}\n").as_bytes());
    }
}
