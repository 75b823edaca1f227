//! Memory for entries and overflow buckets: size classes in slabs of whole pages, extents above that.
//!
//! # Design
//!
//! The segment behind the header is one range of 64 KiB pages. The bucket array takes pages from the low end, one after
//! the other; slabs and extents take runs of pages from the high end. A slab serves one size class; free slots of a
//! slab form a list through their own first words, and slots never used yet are counted, so fresh pages stay untouched
//! until needed. Each worker has a [`Cache`] of free slots per class, refilled and emptied in batches, so that the one
//! lock here is taken once in [`BATCH`] operations.
//!
//! Where memory is free but in the wrong places, pages are cleared ([`clearing`]). Free pages that nobody needs for a
//! while go back to the kernel ([`returning`]).
//!
//! # Invariants
//!
//! - A page belongs to the bucket array, to one slab, to one extent, or to one free run.
//! - The lists and the page map ([`map`]) live in memory that only the server can write (I2); all other bookkeeping is
//!   private to it. All of it but the map can be built anew from what the buckets point at ([`rebuild`]),
//!   or left to another server in words ([`saved`]).
//! - Memory is filled only behind a fence(Release) that comes after the unlocking that made it unreachable: a reader
//!   that still copies the old contents, and sees any of the new, also sees the bucket's new version.
//!
//! # Not promised
//!
//! Memory that all workers together hold in their caches (at most 64 KiB per class and worker) is not lent to others,
//! so a table may be found full that much too early. An entry that is read in place for long, on a low page, can keep
//! the bucket array from growing, which makes chains longer and nothing else.

mod classes;
mod map;
mod cache;
mod gaps;
mod pages;
mod slabs;
mod allocator;
mod census;
mod clearing;
mod returning;
mod emptying;
mod rebuild;
mod saved;

#[cfg(all(test, not(loom)))]
mod tests;

pub use allocator::Heap;
pub use cache::Cache;
pub use census::Usage;
pub use classes::{BATCH, CLASS_WORDS_MAX, CLASSES, kind_of, taken_words};
pub use clearing::Clearing;
pub use rebuild::{Place, Rebuild, Refusal};
