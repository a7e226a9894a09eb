//! Expectations: what they name, and what would expect nothing.

use std::collections::BTreeMap;

use super::super::check::join;
use super::super::expectation::{
    Established, Expectation, Kind, MetricExpectation, RestExpectation, When, Window,
};
use super::super::reals::{Presence, RealServersExpectation, service_id};
use super::super::suggest;
use super::super::topology::Peer;
use super::{AGENT, Checker, LoadKind};

impl<'a> Checker<'a> {
    pub(super) fn window(&mut self, window: &Window, path: &str, names: &[&str]) {
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

    pub(super) fn expectation(
        &mut self,
        expectation: &Expectation,
        path: &str,
        names: &[&str],
        loads: &BTreeMap<&'a str, LoadKind>,
    ) {
        match expectation.when {
            When::Now => {}
            When::Within(span) => self.patience(span.get(), format!("{path}.within")),
            When::Always(span) => self.patience(span.get(), format!("{path}.always")),
            When::Never(span) => self.patience(span.get(), format!("{path}.never")),
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
                for (index, node) in expected.among.iter().enumerate() {
                    self.known_node_at(node, format!("{path}.among[{index}]"));
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
                            && !node.links.iter().any(|link| link.interface == *interface)
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
            Kind::RealServers(expected) => {
                self.known_node(&expected.node, &path);
                self.window(&expected.window, &path, names);
                self.real_servers(expected, &path);
            }
            Kind::Connections(expected) => {
                self.known_load(&expected.load, Some(LoadKind::Hold), loads, format!("{path}.load"));
                if let Some(established) = &expected.established {
                    self.established(established, &format!("{path}.established"), names);
                }
                if expected.opened.is_none()
                    && expected.alive.is_none()
                    && expected.lost.is_none()
                    && expected.reset.is_none()
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
            Kind::Claims(expected) => {
                if let Some(node) = self.known_node(&expected.node, &path) {
                    self.interface(node, &expected.interface, format!("{path}.interface"));
                }
                if let Some(by) = &expected.by {
                    self.known_node_at(by, format!("{path}.by"));
                }
                self.window(&expected.window, &path, names);
                if expected.by.is_none() && expected.changes.is_none() && expected.gap.is_none() {
                    self.report(&*path, "expects nothing; give it `by`, `changes` or `gap`");
                }
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
                    programs.extend(node.peer.as_ref().map(Peer::name));
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
            Kind::Metric(expected) => {
                self.agent_of(&expected.node, &path);
                self.metric(expected, &path);
            }
            Kind::Event(expected) => {
                self.agent_of(&expected.node, &path);
                self.window(&expected.window, &path, names);
                self.event(expected, &path);
            }
            Kind::Rest(expected) => self.rest(expected, expectation.when, &path),
        }
    }

    fn metric(&mut self, expected: &MetricExpectation, path: &str) {
        let MetricExpectation { equals, at_least, at_most, .. } = expected;
        if equals.is_none() && at_least.is_none() && at_most.is_none() {
            self.report(path, "expects nothing; give it `equals`, `atLeast` or `atMost`");
        }
        if equals.is_some() && (at_least.is_some() || at_most.is_some()) {
            self.report(path, "has `equals` and a limit, but only one of them can be");
        }
    }

    fn rest(&mut self, expected: &RestExpectation, when: When, path: &str) {
        self.patience(expected.quiet_for.get(), format!("{path}.quietFor"));
        for (index, node) in expected.nodes.iter().enumerate() {
            self.known_node_at(node, format!("{path}.nodes[{index}]"));
        }
        if let When::Within(span) = when
            && span.get() < expected.quiet_for.get()
        {
            let message = format!("is longer than `within`, {span}: it could not be seen in time");
            self.report(format!("{path}.quietFor"), message);
        }
    }

    fn real_servers(&mut self, expected: &RealServersExpectation, path: &str) {
        if let Err(wrong) = service_id(&expected.service) {
            self.report(format!("{path}.service"), wrong);
        }
        for (index, server) in expected.servers.iter().enumerate() {
            if server.parse::<std::net::SocketAddr>().is_err() {
                let message = format!("`{server}` is no address with a port: `172.16.193.10:80`");
                self.report(format!("{path}.servers[{index}]"), message);
            }
        }
        if expected.are.is_none() && expected.changes.is_none() {
            self.report(path, "expects nothing; give it `are` or `changes`");
        }
        if expected.took.is_some() && expected.are.is_none() {
            self.report(format!("{path}.took"), "belongs to `are`, which is not there");
        }
        if expected.weight.is_some() && expected.are != Some(Presence::In) {
            self.report(format!("{path}.weight"), "belongs to `are: in`");
        }
    }

    fn established(&mut self, established: &Established, path: &str, names: &[&str]) {
        for (field, step) in [("before", &established.before), ("after", &established.after)] {
            if let Some(step) = step
                && !names.contains(&step.as_str())
            {
                let hint = suggest::hint(step, names.iter().copied());
                self.report(format!("{path}.{field}"), format!("there is no step `{step}` up to here{hint}"));
            }
        }
        if established.before.is_none() && (established.at_least.is_some() || established.less_than.is_some())
        {
            self.report(path, "`atLeast` and `lessThan` belong to `before`");
        }
        if let (Some(least), Some(less)) = (established.at_least, established.less_than)
            && least.get() >= less.get()
        {
            self.report(path, "`atLeast` is not below `lessThan`, so that no connection is meant");
        }
    }

    pub(super) fn agent_of(&mut self, name: &str, path: &str) {
        if let Some(node) = self.known_node(name, path)
            && node.agent.is_none()
        {
            self.report(format!("{path}.node"), format!("`{name}` has no agent"));
        }
    }
}
