//! `RING.DELPREFIX`: deleting all keys that begin alike, in several turns.

use super::arguments::Arguments;
use super::context::Context;
use super::flow::Flow;
use super::keyspace::KEYS_PER_CLOCK;
use super::refusal::Refusal;
use super::scan::BUCKETS_PER_CLOCK;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::Want;
use crate::table::layout::BUCKET_SIZE;

/// `RING.DELPREFIX prefix`
///
/// A walk as that of `SCAN`, whose cursor, and 1, is the progress. A turn may end within a bucket: the next one reads
/// it again, and what was deleted is not in it any more. So each turn deletes something, or comes further.
pub(super) fn ring_delprefix(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let prefix = arguments.get(0);
    let mut cursor = context.progress.saturating_sub(1);
    let (mut buckets, mut since_clock) = (0, 0);
    loop {
        context.pairs.clear();
        let next = context.writer.scan(cursor, Want::Keys, wall_ms, context.pairs);
        context.passed += BUCKET_SIZE + context.pairs.size();
        buckets += 1;
        for pair in context.pairs.iter().filter(|pair| pair.key.starts_with(prefix)) {
            // Asked before, and not behind, so that a bucket's last key does not have the bucket read again.
            if since_clock >= KEYS_PER_CLOCK {
                since_clock = 0;
                if context.is_turn_over() {
                    context.progress = cursor + 1;
                    context.flow = Flow::Again;
                    return Ok(());
                }
            }
            context.counted += u64::from(context.writer.delete(pair.key, wall_ms));
            since_clock += if pair.key.len() > limits::LONG_KEY_SIZE { KEYS_PER_CLOCK } else { 1 };
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
        if buckets % BUCKETS_PER_CLOCK == 0 && context.is_turn_over() {
            context.progress = cursor + 1;
            context.flow = Flow::Again;
            return Ok(());
        }
    }
    context.reply.integer(context.counted.cast_signed());
    Ok(())
}
