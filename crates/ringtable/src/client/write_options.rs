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
    /// Whether it may be evicted before.
    pub mark: Mark,
}

impl Stay {
    /// Adds the words that say so, as `SET` has them. `digits` is a place for its number.
    pub(super) fn push_words<'a>(&self, words: &mut Vec<&'a [u8]>, digits: &'a mut String) {
        if let Some(ttl_ms) = self.ttl_ms {
            *digits = ttl_ms.to_string();
            words.extend([&b"PX"[..], digits.as_bytes()]);
        }
        words.extend(self.mark.word().map(str::as_bytes));
    }
}
