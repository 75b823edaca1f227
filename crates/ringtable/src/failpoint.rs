//! Named steps of the protocols, at which a test can let this process die or stand still.
//!
//! # Design
//!
//! `failpoint!("lane.written")` marks a step: the instant behind everything that is written above it. [`POINTS`] lists
//! all of them, and the compiler refuses a name that is not in the list. Without the feature `failpoints` that is all:
//! no instruction is left of it. With the feature, a thread that comes by looks whether the point is armed, and does
//! what it is armed with (`arm`, [`Action`]). `scripts/failpoints.sh` makes such a build for
//! `tests/test_failpoints*.py`, which let a process die, and stand still, at each of them.
//!
//! Signals are raised by the thread that passes, for itself: so it is that thread which dies or stands right there,
//! and not one that runs on for a moment until the others have heard.
//!
//! *Deliberately absent:* a crate for this. What such crates have (returning early, configuration in text) is not
//! wanted here, and killing and stopping, which is, they do not have.

/// All points: where a process stands that was killed or stopped at it.
pub const POINTS: &[(&str, &str)] = &[
    // A client
    ("connect.socket", "the socket is connected, nothing was asked yet"),
    ("connect.received", "the descriptors have come, and are not mapped"),
    ("connect.joined", "lane or rings are mapped"),
    ("lane.writing", "a request is about to be written"),
    ("lane.written", "the request is written and not published"),
    ("lane.published", "it is published, and the server was not rung"),
    ("lane.piece", "a piece of a large request is written, and more is to come"),
    ("lane.reply", "a reply was read, and its place is not given back"),
    ("lane.reply_piece", "a piece of a large reply was read and given back"),
    ("posted.sent", "a posted write is published, and nobody waits for its reply"),
    ("wait.announced", "it has said that it sleeps, and does not yet"),
    ("wait.woken", "it has slept, and has not said that it is awake"),
    ("rings.listening", "a cursor was announced, and the tail was not looked at again"),
    ("rings.claimed", "a slot is claimed, and the tail was not moved"),
    ("rings.writing", "the slot is claimed, and nothing is written to it"),
    ("rings.written", "the piece is written and not published"),
    ("rings.published", "it is published, and no worker was rung"),
    ("rings.giving_back", "the claimed slot was quarantined, and is not given back"),
    ("rings.copied", "a message was copied, and not checked to be whole"),
    ("rings.checked", "it was, and the cursor was not moved"),
    ("rings.leaving", "all replies are here, and the cursor is still announced"),
    ("socket.gathered", "a request for a plain socket is gathered and not sent"),
    ("socket.sent", "it is sent"),
    ("socket.full", "a part of it is sent, and the socket is full"),
    ("read.begun", "a version was read, and nothing of the bucket"),
    ("read.found", "an entry was found and its sizes checked, and its value is not copied"),
    ("read.copied", "a value was copied, and not checked to be whole"),
    ("pin.asked", "the server looks at our pins from now on, which we have not noted"),
    ("pin.stored", "an entry is named by a pin, and was not looked at again"),
    ("pin.checked", "the entry is pinned"),
    ("pin.cleared", "it is not any more, and the pin is not free for others"),
    ("fork.inherited", "a forked child finds the connection of its parent"),
    ("fork.connected", "it has its own, and has not kept it yet"),
    ("reconnect.retired", "the connection to a dead server is let go of, and there is no other"),
    ("reconnect.connected", "there is another one, which was not kept yet"),
    ("lease.waiting", "the answer is pending, and the table was not looked at again"),
    ("answer.leaving", "all that has come is taken, and the lane is not armed for a thread that waits for an answer"),
    ("lease.got", "a lease was granted, and nothing computed"),
    ("lease.returning", "the value is written, and the lease not given back"),
    ("lease.returned", "both are done, and nobody was told"),
    ("watch.joined", "the server counts the watch, which is not mapped"),
    ("watch.announced", "a watcher has said that it sleeps, and does not yet"),
    ("watch.copied", "an event was copied, and not checked to be whole"),
    ("close.begun", "the connection reads no more, and is not let go of"),
    ("close.dropped", "the link is gone, and the last descriptor of its socket is not"),
    // The server's start and end
    ("start.locked", "the name is locked, and the socket not bound"),
    ("start.bound", "the socket is bound, and nobody accepts"),
    ("keep.made", "a socket that was removed is there again, and the kernel does not tell yet if that one is removed"),
    ("stop.hidden", "the socket is removed, and nobody was told"),
    ("stop.said", "the threads are told to end"),
    ("resign.ended", "all that serve have ended for another server, and the keeper does not know"),
    ("resign.moved", "all entries are handed over for a server of another layout, and the keeper does not know"),
    ("linger.over", "nobody was there for so long, and the door is open"),
    ("linger.shut", "the door is shut, and those in front of it are not let in"),
    // Connections
    ("accept.accepted", "a connection is accepted, and no worker's"),
    ("accept.delivered", "it is a worker's, which was not rung"),
    ("accept.taken", "the worker has taken it, and does not watch it"),
    ("join.kept", "a keeper holds a client's socket, and nothing is noted of it"),
    ("join.made", "a lane is made, and not passed"),
    ("join.passed", "its descriptors are passed, and nobody serves it"),
    ("join.seated", "a seat is taken, and its owner does not know"),
    ("join.told", "the owner was told"),
    ("join.watching", "a watcher is counted, and does not know"),
    ("end.noticed", "a client is gone, and what it had published not executed"),
    ("end.executed", "it is executed, and its leases are not ended"),
    ("end.counted", "the end is counted, and its lane not freed"),
    ("end.departed", "a member is gone, and its claims are its own still"),
    ("end.recovered", "its claims are given back, and its seat is not"),
    ("end.forgotten", "nothing is left of it but its seat"),
    ("expel.dismissed", "a slow consumer's cursor counts no more, and it was not told"),
    ("expel.told", "it was told, and may write no more"),
    // Requests and replies
    ("request.copied", "a request is copied out of a lane, and not executed"),
    ("request.executed", "it is executed, and its reply not written"),
    ("request.noted", "its reply is in the lane, and noted with it, and not published"),
    ("reply.written", "the reply is in the lane, and not published"),
    ("reply.published", "it is published, and the request's place not given back"),
    ("reply.released", "so is that, and the client was not rung"),
    ("reply.piece", "a piece of a large reply is in the lane, and more is to come"),
    ("socket.executed", "a request from a plain socket is executed, and its reply not sent"),
    ("inflow.begun", "an entry is reserved for a large value, of which nothing is in it"),
    ("inflow.piece", "a piece of the value is in the entry"),
    ("room.ordered", "room for a large entry is ordered, and the thread that makes it was not woken"),
    ("room.made", "there is room, and its client does not know"),
    ("queue.taken", "a piece is taken from the queue, and not copied"),
    ("queue.released", "it is copied, its slot free, and it is not its sender's yet"),
    ("queue.quarantined", "a slot was stepped over"),
    ("cast.claimed", "a place in the broadcast ring is claimed, and nothing written"),
    ("cast.written", "the reply is in it, and not published"),
    ("cast.published", "it is published, and other workers do not know"),
    // The table
    ("put.prepared", "an entry is written, and its bucket not locked"),
    ("put.locked", "its bucket is locked"),
    ("put.linked", "a slot points at it, and the bucket is locked still"),
    ("put.unlocked", "the bucket is unlocked, and the old entry not retired"),
    ("put.chained", "an overflow bucket holds it, and is linked"),
    ("expire.changed", "an entry has its new expiry and version, and the bucket is locked still"),
    ("expire.unlocked", "the bucket is unlocked, and entries with an expiry are not counted anew"),
    ("delete.unlinked", "an entry is out of its slot, and the bucket locked"),
    ("delete.unlocked", "the bucket is unlocked, and the entry not retired"),
    ("retire.listed", "an entry is in the retire list, since somebody may read it"),
    ("retire.looked", "the pins are looked at, and what nobody reads is not freed"),
    ("split.page", "a page is taken for buckets, and not cleared"),
    ("split.locked", "both buckets of a split are locked, and nothing is moved"),
    ("split.filled", "the new one has its entries, and is not counted"),
    ("split.counted", "the new bucket is counted, and the other one has its entries still"),
    ("split.unlocked", "both are unlocked, and spare overflow buckets are not freed"),
    ("shrink.counted", "the last bucket is given up, and locked still"),
    ("flush.emptied", "a bucket is emptied, and locked still"),
    ("flush.unlinked", "buckets are emptied, and their entries not freed"),
    ("evict.unlinked", "an entry is evicted, and its bucket locked still"),
    ("move.closed", "a slab is closed, and what lives in it not moved"),
    ("move.copied", "an entry is copied to another place, and its bucket not locked"),
    ("move.linked", "a slot points at the copy, and the bucket is locked still"),
    ("move.unlocked", "the bucket is unlocked, and the original not retired"),
    ("sweep.unlinked", "entries that have expired are out of their slots, and the bucket is locked"),
    ("pages.taken", "free pages are taken, to be given back to the kernel"),
    ("pages.given", "the kernel has them, and the heap does not know"),
    ("event.begun", "an event's place is announced, and nothing is written"),
    ("event.written", "the event is written and not published"),
    ("event.published", "it is published, and its bucket locked still"),
    ("lease.granted", "a lease is granted, and its owner does not know"),
];

/// Where in the list a point is: known to the compiler, which refuses a name that is not there.
#[must_use]
pub const fn index_of(name: &str) -> usize {
    let mut index = 0;
    while index < POINTS.len() {
        if is_same(POINTS[index].0.as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    panic!("there is no failpoint of that name");
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

/// Marks a step of a protocol, by its name in [`POINTS`].
macro_rules! failpoint {
    ($name:literal) => {{
        const POINT: usize = $crate::failpoint::index_of($name);
        #[cfg(all(feature = "failpoints", not(loom)))]
        $crate::failpoint::pass(POINT);
        #[cfg(not(all(feature = "failpoints", not(loom))))]
        let _ = POINT;
    }};
}

#[cfg(all(feature = "failpoints", not(loom)))]
pub use armed::{Action, arm, pass};

#[cfg(all(feature = "failpoints", not(loom)))]
mod armed {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::POINTS;

    /// Giving way that takes longer than this was taken by somebody who computes.
    const COSTLY: Duration = Duration::from_millis(1);
    /// Passes that do not give way after that: or on a busy machine each step would take a time slice of others.
    const LEFT_ALONE: u32 = 100;

    /// What happens at an armed point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Action {
        /// The process is killed.
        Kill,
        /// It is stopped, until somebody lets it go on.
        Stop,
        /// The thread gives way to others, at this pass and at all that follow, but some after one that was costly.
        Yield,
        /// The thread sleeps for a millisecond, at this pass and at all that follow.
        Sleep,
        /// The thread sleeps for a second, once.
        Doze,
        /// The thread panics, once.
        Panic,
    }

    impl Action {
        /// All of them, with what users call them.
        pub const ALL: [(&str, Self); 6] = [
            ("kill", Self::Kill),
            ("stop", Self::Stop),
            ("yield", Self::Yield),
            ("sleep", Self::Sleep),
            ("doze", Self::Doze),
            ("panic", Self::Panic),
        ];
    }

    /// For each point: 1 + the action's place in [`Action::ALL`], above the passes that are left; 0 if it is not armed.
    static ARMED: [AtomicU64; POINTS.len()] = [const { AtomicU64::new(0) }; POINTS.len()];

    /// Arms a point: whoever passes it for the `nth` time from now on does that; `None` disarms it. Returns whether
    /// there is a point of that name.
    pub fn arm(name: &str, action: Option<Action>, nth: u32) -> bool {
        let code = action.and_then(|action| Action::ALL.iter().position(|&(_, known)| known == action));
        let armed = code.map_or(0, |code| (code as u64 + 1) << 32 | u64::from(nth));
        let Some(index) = POINTS.iter().position(|&(known, _)| known == name) else { return false };
        // Relaxed: what is done at a point depends on nothing else.
        ARMED[index].store(armed, Ordering::Relaxed);
        true
    }

    /// Does what the point is armed with.
    #[inline]
    pub fn pass(index: usize) {
        if ARMED[index].load(Ordering::Relaxed) != 0 {
            pass_armed(&ARMED[index]);
        }
    }

    #[cold]
    fn pass_armed(armed: &AtomicU64) {
        // Relaxed, both: of threads that pass at the same time, one counts to the end.
        let count_down = |word: u64| (word as u32 > 0).then(|| word - 1);
        let before = armed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down).unwrap_or_else(|word| word);
        let Some(&(_, action)) = (before >> 32).checked_sub(1).and_then(|code| Action::ALL.get(code as usize)) else {
            return;
        };
        match (action, before as u32) {
            (_, 2..) => {}
            (Action::Yield, _) => give_way(),
            (Action::Sleep, _) => std::thread::sleep(std::time::Duration::from_millis(1)),
            (Action::Kill, 1) => raise(libc::SIGKILL),
            (Action::Stop, 1) => raise(libc::SIGSTOP),
            (Action::Doze, 1) => std::thread::sleep(std::time::Duration::from_secs(1)),
            (Action::Panic, 1) => panic!("a failpoint says so"),
            // It has happened.
            (Action::Kill | Action::Stop | Action::Doze | Action::Panic, _) => {}
        }
    }

    fn give_way() {
        thread_local! {
            static LEFT: Cell<u32> = const { Cell::new(0) };
        }
        if LEFT.get() > 0 {
            LEFT.set(LEFT.get() - 1);
            return;
        }
        let began = Instant::now();
        std::thread::yield_now();
        if began.elapsed() > COSTLY {
            LEFT.set(LEFT_ALONE);
        }
    }

    fn raise(signal: libc::c_int) {
        #[allow(unsafe_code)]
        // SAFETY: sends a signal to this thread, and touches no memory.
        unsafe {
            libc::raise(signal);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        for (index, (name, place)) in POINTS.iter().enumerate() {
            assert_eq!(index_of(name), index);
            assert!(name.contains('.') && !place.is_empty());
        }
    }
}
