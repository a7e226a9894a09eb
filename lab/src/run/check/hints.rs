//! What to type so that what was wanted is there: in the words of the TP. Pure.

use std::net::IpAddr;

use crate::expect::text::squeeze;
use crate::expect::{Finding, Verdict};
use crate::scenario::expectation::{
    DestinationExpectation, HoldersExpectation, KernelExpectation, Kind, ServiceExpectation,
};
use crate::scenario::step::Action;
use crate::scenario::topology::LinkAddress;
use crate::scenario::{Scenario, Step};

/// A hint for a finding of a kind of expectation, as far as there is one.
pub(super) fn hint(scenario: &Scenario, steps: &[Step], kind: &Kind, finding: &Finding) -> Option<String> {
    if finding.verdict == Verdict::Passed {
        return None;
    }
    match kind {
        Kind::Kernel(expected) => {
            let command = kernel(expected, &finding.wanted)?;
            Some(format!("on {}: {command}", expected.node))
        }
        // Of gaps and overlaps it is known which nodes, not why.
        Kind::Holders(expected) if !finding.wanted.contains("the longest time") => {
            holders(scenario, expected)
        }
        Kind::Requests(expected) => requests(steps, &expected.load),
        Kind::Connections(expected) => requests(steps, &expected.load),
        _ => None,
    }
}

/// The command after which a kernel's table has what was wanted of it.
fn kernel(expected: &KernelExpectation, wanted: &str) -> Option<String> {
    for service in expected.services.iter().flatten() {
        if let Some(command) = ipvs(service, wanted) {
            return Some(command);
        }
    }
    for name in &expected.no_services {
        if wanted.ends_with(&format!("no service {name}")) {
            return Some(format!("ipvsadm -D {}", option(&squeeze(name))));
        }
    }
    for one in &expected.addresses {
        if !wanted.contains(&format!("the address {}", one.address)) {
            continue;
        }
        let device = one.interface.as_ref().map_or("INTERFACE", |interface| interface);
        let label = one.label.as_ref().map_or_else(String::new, |label| format!(" label {label}"));
        return Some(format!("ip address add {} dev {device}{label}", one.address));
    }
    for address in &expected.no_addresses {
        if wanted.ends_with(&format!("no interface with {address}")) {
            let length = if address.is_ipv4() { 32 } else { 128 };
            return Some(format!("ip address del {address}/{length} dev INTERFACE"));
        }
    }
    for (name, value) in &expected.sysctls {
        if wanted.ends_with(&format!("{name} = {}", squeeze(value))) {
            return Some(format!("echo {value} > /proc/sys/{}", name.replace('.', "/")));
        }
    }
    None
}

fn ipvs(expected: &ServiceExpectation, wanted: &str) -> Option<String> {
    let name = squeeze(&expected.service);
    let at = option(&name);
    let scheduler = expected.scheduler.as_deref().unwrap_or("rr");
    let flags = expected.flags.as_deref().map_or_else(String::new, flags);
    if wanted.ends_with(&format!("a service {name}")) {
        return Some(format!("ipvsadm -A {at} -s {scheduler}{flags}"));
    }
    let of = |what: &str| wanted.contains(&format!("{name} has {what}"));
    if of("the scheduler") || of("the flags") {
        return Some(format!("ipvsadm -E {at} -s {scheduler}{flags}"));
    }
    if let Some((_, server)) = wanted.split_once(&format!("{name} has no server ")) {
        return Some(format!("ipvsadm -d {at} -r {server}"));
    }
    for server in expected.destinations.iter().flatten() {
        if wanted.ends_with(&format!("{name} has the server {}", server.server)) {
            return Some(format!("ipvsadm -a {at} -r {}{}", server.server, way(server)));
        }
        let counted = server.active.is_some() || server.inactive.is_some();
        if wanted.contains(&format!("{name}: server {},", server.server)) && !counted {
            return Some(format!("ipvsadm -e {at} -r {}{}", server.server, way(server)));
        }
    }
    None
}

/// How ipvsadm is told a service.
fn option(service: &str) -> String {
    match service.split(' ').collect::<Vec<_>>()[..] {
        ["TCP", address] => format!("-t {address}"),
        ["UDP", address] => format!("-u {address}"),
        ["SCTP", address] => format!("--sctp-service {address}"),
        ["FWM", mark, "IPv6"] => format!("-f {mark} -6"),
        ["FWM", mark] => format!("-f {mark}"),
        _ => service.to_owned(),
    }
}

/// How it is told the other words of a service.
fn flags(words: &str) -> String {
    let mut text = String::new();
    let mut words = words.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "persistent" => text.push_str(&format!(" -p {}", words.next().unwrap_or("300"))),
            "mask" => text.push_str(&format!(" -M {}", words.next().unwrap_or("255.255.255.255"))),
            "ops" => text.push_str(" -o"),
            other => text.push_str(&format!(" -b {}", other.trim_matches(['(', ')']))),
        }
    }
    text
}

/// How it is told the way to a real server, and its weight.
fn way(server: &DestinationExpectation) -> String {
    let forward = match server.forward.as_deref() {
        Some("Route" | "Local") => " -g",
        Some("Tunnel") => " -i",
        _ => " -m",
    };
    server.weight.map_or_else(|| forward.to_owned(), |weight| format!("{forward} -w {weight}"))
}

/// Who has to take an address, and who has it and must not.
fn holders(scenario: &Scenario, expected: &HoldersExpectation) -> Option<String> {
    let nodes = expected.nodes.as_ref()?;
    if nodes.is_empty() {
        return Some(format!("nobody may have {}: ip address del takes it away", expected.address));
    }
    let lines: Vec<String> = nodes
        .iter()
        .map(|name| match link(scenario, name, expected.address) {
            Some((interface, length)) => {
                format!("on {name}: ip address add {}/{length} dev {interface}", expected.address)
            }
            None => format!("on {name}: ip address add {} dev INTERFACE", expected.address),
        })
        .collect();
    Some(format!("{} (and nowhere else)", lines.join("; ")))
}

/// The interface of a node in whose network an address is, and the length of that network's prefix.
fn link(scenario: &Scenario, node: &str, address: IpAddr) -> Option<(String, u8)> {
    let node = scenario.topology.node(node)?;
    node.links.iter().find_map(|link| {
        let prefix =
            link.addresses.iter().map(LinkAddress::prefix).find(|prefix| prefix.contains(address))?;
        Some((link.interface.to_string(), prefix.length))
    })
}

/// How to look after a load that did not get what it should.
fn requests(steps: &[Step], load: &str) -> Option<String> {
    let named = |step: &&Step| crate::scenario::load_name(step) == Some(load);
    let (from, target) = match &steps.iter().find(named)?.action {
        Action::Requests(requests) => (&requests.from, &requests.target),
        Action::Hold(hold) => (&hold.from, &hold.target),
        _ => return None,
    };
    let look = match target.split_once("://") {
        Some(("http", _)) => format!("curl -m 5 {target}"),
        Some(("ping", host)) => format!("ping -c 1 -W 2 {host}"),
        _ => "ip route".to_owned(),
    };
    Some(format!(
        "`bascule-lab exec {from} -- {look}` is one of them; then follow it: `ip route` on each node, there and back, net.ipv4.ip_forward where it passes, and the rules that lead it"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;
    use crate::expect::kernel::{Tables, judge};
    use crate::scenario::resolve;

    const HEAD: &str = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";

    /// What is wrong with a director's table in tp-ipvs, and what to type.
    fn hints(table: &str) -> Vec<String> {
        let scenario = resolve("tp-ipvs").unwrap();
        let plan = plan(&scenario, &|_| false, false);
        let Some(Action::Wait(wait)) = plan[0].step.as_ref().map(|step| &step.action) else { panic!() };
        let Kind::Kernel(expected) = &wait.until[0].kind else { panic!() };
        let tables = Tables {
            ipvsadm: Some(format!("{HEAD}{table}")),
            addresses: Some(r#"[{"ifname":"enp0s3","addr_info":[]}]"#.into()),
            sysctls: [("net.ipv4.ip_forward".into(), Ok("0\n".into()))].into(),
            nft: None,
        };
        judge(expected, &tables)
            .iter()
            .filter_map(|finding| hint(&scenario, &scenario.steps, &wait.until[0].kind, finding))
            .collect()
    }

    #[test]
    fn the_lines_of_the_tp_are_what_is_missing() {
        let rest = [
            "on Load-Balancer: ip address add 192.16.193.30/32 dev enp0s3",
            "on Load-Balancer: echo 1 > /proc/sys/net/ipv4/ip_forward",
        ];
        let with = |first: &[&'static str]| [first, &rest].concat();
        assert_eq!(hints(""), with(&["on Load-Balancer: ipvsadm -A -t 192.16.193.30:80 -s rr"]));
        let one = "TCP 192.16.193.30:80 rr\n-> 172.16.193.10:80 Masq 1 0 3\n";
        let missing = "on Load-Balancer: ipvsadm -a -t 192.16.193.30:80 -r 172.16.193.40:80 -m -w 1";
        assert_eq!(hints(one), with(&[missing]));
        let wrong = "TCP 192.16.193.30:80 wlc\n-> 172.16.193.10:80 Route 1 0 0\n-> 172.16.193.40:80 Masq 1 0 0\n-> 172.16.193.41:80 Masq 1 0 0\n";
        assert_eq!(
            hints(wrong),
            with(&[
                "on Load-Balancer: ipvsadm -E -t 192.16.193.30:80 -s rr",
                "on Load-Balancer: ipvsadm -e -t 192.16.193.30:80 -r 172.16.193.10:80 -m -w 1",
                "on Load-Balancer: ipvsadm -d -t 192.16.193.30:80 -r 172.16.193.41:80",
            ])
        );
        // How often he has tried it is nobody's business.
        let right =
            "TCP 192.16.193.30:80 rr\n-> 172.16.193.10:80 Masq 1 1 7\n-> 172.16.193.40:80 Masq 1 0 3\n";
        assert_eq!(hints(right), rest);
    }

    #[test]
    fn services_are_told_as_ipvsadm_is() {
        let service = |service: &str, flags: &str| ServiceExpectation {
            service: service.into(),
            scheduler: Some("sh".into()),
            flags: Some(flags.into()),
            destinations: None,
        };
        let told = |name: &str, flags: &str| {
            ipvs(&service(name, flags), &format!("within 10 s: a service {name}")).unwrap()
        };
        assert_eq!(told("UDP 10.0.0.1:53", "ops"), "ipvsadm -A -u 10.0.0.1:53 -s sh -o");
        assert_eq!(told("FWM 1 IPv6", "persistent 360"), "ipvsadm -A -f 1 -6 -s sh -p 360");
        assert_eq!(told("TCP [2001:db8::30]:80", ""), "ipvsadm -A -t [2001:db8::30]:80 -s sh");
        assert_eq!(
            told("SCTP 10.0.0.1:9", "(sh-port)"),
            "ipvsadm -A --sctp-service 10.0.0.1:9 -s sh -b sh-port"
        );
    }

    #[test]
    fn an_address_is_wanted_where_its_network_is() {
        let scenario = resolve("tp-router-nat").unwrap();
        let expected = HoldersExpectation {
            address: "172.16.193.30".parse().unwrap(),
            among: Vec::new(),
            nodes: Some(vec!["SRV1".into()]),
            window: crate::scenario::expectation::Window::default(),
            longest_gap: None,
            longest_overlap: None,
        };
        let finding = Finding::of(false, "SRV1 has 172.16.193.30", "nobody");
        let words = hint(&scenario, &[], &Kind::Holders(expected), &finding).unwrap();
        assert_eq!(words, "on SRV1: ip address add 172.16.193.30/16 dev enp0s3 (and nowhere else)");
        let steps = &scenario.steps;
        assert!(
            requests(steps, "pages").unwrap().contains("exec ClientA -- curl -m 5 http://192.16.193.20/")
        );
        assert!(requests(steps, "to ClientB").unwrap().contains("ping -c 1 -W 2 172.16.193.50"));
    }
}
