//! Description of a guest machine, turned into the command line of QEMU.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::image::GuestImage;
use crate::machine::Guest;

/// Memory of a guest that asks for none, in MiB: the image takes 60 of them.
const MEMORY_DEFAULT_MIB: u32 = 512;
/// What every guest's kernel is told: nothing that takes time or varies, and to end on trouble.
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic nokaslr \
    mitigations=off tsc=reliable no_timer_check random.trust_cpu=on nowatchdog audit=0 \
    apparmor=0 cryptomgr.notests rcupdate.rcu_expedited=1";

/// What a guest may do with a shared directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and change it.
    ReadWrite,
}

/// How a guest reaches the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It has no card.
    None,
    /// QEMU opens its connections as an ordinary process: the loopback of the host is at
    /// [`crate::HOST_ADDRESS`]. Nothing can connect to the guest.
    User,
}

/// Whether the machine has an IOMMU; VFIO in the guest needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iommu {
    /// No IOMMU.
    None,
    /// Intel's, with interrupt remapping.
    Intel,
}

/// A machine to be; see [`Guest::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    image: GuestImage,
    memory_mib: u32,
    cpus: u32,
    hugepages: u32,
    network: Network,
    iommu: Iommu,
    shares: Vec<Share>,
    devices: Vec<String>,
    kernel_words: Vec<String>,
    modules: Vec<String>,
}

#[derive(Clone, Debug)]
struct Share {
    directory: PathBuf,
    tag: String,
    access: Access,
}

/// Numbers of the descriptors that QEMU inherits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    pub agent: i32,
    pub qmp: i32,
    pub console: i32,
}

impl Builder {
    pub(crate) fn new(image: &GuestImage) -> Builder {
        Builder {
            image: image.clone(),
            memory_mib: MEMORY_DEFAULT_MIB,
            cpus: 1,
            hugepages: 0,
            network: Network::User,
            iommu: Iommu::None,
            shares: Vec::new(),
            devices: Vec::new(),
            kernel_words: Vec::new(),
            modules: Vec::new(),
        }
    }

    /// Memory in MiB; 512 unless told.
    pub fn memory_mib(mut self, memory_mib: u32) -> Builder {
        self.memory_mib = memory_mib;
        self
    }

    /// Processors; one unless told. More make a guest slower where the host has few cores.
    pub fn cpus(mut self, cpus: u32) -> Builder {
        self.cpus = cpus;
        self
    }

    /// Hugepages of 2 MiB that the guest reserves; none unless told.
    pub fn hugepages(mut self, count: u32) -> Builder {
        self.hugepages = count;
        self
    }

    /// Network; [`Network::User`] unless told.
    pub fn network(mut self, network: Network) -> Builder {
        self.network = network;
        self
    }

    /// IOMMU; none unless told.
    pub fn iommu(mut self, iommu: Iommu) -> Builder {
        self.iommu = iommu;
        self
    }

    /// Shows a directory of the host in the guest, as `/host/TAG`. A tag is letters, digits and
    /// dashes.
    pub fn share(mut self, directory: &Path, tag: &str, access: Access) -> Builder {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(!tag.is_empty() && tag.chars().all(legal), "illegal tag {tag:?}");
        self.shares.push(Share { directory: directory.to_owned(), tag: tag.to_owned(), access });
        self
    }

    /// Further arguments of QEMU, for devices above all.
    pub fn device_args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        self.devices.extend(args.into_iter().map(Into::into));
        self
    }

    /// Empty PCIe slots named `slot0` and up, into which devices can be plugged over QMP.
    pub fn hotplug_slots(self, count: u32) -> Builder {
        let slot = |n| format!("pcie-root-port,id=slot{n},slot={0},chassis={0}", n + 1);
        self.device_args((0..count).flat_map(|n| [String::from("-device"), slot(n)]))
    }

    /// Further words of the kernel's command line.
    pub fn kernel_words(mut self, words: &str) -> Builder {
        self.kernel_words.push(words.to_owned());
        self
    }

    /// Modules that are loaded before the first command; there is no udev to load them later.
    pub fn modules(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        self.modules.extend(names.into_iter().map(Into::into));
        self
    }

    /// Starts the machine and waits until it takes commands.
    pub fn boot(&self) -> Result<Guest> {
        Guest::boot(self)
    }

    /// Arguments of QEMU.
    pub(crate) fn arguments(&self, channels: Channels) -> Vec<String> {
        let mut arguments = self.machine_arguments();
        // An IOMMU must come before the devices that it is to translate for.
        if self.iommu == Iommu::Intel {
            arguments.extend(words("-device intel-iommu,intremap=on,caching-mode=on"));
        }
        let Channels { agent, qmp, console } = channels;
        arguments.extend(words(&format!(
            "-chardev socket,id=console,fd={console} -serial chardev:console \
             -chardev socket,id=qmp,fd={qmp} -mon chardev=qmp,mode=control \
             -device virtio-serial-pci -chardev socket,id=agent,fd={agent} \
             -device virtserialport,chardev=agent,name=agent \
             -object rng-random,id=random,filename=/dev/urandom -device virtio-rng-pci,rng=random"
        )));
        for (index, share) in self.shares.iter().enumerate() {
            let read_only = if share.access == Access::ReadOnly { ",readonly=on" } else { "" };
            let path = share.directory.display().to_string().replace(',', ",,");
            arguments.push(String::from("-fsdev"));
            arguments
                .push(format!("local,id=share{index},security_model=none,path={path}{read_only}"));
            arguments.push(String::from("-device"));
            arguments.push(format!("virtio-9p-pci,fsdev=share{index},mount_tag={}", share.tag));
        }
        if self.network == Network::User {
            arguments.extend(words(
                "-netdev user,id=network -device virtio-net-pci,netdev=network,romfile=",
            ));
        }
        arguments.extend(self.devices.iter().cloned());
        arguments
    }

    fn machine_arguments(&self) -> Vec<String> {
        let mut arguments = words(&format!(
            "-nodefaults -no-user-config -display none -no-reboot -monitor none \
             -machine q35,smm=off,vmport=off,hpet=off -cpu max -accel tcg,thread=multi \
             -smp {} -m {}",
            self.cpus, self.memory_mib
        ));
        let path = |path: PathBuf| path.display().to_string();
        arguments.extend([String::from("-kernel"), path(self.image.kernel())]);
        arguments.extend([String::from("-initrd"), path(self.image.initramfs())]);
        arguments.extend([String::from("-append"), self.kernel_command_line()]);
        arguments
    }

    fn kernel_command_line(&self) -> String {
        let mut line = words(KERNEL_WORDS);
        if self.iommu == Iommu::Intel {
            line.push(String::from("intel_iommu=on"));
        }
        if self.network == Network::User {
            line.push(String::from("guest.network=10.0.2.15/24,10.0.2.2"));
        }
        if self.hugepages > 0 {
            line.push(format!("guest.hugepages={}", self.hugepages));
        }
        if !self.modules.is_empty() {
            line.push(format!("guest.modules={}", self.modules.join(",")));
        }
        let mode = |access| if access == Access::ReadOnly { "ro" } else { "rw" };
        let shares = self.shares.iter().map(|s| format!("{}:{}", s.tag, mode(s.access)));
        let shares: Vec<String> = shares.collect();
        if !shares.is_empty() {
            line.push(format!("guest.shares={}", shares.join(",")));
        }
        line.extend(self.kernel_words.iter().cloned());
        line.join(" ")
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
