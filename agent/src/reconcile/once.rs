//! What would change in the kernel, without changing it.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Instant};

use bascule_compile::NodeConfig;
use bascule_ipvs::{Client, Error, ServiceId};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{
    Lives, Options, PlaneName,
    ledger::{Identity, Ledger},
};
use crate::plane::{
    address,
    address::{Io as _, Place},
    ipvs::{self, Clock, Drained, Drains, Scope},
    nat,
    nat::Io as _,
    nat_rules,
    nat_rules::Io as _,
    sync,
    sync::{Io as _, Note, guard::Io as _},
    sysctl,
    sysctl::Io as _,
};

/// An operation that the agent would carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOp {
    /// The plane.
    pub plane: PlaneName,
    /// The kind, as in [`super::PlaneReport::operations`].
    pub kind: &'static str,
    /// What it does, in words.
    pub text: String,
}

impl fmt::Display for PlannedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.plane, self.text)
    }
}

impl Serialize for PlannedOp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("PlannedOp", 3)?;
        object.serialize_field("plane", &self.plane)?;
        object.serialize_field("kind", self.kind)?;
        object.serialize_field("text", &self.text)?;
        object.end()
    }
}

/// Why a plane's plan is not the whole truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanProblem {
    /// The plane.
    pub plane: PlaneName,
    /// What is the matter.
    pub text: String,
}

impl fmt::Display for PlanProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.plane, self.text)
    }
}

/// The plan is not complete: a kernel table could not be read, or something wanted cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PlanError {
    /// What would be done all the same.
    pub ops: Vec<PlannedOp>,
    /// What is the matter.
    pub problems: Vec<PlanProblem>,
}

#[derive(Default)]
struct Sheet {
    ops: Vec<PlannedOp>,
    problems: Vec<PlanProblem>,
}

impl Sheet {
    fn op(&mut self, plane: PlaneName, kind: &'static str, op: &impl fmt::Display) {
        self.ops.push(PlannedOp { plane, kind, text: op.to_string() });
    }

    fn problem(&mut self, plane: PlaneName, text: impl fmt::Display) {
        self.problems.push(PlanProblem { plane, text: text.to_string() });
    }
}

/// Observes the kernel and plans for a configuration and what the checks of its real servers come to; nothing is written, neither
/// to the kernel nor to the ledgers. (Asking for IPVS makes the kernel load it.)
pub async fn plan_once(
    config: &Arc<NodeConfig>,
    live: &Lives,
    options: &Options,
) -> Result<Vec<PlannedOp>, PlanError> {
    let (config, live, options) = (Arc::clone(config), live.clone(), options.clone());
    let made = tokio::task::spawn_blocking(move || plan_here(&config, &live, &options)).await;
    made.unwrap_or_else(|error| {
        let problem = PlanProblem { plane: PlaneName::Ipvs, text: format!("internal error: {error}") };
        Err(PlanError { ops: Vec::new(), problems: vec![problem] })
    })
}

fn plan_here(config: &NodeConfig, live: &Lives, options: &Options) -> Result<Vec<PlannedOp>, PlanError> {
    let mut sheet = Sheet::default();
    match Identity::here() {
        Ok(identity) => {
            // IPVS first: it loads the module that brings some of the settings. What is printed is in the order of applying.
            let mut ipvs = Sheet::default();
            plan_ipvs(config, live, options, &identity, &mut ipvs);
            plan_sysctl(config, options, &mut sheet);
            plan_nat(config, options, &identity, &mut sheet);
            plan_nat_rules(config, options, &identity, &mut sheet);
            plan_sync(config, options, &identity, &mut sheet);
            sheet.ops.append(&mut ipvs.ops);
            sheet.problems.append(&mut ipvs.problems);
            plan_address(config, options, &identity, &mut sheet);
        }
        Err(error) => {
            sheet.problem(PlaneName::Ipvs, format_args!("cannot tell the network namespace: {error}"))
        }
    }
    if sheet.problems.is_empty() {
        Ok(sheet.ops)
    } else {
        Err(PlanError { ops: sheet.ops, problems: sheet.problems })
    }
}

fn plan_ipvs(config: &NodeConfig, live: &Lives, options: &Options, identity: &Identity, sheet: &mut Sheet) {
    let name = PlaneName::Ipvs;
    let drained: Ledger<Drained> = Ledger::read(&options.drains(), identity);
    if let Some(error) = drained.error() {
        sheet.problem(name, error);
    }
    let drains = Drains::restore(drained.entries(), &Clock::now());
    let desired = ipvs::desired_after(drains, config, live, Instant::now());
    for (key, problem) in desired.invalid() {
        sheet.problem(name, format_args!("VirtualService {key}: {problem}"));
    }
    let ledger: Ledger<ServiceId> = Ledger::read(&options.ledger(name), identity);
    if let Some(error) = ledger.error() {
        sheet.problem(name, error);
    }
    let ids: BTreeSet<_> = desired.services().keys().chain(ledger.entries()).copied().collect();
    let observed = Client::connect().and_then(|mut client| {
        ipvs::observe(&mut client, Scope::All(&ids), true, |id| ledger.contains(id), |_, _| {})
    });
    let observed = match observed {
        Ok(observed) => observed,
        // Where nothing is wanted of it, and nothing was, that is no matter.
        Err(Error::Missing { .. }) if ids.is_empty() && desired.timeouts().is_none() => return,
        Err(error) => return sheet.problem(name, error),
    };
    let scope = ids.iter().map(|id| (*id, desired.services().get(id).map(|entry| &entry.wanted)));
    let plan = ipvs::plan(scope, desired.timeouts(), &observed, options.adopt);
    for command in &plan.commands {
        sheet.op(name, ipvs::kind(command), command);
    }
    for id in &plan.conflicts {
        sheet.problem(name, format_args!("{id}: {}", ipvs::conflict(&observed.services[id])));
    }
}

fn plan_address(config: &NodeConfig, options: &Options, identity: &Identity, sheet: &mut Sheet) {
    let name = PlaneName::Address;
    let desired = address::desired(config);
    let ledger: Ledger<Place> = Ledger::read(&options.ledger(name), identity);
    let observed = match address::Kernel::open().and_then(|mut kernel| kernel.observe()) {
        Ok(observed) => observed,
        Err(error) => return sheet.problem(name, format_args!("cannot read addresses: {error}")),
    };
    let mut scope: BTreeSet<Place> = desired.places().keys().cloned().collect();
    scope.extend(observed.marked());
    scope.extend(ledger.entries().iter().cloned());
    let noted = |place: &Place| ledger.contains(place);
    let plan = address::plan(&scope, &desired, &observed, noted, address::keeps_marks());
    for op in &plan.ops {
        sheet.op(name, op.kind(), op);
    }
    for place in &plan.homeless {
        sheet.problem(name, format_args!("{place}: {}", address::homeless(place)));
    }
}

fn plan_sysctl(config: &NodeConfig, options: &Options, sheet: &mut Sheet) {
    let name = PlaneName::Sysctl;
    let desired = sysctl::desired(config);
    let observed = sysctl::Kernel::open(&options.proc_sys).and_then(|mut kernel| kernel.observe(&desired));
    let observed = match observed {
        Ok(observed) => observed,
        Err(error) => return sheet.problem(name, format_args!("cannot read /proc/sys: {error}")),
    };
    let plan = sysctl::plan(&desired, &observed);
    for op in &plan.ops {
        if desired.manage {
            sheet.op(name, "set-sysctl", op);
        } else {
            sheet.problem(name, format_args!("{}: {}", sysctl::name(&op.path), sysctl::unmanaged(op)));
        }
    }
    for path in &plan.missing {
        sheet.problem(name, format_args!("{}: {}", sysctl::name(path), sysctl::absent(path)));
    }
}

fn plan_nat(config: &NodeConfig, options: &Options, identity: &Identity, sheet: &mut Sheet) {
    let name = PlaneName::Nat;
    let mut desired = nat::desired(config, &nat::Connected::new());
    for (key, problem) in desired.invalid() {
        sheet.problem(name, format_args!("VirtualService {key}: {problem}"));
    }
    let servers: BTreeSet<_> = desired.servers().collect();
    let observed = nat::Kernel::open(&options.seal(), identity, false).and_then(|mut kernel| {
        desired.set_connected(&kernel.connected(&servers)?);
        kernel.observe()
    });
    match observed {
        Ok(observed) => {
            if let Some(op) = nat::plan(None, &desired, &observed) {
                sheet.op(name, op.kind(), &op);
            }
        }
        Err(error) => match nat::missing(&error) {
            Some(_) if desired.sets().is_empty() => {}
            Some(message) => sheet.problem(name, message),
            None => sheet.problem(name, format_args!("cannot read our nftables table: {error}")),
        },
    }
}

/// Nothing is known here of groups: a rule that follows one is as it is in the kernel.
fn plan_nat_rules(config: &NodeConfig, options: &Options, identity: &Identity, sheet: &mut Sheet) {
    let name = PlaneName::NatRules;
    let desired = nat_rules::desired(config);
    let observed = nat_rules::Kernel::open(&options.nat_rules(), identity, false)
        .and_then(|mut kernel| kernel.observe());
    match observed {
        Ok(observed) => {
            if let Some(op) = nat_rules::plan(&desired, &observed) {
                sheet.op(name, op.kind(), &op);
            }
        }
        Err(error) => match nat_rules::missing(&error) {
            Some(_) if desired.is_empty() => {}
            Some(message) => sheet.problem(name, message),
            None => sheet.problem(name, format_args!("cannot read our nftables table for NatRules: {error}")),
        },
    }
}

fn plan_sync(config: &NodeConfig, options: &Options, identity: &Identity, sheet: &mut Sheet) {
    let name = PlaneName::ConnectionSync;
    let wanted = sync::desired(&config.director);
    let ledger: Ledger<Note> = Ledger::read(&options.ledger(name), identity);
    if let Some(error) = ledger.error() {
        sheet.problem(name, error);
    }
    let mut kernel = match sync::Kernel::open() {
        Ok(kernel) => kernel,
        Err(error) => return sheet.problem(name, format_args!("cannot open an rtnetlink socket: {error}")),
    };
    let started = |role| sync::started(ledger.entries(), role);
    if wanted.is_some() || sync::ROLES.iter().any(|role| started(*role).is_some()) {
        match kernel.observe(wanted.as_ref().map(|wanted| wanted.interface.as_str())) {
            Ok(observed) => {
                let plan = sync::plan(wanted.as_ref(), &observed, started);
                for op in &plan.ops {
                    sheet.op(name, op.kind(), op);
                }
                if let Some(wanted) = wanted.as_ref().filter(|_| !plan.homeless.is_empty()) {
                    sheet.problem(name, sync::homeless(wanted));
                }
            }
            Err(error) => sheet.problem(name, error),
        }
    }
    let mut guard = sync::guard::Desired::default();
    guard.wanted = wanted.is_some();
    for (key, spec) in &config.bindings {
        guard.set(key, Some(spec));
    }
    let ours = |seen: &str| ledger.contains(&Note::Guard(seen.to_owned()));
    match kernel.guard().and_then(|mut kernel| kernel.observe(&ours)) {
        Ok(observed) => {
            if let Some(op) = sync::guard::plan(None, &guard, &observed) {
                sheet.op(name, op.kind(), &op);
            }
        }
        Err(_) if !guard.wanted => {}
        Err(error) => sheet.problem(name, format_args!("cannot read the guard's nftables table: {error}")),
    }
}
