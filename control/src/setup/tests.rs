//! Whole machines: what is said of them, and what is written to them.

use super::bind::{Force, bind, unbind};
use super::drive::VFIO;
use super::error::SetupError;
use super::fixture::{DriveParts, Machine, drive};
use super::nodes::Wish;
use super::options::Form;
use super::report::Report;
use super::row::State;
use super::{Done, json};

const ADDRESS: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";
const WISH: &str = "sys/bus/pci/devices/0000:01:00.0/driver_override";
const TAKE: &str = "sys/bus/pci/devices/0000:01:00.0/driver/unbind";
const PROBE: &str = "sys/bus/pci/drivers_probe";

fn report(machine: &Machine) -> Report {
    let cores = vec![reactor::cores::CoreId(0)];
    Report::of(&machine.host(), &Wish { cores, pages_per_core: 32 })
}

fn state(report: &Report, key: &str) -> State {
    let row = report.rows.iter().find(|row| row.key == key);
    row.unwrap_or_else(|| panic!("no row {key}")).state
}

/// A machine with one empty drive of the kernel's.
fn empty_drive(name: &str) -> Machine {
    let machine = Machine::good(name);
    machine.drive(drive(ADDRESS));
    machine.namespace(ADDRESS, "nvme0n1", "259:0", &[0; 8192]);
    machine
}

fn refusal(machine: &Machine) -> String {
    let mut kernel = machine.kernel();
    let error = bind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap_err();
    assert!(kernel.written().is_empty(), "a refusal changes nothing: {:?}", kernel.writes);
    error.to_string()
}

#[test]
fn a_good_machine_is_ok_in_every_row() {
    let report = report(&empty_drive("good"));
    let bad: Vec<_> = report.rows.iter().filter(|row| row.state != State::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(report.state, State::Ok);
}

#[test]
fn a_machine_that_tells_nothing_is_reported_all_the_same() {
    let report = report(&Machine::new("bare"));
    assert_eq!(state(&report, "hugepages.node0"), State::Missing);
    assert_eq!(state(&report, "iommu"), State::Warning);
    assert_eq!(state(&report, "nvme"), State::Ok);
    assert_eq!(state(&report, "cpu"), State::Warning);
}

#[test]
fn a_drive_without_an_iommu_makes_it_missing() {
    let machine = Machine::good("no-iommu");
    machine.drive(DriveParts { group: None, ..drive(ADDRESS) });
    let report = report(&machine);
    assert_eq!(state(&report, "iommu"), State::Missing);
    assert_eq!(report.state, State::Missing);
    assert!(refusal(&machine).contains("intel_iommu=on"));
}

#[test]
fn keys_of_the_json_stay_what_they_are() {
    let machine = empty_drive("json");
    machine.partition("nvme0n1", "nvme0n1p1", "259:1");
    machine.device("0x020000", DriveParts { driver: Some("e1000e"), ..drive("0000:01:00.1") });
    let text = json(&report(&machine));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(keys(&value), "drives nodes rows state");
    assert_eq!(keys(&value["rows"][0]), "fix found key state");
    assert_eq!(
        keys(&value["nodes"][0]),
        "cores hugepages_free hugepages_total hugepages_wanted node"
    );
    let drive = &value["drives"][0];
    assert_eq!(keys(drive), "address disks driver group model neighbours node uses");
    assert_eq!(keys(&drive["uses"][0]), "detail kind on");
    assert_eq!(keys(&drive["neighbours"][0]), "address class driver");
    assert_eq!(drive["uses"][0]["kind"], "partition_table");
    assert_eq!(value["rows"][0]["state"], "ok");
    let rows: Vec<&str> =
        value["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!(
        rows.join(" "),
        "kernel cpu.sse4_2 cpu.pclmulqdq cpu.avx2 cpu.vaes hugepages.node0 iommu module.vfio-pci \
         module.vfio_iommu_type1 module.nvme-tcp limit.memlock limit.nofile limit.max_map_count \
         nvme.0000:01:00.0"
    );
}

#[test]
fn the_table_has_a_line_a_row_with_its_command_whole() {
    let machine = empty_drive("table");
    let report = report(&machine);
    let table = report.table();
    assert_eq!(table.lines().count(), report.rows.len() + 1);
    let line = table.lines().find(|line| line.starts_with("nvme.")).unwrap();
    assert!(line.ends_with("empty  mayastor setup --bind 0000:01:00.0"), "{line}");
}

#[test]
fn an_empty_drive_is_bound_and_given_back() {
    let machine = empty_drive("bind");
    let (host, mut kernel) = (machine.host(), machine.kernel());
    let change = bind(&host, &mut kernel, ADDRESS, Force::No).unwrap();
    assert_eq!(change.driver_before.as_deref(), Some("nvme"));
    assert_eq!(change.driver.as_deref(), Some(VFIO));
    assert_eq!(kernel.written(), [(WISH, VFIO), (TAKE, ADDRESS), (PROBE, ADDRESS)]);
    kernel.writes.clear();
    // Bound already: nothing to do, and nothing done.
    bind(&host, &mut kernel, ADDRESS, Force::No).unwrap();
    assert!(kernel.written().is_empty());
    let change = unbind(&host, &mut kernel, ADDRESS, Force::No).unwrap();
    assert_eq!(change.driver.as_deref(), Some("nvme"));
    assert_eq!(kernel.written(), [(WISH, "\n"), (TAKE, ADDRESS), (PROBE, ADDRESS)]);
}

#[test]
fn a_drive_without_a_driver_is_bound_without_taking_it_from_any() {
    let machine = Machine::good("unbound");
    machine.drive(DriveParts { driver: None, ..drive(ADDRESS) });
    let mut kernel = machine.kernel();
    bind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap();
    assert_eq!(kernel.written(), [(WISH, VFIO), (PROBE, ADDRESS)]);
}

#[test]
fn what_is_not_there_or_is_no_drive_is_refused() {
    let machine = Machine::good("no-drive");
    assert!(refusal(&machine).contains("there is no PCI device"));
    machine.device("0x020000", drive(ADDRESS));
    assert!(refusal(&machine).contains("is no NVMe controller"));
}

#[test]
fn a_missing_driver_is_told_with_the_command_that_loads_it() {
    let machine = empty_drive("no-module");
    machine.remove("sys/bus/pci/drivers/vfio-pci");
    assert!(refusal(&machine).contains("`modprobe vfio-pci`"));
}

/// A name, the words that tell of it, and how it comes about.
type Obstacle = (&'static str, &'static str, fn(&Machine));

/// All that keeps a drive.
fn obstacles() -> [Obstacle; 6] {
    [
        ("mounted", "is mounted at /srv", |machine| {
            machine.file("proc/self/mountinfo", "9 1 259:0 / /srv rw - xfs /dev/nvme0n1 rw\n");
        }),
        ("swap", "is swapped to", |machine| {
            machine.file("proc/swaps", "Filename\n/dev/nvme0n1 partition 1 0 -2\n");
        }),
        ("held", "is held by md0", |machine| {
            machine.folder("sys/class/block/nvme0n1/holders/md0");
        }),
        ("table", "with 1 partition", |machine| {
            machine.partition("nvme0n1", "nvme0n1p1", "259:1");
        }),
        ("label", "a label of a mirrored volume", |machine| {
            machine.bytes("dev/nvme0n1", b"MIRLABEL");
        }),
        ("unread", "cannot be looked at", |machine| machine.remove("dev/nvme0n1")),
    ]
}

#[test]
fn a_drive_in_use_is_refused_with_its_use_and_taken_by_force() {
    for (name, words, hinder) in obstacles() {
        let machine = empty_drive(name);
        hinder(&machine);
        let told = refusal(&machine);
        assert!(told.contains(words) && told.contains("--force"), "{told}");
        let mut kernel = machine.kernel();
        let change = bind(&machine.host(), &mut kernel, ADDRESS, Force::Yes).unwrap();
        assert_eq!(change.driver.as_deref(), Some(VFIO), "{name}");
    }
}

#[test]
fn others_of_a_group_are_told_with_the_command_for_each() {
    let machine = empty_drive("group");
    machine.drive(drive(OTHER));
    let change = bind(&machine.host(), &mut machine.kernel(), ADDRESS, Force::No).unwrap();
    assert!(change.notes[0].contains("mayastor setup --bind 0000:02:00.0"), "{change:?}");
    assert_eq!(state(&report(&machine), "nvme.0000:01:00.0"), State::Missing);
}

#[test]
fn a_drive_that_vfio_does_not_take_is_the_kernels_again() {
    let machine = empty_drive("not-taken");
    let mut kernel = machine.kernel();
    kernel.refuses = Some(VFIO);
    let error = bind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap_err();
    assert!(matches!(&error, SetupError::NotTaken { now, .. } if now == "nvme"), "{error}");
    assert_eq!(kernel.written()[3..], [(WISH, "\n"), (PROBE, ADDRESS)]);
}

#[test]
fn who_is_not_root_is_told_so() {
    let machine = empty_drive("denied");
    let mut kernel = machine.kernel();
    kernel.denies = true;
    let error = bind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap_err();
    assert!(error.to_string().contains("driver_override cannot be written: run as root"));
}

#[test]
fn only_what_is_bound_and_unused_is_given_back() {
    let machine = empty_drive("give-back");
    let mut kernel = machine.kernel();
    let error = unbind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap_err();
    assert!(error.to_string().contains("not bound to vfio-pci but to nvme"), "{error}");
    bind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap();
    machine.file("proc/77/comm", "mayastor\n");
    machine.folder("proc/77/fd");
    let link = machine.host().path("proc/77/fd/9");
    std::os::unix::fs::symlink("/dev/vfio/7", link).unwrap();
    let error = unbind(&machine.host(), &mut kernel, ADDRESS, Force::No).unwrap_err();
    assert!(error.to_string().contains("process 77 (mayastor) drives it"), "{error}");
    assert!(unbind(&machine.host(), &mut kernel, ADDRESS, Force::Yes).is_ok());
}

#[test]
fn what_was_done_is_told_in_lines_and_in_json() {
    let machine = empty_drive("told");
    let change = bind(&machine.host(), &mut machine.kernel(), ADDRESS, Force::No).unwrap();
    let done = Done { bound: vec![change], ..Done::default() };
    let text = done.text(Form::Table);
    assert!(text.starts_with("0000:01:00.0: vfio-pci (before: nvme)\n"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&done.text(Form::Json)).unwrap();
    assert_eq!(value["bound"][0]["driver"], "vfio-pci");
    assert_eq!(Done::default().text(Form::Json), "");
}
