//! Many services: what programming them costs beside a bare send of the same commands, and what one change costs.
//!
//! BASCULE_SCALE sets the number of services (default 1,000). Figures are printed; what the machine is not sure to keep while
//! other tests run beside is judged by the lab's benchmarks, not here.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bascule_agent::reconcile::PlaneName;
use bascule_crds::VirtualServiceBindingSpec;
use bascule_ipvs::{Client, Command, Destination, Forwarding, Protocol, Service, ServiceId};
use serde_json::json;

use crate::{
    agent::{Agent, binding},
    world::{in_namespace, ipvsadm, wait_until},
};

const SERVERS: [&str; 4] = ["172.16.193.10", "172.16.193.40", "172.16.193.41", "172.16.193.42"];

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn spec(number: u32, weight: u32) -> VirtualServiceBindingSpec {
    let first = format!("{}*{weight}", SERVERS[0]);
    binding(&[&address(number).to_string()], 80, &[&first, SERVERS[1], SERVERS[2], SERVERS[3]], json!({}))
}

/// CPU time of each thread of the planes so far, by name.
fn cpu() -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap().trim().to_owned();
        let statistics = fs::read_to_string(path.join("schedstat")).unwrap();
        if name.starts_with("plane-") {
            let nanoseconds = statistics.split(' ').next().unwrap().parse().unwrap();
            times.insert(name, Duration::from_nanos(nanoseconds));
        }
    }
    times
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_services_cost_about_a_bare_send_and_one_change_one_command() {
    let count: u32 = std::env::var("BASCULE_SCALE").map_or(1_000, |text| text.parse().unwrap());
    // In a namespace of its own: a real server that was removed lies in the kernel's trash for two minutes, and each one that is
    // added is looked for there, one by one (`ip_vs_trash_get_dest`). The agent puts a flushed table back in an order that makes
    // this short.
    in_namespace(move || {
        let commands: Vec<Command> = (0..count)
            .flat_map(|number| {
                let id = ServiceId::Address { protocol: Protocol::Tcp, address: address(number), port: 80 };
                let servers = SERVERS.map(|server| {
                    Command::NewDestination(
                        id,
                        Destination::new(server.parse().unwrap(), 80, Forwarding::Masquerade),
                    )
                });
                std::iter::once(Command::NewService(Service::new(id, "rr"))).chain(servers)
            })
            .collect();
        let started = Instant::now();
        let results = Client::connect().unwrap().execute_all(&commands).unwrap();
        let bare = started.elapsed();
        assert!(results.iter().all(Result::is_ok));
        eprintln!("{count} services of 4: bare {bare:?}");
    });
    in_namespace(move || {
        let names: Vec<String> = (0..count).map(|number| format!("web{number}")).collect();
        let specs: Vec<_> =
            names.iter().zip(0..).map(|(name, number)| (name.as_str(), spec(number, 1))).collect();
        let started = Instant::now();
        let mut agent = Agent::start(specs);
        let ours = started.elapsed();
        assert_eq!(agent.failures(), []);
        let operations = agent.operations(PlaneName::Ipvs);
        assert_eq!(operations["add-service"], u64::from(count));
        assert_eq!(operations["add-real-server"], 4 * u64::from(count));
        agent.has_nothing_to_do();
        let report = agent.report();
        let times = report.planes.iter().map(|(name, plane)| format!("{name} {:?}", plane.applying));
        eprintln!("handing it to the kernel: {}", times.collect::<Vec<_>>().join(", "));
        eprintln!("the agent, with everything: {ours:?}; {} MiB resident", resident_kib() / 1024);

        let mut lags = Vec::new();
        for round in 0..20 {
            let number = round * (count / 20);
            agent.put(&names[number as usize], Some(spec(number, 7)));
            lags.push(agent.report().lag.newest.back().unwrap().duration);
        }
        lags.sort();
        eprintln!("one weight: median {:?}, worst {:?}", lags[10], lags[19]);
        let after = agent.operations(PlaneName::Ipvs);
        assert_eq!(after["set-real-server"], 20, "one command a change");
        assert_eq!((after["add-service"], after.len()), (operations["add-service"], operations.len() + 1));

        if std::env::var_os("BASCULE_SCALE").is_some() {
            let (before, started) = (cpu(), Instant::now());
            std::thread::sleep(Duration::from_secs(20));
            let mut sum = 0.0;
            for (name, time) in cpu() {
                let spent = time.saturating_sub(before[&name]).as_secs_f64();
                let share = spent / started.elapsed().as_secs_f64() * 100.0;
                eprintln!("at rest: {name} {share:.2} % of a core");
                sum += share;
            }
            eprintln!("at rest: {sum:.2} % of a core");
        }

        let applying = |agent: &Agent| agent.report().planes[&PlaneName::Ipvs].applying;
        let (before, started) = (applying(&agent), Instant::now());
        ipvsadm("-C");
        wait_until("everything is back", || agent.repaired(PlaneName::Ipvs) == 5 * u64::from(count));
        let (all, kernel) = (started.elapsed(), applying(&agent).saturating_sub(before));
        eprintln!(
            "after ipvsadm -C everything was back in {all:?}, {kernel:?} of it handing it to the kernel"
        );
        agent.has_nothing_to_do();
    });
}
