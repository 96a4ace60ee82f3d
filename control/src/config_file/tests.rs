//! Tests of the configuration file: what is legal, where a mistake is told, and that no text
//! whatever does harm.

use super::*;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../../docs/target.toml");

const NQN: &str = "nqn.2019-05.io.openebs:a";

/// A file with two devices and a subsystem, after which `text` follows.
fn with(text: &str) -> String {
    format!(
        "[[devices]]\nuri = \"malloc:///a?size_mb=1\"\n[[devices]]\nuri = \"/disk\"\n\
         [[subsystems]]\nnqn = \"{NQN}\"\n{text}"
    )
}

/// The line and key of the mistake in a file, and what is said of it.
fn mistake(text: &str) -> String {
    let mistake = ConfigFile::parse(text).expect_err(text);
    format!("{}: {}", Place::find(text, mistake.at), mistake.text)
}

#[test]
fn the_example_is_legal_and_shows_every_key() {
    let file = ConfigFile::parse(EXAMPLE).unwrap_or_else(|mistake| panic!("{mistake:?}"));
    assert_eq!((file.portals.len(), file.devices.len(), file.subsystems.len()), (2, 3, 2));
    assert!(file.grpc.is_some());
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| {
            let is_key = |rest: &str| rest.starts_with(|one: char| one.is_ascii_lowercase());
            let key = line.strip_prefix("# ").filter(|rest| is_key(rest) && rest.contains(" = "));
            key.unwrap_or(line).to_owned() + "\n"
        })
        .collect();
    let file = ConfigFile::parse(&uncommented).unwrap_or_else(|mistake| panic!("{mistake:?}"));
    assert_eq!(file.target.idle, Idle::Sleep);
    assert_eq!(file.target.dma_mib.unwrap().0, engine::config::DMA_MIB_DEFAULT);
    assert_eq!(file.target.digests, Some(true));
    assert!(file.grpc.unwrap().address.is_some());
    // What a section lists when a key is not known is what the example has to show.
    let tables = ["portals", "devices", "nexuses", "subsystems"].map(|one| format!("[[{one}]]"));
    for section in ["[target]", "[grpc]"].map(String::from).iter().chain(&tables) {
        let said = mistake(&format!("{section}\nno_such_key = 1\n"));
        for key in said.split('`').skip(3).step_by(2).filter(|key| *key != "namespaces") {
            assert!(uncommented.contains(&format!("\n{key} = ")), "{key} of {section}: {said}");
        }
    }
}

#[test]
fn an_empty_file_is_a_target_that_serves_nothing_yet() {
    assert_eq!(ConfigFile::parse("").unwrap(), ConfigFile::default());
}

#[test]
fn a_mistake_is_told_with_its_line_its_key_and_what_is_legal() {
    let cases = [
        ("[target]\ncoers = \"0\"", "2: target.coers: unknown field `coers`, expected one of"),
        ("[target]\ncores = \"x\"", "2: target.cores: \"x\" is not a core"),
        ("[target]\ncores = 3", "2: target.cores: invalid type: integer `3`, expected a string"),
        (
            "[target]\nidle = \"no\"",
            "2: target.idle: unknown variant `no`, expected `sleep` or `poll`",
        ),
        ("[target]\ndma_mib = 7", "2: target.dma_mib: 7 cannot be: choose 8 to 65536"),
        ("[target]\ndma_mib = -1", "2: target.dma_mib: -1 cannot be: choose 8 to 65536"),
        ("\n[grpc]\nsocket = \"x\"", "3: grpc.socket: a socket has an absolute path"),
        ("[grpc]\naddress = \"10.0.0.1\"", "2: grpc.address: invalid socket address syntax"),
        ("[[nexuses]]\nname = \"n\"\nchildren = []", "3: nexuses.children: a nexus has 1 to 16"),
        (
            "[[nexuses]]\nname = \"n\"\nchildren = [\"bdev:///a\"]",
            "3: nexuses.children: there is no device a above",
        ),
        (
            "[[nexuses]]\nname = \"a\"\nchildren = [\"null:///a?size_mb=1\"]",
            "2: nexuses.name: there is a device a above",
        ),
        ("[[portals]]\nport = 1", "1: portals: missing field `address`"),
        ("[[portals]]\naddress = \"h\"", "2: portals.address: not an IPv4 or IPv6 address"),
        ("[[portals]]\naddress = \"::\"\nport = 65536", "3: portals.port: invalid value"),
        (
            "[[portals]]\naddress = \"::\"\nadvertise = \"0.0.0.0\"",
            "3: portals.advertise: name an address that hosts can connect to",
        ),
        (
            "[[portals]]\naddress = \"::\"\n[[portals]]\naddress = \"[::]\"",
            "[::]:4420 is there twice: remove one",
        ),
        ("[[devices]]\nuri = \"malloc:///a\"", "2: devices.uri: no size is given"),
        ("[[devices]]\nuri = \"\"", "2: devices.uri: "),
        ("[[subsystems]]\nnqn = \"\"", "2: subsystems.nqn: "),
        ("nonsense", "1: "),
        ("[target", "1: "),
    ];
    for (text, says) in cases {
        let said = mistake(text);
        assert!(said.contains(says), "{text:?} says {said:?}, not {says:?}");
    }
}

#[test]
fn what_two_keys_say_together_is_told_where_the_second_stands() {
    let host = "nqn.2014-08.org.nvmexpress:h";
    let cases = [
        ("hosts = []".to_owned(), "7: subsystems.hosts: name a host, or leave the key out"),
        (format!("hosts = [\"{host}\",\n\"{host}\"]"), "8: subsystems.hosts: this host is there"),
        ("controller_ids = { first = 2, last = 1 }".to_owned(), "7: subsystems.controller_ids"),
        ("controller_ids = { first = 0, last = 1 }".to_owned(), "0 cannot be: choose 1 to 65519"),
        ("queue_entries = 1025".to_owned(), "1025 cannot be: choose 2 to 1024"),
        (
            "[[subsystems.namespaces]]\ndevice = \"b\"".to_owned(),
            "8: subsystems.namespaces.device: there is no device b",
        ),
        (
            "[[subsystems.namespaces]]\ndevice = \"a\"\nnsid = 1025".to_owned(),
            "9: subsystems.namespaces.nsid: 1025 cannot be: choose 1 to 1024",
        ),
        (
            "[[subsystems.namespaces]]\ndevice = \"a\"\nnsid = 1\n\
             [[subsystems.namespaces]]\ndevice = \"/disk\"\nnsid = 1"
                .to_owned(),
            "12: subsystems.namespaces.nsid: this number is there twice",
        ),
        (
            "[[subsystems.namespaces]]\ndevice = \"a\"\nuuid = \"x\"".to_owned(),
            "9: subsystems.namespaces.uuid: ",
        ),
        (
            "[[subsystems.namespaces]]\ndevice = \"a\"\nana = \"best\"".to_owned(),
            "9: subsystems.namespaces.ana: unknown variant `best`, expected one of `optimized`",
        ),
        (format!("[[subsystems]]\nnqn = \"{NQN}\""), "8: subsystems.nqn: there is a subsystem"),
        (
            "[[subsystems]]\nnqn = \"nqn.2014-08.org.nvmexpress.discovery\"".to_owned(),
            "is the name of the discovery service",
        ),
        ("[[devices]]\nuri = \"null:///a?size_mb=1\"".to_owned(), "8: devices.uri: there is"),
    ];
    for (text, says) in cases {
        let said = mistake(&with(&text));
        assert!(said.contains(says), "{text:?} says {said:?}, not {says:?}");
    }
}

#[test]
fn the_largest_file_is_read_and_a_larger_one_refused() {
    let name = format!("mayastor-config-{}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    let full = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap());
    std::fs::write(&path, &full).unwrap();
    let fits = ConfigFile::read(&path);
    std::fs::write(&path, full + "#").unwrap();
    let larger = ConfigFile::read(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(fits.is_ok(), "{fits:?}");
    assert!(matches!(larger, Err(ConfigFileError::TooLarge { .. })));
    assert!(matches!(ConfigFile::read(&path), Err(ConfigFileError::Read { .. })));
}

/// A file as a test makes it up, and as it is written.
#[derive(Clone, Debug)]
struct Written {
    dma_mib: Option<u32>,
    portals: Vec<(std::net::IpAddr, Option<u16>)>,
    sizes_mib: Vec<u64>,
    namespaces: Vec<(usize, bool, AnaState)>,
}

const ANA_STATES: [(&str, AnaState); 5] = [
    ("optimized", AnaState::Optimized),
    ("non_optimized", AnaState::NonOptimized),
    ("inaccessible", AnaState::Inaccessible),
    ("persistent_loss", AnaState::PersistentLoss),
    ("change", AnaState::Change),
];

impl Written {
    fn text(&self) -> String {
        let mut text = String::from("[target]\n");
        if let Some(mib) = self.dma_mib {
            text += &format!("dma_mib = {mib}\n");
        }
        for (address, port) in &self.portals {
            text += &format!("[[portals]]\naddress = \"{address}\"\n");
            if let Some(port) = port {
                text += &format!("port = {port}\n");
            }
        }
        for (index, mib) in self.sizes_mib.iter().enumerate() {
            text += &format!("[[devices]]\nuri = \"null:///d{index}?size_mb={mib}\"\n");
        }
        text += &format!("[[subsystems]]\nnqn = \"{NQN}\"\n");
        for (device, read_only, ana) in &self.namespaces {
            let (ana, _) = ANA_STATES.iter().find(|(_, state)| state == ana).unwrap();
            text += &format!(
                "[[subsystems.namespaces]]\ndevice = \"d{device}\"\nread_only = {read_only}\n\
                 ana = \"{ana}\"\n"
            );
        }
        text
    }
}

fn any_written() -> impl Strategy<Value = Written> {
    let portal = (any::<std::net::IpAddr>(), proptest::option::of(Just(0)));
    let portals = proptest::collection::hash_map(portal.prop_map(|one| one.0), Just(Some(0)), 0..4);
    let sizes = proptest::collection::vec(1_u64..1000, 1..6);
    let mib = proptest::option::of(8_u32..=65536);
    (mib, portals, sizes).prop_flat_map(|(dma_mib, portals, sizes_mib)| {
        let state = proptest::sample::select(ANA_STATES.map(|(_, state)| state).to_vec());
        let namespace = (0..sizes_mib.len(), any::<bool>(), state);
        proptest::collection::vec(namespace, 0..6).prop_map(move |namespaces| Written {
            dma_mib,
            portals: portals.clone().into_iter().collect(),
            sizes_mib: sizes_mib.clone(),
            namespaces,
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(written in any_written()) {
        let file = ConfigFile::parse(&written.text()).unwrap();
        prop_assert_eq!(file.target.dma_mib.map(|mib| mib.0), written.dma_mib);
        let portals: Vec<_> = file
            .portals
            .iter()
            .map(|portal| (portal.get_ref().address.0.0, portal.get_ref().port))
            .collect();
        prop_assert_eq!(portals, written.portals);
        prop_assert_eq!(file.devices.len(), written.sizes_mib.len());
        let namespaces: Vec<_> = file.subsystems[0]
            .namespaces
            .iter()
            .map(|one| {
                let device = one.device.get_ref().strip_prefix('d').unwrap().parse().unwrap();
                (device, one.read_only.unwrap(), one.ana)
            })
            .collect();
        prop_assert_eq!(namespaces, written.namespaces);
    }

    #[test]
    fn no_text_does_harm(text in "\\PC*") {
        if let Err(mistake) = ConfigFile::parse(&text) {
            Place::find(&text, mistake.at);
        }
    }

    #[test]
    fn no_change_of_a_byte_does_harm(at in 0..EXAMPLE.len(), byte: u8, cut in 0..40_usize) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        bytes[at] = byte;
        bytes.drain(at.saturating_sub(cut)..at);
        let text = String::from_utf8_lossy(&bytes);
        if let Err(mistake) = ConfigFile::parse(&text) {
            prop_assert!(!mistake.text.contains('\n'));
            prop_assert!(Place::find(&text, mistake.at).line >= 1);
        }
    }
}
