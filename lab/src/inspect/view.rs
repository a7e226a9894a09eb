//! What is up, drawn for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Inspection, InterfaceSeen, NodeSeen, Power, ServiceSeen};

/// As wide is the longest bar of connections, in characters.
const BAR: u64 = 24;

/// Whether what is drawn has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// It has: for a terminal.
    Colours,
    /// It has none.
    Plain,
}

impl Paint {
    fn with(self, code: u8, text: &str) -> String {
        match self {
            Self::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }

    fn good(self, text: &str) -> String {
        self.with(32, text)
    }

    fn bad(self, text: &str) -> String {
        self.with(31, text)
    }

    fn strong(self, text: &str) -> String {
        self.with(1, text)
    }
}

/// Networks with who is on them, who holds what was added, groups, and the connections of each real server.
pub fn view(inspection: &Inspection, paint: Paint) -> String {
    let mut out = String::new();
    networks(&mut out, inspection, paint);
    holders(&mut out, inspection, paint);
    groups(&mut out, inspection, paint);
    services(&mut out, inspection, paint);
    out
}

fn networks(out: &mut String, inspection: &Inspection, paint: Paint) {
    let on = |network: &str| -> Vec<(&NodeSeen, Option<&InterfaceSeen>)> {
        let of = |node: &NodeSeen| node.interfaces.iter().any(|interface| interface.network == network);
        inspection
            .nodes
            .iter()
            .filter(|node| of(node))
            .flat_map(|node| {
                let interfaces = node.interfaces.iter().filter(move |interface| interface.network == network);
                interfaces.map(move |interface| (node, Some(interface)))
            })
            .collect()
    };
    let width = inspection.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
    for network in &inspection.networks {
        let _ = writeln!(out, "{}", paint.strong(network));
        for (node, interface) in on(network) {
            let Some(interface) = interface else { continue };
            let (name, link) = (&node.name, &interface.name);
            let state = match (interface.up, interface.carrier) {
                (false, _) => paint.bad("down"),
                (true, false) => paint.bad("no carrier"),
                (true, true) => paint.good("up"),
            };
            let addresses = interface.addresses.join(" ");
            let line = format!("  {name:width$}  {link:8}  {state}  {addresses}");
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    // A node that does not run says nothing of its interfaces.
    for node in &inspection.nodes {
        let (name, state) = match node.power {
            Power::On => continue,
            Power::Frozen => (&node.name, "stands still"),
            Power::Off => (&node.name, "has no power"),
        };
        let _ = writeln!(out, "  {name:width$}  {}", paint.bad(state));
    }
}

/// The addresses that were added to nodes: the virtual ones.
fn holders(out: &mut String, inspection: &Inspection, paint: Paint) {
    let mut holders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in &inspection.nodes {
        for address in node.interfaces.iter().flat_map(|interface| &interface.added) {
            holders.entry(address).or_default().push(&node.name);
        }
    }
    if holders.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", paint.strong("addresses"));
    let width = holders.keys().map(|address| address.len()).max().unwrap_or(0);
    for (address, nodes) in holders {
        let who = nodes.join(" and ");
        let who = if nodes.len() == 1 { who } else { paint.bad(&who) };
        let _ = writeln!(out, "  {address:width$}  {who}");
    }
}

fn groups(out: &mut String, inspection: &Inspection, paint: Paint) {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in &inspection.nodes {
        for (group, state) in node.agent.iter().flat_map(|agent| &agent.groups) {
            let state = match state.as_str() {
                "Active" => paint.good(state),
                "Fault" => paint.bad(state),
                _ => state.clone(),
            };
            groups.entry(group).or_default().push(format!("{} {state}", node.name));
        }
    }
    if groups.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", paint.strong("groups"));
    let width = groups.keys().map(|group| group.len()).max().unwrap_or(0);
    for (group, states) in groups {
        let _ = writeln!(out, "  {group:width$}  {}", states.join(", "));
    }
}

fn services(out: &mut String, inspection: &Inspection, paint: Paint) {
    for node in &inspection.nodes {
        for service in &node.services {
            let title = format!("{} {}", service.service, service.scheduler);
            let _ = writeln!(out, "\n{}  on {}", paint.strong(&title), node.name);
            real_servers(out, service, paint);
        }
    }
}

fn real_servers(out: &mut String, service: &ServiceSeen, paint: Paint) {
    if service.real_servers.is_empty() {
        let _ = writeln!(out, "  {}", paint.bad("no real server"));
    }
    let of = |length: fn(&super::RealServerSeen) -> usize| {
        service.real_servers.iter().map(length).max().unwrap_or(0)
    };
    let width = of(|server| server.server.len());
    let weight = of(|server| server.weight.to_string().len());
    let active = of(|server| server.active.to_string().len());
    let inactive = of(|server| server.inactive.to_string().len());
    let most = service.real_servers.iter().map(|server| server.active + server.inactive).max().unwrap_or(0);
    for server in &service.real_servers {
        // Active connections full, inactive ones light.
        let long = |count: u64| usize::try_from((count * BAR).div_ceil(most.max(1))).unwrap_or(0);
        let full = long(server.active);
        let light = long(server.active + server.inactive).saturating_sub(full);
        let line = format!(
            "  {:width$}  {:6}  weight {:>weight$}  active {:>active$}  inactive {:>inactive$}  {}{}",
            server.server,
            server.forward,
            server.weight,
            server.active,
            server.inactive,
            "█".repeat(full),
            "░".repeat(light),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}
