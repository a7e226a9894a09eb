//! Routes and policy rules of the groups: there while a group's addresses are here, and not a moment longer than that can be had.
//!
//! What is wanted follows from the virtual routers whose addresses this machine holds. What the kernel holds of ours is known by
//! its mark: [`MARK`] is the protocol of the route (`ip route show proto 112`) and of the rule (`ip rule`). It is read once, then
//! kept up to date by notifications, and read again where the kernel takes routes away without one (an address or a link goes).
//! The difference is carried out after addresses were added and before they are announced, and before addresses are removed. So a
//! sweep after a crash, a change of the configuration and putting back what somebody removed are one and the same thing.
//!
//! The kernel gives IPv4 routes and rules no lifetime. When the agent dies they stay until it is started again, unless the route's
//! `source` is an address of the group: with that address, which has a lifetime, it goes.

mod drive;
mod kernel;
mod message;

use std::{collections::BTreeMap, collections::BTreeSet, fmt, net::IpAddr};

use bascule_crds::common::AddressPrefix;
use bascule_crds::vrrp_group::{self as crds, Instance};

pub(super) use drive::{Cause, Routing};

/// Protocol of our routes (RTPROT_*) and rules (FRA_PROTOCOL): VRRP's number among the protocols of IP. No program is known to use
/// it (include/uapi/linux/rtnetlink.h and etc/rt_protos of iproute2 do not; keepalived has 18).
pub(crate) const MARK: u8 = 112;

/// RT_TABLE_MAIN.
const MAIN: u32 = 254;

/// What tells a route from others: the kernel has one of these at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    /// The table.
    pub(crate) table: u32,
    /// The destination.
    pub(crate) to: AddressPrefix,
    /// The metric as the kernel has it.
    pub(crate) metric: u32,
}

/// A route that a group wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// What tells it from others.
    pub(crate) key: RouteKey,
    /// The gateway.
    pub(crate) via: Option<IpAddr>,
    /// The interface.
    pub(crate) interface: String,
    /// The preferred source.
    pub(crate) source: Option<IpAddr>,
}

/// A policy rule that a group wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What it is for.
    pub(crate) selector: Selector,
    /// Its place; none is the kernel's choice.
    pub(crate) priority: Option<u32>,
}

/// What a rule is for, and where it sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selector {
    /// IPv4 or IPv6.
    pub(crate) is_ipv4: bool,
    /// From this network.
    pub(crate) from: Option<AddressPrefix>,
    /// To this network.
    pub(crate) to: Option<AddressPrefix>,
    /// Into this table.
    pub(crate) table: u32,
}

/// A route of ours in the kernel, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldRoute {
    pub(crate) via: Option<IpAddr>,
    /// Index of the interface.
    pub(crate) index: Option<u32>,
    pub(crate) source: Option<IpAddr>,
}

/// A rule of ours in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeldRule {
    pub(crate) selector: Selector,
    pub(crate) priority: u32,
}

/// What is wanted, in the order of the configuration: a route to a gateway stands before those that go through it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
}

/// What the kernel holds of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) routes: BTreeMap<RouteKey, HeldRoute>,
    pub(crate) rules: BTreeSet<HeldRule>,
}

/// A notification of the kernel about something of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Route(RouteKey, HeldRoute),
    RouteGone(RouteKey),
    Rule(HeldRule),
    RuleGone(HeldRule),
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    AddRoute {
        route: Route,
        /// Index of its interface.
        index: u32,
        /// One of ours with the same key gives way.
        replace: bool,
    },
    RemoveRoute(RouteKey),
    AddRule(Rule),
    RemoveRule(HeldRule),
}

impl RouteKey {
    fn of(route: &crds::Route) -> Self {
        // The kernel's IP6_RT_PRIO_USER; in IPv4 none is 0.
        let default = if route.to.address.is_ipv4() { 0 } else { 1024 };
        let metric = route.metric.filter(|metric| *metric > 0).unwrap_or(default);
        Self { table: route.table.unwrap_or(MAIN), to: route.to.network(), metric }
    }
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.rules.is_empty()
    }

    /// Adds what an instance wants where its addresses are. What two groups want alike is wanted once.
    pub(crate) fn add(&mut self, instance: &Instance) {
        for route in &instance.routes {
            let route = Route {
                key: RouteKey::of(route),
                via: route.via,
                interface: route.interface.clone().unwrap_or_else(|| instance.interface.clone()),
                source: route.source,
            };
            if !self.routes.iter().any(|other| other.key == route.key) {
                self.routes.push(route);
            }
        }
        for rule in &instance.rules {
            let Some(any) = rule.from.or(rule.to) else { continue };
            // All addresses is what the kernel has no network for.
            let some = |of: Option<AddressPrefix>| of.filter(|of| of.length > 0).map(|of| of.network());
            let selector = Selector {
                is_ipv4: any.address.is_ipv4(),
                from: some(rule.from),
                to: some(rule.to),
                table: rule.table,
            };
            let rule = Rule { selector, priority: rule.priority };
            if !self.rules.contains(&rule) {
                self.rules.push(rule);
            }
        }
    }
}

impl Rule {
    /// Whether a rule in the kernel is this one.
    fn is(&self, held: &HeldRule) -> bool {
        self.selector == held.selector && self.priority.is_none_or(|priority| priority == held.priority)
    }
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.rules.is_empty()
    }

    /// Takes a notification; true when it was news.
    pub(crate) fn update(&mut self, event: Event) -> bool {
        match event {
            Event::Route(key, route) => self.routes.insert(key, route.clone()) != Some(route),
            Event::RouteGone(key) => self.routes.remove(&key).is_some(),
            Event::Rule(rule) => self.rules.insert(rule),
            Event::RuleGone(rule) => self.rules.remove(&rule),
        }
    }

    /// What the kernel holds after a change that it took. The priority that the kernel chose comes with its notification.
    pub(crate) fn after(&mut self, op: &Op) {
        match op {
            Op::AddRoute { route, index, .. } => {
                let held = HeldRoute { via: route.via, index: Some(*index), source: route.source };
                self.routes.insert(route.key.clone(), held);
            }
            Op::RemoveRoute(key) => {
                self.routes.remove(key);
            }
            Op::AddRule(rule) => {
                if let Some(priority) = rule.priority {
                    self.rules.insert(HeldRule { selector: rule.selector.clone(), priority });
                }
            }
            Op::RemoveRule(rule) => {
                self.rules.remove(rule);
            }
        }
    }
}

/// What makes the kernel's entries of ours those that are wanted, and the routes whose interface is not there. First what is
/// added, a table before the rule that sends into it; then what is removed, the other way round.
pub(crate) fn plan<'a>(
    wanted: &'a Wanted,
    held: &Held,
    index: impl Fn(&str) -> Option<u32>,
) -> (Vec<Op>, Vec<&'a Route>) {
    let (mut ops, mut homeless) = (Vec::new(), Vec::new());
    for route in &wanted.routes {
        let Some(index) = index(&route.interface) else {
            homeless.push(route);
            continue;
        };
        let now = held.routes.get(&route.key);
        let same =
            |now: &HeldRoute| (now.via, now.index, now.source) == (route.via, Some(index), route.source);
        if !now.is_some_and(same) {
            ops.push(Op::AddRoute { route: route.clone(), index, replace: now.is_some() });
        }
    }
    let missing = wanted.rules.iter().filter(|rule| !held.rules.iter().any(|held| rule.is(held)));
    ops.extend(missing.cloned().map(Op::AddRule));
    let spare = held.rules.iter().filter(|held| !wanted.rules.iter().any(|rule| rule.is(held)));
    ops.extend(spare.cloned().map(Op::RemoveRule));
    // One whose interface is gone is not wanted either: the kernel removes it by itself.
    let wanted: BTreeSet<_> = wanted.routes.iter().map(|route| &route.key).collect();
    let spare = held.routes.keys().filter(|key| !wanted.contains(key));
    ops.extend(spare.cloned().map(Op::RemoveRoute));
    (ops, homeless)
}

impl fmt::Display for RouteKey {
    /// As `ip route` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, to, metric } = self;
        if to.length == 0 {
            write!(f, "default")?
        } else {
            write!(f, "{to}")?
        }
        if *table != MAIN {
            write!(f, " table {table}")?;
        }
        let default = if to.address.is_ipv4() { 0 } else { 1024 };
        if *metric == default { Ok(()) } else { write!(f, " metric {metric}") }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.key)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.interface)?;
        self.source.map_or(Ok(()), |source| write!(f, " src {source}"))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "from {from} ")?,
            None => write!(f, "from all ")?,
        }
        if let Some(to) = self.to {
            write!(f, "to {to} ")?;
        }
        write!(f, "lookup {}", self.table)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.selector)?;
        self.priority.map_or(Ok(()), |priority| write!(f, " priority {priority}"))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRoute { route, .. } => write!(f, "{route}"),
            Self::RemoveRoute(key) => write!(f, "route {key}"),
            Self::AddRule(rule) => write!(f, "{rule}"),
            Self::RemoveRule(HeldRule { selector, priority }) => {
                write!(f, "rule {selector} priority {priority}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
