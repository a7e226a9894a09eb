//! Advertisements of VRRP that change something: somebody becomes active, releases, changes; and those that must be ignored.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::note::{BadVrrp, Note, Why};
use super::packet::{Ip, Transport, address, u16_at};
use super::{Book, Look};

/// Of one that was not heard for so many intervals it is no longer thought that it is active: more than any receiver waits
/// (3 intervals and a Skew_Time of at most one, RFC 9568 section 6.1).
const GONE: f64 = 4.5;
/// From so many intervals on it was silence that made another one active.
const SILENCE: f64 = 2.9;
/// So many addresses of a list are written down.
const NAMED: usize = 4;
/// More routers than this on all networks are not followed.
const MAX_ROUTERS: usize = 8192;

/// A virtual router: its network, its number, its family.
type Key = (Option<String>, u8, bool);

/// What was advertised so far.
#[derive(Default)]
pub(super) struct Watch {
    routers: HashMap<Key, Router>,
    /// When something was heard last, by end and router.
    heard: HashMap<(usize, Key), u64>,
}

#[derive(Default)]
struct Router {
    active: BTreeMap<String, Active>,
    /// Who advertised last, whether or not it still does.
    last: Option<(String, Active)>,
}

#[derive(Clone)]
struct Active {
    since: u64,
    last: u64,
    priority: u8,
    addresses: Vec<IpAddr>,
    /// Nanoseconds.
    interval: u64,
    told: bool,
}

struct Advertisement {
    id: u8,
    priority: u8,
    /// Nanoseconds; 0 where it is not said.
    interval: u64,
    addresses: Vec<IpAddr>,
}

impl Watch {
    pub(super) fn look(&mut self, look: &Look<'_>, book: &mut Book) {
        let Some(ip) = look.frame.ip() else { return };
        let Transport::Vrrp(bytes) = ip.transport() else { return };
        let network = look.known.ends.get(look.end()).and_then(|end| end.network.clone());
        let read = read(&ip, bytes);
        if look.copy || look.is_inbound() {
            if let Ok(advertisement) = &read {
                let key = (network.clone(), advertisement.id, ip.source.is_ipv6());
                self.heard.insert((look.end(), key), look.at());
            }
            if look.copy {
                return;
            }
        }
        match read {
            Ok(advertisement) => {
                let key = (network, advertisement.id, ip.source.is_ipv6());
                if self.routers.contains_key(&key) || self.routers.len() < MAX_ROUTERS {
                    self.advertised(look, key, &advertisement, book);
                }
            }
            Err(problem) => book.put(look.sent, Note::BadAdvertisement { from: look.sender(), problem }),
        }
    }

    fn advertised(&mut self, look: &Look<'_>, key: Key, advertisement: &Advertisement, book: &mut Book) {
        let (who, now) = (look.sender(), look.at());
        let group = look.known.router(key.1);
        let heard = self.heard.get(&(look.end(), key.clone())).copied();
        let router = self.routers.entry(key).or_default();
        let gone = |active: &Active| now.saturating_sub(active.last) > times(active.interval, GONE);
        router.active.retain(|name, active| *name == who || !gone(active));

        let before = router.active.get(&who).filter(|active| !gone(active)).cloned();
        let interval = match (advertisement.interval, &before) {
            (0, Some(before)) => now.saturating_sub(before.last),
            (said, _) => said,
        };
        if advertisement.priority == 0 {
            if before.is_some() {
                book.put(look.sent, Note::Releases { who: who.clone(), group });
            }
            router.active.remove(&who);
            let addresses = advertisement.addresses.clone();
            let released = Active { since: now, last: now, priority: 0, addresses, interval, told: false };
            router.last = Some((who, released));
            return;
        }
        let mut active = Active {
            since: before.as_ref().map_or(now, |before| before.since),
            last: now,
            priority: advertisement.priority,
            addresses: advertisement.addresses.clone(),
            interval,
            told: before.as_ref().is_some_and(|before| before.told),
        };
        match before {
            None => {
                let why = why(router, &who, &active, heard);
                book.put(look.sent, Note::Active { who: who.clone(), group, why });
            }
            Some(before) => {
                let (from, to) = (before.priority, active.priority);
                if from != to {
                    book.put(look.sent, Note::Priority { who: who.clone(), group: group.clone(), from, to });
                }
                if before.addresses != active.addresses {
                    let now = list(&active.addresses);
                    book.put(look.sent, Note::Addresses { who: who.clone(), group: group.clone(), now });
                }
                active.told = told(router, &who, &active, &group, look, book);
            }
        }
        router.last = Some((who.clone(), active.clone()));
        router.active.insert(who, active);
    }
}

/// Comments once on two that advertise at the same time; whether it has.
fn told(router: &Router, who: &str, active: &Active, group: &str, look: &Look<'_>, book: &mut Book) -> bool {
    // Whoever gives way may have sent once more before it heard of the other.
    let both = |other: &&Active| look.at().saturating_sub(other.since) > active.interval;
    let other = router.active.iter().find(|(name, other)| *name != who && both(other));
    match other {
        Some((other, _)) if !active.told => {
            let other = other.clone();
            book.put(look.sent, Note::TwoActive { who: who.to_owned(), group: group.to_owned(), other });
            true
        }
        Some(_) => true,
        None => false,
    }
}

/// Why one becomes active that was not.
fn why(router: &Router, who: &str, active: &Active, heard: Option<u64>) -> Why {
    let Some((before, last)) = router.last.as_ref().filter(|(name, _)| name != who) else {
        return Why::First;
    };
    let before = before.clone();
    if last.priority == 0 {
        return Why::Released { before, after: Duration::from_nanos(active.last.saturating_sub(last.last)) };
    }
    // What matters is what arrived at its own link; where that was not recorded, what was sent.
    let silence = active.last.saturating_sub(heard.unwrap_or(last.last));
    let interval = if last.interval > 0 { last.interval } else { active.interval };
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days")]
    let intervals = if interval == 0 { 0.0 } else { silence as f64 / interval as f64 };
    if intervals >= SILENCE {
        Why::Silence { intervals, silence: Duration::from_nanos(silence) }
    } else if active.priority > last.priority {
        Why::Preempts { before, own: active.priority, other: last.priority }
    } else {
        Why::Unknown { before }
    }
}

fn times(interval: u64, factor: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an interval is at most 255 s"
    )]
    let product = (interval as f64 * factor) as u64;
    // An interval that is not known yet.
    if interval == 0 { 1_000_000_000 } else { product }
}

fn list(addresses: &[IpAddr]) -> String {
    let mut words: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    if addresses.len() > NAMED {
        words.push("…".into());
    }
    if words.is_empty() { "–".into() } else { words.join(", ") }
}

/// Reads an advertisement: version 2 (RFC 3768 section 5.1) or 3 (RFC 9568 section 5.2).
fn read(ip: &Ip<'_>, bytes: &[u8]) -> Result<Advertisement, BadVrrp> {
    if ip.ttl != 255 {
        return Err(BadVrrp::Ttl(ip.ttl));
    }
    let [head, id, priority, count, five, six, ..] = *bytes else { return Err(BadVrrp::Short) };
    let version = head >> 4;
    let size = if ip.source.is_ipv6() { 16 } else { 4 };
    let end = 8 + usize::from(count) * size;
    if bytes.len() < end {
        return Err(BadVrrp::Short);
    }
    let interval = match version {
        2 => u64::from(six) * 1_000_000_000,
        3 => u64::from(u16::from_be_bytes([five & 15, six])) * 10_000_000,
        other => return Err(BadVrrp::Version(other)),
    };
    let good = match version {
        2 => sum(0, bytes.get(..end).unwrap_or_default()) == 0xffff || is_authenticated(five),
        _ => is_good(ip, bytes.get(..end).unwrap_or_default()),
    };
    if !good {
        return Err(BadVrrp::Checksum);
    }
    let address = |at: usize| address(bytes, 8 + at * size, size == 16);
    let addresses = (0..usize::from(count)).filter_map(address).collect();
    Ok(Advertisement { id, priority, interval, addresses })
}

/// Authentication of version 2 puts data behind the addresses that are part of the sum, or that are not, by implementation.
fn is_authenticated(kind: u8) -> bool {
    kind != 0
}

/// The sum of version 3 covers a pseudo-header; over IPv4 some leave it out, as keepalived can (`vrrp_version 3`, older peers).
fn is_good(ip: &Ip<'_>, bytes: &[u8]) -> bool {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut pseudo = octets(ip.source);
    pseudo.extend(octets(ip.destination));
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, 112]);
    sum(sum(0, &pseudo), bytes) == 0xffff || (ip.source.is_ipv4() && sum(0, bytes) == 0xffff)
}

/// The Internet checksum's sum (RFC 1071), not complemented.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let words = (0..bytes.len())
        .step_by(2)
        .map(|at| u32::from(u16_at(bytes, at).unwrap_or_else(|| u16::from(bytes[at]) << 8)));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
