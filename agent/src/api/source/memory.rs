//! The last good configuration of the API: what was told, object by object.

use std::collections::BTreeMap;
use std::sync::Arc;

use bascule_compile::CheckKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Source;
use crate::api::heard::{self, Place, Spec, What};
use crate::state::Saved;

/// What the keys of its objects begin with. Those of a directory's begin with a kind.
const PREFIX: &str = "api ";

/// The key of an object in the last good configuration.
pub fn key(what: What, place: &Place) -> String {
    format!("{PREFIX}{what} {place}")
}

/// Whether a key of the last good configuration is one of the API's.
pub fn is_ours(key: &str) -> bool {
    key.starts_with(PREFIX)
}

#[derive(Serialize, Deserialize)]
struct Kept {
    namespace: String,
    name: String,
    spec: Value,
}

impl Source {
    /// Goes on with the last good configuration. Returns what cannot be used, for people.
    pub fn remember(&mut self, objects: &BTreeMap<String, Saved>) -> Vec<String> {
        let mut notes = Vec::new();
        for (key, saved) in objects.iter().filter(|(key, _)| is_ours(key)) {
            if !self.remember_one(key, &saved.json) {
                notes.push(format!(
                    "{key} of the last good configuration is not understood by this version: left out"
                ));
            }
        }
        notes
    }

    fn remember_one(&mut self, key: &str, json: &str) -> bool {
        let what = What::ALL
            .into_iter()
            .find(|what| key.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with(&format!("{what} "))));
        let Some((what, Ok(Kept { namespace, name, spec }))) =
            what.map(|what| (what, serde_json::from_str(json)))
        else {
            return false;
        };
        let place = Place { namespace, name };
        match heard::spec(what, &self.director, spec) {
            Ok(Spec::Binding(spec)) => {
                self.bindings.remember(place.clone(), spec);
                self.mark_binding(&place);
            }
            Ok(Spec::Rule(spec)) => {
                self.rules.remember(place.clone(), spec);
                self.mark_rule(&place);
            }
            Ok(Spec::Config(spec)) => {
                self.config.remember(place, spec);
                self.dirty_config = true;
            }
            Ok(Spec::Check(spec)) => {
                self.dirty_checks.insert(CheckKey::new(&place.namespace, &place.name));
                self.checks.remember(place, spec);
            }
            Ok(Spec::Slice(slice)) => self.slices.remember(place, slice),
            Err(_) => return false,
        }
        true
    }

    /// What is to be kept of what changed. Of HealthChecks those that are named.
    pub(super) fn save(&mut self) -> Vec<(String, Option<Saved>)> {
        let unsaved = std::mem::take(&mut self.unsaved);
        unsaved.into_iter().map(|(what, place)| (key(what, &place), self.saved(what, &place))).collect()
    }

    fn saved(&self, what: What, place: &Place) -> Option<Saved> {
        let spec = match what {
            What::Bindings => serde_json::to_value(&**self.bindings.objects.get(place)?.spec.as_ref()?),
            What::Rules => serde_json::to_value(&**self.rules.objects.get(place)?.spec.as_ref()?),
            What::Config => serde_json::to_value(&**self.config.objects.get(place)?.spec.as_ref()?),
            What::Slices => serde_json::to_value(&**self.slices.table.objects.get(place)?.spec.as_ref()?),
            What::Checks => {
                let key = CheckKey::new(&place.namespace, &place.name);
                serde_json::to_value(&**self.told_checks.get(&key)?)
            }
        };
        let kept = Kept { namespace: place.namespace.clone(), name: place.name.clone(), spec: spec.ok()? };
        let json: Arc<str> = serde_json::to_string(&kept).ok()?.into();
        Some(Saved { file: "api".into(), line: 1, source: 0, json })
    }
}
