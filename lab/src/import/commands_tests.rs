use super::*;

fn effects(line: &str) -> Vec<Effect> {
    translate(line).unwrap_or_else(|why| panic!("{line}: {why}")).into_iter().map(|one| one.effect).collect()
}

fn only(line: &str) -> Effect {
    let mut effects = effects(line);
    assert_eq!(effects.len(), 1, "{line}: {effects:?}");
    effects.remove(0)
}

fn address(device: &str, address: &str) -> Effect {
    Effect::Address { device: device.into(), address: address.parse().unwrap(), label: None }
}

fn same(device: Option<&str>, makes: Option<&str>) -> Effect {
    Effect::Same(Same { device: device.map(Into::into), makes: makes.map(Into::into) })
}

#[test]
fn addresses_are_read_as_iproute2_reads_them() {
    for line in [
        "ip addr add 10.0.0.1/24 dev eth1",
        "ip address add dev eth1 10.0.0.1/24",
        "/sbin/ip a a 10.0.0.1/24 brd + dev eth1",
        "ip -4 addr replace local 10.0.0.1/24 dev eth1 scope global",
        "sh -c 'ip addr add 10.0.0.1/24 dev eth1'",
    ] {
        assert_eq!(only(line), address("eth1", "10.0.0.1/24"), "{line}");
    }
    assert_eq!(only("ip -6 addr add 2001:db8::1/64 dev eth1"), address("eth1", "2001:db8::1/64"));
    assert_eq!(only("ip addr add 10.0.0.1 dev lo"), address("lo", "10.0.0.1/32"));
    assert_eq!(only("ip addr add 2001:db8::1/64 dev eth1 nodad"), same(Some("eth1"), None));
    let labelled = only("ip addr add 10.0.0.9/24 dev eth1 label eth1:9");
    assert!(matches!(labelled, Effect::Address { label: Some(label), .. } if label == "eth1:9"));
}

#[test]
fn routes_are_read_as_iproute2_reads_them() {
    let route = |line: &str| match only(line) {
        Effect::Route(route) => route,
        other => panic!("{line}: {other:?}"),
    };
    for line in [
        "ip route add default via 10.0.0.254",
        "ip ro replace default via 10.0.0.254",
        "ip r add 0.0.0.0/0 via inet 10.0.0.254 proto static",
    ] {
        let route = route(line);
        assert_eq!((route.to, route.via), (Destination::Default, "10.0.0.254".parse().ok()), "{line}");
        assert_eq!((route.interface, route.source), (None, None));
    }
    let there = route("ip -6 route add 2001:db8:2::/48 via fe80::1 dev eth1 src 2001:db8::1");
    assert_eq!(there.to.to_string(), "2001:db8:2::/48");
    assert_eq!(there.interface.as_deref(), Some("eth1"));
    assert_eq!(there.source, "2001:db8::1".parse().ok());
    assert_eq!(only("ip route del default"), Effect::Nothing(Some(GONE)));
    for kept in [
        "ip route add blackhole 10.9.0.0/16",
        "ip route add 10.9.0.0/16 nexthop via 10.0.0.1 nexthop via 10.0.0.2",
        "ip route add 10.9.0.0/16 via 10.0.0.1 metric 100",
    ] {
        assert_eq!(only(kept), same(None, None), "{kept}");
    }
}

#[test]
fn what_else_sets_up_a_kernel_stays_or_becomes_a_field() {
    let up = |device: &str| Effect::Up { device: device.into() };
    assert_eq!(only("ip link set dev eth1 up"), up("eth1"));
    assert_eq!(only("ip link set eth1 mtu 1400 up"), same(Some("eth1"), None));
    assert_eq!(only("ip link set eth1 down"), Effect::Down { device: "eth1".into() });
    assert_eq!(only("ip link set eth1 down mtu 1400"), same(Some("eth1"), None));
    for (name, interface) in [
        ("net.ipv4.conf.eth1.rp_filter", Some("eth1")),
        ("net/ipv6/conf/eth1.10/accept_ra", Some("eth1.10")),
        ("net.ipv4.conf.all.forwarding", None),
        ("net.ipv4.ip_forward", None),
    ] {
        assert_eq!(interface_of(name), interface, "{name}");
    }
    let mac = "02:00:00:00:00:07".parse().unwrap();
    assert_eq!(
        only("ip link set eth1 address 02:00:00:00:00:07"),
        Effect::Mac { device: "eth1".into(), mac }
    );
    for (line, makes) in [
        ("ip link add dummy0 type dummy", "dummy0"),
        ("ip link add link eth1 name eth1.10 type vlan id 10", "eth1.10"),
        ("ip link add dev vx0 type vxlan id 7 dstport 4789", "vx0"),
        ("ip tunnel add tun0 mode ipip remote 10.0.0.2", "tun0"),
    ] {
        assert_eq!(only(line), same(None, Some(makes)), "{line}");
    }
    assert_eq!(only("iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE"), same(None, None));
    let parameter = |name: &str, value: &str| Effect::Sysctl { name: name.into(), value: value.into() };
    assert_eq!(
        effects("sysctl -w net.ipv4.ip_forward=1 net/ipv6/conf/all/forwarding=1"),
        [parameter("net.ipv4.ip_forward", "1"), parameter("net.ipv6.conf.all.forwarding", "1")]
    );
    assert_eq!(
        only("bash -c \"echo 1 > /proc/sys/net/ipv4/ip_forward\""),
        parameter("net.ipv4.ip_forward", "1")
    );
    assert_eq!(
        effects("sh -c 'ip link set eth1 up && ip addr add 10.0.0.1/24 dev eth1; sleep 1'"),
        [up("eth1"), address("eth1", "10.0.0.1/24"), Effect::Nothing(None)]
    );
}

#[test]
fn what_cannot_be_known_says_why() {
    for (line, because) in [
        ("ip addr add 10.0.0.1/24 dev eth1 && ip link set eth1 up", "`&&`"),
        ("ip addr del 10.0.0.1/24 dev eth1", "leave the address out"),
        ("ip addr add 10.0.0.1/24", "needs `dev`"),
        ("ip addr add 10.0.0.300/24 dev eth1", "10.0.0.300/24"),
        ("ip addr add 10.0.0.1/24 dev", "no value"),
        ("ip route add default", "needs `via`"),
        ("ip route add 10.0.0.0/8 via nowhere", "nowhere"),
        ("ip route flush table main", "flush"),
        ("ip netns exec x true", "netns"),
        ("vtysh -c 'conf t'", "`vtysh` is a program"),
        ("bash /setup.sh", "container's own"),
        ("sh -c 'ip addr add $X dev eth1'", "`$`"),
        ("sh -c 'ip link | grep eth1'", "needs a shell"),
        ("sh -c 'nohup iperf3 -s &'", "needs a shell"),
        ("sysctl -p", "NAME=VALUE"),
        ("nft -f /etc/nftables.conf", "reads a file"),
        ("tc -batch /etc/tc", "reads a file"),
        ("sysctl -w kernel.panic=1", "the whole machine's"),
        ("sh -c \"sh -c 'sh -c \\\"sh -c true\\\"'\"", "can be read"),
        ("echo 'a", "does not end"),
    ] {
        let why = translate(line).expect_err(line);
        assert!(why.contains(because), "{line}: {why}");
    }
}
