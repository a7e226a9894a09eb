//! rtnetlink for routes and rules: what is ours is heard and read, changes are carried out.

use std::{io, os::fd::BorrowedFd};

use super::message::{self, DELETE_ROUTE, DELETE_RULE, GET_ROUTE, GET_RULE};
use super::{Event, Held, Op};
use crate::plane::{
    netlink::{Connection, Listener},
    rtnl::{self, GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE},
};

/// RTNLGRP_IPV4_RULE.
const GROUP_IPV4_RULE: u32 = 8;
/// RTNLGRP_IPV6_RULE.
const GROUP_IPV6_RULE: u32 = 19;

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// About what is ours.
    pub(super) events: Vec<Event>,
    /// Something of somebody else went: it may have been in the way.
    pub(super) room: bool,
    /// Notifications were lost.
    pub(super) lost: bool,
}

/// Routes and rules of the network namespace of the thread that opened it.
pub(super) struct Kernel {
    connection: Connection,
    /// Open while something may be wanted: on a machine with the routes of half the world it would be woken for each.
    listener: Option<Listener>,
}

impl Kernel {
    pub(super) fn open() -> io::Result<Self> {
        let connection = Connection::open(rtnl::PROTOCOL)?;
        connection.filter_dumps();
        Ok(Self { connection, listener: None })
    }

    /// Listens, or no longer. True when it has just begun: what was known may be out of date.
    pub(super) fn listen(&mut self, wanted: bool) -> io::Result<bool> {
        match (wanted, self.listener.is_some()) {
            (true, false) => {
                let groups = [GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE, GROUP_IPV4_RULE, GROUP_IPV6_RULE];
                self.listener = Some(Listener::open(rtnl::PROTOCOL, &groups)?);
                Ok(true)
            }
            (false, true) => {
                self.listener = None;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// What becomes readable with a notification.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(Listener::descriptor)
    }

    /// Everything of ours.
    pub(super) fn observe(&mut self) -> io::Result<Held> {
        let mut held = Held::default();
        for is_ipv4 in [true, false] {
            for (kind, request) in
                [(GET_ROUTE, message::routes_request(is_ipv4)), (GET_RULE, message::rules_request(is_ipv4))]
            {
                let answers = match self.connection.dump(kind, &request) {
                    Ok(answers) => answers,
                    // A kernel without IPv6, or without policy rules, has none of them.
                    Err(error)
                        if matches!(
                            error.raw_os_error(),
                            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOENT)
                        ) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for event in answers.iter().filter_map(message::read) {
                    held.update(event);
                }
            }
        }
        Ok(held)
    }

    /// The notifications since the last time.
    pub(super) fn heard(&mut self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let Some(listener) = &self.listener else { return Ok(heard) };
        let lost = listener.drain(|message| match message::read(message) {
            Some(event) => heard.events.push(event),
            None => heard.room |= matches!(message.kind, DELETE_ROUTE | DELETE_RULE),
        })?;
        heard.lost = lost;
        Ok(heard)
    }

    /// Carries out changes, each for itself; the answers are in their order.
    pub(super) fn apply(&mut self, ops: &[Op]) -> io::Result<Vec<io::Result<()>>> {
        let changes: Vec<_> = ops.iter().map(message::change).collect();
        self.connection.pipeline(&changes)
    }
}
