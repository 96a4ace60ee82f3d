//! How long a caller waits, as it says in the header `grpc-timeout`.
//!
//! The text is up to eight digits and a unit ("PROTOCOL-HTTP2" of gRPC). The transport ends the
//! call then with words of its own; the engine is given a little less, so that its words, which
//! say how far the change has come, arrive first.

use std::time::Duration;

use engine::command::limits::WITHIN_MAX;
use tonic::metadata::MetadataMap;

const HEADER: &str = "grpc-timeout";

/// Most digits of the number.
const DIGITS_MAX: usize = 8;

/// Most of a caller's time that is kept for the way back.
const WAY_BACK_MAX: Duration = Duration::from_millis(250);

/// Least time that the engine is given.
const WITHIN_MIN: Duration = Duration::from_millis(1);

/// This part of a short time is kept.
const WAY_BACK_PART: u32 = 4;

/// How long the engine has for what a caller waits for; none leaves it to the engine. A header that
/// is no time counts as none, as it does for the transport.
pub(super) fn of(metadata: &MetadataMap) -> Option<Duration> {
    let time = parse(metadata.get(HEADER)?.to_str().ok()?)?;
    let kept = (time / WAY_BACK_PART).min(WAY_BACK_MAX);
    Some((time - kept).clamp(WITHIN_MIN, WITHIN_MAX))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || digits.len() > DIGITS_MAX || !is_number {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_known_and_eight_digits_are_the_most() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("5m"), Some(Duration::from_millis(5)));
        assert_eq!(parse("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        for text in ["", "S", "5", "5s", "+5S", "100000000S", "1ü", "5 S"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn some_of_the_time_is_kept_for_the_way_back() {
        let given = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(HEADER, text.parse().unwrap());
            of(&metadata)
        };
        assert_eq!(given("10S"), Some(Duration::from_millis(9750)));
        assert_eq!(given("100m"), Some(Duration::from_millis(75)));
        assert_eq!(given("0n"), Some(WITHIN_MIN));
        assert_eq!(given("99999999H"), Some(WITHIN_MAX), "what the engine would refuse");
        assert_eq!(given("soon"), None);
        assert_eq!(of(&MetadataMap::new()), None);
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}
