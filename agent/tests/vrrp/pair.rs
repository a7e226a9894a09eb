//! Two directors that run Bascule.

use crate::net::{Machine, Net, Speaker, eventually, group};

pub(crate) const OUTSIDE: &str = "192.16.193.30";
pub(crate) const INSIDE: &str = "172.16.193.253";

/// Two directors; the first is active.
pub(crate) struct Pair {
    // Dropped in this order: first those who speak.
    pub(crate) one: Speaker,
    pub(crate) two: Speaker,
    pub(crate) dir1: Machine,
    pub(crate) dir2: Machine,
    _net: Net,
}

impl Pair {
    /// With the same configuration.
    pub(crate) fn alike(more: &str) -> Self {
        Self::new(|_| more.to_owned())
    }

    /// With a configuration by the number of the director.
    pub(crate) fn new(more: impl Fn(u8) -> String) -> Self {
        let net = Net::new();
        let (dir1, dir2) = (net.machine(1), net.machine(2));
        let (one, two) = (dir1.start(), dir2.start());
        one.handle.configure(&[group(200, &more(1))]);
        one.wait_for("front", "Active");
        two.handle.configure(&[group(100, &more(2))]);
        two.wait_for("front", "Backup");
        Pair { one, two, dir1, dir2, _net: net }
    }

    /// Waits until an address is on one of them and not on the other.
    pub(crate) fn settles(&self, address: &str, on_first: bool) {
        eventually(&format!("{address} is where it should be"), || {
            (self.dir1.has(address) == on_first && self.dir2.has(address) != on_first).then_some(())
        });
    }

    /// The same of both addresses.
    pub(crate) fn all_settle(&self, on_first: bool) {
        for address in [OUTSIDE, INSIDE] {
            self.settles(address, on_first);
        }
    }
}
