//! Text keys: `key=value` pairs of login and text requests.
//!
//! Parsed off the path of I/O, from data that is gathered whole. RFC 7143 sections 6.1 and 6.2.

use thiserror::Error;

/// Longest key name (RFC 7143 section 6.1).
pub const KEY_BYTES_MAX: usize = 63;
/// Longest value that is taken; the longest legal one is a CHAP challenge of 1024 bytes in hex.
pub const VALUE_BYTES_MAX: usize = 2200;
/// Pairs of one request.
pub const PAIRS_MAX: usize = 64;

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// It is not UTF-8, or has a pair without `=`, or one that does not end.
    #[error("not a list of key=value pairs, each ended by a zero")]
    Malformed,
    /// A key is empty or too long.
    #[error("a key of no or more than {KEY_BYTES_MAX} bytes")]
    KeyLength,
    /// A value is too long.
    #[error("a value of more than {VALUE_BYTES_MAX} bytes")]
    ValueLength,
    /// There are too many pairs.
    #[error("more than {PAIRS_MAX} keys")]
    TooMany,
}

/// Key and value.
pub type Pair<'a> = (&'a str, &'a str);

/// The pairs of a text, in order.
pub fn parse(bytes: &[u8]) -> Result<Vec<Pair<'_>>, TextError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TextError::Malformed)?;
    let mut pairs = Vec::new();
    // Some initiators pad with zeroes: empty pairs are nothing.
    if !text.is_empty() && !text.ends_with('\0') {
        return Err(TextError::Malformed);
    }
    for pair in text.split('\0').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(TextError::Malformed)?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(TextError::KeyLength);
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(TextError::ValueLength);
        }
        if pairs.len() == PAIRS_MAX {
            return Err(TextError::TooMany);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Appends a pair.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number of a value: decimal, or hexadecimal after `0x`.
pub fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if value.starts_with('+') => None,
        None => value.parse().ok(),
    }
}

/// The bytes of a binary value in hexadecimal after `0x`. Base64 is not taken.
pub fn binary(value: &str) -> Option<Vec<u8>> {
    let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"))?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|one| u8::try_from(one).ok());
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs.map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

/// A binary value in hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what it is given");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_found_and_padding_is_nothing() {
        assert_eq!(parse(b"A=1\0B=x=y\0\0\0"), Ok(vec![("A", "1"), ("B", "x=y")]));
        assert_eq!(parse(b""), Ok(vec![]));
    }

    #[test]
    fn what_is_no_list_of_pairs_is_refused() {
        assert_eq!(parse(b"A=1"), Err(TextError::Malformed));
        assert_eq!(parse(b"A\0"), Err(TextError::Malformed));
        assert_eq!(parse(b"=1\0"), Err(TextError::KeyLength));
        assert_eq!(parse(b"\xff=1\0"), Err(TextError::Malformed));
    }

    #[test]
    fn each_limit_holds_at_the_limit_and_fails_one_past_it() {
        let pair = |key: usize, value: usize| {
            let mut text = Vec::new();
            push(&mut text, &"k".repeat(key), &"v".repeat(value));
            text
        };
        assert!(parse(&pair(KEY_BYTES_MAX, VALUE_BYTES_MAX)).is_ok());
        assert_eq!(parse(&pair(KEY_BYTES_MAX + 1, 1)), Err(TextError::KeyLength));
        assert_eq!(parse(&pair(1, VALUE_BYTES_MAX + 1)), Err(TextError::ValueLength));
        assert!(parse(&pair(1, 1).repeat(PAIRS_MAX)).is_ok());
        assert_eq!(parse(&pair(1, 1).repeat(PAIRS_MAX + 1)), Err(TextError::TooMany));
    }

    #[test]
    fn numbers_have_two_spellings() {
        assert_eq!((number("12"), number("0x1F")), (Some(12), Some(31)));
        assert_eq!((number("+1"), number("4294967296"), number("")), (None, None, None));
    }

    proptest! {
        #[test]
        fn binary_values_come_back(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(binary(&hexadecimal(&bytes)), Some(bytes));
        }

        #[test]
        fn any_bytes_are_pairs_or_an_error(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
