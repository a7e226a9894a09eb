//! Who wants which address, port and mark on which director, found by overlap instead of by asking everyone.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bascule_crds::common::{AddressOrRange, Protocol};

use crate::types::BindingKey;

/// The largest number of addresses in one range; the schema allows no more.
pub(crate) const MAX_RANGE: u32 = 256;

/// What kind of thing is claimed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    /// Packets to a port of the addresses.
    Port { protocol: Protocol, port: u16 },
    /// A firewall mark of one family; `addresses` is that family's unspecified address.
    Mark(u32),
    /// The addresses' place: all who have an address must put it on one interface.
    Interface,
    /// The addresses' owner: one namespace (where namespaces are trust domains).
    Namespace,
    /// What a VirtualService takes before any NatRule: packets to a port of the addresses, or of any address of a family, which
    /// is that family's unspecified one.
    Served { protocol: Protocol, port: u16 },
    /// What a VirtualService has of an address before any NatRule that wants all of it.
    ServedAddress,
    /// Packets to a port that a NatRule forwards: to the addresses or, by the family's unspecified one, to any; that come in by an
    /// interface, or by any.
    Forward { protocol: Protocol, port: u16, interface: Option<Arc<str>> },
    /// An address that is exchanged for another as a whole.
    Outside,
    /// The address that it is exchanged for.
    Inside,
    /// Packets from a network, of which `addresses` is the first, that leave by an interface.
    Source { interface: Arc<str>, length: u8 },
}

/// One thing that one object wants for itself on one director.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) director: Arc<str>,
    pub(crate) what: What,
    pub(crate) addresses: AddressOrRange,
    /// Those with the same tag share; `None` shares with nobody.
    pub(crate) tag: Tag,
}

impl Claim {
    /// Whether the two cannot both be granted.
    #[cfg(test)]
    pub(crate) fn excludes(&self, other: &Claim) -> bool {
        self.director == other.director
            && self.what == other.what
            && overlap(self.addresses, other.addresses)
            && (self.tag.is_none() || self.tag != other.tag)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addresses, director) = (&self.addresses, &self.director);
        match &self.what {
            What::Port { protocol, port } | What::Served { protocol, port } => {
                write!(f, "{addresses} {protocol} port {port} on director {director}")
            }
            What::Mark(mark) => {
                write!(f, "firewall mark {mark} ({}) on director {director}", addresses.family())
            }
            What::Forward { protocol, port, interface } => {
                if addresses.first.is_unspecified() {
                    write!(f, "{protocol} port {port} of any address")?;
                } else {
                    write!(f, "{addresses} {protocol} port {port}")?;
                }
                if let Some(interface) = interface {
                    write!(f, " on interface {interface}")?;
                }
                write!(f, " on director {director}")
            }
            What::Source { interface, length } => {
                let network = addresses.first;
                write!(f, "what leaves {interface} from {network}/{length} on director {director}")
            }
            What::Interface | What::Namespace | What::ServedAddress | What::Outside | What::Inside => {
                write!(f, "{addresses} on director {director}")
            }
        }
    }
}

/// Whether the two have an address in common.
pub(crate) fn overlap(a: AddressOrRange, b: AddressOrRange) -> bool {
    a.family() == b.family() && a.first <= b.last && b.first <= a.last
}

/// The lowest address at which a range could begin and still reach the address.
fn earliest_reaching(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a).saturating_sub(MAX_RANGE - 1))),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a).saturating_sub(u128::from(MAX_RANGE - 1)))),
    }
}

type Tag = Option<Arc<str>>;

/// Who claims one place. Nearly always it is one, which has to be cheap.
#[derive(Debug)]
enum Takers {
    One(Tag, BindingKey),
    Many(BTreeMap<Tag, BTreeSet<BindingKey>>),
}

impl Takers {
    fn insert(&mut self, tag: Tag, owner: BindingKey) {
        match self {
            Takers::One(old_tag, old_owner) if *old_tag == tag && *old_owner == owner => {}
            Takers::One(old_tag, old_owner) => {
                let mut many = BTreeMap::from([(old_tag.take(), BTreeSet::from([old_owner.clone()]))]);
                many.entry(tag).or_default().insert(owner);
                *self = Takers::Many(many);
            }
            Takers::Many(many) => {
                many.entry(tag).or_default().insert(owner);
            }
        }
    }

    /// Says whether nobody is left.
    fn remove(&mut self, tag: &Tag, owner: &BindingKey) -> bool {
        match self {
            Takers::One(old_tag, old_owner) => old_tag == tag && old_owner == owner,
            Takers::Many(many) => {
                if let Some(owners) = many.get_mut(tag) {
                    owners.remove(owner);
                    if owners.is_empty() {
                        many.remove(tag);
                    }
                }
                many.is_empty()
            }
        }
    }

    /// Those that do not share with the tag.
    fn excluded_by(&self, tag: &Tag) -> impl Iterator<Item = &BindingKey> {
        let (one, many) = match self {
            Takers::One(old_tag, owner) => (Some((old_tag, owner)), None),
            Takers::Many(many) => (None, Some(many)),
        };
        let apart = move |other: &Tag| tag.is_none() || other != tag;
        let one = one.filter(move |(other, _)| apart(other)).map(|(_, owner)| owner);
        let many =
            many.into_iter().flatten().filter(move |(other, _)| apart(other)).flat_map(|(_, owners)| owners);
        one.into_iter().chain(many)
    }
}

#[derive(Debug, Default)]
struct Bucket {
    singles: BTreeMap<IpAddr, Takers>,
    ranges: BTreeMap<(IpAddr, IpAddr), Takers>,
}

/// All claims, so that those which exclude a given one are found in time independent of how many there are.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    buckets: BTreeMap<(Arc<str>, What), Bucket>,
}

impl Claims {
    pub(crate) fn insert(&mut self, claim: &Claim, owner: &BindingKey) {
        let bucket = self.buckets.entry((Arc::clone(&claim.director), claim.what.clone())).or_default();
        let Claim { addresses, tag, .. } = claim;
        if addresses.first == addresses.last {
            put_in(&mut bucket.singles, addresses.first, tag, owner);
        } else {
            put_in(&mut bucket.ranges, (addresses.first, addresses.last), tag, owner);
        }
    }

    pub(crate) fn remove(&mut self, claim: &Claim, owner: &BindingKey) {
        let place = (Arc::clone(&claim.director), claim.what.clone());
        let Some(bucket) = self.buckets.get_mut(&place) else { return };
        if claim.addresses.first == claim.addresses.last {
            take_out(&mut bucket.singles, &claim.addresses.first, &claim.tag, owner);
        } else {
            take_out(&mut bucket.ranges, &(claim.addresses.first, claim.addresses.last), &claim.tag, owner);
        }
        if bucket.singles.is_empty() && bucket.ranges.is_empty() {
            self.buckets.remove(&place);
        }
    }

    /// Those whose claims exclude this one, `owner` itself left out. One may come several times.
    pub(crate) fn rivals<'a>(
        &'a self,
        claim: &'a Claim,
        owner: &'a BindingKey,
    ) -> impl Iterator<Item = &'a BindingKey> {
        self.excluded(claim).filter(move |rival| *rival != owner)
    }

    /// Those with a claim that excludes this one, whoever's this one is. One may come several times.
    pub(crate) fn excluded<'a>(&'a self, claim: &'a Claim) -> impl Iterator<Item = &'a BindingKey> {
        let bucket = self.buckets.get(&(Arc::clone(&claim.director), claim.what.clone()));
        bucket
            .into_iter()
            .flat_map(|bucket| {
                let singles =
                    bucket.singles.range(claim.addresses.first..=claim.addresses.last).map(|(_, t)| t);
                let from = earliest_reaching(claim.addresses.first);
                let ranges = bucket
                    .ranges
                    .range((from, from)..)
                    .take_while(|((first, _), _)| *first <= claim.addresses.last)
                    .filter(|((_, last), _)| *last >= claim.addresses.first)
                    .map(|(_, t)| t);
                singles.chain(ranges)
            })
            .flat_map(|takers| takers.excluded_by(&claim.tag))
    }
}

fn put_in<K: Ord>(places: &mut BTreeMap<K, Takers>, place: K, tag: &Tag, owner: &BindingKey) {
    match places.entry(place) {
        Entry::Vacant(vacant) => {
            vacant.insert(Takers::One(tag.clone(), owner.clone()));
        }
        Entry::Occupied(mut takers) => takers.get_mut().insert(tag.clone(), owner.clone()),
    }
}

fn take_out<K: Ord>(places: &mut BTreeMap<K, Takers>, place: &K, tag: &Tag, owner: &BindingKey) {
    if places.get_mut(place).is_some_and(|takers| takers.remove(tag, owner)) {
        places.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(what: What, addresses: &str, tag: Option<&str>) -> Claim {
        Claim {
            director: "dir1".into(),
            what,
            addresses: addresses.parse().unwrap(),
            tag: tag.map(Into::into),
        }
    }

    #[test]
    fn finds_what_overlaps_and_nothing_else() {
        let http = || What::Port { protocol: Protocol::Tcp, port: 80 };
        let all = [
            ("single", claim(http(), "10.0.0.7", None)),
            ("short", claim(http(), "10.0.0.5-10.0.0.9", None)),
            ("long", claim(http(), "10.0.0.0-10.0.0.255", None)),
            ("other-port", claim(What::Port { protocol: Protocol::Tcp, port: 81 }, "10.0.0.7", None)),
            ("udp", claim(What::Port { protocol: Protocol::Udp, port: 80 }, "10.0.0.7", None)),
            ("far", claim(http(), "10.0.2.7", None)),
            ("v6", claim(http(), "::a00:7", None)),
            ("eth0", claim(What::Interface, "10.0.0.7", Some("eth0"))),
            ("eth0-too", claim(What::Interface, "10.0.0.6-10.0.0.8", Some("eth0"))),
            ("eth1", claim(What::Interface, "10.0.0.7", Some("eth1"))),
        ];
        assert_eq!(earliest_reaching(IpAddr::from([10, 0, 0, 255])), IpAddr::from([10, 0, 0, 0]));
        assert_eq!(earliest_reaching(IpAddr::from([0, 0, 0, 1])), IpAddr::from([0, 0, 0, 0]));
        let mut claims = Claims::default();
        for (name, claim) in &all {
            claims.insert(claim, &BindingKey::new("tp", name));
        }
        for (name, claim) in &all {
            let owner = BindingKey::new("tp", name);
            let found: BTreeSet<_> = claims.rivals(claim, &owner).map(|k| k.name.to_string()).collect();
            let expected: BTreeSet<_> = all
                .iter()
                .filter(|(other, c)| other != name && c.excludes(claim))
                .map(|(n, _)| (*n).to_owned())
                .collect();
            assert_eq!(found, expected, "{name}");
        }
        for (name, claim) in &all {
            claims.remove(claim, &BindingKey::new("tp", name));
        }
        assert!(claims.buckets.is_empty());
    }
}
