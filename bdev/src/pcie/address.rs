//! Whether a PCI address can be driven, and what to do when it cannot: read from sysfs.
//!
//! Looked at on a control thread before VFIO is asked, because VFIO's own answers say little.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::PcieError;

/// Where the kernel lists PCI devices.
const DEVICES: &str = "sys/bus/pci/devices";
/// Class of an NVMe controller with I/O, as sysfs writes it.
const CLASS_NVME: &str = "0x010802";
/// The driver that gives devices to user space.
const VFIO: &str = "vfio-pci";
/// Drivers of devices in a group that are no obstacle: a bridge moves no data of its own.
const HARMLESS: [&str; 2] = [VFIO, "pcieport"];

/// Name of the driver that a device is bound to.
fn driver(device: &Path) -> Option<String> {
    let link = fs::read_link(device.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Checks a device; `root` is the root of the file system. Returns where sysfs has it.
///
/// # Errors
///
/// What stands in the way, and what to do about it.
pub fn check(root: &Path, address: &str) -> Result<PathBuf, PcieError> {
    let device = root.join(DEVICES).join(address);
    let address = address.to_owned();
    let Ok(class) = fs::read_to_string(device.join("class")) else {
        return Err(PcieError::NoDevice { address });
    };
    let class = class.trim();
    if class != CLASS_NVME {
        return Err(PcieError::NotNvme { address, class: class.to_owned() });
    }
    // First, since vfio-pci does not take a drive that has no group.
    let Ok(link) = fs::read_link(device.join("iommu_group")) else {
        return Err(PcieError::NoIommu { address });
    };
    match driver(&device) {
        Some(driver) if driver == VFIO => {}
        bound => {
            let driver = bound.unwrap_or_else(|| String::from("no driver"));
            return Err(PcieError::Bound { address, driver });
        }
    }
    let group = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let others = others(&device.join("iommu_group/devices"), &address);
    if !others.is_empty() {
        return Err(PcieError::SharedGroup { address, group, others: others.join(", ") });
    }
    Ok(device)
}

/// Devices of a group that the kernel uses.
fn others(group: &Path, address: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    let mut others = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == address {
            continue;
        }
        if let Some(driver) = driver(&entry.path())
            && !HARMLESS.contains(&driver.as_str())
        {
            others.push(format!("{name} ({driver})"));
        }
    }
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs of its own for a test.
    struct Sysfs(PathBuf);

    impl Sysfs {
        fn new(name: &str) -> Sysfs {
            let folder = format!("sysfs-{name}-{}", std::process::id());
            Sysfs(std::env::current_exe().unwrap().with_file_name(folder))
        }

        fn device(&self, address: &str, class: &str, driver: &str, group: Option<u32>) {
            let device = self.0.join(DEVICES).join(address);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("class"), format!("{class}\n")).unwrap();
            if !driver.is_empty() {
                symlink(Path::new("../drivers").join(driver), device.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let folder = self.0.join(format!("groups/{group}"));
                fs::create_dir_all(folder.join("devices")).unwrap();
                symlink(&folder, device.join("iommu_group")).unwrap();
                symlink(&device, folder.join("devices").join(address)).unwrap();
            }
        }

        fn refusal(&self, address: &str) -> String {
            check(&self.0, address).unwrap_err().to_string()
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_drive_that_is_bound_and_alone_is_taken() {
        let sysfs = Sysfs::new("good");
        sysfs.device("0000:01:00.0", CLASS_NVME, VFIO, Some(7));
        sysfs.device("0000:00:01.0", "0x060400", "pcieport", Some(7));
        assert!(check(&sysfs.0, "0000:01:00.0").is_ok());
    }

    #[test]
    fn each_obstacle_has_a_line_that_says_what_to_do() {
        let sysfs = Sysfs::new("bad");
        sysfs.device("0000:02:00.0", "0x020000", VFIO, Some(1));
        sysfs.device("0000:03:00.0", CLASS_NVME, "nvme", Some(2));
        sysfs.device("0000:04:00.0", CLASS_NVME, "", Some(3));
        sysfs.device("0000:05:00.0", CLASS_NVME, "nvme", None);
        sysfs.device("0000:06:00.0", CLASS_NVME, VFIO, Some(4));
        sysfs.device("0000:06:00.1", "0x020000", "e1000e", Some(4));
        assert!(sysfs.refusal("0000:01:00.0").contains("lspci"));
        assert!(sysfs.refusal("0000:02:00.0").contains("class is 0x020000"));
        assert!(sysfs.refusal("0000:03:00.0").contains("is bound to nvme: unmount"));
        assert!(sysfs.refusal("0000:04:00.0").contains("is bound to no driver"));
        assert!(sysfs.refusal("0000:05:00.0").contains("intel_iommu=on"));
        let shared = sysfs.refusal("0000:06:00.0");
        assert!(shared.contains("group 4") && shared.contains("0000:06:00.1 (e1000e)"), "{shared}");
    }
}
