//! The watchers of a table: what it takes to wake those that sleep when it has changed.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::waking::Waking;
use crate::ring::lane;
use crate::shm::doorbell::{Doorbell, Listener};
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Memory, lock};

/// Bytes of a watcher's segment, of which one word is used: a page.
const SEGMENT_SIZE: usize = 4_096;

/// What it takes to wake a watcher.
pub(super) struct Sleeper {
    segment: Segment,
    state: Mapping,
    /// Whether we have seen that the watcher has sealed its segment strictly: see `lane_client::Offer`.
    sealed: AtomicBool,
    bell: Doorbell,
}

impl Sleeper {
    /// What it takes to wake a new watcher, and what the watcher gets to sleep on.
    pub fn make() -> io::Result<(Self, Listener)> {
        let segment = Segment::create("ringtable-watch", SEGMENT_SIZE)?;
        let state = segment.map_writable()?;
        state.populate();
        let bell = Doorbell::new()?;
        let listener = Listener::new(&bell)?;
        Ok((Self { segment, state, sealed: AtomicBool::new(false), bell }, listener))
    }

    /// The segment in which the watcher says whether it sleeps, to be passed to it.
    pub fn descriptor(&self) -> impl AsFd {
        self.segment.descriptor()
    }

    /// Whether it is to be rung. One that has not sealed its segment is, always: that memory is not looked at.
    fn must_be_rung(&self) -> bool {
        // Relaxed: who finds it unset asks the kernel.
        if !self.sealed.load(Ordering::Relaxed) {
            if !self.segment.is_strictly_sealed() {
                return true;
            }
            self.sealed.store(true, Ordering::Relaxed);
        }
        lane::must_ring(&self.state.words()[0])
    }
}

/// All watchers of a server. Workers look here only when they have published something.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<(Arc<Sleeper>, Waking)>>);

impl Watchers {
    /// Wakes the watchers that sleep; to be called after publishing. Returns how many did. One that is too expensive to
    /// wake is woken no more.
    pub fn ring_sleepers(&self) -> u64 {
        let mut rung = 0;
        lock(&self.0).retain_mut(|(sleeper, waking)| {
            let must_be_rung = sleeper.must_be_rung();
            rung += u64::from(must_be_rung);
            !must_be_rung || waking.measured(|| sleeper.bell.ring()).is_ok()
        });
        rung
    }

    /// Has a watcher woken from now on.
    pub fn add(&self, sleeper: &Arc<Sleeper>) {
        lock(&self.0).push((Arc::clone(sleeper), Waking::default()));
    }

    /// Has it woken no more.
    pub fn remove(&self, sleeper: &Arc<Sleeper>) {
        lock(&self.0).retain(|(other, _)| !Arc::ptr_eq(other, sleeper));
    }
}
