//! Our nftables table: rewrites the source of connections where replies would not come back through the director (`sourceNat`),
//! sets firewall marks (`fwmark.match`), and drops packets to addresses of groups that take none themselves (`accept: false`).
//!
//! The table is of the family `inet` and is called `bascule`. It is made in one transaction, changed element by element, and
//! removed when nothing needs it. Other tables are never touched.

mod encode;
mod kernel;
mod refused;
mod table;
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
use bascule_crds::{
    ForwardingMethod, SourceNat, VirtualServiceBindingSpec,
    common::{Family, Protocol},
};

pub(crate) use kernel::{Io, Kernel, missing};
pub use table::{By, Key, Set, TABLE, Version};
pub(crate) use worker::NatPlane;

use table::{KeyWriter, describe};

pub use bascule_compile::MAX_ELEMENTS;

/// The networks, first and last address, through which hosts are reached directly; of the interfaces' prefixes and the routes.
pub type Connected = BTreeMap<IpAddr, BTreeSet<(IpAddr, IpAddr)>>;

/// An element and its set.
pub type Element = (Set, Key);

/// What the table should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// By element: the bindings that want it with the mark that they want, in order of their keys. The first has it.
    elements: BTreeMap<Set, BTreeMap<Key, Vec<(BindingKey, u32)>>>,
    bindings: BTreeMap<BindingKey, Own>,
    invalid: BTreeMap<BindingKey, String>,
    /// Real servers of services with `sourceNat: Auto`, with the number of bindings that have them.
    servers: BTreeMap<IpAddr, usize>,
    connected: Connected,
}

/// What one binding wants.
#[derive(Clone, Debug, Default, PartialEq)]
struct Own {
    elements: Vec<Element>,
    servers: BTreeSet<IpAddr>,
}

/// Everything that a configuration wants, with the networks that are connected.
pub fn desired(config: &NodeConfig, connected: &Connected) -> Desired {
    let mut desired = Desired::default();
    desired.set_director(&config.director);
    for (key, spec) in &config.bindings {
        desired.set(key, Some(spec));
    }
    desired.set_connected(connected);
    desired
}

impl Desired {
    /// The wanted elements with their marks (0 in sets).
    pub fn elements(&self) -> impl Iterator<Item = (Set, &Key, u32)> {
        self.elements.iter().flat_map(|(set, entries)| {
            entries.iter().filter_map(|(key, owners)| Some((*set, key, owners.first()?.1)))
        })
    }

    fn get(&self, set: Set, key: &Key) -> Option<u32> {
        self.elements.get(&set)?.get(key)?.first().map(|(_, data)| *data)
    }

    /// The sets that have elements. A set of networks without services that need it, or the other way round, is no matter.
    pub fn sets(&self) -> BTreeSet<Set> {
        let mut sets: BTreeSet<Set> = self.elements.keys().copied().collect();
        // The rules of `auto` look into the set of networks, also while that is empty.
        for version in Version::ALL {
            let auto =
                |set: &Set| matches!(set, Set::Source { version: of, auto: true, .. } if *of == version);
            if sets.iter().any(auto) {
                sets.insert(Set::Connected(version));
            }
        }
        sets
    }

    /// The bindings that want anything.
    pub fn keys(&self) -> impl Iterator<Item = &BindingKey> {
        self.bindings.keys().chain(self.invalid.keys())
    }

    /// The bindings that own elements, for those concerned by a failure of the whole table.
    pub fn owners(&self) -> BTreeSet<BindingKey> {
        self.bindings.keys().cloned().collect()
    }

    /// Bindings that cannot be carried out, with the reason.
    pub fn invalid(&self) -> &BTreeMap<BindingKey, String> {
        &self.invalid
    }

    /// Marks that several bindings want to set differently: the element, who has it, who does not.
    pub fn contested(&self) -> impl Iterator<Item = (String, &BindingKey, BTreeSet<BindingKey>)> {
        let maps = self.elements.iter().filter(|(set, _)| set.maps());
        maps.flat_map(|(set, entries)| {
            entries.iter().filter_map(|(key, owners)| {
                let (owner, mark) = owners.first()?;
                let losers: BTreeSet<_> = owners
                    .iter()
                    .filter(|(_, other)| other != mark)
                    .map(|(loser, _)| loser.clone())
                    .collect();
                (!losers.is_empty()).then(|| (describe(*set, key), owner, losers))
            })
        })
    }

    /// Hosts whose networks have to be known.
    pub fn servers(&self) -> impl Iterator<Item = IpAddr> {
        self.servers.keys().copied()
    }

    /// Takes a changed binding, none when it is gone; returns the elements that may have changed.
    pub fn set(
        &mut self,
        key: &BindingKey,
        spec: Option<&Arc<VirtualServiceBindingSpec>>,
    ) -> BTreeSet<Element> {
        let mut affected = BTreeSet::new();
        let old = self.bindings.remove(key).unwrap_or_default();
        for element in old.elements {
            self.release(key, &element);
            affected.insert(element);
        }
        for server in &old.servers {
            if let Some(count) = self.servers.get_mut(server) {
                *count -= 1;
                if *count == 0 {
                    self.servers.remove(server);
                }
            }
            affected.extend(networks(&self.connected, *server));
        }
        self.invalid.remove(key);
        if let Some(spec) = spec {
            match wanted(spec) {
                Ok(wanted) => self.claim(key, spec, wanted, &mut affected),
                Err(problem) => {
                    self.invalid.insert(key.clone(), problem);
                }
            }
        }
        self.refresh(affected)
    }

    fn claim(
        &mut self,
        key: &BindingKey,
        spec: &VirtualServiceBindingSpec,
        wanted: BTreeMap<Element, u32>,
        affected: &mut BTreeSet<Element>,
    ) {
        let mut own = Own::default();
        if spec.source_nat == SourceNat::Auto {
            let masqueraded = spec
                .real_servers
                .iter()
                .chain(&spec.sorry_servers)
                .filter(|server| server.forwarding.method == ForwardingMethod::Masquerade);
            own.servers.extend(masqueraded.map(|server| server.address));
        }
        for server in &own.servers {
            *self.servers.entry(*server).or_default() += 1;
            affected.extend(networks(&self.connected, *server));
        }
        for (element, data) in wanted {
            let owners = self.elements.entry(element.0).or_default().entry(element.1.clone()).or_default();
            let place = owners.partition_point(|(other, _)| other < key);
            owners.insert(place, (key.clone(), data));
            affected.insert(element.clone());
            own.elements.push(element);
        }
        if own != Own::default() {
            self.bindings.insert(key.clone(), own);
        }
    }

    fn release(&mut self, key: &BindingKey, (set, element): &Element) {
        let Some(entries) = self.elements.get_mut(set) else { return };
        if let Some(owners) = entries.get_mut(element) {
            owners.retain(|(owner, _)| owner != key);
            if owners.is_empty() {
                entries.remove(element);
            }
        }
        if entries.is_empty() {
            self.elements.remove(set);
        }
    }

    /// Brings the elements of the sets of networks, which belong to no binding, up to date.
    fn refresh(&mut self, affected: BTreeSet<Element>) -> BTreeSet<Element> {
        let nobody = BindingKey::new("", "");
        for (set, key) in affected.iter().filter(|(set, _)| set.ranges()) {
            let length = set.version().length();
            let host = key.get(length..2 * length).and_then(crate::plane::attribute::address);
            let wanted = host.is_some_and(|host| {
                self.servers.contains_key(&host)
                    && networks(&self.connected, host).any(|(_, other)| other == *key)
            });
            if wanted {
                self.elements.entry(*set).or_default().insert(key.clone(), vec![(nobody.clone(), 0)]);
            } else {
                self.release(&nobody, &(*set, key.clone()));
            }
        }
        affected
    }

    /// Takes the networks through which hosts are reached; returns the elements that may have changed.
    pub fn set_connected(&mut self, connected: &Connected) -> BTreeSet<Element> {
        if self.connected == *connected {
            return BTreeSet::new();
        }
        let old = std::mem::replace(&mut self.connected, connected.clone());
        let mut affected = BTreeSet::new();
        for server in self.servers.keys() {
            affected.extend(networks(&old, *server));
            affected.extend(networks(connected, *server));
        }
        self.refresh(affected)
    }
}

/// The elements for a host in the sets of networks.
fn networks(connected: &Connected, host: IpAddr) -> impl Iterator<Item = Element> {
    connected.get(&host).into_iter().flatten().map(move |(first, last)| {
        let mut key = KeyWriter::default().address(*first).address(host).finish();
        key.extend(KeyWriter::default().address(*last).address(host).finish());
        (Set::Connected(Version::of(host)), key)
    })
}

pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The elements that a binding wants.
fn wanted(spec: &VirtualServiceBindingSpec) -> Result<BTreeMap<Element, u32>, String> {
    let mut wanted = BTreeMap::new();
    let mut put = |element: Element, data: u32| {
        wanted.insert(element, data);
        if wanted.len() > MAX_ELEMENTS {
            return Err(format!(
                "it takes more than {MAX_ELEMENTS} entries in nftables (addresses × ports × realServers): split it into several \
                 VirtualServices"
            ));
        }
        Ok(())
    };
    if let Some(fwmark) = &spec.fwmark {
        let matched = fwmark.match_.as_ref();
        for address in
            matched.iter().flat_map(|matched| &matched.addresses).flat_map(|range| range.addresses())
        {
            for port in matched.iter().flat_map(|matched| &matched.ports) {
                let key = KeyWriter::default()
                    .address(address)
                    .protocol(number(port.protocol))
                    .port(port.port)
                    .finish();
                put((Set::Marks(Version::of(address)), key), fwmark.mark)?;
            }
        }
    }
    let auto = match spec.source_nat {
        SourceNat::Never => return Ok(wanted),
        SourceNat::Auto => true,
        SourceNat::Always => false,
    };
    for server in spec
        .real_servers
        .iter()
        .chain(&spec.sorry_servers)
        .filter(|server| server.forwarding.method == ForwardingMethod::Masquerade)
    {
        let version = Version::of(server.address);
        let set = |by| Set::Source { version, by, auto };
        for address in spec.addresses.iter().flat_map(|range| range.addresses()) {
            if Version::of(address) != version {
                continue;
            }
            for port in &spec.ports {
                let key = KeyWriter::default().address(address).protocol(number(port.protocol));
                let (by, key) =
                    if port.port == 0 { (By::AnyPort, key) } else { (By::Port, key.port(port.port)) };
                put((set(by), key.address(server.address).finish()), 0)?;
            }
        }
        if let Some(fwmark) = &spec.fwmark {
            let family = if version == Version::V4 { Family::IPv4 } else { Family::IPv6 };
            if fwmark.families.contains(&family) {
                let key = KeyWriter::default().mark(fwmark.mark).address(server.address).finish();
                put((set(By::Mark), key), 0)?;
            }
        }
    }
    Ok(wanted)
}

/// What the kernel holds of our table: read once, and kept up to date with what we change until somebody else changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether there is a table of our name.
    pub exists: bool,
    /// The sets with their rules and chains, if they are exactly as they were read right after we made them.
    pub intact: Option<BTreeSet<Set>>,
    /// The elements with their marks (0 in sets), if the table is intact.
    pub elements: BTreeMap<Set, BTreeMap<Key, u32>>,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the table anew.
    Replace(BTreeMap<Set, BTreeMap<Key, u32>>),
    /// Removes and adds elements of the table; an element whose mark changes is removed and added.
    Change {
        /// What goes.
        remove: BTreeMap<Set, BTreeMap<Key, u32>>,
        /// What comes.
        add: BTreeMap<Set, BTreeMap<Key, u32>>,
    },
    /// Removes the table.
    Remove,
}

impl Op {
    /// For metrics and for what `plan` prints.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Replace(_) => "replace-table",
            Self::Change { .. } => "change-elements",
            Self::Remove => "remove-table",
        }
    }
}

/// Elements that are named when a change is printed.
const NAMED: usize = 4;

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, what: &str, all: &BTreeMap<Set, BTreeMap<Key, u32>>| {
            let count: usize = all.values().map(BTreeMap::len).sum();
            if count == 0 {
                return Ok(());
            }
            write!(f, " {what}")?;
            let flat = all.iter().flat_map(|(set, entries)| entries.iter().map(move |entry| (set, entry)));
            for (set, (key, data)) in flat.take(NAMED) {
                write!(f, " [{}: {}", set.name(), describe(*set, key))?;
                if set.maps() {
                    write!(f, " → mark {data}")?;
                }
                f.write_str("]")?;
            }
            if count > NAMED { write!(f, " and {} more", count - NAMED) } else { Ok(()) }
        };
        match self {
            Self::Replace(elements) => {
                let count: usize = elements.values().map(BTreeMap::len).sum();
                write!(f, "make table inet {TABLE} anew ({} sets, {count} elements)", elements.len())
            }
            Self::Change { remove, add } => {
                write!(f, "change table inet {TABLE}:")?;
                list(f, "remove", remove)?;
                list(f, "add", add)
            }
            Self::Remove => write!(f, "remove table inet {TABLE}"),
        }
    }
}

/// Plans the table, at most one transaction. With a `scope` only those elements are compared, if the table stands.
pub fn plan(scope: Option<&BTreeSet<Element>>, desired: &Desired, observed: &Observed) -> Option<Op> {
    let sets = desired.sets();
    if sets.is_empty() {
        return observed.exists.then_some(Op::Remove);
    }
    if observed.intact.as_ref() != Some(&sets) {
        let mut elements: BTreeMap<Set, BTreeMap<Key, u32>> =
            sets.into_iter().map(|set| (set, BTreeMap::new())).collect();
        for (set, key, data) in desired.elements() {
            if let Some(entries) = elements.get_mut(&set) {
                entries.insert(key.clone(), data);
            }
        }
        return Some(Op::Replace(elements));
    }
    let mut remove: BTreeMap<Set, BTreeMap<Key, u32>> = BTreeMap::new();
    let mut add = remove.clone();
    let mut compare = |set: Set, key: &Key| {
        let wanted = desired.get(set, key);
        let held = observed.elements.get(&set).and_then(|entries| entries.get(key)).copied();
        if wanted == held {
            return;
        }
        if let Some(data) = held {
            remove.entry(set).or_default().insert(key.clone(), data);
        }
        if let Some(data) = wanted {
            add.entry(set).or_default().insert(key.clone(), data);
        }
    };
    if let Some(scope) = scope {
        for (set, key) in scope {
            compare(*set, key);
        }
    } else {
        for (set, key, _) in desired.elements() {
            compare(set, key);
        }
        for (set, entries) in &observed.elements {
            for key in entries.keys() {
                compare(*set, key);
            }
        }
    }
    (!remove.is_empty() || !add.is_empty()).then_some(Op::Change { remove, add })
}
