//! A store: the table in its segment, and what goes with the table, whoever serves it: leases, watchers, the memory of
//! requests, and what has to be done though nobody asks for it.
//!
//! It knows neither threads nor sockets, nor how many clients there are: that is the [`super::runtime`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::bookkeeping;
use super::error::{Error, doing};
use super::grants::GrantMemory;
use super::held::Held;
use super::housekeeping::Housekeeping;
use super::leases::Leases;
use super::moving;
use super::options::Options;
use super::persistence::Persistence;
use super::request_memory::RequestMemory;
use super::returning::Returning;
use super::room::Room;
use super::watchers::Watchers;
use crate::shm::fork::Descriptor;
use crate::shm::random::random;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::{Arc, AtomicU64, Memory};
use crate::table::{self, Report, Table, WriteError};

/// Gives something to whoever holds what outlives this server.
pub(super) type Hold<'a> = &'a dyn Fn(Held, BorrowedFd<'_>) -> io::Result<()>;

/// What is being done when that fails.
pub(super) const HANDING: &str = "handing over to the keeper what outlives the server";

/// What was found of another server's store.
pub(super) struct Adoption {
    pub report: Report,
    /// Grants that were damaged, and are lost.
    pub grants_damaged: usize,
}

/// The table and what goes with it.
pub(super) struct Store {
    pub table: Arc<Table<Mapping>>,
    /// The table as clients get it.
    table_read_only: Descriptor,
    /// Bytes of the segment.
    pub max_memory: u64,
    pub housekeeping: Housekeeping,
    pub returning: Returning,
    pub room: Room,
    /// Clients to wake when there are events.
    pub watchers: Watchers,
    pub leases: Arc<Leases>,
    pub requests: RequestMemory,
    /// The table on the disk.
    pub persistence: Persistence,
}

impl Store {
    /// Bytes of the table's segment.
    fn size(options: &Options) -> usize {
        (options.max_memory as usize).next_multiple_of(table::layout::PAGE_WORDS * 8)
    }

    /// A new, empty store; `hold` is given what outlives this server.
    ///
    /// # Errors
    /// If the system refuses memory or descriptors, or the buckets to begin with do not fit the memory; those of
    /// `hold`.
    pub fn create(options: &Options, spin_ns: u64, hold: Hold<'_>) -> Result<Self, Error> {
        let size = Self::size(options);
        let segment = doing("making the table segment", Segment::create("ringtable-table", size))?;
        let mapping = doing("mapping the table segment", segment.map_writable())?;
        doing("sealing the table segment", segment.seal(options.strict_seal))?;
        let table_read_only = doing("opening the table segment read-only", segment.read_only())?;
        let table = table::Options {
            buckets: options.buckets,
            // Nobody can guess it. Without any, keys could be chosen to fall into one bucket.
            seed: random(),
            workers: options.workers,
            spin_ns,
            eviction: options.eviction,
        };
        let mut table = Table::create(mapping, &table).map_err(|error| Error::NoRoom {
            buckets: options.buckets,
            needed: if let WriteError::OutOfMemory(size) = error { size } else { 0 },
            max_memory: options.max_memory,
        })?;
        // Below 2^63: replies have signed integers.
        table.name(random() >> 1 | 1);
        if let Some(bytes) = options.unevictable_max {
            table.unevictable().limit(bytes);
        }
        let (grants, grants_segment) = doing("making the segment of grants", GrantMemory::create())?;
        doing(HANDING, hold(Held::Table, segment.descriptor().as_fd()))?;
        doing(HANDING, hold(Held::Grants, grants_segment.descriptor().as_fd()))?;
        Self::with(options, table, segment, table_read_only, Leases::new(grants))
    }

    /// The store of another server, which has ended, of its segments, and of the table's bookkeeping if it has left
    /// that. `pinned` are the words that its clients pin; `look` sees the table as it was left, before anything of it
    /// is repaired. Returns also what was found.
    ///
    /// # Errors
    /// If the system refuses memory or descriptors, or a segment is none of this version's, or damaged as a whole.
    pub fn adopt(
        options: &Options,
        (table, bookkeeping): (Descriptor, Option<Descriptor>),
        grants: Descriptor,
        pinned: &[u64],
        look: impl FnOnce(&[AtomicU64]),
    ) -> Result<(Self, Adoption), Error> {
        let segment = doing("taking the table's segment over", Segment::from_foreign(table))?;
        if segment.size() != Self::size(options) {
            let words = format!("max_memory is {}, and the table has {} bytes", options.max_memory, segment.size());
            return doing("taking over a table", Err(io::Error::other(words)));
        }
        let mapping = doing("mapping the table segment", segment.map_writable())?;
        let table_read_only = doing("opening the table segment read-only", segment.read_only())?;
        look(mapping.words());
        let saved = bookkeeping.map_or(Ok(Vec::new()), bookkeeping::take);
        let saved = doing("taking the table's bookkeeping over", saved)?;
        let (table, report) = match Table::go_on(mapping, options.eviction, &saved) {
            Ok(table) => (table, Report::default()),
            Err(mapping) => {
                let adopted = Table::adopt(mapping, options.eviction, pinned).map_err(io::Error::other);
                doing("taking the table over", adopted)?
            }
        };
        if let Some(bytes) = options.unevictable_max {
            table.unevictable().limit(bytes);
        }
        let grants = Segment::from_foreign(grants).and_then(|segment| segment.map_writable());
        let grants = doing("mapping the segment of grants", grants)?;
        let grants = GrantMemory::adopt(grants).map_err(io::Error::other);
        let (leases, grants_damaged) = Leases::adopt(doing("taking the segment of grants over", grants)?);
        let store = Self::with(options, table, segment, table_read_only, leases)?;
        store.persistence.go_on(&store.table)?;
        Ok((store, Adoption { report, grants_damaged }))
    }

    fn with(
        options: &Options,
        table: Table<Mapping>,
        segment: Segment,
        table_read_only: Descriptor,
        leases: Leases,
    ) -> Result<Self, Error> {
        let (table, size) = (Arc::new(table), segment.size());
        let returning: io::Result<_> = Returning::new(Arc::clone(&table), segment, size);
        Ok(Self {
            returning: doing("making a doorbell", returning)?,
            table,
            table_read_only,
            max_memory: size as u64,
            housekeeping: Housekeeping::default(),
            room: Room::default(),
            watchers: Watchers::default(),
            leases: Arc::new(leases),
            requests: RequestMemory::new(size as u64),
            persistence: Persistence::new(options)?,
        })
    }

    /// Fills a new table with what is on the disk, unless it is interrupted.
    ///
    /// # Errors
    /// As [`Persistence::load`].
    pub fn load(&self, is_interrupted: &dyn Fn() -> bool) -> Result<(), Error> {
        self.persistence.load(&self.table, is_interrupted)
    }

    /// Fills a new table with the entries of a server of another layout, and has its changes logged from then on, if
    /// they are to be.
    ///
    /// # Errors
    /// As [`moving::fill`]; those of the disk.
    pub fn move_in(&self, entries: &Descriptor, is_interrupted: &dyn Fn() -> bool) -> Result<(), Error> {
        moving::fill(&self.table, entries, is_interrupted)?;
        self.persistence.go_on(&self.table)
    }

    /// The table, to be passed to a client, which may fill holes in it by reading from now on.
    pub fn table_to_pass(&self) -> &Descriptor {
        self.returning.note_reader();
        &self.table_read_only
    }

    /// Ends its threads.
    pub fn stop(&self) {
        self.returning.stop();
        self.room.stop();
        self.persistence.stop();
    }
}
