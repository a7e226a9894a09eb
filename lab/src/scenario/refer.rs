//! Checks what a scenario refers to: nodes, networks, interfaces, servers, loads, steps; and what no schema can say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::check::{Violation, join};
use super::expectation::{Expectation, Kind, Window};
use super::fault::Fault;
use super::step::{Action, Step};
use super::suggest;
use super::topology::{LinkAddress, Node, Topology};
use super::{Record, Scenario};

/// All mistakes.
pub(crate) fn check(scenario: &Scenario) -> Vec<Violation> {
    let mut checker = Checker { scenario, topology: &scenario.topology, found: Vec::new() };
    checker.networks_and_nodes();
    checker.addresses();
    checker.steps();
    if let Some(control) = &scenario.control
        && !scenario.steps.iter().any(|step| step.name == control.fails_at)
    {
        let hint = suggest::hint(&control.fails_at, scenario.steps.iter().map(|step| step.name.as_str()));
        checker.report("control.failsAt", format!("there is no step `{}`{hint}", control.fails_at));
    }
    checker.found
}

/// The name under which steps, faults and logs know a node's agent.
pub(crate) const AGENT: &str = "agent";

/// The longest pause or patience of a step.
const MAX_WAIT: Duration = Duration::from_secs(30 * 60);

struct Checker<'a> {
    scenario: &'a Scenario,
    topology: &'a Topology,
    found: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(Violation { path: path.into(), message: message.into() });
    }

    fn networks_and_nodes(&mut self) {
        let topology = self.topology;
        let mut names = BTreeSet::new();
        for (index, network) in topology.networks.iter().enumerate() {
            if !names.insert(&*network.name) {
                self.report(
                    format!("topology.networks[{index}].name"),
                    format!("there are two networks `{}`", network.name),
                );
            }
        }
        let mut names = BTreeSet::new();
        let mut macs = BTreeMap::new();
        for (index, node) in topology.nodes.iter().enumerate() {
            let path = format!("topology.nodes[{index}]");
            if !names.insert(&*node.name) {
                self.report(format!("{path}.name"), format!("there are two nodes `{}`", node.name));
            }
            let mut interfaces = BTreeSet::new();
            for (index, link) in node.links.iter().enumerate() {
                let path = format!("{path}.links[{index}]");
                if topology.network(&link.network).is_none() {
                    let hint =
                        suggest::hint(&link.network, topology.networks.iter().map(|network| &*network.name));
                    self.report(
                        format!("{path}.network"),
                        format!("there is no network `{}`{hint}", link.network),
                    );
                }
                if link.interface.len() > 15 {
                    let message = format!("has {} characters, but can have at most 15", link.interface.len());
                    self.report(format!("{path}.interface"), message);
                }
                if &*link.interface == "lo" || !interfaces.insert(&*link.interface) {
                    let message = format!("the node has two interfaces `{}`", link.interface);
                    self.report(format!("{path}.interface"), message);
                }
                if let Some(mac) = link.mac
                    && let Some(other) = macs.insert((&*link.network, mac.0), &*node.name)
                {
                    self.report(format!("{path}.mac"), format!("`{other}` has the same on that network"));
                }
                for (index, address) in link.addresses.iter().enumerate() {
                    if let LinkAddress::Labelled(labelled) = address {
                        let path = format!("{path}.addresses[{index}]");
                        if !labelled.label.starts_with(&*link.interface) {
                            let message =
                                format!("has to begin with the interface's name, `{}`", link.interface);
                            self.report(format!("{path}.label"), message);
                        }
                        if labelled.address.address.is_ipv6() {
                            self.report(
                                format!("{path}.label"),
                                "IPv6 addresses have no labels; leave it out",
                            );
                        }
                    }
                }
            }
            self.node(node, &path, &interfaces);
        }
    }

    fn node(&mut self, node: &'a Node, path: &str, interfaces: &BTreeSet<&str>) {
        for (index, route) in node.routes.iter().enumerate() {
            let path = format!("{path}.routes[{index}]");
            match (&route.via, &route.interface) {
                (None, None) => self.report(&*path, "one of `via` and `interface` is missing"),
                (_, Some(interface)) if &**interface != "lo" && !interfaces.contains(&**interface) => {
                    let hint = suggest::hint(interface, interfaces.iter().copied());
                    let message = format!("the node has no interface `{interface}`{hint}");
                    self.report(format!("{path}.interface"), message);
                }
                (Some(via), None) => {
                    let on_link = |address: &LinkAddress| address.prefix().contains(*via);
                    if !node.links.iter().flat_map(|link| &link.addresses).any(on_link) {
                        let message = format!(
                            "`{via}` is in no network of the node; a gateway has to be, or name the `interface`"
                        );
                        self.report(format!("{path}.via"), message);
                    }
                }
                _ => {}
            }
        }
        for (address, names) in &node.hosts {
            if address.parse::<IpAddr>().is_err() {
                self.report(
                    join(&format!("{path}.hosts"), address),
                    format!("`{address}` is not an IP address"),
                );
            }
            if names.is_empty() {
                self.report(join(&format!("{path}.hosts"), address), "has no names");
            }
        }
        for file in node.files.keys() {
            if !file.starts_with('/') || file.split('/').any(|part| part == "..") || file.ends_with('/') {
                self.report(
                    join(&format!("{path}.files"), file),
                    format!("`{file}` is not the absolute path of a file"),
                );
            }
        }
        let mut programs = BTreeSet::from([AGENT]);
        if let Some(peer) = &node.peer {
            programs.insert(peer.name());
        }
        for (index, server) in node.servers.iter().enumerate() {
            let path = format!("{path}.servers[{index}]");
            if !programs.insert(&server.name) {
                let message = format!("`{}` is taken by another program of the node", server.name);
                self.report(format!("{path}.name"), message);
            }
            if server.http.is_empty() && server.tcp.is_empty() && server.udp.is_empty() {
                self.report(&*path, "listens nowhere; give it `http`, `tcp` or `udp`");
            }
        }
        if let Some(agent) = &node.agent {
            for file in agent.manifests.keys() {
                self.file_name(file, join(&format!("{path}.agent.manifests"), file));
            }
        }
    }

    fn file_name(&mut self, file: &str, path: String) {
        if file.is_empty() || file.contains('/') || file == "." || file == ".." || file.len() > 255 {
            self.report(path, format!("`{file}` is not the name of a file; folders are not looked into"));
        }
    }

    /// No address twice on a network.
    fn addresses(&mut self) {
        let mut seen: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
        for (n, node) in self.topology.nodes.iter().enumerate() {
            for (l, link) in node.links.iter().enumerate() {
                for (a, address) in link.addresses.iter().enumerate() {
                    let address = address.prefix().address;
                    if let Some(other) = seen.insert((&link.network, address), &node.name) {
                        let path = format!("topology.nodes[{n}].links[{l}].addresses[{a}]");
                        self.report(
                            path,
                            format!("`{other}` has {address} on network `{}`, too", link.network),
                        );
                    }
                }
            }
        }
    }

    fn steps(&mut self) {
        let mut names: Vec<&str> = Vec::new();
        let mut loads: BTreeMap<&str, LoadKind> = BTreeMap::new();
        let mut broken: Vec<&Fault> = Vec::new();
        for (index, step) in self.scenario.steps.iter().enumerate() {
            let path = format!("steps[{index}]");
            if names.contains(&step.name.as_str()) {
                self.report(format!("{path}.name"), format!("there are two steps `{}`", step.name));
            }
            names.push(&step.name);
            self.step(step, &path, &names, &mut loads, &mut broken);
        }
    }

    fn step(
        &mut self,
        step: &'a Step,
        path: &str,
        names: &[&str],
        loads: &mut BTreeMap<&'a str, LoadKind>,
        broken: &mut Vec<&'a Fault>,
    ) {
        let path = format!("{path}.{}", step.action.kind());
        match &step.action {
            Action::Apply(apply) => {
                if let Some(node) = self.known_node(&apply.node, &path)
                    && node.agent.is_none()
                {
                    self.report(format!("{path}.node"), format!("`{}` has no agent", node.name));
                }
                if apply.write.is_empty() && apply.replace.is_empty() && apply.delete.is_empty() {
                    self.report(&*path, "changes nothing; give it `write`, `replace` or `delete`");
                }
                let files = apply
                    .write
                    .keys()
                    .chain(apply.replace.iter().map(|edit| &edit.file))
                    .chain(&apply.delete);
                for file in files {
                    self.file_name(file, path.clone());
                }
            }
            Action::Exec(exec) => {
                self.known_node(&exec.node, &path);
            }
            Action::Requests(requests) => {
                self.known_node_at(&requests.from, format!("{path}.from"));
                self.target(&requests.target, &["http", "tcp", "udp"], format!("{path}.target"));
                if requests.count.is_some() && requests.duration.is_some() {
                    self.report(&*path, "has `count` and `duration`, but at most one of them can be");
                }
                if !requests.background && requests.count.is_none() && requests.duration.is_none() {
                    self.report(
                        &*path,
                        "would never end; give it `count` or `duration`, or run it in the `background`",
                    );
                }
                if let Some(duration) = requests.duration {
                    self.patience(duration.get(), format!("{path}.duration"));
                }
                let name = load_name(step).unwrap_or_default();
                self.new_load(name, LoadKind::Requests, loads, &path);
            }
            Action::Hold(hold) => {
                self.known_node_at(&hold.from, format!("{path}.from"));
                self.target(&hold.target, &["http", "tcp"], format!("{path}.target"));
                let name = load_name(step).unwrap_or_default();
                self.new_load(name, LoadKind::Hold, loads, &path);
            }
            Action::Stop(stop) => self.known_load(&stop.load, None, loads, format!("{path}.load")),
            Action::Server(mode) => {
                if let Some(node) = self.known_node(&mode.node, &path) {
                    self.server(node, &mode.server, format!("{path}.server"));
                }
            }
            Action::Fault(fault) => {
                self.fault(fault, &path);
                if broken.contains(&fault) {
                    self.report(&*path, format!("`{fault}` is there already; heal it first"));
                }
                if !matches!(fault, Fault::Reboot(_)) {
                    broken.push(fault);
                }
            }
            Action::Heal(fault) => {
                self.fault(fault, &path);
                if let Some(place) = broken.iter().position(|other| *other == fault) {
                    broken.remove(place);
                } else {
                    self.report(
                        &*path,
                        format!("no earlier step has the fault `{fault}`, so that there is nothing to heal"),
                    );
                }
            }
            Action::Wait(wait) => {
                for (field, span) in [("for", wait.duration), ("within", wait.within)] {
                    if let Some(span) = span {
                        self.patience(span.get(), format!("{path}.{field}"));
                    }
                }
                if wait.duration.is_some() && wait.within.is_some() {
                    self.report(&*path, "`within` belongs to `until`; `for` has its own time");
                }
                for (index, expectation) in wait.until.iter().enumerate() {
                    let path = format!("{path}.until[{index}]");
                    if expectation.within.is_some() {
                        self.report(
                            format!("{path}.within"),
                            "give the time to `wait` itself: all have to hold at once",
                        );
                    }
                    self.expectation(expectation, &path, names, loads);
                }
            }
            Action::Expect(expectations) => {
                for (index, expectation) in expectations.iter().enumerate() {
                    self.expectation(expectation, &format!("{path}[{index}]"), names, loads);
                }
            }
            Action::RestartAgent(restart) => {
                if let Some(node) = self.known_node(&restart.node, &path)
                    && node.agent.is_none()
                {
                    self.report(format!("{path}.node"), format!("`{}` has no agent", node.name));
                }
            }
            Action::Capture(capture) => {
                if let Some(node) = self.known_node(&capture.node, &path) {
                    self.interface(node, &capture.interface, format!("{path}.interface"));
                }
            }
        }
    }

    fn patience(&mut self, span: Duration, path: String) {
        if span.is_zero() || span > MAX_WAIT {
            let message = format!("has to be between 1ms and {}", super::Span(MAX_WAIT));
            self.report(path, message);
        }
    }

    fn target(&mut self, target: &str, schemes: &[&str], path: String) {
        if let Err(message) = Target::parse(target, schemes) {
            self.report(path, message);
        }
    }

    fn new_load(
        &mut self,
        name: &'a str,
        kind: LoadKind,
        loads: &mut BTreeMap<&'a str, LoadKind>,
        path: &str,
    ) {
        if loads.insert(name, kind).is_some() {
            self.report(format!("{path}.load"), format!("there are two loads `{name}`"));
        }
    }

    fn known_load(
        &mut self,
        name: &str,
        kind: Option<LoadKind>,
        loads: &BTreeMap<&'a str, LoadKind>,
        path: String,
    ) {
        match (loads.get(name), kind) {
            (None, _) => {
                let hint = suggest::hint(name, loads.keys().copied());
                self.report(path, format!("no earlier step has a load `{name}`{hint}"));
            }
            (Some(LoadKind::Hold), Some(LoadKind::Requests)) => {
                self.report(path, format!("`{name}` are held connections; judge them with `connections`"));
            }
            (Some(LoadKind::Requests), Some(LoadKind::Hold)) => {
                self.report(path, format!("`{name}` are requests; judge them with `requests`"));
            }
            _ => {}
        }
    }

    fn known_node(&mut self, name: &str, path: &str) -> Option<&'a Node> {
        self.known_node_at(name, format!("{path}.node"))
    }

    fn known_node_at(&mut self, name: &str, path: String) -> Option<&'a Node> {
        let node = self.topology.node(name);
        if node.is_none() {
            let hint = suggest::hint(name, self.topology.nodes.iter().map(|node| &*node.name));
            self.report(path, format!("there is no node `{name}`{hint}"));
        }
        node
    }

    fn interface(&mut self, node: &Node, name: &str, path: String) {
        if !node.links.iter().any(|link| &*link.interface == name) {
            let hint = suggest::hint(name, node.links.iter().map(|link| &*link.interface));
            self.report(path, format!("`{}` has no interface `{name}`{hint}", node.name));
        }
    }

    fn server(&mut self, node: &Node, name: &str, path: String) {
        if !node.servers.iter().any(|server| &*server.name == name) {
            let hint = suggest::hint(name, node.servers.iter().map(|server| &*server.name));
            self.report(path, format!("`{}` has no server `{name}`{hint}", node.name));
        }
    }

    fn fault(&mut self, fault: &Fault, path: &str) {
        let path = format!("{path}.{}", fault.kind());
        match fault {
            Fault::AdminDown(fault) | Fault::CarrierLost(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path) {
                    self.interface(node, &fault.interface, format!("{path}.interface"));
                }
            }
            Fault::Blackhole(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path) {
                    self.interface(node, &fault.interface, format!("{path}.interface"));
                }
            }
            Fault::FreezeAgent(fault) | Fault::KillAgent(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path)
                    && node.agent.is_none()
                {
                    self.report(format!("{path}.node"), format!("`{}` has no agent", node.name));
                }
            }
            Fault::FreezeNode(fault) | Fault::Crash(fault) | Fault::Reboot(fault) => {
                self.known_node(&fault.node, &path);
            }
            Fault::Partition(partition) => self.partition(partition, &path),
            Fault::StopService(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path)
                    && node.peer.as_ref().is_none_or(|peer| peer.name() != &*fault.service)
                {
                    self.server(node, &fault.service, format!("{path}.service"));
                }
            }
        }
    }

    fn partition(&mut self, partition: &super::fault::Partition, path: &str) {
        if self.topology.network(&partition.network).is_none() {
            let hint = suggest::hint(
                &partition.network,
                self.topology.networks.iter().map(|network| &*network.name),
            );
            self.report(
                format!("{path}.network"),
                format!("there is no network `{}`{hint}", partition.network),
            );
            return;
        }
        let mut members = BTreeSet::new();
        for (g, group) in partition.groups.iter().enumerate() {
            if group.is_empty() {
                self.report(format!("{path}.groups[{g}]"), "is empty");
            }
            for (n, name) in group.iter().enumerate() {
                let path = format!("{path}.groups[{g}][{n}]");
                if !members.insert(&**name) {
                    self.report(&*path, format!("`{name}` is in the partition twice"));
                }
                if let Some(node) = self.known_node_at(name, path.clone())
                    && !node.links.iter().any(|link| link.network == partition.network)
                {
                    self.report(path, format!("`{name}` is not on network `{}`", partition.network));
                }
            }
        }
    }

    fn window(&mut self, window: &Window, path: &str, names: &[&str]) {
        for (field, step) in [("since", &window.since), ("until", &window.until)] {
            if let Some(step) = step
                && !names.contains(&step.as_str())
            {
                let hint = suggest::hint(step, names.iter().copied());
                self.report(
                    format!("{path}.window.{field}"),
                    format!("there is no step `{step}` up to here{hint}"),
                );
            }
        }
        let place =
            |step: &Option<String>| step.as_ref().and_then(|step| names.iter().position(|name| name == step));
        if let (Some(since), Some(until)) = (place(&window.since), place(&window.until))
            && since >= until
        {
            self.report(format!("{path}.window"), "ends before it begins");
        }
    }

    fn expectation(
        &mut self,
        expectation: &Expectation,
        path: &str,
        names: &[&str],
        loads: &BTreeMap<&'a str, LoadKind>,
    ) {
        if let Some(within) = expectation.within {
            self.patience(within.get(), format!("{path}.within"));
        }
        let path = format!("{path}.{}", expectation.kind.name());
        match &expectation.kind {
            Kind::Requests(expected) => {
                self.known_load(&expected.load, Some(LoadKind::Requests), loads, format!("{path}.load"));
                for (index, load) in expected.also.iter().enumerate() {
                    self.known_load(load, Some(LoadKind::Requests), loads, format!("{path}.also[{index}]"));
                }
                self.window(&expected.window, &path, names);
                if expected.tolerance.is_some() && expected.proportion.is_none() {
                    self.report(format!("{path}.tolerance"), "belongs to `proportion`, which is not there");
                }
                if expected
                    .proportion
                    .as_ref()
                    .is_some_and(|weights| weights.values().all(|weight| *weight == 0))
                {
                    self.report(format!("{path}.proportion"), "has no weight above 0");
                }
                if expected.sent.is_none()
                    && expected.ok.is_none()
                    && expected.failed.is_none()
                    && expected.answerers.is_none()
                    && expected.proportion.is_none()
                    && expected.longest_gap.is_none()
                    && !expected.alternate
                    && !expected.one_answerer
                {
                    self.report(&*path, "expects nothing");
                }
            }
            Kind::Holders(expected) => {
                self.window(&expected.window, &path, names);
                for (index, node) in expected.nodes.iter().flatten().enumerate() {
                    self.known_node_at(node, format!("{path}.nodes[{index}]"));
                }
                if expected.nodes.is_none()
                    && expected.longest_gap.is_none()
                    && expected.longest_overlap.is_none()
                {
                    self.report(&*path, "expects nothing; give it `nodes`, `longestGap` or `longestOverlap`");
                }
            }
            Kind::Kernel(expected) => {
                if let Some(node) = self.known_node(&expected.node, &path) {
                    for (index, address) in expected.addresses.iter().enumerate() {
                        if let Some(interface) = &address.interface
                            && !["lo", "tunl0", "ip6tnl0"].contains(&&**interface)
                        {
                            self.interface(node, interface, format!("{path}.addresses[{index}].interface"));
                        }
                    }
                }
                if expected.ipvsadm.is_none()
                    && expected.services.is_none()
                    && expected.no_services.is_empty()
                    && expected.addresses.is_empty()
                    && expected.no_addresses.is_empty()
                    && expected.sysctls.is_empty()
                    && expected.nft.is_empty()
                {
                    self.report(&*path, "expects nothing");
                }
            }
            Kind::Connections(expected) => {
                self.known_load(&expected.load, Some(LoadKind::Hold), loads, format!("{path}.load"));
                if expected.opened.is_none()
                    && expected.alive.is_none()
                    && expected.lost.is_none()
                    && expected.answerers.is_none()
                {
                    self.report(&*path, "expects nothing");
                }
            }
            Kind::Frames(expected) => {
                if let Some(node) = self.known_node(&expected.node, &path) {
                    self.interface(node, &expected.interface, format!("{path}.interface"));
                }
                self.window(&expected.window, &path, names);
            }
            Kind::AgentStatus(expected) => {
                self.agent_of(&expected.node, &path);
                for pointer in expected.values.keys() {
                    if !pointer.is_empty() && !pointer.starts_with('/') {
                        let message = format!("`{pointer}` is not a JSON pointer; it begins with `/`");
                        self.report(join(&format!("{path}.values"), pointer), message);
                    }
                }
            }
            Kind::Plan(expected) => self.agent_of(&expected.node, &path),
            Kind::Log(expected) => {
                self.window(&expected.window, &path, names);
                if let Some(node) = self.known_node(&expected.node, &path) {
                    let mut programs: Vec<&str> = node.servers.iter().map(|server| &*server.name).collect();
                    programs.extend(node.agent.as_ref().map(|_| AGENT));
                    programs.extend(node.peer.as_ref().map(super::topology::Peer::name));
                    if !programs.contains(&&*expected.program) {
                        let hint = suggest::hint(&expected.program, programs);
                        let message = format!("`{}` runs no program `{}`{hint}", node.name, expected.program);
                        self.report(format!("{path}.program"), message);
                    }
                }
            }
            Kind::Command(expected) => {
                self.known_node(&expected.node, &path);
            }
        }
    }

    fn agent_of(&mut self, name: &str, path: &str) {
        if let Some(node) = self.known_node(name, path)
            && node.agent.is_none()
        {
            self.report(format!("{path}.node"), format!("`{name}` has no agent"));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LoadKind {
    Requests,
    Hold,
}

/// The name of the load that a step begins.
pub(crate) fn load_name(step: &Step) -> Option<&str> {
    let given = match &step.action {
        Action::Requests(requests) => requests.load.as_ref(),
        Action::Hold(hold) => hold.load.as_ref(),
        _ => return None,
    };
    Some(given.map_or(step.name.as_str(), String::as_str))
}

/// Where a load goes, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `http`, `tcp` or `udp`.
    pub(crate) scheme: String,
    /// What the load program takes: the whole URL for HTTP, `ADDRESS:PORT` for the others.
    pub(crate) argument: String,
}

impl Target {
    pub(crate) fn parse(target: &str, schemes: &[&str]) -> Result<Self, String> {
        let Some((scheme, rest)) = target.split_once("://") else {
            return Err(format!("`{target}` has no scheme; write `{}://…`", schemes[0]));
        };
        if !schemes.contains(&scheme) {
            return Err(format!("`{scheme}` is not possible here; use {}", suggest::list(schemes)));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme != "http" && rest.contains('/') {
            return Err(format!("`{target}` has a path, which {scheme} does not know"));
        }
        if authority.is_empty() || target.chars().any(char::is_whitespace) || path.len() > 200 {
            return Err(format!("`{target}` is not a target such as `http://192.16.193.30/`"));
        }
        let socket = authority.parse::<std::net::SocketAddr>().is_ok_and(|socket| socket.port() > 0);
        let host = authority == "localhost"
            || authority.parse::<std::net::Ipv4Addr>().is_ok()
            || authority
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        let named = authority
            .strip_prefix("localhost:")
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        match scheme {
            "http" if socket || host || named => {
                Ok(Self { scheme: "http".into(), argument: target.to_owned() })
            }
            "tcp" | "udp" if socket => Ok(Self { scheme: scheme.into(), argument: authority.to_owned() }),
            "http" => Err(format!(
                "`{authority}` is neither an address (`192.16.193.30`, `[2001:db8::30]:8080`) nor `localhost`"
            )),
            _ => Err(format!("`{authority}` is not an address with a port, such as `192.16.193.30:53`")),
        }
    }
}

/// The links that are recorded from the start: node and interface.
pub(crate) fn recorded(scenario: &Scenario) -> BTreeSet<(String, String)> {
    let mut links = BTreeSet::new();
    for node in &scenario.topology.nodes {
        let director = node.agent.is_some() || node.peer.is_some();
        if scenario.record == Record::All || (scenario.record == Record::Directors && director) {
            links.extend(node.links.iter().map(|link| (node.name.to_string(), link.interface.to_string())));
        }
    }
    for step in &scenario.steps {
        let expectations: &[Expectation] = match &step.action {
            Action::Expect(expectations) => expectations,
            Action::Wait(wait) => &wait.until,
            _ => &[],
        };
        for expectation in expectations {
            if let Kind::Frames(frames) = &expectation.kind {
                links.insert((frames.node.to_string(), frames.interface.to_string()));
            }
        }
    }
    links
}
