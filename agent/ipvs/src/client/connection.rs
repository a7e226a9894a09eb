//! Questions, dumps and single commands over a link.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use super::{Options, UNEXPECTED, link::Link, missing};
use crate::{
    Command, CommandError, Daemon, DestinationEntry, Errno, Error, Family, ServiceEntry, ServiceId,
    codec::{
        self, CONTROLLER, DecodeError, NLM_F_ACK, NLM_F_DUMP_INTR, Payload, Query, Reply, encode_command,
        encode_query,
    },
};

/// How often a dump is tried that changes of the table interrupt.
const DUMP_ATTEMPTS: u32 = 8;

/// The state of a conversation with the kernel.
#[derive(Debug)]
pub(super) struct Connection<L> {
    pub(super) link: L,
    pub(super) options: Options,
    pub(super) family: u16,
    sequence: u32,
    /// The last conversation was broken off, messages of it may still come in.
    stale: bool,
    /// The sequence number of a list of services that is being read a piece at a time. Nothing else is asked over such a connection.
    pub(super) paging: Option<u32>,
    pub(super) request: Vec<u8>,
    datagram: Vec<u8>,
}

/// How a dump ended that did not fail for good.
enum Dump<T> {
    Whole(Listing<T>),
    /// It changed meanwhile, or was cut.
    Interrupted,
    /// The kernel refused.
    Refused(Errno),
}

/// What a dump gave.
struct Listing<T> {
    entries: Vec<T>,
    /// It came in one datagram, which the kernel fills while it holds its lock. One in several may lack entries.
    at_once: bool,
}

/// What a reader of messages says.
pub(super) enum Progress {
    More,
    Finished,
}

impl<L: Link> Connection<L> {
    pub(super) fn new(link: L, options: Options) -> Self {
        Self {
            link,
            options,
            family: 0,
            sequence: 0,
            stale: false,
            paging: None,
            request: Vec::new(),
            datagram: Vec::new(),
        }
    }

    pub(super) fn family(&self) -> u16 {
        self.family
    }

    /// Starts a conversation: a fresh socket if the last one was broken off.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        if self.stale {
            self.link.reopen()?;
            self.stale = false;
        }
        self.request.clear();
        Ok(())
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Remembers that a conversation was broken off.
    pub(super) fn broken<T, E>(&mut self, result: Result<T, E>) -> Result<T, E> {
        self.stale |= result.is_err();
        result
    }

    /// Asks the controller for the family's id.
    pub(super) fn resolve(&mut self) -> Result<(), Error> {
        self.begin()?;
        let sequence = self.next_sequence();
        codec::encode_family_query(&mut self.request, sequence);
        let result = self.exchange(sequence, CONTROLLER, codec::decode_family);
        match self.broken(result)? {
            Ok(id) => {
                self.family = id;
                Ok(())
            }
            Err(Errno::ENOENT) => Err(Error::Missing { advice: missing::advice() }),
            Err(Errno::EPERM) => Err(Error::Permission),
            Err(errno) => Err(Error::Query { what: "the id of the family IPVS", errno }),
        }
    }

    /// Asks for one thing; none if there is no such service.
    pub(super) fn ask(&mut self, what: &'static str, query: Query) -> Result<Option<Reply>, Error> {
        let mut resolved = false;
        loop {
            self.begin()?;
            let sequence = self.next_sequence();
            let family = self.family;
            if encode_query(&mut self.request, family, sequence, query).is_err() {
                // What cannot be said to the kernel, it cannot hold.
                return Ok(None);
            }
            let of = service_family(query);
            let result = self.exchange(sequence, family, |payload| codec::decode_reply(payload, of));
            match self.broken(result)? {
                Ok(reply) => return Ok(Some(reply)),
                Err(Errno::ESRCH) if matches!(query, Query::Service(_)) => return Ok(None),
                // No family has this id: ip_vs was unloaded since.
                Err(Errno::ENOENT) if !resolved => {
                    resolved = true;
                    self.resolve()?;
                }
                Err(errno) => return Err(refused(what, errno)),
            }
        }
    }

    pub(super) fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error> {
        match self.ask("a service", Query::Service(*id))? {
            None => Ok(None),
            Some(Reply::Service(entry)) if entry.service.id == *id => Ok(Some(entry)),
            Some(_) => Err(UNEXPECTED.into()),
        }
    }

    pub(super) fn services(&mut self) -> Result<Vec<ServiceEntry>, Error> {
        Ok(self.list_services()?.entries)
    }

    fn list_services(&mut self) -> Result<Listing<ServiceEntry>, Error> {
        let mut listing = self.dump("the services", Query::Services, |reply| match reply {
            Reply::Service(entry) => Some(entry),
            _ => None,
        })?;
        once(&mut listing.entries, |entry| entry.service.id);
        Ok(listing)
    }

    /// See [`crate::Client::services_with`].
    pub(super) fn services_with(
        &mut self,
        expected: impl IntoIterator<Item = ServiceId>,
    ) -> Result<Vec<ServiceEntry>, Error> {
        let mut listing = self.list_services()?;
        if listing.at_once {
            return Ok(listing.entries);
        }
        let mut known: HashSet<ServiceId> = listing.entries.iter().map(|entry| entry.service.id).collect();
        for id in expected {
            if known.insert(id) {
                listing.entries.extend(self.service(&id)?);
            }
        }
        Ok(listing.entries)
    }

    pub(super) fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error> {
        let mut listing = self.dump("the real servers", Query::Destinations(*id), |reply| match reply {
            Reply::Destination(entry) => Some(entry),
            _ => None,
        })?;
        once(&mut listing.entries, |entry| entry.destination.id);
        Ok(listing.entries)
    }

    pub(super) fn daemons(&mut self) -> Result<Vec<Daemon>, Error> {
        self.dump("the sync daemons", Query::Daemons, |reply| match reply {
            Reply::Daemon(daemon) => Some(daemon),
            _ => None,
        })
        .map(|listing| listing.entries)
    }

    /// Carries out one command, asking for an answer.
    pub(super) fn execute_single(&mut self, command: &Command) -> Result<Result<(), CommandError>, Error> {
        let mut resolved = false;
        loop {
            self.begin()?;
            let sequence = self.next_sequence();
            if let Err(invalid) = encode_command(&mut self.request, self.family, sequence, NLM_F_ACK, command)
            {
                return Ok(Err(invalid.into()));
            }
            let result = self.acknowledged(sequence);
            return match self.broken(result)? {
                Ok(()) => Ok(Ok(())),
                Err(Errno::EPERM) => Err(Error::Permission),
                // Either the command's own answer, or no family has this id any more.
                Err(Errno::ENOENT) if !resolved && self.family_changed()? => {
                    resolved = true;
                    continue;
                }
                Err(errno) => Ok(Err(CommandError::kernel(command, errno))),
            };
        }
    }

    /// See [`crate::Client::load_scheduler`].
    pub(super) fn load_scheduler(&mut self, name: &str) -> Result<(), Error> {
        self.begin()?;
        let sequence = self.next_sequence();
        if codec::encode_scheduler_query(&mut self.request, self.family, sequence, name).is_err() {
            // The kernel has no scheduler of such a name.
            return Ok(());
        }
        let result = self.acknowledged(sequence);
        match self.broken(result)? {
            Err(Errno::EPERM) => Err(Error::Permission),
            // It is refused by design, and whether the scheduler is there is said to who needs it.
            _ => Ok(()),
        }
    }

    /// Whether ip_vs was unloaded and loaded again, and got another id.
    pub(super) fn family_changed(&mut self) -> Result<bool, Error> {
        let before = self.family;
        self.resolve()?;
        Ok(self.family != before)
    }

    /// Sends the request and waits for its acknowledgement.
    fn acknowledged(&mut self, sequence: u32) -> Result<Result<(), Errno>, Error> {
        self.link
            .send(&self.request)
            .map_err(|source| Error::Socket { action: "send to the kernel", source })?;
        let mut answer = Ok(());
        self.receive(|message, _| {
            if message.sequence != sequence {
                return Ok(Progress::More);
            }
            let Payload::Answer { errno } = message.payload else { return Ok(Progress::More) };
            if errno != 0 {
                answer = Err(Errno::from_raw(errno));
            }
            Ok(Progress::Finished)
        })?;
        Ok(answer)
    }

    /// Sends the request and waits for its one answer.
    fn exchange<T>(
        &mut self,
        sequence: u32,
        family: u16,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Result<T, Errno>, Error> {
        self.link
            .send(&self.request)
            .map_err(|source| Error::Socket { action: "send to the kernel", source })?;
        let mut answer = None;
        self.receive(|message, _| {
            if message.sequence != sequence {
                return Ok(Progress::More);
            }
            match message.payload {
                Payload::Family { id, bytes } if id == family => answer = Some(Ok(decode(bytes)?)),
                Payload::Answer { errno } => answer = Some(Err(Errno::from_raw(errno))),
                _ => return Ok(Progress::More),
            }
            Ok(Progress::Finished)
        })?;
        answer.ok_or(UNEXPECTED.into())
    }

    /// Dumps until a dump is whole, a bounded number of times.
    fn dump<T>(
        &mut self,
        what: &'static str,
        query: Query,
        select: impl Fn(Reply) -> Option<T>,
    ) -> Result<Listing<T>, Error> {
        let mut resolved = false;
        for _ in 0..DUMP_ATTEMPTS {
            self.begin()?;
            let sequence = self.next_sequence();
            if encode_query(&mut self.request, self.family, sequence, query).is_err() {
                return Ok(Listing { entries: Vec::new(), at_once: true });
            }
            let result = self.dump_once(sequence, query, &select);
            match self.broken(result)? {
                Dump::Whole(listing) => return Ok(listing),
                Dump::Interrupted => self.stale = true,
                Dump::Refused(Errno::ENOENT) if !resolved => {
                    resolved = true;
                    self.resolve()?;
                }
                Dump::Refused(errno) => return Err(refused(what, errno)),
            }
        }
        Err(Error::Interrupted { what, attempts: DUMP_ATTEMPTS })
    }

    fn dump_once<T>(
        &mut self,
        sequence: u32,
        query: Query,
        select: impl Fn(Reply) -> Option<T>,
    ) -> Result<Dump<T>, Error> {
        self.link
            .send(&self.request)
            .map_err(|source| Error::Socket { action: "send to the kernel", source })?;
        let family = self.family;
        let of = service_family(query);
        let mut entries = Vec::new();
        let mut datagrams = HashSet::new();
        let mut interrupted = false;
        let mut refused = None;
        let end = self.receive(|message, datagram| {
            if message.sequence != sequence {
                return Ok(Progress::More);
            }
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                Payload::Family { id, bytes } if id == family => {
                    datagrams.insert(datagram);
                    entries.push(select(codec::decode_reply(bytes, of)?).ok_or(UNEXPECTED)?);
                    return Ok(Progress::More);
                }
                Payload::Done { errno: 0 } => {}
                Payload::Done { errno } | Payload::Answer { errno } => refused = Some(Errno::from_raw(errno)),
                Payload::Overrun => interrupted = true,
                Payload::Family { .. } | Payload::Noop => return Ok(Progress::More),
            }
            Ok(Progress::Finished)
        });
        match end {
            Err(error) if is_enobufs(&error) => return Ok(Dump::Interrupted),
            other => other?,
        }
        Ok(match refused {
            Some(Errno::ENOBUFS | Errno::EBUSY | Errno::EINTR) => Dump::Interrupted,
            Some(errno) => Dump::Refused(errno),
            None if interrupted => Dump::Interrupted,
            None => Dump::Whole(Listing { entries, at_once: datagrams.len() <= 1 }),
        })
    }

    /// Hands messages, each with the number of its datagram, to `handle` until it says that it has what it wants; fails when nothing of use comes in for as long as the
    /// options say.
    fn receive(
        &mut self,
        mut handle: impl FnMut(&codec::Message<'_>, u64) -> Result<Progress, DecodeError>,
    ) -> Result<(), Error> {
        // Each datagram gets the full time: a long dump is no reason to give up. Datagrams of no use do not come in for ever, the
        // socket hears only the kernel.
        for datagram in 0.. {
            receive_one(&mut self.link, &mut self.datagram, self.options.timeout, true)?;
            for message in codec::messages(&self.datagram) {
                if let Progress::Finished = handle(&message?, datagram)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Hands the messages of the next datagram to `handle`; an io::Error as it came.
    pub(super) fn receive_datagram(
        &mut self,
        wait: bool,
        mut handle: impl FnMut(&codec::Message<'_>),
    ) -> Result<(), Error> {
        receive_one(&mut self.link, &mut self.datagram, self.options.timeout, wait)?;
        for message in codec::messages(&self.datagram) {
            handle(&message?);
        }
        Ok(())
    }
}

/// One datagram, come what may with signals.
fn receive_one(
    link: &mut impl Link,
    datagram: &mut Vec<u8>,
    timeout: Duration,
    wait: bool,
) -> Result<(), Error> {
    // Not asked for the time unless needed: where that is a system call, it would be felt in a large dump.
    let mut interrupted: Option<Instant> = None;
    loop {
        match link.receive(datagram, wait) {
            Ok(()) => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::Interrupted
                    && interrupted.get_or_insert_with(Instant::now).elapsed() < timeout => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Err(Error::Timeout { seconds: timeout.as_secs_f32() });
            }
            Err(source) => return Err(Error::Socket { action: "receive from the kernel", source }),
        }
    }
}

/// The receive buffer was full, messages are lost.
pub(super) fn is_enobufs(error: &Error) -> bool {
    matches!(error, Error::Socket { source, .. } if source.raw_os_error() == Some(Errno::ENOBUFS as i32))
}

pub(super) fn refused(what: &'static str, errno: Errno) -> Error {
    if errno == Errno::EPERM { Error::Permission } else { Error::Query { what, errno } }
}

/// The family of the service that a question is about.
fn service_family(query: Query) -> Family {
    match query {
        Query::Service(id) | Query::Destinations(id) => id.family(),
        Query::Services | Query::Daemons | Query::Timeouts | Query::Info => Family::Ipv4,
    }
}

/// Each entry once: the kernel goes through a dump by position, so that an addition makes it list an entry twice.
fn once<T, I: Eq + std::hash::Hash>(entries: &mut Vec<T>, id: impl Fn(&T) -> I) {
    let mut seen = HashSet::with_capacity(entries.len());
    entries.retain(|entry| seen.insert(id(entry)));
}
