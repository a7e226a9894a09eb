//! As much of an API server as the middle sees of it, and an operator's loop without waiting.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bascule_compile::Machine;
use bascule_crds::{DirectorConfig, Kind, NatRuleBinding, Object, VirtualServiceBinding, manifest, validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::core::{Core, Moment, Outcome, Task};
use crate::index::{Heard, Item, LeaseFacts, NodeFacts, Place, Source};
use crate::outbox::{End, Outbox};
use crate::plan::{Action, Part, Write};

/// A server, an operator, and a clock that moves when it is told to.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) outbox: Outbox<Task>,
    pub(super) objects: BTreeMap<(Kind, Place), Value>,
    /// Every write that was done, in short.
    pub(super) written: Vec<String>,
    /// Names of objects whose writes are refused.
    pub(super) refuse: Vec<String>,
    version: u64,
    begin: Instant,
    seconds: f64,
}

impl World {
    /// A server with these manifests, and an operator that has heard nothing.
    pub(super) fn new(manifests: &str) -> World {
        let mut world = World {
            core: Core::new(),
            outbox: Outbox::new(4),
            objects: BTreeMap::new(),
            written: Vec::new(),
            refuse: Vec::new(),
            version: 0,
            begin: Instant::now(),
            seconds: 0.0,
        };
        for document in manifest::parse(manifests).unwrap() {
            let object = validate::judge(&document.value).unwrap_or_else(|why| panic!("{why:?}"));
            let place = Place::from(&object.reference());
            world.store(object.kind(), place, document.value);
        }
        world
    }

    pub(super) fn now(&self) -> Moment {
        let after = Duration::from_secs_f64(self.seconds);
        let time = Timestamp::from_millisecond(1_700_000_000_000 + i64::try_from(after.as_millis()).unwrap())
            .unwrap();
        Moment::new(self.begin + after, Time(time))
    }

    /// Another operator, which knows nothing.
    pub(super) fn begin_anew(&mut self) {
        self.core = Core::new();
        self.outbox = Outbox::new(4);
        self.written.clear();
    }

    /// It hears of everything that there is, of all sources but these.
    pub(super) fn list(&mut self, but: &[Source]) {
        for source in Source::ALL.into_iter().filter(|source| !but.contains(source)) {
            self.hear(Heard::Listing(source));
            let all: Vec<_> = self
                .objects
                .iter()
                .filter(|((kind, _), _)| Some(*kind) == source.kind())
                .map(|((kind, place), value)| there(*kind, place.clone(), value))
                .collect();
            for one in all {
                self.hear(one);
            }
            self.hear(Heard::Listed(source));
        }
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        let now = self.now();
        self.core.take_in(heard, &now);
    }

    /// A user, or an agent, changes something.
    pub(super) fn change(&mut self, kind: Kind, place: &Place, change: impl FnOnce(&mut Value)) {
        let mut object = self.objects[&(kind, place.clone())].clone();
        change(&mut object);
        self.store(kind, place.clone(), object);
        let heard = there(kind, place.clone(), &self.objects[&(kind, place.clone())]);
        self.hear(heard);
    }

    pub(super) fn create(&mut self, manifest: &str) {
        let value = manifest::parse(manifest).unwrap().remove(0).value;
        let object = validate::judge(&value).unwrap();
        let (kind, place) = (object.kind(), Place::from(&object.reference()));
        self.store(kind, place.clone(), value);
        let heard = there(kind, place.clone(), &self.objects[&(kind, place)]);
        self.hear(heard);
    }

    pub(super) fn delete(&mut self, kind: Kind, place: &Place) {
        self.objects.remove(&(kind, place.clone())).expect("it is there");
        self.version += 1;
        self.hear(Heard::Gone(Source::of(kind).unwrap(), place.clone(), Some(self.version)));
    }

    /// A director's agent renews its Lease.
    pub(super) fn live(&mut self, director: &str) {
        let renewed = Some(self.now().time);
        let facts = LeaseFacts { namespace: "bascule".into(), holder: director.into(), renewed };
        let place = Place { namespace: "bascule".into(), name: crate::names::director_lease(director) };
        self.hear(Heard::There(Source::Lease, place, None, Box::new(Item::Lease(facts))));
    }

    pub(super) fn node(&mut self, name: &str, director: bool) {
        self.machine(name, director, Machine::default());
    }

    /// A Node says that of its machine.
    pub(super) fn machine(&mut self, name: &str, director: bool, machine: Machine) {
        let item = Item::Node(NodeFacts { director, machine });
        self.hear(Heard::There(Source::Node, Place::cluster(name), None, Box::new(item)));
    }

    /// Its agent says of every binding and of the machine itself that all is well.
    pub(super) fn report(&mut self, director: &str) {
        let mine: Vec<(Kind, Place)> = self
            .objects
            .iter()
            .filter(|((kind, _), value)| {
                matches!(kind, Kind::VirtualServiceBinding | Kind::NatRuleBinding | Kind::DirectorConfig)
                    && value["spec"]["director"] == director
            })
            .map(|(key, _)| key.clone())
            .collect();
        for (kind, place) in mine {
            self.change(kind, &place, |object| {
                let condition = |type_: &str| {
                    json!({"type": type_, "status": "True", "reason": type_, "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"})
                };
                let mut status = json!({
                    "observedGeneration": object["metadata"]["generation"],
                    "conditions": [condition("Programmed"), condition("Ready")],
                });
                if kind == Kind::VirtualServiceBinding {
                    let total = object["spec"]["realServers"].as_array().map_or(0, Vec::len);
                    status["realServersUp"] = json!(total);
                    status["realServersTotal"] = json!(total);
                }
                object["status"] = status;
            });
        }
    }

    /// Does what is to be done now, and says what was written.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let before = self.written.len();
        for _ in 0..10_000 {
            let now = self.now();
            for offer in self.core.settle(&now) {
                self.outbox.offer(offer.task, offer.at, offer.fresh, now.instant);
            }
            let Some(task) = self.outbox.begin(now.instant) else { return self.written[before..].to_vec() };
            let Some(planned) = self.core.plan(&task, &now) else {
                self.outbox.end(&task, End::Nothing, now.instant, 0.5);
                continue;
            };
            let (outcome, end) = self.perform(&planned.write);
            self.outbox.end(&task, end, now.instant, 0.5);
            self.core.conclude(&task, outcome, &now);
        }
        panic!("it writes without end: {:?}", &self.written[self.written.len() - 20..]);
    }

    /// Time passes, and what becomes due is done.
    pub(super) fn pass(&mut self, seconds: f64) -> Vec<String> {
        let before = self.written.len();
        let end = self.seconds + seconds;
        while self.seconds < end {
            self.settle();
            self.seconds = (self.seconds + 0.05).min(end);
        }
        self.settle();
        self.written[before..].to_vec()
    }

    fn perform(&mut self, write: &Write) -> (Outcome, End) {
        let Write { target, action } = write;
        let (kind, place) = (target.kind, target.place.clone());
        if self.refuse.contains(&place.name) {
            return (Outcome::Refused("nobody wants it".into()), End::Refused);
        }
        let key = (kind, place.clone());
        let there_now = self.objects.get(&key).cloned();
        let (verb, object) = match action {
            Action::Apply(body) => {
                let version = &body["metadata"]["resourceVersion"];
                let known = there_now.as_ref().map(|object| &object["metadata"]["resourceVersion"]);
                if !version.is_null() && Some(version) != known {
                    return (Outcome::Failed, End::Conflict);
                }
                let mut object = there_now.clone().unwrap_or_else(|| json!({"metadata": {}}));
                match target.part {
                    Part::Spec => {
                        for (key, value) in body["metadata"].as_object().unwrap() {
                            object["metadata"][key] = value.clone();
                        }
                        // An apply leaves what others own.
                        merge(&mut object["spec"], &body["spec"]);
                    }
                    Part::Status => {
                        assert!(there_now.is_some(), "the status of what is not there: {key:?}");
                        object["status"] = body["status"].clone();
                    }
                }
                object["apiVersion"] = body["apiVersion"].clone();
                object["kind"] = body["kind"].clone();
                (if target.part == Part::Status { "status" } else { "apply" }, Some(object))
            }
            Action::Strip { version, pointers } => {
                let mut object = there_now.clone().expect("it is there");
                if object["metadata"]["resourceVersion"] != **version {
                    return (Outcome::Failed, End::Conflict);
                }
                for pointer in pointers {
                    remove(&mut object, pointer);
                }
                ("strip", Some(object))
            }
            Action::Delete { uid, .. } => {
                if there_now.is_some_and(|object| object["metadata"]["uid"] == json!(uid)) {
                    self.objects.remove(&key);
                    self.version += 1;
                }
                ("delete", None)
            }
        };
        self.written.push(format!("{verb} {kind} {}", place.name));
        let source = Source::of(kind).unwrap();
        let heard = match object {
            Some(object) => {
                self.store(kind, place.clone(), object);
                let Heard::There(source, place, version, item) = there(kind, place, &self.objects[&key])
                else {
                    unreachable!()
                };
                Heard::Written(source, place, version, item)
            }
            None => {
                let Action::Delete { uid, .. } = action else { unreachable!() };
                Heard::Deleted(source, place, uid.clone())
            }
        };
        (Outcome::Done(heard), End::Done)
    }

    fn store(&mut self, kind: Kind, place: Place, mut object: Value) {
        self.version += 1;
        let key = (kind, place);
        let before = self.objects.get(&key);
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.version));
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let generation = before.map_or(0, |before| before["metadata"]["generation"].as_i64().unwrap());
        let changed = before.is_none_or(|before| before["spec"] != object["spec"]);
        object["metadata"]["generation"] = json!(generation + i64::from(changed));
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key, object);
    }

    /// The status of an object.
    pub(super) fn status(&self, kind: Kind, place: &Place) -> &Value {
        &self.objects[&(kind, place.clone())]["status"]
    }

    /// A condition: its status and reason.
    pub(super) fn condition(&self, kind: Kind, place: &Place, type_: &str) -> (String, String) {
        let conditions = self.status(kind, place)["conditions"].as_array().cloned().unwrap_or_default();
        let one = conditions.into_iter().find(|one| one["type"] == type_).unwrap_or_default();
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// The names of the objects of a kind.
    pub(super) fn names(&self, kind: Kind) -> Vec<&str> {
        self.objects.keys().filter(|(of, _)| *of == kind).map(|(_, place)| place.name.as_str()).collect()
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn remove(object: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.remove(last).unwrap()),
        Value::Array(list) => drop(list.remove(last.parse().unwrap())),
        other => panic!("{other} has no {last}"),
    }
}

pub(super) fn there(kind: Kind, place: Place, value: &Value) -> Heard {
    macro_rules! user {
        ($kind:ident) => {
            Item::User(Object::$kind(Box::new(serde_json::from_value(value.clone()).unwrap())))
        };
    }
    let item = match kind {
        Kind::VirtualService => user!(VirtualService),
        Kind::HealthCheck => user!(HealthCheck),
        Kind::VrrpGroup => user!(VrrpGroup),
        Kind::NatRule => user!(NatRule),
        Kind::Director => user!(Director),
        Kind::VirtualServiceBinding => {
            let binding: VirtualServiceBinding = serde_json::from_value(value.clone()).unwrap();
            Item::Binding(binding.into())
        }
        Kind::NatRuleBinding => {
            let binding: NatRuleBinding = serde_json::from_value(value.clone()).unwrap();
            Item::Binding(binding.into())
        }
        _ => {
            let config: DirectorConfig = serde_json::from_value(value.clone()).unwrap();
            Item::Config(Box::new(config))
        }
    };
    let version = value["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
    Heard::There(Source::of(kind).unwrap(), place, version, Box::new(item))
}
