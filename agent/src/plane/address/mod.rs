//! Addresses of virtual services on the director's interfaces.
//!
//! Ours carry a mark in the kernel (IFA_PROTO, Linux 5.18); where the kernel drops it, the ledger says whose an address is. An
//! address that somebody else put there before is used and never removed.

mod kernel;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::VirtualServiceBindingSpec;

pub(crate) use kernel::{Io, Kernel, keeps_marks};
pub(crate) use worker::{AddressPlane, homeless};

use super::rtnl::{DAD_FAILED, FOREVER, NODAD, TENTATIVE};
use crate::reconcile::ledger::Entry as LedgerEntry;

/// IFA_PROTO of our addresses. 0 to 3 are the kernel's; the others are free, and this one no known program uses.
pub const MARK: u8 = 98;

/// An address and the interface where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The interface.
    pub interface: Arc<str>,
    /// The address; ours are /32 or /128.
    pub address: IpAddr,
}

impl Place {
    /// An address on an interface.
    pub fn new(interface: &str, address: IpAddr) -> Self {
        Self { interface: interface.into(), address }
    }

    /// The length of the prefix that we give it.
    pub fn prefix(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix(), self.interface)
    }
}

/// A line `enp0s3 192.16.193.30`.
impl LedgerEntry for Place {
    fn line(&self) -> String {
        format!("{} {}", self.interface, self.address)
    }

    fn parse(line: &str) -> Option<Self> {
        let (interface, address) = line.split_once(' ')?;
        Some(Self::new(interface, address.parse().ok()?))
    }
}

/// The wanted addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    places: BTreeMap<Place, BTreeSet<BindingKey>>,
    bindings: BTreeMap<BindingKey, BTreeSet<Place>>,
    interfaces: BTreeMap<Arc<str>, usize>,
}

/// Everything that a configuration wants.
pub fn desired(config: &NodeConfig) -> Desired {
    let mut desired = Desired::default();
    for (key, spec) in &config.bindings {
        desired.set(key, Some(spec));
    }
    desired
}

impl Desired {
    /// The wanted addresses with the bindings that want them.
    pub fn places(&self) -> &BTreeMap<Place, BTreeSet<BindingKey>> {
        &self.places
    }

    /// Whether an address is wanted on an interface.
    pub fn uses(&self, interface: &str) -> bool {
        self.interfaces.contains_key(interface)
    }

    /// The bindings.
    pub fn keys(&self) -> impl Iterator<Item = &BindingKey> {
        self.bindings.keys()
    }

    /// Takes a changed binding, none when it is gone; returns the places where something may have to change.
    pub fn set(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
    ) -> BTreeSet<Place> {
        let new = spec.map(|spec| places(spec)).unwrap_or_default();
        let old = self.bindings.remove(key).unwrap_or_default();
        let mut affected = BTreeSet::new();
        for place in old.difference(&new) {
            if let Some(keys) = self.places.get_mut(place) {
                keys.remove(key);
                if keys.is_empty() {
                    self.places.remove(place);
                    self.forget(&place.interface);
                    affected.insert(place.clone());
                }
            }
        }
        for place in new.difference(&old) {
            let keys = self.places.entry(place.clone()).or_default();
            if keys.is_empty() {
                *self.interfaces.entry(Arc::clone(&place.interface)).or_default() += 1;
                affected.insert(place.clone());
            }
            keys.insert(key.clone());
        }
        if !new.is_empty() {
            self.bindings.insert(key.clone(), new);
        }
        affected
    }

    fn forget(&mut self, interface: &Arc<str>) {
        if let Some(count) = self.interfaces.get_mut(interface) {
            *count -= 1;
            if *count == 0 {
                self.interfaces.remove(interface);
            }
        }
    }
}

/// Where a binding wants addresses: with an interface those of the service, or those that its mark is set for.
fn places(spec: &VirtualServiceBindingSpec) -> BTreeSet<Place> {
    let Some(interface) = &spec.interface else { return BTreeSet::new() };
    let interface: Arc<str> = interface.as_str().into();
    super::addresses(spec).map(|address| Place { interface: Arc::clone(&interface), address }).collect()
}

/// An address as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Length of its prefix.
    pub prefix: u8,
    /// IFA_F_*.
    pub flags: u32,
    /// IFA_PROTO, 0 without.
    pub mark: u8,
    /// Preferred lifetime in seconds, `u32::MAX` without end.
    pub preferred: u32,
    /// Valid lifetime in seconds, `u32::MAX` without end.
    pub valid: u32,
}

/// The kernel's links and addresses: read once and kept up to date by the kernel's notifications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Interfaces by index.
    pub links: BTreeMap<u32, Arc<str>>,
    /// Addresses by interface index; one address may be there with several prefixes.
    pub addresses: BTreeMap<(IpAddr, u32), Vec<Held>>,
}

impl Observed {
    fn held(&self, place: &Place, index: u32) -> &[Held] {
        self.addresses.get(&(place.address, index)).map_or(&[], Vec::as_slice)
    }

    /// The addresses that carry our mark.
    pub fn marked(&self) -> impl Iterator<Item = Place> {
        let marked = self.addresses.iter().filter(|(_, held)| held.iter().any(|held| held.mark == MARK));
        marked.filter_map(|((address, index), _)| {
            Some(Place { interface: Arc::clone(self.links.get(index)?), address: *address })
        })
    }

    /// Takes a notification.
    pub fn update(&mut self, event: &Event) {
        match event {
            Event::Link { index, name } => {
                self.links.insert(*index, name.as_str().into());
            }
            Event::LinkGone { index } => {
                self.links.remove(index);
                self.addresses.retain(|(_, other), _| other != index);
            }
            Event::Address { address, index, held } => {
                let all = self.addresses.entry((*address, *index)).or_default();
                all.retain(|other| other.prefix != held.prefix);
                all.push(held.clone());
            }
            Event::AddressGone { address, index, prefix } => {
                if let Some(all) = self.addresses.get_mut(&(*address, *index)) {
                    all.retain(|other| other.prefix != *prefix);
                    if all.is_empty() {
                        self.addresses.remove(&(*address, *index));
                    }
                }
            }
        }
    }
}

/// A notification of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is new, renamed or changed.
    Link {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// A link has gone.
    LinkGone {
        /// Its index.
        index: u32,
    },
    /// An address is new or changed.
    Address {
        /// The address.
        address: IpAddr,
        /// The link's index.
        index: u32,
        /// What it is like.
        held: Held,
    },
    /// An address has gone.
    AddressGone {
        /// The address.
        address: IpAddr,
        /// The link's index.
        index: u32,
        /// The prefix that it had.
        prefix: u8,
    },
}

/// A change of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Adds it.
    Add {
        /// Where.
        place: Place,
        /// The interface's index.
        index: u32,
    },
    /// Gives it back its flags and lifetimes, in place.
    Change {
        /// Where.
        place: Place,
        /// The interface's index.
        index: u32,
    },
    /// Removes it.
    Remove {
        /// Where.
        place: Place,
        /// The interface's index.
        index: u32,
        /// The prefix that it has.
        prefix: u8,
    },
}

impl Op {
    /// Where it is.
    pub fn place(&self) -> &Place {
        match self {
            Self::Add { place, .. } | Self::Change { place, .. } | Self::Remove { place, .. } => place,
        }
    }

    /// For metrics and for what `plan` prints.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add-address",
            Self::Change { .. } => "set-address",
            Self::Remove { .. } => "remove-address",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { place, .. } => write!(f, "add {place}"),
            Self::Change { place, .. } => write!(f, "change {place}"),
            Self::Remove { place, prefix, .. } => {
                write!(f, "remove {}/{prefix} from {}", place.address, place.interface)
            }
        }
    }
}

/// What to do, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order: what is added, changed, removed.
    pub ops: Vec<Op>,
    /// Wanted on an interface that is not there.
    pub homeless: BTreeSet<Place>,
}

/// Plans for the places in `scope`. `noted` says what the ledger knows; it counts only for addresses without a mark on a kernel
/// that does not keep marks (`marks` is false).
pub fn plan<'a>(
    scope: impl IntoIterator<Item = &'a Place>,
    desired: &Desired,
    observed: &Observed,
    noted: impl Fn(&Place) -> bool,
    marks: bool,
) -> Plan {
    let mut plan = Plan::default();
    let (mut changes, mut removals) = (Vec::new(), Vec::new());
    let indices: BTreeMap<&str, u32> =
        observed.links.iter().map(|(index, name)| (name.as_ref(), *index)).collect();
    for place in scope {
        let wanted = desired.places.contains_key(place);
        let Some(index) = indices.get(place.interface.as_ref()).copied() else {
            if wanted {
                plan.homeless.insert(place.clone());
            }
            continue;
        };
        let held = observed.held(place, index);
        let ours = |held: &Held| {
            held.mark == MARK || (!marks && held.mark == 0 && held.prefix == place.prefix() && noted(place))
        };
        if wanted {
            let right = held.iter().find(|held| held.prefix == place.prefix() && ours(held));
            let somebody = held.iter().any(|held| !ours(held));
            match right {
                Some(right) if !fits(place, right) => {
                    changes.push(Op::Change { place: place.clone(), index })
                }
                None if !somebody => plan.ops.push(Op::Add { place: place.clone(), index }),
                Some(_) | None => {}
            }
            // A second one of ours with another prefix would be left over.
            for extra in held.iter().filter(|held| ours(held) && held.prefix != place.prefix()) {
                removals.push(Op::Remove { place: place.clone(), index, prefix: extra.prefix });
            }
        } else {
            for gone in held.iter().filter(|held| ours(held)) {
                removals.push(Op::Remove { place: place.clone(), index, prefix: gone.prefix });
            }
        }
    }
    plan.ops.append(&mut changes);
    plan.ops.append(&mut removals);
    plan
}

/// IPv6 addresses are deprecated, so that the director does not choose them as its own source, and have no duplicate address
/// detection, which would cost over a second; nothing of ours ever expires.
fn fits(place: &Place, held: &Held) -> bool {
    let usable = held.flags & (TENTATIVE | DAD_FAILED) == 0;
    held.valid == FOREVER && usable && held.preferred == preferred(place)
}

fn preferred(place: &Place) -> u32 {
    if place.address.is_ipv4() { FOREVER } else { 0 }
}

fn flags(place: &Place) -> u32 {
    if place.address.is_ipv4() { 0 } else { NODAD }
}
