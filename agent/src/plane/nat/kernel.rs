//! The table by netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use super::{
    Connected, Observed, Op, Set,
    encode::{Batch, concerns_us, elements_of, fingerprint, question, read_elements},
};
use crate::{
    plane::{
        netlink::{Connection, Listener},
        nftables::{GET_CHAIN, GET_ELEMENTS, GET_RULE, GET_SET, GET_TABLE, GROUP, PROTOCOL},
        rtnl::{
            self, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE, GROUP_LINK,
            HeldAddress,
        },
    },
    reconcile::ledger::{Identity, replace},
};

/// What happened since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    /// Somebody else changed our table.
    pub(crate) table: bool,
    /// Links, addresses or routes changed.
    pub(crate) network: bool,
}

/// The kernel, or a model of it.
pub(crate) trait Io {
    /// What becomes readable with a notification.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    /// What happened since the last time.
    fn events(&mut self) -> io::Result<Events>;
    /// Our table.
    fn observe(&mut self) -> io::Result<Observed>;
    /// The networks through which hosts are reached directly; from then on their changes are notified.
    fn connected(&mut self, hosts: &BTreeSet<IpAddr>) -> io::Result<Connected>;
    /// Carries out one transaction, as a whole or not at all.
    fn apply(&mut self, op: &Op) -> io::Result<()>;
}

/// nf_tables and rtnetlink of the network namespace of the thread that opened it.
pub(crate) struct Kernel {
    tables: Connection,
    changes: Listener,
    routes: Connection,
    /// Only while networks matter: a machine with many routes would be woken by each that changes.
    network: Option<Listener>,
    seal: Seal,
}

impl Kernel {
    /// `seal` is the file that keeps what the table looked like after the last commit; it is only read unless `writes`.
    pub(crate) fn open(seal: &Path, identity: &Identity, writes: bool) -> io::Result<Self> {
        Ok(Self {
            changes: Listener::open(PROTOCOL, &[GROUP])?,
            tables: Connection::open(PROTOCOL)?,
            network: None,
            routes: Connection::open(rtnl::PROTOCOL)?,
            seal: Seal::read(seal, identity, writes),
        })
    }

    /// True when somebody else changed our table.
    fn foreign(&mut self) -> io::Result<bool> {
        let ours = self.tables.port();
        let mut foreign = false;
        let lost = self.changes.drain(|message| foreign |= concerns_us(message) && message.port != ours)?;
        Ok(foreign || lost)
    }

    fn exists(&mut self) -> io::Result<bool> {
        match self.tables.ask(GET_TABLE, &question()) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fingerprint(&mut self) -> io::Result<String> {
        let chains = self.tables.dump(GET_CHAIN, &question())?;
        let rules = self.tables.dump(GET_RULE, &question())?;
        let sets = self.tables.dump(GET_SET, &question())?;
        Ok(fingerprint(&chains, &rules, &sets))
    }
}

impl Io for Kernel {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(&self.changes).chain(&self.network).map(Listener::descriptor).collect()
    }

    fn events(&mut self) -> io::Result<Events> {
        let mut network = false;
        let lost = match &self.network {
            Some(listener) => listener.drain(|_| network = true)?,
            None => false,
        };
        Ok(Events { table: self.foreign()?, network: network || lost })
    }

    fn observe(&mut self) -> io::Result<Observed> {
        if !self.exists()? {
            return Ok(Observed::default());
        }
        let fingerprint = self.fingerprint()?;
        let intact = self.seal.sets(&fingerprint);
        let mut elements = BTreeMap::new();
        for set in intact.iter().flatten() {
            let mut entries = BTreeMap::new();
            for message in self.tables.dump(GET_ELEMENTS, &elements_of(*set))? {
                read_elements(*set, &message, &mut entries);
            }
            elements.insert(*set, entries);
        }
        Ok(Observed { exists: true, intact, elements })
    }

    fn connected(&mut self, hosts: &BTreeSet<IpAddr>) -> io::Result<Connected> {
        if hosts.is_empty() {
            self.network = None;
            return Ok(Connected::new());
        }
        if self.network.is_none() {
            let groups =
                [GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE];
            self.network = Some(Listener::open(rtnl::PROTOCOL, &groups)?);
        }
        let addresses = rtnl::addresses(&mut self.routes)?;
        let mut connected = Connected::new();
        for host in hosts {
            match rtnl::route_to(&mut self.routes, *host) {
                Ok(Some((interface, gateway))) => {
                    let networks = networks(&addresses, interface, gateway.unwrap_or(*host));
                    connected.insert(*host, networks);
                }
                Ok(None) => {}
                // No way there: nobody reaches it, in whatever network.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(connected)
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        let mut batch = Batch::new();
        match op {
            Op::Replace(elements) => {
                batch.delete_table();
                batch.create_table(elements);
            }
            Op::Change { remove, add } => {
                batch.remove(remove);
                batch.add(add);
            }
            Op::Remove => batch.delete_table(),
        }
        self.tables.transact(|sequence| batch.finish(sequence))?;
        if let Op::Replace(elements) = op {
            let seen = self.fingerprint()?;
            // What somebody else changed in between must not be taken for what we made.
            let sealed =
                if self.foreign()? { None } else { Some((seen, elements.keys().copied().collect())) };
            self.seal.put(sealed);
        }
        Ok(())
    }
}

/// The prefixes of an interface in which the next hop lies; for a link-local next hop all that are not link-local.
fn networks(addresses: &[HeldAddress], interface: u32, next_hop: IpAddr) -> BTreeSet<(IpAddr, IpAddr)> {
    let link_local =
        |address: IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    addresses
        .iter()
        .filter(|held| held.index == interface && held.address.is_ipv4() == next_hop.is_ipv4())
        .filter(|held| !link_local(held.address))
        .filter_map(|held| {
            let (first, last) = range(held.address, held.prefix)?;
            let inside = first <= next_hop && next_hop <= last;
            // A host's own /32 or /128 is no network.
            (first != last && (inside || link_local(next_hop))).then_some((first, last))
        })
        .collect()
}

/// First and last address of a prefix.
fn range(address: IpAddr, prefix: u8) -> Option<(IpAddr, IpAddr)> {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(prefix.into())?).unwrap_or(0);
            let first = u32::from(address) & mask;
            Some((Ipv4Addr::from(first).into(), Ipv4Addr::from(first | !mask).into()))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(prefix.into())?).unwrap_or(0);
            let first = u128::from(address) & mask;
            Some((Ipv6Addr::from(first).into(), Ipv6Addr::from(first | !mask).into()))
        }
    }
}

/// What the table looked like after the last commit, kept over a restart.
struct Seal {
    path: PathBuf,
    header: String,
    sealed: Option<(String, BTreeSet<Set>)>,
    writes: bool,
}

impl Seal {
    fn read(path: &Path, identity: &Identity, writes: bool) -> Self {
        let header = format!("bascule-nftables 1 {identity}");
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let ours = lines.next() == Some(&header);
        let sealed = ours.then(|| parse(lines.next()?)).flatten();
        Self { path: path.to_owned(), header, sealed, writes }
    }

    fn sets(&self, fingerprint: &str) -> Option<BTreeSet<Set>> {
        self.sealed.as_ref().filter(|(known, _)| known == fingerprint).map(|(_, sets)| sets.clone())
    }

    /// Without a file the table is only made anew once after a restart.
    fn put(&mut self, sealed: Option<(String, BTreeSet<Set>)>) {
        self.sealed = sealed;
        if self.writes {
            let line = self.sealed.as_ref().map_or_else(String::new, |(fingerprint, sets)| {
                sets.iter().fold(fingerprint.clone(), |line, set| format!("{line} {}", set.name()))
            });
            if let Err(error) = replace(&self.path, &format!("{}\n{line}\n", self.header)) {
                tracing::warn!(plane = "nat", "cannot write {}: {error}", self.path.display());
            }
        }
    }
}

fn parse(line: &str) -> Option<(String, BTreeSet<Set>)> {
    let mut words = line.split(' ');
    let fingerprint = words.next().filter(|word| !word.is_empty())?.to_owned();
    let sets: Option<BTreeSet<Set>> = words.map(|word| Set::all().find(|set| set.name() == word)).collect();
    Some((fingerprint, sets?))
}

/// Whether an error means that this kernel has no nftables, and what to do about it.
pub(crate) fn missing(error: &io::Error) -> Option<String> {
    let unsupported =
        [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT];
    error.raw_os_error().filter(|errno| unsupported.contains(errno)).map(|_| {
        format!(
            "this kernel lacks what sourceNat, fwmark.match and accept: false need of nftables ({error}): load nf_tables, nft_chain_nat, nft_masq, \
             nft_ct and nf_conntrack, or install the kernel package that has them (Debian: linux-image-amd64)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Version, *};

    fn held(index: u32, address: &str, prefix: u8) -> HeldAddress {
        HeldAddress {
            index,
            address: address.parse().unwrap(),
            prefix,
            flags: 0,
            mark: 0,
            preferred: 0,
            valid: 0,
        }
    }

    #[test]
    fn networks_are_those_of_the_next_hop() {
        let addresses = [
            held(1, "172.16.193.254", 16),
            held(1, "10.0.0.1", 8),
            held(1, "172.16.193.30", 32),
            held(2, "172.16.0.1", 16),
            held(1, "2001:db8::1", 64),
            held(1, "fe80::1", 64),
        ];
        let find = |next_hop: &str| {
            networks(&addresses, 1, next_hop.parse().unwrap())
                .iter()
                .map(|(first, last)| format!("{first}-{last}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(find("172.16.193.10"), ["172.16.0.0-172.16.255.255"]);
        assert_eq!(find("192.0.2.1"), Vec::<String>::new());
        assert_eq!(find("2001:db8::10"), ["2001:db8::-2001:db8::ffff:ffff:ffff:ffff"]);
        assert_eq!(
            find("fe80::2"),
            ["2001:db8::-2001:db8::ffff:ffff:ffff:ffff"],
            "a router that is told by its link"
        );
    }

    #[test]
    fn a_seal_reads_back_and_belongs_to_one_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nftables");
        let here = Identity::here().unwrap();
        let sets = BTreeSet::from([Set::Marks(Version::V4), Set::Connected(Version::V6)]);
        Seal::read(&path, &here, true).put(Some(("abc".into(), sets.clone())));
        assert_eq!(Seal::read(&path, &here, false).sets("abc"), Some(sets));
        assert_eq!(Seal::read(&path, &here, false).sets("other"), None);
        fs::write(&path, "bascule-nftables 1 another\nabc mark4\n").unwrap();
        assert_eq!(Seal::read(&path, &here, false).sets("abc"), None);
    }
}
