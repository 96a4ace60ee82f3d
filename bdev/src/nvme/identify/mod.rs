//! Identify data structures: what a controller and a namespace are.
//!
//! Filled by targets, read by hosts, on the admin queue only. All are 4096 bytes; start from
//! `new_zeroed`, since most fields of a software controller are zero. NVMe Base 2.0 section 5.17,
//! NVM Command Set 1.0 section 4.1.5.

mod controller;
mod list;
mod namespace;

pub use controller::{IdentifyController, NvmIdentifyController, PowerState, controller_field};
pub use list::{
    ControllerList, DescriptorError, DescriptorWriter, IDENTIFIER_LIST_ENTRIES, NamespaceIdentity,
    NamespaceList, identities,
};
pub use namespace::{
    IdentifyNamespace, IndependentIdentifyNamespace, LbaFormat, NvmIdentifyNamespace,
    namespace_field,
};

/// Length of every Identify data structure.
pub const IDENTIFY_BYTES: usize = 4096;

/// Command set identifier of the NVM command set.
pub const COMMAND_SET_NVM: u8 = 0x00;

/// Which data structure an Identify command asks for (CNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IdentifyKind {
    /// 00h: Identify Namespace.
    Namespace = 0x00,
    /// 01h: Identify Controller.
    Controller = 0x01,
    /// 02h: active namespace identifiers above the given one.
    ActiveNamespaces = 0x02,
    /// 03h: namespace identification descriptors.
    NamespaceDescriptors = 0x03,
    /// 05h: Identify Namespace of a command set.
    CommandSetNamespace = 0x05,
    /// 06h: Identify Controller of a command set.
    CommandSetController = 0x06,
    /// 07h: active namespace identifiers of a command set.
    CommandSetActiveNamespaces = 0x07,
    /// 08h: Identify Namespace independent of command sets.
    IndependentNamespace = 0x08,
    /// 10h: allocated namespace identifiers above the given one.
    AllocatedNamespaces = 0x10,
    /// 11h: Identify Namespace of an allocated namespace.
    AllocatedNamespace = 0x11,
    /// 12h: controllers that a namespace is attached to.
    NamespaceControllers = 0x12,
    /// 13h: controllers of the subsystem.
    Controllers = 0x13,
    /// 1Ch: supported combinations of I/O command sets.
    CommandSets = 0x1c,
}

impl IdentifyKind {
    /// The kind of a CNS value; `None` for one that is not known.
    pub const fn from_value(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::Namespace,
            0x01 => Self::Controller,
            0x02 => Self::ActiveNamespaces,
            0x03 => Self::NamespaceDescriptors,
            0x05 => Self::CommandSetNamespace,
            0x06 => Self::CommandSetController,
            0x07 => Self::CommandSetActiveNamespaces,
            0x08 => Self::IndependentNamespace,
            0x10 => Self::AllocatedNamespaces,
            0x11 => Self::AllocatedNamespace,
            0x12 => Self::NamespaceControllers,
            0x13 => Self::Controllers,
            0x1c => Self::CommandSets,
            _ => return None,
        })
    }

    /// The CNS value.
    pub const fn value(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_values_agree() {
        let known = (0..=u8::MAX).filter_map(IdentifyKind::from_value).collect::<Vec<_>>();
        assert_eq!(known.len(), 13);
        for kind in known {
            assert_eq!(IdentifyKind::from_value(kind.value()), Some(kind));
        }
    }
}
