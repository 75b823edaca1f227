//! Commands that look into the table and the server.

use super::arguments::Arguments;
use super::{Context, Refusal};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::table::reader::Want;

/// `RING.BUCKET key`: all keys and values of the bucket that the key falls in.
pub(super) fn ring_bucket(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let pairs = context.writer.read_bucket(arguments.get(0), limits::VALUE_SIZE_MAX, wall_ms).map_err(|size| {
        Refusal::err(format_args!(
            "the bucket's entries have {size} bytes, a reply at most {}: read them one by one",
            limits::VALUE_SIZE_MAX
        ))
    })?;
    context.reply.array(2 * pairs.len());
    for pair in pairs {
        context.reply.bulk(&pair.key);
        context.reply.bulk(&pair.value);
    }
    Ok(())
}

/// `RING.DUMP [start]`: the table from bucket `start` on, as `[next, [bucket, [key, value size, …]], …]`, buckets
/// without entries left out; `next` is 0 at the end.
pub(super) fn ring_dump(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let start = if arguments.is_empty() { 0 } else { arguments.integer(0)? };
    let mut index = u64::try_from(start).map_err(|_| Refusal::err(format_args!("there is no bucket {start}")))?;
    let (mut buckets, mut size) = (Vec::new(), 0);
    let next = loop {
        let Some(pairs) = context.writer.read_bucket_at(index, Want::Keys) else { break 0 };
        size += 8 + pairs.iter().map(|pair| 24 + pair.key.len()).sum::<usize>();
        if !pairs.is_empty() {
            buckets.push((index, pairs));
        }
        index += 1;
        if size >= limits::DUMP_SIZE_MAX {
            break index;
        }
    };
    context.reply.array(1 + buckets.len());
    context.reply.integer(next as i64);
    for (index, pairs) in buckets {
        context.reply.array(2);
        context.reply.integer(index as i64);
        context.reply.array(2 * pairs.len());
        for pair in pairs {
            context.reply.bulk(&pair.key);
            context.reply.integer(pair.value_size as i64);
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
