//! How a key is written: on which condition, until when, and what that says of the entry that was there.
//!
//! # Invariants
//!
//! - What a write takes over from the entry that it replaces, and what it hands back of it, is that of the moment at
//!   which the new entry takes its place: the bucket is locked.

use super::entry::Expiry;
use super::guard::Guard;
use super::unevictable::Mark;

/// Until when an entry is there that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until this, or for ever.
    Until(Option<Expiry>),
    /// As the one that it replaces; for ever if there is none.
    AsBefore,
}

impl Lifetime {
    /// The expiry, as far as it is known before the bucket is locked.
    #[inline]
    pub(super) fn known(self) -> Option<Expiry> {
        match self {
            Self::Until(expiry) => expiry,
            Self::AsBefore => None,
        }
    }

    /// Whether the entry needs the word for an expiry, whatever its size.
    #[inline]
    pub(super) fn needs_word(self) -> bool {
        self != Self::Until(None)
    }
}

/// How a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// When it is done.
    pub guard: Guard,
    /// Until when the entry is there.
    pub lifetime: Lifetime,
    /// Whether it may be evicted.
    pub mark: Mark,
    /// Whether the entry that was there is kept for [`super::Writer::take_replaced`], also if the guard does not hold.
    pub wants_old: bool,
}

impl Manner {
    /// A write of which nobody wants to know what was there.
    #[inline]
    pub fn new(guard: Guard, expiry: Option<Expiry>, mark: Mark) -> Self {
        Self { guard, lifetime: Lifetime::Until(expiry), mark, wants_old: false }
    }
}
