//! Machines made of files, for tests: a tree like the kernel's, and a kernel that notes what is
//! written to it and does what the real one would.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::hands::Hands;
use super::host::Host;

/// A tree of files that goes with the value.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
}

/// An NVMe drive of such a machine.
#[derive(Clone, Copy, Debug)]
pub struct DriveParts<'a> {
    pub address: &'a str,
    pub driver: Option<&'a str>,
    pub group: Option<u32>,
    pub node: i32,
}

impl Machine {
    pub fn new(name: &str) -> Machine {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("setup-{name}-{}-{count}", std::process::id());
        let root = std::env::current_exe().unwrap().with_file_name(folder);
        fs::create_dir_all(&root).unwrap();
        Machine { root }
    }

    /// One with an IOMMU, vfio-pci loaded, one node with hugepages, and nothing wrong.
    pub fn good(name: &str) -> Machine {
        let machine = Machine::new(name);
        let flags = "fpu sse4_2 avx2 pclmulqdq vaes";
        let cpuinfo = format!("vendor_id\t: GenuineIntel\nflags\t\t: {flags}\n");
        machine.file("proc/cpuinfo", &cpuinfo);
        machine.file("proc/self/status", "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3\n");
        machine.limits("unlimited", "1048576");
        machine.file("proc/self/mountinfo", "");
        machine.file("proc/swaps", "Filename Type Size Used Priority\n");
        machine.file("proc/sys/kernel/osrelease", "6.12.1-test\n");
        machine.file("proc/sys/vm/max_map_count", "65530\n");
        machine.file("proc/meminfo", "MemTotal: 16777216 kB\n");
        machine.node(0, "0-3", (128, 128));
        for module in ["vfio_pci", "vfio_iommu_type1", "nvme_tcp"] {
            machine.folder(&format!("sys/module/{module}"));
        }
        for driver in ["nvme", "vfio-pci"] {
            machine.folder(&format!("sys/bus/pci/drivers/{driver}"));
        }
        machine
    }

    pub fn host(&self) -> Host {
        Host::new(&self.root)
    }

    pub fn kernel(&self) -> FakeKernel {
        FakeKernel {
            root: self.root.clone(),
            writes: Vec::new(),
            taken_by: "nvme",
            refuses: None,
            denies: false,
            pages_max: u64::MAX,
        }
    }

    pub fn file(&self, path: &str, text: &str) {
        self.bytes(path, text.as_bytes());
    }

    pub fn bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn folder(&self, path: &str) {
        fs::create_dir_all(self.root.join(path)).unwrap();
    }

    pub fn link(&self, path: &str, to: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(self.root.join(to), path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.root.join(path);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
    }

    pub fn limits(&self, memlock: &str, nofile: &str) {
        let text = format!(
            "Limit Soft Limit Hard Limit Units\n\
             Max open files            1024   {nofile}   files\n\
             Max locked memory         {memlock}   unlimited   bytes\n"
        );
        self.file("proc/self/limits", &text);
    }

    /// A NUMA node with so many hugepages, and so many of them free.
    pub fn node(&self, node: u32, cores: &str, (total, free): (u64, u64)) {
        let folder = format!("sys/devices/system/node/node{node}");
        self.file(&format!("{folder}/cpulist"), &format!("{cores}\n"));
        self.file(&format!("{folder}/meminfo"), &format!("Node {node} MemTotal: 8388608 kB\n"));
        let pages = format!("{folder}/hugepages/hugepages-2048kB");
        self.file(&format!("{pages}/nr_hugepages"), &format!("{total}\n"));
        self.file(&format!("{pages}/free_hugepages"), &format!("{free}\n"));
        self.file("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", &format!("{total}\n"));
    }

    /// A function of any class.
    pub fn device(&self, class: &str, parts: DriveParts<'_>) {
        let DriveParts { address, driver, group, node } = parts;
        let device = format!("sys/bus/pci/devices/{address}");
        self.file(&format!("{device}/class"), &format!("{class}\n"));
        self.file(&format!("{device}/numa_node"), &format!("{node}\n"));
        if let Some(driver) = driver {
            self.folder(&format!("sys/bus/pci/drivers/{driver}"));
            self.link(&format!("{device}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            let folder = format!("sys/kernel/iommu_groups/{group}");
            self.link(&format!("{folder}/devices/{address}"), &device);
            self.link(&format!("{device}/iommu_group"), &folder);
        }
    }

    pub fn drive(&self, parts: DriveParts<'_>) {
        self.device("0x010802", parts);
    }

    /// A namespace of a drive that the kernel has; its contents are these bytes.
    pub fn namespace(&self, address: &str, name: &str, number: &str, contents: &[u8]) {
        let controller = format!("sys/bus/pci/devices/{address}/nvme/nvme0");
        self.file(&format!("{controller}/model"), "A Drive  \n");
        self.folder(&format!("{controller}/{name}"));
        self.block(name, number);
        self.bytes(&format!("dev/{name}"), contents);
    }

    pub fn block(&self, name: &str, number: &str) {
        self.file(&format!("sys/class/block/{name}/dev"), &format!("{number}\n"));
        self.folder(&format!("sys/class/block/{name}/holders"));
    }

    pub fn partition(&self, disk: &str, name: &str, number: &str) {
        self.file(&format!("sys/class/block/{disk}/{name}/partition"), "1\n");
        self.block(name, number);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A drive of the kernel's, in a group of its own.
pub fn drive(address: &str) -> DriveParts<'_> {
    DriveParts { address, driver: Some("nvme"), group: Some(7), node: 0 }
}

/// Notes what is written, and binds devices as the real one does.
#[derive(Debug)]
pub struct FakeKernel {
    root: PathBuf,
    /// Paths below the root, with what was written there.
    pub writes: Vec<(String, String)>,
    /// Who takes a device for which no driver is wished.
    pub taken_by: &'static str,
    /// A driver that takes nothing.
    pub refuses: Option<&'static str>,
    /// Whether writing is denied, as it is to those who are not root.
    pub denies: bool,
    /// Hugepages that there is memory for.
    pub pages_max: u64,
}

impl FakeKernel {
    pub fn written(&self) -> Vec<(&str, &str)> {
        self.writes.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
    }

    fn probe(&self, address: &str) {
        let device = self.root.join("sys/bus/pci/devices").join(address);
        let wish = fs::read_to_string(device.join("driver_override")).unwrap_or_default();
        let driver = if wish.trim().is_empty() { self.taken_by } else { wish.trim() };
        let folder = self.root.join("sys/bus/pci/drivers").join(driver);
        if folder.exists() && self.refuses != Some(driver) {
            let _ = symlink(folder, device.join("driver"));
        }
    }
}

impl Hands for FakeKernel {
    fn write(&mut self, path: &Path, text: &str) -> io::Result<()> {
        if self.denies {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let below = path.strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned();
        self.writes.push((below.clone(), text.to_owned()));
        if below.ends_with("/driver_override") {
            fs::write(path, text)
        } else if below.ends_with("/driver/unbind") {
            fs::remove_file(path.parent().unwrap())
        } else if below.ends_with("/drivers_probe") {
            self.probe(text);
            Ok(())
        } else {
            let pages: u64 = text.parse().unwrap();
            fs::write(path, pages.min(self.pages_max).to_string())
        }
    }
}
