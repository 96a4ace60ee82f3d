//! NVMe qualified names: who a host or subsystem is.
//!
//! Parsed from connect data and configuration, kept by value. NVMe Base 2.0 section 4.5.

use core::fmt;
use core::str::FromStr;

/// Longest name in bytes, without its terminating NUL.
pub const NQN_BYTES_MAX: usize = 223;
/// Length of the fields that hold a name on the wire.
pub const NQN_FIELD_BYTES: usize = 256;
/// The name that every discovery service answers to.
pub const DISCOVERY_NQN: Nqn = Nqn::from_static("nqn.2014-08.org.nvmexpress.discovery");

const PREFIX: &str = "nqn.";
const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";
const UUID_TEXT_BYTES: usize = 36;
/// "yyyy-mm."
const DATE_BYTES: usize = 8;

/// A valid NVMe qualified name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nqn {
    bytes: [u8; NQN_BYTES_MAX],
    length: u8,
}

/// Why a name is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NqnError {
    /// No byte at all.
    #[error("name is empty")]
    Empty,
    /// More than [`NQN_BYTES_MAX`] bytes.
    #[error("name is longer than {NQN_BYTES_MAX} bytes")]
    TooLong,
    /// A wire field without NUL.
    #[error("name has no terminating NUL")]
    Unterminated,
    /// Not UTF-8.
    #[error("name is not UTF-8")]
    NotUtf8,
    /// A control character, which no name of a domain or device has and a log would suffer from.
    #[error("name has a control character")]
    ControlCharacter,
    /// Does not start with "nqn.".
    #[error("name does not start with \"nqn.\"")]
    Prefix,
    /// No "yyyy-mm." after the prefix.
    #[error("name has no year and month after \"nqn.\"")]
    Date,
    /// No domain after the date, or an empty string after its colon.
    #[error("name has no reverse domain, or nothing after its colon")]
    Domain,
    /// A UUID-based name whose UUID is malformed.
    #[error("name ends in a malformed UUID")]
    Uuid,
}

impl Nqn {
    /// A name that is known to be valid when the program is compiled.
    const fn from_static(text: &'static str) -> Self {
        let text = text.as_bytes();
        let mut bytes = [0; NQN_BYTES_MAX];
        let (head, _) = bytes.split_at_mut(text.len());
        head.copy_from_slice(text);
        Self { bytes, length: text.len() as u8 }
    }

    /// Reads a 256-byte wire field; bytes after the NUL are ignored.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn from_field(field: &[u8; NQN_FIELD_BYTES]) -> Result<Self, NqnError> {
        let end = field.iter().position(|byte| *byte == 0).ok_or(NqnError::Unterminated)?;
        let text = core::str::from_utf8(&field[..end]).map_err(|_| NqnError::NotUtf8)?;
        text.parse()
    }

    /// The 256-byte wire field, padded with NUL.
    pub fn to_field(&self) -> [u8; NQN_FIELD_BYTES] {
        let mut field = [0; NQN_FIELD_BYTES];
        field[..NQN_BYTES_MAX].copy_from_slice(&self.bytes);
        field
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let text = &self.bytes[..usize::from(self.length)];
        core::str::from_utf8(text).expect("checked to be UTF-8 when it was made")
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        check(text)?;
        let mut bytes = [0; NQN_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let length = u8::try_from(text.len()).expect("checked to have at most 223 bytes");
        Ok(Self { bytes, length })
    }
}

fn check(text: &str) -> Result<(), NqnError> {
    if text.is_empty() {
        return Err(NqnError::Empty);
    }
    if text.len() > NQN_BYTES_MAX {
        return Err(NqnError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NqnError::ControlCharacter);
    }
    if let Some(uuid) = text.strip_prefix(UUID_PREFIX) {
        let is_hyphenated = uuid.len() == UUID_TEXT_BYTES && uuid::Uuid::try_parse(uuid).is_ok();
        return if is_hyphenated { Ok(()) } else { Err(NqnError::Uuid) };
    }
    let rest = text.strip_prefix(PREFIX).ok_or(NqnError::Prefix)?;
    let (date, rest) = rest.split_at_checked(DATE_BYTES).ok_or(NqnError::Date)?;
    check_date(date.as_bytes())?;
    let (domain, has_suffix) = match rest.split_once(':') {
        Some((domain, suffix)) => (domain, !suffix.is_empty()),
        None => (rest, true),
    };
    if domain.is_empty() || !has_suffix { Err(NqnError::Domain) } else { Ok(()) }
}

fn check_date(date: &[u8]) -> Result<(), NqnError> {
    let [year @ .., b'-', tens, ones, b'.'] = date else {
        return Err(NqnError::Date);
    };
    let is_month = matches!((tens, ones), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'));
    if year.iter().all(u8::is_ascii_digit) && is_month { Ok(()) } else { Err(NqnError::Date) }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nqn({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Nqn, NqnError> {
        text.parse()
    }

    #[test]
    fn names_in_use_are_accepted() {
        for text in [
            "nqn.2014-08.org.nvmexpress.discovery",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2014-08.org.nvmexpress:NVMf:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2019-05.io.openebs:volume-1",
            "nqn.2016-06.io.spdk:cnode1",
        ] {
            assert_eq!(parse(text).unwrap().as_str(), text);
        }
        assert_eq!(parse("nqn.2014-08.org.nvmexpress.discovery"), Ok(DISCOVERY_NQN));
    }

    #[test]
    fn each_rule_refuses_its_own_offender() {
        assert_eq!(parse(""), Err(NqnError::Empty));
        assert_eq!(parse("iqn.2019-05.io.openebs:x"), Err(NqnError::Prefix));
        assert_eq!(parse("nqn.2019-5.io.openebs:x"), Err(NqnError::Date));
        assert_eq!(parse("nqn.2019-13.io.openebs:x"), Err(NqnError::Date));
        assert_eq!(parse("nqn.2019-00.io.openebs:x"), Err(NqnError::Date));
        assert_eq!(parse("nqn.20a9-05.io.openebs:x"), Err(NqnError::Date));
        assert_eq!(parse("nqn.2019"), Err(NqnError::Date));
        assert_eq!(parse("nqn.2019-05.:x"), Err(NqnError::Domain));
        assert_eq!(parse("nqn.2019-05."), Err(NqnError::Domain));
        assert_eq!(parse("nqn.2019-05.io:"), Err(NqnError::Domain));
        assert_eq!(parse("nqn.2019-05.io:a\nb"), Err(NqnError::ControlCharacter));
        assert_eq!(parse("nqn.2014-08.org.nvmexpress:uuid:f81d4fae"), Err(NqnError::Uuid));
        let simple = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae7dec11d0a76500a0c91e6bf6";
        assert_eq!(parse(simple), Err(NqnError::Uuid));
    }

    #[test]
    fn the_longest_name_has_223_bytes() {
        let longest = format!("{:x<223}", "nqn.2019-05.io.openebs:");
        assert_eq!(parse(&longest).unwrap().as_str(), longest);
        assert_eq!(parse(&format!("{longest}x")), Err(NqnError::TooLong));
    }

    #[test]
    fn a_field_needs_a_nul_and_utf_8() {
        assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::Unterminated));
        let mut field = DISCOVERY_NQN.to_field();
        field[255] = 7;
        assert_eq!(Nqn::from_field(&field), Ok(DISCOVERY_NQN));
        field[5] = 0xff;
        assert_eq!(Nqn::from_field(&field), Err(NqnError::NotUtf8));
        let mut long = [b'x'; 256];
        long[255] = 0;
        assert_eq!(Nqn::from_field(&long), Err(NqnError::TooLong));
    }

    proptest! {
        #[test]
        fn a_valid_name_survives_its_wire_field(
            month in 1u8..=12,
            year in 1000u16..=9999,
            domain in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}",
            suffix in "[ -~ä-ü]{1,60}",
        ) {
            let text = format!("nqn.{year}-{month:02}.{domain}:{suffix}");
            let name = parse(&text).unwrap();
            prop_assert_eq!(Nqn::from_field(&name.to_field()), Ok(name));
            prop_assert_eq!(name.to_string(), text);
        }

        #[test]
        fn any_field_is_checked_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 256),
            text in "(nqn\\.)?\\PC{0,30}",
        ) {
            let _ = Nqn::from_field(bytes.first_chunk().unwrap());
            let _ = parse(&text);
        }
    }
}
