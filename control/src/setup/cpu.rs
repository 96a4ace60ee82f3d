//! What the processor can do that makes checksums and encryption cheap.
//!
//! Read from the first processor of `/proc/cpuinfo`: x86-64 lists `flags`, arm64 `Features`.

use super::host::{Host, field};
use super::row::{Row, State};

/// Bytes of the list that are looked at: the first processor, and none of the hundreds after it.
const CPUINFO_BYTES: u64 = 64 << 10;

/// A feature, by the name that the kernel gives it.
struct Feature {
    flag: &'static str,
    /// What happens without it.
    without: &'static str,
}

/// Those of x86-64.
const X86_64: &[Feature] = &[
    Feature { flag: "sse4_2", without: "CRC32C of digests by table, far slower" },
    Feature { flag: "pclmulqdq", without: "CRC32C of long payloads one word at a time" },
    Feature { flag: "avx2", without: "copies and comparisons in narrower steps" },
    Feature { flag: "vaes", without: "encryption one block at a time" },
];
/// Their counterparts on arm64.
const ARM64: &[Feature] = &[
    Feature { flag: "crc32", without: "CRC32C of digests by table, far slower" },
    Feature { flag: "pmull", without: "CRC32C of long payloads one word at a time" },
    Feature { flag: "asimd", without: "copies and comparisons in narrower steps" },
    Feature { flag: "aes", without: "encryption in software" },
    Feature { flag: "atomics", without: "atomic operations by retrying" },
];

/// Who made the processor, as far as it changes a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Its IOMMU wants an option of the kernel.
    Intel,
    /// Its IOMMU is on as soon as the firmware has it on.
    Amd,
    /// arm64, or unknown.
    Other,
}

fn cpuinfo(host: &Host) -> String {
    let bytes = host.head("proc/cpuinfo", CPUINFO_BYTES).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Who made it.
pub fn vendor(host: &Host) -> Vendor {
    match field(&cpuinfo(host), "vendor_id") {
        Some("GenuineIntel") => Vendor::Intel,
        Some("AuthenticAMD") => Vendor::Amd,
        _ => Vendor::Other,
    }
}

/// A row a feature.
pub fn rows(host: &Host) -> Vec<Row> {
    let text = cpuinfo(host);
    let (features, list, emulator) = match (field(&text, "flags"), field(&text, "Features")) {
        (Some(flags), _) => (X86_64, flags, "qemu-system-x86_64 -cpu host"),
        (None, Some(flags)) => (ARM64, flags, "qemu-system-aarch64 -cpu host"),
        (None, None) => {
            let found = "/proc/cpuinfo lists no features: neither x86-64 nor arm64";
            return vec![Row::new("cpu", State::Warning, found)];
        }
    };
    let has = |flag: &str| list.split_whitespace().any(|word| word == flag);
    let is_guest = has("hypervisor");
    let row = |feature: &Feature| {
        let key = format!("cpu.{}", feature.flag);
        if has(feature.flag) {
            return Row::new(key, State::Ok, "yes");
        }
        let row = Row::new(key, State::Warning, format!("no: {}", feature.without));
        // Of a processor there is nothing to mend; of a virtual one there is.
        if is_guest { row.with_fix(emulator) } else { row }
    };
    features.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::fixture::Machine;

    fn states(cpuinfo: &str) -> Vec<(String, State)> {
        let machine = Machine::new("cpu");
        machine.file("proc/cpuinfo", cpuinfo);
        rows(&machine.host()).into_iter().map(|row| (row.key, row.state)).collect()
    }

    #[test]
    fn features_of_x86_64_are_told_one_by_one() {
        let found = states("vendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2 avx2 pclmulqdq\n");
        assert_eq!(found.len(), X86_64.len());
        assert!(found.contains(&("cpu.sse4_2".into(), State::Ok)));
        assert!(found.contains(&("cpu.vaes".into(), State::Warning)));
    }

    #[test]
    fn features_of_arm64_have_names_of_their_own() {
        let found = states("processor\t: 0\nFeatures\t: fp asimd aes pmull sha1 crc32 atomics\n");
        assert_eq!(found.len(), ARM64.len());
        assert!(found.iter().all(|(_, state)| *state == State::Ok), "{found:?}");
    }

    #[test]
    fn an_unknown_processor_is_one_warning() {
        assert_eq!(states("isa : rv64imafdc\n"), [("cpu".into(), State::Warning)]);
    }

    #[test]
    fn a_guest_is_told_how_to_get_what_its_host_has() {
        let machine = Machine::new("cpu-guest");
        machine.file("proc/cpuinfo", "flags : sse4_2 hypervisor\n");
        let rows = rows(&machine.host());
        let vaes = rows.iter().find(|row| row.key == "cpu.vaes").unwrap();
        assert!(vaes.fix.as_ref().unwrap().contains("-cpu host"));
    }
}
