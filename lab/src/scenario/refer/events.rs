//! What an expectation of an event names: groups and services of an agent's manifests, and states.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::events::EventExpectation;
use super::super::step::Action;
use super::super::suggest;
use super::Checker;

/// What an agent is told at some time of the run.
#[derive(Default)]
struct Declared {
    groups: Vec<String>,
    /// Services, and the real servers that they name.
    services: BTreeMap<String, Vec<String>>,
    /// Whether somewhere the stream is asked for.
    stream: bool,
}

impl Declared {
    fn take(&mut self, text: &str) {
        self.stream |= text.contains("eventStream");
        for document in bascule_crds::manifest::parse(text).unwrap_or_default() {
            let value = &document.value;
            let word = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let name = word("/metadata/name").to_owned();
            match word("/kind") {
                "VrrpGroup" => self.groups.push(name),
                "VirtualService" => {
                    let servers = value.pointer("/spec/realServers").and_then(Value::as_array);
                    let names =
                        servers.into_iter().flatten().filter_map(|server| server.get("name")?.as_str());
                    let names = names.map(str::to_owned).collect();
                    self.services.insert(format!("{}/{name}", word("/metadata/namespace")), names);
                }
                _ => {}
            }
        }
    }
}

impl Checker<'_> {
    pub(super) fn event(&mut self, expected: &EventExpectation, path: &str) {
        match (&expected.group, &expected.virtual_service) {
            (None, None) => return self.report(path, "expects nothing; give it `group` or `virtualService`"),
            (Some(_), Some(_)) => {
                return self.report(path, "has `group` and `virtualService`, but only one of them can be");
            }
            _ => {}
        }
        for (field, given) in
            [("realServer", expected.real_server.is_some()), ("quorum", expected.quorum.is_some())]
        {
            if given && expected.virtual_service.is_none() {
                self.report(format!("{path}.{field}"), "belongs to `virtualService`, which is not there");
            }
        }
        let of_server = expected.real_server.is_some() || expected.from.is_some() || expected.to.is_some();
        if expected.quorum.is_some() && (of_server || expected.reason.is_some()) {
            self.report(
                format!("{path}.quorum"),
                "is told without `realServer`, `from`, `to` and `reason`; leave them out",
            );
        }
        for (field, state) in [("from", expected.from), ("to", expected.to)] {
            if let Some(state) = state.filter(|state| state.of_group() != expected.group.is_some()) {
                let (is, are) = if state.of_group() {
                    ("a group", "Starting, Up, Down and Draining")
                } else {
                    ("a real server", "Initialize, Backup, Active and Fault")
                };
                let message = format!("`{}` is a state of {is}; here there are {are}", state.word());
                self.report(format!("{path}.{field}"), message);
            }
        }
        self.declared(expected, path);
    }

    /// Whether the agent is ever told what it is to tell of.
    fn declared(&mut self, expected: &EventExpectation, path: &str) {
        let Some(agent) = self.topology.node(&expected.node).and_then(|node| node.agent.as_ref()) else {
            return;
        };
        let mut declared = Declared::default();
        agent.manifests.values().for_each(|text| declared.take(text));
        for step in &self.scenario.steps {
            if let Action::Apply(apply) = &step.action
                && apply.node == expected.node
            {
                apply.write.values().for_each(|text| declared.take(text));
                declared.stream |= apply.replace.iter().any(|edit| edit.new.contains("eventStream"));
            }
        }
        if let Some(group) = expected.group.as_ref().filter(|group| !declared.groups.contains(group)) {
            let hint = suggest::hint(group, declared.groups.iter().map(String::as_str));
            let message = format!("`{}` is told of no VrrpGroup `{group}`{hint}", expected.node);
            return self.report(format!("{path}.group"), message);
        }
        if let Some(service) = &expected.virtual_service {
            let Some(servers) = declared.services.get(service) else {
                let hint = suggest::hint(service, declared.services.keys().map(String::as_str));
                let message = format!("`{}` is told of no VirtualService `{service}`{hint}", expected.node);
                return self.report(format!("{path}.virtualService"), message);
            };
            if let Some(server) = expected.real_server.as_ref()
                && !servers.is_empty()
                && !servers.contains(server)
            {
                let hint = suggest::hint(server, servers.iter().map(String::as_str));
                let message = format!("`{service}` has no real server `{server}`{hint}");
                return self.report(format!("{path}.realServer"), message);
            }
        }
        if !declared.stream {
            let message = format!(
                "no VrrpGroup of `{}` asks for the stream; give it `notify: {{eventStream: true}}`",
                expected.node
            );
            self.report(format!("{path}.node"), message);
        }
    }
}
