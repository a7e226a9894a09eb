//! The agent's source alone, with a sink that keeps what the reconciler would be told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use bascule_agent::api::connect::Cluster as Which;
use bascule_agent::api::{Api, Options};
use bascule_agent::reconcile::{ConfigChange, ConfigUpdate};
use bascule_agent::state::{self, Keeper};
use bascule_compile::{CheckKey, NodeConfig};
use bascule_crds::HealthCheckSpec;
use bascule_tests::operator::NAMESPACE;

use crate::cluster::Cluster;

/// A source that runs.
pub(crate) struct Follower {
    pub(crate) api: Api,
    updates: Arc<Mutex<Vec<ConfigUpdate>>>,
    keeper: Arc<Keeper>,
}

impl Follower {
    /// Starts for a director, with the last good configuration of that folder.
    pub(crate) fn start(kubeconfig: &Path, director: &str, state: &Path) -> Result<Self> {
        let loaded = state::load(state);
        let remembered = loaded.objects.clone();
        let keeper = Arc::new(Keeper::spawn(state, loaded)?);
        let updates = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&updates);
        let cluster = Which { kubeconfig: Some(kubeconfig.to_owned()), namespace: Some(NAMESPACE.into()) };
        let options = Options {
            cluster,
            director: director.into(),
            remembered,
            keeper: Some(Arc::clone(&keeper)),
            secrets: Arc::default(),
        };
        let api = Api::spawn(options, move |update| theirs.lock().unwrap().push(update), || {})?;
        Ok(Self { api, updates, keeper })
    }

    /// How many updates there were.
    pub(crate) fn count(&self) -> usize {
        self.updates.lock().unwrap().len()
    }

    /// An update.
    pub(crate) fn update(&self, at: usize) -> Result<ConfigUpdate> {
        self.updates.lock().unwrap().get(at).cloned().context("no such update")
    }

    /// What all updates together come to.
    pub(crate) fn told(&self) -> Result<(NodeConfig, BTreeMap<CheckKey, HealthCheckSpec>)> {
        let updates = self.updates.lock().unwrap();
        let first = updates.first().context("no update yet")?;
        let ConfigChange::All(all) = &first.change else { anyhow::bail!("the first is not all: {first:?}") };
        let (mut config, mut checks) = ((**all).clone(), BTreeMap::new());
        for update in &*updates {
            if let ConfigChange::Some { director, bindings, nat_rules } = &update.change {
                config.director = director.clone().unwrap_or(config.director);
                for (key, binding) in bindings {
                    match binding {
                        Some(binding) => config.bindings.insert(key.clone(), Arc::clone(binding)),
                        None => config.bindings.remove(key),
                    };
                }
                for (key, rule) in nat_rules {
                    match rule {
                        Some(rule) => config.nat_rules.insert(key.clone(), Arc::clone(rule)),
                        None => config.nat_rules.remove(key),
                    };
                }
            }
            for (key, check) in &update.checks {
                match check {
                    Some(check) => checks.insert(key.clone(), (**check).clone()),
                    None => checks.remove(key),
                };
            }
        }
        Ok((config, checks))
    }

    /// The weight of a real server.
    pub(crate) fn weight(&self, service: &str, server: &str) -> Result<u32> {
        let (config, _) = self.told()?;
        let binding = config.bindings.iter().find(|(key, _)| *key.name == *service).context("no binding")?.1;
        Ok(binding.real_servers.iter().find(|one| one.name == server).context("no such real server")?.weight)
    }

    /// Address and weight of the real servers of a service, in their order.
    pub(crate) fn servers(&self, service: &str) -> Result<Vec<(String, u32)>> {
        let (config, _) = self.told()?;
        let binding = config.bindings.iter().find(|(key, _)| *key.name == *service).context("no binding")?.1;
        Ok(binding.real_servers.iter().map(|one| (one.address.to_string(), one.weight)).collect())
    }

    /// Ends it, and has everything on the disk.
    pub(crate) fn end(self) {
        self.api.stop(false);
        self.keeper.close();
    }
}

/// The rights of a director's agent, and a kubeconfig with them.
pub(crate) fn agent(cluster: &Cluster, director: &str) -> Result<PathBuf> {
    cluster.server.install_agent(director)
}

/// A kubeconfig of a ServiceAccount.
pub(crate) fn with_rights_of(cluster: &Cluster, account: &str) -> Result<PathBuf> {
    cluster.server.kubeconfig_of(account, &format!("{account}.kubeconfig"))
}
