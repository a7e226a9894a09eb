//! What the API said becomes changes of the configuration: pure. Nothing is told before every kind was listed once, but for what is
//! remembered; nothing is told twice; nothing goes because nothing was heard.

mod memory;
mod slices;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bascule_compile::{BindingKey, CheckKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, HealthCheckSpec, NatRuleBindingSpec, VirtualServiceBindingSpec};
use serde_json::Value;

use self::slices::Slices;
use self::table::{Held, Table};
use super::heard::{Heard, Item, Place, Spec, What};
use crate::manifests::Problem;
use crate::reconcile::ConfigChange;
use crate::state::Saved;

pub use memory::{is_ours, key};
pub use view::Owned;
pub(super) use view::reference;

/// HealthChecks held that nothing here names. With more, one that comes to be named is asked for.
pub const MAX_UNNAMED: usize = 4096;

/// What one step changed.
#[derive(Debug, Default)]
pub struct Step {
    /// For the reconciler; none when nothing changed.
    pub change: Option<ConfigChange>,
    /// The HealthChecks that came to be named, changed, or are not any more (none).
    pub checks: BTreeMap<CheckKey, Option<Arc<HealthCheckSpec>>>,
    /// For the last good configuration.
    pub saved: Vec<(String, Option<Saved>)>,
}

impl Step {
    /// Whether the reconciler is told nothing.
    pub fn is_empty(&self) -> bool {
        self.change.is_none() && self.checks.is_empty()
    }
}

/// What the API says of one director.
#[derive(Debug)]
pub struct Source {
    director: String,
    bindings: Table<VirtualServiceBindingSpec>,
    rules: Table<NatRuleBindingSpec>,
    config: Table<DirectorConfigSpec>,
    checks: Table<HealthCheckSpec>,
    slices: Slices,
    /// Objects that carry out a service here: one, but for a moment when its object gets another name.
    by_key: BTreeMap<BindingKey, BTreeSet<Place>>,
    /// The same of NatRules.
    by_rule: BTreeMap<BindingKey, BTreeSet<Place>>,
    /// What was told.
    told: NodeConfig,
    told_checks: BTreeMap<CheckKey, Arc<HealthCheckSpec>>,
    /// How many bindings and tracks of what was told name a check.
    named: BTreeMap<CheckKey, usize>,
    started: bool,
    dirty: BTreeSet<BindingKey>,
    dirty_rules: BTreeSet<BindingKey>,
    dirty_checks: BTreeSet<CheckKey>,
    dirty_config: bool,
    unsaved: BTreeSet<(What, Place)>,
    /// HealthChecks were left out for want of room.
    left_out: bool,
    /// Bindings that were not in a list that had none of those in force: gone only if the DirectorConfig is still there.
    doubted: BTreeSet<(What, Place)>,
    /// Why what the API server says as a whole is not believed.
    lost: Option<String>,
    /// What has to be listed anew.
    again: BTreeSet<What>,
}

impl Source {
    /// Of a director, with nothing known.
    pub fn new(director: &str) -> Self {
        Self {
            director: director.to_owned(),
            bindings: Table::default(),
            rules: Table::default(),
            config: Table::default(),
            checks: Table::default(),
            slices: Slices::new(director),
            by_key: BTreeMap::new(),
            by_rule: BTreeMap::new(),
            told: NodeConfig::new(nothing(director)),
            told_checks: BTreeMap::new(),
            named: BTreeMap::new(),
            started: false,
            dirty: BTreeSet::new(),
            dirty_rules: BTreeSet::new(),
            dirty_checks: BTreeSet::new(),
            dirty_config: false,
            unsaved: BTreeSet::new(),
            left_out: false,
            doubted: BTreeSet::new(),
            lost: None,
            again: BTreeSet::new(),
        }
    }

    /// Takes in what was heard.
    pub fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Listing(what @ (What::Bindings | What::Rules)) => {
                self.doubted.retain(|(of, _)| *of != what);
                if what == What::Bindings { self.bindings.begin() } else { self.rules.begin() }
            }
            Heard::Listing(What::Config) => self.config.begin(),
            Heard::Listing(What::Checks) => {
                self.left_out = false;
                self.checks.begin();
            }
            Heard::Listing(What::Slices) => {
                self.doubted.retain(|(of, _)| *of != What::Slices);
                self.slices.begin();
            }
            Heard::Asked(services) => self.slices.asked(services),
            Heard::There(what, item) => self.there(what, *item),
            Heard::Gone(what, place) => self.gone(what, &place),
            Heard::Listed(what) => self.listed(what),
            // Nothing was heard: nothing is different.
            Heard::Failed(..) => {}
        }
    }

    fn there(&mut self, what: What, item: Item) {
        let Item { place, generation, spec, status } = item;
        self.doubted.remove(&(what, place.clone()));
        let changed = match what {
            What::Bindings => {
                let spec = spec.and_then(|spec| match spec {
                    Spec::Binding(spec) => Ok(spec),
                    other => Err(mistaken(&other)),
                });
                self.mark_binding(&place);
                let changed = self.bindings.put(place.clone(), generation, spec, status);
                self.mark_binding(&place);
                changed
            }
            What::Rules => {
                let spec = spec.and_then(|spec| match spec {
                    Spec::Rule(spec) => Ok(spec),
                    other => Err(mistaken(&other)),
                });
                self.mark_rule(&place);
                let changed = self.rules.put(place.clone(), generation, spec, status);
                self.mark_rule(&place);
                changed
            }
            What::Config if place.name == self.director => {
                let spec = spec.and_then(|spec| match spec {
                    Spec::Config(spec) => Ok(spec),
                    other => Err(mistaken(&other)),
                });
                self.lost = None;
                self.dirty_config = true;
                self.config.put(place.clone(), generation, spec, status)
            }
            What::Config => false,
            What::Checks => {
                let key = CheckKey::new(&place.namespace, &place.name);
                let known = self.checks.objects.contains_key(&place) || self.named.contains_key(&key);
                if !known && self.checks.objects.len() >= MAX_UNNAMED + self.named.len() {
                    self.left_out = true;
                    return;
                }
                let spec = spec.and_then(|spec| match spec {
                    Spec::Check(spec) => Ok(spec),
                    other => Err(mistaken(&other)),
                });
                self.dirty_checks.insert(key);
                // No status of it is ours.
                self.checks.put(place.clone(), generation, spec, Value::Null)
            }
            What::Slices => {
                let spec = spec.and_then(|spec| match spec {
                    Spec::Slice(slice) => Ok(slice),
                    other => Err(mistaken(&other)),
                });
                self.slices.put(&place, generation, spec)
            }
        };
        // Of HealthChecks those are kept that are named: see below.
        if changed && what != What::Checks {
            self.unsaved.insert((what, place));
        }
    }

    fn gone(&mut self, what: What, place: &Place) {
        self.doubted.remove(&(what, place.clone()));
        match what {
            What::Bindings => {
                self.mark_binding(place);
                self.bindings.objects.remove(place);
            }
            What::Rules => {
                self.mark_rule(place);
                self.rules.objects.remove(place);
            }
            What::Config => {
                self.dirty_config = true;
                self.config.objects.remove(place);
            }
            What::Checks => {
                self.dirty_checks.insert(CheckKey::new(&place.namespace, &place.name));
                self.checks.objects.remove(place);
            }
            What::Slices => self.slices.remove(place),
        }
        if what != What::Checks {
            self.unsaved.insert((what, place.clone()));
        }
    }

    fn listed(&mut self, what: What) {
        match what {
            What::Bindings => {
                let missing = self.bindings.end();
                self.miss(what, missing, self.bindings.objects.len());
            }
            What::Rules => {
                let missing = self.rules.end();
                self.miss(what, missing, self.rules.objects.len());
            }
            What::Config => {
                let missing = self.config.end();
                if missing.is_empty() && !self.config.objects.is_empty() {
                    for (what, place) in std::mem::take(&mut self.doubted) {
                        self.gone(what, &place);
                    }
                } else if !missing.is_empty() {
                    self.lost = Some(format!(
                        "the API server has no DirectorConfig {0} any more, and nobody was heard deleting it: the last good \
                         configuration stays in force; see that there is a Director {0} and that the operator runs, or \
                         remove the last good configuration and start again, if nothing is wanted",
                        self.director
                    ));
                }
            }
            What::Checks => {
                for place in self.checks.end() {
                    self.gone(What::Checks, &place);
                }
            }
            What::Slices => {
                let (missing, all, read) = self.slices.end();
                self.miss(what, missing, all);
                self.dirty.extend(read);
            }
        }
    }

    /// What was not in a list of bindings, of so many.
    fn miss(&mut self, what: What, missing: Vec<Place>, all: usize) {
        // All of them: is it so, or does this API server know nothing of this director? It is asked.
        if !missing.is_empty() && missing.len() == all {
            self.doubted.extend(missing.into_iter().map(|place| (what, place)));
            self.again.insert(What::Config);
        } else {
            missing.iter().for_each(|place| self.gone(what, place));
        }
    }

    /// Notes that the NatRule that an object carries out has to be looked at.
    fn mark_rule(&mut self, place: &Place) {
        let spec = self.rules.objects.get(place).and_then(|held| held.spec.as_ref());
        let Some(spec) = spec else { return };
        let key = BindingKey::new(&place.namespace, &spec.nat_rule);
        self.by_rule.entry(key.clone()).or_default().insert(place.clone());
        self.dirty_rules.insert(key);
    }

    /// Notes that the services that an object carries out have to be looked at.
    fn mark_binding(&mut self, place: &Place) {
        let spec = self.bindings.objects.get(place).and_then(|held| held.spec.as_ref());
        let Some(spec) = spec else { return };
        let key = BindingKey::new(&place.namespace, &spec.virtual_service);
        self.by_key.entry(key.clone()).or_default().insert(place.clone());
        self.dirty.insert(key);
    }

    /// Whether every kind was listed since the start.
    pub fn is_listed(&self) -> bool {
        self.unlisted().is_empty()
    }

    /// What has not been listed since the start.
    pub fn unlisted(&self) -> Vec<What> {
        // Later, only the bindings that name a Service have to wait.
        let slices = self.started || !self.slices.is_wanted() || self.slices.is_listed();
        let listed =
            [self.bindings.listed, self.rules.listed, self.config.listed, self.checks.listed, slices];
        What::ALL.into_iter().zip(listed).filter(|(_, listed)| !listed).map(|(what, _)| what).collect()
    }

    /// What has to be listed anew; asked once.
    pub fn again(&mut self) -> BTreeSet<What> {
        std::mem::take(&mut self.again)
    }

    /// Whether any configuration was told.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Tells everything that is remembered, before anything is heard.
    pub fn begin(&mut self) -> Step {
        self.follow();
        if self.config.in_force().next().is_some() {
            self.slices.all_read();
        }
        if self.config.in_force().next().is_some() { self.advance() } else { Step::default() }
    }

    /// What changed since the last step.
    pub fn step(&mut self) -> Step {
        self.follow();
        // Without its DirectorConfig nothing is known of this director, which is no reason to clear what the kernel holds. The first
        // time everything is told: what is not in it goes.
        let known =
            self.started || (self.config.in_force().next().is_some() && self.slices.unread().is_empty());
        if self.is_listed() && known { self.advance() } else { Step::default() }
    }

    fn advance(&mut self) -> Step {
        let mut step = Step::default();
        let config = self.advance_config();
        self.slices.endpoints.set_director(&self.told.director);
        let bindings = self.advance_bindings();
        let nat_rules = self.advance_rules();
        self.advance_checks(&mut step);
        step.change = match (self.started, &config, bindings.is_empty() && nat_rules.is_empty()) {
            (false, ..) => Some(ConfigChange::All(Arc::new(self.told.clone()))),
            (true, None, true) => None,
            (true, ..) => Some(ConfigChange::Some { director: config, bindings, nat_rules }),
        };
        self.started = true;
        step.saved = self.save();
        step
    }

    fn advance_bindings(&mut self) -> Vec<(BindingKey, Option<Arc<VirtualServiceBindingSpec>>)> {
        let mut changed = Vec::new();
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.extend(self.slices.endpoints.settle());
        for key in dirty {
            let objects = &self.bindings.objects;
            let carries_out = |spec: &VirtualServiceBindingSpec| *spec.virtual_service == *key.name;
            let now = first(&mut self.by_key, &key, objects, carries_out);
            // One whose endpoints are not known yet stays what it was.
            let Ok(now) = self.slices.resolved(&key, now.filter(|_| self.told.director.flush.is_none()))
            else {
                continue;
            };
            let before = match &now {
                Some(spec) => self.told.bindings.insert(key.clone(), Arc::clone(spec)),
                None => self.told.bindings.remove(&key),
            };
            if before == now {
                continue;
            }
            self.count(&named_by(&key, before.as_deref()), false);
            self.count(&named_by(&key, now.as_deref()), true);
            changed.push((key, now));
        }
        changed
    }

    fn advance_rules(&mut self) -> Vec<(BindingKey, Option<Arc<NatRuleBindingSpec>>)> {
        let mut changed = Vec::new();
        for key in std::mem::take(&mut self.dirty_rules) {
            let objects = &self.rules.objects;
            let carries_out = |spec: &NatRuleBindingSpec| *spec.nat_rule == *key.name;
            let now = first(&mut self.by_rule, &key, objects, carries_out);
            let now = now.filter(|_| self.told.director.flush.is_none());
            let before = match &now {
                Some(spec) => self.told.nat_rules.insert(key.clone(), Arc::clone(spec)),
                None => self.told.nat_rules.remove(&key),
            };
            if before != now {
                changed.push((key, now));
            }
        }
        changed
    }

    fn advance_config(&mut self) -> Option<DirectorConfigSpec> {
        if !std::mem::take(&mut self.dirty_config) && self.started {
            return None;
        }
        let held = self.config.objects.values().next().and_then(|held| held.spec.as_deref());
        let now = held.map_or_else(|| nothing(&self.director), in_force);
        if now.flush.is_some() != self.told.director.flush.is_some() {
            // What was told of bindings goes, or comes back.
            self.dirty.extend(self.by_key.keys().cloned());
            self.dirty_rules.extend(self.by_rule.keys().cloned());
        }
        if now == self.told.director {
            return None;
        }
        let before = std::mem::replace(&mut self.told.director, now.clone());
        self.count(&tracked_by(&before), false);
        self.count(&tracked_by(&now), true);
        Some(now)
    }

    /// Counts who names checks; what comes to be named, or is not any more, is looked at.
    fn count(&mut self, checks: &BTreeSet<CheckKey>, more: bool) {
        for key in checks {
            let count = self.named.entry(key.clone()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.named.remove(key);
            }
            self.dirty_checks.insert(key.clone());
        }
    }

    fn advance_checks(&mut self, step: &mut Step) {
        for key in std::mem::take(&mut self.dirty_checks) {
            let place = Place { namespace: key.namespace.to_string(), name: key.name.to_string() };
            let named = self.named.contains_key(&key);
            let held = self.checks.objects.get(&place);
            if named && held.is_none() && self.left_out {
                self.again.insert(What::Checks);
            }
            let now = held.filter(|_| named).and_then(|held| held.spec.clone());
            let before = match &now {
                Some(spec) => self.told_checks.insert(key.clone(), Arc::clone(spec)),
                None => self.told_checks.remove(&key),
            };
            if before != now {
                self.unsaved.insert((What::Checks, place));
                step.checks.insert(key, now);
            }
        }
    }

    /// Everything that was told, by kind.
    pub fn told(&self) -> (&NodeConfig, &BTreeMap<CheckKey, Arc<HealthCheckSpec>>) {
        (&self.told, &self.told_checks)
    }
}

/// What carries something out here: of several objects the first. Those that do not any more are forgotten.
fn first<S>(
    by_key: &mut BTreeMap<BindingKey, BTreeSet<Place>>,
    key: &BindingKey,
    objects: &BTreeMap<Place, Held<S>>,
    carries_out: impl Fn(&S) -> bool,
) -> Option<Arc<S>> {
    let places = by_key.get_mut(key)?;
    places.retain(|place| {
        let spec = objects.get(place).and_then(|held| held.spec.as_ref());
        spec.is_some_and(|spec| carries_out(spec))
    });
    let first = places.first().and_then(|place| objects.get(place)?.spec.clone());
    if places.is_empty() {
        by_key.remove(key);
    }
    first
}

fn mistaken(spec: &Spec) -> String {
    // Whoever reads an object says of what kind it is.
    format!("an internal error: another kind was expected than that of {spec:?}")
}

/// What is carried out of a DirectorConfig: with `flush`, nothing; settings stay as they are.
fn in_force(config: &DirectorConfigSpec) -> DirectorConfigSpec {
    let mut config = config.clone();
    if config.flush.is_some() {
        config.vrrp.clear();
        config.connection_sync = None;
    }
    config
}

/// What a director has to do of which nothing is said.
fn nothing(director: &str) -> DirectorConfigSpec {
    DirectorConfigSpec { director: director.to_owned(), ..DirectorConfigSpec::default() }
}

/// The checks that a binding names.
fn named_by(key: &BindingKey, spec: Option<&VirtualServiceBindingSpec>) -> BTreeSet<CheckKey> {
    let servers = spec.into_iter().flat_map(|spec| &spec.real_servers);
    let servers = servers.flat_map(|server| &server.health_checks);
    // Those of endpoints, too, while there is none.
    let from = spec.and_then(|spec| spec.real_servers_from.as_ref());
    let from = from.into_iter().flat_map(|from| &from.health_checks);
    servers.chain(from).map(|name| CheckKey::new(&key.namespace, name)).collect()
}

/// The checks that a director's groups track.
fn tracked_by(config: &DirectorConfigSpec) -> BTreeSet<CheckKey> {
    let tracks = config.vrrp.iter().filter_map(|group| group.track.as_ref());
    tracks
        .flat_map(|track| &track.health_checks)
        .map(|one| CheckKey::new(&one.namespace, &one.name))
        .collect()
}
