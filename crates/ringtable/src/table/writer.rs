//! A writer: all that a worker thread needs to change the table.
//!
//! The files behind this one are the changes, each on top of those before it: unlinking needs no room, making room
//! unlinks, and writing a key makes room.
//!
//! # Invariants
//!
//! - Listeners are told of a change while its bucket is still locked: see [`super::change`].
//! - The entry count is changed after the bucket is unlocked: it may lag behind for a moment, even below nothing, and
//!   is exact when all workers rest.

use super::bucket::{BucketGuard, BucketRef, Slot, UNMARKED};
use super::commits::{Announcement, CommitLog};
use super::entry::{Expiry, HEADER_WORDS};
use super::error::WriteError;
use super::events::Start;
use super::heap::Cache;
use super::held::HeldEntry;
use super::sieve::Id;
use super::table::Table;
use crate::sync::{Arc, Memory};

/// What a worker thread needs to change the table.
#[derive(Debug)]
pub struct Writer<M: Memory> {
    pub(super) table: Arc<Table<M>>,
    pub(super) cache: Cache,
    /// Whether this writer has published events since it was last asked.
    pub(super) published: bool,
    /// Whether it has written an entry, or its expiry, since it was last asked.
    pub(super) has_written: bool,
    /// Entries that the sieve has not been told of yet.
    pub(super) arrivals: Vec<Id>,
    /// What is not to be evicted for the write in hand.
    pub(super) sparing: Sparing,
    /// Whether it is clearing pages: what comes free then does not go by way of its own free slots, from which what
    /// moves out of these pages would move in again.
    pub(super) clearing: bool,
    /// Whether the last search for room found none since other workers have it in hand, see [`Self::take_crowded`].
    pub(super) crowded: bool,
    /// What the last write that wanted it has found in its place.
    pub(super) replaced: Option<HeldEntry<M>>,
    /// Where it tells what it is about to commit, if that is to be known after its death.
    pub(super) commits: Option<CommitLog<M>>,
}

/// Tells, if that is wanted, that a slot in the chain of a locked bucket is about to be stored, and with it the entry
/// that the key has then, if any.
#[inline]
pub(super) fn announce<M: Memory>(
    commits: &mut Option<CommitLog<M>>,
    table: &Table<M>,
    guard: &BucketGuard<'_>,
    (bucket, index, slot): (BucketRef<'_>, usize, Slot),
    entry: Option<u64>,
) {
    if let Some(commits) = commits {
        commits.announce(Announcement {
            bucket: table.index_of(guard.bucket),
            version: guard.version + 1,
            word: bucket.start(table.words()) + 1 + index,
            value: slot.0,
            mask: UNMARKED,
            entry: entry.unwrap_or(0),
        });
    }
}

/// The same of an entry's expiry in place.
#[inline]
pub(super) fn announce_expiry<M: Memory>(
    commits: &mut Option<CommitLog<M>>,
    table: &Table<M>,
    guard: &BucketGuard<'_>,
    start: u64,
    expiry: Expiry,
) {
    if let Some(commits) = commits {
        commits.announce(Announcement {
            bucket: table.index_of(guard.bucket),
            version: guard.version + 1,
            word: start as usize + HEADER_WORDS,
            value: expiry.0,
            mask: u64::MAX,
            entry: start,
        });
    }
}

/// What is not to be evicted for the write in hand.
#[derive(Debug, Default)]
pub(super) struct Sparing {
    /// The hash of the key that is written, if it has to be there: or its own write would find it gone.
    pub(super) hash: Option<u64>,
    /// The word at which the new entry begins, or its overflow bucket, which no slot points at yet.
    pub(super) start: Option<u64>,
    /// Pages that are needed besides those for the entry.
    pub(super) pages: usize,
}

impl<M: Memory> Writer<M> {
    /// A writer for one thread.
    pub fn new(table: Arc<Table<M>>) -> Self {
        Self {
            table,
            cache: Cache::default(),
            published: false,
            has_written: false,
            arrivals: Vec::new(),
            sparing: Sparing::default(),
            clearing: false,
            crowded: false,
            replaced: None,
            commits: None,
        }
    }

    /// Tells from now on what it is about to commit, in these words from word `at` on: for whoever comes after its
    /// death ([`super::commits`]).
    pub fn log_commits(&mut self, memory: Arc<M>, at: usize) {
        self.commits = Some(CommitLog::new(memory, at));
    }

    /// Whether it tells that.
    pub fn logs_commits(&self) -> bool {
        self.commits.is_some()
    }

    /// Takes note that a request begins: of what it commits, nothing is committed yet.
    #[inline]
    pub fn begin_request(&mut self) {
        if let Some(commits) = &mut self.commits {
            commits.begin();
        }
    }

    /// Takes note that the request is about to end a permit, which there is.
    pub fn announce_end(&mut self, token: u64) {
        if let Some(commits) = &mut self.commits {
            commits.announce_end(token);
        }
    }

    /// The table it writes.
    pub fn table(&self) -> &Arc<Table<M>> {
        &self.table
    }

    /// Whether a write was refused since the last call that may go well in a moment: for want of memory, while other
    /// workers had in hand what is there to be had. They were making room, too, or held free slots back.
    #[inline]
    pub fn take_crowded(&mut self) -> bool {
        std::mem::take(&mut self.crowded)
    }

    /// Whether watchers were told of anything since the last call, and may have to be woken.
    #[inline]
    pub fn take_published(&mut self) -> bool {
        std::mem::take(&mut self.published)
    }

    /// Whether an entry was written, or its expiry, since the last call; not, if all writes were refused.
    #[inline]
    pub fn take_written(&mut self) -> bool {
        std::mem::take(&mut self.has_written)
    }

    /// The entry that the last write has found, if that wanted it ([`super::Manner::wants_old`]) and there was one.
    #[inline]
    pub fn take_replaced(&mut self) -> Option<HeldEntry<M>> {
        self.replaced.take()
    }

    /// Counts a watcher, and says where in the ring of events it begins. Undone by
    /// [`super::events::Broadcast::unwatch`].
    ///
    /// # Errors
    /// [`WriteError::OutOfMemory`] if there is no room for the ring, which the first watcher needs.
    pub fn watch(&mut self) -> Result<Start, WriteError> {
        let table = Arc::clone(&self.table);
        let allocate = |words| table.heap.allocate_events(table.words(), words);
        table.events().watch(table.words(), allocate).map_err(WriteError::OutOfMemory)
    }
}
