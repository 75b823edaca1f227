//! A table on its way to a server that cannot go on with its memory, since that has another layout.
//!
//! # Design
//!
//! The old server [resigns](super::resignation). When all its threads have ended it writes what it has into a file in
//! memory, in the format of its snapshots, which no layout changes. The new server fills a table of its own from that.
//! Until it has, nothing is taken from the old one: if it cannot, a server of the old program goes on as behind a
//! death. Then it closes the old table, so that who reads that in place looks for another one, and serves. The keeper
//! tells the clients of the old lanes to join again: all that was executed is answered, and what was not counts as not
//! sent.
//!
//! # Invariants
//!
//! - A client whose request is neither answered nor untouched is sent away before the entries are written: it is told
//!   that its request may have been done.
//!
//! # Not promised
//!
//! Leases, locks, permits, watches and views end with their connection. Versions begin anew, above those that there
//! were. The old table, the file and the new table take memory at the same time.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use super::error::{Error, doing};
use super::restoring::Restoring;
use crate::disk::{DiskFile, survey, write_table};
use crate::shm::fork::Descriptor;
use crate::shm::segment::Mapping;
use crate::sync::Arc;
use crate::table::Table;
use crate::table::layout::H_CLOSED;

/// Writes all entries of a table that nobody changes into a file in memory.
///
/// # Errors
/// If the system has no memory for it.
pub(super) fn leave(table: &Arc<Table<Mapping>>) -> io::Result<DiskFile> {
    let file = DiskFile::in_memory("ringtable-entries")?;
    match write_table(table, file, || true)? {
        Some((_, file)) => Ok(file),
        None => Err(io::Error::other("it was broken off")),
    }
}

/// Fills a new table with what was left.
///
/// # Errors
/// [`Error::Unloadable`] if the table has no room for it; [`Error::Interrupted`]; what is damaged.
pub(super) fn fill(
    table: &Arc<Table<Mapping>>,
    left: &Descriptor,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", left.as_fd().as_raw_fd()));
    let contents = survey(&path, |_| !is_interrupted())?.ok_or(Error::Interrupted)?;
    let mut restoring = Restoring::begin(table, contents.entries, is_interrupted);
    restoring.load(&path, true)?;
    restoring.finish(&path).map(drop)
}

/// Tells readers of the table that was left, whose layout is not ours, to look for another one. The word for that
/// stays where it is in all layouts.
///
/// # Errors
/// Those of the system.
pub(super) fn close(table: &Descriptor) -> Result<(), Error> {
    let written = rustix::io::pwrite(table, &1_u64.to_ne_bytes(), 8 * H_CLOSED as u64);
    doing("closing the table that was left", written.map(drop).map_err(Into::into))
}
