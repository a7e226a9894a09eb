//! Settings by /proc/sys, notifications by rtnetlink.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use super::{Desired, FORWARD_IPV6, INTERFACES_IPV6, Observed, Op, accept_ra};
use crate::plane::{
    netlink::Listener,
    rtnl::{self, GROUP_IPV4_NETCONF, GROUP_IPV6_NETCONF, GROUP_LINK},
};

/// The kernel, or a model of it.
pub(crate) trait Io {
    /// What becomes readable with a notification.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// Whether there were notifications since the last time.
    fn notified(&mut self) -> io::Result<bool>;
    /// Reads what is wanted and what depends on it.
    fn observe(&mut self, desired: &Desired) -> io::Result<Observed>;
    /// Writes one value.
    fn apply(&mut self, op: &Op) -> io::Result<()>;
}

/// /proc/sys of the network namespace of the calling thread.
pub(crate) struct Kernel {
    root: PathBuf,
    listener: Listener,
}

impl Kernel {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        // Forwarding is told by RTM_NEWNETCONF; a new link brings settings of its own.
        let groups = [GROUP_LINK, GROUP_IPV4_NETCONF, GROUP_IPV6_NETCONF];
        Ok(Self { root: root.to_owned(), listener: Listener::open(rtnl::PROTOCOL, &groups)? })
    }

    fn read(&self, path: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.root.join(path)) {
            // Several numbers are written with spaces and read with tabs.
            Ok(value) => Ok(Some(value.split_whitespace().collect::<Vec<_>>().join(" "))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn advertised(&self) -> io::Result<BTreeSet<String>> {
        let mut interfaces = BTreeSet::new();
        for entry in fs::read_dir(self.root.join(INTERFACES_IPV6))? {
            let Ok(interface) = entry?.file_name().into_string() else { continue };
            let forwards = self.read(&format!("{INTERFACES_IPV6}/{interface}/forwarding"))?;
            if interface != "all"
                && forwards.as_deref() == Some("0")
                && self.read(&accept_ra(&interface))?.as_deref() == Some("1")
            {
                interfaces.insert(interface);
            }
        }
        Ok(interfaces)
    }
}

impl Io for Kernel {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listener.descriptor())
    }

    fn notified(&mut self) -> io::Result<bool> {
        let mut any = false;
        let lost = self.listener.drain(|_| any = true)?;
        Ok(any || lost)
    }

    fn observe(&mut self, desired: &Desired) -> io::Result<Observed> {
        let mut observed = Observed::default();
        for (path, _) in desired.values() {
            observed.values.insert(path.to_owned(), self.read(path)?);
        }
        let forwards = observed.values.get(FORWARD_IPV6);
        if forwards.is_some_and(|value| value.as_deref().is_some_and(|value| value != "1")) {
            observed.advertised = self.advertised()?;
        }
        Ok(observed)
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        fs::write(self.root.join(&op.path), &op.value)
    }
}
