//! Virtual routers on our networks that are nobody's here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::time::BootTime;

/// Most that are remembered; of more, the one that was silent longest is forgotten.
pub const MAX_FOREIGN: usize = 256;
/// One is reported again after this.
const REPORT_EVERY: Duration = Duration::from_secs(3600);

/// Advertisements that are for none of this machine's virtual routers, by interface, VRID and sender. It is fed by whoever reads
/// the sockets, with what [`crate::packet::peek`] says.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    /// The one heard last at the end.
    seen: Vec<ForeignRouter>,
}

/// A virtual router that is nobody's here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRouter {
    /// Interface on which it was heard.
    pub interface: Arc<str>,
    /// Its VRID.
    pub vrid: u8,
    /// Version of the protocol that it claims.
    pub version: u8,
    /// Who sent it.
    pub source: IpAddr,
    /// When it was heard first.
    pub first: BootTime,
    /// When it was heard last.
    pub last: BootTime,
    /// How often.
    pub count: u64,
    reported: BootTime,
}

impl Foreign {
    /// Heard one. Returns it when that is to be reported: the first time, and then once an hour.
    pub fn heard(
        &mut self,
        now: BootTime,
        interface: &Arc<str>,
        (version, vrid): (u8, u8),
        source: IpAddr,
    ) -> Option<&ForeignRouter> {
        let same =
            |one: &ForeignRouter| one.vrid == vrid && one.source == source && one.interface == *interface;
        let (mut one, report) = match self.seen.iter().position(same) {
            Some(at) => {
                let one = self.seen.remove(at);
                let report = now.since(one.reported) >= REPORT_EVERY;
                (one, report)
            }
            None => (
                ForeignRouter {
                    interface: interface.clone(),
                    vrid,
                    version,
                    source,
                    first: now,
                    last: now,
                    count: 0,
                    reported: now,
                },
                // A flood of invented senders is not reported one by one.
                self.seen.len() < MAX_FOREIGN,
            ),
        };
        one.last = now;
        one.count += 1;
        one.version = version;
        if report {
            one.reported = now;
        }
        if self.seen.len() >= MAX_FOREIGN {
            self.seen.remove(0);
        }
        self.seen.push(one);
        self.seen.last().filter(|_| report)
    }

    /// All that are remembered.
    pub fn routers(&self) -> &[ForeignRouter] {
        &self.seen
    }

    /// Forgets those of `interface` and `vrid`: they are ours now.
    pub fn adopt(&mut self, interface: &str, vrid: u8) {
        self.seen.retain(|one| one.vrid != vrid || *one.interface != *interface);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn one_is_reported_first_and_then_hourly() {
        let mut foreign = Foreign::default();
        let (eth0, source): (Arc<str>, IpAddr) = ("eth0".into(), "192.16.193.9".parse().unwrap());
        let reports: Vec<u64> =
            (0..8000).filter(|second| foreign.heard(at(*second), &eth0, (3, 77), source).is_some()).collect();
        assert_eq!(reports, [0, 3600, 7200]);
        assert_eq!(foreign.routers().len(), 1);
        assert_eq!((foreign.routers()[0].count, foreign.routers()[0].first), (8000, at(0)));
        foreign.adopt("eth0", 77);
        assert!(foreign.routers().is_empty());
    }

    #[test]
    fn a_flood_of_invented_senders_is_bounded() {
        let mut foreign = Foreign::default();
        let eth0: Arc<str> = "eth0".into();
        let reports = (0..100_000_u32)
            .filter(|sender| {
                foreign.heard(at(1), &eth0, (3, 77), std::net::Ipv4Addr::from(*sender).into()).is_some()
            })
            .count();
        assert_eq!((reports, foreign.routers().len()), (MAX_FOREIGN, MAX_FOREIGN));
    }
}
