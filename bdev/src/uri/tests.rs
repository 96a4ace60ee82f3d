//! Every form, every mistake, and a round trip of everything that can be said.

use proptest::prelude::*;

use super::*;
use crate::legality::DEVICE_BYTES_MAX;

const UUID: &str = "6a1e0f4d-0d51-4a1c-8b5b-7d4d4a8f9f10";

fn parse(text: &str) -> DeviceUri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn mistake(text: &str) -> UriError {
    text.parse::<DeviceUri>().expect_err(text)
}

fn malloc(name: &str, size: Size, block_bytes: u32) -> DeviceUri {
    DeviceUri::Malloc(MemoryUri { name: name.into(), size, block_bytes, uuid: None })
}

#[test]
fn the_form_of_the_mission_documents_parses() {
    let uri = parse("malloc:///malloc0?size_mb=1024");
    assert_eq!(uri, malloc("malloc0", Size::Mebibytes(1024), 512));
    let DeviceUri::Malloc(memory) = uri else { panic!("a RAM disk") };
    assert_eq!(memory.geometry(), Geometry { block_bytes: 512, blocks: 2 << 20 });
}

#[test]
fn sizes_come_in_mebibytes_or_blocks() {
    let uri = parse("null:///n?num_blocks=300&blk_size=4096");
    let DeviceUri::Null(memory) = &uri else { panic!("a null device") };
    assert_eq!(memory.geometry(), Geometry { block_bytes: 4096, blocks: 300 });
    assert_eq!(parse("malloc:///n?num_blocks=1"), malloc("n", Size::Blocks(1), 512));
    let uuid = parse(&format!("malloc:///n?size_mb=1&uuid={UUID}")).uuid();
    assert_eq!(uuid.unwrap().to_string(), UUID);
}

#[test]
fn both_spellings_of_a_scheme_are_one() {
    assert_eq!(parse("io_uring:///dev/sdb"), parse("uring:///dev/sdb"));
    assert_eq!(parse("nvme://host/nqn.a"), parse("nvmf://host:4420/nqn.a"));
    assert_eq!(parse("nvmf+tcp://host/nqn.a"), parse("NVMF://host/nqn.a"));
    assert_eq!(parse("nvmf+rdma+tcp://host/nqn.a").scheme(), Scheme::NvmfRdma);
    assert_eq!(parse("/dev/sdb"), DeviceUri::Path("/dev/sdb".into()));
    assert_eq!(parse("aio:///dev/sdb?blk_size=4096").scheme(), Scheme::Aio);
}

#[test]
fn targets_have_host_port_and_name() {
    let DeviceUri::Nvmf(uri) = parse("nvmf://[fd00::1]:8420/nqn.2019-05.io:a?reftag&guard=no")
    else {
        panic!("an NVMe target")
    };
    let at = HostPort { host: String::from("fd00::1"), port: 8420 };
    assert_eq!(uri.place, NvmfPlace::At(at));
    assert_eq!((uri.subnqn.as_str(), uri.reftag, uri.guard), ("nqn.2019-05.io:a", true, false));
    let DeviceUri::Iscsi(uri) = parse("iscsi://192.168.0.1/iqn.2019-05.io:a/3") else {
        panic!("an iSCSI target")
    };
    assert_eq!((uri.port, uri.target.as_str(), uri.lun), (3260, "iqn.2019-05.io:a", 3));
    let address = PciAddress { domain: 0, bus: 0x3b, device: 0x1f, function: 7 };
    let pcie = |namespace, recovery| DeviceUri::Pcie(PcieUri { address, namespace, recovery });
    assert_eq!(parse("pcie:///0000:3b:1f.7"), pcie(1, Recovery::Retry));
    assert_eq!(parse("pcie:///0000:3b:1f.7?recovery=retry"), pcie(1, Recovery::Retry));
    let uri = "pcie:///0000:3b:1f.7?namespace=4294967294&recovery=fail";
    assert_eq!(parse(uri), pcie(NAMESPACE_MAX, Recovery::Fail));
    for scheme in ["bdev", "loopback", "nexus", "lvol"] {
        assert_eq!(parse(&format!("{scheme}:///a/b")).scheme().to_string(), scheme);
    }
}

#[test]
fn escapes_are_read_and_written() {
    let uri = parse("aio:///a%20b%3F%C3%A4");
    let DeviceUri::Aio(file) = &uri else { panic!("a file") };
    assert_eq!(file.path, "/a b?ä");
    assert_eq!(uri.to_string(), "aio:///a%20b%3F%C3%A4");
    assert!(matches!(mistake("aio:///a%2"), UriError::Escape { .. }));
    assert!(matches!(mistake("aio:///a%zz"), UriError::Escape { .. }));
    assert!(matches!(mistake("aio:///a%+1"), UriError::Escape { .. }));
    assert!(matches!(mistake("aio:///a%ff"), UriError::Escape { .. }));
    assert!(matches!(mistake("aio:///a%00"), UriError::Escape { .. }));
    assert_eq!(mistake("aio:///a b"), UriError::Character { character: ' ' });
    assert_eq!(mistake("aio:///a#b"), UriError::Character { character: '#' });
}

#[test]
fn each_mistake_has_its_own_error() {
    let size = |name, value: &str| UriError::Size { name, value: value.into() };
    assert!(matches!(mistake("malloc0"), UriError::NoScheme { .. }));
    assert!(matches!(mistake(""), UriError::NoScheme { .. }));
    assert!(matches!(mistake("ceph:///a"), UriError::UnknownScheme { .. }));
    assert!(matches!(mistake("path:///a"), UriError::UnknownScheme { .. }));
    assert_eq!(mistake("malloc:///a"), UriError::NoSize);
    assert_eq!(mistake("malloc:///a?size_mb=1&num_blocks=8"), UriError::BothSizes);
    assert_eq!(mistake("malloc:///a?size_mb=0"), size("size_mb", "0"));
    assert_eq!(mistake("malloc:///a?size_mb=-1"), size("size_mb", "-1"));
    assert_eq!(mistake("malloc:///a?size_mb=1G"), size("size_mb", "1G"));
    assert_eq!(mistake("null:///a?num_blocks=0"), size("num_blocks", "0"));
    assert_eq!(mistake("null:///a?num_blocks="), size("num_blocks", ""));
    let twice = mistake("malloc:///a?size_mb=1&size_mb=1");
    assert_eq!(twice, UriError::RepeatedParameter { name: "size_mb".into() });
    assert!(matches!(mistake("malloc:///a?size=1"), UriError::UnknownParameter { .. }));
    assert!(matches!(mistake("pcie:///0000:00:00.0?uuid="), UriError::UnknownParameter { .. }));
    assert!(matches!(mistake("malloc:///a?size_mb=1&blk_size=520"), UriError::BlockSize { .. }));
    assert!(matches!(mistake("malloc:///a?size_mb=1&uuid=1"), UriError::Uuid { .. }));
    assert!(matches!(mistake("malloc://a?size_mb=1"), UriError::HostNotAllowed { .. }));
    assert!(matches!(mistake("malloc:///?size_mb=1"), UriError::NoName { .. }));
    assert!(matches!(mistake("nvmf:///nqn.a"), UriError::Host { .. }));
    assert!(matches!(mistake("nvmf://u@h/nqn.a"), UriError::Host { .. }));
    assert!(matches!(mistake("nvmf://[::1/nqn.a"), UriError::Host { .. }));
    assert!(matches!(mistake("nvmf://h:0/nqn.a"), UriError::Port { .. }));
    assert!(matches!(mistake("nvmf://h:65536/nqn.a"), UriError::Port { .. }));
    assert!(matches!(mistake("nvmf://h/a"), UriError::Nqn { .. }));
    assert!(matches!(mistake("nvme://nqx.2019-05.io"), UriError::Nqn { .. }));
    assert!(matches!(mistake("nvmf://h/nqn.a?discovery=d"), UriError::Placed { .. }));
    assert!(matches!(mistake("nvme://nqn.a?discovery="), UriError::Host { .. }));
    assert!(matches!(mistake("nvme://nqn.a?discovery=d,"), UriError::Host { .. }));
    assert!(matches!(mistake("nvme://nqn.a?discovery=d:0"), UriError::Port { .. }));
    assert!(matches!(mistake("nvmf://h/nqn.a?guard=maybe"), UriError::Switch { .. }));
    assert!(matches!(mistake("iscsi://h/a"), UriError::IscsiName { .. }));
    assert!(matches!(mistake("iscsi://h/iqn.a/x"), UriError::Lun { .. }));
    for namespace in ["", "0", "x", "4294967295"] {
        let uri = format!("pcie:///0000:00:00.0?namespace={namespace}");
        assert!(matches!(mistake(&uri), UriError::Namespace { .. }), "{uri}");
    }
    for recovery in ["", "Retry", "failed"] {
        let uri = format!("pcie:///0000:00:00.0?recovery={recovery}");
        assert!(matches!(mistake(&uri), UriError::Recovery { .. }), "{uri}");
    }
    for address in ["00:00.0", "0000:00:20.0", "0000:00:00.8", "0000:00:00.0.0", "0:0:0.0"] {
        assert!(matches!(mistake(&format!("pcie:///{address}")), UriError::Pci { .. }));
    }
}

#[test]
fn a_name_in_the_place_of_a_host_is_to_be_discovered() {
    let place = |text: &str| match parse(text) {
        DeviceUri::Nvmf(NvmfUri { place, subnqn, .. }) => (place, subnqn),
        other => panic!("{other:?}"),
    };
    let documented = "nqn.2014-08.com.vendor:nvme:nvm-subsystem-sn-d78432";
    let (found, name) = place(&format!("nvme://{documented}"));
    assert_eq!((found, name.as_str()), (NvmfPlace::Discovered(Vec::new()), documented));
    let (found, name) = place("nvme://nqn.a%2Fb?discovery=h,[fd00::1]:4420");
    let service = |host: &str, port| HostPort { host: host.to_owned(), port };
    let controllers = vec![service("h", NVMF_DISCOVERY_PORT_DEFAULT), service("fd00::1", 4420)];
    assert_eq!((found, name.as_str()), (NvmfPlace::Discovered(controllers), "nqn.a/b"));
    let (found, name) = place("nvme://nqn.host/nqn.a");
    let at = NvmfPlace::At(service("nqn.host", 4420));
    assert_eq!((found, name.as_str()), (at, "nqn.a"), "a host may have a name like that");
}

#[test]
fn every_limit_holds_at_the_limit_and_fails_one_past_it() {
    let path = |len: usize| format!("/{}", "a".repeat(len - 1));
    assert_eq!(parse(&path(URI_BYTES_MAX)).to_string().len(), URI_BYTES_MAX);
    assert!(matches!(mistake(&path(URI_BYTES_MAX + 1)), UriError::TooLong { .. }));
    let long = |len: usize| format!("bdev:///{}", "a".repeat(len - 8));
    parse(&long(URI_BYTES_MAX));
    assert!(matches!(mistake(&long(URI_BYTES_MAX + 1)), UriError::TooLong { .. }));
    let name = |prefix: &str, len: usize| format!("{prefix}{}", "a".repeat(len - 4));
    let controllers = |count| format!("nvme://nqn.a?discovery={}", vec!["d"; count].join(","));
    parse(&controllers(NVMF_DISCOVERY_CONTROLLERS_MAX));
    let error = mistake(&controllers(NVMF_DISCOVERY_CONTROLLERS_MAX + 1));
    assert!(matches!(error, UriError::DiscoveryControllers { count: 9 }));
    parse(&format!("nvmf://h/{}", name("nqn.", NQN_BYTES_MAX)));
    mistake(&format!("nvmf://h/{}", name("nqn.", NQN_BYTES_MAX + 1)));
    for name in ["wait_ms", "io_timeout_ms", "keep_alive_ms"] {
        parse(&format!("nvmf://h/nqn.a?{name}={MILLISECONDS_MAX}"));
        mistake(&format!("nvmf://h/nqn.a?{name}={}", MILLISECONDS_MAX + 1));
    }
    parse(&format!("nvmf://h/nqn.a?namespace={NAMESPACE_MAX}"));
    mistake(&format!("nvmf://h/nqn.a?namespace={}", u64::from(NAMESPACE_MAX) + 1));
    parse(&format!("iscsi://h/{}/{LUN_MAX}", name("iqn.", ISCSI_NAME_BYTES_MAX)));
    mistake(&format!("iscsi://h/{}", name("iqn.", ISCSI_NAME_BYTES_MAX + 1)));
    mistake(&format!("iscsi://h/iqn.a/{}", LUN_MAX + 1));
    for (name, unit) in [("size_mb", 1 << 20), ("num_blocks", 512)] {
        let most = DEVICE_BYTES_MAX / unit;
        parse(&format!("null:///a?{name}={most}"));
        mistake(&format!("null:///a?{name}={}", most + 1));
    }
}

#[test]
fn a_scheme_that_is_not_built_names_those_that_are() {
    let built = vec![Scheme::Malloc, Scheme::Null];
    let error = NotBuilt { scheme: parse("pcie:///0000:00:00.0").scheme(), built };
    assert_eq!(error.to_string(), "pcie devices are not built yet; built are malloc, null");
    let unknown = mistake("ceph:///a").to_string();
    assert!(unknown.starts_with("unknown scheme \"ceph\"; known are aio, uring, "), "{unknown}");
}

fn uuid() -> impl Strategy<Value = Option<Uuid>> {
    prop::option::of(any::<u128>().prop_map(Uuid::from_u128))
}

fn choices() -> impl Strategy<Value = NvmfChoices> {
    let span = || prop::option::of(0..=MILLISECONDS_MAX);
    let namespace = prop::option::of(1..=NAMESPACE_MAX);
    let host_nqn = prop::option::of("[^\0]{1,40}".prop_map(|name| format!("nqn.{name}")));
    let digests = any::<(bool, bool)>();
    (namespace, host_nqn, digests, span(), span(), span()).prop_map(
        |(namespace, host_nqn, digests, wait_ms, io_timeout_ms, keep_alive_ms)| NvmfChoices {
            namespace,
            host_nqn,
            header_digest: digests.0,
            data_digest: digests.1,
            wait_ms,
            io_timeout_ms,
            keep_alive_ms,
        },
    )
}

fn any_uri() -> impl Strategy<Value = DeviceUri> {
    let block_bytes = || prop_oneof![Just(512_u32), Just(4096)];
    let size = prop_oneof![
        (1..=DEVICE_BYTES_MAX >> 20).prop_map(Size::Mebibytes),
        (1..=DEVICE_BYTES_MAX / 4096).prop_map(Size::Blocks),
    ];
    let name = || "[^\0]{1,40}";
    let host = prop_oneof![
        "[a-z0-9._-]{1,20}",
        any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from_bits(bits).to_string()),
    ];
    let file = (name(), block_bytes(), uuid())
        .prop_map(|(name, block_bytes, uuid)| FileUri {
            path: format!("/{name}"),
            block_bytes,
            uuid,
        })
        .boxed();
    let memory = (name(), size, block_bytes(), uuid())
        .prop_map(|(name, size, block_bytes, uuid)| MemoryUri { name, size, block_bytes, uuid })
        .boxed();
    let named = (name(), uuid()).prop_map(|(name, uuid)| NamedUri { name, uuid }).boxed();
    let transport = prop_oneof![Just(NvmfTransport::Tcp), Just(NvmfTransport::RdmaOrTcp)];
    let switches = (any::<bool>(), any::<bool>(), transport);
    let service = (host, 1_u16..).prop_map(|(host, port)| HostPort { host, port });
    let controllers = prop::collection::vec(service.clone(), 0..=NVMF_DISCOVERY_CONTROLLERS_MAX);
    let place =
        prop_oneof![service.prop_map(NvmfPlace::At), controllers.prop_map(NvmfPlace::Discovered),];
    let nvmf = (place, name(), switches, uuid(), choices()).prop_map(
        |(place, name, (reftag, guard, transport), uuid, choices)| NvmfUri {
            place,
            subnqn: format!("nqn.{name}"),
            transport,
            reftag,
            guard,
            uuid,
            choices,
        },
    );
    let iscsi = ("[a-z0-9.]{1,20}", 1_u16.., "[^\0/]{1,40}", 0..=LUN_MAX, uuid()).prop_map(
        |(host, port, name, lun, uuid)| IscsiUri {
            host,
            port,
            target: format!("iqn.{name}"),
            lun,
            uuid,
        },
    );
    let use_of = (1..=NAMESPACE_MAX, prop_oneof![Just(Recovery::Retry), Just(Recovery::Fail)]);
    let pci = (any::<u16>(), any::<u8>(), 0_u8..32, 0_u8..8, use_of).prop_map(
        |(domain, bus, device, function, (namespace, recovery))| {
            let address = PciAddress { domain, bus, device, function };
            PcieUri { address, namespace, recovery }
        },
    );
    prop_oneof![
        name().prop_map(|name| DeviceUri::Path(format!("/{name}"))),
        file.clone().prop_map(DeviceUri::Aio),
        file.prop_map(DeviceUri::Uring),
        memory.clone().prop_map(DeviceUri::Malloc),
        memory.prop_map(DeviceUri::Null),
        nvmf.prop_map(DeviceUri::Nvmf),
        pci.prop_map(DeviceUri::Pcie),
        iscsi.prop_map(DeviceUri::Iscsi),
        named.clone().prop_map(DeviceUri::Bdev),
        named.clone().prop_map(DeviceUri::Loopback),
        named.clone().prop_map(DeviceUri::Nexus),
        named.prop_map(DeviceUri::Lvol),
    ]
}

proptest! {
    #[test]
    fn what_is_displayed_parses_to_the_same(uri in any_uri()) {
        prop_assert_eq!(uri.to_string().parse::<DeviceUri>(), Ok(uri));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
        let _ = text.parse::<DeviceUri>();
    }

    #[test]
    fn any_text_behind_a_scheme_is_read_or_refused(
        scheme in prop::sample::select(&Scheme::NAMED[..]),
        place in "[/a-z0-9.:%\\[\\]-]{0,20}",
        query in "[a-z_]{0,8}=[0-9a-f%&=-]{0,20}",
    ) {
        if let Ok(uri) = format!("{scheme}://{place}?{query}").parse::<DeviceUri>() {
            prop_assert_eq!(uri.to_string().parse::<DeviceUri>(), Ok(uri));
        }
    }
}
