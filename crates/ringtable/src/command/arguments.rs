//! The arguments of a request, and how to read them.

use std::ops::Range;

use super::{Refusal, shown};

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

/// Most digits of a 64-bit integer, with its sign: what is longer is none, whatever it says.
pub const INTEGER_SIZE_MAX: usize = 20;

/// A 64-bit integer in decimal digits, as strictly as Redis: no blanks, no plus sign, no leading zeroes.
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let text = short_text(bytes)?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0') || text == "-0";
    if canonical && !leading_zero { text.parse().ok() } else { None }
}

/// A 64-bit integer without a sign, in decimal digits, as of a cursor.
pub fn parse_cursor(bytes: &[u8]) -> Option<u64> {
    short_text(bytes)?.parse().ok()
}

/// What may be an integer, as text. Its size is looked at first: an argument may have half a gigabyte.
fn short_text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > INTEGER_SIZE_MAX { None } else { std::str::from_utf8(bytes).ok() }
}

/// The refusal for a word that should be an integer, in Redis' words, and then the word.
pub fn not_an_integer(word: &[u8]) -> Refusal {
    Refusal::err(format_args!("{NOT_AN_INTEGER}: '{}'", shown(word)))
}

/// What Redis says of it.
pub const NOT_AN_INTEGER: &str = "value is not an integer or out of range";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_strictly() {
        let largest = i64::MAX.to_string();
        for (text, value) in [("0", 0), ("-7", -7), (largest.as_str(), i64::MAX), ("-9223372036854775808", i64::MIN)] {
            assert_eq!(parse_integer(text.as_bytes()), Some(value));
        }
        for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1.0", "9223372036854775808", "0x1", "\u{661}"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn cursors_have_as_many_digits_as_64_bits_give() {
        assert_eq!(parse_cursor(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "-1", "18446744073709551616", "000000000000000000000", "\u{661}"] {
            assert_eq!(parse_cursor(text.as_bytes()), None, "{text:?}");
        }
    }
}
