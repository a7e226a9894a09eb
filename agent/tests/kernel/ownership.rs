//! What is ours goes and comes back, what is somebody else's stays.

use std::fs;

use bascule_agent::reconcile::{FailureReason, Options, PlaneName, Programmed};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use serde_json::json;

use crate::{
    agent::{Agent, binding},
    world::{in_namespace, ipvsadm, rules, wait_until},
};

fn web() -> VirtualServiceBindingSpec {
    binding(&["192.16.193.30"], 80, &["172.16.193.10", "172.16.193.40"], json!({}))
}

fn dns() -> VirtualServiceBindingSpec {
    binding(&["10.0.0.1"], 53, &["10.1.0.1"], json!({"ports": [{"protocol": "UDP", "port": 53}]}))
}

fn options(directory: &tempfile::TempDir) -> Options {
    Options::new(directory.path().join("run"))
}

const FOREIGN: &str = "-A -t 10.9.9.9:80 -s wlc";

#[test]
fn a_foreign_service_stays() {
    in_namespace(|| {
        ipvsadm(FOREIGN);
        ipvsadm("-a -t 10.9.9.9:80 -r 10.1.0.1:80 -g -w 5");
        let mut agent = Agent::start([("web", web())]);
        agent.put("web", None);
        agent.put("web", Some(web()));
        agent.has_nothing_to_do();
        agent.put("web", None);
        assert_eq!(rules(), [FOREIGN, "-a -t 10.9.9.9:80 -r 10.1.0.1:80 -g -w 5"]);
    });
}

#[test]
fn a_foreign_service_on_our_address_is_a_conflict_until_it_goes() {
    in_namespace(|| {
        ipvsadm("-A -t 192.16.193.30:80 -s wlc");
        let agent = Agent::start([("web", web()), ("dns", dns())]);
        assert!(rules().contains(&"-A -t 192.16.193.30:80 -s wlc".to_owned()), "left alone");
        assert_eq!(agent.programmed("dns"), Programmed::Yes);
        let Programmed::No(failures) = agent.programmed("web") else {
            panic!("{:?}", agent.programmed("web"))
        };
        assert_eq!(
            (failures[0].reason, failures[0].object.as_str()),
            (FailureReason::Conflict, "TCP 192.16.193.30:80")
        );
        assert!(failures[0].message.contains("--adopt"), "{}", failures[0].message);
        let error = agent.plan().unwrap_err();
        assert!(error.ops.is_empty() && error.to_string().contains("TCP 192.16.193.30:80"), "{error}");
        ipvsadm("-D -t 192.16.193.30:80");
        wait_until("it is ours once the other one has gone", || agent.programmed("web") == Programmed::Yes);
        agent.has_nothing_to_do();
    });
}

#[test]
fn adopting_takes_it_over_in_place() {
    in_namespace(|| {
        ipvsadm("-A -t 192.16.193.30:80 -s wlc");
        ipvsadm("-a -t 192.16.193.30:80 -r 172.16.193.40:80 -g -w 5");
        ipvsadm("-a -t 192.16.193.30:80 -r 172.16.193.99:80 -m");
        let directory = tempfile::tempdir().unwrap();
        let options = Options { adopt: true, ..options(&directory) };
        let agent = Agent::start_with(options, DirectorConfigSpec::default(), [("web", web())]);
        assert_eq!(agent.programmed("web"), Programmed::Yes);
        let operations = agent.operations(PlaneName::Ipvs);
        let expected =
            [("add-real-server", 1), ("remove-real-server", 1), ("set-real-server", 1), ("set-service", 1)];
        assert_eq!(operations.into_iter().collect::<Vec<_>>(), expected);
        agent.has_nothing_to_do();
    });
}

#[test]
fn after_a_crash_exactly_what_is_ours_and_no_longer_wanted_goes() {
    in_namespace(|| {
        let directory = tempfile::tempdir().unwrap();
        let options = options(&directory);
        let first = Agent::start_with(
            options.clone(),
            DirectorConfigSpec::default(),
            [("web", web()), ("dns", dns())],
        );
        let programmed = rules();
        // The kernel keeps everything when the agent ends; the same next one finds nothing to do.
        first.stop();
        assert_eq!(rules(), programmed);
        ipvsadm(FOREIGN);
        let second = Agent::start_with(
            options.clone(),
            DirectorConfigSpec::default(),
            [("web", web()), ("dns", dns())],
        );
        assert_eq!(second.operations(PlaneName::Ipvs).len(), 0);
        drop(second);
        let third = Agent::start_with(options, DirectorConfigSpec::default(), [("dns", dns())]);
        assert!(rules().contains(&FOREIGN.to_owned()));
        assert_eq!(rules().iter().filter(|rule| rule.contains("192.16.193.30")).count(), 0);
        assert_eq!(rules().iter().filter(|rule| rule.contains("10.0.0.1:53")).count(), 2);
        third.has_nothing_to_do();
    });
}

#[test]
fn a_lost_ledger_costs_nothing_where_the_kernel_holds_what_is_wanted() {
    in_namespace(|| {
        let directory = tempfile::tempdir().unwrap();
        let options = options(&directory);
        Agent::start_with(options.clone(), DirectorConfigSpec::default(), [("web", web())]).stop();
        fs::remove_dir_all(&options.run_dir).unwrap();
        let mut agent = Agent::start_with(options, DirectorConfigSpec::default(), [("web", web())]);
        assert_eq!(agent.programmed("web"), Programmed::Yes);
        assert_eq!(agent.operations(PlaneName::Ipvs).len(), 0);
        agent.put("web", None);
        assert_eq!(rules(), Vec::<String>::new(), "it was ours again");
    });
}

#[test]
fn a_ledger_that_cannot_be_written_is_said_and_stops_nothing() {
    in_namespace(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run");
        fs::write(&file, "not a directory").unwrap();
        let agent = Agent::start_with(Options::new(&file), DirectorConfigSpec::default(), [("web", web())]);
        assert_eq!(agent.programmed("web"), Programmed::Yes);
        assert_eq!(rules().len(), 3);
        let failures = agent.failures();
        let ledger = failures
            .iter()
            .find(|(plane, failure)| *plane == PlaneName::Ipvs && failure.reason == FailureReason::Ledger);
        assert!(ledger.unwrap().1.message.contains(file.to_str().unwrap()));
        fs::remove_file(&file).unwrap();
        wait_until("the ledger is written once that is possible", || agent.failures().is_empty());
        assert!(fs::read_to_string(file.join("ipvs.ledger")).unwrap().contains("192.16.193.30"));
    });
}
