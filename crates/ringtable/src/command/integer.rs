//! 64-bit integers in decimal digits, as requests, replies and values have them: read strictly, written quickly.

/// Most digits of a 64-bit integer, with its sign: what is longer is none, whatever it says.
pub const INTEGER_SIZE_MAX: usize = 20;

/// What Redis says of a word that should be an integer and is none.
pub const NOT_AN_INTEGER: &str = "value is not an integer or out of range";

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

/// A number in decimal digits, at the end of a place for them. Nearly every reply has a number in it, and `write!`
/// costs several times what this does.
#[inline]
pub fn decimal(value: i64, digits: &mut [u8; INTEGER_SIZE_MAX]) -> &[u8] {
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

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

    #[test]
    fn decimals_are_written_as_they_are_read() {
        for value in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(decimal(value, &mut [0; INTEGER_SIZE_MAX]), value.to_string().as_bytes());
        }
    }
}
