//! The discovery log: which subsystems there are and how to reach them.
//!
//! Filled by the target's discovery subsystem, read by the initiator. NVMe Base 2.0 section
//! 5.16.1.23 (log page 70h); NVMe/TCP Transport 1.0 section 3.6.1.1, figure 17, for TSAS.

use super::nqn::{NQN_FIELD_BYTES, Nqn};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header of the log.
pub const DISCOVERY_HEADER_BYTES: usize = 1024;
/// Length of an entry of the log.
pub const DISCOVERY_ENTRY_BYTES: usize = 1024;
/// Length of the field that holds an address.
pub const ADDRESS_BYTES: usize = 256;
/// Length of the field that holds a port.
pub const SERVICE_BYTES: usize = 32;
/// Least admin queue size that an entry may name, and what entries here name, in entries.
pub const ADMIN_QUEUE_ENTRIES_MIN: u16 = 32;

/// Values of one-byte fields of [`DiscoveryEntry`].
pub mod value {
    /// TRTYPE: RDMA.
    pub const TRANSPORT_RDMA: u8 = 1;
    /// TRTYPE: Fibre Channel.
    pub const TRANSPORT_FC: u8 = 2;
    /// TRTYPE: TCP.
    pub const TRANSPORT_TCP: u8 = 3;
    /// TRTYPE: inside one host.
    pub const TRANSPORT_LOOP: u8 = 254;
    /// ADRFAM: IPv4.
    pub const ADDRESS_IPV4: u8 = 1;
    /// ADRFAM: IPv6.
    pub const ADDRESS_IPV6: u8 = 2;
    /// SUBTYPE: another discovery service.
    pub const SUBSYSTEM_REFERRAL: u8 = 1;
    /// SUBTYPE: a subsystem with namespaces.
    pub const SUBSYSTEM_NVM: u8 = 2;
    /// SUBTYPE: this discovery service.
    pub const SUBSYSTEM_CURRENT_DISCOVERY: u8 = 3;
    /// TREQ bits 1:0: whether a secure channel is needed is not said.
    pub const SECURE_CHANNEL_UNSPECIFIED: u8 = 0;
    /// TREQ bits 1:0: a secure channel is required.
    pub const SECURE_CHANNEL_REQUIRED: u8 = 1;
    /// TREQ bits 1:0: a secure channel is not required.
    pub const SECURE_CHANNEL_NOT_REQUIRED: u8 = 2;
    /// TREQ bit 2: submission queue flow control may be disabled.
    pub const FLOW_CONTROL_OPTIONAL: u8 = 1 << 2;
    /// TSAS byte 0 over TCP: no security.
    pub const SECURITY_NONE: u8 = 0;
    /// TSAS byte 0 over TCP: TLS 1.3.
    pub const SECURITY_TLS_1_3: u8 = 2;
    /// EFLAGS: the same log comes from every address of the service (DUPRETINFO).
    pub const DUPLICATE_INFORMATION: u16 = 1 << 0;
    /// EFLAGS: asynchronous events and persistent connections (EPCSD).
    pub const PERSISTENT_CONNECTIONS: u16 = 1 << 1;
}

/// Header of the discovery log.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR: changes with every change of the log.
    pub generation: U64,
    /// NUMREC: entries that follow.
    pub entries: U64,
    /// RECFMT: 0.
    pub record_format: U16,
    /// Reserved.
    pub reserved: [u8; 1006],
}

const _: () = assert!(size_of::<DiscoveryHeader>() == DISCOVERY_HEADER_BYTES);

impl DiscoveryHeader {
    /// A header of a log.
    pub const fn new(generation: u64, entries: u64) -> Self {
        Self {
            generation: U64::new(generation),
            entries: U64::new(entries),
            record_format: U16::ZERO,
            reserved: [0; 1006],
        }
    }
}

/// An entry of the discovery log.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// TRTYPE.
    pub transport_type: u8,
    /// ADRFAM.
    pub address_family: u8,
    /// SUBTYPE.
    pub subsystem_type: u8,
    /// TREQ.
    pub requirements: u8,
    /// PORTID.
    pub port_id: U16,
    /// CNTLID: a controller, or one of the values that leave it open.
    pub controller_id: U16,
    /// ASQSZ: largest admin queue, in entries.
    pub admin_queue_entries: U16,
    /// EFLAGS.
    pub flags: U16,
    /// Reserved.
    pub reserved_12: [u8; 20],
    /// TRSVCID: the port in decimal ASCII.
    pub service: [u8; SERVICE_BYTES],
    /// Reserved.
    pub reserved_64: [u8; 192],
    /// SUBNQN.
    pub subsystem_nqn: [u8; NQN_FIELD_BYTES],
    /// TRADDR: the address in ASCII.
    pub address: [u8; ADDRESS_BYTES],
    /// TSAS: over TCP, the security in byte 0.
    pub transport_specific: [u8; 256],
}

const _: () = assert!(size_of::<DiscoveryEntry>() == DISCOVERY_ENTRY_BYTES);

impl DiscoveryEntry {
    /// An entry of `subsystem_type` reached over TCP without TLS; controllers are dynamic.
    pub fn tcp(
        subsystem_type: u8,
        subsystem: &Nqn,
        address: core::net::SocketAddr,
        port_id: u16,
    ) -> Self {
        let mut entry = Self::new_zeroed();
        entry.transport_type = value::TRANSPORT_TCP;
        entry.address_family = match address {
            core::net::SocketAddr::V4(_) => value::ADDRESS_IPV4,
            core::net::SocketAddr::V6(_) => value::ADDRESS_IPV6,
        };
        entry.subsystem_type = subsystem_type;
        entry.requirements = value::SECURE_CHANNEL_NOT_REQUIRED | value::FLOW_CONTROL_OPTIONAL;
        entry.port_id = U16::new(port_id);
        entry.controller_id = U16::new(super::connect::CONTROLLER_ID_DYNAMIC);
        entry.admin_queue_entries = U16::new(ADMIN_QUEUE_ENTRIES_MIN);
        entry.subsystem_nqn = subsystem.to_field();
        print_ascii(&mut entry.service, &address.port());
        print_ascii(&mut entry.address, &address.ip());
        entry
    }

    /// The address and port of an entry over TCP; `None` if either is malformed, in which case
    /// the specification wants the entry ignored.
    pub fn socket_address(&self) -> Option<core::net::SocketAddr> {
        let ip: core::net::IpAddr = ascii(&self.address)?.parse().ok()?;
        let service = ascii(&self.service)?;
        if !service.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(core::net::SocketAddr::new(ip, service.parse().ok()?))
    }
}

/// The text of a field that is padded with NUL or spaces.
fn ascii(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = core::str::from_utf8(&field[..end]).ok()?;
    Some(text.trim_end_matches(' '))
}

fn print_ascii(field: &mut [u8], value: &dyn core::fmt::Display) {
    use std::io::Write;
    let mut rest = field;
    write!(rest, "{value}").expect("an address and a port fit their fields");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabrics::nqn::DISCOVERY_NQN;
    use core::mem::offset_of;
    use core::net::{IpAddr, SocketAddr};
    use proptest::prelude::*;

    #[test]
    fn fields_are_at_the_offsets_of_the_specification() {
        assert_eq!(offset_of!(DiscoveryHeader, record_format), 16);
        assert_eq!(offset_of!(DiscoveryEntry, port_id), 4);
        assert_eq!(offset_of!(DiscoveryEntry, admin_queue_entries), 8);
        assert_eq!(offset_of!(DiscoveryEntry, service), 32);
        assert_eq!(offset_of!(DiscoveryEntry, subsystem_nqn), 256);
        assert_eq!(offset_of!(DiscoveryEntry, address), 512);
        assert_eq!(offset_of!(DiscoveryEntry, transport_specific), 768);
    }

    #[test]
    fn text_fields_are_ascii_padded_with_nul() {
        let address = "192.0.2.7:4420".parse().unwrap();
        let entry = DiscoveryEntry::tcp(value::SUBSYSTEM_NVM, &DISCOVERY_NQN, address, 1);
        assert_eq!(&entry.service[..5], b"4420\0");
        assert_eq!(&entry.address[..10], b"192.0.2.7\0");
        assert_eq!(entry.address_family, value::ADDRESS_IPV4);
    }

    #[test]
    fn a_malformed_port_or_address_is_no_address() {
        let address = "192.0.2.7:4420".parse().unwrap();
        let entry = DiscoveryEntry::tcp(value::SUBSYSTEM_NVM, &DISCOVERY_NQN, address, 1);
        for service in [&b"+4420"[..], b"65536", b"", b"44 20", b"\xff"] {
            let mut wrong = entry;
            wrong.service = [0; SERVICE_BYTES];
            wrong.service[..service.len()].copy_from_slice(service);
            assert_eq!(wrong.socket_address(), None);
        }
        let mut padded = entry;
        padded.service[4..].fill(b' ');
        assert_eq!(padded.socket_address(), Some(address));
    }

    proptest! {
        #[test]
        fn an_address_reads_as_it_was_written(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            let entry = DiscoveryEntry::tcp(value::SUBSYSTEM_NVM, &DISCOVERY_NQN, address, 1);
            prop_assert_eq!(entry.socket_address(), Some(address));
            prop_assert_eq!(Nqn::from_field(&entry.subsystem_nqn), Ok(DISCOVERY_NQN));
        }

        #[test]
        fn any_entry_is_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), DISCOVERY_ENTRY_BYTES),
        ) {
            let _ = DiscoveryEntry::read_from_bytes(&bytes).unwrap().socket_address();
        }
    }
}
