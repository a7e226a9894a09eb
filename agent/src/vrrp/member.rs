//! One group of this director: the library's state machine, and what this machine holds for it.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use bascule_vrrp::group::Switchover;
use bascule_vrrp::{BootTime, Group, GroupState, Link, RouterId};
use tokio::sync::oneshot;

use super::config::GroupPlan;
use super::record::RecordFile;
use super::yielding::Yielding;

/// Failures to send in a row after which the interface counts as mute: what cannot be sent is a fault that peers must not have to
/// find out.
const SEND_FAILURES: u32 = 3;
/// So long, before it is tried again.
const MUTE: Duration = Duration::from_secs(10);

/// What becomes of a group that stops.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Leaving {
    /// It does not.
    No,
    /// It hands over and is forgotten; or begins anew, when it came back meanwhile.
    Away(Option<Box<GroupPlan>>),
    /// The agent ends.
    End,
}

/// Who waits for the outcome of a switch-over.
pub(crate) type Waiting = oneshot::Sender<Result<String, String>>;

/// A group.
pub(crate) struct Member {
    pub(crate) plan: GroupPlan,
    pub(crate) group: Group,
    pub(crate) record: RecordFile,
    /// The virtual routers whose addresses are on this machine, with the lifetime that they have in the kernel.
    pub(crate) holds: BTreeMap<RouterId, Option<Duration>>,
    /// Addresses have come that nobody was told of yet.
    pub(crate) came: bool,
    /// The links as the group was told.
    pub(crate) links: BTreeMap<RouterId, Link>,
    /// What is tracked, but for services of the machine, as the group was told: whether it fails.
    pub(crate) tracked: BTreeMap<Arc<str>, bool>,
    pub(crate) switchover: Option<Waiting>,
    pub(crate) leaving: Leaving,
    /// It hands over when its services are stopped.
    pub(crate) yielding: Option<Yielding>,
    /// Its services failed in the process before this one; until then that counts, unless this process's services say otherwise.
    pub(crate) inherited_fault: Option<BootTime>,
    failures: BTreeMap<RouterId, u32>,
    mute: BTreeMap<RouterId, BootTime>,
    /// What was warned of already, until it is over.
    pub(crate) warned: BTreeMap<&'static str, String>,
}

impl Member {
    /// One that has not started.
    pub(crate) fn new(plan: GroupPlan, records: &Path) -> Result<Self, bascule_vrrp::group::ConfigError> {
        let group = Group::new(plan.config.clone())?;
        Ok(Self::with(plan, group, records))
    }

    /// One whose state another process left.
    pub(crate) fn with(plan: GroupPlan, group: Group, records: &Path) -> Self {
        let record = RecordFile::new(records, &plan.config.name);
        Self {
            plan,
            group,
            record,
            holds: BTreeMap::new(),
            came: false,
            links: BTreeMap::new(),
            tracked: BTreeMap::new(),
            switchover: None,
            leaving: Leaving::No,
            yielding: None,
            inherited_fault: None,
            failures: BTreeMap::new(),
            mute: BTreeMap::new(),
            warned: BTreeMap::new(),
        }
    }

    /// When it has to be looked at next.
    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        let mute = self.mute.values().copied();
        let others = mute.chain(self.inherited_fault).chain(self.yield_deadline());
        self.group.next_deadline().into_iter().chain(others).min()
    }

    /// When it waits for its services no longer: at once, when it is not active any more.
    pub(crate) fn yield_deadline(&self) -> Option<BootTime> {
        let yielding = self.yielding?;
        Some(if self.group.state() == GroupState::Active { yielding.until } else { BootTime::ZERO })
    }

    /// Sending worked or failed. True when nothing is to be sent on the interface for a while from now on.
    pub(crate) fn sent(&mut self, now: BootTime, router: &RouterId, result: &io::Result<()>) -> bool {
        match result {
            Ok(()) => {
                self.failures.remove(router);
                return false;
            }
            // A full queue, which packet sockets report and raw ones do not (without IP_RECVERR): the network is busy, not broken.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return false,
            Err(_) => {}
        }
        let failures = self.failures.entry(router.clone()).or_default();
        *failures += 1;
        if *failures < SEND_FAILURES {
            return false;
        }
        self.failures.remove(router);
        self.mute.insert(router.clone(), now + MUTE);
        true
    }

    /// Whether a virtual router's interface counts as mute because sending failed.
    pub(crate) fn is_mute(&mut self, now: BootTime, router: &RouterId) -> bool {
        match self.mute.get(router) {
            Some(until) if *until > now => true,
            Some(_) => {
                self.mute.remove(router);
                false
            }
            None => false,
        }
    }

    /// Whether something is to be said: it was not said before, or it was something else.
    pub(crate) fn is_news(&mut self, about: &'static str, text: Option<&str>) -> bool {
        match text {
            None => {
                self.warned.remove(about);
                false
            }
            Some(text) if self.warned.get(about).is_some_and(|old| old == text) => false,
            Some(text) => {
                self.warned.insert(about, text.to_owned());
                true
            }
        }
    }
}

impl Member {
    /// Tells who waits what became of a commanded switch-over.
    pub(crate) fn answer(&mut self, outcome: Switchover) {
        let Some(waiting) = self.switchover.take() else { return };
        let answer = match outcome {
            Switchover::Done { reason } => Ok(reason),
            Switchover::NoSuccessor => {
                Err("nobody took over: this member is active as before; is another one in state Backup?"
                    .to_owned())
            }
            Switchover::Refused { reason } => Err(reason.to_owned()),
            Switchover::Interrupted { reason } => Err(format!("it ended otherwise: {reason}")),
        };
        // Who waited may have gone.
        let _ = waiting.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_failing_is_mute_for_a_while_and_a_full_queue_is_no_failure() {
        let spec = serde_json::json!({
            "name": "front", "priority": 100, "version": 3, "advertisementInterval": "100ms", "downIntervals": 3,
            "preempt": {"enabled": true, "delay": "0s"}, "onAgentLoss": "Release",
            "instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"]}],
        });
        let plan = GroupPlan::new(&serde_json::from_value(spec).unwrap(), |_, _| Err(String::new())).unwrap();
        let router = plan.routers.keys().next().unwrap().clone();
        let directory = tempfile::tempdir().unwrap();
        let mut member = Member::new(plan, directory.path()).unwrap();
        let fails = |number| Err(io::Error::from_raw_os_error(number));
        let now = BootTime::ZERO;
        for _ in 0..10 {
            assert!(!member.sent(now, &router, &fails(libc::ENOBUFS)));
        }
        let mute = [0; 3].map(|_| member.sent(now, &router, &fails(libc::EPERM)));
        assert_eq!(mute, [false, false, true]);
        assert!(member.is_mute(now, &router) && !member.is_mute(now + MUTE, &router));
        let mut again = [libc::EPERM, 0, libc::EPERM, libc::EPERM].map(|number| match number {
            0 => member.sent(now, &router, &Ok(())),
            number => member.sent(now, &router, &fails(number)),
        });
        again.sort_unstable();
        assert_eq!(again, [false; 4], "not three in a row");
    }
}
