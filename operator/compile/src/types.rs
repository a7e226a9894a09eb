//! What comes out of compiling.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bascule_crds::common::MAX_CONDITION_MESSAGE;
use bascule_crds::{DirectorConfigSpec, NatRuleBindingSpec, ObjectRef, VirtualServiceBindingSpec};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Names the VirtualService, or the NatRule, that a binding carries out; written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindingKey {
    /// The object's namespace.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl BindingKey {
    /// The key of the object of that namespace and name.
    pub fn new(namespace: &str, name: &str) -> BindingKey {
        BindingKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<BindingKey> for String {
    fn from(key: BindingKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for BindingKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<BindingKey, InvalidKey> {
        text.parse()
    }
}

/// A text that should have been `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct InvalidKey(String);

impl FromStr for BindingKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<BindingKey, InvalidKey> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(BindingKey::new(namespace, name))
            }
            _ => Err(InvalidKey(text.to_owned())),
        }
    }
}

/// Names a HealthCheck; written `namespace/name`. Bindings hold the name alone: it is of the VirtualService's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckKey {
    /// The HealthCheck's namespace.
    pub namespace: Arc<str>,
    /// The HealthCheck's name.
    pub name: Arc<str>,
}

impl CheckKey {
    /// The key of the HealthCheck of that namespace and name.
    pub fn new(namespace: &str, name: &str) -> CheckKey {
        CheckKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that one director has to do, leaving no choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The machine itself.
    pub director: DirectorConfigSpec,
    /// One entry a VirtualService that this director serves.
    #[serde(default, with = "shared")]
    pub bindings: BTreeMap<BindingKey, Arc<VirtualServiceBindingSpec>>,
    /// One entry a NatRule that this director carries out.
    #[serde(default, with = "shared", skip_serializing_if = "BTreeMap::is_empty")]
    pub nat_rules: BTreeMap<BindingKey, Arc<NatRuleBindingSpec>>,
}

impl NodeConfig {
    /// Of a director that has nothing to do for anybody yet.
    pub fn new(director: DirectorConfigSpec) -> NodeConfig {
        NodeConfig { director, bindings: BTreeMap::new(), nat_rules: BTreeMap::new() }
    }
}

/// Serde for shared bindings, each written as itself.
mod shared {
    use super::{Arc, BTreeMap, BindingKey, Deserialize};

    type Bindings<T> = BTreeMap<BindingKey, Arc<T>>;

    pub(super) fn serialize<T: serde::Serialize, S: serde::Serializer>(
        bindings: &Bindings<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(bindings.iter().map(|(key, spec)| (key, spec.as_ref())))
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bindings<T>, D::Error> {
        let bindings = BTreeMap::<BindingKey, T>::deserialize(deserializer)?;
        Ok(bindings.into_iter().map(|(key, spec)| (key, Arc::new(spec))).collect())
    }
}

/// What a set of manifests means: for the machines, and for those who wrote them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// By the director's name.
    pub nodes: BTreeMap<String, NodeConfig>,
    /// By object: `Accepted`, and for objects that name others `ResolvedRefs`.
    pub conditions: BTreeMap<ObjectRef, Vec<Condition>>,
    /// By the director's name; a machine that is in service and of which nothing is known is not in it.
    pub machines: BTreeMap<String, Machine>,
}

/// What a call of [`crate::Compiler::apply`] changed; the new state is in [`crate::Compiler::compiled`], and what is not there any
/// more has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// By the director's name.
    pub nodes: BTreeMap<String, NodeDelta>,
    /// The objects whose conditions changed.
    pub conditions: BTreeSet<ObjectRef>,
    /// The directors that went out of service or came back, or are in another failure domain ([`Compiled::machines`]).
    pub machines: BTreeSet<String>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.conditions.is_empty() && self.machines.is_empty()
    }
}

/// What changed on one director.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDelta {
    /// Its [`DirectorConfigSpec`] changed, or the node came or went.
    pub director: bool,
    /// The bindings that came, changed or went.
    pub bindings: BTreeSet<BindingKey>,
    /// The NatRules of which the binding came, changed or went.
    pub nat_rules: BTreeSet<BindingKey>,
}

/// The conditions that compiling decides; `Programmed` and `Ready` are the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ConditionType {
    /// The object is carried out as it is written, as far as the manifests alone can tell.
    Accepted,
    /// Everything that the object names exists.
    ResolvedRefs,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Reason {
    /// `Accepted` is true.
    Accepted,
    /// The object contradicts itself in a way that its schema cannot see.
    Invalid,
    /// The object uses a field whose behaviour does not exist in this version.
    Unsupported,
    /// The Director does not allow it (in a cluster).
    NotAllowed,
    /// Another object, which comes first, has the same: an address and port, a mark, a virtual router; or has left no room on a
    /// director.
    Conflicted,
    /// `ResolvedRefs` is true.
    ResolvedRefs,
    /// No such Director.
    DirectorNotFound,
    /// No such VrrpGroup.
    VrrpGroupNotFound,
    /// The VrrpGroup is there, and nothing of it is in force.
    VrrpGroupNotAccepted,
    /// The VrrpGroup does not have the address.
    AddressNotInGroup,
    /// No such HealthCheck.
    HealthCheckNotFound,
    /// The HealthCheck is there, and cannot be run for a real server that it should check, or for a group that tracks it.
    HealthCheckNotUsable,
    /// No such VirtualService, which a group tracks.
    VirtualServiceNotFound,
    /// The VirtualService is there, and not on every member of the group that tracks it.
    VirtualServiceNotUsable,
}

impl Reason {
    /// Whether it keeps nothing of the object from being in force: a check says nothing of a real server, or what a group tracks does
    /// not count as failing.
    pub fn leaves_in_force(self) -> bool {
        matches!(
            self,
            Reason::HealthCheckNotFound
                | Reason::HealthCheckNotUsable
                | Reason::VirtualServiceNotFound
                | Reason::VirtualServiceNotUsable
        )
    }
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of thing.
    pub reason: Reason,
    /// Where, as `spec.ports[0].targetPort`.
    pub field: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A condition of an object, without the time of its last change, which only the one who writes it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Which condition.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// True or false; compiling always knows.
    pub status: bool,
    /// The gravest of the problems' reasons.
    pub reason: Reason,
    /// For people; at most [`MAX_CONDITION_MESSAGE`] characters. What is fine needs no words: empty. Of what is true but not quite fine,
    /// the warnings.
    pub message: String,
    /// Where the first of the problems, or of the warnings, is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Every problem, the gravest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What is carried out as it is written and hardly what was meant. It does not make the condition false.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// Something that is carried out as it is written and hardly what was meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Where, as `spec.onePacket`.
    pub field: String,
    /// What will come of it, and what to do otherwise.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Condition {
    /// True without problems, else false with all of them.
    pub(crate) fn judge(type_: ConditionType, problems: Vec<Problem>) -> Condition {
        Condition::judge_with(type_, problems, Vec::new())
    }

    /// True without problems, whatever warnings there are. Who has problems has no time for warnings: they are told with true only.
    pub(crate) fn judge_with(
        type_: ConditionType,
        mut problems: Vec<Problem>,
        warnings: Vec<Warning>,
    ) -> Condition {
        problems.sort_by_key(|p| p.reason);
        let Some(first) = problems.first() else {
            let reason = match type_ {
                ConditionType::Accepted => Reason::Accepted,
                ConditionType::ResolvedRefs => Reason::ResolvedRefs,
            };
            let (message, field) = (join(&warnings), warnings.first().map(|warning| warning.field.clone()));
            return Condition { type_, status: true, reason, message, field, problems, warnings };
        };
        let (reason, field) = (first.reason, Some(first.field.clone()));
        let message = join(&problems);
        Condition { type_, status: false, reason, message, field, problems, warnings: Vec::new() }
    }

    /// Adds to the problems that the object's last good form is in force.
    pub(crate) fn add_last_good(&mut self) {
        self.message.push_str(LAST_GOOD_STAYS);
    }
}

/// What the condition of an object adds to its problems when its last good form is in force; at most [`REMARK`] characters.
const LAST_GOOD_STAYS: &str = "; its last good form stays in force";

/// Longest remark about all of an object's problems, in characters.
const REMARK: usize = 48;

/// As many of the problems as fit, and how many more there are.
fn join(problems: &[impl fmt::Display]) -> String {
    // Room for the remarks about the others, and about all of them.
    let room = MAX_CONDITION_MESSAGE - 32 - REMARK;
    let mut message = String::new();
    for (told, problem) in problems.iter().enumerate() {
        let separator = if told == 0 { "" } else { "; " };
        let text = format!("{separator}{problem}");
        if message.chars().count() + text.chars().count() > room {
            if told == 0 {
                message.extend(text.chars().take(room));
            }
            let more = problems.len() - told.max(1);
            if more > 0 {
                message.extend(["; and ", &more.to_string(), " more"]);
            }
            break;
        }
        message.push_str(&text);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_what_they_write() {
        let key = BindingKey::new("tp", "web");
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "web", "/web", "tp/", "a/b/c"] {
            assert!(bad.parse::<BindingKey>().is_err(), "{bad}");
        }
    }

    fn problem(reason: Reason, n: usize, length: usize) -> Problem {
        Problem { reason, field: format!("spec.f{n}"), message: "x".repeat(length) }
    }

    #[test]
    fn the_gravest_reason_comes_first() {
        let problems = vec![problem(Reason::Unsupported, 1, 1), problem(Reason::Invalid, 2, 1)];
        let condition = Condition::judge(ConditionType::Accepted, problems);
        assert_eq!((condition.status, condition.reason), (false, Reason::Invalid));
        assert_eq!(condition.field.as_deref(), Some("spec.f2"));
        assert_eq!(condition.message, "spec.f2: x; spec.f1: x");
        assert!(Condition::judge(ConditionType::ResolvedRefs, Vec::new()).status);
    }

    #[test]
    fn a_warning_is_told_and_refuses_nothing() {
        let warnings = || vec![Warning { field: "spec.f".into(), message: "hm".into() }];
        let condition = Condition::judge_with(ConditionType::Accepted, Vec::new(), warnings());
        assert_eq!((condition.status, condition.reason), (true, Reason::Accepted));
        assert_eq!((condition.message.as_str(), condition.field.as_deref()), ("spec.f: hm", Some("spec.f")));
        let problems = vec![problem(Reason::Invalid, 1, 1)];
        let condition = Condition::judge_with(ConditionType::Accepted, problems, warnings());
        assert_eq!((condition.status, condition.message.as_str()), (false, "spec.f1: x"));
        assert_eq!(condition.warnings, []);
    }

    #[test]
    fn messages_are_bounded_and_say_what_is_left_out() {
        for (count, length, end) in [(20, 100, "; and 12 more"), (1, 5000, "xx"), (3, 5000, "x; and 2 more")]
        {
            let problems = (0..count).map(|n| problem(Reason::Invalid, n, length)).collect();
            let condition = Condition::judge(ConditionType::Accepted, problems);
            assert!(condition.message.chars().count() <= MAX_CONDITION_MESSAGE);
            assert!(condition.message.ends_with(end), "{}", condition.message);
            assert_eq!(condition.problems.len(), count);
        }
    }
}
