//! Which commands a server knows, as it tells a client that joins: so two sides of different versions can talk.
//!
//! Over a lane or rings commands are numbers, and a server ends a connection that sends a number which it does not
//! know. So its answer to a join says which ones it knows, and a client refuses the others before they are sent. Over a
//! socket commands have names, and a server that does not know one says so.
//!
//! ```text
//! digits    a hexadecimal digit for four numbers each, from number 0 on; the lowest bit is that of the lowest number
//! ```
//!
//! Digits beyond the numbers that this version may have tell of commands of a later one, which it cannot ask for. Over
//! UDP there are two words in place of digits, one in a cookie and one in the answer to a join ([`super::record`]).

use std::fmt;

use super::commands::{COMMANDS, NUMBERS_END};

/// As many as two messages over UDP have a word each for.
const WORDS: usize = 2;
const _: () = assert!(NUMBERS_END <= 64 * WORDS, "WORDS has to grow, and with it what is said over UDP");

/// Numbers of commands: those that a server knows, as far as this version may have any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known([u64; WORDS]);

impl Known {
    /// All that may be asked for: the server itself says what it does not know.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// What a server of this version knows.
    pub fn ours() -> Self {
        let mut known = Self([0; WORDS]);
        for number in COMMANDS.iter().map(|spec| usize::from(spec.number)) {
            known.0[number / 64] |= 1 << (number % 64);
        }
        known
    }

    /// What a server has said over UDP: a bit for each number, those of the lowest numbers first.
    pub fn of_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// What to say over UDP.
    pub fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// Reads what a server has said; `None` if these are no digits.
    pub fn parse(digits: &str) -> Option<Self> {
        let mut known = Self([0; WORDS]);
        for (place, digit) in digits.bytes().enumerate() {
            let bits = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            if let Some(word) = known.0.get_mut(place / 16) {
                *word |= u64::from(bits) << (4 * (place % 16));
            }
        }
        (!digits.is_empty()).then_some(known)
    }

    /// Whether the server knows the command of that number.
    #[inline]
    pub fn has(&self, number: u16) -> bool {
        let (word, bit) = (usize::from(number) / 64, number % 64);
        self.0.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }
}

/// As the server says it.
impl fmt::Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in 0..NUMBERS_END.div_ceil(4) {
            let bits = self.0[place / 16] >> (4 * (place % 16)) & 0xf;
            write!(formatter, "{bits:x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_what_it_knows() {
        let ours = Known::ours();
        assert_eq!(Known::parse(&ours.to_string()), Some(ours));
        assert_eq!(Known::of_words(ours.words()), ours);
        for number in 0..=u16::MAX {
            assert_eq!(ours.has(number), super::super::numbered(number).is_some(), "{number}");
        }
        // Numbers 0 to 48, and 50 to 61.
        assert_eq!(ours.to_string(), "ffffffffffffdff3");
    }

    #[test]
    fn servers_of_other_versions_are_understood() {
        // GET and EXPIRE alone; and all that there will ever be.
        let few = Known::parse("101").unwrap();
        assert_eq!((0..100).filter(|&number| few.has(number)).collect::<Vec<_>>(), [0, 8]);
        let many = Known::parse(&"f".repeat(10_000)).unwrap();
        assert!((0..NUMBERS_END as u16).all(|number| many.has(number)));
        for digits in ["", "F", "g", "0x1", " 1", "1 ", "-1", "\u{661}", "f\r"] {
            assert_eq!(Known::parse(digits), None, "{digits:?}");
        }
    }
}
