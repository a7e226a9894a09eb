//! Defects that are planted in the network, never in a program: what an agent does is taken back behind it. They prove that chaos
//! notices what it is there for.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::site::{Group, Site};
use crate::scenario::topology::Topology;
use crate::scenario::{Feature, Scenario};

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Plant {
    /// Directors' gratuitous ARP never leaves them: neighbours go on sending to the one before.
    Garp,
    /// What a killed agent leaves is never swept: its addresses stay.
    Sweep,
    /// Directors' connection synchronisation never leaves them.
    Sync,
}

impl Plant {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Garp => "garp",
            Self::Sweep => "sweep",
            Self::Sync => "sync",
        }
    }

    /// Plants it in a scenario, at every boot of its directors.
    ///
    /// # Errors
    /// When the network has nothing that it could be planted in.
    pub(super) fn put(self, scenario: &mut Scenario, site: &Site) -> Result<(), String> {
        let Some(group) = &site.group else {
            return Err(format!("--plant {}: no two directors of a VrrpGroup are in it", self.name()));
        };
        let command = match self {
            Self::Garp => no_announcements(group),
            Self::Sweep => no_sweep(group),
            Self::Sync => no_sync(site.sync.ok_or("--plant sync: its directors have no `connectionSync`")?),
        };
        plant(&mut scenario.topology, group, &command);
        if self != Self::Sweep {
            scenario.requires.kernel.insert(Feature::Nftables);
            scenario.requires.programs.insert("nft".into());
        }
        Ok(())
    }
}

fn plant(topology: &mut Topology, group: &Group, command: &str) {
    for node in topology.nodes.iter_mut().filter(|node| group.nodes.contains(&node.name)) {
        node.exec.push(command.to_owned());
    }
}

fn nft(rules: &str) -> String {
    format!("nft -f - <<'END'\n{rules}END")
}

/// ARP of which sender and target are one of the addresses. It is sent through packet sockets, which the hooks of ARP never see.
fn no_announcements(group: &Group) -> String {
    let mut rules = String::from("table netdev planted {\n");
    for (number, interface) in group.interfaces.iter().enumerate() {
        let hook = format!("type filter hook egress device \"{interface}\" priority 0; policy accept;");
        let _ = writeln!(rules, "chain egress{number} {{ {hook}");
        for address in group.addresses.iter().filter(|address| address.is_ipv4()) {
            let _ = writeln!(rules, "arp saddr ip {address} arp daddr ip {address} counter drop");
        }
        rules.push_str("}\n");
    }
    rules.push_str("}\n");
    nft(&rules)
}

fn no_sync(port: u16) -> String {
    let hook = "type filter hook output priority -300; policy accept;";
    nft(&format!("table inet planted {{\nchain output {{ {hook} udp dport {port} counter drop; }}\n}}\n"))
}

/// Where no agent runs, addresses that are there lose their lifetime.
fn no_sweep(group: &Group) -> String {
    let list: Vec<String> = group.addresses.iter().map(IpAddr::to_string).collect();
    format!(
        "setsid sh -c 'while sleep 0.2; do pidof bascule-agent >/dev/null && continue; for a in {}; do \
         ip -o address show to $a | while read -r n dev family address rest; do \
         ip address change $address dev $dev valid_lft forever preferred_lft forever; done; done; done' \
         </dev/null >/dev/null 2>&1 &",
        list.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    fn planted(plant: Plant, name: &str) -> Result<Scenario, String> {
        let mut scenario = resolve(name).expect("it ships");
        let site = Site::of(&scenario.topology)?;
        plant.put(&mut scenario, &site).map(|()| scenario)
    }

    #[test]
    fn they_are_planted_in_the_directors() {
        for plant in [Plant::Garp, Plant::Sweep, Plant::Sync] {
            let scenario = planted(plant, "tp-two-directors").expect("it can be");
            let commands = |name: &str| scenario.topology.node(name).map(|node| node.exec.clone());
            assert_eq!(commands("dir1").map(|commands| commands.len()), Some(1));
            assert_eq!(commands("dir1"), commands("dir2"));
            assert_eq!(commands("SRV1"), Some(Vec::new()));
        }
    }

    #[test]
    fn what_is_dropped() {
        let command = |plant| {
            let scenario = planted(plant, "tp-two-directors").expect("it can be");
            scenario.topology.node("dir1").map(|node| node.exec[0].clone()).unwrap_or_default()
        };
        insta::assert_snapshot!(command(Plant::Garp));
        assert!(command(Plant::Sync).contains("udp dport 8848 counter drop"));
        assert!(command(Plant::Sweep).contains("for a in 192.16.193.30 172.16.193.253;"));
    }

    #[test]
    fn where_there_is_nothing_to_plant_it_in() {
        let why = planted(Plant::Garp, "tp-ipvs").expect_err("one director");
        assert!(why.contains("--plant garp"), "{why}");
        assert!(planted(Plant::Sync, "tp-heartbeat").expect_err("no sync").contains("connectionSync"));
    }
}
