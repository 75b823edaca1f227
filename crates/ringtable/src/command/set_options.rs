//! The options of `SET`, and its reply: one place for them, however the value comes.

use super::arguments::{Arguments, not_an_integer};
use super::expiry::time_to_live;
use super::integer::parse_integer;
use super::refusal::Refusal;
use super::reply::ReplyWriter;
use crate::table::{Expiry, Guard, Mark, Outcome};

/// What `SET` is told besides key and value: `[NX | XX | IFVERSION version] [EX seconds | PX milliseconds]
/// [EVICTABLE | UNEVICTABLE]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetOptions {
    /// When it is done.
    pub guard: Guard,
    /// When the entry will be gone, counted from the moment of parsing.
    pub expiry: Option<Expiry>,
    /// Whether it may be evicted.
    pub mark: Mark,
    /// Whether the reply is the new version in place of `OK`.
    pub wants_version: bool,
}

impl SetOptions {
    /// Reads the options, which are the arguments from number `first` on.
    ///
    /// # Errors
    /// In Redis' words, if they are none, or contradict each other.
    pub fn parse(arguments: Arguments<'_>, first: usize) -> Result<Self, Refusal> {
        let (mut options, mut index) =
            (Self { guard: Guard::Always, expiry: None, mark: Mark::AsBefore, wants_version: false }, first);
        let syntax = || Refusal::err("syntax error");
        // The number behind an option.
        let number = |index: usize| if index < arguments.len() { Ok(arguments.get(index)) } else { Err(syntax()) };
        while index < arguments.len() {
            let option = arguments.get(index);
            let unguarded = options.guard == Guard::Always;
            match option {
                _ if option.eq_ignore_ascii_case(b"NX") && unguarded => options.guard = Guard::Absent,
                _ if option.eq_ignore_ascii_case(b"XX") && unguarded => options.guard = Guard::Present,
                _ if option.eq_ignore_ascii_case(b"IFVERSION") && unguarded => {
                    index += 1;
                    options.guard = match version(number(index)?)? {
                        0 => Guard::Absent,
                        version => Guard::Version(version),
                    };
                    options.wants_version = true;
                }
                [e, b'X' | b'x'] if matches!(e, b'E' | b'e' | b'P' | b'p') && options.expiry.is_none() => {
                    index += 1;
                    let digits = number(index)?;
                    let after = parse_integer(digits).ok_or_else(|| not_an_integer(digits))?;
                    let unit_ms = if e.eq_ignore_ascii_case(&b'E') { 1_000 } else { 1 };
                    options.expiry = Some(time_to_live(after, unit_ms, "set")?);
                }
                _ if options.mark == Mark::AsBefore => options.mark = mark(option).ok_or_else(syntax)?,
                _ => return Err(syntax()),
            }
            index += 1;
        }
        Ok(options)
    }

    /// Says what became of it.
    pub fn answer(&self, outcome: Outcome, reply: &mut dyn ReplyWriter) {
        match outcome {
            Outcome::Done { version, .. } if self.wants_version => reply.integer(version as i64),
            Outcome::Done { .. } => reply.ok(),
            Outcome::Refused => reply.nil(),
        }
    }
}

/// Whether an entry may be evicted, in a word.
pub(super) fn mark(word: &[u8]) -> Option<Mark> {
    let is = |mark: &Mark| mark.word().is_some_and(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    [Mark::Unevictable, Mark::Evictable].into_iter().find(is)
}

/// The version of an entry, as a client gives it back.
pub(super) fn version(digits: &[u8]) -> Result<u64, Refusal> {
    parse_integer(digits).and_then(|version| u64::try_from(version).ok()).ok_or_else(|| not_an_integer(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<SetOptions, Refusal> {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for word in words {
            let begin = bytes.len();
            bytes.extend_from_slice(word.as_bytes());
            ranges.push(begin..bytes.len());
        }
        SetOptions::parse(Arguments::new(&bytes, &ranges), 2)
    }

    #[test]
    fn guards_exclude_each_other() {
        for (words, guard, wants_version) in [
            (&["k", "v"][..], Guard::Always, false),
            (&["k", "v", "nx"], Guard::Absent, false),
            (&["k", "v", "XX"], Guard::Present, false),
            (&["k", "v", "IfVersion", "0"], Guard::Absent, true),
            (&["k", "v", "IFVERSION", "7"], Guard::Version(7), true),
        ] {
            assert_eq!(
                parse(words),
                Ok(SetOptions { guard, expiry: None, mark: Mark::AsBefore, wants_version }),
                "{words:?}"
            );
        }
        for options in ["NX XX", "NX NX", "IFVERSION 1 NX", "XX IFVERSION 1", "IFVERSION", "IFVERSION -1", "EX", "NO"] {
            let words: Vec<&str> = ["k", "v"].into_iter().chain(options.split(' ')).collect();
            assert!(parse(&words).is_err(), "{options}");
        }
    }

    #[test]
    fn what_may_be_evicted_is_said_once() {
        let mark = |words: &[&str]| parse(words).map(|options| options.mark);
        assert_eq!(mark(&["k", "v"]), Ok(Mark::AsBefore));
        assert_eq!(mark(&["k", "v", "NX", "unevictable", "PX", "9"]), Ok(Mark::Unevictable));
        assert_eq!(mark(&["k", "v", "EVICTABLE"]), Ok(Mark::Evictable));
        assert!(mark(&["k", "v", "EVICTABLE", "UNEVICTABLE"]).is_err());
    }

    #[test]
    fn times_to_live_are_some_time() {
        assert!(parse(&["k", "v", "PX", "1", "XX"]).is_ok_and(|options| options.expiry.is_some()));
        for options in ["EX 0", "PX -1", "EX 9223372036854775807", "PX 1 EX 1", "PX one"] {
            let words: Vec<&str> = ["k", "v"].into_iter().chain(options.split(' ')).collect();
            assert!(parse(&words).is_err(), "{options}");
        }
    }
}
