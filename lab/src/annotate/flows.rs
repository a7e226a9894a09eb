//! Packets that a machine takes in and hands on: what it rewrites, and which server IPVS chose.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::note::{Forwarded, Note, Rewriting};
use super::packet::{FIN, Ip, RST, SYN, Transport};
use super::{Book, Look};

/// How long a machine may take to hand a packet on, in nanoseconds.
const PATIENCE: u64 = 2_000_000_000;
/// So many packets may be inside machines at once, and so many flows are told apart.
const MAX: usize = 200_000;

/// A flow in one direction.
type Flow = (u8, IpAddr, u16, IpAddr, u16, u32);

/// What went into machines.
#[derive(Default)]
pub(super) struct Watch {
    inside: HashMap<(String, u64), Taken>,
    told: HashSet<Flow>,
}

#[derive(Clone, Copy)]
struct Taken {
    index: usize,
    sent: usize,
    at: u64,
    end: usize,
    ttl: u8,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

impl Watch {
    /// Whether it is a packet that the node where it was recorded had taken in before.
    pub(super) fn look(&mut self, look: &Look<'_>, book: &mut Book) -> bool {
        let Some(ip) = look.frame.ip() else { return false };
        // Where no node is named, all that was recorded in one place is one machine's (`tcpdump -i any`).
        let end = look.known.ends.get(look.end()).map(|end| end.name.as_str()).unwrap_or_default();
        let node = look.node().unwrap_or(end);
        let Some(essence) = essence(&ip) else { return false };
        let key = (node.to_owned(), essence);
        if look.is_inbound() {
            self.take(look, &ip, key);
            return false;
        }
        let taken = self.inside.get(&key).copied();
        let taken = taken.filter(|taken| look.at().saturating_sub(taken.at) <= PATIENCE);
        // What a machine sends of its own may look the same; what it hands on lives no longer than before.
        let same = |taken: &Taken| look.is_outbound() && ttl(&ip) <= taken.ttl;
        let Some(taken) = taken.filter(same) else { return false };
        self.handed_on(look, &ip, &taken, book);
        true
    }

    fn take(&mut self, look: &Look<'_>, ip: &Ip<'_>, key: (String, u64)) {
        if self.inside.len() >= MAX {
            let now = look.at();
            self.inside.retain(|_, taken| now.saturating_sub(taken.at) <= PATIENCE);
        }
        if self.inside.len() < MAX {
            let (source, destination) = ends(ip);
            let taken = Taken {
                index: look.index,
                sent: look.sent,
                at: look.at(),
                end: look.end(),
                ttl: ttl(ip),
                source,
                destination,
            };
            self.inside.insert(key, taken);
        }
    }

    fn handed_on(&mut self, look: &Look<'_>, ip: &Ip<'_>, taken: &Taken, book: &mut Book) {
        let known = look.known;
        let by = look.node().map_or_else(|| taken.destination.0.to_string(), str::to_owned);
        let how = how(ip, taken, known.services.contains(&taken.destination.0));
        let number = match ip.transport() {
            Transport::Tcp { seq, .. } => seq,
            _ => 0,
        };
        let (source, destination) = (taken.source, taken.destination);
        let flow = (ip.protocol, source.0, source.1, destination.0, destination.1, number);
        let after = ends(ip);
        let rewritten = (source, destination) != after;
        if (how.is_none() && !rewritten) || self.told.len() >= MAX || !self.told.insert(flow) {
            return;
        }
        let text = |end: (IpAddr, u16)| known.endpoint(end.0, end.1);
        if let Some(how) = how {
            let server = match how {
                Forwarded::Masquerade => text(after.1),
                Forwarded::Tunnel => known.endpoint(ip.destination, 0),
                Forwarded::DirectRouting => {
                    known.owner(look.frame.to).unwrap_or_else(|| super::mac(look.frame.to))
                }
            };
            let note = Note::Chosen {
                client: text(source),
                service: text(destination),
                server,
                by: by.clone(),
                how,
                other: look.reference(look.index, look.end()),
            };
            book.put(taken.sent, note);
        }
        if how.is_none_or(|how| how == Forwarded::Masquerade) {
            let change = |other| {
                Note::Nat(Rewriting {
                    by: by.clone(),
                    other,
                    before: (text(source), text(destination)),
                    after: (text(after.0), text(after.1)),
                })
            };
            if how.is_none() {
                book.put(taken.sent, change(look.reference(look.index, look.end())));
            }
            book.put(look.sent, change(look.reference(taken.index, taken.end)));
        }
    }
}

/// How IPVS handed it on, if it was IPVS.
fn how(ip: &Ip<'_>, taken: &Taken, service: bool) -> Option<Forwarded> {
    if matches!(ip.transport(), Transport::Tunnel(_)) {
        return Some(Forwarded::Tunnel);
    }
    let (_, destination) = ends(ip);
    match service {
        true if destination != taken.destination => Some(Forwarded::Masquerade),
        true => Some(Forwarded::DirectRouting),
        false => None,
    }
}

/// The time to live of what a tunnel carries.
fn ttl(ip: &Ip<'_>) -> u8 {
    if let Transport::Tunnel(inner) = ip.transport() { inner.ttl } else { ip.ttl }
}

/// Source and destination with their ports, of what a tunnel carries.
fn ends(ip: &Ip<'_>) -> ((IpAddr, u16), (IpAddr, u16)) {
    match ip.transport() {
        Transport::Tunnel(inner) => ends(&inner),
        Transport::Tcp { ports, .. } | Transport::Udp { ports, .. } => {
            ((ip.source, ports.0), (ip.destination, ports.1))
        }
        _ => ((ip.source, 0), (ip.destination, 0)),
    }
}

/// What stays the same of a packet that may be the first of its flow in its direction.
fn essence(ip: &Ip<'_>) -> Option<u64> {
    match ip.transport() {
        Transport::Tcp { flags, .. } => (flags & (SYN | FIN | RST) == SYN).then(|| ip.essence())?,
        Transport::Tunnel(inner) => essence(&inner),
        _ => ip.essence(),
    }
}
