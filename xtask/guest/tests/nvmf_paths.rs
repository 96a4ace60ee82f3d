//! Two ways to one namespace, one of them lost: Linux's native multipath goes on with the other.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Controller, Endpoint};
    use guest::{Cache, Client, Guest, GuestImage, Load, Relay, Result, SharedGuest, Target};

    const DEVICE: &str = "malloc:///shared?size_mb=64";
    const LIMIT: Duration = Duration::from_secs(120);
    const LOAD_MIB: u32 = 8;
    /// What must move before the load counts as going on, in KiB.
    const SOME_KIB: u64 = 2048;

    /// What two processes serve together, and what they have it from.
    const NQN: &str = "nqn.2026-01.example:both";
    const STORE_NQN: &str = "nqn.2026-01.example:store";

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(2).boot()
    }

    /// Connects through a relay, with which the path can be cut.
    fn path_through(guest: &mut Guest, relay: &Relay, target: &Target) -> Controller {
        let endpoint = Endpoint { port: relay.port(), ..target.endpoint().clone() };
        // A host that has lost a path tries for as long as this test may take.
        nvme::connect(guest, &endpoint, "--ctrl-loss-tmo=120").unwrap()
    }

    /// Both paths carry I/O at once, so that the loss of either meets commands under way.
    fn use_both_paths(guest: &mut Guest) {
        let set = "for policy in /sys/class/nvme-subsystem/*/iopolicy; do
            echo round-robin > $policy; done";
        guest.run_ok(set, LIMIT).unwrap();
    }

    fn sectors_of(guest: &mut Guest, controller: &Controller) -> u64 {
        let look = format!(
            "awk '{{ print $3 + $7 }}' /sys/class/nvme/{}/nvme*c*n1/stat",
            controller.name()
        );
        guest.run_ok(&look, LIMIT).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn io_goes_on_without_error_when_one_of_two_paths_is_cut() {
        let mut target = Target::start(0, &[DEVICE]).unwrap();
        let port = target.endpoint().port;
        let relays = [Relay::to(port).unwrap(), Relay::to(port).unwrap()];
        let mut guest = GUEST.lock().unwrap();
        let first = path_through(&mut guest, &relays[0], &target);
        let second = path_through(&mut guest, &relays[1], &target);
        let device = first.namespace(&mut guest, 1).unwrap();
        assert_eq!(second.namespace(&mut guest, 1).unwrap(), device, "one device, two paths");
        use_both_paths(&mut guest);
        let load = Load::start(&mut guest, &device, LOAD_MIB).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        assert!(sectors_of(&mut guest, &first) > 0 && sectors_of(&mut guest, &second) > 0);
        relays[0].cut();
        first.wait_for_state(&mut guest, "connecting").unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        load.stop(&mut guest).unwrap();
        assert_eq!(second.attribute(&mut guest, "state").unwrap(), "live");
        assert_eq!(first.attribute(&mut guest, "state").unwrap(), "connecting");
        first.disconnect(&mut guest).unwrap();
        second.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }

    /// Nothing says that such a path is lost: the host finds out by its keep alive, and so does
    /// the target. When the network is back, so is the path, and the other may go.
    #[test]
    fn io_goes_on_without_error_when_a_path_swallows_everything_and_comes_back() {
        let mut target = Target::start(0, &[DEVICE]).unwrap();
        let port = target.endpoint().port;
        let relays = [Relay::to(port).unwrap(), Relay::to(port).unwrap()];
        let mut guest = GUEST.lock().unwrap();
        let first = path_through(&mut guest, &relays[0], &target);
        let second = path_through(&mut guest, &relays[1], &target);
        let device = first.namespace(&mut guest, 1).unwrap();
        use_both_paths(&mut guest);
        let load = Load::start(&mut guest, &device, LOAD_MIB).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        relays[0].stall();
        first.wait_for_state(&mut guest, "connecting").unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        relays[0].resume();
        first.wait_for_state(&mut guest, "live").unwrap();
        relays[1].cut();
        second.wait_for_state(&mut guest, "connecting").unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        load.stop(&mut guest).unwrap();
        first.disconnect(&mut guest).unwrap();
        second.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }

    /// A process that serves the store's namespace in a subsystem that is not its alone: of its
    /// controllers it has those that nobody else has.
    fn gateway(store: &Target, controller_ids: &str) -> (Target, Endpoint) {
        let client = Client::new();
        let own = ["null:///unused?size_mb=1", &client.option()];
        let target = Target::start(0, &own).unwrap();
        client.run(&format!("subsystem add {NQN} --controller-ids {controller_ids}")).unwrap();
        let port = store.endpoint().port;
        let uri = format!("nvmf://127.0.0.1:{port}/{STORE_NQN}");
        let added = client.run(&format!("device add {uri}")).unwrap();
        let device = added["device"]["name"].as_str().unwrap();
        client.run(&format!("namespace add {NQN} {device} --nsid 1")).unwrap();
        let endpoint = Endpoint { nqn: NQN.to_owned(), ..target.endpoint().clone() };
        (target, endpoint)
    }

    /// To the host both are one subsystem, and their namespace one device.
    #[test]
    fn io_goes_on_over_another_process_when_one_of_two_that_serve_a_subsystem_is_killed() {
        let mut store = Target::start(0, &[DEVICE, "--nqn", STORE_NQN]).unwrap();
        let (one, one_endpoint) = gateway(&store, "1-1000");
        let (mut two, two_endpoint) = gateway(&store, "1001-2000");
        let mut guest = GUEST.lock().unwrap();
        let options = "--ctrl-loss-tmo=120";
        let first = nvme::connect(&mut guest, &one_endpoint, options).unwrap();
        let second = nvme::connect(&mut guest, &two_endpoint, options).unwrap();
        let id = |controller: &Controller, guest: &mut Guest| -> u32 {
            controller.attribute(guest, "cntlid").unwrap().trim().parse().unwrap()
        };
        assert!((1..=1000).contains(&id(&first, &mut guest)));
        assert!((1001..=2000).contains(&id(&second, &mut guest)));
        let device = first.namespace(&mut guest, 1).unwrap();
        assert_eq!(second.namespace(&mut guest, 1).unwrap(), device, "one device, two paths");
        use_both_paths(&mut guest);
        let load = Load::start(&mut guest, &device, LOAD_MIB).unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        assert!(sectors_of(&mut guest, &first) > 0 && sectors_of(&mut guest, &second) > 0);
        one.kill();
        first.wait_for_state(&mut guest, "connecting").unwrap();
        load.wait_for(&mut guest, SOME_KIB).unwrap();
        load.stop(&mut guest).unwrap();
        assert_eq!(second.attribute(&mut guest, "state").unwrap(), "live");
        first.disconnect(&mut guest).unwrap();
        second.disconnect(&mut guest).unwrap();
        assert!(two.is_alive(), "{}", two.log());
        assert!(store.is_alive(), "{}", store.log());
    }
}
