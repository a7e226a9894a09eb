//! The guard's table by netlink, and arming it.

use std::{io, net::IpAddr, os::fd::BorrowedFd};

use super::{
    Element, Observed, Op, Set, TABLE, by_set,
    encode::{self, GET_OBJECT},
};
use crate::plane::{
    netlink::{Connection, Listener},
    nftables::{
        GET_CHAIN, GET_ELEMENTS, GET_RULE, GET_SET, GET_TABLE, GROUP, PROTOCOL, Unsent, concerns,
        fingerprint, transaction,
    },
};

/// The kernel, or a model of it.
pub(crate) trait Io {
    /// Becomes readable with a notification.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// Whether somebody else changed the table since the last time.
    fn changed(&mut self) -> io::Result<bool>;
    /// The table. `ours` says whether a fingerprint is one that was read after a commit of ours.
    fn observe(&mut self, ours: &dyn Fn(&str) -> bool) -> io::Result<Observed>;
    /// Carries out one transaction, as a whole or not at all; returns the new fingerprint where the table was made anew.
    fn apply(&mut self, op: &Op) -> io::Result<Option<String>>;
    /// Segments dropped so far.
    fn dropped(&mut self) -> io::Result<Option<u64>>;
}

/// nf_tables of the network namespace of the thread that opened it.
pub(crate) struct Kernel {
    tables: Connection,
    changes: Listener,
}

impl Kernel {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { changes: Listener::open(PROTOCOL, &[GROUP])?, tables: Connection::open(PROTOCOL)? })
    }

    fn exists(&mut self) -> io::Result<bool> {
        match self.tables.ask(GET_TABLE, &encode::question()) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fingerprint(&mut self) -> io::Result<String> {
        let chains = self.tables.dump(GET_CHAIN, &encode::question())?;
        let rules = self.tables.dump(GET_RULE, &encode::question())?;
        let sets = self.tables.dump(GET_SET, &encode::question())?;
        Ok(fingerprint(TABLE, &chains, &rules, &sets))
    }

    fn elements(&mut self, set: Set) -> io::Result<Vec<(Element, std::time::Duration)>> {
        let answers = self.tables.dump(GET_ELEMENTS, &encode::elements_of(set))?;
        Ok(answers.iter().flat_map(|message| encode::read_elements(set, message)).collect())
    }
}

impl Io for Kernel {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.changes.descriptor())
    }

    fn changed(&mut self) -> io::Result<bool> {
        let ours = self.tables.port();
        let mut foreign = false;
        let lost =
            self.changes.drain(|message| foreign |= concerns(message, TABLE) && message.port != ours)?;
        Ok(foreign || lost)
    }

    fn observe(&mut self, ours: &dyn Fn(&str) -> bool) -> io::Result<Observed> {
        if !self.exists()? {
            return Ok(Observed::default());
        }
        let intact = ours(&self.fingerprint()?);
        let mut observed = Observed { exists: true, intact, ..Observed::default() };
        for set in Set::ALL {
            let timed = set.lasts().is_some();
            // There may be many that were silenced: they are read only for a new table.
            let wanted = if let Set::Silenced(_) = set { !intact } else { timed || intact };
            if !wanted {
                continue;
            }
            match self.elements(set) {
                Ok(elements) if timed => observed.timed.extend(elements),
                Ok(elements) => observed.services.extend(elements.into_iter().map(|(element, _)| element)),
                // Not our table, or one that somebody takes apart.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => observed.intact = false,
                Err(error) => return Err(error),
            }
        }
        Ok(observed)
    }

    fn apply(&mut self, op: &Op) -> io::Result<Option<String>> {
        let mut messages = Vec::new();
        match op {
            Op::Replace { services, timed } => {
                messages.extend(encode::delete_table());
                messages.extend(encode::create_table());
                encode::add(&by_set(services), &mut messages);
                encode::keep(timed, &mut messages);
            }
            Op::Change { remove, add } => {
                encode::remove(&by_set(remove), &mut messages);
                encode::add(&by_set(add), &mut messages);
            }
            Op::Remove => messages.extend(encode::delete_table()),
        }
        self.tables.transact(|sequence| transaction(messages, sequence))?;
        if !matches!(op, Op::Replace { .. }) {
            return Ok(None);
        }
        let seen = self.fingerprint()?;
        // What somebody else changed in between must not be taken for what we made.
        Ok((!self.changed()?).then_some(seen))
    }

    fn dropped(&mut self) -> io::Result<Option<u64>> {
        let answer = self.tables.ask(GET_OBJECT, &encode::counter())?;
        Ok(encode::read_counter(&answer))
    }
}

/// Arms the guard, from the thread that speaks VRRP.
///
/// ```ignore
/// let mut guard = Guard::open()?;
/// guard.arm(&[address])?; // before the address is added
/// ```
pub struct Guard {
    tables: Connection,
}

impl Guard {
    /// Opens a socket in the network namespace of the calling thread; the table need not be there yet.
    pub fn open() -> io::Result<Self> {
        Ok(Self { tables: Connection::open(PROTOCOL)? })
    }

    /// For [`super::ARMED`] from now on, segments to these addresses and a service's port there that IPVS does not know are
    /// dropped. Blocks for one transaction of the kernel.
    ///
    /// # Errors
    /// ENOENT while there is no table: the director does not synchronise connections, or the plane has not made it yet.
    pub fn arm(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        let messages: Vec<Unsent> = encode::arm(addresses);
        if messages.is_empty() {
            return Ok(());
        }
        self.tables.transact(|sequence| transaction(messages, sequence))
    }
}
