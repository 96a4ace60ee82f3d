//! How a value of the file becomes a type of the program, refused where it stands if it cannot.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

/// A text that the type itself parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(|error| Error::custom(format!("{error}")))
    }
}

/// An address, an IPv6 one with or without the brackets that it has in a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        crate::options::address(text).map(Address)
    }
}

/// A number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within<const MIN: u32, const MAX: u32>(pub u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = i64::deserialize(deserializer)?;
        let legal = u32::try_from(given).ok().filter(|number| (MIN..=MAX).contains(number));
        let refuse = || Error::custom(format!("{given} cannot be: choose {MIN} to {MAX}"));
        legal.map(Within).ok_or_else(refuse)
    }
}
