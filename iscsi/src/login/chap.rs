//! CHAP: proof that the other side knows a secret, without saying it.
//!
//! MD5, which every initiator has, and SHA-256, which is taken where it is offered. A response is
//! compared in constant time, and a failure never says which part was wrong. RFC 7143 section
//! 12.1.3, RFC 1994 section 4.1.

use std::fmt;

use md5::{Digest, Md5};
use sha2::Sha256;

/// Bytes of a challenge that is made here.
pub const CHALLENGE_BYTES: usize = 16;
/// Longest challenge that is taken (RFC 7143 section 12.1.3).
pub const CHALLENGE_BYTES_MAX: usize = 1024;
/// Shortest secret that may be configured, 96 bits (RFC 7143 section 9.2.1).
pub const SECRET_BYTES_MIN: usize = 12;

/// A secret; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A secret of at least [`SECRET_BYTES_MIN`] bytes.
    pub fn new(bytes: &[u8]) -> Option<Secret> {
        (bytes.len() >= SECRET_BYTES_MIN).then(|| Secret(bytes.to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// What an initiator must know, and what the target proves in turn.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The initiator's CHAP name.
    pub name: String,
    /// Its secret.
    pub secret: Secret,
    /// The target's name and secret, for initiators that ask for a proof.
    pub mutual: Option<(String, Secret)>,
}

/// A hash algorithm, by its number in CHAP_A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// MD5.
    Md5 = 5,
    /// SHA-256.
    Sha256 = 7,
}

impl Algorithm {
    /// The first of an initiator's list that there is.
    pub fn choose(list: &str) -> Option<Algorithm> {
        list.split(',').find_map(|number| match number {
            "5" => Some(Algorithm::Md5),
            "7" => Some(Algorithm::Sha256),
            _ => None,
        })
    }

    /// The response to a challenge.
    pub fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        match self {
            Algorithm::Md5 => hash::<Md5>(identifier, secret, challenge),
            Algorithm::Sha256 => hash::<Sha256>(identifier, secret, challenge),
        }
    }
}

fn hash<D: Digest>(identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
    let hash = D::new().chain_update([identifier]).chain_update(&secret.0);
    hash.chain_update(challenge).finalize().to_vec()
}

/// Whether two byte strings are the same, in a time that depends on their lengths only.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |bits, (one, other)| bits | (one ^ other));
    std::hint::black_box(difference) == 0 && one.len() == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new(b"0123456789ab").unwrap()
    }

    #[test]
    fn a_secret_has_a_least_length_and_is_never_shown() {
        assert!(Secret::new(b"0123456789a").is_none());
        assert_eq!(format!("{:?}", secret()), "Secret(..)");
    }

    #[test]
    fn the_first_algorithm_that_there_is_is_chosen() {
        assert_eq!(Algorithm::choose("6,7,5"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::choose("5,7"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::choose("8"), None);
    }

    #[test]
    fn a_response_is_the_hash_of_identifier_secret_and_challenge() {
        let expected = Md5::digest(b"\x010123456789abxyz").to_vec();
        assert_eq!(Algorithm::Md5.response(1, &secret(), b"xyz"), expected);
        assert_eq!(Algorithm::Sha256.response(1, &secret(), b"xyz").len(), 32);
    }

    #[test]
    fn only_what_is_the_same_is_the_same() {
        assert!(is_same(b"abc", b"abc") && is_same(b"", b""));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"ab") && !is_same(b"", b"a"));
    }
}
