//! The harness itself: a guest that tests can rely on before they claim anything about a target.

#[cfg(test)]
mod real_kernel {
    use std::env;
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use guest::{Access, Cache, Error, Guest, GuestImage, Iommu, Network};
    use serde_json::json;

    const LIMIT: Duration = Duration::from_secs(60);

    fn image() -> GuestImage {
        GuestImage::prepare(&Cache::from_environment()).unwrap()
    }

    #[test]
    fn commands_give_their_code_and_both_outputs_and_end_in_time() {
        let mut guest = Guest::builder(&image()).boot().unwrap();
        let output = guest.run("echo out; echo err >&2; exit 7", LIMIT).unwrap();
        assert_eq!(
            (output.code, output.stdout.as_str(), output.stderr.as_str()),
            (7, "out\n", "err\n")
        );
        assert_eq!(guest.run("kill -9 $$", LIMIT).unwrap().code, 128 + 9);
        // More than the pipes and the port hold.
        let zeroes = guest.run_ok("head -c 1000000 /dev/zero | tr '\\0' x", LIMIT).unwrap();
        assert_eq!(zeroes.len(), 1_000_000);
        // What a process left behind writes later belongs to no later command.
        guest.run_ok("(sleep 1; echo stray) &", LIMIT).unwrap();
        assert_eq!(guest.run_ok("sleep 2; echo mine", LIMIT).unwrap(), "mine\n");
        let error = guest.run_ok("echo seen; false", LIMIT).unwrap_err();
        assert!(matches!(error, Error::Command { code: 1, .. }), "{error}");
        let begin = Instant::now();
        let error = guest.run("echo before; sleep 100", Duration::from_secs(1)).unwrap_err();
        assert!(matches!(&error, Error::Timeout { stdout, .. } if stdout == "before\n"), "{error}");
        assert!(begin.elapsed() < LIMIT);
        assert_eq!(guest.run_ok("echo still there", LIMIT).unwrap(), "still there\n");
        let error = guest.run("busybox reboot -f", LIMIT).unwrap_err();
        assert!(matches!(error, Error::Died { .. }), "{error}");
        assert!(!guest.is_alive());
    }

    #[test]
    fn all_programs_of_the_image_start() {
        let mut guest = Guest::builder(&image()).boot().unwrap();
        let versions = "nvme version && fio --version && mkfs.ext4 -V && mkfs.xfs -V && \
            iscsiadm --version && dmsetup version; lsblk --version && fstrim --version && \
            blkid --version && ip -V && lspci --version && mount --version";
        guest.run_ok(versions, LIMIT).unwrap();
        for module in ["nvme-tcp", "nvmet-tcp", "ext4", "xfs", "dm-flakey", "iscsi_tcp"] {
            guest.run_ok(&format!("modprobe {module}"), LIMIT).unwrap();
        }
    }

    #[test]
    fn a_machine_has_the_devices_shares_and_memory_that_it_was_given() {
        let directory = std::env::temp_dir().join(format!("guest-share-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "from the host").unwrap();
        let mut guest = Guest::builder(&image())
            .network(Network::None)
            .iommu(Iommu::Intel)
            .hugepages(8)
            .hotplug_slots(1)
            .modules(["nvme"])
            .share(&directory, "read", Access::ReadOnly)
            .share(&directory, "write", Access::ReadWrite)
            .device_args(["-drive", "if=none,id=disk,driver=null-co,size=16M,read-zeroes=on"])
            .boot()
            .unwrap();
        assert_eq!(guest.run_ok("cat /host/read/file", LIMIT).unwrap(), "from the host");
        assert!(!guest.run("echo x > /host/read/new", LIMIT).unwrap().is_success());
        guest.run_ok("echo back > /host/write/new", LIMIT).unwrap();
        assert_eq!(fs::read_to_string(directory.join("new")).unwrap(), "back\n");
        fs::remove_dir_all(&directory).unwrap();
        let pages = guest.run_ok("cat /proc/sys/vm/nr_hugepages", LIMIT).unwrap();
        assert_eq!(pages, "8\n");
        guest.run_ok("test -n \"$(ls /sys/kernel/iommu_groups)\"", LIMIT).unwrap();
        assert!(!guest.run("ip addr show eth0", LIMIT).unwrap().is_success());
        // A drive comes and goes while the guest runs.
        let drive = json!({"driver": "nvme", "id": "nvme0", "drive": "disk", "serial": "plugged",
            "bus": "slot0"});
        guest.qmp("device_add", &drive).unwrap();
        let present =
            "for i in $(seq 200); do test -b /dev/nvme0n1 && exit 0; sleep 0.1; done; exit 1";
        guest.run_ok(present, LIMIT).unwrap();
        guest.qmp("device_del", &json!({"id": "nvme0"})).unwrap();
        guest.wait_event("DEVICE_DELETED", LIMIT).unwrap();
        let error = guest.qmp("device_del", &json!({"id": "nvme0"})).unwrap_err();
        assert!(matches!(error, Error::Qmp { .. }), "{error}");
    }

    #[test]
    fn a_drive_behind_the_iommu_can_be_handed_to_a_process() {
        let drive = "if=none,id=disk,driver=null-co,size=16M,read-zeroes=on";
        let mut guest = Guest::builder(&image())
            .network(Network::None)
            .iommu(Iommu::Intel)
            .modules(["vfio-pci", "vfio_iommu_type1"])
            .device_args(["-drive", drive, "-device", "nvme,id=nvme0,drive=disk,serial=one"])
            .boot()
            .unwrap();
        let hand_over = "set -e
            device=$(lspci -D -d 1b36:0010 | cut -d' ' -f1)
            echo vfio-pci > /sys/bus/pci/devices/$device/driver_override
            echo $device > /sys/bus/pci/drivers_probe
            group=$(basename $(readlink /sys/bus/pci/devices/$device/iommu_group))
            test -c /dev/vfio/$group";
        guest.run_ok(hand_over, LIMIT).unwrap();
    }

    #[test]
    fn a_binary_of_the_host_runs_in_the_guest() {
        let own = env::current_exe().unwrap();
        let (directory, name) = (own.parent().unwrap(), own.file_name().unwrap());
        let builder = Guest::builder(&image()).network(Network::None);
        let mut guest = builder.share(directory, "tests", Access::ReadOnly).boot().unwrap();
        let command = format!("/host/tests/{} --list", name.to_string_lossy());
        let list = guest.run_ok(&command, LIMIT).unwrap();
        assert!(list.contains("a_binary_of_the_host_runs_in_the_guest"), "{list}");
    }

    #[test]
    fn a_guest_ends_with_its_owner() {
        let guest = Guest::builder(&image()).network(Network::None).boot().unwrap();
        let process = format!("/proc/{}", guest.pid());
        assert!(fs::exists(&process).unwrap());
        drop(guest);
        assert!(!fs::exists(&process).unwrap());
    }

    /// The process that is killed is this test binary again, told so by this variable.
    const VICTIM_VARIABLE: &str = "GUEST_TEST_VICTIM";

    #[test]
    fn a_guest_ends_with_its_process_even_where_that_is_killed() {
        if env::var_os(VICTIM_VARIABLE).is_some() {
            let guest = Guest::builder(&image()).network(Network::None).boot().unwrap();
            println!("qemu {}", guest.pid());
            thread::sleep(LIMIT);
            return;
        }
        let name = "real_kernel::a_guest_ends_with_its_process_even_where_that_is_killed";
        let mut victim = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(VICTIM_VARIABLE, "yes")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let pid = lines.find_map(|line| Some(line.ok()?.split_once("qemu ")?.1.to_owned()));
        let process = format!("/proc/{}/cmdline", pid.unwrap());
        assert!(!fs::read(&process).unwrap().is_empty());
        victim.kill().unwrap();
        victim.wait().unwrap();
        // A zombie, which nobody may come to reap, has no command line.
        let is_gone = || fs::read(&process).map_or(true, |line| line.is_empty());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_gone() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(is_gone());
    }
}
