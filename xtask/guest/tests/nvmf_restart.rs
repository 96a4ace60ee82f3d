//! A target that is killed and started again: the host comes back to the same namespace, and no
//! byte that it was promised is lost.

#[cfg(test)]
mod real_kernel {
    use std::time::{Duration, Instant};

    use guest::nvme::{self, Controller};
    use guest::{Cache, Disk, Guest, GuestImage, Load, Result, SharedGuest, Target};

    const LIMIT: Duration = Duration::from_secs(120);
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const SIZE_MIB: u64 = 64;
    /// What the load writes before it reads it back.
    const LOAD_MIB: u32 = 8;
    const NQN: &str = "nqn.2026-01.example:restart";
    /// What [`nvme::connect`] tells the kernel to wait between two tries to reconnect.
    const RECONNECT_DELAY: Duration = Duration::from_secs(1);
    /// The promise is half a second; emulation and a machine with other work take their share.
    const RECONNECT_MAX: Duration = Duration::from_secs(10);

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(2).boot()
    }

    fn identity(guest: &mut Guest, device: &str) -> String {
        let name = device.trim_start_matches("/dev/");
        guest.run_ok(&format!("cd /sys/block/{name}; cat wwid uuid nguid nsid"), LIMIT).unwrap()
    }

    /// Seconds since boot when the kernel last logged a line with these words.
    fn logged_at(guest: &mut Guest, words: &str) -> f64 {
        let last = format!("dmesg | grep '{words}' | tail -1");
        let line = guest.run_ok(&last, LIMIT).unwrap();
        let time = line.trim_start_matches('[').split(']').next().unwrap();
        time.trim().parse().unwrap_or_else(|_| panic!("{line:?}"))
    }

    /// Kills the target under load and starts it again, as often as asked.
    fn the_host_comes_back(scheme: &str, kills: u32) {
        let disk = Disk::create(DIRECTORY, scheme, SIZE_MIB).unwrap();
        let uri = disk.uri(scheme);
        let arguments = [uri.as_str(), "--nqn", NQN];
        let mut target = Target::start(0, &arguments).unwrap();
        let endpoint = target.endpoint().clone();
        let mut guest = GUEST.lock().unwrap();
        let controller = nvme::connect(&mut guest, &endpoint, "").unwrap();
        let device = controller.namespace(&mut guest, 1).unwrap();
        let before = identity(&mut guest, &device);
        let load = Load::start(&mut guest, &device, LOAD_MIB).unwrap();
        for _ in 0..kills {
            load.wait_for(&mut guest, 2048).unwrap();
            target.kill();
            controller.wait_for_state(&mut guest, "connecting").unwrap();
            target = Target::start(endpoint.port, &arguments).unwrap();
            controller.wait_for_state(&mut guest, "live").unwrap();
        }
        load.wait_for(&mut guest, 2048).unwrap();
        load.stop(&mut guest).unwrap();
        assert_eq!(identity(&mut guest, &device), before);
        assert!(target.is_alive(), "{}", target.log());
        controller.disconnect(&mut guest).unwrap();
    }

    #[test]
    fn a_verify_goes_on_over_a_killed_target_with_io_uring() {
        the_host_comes_back("uring", 2);
    }

    #[test]
    fn a_verify_goes_on_over_a_killed_target_with_linux_aio() {
        the_host_comes_back("aio", 1);
    }

    /// Time from a start of the target to the first completed I/O, less what the host waits
    /// between its tries: what the target needs until it listens, and what host and target need
    /// from the begin of the last try on.
    #[test]
    fn a_host_is_served_soon_after_a_restart() {
        let disk = Disk::create(DIRECTORY, "soon", SIZE_MIB).unwrap();
        let uri = disk.uri("uring");
        let arguments = [uri.as_str(), "--nqn", NQN];
        let target = Target::start(0, &arguments).unwrap();
        let endpoint = target.endpoint().clone();
        let mut guest = GUEST.lock().unwrap();
        let controller: Controller = nvme::connect(&mut guest, &endpoint, "").unwrap();
        let device = controller.namespace(&mut guest, 1).unwrap();
        guest.run_ok("dmesg -c", LIMIT).unwrap();
        target.kill();
        controller.wait_for_state(&mut guest, "connecting").unwrap();
        let read = format!(
            "rm -f /tmp/served; (dd if={device} of=/dev/null bs=4k count=1 iflag=direct \
             2>/dev/null && cat /proc/uptime > /tmp/served) &"
        );
        guest.run_ok(&read, LIMIT).unwrap();
        let begin = Instant::now();
        let mut target = Target::start(endpoint.port, &arguments).unwrap();
        let start = begin.elapsed();
        let wait = "for i in $(seq 600); do test -s /tmp/served && break; sleep 0.1; done
            cut -d ' ' -f 1 /tmp/served";
        let served: f64 = guest.run_ok(wait, LIMIT).unwrap().trim().parse().unwrap();
        let tried = logged_at(&mut guest, "Reconnecting in") + RECONNECT_DELAY.as_secs_f64();
        let reconnect = Duration::from_secs_f64((served - tried).max(0.0));
        println!("{start:.3?} to listen, {reconnect:.3?} from the host's try to its first I/O");
        assert!(start + reconnect < RECONNECT_MAX, "{start:?} and {reconnect:?}");
        assert!(target.is_alive(), "{}", target.log());
        controller.disconnect(&mut guest).unwrap();
    }
}
