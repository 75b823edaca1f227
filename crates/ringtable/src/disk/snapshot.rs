//! A snapshot by the server: a walk over its table, whose entries go to a file.
//!
//! Each entry is as it was at one moment, while others write: see `docs/design-disk.md`. Nothing is copied but what is
//! about to be written, and nobody waits.

use std::io::{self, Write};

use super::rdb::{Encoder, Entry};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::sync::{Arc, Memory};
use crate::table::{HeldEntry, Pairs, Table, Want};

/// What was written of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many entries.
    pub entries: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// Writes all entries of a table, and gives back what they were written to. `goes_on` says now and then whether to go
/// on; `None` if not.
///
/// # Errors
/// Those of `to`.
pub fn write_table<M: Memory, W: Write>(
    table: &Arc<Table<M>>,
    to: W,
    mut goes_on: impl FnMut() -> bool,
) -> io::Result<Option<(Written, W)>> {
    let mut encoder = Encoder::begin(to, table.entries(), 0)?;
    let (mut pairs, mut cursor, mut entries) = (Pairs::default(), 0, 0);
    let want = Want::SmallValues(limits::SNAPSHOT_COPIED_MAX);
    loop {
        pairs.clear();
        for _ in 0..limits::WALK_STEPS_MAX {
            cursor = table.scan(cursor, want, wall_ms, &mut pairs);
            if cursor == 0 || pairs.size() >= limits::SNAPSHOT_STEP_SIZE {
                break;
            }
        }
        for pair in pairs.iter() {
            if pair.value.len() == pair.value_size {
                encoder.entry(&Entry::of(&pair))?;
            } else if let Some(held) = HeldEntry::of(table, pair.key, wall_ms) {
                let found = held.found();
                let (expiry, is_unevictable) = (found.expiry, found.is_unevictable);
                encoder.entry(&Entry { key: pair.key, value: held.bytes(), expiry, is_unevictable })?;
            } else {
                // It has gone since.
                continue;
            }
            entries += 1;
        }
        if cursor == 0 {
            break;
        }
        if !goes_on() {
            return Ok(None);
        }
    }
    let (size, to) = encoder.finish()?;
    Ok(Some((Written { entries, size }, to)))
}
