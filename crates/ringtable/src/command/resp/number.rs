//! The numbers and line ends of the protocol, read as they come.
//!
//! Numbers are read as strictly as Redis reads them: no leading zeros, no blanks.

use super::error::ProtocolError;

/// Which signs a number may carry. Only the integers of replies may say `+`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Minus,
    Any,
}

/// Reads `<number>\r\n` at `start`: the number and the position behind it, or `None` if it has not
/// all arrived. It judges each byte as it comes instead of looking for the line end first, so a
/// header needs no limit of its own: after 19 digits it is a number or an error. `invalid` names
/// that error, given the text up to the offending byte.
pub(super) fn read_number(
    input: &[u8],
    start: usize,
    sign: Sign,
    invalid: impl Fn(String) -> ProtocolError,
) -> Result<Option<(i64, usize)>, ProtocolError> {
    let invalid = |position: usize| {
        let text = &input[start..=position];
        Err(invalid(text.escape_ascii().to_string()))
    };
    let (negative, digits_start) = match input.get(start) {
        Some(b'-') => (true, start + 1),
        Some(b'+') if sign == Sign::Any => (false, start + 1),
        _ => (false, start),
    };
    let mut position = digits_start;
    let mut value: i64 = 0;
    loop {
        let Some(&byte) = input.get(position) else {
            return Ok(None);
        };
        let is_first = position == digits_start;
        match byte {
            b'0'..=b'9' => {
                let digit = i64::from(byte - b'0');
                // `-0`, and any digit behind a leading zero.
                let redundant = match is_first {
                    true => negative && digit == 0,
                    false => value == 0,
                };
                let extended = value.checked_mul(10).and_then(|value| match negative {
                    true => value.checked_sub(digit),
                    false => value.checked_add(digit),
                });
                match extended {
                    Some(extended) if !redundant => value = extended,
                    _ => return invalid(position),
                }
            }
            b'\r' | b'\n' if !is_first => {
                return Ok(read_crlf(input, position)?.map(|next| (value, next)));
            }
            _ => return invalid(position),
        }
        position += 1;
    }
}

/// The position behind the CR LF at `start`, or `None` if it has not arrived.
pub(super) fn read_crlf(input: &[u8], start: usize) -> Result<Option<usize>, ProtocolError> {
    for (offset, expected) in [b'\r', b'\n'].into_iter().enumerate() {
        let position = start.saturating_add(offset);
        match input.get(position) {
            None => return Ok(None),
            Some(&found) if found != expected => {
                return Err(ProtocolError::MissingCrlf { found, position });
            }
            Some(_) => {}
        }
    }
    Ok(Some(start + 2))
}

/// The value as a count, if it lies between 0 and the limit.
pub(super) fn within(value: i64, limit: usize) -> Option<usize> {
    usize::try_from(value).ok().filter(|&value| value <= limit)
}
