//! What a client waits for in shared memory: whether it has come, and how to fall asleep without missing it.
//!
//! A client that falls asleep says so and looks once more; a server that has published something looks who sleeps. With
//! a fence in between on either side, one of the two sees the other: see [`crate::ring::lane`].

use std::time::Duration;

use super::alarm::Alarm;
use crate::ring::lane;
use crate::sync::AtomicU64;

pub(super) trait Awaited {
    /// Waits that end at once, for something new, between two looks at the server, the caller's patience and its
    /// signals.
    const NEWS_PER_CHECK: u32;

    /// Whether there is anything new. A hint; the steps of the link look properly.
    fn has_news(&self) -> bool;

    /// What wakes the client.
    fn alarm(&self) -> &Alarm;

    /// Where the client says whether it sleeps, and on which processor it runs.
    fn client_state(&self) -> &AtomicU64;

    /// Wakes the server if nobody looks at what we have published unless rung. To be called behind a fence.
    fn wake_server(&self);

    /// For how long to sleep at most, if what is waited for may come without a ring.
    fn nap(&self) -> Option<Duration>;

    /// Prepares for sleep on the alarm, and then for [`Self::disarm`]: says beside `state` that we sleep. Returns
    /// `false` if there is something new already; then there is nothing to sleep for.
    fn arm(&self, state: u64) -> bool {
        lane::announce_sleep(self.client_state(), state);
        failpoint!("wait.announced");
        if self.has_news() {
            return false;
        }
        // A server that waits for us to take replies (or for what we published) is rung before we sleep ourselves: the
        // fence in `announce_sleep` orders this look behind everything that we released.
        self.wake_server();
        true
    }

    /// Says that we are awake again.
    fn disarm(&self, state: u64) {
        lane::announce_awake(self.client_state(), state);
    }
}
