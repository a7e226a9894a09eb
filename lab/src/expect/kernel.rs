//! What a node's kernel holds.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ipvsadm::{self, Service};
use super::text::{self, excerpt, squeeze};
use super::{Finding, Verdict};
use crate::scenario::expectation::{AddressExpectation, KernelExpectation, ServiceExpectation};

/// What was read for an expectation; only what it asks for is there.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// What `ipvsadm -Ln` printed.
    pub ipvsadm: Option<String>,
    /// What `ip -j address` printed.
    pub addresses: Option<String>,
    /// Kernel parameters; an error text where one could not be read.
    pub sysctls: BTreeMap<String, Result<String, String>>,
    /// What `nft list ruleset` printed.
    pub nft: Option<String>,
}

/// Judges the tables.
pub fn judge(expected: &KernelExpectation, tables: &Tables) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(printed) = &tables.ipvsadm {
        match ipvsadm::parse(printed) {
            Ok(services) => findings.extend(ipvs(expected, &services, printed)),
            Err(error) => findings.push(Finding::of(false, "IPVS services", error)),
        }
    }
    if let Some(printed) = &tables.addresses {
        match serde_json::from_str::<Vec<Interface>>(printed) {
            Ok(interfaces) => findings.extend(addresses(expected, &interfaces)),
            Err(error) => {
                findings.push(Finding::of(false, "addresses", format!("{error}: {}", excerpt(printed))));
            }
        }
    }
    for (name, wanted) in &expected.sysctls {
        let wanted = squeeze(wanted);
        let (good, seen) = match tables.sysctls.get(name) {
            Some(Ok(value)) => (squeeze(value) == wanted, squeeze(value)),
            Some(Err(error)) => (false, error.clone()),
            None => (false, "not read".into()),
        };
        findings.push(Finding::of(good, format!("{name} = {wanted}"), seen));
    }
    if let Some(printed) = &tables.nft {
        findings.extend(text::judge("nft lists", &expected.nft, printed));
    }
    if findings.iter().all(|finding| finding.verdict == Verdict::Passed) {
        return findings;
    }
    findings.retain(|finding| finding.verdict != Verdict::Passed);
    findings
}

fn ipvs(expected: &KernelExpectation, services: &[Service], printed: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(lines) = &expected.ipvsadm {
        findings.push(listing(lines, services, printed));
    }
    for wanted in expected.services.iter().flatten() {
        findings.extend(service(wanted, services, printed));
    }
    for wanted in &expected.no_services {
        let there = services.iter().find(|service| service.service == squeeze(wanted));
        let seen = there.map_or_else(|| "it is not".into(), Service::line);
        findings.push(Finding::of(there.is_none(), format!("no service {wanted}"), seen));
    }
    findings
}

/// All services and their servers, as a set of lines under each service.
fn listing(lines: &[String], services: &[Service], printed: &str) -> Finding {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        let line = squeeze(line);
        match groups.last_mut() {
            Some((_, servers)) if line.starts_with("->") => servers.push(line),
            _ => groups.push((line, Vec::new())),
        }
    }
    let seen: Vec<(String, Vec<String>)> = services
        .iter()
        .map(|service| {
            (service.line(), service.destinations.iter().map(ipvsadm::Destination::line).collect())
        })
        .collect();
    let wanted = if lines.is_empty() {
        "`ipvsadm -Ln` lists nothing".into()
    } else {
        format!("`ipvsadm -Ln` lists\n{}", lines.join("\n"))
    };
    let fits = |(pattern, servers): &(String, Vec<String>), (line, seen): &(String, Vec<String>)| {
        text::matches(pattern, line) && pairs(servers, seen, |pattern, line| text::matches(pattern, line))
    };
    Finding::of(pairs(&groups, &seen, fits), wanted, body(printed))
}

/// What is below the heading.
fn body(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).skip(3).collect();
    if lines.is_empty() { "nothing".into() } else { excerpt(&lines.join("\n")) }
}

/// Whether each wanted one can be given one of its own among those seen, and none is left over. Patterns with a `*` may fit
/// several, so that it is a matching, by augmenting paths.
fn pairs<A, B>(wanted: &[A], seen: &[B], fits: impl Fn(&A, &B) -> bool) -> bool {
    fn place<A, B>(
        index: usize,
        wanted: &[A],
        seen: &[B],
        fits: &impl Fn(&A, &B) -> bool,
        tried: &mut [bool],
        given: &mut [Option<usize>],
    ) -> bool {
        for candidate in 0..seen.len() {
            if tried[candidate] || !fits(&wanted[index], &seen[candidate]) {
                continue;
            }
            tried[candidate] = true;
            if given[candidate].is_none_or(|other| place(other, wanted, seen, fits, tried, given)) {
                given[candidate] = Some(index);
                return true;
            }
        }
        false
    }
    let mut given = vec![None; seen.len()];
    wanted.len() == seen.len()
        && (0..wanted.len())
            .all(|index| place(index, wanted, seen, &fits, &mut vec![false; seen.len()], &mut given))
}

fn service(wanted: &ServiceExpectation, services: &[Service], printed: &str) -> Vec<Finding> {
    let name = squeeze(&wanted.service);
    let Some(service) = services.iter().find(|service| service.service == name) else {
        return vec![Finding::of(false, format!("a service {name}"), body(printed))];
    };
    let mut findings = vec![Finding::of(true, format!("a service {name}"), service.line())];
    if let Some(scheduler) = &wanted.scheduler {
        let good = service.scheduler == *scheduler;
        findings.push(Finding::of(good, format!("{name} has the scheduler {scheduler}"), service.line()));
    }
    if let Some(flags) = &wanted.flags {
        let good = squeeze(flags) == service.flags;
        findings.push(Finding::of(good, format!("{name} has the flags `{flags}`"), service.line()));
    }
    let Some(destinations) = &wanted.destinations else { return findings };
    for wanted in destinations {
        let Some(seen) = service.destinations.iter().find(|seen| seen.server == wanted.server) else {
            findings.push(Finding::of(
                false,
                format!("{name} has the server {}", wanted.server),
                body(printed),
            ));
            continue;
        };
        let good = wanted.forward.as_ref().is_none_or(|forward| *forward == seen.forward)
            && wanted.weight.is_none_or(|weight| weight == seen.weight)
            && wanted.active.is_none_or(|count| count.admits(seen.active))
            && wanted.inactive.is_none_or(|count| count.admits(seen.inactive));
        let mut words = vec![format!("{name}: server {}", wanted.server)];
        words.extend(wanted.forward.clone());
        words.extend(wanted.weight.map(|weight| format!("weight {weight}")));
        words.extend(wanted.active.map(|count| format!("active {count}")));
        words.extend(wanted.inactive.map(|count| format!("inactive {count}")));
        let shown = format!(
            "{}, weight {}, active {}, inactive {}",
            seen.forward, seen.weight, seen.active, seen.inactive
        );
        findings.push(Finding::of(good, words.join(", "), shown));
    }
    for seen in &service.destinations {
        if !destinations.iter().any(|wanted| wanted.server == seen.server) {
            findings.push(Finding::of(false, format!("{name} has no server {}", seen.server), seen.line()));
        }
    }
    findings
}

/// What `ip -j address` prints of an interface.
#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Info>,
}

/// And of an address.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    local: String,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    label: Option<String>,
    /// Nobody answers for it, and nothing is sent from it, until no duplicate was found;
    #[serde(default)]
    tentative: bool,
    /// and never if one was.
    #[serde(default)]
    dadfailed: bool,
}

impl Info {
    fn state(&self) -> &'static str {
        match (self.dadfailed, self.tentative) {
            (true, _) => " (a duplicate was found)",
            (false, true) => " (tentative)",
            (false, false) => "",
        }
    }
}

fn addresses(expected: &KernelExpectation, interfaces: &[Interface]) -> Vec<Finding> {
    let all = || {
        interfaces.iter().flat_map(|interface| interface.addr_info.iter().map(move |info| (interface, info)))
    };
    let shown = all()
        .map(|(interface, info)| {
            let label = info.label.as_deref().filter(|label| *label != interface.ifname);
            let label = label.map_or_else(String::new, |label| format!(" ({label})"));
            format!("{} {}/{}{label}{}", interface.ifname, info.local, info.prefixlen, info.state())
        })
        .collect::<Vec<_>>()
        .join(", ");
    let mut findings = Vec::new();
    for AddressExpectation { address, interface, label } in &expected.addresses {
        let good = all().any(|(on, info)| {
            info.state().is_empty()
                && info.local.parse() == Ok(address.address)
                && info.prefixlen == address.length
                && interface.as_ref().is_none_or(|interface| **interface == on.ifname)
                && label.as_ref().is_none_or(|label| Some(label) == info.label.as_ref())
        });
        let mut wanted = format!("the address {address}");
        if let Some(interface) = interface {
            wanted = format!("{wanted} on {interface}");
        }
        if let Some(label) = label {
            wanted = format!("{wanted} labelled {label}");
        }
        findings.push(Finding::of(good, wanted, shown.clone()));
    }
    for address in &expected.no_addresses {
        let good = !all().any(|(_, info)| info.local.parse() == Ok(*address));
        findings.push(Finding::of(good, format!("no interface with {address}"), shown.clone()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::worst;
    use super::*;
    use crate::scenario::expectation::{Count, DestinationExpectation, TextExpectation};
    use crate::scenario::topology::Name;

    fn expectation() -> KernelExpectation {
        KernelExpectation {
            node: Name::from("Load-Balancer"),
            ipvsadm: None,
            services: None,
            no_services: Vec::new(),
            addresses: Vec::new(),
            no_addresses: Vec::new(),
            sysctls: BTreeMap::new(),
            nft: TextExpectation::default(),
        }
    }

    fn verdict(expected: &KernelExpectation) -> Verdict {
        let addresses = r#"[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8,"label":"lo"}]},
            {"ifname":"enp0s3","addr_info":[{"local":"192.16.193.30","prefixlen":32,"label":"enp0s3:30"},
              {"local":"2001:db8::1","prefixlen":64},{"local":"2001:db8::2","prefixlen":64,"tentative":true},
              {"local":"2001:db8::3","prefixlen":64,"dadfailed":true,"tentative":true}]}]"#;
        let tables = Tables {
            ipvsadm: Some(ipvsadm::TP.into()),
            addresses: Some(addresses.into()),
            sysctls: [("net.ipv4.ip_forward".into(), Ok("1\n".into()))].into(),
            nft: Some("table inet bascule {\n}\n".into()),
        };
        worst(&judge(expected, &tables))
    }

    #[test]
    fn the_whole_listing_in_any_order() {
        let listing = |lines: &[&str]| KernelExpectation {
            ipvsadm: Some(lines.iter().map(|line| (*line).to_owned()).collect()),
            ..expectation()
        };
        let service = "TCP  192.16.193.30:80 rr";
        assert_eq!(
            verdict(&listing(&[service, "-> 172.16.193.40:80 Masq 1 * *", "-> * Masq 1 0 *"])),
            Verdict::Passed,
            "a pattern that fits both lines must not take the other's"
        );
        assert_eq!(verdict(&listing(&[service, "-> * Masq 1 * *", "-> * Masq 1 2 1"])), Verdict::Passed);
        assert_eq!(
            verdict(&listing(&[service, "-> 172.16.193.40:80 Masq 1 * *"])),
            Verdict::Failed,
            "one is missing"
        );
        assert_eq!(verdict(&listing(&[service, "-> * Masq 1 0 *", "-> * Masq 1 0 *"])), Verdict::Failed);
        assert_eq!(verdict(&listing(&[])), Verdict::Failed);
    }

    #[test]
    fn services_and_servers() {
        let wants = |scheduler: &str, servers: &[(&str, u32, u64)]| KernelExpectation {
            services: Some(vec![ServiceExpectation {
                service: "TCP 192.16.193.30:80".into(),
                scheduler: Some(scheduler.into()),
                flags: Some(String::new()),
                destinations: Some(
                    servers
                        .iter()
                        .map(|(server, weight, active)| DestinationExpectation {
                            server: (*server).into(),
                            forward: Some("Masq".into()),
                            weight: Some(*weight),
                            active: Some(Count::Exactly(*active)),
                            inactive: None,
                        })
                        .collect(),
                ),
            }]),
            ..expectation()
        };
        let both = [("172.16.193.10:80", 1, 0), ("172.16.193.40:80", 1, 2)];
        assert_eq!(verdict(&wants("rr", &both)), Verdict::Passed);
        assert_eq!(verdict(&wants("wrr", &both)), Verdict::Failed);
        assert_eq!(verdict(&wants("rr", &both[..1])), Verdict::Failed, "one too many in the kernel");
        assert_eq!(verdict(&wants("rr", &[both[0], ("172.16.193.40:80", 1, 3)])), Verdict::Failed);
        assert_eq!(verdict(&wants("rr", &[both[0], ("172.16.193.40:80", 2, 2)])), Verdict::Failed);
        let none = |service: &str| KernelExpectation { no_services: vec![service.into()], ..expectation() };
        assert_eq!(verdict(&none("TCP 192.16.193.31:80")), Verdict::Passed);
        assert_eq!(verdict(&none("TCP 192.16.193.30:80")), Verdict::Failed);
    }

    #[test]
    fn addresses_parameters_and_nft() {
        let address = |address: &str, interface: &str, label: Option<&str>| KernelExpectation {
            addresses: vec![AddressExpectation {
                address: address.parse().unwrap(),
                interface: Some(Name::from(interface)),
                label: label.map(Into::into),
            }],
            ..expectation()
        };
        assert_eq!(verdict(&address("192.16.193.30/32", "enp0s3", None)), Verdict::Passed);
        assert_eq!(verdict(&address("192.16.193.30/32", "enp0s3", Some("enp0s3:30"))), Verdict::Passed);
        assert_eq!(verdict(&address("192.16.193.30/32", "enp0s3", Some("enp0s3:31"))), Verdict::Failed);
        assert_eq!(verdict(&address("192.16.193.30/24", "enp0s3", None)), Verdict::Failed);
        assert_eq!(verdict(&address("192.16.193.30/32", "lo", None)), Verdict::Failed);
        assert_eq!(verdict(&address("2001:db8::1/64", "enp0s3", None)), Verdict::Passed);
        for unusable in ["2001:db8::2/64", "2001:db8::3/64"] {
            assert_eq!(verdict(&address(unusable, "enp0s3", None)), Verdict::Failed, "{unusable}");
        }
        let none = |address: &str| KernelExpectation {
            no_addresses: vec![address.parse().unwrap()],
            ..expectation()
        };
        assert_eq!(verdict(&none("192.16.193.31")), Verdict::Passed);
        assert_eq!(verdict(&none("192.16.193.30")), Verdict::Failed);
        assert_eq!(verdict(&none("2001:db8::2")), Verdict::Failed, "it is there, though nobody can use it");
        let sysctl = |name: &str, value: &str| KernelExpectation {
            sysctls: [(name.to_owned(), value.to_owned())].into(),
            ..expectation()
        };
        assert_eq!(verdict(&sysctl("net.ipv4.ip_forward", "1")), Verdict::Passed);
        assert_eq!(verdict(&sysctl("net.ipv4.ip_forward", "0")), Verdict::Failed);
        assert_eq!(verdict(&sysctl("net.ipv4.vs.conntrack", "0")), Verdict::Failed);
        let nft = |words: &str| KernelExpectation {
            nft: TextExpectation { contains: vec![words.into()], ..TextExpectation::default() },
            ..expectation()
        };
        assert_eq!(verdict(&nft("table inet bascule")), Verdict::Passed);
        assert_eq!(verdict(&nft("table ip nat")), Verdict::Failed);
    }
}
