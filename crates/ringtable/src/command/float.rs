//! Numbers with a fraction, as `INCRBYFLOAT` reads and writes them.
//!
//! They are 64-bit floating-point numbers, as Python's. What is written has no exponent and no zeroes at its end, and
//! as many digits as it takes to read the same number back, which are 17 significant ones at most.

/// Most bytes of a number: more than the longest has that is written, which is that of some denormal with a sign.
pub const FLOAT_SIZE_MAX: usize = 352;

/// What Redis says of a word that should be a number and is none.
pub const NOT_A_FLOAT: &str = "value is not a valid float";

/// A number in decimal digits, with or without a fraction and an exponent; also an infinite one, as Redis has it.
pub fn parse_float(bytes: &[u8]) -> Option<f64> {
    if bytes.len() > FLOAT_SIZE_MAX {
        return None;
    }
    let number: f64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

/// A finite number in decimal digits.
pub fn float_digits(number: f64) -> String {
    // Zero has no sign.
    (number + 0.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_an_exponent_and_read_back() {
        for (number, digits) in [
            (0.0, "0"),
            (-0.0, "0"),
            (3.0, "3"),
            (10.6, "10.6"),
            (-2.5e-7, "-0.00000025"),
            (5_000.0, "5000"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e22, "10000000000000000000000"),
        ] {
            assert_eq!(float_digits(number), digits);
        }
        for number in [f64::MIN, f64::MIN_POSITIVE, -5e-324, -2.225_073_858_507_201e-308, 1.797_693_134_862_315_5e308] {
            let digits = float_digits(number);
            assert_eq!(parse_float(digits.as_bytes()), Some(number));
            assert!(digits.len() < FLOAT_SIZE_MAX && !digits.contains('e'), "{digits}");
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for (text, number) in [("5.0e3", 5_000.0), ("+1", 1.0), (".5", 0.5), ("7.", 7.0), ("inf", f64::INFINITY)] {
            assert_eq!(parse_float(text.as_bytes()), Some(number));
        }
        let long = "0".repeat(FLOAT_SIZE_MAX + 1);
        for text in ["", "-", " 1", "1 ", "1,5", "abc", "nan", "0x10", "1e", "\u{661}", &long] {
            assert_eq!(parse_float(text.as_bytes()), None, "{text:?}");
        }
    }
}
