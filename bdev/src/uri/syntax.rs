//! The parts of a URI that all schemes share (RFC 3986): scheme, host and port, path, query,
//! escapes.

use std::fmt;
use std::net::Ipv6Addr;

use super::{Scheme, URI_BYTES_MAX, UriError};

/// A URI cut at its separators. Path and parameters are decoded.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) scheme: Scheme,
    pub(super) authority: &'a str,
    pub(super) path: String,
    pub(super) parameters: Vec<(String, String)>,
}

/// Checks length and characters.
pub(super) fn check_text(text: &str) -> Result<(), UriError> {
    if text.len() > URI_BYTES_MAX {
        return Err(UriError::TooLong { len_bytes: text.len() });
    }
    let bad = |character: &char| character.is_control() || *character == ' ';
    match text.chars().find(bad) {
        Some(character) => Err(UriError::Character { character }),
        None => Ok(()),
    }
}

/// Cuts a checked text that is not a bare path.
pub(super) fn split(text: &str) -> Result<Parts<'_>, UriError> {
    let no_scheme = || UriError::NoScheme { text: text.to_owned() };
    let (scheme, rest) = text.split_once("://").ok_or_else(no_scheme)?;
    let scheme = Scheme::from_spelling(scheme)
        .ok_or_else(|| UriError::UnknownScheme { scheme: scheme.to_owned() })?;
    if rest.contains('#') {
        return Err(UriError::Character { character: '#' });
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let slash = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(slash);
    let parameters = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    });
    Ok(Parts {
        scheme,
        authority,
        path: decode(path)?,
        parameters: parameters.collect::<Result<_, _>>()?,
    })
}

impl Parts<'_> {
    /// The path of a scheme that has no host.
    pub(super) fn local_path(&self) -> Result<&str, UriError> {
        let scheme = self.scheme;
        if !self.authority.is_empty() {
            return Err(UriError::HostNotAllowed { scheme, host: self.authority.to_owned() });
        }
        match self.path.as_str() {
            "" | "/" => Err(UriError::NoName { scheme }),
            path => Ok(path),
        }
    }

    /// The path of a scheme that has no host, without its first slash.
    pub(super) fn name(&self) -> Result<String, UriError> {
        let path = self.local_path()?;
        Ok(path.strip_prefix('/').unwrap_or(path).to_owned())
    }

    /// What stands between the slashes and the path, decoded.
    pub(super) fn authority_text(&self) -> Result<String, UriError> {
        decode(self.authority)
    }

    /// Host, and port if there is one.
    pub(super) fn host_and_port(&self, port_default: u16) -> Result<(String, u16), UriError> {
        self.host_and_port_of(self.authority, port_default)
    }

    /// The same, from a text that is not the authority.
    pub(super) fn host_and_port_of(
        &self,
        text: &str,
        port_default: u16,
    ) -> Result<(String, u16), UriError> {
        let bad = || UriError::Host { scheme: self.scheme, host: text.to_owned() };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                host.parse::<Ipv6Addr>().map_err(|_| bad())?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (check_name(host).ok_or_else(bad)?, Some(port)),
                None => (check_name(text).ok_or_else(bad)?, None),
            },
        };
        let port = match port {
            None => port_default,
            Some(text) => digits(text)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| UriError::Port { port: text.to_owned() })?,
        };
        Ok((host.to_owned(), port))
    }
}

fn check_name(host: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (!host.is_empty() && host.bytes().all(plain)).then_some(host)
}

/// A decimal number: digits only, no sign.
pub(super) fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn decode(text: &str) -> Result<String, UriError> {
    let bad = || UriError::Escape { text: text.to_owned() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (escape, tail) = tail.split_at_checked(2).ok_or_else(bad)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(bad);
        let value = digit(escape[0])? * 16 + digit(escape[1])?;
        bytes.push(u8::try_from(value).map_err(|_| bad())?);
        rest = tail;
    }
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    // No path and no name has one, and a system call would end there.
    if text.contains('\0') { Err(bad()) } else { Ok(text) }
}

/// Displays a text with escapes where a URI needs them.
pub(super) struct Encoded<'a>(pub(super) &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/:@+,".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}
