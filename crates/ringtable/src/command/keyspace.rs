//! Commands on keys: reading, deleting, expiring; and on all of them.
//!
//! No command copies a large value, nor one that it does not need.

use super::arguments::Arguments;
use super::context::Context;
use super::expiry::expiry_in;
use super::flow::Flow;
use super::lookup::{expiry, find, find_value};
use super::refusal::Refusal;
use crate::limits;
use crate::shm::clock::{coarse_ms, wall_ms};
use crate::table::{Expiry, Guard, Outcome};

/// `GET key`
pub(super) fn get(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    match find_value(context, arguments.get(0))? {
        Some(value) => value.answer(context),
        None => context.reply.nil(),
    }
    Ok(())
}

/// `DEL key [key …]`
pub(super) fn del(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    count_keys(context, arguments, |context, key| context.writer.delete(key, wall_ms));
    Ok(())
}

/// `EXISTS key [key …]`
pub(super) fn exists(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    count_keys(context, arguments, |context, key| expiry(context, key).is_some());
    Ok(())
}

/// Keys that a command with many of them goes over between two looks at the clock: in the longest chains they take some
/// microseconds each. A long key may take hundreds, and the clock is looked at after each.
pub(super) const KEYS_PER_CLOCK: usize = 8;

/// Answers with the number of keys of which something is true, which is found out key after key, in several turns.
fn count_keys(
    context: &mut Context<'_>,
    arguments: Arguments<'_>,
    mut is_true: impl FnMut(&mut Context<'_>, &[u8]) -> bool,
) {
    let (mut next, mut since_clock) = (context.progress as usize, 0);
    while next < arguments.len() {
        let key = arguments.get(next);
        context.counted += u64::from(is_true(context, key));
        next += 1;
        since_clock += 1;
        if since_clock < KEYS_PER_CLOCK && key.len() <= limits::LONG_KEY_SIZE {
            continue;
        }
        since_clock = 0;
        if next < arguments.len() && context.is_turn_over() {
            context.progress = next as u64;
            context.flow = Flow::Again;
            return;
        }
    }
    context.reply.integer(context.counted.cast_signed());
}

/// `EXPIRE key seconds`
pub(super) fn expire(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    expire_in(context, arguments, 1_000, "expire")
}

/// `PEXPIRE key milliseconds`
pub(super) fn pexpire(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    expire_in(context, arguments, 1, "pexpire")
}

/// Gives a key a new expiry.
fn expire_in(context: &mut Context<'_>, arguments: Arguments<'_>, unit_ms: i64, command: &str) -> Result<(), Refusal> {
    let (key, after) = (arguments.get(0), arguments.integer(1)?);
    let at = expiry_in(after, unit_ms, command)?;
    let writer = &mut context.writer;
    let was_there = if after > 0 { writer.expire(key, at, wall_ms)? } else { writer.delete(key, wall_ms) };
    context.reply.integer(i64::from(was_there));
    Ok(())
}

/// `PERSIST key`
pub(super) fn persist(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let key = arguments.get(0);
    // Whoever is refused has lost to a change that was not.
    let had_one = loop {
        let Some(found) = find(context, key, 0)?.filter(|found| found.expiry.is_some()) else { break false };
        let outcome = context.writer.renew(key, None, Guard::Version(found.version), wall_ms)?;
        if outcome != Outcome::Refused {
            break true;
        }
    };
    context.reply.integer(i64::from(had_one));
    Ok(())
}

/// `TTL key`
pub(super) fn ttl(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let left_ms = left_ms(context, arguments.get(0));
    context.reply.integer(if left_ms < 0 { left_ms } else { (left_ms + 500) / 1_000 });
    Ok(())
}

/// `PTTL key`
pub(super) fn pttl(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let left_ms = left_ms(context, arguments.get(0));
    context.reply.integer(left_ms);
    Ok(())
}

/// Milliseconds left to a key; -1 if it does not expire, -2 if there is none, as Redis has it.
fn left_ms(context: &mut Context<'_>, key: &[u8]) -> i64 {
    match expiry(context, key) {
        None => -2,
        Some(None) => -1,
        Some(Some(Expiry(at_ms))) => at_ms.saturating_sub(wall_ms()) as i64,
    }
}

/// `DBSIZE`
pub(super) fn dbsize(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    context.reply.integer(context.writer.table().entries() as i64);
    Ok(())
}

/// Buckets that `FLUSHALL` clears in one turn: about 100 µs, for which the worker's other clients wait.
const CLEARED_PER_TURN: u64 = 200;

/// `FLUSHALL [SYNC | ASYNC]`: in several turns, so that other clients go on. The memory is the system's again when it
/// answers, unless that takes longer than [`limits::GIVING_BACK_MS_MAX`].
pub(super) fn flushall(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    if !arguments.iter().all(|mode| mode.eq_ignore_ascii_case(b"SYNC") || mode.eq_ignore_ascii_case(b"ASYNC")) {
        return Err(Refusal::err("syntax error"));
    }
    /// Progress once all entries are gone: buckets are given up, then memory is given back, since the millisecond that
    /// is added.
    const SHRINKING: u64 = limits::BUCKETS_MAX + 1;
    const GIVING_BACK: u64 = SHRINKING + 1;
    let next = match context.progress {
        GIVING_BACK.. => {
            let waited_ms = coarse_ms().saturating_sub(context.progress - GIVING_BACK);
            let is_over = context.host.has_given_memory_back() || waited_ms >= limits::GIVING_BACK_MS_MAX;
            (!is_over).then_some(context.progress)
        }
        SHRINKING => {
            let more = context.writer.table().shrink_some(CLEARED_PER_TURN);
            context.writer.release();
            if !more {
                context.host.ask_for_memory_back();
            }
            Some(if more { SHRINKING } else { GIVING_BACK + coarse_ms() })
        }
        bucket => Some(context.writer.clear_some(bucket, CLEARED_PER_TURN).unwrap_or(SHRINKING)),
    };
    match next {
        Some(next) => {
            context.progress = next;
            context.flow = Flow::Again;
        }
        None => context.reply.ok(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They once took so many keys or buckets in a turn, however long that lasted.
    #[test]
    fn commands_with_much_to_do_leave_it_for_the_next_turn_when_theirs_is_over() {
        use crate::command::alone::Alone;
        use crate::command::scan::BUCKETS_PER_CLOCK;
        use crate::table::{Eviction, Guard, Options};

        let options = Options { buckets: 100, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(4 << 20, &options);
        let keys: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n]).collect();
        for key in &keys {
            alone.writer.put(key, b"value", None, Guard::Always, wall_ms).unwrap();
        }
        // Turns that are over as they begin.
        alone.turn_ns = 0;
        let mut turns = |name: &str, arguments: &[Vec<u8>]| alone.run(name, arguments);
        let turns_of_keys = keys.len().div_ceil(KEYS_PER_CLOCK);
        assert_eq!(turns("EXISTS", &keys), (turns_of_keys, ":200\r\n".into()));
        // To compare a long key may take as long as a turn.
        let long = vec![vec![0; limits::LONG_KEY_SIZE + 1]; 20];
        assert_eq!(turns("EXISTS", &long), (20, ":0\r\n".into()));
        assert_eq!(turns("TOUCH", &keys), (turns_of_keys, ":200\r\n".into()));
        // Walks give what they have, and a cursor or a bucket to go on from.
        let walk = [b"0".to_vec(), b"COUNT".to_vec(), b"1000000".to_vec()];
        let (turns_of_scan, scanned) = turns("SCAN", &walk);
        let (turns_of_dump, dumped) = turns("RING.DUMP", &[]);
        assert_eq!((turns_of_scan, turns_of_dump), (1, 1));
        assert!(!scanned.starts_with("*2\r\n$1\r\n0\r\n") && scanned.matches('$').count() < 80, "{scanned}");
        assert!(dumped.contains(&format!("\r\n:{BUCKETS_PER_CLOCK}\r\n")), "{dumped}");
        let (turns_of_deletion, deleted) = turns("RING.DELPREFIX", &[b"\x07".to_vec()]);
        assert_eq!((turns_of_deletion > 100 / BUCKETS_PER_CLOCK as usize, deleted), (true, ":1\r\n".into()));
        let (turns_of_deletion, deleted) = turns("RING.DELPREFIX", &[Vec::new()]);
        assert_eq!((turns_of_deletion > 199 / KEYS_PER_CLOCK, deleted), (true, ":199\r\n".into()));
        assert_eq!(turns("DEL", &keys), (turns_of_keys, ":0\r\n".into()));
    }

    #[test]
    fn a_time_to_live_is_taken_away_once() {
        use crate::command::alone::Alone;
        use crate::table::{Eviction, Options};

        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(4 << 20, &options);
        let mut run = |name: &str, words: &[&str]| alone.run(name, words).1;
        assert_eq!(run("PERSIST", &["key"]), ":0\r\n");
        run("SET", &["key", "value", "EX", "100"]);
        assert_eq!([(); 2].map(|()| run("PERSIST", &["key"])), [":1\r\n", ":0\r\n"]);
        assert_eq!(run("PTTL", &["key"]), ":-1\r\n");
        assert_eq!(run("RING.ENTRY", &["key"]), "*3\r\n$5\r\nvalue\r\n:-1\r\n:0\r\n");
        assert_eq!(run("RING.ENTRY", &["key", "4"]), "*3\r\n:5\r\n:-1\r\n:0\r\n");
        let at = (wall_ms() + 100_000).to_string();
        run("SET", &["key", "value", "PXAT", &at, "UNEVICTABLE"]);
        assert_eq!(run("RING.ENTRY", &["key", "5"]), format!("*3\r\n$5\r\nvalue\r\n:{at}\r\n:1\r\n"));
        assert_eq!(run("RING.ENTRY", &["other"]), "$-1\r\n");
    }
}
