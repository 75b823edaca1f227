//! Values that are returned and deleted, or returned and given another time to live, as one step: `GETDEL`, `GETEX`.
//!
//! Each looks the value up and then changes the entry on condition of the version that it has found, in a loop: an
//! attempt fails only if somebody else's change succeeded in between. So what is returned is what was deleted.

use super::arguments::Arguments;
use super::context::Context;
use super::expiry::Until;
use super::lookup::{find_value, is_returnable};
use super::refusal::Refusal;
use crate::shm::clock::wall_ms;
use crate::table::{Expiry, Guard, Outcome};

/// `GETDEL key`
pub(super) fn getdel(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let key = arguments.get(0);
    while let Some(value) = find_value(context, key)? {
        is_returnable(context, value.found())?;
        if context.writer.delete_version(key, value.found().version, wall_ms) {
            value.answer(context);
            return Ok(());
        }
    }
    context.reply.nil();
    Ok(())
}

/// What `GETEX` changes.
#[derive(Clone, Copy)]
enum Change {
    Nothing,
    Until(Expiry),
    Forever,
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT time | PXAT time | PERSIST]`
pub(super) fn getex(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (key, change) = (arguments.get(0), change(arguments)?);
    while let Some(value) = find_value(context, key)? {
        let found = value.found();
        let guard = Guard::Version(found.version);
        let is_done = match change {
            Change::Nothing => true,
            Change::Forever => context.writer.renew(key, None, guard, wall_ms)? != Outcome::Refused,
            // A time that is over: the key goes, and so its value has to be one that the reply can bring.
            Change::Until(expiry) if expiry.has_passed(wall_ms()) => {
                is_returnable(context, found)?;
                context.writer.delete_version(key, found.version, wall_ms)
            }
            Change::Until(expiry) => context.writer.renew(key, Some(expiry), guard, wall_ms)? != Outcome::Refused,
        };
        if is_done {
            value.answer(context);
            return Ok(());
        }
    }
    context.reply.nil();
    Ok(())
}

/// What the options ask for.
fn change(arguments: Arguments<'_>) -> Result<Change, Refusal> {
    let syntax = || Refusal::err("syntax error");
    match arguments.len() {
        1 => Ok(Change::Nothing),
        2 if arguments.get(1).eq_ignore_ascii_case(b"PERSIST") => Ok(Change::Forever),
        3 => {
            let until = Until::of_word(arguments.get(1)).ok_or_else(syntax)?;
            Ok(Change::Until(until.expiry(arguments.get(2), "getex")?))
        }
        _ => Err(syntax()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::alone::Alone;
    use crate::limits;
    use crate::sync::{AtomicBool, Ordering};
    use crate::table::{Eviction, Options};

    fn alone() -> Alone {
        let options = Options { buckets: 8, seed: 1, workers: 2, spin_ns: 0, eviction: Eviction::Never };
        Alone::new(8 << 20, &options)
    }

    fn run(alone: &mut Alone, request: &str) -> String {
        let words: Vec<&str> = request.split(' ').collect();
        alone.run(words[0], &words[1..]).1
    }

    #[test]
    fn what_is_taken_is_gone() {
        let mut alone = alone();
        for value in [String::new(), "small".into(), "large".repeat(limits::LARGE_VALUE_SIZE)] {
            assert_eq!(alone.run("SET", &["key", value.as_str()]).1, "+OK\r\n");
            assert_eq!(run(&mut alone, "GETDEL key"), format!("${}\r\n{value}\r\n", value.len()));
            assert_eq!(run(&mut alone, "GETDEL key"), "$-1\r\n");
        }
        assert_eq!(alone.writer.table().entries(), 0);
    }

    #[test]
    fn a_value_that_is_read_gets_another_time_to_live() {
        let mut alone = alone();
        for option in ["", " EX 100", " PERSIST"] {
            assert_eq!(run(&mut alone, &format!("GETEX key{option}")), "$-1\r\n");
        }
        for value in ["v".to_owned(), "large".repeat(limits::LARGE_VALUE_SIZE)] {
            let expected = format!("${}\r\n{value}\r\n", value.len());
            alone.run("SET", &["key", value.as_str()]);
            let far = wall_ms() + 90_000;
            for (option, least, most) in [
                ("", -1, -1),
                (" PERSIST", -1, -1),
                (" EX 100", 90_000, 100_000),
                ("", 90_000, 100_000),
                (" px 1000000", 900_000, 1_000_000),
                (&format!(" PXAT {far}"), 80_000, 90_000),
                (&format!(" exat {}", far / 1_000), 80_000, 90_000),
                (" Persist", -1, -1),
            ] {
                assert_eq!(run(&mut alone, &format!("GETEX key{option}")), expected);
                let left: i64 = run(&mut alone, "PTTL key")[1..].trim_end().parse().unwrap();
                assert!((least..=most).contains(&left), "{left} ms left after GETEX{option}");
            }
            // A time that is over: the value comes a last time.
            assert_eq!(run(&mut alone, "GETEX key PXAT 1"), expected);
            assert_eq!(run(&mut alone, "GETEX key"), "$-1\r\n");
        }
    }

    #[test]
    fn wrong_options_change_nothing() {
        let mut alone = alone();
        run(&mut alone, "SET key value");
        for (option, words) in [
            ("EX", "syntax error"),
            ("KEEPTTL", "syntax error"),
            ("PERSIST 1", "syntax error"),
            ("EX one", "value is not an integer"),
            ("EX 0", "invalid expire time in 'getex' command"),
            ("PXAT -1", "invalid expire time in 'getex' command"),
        ] {
            let reply = run(&mut alone, &format!("GETEX key {option}"));
            assert!(reply.starts_with(&format!("-ERR {words}")), "{option}: {reply}");
        }
        assert_eq!(run(&mut alone, "PTTL key"), ":-1\r\n");
    }

    /// One writes number after number, and is handed back those that nobody has taken; two others take them.
    #[test]
    fn each_value_is_taken_once() {
        const VALUES: usize = 20_000;
        let mut writer = alone();
        let is_over = AtomicBool::new(false);
        let number_in = |reply: String| reply.split("\r\n").nth(1).and_then(|digits| digits.parse().ok());
        let mut taken: Vec<usize> = std::thread::scope(|scope| {
            let takers = [writer.beside(), writer.beside()].map(|mut taker| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut taken = Vec::new();
                    loop {
                        // Relaxed: looked at before the key, which has the last value before it is set.
                        let is_last = is_over.load(Ordering::Relaxed);
                        match number_in(run(&mut taker, "GETDEL key")) {
                            None if is_last => return taken,
                            number => taken.extend(number),
                        }
                    }
                })
            });
            let back: Vec<usize> =
                (0..VALUES).filter_map(|value| number_in(run(&mut writer, &format!("SET key {value} GET")))).collect();
            is_over.store(true, Ordering::Relaxed);
            takers.into_iter().flat_map(|taker| taker.join().unwrap()).chain(back).collect()
        });
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..VALUES), "a value went to two, or to nobody");
    }
}
