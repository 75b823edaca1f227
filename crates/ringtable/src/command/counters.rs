//! Numbers that commands add to.
//!
//! Adding reads and then writes, in a loop on the entry's version: an attempt fails only if somebody else's write
//! succeeded in between.

use super::arguments::Arguments;
use super::context::Context;
use super::float::{FLOAT_SIZE_MAX, NOT_A_FLOAT, float_digits, parse_float};
use super::integer::{INTEGER_SIZE_MAX, NOT_AN_INTEGER, decimal, parse_integer};
use super::lookup::find;
use super::refusal::{Refusal, shown};
use crate::shm::clock::wall_ms;
use crate::table::{Expiry, Guard, Mark, Outcome};

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
                let no_integer = || no_number_at(NOT_AN_INTEGER, key, found.size, digits);
                let old = digits.and_then(parse_integer).ok_or_else(no_integer)?;
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

/// `INCRBYFLOAT key increment`
pub(super) fn incrbyfloat(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let (key, word) = (arguments.get(0), arguments.get(1));
    let by = parse_float(word).ok_or_else(|| Refusal::err(format_args!("{NOT_A_FLOAT}: '{}'", shown(word))))?;
    loop {
        let (old, guard, expiry) = match find(context, key, FLOAT_SIZE_MAX)? {
            Some(found) => {
                let digits = (found.size <= FLOAT_SIZE_MAX).then_some(context.scratch.bytes());
                let no_float = || no_number_at(NOT_A_FLOAT, key, found.size, digits);
                (digits.and_then(parse_float).ok_or_else(no_float)?, Guard::Version(found.version), found.expiry)
            }
            None => (0.0, Guard::Absent, None),
        };
        let sum = old + by;
        if !sum.is_finite() {
            let message = "increment would produce NaN or Infinity";
            return Err(Refusal::err(format_args!(
                "{message}: '{}' holds {old}, and {by} was to be added",
                shown(key)
            )));
        }
        let digits = float_digits(sum);
        let outcome = context.writer.put_marked(key, digits.as_bytes(), expiry, guard, Mark::AsBefore, wall_ms)?;
        if let Outcome::Done { .. } = outcome {
            context.reply.bulk(digits.as_bytes());
            return Ok(());
        }
    }
}

/// The refusal to add to what a key holds, which is no number of that kind: in Redis' words, and then what it is.
fn no_number_at(words: &str, key: &[u8], size: usize, value: Option<&[u8]>) -> Refusal {
    let value = value.map_or_else(|| format!("{size} bytes"), |value| format!("'{}'", shown(value)));
    Refusal::err(format_args!("{words}: '{}' holds {value}", shown(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_a_fraction_are_added_to_any_number() {
        use crate::command::alone::Alone;
        use crate::table::{Eviction, Options};

        let options = Options { buckets: 8, seed: 1, workers: 1, spin_ns: 0, eviction: Eviction::Never };
        let mut alone = Alone::new(4 << 20, &options);
        let mut run = |name: &str, words: &[&str]| alone.run(name, words).1;
        let bulk = |value: &str| format!("${}\r\n{value}\r\n", value.len());
        for (by, sum) in [("10.5", "10.5"), ("0.1", "10.6"), ("-5.6e0", "5"), ("5.0e3", "5005"), ("-5005", "0")] {
            assert_eq!(run("INCRBYFLOAT", &["key", by]), bulk(sum));
        }
        // What has become whole is an integer again, and keeps its time.
        assert_eq!(run("INCR", &["key"]), ":1\r\n");
        run("EXPIRE", &["key", "100"]);
        assert_eq!(run("INCRBYFLOAT", &["key", "0.5"]), bulk("1.5"));
        assert_ne!(run("TTL", &["key"]), ":-1\r\n");
        assert!(run("INCR", &["key"]).starts_with("-ERR value is not an integer or out of range: 'key' holds '1.5'"));
        assert!(run("INCRBYFLOAT", &["key", "nan"]).starts_with("-ERR value is not a valid float: 'nan'"));
        run("SET", &["text", "abc"]);
        let refused = run("INCRBYFLOAT", &["text", "1"]);
        assert!(refused.starts_with("-ERR value is not a valid float: 'text' holds 'abc'"), "{refused}");
        for [first, second] in [["0", "inf"], ["1.7e308", "1.7e308"], ["-1.7e308", "-1.7e308"]] {
            run("SET", &["key", first]);
            let refused = run("INCRBYFLOAT", &["key", second]);
            assert!(refused.starts_with("-ERR increment would produce NaN or Infinity: 'key' holds"), "{refused}");
        }
    }

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
}
