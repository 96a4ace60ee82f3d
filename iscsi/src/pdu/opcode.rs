//! Opcodes of PDUs (RFC 7143 section 11.2.1.2).

/// What an initiator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum InitiatorOpcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskManagement = 0x02,
    Login = 0x03,
    Text = 0x04,
    DataOut = 0x05,
    Logout = 0x06,
}

impl InitiatorOpcode {
    /// The opcode in the lower six bits of a header's first byte, if it is one.
    pub fn from_byte(byte: u8) -> Option<InitiatorOpcode> {
        use InitiatorOpcode as Op;
        let all = [
            Op::NopOut,
            Op::ScsiCommand,
            Op::TaskManagement,
            Op::Login,
            Op::Text,
            Op::DataOut,
            Op::Logout,
        ];
        all.into_iter().find(|opcode| *opcode as u8 == byte & 0x3f)
    }
}

/// What a target sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum TargetOpcode {
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskManagement = 0x22,
    Login = 0x23,
    Text = 0x24,
    DataIn = 0x25,
    Logout = 0x26,
    ReadyToTransfer = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}
