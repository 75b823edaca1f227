//! `SET`, of values that come with their request, and of large ones, which take several turns.

use super::arguments::Arguments;
use super::context::Context;
use super::flow::Flow;
use super::lookup::check_returnable;
use super::refusal::Refusal;
use super::set_options::SetOptions;
use super::streamed::{Order, Streamed};
use crate::limits;
use crate::shm::clock::wall_ms;
use crate::shm::segment::Mapping;
use crate::table::{Draft, Guard, HeldEntry, Outcome, Terms, WriteError};

/// `SET key value [NX | XX | IFVERSION version] [GET] [(EX | PX | EXAT | PXAT) time | KEEPTTL]
/// [EVICTABLE | UNEVICTABLE]`
pub(super) fn set(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let options = SetOptions::parse(arguments, 2)?;
    let key = arguments.get(0);
    let value = arguments.get(1);
    if options.manner.wants_old && context.streamed.is_none() {
        check_returnable(context, key)?;
    }
    let draft = match context.streamed.take() {
        // In the arguments an empty one stands for a value that has come in its entry.
        Some(Streamed::Entry(draft)) if draft.missing() == 0 => draft,
        Some(Streamed::Refused(error)) => return Err(error.into()),
        None if value.len() < limits::LARGE_VALUE_SIZE => {
            let outcome = context.writer.put_as(key, value, options.manner, wall_ms)?;
            options.answer(outcome, context.writer.take_replaced(), context.reply);
            return Ok(());
        }
        begun => {
            // What is refused has evicted nothing.
            if begun.is_none()
                && let Some(found) = obstacle(context, key, options.manner.guard)
            {
                options.answer(Outcome::Refused, found, context.reply);
                return Ok(());
            }
            context.streamed = begun;
            match settle(context, key, value, Terms::Whole(options.manner.guard))? {
                Some(draft) => draft,
                None => {
                    context.flow = Flow::Again;
                    return Ok(());
                }
            }
        }
    };
    let outcome = context.writer.put_draft(key, draft, options.manner, wall_ms)?;
    options.answer(outcome, context.writer.take_replaced(), context.reply);
    Ok(())
}

/// The entry for whose sake, or for whose absence, a write on this condition would not be done now; outer `None` if it
/// would be.
fn obstacle(context: &mut Context<'_>, key: &[u8], guard: Guard) -> Option<Option<HeldEntry<Mapping>>> {
    if guard == Guard::Always {
        return None;
    }
    let there = context.writer.hold(key, wall_ms);
    let is_allowed = guard.allows(there.as_ref().map(|held| held.found().version));
    (!is_allowed).then_some(there)
}

/// Goes on with a value that was gathered with its request: into an entry, as much of it as belongs in a turn. Returns
/// the entry when all of it is there.
fn settle(
    context: &mut Context<'_>,
    key: &[u8],
    value: &[u8],
    terms: Terms,
) -> Result<Option<Draft<Mapping>>, WriteError> {
    let streamed = match context.streamed.take() {
        Some(streamed) => streamed,
        None => match context.writer.draft_soon(key, value.len(), terms)? {
            Some(draft) => Streamed::Entry(draft),
            None => {
                let order = Order::new(key, value.len(), terms, context.worker);
                context.host.order(&order);
                Streamed::Ordered(order)
            }
        },
    };
    let mut draft = match streamed {
        Streamed::Refused(error) => return Err(error),
        Streamed::Entry(draft) => draft,
        Streamed::Ordered(order) => match order.take() {
            Some(answer) => answer?,
            None => {
                context.streamed = Some(Streamed::Ordered(order));
                return Ok(None);
            }
        },
    };
    let filled = value.len() - draft.missing();
    let piece = draft.missing().min(limits::TURN_BYTES_MAX);
    draft.fill(&value[filled..filled + piece]);
    context.passed += piece;
    if draft.missing() == 0 {
        return Ok(Some(draft));
    }
    context.streamed = Some(Streamed::Entry(draft));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_over_the_time_and_hands_back_the_value() {
        use crate::command::alone::Alone;
        use crate::table::{Eviction, Options};

        let options = Options { buckets: 100, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(16 << 20, &options);
        let bulk = |value: &str| format!("${}\r\n{value}\r\n", value.len());
        let (small, large) = ("small".to_owned(), "large".repeat(limits::LARGE_VALUE_SIZE));
        for [first, second] in [[&small, &large], [&large, &small], [&small, &small], [&large, &large]] {
            let mut set = |value: &str, options: &str| {
                let words: Vec<&str> = ["key", value].into_iter().chain(options.split_whitespace()).collect();
                alone.run("SET", &words).1
            };
            assert_eq!(set(first, "XX GET"), "$-1\r\n", "there is none, and none is written");
            assert_eq!(set(first, "GET KEEPTTL NX"), "$-1\r\n", "there is none, and one is written");
            assert_eq!(set(second, "NX GET"), bulk(first), "there is one, and none is written");
            assert_eq!(set(second, "GET PX 500000"), bulk(first));
            assert_eq!(set(first, "XX KEEPTTL"), "+OK\r\n");
            assert_eq!(set(second, "KEEPTTL GET"), bulk(first));
            let left = alone.run("PTTL", &["key"]).1;
            assert!((400_000..=500_000).contains(&left[1..].trim_end().parse::<u32>().unwrap()), "{left}");
            assert_eq!(alone.run("GETDEL", &["key"]).1, bulk(second));
        }
        // A time that is over: there is no such key.
        assert_eq!(alone.run("SET", &["key", "value", "PXAT", "1"]).1, "+OK\r\n");
        assert_eq!(alone.run("GET", &["key"]).1, "$-1\r\n");
        assert_eq!(alone.writer.table().reclaimer().holds(), 0);
    }

    /// It was once copied in one go, however large.
    #[test]
    fn a_large_value_is_copied_a_piece_a_turn() {
        use crate::command::alone::Alone;
        use crate::table::lookup::Buffer;
        use crate::table::{Eviction, Lookup, Options};

        let options = Options { buckets: 100, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(16 << 20, &options);
        let mut set = |value: &[u8], condition: &str| {
            let arguments = [b"key", value, condition.as_bytes()];
            let arguments = if condition.is_empty() { &arguments[..2] } else { &arguments };
            alone.run("SET", arguments)
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
