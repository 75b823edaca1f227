//! The arguments of a request, and how to read them.

use std::ops::Range;

use super::integer::{NOT_AN_INTEGER, parse_integer};
use super::refusal::{Refusal, shown};

/// The arguments of a request, the command's name left out: ranges of the bytes it came in.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Arguments<'a> {
    /// The arguments at `ranges` of `bytes`.
    ///
    /// # Panics
    /// Later, if a range lies outside of `bytes`: decoders check them.
    pub fn new(bytes: &'a [u8], ranges: &'a [Range<usize>]) -> Self {
        Self { bytes, ranges }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `index`.
    ///
    /// # Panics
    /// If there is none: arity is checked before a command runs.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        &self.bytes[self.ranges[index].clone()]
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Argument `index` as a 64-bit integer, in decimal digits.
    ///
    /// # Errors
    /// If it is none.
    pub fn integer(&self, index: usize) -> Result<i64, Refusal> {
        parse_integer(self.get(index)).ok_or_else(|| not_an_integer(self.get(index)))
    }
}

/// The refusal for a word that should be an integer, in Redis' words, and then the word.
pub fn not_an_integer(word: &[u8]) -> Refusal {
    Refusal::err(format_args!("{NOT_AN_INTEGER}: '{}'", shown(word)))
}
