//! Patterns of keys, as `SCAN` has them: `*`, `?`, `[abc]`, `[^a-z]`, and `\` before what shall mean itself.
//!
//! # Design
//!
//! A pattern is a row of elements that match a byte each, with stars between them. All ways in which the key may have
//! matched so far are followed at once, a bit each: bit `i` says that the first `i` elements have. So a key takes a few
//! steps a byte whatever the pattern, where trying one way after the other takes as many as key and pattern have bytes,
//! multiplied. The source is R. Baeza-Yates and G. Gonnet, "A new approach to text searching", CACM 35(10), 1992.
//!
//! The pattern that most ask for is a prefix, and a star behind it. That is compared, whatever its length.

use super::refusal::Refusal;

const WORDS: usize = 4;
/// Most elements of a pattern; the last bit says that all have matched.
const ELEMENTS_MAX: usize = 64 * WORDS - 1;

type Bits = [u64; WORDS];

/// A pattern, made ready.
pub(super) enum Pattern {
    /// What keys begin with.
    Prefix(Vec<u8>),
    /// Any other.
    Glob(Glob),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it has too many elements.
    pub fn new(pattern: &[u8]) -> Result<Self, Refusal> {
        prefix(pattern).map_or_else(|| Glob::new(pattern).map(Self::Glob), |prefix| Ok(Self::Prefix(prefix)))
    }

    /// Whether all of a key matches.
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Glob(glob) => glob.matches(key),
        }
    }
}

/// What keys begin with that match a pattern, if that is all that it says: bytes that mean themselves, and a star.
fn prefix(pattern: &[u8]) -> Option<Vec<u8>> {
    let (mut prefix, mut rest) = (Vec::new(), pattern.iter());
    loop {
        match rest.next()? {
            b'*' => return rest.all(|&byte| byte == b'*').then_some(prefix),
            b'?' | b'[' => return None,
            b'\\' => prefix.push(*rest.next()?),
            &byte => prefix.push(byte),
        }
    }
}

/// A pattern for the keys that begin with a prefix: what means something in a pattern means itself in it.
pub fn pattern_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for &byte in prefix {
        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}

/// A pattern that is followed in all ways at once.
pub(super) struct Glob {
    elements: usize,
    /// For each byte, which elements match it.
    matching: Box<[Bits; 256]>,
    /// Before which elements, or the end, there is a star.
    stars: Bits,
}

impl Glob {
    fn new(pattern: &[u8]) -> Result<Self, Refusal> {
        let mut glob = Self { elements: 0, matching: Box::new([[0; WORDS]; 256]), stars: [0; WORDS] };
        let mut rest = pattern.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            if byte == b'*' {
                set(&mut glob.stars, glob.elements);
                continue;
            }
            if glob.elements == ELEMENTS_MAX {
                return Err(Refusal::err(format_args!(
                    "the pattern has more than {ELEMENTS_MAX} characters that are no stars"
                )));
            }
            match byte {
                b'?' => (0..=255).for_each(|byte| glob.allow(byte)),
                b'[' => glob.allow_class(&mut rest),
                b'\\' => {
                    let byte = rest.next().unwrap_or(b'\\');
                    glob.allow(byte);
                }
                byte => glob.allow(byte),
            }
            glob.elements += 1;
        }
        Ok(glob)
    }

    /// Lets the element that is being read match a byte.
    fn allow(&mut self, byte: u8) {
        set(&mut self.matching[usize::from(byte)], self.elements);
    }

    /// The same for all bytes of a class, which ends with its bracket or with the pattern.
    fn allow_class(&mut self, rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>) {
        let is_inverted = rest.next_if_eq(&b'^').is_some();
        let mut class = [false; 256];
        while let Some(byte) = rest.next().filter(|&byte| byte != b']') {
            // As Redis reads it: what is escaped begins no range, and any byte ends one, a bracket too.
            if byte == b'\\'
                && let Some(escaped) = rest.next()
            {
                class[usize::from(escaped)] = true;
                continue;
            }
            let mut last = byte;
            if rest.next_if_eq(&b'-').is_some() {
                match rest.next() {
                    Some(end) => last = end,
                    None => class[usize::from(b'-')] = true,
                }
            }
            (byte.min(last)..=byte.max(last)).for_each(|byte| class[usize::from(byte)] = true);
        }
        (0..=255).filter(|&byte| class[usize::from(byte)] != is_inverted).for_each(|byte| self.allow(byte));
    }

    fn matches(&self, key: &[u8]) -> bool {
        let mut ways: Bits = [0; WORDS];
        set(&mut ways, 0);
        for &byte in key {
            let matching = &self.matching[usize::from(byte)];
            let (mut carry, mut any) = (0, 0);
            for (word, way) in ways.iter_mut().enumerate() {
                let matched = *way & matching[word];
                *way = matched << 1 | carry | *way & self.stars[word];
                carry = matched >> 63;
                any |= *way;
            }
            if any == 0 {
                return false;
            }
        }
        ways[self.elements / 64] >> (self.elements % 64) & 1 == 1
    }
}

fn set(bits: &mut Bits, index: usize) {
    bits[index / 64] |= 1 << (index % 64);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One way after the other: slow, and plain to see.
    fn matches(pattern: &[u8], key: &[u8]) -> bool {
        match (pattern, key) {
            ([], _) => key.is_empty(),
            ([b'*', rest @ ..], _) => (0..=key.len()).any(|skipped| matches(rest, &key[skipped..])),
            (_, []) => false,
            ([b'?', rest @ ..], [_, key @ ..]) => matches(rest, key),
            ([b'\\', byte, rest @ ..] | [byte, rest @ ..], [first, key @ ..]) => byte == first && matches(rest, key),
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        for (pattern, fits, others) in [
            ("", &[""][..], &["a"][..]),
            ("*", &["", "a", "*", "\n"], &[]),
            ("user:*", &["user:", "user:1"], &["user", "auser:1"]),
            ("h?llo", &["hello", "h?llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo"]),
            ("h[^e]llo", &["hallo", "h^llo"], &["hello", "hllo"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]),
            ("[c-a]", &["a", "b", "c"], &["d"]),
            ("[a-]", &["a", "]", "_"], &["b", "-"]),
            ("[a-]b]c", &["]c", "bc"], &["-c", "c"]),
            ("[a-", &["a", "-"], &["b"]),
            (r"[\b-z]", &["b", "-", "z"], &["c", "\\"]),
            (r"[a\-z]", &["a", "-", "z"], &["b", "\\"]),
            (r"[^\b-z]", &["c", "\\"], &["b", "-", "z"]),
            (r"[a-\]]", &["a]", "\\]", "^]"], &["a", "]"]),
            ("[]", &[], &["", "]"]),
            ("[ab", &["a", "b"], &["[ab"]),
            (r"[\]]", &["]"], &["\\"]),
            (r"\*\?", &["*?"], &["ab", r"\*\?"]),
            ("\\", &["\\"], &[""]),
            ("**a**", &["a", "bab"], &["", "b"]),
        ] {
            let glob = Pattern::new(pattern.as_bytes()).unwrap();
            for key in fits {
                assert!(glob.matches(key.as_bytes()), "{pattern:?} fits {key:?}");
            }
            for key in others {
                assert!(!glob.matches(key.as_bytes()), "{pattern:?} does not fit {key:?}");
            }
        }
    }

    #[test]
    fn all_ways_at_once_come_to_the_same_as_one_after_the_other() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let mut word = |letters: &[u8], most| -> Vec<u8> {
                (0..random.usize(..=most)).map(|_| letters[random.usize(..letters.len())]).collect()
            };
            let (pattern, key) = (word(b"ab*?\\", 8), word(b"ab", 10));
            for said in [Glob::new(&pattern).unwrap().matches(&key), Pattern::new(&pattern).unwrap().matches(&key)] {
                assert_eq!(said, matches(&pattern, &key), "{pattern:?} {key:?}");
            }
        }
    }

    #[test]
    fn a_prefix_is_compared() {
        for (pattern, expected) in [
            ("*", Some("")),
            ("user:**", Some("user:")),
            (r"\*\[\\*", Some(r"*[\")),
            ("user", None),
            ("u?er*", None),
            ("user*1", None),
            ("[u]ser*", None),
            (r"user\*", None),
            ("user\\", None),
        ] {
            assert_eq!(prefix(pattern.as_bytes()).as_deref(), expected.map(str::as_bytes), "{pattern}");
        }
        for (prefix, expected) in [("", "*"), ("user:", "user:*"), (r"a*b?[c]\", r"a\*b\?\[c]\\*")] {
            let pattern = pattern_of_prefix(prefix.as_bytes());
            assert_eq!(pattern, expected.as_bytes());
            assert_eq!(super::prefix(&pattern).as_deref(), Some(prefix.as_bytes()));
        }
        let long = [vec![b'a'; 10 * ELEMENTS_MAX], vec![b'*']].concat();
        assert!(Pattern::new(&long).unwrap().matches(&long));
    }

    #[test]
    fn a_pattern_has_an_end() {
        let long = vec![b'a'; ELEMENTS_MAX];
        assert!(Glob::new(&long).unwrap().matches(&long));
        assert!(Glob::new(&[b"*", &long[..], b"*"].concat()).unwrap().matches(&[b'a'; 1_000]));
        assert!(Glob::new(&vec![b'a'; ELEMENTS_MAX + 1]).is_err());
        assert!(Glob::new(&vec![b'*'; 1 << 20]).unwrap().matches(&long));
    }
}
