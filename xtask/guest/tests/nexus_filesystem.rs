//! A file system on a volume of three replicas, while each replica is killed and comes back, and
//! then the nexus itself: no error reaches the file system, everything that was written comes
//! back, and in the end the replicas are equal.

#[cfg(test)]
mod real_kernel {
    use std::time::{Duration, Instant};

    use guest::nvme::{self, Controller};
    use guest::{Cache, Guest, GuestImage, Lease, Load, Mirror, Replica, Result, SharedGuest};

    const LIMIT: Duration = Duration::from_secs(120);
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const SIZE_MIB: u64 = 64;
    /// What the load writes to its file before it reads it back.
    const LOAD_MIB: u32 = 8;
    /// What must move before the load counts as going on, in KiB.
    const SOME_KIB: u64 = 1024;
    const NQN: &str = "nqn.2026-01.example:files";
    /// What the kernel says when something has reached a file system that should not.
    const COMPLAINTS: [&str; 5] =
        ["I/O error", "EXT4-fs error", "EXT4-fs warning", "Remounting", "Aborting journal"];

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(2).modules(["nvme-tcp", "ext4"]).boot()
    }

    /// Replicas that differ are made equal by copies.
    fn wait_until_equal(replicas: &[Replica], mirror: &Mirror) {
        let begin = Instant::now();
        let differs = |other: &Replica| replicas[0].difference(other).unwrap().is_some();
        while replicas[1..].iter().any(differs) {
            assert!(begin.elapsed() < LIMIT, "{:?}", mirror.look().unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Small files that come and go beside the load, each with its checksum, so that directories,
    /// inodes and the journal change all the time. Everything is under `/mnt/small`.
    const BEGIN_FILES: &str = "mkdir /mnt/small && rm -f /tmp/files.* && (
            cd /mnt/small || exit
            number=0
            while [ ! -e /tmp/files.stop ]; do
                name=$((number % 32)); number=$((number + 1))
                rm -f $name $name.sum
                dd if=/dev/urandom of=$name bs=8k count=2 conv=fsync 2>/dev/null &&
                    sha256sum $name > $name.sum && sync $name.sum || break
                echo $number > /tmp/files.count
            done
            [ -e /tmp/files.stop ]; echo $? > /tmp/files.code) > /tmp/files.log 2>&1 &";
    const END_FILES: &str = "touch /tmp/files.stop
        while [ ! -s /tmp/files.code ]; do sleep 0.1; done
        cat /tmp/files.log; [ $(cat /tmp/files.code) = 0 ] && cat /tmp/files.count";
    /// Read again from the replicas, and not from the memory of the guest.
    const CHECK_FILES: &str = "cd /mnt/small && echo 3 > /proc/sys/vm/drop_caches &&
        for sum in *.sum; do sha256sum -c $sum >/dev/null || exit 1; done";

    struct Scene {
        guest: Lease<'static>,
        replicas: Vec<Replica>,
        mirror: Mirror,
        controller: Controller,
        device: String,
        load: Load,
    }

    impl Scene {
        /// A mounted file system with a load on it.
        fn begin() -> Scene {
            let replica = |number| {
                let name = format!("files-{number}");
                Replica::start(DIRECTORY, &name, SIZE_MIB, number).unwrap()
            };
            let replicas: Vec<Replica> = (1..=3).map(replica).collect();
            let all: Vec<&Replica> = replicas.iter().collect();
            let mirror = Mirror::start(NQN, &all).unwrap();
            wait_until_equal(&replicas, &mirror);
            let mut guest = GUEST.lock().unwrap();
            guest.run_ok("dmesg -c", LIMIT).unwrap();
            // A host that has lost the volume tries for as long as this test may take.
            let patience = "--ctrl-loss-tmo=120";
            let controller = nvme::connect(&mut guest, mirror.endpoint(), patience).unwrap();
            let device = controller.namespace(&mut guest, 1).unwrap();
            let mount = format!("mkfs.ext4 -q -F {device} && mount -t ext4 {device} /mnt");
            guest.run_ok(&mount, LIMIT).unwrap();
            guest.run_ok(BEGIN_FILES, LIMIT).unwrap();
            let load = Load::start_in(&mut guest, &device, "/mnt/load", LOAD_MIB).unwrap();
            Scene { guest, replicas, mirror, controller, device, load }
        }

        fn load_goes_on(&mut self) {
            self.load.wait_for(&mut self.guest, SOME_KIB).unwrap();
        }

        /// The replica is killed and started again, and takes part again, with the load going on.
        fn kill_replica(&mut self, place: usize) {
            self.load_goes_on();
            self.replicas[place].kill();
            self.mirror.wait_for_child(&self.replicas[place], "faulted").unwrap();
            self.load_goes_on();
            self.replicas[place].start_again().unwrap();
            let back = self.mirror.wait_for_child(&self.replicas[place], "open").unwrap();
            println!("replica {place} is in sync again after {back:.1?}");
        }

        /// The nexus is killed in the middle of writes, and started again while the host waits.
        fn kill_nexus(&mut self) {
            self.load_goes_on();
            self.mirror.kill();
            self.controller.wait_for_state(&mut self.guest, "connecting").unwrap();
            let all: Vec<&Replica> = self.replicas.iter().collect();
            let begin = Instant::now();
            self.mirror.start_again(&all).unwrap();
            self.controller.wait_for_state(&mut self.guest, "live").unwrap();
            println!("the host is back {:.1?} after the nexus was started", begin.elapsed());
            self.load_goes_on();
        }

        /// Nothing was wrong anywhere: what was written is there, the kernel has not complained,
        /// the file system is in order, and the replicas are equal.
        fn end(self) {
            let Scene { mut guest, mut replicas, mirror, controller, device, load } = self;
            load.stop(&mut guest).unwrap();
            let count = guest.run_ok(END_FILES, LIMIT).unwrap();
            println!("{} small files were written", count.trim());
            guest.run_ok(CHECK_FILES, LIMIT).unwrap();
            let mounts = guest.run_ok("grep ' /mnt ' /proc/mounts", LIMIT).unwrap();
            assert!(mounts.contains(" rw,"), "{mounts}");
            guest.run_ok("umount /mnt", LIMIT).unwrap();
            guest.run_ok(&format!("fsck.ext4 -f -n {device}"), LIMIT).unwrap();
            let said = guest.run_ok("dmesg", LIMIT).unwrap();
            for complaint in COMPLAINTS {
                assert!(!said.contains(complaint), "{complaint} in {said}");
            }
            controller.disconnect(&mut guest).unwrap();
            drop(guest);
            wait_until_equal(&replicas, &mirror);
            mirror.end().unwrap();
            replicas.iter_mut().for_each(Replica::kill);
            for other in &replicas[1..] {
                assert_eq!(replicas[0].difference(other).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_file_system_sees_nothing_of_replicas_and_a_nexus_that_are_killed() {
        let mut scene = Scene::begin();
        (0..3).for_each(|place| scene.kill_replica(place));
        scene.kill_nexus();
        scene.end();
    }
}
