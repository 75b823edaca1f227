//! A store: the table in its segment, and what goes with the table, whoever serves it: leases, watchers, the memory of
//! requests, and what has to be done though nobody asks for it.
//!
//! It knows neither threads nor sockets, nor how many clients there are: that is the [`super::runtime`].

use std::io;

use super::error::{Error, doing};
use super::grants::GrantMemory;
use super::housekeeping::Housekeeping;
use super::leases::Leases;
use super::options::Options;
use super::request_memory::RequestMemory;
use super::returning::Returning;
use super::room::Room;
use super::watchers::Watchers;
use crate::shm::fork::Descriptor;
use crate::shm::random::random;
use crate::shm::segment::{Mapping, Segment};
use crate::sync::Arc;
use crate::table::{self, Table, WriteError};

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
}

impl Store {
    /// A new, empty store.
    ///
    /// # Errors
    /// If the system refuses memory or descriptors, or the buckets to begin with do not fit the memory.
    pub fn create(options: &Options, spin_ns: u64) -> Result<Self, Error> {
        let size = (options.max_memory as usize).next_multiple_of(table::layout::PAGE_WORDS * 8);
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
        let table = Arc::new(table);
        let grants = doing("making the segment of grants", GrantMemory::create())?;
        let returning: io::Result<_> = Returning::new(Arc::clone(&table), segment, size);
        Ok(Self {
            returning: doing("making a doorbell", returning)?,
            table,
            table_read_only,
            max_memory: size as u64,
            housekeeping: Housekeeping::default(),
            room: Room::default(),
            watchers: Watchers::default(),
            leases: Arc::new(Leases::new(grants)),
            requests: RequestMemory::new(size as u64),
        })
    }

    /// The table, to be passed to a client, which may fill holes in it by reading from now on.
    pub fn table_to_pass(&self) -> &Descriptor {
        self.returning.note_reader();
        &self.table_read_only
    }

    /// Ends it: clients see that nothing changes any more, and its threads end.
    pub fn close(&self) {
        self.table.close();
        self.returning.stop();
        self.room.stop();
    }
}
