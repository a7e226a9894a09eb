//! A machine: its clock, its kernel's addresses, and the process that drives a group as an agent does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bascule_vrrp::group::AgentLoss;
use bascule_vrrp::resume::{self, Record, Verdict};
use bascule_vrrp::router::StateName;
use bascule_vrrp::{BootTime, Group, GroupConfig, GroupState, Input, Link, Now, RouterId, UnixTime};

use super::plan::{MILLI, Plan, SECOND, own_address};

/// Datagrams that wait for a process that does not run; more are lost.
const INBOX: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) router: RouterId,
    pub(crate) source: std::net::IpAddr,
    pub(crate) destination: std::net::IpAddr,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) config: GroupConfig,
    pub(crate) process: Option<Group>,
    /// Whether the machine is up.
    pub(crate) up: bool,
    /// When it was started; its own clock counts from there.
    booted: u64,
    boots: u32,
    drift_ppm: i64,
    /// CLOCK_REALTIME is so many milliseconds ahead.
    pub(crate) skew_ms: i64,
    /// Until then nothing runs, and whether its frames are cut meanwhile.
    pub(crate) frozen: Option<(u64, bool)>,
    /// What it does from now on happens after this: it is still adding addresses.
    pub(crate) busy_until: u64,
    pub(crate) inbox: VecDeque<Packet>,
    /// Tells a wake-up that still holds.
    pub(crate) generation: u64,
    /// Addresses in the kernel: since when, and when they expire.
    kernel: BTreeMap<RouterId, (u64, Option<u64>)>,
    record: Option<Record>,
    pub(crate) link_up: Vec<bool>,
    pub(crate) failing: BTreeMap<&'static str, bool>,
    addresses: Vec<(std::net::Ipv4Addr, std::net::Ipv6Addr)>,
    /// Its virtual routers, and the network of each.
    pub(crate) routers: Vec<(RouterId, usize)>,
}

impl Node {
    pub(crate) fn new(plan: &Plan, index: usize) -> Self {
        Node {
            index,
            config: plan.members[index].clone(),
            process: None,
            up: true,
            booted: 0,
            boots: 1,
            drift_ppm: plan.drift_ppm[index],
            skew_ms: plan.skew_ms[index],
            frozen: None,
            busy_until: 0,
            inbox: VecDeque::new(),
            generation: 0,
            kernel: BTreeMap::new(),
            record: None,
            link_up: vec![true; plan.members[index].instances.len()],
            failing: BTreeMap::new(),
            addresses: plan.addresses[index].clone(),
            routers: routers(&plan.members[index]),
        }
    }

    /// The machine's clocks at the true time `at`.
    pub(crate) fn clock(&self, at: u64) -> Now {
        let rate = u128::try_from(1_000_000 + self.drift_ppm).unwrap();
        let boot = u128::from(at - self.booted) * rate / 1_000_000;
        let real = 1_700_000_000 * SECOND + at;
        let real = real.checked_add_signed(self.skew_ms * MILLI.cast_signed()).unwrap();
        Now {
            boot: BootTime::from_nanos(u64::try_from(boot).unwrap()),
            unix: UnixTime(Duration::from_nanos(real)),
        }
    }

    /// The true time at which its clock shows `boot`, or the first moment after.
    pub(crate) fn true_time(&self, boot: BootTime) -> u64 {
        let rate = u128::try_from(1_000_000 + self.drift_ppm).unwrap();
        let elapsed = (u128::from(boot.as_nanos()) * 1_000_000).div_ceil(rate);
        self.booted + u64::try_from(elapsed).unwrap()
    }

    pub(crate) fn state(&self) -> Option<GroupState> {
        self.process.as_ref().map(Group::state)
    }

    pub(crate) fn releasing(&self) -> bool {
        self.process.as_ref().is_some_and(Group::is_releasing)
    }

    /// Active, running and not about to go.
    pub(crate) fn contends(&self) -> bool {
        self.frozen.is_none() && self.state() == Some(GroupState::Active) && !self.releasing()
    }

    /// Whether it could take over.
    pub(crate) fn healthy(&self) -> bool {
        let fault = self.failing.get("fault").copied().unwrap_or(false);
        let part = matches!(self.state(), Some(GroupState::Backup | GroupState::Active));
        self.up && part && !fault && self.frozen.is_none() && self.link_up.iter().all(|up| *up)
    }

    pub(crate) fn priority(&self) -> u8 {
        self.process.as_ref().map_or(0, Group::priority)
    }

    pub(crate) fn source(&self, router: &RouterId) -> std::net::IpAddr {
        own_address(self.addresses[self.net(router)], router.family)
    }

    pub(crate) fn net(&self, router: &RouterId) -> usize {
        self.routers.iter().find(|(id, _)| id == router).map(|(_, net)| *net).unwrap()
    }

    /// Whether the kernel has the addresses, or was told to and is about to.
    pub(crate) fn has(&self, at: u64, router: &RouterId) -> bool {
        let lives = |(_, expiry): &(u64, Option<u64>)| expiry.is_none_or(|expiry| at < expiry);
        self.up && self.kernel.get(router).is_some_and(lives)
    }

    pub(crate) fn holds(&self, at: u64, router: &RouterId) -> bool {
        self.has(at, router) && self.kernel.get(router).is_some_and(|(since, _)| *since <= at)
    }

    pub(crate) fn hold(&mut self, at: u64, router: &RouterId, lifetime: Option<Duration>) {
        let expiry = lifetime.map(|lifetime| at + super::plan::nanos(lifetime));
        let since = self.kernel.get(router).map_or(at, |(since, _)| *since);
        self.kernel.insert(router.clone(), (since, expiry));
    }

    pub(crate) fn renew(&mut self, at: u64, lifetime: Duration) {
        for (_, expiry) in self.kernel.values_mut() {
            *expiry = Some(at + super::plan::nanos(lifetime));
        }
    }

    pub(crate) fn drop_addresses(&mut self, router: &RouterId) {
        self.kernel.remove(router);
    }

    pub(crate) fn holds_all(&self, at: u64) -> bool {
        self.routers.iter().all(|(router, _)| self.holds(at, router))
    }

    /// Frames, processes and kernel state are gone at once.
    pub(crate) fn crash(&mut self) {
        self.up = false;
        self.process = None;
        self.frozen = None;
        self.kernel.clear();
        self.inbox.clear();
    }

    /// The process is gone, the kernel lives on.
    pub(crate) fn kill(&mut self) {
        self.process = None;
        self.frozen = None;
        self.inbox.clear();
    }

    pub(crate) fn boot(&mut self, at: u64) {
        self.up = true;
        self.booted = at;
        self.boots += 1;
        self.kernel.clear();
    }

    fn boot_id(&self) -> String {
        format!("{}.{}", self.index, self.boots)
    }

    /// After everything that the process did, as an agent writes to /run and to its disk.
    pub(crate) fn keep_record(&mut self) {
        if let Some(process) = &self.process {
            self.record = Some(process.record(&self.boot_id()));
        }
    }

    /// A new process. Returns what it is to be fed with.
    pub(crate) fn start(&mut self, at: u64) -> Vec<Input<'static>> {
        let now = self.clock(at).boot;
        let mut group = Group::new(self.config.clone()).unwrap();
        if let Some(record) = &self.record {
            group.remember(record);
        }
        let verdict = resume::judge(self.record.as_ref(), &self.boot_id(), now, self.holds_all(at));
        if verdict != Verdict::Resume {
            self.kernel.clear();
        }
        self.process = Some(group);
        let mut inputs: Vec<Input<'static>> = Vec::new();
        for (router, _) in &self.routers {
            inputs.push(Input::Link { router: router.clone(), link: self.link(router) });
        }
        for (name, failing) in &self.failing {
            inputs.push(Input::Tracked { name, failing: *failing });
        }
        inputs.push(Input::Start { resume: verdict == Verdict::Resume });
        inputs
    }

    pub(crate) fn link(&self, router: &RouterId) -> Link {
        if self.link_up[self.net(router)] { Link::Up { source: self.source(router) } } else { Link::Down }
    }

    /// What came for a process that does not run at the moment.
    pub(crate) fn queue(&mut self, packet: Packet) {
        if self.inbox.len() < INBOX {
            self.inbox.push_back(packet);
        }
    }

    /// Addresses are there exactly while it is active.
    pub(crate) fn check(&self, at: u64) -> Result<(), String> {
        let Some(group) = &self.process else { return Ok(()) };
        let active = group.state() == GroupState::Active;
        let stopped_and_left =
            group.state() == GroupState::Initialize && self.config.on_agent_loss == AgentLoss::Keep;
        let expected = match group.state() {
            GroupState::Initialize | GroupState::Fault => StateName::Initialize,
            GroupState::Backup => StateName::Backup,
            GroupState::Active => StateName::Active,
        };
        for (router, state) in group.router_states() {
            if state != expected {
                return Err(format!(
                    "node {}: {router} is {state:?}, the group {:?}",
                    self.index,
                    group.state()
                ));
            }
            let holds = self.has(at, router);
            if holds != active && !(holds && stopped_and_left) {
                let verb = if holds { "has" } else { "does not have" };
                return Err(format!("node {}: {router} is {state:?} and {verb} its addresses", self.index));
            }
        }
        Ok(())
    }
}

fn routers(config: &GroupConfig) -> Vec<(RouterId, usize)> {
    let net =
        |id: &RouterId| config.instances.iter().position(|instance| instance.name == id.instance).unwrap();
    let group = Group::new(config.clone()).unwrap();
    group.routers().map(|(id, _, _)| (id.clone(), net(id))).collect()
}
