//! A blocking client.

mod batch;
mod connection;
#[cfg(test)]
mod fake;
mod link;
mod missing;
mod page;
mod settle;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::page::Page;
use self::{connection::Connection, link::NetlinkLink};
use crate::{
    Command, CommandError, Daemon, DestinationEntry, Error, Info, ServiceEntry, ServiceId, Timeouts,
    codec::{DecodeError, Query, Reply},
};

/// How a [`Client`] talks to the kernel; the defaults are right for nearly everybody.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the kernel may take to answer: 10 s.
    pub timeout: Duration,
    /// Size asked for the socket's receive buffer, in bytes: 4 MiB (the kernel's limit for others does not hold for
    /// CAP_NET_ADMIN). It has to hold the answers of a batch in which every command fails.
    pub receive_buffer: usize,
    /// Commands in one `send`, at least 1. `None`: 1,000, or fewer if the receive buffer that the kernel gave would not hold
    /// that many answers.
    pub batch: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), receive_buffer: 4 << 20, batch: None }
    }
}

/// Talks to the IPVS of one network namespace: that of the thread that called [`Client::connect`].
///
/// Calls block until the kernel has answered. After an [`Error`] the client opens a new socket at the next call; it must then be
/// called from a thread in the same network namespace as before.
#[derive(Debug)]
pub struct Client {
    connection: Connection<NetlinkLink>,
    /// For the list that is read a piece at a time.
    pages: Option<Connection<NetlinkLink>>,
}

impl Client {
    /// Opens a socket and asks for IPVS, which makes the kernel load `ip_vs`.
    ///
    /// # Errors
    /// [`Error::Missing`] when the kernel offers no IPVS, [`Error::Permission`], [`Error::Socket`], [`Error::Timeout`].
    pub fn connect() -> Result<Self, Error> {
        Self::connect_with(Options::default())
    }

    /// The same with other [`Options`].
    pub fn connect_with(options: Options) -> Result<Self, Error> {
        let mut connection = Connection::new(NetlinkLink::open(&options)?, options);
        connection.resolve()?;
        Ok(Self { connection, pages: None })
    }

    /// The id that the kernel gave to the family `IPVS`.
    pub fn family_id(&self) -> u16 {
        self.connection.family()
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// [`Error::Command`] when the kernel refuses; anything else when it could not be asked.
    pub fn execute(&mut self, command: &Command) -> Result<(), Error> {
        self.connection
            .execute_single(command)?
            .map_err(|source| Error::Command { command: command.to_string(), source })
    }

    /// Carries out commands in order, many in one `send`, and tells of each whether it worked; one that fails does not stop
    /// those after it.
    ///
    /// Where the kernel's answers are lost because the receive buffer is full (ENOBUFS), the commands they were for are checked by
    /// looking, and tried again one by one where they had no effect.
    ///
    /// # Errors
    /// When the kernel could not be asked or did not answer; any number of the commands may have been carried out then.
    pub fn execute_all(&mut self, commands: &[Command]) -> Result<Vec<Result<(), CommandError>>, Error> {
        self.connection.execute_all(commands)
    }

    /// Makes the kernel load the module of a scheduler, which takes time, so that a later change to that scheduler takes
    /// none for it. Changes nothing; does nothing when there is no such scheduler, or in a kernel whose IPVS has no IPv6.
    ///
    /// # Errors
    /// When the kernel could not be asked or did not answer.
    pub fn load_scheduler(&mut self, name: &str) -> Result<(), Error> {
        self.connection.load_scheduler(name)
    }

    /// All services with their counters.
    ///
    /// The kernel goes through its table in steps of about a hundred services, by position, and says nothing when services come or go
    /// between two steps, be it in another network namespace, for it has one table for all: then others may be missing here. (Some
    /// it lists twice, they are here once.) So before acting on the absence of one, ask for it: [`Client::services_with`].
    pub fn services(&mut self) -> Result<Vec<ServiceEntry>, Error> {
        self.connection.services()
    }

    /// All services, like [`Client::services`], but of those `expected` none is missing that is there: each that was not in the
    /// dump is asked for by itself, unless the dump came in one step and so cannot be wrong.
    pub fn services_with(
        &mut self,
        expected: impl IntoIterator<Item = ServiceId>,
    ) -> Result<Vec<ServiceEntry>, Error> {
        self.connection.services_with(expected)
    }

    /// Some services, and the next ones with the next call: for whoever has other things to do between. It has a socket of its own,
    /// so that any other calls may come between; the network namespace is that of the calling thread.
    ///
    /// Over all pages the same holds as for [`Client::services`], all the more as they are apart in time: some services may be
    /// missing that are there, or come twice. After an error the next call begins a new list.
    ///
    /// # Errors
    /// As any other question.
    pub fn services_page(&mut self) -> Result<Page, Error> {
        let mut pages = match self.pages.take() {
            Some(pages) => pages,
            None => Connection::new(NetlinkLink::open(&self.connection.options)?, self.connection.options),
        };
        if pages.paging.is_none() {
            // It may have become another one.
            pages.family = self.connection.family;
        }
        let page = pages.services_page()?;
        self.pages = Some(pages);
        Ok(page)
    }

    /// One service with its counters, if it is there.
    pub fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error> {
        self.connection.service(id)
    }

    /// The destinations of a service with their counters; none when there is no such service (the kernel does not tell the
    /// difference). More than about 90 come in steps, as [`Client::services`]; here only changes of this very service matter.
    pub fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error> {
        self.connection.destinations(id)
    }

    /// All services as [`Client::services`] gives them, each with its destinations: a dump for each service.
    pub fn dump(&mut self) -> Result<Vec<(ServiceEntry, Vec<DestinationEntry>)>, Error> {
        let services = self.services()?;
        services
            .into_iter()
            .map(|entry| {
                let destinations = self.destinations(&entry.service.id)?;
                Ok((entry, destinations))
            })
            .collect()
    }

    /// The sync daemons that run: none, one or two.
    pub fn daemons(&mut self) -> Result<Vec<Daemon>, Error> {
        self.connection.daemons()
    }

    /// The timeouts of connections.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        match self.connection.ask("the timeouts", Query::Timeouts)? {
            Some(Reply::Timeouts(timeouts)) => Ok(timeouts),
            _ => Err(UNEXPECTED.into()),
        }
    }

    /// The version of the kernel's IPVS and the size of its connection table.
    pub fn info(&mut self) -> Result<Info, Error> {
        match self.connection.ask("the version", Query::Info)? {
            Some(Reply::Info(info)) => Ok(info),
            _ => Err(UNEXPECTED.into()),
        }
    }
}

/// The kernel answers with another kind of message than was asked for.
const UNEXPECTED: DecodeError = DecodeError::Missing { attribute: "the answer to the question" };
