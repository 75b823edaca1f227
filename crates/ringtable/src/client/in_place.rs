//! The table, as a client reads it in place: mapped read-only, looked up without asking anybody.

use std::sync::Arc;

use super::error::{Error, system};
use super::patience::Patience;
use crate::shm::clock::wall_ms;
use crate::shm::fork::Descriptor;
use crate::shm::segment::{Mapping, Segment};
use crate::table::lookup::{Found, Sink};
use crate::table::{Lookup, Reader};

/// The table, as clients read it.
pub(super) type TableReader = Reader<Arc<Mapping>>;

/// Maps the table that the server has passed.
pub(super) fn attach(table: Descriptor) -> Result<TableReader, Error> {
    let segment = system("taking the table segment", Segment::from_foreign(table))?;
    let mapping = system("mapping the table segment", segment.map_read_only())?;
    Reader::attach(Arc::new(mapping)).map_err(|error| Error::Version(error.to_string()))
}

/// What a lookup in place says; outer `None` if the server has to be asked.
#[inline]
pub(super) fn found(lookup: Lookup) -> Result<Option<Option<Found>>, Error> {
    match lookup {
        Lookup::Hit(found) => Ok(Some(Some(found))),
        Lookup::Miss | Lookup::Expired => Ok(Some(None)),
        Lookup::NoRoom(size) => Err(Error::NoRoom(size)),
        Lookup::Contended => Ok(None),
    }
}

/// Looks up many keys in place, with their cache misses overlapping. `contended` looks up those that stay contended, or
/// says `None`: then nothing more is looked up. Returns whether all were.
pub(super) fn overlapped<S: Sink>(
    reader: &TableReader,
    keys: &[&[u8]],
    sink: &mut S,
    contended: impl Fn(&[u8], &mut S) -> Result<Option<bool>, Error>,
    mut each: impl FnMut(usize, bool, &mut S),
    mut patience: Patience<'_>,
) -> Result<bool, Error> {
    /// Lookups under way at a time: about as many cache misses as a core keeps in flight.
    const OVERLAP: usize = 16;
    /// Groups of so many between two looks at the patience: some milliseconds.
    const GROUPS_PER_CHECK: usize = 1_024;
    let mut hashes = [0; OVERLAP];
    for (group, keys) in keys.chunks(OVERLAP).enumerate() {
        if (group + 1).is_multiple_of(GROUPS_PER_CHECK) {
            patience.check()?;
        }
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = reader.hash(key);
            reader.prefetch_bucket(*hash);
        }
        hashes[..keys.len()].iter().for_each(|&hash| reader.prefetch_entry(hash));
        for (place, (&hash, key)) in hashes.iter().zip(keys).enumerate() {
            let hit = match reader.get_hashed(hash, key, wall_ms, sink) {
                Lookup::Hit(_) => true,
                Lookup::Miss | Lookup::Expired => false,
                Lookup::NoRoom(size) => return Err(Error::NoRoom(size)),
                Lookup::Contended => match contended(key, sink)? {
                    Some(hit) => hit,
                    None => return Ok(false),
                },
            };
            each(group * OVERLAP + place, hit, sink);
        }
    }
    Ok(true)
}
