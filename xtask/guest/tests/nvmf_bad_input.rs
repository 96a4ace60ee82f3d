//! What goes wrong around the target while a real host works: hosts in a crowd that behave badly,
//! and files that fail underneath. It must cost the host nothing that is not its own.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Controller};
    use guest::{Cache, Crowd, Disk, Guest, GuestImage, Load, Result, SharedGuest, Target};

    const MALLOC: &str = "malloc:///good?size_mb=64";
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const LIMIT: Duration = Duration::from_secs(120);
    const LOAD_MIB: u32 = 4;
    /// What must move before the load counts as going on, in KiB.
    const SOME_KIB: u64 = 2048;
    const CROWD: usize = 1000;
    /// The target gives a host 5 s for the greeting and for Connect, and a controller its keep
    /// alive time; the rest is for a machine with other work.
    const CROWD_LEAVES_WITHIN: Duration = Duration::from_secs(60);

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(2).modules(["ext4"]).boot()
    }

    /// A namespace with a load on it.
    fn connect_and_load(guest: &mut Guest, target: &Target, id: u32) -> (Controller, Load) {
        guest.run_ok("dmesg -c", LIMIT).unwrap();
        let controller = nvme::connect(guest, target.endpoint(), "").unwrap();
        let device = controller.namespace(guest, id).unwrap();
        let load = Load::start(guest, &device, LOAD_MIB).unwrap();
        load.wait_for(guest, SOME_KIB).unwrap();
        (controller, load)
    }

    /// The kernel had no reason to reconnect, nor to give up a command.
    fn nothing_was_lost(guest: &mut Guest) {
        let log = guest.run_ok("dmesg", LIMIT).unwrap();
        for word in ["reset controller", "Reconnecting", "timeout", "I/O error"] {
            assert!(!log.contains(word), "{word} in {log}");
        }
    }

    #[test]
    fn a_thousand_hosts_that_behave_badly_cost_a_good_one_nothing() {
        let mut target = Target::start(0, &[MALLOC]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let (controller, load) = connect_and_load(&mut guest, &target, 1);
        let endpoint = target.endpoint().clone();
        let mut crowd = Crowd::open(endpoint.port, &endpoint.nqn, CROWD).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        assert_eq!(crowd.open_after(CROWD_LEAVES_WITHIN), 0, "the target waits for none of them");
        // Another crowd is gone as soon as it is there.
        drop(Crowd::open(endpoint.port, &endpoint.nqn, CROWD).unwrap());
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        load.stop(&mut guest).unwrap();
        nothing_was_lost(&mut guest);
        controller.disconnect(&mut guest).unwrap();
        let again = nvme::connect(&mut guest, &endpoint, "").unwrap();
        again.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }

    #[test]
    fn a_target_that_can_open_no_more_files_serves_the_hosts_that_it_has() {
        let mut target = Target::start_after("ulimit -n 64", 0, &[MALLOC]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let (controller, load) = connect_and_load(&mut guest, &target, 1);
        let endpoint = target.endpoint().clone();
        let mut crowd = Crowd::open(endpoint.port, &endpoint.nqn, 200).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        assert_eq!(crowd.open_after(CROWD_LEAVES_WITHIN), 0, "those that wait get their turn");
        load.stop(&mut guest).unwrap();
        nothing_was_lost(&mut guest);
        controller.disconnect(&mut guest).unwrap();
        let again = nvme::connect(&mut guest, &endpoint, "").unwrap();
        again.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }

    /// Makes a file system on the first namespace, with files on it that are not in the cache.
    fn fill_file_system(guest: &mut Guest, device: &str) {
        let script = format!(
            "set -e
            mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0 {device}
            mkdir -p /mnt/bad && mount {device} /mnt/bad
            for n in 1 2 3 4; do head -c 1048576 /dev/urandom > /mnt/bad/$n; done
            sync; echo 3 > /proc/sys/vm/drop_caches"
        );
        guest.run_ok(&script, LIMIT).unwrap();
    }

    #[test]
    fn a_file_that_is_cut_underneath_gives_errors_and_other_namespaces_go_on() {
        let disk = Disk::create(DIRECTORY, "cut", 32).unwrap();
        let uri = disk.uri("uring");
        let mut target = Target::start(0, &[&uri, MALLOC]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let (controller, load) = connect_and_load(&mut guest, &target, 2);
        let device = controller.namespace(&mut guest, 1).unwrap();
        fill_file_system(&mut guest, &device);
        disk.resize(1).unwrap();
        // Nothing may come back for what is gone, neither zeroes nor what was there.
        let read = "cat /mnt/bad/1 /mnt/bad/2 /mnt/bad/3 /mnt/bad/4 > /dev/null";
        assert!(!guest.run(read, LIMIT).unwrap().is_success());
        let read = format!("dd if={device} of=/dev/null bs=4k skip=2048 count=1 iflag=direct");
        assert!(!guest.run(&read, LIMIT).unwrap().is_success());
        let read = format!("dd if={device} of=/dev/null bs=4k count=1 iflag=direct");
        guest.run_ok(&read, LIMIT).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        load.stop(&mut guest).unwrap();
        guest.run("umount /mnt/bad || umount -l /mnt/bad", LIMIT).unwrap();
        controller.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }

    /// The file is sparse, and the file system that holds it has room for half of it.
    #[test]
    fn a_disk_that_is_full_underneath_gives_errors_and_other_namespaces_go_on() {
        let script = format!(
            "mount -t tmpfs -o size=16m none {DIRECTORY} && truncate -s 32m {DIRECTORY}/full"
        );
        let uri = format!("uring://{DIRECTORY}/full");
        let mut target = Target::start_after(&script, 0, &[&uri, MALLOC]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let (controller, load) = connect_and_load(&mut guest, &target, 2);
        let device = controller.namespace(&mut guest, 1).unwrap();
        fill_file_system(&mut guest, &device);
        let fill = "dd if=/dev/zero of=/mnt/bad/fill bs=64k count=384 conv=fsync";
        let filled = guest.run(fill, LIMIT).unwrap();
        assert!(!filled.is_success(), "{filled:?}");
        // Capacity Exceeded, which the kernel turns into its own error for a full disk.
        let log = guest.run_ok("dmesg", LIMIT).unwrap();
        assert!(log.contains("sc 0x81") && log.contains("space allocation error"), "{log}");
        // What is stored can be read, and written again.
        let again = format!(
            "dd if={device} of=/tmp/first bs=64k count=1 iflag=direct && \
            dd if=/tmp/first of={device} bs=64k oflag=direct"
        );
        guest.run_ok(&again, LIMIT).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        load.stop(&mut guest).unwrap();
        guest.run("umount /mnt/bad || umount -l /mnt/bad", LIMIT).unwrap();
        controller.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }
}
