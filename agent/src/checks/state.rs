//! Which services want to know what, and what is known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bascule_checks::{Prepared, Prober};
use bascule_checks_core::pool::{Reading, Standing};
use bascule_checks_core::{Health, Outcome, Scheduler, Time, Transition};
use bascule_compile::{BindingKey, CheckKey, only_here};
use bascule_crds::{HealthCheckSpec, VirtualServiceBindingSpec, common::AddressPrefix};
use tokio::task::AbortHandle;

use super::before::Before;
use super::keep::{Identity, Kept, KeptService};
use super::log::{begin, note, say};
use super::service::{Member, Service, first_port, is_judged};
use super::shortage::Shortages;
use super::spec::{self, Key, Subject, What, Whom};
use super::told;
use super::track::{Tracked, Tracking};
use super::unmade::Unmade;
use crate::notify::Change;
use crate::reconcile::{ConfigChange, ConfigUpdate, Lives};

/// A probe of a director, by a number of its own.
pub(super) type ProbeId = u64;

/// How a probe is run.
#[derive(Clone, Debug)]
pub(super) enum Runnable {
    /// By itself.
    Net(Prepared),
    /// By a program.
    Exec(Arc<Key>),
    /// Not at all: its file is watched.
    Watched,
}

/// Who wants to know what a probe finds out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    /// A virtual service, of one of its real servers.
    Service(BindingKey),
    /// Groups that track this check.
    Groups(CheckKey),
}

struct Probing {
    key: Arc<Key>,
    identity: Identity,
    runnable: Runnable,
    /// Who wants to know.
    users: BTreeSet<User>,
    /// A HealthCheck that it is of, for the log.
    name: CheckKey,
    /// What runs.
    running: Option<AbortHandle>,
}

impl Drop for Probing {
    /// What nobody wants to know any more is not found out: it would hold its connection, or its program, up to its timeout.
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

/// What a change of a verdict, or of the configuration, comes to.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Other judgements on services.
    pub(super) live: Lives,
    /// Services whose quorum was gained or lost, or that begin with or without one.
    pub(super) quorums: Vec<(BindingKey, Standing)>,
    /// What a result has changed about real servers, for those who listen.
    pub(super) servers: Vec<Change>,
    /// What groups track and that fails now (true), or not any more.
    pub(super) tracked: Vec<(Tracked, bool)>,
}

/// All of it.
pub(super) struct State {
    prober: Prober,
    /// Whether files are watched at all.
    pub(super) files: bool,
    pub(super) scheduler: Scheduler<ProbeId>,
    probes: BTreeMap<ProbeId, Probing>,
    by_key: HashMap<Arc<Key>, ProbeId>,
    by_subject: HashMap<Arc<Subject>, BTreeSet<ProbeId>>,
    next: ProbeId,
    checks: BTreeMap<CheckKey, Arc<HealthCheckSpec>>,
    pub(super) services: BTreeMap<BindingKey, Service>,
    /// Services about which there is nothing to judge.
    unchecked: BTreeMap<BindingKey, Arc<VirtualServiceBindingSpec>>,
    by_check: BTreeMap<CheckKey, BTreeSet<BindingKey>>,
    /// Networks of loopback and link-local addresses that may be probed all the same.
    allowed: Vec<AddressPrefix>,
    pub(super) tracking: Tracking,
    kept: Kept,
    /// Something that is to be kept has changed.
    pub(super) unsaved: bool,
    shortages: Shortages,
    unmade: Unmade,
}

impl State {
    pub(super) fn new(prober: Prober, seed: u64, files: bool, kept: Kept) -> Self {
        Self {
            prober,
            files,
            scheduler: Scheduler::new(seed),
            probes: BTreeMap::new(),
            by_key: HashMap::new(),
            by_subject: HashMap::new(),
            next: 0,
            checks: BTreeMap::new(),
            services: BTreeMap::new(),
            unchecked: BTreeMap::new(),
            by_check: BTreeMap::new(),
            allowed: Vec::new(),
            tracking: Tracking::default(),
            kept,
            unsaved: false,
            shortages: Shortages::default(),
            unmade: Unmade::default(),
        }
    }

    /// Takes a change of the configuration, and puts into it what the checks of its bindings come to. What did not change keeps its
    /// verdicts.
    pub(super) fn configure(&mut self, now: Time, update: &mut ConfigUpdate) -> Effects {
        let mut affected = BTreeSet::new();
        if let Some(director) = update.change.director() {
            self.track(director);
            if director.allowed_targets != self.allowed {
                self.allowed.clone_from(&director.allowed_targets);
                affected.extend(self.services.keys().cloned());
            }
        }
        let all = matches!(update.change, ConfigChange::All(_));
        if all {
            let known: BTreeSet<_> = update.checks.iter().map(|(key, _)| key.clone()).collect();
            self.checks.retain(|key, _| known.contains(key));
        }
        for (key, spec) in &update.checks {
            match spec {
                Some(spec) => self.checks.insert(key.clone(), Arc::clone(spec)),
                None => self.checks.remove(key),
            };
            self.unmade.forget(key);
            affected.extend(self.by_check.get(key).into_iter().flatten().cloned());
        }
        let bindings: Vec<_> = match &update.change {
            ConfigChange::All(config) => {
                let known = self.services.keys().chain(self.unchecked.keys());
                let gone: Vec<_> = known.filter(|key| !config.bindings.contains_key(*key)).cloned().collect();
                let all = config.bindings.iter().map(|(key, spec)| (key.clone(), Some(Arc::clone(spec))));
                all.chain(gone.into_iter().map(|key| (key, None))).collect()
            }
            ConfigChange::Some { bindings, .. } => bindings.clone(),
        };
        let mut effects = Effects::default();
        // What is given up is let go at the end: another binding may be about to take it over, with what is known.
        let mut given_up = Vec::new();
        for (key, spec) in &bindings {
            affected.remove(key);
            self.put(now, key, spec.as_ref(), &mut effects, &mut given_up);
            // The planes learn it with the binding, also where it is as it was.
            if let Some(service) = self.services.get(key) {
                effects.live.insert(key.clone(), Arc::clone(&service.judgement));
            }
        }
        self.renew(now, affected, &mut effects, &mut given_up);
        if update.change.director().is_some() || !update.checks.is_empty() {
            self.probe_tracked(now);
        }
        self.let_go(given_up);
        self.judge_tracked(&mut effects);
        if all {
            // What nobody asked for now, nobody will.
            self.kept.clear();
        }
        update.live.clone_from(&effects.live);
        effects
    }

    /// Tries again the checks that cannot be run: files, certificates and the like may have come since.
    pub(super) fn retry(&mut self, now: Time) -> Effects {
        let (mut effects, mut given_up) = (Effects::default(), Vec::new());
        if !self.unmade.is_empty() {
            let services = self.services.iter().filter(|(_, service)| !service.is_whole());
            let services = services.map(|(key, _)| key.clone()).collect();
            self.renew(now, services, &mut effects, &mut given_up);
            self.let_go(given_up);
        }
        effects
    }

    /// Looks at services again whose bindings are as they were.
    fn renew(
        &mut self,
        now: Time,
        services: BTreeSet<BindingKey>,
        effects: &mut Effects,
        given_up: &mut Vec<(ProbeId, User)>,
    ) {
        for key in services {
            let spec = self.services.get(&key).map(|service| Arc::clone(&service.spec));
            self.put(now, &key, spec.as_ref(), effects, given_up);
        }
    }

    fn let_go(&mut self, given_up: Vec<(ProbeId, User)>) {
        for (id, user) in given_up {
            self.release(id, &user);
        }
        for line in self.unmade.lines() {
            tracing::warn!("{line}");
        }
    }

    /// Takes a binding, none when it is gone. The probes that it does not use any more go to `given_up`.
    fn put(
        &mut self,
        now: Time,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
        effects: &mut Effects,
        given_up: &mut Vec<(ProbeId, User)>,
    ) {
        let was = self.before(key);
        let unchecked = spec.filter(|spec| !is_judged(spec));
        let spec = spec.filter(|spec| is_judged(spec));
        let members = spec.map(|spec| self.members(now, key, spec, &was));
        let before = self.services.remove(key);
        match unchecked {
            Some(spec) => self.unchecked.insert(key.clone(), Arc::clone(spec)),
            None => self.unchecked.remove(key),
        };
        let standing = match &before {
            Some(service) => Some(service.judgement.standing),
            None => self.kept.standing(key),
        };
        let after = members.as_deref().unwrap_or_default();
        let used: BTreeSet<_> = after.iter().flatten().filter_map(Member::probe).collect();
        let old: BTreeSet<_> = before
            .iter()
            .flat_map(|service| service.members.iter().flatten())
            .filter_map(Member::probe)
            .collect();
        given_up.extend(old.difference(&used).map(|id| (*id, User::Service(key.clone()))));
        self.rename(key, before.as_ref().map(|service| &*service.spec), spec.map(|spec| &**spec));
        if let (Some(spec), Some(members)) = (spec, members) {
            let mut service = Service::new(Arc::clone(spec), members);
            let judgement = service.judge(standing.unwrap_or_default(), |id| self.scheduler.verdict(&id));
            match standing {
                Some(standing) => note(key, standing, &judgement, effects),
                None => begin(key, &judgement, effects),
            }
            if before.is_some_and(|before| *before.judgement != judgement) {
                effects.live.insert(key.clone(), Arc::new(judgement.clone()));
            }
            service.judgement = Arc::new(judgement);
            self.services.insert(key.clone(), service);
            self.unsaved = true;
        }
    }

    /// What is known of a binding's real servers: of those that it has now, or had in a former process.
    fn before(&self, key: &BindingKey) -> Before {
        match (self.services.get(key), self.unchecked.get(key)) {
            (Some(service), _) => service.before(|id| self.scheduler.verdict(&id)),
            (None, Some(spec)) => Before::unchecked(spec),
            (None, None) => self.kept.before(key),
        }
    }

    /// Which HealthChecks a binding names: to be looked at again when one of them changes.
    fn rename(
        &mut self,
        key: &BindingKey,
        before: Option<&VirtualServiceBindingSpec>,
        after: Option<&VirtualServiceBindingSpec>,
    ) {
        let named = |spec: &VirtualServiceBindingSpec| -> BTreeSet<CheckKey> {
            let names = spec.real_servers.iter().flat_map(|server| &server.health_checks);
            names.map(|name| CheckKey::new(&key.namespace, name)).collect()
        };
        let old = before.map(named).unwrap_or_default();
        let new = after.map(named).unwrap_or_default();
        for check in old.difference(&new) {
            if let Some(users) = self.by_check.get_mut(check) {
                users.remove(key);
                if users.is_empty() {
                    self.by_check.remove(check);
                    self.unmade.forget(check);
                }
            }
        }
        for check in new {
            self.by_check.entry(check).or_default().insert(key.clone());
        }
    }

    /// The checks of each real server of a service, which were what `before` tells.
    fn members(
        &mut self,
        now: Time,
        key: &BindingKey,
        spec: &VirtualServiceBindingSpec,
        before: &Before,
    ) -> Vec<Vec<Member>> {
        let mut all = Vec::with_capacity(spec.real_servers.len());
        let user = User::Service(key.clone());
        for server in &spec.real_servers {
            let port = first_port(spec, server);
            let whom = Whom { address: server.address, port, check_host: spec.check_host.as_deref() };
            let mut members = Vec::with_capacity(server.health_checks.len());
            for name in &server.health_checks {
                let check = CheckKey::new(&key.namespace, name);
                let probe = match self.checks.get(&check) {
                    None => Err("there is no such HealthCheck".to_owned()),
                    Some(check) => self.may_probe(check).and_then(|()| spec::key(check, &whom)),
                };
                let probe = probe.and_then(|probe| self.acquire(now, &check, probe, &user));
                if let Err(reason) = &probe {
                    self.unmade.note(&check, reason);
                }
                members.push(Member { name: Arc::clone(&check.name), probe, before: Reading::default() });
            }
            before.carry_over(server, &mut members, |member| {
                let verdict = member.probe().and_then(|id| self.scheduler.verdict(&id));
                verdict.map_or(Health::Unknown, |verdict| verdict.health)
            });
            all.push(members);
        }
        all
    }

    /// An address of a check's own that means this very machine, or any on a link, is probed only where that is allowed. (Real
    /// servers have been judged before.)
    pub(super) fn may_probe(&self, check: &HealthCheckSpec) -> Result<(), String> {
        let Some(address) = check.address else { return Ok(()) };
        match only_here(address) {
            Some(what) if !self.allowed.iter().any(|network| network.contains(address)) => {
                Err(format!("{address} is {what}, which the Director's allowedTargets do not have"))
            }
            _ => Ok(()),
        }
    }

    /// The probe of a key, made if there is none yet.
    pub(super) fn acquire(
        &mut self,
        now: Time,
        name: &CheckKey,
        key: Key,
        user: &User,
    ) -> Result<ProbeId, String> {
        if let Some(id) = self.by_key.get(&key) {
            if let Some(probing) = self.probes.get_mut(id) {
                probing.users.insert(user.clone());
            }
            return Ok(*id);
        }
        let key = Arc::new(key);
        let runnable = match &key.subject.what {
            What::Net(probe) => Runnable::Net(
                self.prober.prepare(probe, &key.subject.target).map_err(|error| error.to_string())?,
            ),
            What::Exec { .. } => Runnable::Exec(Arc::clone(&key)),
            What::File { .. } if !self.files => {
                return Err("the agent watches no files: start it with --allow-file DIR".into());
            }
            What::File { .. } => Runnable::Watched,
        };
        let id = self.next;
        self.next += 1;
        match key.timings {
            Some(timings) => {
                self.scheduler.set(now, id, timings).map_err(|error| error.to_string())?;
            }
            None => {
                self.scheduler.set_watched(now, id);
            }
        }
        let identity = Identity::of(&key);
        self.take_up(now, id, &key, &identity);
        self.by_subject.entry(Arc::clone(&key.subject)).or_default().insert(id);
        self.by_key.insert(Arc::clone(&key), id);
        let users = BTreeSet::from([user.clone()]);
        self.probes.insert(id, Probing { key, identity, runnable, users, name: name.clone(), running: None });
        Ok(id)
    }

    /// Tells a new probe what is known of its subject already: by a former process, or by a probe in another rhythm.
    fn take_up(&mut self, now: Time, id: ProbeId, key: &Key, identity: &Identity) {
        // What a former process knew in this very rhythm comes first.
        if let Some(verdict) = self.kept.verdict(identity).cloned() {
            self.scheduler.restore(&id, verdict);
        }
        let knows = |id: &&ProbeId| {
            self.scheduler.verdict(id).is_some_and(|verdict| verdict.health != Health::Unknown)
        };
        let others = || self.by_subject.get(&key.subject).into_iter().flatten();
        if let Some(former) = others().find(knows).or_else(|| others().next()).copied() {
            self.scheduler.succeed(now, &id, &former);
        }
    }

    pub(super) fn release(&mut self, id: ProbeId, user: &User) {
        let Some(probing) = self.probes.get_mut(&id) else { return };
        probing.users.remove(user);
        if !probing.users.is_empty() {
            return;
        }
        if let Some(probing) = self.probes.remove(&id) {
            self.scheduler.remove(&id);
            self.by_key.remove(&probing.key);
            if let Some(ids) = self.by_subject.get_mut(&probing.key.subject) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_subject.remove(&probing.key.subject);
                }
            }
        }
    }

    /// A HealthCheck.
    pub(super) fn check(&self, key: &CheckKey) -> Option<Arc<HealthCheckSpec>> {
        self.checks.get(key).cloned()
    }

    /// How to run a probe.
    pub(super) fn runnable(&self, id: ProbeId) -> Option<Runnable> {
        self.probes.get(&id).map(|probing| probing.runnable.clone())
    }

    /// What carries out probes that were started. Of those that nobody wants to know any more it is ended.
    pub(super) fn carried_out_by(&mut self, tasks: impl Iterator<Item = (ProbeId, AbortHandle)>) {
        for (id, task) in tasks {
            match self.probes.get_mut(&id) {
                Some(probing) => probing.running = Some(task),
                None => task.abort(),
            }
        }
    }

    /// Whom a probe is about.
    #[cfg(test)]
    pub(super) fn target(&self, id: ProbeId) -> Option<&bascule_checks::Target> {
        self.probes.get(&id).map(|probing| &probing.key.subject.target)
    }

    /// The files that are watched, by the probes that want to know.
    pub(super) fn watched(&self) -> Vec<(ProbeId, String)> {
        let watched = self.probes.iter().filter_map(|(id, probing)| match &probing.key.subject.what {
            What::File { name } => Some((*id, name.clone())),
            _ => None,
        });
        watched.collect()
    }

    /// Takes a result.
    pub(super) fn finished(&mut self, now: Time, id: ProbeId, run: u64, outcome: &Outcome) -> Effects {
        if let Some(probing) = self.probes.get_mut(&id) {
            probing.running = None;
        }
        if !outcome.is_decided()
            && let Some(probing) = self.probes.get(&id)
            && let Some(times) = self.shortages.note(now)
        {
            let (check, address) = (&probing.name, probing.key.subject.target.address);
            tracing::warn!(%check, %address, probes = times, "not probed, its verdict stays: {}", outcome.message());
        }
        let transition = self.scheduler.finished(now, &id, run, outcome);
        self.changed(id, transition)
    }

    /// Takes what was seen of a file.
    pub(super) fn report(&mut self, now: Time, id: ProbeId, outcome: &Outcome) -> Effects {
        let transition = self.scheduler.report(now, &id, outcome);
        self.changed(id, transition)
    }

    fn changed(&mut self, id: ProbeId, transition: Option<Transition>) -> Effects {
        let mut effects = Effects::default();
        let (Some(transition), Some(probing)) = (transition, self.probes.get(&id)) else { return effects };
        self.unsaved = true;
        let services = probing.users.iter().filter(|user| matches!(user, User::Service(_))).count();
        say(&probing.name, &probing.key.subject.target, services, &transition);
        for user in &probing.users {
            let User::Service(key) = user else { continue };
            let Some(service) = self.services.get_mut(key) else { continue };
            let before = service.judgement.standing;
            let judgement = service.judge(before, |id| self.scheduler.verdict(&id));
            if *service.judgement != judgement {
                note(key, before, &judgement, &mut effects);
                effects.servers.extend(told::servers(key, service, &judgement, &transition.message));
                service.judgement = Arc::new(judgement);
                effects.live.insert(key.clone(), Arc::clone(&service.judgement));
            }
        }
        self.judge_tracked(&mut effects);
        effects
    }

    /// What another process needs to go on.
    pub(super) fn keep(&self) -> Kept {
        let verdicts = self.probes.iter().filter_map(|(id, probing)| {
            let verdict = self.scheduler.verdict(id).filter(|verdict| verdict.health != Health::Unknown)?;
            Some((probing.identity.clone(), verdict.clone()))
        });
        let services = self.services.iter().map(|(key, service)| {
            let before = service.before(|id| self.scheduler.verdict(&id));
            (key.to_string(), KeptService { standing: service.judgement.standing, servers: before })
        });
        Kept::new(self.kept.boot(), verdicts, services)
    }
}
