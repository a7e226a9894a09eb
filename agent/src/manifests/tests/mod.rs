//! The engine on manifests as people write them.

mod endpoints;
mod worker;

use std::collections::BTreeMap;
use std::time::Instant;

use super::catalog::{Known, SETTLE};
use super::engine::{Aftermath, Engine, Locate};
use super::examine::{decode, examine};
use super::{FileName, Problem};
use crate::reconcile::ConfigChange;
use crate::state::Saved;
use bascule_compile::BindingKey;
use bascule_crds::{Kind, ObjectRef};

pub(super) fn web(name: &str, address: &str, weight: u32) -> String {
    format!(
        "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {{name: {name}, namespace: tp}}
spec:
  director: {{name: dir1}}
  addresses: [{address}]
  ports: [{{port: 80, protocol: TCP}}]
  realServers:
    - {{name: srv1, address: 172.16.193.10, weight: {weight}}}
"
    )
}

struct Lines;

impl Locate for Lines {
    fn line(&self, _: &str, _: &ObjectRef, field: &str) -> Option<usize> {
        (field == "spec.addresses[0]").then_some(6)
    }
}

struct Bench {
    engine: Engine,
    last: Aftermath,
}

impl Bench {
    fn new() -> Self {
        Self { engine: Engine::new("m", "dir1", []), last: Aftermath::default() }
    }

    /// Reads files; returns the bindings that changed, as `tp/web` or `-tp/web`.
    fn read(&mut self, files: &[(&str, &str)]) -> Vec<String> {
        for (name, text) in files {
            let name: FileName = (*name).into();
            let examined = examine(&format!("m/{name}"), text.as_bytes(), &self.engine.catalog.known(&name));
            self.engine.catalog.read(Instant::now(), &name, examined);
        }
        self.step()
    }

    fn step(&mut self) -> Vec<String> {
        let step = self.engine.step();
        self.last = self.engine.follow_up(&step, &Lines);
        match step.config {
            Some(ConfigChange::Some { bindings, .. }) => bindings
                .iter()
                .map(|(key, binding)| format!("{}{key}", if binding.is_some() { "" } else { "-" }))
                .collect(),
            Some(ConfigChange::All(_)) => panic!("only changes are told here"),
            None => Vec::new(),
        }
    }

    fn weight(&self, name: &str) -> Option<u32> {
        let config = self.engine.config()?;
        Some(config.bindings.get(&BindingKey::new("tp", name))?.real_servers[0].weight)
    }

    fn problems(&self) -> Vec<String> {
        self.engine.problems().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_change_of_one_object_is_a_change_of_one_binding() {
    let mut bench = Bench::new();
    let (a, b) = (web("a", "10.0.0.1", 1), web("b", "10.0.0.2", 1));
    assert_eq!(bench.read(&[("a", &a), ("b", &b)]), ["tp/a", "tp/b"]);
    assert_eq!(bench.read(&[("a", &a)]), [""; 0]);
    assert_eq!(bench.read(&[("a", &web("a", "10.0.0.1", 2))]), ["tp/a"]);
    assert_eq!(bench.weight("a"), Some(2));
    let both = format!("{}---\n{b}", web("a", "10.0.0.1", 3));
    assert_eq!(bench.read(&[("b", "# moved\n"), ("a", &both)]), ["tp/a"]);
    assert_eq!(
        bench.read(&[("a", "kind: x\n---\n")]),
        [""; 0],
        "a nameless document freezes what it may have been"
    );
    assert_eq!(bench.problems().len(), 1, "{:?}", bench.problems());
}

#[test]
fn what_was_examined_before_is_not_examined_again() {
    let text = format!("{}---\n{}", web("a", "10.0.0.1", 1), web("b", "10.0.0.2", 1));
    let mut bench = Bench::new();
    bench.read(&[("f", &text)]);
    let known = bench.engine.catalog.known("f");
    assert_eq!((known.documents.len(), known.objects.len()), (2, 2));
    let changed = text.replace("10.0.0.2", "10.0.0.3");
    let super::catalog::Examined::Parsed { documents, .. } = examine("m/f", changed.as_bytes(), &known)
    else {
        panic!("it can be parsed")
    };
    let judged: Vec<_> = documents
        .iter()
        .map(|document| matches!(&document.form, super::catalog::Form::Good { object: Some(_), .. }))
        .collect();
    assert_eq!(judged, [false, true]);
    assert_eq!(bench.read(&[("f", &changed)]), ["tp/b"]);
}

#[test]
fn a_form_that_collides_waits_while_the_last_good_one_stays() {
    let mut bench = Bench::new();
    bench.read(&[("a", &web("a", "10.0.0.1", 1)), ("b", &web("b", "10.0.0.2", 1))]);
    assert_eq!(bench.problems(), [""; 0]);

    bench.read(&[("b", &web("b", "10.0.0.1", 7))]);
    assert_eq!(bench.weight("b"), Some(1), "its last good form");
    assert_eq!(bench.weight("a"), Some(1));
    let problems = bench.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("m/b:"), "{problems:?}");
    assert!(
        problems[0].ends_with("(VirtualService tp/b; its last good form stays in force)"),
        "{problems:?}"
    );
    let kept = &bench.last.saved[0];
    assert!(kept.1.as_ref().unwrap().json.contains("10.0.0.2"), "the disk keeps what is in force: {kept:?}");

    // The other one leaves the place.
    let changed = bench.read(&[("a", &web("a", "10.0.0.9", 1))]);
    assert_eq!(changed, ["tp/a", "tp/b"]);
    assert_eq!(bench.weight("b"), Some(7));
    assert_eq!(bench.problems(), [""; 0]);
}

#[test]
fn of_two_that_want_one_address_the_one_in_force_has_it() {
    let mut bench = Bench::new();
    bench.read(&[("b", &web("b", "10.0.0.1", 1))]);
    assert_eq!(bench.read(&[("a", &web("a", "10.0.0.1", 2))]), [""; 0]);
    assert_eq!((bench.weight("a"), bench.weight("b")), (None, Some(1)));
    let problems = bench.problems();
    assert!(problems[0].starts_with("m/a:"), "{problems:?}");
    assert!(problems[0].ends_with("(VirtualService tp/a)"), "{problems:?}");
    let vanish = Instant::now();
    bench.engine.catalog.vanished(vanish, "b");
    bench.engine.catalog.expire(vanish + SETTLE);
    assert_eq!(bench.step(), ["tp/a", "-tp/b"]);
    assert_eq!(bench.problems(), [""; 0]);
    let saved = |bench: &Bench| -> BTreeMap<String, bool> {
        bench.last.saved.iter().map(|(key, saved)| (key.clone(), saved.is_some())).collect()
    };
    assert_eq!(
        saved(&bench),
        [("VirtualService tp/a".to_owned(), true), ("VirtualService tp/b".to_owned(), false)].into(),
        "who got its place by another one's going is kept, too"
    );
    // And has a last good form at its next collision.
    bench.read(&[("c", &web("c", "10.0.0.3", 1))]);
    bench.read(&[("a", &web("a", "10.0.0.3", 2))]);
    assert_eq!((bench.weight("a"), bench.weight("c")), (Some(2), Some(1)));
}

#[test]
fn a_last_good_form_is_lost_to_nobody_and_not_forgotten_when_its_file_moves() {
    let mut bench = Bench::new();
    bench.read(&[
        ("a", &web("a", "10.0.0.1", 1)),
        ("b", &web("b", "10.0.0.1", 5)),
        ("c", &web("c", "10.0.0.2", 1)),
    ]);
    assert_eq!(bench.read(&[("a", &web("a", "10.0.0.2", 7))]), [""; 0]);
    assert_eq!((bench.weight("a"), bench.weight("b"), bench.weight("c")), (Some(1), None, Some(1)));
    // Its file gets another name.
    assert_eq!(bench.read(&[("a", "# moved\n"), ("z", &web("a", "10.0.0.2", 7))]), [""; 0]);
    let told = bench.problems();
    assert!(told.iter().any(|one| one.starts_with("m/z") && one.ends_with("stays in force)")), "{told:?}");
    // When its place gets free it is tried again, and the one who waits gets the former place.
    let vanish = Instant::now();
    bench.engine.catalog.vanished(vanish, "c");
    bench.engine.catalog.expire(vanish + SETTLE);
    assert_eq!(bench.step(), ["tp/a", "tp/b", "-tp/c"]);
    assert_eq!((bench.weight("a"), bench.weight("b")), (Some(7), Some(5)));
}

#[test]
fn a_director_is_in_force_with_all_its_fields() {
    let director = "apiVersion: bascule.dev/v1alpha1\nkind: Director\nmetadata: {name: dir1}\nspec:\n  \
                    sysctls: Report\n  interfaceAliases: {outside: enp0s3}\n  failureDomain: rack1\n  \
                    maintenance: {enabled: true, drainTimeout: 5m}\n";
    let mut bench = Bench::new();
    let service = web("a", "10.0.0.1", 1).replace("{name: dir1}", "{name: dir1, interface: outside}");
    bench.read(&[("dir1", director), ("a", &service)]);
    let config = bench.engine.config().unwrap();
    assert_eq!(config.director.sysctls, bascule_crds::director::Sysctls::Report);
    let binding = &config.bindings[&BindingKey::new("tp", "a")];
    assert_eq!(binding.interface.as_deref(), Some("enp0s3"));
    assert_eq!(config.director.failure_domain.as_deref(), Some("rack1"));
    assert!(config.director.maintenance.is_some_and(|maintenance| maintenance.enabled));
    assert_eq!(bench.problems(), Vec::<String>::new());
}

fn check(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: bascule.dev/v1alpha1\nkind: HealthCheck\nmetadata: {{name: {name}, namespace: tp}}\nspec: {spec}\n"
    )
}

/// The checks that a step changed, as `tp/up` or `-tp/up`.
fn checks_of(bench: &mut Bench, files: &[(&str, &str)]) -> Vec<String> {
    for (name, text) in files {
        let name: FileName = (*name).into();
        let examined = examine(&format!("m/{name}"), text.as_bytes(), &bench.engine.catalog.known(&name));
        bench.engine.catalog.read(Instant::now(), &name, examined);
    }
    let step = bench.engine.step();
    assert!(step.config.is_none(), "bindings name checks, and nothing more: {:?}", step.config);
    bench.last = bench.engine.follow_up(&step, &Lines);
    let word = |spec: bool| if spec { "" } else { "-" };
    step.checks.iter().map(|(key, spec)| format!("{}{key}", word(spec.is_some()))).collect()
}

#[test]
fn checks_are_handed_on_when_what_they_say_changed() {
    let mut bench = Bench::new();
    let service = web("a", "10.0.0.1", 1).replace("  ports:", "  healthChecks: [up]\n  ports:");
    assert_eq!(bench.read(&[("a", &service)]), ["tp/a"], "it is served all the same");
    let problems = bench.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("there is no HealthCheck up in namespace tp"), "{problems:?}");
    assert!(problems[0].ends_with("(VirtualService tp/a; its other fields are in force)"), "{problems:?}");

    let key = bascule_compile::CheckKey::new("tp", "up");
    let reference = ObjectRef::new(Kind::HealthCheck, Some("tp"), "up");
    assert_eq!(checks_of(&mut bench, &[("c", &check("up", "{tcp: {}}"))]), ["tp/up"]);
    assert_eq!(bench.problems(), [""; 0]);
    assert!(bench.engine.is_ours(&reference));
    let labelled = check("up", "{tcp: {}}").replace("{name", "{labels: {a: b}, name");
    assert_eq!(checks_of(&mut bench, &[("c", &labelled)]), [""; 0], "a label is no reason to probe anew");
    assert_eq!(checks_of(&mut bench, &[("c", &check("up", "{tcp: {}, fall: 7}"))]), ["tp/up"]);
    assert_eq!(bench.engine.checks()[&key].fall, 7);

    // It turns invalid: what it was stays, also over a restart.
    let bad = check("up", "{fall: 9, http: {body: {matches: \"(\"}}}");
    assert_eq!(checks_of(&mut bench, &[("c", &bad)]), [""; 0]);
    assert_eq!(bench.engine.checks()[&key].fall, 7);
    let problems = bench.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("spec.http.body.matches: is not a regular expression"), "{problems:?}");
    assert!(problems[0].ends_with("(HealthCheck tp/up; its last good form stays in force)"), "{problems:?}");

    let vanish = Instant::now();
    bench.engine.catalog.vanished(vanish, "c");
    bench.engine.catalog.expire(vanish + SETTLE);
    assert_eq!(checks_of(&mut bench, &[]), ["-tp/up"]);
    assert!(bench.engine.checks().is_empty());
    assert_eq!(bench.problems().len(), 1, "the service misses it again");
}

#[test]
fn checks_are_of_the_last_good_configuration() {
    let mut bench = Bench::new();
    checks_of(&mut bench, &[("c", &check("up", "{tcp: {}, fall: 7}"))]);
    let saved: BTreeMap<_, _> =
        bench.last.saved.drain(..).filter_map(|(key, saved)| Some((key, saved?))).collect();
    assert_eq!(saved.keys().collect::<Vec<_>>(), ["HealthCheck tp/up"]);
    let mut next = Bench::new();
    assert_eq!(next.engine.remember(saved), [""; 0]);
    assert_eq!(next.engine.checks()[&bascule_compile::CheckKey::new("tp", "up")].fall, 7);
    assert_eq!(checks_of(&mut next, &[("c", "{")]), [""; 0], "unreadable, it stays");
    assert_eq!(next.engine.checks().len(), 1);
}

#[test]
fn the_last_good_configuration_goes_on_and_keeps_its_places() {
    let mut bench = Bench::new();
    bench.read(&[("b", &web("b", "10.0.0.1", 1)), ("c", &web("c", "10.0.0.3", 1))]);
    let saved: BTreeMap<_, _> =
        bench.last.saved.drain(..).filter_map(|(key, saved)| Some((key, saved?))).collect();
    assert_eq!(saved.len(), 2);

    let mut next = Bench::new();
    let odd = Saved { file: "x".into(), line: 1, source: 0, json: "{}".into() };
    let with_odd = saved.into_iter().chain([("VirtualService tp/odd".to_owned(), odd)]).collect();
    let notes = next.engine.remember(with_odd);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("VirtualService tp/odd of the last good configuration is not understood"));
    assert_eq!((next.weight("b"), next.weight("c")), (Some(1), Some(1)));
    // A newcomer whose name comes first does not take b's place; c is unreadable and stays.
    next.read(&[("a", &web("a", "10.0.0.1", 9)), ("b", &web("b", "10.0.0.1", 1)), ("c", "{")]);
    assert_eq!((next.weight("a"), next.weight("b"), next.weight("c")), (None, Some(1), Some(1)));
    assert_eq!(next.engine.catalog.last_good().count(), 1);
}

#[test]
fn canonical_text_is_read_back() {
    let mut bench = Bench::new();
    let text = format!(
        "{}---\napiVersion: bascule.dev/v1alpha1\nkind: Director\nmetadata: {{name: dir1}}\nspec: {{}}\n---\n\
         {}",
        web("a", "10.0.0.1", 1),
        web("b", "10.0.0.2", 1).replace("namespace: tp", "namespace: \"\"")
    );
    bench.read(&[("f", &text)]);
    assert_eq!(bench.problems(), [""; 0]);
    let active: Vec<_> =
        bench.engine.catalog.active().map(|(reference, active)| (reference, &active.json)).collect();
    assert_eq!(active.len(), 3);
    for (reference, json) in active {
        let object = decode(json).unwrap_or_else(|| panic!("{json}"));
        assert_eq!(&object.reference(), reference);
        let again = bascule_crds::validate::judge_beside(serde_json::from_str(json).unwrap(), None).unwrap();
        assert_eq!(again.value.to_string(), **json, "judged again it stays as it is");
    }
}

/// An empty namespace is none, as the API server has it: the two are one object, and the second is told.
#[test]
fn an_empty_namespace_is_the_default_one() {
    let mut bench = Bench::new();
    let empty = web("a", "10.0.0.1", 1).replace("namespace: tp", "namespace: \"\"");
    let default = web("a", "10.0.0.1", 2).replace("namespace: tp", "namespace: default");
    bench.read(&[("f", &empty), ("g", &default)]);
    let active: Vec<_> = bench.engine.catalog.active().map(|(reference, _)| reference.to_string()).collect();
    assert_eq!(active, ["VirtualService default/a"]);
    assert_eq!(bench.problems().len(), 1, "{:?}", bench.problems());
}

#[test]
fn bad_input_is_told_with_line_and_field() {
    let good = web("a", "10.0.0.1", 1);
    let table: [(&str, String, usize, Option<&str>, &str); 10] = [
        ("unknown field", good.replace("realServers", "servers"), 8, Some("spec.servers"), "unknown field"),
        ("wrong type", good.replace("port: 80", "port: http"), 7, Some("spec.ports[0].port"), ""),
        (
            "weight out of range",
            good.replace("weight: 1", "weight: 65536"),
            9,
            Some("spec.realServers[0].weight"),
            "65535",
        ),
        ("port 0 without persistence", good.replace("port: 80", "port: 0"), 7, None, "persistence"),
        (
            "family without server",
            good.replace("[10.0.0.1]", "[\"2001:db8::1\"]"),
            8,
            Some("spec.realServers"),
            "",
        ),
        ("duplicate key", good.replace("spec:\n", "spec:\n  addresses: []\n"), 7, None, "duplicate"),
        ("not a mapping", "- a\n- b\n".into(), 1, None, ""),
        (
            "no kind of ours",
            good.replace("VirtualService", "VirtualServce"),
            2,
            Some("kind"),
            "VirtualServce",
        ),
        ("no name", good.replace("name: a, ", ""), 3, None, ""),
        (
            "unsupported",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {name: a, labels: {kubernetes.io/service-name: web}}\naddressType: FQDN\nendpoints: []\n"
                .into(),
            4,
            Some("addressType"),
            "not supported",
        ),
    ];
    for (what, text, line, field, part) in table {
        let problems: Vec<Problem> = match examine("m/f", text.as_bytes(), &Known::default()) {
            super::catalog::Examined::Failed(problem) => vec![problem],
            super::catalog::Examined::Parsed { documents, nameless } => documents
                .into_iter()
                .flat_map(|document| match document.form {
                    super::catalog::Form::Bad(problems) => problems,
                    super::catalog::Form::Good { .. } => Vec::new(),
                })
                .chain(nameless)
                .collect(),
        };
        let is = |problem: &Problem| {
            problem.line == Some(line)
                && field.is_none_or(|field| problem.field.as_deref() == Some(field))
                && problem.message.to_lowercase().contains(&part.to_lowercase())
        };
        assert!(problems.iter().any(is), "{what}: {problems:#?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_line() {
    for (bytes, line, part) in [
        (&b"a: 1\nb: \xff\n"[..], 2, "0xff"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00", 1, "NUL"),
        (b"a: [1\n", 2, ""),
        (b"a: &x [*x]\n", 1, ""),
    ] {
        match examine("m/f", bytes, &Known::default()) {
            super::catalog::Examined::Failed(problem) => {
                assert_eq!(problem.file, "m/f");
                assert!(problem.line.is_some_and(|at| at <= line), "{problem}");
                assert!(problem.message.contains(part), "{problem}");
            }
            super::catalog::Examined::Parsed { documents, nameless } => {
                assert!(documents.is_empty() && !nameless.is_empty(), "{documents:?}");
            }
        }
    }
}

#[test]
fn references_are_as_the_crate_has_them() {
    let text = web("a", "10.0.0.1", 1).replace(", namespace: tp", "");
    let mut bench = Bench::new();
    bench.read(&[("a", &text)]);
    let (reference, _) = bench.engine.catalog.active().next().unwrap();
    assert_eq!(*reference, ObjectRef::new(Kind::VirtualService, Some("default"), "a"));
}
