//! Strings that Redis has compressed: the format of LibLZF, which is a row of two kinds of pieces.
//!
//! ```text
//! 000lllll                      l + 1 bytes as they are
//! lllooooo oooooooo             l + 2 bytes that stood o + 1 bytes before here; l is 1 to 6
//! 111ooooo llllllll oooooooo    the same for l + 7 and 2, that is l + 9 bytes
//! ```
//!
//! Source of the format: M. Lehmann, LibLZF, 2000.

/// What was compressed, if it has exactly `size` bytes; `None` if the input is damaged. The memory for it is there.
pub(super) fn decompress(input: &[u8], size: usize, out: &mut Vec<u8>) -> Option<()> {
    let begin = out.len();
    let mut at = 0;
    while let Some(&control) = input.get(at) {
        let control = usize::from(control);
        at += 1;
        let room = size - (out.len() - begin);
        if control < 32 {
            let piece = input.get(at..at + control + 1)?;
            if piece.len() > room {
                return None;
            }
            out.extend_from_slice(piece);
            at += piece.len();
            continue;
        }
        let mut count = (control >> 5) + 2;
        if count == 9 {
            count += usize::from(*input.get(at)?);
            at += 1;
        }
        let distance = ((control & 31) << 8 | usize::from(*input.get(at)?)) + 1;
        at += 1;
        if count > room || distance > out.len() - begin {
            return None;
        }
        // Byte by byte: what is copied may be what was copied before.
        for _ in 0..count {
            out.push(out[out.len() - distance]);
        }
    }
    (out.len() - begin == size).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(input: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        decompress(input, size, &mut out).map(|()| out.split_off(6))
    }

    #[test]
    fn pieces_are_copied_as_they_are_or_from_before() {
        assert_eq!(of(&[2, b'a', b'b', b'c'], 3).unwrap(), b"abc");
        assert_eq!(of(&[0, b'a', 0x20, 0], 4).unwrap(), b"aaaa", "from what is just being copied");
        assert_eq!(of(&[1, b'a', b'b', 0xe0, 1, 1], 12).unwrap(), b"abababababab");
        assert_eq!(of(&[], 0).unwrap(), b"");
    }

    #[test]
    fn what_is_damaged_is_none() {
        for (input, size) in [
            (&[2, b'a', b'b'][..], 3),
            (&[0x20], 3),
            (&[0xe0, 1], 3),
            (&[0, b'a', 0x20, 1], 4),
            (&[0x20, 0], 3),
            (&[2, b'a', b'b', b'c'], 2),
            (&[2, b'a', b'b', b'c'], 4),
            (&[0, b'a', 0x20, 0], 3),
        ] {
            assert_eq!(of(input, size), None, "{input:?} {size}");
        }
    }
}
