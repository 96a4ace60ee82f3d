//! Lists among the Identify data: namespace and controller identifiers, identification
//! descriptors (CNS 02h, 03h, 07h, 10h, 12h, 13h).
//!
//! NVMe Base 2.0 sections 5.17.2.2 and 5.17.2.3; figures of section 4.4 for the list formats.

use super::IDENTIFY_BYTES;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most identifiers of a namespace list.
pub const IDENTIFIER_LIST_ENTRIES: usize = 1024;
/// Most identifiers of a controller list.
pub const CONTROLLER_LIST_ENTRIES: usize = 2047;

const DESCRIPTOR_HEADER_BYTES: usize = 4;

const TYPE_EUI64: u8 = 1;
const TYPE_NGUID: u8 = 2;
const TYPE_UUID: u8 = 3;
const TYPE_COMMAND_SET: u8 = 4;

/// Namespace identifiers in ascending order, ended by a zero unless full.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct NamespaceList {
    /// The identifiers.
    pub ids: [U32; IDENTIFIER_LIST_ENTRIES],
}

const _: () = assert!(size_of::<NamespaceList>() == IDENTIFY_BYTES);

impl NamespaceList {
    /// The first [`IDENTIFIER_LIST_ENTRIES`] of `ids` that are above `after`. `ids` ascends.
    pub fn above(after: u32, ids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::new_zeroed();
        let above = ids.into_iter().filter(|id| *id > after);
        for (slot, id) in list.ids.iter_mut().zip(above) {
            *slot = U32::new(id);
        }
        list
    }

    /// The identifiers, without the zeroes that end the list.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ids.iter().map(|id| id.get()).take_while(|id| *id != 0)
    }
}

/// Controller identifiers in ascending order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ControllerList {
    /// How many follow.
    pub count: U16,
    /// The identifiers.
    pub ids: [U16; CONTROLLER_LIST_ENTRIES],
}

const _: () = assert!(size_of::<ControllerList>() == IDENTIFY_BYTES);

impl ControllerList {
    /// The first [`CONTROLLER_LIST_ENTRIES`] of `ids` that are `first` or above. `ids` ascends.
    pub fn from(first: u16, ids: impl IntoIterator<Item = u16>) -> Self {
        let mut list = Self::new_zeroed();
        let mut count = 0;
        let wanted = ids.into_iter().filter(|id| *id >= first);
        for (slot, id) in list.ids.iter_mut().zip(wanted) {
            *slot = U16::new(id);
            count += 1;
        }
        list.count = U16::new(count);
        list
    }

    /// The identifiers; a count past the end of the list is cut.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.ids.iter().map(|id| id.get()).take(usize::from(self.count.get()))
    }
}

/// One identity of a namespace, as an identification descriptor carries it (CNS 03h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceIdentity {
    /// NIDT 1: EUI64, big endian.
    Eui64([u8; 8]),
    /// NIDT 2: NGUID, big endian.
    Nguid([u8; 16]),
    /// NIDT 3: UUID.
    Uuid(Uuid),
    /// NIDT 4: command set identifier.
    CommandSet(u8),
}

/// Why identification descriptors cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// The list is full.
    #[error("identification descriptors exceed {IDENTIFY_BYTES} bytes")]
    Full,
    /// A descriptor reaches past the end.
    #[error("identification descriptor reaches past the end of the list")]
    Truncated,
    /// The length does not fit the type.
    #[error("identification descriptor has a length of {length} for type {descriptor_type}")]
    Length {
        /// NIDT.
        descriptor_type: u8,
        /// NIDL, in bytes.
        length: u8,
    },
}

/// Writes identification descriptors into zeroed Identify data.
#[derive(Debug)]
pub struct DescriptorWriter<'a> {
    rest: &'a mut [u8],
}

impl<'a> DescriptorWriter<'a> {
    /// Zeroes `data` and starts at its beginning.
    pub fn new(data: &'a mut [u8; IDENTIFY_BYTES]) -> Self {
        data.fill(0);
        Self { rest: data }
    }

    /// Adds one descriptor.
    ///
    /// # Errors
    /// [`DescriptorError::Full`] if it does not fit.
    pub fn push(&mut self, identity: NamespaceIdentity) -> Result<(), DescriptorError> {
        match identity {
            NamespaceIdentity::Eui64(bytes) => self.put(TYPE_EUI64, &bytes),
            NamespaceIdentity::Nguid(bytes) => self.put(TYPE_NGUID, &bytes),
            NamespaceIdentity::Uuid(uuid) => self.put(TYPE_UUID, uuid.as_bytes()),
            NamespaceIdentity::CommandSet(value) => self.put(TYPE_COMMAND_SET, &[value]),
        }
    }

    fn put(&mut self, descriptor_type: u8, value: &[u8]) -> Result<(), DescriptorError> {
        let length = DESCRIPTOR_HEADER_BYTES + value.len();
        let rest = core::mem::take(&mut self.rest);
        if rest.len() < length {
            self.rest = rest;
            return Err(DescriptorError::Full);
        }
        let (descriptor, rest) = rest.split_at_mut(length);
        descriptor[0] = descriptor_type;
        descriptor[1] = u8::try_from(value.len()).expect("identities have at most 16 bytes");
        descriptor[DESCRIPTOR_HEADER_BYTES..].copy_from_slice(value);
        self.rest = rest;
        Ok(())
    }
}

/// Reads identification descriptors up to the zero length that ends them; types that are not known
/// are skipped. After an error nothing more comes.
pub fn identities(
    data: &[u8; IDENTIFY_BYTES],
) -> impl Iterator<Item = Result<NamespaceIdentity, DescriptorError>> {
    let mut rest: &[u8] = data;
    core::iter::from_fn(move || {
        loop {
            let [descriptor_type, length, _, _, value @ ..] = rest else { return None };
            let (descriptor_type, length) = (*descriptor_type, *length);
            if length == 0 {
                return None;
            }
            let Some((value, after)) = value.split_at_checked(usize::from(length)) else {
                rest = &[];
                return Some(Err(DescriptorError::Truncated));
            };
            rest = after;
            match identity(descriptor_type, value) {
                Ok(None) => {}
                Ok(Some(identity)) => return Some(Ok(identity)),
                Err(error) => {
                    rest = &[];
                    return Some(Err(error));
                }
            }
        }
    })
}

fn identity(
    descriptor_type: u8,
    value: &[u8],
) -> Result<Option<NamespaceIdentity>, DescriptorError> {
    let length = u8::try_from(value.len()).expect("the length came from one byte");
    let wrong = DescriptorError::Length { descriptor_type, length };
    Ok(Some(match descriptor_type {
        TYPE_EUI64 => NamespaceIdentity::Eui64(value.try_into().map_err(|_| wrong)?),
        TYPE_NGUID => NamespaceIdentity::Nguid(value.try_into().map_err(|_| wrong)?),
        TYPE_UUID => NamespaceIdentity::Uuid(Uuid::from_slice(value).map_err(|_| wrong)?),
        TYPE_COMMAND_SET => match value {
            [value] => NamespaceIdentity::CommandSet(*value),
            _ => return Err(wrong),
        },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_namespace_list_starts_above_and_ends_at_its_size() {
        let list = NamespaceList::above(2, [1, 2, 3, 7]);
        assert_eq!(list.iter().collect::<Vec<_>>(), [3, 7]);
        let full = NamespaceList::above(0, 1..=1024);
        assert_eq!(full.iter().count(), IDENTIFIER_LIST_ENTRIES);
        let cut = NamespaceList::above(0, 1..=1025);
        assert_eq!(cut.iter().last(), Some(1024));
        assert_eq!(NamespaceList::above(0xffff_fffe, [1]).iter().count(), 0);
    }

    #[test]
    fn a_controller_list_starts_at_and_ends_at_its_size() {
        let list = ControllerList::from(2, [1, 2, 3]);
        assert_eq!(list.iter().collect::<Vec<_>>(), [2, 3]);
        let cut = ControllerList::from(1, 1..=2048);
        assert_eq!(cut.iter().count(), CONTROLLER_LIST_ENTRIES);
        let mut wrong = list;
        wrong.count = U16::new(u16::MAX);
        assert_eq!(wrong.iter().count(), CONTROLLER_LIST_ENTRIES);
    }

    #[test]
    fn descriptors_are_laid_out_as_specified() {
        let mut data = [0xee; IDENTIFY_BYTES];
        let mut writer = DescriptorWriter::new(&mut data);
        writer.push(NamespaceIdentity::Eui64([8; 8])).unwrap();
        writer.push(NamespaceIdentity::CommandSet(0)).unwrap();
        assert_eq!(data[..18], [1, 8, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8, 4, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let mut data = [0; IDENTIFY_BYTES];
        let mut writer = DescriptorWriter::new(&mut data);
        let nguid = NamespaceIdentity::Nguid([1; 16]);
        for _ in 0..204 {
            writer.push(nguid).unwrap();
        }
        assert_eq!(writer.push(nguid), Err(DescriptorError::Full));
        assert_eq!(writer.push(NamespaceIdentity::Eui64([1; 8])), Ok(()));
        assert_eq!(identities(&data).count(), 205);
    }

    #[test]
    fn wrong_lengths_and_truncation_are_errors() {
        let mut data = [0; IDENTIFY_BYTES];
        data[..2].copy_from_slice(&[TYPE_UUID, 8]);
        let wrong = DescriptorError::Length { descriptor_type: TYPE_UUID, length: 8 };
        assert_eq!(identities(&data).collect::<Vec<_>>(), [Err(wrong)]);
        let mut data = [0; IDENTIFY_BYTES];
        for start in (0..4080).step_by(255 + 4) {
            data[start..start + 2].copy_from_slice(&[0x77, 255]);
        }
        assert_eq!(identities(&data).collect::<Vec<_>>(), [Err(DescriptorError::Truncated)]);
    }

    proptest! {
        #[test]
        fn descriptors_survive_a_round_trip(eui: [u8; 8], nguid: [u8; 16], uuid: [u8; 16]) {
            let given = [
                NamespaceIdentity::Eui64(eui),
                NamespaceIdentity::Nguid(nguid),
                NamespaceIdentity::Uuid(Uuid::from_bytes(uuid)),
                NamespaceIdentity::CommandSet(0),
            ];
            let mut data = [0; IDENTIFY_BYTES];
            let mut writer = DescriptorWriter::new(&mut data);
            for identity in given {
                writer.push(identity).unwrap();
            }
            let read = identities(&data).collect::<Result<Vec<_>, _>>();
            prop_assert_eq!(read.as_deref(), Ok(&given[..]));
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), IDENTIFY_BYTES),
        ) {
            let count = identities(bytes.first_chunk().unwrap()).count();
            prop_assert!(count <= IDENTIFY_BYTES / DESCRIPTOR_HEADER_BYTES);
        }
    }
}
