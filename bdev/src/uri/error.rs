//! What can be wrong with a device URI.

use std::fmt;

use super::{
    ISCSI_NAME_BYTES_MAX, LUN_MAX, MILLISECONDS_MAX, NAMESPACE_MAX, NQN_BYTES_MAX,
    NVMF_DISCOVERY_CONTROLLERS_MAX, Scheme, URI_BYTES_MAX,
};

/// Why a text is no device URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Longer than [`URI_BYTES_MAX`].
    #[error("a device URI of {len_bytes} bytes is longer than {URI_BYTES_MAX}")]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// Neither `scheme://…` nor an absolute path.
    #[error("{text:?} is neither a device URI (scheme://…) nor an absolute path")]
    NoScheme {
        /// The text.
        text: String,
    },
    /// A scheme that nobody knows.
    #[error("unknown scheme {scheme:?}; known are {}", Names(&Scheme::NAMED))]
    UnknownScheme {
        /// As spelled.
        scheme: String,
    },
    /// A blank, a control character or a fragment.
    #[error(
        "character {character:?} must be written as %{:02X} in a device URI",
        u32::from(*character)
    )]
    Character {
        /// The character.
        character: char,
    },
    /// A `%` that is not followed by two hexadecimal digits of UTF-8 text.
    #[error("{text:?} has an escape that is no UTF-8 text")]
    Escape {
        /// What holds the escape.
        text: String,
    },
    /// A host where the scheme has none; mostly two slashes instead of three.
    #[error("{scheme} devices have no host: {scheme}:///{host}… has three slashes")]
    HostNotAllowed {
        /// The scheme.
        scheme: Scheme,
        /// The host given.
        host: String,
    },
    /// No host, or none that could be one.
    #[error("{host:?} is no host: write {scheme}://host[:port]/…")]
    Host {
        /// The scheme.
        scheme: Scheme,
        /// The host given.
        host: String,
    },
    /// Discovery controllers for a subsystem whose place is given.
    #[error("the URI says where the subsystem is, at {host}: leave that or discovery out")]
    Placed {
        /// The host given.
        host: String,
    },
    /// Too many discovery controllers.
    #[error("{count} discovery controllers are more than {NVMF_DISCOVERY_CONTROLLERS_MAX}")]
    DiscoveryControllers {
        /// How many.
        count: usize,
    },
    /// A port that is not 1 to 65535.
    #[error("port {port:?} is not a number from 1 to 65535")]
    Port {
        /// The port given.
        port: String,
    },
    /// No name, or no path.
    #[error("{scheme} URI without a name: write {scheme}:///name")]
    NoName {
        /// The scheme.
        scheme: Scheme,
    },
    /// No NQN, a bad one or one too long.
    #[error("{nqn:?} is no subsystem NQN (nqn.…, at most {NQN_BYTES_MAX} bytes)")]
    Nqn {
        /// The NQN given.
        nqn: String,
    },
    /// No iSCSI name, a bad one or one too long.
    #[error(
        "{name:?} is no iSCSI name (iqn.…, eui.… or naa.…, at most {ISCSI_NAME_BYTES_MAX} bytes)"
    )]
    IscsiName {
        /// The name given.
        name: String,
    },
    /// A bad number of a namespace.
    #[error("namespace {namespace:?} is not a number from 1 to {NAMESPACE_MAX}")]
    Namespace {
        /// What was given.
        namespace: String,
    },
    /// A bad way to treat I/O in flight at a reset.
    #[error("recovery {value:?} is neither \"retry\" nor \"fail\"")]
    Recovery {
        /// What was given.
        value: String,
    },
    /// A bad logical unit number.
    #[error("LUN {lun:?} is not a number from 0 to {LUN_MAX}")]
    Lun {
        /// The number given.
        lun: String,
    },
    /// A bad PCI address.
    #[error("{address:?} is no PCI address like 0000:01:00.0")]
    Pci {
        /// The address given.
        address: String,
    },
    /// A parameter that the scheme does not have.
    #[error("{scheme} URI with unknown parameter {name:?}; {scheme} has {}", Parameters(.allowed))]
    UnknownParameter {
        /// The scheme.
        scheme: Scheme,
        /// The parameter given.
        name: String,
        /// Those there are.
        allowed: &'static [&'static str],
    },
    /// A parameter given twice.
    #[error("parameter {name} is given twice")]
    RepeatedParameter {
        /// The parameter.
        name: String,
    },
    /// Both sizes.
    #[error("both size_mb and num_blocks are given; give one")]
    BothSizes,
    /// Neither size.
    #[error("no size is given: add size_mb or num_blocks")]
    NoSize,
    /// A size that is no number, zero, or too large for any device.
    #[error("{name}={value:?} is not a positive number below the largest device size")]
    Size {
        /// `size_mb` or `num_blocks`.
        name: &'static str,
        /// The value given.
        value: String,
    },
    /// A block size that is neither 512 nor 4096.
    #[error("blk_size={value:?} is neither 512 nor 4096")]
    BlockSize {
        /// The value given.
        value: String,
    },
    /// A bad UUID.
    #[error("uuid={value:?} is no UUID")]
    Uuid {
        /// The value given.
        value: String,
    },
    /// A span of time that is no number, or too long.
    #[error("{name}={value:?} is not a number of milliseconds up to {MILLISECONDS_MAX}")]
    Milliseconds {
        /// The parameter.
        name: &'static str,
        /// The value given.
        value: String,
    },
    /// A switch that is neither on nor off.
    #[error("{name}={value:?} is neither true nor false")]
    Switch {
        /// `reftag` or `guard`.
        name: &'static str,
        /// The value given.
        value: String,
    },
}

/// The scheme is known, but nothing opens its devices yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{scheme} devices are not built yet; built are {}", Names(.built))]
pub struct NotBuilt {
    /// The scheme asked for.
    pub scheme: Scheme,
    /// Those that the engine can open.
    pub built: Vec<Scheme>,
}

/// A list of schemes in a message.
struct Names<'a>(&'a [Scheme]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scheme) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{scheme}")?;
        }
        Ok(())
    }
}

/// A list of parameters in a message.
struct Parameters<'a>(&'a [&'static str]);

impl fmt::Display for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.join(", "))
    }
}
