//! What a unit says of itself: names that stay the same over restarts and paths.
//!
//! Made by the front door when a device is exported. SPC-4 sections 6.6.2 and 7.8.

use uuid::Uuid;

/// T10 vendor identification.
pub(super) const VENDOR: &str = "OPENEBS";
/// Product identification.
pub(super) const PRODUCT: &str = "MAYASTOR";
/// Product revision level.
pub(super) const REVISION: &str = "0001";

/// A unit's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its own, the same over every path.
    pub uuid: Uuid,
    /// The target device's name, an IQN.
    pub device_name: String,
    /// The target port's name: IQN, `,t,0x` and the portal group tag in four digits of hex.
    pub port_name: String,
    /// Relative identifier of the target port, and of its group.
    pub port: u16,
}

impl Identity {
    /// The serial number: the uuid's 32 digits.
    pub(super) fn serial(&self) -> String {
        self.uuid.simple().to_string()
    }

    /// A locally assigned NAA identifier (type 3, SPC-4 section 7.8.6.6.4).
    pub(super) fn naa(&self) -> [u8; 8] {
        let (high, low) = self.uuid.as_u64_pair();
        let mixed = high ^ low.rotate_left(29);
        (mixed & !(0xf << 60) | 0x3 << 60).to_be_bytes()
    }
}
