//! What kinds of PDU there are, who may send them, and the flags that each may carry.
//!
//! NVMe/TCP Transport 1.0 figure 10 (types) and figures 20 to 28 (header lengths and flags).

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The host: sends commands.
    Host,
    /// The controller: answers them.
    Controller,
}

/// The kinds of PDU, by their type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PduKind {
    /// ICReq: the host's connection parameters.
    InitializeRequest = 0x00,
    /// ICResp: the controller's.
    InitializeResponse = 0x01,
    /// H2CTermReq: the host found a fatal error.
    HostTermRequest = 0x02,
    /// C2HTermReq: the controller found a fatal error.
    ControllerTermRequest = 0x03,
    /// CapsuleCmd: a command, perhaps with data.
    CommandCapsule = 0x04,
    /// CapsuleResp: a completion.
    ResponseCapsule = 0x05,
    /// H2CData: data that an R2T asked for.
    H2cData = 0x06,
    /// C2HData: data that a command asked for.
    C2hData = 0x07,
    /// R2T: the controller is ready for data of a command.
    ReadyToTransfer = 0x09,
}

impl PduKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::InitializeRequest,
        Self::InitializeResponse,
        Self::HostTermRequest,
        Self::ControllerTermRequest,
        Self::CommandCapsule,
        Self::ResponseCapsule,
        Self::H2cData,
        Self::C2hData,
        Self::ReadyToTransfer,
    ];

    /// The kind of a type byte; `None` for a reserved one.
    pub const fn from_type(pdu_type: u8) -> Option<Self> {
        Some(match pdu_type {
            0x00 => Self::InitializeRequest,
            0x01 => Self::InitializeResponse,
            0x02 => Self::HostTermRequest,
            0x03 => Self::ControllerTermRequest,
            0x04 => Self::CommandCapsule,
            0x05 => Self::ResponseCapsule,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::ReadyToTransfer,
            _ => return None,
        })
    }

    /// The type byte.
    pub const fn pdu_type(self) -> u8 {
        self as u8
    }

    /// Who receives it: the lowest bit of the type is the direction.
    pub const fn receiver(self) -> Role {
        if self.pdu_type() & 1 == 0 { Role::Controller } else { Role::Host }
    }

    /// Length in bytes of the header, without digest: the only value that HLEN may have.
    pub const fn header_bytes(self) -> u8 {
        match self {
            Self::InitializeRequest | Self::InitializeResponse => 128,
            Self::CommandCapsule => 72,
            Self::HostTermRequest
            | Self::ControllerTermRequest
            | Self::ResponseCapsule
            | Self::H2cData
            | Self::C2hData
            | Self::ReadyToTransfer => 24,
        }
    }

    /// Whether it carries a header digest once one has been negotiated.
    pub const fn has_header_digest(self) -> bool {
        !self.is_initialize() && !self.is_term_request()
    }

    /// Whether it can carry data that a data digest and an alignment apply to.
    pub const fn has_data(self) -> bool {
        matches!(self, Self::CommandCapsule | Self::H2cData | Self::C2hData)
    }

    /// Whether it belongs to the exchange that sets a connection up.
    pub const fn is_initialize(self) -> bool {
        matches!(self, Self::InitializeRequest | Self::InitializeResponse)
    }

    /// Whether it ends a connection.
    pub const fn is_term_request(self) -> bool {
        matches!(self, Self::HostTermRequest | Self::ControllerTermRequest)
    }

    /// The flags that are not reserved for it.
    pub const fn flags_allowed(self) -> Flags {
        match self {
            Self::InitializeRequest
            | Self::InitializeResponse
            | Self::HostTermRequest
            | Self::ControllerTermRequest => Flags::NONE,
            Self::ResponseCapsule | Self::ReadyToTransfer => Flags::HEADER_DIGEST,
            Self::CommandCapsule => Flags::HEADER_DIGEST.with(Flags::DATA_DIGEST),
            Self::H2cData => Flags::HEADER_DIGEST.with(Flags::DATA_DIGEST).with(Flags::LAST),
            Self::C2hData => {
                Flags::HEADER_DIGEST.with(Flags::DATA_DIGEST).with(Flags::LAST).with(Flags::SUCCESS)
            }
        }
    }
}

/// The flags byte of a PDU header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// HDGSTF: a header digest follows the header.
    pub const HEADER_DIGEST: Self = Self(1 << 0);
    /// DDGSTF: a data digest follows the data.
    pub const DATA_DIGEST: Self = Self(1 << 1);
    /// LAST_PDU: no further data PDU follows for the same R2T or command.
    pub const LAST: Self = Self(1 << 2);
    /// SUCCESS: the command succeeded and no response capsule follows.
    pub const SUCCESS: Self = Self(1 << 3);

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_bytes_and_kinds_are_one_to_one() {
        let known = (0..=u8::MAX).filter_map(PduKind::from_type).collect::<Vec<_>>();
        assert_eq!(known, PduKind::ALL);
        for kind in PduKind::ALL {
            assert_eq!(PduKind::from_type(kind.pdu_type()), Some(kind));
        }
    }

    #[test]
    fn the_gap_before_ready_to_transfer_is_reserved() {
        assert_eq!(PduKind::from_type(0x08), None);
        assert_eq!(PduKind::from_type(0x0a), None);
    }

    #[test]
    fn only_data_to_the_host_may_say_success() {
        for kind in PduKind::ALL {
            let allowed = kind.flags_allowed().has(Flags::SUCCESS);
            assert_eq!(allowed, kind == PduKind::C2hData);
        }
    }
}
