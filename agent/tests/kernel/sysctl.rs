//! Settings.

use bascule_agent::reconcile::{FailureReason, PlaneName, Programmed};
use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, binding},
    world::{in_namespace, ip, set_sysctl, sysctl, wait_until},
};

fn web(more: Value) -> VirtualServiceBindingSpec {
    binding(&["10.0.0.1"], 80, &["10.1.0.1"], more)
}

fn director(value: Value) -> DirectorConfigSpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn only_what_is_needed_is_set() {
    in_namespace(|| {
        let mut agent = Agent::start([("web", web(json!({"method": "DirectRouting"})))]);
        assert_eq!(sysctl("net/ipv4/ip_forward"), "0", "direct routing works without");
        assert_eq!(sysctl("net/ipv4/vs/conntrack"), "0");
        assert_eq!(sysctl("net/ipv4/vs/expire_nodest_conn"), "1");
        assert_eq!(sysctl("net/ipv4/vs/expire_quiescent_template"), "1");
        agent.put("web", Some(web(json!({}))));
        assert_eq!(sysctl("net/ipv4/ip_forward"), "1");
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "0");
        assert_eq!(sysctl("net/ipv4/vs/conntrack"), "0");
        agent.put("web", Some(web(json!({"sourceNat": "Always"}))));
        assert_eq!(sysctl("net/ipv4/vs/conntrack"), "1");
        agent.director(director(
            json!({"director": "dir1", "expire": {"noDestination": false, "quiescentTemplate": true}}),
        ));
        assert_eq!(sysctl("net/ipv4/vs/expire_nodest_conn"), "0");
        agent.has_nothing_to_do();
    });
}

#[test]
fn drift_is_put_back() {
    in_namespace(|| {
        let agent = Agent::start([("web", web(json!({"sourceNat": "Always"})))]);
        for (repaired, path) in
            (1..).zip(["net/ipv4/ip_forward", "net/ipv4/vs/conntrack", "net/ipv4/vs/expire_nodest_conn"])
        {
            set_sysctl(path, "0");
            let took = wait_until("it is back", || sysctl(path) == "1");
            eprintln!("{path}: back after {took:?}");
            wait_until("the repair is counted", || agent.repaired(PlaneName::Sysctl) == repaired);
        }
        agent.has_nothing_to_do();
    });
}

#[test]
fn forwarding_ipv6_does_not_cost_the_default_route_that_a_router_advertised() {
    in_namespace(|| {
        ip("link add enp0s3 type dummy");
        ip("link add quiet type dummy");
        set_sysctl("net/ipv6/conf/quiet/accept_ra", "0");
        let agent = Agent::start([("web", binding(&["2001:db8::1"], 80, &["2001:db8:1::1"], json!({})))]);
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
        assert_eq!(sysctl("net/ipv6/conf/enp0s3/accept_ra"), "2");
        assert_eq!(sysctl("net/ipv6/conf/default/accept_ra"), "2", "for interfaces that come later");
        assert_eq!(sysctl("net/ipv6/conf/quiet/accept_ra"), "0");
        assert_eq!(sysctl("net/ipv4/ip_forward"), "0");
        agent.has_nothing_to_do();
    });
}

#[test]
fn with_report_nothing_is_set_and_everything_said() {
    in_namespace(|| {
        let mut agent = Agent::start([]);
        agent.director(director(json!({"director": "dir1", "sysctls": "Report"})));
        agent.put("web", Some(web(json!({}))));
        assert_eq!(sysctl("net/ipv4/ip_forward"), "0");
        let Programmed::No(failures) = agent.programmed("web") else {
            panic!("{:?}", agent.programmed("web"))
        };
        assert_eq!(
            (failures[0].reason, failures[0].object.as_str()),
            (FailureReason::NotManaged, "net.ipv4.ip_forward")
        );
        set_sysctl("net/ipv4/ip_forward", "1");
        wait_until("it is well once somebody set it", || agent.programmed("web") == Programmed::Yes);
    });
}
