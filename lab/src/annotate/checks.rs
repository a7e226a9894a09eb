//! Health checks that fail, as a director's own connections to servers show them.

use std::collections::HashMap;
use std::net::IpAddr;

use super::known::Known;
use super::note::{CheckFailure, Note};
use super::packet::{ACK, FIN, Ip, RST, SYN, Transport, u16_at};
use super::{Book, Look};

/// After this, in nanoseconds, an answer does not come any more.
const PATIENCE: u64 = 2_000_000_000;
/// So many connections may be open at once.
const MAX: usize = 100_000;
/// From here on an HTTP status is no success.
const FAILS_FROM: u16 = 400;

/// Who, whom, and the numbers by which its packets are known: ports, or those of an echo.
type Flow = (IpAddr, IpAddr, u16, u16);

/// The directors' own connections.
#[derive(Default)]
pub(super) struct Watch {
    open: HashMap<Flow, Attempt>,
}

struct Attempt {
    index: usize,
    at: u64,
    by: String,
    server: String,
    end: usize,
    answered: bool,
}

impl Watch {
    /// `forwarded`: it is a packet of somebody else's that the director hands on.
    pub(super) fn look(&mut self, look: &Look<'_>, forwarded: bool, book: &mut Book) {
        let (Some(ip), Some(node)) = (look.frame.ip(), look.node()) else { return };
        if !look.known.directors.contains(node) {
            return;
        }
        if look.is_outbound() && !forwarded {
            self.begins(look, &ip, node, book);
        } else if look.is_inbound() {
            self.comes_back(look, &ip, book);
        }
    }

    fn begins(&mut self, look: &Look<'_>, ip: &Ip<'_>, node: &str, book: &mut Book) {
        let Some((flow, port)) = first(ip) else { return };
        let servers = &look.known.servers;
        if !servers.contains(&ip.destination) || self.open.get(&flow).is_some_and(|open| !open.answered) {
            return;
        }
        if self.open.len() >= MAX {
            self.give_up(look.at(), look.known, book);
        }
        if self.open.len() < MAX {
            let server = look.known.endpoint(ip.destination, port);
            let attempt = Attempt {
                index: look.sent,
                at: look.at(),
                by: node.to_owned(),
                server,
                end: look.end(),
                answered: false,
            };
            self.open.insert(flow, attempt);
        }
    }

    fn comes_back(&mut self, look: &Look<'_>, ip: &Ip<'_>, book: &mut Book) {
        let mut fails = |attempt: &Attempt, why| {
            let (by, server) = (attempt.by.clone(), attempt.server.clone());
            book.put(look.sent, Note::CheckFails { by, server, why });
        };
        let icmp = ip.protocol == 1 || ip.protocol == 58;
        match ip.transport() {
            Transport::Tcp { ports, flags, data, .. } => {
                let Some(attempt) = self.open.get_mut(&(ip.destination, ip.source, ports.1, ports.0)) else {
                    return;
                };
                if flags & RST != 0 && !attempt.answered {
                    fails(attempt, CheckFailure::Refused);
                } else if let Some(status) = status(data).filter(|status| *status >= FAILS_FROM) {
                    fails(attempt, CheckFailure::Status(status));
                }
                attempt.answered = true;
            }
            Transport::Udp { ports, .. } => {
                if let Some(attempt) = self.open.get_mut(&(ip.destination, ip.source, ports.1, ports.0)) {
                    attempt.answered = true;
                }
            }
            Transport::Icmp { kind: 0 | 129, rest, .. } if icmp => {
                let Some(numbers) = u16_at(rest, 0).zip(u16_at(rest, 2)) else { return };
                if let Some(attempt) = self.open.get_mut(&(ip.destination, ip.source, numbers.0, numbers.1)) {
                    attempt.answered = true;
                }
            }
            Transport::Icmp { kind: 3, rest, .. } if ip.source.is_ipv4() => {
                // Behind four bytes comes the packet that could not be delivered.
                let Some(inner) = rest.get(4..).and_then(inner) else { return };
                if let Some(attempt) = self.open.get_mut(&inner).filter(|attempt| !attempt.answered) {
                    fails(attempt, CheckFailure::Unreachable);
                    attempt.answered = true;
                }
            }
            _ => {}
        }
    }

    /// Comments on what was not answered in time.
    fn give_up(&mut self, now: u64, known: &Known, book: &mut Book) {
        self.open.retain(|_, attempt| {
            let late = now.saturating_sub(attempt.at) > PATIENCE;
            let whole = known.ends.get(attempt.end).is_some_and(|end| end.dropped == 0);
            if late && !attempt.answered && whole {
                let (by, server) = (attempt.by.clone(), attempt.server.clone());
                book.put(attempt.index, Note::CheckFails { by, server, why: CheckFailure::NoAnswer });
            }
            !late
        });
    }

    /// Comments on all that was not answered until the recording ended.
    pub(super) fn end(&mut self, known: &Known, book: &mut Book) {
        for (at, end) in known.ends.iter().enumerate() {
            if let Some((_, until)) = end.recorded.last().copied() {
                let others: HashMap<Flow, Attempt> =
                    self.open.extract_if(|_, attempt| attempt.end != at).collect();
                self.give_up(until, known, book);
                self.open = others;
            }
        }
    }
}

/// The flow that a packet begins, and the port that it is for.
fn first(ip: &Ip<'_>) -> Option<(Flow, u16)> {
    let (numbers, port) = match ip.transport() {
        Transport::Tcp { ports, flags, .. } if flags & (SYN | ACK | RST | FIN) == SYN => (ports, ports.1),
        Transport::Udp { ports, .. } => (ports, ports.1),
        Transport::Icmp { kind: 8 | 128, rest, .. } => ((u16_at(rest, 0)?, u16_at(rest, 2)?), 0),
        _ => return None,
    };
    Some(((ip.source, ip.destination, numbers.0, numbers.1), port))
}

/// The flow of the first bytes of a packet, as ICMP sends them back.
fn inner(bytes: &[u8]) -> Option<Flow> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let source = super::packet::address(bytes, 12, false)?;
    let destination = super::packet::address(bytes, 16, false)?;
    let numbers = bytes.get(header..)?;
    Some((source, destination, u16_at(numbers, 0)?, u16_at(numbers, 2)?))
}

/// The status of an HTTP answer that begins here.
fn status(data: &[u8]) -> Option<u16> {
    let rest = data.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()
}
