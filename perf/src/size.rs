//! Sizes and spans of time as fio spells them: `4k`, `512m`, `1g`; `5`, `5s`, `200ms`.
//!
//! Called by the option parser only.

use std::time::Duration;

/// Why a text is no size or span; each says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a known unit.
    #[error("\"{text}\" is not a size: write bytes, or a number with k, m, g or t (of 1024)")]
    Size {
        /// The text.
        text: String,
    },
    /// Not a number with a known unit.
    #[error("\"{text}\" is not a time: write seconds, or a number with us, ms, s or m")]
    Span {
        /// The text.
        text: String,
    },
}

/// Parses a size; the unit is a power of 1024, with or without `b` or `ib` behind it.
///
/// # Errors
///
/// `Size` when it is none, or above 2^64 bytes.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let error = || ParseError::Size { text: text.to_owned() };
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(error()),
    };
    let number: u64 = digits.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// Parses a span of time; seconds when there is no unit.
///
/// # Errors
///
/// `Span` when it is none, or negative, or longer than a `Duration` holds.
pub fn parse_span(text: &str) -> Result<Duration, ParseError> {
    let error = || ParseError::Span { text: text.to_owned() };
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(end);
    let seconds_per_unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(error()),
    };
    let number: f64 = digits.parse().map_err(|_| error())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("128KiB"), Ok(131_072));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("16777215t"), Ok(16_777_215 << 40));
        for wrong in ["", "k", "4x", "-1", "1.5k", "16777216t"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_are_seconds_unless_they_say_otherwise() {
        assert_eq!(parse_span("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_span("0.2"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_span("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_span("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "1h", "-1", "1.2.3"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
