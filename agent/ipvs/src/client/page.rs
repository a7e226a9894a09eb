//! A list of all services that is read a piece at a time.
//!
//! The kernel fills one datagram of a dump when it is asked for and another each time one is read, so that a list of ten thousand
//! services can be read over any time, with its socket to itself, while other questions go over another.

use super::{
    UNEXPECTED,
    connection::{Connection, refused},
    link::Link,
};
use crate::{
    Errno, Error, Family, ServiceEntry,
    codec::{self, Payload, Query, Reply, encode_query},
};

/// A piece of the list of all services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Some services with their counters, about a hundred.
    pub services: Vec<ServiceEntry>,
    /// The list ends with them; what is read next is the first of a new one.
    pub last: bool,
}

impl<L: Link> Connection<L> {
    /// See [`crate::Client::services_page`].
    pub(super) fn services_page(&mut self) -> Result<Page, Error> {
        let sequence = match self.paging.take() {
            Some(sequence) => sequence,
            None => self.start_paging()?,
        };
        let result = self.page(sequence);
        let page = self.broken(result)?;
        if !page.last {
            self.paging = Some(sequence);
        }
        Ok(page)
    }

    fn start_paging(&mut self) -> Result<u32, Error> {
        self.begin()?;
        let sequence = self.next_sequence();
        if encode_query(&mut self.request, self.family, sequence, Query::Services).is_err() {
            return Err(UNEXPECTED.into());
        }
        let sent = self.link.send(&self.request);
        self.broken(sent.map_err(|source| Error::Socket { action: "send to the kernel", source }))?;
        Ok(sequence)
    }

    /// The services of the next datagram that has any, or the end.
    fn page(&mut self, sequence: u32) -> Result<Page, Error> {
        let family = self.family;
        let mut page = Page::default();
        while page.services.is_empty() && !page.last {
            let mut failure = None;
            self.receive_datagram(true, |message| {
                if message.sequence != sequence {
                    return;
                }
                let end = match message.payload {
                    Payload::Family { id, bytes } if id == family => {
                        match codec::decode_reply(bytes, Family::Ipv4) {
                            Ok(Reply::Service(entry)) => return page.services.push(entry),
                            Ok(_) => Err(UNEXPECTED.into()),
                            Err(error) => Err(error.into()),
                        }
                    }
                    Payload::Done { errno: 0 } => Ok(()),
                    Payload::Done { errno } | Payload::Answer { errno } => {
                        Err(refused("the services", Errno::from_raw(errno)))
                    }
                    Payload::Overrun => Err(refused("the services", Errno::ENOBUFS)),
                    Payload::Family { .. } | Payload::Noop => return,
                };
                page.last = true;
                failure = failure.take().or(end.err());
            })?;
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(page)
    }
}
