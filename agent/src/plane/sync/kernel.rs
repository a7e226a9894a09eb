//! The daemons by generic netlink, interfaces by name.

use std::{io, os::fd::BorrowedFd};

use bascule_ipvs::{Client, Command, CommandError, Daemon, Error};
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{Observed, Op, guard};
use crate::{
    plane::{
        netlink::Listener,
        rtnl::{self, GROUP_LINK},
    },
    reconcile::FailureReason,
};

/// The kernel, or a model of it.
pub(crate) trait Io {
    /// Where the guard's table is.
    type Guard: guard::Io;

    /// Becomes readable when interfaces come and go.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// Whether they did since the last time.
    fn changed(&mut self) -> io::Result<bool>;
    /// The daemons, and the interface of this name. Opens what it needs: without IPVS it fails at every call.
    fn observe(&mut self, interface: Option<&str>) -> Result<Observed, Error>;
    /// Starts or stops a daemon; else why not.
    fn apply(&mut self, op: &Op) -> Result<(), (FailureReason, String)>;
    /// Opens nf_tables.
    fn guard(&mut self) -> io::Result<Self::Guard>;
}

/// The network namespace of the thread that opened it.
pub(crate) struct Kernel {
    client: Option<Client>,
    links: Listener,
}

impl Kernel {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { client: None, links: Listener::open(rtnl::PROTOCOL, &[GROUP_LINK])? })
    }

    fn client(&mut self) -> Result<&mut Client, Error> {
        match &mut self.client {
            Some(client) => Ok(client),
            closed => Ok(closed.insert(Client::connect()?)),
        }
    }

    fn daemons(&mut self) -> Result<Vec<Daemon>, Error> {
        self.client()?.daemons()
    }
}

impl Io for Kernel {
    type Guard = guard::Kernel;

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.links.descriptor())
    }

    fn changed(&mut self) -> io::Result<bool> {
        let mut any = false;
        let lost = self.links.drain(|_| any = true)?;
        Ok(any || lost)
    }

    fn observe(&mut self, interface: Option<&str>) -> Result<Observed, Error> {
        let daemons = self.daemons().inspect_err(|_| self.client = None)?;
        // Any error means that there is none of this name.
        let link = interface.and_then(|name| if_nametoindex(name).ok());
        Ok(Observed { daemons, link })
    }

    fn apply(&mut self, op: &Op) -> Result<(), (FailureReason, String)> {
        let command = match op {
            Op::Start(daemon, _) => Command::NewDaemon(daemon.clone()),
            Op::Stop(role, _) => Command::DelDaemon(*role),
        };
        let result = self.client().and_then(|client| client.execute(&command));
        result.or_else(|error| match (&error, op) {
            // Somebody was faster.
            (
                Error::Command { source: CommandError::Kernel { errno: Errno::ESRCH, .. }, .. },
                Op::Stop(..),
            ) => Ok(()),
            (
                Error::Command { source: CommandError::Kernel { errno: Errno::ENODEV, .. }, .. },
                Op::Start(..),
            ) => Err((FailureReason::Missing, error.to_string())),
            _ => Err((FailureReason::Refused, error.to_string())),
        })
    }

    fn guard(&mut self) -> io::Result<guard::Kernel> {
        guard::Kernel::open()
    }
}
