//! Commands on keys: reading, writing, deleting, counting, expiring.
//!
//! Anything that reads and then writes (`INCRBY`) is a compare-and-set loop on the entry's version: an attempt fails
//! only if somebody else's write succeeded in between. No command copies a large value, nor one that it does not need.

use std::mem::MaybeUninit;

use super::arguments::Arguments;
use super::expiry::expiry_in;
use super::glob::Glob;
use super::integer::{INTEGER_SIZE_MAX, NOT_AN_INTEGER, decimal, parse_cursor, parse_integer};
use super::refusal::{Refusal, shown};
use super::set_options::SetOptions;
use super::streamed::{self, Streamed};
use super::{Context, Effect};
use crate::limits;
use crate::shm::clock::{coarse_ms, wall_ms};
use crate::shm::segment::Mapping;
use crate::table::layout::BUCKET_SIZE;
use crate::table::reader::{Buffer, Found, Presence};
use crate::table::{Expiry, Guard, Held, Lookup, Mark, Outcome, Sink, Terms, Want};

/// Looks a key up; removes it if its time has passed. The value is copied to the scratch buffer if it has at most
/// `size_max` bytes.
#[inline]
fn find(context: &mut Context<'_>, key: &[u8], size_max: usize) -> Result<Option<Found>, Refusal> {
    let Context { writer, scratch: buffer, .. } = context;
    match writer.get(key, wall_ms, &mut UpTo { size_max, buffer }) {
        Lookup::Hit(found) => Ok(Some(found)),
        Lookup::Expired => {
            writer.delete_expired(key, wall_ms);
            Ok(None)
        }
        Lookup::NoRoom(size) => Err(Refusal(format!("OOM the server has no memory for a copy of {size} bytes"))),
        Lookup::Miss | Lookup::Contended => Ok(None),
    }
}

/// A buffer for values of up to so many bytes; of larger ones it gets nothing.
struct UpTo<'a> {
    size_max: usize,
    buffer: &'a mut Buffer,
}

impl Sink for UpTo<'_> {
    fn begin(&mut self, size: usize) -> Option<&mut [MaybeUninit<u8>]> {
        if size > self.size_max { Some(&mut []) } else { self.buffer.begin(size) }
    }
}

/// A value on its way into a reply: in the scratch buffer, or where it lies.
pub(super) enum Value {
    Copied { version: u64 },
    Held(Held<Mapping>),
}

/// Looks a value up for a reply: a large one stays in its entry. Removes it if its time has passed.
#[inline]
pub(super) fn find_value(context: &mut Context<'_>, key: &[u8]) -> Result<Option<Value>, Refusal> {
    Ok(match find(context, key, limits::LARGE_VALUE_SIZE - 1)? {
        // It may have gone meanwhile.
        Some(found) if found.size >= limits::LARGE_VALUE_SIZE => context.writer.hold(key, wall_ms).map(Value::Held),
        Some(found) => Some(Value::Copied { version: found.version }),
        None => None,
    })
}

/// Whether a write on this condition would be done now.
fn is_allowed(context: &mut Context<'_>, key: &[u8], guard: Guard) -> bool {
    guard == Guard::Always
        || guard.allows(match context.writer.get(key, wall_ms, &mut Presence) {
            Lookup::Hit(found) => Some(found.version),
            _ => None,
        })
}

/// The expiry of a key: outer `None` if there is no such key.
fn expiry(context: &mut Context<'_>, key: &[u8]) -> Option<Option<Expiry>> {
    match context.writer.get(key, wall_ms, &mut Presence) {
        Lookup::Hit(found) => Some(found.expiry),
        _ => None,
    }
}

/// `GET key`
pub(super) fn get(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    match find_value(context, arguments.get(0))? {
        Some(Value::Held(held)) => context.reply.value(held),
        Some(Value::Copied { .. }) => context.reply.bulk(context.scratch.bytes()),
        None => context.reply.nil(),
    }
    Ok(())
}

/// `SET key value [NX | XX | IFVERSION version] [EX seconds | PX milliseconds] [EVICTABLE | UNEVICTABLE]`
pub(super) fn set(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let options = SetOptions::parse(arguments, 2)?;
    let key = arguments.get(0);
    let value = arguments.get(1);
    let draft = match context.streamed.take() {
        // In the arguments an empty one stands for a value that has come in its entry.
        Some(Streamed::Entry(draft)) if draft.missing() == 0 => draft,
        Some(Streamed::Refused(error)) => return Err(error.into()),
        None if value.len() < limits::LARGE_VALUE_SIZE => {
            let outcome =
                context.writer.put_marked(key, value, options.expiry, options.guard, options.mark, wall_ms)?;
            options.answer(outcome, context.reply);
            return Ok(());
        }
        begun => {
            // What is refused has evicted nothing.
            if begun.is_none() && !is_allowed(context, key, options.guard) {
                options.answer(Outcome::Refused, context.reply);
                return Ok(());
            }
            context.streamed = begun;
            match streamed::settle(context, key, value, Terms::Whole(options.guard))? {
                Some(draft) => draft,
                None => {
                    context.effect = Effect::Again;
                    return Ok(());
                }
            }
        }
    };
    let outcome = context.writer.put_draft(key, draft, options.expiry, options.guard, options.mark, wall_ms)?;
    options.answer(outcome, context.reply);
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
const KEYS_PER_CLOCK: usize = 8;

/// Answers with the number of keys of which something is true, which is found out key after key, in several turns.
fn count_keys(
    context: &mut Context<'_>,
    arguments: Arguments<'_>,
    mut is_true: impl FnMut(&mut Context<'_>, &[u8]) -> bool,
) {
    // Both have at most `limits::ARGUMENTS_MAX`.
    let (mut next, mut count) = (context.progress as u32 as usize, context.progress >> 32);
    let mut since_clock = 0;
    while next < arguments.len() {
        let key = arguments.get(next);
        count += u64::from(is_true(context, key));
        next += 1;
        since_clock += 1;
        if since_clock < KEYS_PER_CLOCK && key.len() <= limits::LONG_KEY_SIZE {
            continue;
        }
        since_clock = 0;
        if next < arguments.len() && context.is_turn_over() {
            context.progress = count << 32 | next as u64;
            context.effect = Effect::Again;
            return;
        }
    }
    context.reply.integer(count.cast_signed());
}

/// `INCRBY key increment`
pub(super) fn incrby(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    add(context, arguments.get(0), arguments.integer(1)?, &Bounds::NONE)
}

/// `INCR key`
pub(super) fn incr(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    add(context, arguments.get(0), 1, &Bounds::NONE)
}

/// `DECR key`
pub(super) fn decr(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    add(context, arguments.get(0), -1, &Bounds::NONE)
}

/// `DECRBY key decrement`
pub(super) fn decrby(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let by = arguments.integer(1)?.checked_neg().ok_or_else(|| Refusal::err("decrement would overflow"))?;
    add(context, arguments.get(0), by, &Bounds::NONE)
}

/// What a sum has to keep within, and what a new key gets.
pub(super) struct Bounds {
    /// The expiry of a key that is new.
    pub expiry_if_new: Option<Expiry>,
    /// The least sum, if there is one.
    pub least: Option<i64>,
    /// The largest sum, if there is one.
    pub most: Option<i64>,
    /// Whether the key may be evicted.
    pub mark: Mark,
}

impl Bounds {
    /// Those of 64-bit integers alone.
    const NONE: Self = Self { expiry_if_new: None, least: None, most: None, mark: Mark::AsBefore };

    /// The sum, if it lies within.
    fn sum(&self, old: i64, by: i64) -> Result<Option<i64>, Refusal> {
        // No sum of two 64-bit integers overflows this.
        let sum = i128::from(old) + i128::from(by);
        if self.least.is_some_and(|least| sum < least.into()) || self.most.is_some_and(|most| sum > most.into()) {
            return Ok(None);
        }
        i64::try_from(sum).map(Some).map_err(|_| Refusal::err("increment or decrement would overflow"))
    }
}

/// Adds to the integer that a key holds, 0 if there is none. The answer is the sum, or nil if it were out of bounds.
pub(super) fn add(context: &mut Context<'_>, key: &[u8], by: i64, bounds: &Bounds) -> Result<(), Refusal> {
    loop {
        let (old, guard, expiry) = match find(context, key, INTEGER_SIZE_MAX)? {
            Some(found) => {
                let digits = (found.size <= INTEGER_SIZE_MAX).then_some(context.scratch.bytes());
                let old = digits.and_then(parse_integer).ok_or_else(|| no_integer_at(key, found.size, digits))?;
                (old, Guard::Version(found.version), found.expiry)
            }
            None => (0, Guard::Absent, bounds.expiry_if_new),
        };
        let sum = bounds.sum(old, by).map_err(|Refusal(words)| {
            Refusal(format!("{words}: '{}' holds {old}, and {by} was to be added", shown(key)))
        })?;
        let Some(sum) = sum else {
            context.reply.nil();
            return Ok(());
        };
        let mut digits = [0; INTEGER_SIZE_MAX];
        let outcome = context.writer.put_marked(key, decimal(sum, &mut digits), expiry, guard, bounds.mark, wall_ms)?;
        if let Outcome::Done { .. } = outcome {
            context.reply.integer(sum);
            return Ok(());
        }
    }
}

/// The refusal to add to what a key holds, which is no integer: in Redis' words, and then what it is.
fn no_integer_at(key: &[u8], size: usize, value: Option<&[u8]>) -> Refusal {
    let value = value.map_or_else(|| format!("{size} bytes"), |value| format!("'{}'", shown(value)));
    Refusal::err(format_args!("{NOT_AN_INTEGER}: '{}' holds {value}", shown(key)))
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
    let invalid = || Refusal::err(format_args!("invalid expire time in '{command}' command"));
    let at = expiry_in(after, unit_ms).ok_or_else(invalid)?;
    let writer = &mut context.writer;
    let was_there = if after > 0 { writer.expire(key, at, wall_ms)? } else { writer.delete(key, wall_ms) };
    context.reply.integer(i64::from(was_there));
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
            context.effect = Effect::Again;
        }
        None => context.reply.ok(),
    }
    Ok(())
}

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
            pattern = Some(Glob::new(arguments.get(index + 1))?);
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
            || context.pairs.size() >= limits::DUMP_SIZE_MAX
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_within_their_bounds() {
        let bounds = Bounds { least: Some(-1), most: Some(1), ..Bounds::NONE };
        for (old, by, sum) in [(0, 1, Some(1)), (1, 1, None), (-1, -1, None), (5, -4, Some(1)), (i64::MAX, 1, None)] {
            assert_eq!(bounds.sum(old, by), Ok(sum));
        }
        assert_eq!(Bounds::NONE.sum(i64::MAX, -1), Ok(Some(i64::MAX - 1)));
        assert!(Bounds::NONE.sum(i64::MAX, 1).is_err() && Bounds::NONE.sum(i64::MIN, -1).is_err());
        let floor = Bounds { least: Some(0), ..Bounds::NONE };
        assert!(floor.sum(i64::MAX, 1).is_err(), "it has no upper bound but that of integers");
    }

    /// They once took so many keys or buckets in a turn, however long that lasted.
    #[test]
    fn commands_with_much_to_do_leave_it_for_the_next_turn_when_theirs_is_over() {
        use crate::command::alone::Alone;
        use crate::command::protocol::Protocol;
        use crate::command::resp::RespWriter;
        use crate::table::{Eviction, Options};

        let options = Options { buckets: 100, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(4 << 20, &options);
        let keys: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n]).collect();
        for key in &keys {
            alone.writer.put(key, b"value", None, Guard::Always, wall_ms).unwrap();
        }
        // Turns that are over as they begin.
        alone.turn_ns = 0;
        let mut turns = |name: &str, arguments: &[Vec<u8>]| {
            let (mut reply, mut progress, mut turns) = (Vec::new(), 0, 0);
            loop {
                let mut writer = RespWriter::new(&mut reply, Protocol::Resp2);
                let number = crate::command::number(name);
                let (effect, come) = alone.turn(number, arguments, &mut writer, Protocol::Resp2, progress);
                (progress, turns) = (come, turns + 1);
                if effect != Effect::Again {
                    return (turns, String::from_utf8_lossy(&reply).into_owned());
                }
                assert!(reply.is_empty());
            }
        };
        let turns_of_keys = keys.len().div_ceil(KEYS_PER_CLOCK);
        assert_eq!(turns("EXISTS", &keys), (turns_of_keys, ":200\r\n".into()));
        // To compare a long key may take as long as a turn.
        let long = vec![vec![0; limits::LONG_KEY_SIZE + 1]; 20];
        assert_eq!(turns("EXISTS", &long), (20, ":0\r\n".into()));
        // Walks give what they have, and a cursor or a bucket to go on from.
        let walk = [b"0".to_vec(), b"COUNT".to_vec(), b"1000000".to_vec()];
        let (turns_of_scan, scanned) = turns("SCAN", &walk);
        let (turns_of_dump, dumped) = turns("RING.DUMP", &[]);
        assert_eq!((turns_of_scan, turns_of_dump), (1, 1));
        assert!(!scanned.starts_with("*2\r\n$1\r\n0\r\n") && scanned.matches('$').count() < 80, "{scanned}");
        assert!(dumped.contains(&format!("\r\n:{BUCKETS_PER_CLOCK}\r\n")), "{dumped}");
        assert_eq!(turns("DEL", &keys), (turns_of_keys, ":200\r\n".into()));
    }

    /// It was once copied in one go, however large.
    #[test]
    fn a_large_value_is_copied_a_piece_a_turn() {
        use crate::command::alone::Alone;
        use crate::command::protocol::Protocol;
        use crate::command::resp::RespWriter;
        use crate::table::{Eviction, Options};

        let options = Options { buckets: 100, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(16 << 20, &options);
        let mut set = |value: &[u8], condition: &str| {
            let arguments = [b"key", value, condition.as_bytes()];
            let arguments = if condition.is_empty() { &arguments[..2] } else { &arguments };
            let (mut reply, mut progress, mut turns) = (Vec::new(), 0, 0);
            loop {
                let mut writer = RespWriter::new(&mut reply, Protocol::Resp2);
                let number = crate::command::number("SET");
                let (effect, come) = alone.turn(number, arguments, &mut writer, Protocol::Resp2, progress);
                (progress, turns) = (come, turns + 1);
                if effect != Effect::Again {
                    return (turns, String::from_utf8_lossy(&reply).into_owned());
                }
            }
        };
        let pieces = 40;
        let value: Vec<u8> = (0..pieces * limits::TURN_BYTES_MAX).map(|at| (at % 251) as u8).collect();
        assert_eq!(set(&value, "XX"), (1, "$-1\r\n".into()), "what is refused is not copied");
        assert_eq!(set(&value, "NX"), (pieces, "+OK\r\n".into()));
        assert_eq!(set(&value, "NX"), (1, "$-1\r\n".into()));
        let (turns, refused) = set(&vec![0; 16 << 20], "");
        assert!(turns <= 2 && refused.starts_with("-OOM"), "{turns} turns: {refused}");
        let mut found = Buffer::default();
        let Lookup::Hit(_) = alone.writer.get(b"key", wall_ms, &mut found) else { panic!("no key") };
        assert!(found.bytes() == value);
        assert_eq!(alone.writer.table().draft_bytes(), 0);
    }
}
