//! Sealed words: a number of up to 48 bits, and 16 bits that are computed from it and from the place where it belongs.
//! So a word that was damaged by accident, or has come to another place, is told from others.

const SHIFT: u32 = 48;

/// The word for a number of up to 48 bits, at a place.
pub fn seal(number: u64, place: u64) -> u64 {
    debug_assert!(number >> SHIFT == 0);
    number | check(number, place) << SHIFT
}

/// The number in a word at a place; `None` if it is not sealed.
pub fn unseal(word: u64, place: u64) -> Option<u64> {
    let number = word & ((1 << SHIFT) - 1);
    (word >> SHIFT == check(number, place)).then_some(number)
}

/// Sixteen bits of a product with an odd constant (the golden ratio's), twice, so that each depends on all of both.
fn check(number: u64, place: u64) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (number ^ place.rotate_left(32)).wrapping_add(1).wrapping_mul(MULTIPLIER);
    (mixed ^ mixed >> 32).wrapping_mul(MULTIPLIER) >> SHIFT
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_only_where_they_belong() {
        for number in (0..1 << 47).step_by(1_234_567_890_123).chain([0, 1, 2, (1 << 48) - 1]) {
            for place in [0, 1, 77, 16_383, 1 << 27] {
                assert_eq!(unseal(seal(number, place), place), Some(number));
                assert_eq!(unseal(seal(number, place), place + 1), None);
            }
        }
    }

    #[test]
    fn a_bit_that_has_flipped_is_noticed() {
        let words = (0..100_000_000_u64).step_by(9_973).map(|number| (seal(number, number % 7), number % 7));
        let flipped = words.flat_map(|(word, place)| (0..64).map(move |bit| unseal(word ^ 1 << bit, place)));
        let (noticed, unnoticed): (Vec<_>, Vec<_>) = flipped.partition(Option::is_none);
        // As seldom as sixteen bits are right by accident.
        assert!(unnoticed.len() * 20_000 < noticed.len(), "{} of {}", unnoticed.len(), noticed.len());
    }
}
