//! What this machine lacks is no word about a target. Alone in its process: the limit is the whole process's.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use bascule_checks::{Dns, Http, Outcome, Ping, Probe, Prober, QueryName, RecordType, Settings, Smtp};
use bascule_checks::{Target, Transport, Udp};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn probes() -> Vec<Probe> {
    let dns = |transport| {
        let name = QueryName::parse(".").unwrap();
        Probe::Dns(Dns { name, record_type: RecordType::Soa, transport })
    };
    vec![
        Probe::Tcp,
        Probe::Http(Http::default()),
        Probe::Smtp(Smtp { helo: None, start_tls: false }),
        dns(Transport::Udp),
        dns(Transport::Tcp),
        // Silence passes, but here nothing is sent that could be met with silence.
        Probe::Udp(Udp::default()),
        Probe::Ping(Ping::default()),
    ]
}

#[tokio::test]
async fn without_descriptors_nothing_is_said_of_a_target() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = |address: SocketAddr| {
        let port = address.port();
        Target { address: address.ip(), port, source: None, mark: None }
    };
    let target = target(listener.local_addr().unwrap());
    let prober = Prober::new(Settings { helo: "dir1.example".into() });
    let run = async |probe: &Probe| -> Outcome {
        prober.prepare(probe, &target).unwrap().run(Duration::from_secs(60)).await
    };
    assert!(run(&Probe::Tcp).await.is_passed());

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The lowest that is free is the first beyond the limit.
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).unwrap(), hard).unwrap();
    let mut outcomes = Vec::new();
    for probe in probes() {
        outcomes.push((run(&probe).await, probe));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    for (outcome, probe) in outcomes {
        assert!(!outcome.is_decided(), "{probe:?}: {outcome:?}");
        assert!(outcome.message().ends_with("this machine has too many open files"), "{outcome:?}");
    }

    assert!(run(&Probe::Tcp).await.is_passed(), "and the next one asks again");
}
