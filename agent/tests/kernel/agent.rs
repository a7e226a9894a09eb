//! A reconciler and its configuration.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use bascule_agent::reconcile::{
    ConfigChange, ConfigUpdate, Counters, Failure, Handle, Lives, Options, PlanError, PlaneName, PlannedOp,
    Programmed, Report, plan_once, spawn,
};
use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::world::wait_until;

pub(crate) fn key(name: &str) -> BindingKey {
    BindingKey::new("tp", name)
}

/// A binding: addresses and ports over real servers `ADDRESS` or `ADDRESS*WEIGHT`, by masquerading, round robin; `more`
/// overrides fields.
#[expect(clippy::needless_pass_by_value, reason = "json!() at the caller's")]
pub(crate) fn binding(
    addresses: &[&str],
    port: u16,
    servers: &[&str],
    more: Value,
) -> VirtualServiceBindingSpec {
    let method = more.get("method").cloned().unwrap_or_else(|| json!("Masquerade"));
    let servers: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(index, server)| {
            let (address, weight) = server.split_once('*').unwrap_or((server, "1"));
            json!({"name": format!("srv{}", index + 1), "address": address, "weight": weight.parse::<u32>().unwrap(),
                "forwarding": {"method": method}, "targetPorts": if port == 0 { json!([]) } else { json!([port]) }})
        })
        .collect();
    let mut spec = json!({
        "virtualService": "web", "director": "dir1", "addresses": addresses, "ports": [{"protocol": "TCP", "port": port}],
        "scheduler": {"name": "rr"}, "sourceNat": "Never", "realServers": servers,
    });
    for (field, value) in more.as_object().into_iter().flatten().filter(|(field, _)| *field != "method") {
        spec[field] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

pub(crate) struct Agent {
    handle: Option<Handle>,
    serial: u64,
    pub(crate) config: NodeConfig,
    options: Options,
    runtime: Runtime,
    // Dropped last.
    directory: Option<tempfile::TempDir>,
}

impl Agent {
    /// Starts with a configuration and waits until it is carried out.
    pub(crate) fn start<'a>(
        bindings: impl IntoIterator<Item = (&'a str, VirtualServiceBindingSpec)>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path());
        let mut agent = Self::start_with(options, DirectorConfigSpec::default(), bindings);
        agent.directory = Some(directory);
        agent
    }

    pub(crate) fn start_with<'a>(
        options: Options,
        director: DirectorConfigSpec,
        bindings: impl IntoIterator<Item = (&'a str, VirtualServiceBindingSpec)>,
    ) -> Self {
        let bindings: BTreeMap<_, _> =
            bindings.into_iter().map(|(name, spec)| (key(name), Arc::new(spec))).collect();
        let config = NodeConfig { bindings, ..NodeConfig::new(director) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = spawn(options.clone()).unwrap();
        let mut agent = Self { handle: Some(handle), serial: 0, config, options, runtime, directory: None };
        let all = ConfigChange::All(Arc::new(agent.config.clone()));
        agent.send(all);
        agent
    }

    fn send(&mut self, change: ConfigChange) {
        self.serial += 1;
        let update = ConfigUpdate {
            serial: self.serial,
            seen: Instant::now(),
            change,
            checks: Vec::new(),
            live: Lives::new(),
        };
        self.handle.as_ref().unwrap().updates().send(&update);
        let serial = self.serial;
        wait_until("the configuration is carried out", || {
            let report = self.report();
            report.serial >= serial && report.settled()
        });
    }

    /// Changes one binding and waits until that is carried out.
    pub(crate) fn put(&mut self, name: &str, spec: Option<VirtualServiceBindingSpec>) {
        let spec = spec.map(Arc::new);
        match &spec {
            Some(spec) => self.config.bindings.insert(key(name), Arc::clone(spec)),
            None => self.config.bindings.remove(&key(name)),
        };
        self.send(ConfigChange::Some {
            director: None,
            bindings: vec![(key(name), spec)],
            nat_rules: Vec::new(),
        });
    }

    pub(crate) fn director(&mut self, director: DirectorConfigSpec) {
        self.config.director = director.clone();
        self.send(ConfigChange::Some {
            director: Some(director),
            bindings: Vec::new(),
            nat_rules: Vec::new(),
        });
    }

    pub(crate) fn report(&self) -> Arc<Report> {
        self.handle.as_ref().unwrap().report().borrow().clone()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.runtime.block_on(self.handle.as_ref().unwrap().counters())
    }

    /// What another process would plan now.
    pub(crate) fn plan(&self) -> Result<Vec<PlannedOp>, PlanError> {
        // On this thread: the blocking threads of the runtime are in this namespace, too, for they are its children.
        self.runtime.block_on(plan_once(&Arc::new(self.config.clone()), &Lives::new(), &self.options))
    }

    #[track_caller]
    pub(crate) fn has_nothing_to_do(&self) {
        assert_eq!(self.plan(), Ok(Vec::new()));
    }

    pub(crate) fn failures(&self) -> Vec<(PlaneName, Failure)> {
        self.report().failures().map(|(plane, failure)| (plane, failure.clone())).collect()
    }

    pub(crate) fn programmed(&self, name: &str) -> Programmed {
        self.report().programmed(&key(name))
    }

    /// Operations of a plane so far, by kind.
    pub(crate) fn operations(&self, plane: PlaneName) -> BTreeMap<&'static str, u64> {
        self.report().planes[&plane].operations.clone()
    }

    pub(crate) fn repaired(&self, plane: PlaneName) -> u64 {
        self.report().planes[&plane].repaired.values().sum()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.options.run_dir.clone()
    }

    /// Ends it as SIGTERM does.
    pub(crate) fn stop(mut self) {
        let handle = self.handle.take().unwrap();
        self.runtime.block_on(handle.shutdown());
    }
}
