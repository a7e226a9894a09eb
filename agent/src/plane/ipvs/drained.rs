//! Draining real servers that outlive the agent: a line each in a ledger beside that of the services, so that an agent that is
//! restarted, or that takes over, goes on with them instead of cutting their connections.

use std::time::Instant;

use bascule_checks_core::Time;
use bascule_ipvs::{Destination, DestinationId, Forwarding, ServiceId, Tunnel, TunnelFlags, TunnelKind};

use crate::reconcile::ledger::Entry;

/// A moment by the clock of this process and by the one that all processes of a machine share (CLOCK_BOOTTIME).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    time: Time,
}

impl Clock {
    /// Now.
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), time: crate::checks::now() }
    }

    pub(super) fn time(&self, at: Instant) -> Time {
        match at.checked_duration_since(self.instant) {
            Some(later) => self.time + later,
            None => {
                let earlier = u64::try_from((self.instant - at).as_nanos()).unwrap_or(u64::MAX);
                Time::from_nanos(self.time.as_nanos().saturating_sub(earlier))
            }
        }
    }

    /// What lies before this moment is cut to it, and so is what no clock can say.
    pub(super) fn instant(&self, at: Time) -> Instant {
        self.instant.checked_add(at.since(self.time)).unwrap_or(self.instant)
    }
}

/// A real server that drains, in numbers: those of the kernel's `IPVS_DEST_ATTR_*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Drained {
    pub(super) service: ServiceId,
    id: DestinationId,
    /// When its time is up.
    pub(super) until: Time,
    forwarding: u8,
    /// Type, port and flags of a tunnel.
    tunnel: (u8, u16, u16),
    /// Upper and lower.
    thresholds: (u32, u32),
}

impl Drained {
    pub(super) fn new(service: ServiceId, destination: &Destination, until: Time) -> Self {
        let tunnel = match destination.forwarding {
            Forwarding::Tunnel(Tunnel { kind, flags }) => {
                let (number, port) = match kind {
                    TunnelKind::Ipip => (0, 0),
                    TunnelKind::Gue { port } => (1, port),
                    TunnelKind::Gre => (2, 0),
                    TunnelKind::Other { number, port } => (number, port),
                };
                (number, port, flags.bits())
            }
            _ => (0, 0, 0),
        };
        Self {
            service,
            id: destination.id,
            until,
            forwarding: destination.forwarding.number(),
            tunnel,
            thresholds: (destination.upper_threshold, destination.lower_threshold),
        }
    }

    /// The real server, with weight 0.
    pub(super) fn destination(&self) -> Destination {
        let (number, port, flags) = self.tunnel;
        let kind = match number {
            0 => TunnelKind::Ipip,
            1 => TunnelKind::Gue { port },
            2 => TunnelKind::Gre,
            number => TunnelKind::Other { number, port },
        };
        let forwarding = match self.forwarding {
            0 => Forwarding::Masquerade,
            1 => Forwarding::Local,
            2 => Forwarding::Tunnel(Tunnel { kind, flags: TunnelFlags::from_bits(flags) }),
            3 => Forwarding::DirectRouting,
            4 => Forwarding::Bypass,
            number => Forwarding::Other(number),
        };
        let (upper_threshold, lower_threshold) = self.thresholds;
        Destination { id: self.id, forwarding, weight: 0, upper_threshold, lower_threshold }
    }
}

/// `172.16.193.10 80 UNTIL FORWARDING TYPE PORT FLAGS UPPER LOWER of 6 192.16.193.30 80`, `UNTIL` in nanoseconds since the machine
/// started.
impl Entry for Drained {
    fn line(&self) -> String {
        let Self { service, id, until, forwarding, tunnel, thresholds } = self;
        let (kind, port, flags) = tunnel;
        let (upper, lower) = thresholds;
        format!(
            "{} {} {} {forwarding} {kind} {port} {flags} {upper} {lower} of {}",
            id.address,
            id.port,
            until.as_nanos(),
            service.line()
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let (numbers, service) = line.split_once(" of ")?;
        let mut words = numbers.split(' ');
        let drained = Self {
            service: ServiceId::parse(service)?,
            id: DestinationId { address: words.next()?.parse().ok()?, port: words.next()?.parse().ok()? },
            until: Time::from_nanos(words.next()?.parse().ok()?),
            forwarding: words.next()?.parse().ok()?,
            tunnel: (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            thresholds: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
        };
        words.next().is_none().then_some(drained)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_read_back() {
        let services = ["6 192.16.193.30 80", "17 2001:db8::30 53", "fwmark 7 4"];
        let kinds = [
            Forwarding::Masquerade,
            Forwarding::DirectRouting,
            Forwarding::Tunnel(Tunnel::IPIP),
            Forwarding::Tunnel(Tunnel::gue(6080).with_flags(TunnelFlags::REMOTE_CHECKSUM)),
            Forwarding::Tunnel(Tunnel::GRE.with_flags(TunnelFlags::CHECKSUM)),
        ];
        for service in services.map(|line| ServiceId::parse(line).unwrap()) {
            for forwarding in kinds {
                let mut destination = Destination::new("2001:db8::1".parse().unwrap(), 8080, forwarding);
                (destination.upper_threshold, destination.lower_threshold) = (9, 4);
                let drained = Drained::new(service, &destination, Time::from_nanos(u64::MAX));
                let read = Drained::parse(&drained.line()).unwrap();
                assert_eq!(read, drained);
                assert_eq!((read.service, read.destination()), (service, destination.weight(0)));
            }
        }
        for nonsense in ["", "10.0.0.1 80 1 0 0 0 0 0 of 6 10.0.0.1 80", "10.0.0.1 80 1 0 0 0 0 0 0 of x"] {
            assert_eq!(Drained::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn moments_of_another_process() {
        let clock = Clock { instant: Instant::now(), time: Time::from_nanos(5_000) };
        let later = clock.instant + Duration::from_nanos(70);
        assert_eq!(clock.time(later), Time::from_nanos(5_070));
        assert_eq!(clock.instant(Time::from_nanos(5_070)), later);
        assert_eq!(clock.instant(Time::from_nanos(10)), clock.instant, "it is over");
        let past = clock.instant.checked_sub(Duration::from_nanos(70));
        assert!(past.is_none_or(|past| clock.time(past) == Time::from_nanos(4_930)));
        // Whatever a file says, nothing overflows.
        clock.instant(Time::from_nanos(u64::MAX));
    }
}
