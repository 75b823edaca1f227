//! The options of `SET`, and its reply: one place for them, however the value comes.

use super::arguments::{Arguments, not_an_integer};
use super::expiry::Until;
use super::integer::parse_integer;
use super::refusal::Refusal;
use super::reply::ReplyWriter;
use crate::limits;
use crate::shm::segment::Mapping;
use crate::table::{Guard, HeldEntry, Lifetime, Manner, Mark, Outcome};

/// What `SET` is told besides key and value: `[NX | XX | IFVERSION version] [GET]
/// [(EX | PX | EXAT | PXAT) time | KEEPTTL] [EVICTABLE | UNEVICTABLE]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetOptions {
    /// On which condition, until when (spans are counted from the moment of parsing), and whether the reply is the old
    /// value.
    pub manner: Manner,
    /// Whether the reply is the new version in place of `OK`.
    pub wants_version: bool,
}

impl SetOptions {
    /// Reads the options, which are the arguments from number `first` on.
    ///
    /// # Errors
    /// In Redis' words, if they are none, or contradict each other.
    pub fn parse(arguments: Arguments<'_>, first: usize) -> Result<Self, Refusal> {
        let mut manner = Manner::new(Guard::Always, None, Mark::AsBefore);
        let (mut wants_version, mut index) = (false, first);
        let syntax = || Refusal::err("syntax error");
        // The number behind an option.
        let number = |index: usize| if index < arguments.len() { Ok(arguments.get(index)) } else { Err(syntax()) };
        while index < arguments.len() {
            let option = arguments.get(index);
            let unguarded = manner.guard == Guard::Always;
            let is_lasting = manner.lifetime == Lifetime::Until(None);
            match option {
                _ if option.eq_ignore_ascii_case(b"NX") && unguarded => manner.guard = Guard::Absent,
                _ if option.eq_ignore_ascii_case(b"XX") && unguarded => manner.guard = Guard::Present,
                _ if option.eq_ignore_ascii_case(b"IFVERSION") && unguarded && !manner.wants_old => {
                    index += 1;
                    manner.guard = match version(number(index)?)? {
                        0 => Guard::Absent,
                        version => Guard::Version(version),
                    };
                    wants_version = true;
                }
                _ if option.eq_ignore_ascii_case(b"GET") && !manner.wants_old && !wants_version => {
                    manner.wants_old = true;
                }
                _ if option.eq_ignore_ascii_case(b"KEEPTTL") && is_lasting => manner.lifetime = Lifetime::AsBefore,
                _ => match Until::of_word(option).filter(|_| is_lasting) {
                    Some(until) => {
                        index += 1;
                        manner.lifetime = Lifetime::Until(Some(until.expiry(number(index)?, "set")?));
                    }
                    None if manner.mark == Mark::AsBefore => manner.mark = mark(option).ok_or_else(syntax)?,
                    None => return Err(syntax()),
                },
            }
            index += 1;
        }
        Ok(Self { manner, wants_version })
    }

    /// Says what became of it, or what was there before.
    pub fn answer(&self, outcome: Outcome, old: Option<HeldEntry<Mapping>>, reply: &mut dyn ReplyWriter) {
        match outcome {
            _ if self.manner.wants_old => match old {
                Some(old) if old.found().size >= limits::LARGE_VALUE_SIZE => reply.value(old),
                Some(old) => reply.bulk(old.bytes()),
                None => reply.nil(),
            },
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
            let manner = Manner::new(guard, None, Mark::AsBefore);
            assert_eq!(parse(words), Ok(SetOptions { manner, wants_version }), "{words:?}");
        }
        for options in ["NX XX", "NX NX", "IFVERSION 1 NX", "XX IFVERSION 1", "IFVERSION", "IFVERSION -1", "EX", "NO"] {
            let words: Vec<&str> = ["k", "v"].into_iter().chain(options.split(' ')).collect();
            assert!(parse(&words).is_err(), "{options}");
        }
    }

    #[test]
    fn what_may_be_evicted_is_said_once() {
        let mark = |words: &[&str]| parse(words).map(|options| options.manner.mark);
        assert_eq!(mark(&["k", "v"]), Ok(Mark::AsBefore));
        assert_eq!(mark(&["k", "v", "NX", "unevictable", "PX", "9"]), Ok(Mark::Unevictable));
        assert_eq!(mark(&["k", "v", "EVICTABLE"]), Ok(Mark::Evictable));
        assert!(mark(&["k", "v", "EVICTABLE", "UNEVICTABLE"]).is_err());
    }

    #[test]
    fn times_to_live_are_some_time() {
        let lifetime = |options: &str| {
            let words: Vec<&str> = ["k", "v"].into_iter().chain(options.split(' ')).collect();
            parse(&words).map(|options| options.manner.lifetime)
        };
        assert!(matches!(lifetime("PX 1 XX"), Ok(Lifetime::Until(Some(_)))));
        assert_eq!(lifetime("keepttl GET"), Ok(Lifetime::AsBefore));
        // A time may be over already.
        assert_eq!(lifetime("EXAT 1700000000"), lifetime("PXAT 1700000000000"));
        assert_eq!(lifetime("NX PXAT 1"), Ok(Lifetime::Until(Some(crate::table::Expiry(1)))));
        let far = i64::MAX.to_string();
        let too_far = ["EX", "EXAT", "PXAT"].map(|option| format!("{option} {far}"));
        let too_far = too_far.each_ref().map(String::as_str);
        let others = ["EX 0", "PX -1", "PXAT 0", "EXAT -1", "PX 1 EX 1", "PX one", "KEEPTTL PX 1", "EXAT 1 KEEPTTL"];
        for options in [&too_far[..], &others, &["GET GET", "GET IFVERSION 1", "IFVERSION 1 GET"]].concat() {
            let words: Vec<&str> = ["k", "v"].into_iter().chain(options.split(' ')).collect();
            assert!(parse(&words).is_err(), "{options}");
        }
    }
}
