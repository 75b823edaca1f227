//! The page map: which pages of the segment are slabs and extents, in the segment itself.
//!
//! # Design
//!
//! Whoever takes a table over has to know where the slab of a slot begins, and how large its slots are; all else of the
//! heap follows from what the slots of buckets point at ([`super::rebuild`]). So there is a word for each page, behind
//! all pages that can be used. It is 0, or says what begins at that page.
//!
//! ```text
//! bit 63   48 47                 8 7        0
//!     +------+--------------------+----------+
//!     | seal | pages              | kind     |
//!     +------+--------------------+----------+
//! ```
//!
//! The kind is 1 and the number of the size class for a slab, [`EXTENT`] or [`EVENTS`]. The seal
//! ([`crate::table::seal`]) is computed from the rest and from the page's number.
//!
//! # Invariants
//!
//! - A slab or extent is in the map before the first slot of a bucket points into it, and until the last one that did
//!   does no more.
//! - What the map names does not overlap. The words of all other pages are 0.
//! - Only the holder of the heap's lock writes, and nobody reads the map before the writer is dead.

use super::classes::CLASSES;
use crate::sync::{AtomicU64, Ordering};
use crate::table::layout::{PAGE_WORDS, page_map_start};
use crate::table::seal::{seal, unseal};

/// The kind of an extent.
const EXTENT: u64 = 254;
/// The kind of the ring of events.
const EVENTS: u64 = 255;

const _: () = assert!(CLASSES < EXTENT as usize, "each class has a kind");

/// What begins at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Slots of that size class.
    Slab(usize),
    /// One entry.
    Extent,
    /// The ring of events.
    Events,
}

/// The map of a segment.
#[derive(Clone, Copy)]
pub(super) struct PageMap<'a>(&'a [AtomicU64]);

impl<'a> PageMap<'a> {
    pub(super) fn of(segment: &'a [AtomicU64]) -> Self {
        Self(&segment[page_map_start(segment.len())..][..segment.len() / PAGE_WORDS])
    }

    /// Takes note of what begins at a page, and of how many pages it has.
    ///
    /// Relaxed: a slot points into it behind a Release only (`BucketRef::set_slot`), and a process that dies has done
    /// all its stores up to one.
    pub(super) fn set(self, first: u32, run: Run, pages: u32) {
        self.0[first as usize].store(pack(first, run, pages), Ordering::Relaxed);
    }

    /// Takes note that nothing begins there any more. Relaxed: as above; the slots that pointed there were emptied.
    pub(super) fn clear(self, first: u32) {
        self.0[first as usize].store(0, Ordering::Relaxed);
    }

    /// What begins at a page, and how many pages it has; `None` if nothing does.
    ///
    /// # Errors
    /// If the word is damaged.
    pub(super) fn get(self, first: u32) -> Result<Option<(Run, u32)>, Damaged> {
        // Relaxed: its writer is dead.
        match self.0[first as usize].load(Ordering::Relaxed) {
            0 => Ok(None),
            word => unpack(first, word).map(Some).ok_or(Damaged),
        }
    }
}

/// A word of the map is none that a heap has written there.
#[derive(Debug)]
pub(super) struct Damaged;

fn pack(first: u32, run: Run, pages: u32) -> u64 {
    let kind = match run {
        Run::Slab(class) => class as u64 + 1,
        Run::Extent => EXTENT,
        Run::Events => EVENTS,
    };
    seal(kind | u64::from(pages) << 8, u64::from(first))
}

fn unpack(first: u32, word: u64) -> Option<(Run, u32)> {
    let plain = unseal(word, u64::from(first))?;
    let run = match plain & 0xff {
        EXTENT => Run::Extent,
        EVENTS => Run::Events,
        kind => Run::Slab((kind as usize).checked_sub(1).filter(|&class| class < CLASSES)?),
    };
    u32::try_from(plain >> 8).ok().filter(|&pages| pages > 0).map(|pages| (run, pages))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        let runs = [(Run::Slab(0), 1), (Run::Slab(CLASSES - 1), 16), (Run::Extent, 8_193), (Run::Events, 257)];
        for (run, pages) in runs {
            for first in [0, 1, 77, 16_383, 1 << 27] {
                assert_eq!(unpack(first, pack(first, run, pages)), Some((run, pages)));
            }
        }
        assert_eq!(unpack(7, seal(0, 7)), None);
    }
}
