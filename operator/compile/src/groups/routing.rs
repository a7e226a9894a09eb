//! Routes and policy rules that move with a group: what they contradict, and what tells them from others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use bascule_crds::VrrpGroupSpec;
use bascule_crds::common::{AddressPrefix, Family};
use bascule_crds::vrrp_group::Route;

use crate::problem::Problems;

/// RT_TABLE_MAIN.
const MAIN: u32 = 254;
/// RT_TABLE_LOCAL.
const LOCAL: u32 = 255;

/// What the kernel tells routes apart by: it has one of these at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    table: u32,
    to: AddressPrefix,
    metric: u32,
}

impl RouteKey {
    pub(crate) fn of(route: &Route) -> RouteKey {
        // 0 is IPv6's default, IP6_RT_PRIO_USER.
        let default = if route.to.family() == Family::IPv4 { 0 } else { 1024 };
        RouteKey {
            table: route.table.unwrap_or(MAIN),
            to: route.to.network(),
            metric: route.metric.filter(|metric| *metric > 0).unwrap_or(default),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteKey { table, to, metric } = self;
        write!(f, "the route to {to} with metric {metric} in table {table}")
    }
}

/// Everything in which routes and rules contradict themselves, each other, or the group's `addresses`.
pub(crate) fn check(spec: &VrrpGroupSpec, addresses: &BTreeSet<IpAddr>, problems: &mut Problems) {
    let mut routes: BTreeMap<RouteKey, (usize, usize)> = BTreeMap::new();
    let mut rules = BTreeMap::new();
    for (i, instance) in spec.instances.iter().enumerate() {
        for (j, route) in instance.routes.iter().enumerate() {
            let at = |field: &str| format!("spec.instances[{i}].routes[{j}].{field}");
            if route.table == Some(LOCAL) {
                problems
                    .invalid(at("table"), "255 is the table of the kernel's own addresses; give another one");
            }
            if let Some(via) = route.via.filter(|via| addresses.contains(via)) {
                problems.invalid(
                    at("via"),
                    format!("{via} is an address of the group: the active director would be its own gateway"),
                );
            }
            host_bits(route.to, &at("to"), problems);
            if let Some((i, j)) = routes.insert(RouteKey::of(route), (i, j)) {
                problems.invalid(
                    at("to"),
                    format!(
                        "{} stands in instances[{i}].routes[{j}] with the same table and metric, too; remove one of them",
                        route.to
                    ),
                );
            }
        }
        for (j, rule) in instance.rules.iter().enumerate() {
            let at = |field: &str| format!("spec.instances[{i}].rules[{j}].{field}");
            for (network, field) in [(rule.from, "from"), (rule.to, "to")] {
                if let Some(network) = network {
                    host_bits(network, &at(field), problems);
                }
            }
            if let Some((i, j)) = rules.insert((rule.from, rule.to, rule.table), (i, j)) {
                let field = if rule.from.is_some() { "from" } else { "to" };
                problems.invalid(
                    at(field),
                    format!(
                        "instances[{i}].rules[{j}] sends the same into table {}; remove one of them",
                        rule.table
                    ),
                );
            }
        }
    }
}

fn host_bits(network: AddressPrefix, field: &str, problems: &mut Problems) {
    if network.network() != network {
        problems.invalid(
            field.to_owned(),
            format!("{network} is an address in a network; the network is {}", network.network()),
        );
    }
}
