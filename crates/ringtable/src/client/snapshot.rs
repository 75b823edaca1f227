//! Snapshots: all entries of the table into a file.
//!
//! # Design
//!
//! The caller's process does it, and not the server: it goes over the table in place, bucket by bucket, as readers do,
//! and writes what it finds to a file of its own. So nobody waits for it, nothing is copied but what is about to be
//! written, and who may read the table may have it, in a file that is theirs. A value of more than
//! [`limits::SNAPSHOT_COPIED_MAX`] bytes is not copied: it is written from where it is, as a view. Where there is no
//! shared memory, and where writers get in the way too often, the server is asked.
//!
//! # Invariants
//!
//! - Each entry is as it was at one moment between the beginning and the end. A key that is there all the while is in
//!   the file once; none is in it twice.
//!
//! # Not promised
//!
//! The file as a whole is of no single moment.

use std::io;
use std::path::Path;

use super::blocking::BlockingLink;
use super::connection::Connection;
use super::error::Error;
use super::handle::Client;
use super::numbers::NUMBERS;
use super::options::Reads;
use super::patience::Patience;
use super::replies::unexpected;
use super::validate::check_key;
use crate::command::reply::Reply;
use crate::disk;
use crate::disk::rdb::{Encoder, Entry};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::{Expiry, Pair, Pairs, Want};

/// How far a call has come that takes its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries that are done.
    pub entries: u64,
    /// About how many there are, if that is known.
    pub of: u64,
    /// Bytes of the file.
    pub size: u64,
}

impl Client {
    /// Writes all entries whose keys begin with `prefix` to a file in the format of Redis (RDB), which takes the place
    /// of one that is there once it is whole. `told` hears now and then how far it has come, and says whether to go on.
    /// Returns what was written.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Lapsed`] if another server has followed with another table; those of the connection.
    /// Then the old file is there still.
    pub fn snapshot(
        &self,
        path: &Path,
        prefix: &[u8],
        mut told: impl FnMut(Progress) -> bool,
        mut patience: Patience<'_>,
    ) -> Result<Progress, Error> {
        patience.start();
        check_key(prefix)?;
        let entries = self.entries(patience)?;
        let server = self.server_id();
        let system = |error| disk::Error::System { doing: "writing", path: path.to_owned(), error };
        let file = disk::Replacement::begin(path)?;
        let mut encoder = Encoder::begin(file, entries, 0).map_err(system)?;
        let mut progress = Progress { entries: 0, of: entries, size: 0 };
        let (mut pairs, mut cursor) = (Pairs::default(), 0);
        loop {
            patience.check()?;
            pairs.clear();
            let connection = self.connection(patience)?;
            if self.server_id() != server {
                return Err(Error::Lapsed);
            }
            cursor = self.gather(connection, cursor, prefix, &mut pairs, patience)?;
            for pair in pairs.iter().filter(|pair| pair.key.starts_with(prefix)) {
                if pair.value.len() == pair.value_size {
                    encoder.entry(&Entry::of(&pair)).map_err(system)?;
                    progress.entries += 1;
                } else {
                    progress.entries += u64::from(self.write_large(pair.key, &mut encoder, &system, patience)?);
                }
            }
            progress.size = encoder.size();
            if !told(progress) {
                return Err(Error::Interrupted);
            }
            if cursor == 0 {
                break;
            }
        }
        let (size, file) = encoder.finish().map_err(system)?;
        file.commit()?;
        progress.size = size;
        Ok(progress)
    }

    /// The next entries of a walk over the table: large values are left out.
    fn gather(
        &self,
        connection: &Connection,
        cursor: u64,
        prefix: &[u8],
        pairs: &mut Pairs,
        patience: Patience<'_>,
    ) -> Result<u64, Error> {
        if let Some(reader) = connection.reader.as_ref().filter(|_| self.options.reads == Reads::Direct) {
            let (mut next, mut steps) = (cursor, 0);
            let want = Want::SmallValues(limits::SNAPSHOT_COPIED_MAX);
            while let Ok(following) = reader.scan(next, want, wall_ms, pairs) {
                (next, steps) = (following, steps + 1);
                if next == 0 || pairs.size() >= limits::SNAPSHOT_STEP_SIZE || steps >= limits::WALK_STEPS_MAX {
                    break;
                }
            }
            // A bucket too contended to read in place is left to the server, at the next step or right now.
            if steps > 0 {
                return Ok(next);
            }
        }
        let (next, keys) = self.scan_at_server(cursor, prefix, patience)?;
        let most = limits::SNAPSHOT_COPIED_MAX.to_string();
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| {
            link.push(NUMBERS.ring_entry, &[&keys[index], most.as_bytes()], patience)
        };
        self.pipeline(keys.len(), request, patience, |index, reply| {
            // What was deleted since its key was read is not there any more.
            let Some(FoundEntry { value, value_size, expiry, is_unevictable }) = entry_of(reply)? else {
                return Ok(());
            };
            let pair = Pair { key: &keys[index], value: &value, value_size, expiry, is_unevictable };
            pairs.push_pair(pair).ok_or(Error::NoRoom(value_size))
        })?;
        Ok(next)
    }

    /// Writes an entry whose value is large. Returns whether there is one still.
    fn write_large<W: io::Write>(
        &self,
        key: &[u8],
        encoder: &mut Encoder<W>,
        system: &impl Fn(io::Error) -> disk::Error,
        patience: Patience<'_>,
    ) -> Result<bool, Error> {
        if self.reads_in_place() {
            let Some(view) = self.view(key, true, patience)? else { return Ok(false) };
            if let Some(found) = view.found() {
                let (expiry, is_unevictable) = (found.expiry, found.is_unevictable);
                let entry = Entry { key, value: view.bytes()?, expiry, is_unevictable };
                encoder.entry(&entry).map_err(system)?;
                return Ok(true);
            }
        }
        let Some(found) = entry_of(self.request(NUMBERS.ring_entry, &[key], patience)?)? else { return Ok(false) };
        let FoundEntry { value, expiry, is_unevictable, .. } = found;
        encoder.entry(&Entry { key, value: &value, expiry, is_unevictable }).map_err(system)?;
        Ok(true)
    }
}

/// What the server has answered of an entry. The value is empty if it was too large.
struct FoundEntry {
    value: Vec<u8>,
    value_size: usize,
    expiry: Option<Expiry>,
    is_unevictable: bool,
}

/// The answer to `RING.ENTRY`; `None` if there is no such key.
fn entry_of(reply: Reply) -> Result<Option<FoundEntry>, Error> {
    let parts = match reply {
        Reply::Nil => return Ok(None),
        Reply::Array(parts) => parts,
        other => return Err(unexpected(other)),
    };
    let Ok([value, expiry, mark]) = <[Reply; 3]>::try_from(parts) else {
        return Err(Error::Protocol("an entry that has not three parts".into()));
    };
    let (value, value_size) = match value {
        Reply::Integer(size) => (Vec::new(), size as usize),
        Reply::Bulk(value) => {
            let size = value.len();
            (value, size)
        }
        other => return Err(unexpected(other)),
    };
    let (Reply::Integer(at_ms), Reply::Integer(mark)) = (expiry, mark) else {
        return Err(Error::Protocol("an entry without a time and a mark".into()));
    };
    let expiry = u64::try_from(at_ms).ok().map(Expiry);
    Ok(Some(FoundEntry { value, value_size, expiry, is_unevictable: mark != 0 }))
}
