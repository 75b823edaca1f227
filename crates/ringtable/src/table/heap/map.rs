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
//! The kind is 1 and the number of the size class for a slab, [`EXTENT`] or [`EVENTS`]. The seal is computed from the
//! rest and from the page's number: so a word that was damaged, or has come to another place, is told from others.
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

/// The kind of an extent.
const EXTENT: u64 = 254;
/// The kind of the ring of events.
const EVENTS: u64 = 255;
const SEAL_SHIFT: u32 = 48;

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
    let word = kind | u64::from(pages) << 8;
    word | seal(first, word) << SEAL_SHIFT
}

fn unpack(first: u32, word: u64) -> Option<(Run, u32)> {
    let plain = word & ((1 << SEAL_SHIFT) - 1);
    let run = match plain & 0xff {
        EXTENT => Run::Extent,
        EVENTS => Run::Events,
        kind => Run::Slab((kind as usize).checked_sub(1).filter(|&class| class < CLASSES)?),
    };
    let pages = u32::try_from(plain >> 8).ok().filter(|&pages| pages > 0)?;
    (word >> SEAL_SHIFT == seal(first, plain)).then_some((run, pages))
}

/// Sixteen bits of the product with an odd constant (the golden ratio's), of what was mixed with the page's number.
fn seal(first: u32, word: u64) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    ((word ^ u64::from(first) << 32).wrapping_mul(MULTIPLIER) ^ word).wrapping_mul(MULTIPLIER) >> SEAL_SHIFT
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_only_where_they_belong() {
        let runs = [(Run::Slab(0), 1), (Run::Slab(CLASSES - 1), 16), (Run::Extent, 8_193), (Run::Events, 257)];
        for (run, pages) in runs {
            for first in [0, 1, 77, 16_383, 1 << 27] {
                let word = pack(first, run, pages);
                assert_eq!(unpack(first, word), Some((run, pages)));
                assert_eq!(unpack(first + 1, word), None);
            }
        }
    }

    #[test]
    fn a_bit_that_has_flipped_is_noticed() {
        for first in (0..100_000_u32).step_by(997) {
            let word = pack(first, Run::Slab(first as usize % CLASSES), 1 + first % 16);
            let unnoticed = (0..64).filter(|bit| unpack(first, word ^ 1 << bit).is_some()).count();
            assert_eq!(unnoticed, 0, "{first} {word:#x}");
        }
    }
}
