//! Two hosts and one namespace: `nvme resv-*`, what each type lets whom do, preemption, and a
//! reservation that outlives the target.
//!
//! One guest is both hosts: it connects twice, with two host identifiers. Without native multipath
//! each connection has a block device of its own.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Controller, Endpoint};
    use guest::{Cache, Disk, Guest, GuestImage, Output, Relay, Result, SharedGuest, Target};
    use serde_json::Value;

    const DEVICE: &str = "malloc:///shared?size_mb=16";
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const NQN: &str = "nqn.2026-01.example:reserved";
    const LIMIT: Duration = Duration::from_secs(120);
    /// Reservation Conflict.
    const CONFLICT: &str = "(0x83)";
    /// The six types, as nvme-cli numbers them.
    const WRITE_EXCLUSIVE: u8 = 1;
    const TYPES: [u8; 6] = [1, 2, 3, 4, 5, 6];

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).kernel_words("nvme_core.multipath=N").boot()
    }

    /// One of the two hosts.
    struct Host {
        controller: Controller,
        device: String,
        key: &'static str,
    }

    /// The second host's key; the first one's is `0xa1`.
    const KEYS: [&str; 2] = ["0xa1", "0xb2"];

    fn connect(guest: &mut Guest, endpoint: &Endpoint, number: usize) -> Host {
        let id = format!("00000000-0000-4000-8000-00000000000{}", number + 1);
        let identity = format!("--hostid={id} --hostnqn=nqn.2014-08.org.nvmexpress:uuid:{id}");
        let controller = nvme::connect(guest, endpoint, &identity).unwrap();
        let device = format!("/dev/{}n1", controller.name());
        nvme::poll(guest, &format!("test -b {device} && echo there"), |text| !text.is_empty())
            .unwrap();
        Host { controller, device, key: KEYS[number] }
    }

    /// nvme-cli takes a second connection to one port for the first, whoever the host is, so the
    /// second comes through a relay.
    fn connect_two(guest: &mut Guest, endpoint: &Endpoint) -> ([Host; 2], Relay) {
        let relay = Relay::to(endpoint.port).unwrap();
        let other = Endpoint { port: relay.port(), ..endpoint.clone() };
        let hosts = [connect(guest, endpoint, 0), connect(guest, &other, 1)];
        assert_ne!(hosts[0].device, hosts[1].device);
        (hosts, relay)
    }

    fn disconnect(guest: &mut Guest, hosts: [Host; 2]) {
        for host in hosts {
            host.controller.disconnect(guest).unwrap();
        }
    }

    impl Host {
        fn try_run(&self, guest: &mut Guest, command: &str, options: &str) -> Output {
            let command = format!("nvme resv-{command} {} -n 1 {options}", self.device);
            guest.run(&command, LIMIT).unwrap()
        }

        fn run(&self, guest: &mut Guest, command: &str, options: &str) {
            let output = self.try_run(guest, command, options);
            assert!(output.is_success(), "{command} {options}: {output:?}");
        }

        fn is_refused(&self, guest: &mut Guest, command: &str, options: &str) {
            let output = self.try_run(guest, command, options);
            let said = format!("{}{}", output.stdout, output.stderr).replace("0x4083", "0x83");
            assert!(said.contains(CONFLICT), "{command} {options}: {output:?}");
        }

        fn register(&self, guest: &mut Guest) {
            self.run(guest, "register", &format!("-k {} -r 0", self.key));
        }

        fn unregister(&self, guest: &mut Guest) {
            self.run(guest, "register", &format!("-c {} -r 1", self.key));
        }

        fn acquire(&self, guest: &mut Guest, kind: u8) {
            self.run(guest, "acquire", &format!("-c {} -t {kind} -a 0", self.key));
        }

        fn release(&self, guest: &mut Guest, kind: u8) {
            self.run(guest, "release", &format!("-c {} -t {kind} -a 0", self.key));
        }

        /// Whether this host may read, and write. What it may not is refused as a conflict.
        fn may(&self, guest: &mut Guest) -> (bool, bool) {
            let device = &self.device;
            let script = format!(
                "for job in 'if={device} of=/dev/null iflag=direct' \
                     'if=/dev/zero of={device} oflag=direct'; do
                    said=$(dd $job bs=4k count=1 2>&1) && echo yes && continue
                    case $said in *'Invalid exchange'*) echo no ;; *) echo \"$said\" ;; esac
                done"
            );
            let text = guest.run_ok(&script, LIMIT).unwrap();
            match text.split_whitespace().collect::<Vec<_>>()[..] {
                ["yes", "yes"] => (true, true),
                ["yes", "no"] => (true, false),
                ["no", "yes"] => (false, true),
                ["no", "no"] => (false, false),
                _ => panic!("{text}"),
            }
        }

        fn report(&self, guest: &mut Guest) -> Value {
            let command = format!("nvme resv-report {} -n 1 --eds -o json", self.device);
            nvme::json_of(guest, &command).unwrap()
        }
    }

    #[test]
    fn every_type_lets_each_host_do_what_it_says_and_no_more() {
        let mut target = Target::start(0, &[DEVICE]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let (hosts, _relay) = connect_two(&mut guest, target.endpoint());
        let [holder, other] = &hosts;
        holder.register(&mut guest);
        for kind in TYPES {
            holder.acquire(&mut guest, kind);
            assert_eq!(holder.may(&mut guest), (true, true), "the holder, type {kind}");
            // Odd types are for writes alone.
            let reads = kind % 2 == 1;
            assert_eq!(other.may(&mut guest), (reads, false), "not registered, type {kind}");
            other.register(&mut guest);
            let registered = if kind > 2 { (true, true) } else { (reads, false) };
            assert_eq!(other.may(&mut guest), registered, "registered, type {kind}");
            let report = other.report(&mut guest);
            assert_eq!((&report["rtype"], &report["regctl"]), (&kind.into(), &2.into()));
            // With "all registrants" every registrant is a holder, and may ask again.
            if kind <= 4 {
                other.is_refused(&mut guest, "acquire", &format!("-c {} -t {kind} -a 0", KEYS[1]));
            }
            other.unregister(&mut guest);
            holder.release(&mut guest, kind);
            assert_eq!(other.may(&mut guest), (true, true), "released, type {kind}");
        }
        disconnect(&mut guest, hosts);
        assert!(target.is_alive(), "{}", target.log());
    }

    #[test]
    fn a_host_takes_the_reservation_over_and_the_one_before_is_told() {
        let mut target = Target::start(0, &[DEVICE]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let (hosts, _relay) = connect_two(&mut guest, target.endpoint());
        let [first, second] = &hosts;
        second.is_refused(&mut guest, "acquire", &format!("-c {} -t 1 -a 0", KEYS[1]));
        first.register(&mut guest);
        second.register(&mut guest);
        first.acquire(&mut guest, WRITE_EXCLUSIVE);
        assert_eq!(second.may(&mut guest), (true, false));
        let preempt = format!("-c {} -p {} -t {WRITE_EXCLUSIVE} -a 1", KEYS[1], KEYS[0]);
        second.run(&mut guest, "acquire", &preempt);
        assert_eq!(second.may(&mut guest), (true, true));
        assert_eq!(first.may(&mut guest), (true, false));
        first.is_refused(&mut guest, "acquire", &format!("-c {} -t 1 -a 0", KEYS[0]));
        let report = second.report(&mut guest);
        assert_eq!((&report["rtype"], &report["regctl"]), (&1.into(), &1.into()), "{report}");
        // Log page 80h: its ninth byte is the type, 1 where a registration was preempted.
        let log = format!("nvme get-log {} -i 0x80 -l 64 -b", first.controller.device());
        let log = guest.run_ok(&format!("{log} | od -An -t u1 -j 8 -N 1"), LIMIT).unwrap();
        assert_eq!(log.trim(), "1");
        // A wrong key changes nothing; the right one clears everything.
        second.is_refused(&mut guest, "release", "-c 0x77 -t 1 -a 0");
        second.run(&mut guest, "release", &format!("-c {} -a 1", KEYS[1]));
        let report = first.report(&mut guest);
        assert_eq!((&report["rtype"], &report["regctl"]), (&0.into(), &0.into()), "{report}");
        assert_eq!(first.may(&mut guest), (true, true));
        disconnect(&mut guest, hosts);
        assert!(target.is_alive(), "{}", target.log());
    }

    #[test]
    fn a_reservation_that_is_to_persist_outlives_a_killed_target() {
        let disk = Disk::create(DIRECTORY, "reserved", 16).unwrap();
        let uri = disk.uri("uring");
        let arguments = [uri.as_str(), "--nqn", NQN];
        let target = Target::start(0, &arguments).unwrap();
        let endpoint = target.endpoint().clone();
        let mut guest = GUEST.lock().unwrap();
        let (hosts, _relay) = connect_two(&mut guest, &endpoint);
        let [first, second] = &hosts;
        let about = format!("nvme id-ns {} -o json", first.device);
        let about = nvme::json_of(&mut guest, &about).unwrap();
        assert_eq!(about["rescap"].as_u64().unwrap() & 1, 1, "it can persist: {about}");
        let persist = format!("-k {} -r 0 -p 3", first.key);
        first.run(&mut guest, "register", &persist);
        first.acquire(&mut guest, WRITE_EXCLUSIVE);
        let before = first.report(&mut guest);
        assert_eq!(before["ptpls"], 1, "{before}");
        target.kill();
        for host in &hosts {
            host.controller.wait_for_state(&mut guest, "connecting").unwrap();
        }
        let mut target = Target::start(endpoint.port, &arguments).unwrap();
        for host in &hosts {
            host.controller.wait_for_state(&mut guest, "live").unwrap();
        }
        assert_eq!(second.may(&mut guest), (true, false));
        assert_eq!(first.may(&mut guest), (true, true));
        let after = second.report(&mut guest);
        for field in ["rtype", "regctl", "ptpls"] {
            assert_eq!(after[field], before[field], "{field}: {before} {after}");
        }
        first.unregister(&mut guest);
        assert_eq!(second.may(&mut guest), (true, true));
        disconnect(&mut guest, hosts);
        assert!(target.is_alive(), "{}", target.log());
    }
}
