//! A drive through its own device file and iommufd: for kernels that have no VFIO groups.
//!
//! The kernels of our guests have only groups, so none of this has met a real device; the layouts
//! are those of the kernel's headers and are asserted. The rest of [`super::vfio`] is the same for
//! both. Opened on control threads. Kernel documentation `driver-api/vfio` ("VFIO Device cdev") and
//! `userspace-api/iommufd`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::error::PcieError;

/// The file of iommufd, below the root of the file system.
const IOMMU: &str = "dev/iommu";
/// The folder of the devices' files.
const DEVICES: &str = "dev/vfio/devices";

// Numbers of `linux/vfio.h` and `linux/iommufd.h`.
const VFIO_REGION_INFO: u8 = 108;
const VFIO_IRQ_INFO: u8 = 109;
const VFIO_BIND: u8 = 118;
const VFIO_ATTACH: u8 = 119;
const IOAS_ALLOC: u8 = 0x81;
const IOAS_MAP: u8 = 0x85;
const IOAS_UNMAP: u8 = 0x86;
/// At the address that is given, for the device to read and to write.
const MAP_FLAGS: u32 = 0b111;

/// `struct vfio_device_bind_iommufd`, as far as it was first defined.
#[repr(C)]
struct Bind {
    len_bytes: u32,
    flags: u32,
    iommu: i32,
    device_id: u32,
}

/// `struct vfio_device_attach_iommufd_pt`, as far as it was first defined.
#[repr(C)]
struct Attach {
    len_bytes: u32,
    flags: u32,
    space: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
struct RegionInfo {
    len_bytes: u32,
    flags: u32,
    index: u32,
    capability_offset: u32,
    size: u64,
    offset: u64,
}

/// `struct vfio_irq_info`.
#[repr(C)]
struct IrqInfo {
    len_bytes: u32,
    flags: u32,
    index: u32,
    count: u32,
}

/// `struct iommu_ioas_alloc`.
#[repr(C)]
struct Alloc {
    len_bytes: u32,
    flags: u32,
    space: u32,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
struct Map {
    len_bytes: u32,
    flags: u32,
    space: u32,
    reserved: u32,
    memory: u64,
    length: u64,
    address: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
struct Unmap {
    len_bytes: u32,
    space: u32,
    address: u64,
    length: u64,
}

const _: () = assert!(size_of::<Bind>() == 16);
const _: () = assert!(size_of::<Attach>() == 12);
const _: () = assert!(size_of::<RegionInfo>() == 32);
const _: () = assert!(size_of::<IrqInfo>() == 16);
const _: () = assert!(size_of::<Alloc>() == 12);
const _: () = assert!(size_of::<Map>() == 40);
const _: () = assert!(size_of::<Unmap>() == 24);

nix::ioctl_readwrite_bad!(region_info, nix::request_code_none!(b';', VFIO_REGION_INFO), RegionInfo);
nix::ioctl_readwrite_bad!(irq_info, nix::request_code_none!(b';', VFIO_IRQ_INFO), IrqInfo);
nix::ioctl_readwrite_bad!(bind, nix::request_code_none!(b';', VFIO_BIND), Bind);
nix::ioctl_readwrite_bad!(attach, nix::request_code_none!(b';', VFIO_ATTACH), Attach);
nix::ioctl_readwrite_bad!(alloc, nix::request_code_none!(b';', IOAS_ALLOC), Alloc);
nix::ioctl_readwrite_bad!(map, nix::request_code_none!(b';', IOAS_MAP), Map);
nix::ioctl_readwrite_bad!(unmap, nix::request_code_none!(b';', IOAS_UNMAP), Unmap);

const fn len<T>() -> u32 {
    // Asserted above for each that is used.
    size_of::<T>() as u32
}

/// A device's own file, attached to an address space of its own.
#[derive(Debug)]
pub struct Cdev {
    device: File,
    iommu: File,
    space: u32,
}

/// The file of the device that sysfs has at `device`, where the kernel has device files but no
/// groups; none where there is a group to be used. `root` is the root of the file system.
pub fn instead_of_group(root: &Path, device: &Path) -> Option<PathBuf> {
    let group = std::fs::read_link(device.join("iommu_group")).ok()?;
    if root.join("dev/vfio").join(group.file_name()?).exists() {
        return None;
    }
    let mut names = std::fs::read_dir(device.join("vfio-dev")).ok()?.flatten();
    let file = root.join(DEVICES).join(names.next()?.file_name());
    file.exists().then_some(file)
}

impl Cdev {
    /// Opens the device's file, binds it to an iommufd and attaches it to a new address space.
    ///
    /// # Errors
    ///
    /// The kernel refuses; with what to do about it where something can be done.
    pub fn open(file: &Path, address: &str) -> Result<Cdev, PcieError> {
        let open = |path: &Path| {
            OpenOptions::new().read(true).write(true).open(path).map_err(|source| {
                PcieError::Permission { path: path.display().to_string(), source }
            })
        };
        let iommu = open(&Path::new("/").join(IOMMU))?;
        let device = open(file)?;
        let mut binding =
            Bind { len_bytes: len::<Bind>(), flags: 0, iommu: iommu.as_raw_fd(), device_id: 0 };
        // SAFETY: the structure is what the request reads and writes, as long as it says.
        unsafe { bind(device.as_raw_fd(), &raw mut binding) }.map_err(|error| match error {
            nix::Error::EBUSY => PcieError::InUse { address: address.to_owned() },
            other => refusal("iommufd refuses the device")(other),
        })?;
        let mut allocation = Alloc { len_bytes: len::<Alloc>(), flags: 0, space: 0 };
        // SAFETY: as above.
        unsafe { alloc(iommu.as_raw_fd(), &raw mut allocation) }
            .map_err(refusal("iommufd has no address space"))?;
        let space = allocation.space;
        let mut attachment = Attach { len_bytes: len::<Attach>(), flags: 0, space };
        // SAFETY: as above.
        unsafe { attach(device.as_raw_fd(), &raw mut attachment) }.map_err(refusal(
            "the IOMMU cannot be used (without interrupt remapping it takes \
             iommufd.allow_unsafe_interrupts=1)",
        ))?;
        Ok(Cdev { device, iommu, space })
    }

    /// The descriptor of the device.
    pub fn device(&self) -> &File {
        &self.device
    }

    /// Offset in the device's file, and length, of one of its regions.
    ///
    /// # Errors
    ///
    /// It has none of this number.
    pub fn region(&self, index: u32) -> io::Result<(u64, u64)> {
        let mut info = RegionInfo {
            len_bytes: len::<RegionInfo>(),
            flags: 0,
            index,
            capability_offset: 0,
            size: 0,
            offset: 0,
        };
        // SAFETY: as in `open`.
        unsafe { region_info(self.device.as_raw_fd(), &raw mut info) }?;
        Ok((info.offset, info.size))
    }

    /// How many interrupts it has of an index.
    pub fn interrupts(&self, index: u32) -> u32 {
        let mut info = IrqInfo { len_bytes: len::<IrqInfo>(), flags: 0, index, count: 0 };
        // SAFETY: as in `open`.
        match unsafe { irq_info(self.device.as_raw_fd(), &raw mut info) } {
            Ok(_) => info.count,
            Err(_) => 0,
        }
    }

    /// Shows memory to the device.
    ///
    /// # Safety
    /// As for [`vfio_ioctls::VfioContainer::vfio_dma_map`]: the memory stays mapped until it was
    /// taken away, and no reference to it is made while the device may use it.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses.
    pub unsafe fn map(&self, address: u64, len_bytes: usize, memory: *mut u8) -> io::Result<()> {
        let mut mapping = Map {
            len_bytes: len::<Map>(),
            flags: MAP_FLAGS,
            space: self.space,
            reserved: 0,
            memory: memory.addr() as u64,
            length: len_bytes as u64,
            address,
        };
        // SAFETY: as in `open`; of the memory the caller has promised.
        unsafe { map(self.iommu.as_raw_fd(), &raw mut mapping) }?;
        Ok(())
    }

    /// Takes memory away from the device.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses, or had another length of it.
    pub fn unmap(&self, address: u64, len_bytes: usize) -> io::Result<()> {
        let length = len_bytes as u64;
        let mut mapping = Unmap { len_bytes: len::<Unmap>(), space: self.space, address, length };
        // SAFETY: as in `open`.
        unsafe { unmap(self.iommu.as_raw_fd(), &raw mut mapping) }?;
        if mapping.length == length { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

fn refusal(what: &'static str) -> impl Fn(nix::Error) -> PcieError {
    move |error| PcieError::System { what, source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file system with one device in group 7, and these files beside it.
    fn chosen(name: &str, files: &[&str]) -> Option<String> {
        let folder = format!("cdev-{name}-{}", std::process::id());
        let root = std::env::current_exe().unwrap().with_file_name(folder);
        let device = root.join("sys/device");
        fs::create_dir_all(&device).unwrap();
        symlink("../groups/7", device.join("iommu_group")).unwrap();
        for file in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let found = instead_of_group(&root, &device);
        let found = found.map(|path| path.strip_prefix(&root).unwrap().display().to_string());
        fs::remove_dir_all(&root).unwrap();
        found
    }

    #[test]
    fn the_group_goes_first_and_the_device_file_stands_in_for_it() {
        let (group, listed) = ("dev/vfio/7", "sys/device/vfio-dev/vfio3");
        let file = "dev/vfio/devices/vfio3";
        assert_eq!(chosen("both", &[group, listed, file]), None);
        assert_eq!(chosen("group", &[group]), None);
        assert_eq!(chosen("file", &[listed, file]).as_deref(), Some(file));
        // Neither: the group's way says what is wrong.
        assert_eq!(chosen("neither", &[]), None);
        assert_eq!(chosen("unlisted", &[file]), None);
        assert_eq!(chosen("missing", &[listed]), None);
    }
}
