//! NatRules with real packets: a router between a client outside and servers inside.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use bascule_agent::plane::nat_rules::Count;
use bascule_agent::reconcile::{
    ConfigChange, ConfigUpdate, Handle, Lives, Options, PlaneName, PlannedOp, Programmed, plan_once, spawn,
};
use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, NatRuleBindingSpec};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::agent::{binding, key};
use crate::world::{
    Host, ask, connect, connect_from, in_plain_namespace, ip, run, sysctl, try_run, wait_until,
};

/// A rule; of a group, if one is named.
fn rule(translation: &Value, group: Option<&str>) -> NatRuleBindingSpec {
    let mut spec = json!({"natRule": "nat", "director": "dir1"});
    for (field, value) in translation.as_object().unwrap() {
        spec[field] = value.clone();
    }
    if let Some(group) = group {
        spec["vrrpGroup"] = group.into();
    }
    serde_json::from_value(spec).unwrap()
}

fn forward(from: &Value, port: u16, to: &str, to_port: u16) -> NatRuleBindingSpec {
    let mut forward = json!({"protocol": "TCP", "port": port, "to": to, "toPort": to_port});
    for (field, value) in from.as_object().unwrap() {
        forward[field] = value.clone();
    }
    rule(&json!({ "portForward": forward }), None)
}

fn web() -> NatRuleBindingSpec {
    forward(&json!({"inInterface": "outside"}), 80, "172.16.193.10", 80)
}

fn nft(text: &str) {
    use std::io::Write as _;
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

/// Our table as `nft` lists it, without what it counted; empty without it.
fn table() -> String {
    let output = try_run("nft", "-s list table inet bascule_nat");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A reconciler of which only what NatRules need has to work: there may be no IPVS.
struct Router {
    handle: Option<Handle>,
    serial: u64,
    config: NodeConfig,
    options: Options,
    runtime: Runtime,
    directory: Option<tempfile::TempDir>,
}

impl Router {
    fn start<'a>(rules: impl IntoIterator<Item = (&'a str, NatRuleBindingSpec)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::new(DirectorConfigSpec::default());
        config.nat_rules = rules.into_iter().map(|(name, rule)| (key(name), Arc::new(rule))).collect();
        let mut router = Self::on(Options::new(directory.path()), config);
        router.directory = Some(directory);
        router
    }

    fn on(options: Options, config: NodeConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = Some(spawn(options.clone()).unwrap());
        let mut router = Self { handle, serial: 0, config, options, runtime, directory: None };
        router.send(ConfigChange::All(Arc::new(router.config.clone())));
        router
    }

    fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    fn send(&mut self, change: ConfigChange) {
        self.serial += 1;
        let serial = self.serial;
        let (checks, live) = (Vec::new(), Lives::new());
        let update = ConfigUpdate { serial, seen: Instant::now(), change, checks, live };
        self.handle().updates().send(&update);
        wait_until("the rules are in the kernel", || {
            let report = self.handle().report().borrow().clone();
            [PlaneName::Sysctl, PlaneName::Nat, PlaneName::NatRules].iter().all(|name| {
                report.planes.get(name).is_some_and(|plane| plane.serial >= serial && plane.settled)
            })
        });
    }

    fn put(&mut self, name: &str, rule: Option<NatRuleBindingSpec>) {
        let rule = rule.map(Arc::new);
        match &rule {
            Some(rule) => self.config.nat_rules.insert(key(name), Arc::clone(rule)),
            None => self.config.nat_rules.remove(&key(name)),
        };
        let nat_rules = vec![(key(name), rule)];
        self.send(ConfigChange::Some { director: None, bindings: Vec::new(), nat_rules });
    }

    fn role(&self, group: &str, active: bool) {
        self.handle().updates().role(&group.into(), active);
    }

    /// What another process would do about NatRules.
    fn planned(&self) -> Vec<PlannedOp> {
        let (config, live) = (Arc::new(self.config.clone()), Lives::new());
        let planned = plan_once(&config, &live, &self.options);
        // Without IPVS, and only for that, it is not complete.
        let operations = self.runtime.block_on(planned).unwrap_or_else(|error| {
            assert!(error.problems.iter().all(|one| one.plane == PlaneName::Ipvs), "{error}");
            error.ops
        });
        let ours = [PlaneName::Sysctl, PlaneName::Nat, PlaneName::NatRules];
        operations.into_iter().filter(|op| ours.contains(&op.plane)).collect()
    }

    #[track_caller]
    fn has_nothing_to_do(&self) {
        assert_eq!(self.planned(), []);
    }

    #[track_caller]
    fn is_programmed(&self, name: &str) {
        assert_eq!(self.handle().report().borrow().rule_programmed(&key(name)), Programmed::Yes);
    }

    fn counts(&self) -> BTreeMap<BindingKey, Count> {
        self.runtime.block_on(self.handle().counters()).nat_rules
    }

    fn packets(&self, name: &str) -> Option<u64> {
        self.counts().get(&key(name)).map(|count| count.packets)
    }

    fn repaired(&self) -> u64 {
        self.handle().report().borrow().planes[&PlaneName::NatRules].repaired.values().sum()
    }

    fn stop(mut self) {
        let handle = self.handle.take().unwrap();
        self.runtime.block_on(handle.shutdown());
    }
}

/// The network of the TP: a client outside that knows nothing of the inside, and two servers inside that send what is not theirs
/// to the router.
struct Network {
    client: Host,
    srv1: Host,
    srv2: Host,
}

fn network() -> Network {
    let client = Host::new("client", "outside", "192.16.193.100/24", None);
    ip("link add inside type bridge");
    ip("link set inside up");
    let inside = |name: &'static str, address: &str| {
        let host = Host::new(name, name, address, Some("172.16.193.254"));
        ip(&format!("link set {name} master inside"));
        host
    };
    ip("address add 192.16.193.20/24 dev outside");
    ip("address add 172.16.193.254/24 dev inside");
    Network { client, srv1: inside("srv1", "172.16.193.10/24"), srv2: inside("srv2", "172.16.193.40/24") }
}

/// A connection that is held open.
fn held(host: &Host, target: &'static str) -> TcpStream {
    host.on(move || connect(target)).unwrap()
}

fn answer(stream: &TcpStream) -> std::io::Result<String> {
    ask(&mut stream.try_clone().unwrap())
}

#[test]
fn a_port_is_forwarded_and_the_server_sees_the_client() {
    in_plain_namespace(|| {
        let network = network();
        assert!(network.client.ask("192.16.193.20:80").is_err(), "nobody listens on the router");
        let mut router = Router::start([("web", web())]);
        assert_eq!(sysctl("net/ipv4/ip_forward"), "1");
        assert_eq!(network.client.ask("192.16.193.20:80").unwrap(), "srv1 192.16.193.100");
        assert_eq!(network.client.ask("192.16.193.20:80").unwrap(), "srv1 192.16.193.100");
        assert_eq!(router.packets("web"), Some(2));
        router.has_nothing_to_do();
        router.is_programmed("web");
        // Not for what is sent to another machine, and not on another interface.
        network.client.on(|| ip("route add 172.16.193.0/24 via 192.16.193.20"));
        assert_eq!(network.client.ask("172.16.193.40:80").unwrap(), "srv2 192.16.193.100");
        assert!(network.srv2.ask("192.16.193.20:80").is_err());
        assert!(connect("192.16.193.20:80").is_err(), "what the router sends itself comes in nowhere");
        // Another port of an address, for whoever asks, the router itself included.
        let address = json!({"address": "192.16.193.20"});
        router.put("address", Some(forward(&address, 8080, "172.16.193.40", 80)));
        assert_eq!(network.client.ask("192.16.193.20:8080").unwrap(), "srv2 192.16.193.100");
        assert_eq!(ask(&mut connect("192.16.193.20:8080").unwrap()).unwrap(), "srv2 192.16.193.20");
        assert_eq!(
            network.client.ask("192.16.193.20:80").unwrap(),
            "srv1 192.16.193.100",
            "the other one stays"
        );
        assert_eq!(router.packets("web"), Some(3), "what was counted is carried over");
        router.has_nothing_to_do();
        router.put("web", None);
        router.put("address", None);
        assert!(network.client.ask("192.16.193.20:80").is_err());
        assert_eq!((table(), router.counts()), (String::new(), BTreeMap::new()));
        router.has_nothing_to_do();
    });
}

#[test]
fn what_leaves_gets_another_source_the_narrowest_network_first() {
    in_plain_namespace(|| {
        let network = network();
        ip("address add 192.16.193.21/32 dev outside");
        ip("address add 192.16.193.22/32 dev outside");
        let out = |kind: &str, more: Value| {
            let mut one = json!({"outInterface": "outside"});
            for (field, value) in more.as_object().unwrap() {
                one[field] = value.clone();
            }
            rule(&json!({ kind: one }), None)
        };
        let mut router = Router::start([("all", out("masquerade", json!({})))]);
        let seen = |host: &Host| host.ask("192.16.193.100:80").unwrap();
        assert_eq!(seen(&network.srv1), "client 192.16.193.20");
        // What the router sends itself is as it wants it.
        let own = |from| ask(&mut connect_from(from, "192.16.193.100:80").unwrap()).unwrap();
        assert_eq!(own("192.16.193.22:0"), "client 192.16.193.22");
        router.put(
            "one",
            Some(out("sourceNat", json!({"address": "192.16.193.21", "sources": ["172.16.193.40/32"]}))),
        );
        assert_eq!(seen(&network.srv1), "client 192.16.193.20");
        assert_eq!(seen(&network.srv2), "client 192.16.193.21");
        router.put(
            "net",
            Some(out(
                "sourceNat",
                json!({"address": "192.16.193.22", "sources": ["172.16.0.0/16", "10.0.0.0/8"]}),
            )),
        );
        assert_eq!(seen(&network.srv1), "client 192.16.193.22");
        assert_eq!(seen(&network.srv2), "client 192.16.193.21");
        router.has_nothing_to_do();
        let (all, one, net) = (router.packets("all"), router.packets("one"), router.packets("net"));
        assert_eq!((all, one, net), (Some(2), Some(2), Some(1)));
    });
}

#[test]
fn an_address_is_exchanged_both_ways() {
    in_plain_namespace(|| {
        let network = network();
        ip("address add 192.16.193.30/32 dev outside");
        let exchange = json!({"staticNat": {"outside": "192.16.193.30", "inside": "172.16.193.10"}});
        let out = json!({"masquerade": {"outInterface": "outside"}});
        let router = Router::start([("srv1", rule(&exchange, None)), ("all", rule(&out, None))]);
        assert_eq!(network.client.ask("192.16.193.30:80").unwrap(), "srv1 192.16.193.100");
        assert_eq!(network.srv1.ask("192.16.193.100:80").unwrap(), "client 192.16.193.30");
        assert_eq!(network.srv2.ask("192.16.193.100:80").unwrap(), "client 192.16.193.20");
        // Its port 80 may be another one's.
        assert_eq!(ask(&mut connect("192.16.193.30:80").unwrap()).unwrap(), "srv1 192.16.193.30");
        assert_eq!(router.packets("srv1"), Some(3));
        router.has_nothing_to_do();
    });
}

#[test]
fn the_same_with_ipv6() {
    in_plain_namespace(|| {
        let client = Host::new("client", "outside", "2001:db8::100/64", None);
        ip("address add 2001:db8::20/64 dev outside nodad");
        // As the agent adds addresses of groups: the machine does not choose it as its own source.
        ip("address add 2001:db8::30/128 dev outside nodad preferred_lft 0");
        let srv1 = Host::new("srv1", "inside", "fd00:1::10/64", Some("fd00:1::254"));
        ip("address add fd00:1::254/64 dev inside nodad");
        srv1.on(|| ip("-6 address add fd00:1::11/64 dev eth0 nodad"));
        let out = json!({"masquerade": {"outInterface": "outside", "sources": ["fd00:1::/64"]}});
        let exchange = json!({"staticNat": {"outside": "2001:db8::30", "inside": "fd00:1::11"}});
        let mut router = Router::start([
            ("web", forward(&json!({"inInterface": "outside"}), 80, "fd00:1::10", 80)),
            ("address", forward(&json!({"address": "2001:db8::20"}), 8080, "fd00:1::10", 80)),
        ]);
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
        wait_until("its own address is usable", || {
            client.ask("[2001:db8::20]:80").is_ok_and(|answer| answer == "srv1 2001:db8::100")
        });
        assert_eq!(client.ask("[2001:db8::20]:8080").unwrap(), "srv1 2001:db8::100");
        router.put("out", Some(rule(&out, None)));
        router.put("one", Some(rule(&exchange, None)));
        assert_eq!(client.ask("[2001:db8::30]:80").unwrap(), "srv1 2001:db8::100");
        let from = |own: &'static str| {
            srv1.on(move || ask(&mut connect_from(own, "[2001:db8::100]:80").unwrap()).unwrap())
        };
        assert_eq!(from("[fd00:1::10]:0"), "client 2001:db8::20");
        assert_eq!(from("[fd00:1::11]:0"), "client 2001:db8::30");
        router.has_nothing_to_do();
        let open = held(&client, "[2001:db8::20]:80");
        assert_eq!(answer(&open).unwrap(), "srv1 2001:db8::100");
        router.put("web", None);
        assert!(answer(&open).is_err(), "it ended");
    });
}

#[test]
fn what_somebody_does_to_it_is_put_back_and_other_tables_are_left_alone() {
    in_plain_namespace(|| {
        let network = network();
        nft("add table inet other; add chain inet other pre { type nat hook prerouting priority 0; }; \
             add rule inet other pre tcp dport 81 redirect to :80; add table ip bascule_nat");
        let others = || run("nft", "-s list table inet other") + &run("nft", "list table ip bascule_nat");
        let before = others();
        let out = json!({"masquerade": {"outInterface": "outside"}});
        let router = Router::start([("web", web()), ("out", rule(&out, None))]);
        assert!(network.client.ask("192.16.193.20:80").is_ok());
        let wanted = table();
        let open = held(&network.client, "192.16.193.20:80");
        assert_eq!(router.packets("web"), Some(2));
        let mut repaired = 0;
        for drift in [
            "flush table inet bascule_nat",
            "delete table inet bascule_nat",
            "flush chain inet bascule_nat prerouting",
            "flush chain inet bascule_nat prerouting; delete chain inet bascule_nat prerouting",
            "insert rule inet bascule_nat prerouting accept",
            "add rule inet bascule_nat postrouting counter drop",
            "add chain inet bascule_nat mine { type filter hook forward priority 0; policy drop; }",
            "add set inet bascule_nat mine { type ipv4_addr; }",
        ] {
            nft(drift);
            let took = wait_until(&format!("{drift} is put back"), || table() == wanted);
            eprintln!("{drift}: put back after {took:?}");
            repaired += 1;
            wait_until("the repair is counted", || router.repaired() >= repaired);
            assert_eq!(network.client.ask("192.16.193.20:80").unwrap(), "srv1 192.16.193.100", "{drift}");
            // As a scrape does: what somebody deletes is made anew with what was read last.
            assert_eq!(router.packets("web"), Some(2 + repaired), "what was counted is carried over");
        }
        assert_eq!(router.repaired(), repaired, "our own changes are not taken for somebody else's");
        assert_eq!(answer(&open).unwrap(), "srv1 192.16.193.100", "a connection lives through all of it");
        assert_eq!(others(), before);
        router.has_nothing_to_do();
        nft("flush ruleset");
        wait_until("all of it is put back", || table() == wanted);
        assert_eq!(run("nft", "list tables"), "table inet bascule_nat\n");
    });
}

#[test]
fn connections_end_with_their_rule_and_no_others() {
    in_plain_namespace(|| {
        let network = network();
        let other = || forward(&json!({"inInterface": "outside"}), 8080, "172.16.193.10", 80);
        let out = json!({"masquerade": {"outInterface": "outside", "sources": ["172.16.0.0/16"]}});
        let mut router = Router::start([("web", web()), ("other", other()), ("out", rule(&out, None))]);
        let through_web = held(&network.client, "192.16.193.20:80");
        let through_other = held(&network.client, "192.16.193.20:8080");
        let outwards = held(&network.srv2, "192.16.193.100:80");
        assert_eq!(answer(&through_web).unwrap(), "srv1 192.16.193.100");
        assert_eq!(answer(&outwards).unwrap(), "client 192.16.193.20");
        // Changed: it goes elsewhere.
        router.put("web", Some(forward(&json!({"inInterface": "outside"}), 80, "172.16.193.40", 80)));
        assert!(answer(&through_web).is_err());
        assert_eq!(answer(&through_other).unwrap(), "srv1 192.16.193.100");
        assert_eq!(answer(&outwards).unwrap(), "client 192.16.193.20");
        let through_web = held(&network.client, "192.16.193.20:80");
        assert_eq!(answer(&through_web).unwrap(), "srv2 192.16.193.100");
        // The same under another name: whoever looks at packets sees no difference.
        router.put("again", Some(rule(&out, None)));
        router.put("out", None);
        assert_eq!(answer(&outwards).unwrap(), "client 192.16.193.20");
        router.put("again", None);
        assert!(answer(&outwards).is_err());
        router.put("web", None);
        assert!(answer(&through_web).is_err());
        assert_eq!(answer(&through_other).unwrap(), "srv1 192.16.193.100");
        // Away while the agent is.
        let (options, mut config) = (router.options.clone(), router.config.clone());
        let directory = router.directory.take();
        router.stop();
        config.nat_rules.remove(&key("other"));
        assert_eq!(answer(&through_other).unwrap(), "srv1 192.16.193.100");
        let second = Router::on(options, config);
        assert!(answer(&through_other).is_err());
        assert_eq!(table(), "");
        second.stop();
        drop(directory);
    });
}

#[test]
fn a_rule_is_there_where_its_group_is_active_and_stays_over_a_restart() {
    in_plain_namespace(|| {
        let network = network();
        let mut spec = web();
        spec.vrrp_group = Some("front".into());
        let mut router = Router::start([("web", spec)]);
        assert_eq!(table(), "");
        router.is_programmed("web");
        router.role("front", true);
        wait_until("it is there", || network.client.ask("192.16.193.20:80").is_ok());
        let open = held(&network.client, "192.16.193.20:80");
        wait_until("that is written down", || router.planned().is_empty());
        // Another process does not know what the group is; nothing is taken away until it does.
        let (options, config) = (router.options.clone(), router.config.clone());
        let directory = router.directory.take();
        router.stop();
        let second = Router::on(options, config);
        second.has_nothing_to_do();
        assert_eq!(answer(&open).unwrap(), "srv1 192.16.193.100");
        let done = second.handle().report().borrow().planes[&PlaneName::NatRules].operations.clone();
        assert_eq!(done, BTreeMap::new());
        second.role("front", false);
        wait_until("it has gone", || table().is_empty());
        // The entry has gone with it; as on a successor, the kernel takes the connection up in the middle, to the same server.
        second.role("front", true);
        wait_until("it is there", || !table().is_empty());
        assert_eq!(answer(&open).unwrap(), "srv1 192.16.193.100");
        second.role("front", false);
        wait_until("it has gone", || table().is_empty());
        assert!(answer(&open).is_err());
        // Told right before the end, it is done before the end.
        second.role("front", true);
        wait_until("it is there", || !table().is_empty());
        second.role("front", false);
        second.stop();
        assert_eq!(table(), "");
        drop(directory);
    });
}

#[test]
fn services_that_rewrite_the_source_have_their_say_first() {
    in_plain_namespace(|| {
        let mut config = NodeConfig::new(DirectorConfigSpec::default());
        let service = binding(&["10.0.0.1"], 80, &["10.1.0.1"], json!({"sourceNat": "Always"}));
        config.bindings.insert(key("web"), Arc::new(service));
        let out = json!({"masquerade": {"outInterface": "outside"}});
        config.nat_rules.insert(key("web"), Arc::new(rule(&out, None)));
        let directory = tempfile::tempdir().unwrap();
        let mut router = Router::on(Options::new(directory.path()), config);
        let services = || run("nft", "list table inet bascule");
        assert!(services().contains("postrouting priority srcnat;"), "{}", services());
        assert!(table().contains("postrouting priority srcnat + 5;"), "{}", table());
        router.put("web", None);
        assert_eq!(table(), "");
        assert!(services().contains("masquerade"), "each has its own table");
    });
}

#[test]
fn many_rules_are_no_trouble() {
    in_plain_namespace(|| {
        let names: Vec<String> = (0..2_000).map(|n| format!("rule-{n}")).collect();
        let rules = names.iter().zip(10_000u16..).map(|(name, port)| {
            (name.as_str(), forward(&json!({"inInterface": "outside"}), port, "172.16.193.10", 80))
        });
        let mut router = Router::start(rules);
        router.has_nothing_to_do();
        let started = Instant::now();
        router.put("rule-77", None);
        eprintln!("one of {} rules goes in {:?}", names.len(), started.elapsed());
        assert_eq!(router.counts().len(), names.len() - 1);
        router.has_nothing_to_do();
    });
}
