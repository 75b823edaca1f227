//! The bookkeeping of a table, on its way from a server that has ended in order to the next one: a segment of its own.

use std::io;

use crate::shm::fork::Descriptor;
use crate::shm::segment::Segment;
use crate::sync::{Memory, Ordering};

/// Puts it into a segment.
///
/// # Errors
/// Those of the system.
pub(super) fn leave(words: &[u64]) -> io::Result<Segment> {
    let segment = Segment::create("ringtable-bookkeeping", (words.len() * 8).next_multiple_of(4_096))?;
    let mapping = segment.map_writable()?;
    // Relaxed: it is read by another process, which is told of it later.
    mapping.words().iter().zip(words).for_each(|(to, &word)| to.store(word, Ordering::Relaxed));
    Ok(segment)
}

/// Takes it out of a segment, which has nothing then: it is right once.
///
/// # Errors
/// Those of the system.
pub(super) fn take(segment: Descriptor) -> io::Result<Vec<u64>> {
    let segment = Segment::from_foreign(segment)?;
    // Relaxed: its writer has ended.
    let words = segment.map_writable()?.words().iter().map(|word| word.load(Ordering::Relaxed)).collect();
    segment.punch(0, segment.size() as u64)?;
    Ok(words)
}
