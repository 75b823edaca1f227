//! Walking over all keys, a bucket at a time, while the table grows and shrinks.
//!
//! # Design
//!
//! A walk goes over hashes, not over buckets: over the bits of a hash that may ever choose its bucket, in an order in
//! which every bucket is one piece without a gap, however many buckets there are. The order's numbers are *positions*.
//! With a position one can go on at any time: the bucket that it lies in now is read, and the walk goes on behind it.
//!
//! ```text
//! hash      | … | higher bits, 31 - level | lowest bits, level |
//! position      | lowest bits | higher bits, the last one first |
//! ```
//!
//! A bucket is given by the lowest bits of a hash, one more for each time that the table has doubled: so the higher
//! bits have to be reversed. The lowest ones need not be, up to the level that the table had when the walk began; as
//! they are, the walk goes through the bucket array from its front to its back.
//!
//! # Invariants
//!
//! - A key that is there during the whole walk is given exactly once: where its hash lies does not change, and each
//!   position is passed once.
//! - A step reads one bucket, whatever the cursor, also one that no walk has come to.
//!
//! Source of the reversed order: P. Noordhuis, `dictScan` of Redis, 2012.

use std::ops::Range;

use super::layout::{address, load_buckets};
use super::pairs::{Contended, Pairs};
use crate::limits;
use crate::sync::AtomicU64;

/// Bits of a hash that may choose its bucket.
const BITS: u32 = limits::BUCKETS_MAX.ilog2();
const END: u64 = 1 << BITS;

/// How far a walk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Walk {
    /// How many of the lowest bits of a hash come first in a position.
    level: u32,
    /// The next position.
    next: u64,
}

/// The bucket that a position lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    bucket: u64,
    /// From the position to the end of the bucket, or to the end of what lies in a row of it.
    positions: Range<u64>,
    /// Whether these are all that the bucket has.
    is_whole: bool,
}

impl Walk {
    /// One that begins in a table of so many buckets.
    fn new(buckets: u64) -> Self {
        Self { level: buckets.ilog2().min(BITS), next: 0 }
    }

    /// The one that has come to a cursor; `None` if none could.
    fn from_cursor(cursor: u64) -> Option<Self> {
        let (level, next) = ((cursor >> 32).checked_sub(1)?, cursor & 0xffff_ffff);
        (level <= u64::from(BITS) && next < END).then_some(Self { level: level as u32, next })
    }

    /// What to go on with, never 0; 0 at the end.
    fn cursor(self) -> u64 {
        if self.next >= END { 0 } else { u64::from(self.level + 1) << 32 | self.next }
    }

    /// The position of a hash.
    fn position(self, hash: u64) -> u64 {
        let high = BITS - self.level;
        let (low, rest) = (hash & ((1 << self.level) - 1), (hash & (END - 1)) >> self.level);
        low << high | reversed(rest, high)
    }

    /// The bits of a hash at the next position.
    fn hash(self) -> u64 {
        let high = BITS - self.level;
        (self.next >> high) | reversed(self.next & ((1 << high) - 1), high) << self.level
    }

    /// The bucket of the next position when there are `buckets`.
    fn piece(self, buckets: u64) -> Piece {
        let (bucket, level) = (address(self.hash(), buckets), buckets.ilog2());
        // As many bits as all hashes of the bucket have in common.
        let common = if bucket < buckets - (1 << level) || bucket >= 1 << level { level + 1 } else { level };
        let size = 1 << (BITS - common.clamp(self.level, BITS));
        let begin = self.next & !(size - 1);
        Piece { bucket, positions: self.next..begin + size, is_whole: begin == self.next && common >= self.level }
    }
}

/// The lowest `count` bits, the last one first.
fn reversed(bits: u64, count: u32) -> u64 {
    if count == 0 { 0 } else { bits.reverse_bits() >> (64 - count) }
}

/// One step of a walk over the table: appends the entries of one bucket to `out`, by `read`, and returns the cursor to
/// go on with, 0 at the end. Begin with 0. A cursor that is no walk's is at the end.
///
/// # Errors
/// [`Contended`]: the step is not done, and can be done again.
pub(super) fn step(
    words: &[AtomicU64],
    cursor: u64,
    hash: impl Fn(&[u8]) -> u64,
    mut read: impl FnMut(u64, &mut Pairs) -> Result<(), Contended>,
    out: &mut Pairs,
) -> Result<u64, Contended> {
    let buckets = || load_buckets(words).filter(|&buckets| buckets <= limits::BUCKETS_MAX).ok_or(Contended);
    let walk = if cursor == 0 { Some(Walk::new(buckets()?)) } else { Walk::from_cursor(cursor) };
    let Some(walk) = walk else { return Ok(0) };
    let before = out.len();
    for _ in 0..limits::READ_RETRIES_MAX {
        let piece = walk.piece(buckets()?);
        // What a split has moved elsewhere before we came was not read, but then the count tells of it.
        let done = read(piece.bucket, out).and_then(|()| Ok(walk.piece(buckets()?) == piece));
        if done == Ok(true) {
            if !piece.is_whole {
                out.retain(before, |key| piece.positions.contains(&walk.position(hash(key))));
            }
            return Ok(Walk { next: piece.positions.end, ..walk }.cursor());
        }
        // The step is done again, here or by the server.
        out.truncate(before);
        done?;
    }
    Err(Contended)
}

/// The first cursor of a walk that has not begun, in a table of so many buckets: the end has 0.
pub(super) fn first_cursor(buckets: u64) -> u64 {
    Walk::new(buckets).cursor()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// All hashes with so many bits, as a table of small size would see them.
    const HASHES: u64 = 1 << 10;

    #[test]
    fn a_position_is_that_of_its_hash_alone() {
        for level in 0..=BITS {
            let walk = Walk { level, next: 0 };
            for hash in (0..1_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                let next = walk.position(hash);
                assert!(next < END && Walk { level, next }.hash() == hash & (END - 1));
            }
        }
    }

    #[test]
    fn a_bucket_is_one_piece_and_the_pieces_are_all() {
        for buckets in [1, 2, 3, 7, 8, 9, 100, 1_000, 65_537, limits::BUCKETS_MAX - 1, limits::BUCKETS_MAX] {
            for level in [0, 1, buckets.ilog2().saturating_sub(1), buckets.ilog2(), (buckets.ilog2() + 2).min(BITS)] {
                let mut walk = Walk { level, next: 0 };
                for _ in 0..3_000 {
                    let piece = walk.piece(buckets);
                    assert!(piece.positions.start == walk.next && piece.positions.end > walk.next);
                    let lies_in = |next| address(Walk { level, next }.hash(), buckets) == piece.bucket;
                    assert!(lies_in(piece.positions.end - 1));
                    // Unless more of the bucket lies elsewhere.
                    if piece.positions.end < END && level <= buckets.ilog2() {
                        assert!(!lies_in(piece.positions.end));
                    }
                    walk.next = piece.positions.end;
                    if walk.next >= END {
                        break;
                    }
                }
                assert!(walk.next == END || buckets > 3_000 || level > buckets.ilog2());
            }
        }
    }

    #[test]
    fn each_hash_comes_once_however_the_table_changes() {
        let seed = std::env::var("RINGTABLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(fastrand::u64(..));
        println!("RINGTABLE_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..100 {
            let mut buckets = random.u64(1..=HASHES);
            let mut walk = Walk::new(buckets);
            let mut seen = vec![0; HASHES as usize];
            loop {
                let piece = walk.piece(buckets);
                for hash in (0..HASHES).filter(|&hash| address(hash, buckets) == piece.bucket) {
                    let inside = piece.positions.contains(&walk.position(hash));
                    assert!(inside || !piece.is_whole);
                    seen[hash as usize] += u32::from(inside);
                }
                walk = Walk { next: piece.positions.end, ..walk };
                match walk.cursor() {
                    0 => break,
                    cursor => assert_eq!(Walk::from_cursor(cursor), Some(walk)),
                }
                match random.u8(..4) {
                    0 => buckets = random.u64(1..=HASHES),
                    1 => buckets = (buckets + random.u64(..20)).min(HASHES),
                    2 => buckets = buckets.saturating_sub(random.u64(..20)).max(1),
                    _ => {}
                }
            }
            assert!(seen.iter().all(|&count| count == 1));
        }
    }

    #[test]
    fn a_cursor_that_is_no_walk_s_is_none() {
        for cursor in [1, 0xffff_ffff, 34 << 32, u64::MAX, 1 << 63, 1 << 32 | END, 32 << 32 | 0xffff_ffff] {
            assert_eq!(Walk::from_cursor(cursor), None, "{cursor:#x}");
        }
        assert_eq!(first_cursor(1), 1 << 32);
        assert_eq!(Walk::new(limits::BUCKETS_MAX).level, BITS);
    }
}
