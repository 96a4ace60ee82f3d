//! Whether the cores are near the local drives that they use: drives, memory and cores have NUMA
//! nodes, and what crosses from one node to another is late.
//!
//! Read from sysfs by a control thread, when an operator is told of the devices.

use std::fs;
use std::path::Path;

use bdev::uri::DeviceUri;
use reactor::cores::{CoreId, CoreList};

/// What to tell of a device's place, if any of the cores is not on its node. `root` is the root of
/// the file system; a machine that does not tell nodes is one of a single node.
pub(crate) fn note(root: &Path, uri: &str, cores: &[CoreId]) -> Option<String> {
    let Ok(DeviceUri::Pcie(uri)) = uri.parse() else { return None };
    let device = format!("sys/bus/pci/devices/{}/numa_node", uri.address);
    // The kernel writes -1 where it does not know.
    let node: u32 = fs::read_to_string(root.join(device)).ok()?.trim().parse().ok()?;
    let list = format!("sys/devices/system/node/node{node}/cpulist");
    let list = fs::read_to_string(root.join(list)).ok()?;
    let list = list.trim();
    // A node of memory alone has no cores that could be named instead.
    let near: CoreList = list.parse().ok()?;
    let far: Vec<String> = cores
        .iter()
        .filter(|core| !near.as_slice().contains(core))
        .map(CoreId::to_string)
        .collect();
    if far.is_empty() {
        return None;
    }
    let far = match far.as_slice() {
        [one] => format!("core {one} is"),
        several => format!("cores {} are", several.join(",")),
    };
    Some(format!(
        "it is on NUMA node {node} and {far} not: each I/O from there crosses between nodes; the \
         cores of its node are {list}"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const DRIVE: &str = "pcie:///0000:01:00.0";

    /// A sysfs with one drive and two nodes of two cores each, that goes with the value.
    struct Sysfs(PathBuf);

    impl Sysfs {
        fn new(name: &str, node: &str) -> Sysfs {
            let folder = format!("numa-{name}-{}", std::process::id());
            let root = std::env::current_exe().unwrap().with_file_name(folder);
            let write = |path: &str, text: &str| {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            };
            write("sys/bus/pci/devices/0000:01:00.0/numa_node", node);
            write("sys/devices/system/node/node0/cpulist", "0-1\n");
            write("sys/devices/system/node/node1/cpulist", "2-3\n");
            write("sys/devices/system/node/node2/cpulist", "\n");
            Sysfs(root)
        }

        fn note(&self, uri: &str, cores: &[u32]) -> Option<String> {
            let cores: Vec<CoreId> = cores.iter().copied().map(CoreId).collect();
            note(&self.0, uri, &cores)
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn cores_of_another_node_than_the_drive_are_told() {
        let sysfs = Sysfs::new("far", "1\n");
        let one = sysfs.note(DRIVE, &[0, 2, 3]).unwrap();
        assert!(one.starts_with("it is on NUMA node 1 and core 0 is not"), "{one}");
        let two = sysfs.note(DRIVE, &[0, 1]).unwrap();
        assert!(two.contains("cores 0,1 are not") && two.ends_with("are 2-3"), "{two}");
    }

    #[test]
    fn cores_of_its_own_node_are_nothing_to_tell() {
        assert_eq!(Sysfs::new("near", "1\n").note(DRIVE, &[2, 3]), None);
    }

    #[test]
    fn machines_and_devices_without_nodes_have_nothing_to_tell() {
        assert_eq!(Sysfs::new("unknown", "-1\n").note(DRIVE, &[0]), None);
        assert_eq!(Sysfs::new("memory", "2\n").note(DRIVE, &[0]), None);
        let sysfs = Sysfs::new("other", "1\n");
        for uri in ["malloc:///a?size_mb=1", "pcie:///0000:02:00.0", "no uri"] {
            assert_eq!(sysfs.note(uri, &[0]), None, "{uri}");
        }
    }
}
