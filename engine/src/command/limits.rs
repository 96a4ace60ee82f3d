//! How much of everything an engine has. One past any of these is refused with its name.

use std::time::Duration;

/// Most devices.
pub const DEVICES_MAX: usize = 1024;

/// Most subsystems, the discovery subsystem aside. With [`PORTALS_MAX`] portals they fill the
/// discovery log.
pub const SUBSYSTEMS_MAX: usize = 256;

/// Most nexuses: each is a device as well, and has some of its own.
pub const NEXUSES_MAX: usize = 256;

/// Most children of a nexus.
pub const CHILDREN_MAX: usize = nexus::child::CHILDREN_MAX;

/// Longest name of a nexus, in bytes: that of a Kubernetes object.
pub const NEXUS_NAME_BYTES_MAX: usize = 253;

/// Most namespaces of a subsystem.
pub const NAMESPACES_MAX: usize = nvmf::target::limits::NAMESPACES_LIMIT as usize;

/// Most hosts that a subsystem names.
pub const HOSTS_MAX: usize = 256;

/// Most vhost devices: each has a thread.
pub const VHOSTS_MAX: usize = 256;

/// Longest path of the socket of a vhost device, in bytes.
pub const VHOST_SOCKET_BYTES_MAX: usize = vhost_blk::session::socket::PATH_BYTES_MAX;

/// Most addresses that are listened on.
pub const PORTALS_MAX: usize = 16;

/// Most rules of a fault or of a delay: each is looked at for every I/O.
pub const RULES_MAX: usize = 16;

/// Longest delay of an I/O: a day.
pub const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest text of a device URI, in bytes.
pub const URI_BYTES_MAX: usize = bdev::uri::URI_BYTES_MAX;

/// Longest name of a device, in bytes: as long as a path.
pub const DEVICE_NAME_BYTES_MAX: usize = URI_BYTES_MAX;

/// Longest NQN, in bytes.
pub const NQN_BYTES_MAX: usize = nvmf::fabrics::nqn::NQN_BYTES_MAX;

/// Longest text of an address with its port, in bytes: what IPv6 with a scope needs.
pub const ADDRESS_BYTES_MAX: usize = 64;

/// Longest text of a UUID, in bytes: with braces or as a URN.
pub const UUID_BYTES_MAX: usize = 45;

/// Changes that are under way at once; one more is refused. Questions are not counted.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 64;

/// Longest time that a command may be given.
pub const WITHIN_MAX: Duration = Duration::from_secs(60 * 60);
