//! The synchronisation daemons and the guard.

use std::{
    net::{IpAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use bascule_agent::{
    plane::sync::Guard,
    reconcile::{Options, PlaneName},
};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, binding},
    world::{Host, ask, connect, in_namespace, ip, ipvsadm, run, set_sysctl, sysctl, try_run, wait_until},
};

fn director(sync: Value) -> DirectorConfigSpec {
    serde_json::from_value(json!({"director": "dir1", "connectionSync": sync})).unwrap()
}

fn sync() -> Value {
    json!({"interface": "eth1", "syncId": 51})
}

fn start(sync: Value, bindings: Vec<(&str, VirtualServiceBindingSpec)>) -> (Agent, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start_with(Options::new(directory.path()), director(sync), bindings);
    (agent, directory)
}

fn daemons() -> Vec<String> {
    let mut lines: Vec<String> = ipvsadm("-L --daemon")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    lines.sort();
    lines
}

fn link() {
    ip("link add eth1 type dummy");
    ip("address add 172.31.0.1/24 dev eth1");
    ip("link set eth1 up");
}

#[test]
fn daemons_run_come_back_and_are_changed() {
    in_namespace(|| {
        link();
        let (mut agent, _directory) = start(sync(), vec![]);
        assert_eq!(daemons().len(), 2, "{:?}", daemons());
        agent.has_nothing_to_do();
        assert_eq!(sysctl("net/ipv4/vs/sync_threshold"), "0\t0");
        assert_eq!(sysctl("net/ipv4/vs/sync_refresh_period"), "10");
        assert_eq!(sysctl("net/ipv4/vs/sync_retries"), "2");
        for role in ["master", "backup"] {
            ipvsadm(&format!("--stop-daemon {role}"));
            let took = wait_until("it runs again", || daemons().len() == 2);
            eprintln!("{role}: back after {took:?}");
        }
        assert_eq!(agent.repaired(PlaneName::ConnectionSync), 2);
        for (what, changed) in [
            ("id", json!({"interface": "eth1", "syncId": 52})),
            (
                "group, port and TTL",
                json!({"interface": "eth1", "syncId": 52, "group": "239.3.3.3", "port": 9000, "ttl": 4}),
            ),
            ("short messages", json!({"interface": "eth1", "syncId": 52, "maxLength": 64})),
            ("long messages", json!({"interface": "eth1", "syncId": 52, "maxLength": 65507})),
            ("an IPv6 group", json!({"interface": "eth1", "syncId": 52, "group": "ff02::51"})),
            ("by packets", json!({"interface": "eth1", "syncId": 52, "threshold": 60, "retries": 1})),
        ] {
            eprintln!("{what}");
            agent.director(director(changed));
            assert_eq!(agent.failures(), []);
            assert_eq!(daemons().len(), 2, "{what}");
            agent.has_nothing_to_do();
        }
        assert_eq!(sysctl("net/ipv4/vs/sync_threshold"), "60\t61");
        agent.director(director(Value::Null));
        wait_until("none runs", || daemons().is_empty());
        agent.has_nothing_to_do();
        assert!(!try_run("nft", "list table inet bascule-guard").status.success());
    });
}

#[test]
fn an_interface_that_goes_and_comes_gets_its_daemons() {
    in_namespace(|| {
        let (agent, _directory) = start(sync(), vec![]);
        let failures = agent.failures();
        assert!(
            failures.iter().any(|(_, failure)| failure.message.contains("no interface eth1")),
            "{failures:?}"
        );
        link();
        wait_until("both run", || daemons().len() == 2 && agent.failures().is_empty());
        let before = agent.operations(PlaneName::ConnectionSync)["start-sync-daemon"];
        ip("link delete eth1");
        link();
        wait_until("they were started for the new interface", || {
            agent.operations(PlaneName::ConnectionSync)["start-sync-daemon"] >= before + 2
                && agent.failures().is_empty()
        });
        agent.has_nothing_to_do();
    });
}

#[test]
fn without_connection_sync_others_daemons_stay() {
    in_namespace(|| {
        link();
        ipvsadm("--start-daemon master --mcast-interface eth1 --syncid 5");
        let (mut agent, _directory) = start(Value::Null, vec![]);
        agent.has_nothing_to_do();
        assert_eq!(daemons().len(), 1);
        agent.director(director(sync()));
        assert_eq!(daemons().len(), 2);
        agent.has_nothing_to_do();
    });
}

#[test]
fn the_guards_table_is_put_back() {
    in_namespace(|| {
        link();
        let web = binding(&["10.0.0.30"], 80, &["10.1.0.1"], json!({"vrrpGroup": "front"}));
        let (agent, _directory) = start(sync(), vec![("web", web)]);
        assert_eq!(agent.failures(), []);
        agent.has_nothing_to_do();
        for harm in [
            "delete table inet bascule-guard",
            "flush chain inet bascule-guard input",
            "flush set inet bascule-guard ports4",
        ] {
            run("nft", harm);
            wait_until("it is back", || {
                run("nft", "list ruleset").contains("10.0.0.30 . 80") && agent.plan() == Ok(Vec::new())
            });
        }
    });
}

/// Whether the director resets a connection that it does not know, when the client says something.
fn is_reset(stream: &mut TcpStream) -> bool {
    match ask(stream) {
        Err(error) => match error.kind() {
            std::io::ErrorKind::ConnectionReset => true,
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => false,
            _ => panic!("{error}"),
        },
        Ok(answer) => panic!("{answer}"),
    }
}

#[test]
fn an_unknown_connection_is_not_reset_while_armed() {
    in_namespace(|| {
        link();
        set_sysctl("net/ipv4/ip_forward", "1");
        let client = Host::new("client", "out", "10.0.0.100/24", None);
        let _server = Host::new("srv1", "in", "10.1.0.1/24", Some("10.1.0.254"));
        ip("address add 10.0.0.30/24 dev out");
        ip("address add 10.1.0.254/24 dev in");
        let web = || binding(&["10.0.0.30"], 80, &["10.1.0.1"], json!({"vrrpGroup": "front"}));
        let (mut agent, _directory) = start(sync(), vec![("web", web())]);
        assert_eq!(agent.failures(), []);
        // A service of the director's own on another port, and the guard from another thread.
        let local = TcpListener::bind("10.0.0.30:22").unwrap();
        thread::spawn(move || {
            for mut stream in local.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        let (mut young, mut late, mut known) = client.on(|| {
            let open = || {
                let mut stream = connect("10.0.0.30:80").unwrap();
                ask(&mut stream).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
                stream
            };
            (open(), open(), open())
        });
        let mut other = client.on(|| connect("10.0.0.30:22").unwrap());
        // The successor knows none of these: as if they were too young. Connections are forgotten with their service.
        agent.put("web", None);
        wait_until("IPVS forgot them", || crate::world::connections().is_empty());
        agent.put("web", Some(web()));
        let mut guard = Guard::open().unwrap();
        let began = Instant::now();
        let address: IpAddr = "10.0.0.30".parse().unwrap();
        guard.arm(&[address]).unwrap();
        eprintln!("armed in {:?}", began.elapsed());
        let (reset, mut young) = client.on(move || (is_reset(&mut young), young));
        // On a slow machine the 4 s may be over.
        if began.elapsed() < Duration::from_secs(4) {
            assert!(!reset, "while armed");
        }
        // A new one gets through, at once.
        known = client.on(move || {
            drop(known);
            let mut stream = connect("10.0.0.30:80").unwrap();
            assert!(ask(&mut stream).unwrap().starts_with("srv1"));
            stream
        });
        guard.arm(&[address]).unwrap();
        let known = client.on(move || {
            assert!(ask(&mut known).unwrap().starts_with("srv1"), "known to IPVS");
            known
        });
        let other = client.on(move || {
            use std::io::{Read as _, Write as _};
            other.write_all(b"x").unwrap();
            other.read_exact(&mut [0; 1]).unwrap();
            other
        });
        let dropped = || {
            let text = run("nft", "list counters table inet bascule-guard");
            let words: Vec<_> = text.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "packets").unwrap();
            words[at + 1].parse::<u64>().unwrap()
        };
        assert!(dropped() > 0);
        wait_until("the kernel disarmed by itself", || {
            !run("nft", "list set inet bascule-guard armed4").contains("10.0.0.30")
        });
        assert!(client.on(move || is_reset(&mut late)), "as ever, once it is not armed");
        // But not what was met while it was armed: its client sends again, and again.
        if !reset {
            let (reset, again) = client.on(move || (is_reset(&mut young), young));
            assert!(!reset, "remembered: {}", run("nft", "list table inet bascule-guard"));
            // Nor when somebody broke the table, and it was made anew.
            run("nft", "flush chain inet bascule-guard input");
            wait_until("the table is back", || {
                run("nft", "list chain inet bascule-guard input").contains("jump")
                    && agent.plan() == Ok(Vec::new())
            });
            let (reset, again) = client.on(move || {
                let mut again = again;
                (is_reset(&mut again), again)
            });
            assert!(!reset, "kept: {}", run("nft", "list table inet bascule-guard"));
            young = again;
        }
        // Arming again renews the time; the agent's table stays as it is.
        guard.arm(&[address]).unwrap();
        guard.arm(&[address]).unwrap();
        agent.has_nothing_to_do();
        drop((young, known, other));
        agent.director(director(Value::Null));
        assert_eq!(guard.arm(&[address]).unwrap_err().raw_os_error(), Some(2), "ENOENT without a table");
    });
}

#[test]
fn a_real_server_that_does_not_know_the_connection_resets_nobody_while_armed() {
    in_namespace(|| {
        link();
        set_sysctl("net/ipv4/ip_forward", "1");
        let client = Host::new("client", "out", "10.0.0.100/24", Some("10.0.0.1"));
        let _server = Host::new("srv1", "in", "10.1.0.1/24", Some("10.1.0.254"));
        // Whoever has the address later knows nothing of these connections: as where IPVS holds an entry of an earlier connection from the
        // same port, which went to another real server.
        let _other = Host::new("srv2", "in2", "10.1.0.1/24", Some("10.1.0.254"));
        ip("address add 10.0.0.1/24 dev out");
        ip("address add 10.0.0.30/24 dev out");
        ip("address add 10.1.0.254/24 dev in");
        let web = binding(&["10.0.0.30"], 80, &["10.1.0.1"], json!({"vrrpGroup": "front"}));
        let (agent, _directory) = start(sync(), vec![("web", web)]);
        assert_eq!(agent.failures(), []);
        let (mut young, mut late, mut direct) = client.on(|| {
            let open = |target: &str| {
                let mut stream = connect(target).unwrap();
                ask(&mut stream).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
                stream
            };
            (open("10.0.0.30:80"), open("10.0.0.30:80"), open("10.1.0.1:80"))
        });
        ip("address delete 10.1.0.254/24 dev in");
        ip("address add 10.1.0.254/24 dev in2");
        let mut guard = Guard::open().unwrap();
        let address: IpAddr = "10.0.0.30".parse().unwrap();
        let began = Instant::now();
        guard.arm(&[address]).unwrap();
        let (reset, mut young) = client.on(move || (is_reset(&mut young), young));
        let (stray, mut direct) = client.on(move || (is_reset(&mut direct), direct));
        // On a slow machine the 4 s may be over.
        let in_time = began.elapsed() < Duration::from_secs(4);
        if in_time {
            assert!(!reset, "by the service: {}", run("nft", "list table inet bascule-guard"));
            assert!(!stray, "past the service: {}", run("nft", "list table inet bascule-guard"));
        }
        // New ones get through, and a port where nobody listens is refused as ever: RST and ACK.
        guard.arm(&[address]).unwrap();
        client.on(|| {
            assert!(ask(&mut connect("10.0.0.30:80").unwrap()).unwrap().starts_with("srv2"));
            let refused = connect("10.1.0.1:81").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        });
        wait_until("the kernel disarmed by itself", || {
            let sets =
                ["armed4", "recent"].map(|set| run("nft", &format!("list set inet bascule-guard {set}")));
            !sets.iter().any(|set| set.contains("elements"))
        });
        assert!(client.on(move || is_reset(&mut late)), "as ever, once it is not armed");
        if in_time {
            let (reset, again) = client.on(move || (is_reset(&mut young), young));
            assert!(!reset, "remembered: {}", run("nft", "list table inet bascule-guard"));
            young = again;
            // Its client sends again until it is told.
            client.on(move || wait_until("what passes by is told later", || is_reset(&mut direct)));
        }
        drop(young);
        agent.has_nothing_to_do();
    });
}

#[test]
fn a_real_server_on_the_director_itself_is_served_while_armed() {
    in_namespace(|| {
        link();
        let client = Host::new("client", "out", "10.0.0.100/24", None);
        ip("address add 10.0.0.30/24 dev out");
        ip("address add 10.0.0.1/24 dev out");
        // It listens on every address, as most do: direct routing hands it what is sent to the virtual address.
        let local = TcpListener::bind("0.0.0.0:80").unwrap();
        thread::spawn(move || {
            for mut stream in local.incoming().flatten() {
                thread::spawn(move || {
                    use std::io::{Read as _, Write as _};
                    while stream.read_exact(&mut [0; 1]).is_ok() && stream.write_all(&[b'x'; 64]).is_ok() {}
                });
            }
        });
        let web = binding(
            &["10.0.0.30"],
            80,
            &["10.0.0.1"],
            json!({"vrrpGroup": "front", "method": "DirectRouting"}),
        );
        let (_agent, _directory) = start(sync(), vec![("web", web)]);
        let mut guard = Guard::open().unwrap();
        let mut old = client.on(|| connect("10.0.0.30:80").unwrap());
        guard.arm(&["10.0.0.30".parse().unwrap()]).unwrap();
        client.on(move || {
            ask(&mut old).unwrap();
            ask(&mut connect("10.0.0.30:80").unwrap()).unwrap();
        });
    });
}
