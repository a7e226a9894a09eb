//! Steps: what they name, and what can never end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::Span;
use super::super::expectation::When;
use super::super::fault::{ClockStep, Direction, Fault, Impair, Partition};
use super::super::loads::{Target, load_name};
use super::super::step::{Action, RestartHow, Step};
use super::super::suggest;
use super::super::topology::{Link, Node, Peer};
use super::{Checker, LoadKind};

/// The longest pause or patience of a step.
const MAX_WAIT: Duration = Duration::from_secs(30 * 60);
/// The longest delay of a link: what is seen of it is waited for.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// The least and the longest that the wall clock jumps. Longer than a run takes, so that no time of a frame is that of two moments.
const MIN_CLOCK_STEP: Duration = Duration::from_secs(3600);
const MAX_CLOCK_STEP: Duration = Duration::from_secs(365 * 24 * 3600);

impl<'a> Checker<'a> {
    pub(super) fn steps(&mut self) {
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

    pub(super) fn step(
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
                self.patience(exec.timeout.get(), format!("{path}.timeout"));
            }
            Action::Requests(requests) => {
                self.known_node_at(&requests.from, format!("{path}.from"));
                self.target(&requests.target, &["http", "tcp", "udp", "ping"], format!("{path}.target"));
                if requests.reuse && requests.target.starts_with("ping:") {
                    self.report(format!("{path}.reuse"), "pings have no connection that could be kept");
                }
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
                if let Some(count) = requests.count
                    && !requests.background
                    && u64::from(count / requests.rate) > MAX_WAIT.as_secs()
                {
                    let message = format!("would take longer than {} at that `rate`", Span(MAX_WAIT));
                    self.report(format!("{path}.count"), message);
                }
                let name = load_name(step).unwrap_or_default();
                self.new_load(name, LoadKind::Requests, loads, &path);
            }
            Action::Hold(hold) => {
                self.known_node_at(&hold.from, format!("{path}.from"));
                self.target(&hold.target, &["http", "tcp"], format!("{path}.target"));
                if hold.download && !hold.target.starts_with("http:") {
                    self.report(format!("{path}.download"), "needs a target that begins with `http://`");
                }
                for (field, span) in
                    [("exchangeEvery", Some(hold.exchange_every)), ("openEvery", hold.open_every)]
                {
                    if let Some(span) = span {
                        self.patience(span.get(), format!("{path}.{field}"));
                    }
                }
                self.patience(hold.timeout.get(), format!("{path}.timeout"));
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
                if let Some(other) = broken.iter().find(|other| excludes(other, fault)) {
                    self.report(&*path, format!("`{other}` is there already; heal it first"));
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
                    let (field, message) = match expectation.when {
                        When::Now => ("", ""),
                        When::Within(_) => {
                            ("within", "give the time to `wait` itself: all have to hold at once")
                        }
                        When::Always(_) => {
                            ("always", "belongs into an `expect` step: `wait` ends when it holds")
                        }
                        When::Never(_) => {
                            ("never", "belongs into an `expect` step: `wait` ends when it holds")
                        }
                    };
                    if !field.is_empty() {
                        self.report(format!("{path}.{field}"), message);
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
                self.manager_of(&restart.node, &path);
                if restart.how == RestartHow::Kill {
                    self.one_group(&restart.node, format!("{path}.how"));
                }
                if matches!(restart.how, RestartHow::Upgrade | RestartHow::TakeOver)
                    && self.topology.node(&restart.node).is_some_and(|node| node.agent.is_none())
                {
                    self.report(format!("{path}.how"), "only an agent can; a peer is ended and started");
                }
            }
            Action::Capture(capture) => {
                if let Some(node) = self.known_node(&capture.node, &path) {
                    self.interface(node, &capture.interface, format!("{path}.interface"));
                }
            }
        }
    }

    /// A node with an agent, or with a peer program in its place.
    fn manager_of(&mut self, name: &str, path: &str) {
        let Some(node) = self.known_node(name, path) else { return };
        if node.agent.is_none() && !node.peer.as_ref().is_some_and(Peer::stays) {
            self.report(format!("{path}.node"), format!("`{name}` has no agent, and no peer that runs"));
        }
    }

    /// A node whose agent, or peer program in its place, can be hit by a signal as a whole.
    fn one_group(&mut self, name: &str, path: String) {
        let node = self.topology.node(name).filter(|node| node.agent.is_none());
        if let Some(peer) =
            node.and_then(|node| node.peer.as_ref()).filter(|peer| peer.stays() && !peer.is_one_group())
        {
            let message = format!(
                "the processes of {} cannot be hit all at once; crash or freeze the node, or stop the service",
                peer.name()
            );
            self.report(path, message);
        }
    }

    pub(super) fn patience(&mut self, span: Duration, path: String) {
        if span.is_zero() || span > MAX_WAIT {
            let message = format!("has to be between 1ms and {}", Span(MAX_WAIT));
            self.report(path, message);
        }
    }

    pub(super) fn target(&mut self, target: &str, schemes: &[&str], path: String) {
        if let Err(message) = Target::parse(target, schemes) {
            self.report(path, message);
        }
    }

    pub(super) fn new_load(
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

    pub(super) fn known_load(
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

    pub(super) fn fault(&mut self, fault: &Fault, path: &str) {
        let path = format!("{path}.{}", fault.kind());
        match fault {
            Fault::AdminDown(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path) {
                    self.interface(node, &fault.interface, format!("{path}.interface"));
                }
            }
            Fault::CarrierLost(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path)
                    && let Some(interface) = &fault.interface
                {
                    self.interface(node, interface, format!("{path}.interface"));
                }
            }
            Fault::Blackhole(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path) {
                    self.interface(node, &fault.interface, format!("{path}.interface"));
                    self.not_bonded(node, &fault.interface, format!("{path}.interface"));
                }
            }
            Fault::FreezeAgent(fault) | Fault::KillAgent(fault) => {
                self.manager_of(&fault.node, &path);
                self.one_group(&fault.node, format!("{path}.node"));
            }
            Fault::FreezeNode(fault)
            | Fault::Crash(fault)
            | Fault::Reboot(fault)
            | Fault::DiskFull(fault) => {
                self.known_node(&fault.node, &path);
            }
            Fault::Impair(impair) => {
                if let Some(node) = self.known_node(&impair.node, &path) {
                    self.interface(node, &impair.interface, format!("{path}.interface"));
                    self.not_bonded(node, &impair.interface, format!("{path}.interface"));
                }
                self.impair(impair, &path);
            }
            Fault::PacketFilter(filter) => {
                self.known_node(&filter.node, &path);
            }
            Fault::ClockStep(step) => self.clock_step(step, &path),
            Fault::Partition(partition) => self.partition(partition, &path),
            Fault::StopService(fault) => {
                if let Some(node) = self.known_node(&fault.node, &path)
                    && node
                        .peer
                        .as_ref()
                        .filter(|peer| peer.stays())
                        .is_none_or(|peer| peer.name() != &*fault.service)
                {
                    self.server(node, &fault.service, format!("{path}.service"));
                }
            }
        }
    }

    /// What could not be proved of one of several cables: which of them carries a frame is the bond's choice.
    fn not_bonded(&mut self, node: &Node, interface: &str, path: String) {
        let bonded = |link: &Link| link.bond.is_some() && link.cables().any(|cable| &**cable == interface);
        if node.links.iter().any(bonded) {
            let message = format!(
                "`{interface}` is bonded; a bonded cable can only be lost: `carrierLost`, `adminDown`"
            );
            self.report(path, message);
        }
    }

    fn impair(&mut self, impair: &Impair, path: &str) {
        if impair.words().is_empty() {
            self.report(path, "does nothing; give it `loss`, `delay`, `duplicate` or `rate`");
        }
        for (field, there) in [("jitter", impair.jitter.is_some()), ("reorder", impair.reorder.is_some())] {
            if there && impair.delay.is_none() {
                self.report(format!("{path}.{field}"), "belongs to `delay`, which is not there");
            }
        }
        if let Some(delay) = impair.delay {
            if delay.get().is_zero() || delay.get() > MAX_DELAY {
                let message = format!("has to be between 1ms and {}", Span(MAX_DELAY));
                self.report(format!("{path}.delay"), message);
            }
            if impair.jitter.is_some_and(|jitter| jitter.get().is_zero() || jitter.get() > delay.get()) {
                let message = format!("has to be between 1ms and the delay, {delay}");
                self.report(format!("{path}.jitter"), message);
            }
        }
    }

    fn clock_step(&mut self, step: &ClockStep, path: &str) {
        for (field, span) in [("forward", step.forward), ("back", step.back)] {
            if let Some(span) = span
                && !(MIN_CLOCK_STEP..=MAX_CLOCK_STEP).contains(&span.get())
            {
                let message =
                    format!("has to be between {} and {}", Span(MIN_CLOCK_STEP), Span(MAX_CLOCK_STEP));
                self.report(format!("{path}.{field}"), message);
            }
        }
    }

    pub(super) fn partition(&mut self, partition: &Partition, path: &str) {
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
                } else if let Some(node) = self.topology.node(name)
                    && node.links.iter().any(|link| link.network == partition.network && link.bond.is_some())
                {
                    let message =
                        format!("`{name}` has bonded cables there, which cannot be parted from others");
                    self.report(path, message);
                }
            }
        }
    }
}

/// Whether a fault cannot be played while the other is there.
fn excludes(other: &Fault, fault: &Fault) -> bool {
    match (other, fault) {
        // A machine has one clock, and one end of a link one queue.
        (Fault::ClockStep(_), Fault::ClockStep(_)) => true,
        (Fault::Impair(one), Fault::Impair(two)) => {
            one.node == two.node
                && one.interface == two.interface
                && (one.direction == two.direction
                    || one.direction == Direction::Both
                    || two.direction == Direction::Both)
        }
        _ => other == fault,
    }
}
