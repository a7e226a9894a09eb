//! Real servers that stop and come back, and what the kernel holds then.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bascule_agent::{
    checks::{self, Checks, Options},
    exec::{self, Runner},
    reconcile::{self, ConfigChange, ConfigUpdate, Handle, Lives, PlannedOp, Report, plan_once},
};
use bascule_compile::{BindingKey, CheckKey, NodeConfig};
use bascule_crds::{DirectorConfigSpec, HealthCheckSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    agent::{binding, key},
    world::{in_namespace, rules, wait_until},
};

/// The agent's checks and planes.
struct Director {
    checks: Option<Checks>,
    handle: Option<Handle>,
    serial: u64,
    runtime: Runtime,
    directory: tempfile::TempDir,
    /// Of its own: what the agent writes into its run directory must not make it look at these.
    files: tempfile::TempDir,
}

impl Director {
    fn start(directory: tempfile::TempDir, spec: VirtualServiceBindingSpec) -> Self {
        // On a thread of its own: a probe must not run out of time because the test looks at the kernel.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = reconcile::spawn(reconcile::Options::new(directory.path())).unwrap();
        let updates = handle.updates();
        let files = tempfile::tempdir().unwrap();
        let options = Options {
            director: "dir1".into(),
            run_dir: directory.path().to_owned(),
            allow_file: Some(files.path().to_owned()),
            descriptors: 1_024,
        };
        let runner = Runner::new(&exec::Options::default()).unwrap();
        let checks = {
            let _inside = runtime.enter();
            Checks::spawn(&options, &runner, move |live| updates.live(live), |_, _| {}).unwrap()
        };
        let mut director =
            Self { checks: Some(checks), handle: Some(handle), serial: 0, runtime, directory, files };
        let bindings = [(key("web"), Arc::new(spec))].into();
        let config = NodeConfig { bindings, ..NodeConfig::new(DirectorConfigSpec::default()) };
        director.send(ConfigChange::All(Arc::new(config)));
        director
    }

    fn put(&mut self, spec: VirtualServiceBindingSpec) {
        let bindings: Vec<(BindingKey, _)> = vec![(key("web"), Some(Arc::new(spec)))];
        self.send(ConfigChange::Some { director: None, bindings, nat_rules: Vec::new() });
    }

    fn send(&mut self, change: ConfigChange) {
        let checks = health_checks().into_iter().map(|(key, spec)| (key, Some(spec))).collect();
        self.serial += 1;
        let update =
            ConfigUpdate { serial: self.serial, seen: Instant::now(), change, checks, live: Lives::new() };
        let updates = self.handle.as_ref().unwrap().updates();
        self.checks.as_ref().unwrap().configure(update, |update| updates.send(update));
        let serial = self.serial;
        let report = self.handle.as_ref().unwrap().report();
        wait_until("the configuration is carried out", || {
            let report: Arc<Report> = report.borrow().clone();
            report.serial >= serial && report.settled()
        });
    }

    /// Probes until the kernel holds these rules.
    #[track_caller]
    fn holds(&self, wanted: &[&str]) {
        let mut wanted: Vec<String> = wanted.iter().map(|rule| (*rule).to_owned()).collect();
        wanted.sort();
        wait_until(&format!("the kernel holds {wanted:?}, checks say {:?}", self.services()), || {
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
            rules() == wanted
        });
    }

    fn services(&self) -> String {
        format!("{:?}", self.checks.as_ref().unwrap().services())
    }

    fn stop(mut self) -> tempfile::TempDir {
        self.checks.take().unwrap().stop();
        self.runtime.block_on(self.handle.take().unwrap().shutdown());
        self.directory
    }
}

fn health_checks() -> BTreeMap<CheckKey, Arc<HealthCheckSpec>> {
    let check = |name: &str, spec: Value| {
        let spec: HealthCheckSpec = serde_json::from_value(spec).unwrap();
        (CheckKey::new("tp", name), Arc::new(spec))
    };
    BTreeMap::from([
        check("answers", json!({"interval": "1s", "fall": 2, "tcp": {}})),
        check("in-service", json!({"file": {"name": "in-service"}})),
    ])
}

/// What an agent that starts now would do, as `plan` says.
fn planned(directory: &Path, spec: VirtualServiceBindingSpec) -> Vec<PlannedOp> {
    let bindings = [(key("web"), Arc::new(spec))].into();
    let config = Arc::new(NodeConfig { bindings, ..NodeConfig::new(DirectorConfigSpec::default()) });
    let (live, problem) = checks::kept("dir1", directory, &config, &health_checks());
    assert_eq!(problem, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plan_once(&config, &live, &reconcile::Options::new(directory))).unwrap()
}

/// Something that accepts connections.
struct Server {
    ended: Arc<AtomicBool>,
    address: &'static str,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn new(address: &'static str) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind(address).unwrap();
        let over = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            // A connection is closed at once: whoever opened it may not run now, and cannot be waited for.
            for _ in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        Self { ended, address, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Two real servers on loopback addresses, checked, and a sorry server.
fn web(more: Value) -> VirtualServiceBindingSpec {
    let server = |name: &str, address: &str| {
        json!({"name": name, "address": address, "weight": 1, "forwarding": {"method": "Masquerade"},
            "targetPorts": [80], "healthChecks": ["answers"]})
    };
    let mut fields = json!({
        "realServers": [server("srv1", "127.0.1.1"), server("srv2", "127.0.1.2")],
        "sorryServers": [{"name": "sorry-ipv4", "address": "127.0.1.99", "weight": 1, "forwarding": {"method": "Masquerade"},
            "targetPorts": [80]}],
    });
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    binding(&["192.16.193.30"], 80, &[], fields)
}

const SERVICE: &str = "-A -t 192.16.193.30:80 -s rr";
const SRV1: &str = "-a -t 192.16.193.30:80 -r 127.0.1.1:80 -m -w 1";
const SRV2: &str = "-a -t 192.16.193.30:80 -r 127.0.1.2:80 -m -w 1";
const SORRY: &str = "-a -t 192.16.193.30:80 -r 127.0.1.99:80 -m -w 1";

#[test]
fn a_server_that_stops_leaves_and_without_any_the_sorry_server_comes() {
    in_namespace(|| {
        let (first, second) = (Server::new("127.0.1.1:80"), Server::new("127.0.1.2:80"));
        let director = Director::start(tempfile::tempdir().unwrap(), web(json!({})));
        director.holds(&[SERVICE, SRV1, SRV2]);
        drop(first);
        director.holds(&[SERVICE, SRV2]);
        drop(second);
        director.holds(&[SERVICE, SORRY]);

        // Another agent knows it from the start.
        let directory = director.stop();
        assert_eq!(planned(directory.path(), web(json!({}))), []);
        let mut director = Director::start(directory, web(json!({})));
        assert_eq!(rules(), [SERVICE, SORRY].map(ToOwned::to_owned));

        let second = Server::new("127.0.1.2:80");
        director.holds(&[SERVICE, SRV2]);
        let _first = Server::new("127.0.1.1:80");
        director.holds(&[SERVICE, SRV1, SRV2]);

        // What is done below the quorum, and to those who fail, is a change in place.
        drop(second);
        director.holds(&[SERVICE, SRV1]);
        director.put(web(json!({"onFailure": "Quiesce"})));
        director.holds(&[SERVICE, SRV1, "-a -t 192.16.193.30:80 -r 127.0.1.2:80 -m -w 0"]);
        director.put(web(json!({"quorum": {"weight": 2, "below": "Withdraw"}})));
        director.holds(&[]);
        director.put(web(json!({"quorum": {"weight": 2, "below": "Keep"}})));
        director.holds(&[SERVICE, SRV1]);
    });
}

#[test]
fn a_removed_server_drains_and_a_file_takes_one_out() {
    in_namespace(|| {
        let (_first, _second) = (Server::new("127.0.1.1:80"), Server::new("127.0.1.2:80"));
        let mut director = Director::start(tempfile::tempdir().unwrap(), web(json!({})));
        director.holds(&[SERVICE, SRV1, SRV2]);
        let only = web(json!({"drainTimeout": "1h"}));
        let one = |more: Value| {
            let mut spec = only.clone();
            spec.real_servers.truncate(1);
            if more.is_array() {
                spec.real_servers[0].health_checks = serde_json::from_value(more).unwrap();
            }
            spec
        };
        director.put(one(Value::Null));
        // It has no connection: after a moment in which one may still come to be, it goes.
        director.holds(&[SERVICE, SRV1]);

        director.put(one(json!(["answers", "in-service"])));
        director.holds(&[SERVICE, SORRY]);
        let file = director.files.path().join("in-service");
        std::fs::write(&file, "7\n").unwrap();
        director.holds(&[SERVICE, "-a -t 192.16.193.30:80 -r 127.0.1.1:80 -m -w 7"]);
        std::fs::remove_file(&file).unwrap();
        director.holds(&[SERVICE, SORRY]);
    });
}
