//! Commands that look into the table and the server.

use super::arguments::Arguments;
use super::context::Context;
use super::host::Setting;
use super::refusal::Refusal;
use super::scan::BUCKETS_PER_CLOCK;
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::layout::BUCKET_SIZE;
use crate::table::{Want, WriteError};

/// Values of a bucket that are sent out of their entries, if they have at least so many bytes: to hold one takes about
/// as long as to copy it.
const BUCKET_VALUE_HELD_MIN: usize = 1 << 10;

/// `RING.BUCKET key`: all keys and values of the bucket that the key falls in.
pub(super) fn ring_bucket(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let Context { writer, pairs, reply, passed, .. } = context;
    let key = arguments.get(0);
    if key.len() > limits::KEY_SIZE_MAX {
        return Err(WriteError::KeyTooLong(key.len()).into());
    }
    let held = writer.read_bucket(key, limits::VALUE_SIZE_MAX, wall_ms, pairs).map_err(|size| {
        Refusal::err(format_args!(
            "the bucket's entries have {size} bytes, a reply at most {}: read them one by one",
            limits::VALUE_SIZE_MAX
        ))
    })?;
    reply.array(2 * (pairs.len() + held.len()));
    for pair in pairs.iter() {
        reply.bulk(pair.key);
        reply.bulk(pair.value);
    }
    for held in held {
        let key = held.key();
        reply.bulk(&key);
        *passed += key.len();
        if held.found().size >= BUCKET_VALUE_HELD_MIN {
            reply.value(held);
        } else {
            reply.bulk(held.bytes());
            *passed += held.found().size;
        }
    }
    Ok(())
}

/// `RING.DUMP [start]`: the table from bucket `start` on, as `[next, [bucket, [key, value size, …]], …]`, buckets
/// without entries left out; `next` is 0 at the end.
pub(super) fn ring_dump(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let start = if arguments.is_empty() { 0 } else { arguments.integer(0)? };
    let mut index = u64::try_from(start).map_err(|_| Refusal::err(format_args!("there is no bucket {start}")))?;
    let mut buckets = Vec::new();
    let next = loop {
        let before = context.pairs.len();
        if !context.writer.read_bucket_at(index, Want::Keys, context.pairs) {
            break 0;
        }
        let found = before..context.pairs.len();
        if !found.is_empty() {
            buckets.push((index, found));
        }
        index += 1;
        context.passed += BUCKET_SIZE;
        let size = context.pairs.size() + 24 * context.pairs.len();
        // Bounded in time, too: a table that was emptied has many buckets without entries.
        if size >= context.listing_size || index.is_multiple_of(BUCKETS_PER_CLOCK as u64) && context.is_turn_over() {
            break index;
        }
    };
    let Context { pairs, reply, .. } = context;
    reply.array(1 + buckets.len());
    reply.integer(next as i64);
    for (index, found) in buckets {
        reply.array(2);
        reply.integer(index as i64);
        reply.array(2 * found.len());
        for pair in found.map(|place| pairs.get(place)) {
            reply.bulk(pair.key);
            reply.integer(pair.value_size as i64);
        }
    }
    Ok(())
}

/// `RING.OPTIONS`: the server's options, by name, as it was started with them.
pub(super) fn ring_options(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    let options = context.host.options();
    context.reply.map(options.len());
    for (name, setting) in options {
        context.reply.bulk(name.as_bytes());
        match setting {
            Setting::Number(number) => context.reply.integer(*number as i64),
            Setting::Text(text) => context.reply.bulk(text.as_bytes()),
            Setting::Open => context.reply.nil(),
        }
    }
    Ok(())
}

/// `RING.STATS`: figures of table and server, by name.
pub(super) fn ring_stats(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    let figures = context.host.figures();
    context.reply.map(figures.len());
    for (name, value) in figures {
        context.reply.bulk(name.as_bytes());
        context.reply.integer(value);
    }
    Ok(())
}
