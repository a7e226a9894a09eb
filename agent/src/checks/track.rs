//! What groups track: HealthChecks by themselves (keepalived: track_script, track_file), and the quorums of virtual services.
//!
//! A check that has not spoken yet, or cannot be run, does not fail, and neither does a service that is not here or has nothing to be
//! judged by: what nobody knows must not take the addresses from all members at once.

use std::collections::{BTreeMap, BTreeSet};

use bascule_checks_core::pool::Standing;
use bascule_checks_core::{Health, Time};
use bascule_compile::{BindingKey, CheckKey};
use bascule_crds::DirectorConfigSpec;

use super::spec::{self, Whom};
use super::state::{Effects, ProbeId, State, User};
use crate::vrrp::{check_tracker, service_tracker};

/// Something that a group tracks, by the name under which VRRP knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tracked {
    /// Name of the group.
    pub group: String,
    /// Name of what is tracked.
    pub name: String,
}

/// A HealthCheck that groups track.
#[derive(Debug, Default)]
struct Watch {
    groups: BTreeSet<String>,
    /// Its probe; none, when it cannot be run.
    probe: Option<ProbeId>,
}

/// What the groups of this director track; a DirectorConfig has at most 96 such things.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    checks: BTreeMap<CheckKey, Watch>,
    services: BTreeMap<BindingKey, BTreeSet<String>>,
    /// What fails, as it was told.
    failing: BTreeSet<Tracked>,
}

impl Tracking {
    /// Takes what the groups want to know now. Returns the probes that nobody wants any more, with the check that they were of.
    fn set(&mut self, director: &DirectorConfigSpec) -> Vec<(CheckKey, Option<ProbeId>)> {
        let mut before = std::mem::take(&mut self.checks);
        self.services.clear();
        for group in &director.vrrp {
            let track = group.track.iter();
            for one in track.clone().flat_map(|track| &track.health_checks) {
                let key = CheckKey::new(&one.namespace, &one.name);
                let watch = self.checks.entry(key).or_default();
                watch.groups.insert(group.name.clone());
            }
            for one in track.flat_map(|track| &track.virtual_services) {
                let groups = self.services.entry(BindingKey::new(&one.namespace, &one.name)).or_default();
                groups.insert(group.name.clone());
            }
        }
        for (key, watch) in &mut self.checks {
            watch.probe = before.remove(key).and_then(|before| before.probe);
        }
        before.into_iter().map(|(key, watch)| (key, watch.probe)).collect()
    }
}

impl State {
    /// Takes what the groups of this director want to know now.
    pub(super) fn track(&mut self, director: &DirectorConfigSpec) {
        for (check, probe) in self.tracking.set(director) {
            if let Some(probe) = probe {
                self.release(probe, &User::Groups(check));
            }
        }
    }

    /// Gives each check that is tracked the probe that it asks for now.
    pub(super) fn probe_tracked(&mut self, now: Time) {
        let checks: Vec<_> = self.tracking.checks.keys().cloned().collect();
        for check in checks {
            let user = User::Groups(check.clone());
            let probe = self.tracked_probe(now, &check, &user);
            if let Err(why) = &probe {
                tracing::debug!(%check, "tracked, and cannot be run: {why}; it does not count as failing");
            }
            let Some(watch) = self.tracking.checks.get_mut(&check) else { continue };
            let before = std::mem::replace(&mut watch.probe, probe.ok());
            let after = watch.probe;
            if let Some(before) = before.filter(|before| Some(*before) != after) {
                self.release(before, &user);
            }
        }
    }

    fn tracked_probe(&mut self, now: Time, check: &CheckKey, user: &User) -> Result<ProbeId, String> {
        let spec = self.check(check).ok_or("there is no such HealthCheck")?;
        self.may_probe(&spec)?;
        let address = match spec.address {
            Some(address) => address,
            // Programs and files need none.
            None if spec.exec.is_some() || spec.file.is_some() => std::net::Ipv4Addr::UNSPECIFIED.into(),
            None => return Err("it has no address of its own".to_owned()),
        };
        let key = spec::key(&spec, &Whom { address, port: None, check_host: None })?;
        self.acquire(now, check, key, user)
    }

    /// Notes what began to fail, or ceased to, since the last time.
    pub(super) fn judge_tracked(&mut self, effects: &mut Effects) {
        let mut failing = BTreeSet::new();
        for (check, watch) in &self.tracking.checks {
            let verdict = watch.probe.and_then(|probe| self.scheduler.verdict(&probe));
            if verdict.is_some_and(|verdict| verdict.health == Health::Down) {
                let name = check_tracker(&check.namespace, &check.name);
                failing.extend(
                    watch.groups.iter().map(|group| Tracked { group: group.clone(), name: name.clone() }),
                );
            }
        }
        for (service, groups) in &self.tracking.services {
            let known = self.services.get(service);
            if known.is_some_and(|known| known.judgement.standing == Standing::Lost) {
                let name = service_tracker(&service.namespace, &service.name);
                failing
                    .extend(groups.iter().map(|group| Tracked { group: group.clone(), name: name.clone() }));
            }
        }
        let before = std::mem::replace(&mut self.tracking.failing, failing);
        let after = &self.tracking.failing;
        effects.tracked.extend(before.difference(after).map(|one| (one.clone(), false)));
        effects.tracked.extend(after.difference(&before).map(|one| (one.clone(), true)));
    }
}
