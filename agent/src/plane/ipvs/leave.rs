//! A director that is out of service: what is on it alone takes no new connections, and those that there are may end, for as long as
//! its `maintenance` says. What belongs to a group goes on serving: where the group is, its services are.

use std::time::{Duration, Instant};

use bascule_crds::{DirectorConfigSpec, VirtualServiceBindingSpec};

use super::plan::Wanted;

/// Whether the director is out of service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Leave {
    since: Option<Instant>,
    /// How long connections may take to end; none: for ever.
    time: Option<Duration>,
    over: bool,
}

impl Leave {
    /// Takes the director's settings; true when something else is wanted of services now.
    pub(super) fn set(&mut self, director: &DirectorConfigSpec, now: Instant) -> bool {
        let before = self.stage();
        let maintenance = director.maintenance.filter(|maintenance| maintenance.enabled);
        self.since = maintenance.map(|_| self.since.unwrap_or(now));
        self.time = maintenance.and_then(|one| one.drain_timeout).map(|time| time.as_std());
        self.over = false;
        self.look(now);
        before != self.stage()
    }

    fn stage(&self) -> (bool, bool) {
        (self.since.is_some(), self.over)
    }

    fn look(&mut self, now: Instant) {
        self.over = self.ends().is_some_and(|end| end <= now);
    }

    fn ends(&self) -> Option<Instant> {
        Some(self.since? + self.time?)
    }

    /// When the time of connections is up, while it is not.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ends().filter(|_| !self.over)
    }

    /// True when the time of connections is up since this was last asked.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        let before = self.over;
        self.look(now);
        before != self.over
    }

    /// Whether it concerns a binding.
    pub(super) fn concerns(spec: &VirtualServiceBindingSpec) -> bool {
        spec.vrrp_group.is_none()
    }

    /// Makes of what is wanted of a service what is wanted while the director is out.
    pub(super) fn apply(&self, spec: &VirtualServiceBindingSpec, wanted: &mut Wanted) {
        if self.since.is_none() || !Self::concerns(spec) {
            return;
        }
        if self.over {
            wanted.destinations.clear();
            return;
        }
        for destination in &mut wanted.destinations {
            *destination = destination.weight(0);
        }
    }
}
