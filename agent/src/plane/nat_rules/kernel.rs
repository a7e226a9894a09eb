//! The table and the connections by netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use bascule_compile::BindingKey;
use serde::{Deserialize, Serialize};

use super::{
    Count, Observed, Op, TABLE, Table,
    encode::{concerns_us, counter, read_counter, remove, replace},
    flows::{self, Ending, Flow},
};
use crate::{
    plane::{
        netlink::{Connection, Listener},
        nftables::{
            GET_CHAIN, GET_OBJECT, GET_RULE, GET_SET, GET_TABLE, GROUP, PROTOCOL, about, fingerprint,
            transaction,
        },
        rtnl,
    },
    reconcile::ledger::{self, Identity},
};

/// Connections that are ended in one go, and how often: a million and more, which is more than a kernel's table holds unless it was
/// made larger.
const ENDED: usize = 65_536;
const TIMES: usize = 20;

/// The kernel, or a model of it.
pub(crate) trait Io {
    /// What becomes readable with a notification.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    /// Whether somebody else changed our table since the last time.
    fn changed(&mut self) -> io::Result<bool>;
    /// Our table.
    fn observe(&mut self) -> io::Result<Observed>;
    /// Carries out one transaction, as a whole or not at all. Nothing is ended yet.
    fn apply(&mut self, op: &Op, ending: &Table) -> io::Result<()>;
    /// Ends the connections of rules that have gone; says how many that were.
    fn end(&mut self, gone: &Table, standing: &Table) -> io::Result<usize>;
    /// What each rule of the table counted.
    fn counts(&mut self) -> io::Result<BTreeMap<BindingKey, Count>>;
}

/// nf_tables and the connections of the network namespace of the thread that opened it.
pub(crate) struct Kernel {
    tables: Connection,
    changes: Listener,
    /// Opened when first needed: asking loads a module.
    connections: Option<Connection>,
    notes: Notes,
    /// What the rules counted when that was last read.
    counts: BTreeMap<BindingKey, Count>,
}

impl Kernel {
    /// `notes` is the file that keeps what the table looked like after the last commit; it is only read unless `writes`.
    pub(crate) fn open(notes: &Path, identity: &Identity, writes: bool) -> io::Result<Self> {
        Ok(Self {
            changes: Listener::open(PROTOCOL, &[GROUP])?,
            tables: Connection::open(PROTOCOL)?,
            connections: None,
            notes: Notes::read(notes, identity, writes),
            counts: BTreeMap::new(),
        })
    }

    fn fingerprint(&mut self) -> io::Result<String> {
        let question = about(TABLE).finish();
        let chains = self.tables.dump(GET_CHAIN, &question)?;
        let rules = self.tables.dump(GET_RULE, &question)?;
        let sets = self.tables.dump(GET_SET, &question)?;
        Ok(fingerprint(TABLE, &chains, &rules, &sets))
    }

    fn exists(&mut self) -> io::Result<bool> {
        match self.tables.ask(GET_TABLE, &about(TABLE).finish()) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One read of all connections, and the end of those that are to end; says how many that were.
    fn end_once(
        connections: &mut Connection,
        family: u8,
        ending: &Ending<'_, impl Fn(&str, IpAddr) -> bool>,
    ) -> io::Result<usize> {
        let mut requests = Vec::new();
        connections.each(flows::GET, &flows::question(family), |payload| {
            if requests.len() < ENDED && Flow::read(payload).is_some_and(|flow| ending.ends(&flow)) {
                requests.extend(flows::end(payload));
            }
        })?;
        let mut ended = 0;
        for result in connections.pipeline(&requests)? {
            match result {
                Ok(()) => ended += 1,
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }
}

impl Io for Kernel {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.changes.descriptor()]
    }

    fn changed(&mut self) -> io::Result<bool> {
        let ours = self.tables.port();
        let mut foreign = false;
        let lost = self.changes.drain(|message| foreign |= concerns_us(message) && message.port != ours)?;
        Ok(foreign || lost)
    }

    fn observe(&mut self) -> io::Result<Observed> {
        let exists = self.exists()?;
        let seen = if exists { Some(self.fingerprint()?) } else { None };
        let intact = seen.is_some() && self.notes.fingerprint == seen;
        Ok(Observed { exists, intact, rules: self.notes.rules.clone(), ending: self.notes.ending.clone() })
    }

    fn apply(&mut self, op: &Op, ending: &Table) -> io::Result<()> {
        // What was counted between this and the commit is not carried over: a packet or two.
        let counts = self.counts()?;
        self.tables.transact(|sequence| {
            let messages = match op {
                Op::Replace { rules, .. } => replace(rules, &counts),
                Op::Remove { .. } => remove(),
            };
            transaction(messages, sequence)
        })?;
        let seen = matches!(op, Op::Replace { .. }).then(|| self.fingerprint()).transpose()?;
        // What somebody else changed in between must not be taken for what we made.
        let foreign = self.changed()?;
        self.notes.put(seen.filter(|_| !foreign), op.rules(), ending.clone());
        Ok(())
    }

    fn end(&mut self, gone: &Table, standing: &Table) -> io::Result<usize> {
        if gone.is_empty() {
            return Ok(0);
        }
        let on = addresses()?;
        let is_on = |interface: &str, address| on.get(interface).is_some_and(|held| held.contains(&address));
        let ending = Ending { gone, standing, is_on };
        let mut ended = 0;
        let connections = match &mut self.connections {
            Some(connections) => connections,
            none => none.insert(Connection::open(PROTOCOL)?),
        };
        for family in flows::families(gone) {
            for _ in 0..TIMES {
                let now = Self::end_once(connections, family, &ending)?;
                ended += now;
                if now < ENDED {
                    break;
                }
            }
        }
        self.notes.ended();
        Ok(ended)
    }

    fn counts(&mut self) -> io::Result<BTreeMap<BindingKey, Count>> {
        let held = match self.tables.dump(GET_OBJECT, &about(TABLE).finish()) {
            Ok(messages) => messages.iter().filter_map(read_counter).collect(),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        // What somebody removed is made anew with what it had.
        let known = std::mem::take(&mut self.counts);
        let count = |key: &BindingKey| held.get(&counter(key)).or_else(|| known.get(key)).copied();
        self.counts = self.notes.rules.keys().filter_map(|key| Some((key.clone(), count(key)?))).collect();
        Ok(self.counts.clone())
    }
}

/// The addresses of each interface.
fn addresses() -> io::Result<BTreeMap<String, BTreeSet<IpAddr>>> {
    let mut connection = Connection::open(rtnl::PROTOCOL)?;
    let names = rtnl::links(&mut connection)?;
    let mut on: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for held in rtnl::addresses(&mut connection)? {
        if let Some(name) = names.get(&held.index) {
            on.entry(name.clone()).or_default().insert(held.address);
        }
    }
    Ok(on)
}

/// What we wrote last, kept over a restart.
struct Notes {
    path: PathBuf,
    header: String,
    writes: bool,
    /// What the table looked like then; none when that is not known.
    fingerprint: Option<String>,
    rules: Table,
    ending: Table,
}

/// As it is in the file.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    fingerprint: Option<String>,
    rules: Table,
    ending: Table,
}

impl Notes {
    fn read(path: &Path, identity: &Identity, writes: bool) -> Self {
        let header = format!("bascule-nat-rules 1 {identity}");
        let text = fs::read_to_string(path).unwrap_or_default();
        let ours = text.split_once('\n').filter(|(first, _)| *first == header);
        let Written { fingerprint, rules, ending } =
            ours.and_then(|(_, rest)| serde_json::from_str(rest).ok()).unwrap_or_default();
        Self { path: path.to_owned(), header, writes, fingerprint, rules, ending }
    }

    fn put(&mut self, fingerprint: Option<String>, rules: Table, ending: Table) {
        (self.fingerprint, self.rules, self.ending) = (fingerprint, rules, ending);
        self.write();
    }

    fn ended(&mut self) {
        if !std::mem::take(&mut self.ending).is_empty() {
            self.write();
        }
    }

    /// Without a file the table is made anew once after a restart, and what went meanwhile ends no connections.
    fn write(&self) {
        if !self.writes {
            return;
        }
        let written = Written {
            fingerprint: self.fingerprint.clone(),
            rules: self.rules.clone(),
            ending: self.ending.clone(),
        };
        let result = serde_json::to_string(&written)
            .map_err(io::Error::from)
            .and_then(|json| ledger::replace(&self.path, &format!("{}\n{json}", self.header)));
        if let Err(error) = result {
            tracing::warn!(plane = "nat-rules", "cannot write {}: {error}", self.path.display());
        }
    }
}

/// Whether an error means that this kernel lacks what NatRules need, and what to do about it.
pub(crate) fn missing(error: &io::Error) -> Option<String> {
    let unsupported =
        [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT];
    error.raw_os_error().filter(|errno| unsupported.contains(errno)).map(|_| {
        format!(
            "this kernel lacks what NatRules need ({error}): load nf_tables, nft_chain_nat, nft_nat, nft_masq, nft_fib_inet, \
             nft_objref, nf_conntrack and nf_conntrack_netlink, or install the kernel package that has them (Debian: \
             linux-image-amd64)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_back_and_belong_to_one_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nat-rules");
        let here = Identity::here().unwrap();
        let rule = serde_json::from_str(r#"{"masquerade":{"outInterface":"eth0"}}"#).unwrap();
        let rules = Table::from([(BindingKey::new("tp", "nat"), rule)]);
        Notes::read(&path, &here, false).put(Some("never".into()), rules.clone(), Table::new());
        assert_eq!(Notes::read(&path, &here, true).fingerprint, None, "who only reads writes nothing");
        Notes::read(&path, &here, true).put(Some("abc".into()), Table::new(), rules.clone());
        let mut notes = Notes::read(&path, &here, true);
        assert_eq!(
            (notes.fingerprint.as_deref(), &notes.rules, &notes.ending),
            (Some("abc"), &Table::new(), &rules)
        );
        notes.ended();
        assert_eq!(Notes::read(&path, &here, false).ending, Table::new());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("bascule-nat-rules 1 ", "bascule-nat-rules 1 another-", 1)).unwrap();
        assert_eq!(Notes::read(&path, &here, false).fingerprint, None);
    }
}
