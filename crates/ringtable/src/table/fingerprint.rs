//! A number that tells one layout of the segment from another.
//!
//! It is computed from the constants of layout, buckets, entries and events, so that a change of layout cannot be
//! forgotten to be announced: a reader attaches only to a segment that has the same one.

use super::layout::{
    BUCKET_WORDS, COPY_WORDS, H_BUCKETS, H_BUCKETS_MIN, H_BUCKETS_SEALED, H_CLOSED, H_ENTRIES, H_EVENTS,
    H_FIRST_VERSION, H_HINTS, H_ID, H_WORKER_STATES, HASH_RAPID_V3_PROTECTED, LAYOUT_VERSION, PAGE_WORDS, STRIDE,
};
use super::{bucket, entry, events};

/// A number that changes whenever anything about the layout does (FNV-1a over its constants).
pub const FINGERPRINT: u64 = {
    let facts = [
        LAYOUT_VERSION,
        HASH_RAPID_V3_PROTECTED,
        STRIDE as u64,
        PAGE_WORDS as u64,
        BUCKET_WORDS as u64,
        H_EVENTS as u64,
        H_HINTS as u64,
        H_ID as u64,
        H_FIRST_VERSION as u64,
        H_BUCKETS_MIN as u64,
        H_BUCKETS_SEALED as u64,
        COPY_WORDS as u64,
        bucket::AT_BITS as u64,
        H_BUCKETS as u64,
        H_ENTRIES as u64,
        H_CLOSED as u64,
        H_WORKER_STATES as u64,
        bucket::LINK_TAG,
        entry::HEADER_WORDS as u64,
        entry::FLAG_EXPIRY,
        entry::ALIGNED_VALUE_SIZE as u64,
        events::RECORD_HEADER_WORDS as u64,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut index = 0;
    while index < facts.len() {
        hash = (hash ^ facts[index]).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
};
