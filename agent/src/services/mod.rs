//! Services of the machine that run where a group is active: heartbeat's `haresources`.
//!
//! [`group`] decides, purely; [`operate`] calls `systemctl` and resource scripts; a thread a group joins them, so that a
//! service that takes its time holds up nobody but those behind it.

pub mod group;
pub mod operate;
pub mod service;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bascule_crds::vrrp_group::MachineService;
use serde::{Deserialize, Serialize};

use crate::exec::Runner;
use service::{Service, State};
use worker::{Common, Ending, Worker};

/// Most groups with services: each has a thread.
pub const MAX_GROUPS: usize = 1024;

/// Operations at once, of all groups; more wait.
const AT_ONCE: usize = 64;

/// How long an operation that was called off may take to end; see [`crate::exec`].
const CALLED_OFF: Duration = Duration::from_secs(5);

/// The services of a group, as status shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupServices {
    /// The group.
    pub group: String,
    /// Whether its services are to run here; absent before anybody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Why it is failing, if it is; at most 128 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// From the first to the last; behind them those that left the manifest and are being stopped.
    pub services: Vec<ServiceStatus>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The unit, or the program with its arguments.
    pub name: String,
    /// What it does.
    pub state: State,
    /// For how many seconds.
    pub since: u64,
    /// What went wrong last, until it runs; empty if nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

type Report = Box<dyn Fn(&str, Option<String>) + Send>;
type Stopped = Box<dyn Fn(&str) + Send>;

/// The services of all groups. A handle that may be shared; nothing blocks but [`Services::shutdown`].
#[derive(Debug)]
pub struct Services {
    common: Arc<Common>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    workers: BTreeMap<String, Worker>,
    /// By group what was said last, also of those without services: they may get some.
    active: BTreeMap<String, bool>,
    /// Groups that are active here and hand over: their services are stopped all the same.
    released: BTreeSet<String>,
}

impl Services {
    /// `report` is told when a group begins to fail, with the reason (at most 128 characters), and when it is well again;
    /// from threads of its own, one call at a time, and it must not block. A group is well until it is said to fail. `stopped` is
    /// told in the same way when the services of a group that was released ([`Services::release`]) are stopped.
    pub fn spawn(
        runner: &Runner,
        report: impl Fn(&str, Option<String>) + Send + 'static,
        stopped: impl Fn(&str) + Send + 'static,
    ) -> std::io::Result<Self> {
        Self::with_period(runner, group::PERIOD, report, stopped)
    }

    fn with_period(
        runner: &Runner,
        period: Duration,
        report: impl Fn(&str, Option<String>) + Send + 'static,
        stopped: impl Fn(&str) + Send + 'static,
    ) -> std::io::Result<Self> {
        // Places of its own: hundreds of slow checks must not keep a service from being stopped.
        let runner = runner.apart(AT_ONCE)?;
        let report: Report = Box::new(report);
        let stopped: Stopped = Box::new(stopped);
        let (report, stopped) = (Mutex::new(report), Mutex::new(stopped));
        let common = Arc::new(Common { runner, period, report, stopped });
        Ok(Self { common, known: Mutex::default() })
    }

    /// All groups of this director with their services; a group without is the same as one that is not named. Services that
    /// left are stopped where their group is active, those that came are started, and the others left alone.
    pub fn configure(&self, groups: &[(String, Vec<MachineService>)]) {
        let wanted: BTreeMap<&str, Vec<Service>> = groups
            .iter()
            .map(|(group, services)| {
                (group.as_str(), services.iter().filter_map(Service::new).collect::<Vec<_>>())
            })
            .filter(|(_, services)| !services.is_empty())
            .collect();
        let mut known = self.lock();
        let Known { workers, active, released } = &mut *known;
        let named = |group: &String| groups.iter().any(|(name, _)| name == group);
        active.retain(|group, active| *active || named(group));
        workers.retain(|_, worker| !worker.is_over());
        for (group, worker) in workers.iter() {
            if !wanted.contains_key(group.as_str()) {
                worker.end(Ending::Stop);
            }
        }
        for (group, services) in wanted {
            // One that is just ending goes on, if it is not too late.
            if workers.get(group).is_some_and(|worker| worker.services(services.clone())) {
                continue;
            }
            let refused = if workers.len() >= MAX_GROUPS && !workers.contains_key(group) {
                Some(format!("more than {MAX_GROUPS} groups have services: those of this one are left alone"))
            } else {
                match Worker::spawn(group, self.common.clone(), services) {
                    Ok(worker) => {
                        if let Some(active) = active.get(group) {
                            worker.active(*active && !released.contains(group));
                        }
                        workers.insert(group.to_owned(), worker);
                        None
                    }
                    Err(error) => Some(format!("no thread for its services: {error}")),
                }
            };
            if let Some(why) = refused {
                tracing::error!(group, "{why}");
                self.common.report(group, Some(why));
            }
        }
    }

    /// The group has become active on this machine, or has left. Returns at once; of several the last counts. A group
    /// without services may get some later: they begin with what was said last.
    pub fn active(&self, group: &str, active: bool) {
        let mut known = self.lock();
        let was_active = known.active.insert(group.to_owned(), active) == Some(true);
        // A release is over when the group has left.
        if !active || !was_active {
            known.released.remove(group);
        }
        let runs = active && !known.released.contains(group);
        if let Some(worker) = known.workers.get(group) {
            worker.active(runs);
        }
    }

    /// The group is to be handed over: its services are stopped, from the last to the first, and stay so until it has left or
    /// [`Services::resume`]. Returns at once; `stopped` is told when they are stopped or do not stop.
    pub fn release(&self, group: &str) {
        let mut known = self.lock();
        if known.active.get(group) == Some(&true) {
            known.released.insert(group.to_owned());
        }
        let stopping = known.workers.get(group).is_some_and(Worker::release);
        drop(known);
        if !stopping {
            self.common.stopped(group);
        }
    }

    /// It was not handed over: its services run where it is active.
    pub fn resume(&self, group: &str) {
        let mut known = self.lock();
        if known.released.remove(group)
            && let (Some(worker), Some(active)) = (known.workers.get(group), known.active.get(group))
        {
            worker.active(*active);
        }
    }

    /// How they are.
    pub fn status(&self) -> Vec<GroupServices> {
        let now = Instant::now();
        let known = self.lock();
        known.workers.values().filter(|worker| !worker.is_over()).map(|worker| worker.status(now)).collect()
    }

    /// Ends, after what is in flight and, with `stop`, after all services are stopped from the last to the first. What has not
    /// ended within the time is called off, which takes up to 5 s more. Without `stop`, services that run go on.
    /// Returns whether all ended in time. May be called again.
    pub fn shutdown(&self, stop: bool, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let workers = std::mem::take(&mut self.lock().workers);
        for worker in workers.values() {
            worker.end(if stop { Ending::Stop } else { Ending::Leave });
        }
        let late: Vec<Worker> =
            workers.into_values().filter_map(|worker| worker.wait(deadline).err()).collect();
        if late.is_empty() {
            return true;
        }
        late.iter().for_each(Worker::call_off);
        let deadline = Instant::now() + CALLED_OFF;
        for worker in late {
            if let Err(worker) = worker.wait(deadline) {
                tracing::error!(group = worker.group(), "an operation on a service does not end; leaving it");
            }
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
