//! The arrival of a server, for a client that has found none and is willing to wait.
//!
//! # Design
//!
//! The kernel tells what happens in the folder of the server's socket (inotify). The socket has its name a little
//! before it can be connected to, so whoever waits looks again behind such news, and then after pauses that grow. Where
//! there is nothing to watch, since there is no folder yet, or it is a port, or the user has no watches left, there are
//! these pauses alone.
//!
//! This only says when to look; whether there is a server, connecting shows.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::address::Location;
use crate::shm::doorbell::timespec;
use crate::shm::fork::Descriptor;

/// The pause after which one looks again at first. In a folder in which a lot happens one looks no more often.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest pause where nobody tells of anything.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The longest pause where the kernel tells.
const PAUSE_TOLD_MAX: Duration = Duration::from_secs(1);

/// What a client that waits knows of the place where a server is to be.
pub struct Arrival {
    folder: Option<PathBuf>,
    inotify: Option<Descriptor>,
    is_watched: bool,
    pause: Duration,
}

impl Arrival {
    /// Begins to watch where a server would be.
    pub fn new(location: &Location) -> Self {
        let folder = match location {
            Location::Unix(place) => Some(place.folder().to_owned()),
            _ => None,
        };
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let inotify = folder.as_ref().and_then(|_| Descriptor::make(|| inotify::init(flags)).ok());
        let mut arrival = Self { folder, inotify, is_watched: false, pause: PAUSE_MIN };
        arrival.watch();
        arrival
    }

    fn watch(&mut self) {
        let (Some(folder), Some(inotify)) = (&self.folder, &self.inotify) else { return };
        let news = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::DELETE;
        let flags = news | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        self.is_watched = inotify::add_watch(inotify, folder, flags).is_ok();
    }

    /// Waits until it is time to look whether there is a server, at most for `limit`.
    pub fn wait(&mut self, limit: Duration) {
        let began = Instant::now();
        let pause = self.pause.min(limit);
        if self.is_watched && self.is_told_within(pause) {
            // The folder may be another one by now, or none.
            self.watch();
            self.pause = PAUSE_MIN;
            thread::sleep(PAUSE_MIN.min(limit));
            return;
        }
        thread::sleep(pause.saturating_sub(began.elapsed()));
        if !self.is_watched {
            self.watch();
        }
        let longest = if self.is_watched { PAUSE_TOLD_MAX } else { PAUSE_MAX };
        // What was cut short by the limit was no pause.
        self.pause = if pause < self.pause { self.pause } else { (2 * pause).min(longest) };
    }

    /// Whether something happens in the folder within that time.
    fn is_told_within(&self, pause: Duration) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut ready = [PollFd::new(inotify, PollFlags::IN)];
        if !poll(&mut ready, Some(&timespec(pause))).is_ok_and(|ready| ready > 0) {
            return false;
        }
        let (mut events, mut is_told) = ([0; 4_096], false);
        while rustix::io::read(inotify, &mut events).is_ok_and(|size| size > 0) {
            is_told = true;
        }
        is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    #[test]
    fn news_end_the_wait_and_silence_lengthens_it() {
        let folder = std::env::temp_dir().join(format!("ringtable-arrival-{}", std::process::id()));
        let mut arrival = Arrival::new(&address::location(folder.join("a.sock")).unwrap());
        assert!(!arrival.is_watched);
        std::fs::create_dir(&folder).unwrap();
        arrival.wait(Duration::from_millis(1));
        assert!(arrival.is_watched, "a folder that has come is watched");
        arrival.pause = Duration::from_secs(3_600);
        std::fs::write(folder.join("a.sock"), b"").unwrap();
        arrival.wait(Duration::from_secs(3_600));
        assert_eq!(arrival.pause, PAUSE_MIN);
        for _ in 0..3 {
            arrival.wait(Duration::from_secs(3_600));
        }
        assert_eq!(arrival.pause, 8 * PAUSE_MIN);
        arrival.wait(Duration::ZERO);
        assert_eq!(arrival.pause, 8 * PAUSE_MIN);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
