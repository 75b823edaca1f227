//! How a write is done: when it returns, on which condition, and how long its entry stays.

use crate::table::Mark;

/// When a write returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// When every process sees it.
    #[default]
    Acknowledged,
    /// When it is on its way.
    Posted,
}

/// When a `set` is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    #[default]
    Always,
    /// If the key is absent.
    Absent,
    /// If the key is there.
    Present,
}

/// How long an entry stays: what a write says of it besides key, value and condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// Milliseconds after which it is gone; `None` for never.
    pub ttl_ms: Option<u64>,
    /// Whether it stays, in place of that, as long as the entry would have that it replaces.
    pub keeps_ttl: bool,
    /// Whether it may be evicted before.
    pub mark: Mark,
}

/// The words of a `SET` behind its name: the one place that knows how the options are spelled.
///
/// An array, since a set allocates nothing else.
pub(super) struct SetWords<'a> {
    words: [&'a [u8]; SET_WORDS_MAX],
    count: usize,
}

/// Key and value, `PX` and a number, a mark, and `IFVERSION` and a number, or one of `NX` and `XX`.
const SET_WORDS_MAX: usize = 7;

impl<'a> SetWords<'a> {
    #[inline]
    pub fn new(key: &'a [u8], value: &'a [u8]) -> Self {
        Self { words: [key, value, b"", b"", b"", b"", b""], count: 2 }
    }

    #[inline]
    fn push(&mut self, word: &'a [u8]) {
        self.words[self.count] = word;
        self.count += 1;
    }

    /// How long the entry stays. `digits` is a place for the number.
    #[inline]
    pub fn stay(&mut self, stay: Stay, digits: &'a mut String) {
        if let Some(ttl_ms) = stay.ttl_ms {
            *digits = ttl_ms.to_string();
            self.ttl(digits);
        } else if stay.keeps_ttl {
            self.push(b"KEEPTTL");
        }
        self.mark(stay.mark);
    }

    /// The time until which the entry stays, in milliseconds since 1970.
    #[inline]
    pub fn until(&mut self, digits: &'a str) {
        self.push(b"PXAT");
        self.push(digits.as_bytes());
    }

    /// Whether the entry may be evicted.
    #[inline]
    pub fn mark(&mut self, mark: Mark) {
        if let Some(word) = mark.word() {
            self.push(word.as_bytes());
        }
    }

    /// The time to live, in milliseconds.
    #[inline]
    pub fn ttl(&mut self, digits: &'a str) {
        self.push(b"PX");
        self.push(digits.as_bytes());
    }

    #[inline]
    pub fn condition(&mut self, condition: Condition) {
        match condition {
            Condition::Always => {}
            Condition::Absent => self.push(b"NX"),
            Condition::Present => self.push(b"XX"),
        }
    }

    /// Only if the key has this version still, instead of any other condition.
    pub fn if_version(&mut self, digits: &'a str) {
        self.push(b"IFVERSION");
        self.push(digits.as_bytes());
    }

    #[inline]
    pub fn as_slice(&self) -> &[&'a [u8]] {
        &self.words[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(words: &SetWords<'_>) -> String {
        String::from_utf8(words.as_slice().join(&b' ')).unwrap()
    }

    #[test]
    fn all_options_at_a_time_fit() {
        let (stay, mut digits) =
            (Stay { ttl_ms: Some(u64::MAX), keeps_ttl: false, mark: Mark::Unevictable }, String::new());
        let mut words = SetWords::new(b"key", b"value");
        words.stay(stay, &mut digits);
        words.if_version("7");
        assert_eq!(spelled(&words), "key value PX 18446744073709551615 UNEVICTABLE IFVERSION 7");
    }

    #[test]
    fn what_goes_without_saying_has_no_word() {
        for (condition, expected) in
            [(Condition::Always, "k v"), (Condition::Absent, "k v NX"), (Condition::Present, "k v XX")]
        {
            let (mut words, mut digits) = (SetWords::new(b"k", b"v"), String::new());
            words.stay(Stay::default(), &mut digits);
            words.condition(condition);
            assert_eq!(spelled(&words), expected);
        }
    }
}
