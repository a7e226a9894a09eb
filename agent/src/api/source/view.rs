//! What the API says, for whoever asks: the status, and what is written back.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bascule_compile::BindingKey;
use bascule_crds::{DirectorConfigSpec, Kind, NatRuleBindingSpec, ObjectRef, VirtualServiceBindingSpec};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Held, Place, Problem, Source, What};
use crate::manifests::{Effect, ObjectView, View};

/// Problems listed.
const MAX_PROBLEMS: usize = 1000;

/// An object whose status is this agent's.
#[derive(Debug)]
pub struct Owned<'a, S> {
    /// Where it is.
    pub place: &'a Place,
    /// The service, or the NatRule, of a binding.
    pub key: Option<BindingKey>,
    /// Of the form that the API server has.
    pub generation: Option<i64>,
    /// What is in force.
    pub spec: Option<&'a S>,
    /// Why the form that the API server has is not.
    pub unusable: Option<&'a str>,
    /// What the API server has as its status.
    pub status: &'a Value,
}

impl<'a, S> Owned<'a, S> {
    fn of(place: &'a Place, held: &'a Held<S>, key: Option<BindingKey>) -> Self {
        Self {
            place,
            key,
            generation: held.generation,
            spec: held.spec.as_deref(),
            unusable: held.unusable.as_deref(),
            status: &held.status,
        }
    }
}

impl Source {
    /// The bindings that the API server has.
    pub fn bindings(&self) -> impl Iterator<Item = Owned<'_, VirtualServiceBindingSpec>> {
        self.bindings.objects.iter().filter(|(_, held)| held.generation.is_some()).map(|(place, held)| {
            let key = held.spec.as_ref().map(|spec| BindingKey::new(&place.namespace, &spec.virtual_service));
            // With its real servers, where these are endpoints of a Service.
            let told = key.as_ref().and_then(|key| self.told.bindings.get(key));
            let told = told.filter(|told| told.real_servers_from.is_some());
            let spec = told.or(held.spec.as_ref()).map(|spec| &**spec);
            Owned { spec, ..Owned::of(place, held, key) }
        })
    }

    /// The bindings of NatRules that the API server has.
    pub fn rules(&self) -> impl Iterator<Item = Owned<'_, NatRuleBindingSpec>> {
        self.rules.objects.iter().filter(|(_, held)| held.generation.is_some()).map(|(place, held)| {
            let spec = held.spec.as_deref();
            let key = spec.map(|spec| BindingKey::new(&place.namespace, &spec.nat_rule));
            Owned::of(place, held, key)
        })
    }

    /// The DirectorConfig, if the API server has one.
    pub fn config(&self) -> Option<Owned<'_, DirectorConfigSpec>> {
        let (place, held) = self.config.objects.iter().next()?;
        held.generation.is_some().then(|| Owned::of(place, held, None))
    }

    /// Has what was written count as what the API server has, until it says otherwise.
    pub fn written(&mut self, what: What, place: &Place, status: Value) {
        match what {
            What::Bindings => {
                if let Some(held) = self.bindings.objects.get_mut(place) {
                    held.status = status;
                }
            }
            What::Rules => {
                if let Some(held) = self.rules.objects.get_mut(place) {
                    held.status = status;
                }
            }
            What::Config => {
                if let Some(held) = self.config.objects.get_mut(place) {
                    held.status = status;
                }
            }
            What::Checks | What::Slices => {}
        }
    }

    /// Objects in force.
    pub fn in_force(&self) -> usize {
        self.told.bindings.len()
            + self.told.nat_rules.len()
            + self.told_checks.len()
            + self.slices.table.in_force().count()
            + self.config.in_force().count()
    }

    /// Why what the API server says as a whole is not believed, or not enough.
    pub fn lost(&self) -> Option<String> {
        if self.lost.is_some() || self.started {
            return self.lost.clone();
        }
        let unlisted = self.unlisted();
        if !unlisted.is_empty() {
            let unlisted: Vec<_> = unlisted.iter().map(ToString::to_string).collect();
            return Some(format!("not listed yet: {}", unlisted.join(", ")));
        }
        if self.config.in_force().next().is_some() {
            let unread: Vec<_> = self.slices.unread().into_iter().take(8).map(ToString::to_string).collect();
            return Some(format!("not read yet: EndpointSlices of {}", unread.join(", ")));
        }
        Some(format!(
            "the API server has no DirectorConfig {0}: see that there is a Director {0} and that the operator runs",
            self.director
        ))
    }

    /// What is wrong, with where it is heard.
    pub fn problems(&self, server: &str) -> Vec<Problem> {
        let bindings = self
            .bindings
            .objects
            .iter()
            .map(|(place, held)| (What::Bindings, place, held.unusable.as_ref(), held.spec.is_some()));
        let rules = self
            .rules
            .objects
            .iter()
            .map(|(place, held)| (What::Rules, place, held.unusable.as_ref(), held.spec.is_some()));
        let config = self
            .config
            .objects
            .iter()
            .map(|(place, held)| (What::Config, place, held.unusable.as_ref(), held.spec.is_some()));
        // Those that nothing here names are others' affair.
        let checks = self
            .checks
            .objects
            .iter()
            .filter(|(place, _)| self.is_named(place))
            .map(|(place, held)| (What::Checks, place, held.unusable.as_ref(), held.spec.is_some()));
        let slices = self
            .slices
            .table
            .objects
            .iter()
            .map(|(place, held)| (What::Slices, place, held.unusable.as_ref(), held.spec.is_some()));
        let problem = |(what, place, unusable, kept): (What, &Place, Option<&String>, bool)| {
            let (field, message) = unusable?.split_once(": ")?;
            Some(Problem {
                file: server.to_owned(),
                line: None,
                object: Some(reference(what, place).to_string()),
                field: Some(field.to_owned()),
                reason: "Unsupported".into(),
                message: message.to_owned(),
                effect: if kept { Effect::LastGoodStays } else { Effect::Ignored },
            })
        };
        config
            .chain(bindings)
            .chain(rules)
            .chain(checks)
            .chain(slices)
            .filter_map(problem)
            .take(MAX_PROBLEMS)
            .collect()
    }

    fn is_named(&self, place: &Place) -> bool {
        self.named.contains_key(&bascule_compile::CheckKey::new(&place.namespace, &place.name))
    }

    /// Everything. `digest` is that of [`Source::digest`].
    pub fn view(&self, server: &str, digest: String, told: impl Fn(What, &BindingKey) -> u64) -> View {
        let mut objects = Vec::with_capacity(self.bindings.objects.len());
        for (place, held) in &self.bindings.objects {
            let key = held.spec.as_ref().map(|spec| BindingKey::new(&place.namespace, &spec.virtual_service));
            let key = key.filter(|key| self.told.bindings.contains_key(key));
            let serial = key.as_ref().map_or(0, |key| told(What::Bindings, key));
            objects.push(object(server, What::Bindings, place, held, (key, serial)));
        }
        for (place, held) in &self.rules.objects {
            let key = held.spec.as_ref().map(|spec| BindingKey::new(&place.namespace, &spec.nat_rule));
            let key = key.filter(|key| self.told.nat_rules.contains_key(key));
            let serial = key.as_ref().map_or(0, |key| told(What::Rules, key));
            objects.push(object(server, What::Rules, place, held, (key, serial)));
        }
        for (place, held) in &self.config.objects {
            objects.push(object(server, What::Config, place, held, (None, 0)));
        }
        for (place, held) in self.checks.objects.iter().filter(|(place, _)| self.is_named(place)) {
            objects.push(object(server, What::Checks, place, held, (None, 0)));
        }
        for (place, held) in &self.slices.table.objects {
            objects.push(object(server, What::Slices, place, held, (None, 0)));
        }
        View {
            directory: server.to_owned(),
            director: self.director.clone(),
            named: vec![self.director.clone()],
            in_force: self.in_force(),
            digest,
            lost: self.lost(),
            objects,
            bindings: self.told.bindings.clone(),
            remarks: self.remarks(),
            nat_rules: self.told.nat_rules.clone(),
            problems: self.problems(server),
            ..View::default()
        }
    }

    /// What is missing or left out of the endpoints of Services, by the binding that names them.
    fn remarks(&self) -> BTreeMap<BindingKey, String> {
        let endpoints = &self.slices.endpoints;
        let mut remarks: BTreeMap<_, _> =
            endpoints.remarks().map(|(key, remarks)| (key.clone(), remarks.join("; "))).collect();
        for service in self.slices.beyond() {
            for key in endpoints.followers(service) {
                let remark: &mut String = remarks.entry(key.clone()).or_default();
                let separator = if remark.is_empty() { "" } else { "; " };
                let _ = write!(remark, "{separator}Service {service} has more EndpointSlices than are read");
            }
        }
        remarks
    }

    /// SHA-256 over what was told.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |text: String| {
            hasher.update(text);
            hasher.update([0]);
        };
        // What is not written is not hashed: these types can always be.
        add(serde_json::to_string(&self.told).unwrap_or_default());
        for (key, check) in &self.told_checks {
            add(key.to_string());
            add(serde_json::to_string(&**check).unwrap_or_default());
        }
        hasher.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn object<S>(
    server: &str,
    what: What,
    place: &Place,
    held: &Held<S>,
    (key, told): (Option<BindingKey>, u64),
) -> ObjectView {
    let (binding, rule) = if what == What::Rules { (None, key) } else { (key, None) };
    ObjectView {
        object: reference(what, place).to_string(),
        file: server.to_owned(),
        line: 1,
        last_good: held.unusable.is_some() && held.spec.is_some(),
        binding,
        rule,
        ours: true,
        told,
        conditions: Vec::new(),
    }
}

/// An object as it is named everywhere.
pub(in crate::api) fn reference(what: What, place: &Place) -> ObjectRef {
    let kind: Kind = what.kind();
    let namespace = kind.is_namespaced().then_some(place.namespace.as_str());
    ObjectRef::new(kind, namespace, &place.name)
}
