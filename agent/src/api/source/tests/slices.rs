//! Slices, told in any order, of Services that are named before or after.

use super::*;
use crate::endpoints::{Endpoint, Life, Port, Service, Slice};

fn service(name: &str) -> Service {
    Service { namespace: "tp".into(), name: name.into() }
}

fn named(name: &str, service: &str) -> Heard {
    let raw = json!({
        "virtualService": name, "director": DIRECTOR, "addresses": ["192.16.193.30"],
        "ports": [{"protocol": "TCP", "port": 80}], "scheduler": {"name": "wrr"}, "sourceNat": "Always",
        "realServersFrom": {"service": service, "forwarding": {"method": "Masquerade"}, "targetPorts": ["http"],
            "healthChecks": ["answers"]},
    });
    item(What::Bindings, place("tp", &format!("{name}-hash")), raw)
}

fn read(service: &str, name: &str, last: u8) -> Item {
    let endpoint = Endpoint {
        address: [10, 0, 0, last].into(),
        life: Life::Serves,
        pod: None,
        zones: vec![],
        nodes: vec![],
    };
    let port = Port { name: "http".into(), protocol: bascule_crds::common::Protocol::Tcp, number: 8080 };
    let slice = Slice { service: service.into(), endpoints: vec![endpoint], ports: vec![port] };
    Item {
        place: place("tp", name),
        generation: Some(1),
        spec: Ok(Spec::Slice(Arc::new(slice))),
        status: Value::Null,
    }
}

fn slice(service: &str, name: &str, last: u8) -> Heard {
    Heard::There(What::Slices, Box::new(read(service, name, last)))
}

fn list_slices(source: &mut Source, asked: &[&str], slices: impl IntoIterator<Item = Heard>) {
    source.hear(Heard::Listing(What::Slices));
    source.hear(Heard::Asked(asked.iter().map(|name| service(name)).collect()));
    slices.into_iter().for_each(|one| source.hear(one));
    source.hear(Heard::Listed(What::Slices));
}

/// Last octets of the real servers of a service, as told; none where it is not told.
fn told(source: &Source, name: &str) -> Option<Vec<u8>> {
    let binding = source.told().0.bindings.get(&BindingKey::new("tp", name))?;
    let last = |address| match address {
        std::net::IpAddr::V4(address) => std::net::Ipv4Addr::octets(&address)[3],
        std::net::IpAddr::V6(_) => unreachable!(),
    };
    Some(binding.real_servers.iter().map(|one| last(one.address)).collect())
}

/// With a service `web` of Service web, which has a slice.
fn with_web() -> Source {
    let mut source = Source::new(DIRECTOR);
    list(&mut source, What::Checks, [check("answers")]);
    list(&mut source, What::Config, [config()]);
    list(&mut source, What::Rules, []);
    list(&mut source, What::Bindings, [named("web", "web")]);
    assert!(source.step().is_empty(), "its endpoints are not known");
    assert_eq!(source.lost().as_deref(), Some("not listed yet: EndpointSlice"));
    assert_eq!(source.services(), Some([service("web")].into()));
    assert_eq!(source.services(), None, "once");
    assert!(source.fetches().is_empty(), "the list that begins has them");
    list_slices(&mut source, &["web"], [slice("web", "web-1", 1)]);
    let step = source.step();
    assert!(matches!(step.change, Some(ConfigChange::All(_))));
    assert_eq!(step.checks.len(), 1, "the endpoints' check");
    assert_eq!(told(&source, "web"), Some(vec![1]));
    source
}

#[test]
fn a_slice_that_changes_changes_its_bindings() {
    let mut source = with_web();
    source.hear(slice("web", "web-2", 2));
    let step = source.step();
    let Some(ConfigChange::Some { director: None, bindings, .. }) = &step.change else { panic!("{step:?}") };
    assert_eq!(bindings.len(), 1);
    assert_eq!(told(&source, "web"), Some(vec![1, 2]));
    source.hear(slice("web", "web-2", 2));
    assert!(source.step().is_empty(), "nothing is told twice");
    source.hear(Heard::Gone(What::Slices, place("tp", "web-1")));
    source.step();
    assert_eq!(told(&source, "web"), Some(vec![2]));
    // One that cannot be used keeps its last good form, and says why.
    let bad = Item {
        spec: Err("endpoints[0].addresses[0]: `x` is not an address".into()),
        ..read("web", "web-2", 2)
    };
    source.hear(Heard::There(What::Slices, Box::new(bad)));
    assert!(source.step().is_empty());
    assert_eq!(told(&source, "web"), Some(vec![2]));
    let problem = &source.problems("server")[0];
    assert_eq!(problem.object.as_deref(), Some("EndpointSlice tp/web-2"));
    assert_eq!(problem.field.as_deref(), Some("endpoints[0].addresses[0]"));
}

#[test]
fn a_service_that_comes_to_be_named_is_read_by_itself() {
    let mut source = with_web();
    source.hear(named("other", "other"));
    assert!(source.step().is_empty(), "its endpoints are not known yet");
    assert_eq!(source.services(), Some([service("other"), service("web")].into()));
    assert_eq!(source.fetches(), [service("other")]);
    assert!(source.fetches().is_empty(), "once");
    // What the watch says meanwhile is newer than what is being read.
    source.hear(slice("other", "other-2", 22));
    source.hear(Heard::Gone(What::Slices, place("tp", "other-3")));
    source.step();
    assert_eq!(told(&source, "other"), None);
    let items =
        vec![read("other", "other-1", 11), read("other", "other-2", 12), read("other", "other-3", 13)];
    source.fetched(&service("other"), Some(items));
    source.step();
    assert_eq!(told(&source, "other"), Some(vec![11, 22]));
    // A binding that names another one stays what it was until that is read.
    source.hear(named("web", "third"));
    source.step();
    assert_eq!(told(&source, "web"), Some(vec![1]));
    source.services();
    assert_eq!(source.fetches(), [service("third")]);
    source.fetched(&service("third"), None);
    assert_eq!(source.fetches(), [service("third")], "it could not be read");
    source.disconnected();
    assert_eq!(source.fetches(), [service("third")], "nor could it by a client that is gone");
    source.fetched(&service("third"), Some(vec![read("third", "third-1", 31)]));
    let step = source.step();
    assert_eq!(told(&source, "web"), Some(vec![31]));
    // Nobody names the former one any more: it is held no longer, nor on the disk.
    assert!(step.saved.iter().any(|(key, saved)| key == "api EndpointSlice tp/third-1" && saved.is_some()));
    source.hear(slice("third", "third-1", 32));
    let mut saved: BTreeMap<String, Saved> = BTreeMap::new();
    kept(&mut saved, &source.step());
    assert_eq!(source.services(), None);
    assert!(!source.slices.table.objects.contains_key(&place("tp", "web-1")));
}

#[test]
fn many_that_come_to_be_named_are_one_list() {
    let mut source = with_web();
    let names: Vec<_> = (0..40).map(|n| format!("s{n:02}")).collect();
    names.iter().for_each(|name| source.hear(named(name, name)));
    source.step();
    source.services();
    assert!(source.fetches().is_empty());
    assert_eq!(source.again(), [What::Slices].into());
    assert!(source.fetches().is_empty() && source.again().is_empty(), "once");
    let mut asked: Vec<_> = names.iter().map(String::as_str).collect();
    asked.push("web");
    // One came to be named after the list had begun: it says nothing of it.
    let late = asked.remove(0);
    let slices = asked.iter().map(|name| slice(name, &format!("{name}-1"), 7)).collect::<Vec<_>>();
    list_slices(&mut source, &asked, slices);
    source.step();
    assert_eq!(told(&source, "s39"), Some(vec![7]));
    assert_eq!(told(&source, late), None);
    assert_eq!(source.fetches(), [service(late)]);
}

#[test]
fn a_list_with_none_of_them_is_doubted() {
    let mut source = with_web();
    list_slices(&mut source, &["web"], []);
    source.step();
    assert_eq!(told(&source, "web"), Some(vec![1]), "an API server that has lost its data?");
    assert_eq!(source.again(), [What::Config].into());
    list(&mut source, What::Config, [config()]);
    source.step();
    assert_eq!(told(&source, "web"), Some(vec![]), "it knows this director");
    // One of several is believed at once.
    source.hear(slice("web", "web-1", 1));
    source.hear(slice("web", "web-2", 2));
    source.step();
    list_slices(&mut source, &["web"], [slice("web", "web-2", 2)]);
    source.step();
    assert_eq!(told(&source, "web"), Some(vec![2]));
}

#[test]
fn endpoints_are_remembered() {
    let mut saved = BTreeMap::new();
    let mut source = with_web();
    source.dirty.extend([BindingKey::new("tp", "web")]);
    source.unsaved.extend([
        (What::Bindings, place("tp", "web-hash")),
        (What::Config, place("", DIRECTOR)),
        (What::Slices, place("tp", "web-1")),
    ]);
    kept(&mut saved, &source.step());
    assert!(saved.contains_key("api EndpointSlice tp/web-1"), "{:?}", saved.keys());
    let mut next = Source::new(DIRECTOR);
    assert_eq!(next.remember(&saved), Vec::<String>::new());
    assert!(matches!(next.begin().change, Some(ConfigChange::All(_))));
    assert_eq!(told(&next, "web"), Some(vec![1]));
    assert_eq!(next.services(), Some([service("web")].into()));
    // What the API says then is what counts.
    list(&mut next, What::Checks, [check("answers")]);
    list(&mut next, What::Config, [config()]);
    list(&mut next, What::Rules, []);
    list(&mut next, What::Bindings, [named("web", "web")]);
    list_slices(&mut next, &["web"], [slice("web", "web-1", 1), slice("web", "web-2", 2)]);
    next.step();
    assert_eq!(told(&next, "web"), Some(vec![1, 2]));
}
