//! `SCAN`: a walk over all keys.

use super::arguments::Arguments;
use super::context::Context;
use super::glob::Pattern;
use super::integer::parse_cursor;
use super::refusal::Refusal;
use crate::shm::clock::wall_ms;
use crate::table::Want;
use crate::table::layout::BUCKET_SIZE;

/// Buckets that a walk goes over between two looks at the clock.
pub(super) const BUCKETS_PER_CLOCK: i64 = 16;

/// Buckets that `SCAN` goes over at least, unless its turn ends before: where the table is nearly empty, few have keys.
const SCANNED_MIN: i64 = 4_096;

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
///
/// The cursor goes bucket by bucket; a key that is there all the while is reported exactly once. There may be fewer
/// keys than were asked for, or none: a bucket is read at least, and no more once the turn is over. All keys have
/// strings.
pub(super) fn scan(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (invalid, syntax) = (|| Refusal::err("invalid cursor"), || Refusal::err("syntax error"));
    let mut cursor = parse_cursor(arguments.get(0)).ok_or_else(invalid)?;
    let (mut count, mut pattern, mut has_type) = (10, None, true);
    for index in (1..arguments.len()).step_by(2) {
        let option = arguments.get(index);
        if index + 1 == arguments.len() {
            return Err(syntax());
        }
        if option.eq_ignore_ascii_case(b"COUNT") {
            count = arguments.integer(index + 1)?;
        } else if option.eq_ignore_ascii_case(b"MATCH") {
            pattern = Some(Pattern::new(arguments.get(index + 1))?);
        } else if option.eq_ignore_ascii_case(b"TYPE") {
            has_type = arguments.get(index + 1).eq_ignore_ascii_case(b"string");
        } else {
            return Err(syntax());
        }
    }
    if count < 1 {
        return Err(syntax());
    }
    let mut buckets = 0;
    loop {
        cursor = context.writer.scan(cursor, Want::Keys, wall_ms, context.pairs);
        buckets += 1;
        // Bounded in buckets too: a table that was emptied has many without entries.
        if cursor == 0
            || context.pairs.len() as i64 >= count
            || context.pairs.size() >= context.listing_size
            || buckets >= count.saturating_mul(10).max(SCANNED_MIN)
            || buckets % BUCKETS_PER_CLOCK == 0 && context.is_turn_over()
        {
            break;
        }
    }
    context.passed += buckets as usize * BUCKET_SIZE;
    let Context { pairs, reply, .. } = context;
    reply.array(2);
    reply.bulk(cursor.to_string().as_bytes());
    let fits = |key: &[u8]| has_type && pattern.as_ref().is_none_or(|pattern| pattern.matches(key));
    let keys: Vec<_> = pairs.iter().map(|pair| pair.key).filter(|key| fits(key)).collect();
    reply.array(keys.len());
    for key in keys {
        reply.bulk(key);
    }
    Ok(())
}
