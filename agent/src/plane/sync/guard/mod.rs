//! The guard against resets after a takeover.
//!
//! The director that takes over may not know a connection that is younger than the synchronisation is late (see `sync_threshold`
//! and the master's buffer of 3 s). Its segments find no connection in IPVS, reach the director's own TCP, and that answers with a
//! reset. Dropped instead, they are sent again by the client until the connection is known, or for ever lost where it never is.
//!
//! Or IPVS has an entry of an earlier connection from the same port of the client, one that is over: ports come back soon. Then the
//! segments go to the real server of that one, and it is its reset that would come back.
//!
//! A table of its own, `inet bascule-guard`, drops TCP segments that are not a plain SYN, go to an address that is armed and to a
//! port of a virtual service there. It stands behind IPVS, which takes what it knows out of the way before (LOCAL_IN 98 and 99,
//! net/netfilter/ipvs/ip_vs_core.c). An address is armed for [`ARMED`] by one transaction, and disarmed by the kernel, whatever
//! becomes of this process. A connection whose segments were dropped in that time is remembered for [`REMEMBERED`]: else the next
//! time that its client sends them they would be answered with the reset after all. What passes through is looked at as well, behind
//! IPVS: a bare reset from a service's address and port is dropped under the same conditions, and while anything is armed any other bare
//! reset, because what a real server sends on a connection that IPVS has yet to hear of reaches the client untranslated, and the client's
//! answer to that would end it.

mod encode;
mod kernel;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bascule_compile::{BindingKey, MAX_ELEMENTS};
use bascule_crds::{VirtualServiceBindingSpec, common::Protocol};

pub use kernel::Guard;
pub(crate) use kernel::{Io, Kernel};

use crate::plane::{attribute::octets, nat::Version};

/// The table, of the family `inet`.
pub(crate) const TABLE: &str = "bascule-guard";

/// How long an address stays armed: what was established longer ago is known to the successor (a master's buffer waits at most
/// 2 s, its thread 1 s, net/netfilter/ipvs/ip_vs_sync.c), with a second to spare.
pub const ARMED: Duration = Duration::from_secs(4);

/// How long the segments of a connection are dropped that was met while its address was armed: as long as a Linux client goes on
/// sending again (tcp(7), `tcp_retries2`). Unlike a reset, silence ends nothing: when the address goes back to the director that
/// knows the connection, it lives on.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// Elements of a set that are kept when the table is made anew. It is done in one transaction, which has to fit into the socket's buffer.
const KEPT: usize = 8192;

/// A set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// Addresses and ports of services.
    Ports(Version),
    /// Addresses of services on every port.
    Whole(Version),
    /// Addresses that are armed, each for a time.
    Armed(Version),
    /// Connections that were silenced, which rules fill and the kernel empties.
    Silenced(Version),
}

impl Set {
    /// All there are.
    pub(crate) const ALL: [Self; 8] = [
        Self::Ports(Version::V4),
        Self::Ports(Version::V6),
        Self::Whole(Version::V4),
        Self::Whole(Version::V6),
        Self::Armed(Version::V4),
        Self::Armed(Version::V6),
        Self::Silenced(Version::V4),
        Self::Silenced(Version::V6),
    ];

    /// The name in the kernel.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ports(Version::V4) => "ports4",
            Self::Ports(Version::V6) => "ports6",
            Self::Whole(Version::V4) => "addresses4",
            Self::Whole(Version::V6) => "addresses6",
            Self::Armed(Version::V4) => "armed4",
            Self::Armed(Version::V6) => "armed6",
            Self::Silenced(Version::V4) => "silenced4",
            Self::Silenced(Version::V6) => "silenced6",
        }
    }

    /// The family of its addresses.
    pub(crate) fn version(self) -> Version {
        match self {
            Self::Ports(version) | Self::Whole(version) => version,
            Self::Armed(version) | Self::Silenced(version) => version,
        }
    }

    /// Bytes of a key: an address, and a port in four bytes; of a connection, both ends.
    fn key_length(self) -> usize {
        let address = self.version().length();
        match self {
            Self::Whole(_) | Self::Armed(_) => address,
            Self::Ports(_) => address + 4,
            Self::Silenced(_) => 2 * (address + 4),
        }
    }

    /// How long its elements last at most; none, where they stay.
    fn lasts(self) -> Option<Duration> {
        match self {
            Self::Ports(_) | Self::Whole(_) => None,
            Self::Armed(_) => Some(ARMED),
            Self::Silenced(_) => Some(REMEMBERED),
        }
    }
}

/// A key of a set, as the kernel holds it.
pub(crate) type Key = Vec<u8>;

/// A key and its set.
pub(crate) type Element = (Set, Key);

/// Keys by set.
pub(crate) type Elements = BTreeMap<Set, BTreeSet<Key>>;

/// The service on a port of an address; 0 is every port.
fn element(address: IpAddr, port: u16) -> Element {
    let (mut key, version) = (octets(address), Version::of(address));
    if port == 0 {
        return (Set::Whole(version), key);
    }
    key.extend(port.to_be_bytes());
    key.extend([0; 2]);
    (Set::Ports(version), key)
}

/// What the table should hold; without connectionSync there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    /// Whether there shall be a table.
    pub(crate) wanted: bool,
    /// By element: how many bindings want it.
    elements: BTreeMap<Element, usize>,
    bindings: BTreeMap<BindingKey, BTreeSet<Element>>,
    /// Bindings with more ports than a set shall have.
    too_large: BTreeSet<BindingKey>,
}

impl Desired {
    /// The bindings that want anything.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &BindingKey> {
        self.bindings.keys().chain(&self.too_large)
    }

    /// Bindings that the guard does not cover.
    pub(crate) fn too_large(&self) -> &BTreeSet<BindingKey> {
        &self.too_large
    }

    /// Takes a changed binding, none when it is gone; returns the elements that may have changed.
    pub(crate) fn set(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
    ) -> BTreeSet<Element> {
        self.too_large.remove(key);
        let mut affected = self.bindings.remove(key).unwrap_or_default();
        for element in &affected {
            if let Some(count) = self.elements.get_mut(element) {
                *count -= 1;
                if *count == 0 {
                    self.elements.remove(element);
                }
            }
        }
        let Some(own) = spec.map_or(Some(BTreeSet::new()), |spec| services(spec)) else {
            self.too_large.insert(key.clone());
            return affected;
        };
        for element in &own {
            *self.elements.entry(element.clone()).or_default() += 1;
        }
        affected.extend(own.iter().cloned());
        if !own.is_empty() {
            self.bindings.insert(key.clone(), own);
        }
        affected
    }
}

/// The TCP services of a binding whose addresses move with a group; none when there are too many. A mark that somebody else sets
/// says nothing about addresses.
fn services(spec: &VirtualServiceBindingSpec) -> Option<BTreeSet<Element>> {
    let mut own = BTreeSet::new();
    if spec.vrrp_group.is_none() {
        return Some(own);
    }
    let matched = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
    let ports: BTreeSet<u16> = match matched {
        Some(matched) => {
            matched.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port).collect()
        }
        None => {
            spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port).collect()
        }
    };
    for address in crate::plane::addresses(spec) {
        for port in &ports {
            own.insert(element(address, *port));
            if own.len() > MAX_ELEMENTS {
                return None;
            }
        }
    }
    Some(own)
}

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Whether there is a table of this name.
    pub(crate) exists: bool,
    /// Whether its chains, rules and sets are what we made.
    pub(crate) intact: bool,
    /// The services in it; read only while it is intact.
    pub(crate) services: BTreeSet<Element>,
    /// What lasts for a time, with what is left of it: what is armed and, when the table is not intact, what was silenced. Kept
    /// when the table is made anew; see [`kept`].
    pub(crate) timed: BTreeMap<Element, Duration>,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes the table anew.
    Replace {
        /// With these services.
        services: BTreeSet<Element>,
        /// What stays armed or silenced, and how long.
        timed: BTreeMap<Element, Duration>,
    },
    /// Adds and removes services.
    Change {
        /// First.
        remove: BTreeSet<Element>,
        /// Then.
        add: BTreeSet<Element>,
    },
    /// Removes the table.
    Remove,
}

impl Op {
    /// The kind, as in reports.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Replace { .. } => "replace-guard",
            Self::Change { .. } => "change-guard",
            Self::Remove => "remove-guard",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace { services, .. } => {
                write!(f, "make table inet {TABLE} for {} services", services.len())
            }
            Self::Change { remove, add } => {
                write!(f, "table inet {TABLE}: remove {}, add {} services", remove.len(), add.len())
            }
            Self::Remove => write!(f, "remove table inet {TABLE}"),
        }
    }
}

/// Plans one transaction, or none; for these elements only, or for all.
pub(crate) fn plan(scope: Option<&BTreeSet<Element>>, desired: &Desired, observed: &Observed) -> Option<Op> {
    if !desired.wanted {
        return observed.exists.then_some(Op::Remove);
    }
    if !(observed.exists && observed.intact) {
        let services = desired.elements.keys().cloned().collect();
        return Some(Op::Replace { services, timed: kept(&observed.timed) });
    }
    let wanted = |element: &&Element| desired.elements.contains_key(*element);
    let held = |element: &&Element| observed.services.contains(*element);
    let (remove, add): (BTreeSet<_>, BTreeSet<_>) = match scope {
        Some(scope) => (
            scope.iter().filter(|element| held(element) && !wanted(element)).cloned().collect(),
            scope.iter().filter(|element| wanted(element) && !held(element)).cloned().collect(),
        ),
        None => (
            observed.services.iter().filter(|element| !wanted(element)).cloned().collect(),
            desired.elements.keys().filter(|element| !held(element)).cloned().collect(),
        ),
    };
    (!(remove.is_empty() && add.is_empty())).then_some(Op::Change { remove, add })
}

impl Observed {
    /// What the kernel holds after a transaction.
    pub(crate) fn after(&mut self, op: &Op) {
        match op {
            Op::Replace { services, .. } => {
                *self =
                    Self { exists: true, intact: true, services: services.clone(), timed: BTreeMap::new() };
            }
            Op::Change { remove, add } => {
                self.services.retain(|element| !remove.contains(element));
                self.services.extend(add.iter().cloned());
            }
            Op::Remove => *self = Self::default(),
        }
    }
}

/// What is kept of what lasts for a time when the table is made anew: of each set the [`KEPT`] that last longest, which are the
/// newest. A table that somebody else made may hold anything; nothing of it lasts longer than it would by us.
fn kept(timed: &BTreeMap<Element, Duration>) -> BTreeMap<Element, Duration> {
    let mut by_set: BTreeMap<Set, Vec<(Duration, &Key)>> = BTreeMap::new();
    for ((set, key), left) in timed {
        if let Some(most) = set.lasts().filter(|_| key.len() == set.key_length()) {
            by_set.entry(*set).or_default().push(((*left).min(most), key));
        }
    }
    let mut kept = BTreeMap::new();
    for (set, mut elements) in by_set {
        elements.sort_unstable_by(|one, other| other.cmp(one));
        elements.truncate(KEPT);
        kept.extend(elements.into_iter().map(|(left, key)| ((set, key.clone()), left)));
    }
    kept
}

/// Sorts elements by set.
fn by_set<'a>(elements: impl IntoIterator<Item = &'a Element>) -> Elements {
    let mut sorted = Elements::new();
    for (set, key) in elements {
        sorted.entry(*set).or_default().insert(key.clone());
    }
    sorted
}
