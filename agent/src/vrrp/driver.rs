//! Drives the groups: hands the library what happened and when, and carries out what it wants, in its order.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bascule_vrrp::foreign::Foreign;
use bascule_vrrp::group::Switchover;
use bascule_vrrp::packet::peek;
use bascule_vrrp::{Action, BootTime, GroupState, Input, Link, RouterId};

use super::addresses::Spot;
use super::announce::Announcements;
use super::clock;
use super::config::{GroupPlan, RouterPlan, SERVICES, interface_tracker};
use super::kernel::Kernel;
use super::mac::VirtualLinks;
use super::member::Member;
use super::network::{Event, Network};
use super::record;
use super::routing::{Cause, Routing};
use super::voice::{Remark, Transition, Voice};
use super::wire::{Place, Wires};
use crate::reconcile::ledger::{Identity, Ledger};

/// Arms whoever guards young connections, just before addresses are taken; see the connection-sync plane.
pub type Arm = Box<dyn FnMut(&[IpAddr]) -> io::Result<()> + Send>;

/// After something could not be had (a socket, a look at the kernel), before it is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Where the driver keeps what has to outlive it.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// A directory that a reboot empties.
    pub(crate) run_dir: PathBuf,
    /// One that it does not.
    pub(crate) state_dir: PathBuf,
}

impl Paths {
    pub(super) fn records(&self) -> PathBuf {
        self.run_dir.join("vrrp")
    }
}

/// Counts of what no group counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Datagrams for virtual routers that are nobody's here.
    pub(crate) foreign: u64,
    /// Addresses that somebody removed from an active group and that were put back, or that had no business here and went.
    pub(crate) repaired: u64,
}

/// All groups of this director.
pub(crate) struct Driver {
    pub(super) kernel: Kernel,
    pub(super) network: Network,
    pub(super) routing: Routing,
    pub(super) virtual_links: VirtualLinks,
    pub(super) wires: Wires,
    pub(super) announcements: Announcements,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Whose datagrams of an interface, family and VRID are.
    pub(super) routes: BTreeMap<(Place, u8), (Arc<str>, RouterId)>,
    pub(super) floating: BTreeSet<IpAddr>,
    pub(super) foreign: Foreign,
    pub(super) totals: Totals,
    pub(super) voice: Voice,
    pub(super) paths: Paths,
    pub(super) boot_id: String,
    pub(super) marks: bool,
    pub(super) ledger: Ledger<Spot>,
    /// The first configuration has come.
    pub(super) configured: bool,
    /// When a socket, or a look at the kernel, that could not be had is tried again.
    pub(super) retry_at: Option<BootTime>,
    /// When addresses that could not be changed are tried again.
    pub(super) put_back_at: Option<BootTime>,
    /// How often in a row they could not.
    pub(super) setbacks: u32,
    /// Addresses that could not be added, by the interface's index, and why.
    pub(super) refused: BTreeMap<(u32, IpAddr), String>,
    /// Links and addresses could not be read after notifications were lost.
    pub(super) stale: bool,
    /// Groups that begin when another one has handed over.
    pub(super) waiting: Vec<GroupPlan>,
    /// All groups have been told to end.
    pub(super) stopping: bool,
    /// What groups track outside of VRRP and that fails, by the group's name; also of groups that are yet to come.
    pub(super) failing: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Somebody stops services when a group is to be handed over, and says when they are.
    pub(super) yields: bool,
    pub(super) arm: Option<Arm>,
}

impl Driver {
    /// Opens what it needs, in the network namespace of the calling thread.
    pub(crate) fn open(paths: Paths, voice: Voice, arm: Option<Arm>) -> io::Result<Self> {
        let mut kernel = Kernel::open()?;
        let network = kernel.observe()?;
        let ledger = Ledger::open(&paths.run_dir.join("group-addresses.ledger"), &Identity::here()?);
        Ok(Self {
            kernel,
            network,
            routing: Routing::open()?,
            virtual_links: VirtualLinks::open()?,
            wires: Wires::default(),
            announcements: Announcements::open()?,
            members: BTreeMap::new(),
            routes: BTreeMap::new(),
            floating: BTreeSet::new(),
            foreign: Foreign::default(),
            totals: Totals::default(),
            voice,
            paths,
            boot_id: record::boot_id()?,
            marks: crate::plane::address::keeps_marks(),
            ledger,
            configured: false,
            retry_at: None,
            put_back_at: None,
            setbacks: 0,
            refused: BTreeMap::new(),
            stale: false,
            waiting: Vec::new(),
            stopping: false,
            failing: BTreeSet::new(),
            yields: false,
            arm,
        })
    }

    /// When [`Driver::turn`] has to be called at the latest.
    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        let members = self.members.values().filter_map(Member::next_deadline);
        members.chain(self.retry_at).chain(self.put_back_at).min()
    }

    /// Hears the kernel and the networks, then gives each group its time. In this order: a group whose timer has run out must
    /// first be told everything that its sockets hold. Addresses are put back last: one that has gone by its lifetime, because
    /// this process stood still, is none that its group, once told how late it is, still wants.
    pub(crate) fn turn(&mut self) {
        let changed = self.hear_kernel();
        let rerouted = self.hear_routes();
        self.hear_networks();
        let now = clock::now().boot;
        if self.retry_at.take_if(|at| now >= *at).is_some() {
            self.open_wires();
            self.make_links(true);
            self.tell_links();
            self.route(Cause::Repair);
        }
        self.end_yielding(now);
        let due = |member: &Member| member.next_deadline().is_some_and(|at| at <= now);
        let due: Vec<_> =
            self.members.iter().filter(|(_, member)| due(member)).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.end_inherited_fault(&name, now);
            self.handle(&name, Input::Timer);
            self.tell_links_of(&name);
        }
        let again = self.put_back_at.take_if(|at| now >= *at).is_some();
        if changed || again {
            self.put_back();
        }
        if changed || rerouted {
            self.route(Cause::Repair);
        }
    }

    /// Whether links or addresses are not as they were.
    fn hear_kernel(&mut self) -> bool {
        let (events, lost) = match self.kernel.events() {
            Ok(heard) => heard,
            Err(error) => {
                self.voice.warn(format!("the kernel's notifications cannot be read: {error}"));
                self.retry_soon();
                (Vec::new(), true)
            }
        };
        let again = self.stale && self.retry_at.is_none_or(|at| clock::now().boot >= at);
        if events.is_empty() && !lost && !again {
            return false;
        }
        if lost || events.iter().any(Event::takes_routes) {
            self.routing.doubt();
        }
        if lost || events.iter().any(|event| matches!(event, Event::Link(_) | Event::LinkGone(_))) {
            self.virtual_links.doubt();
        }
        for event in events {
            self.network.update(event);
        }
        if lost || again {
            match self.kernel.observe() {
                Ok(network) => (self.network, self.stale) = (network, false),
                Err(error) => {
                    self.stale = true;
                    self.voice.warn(format!("links and addresses cannot be read: {error}"));
                    self.retry_soon();
                }
            }
        }
        self.open_wires();
        if self.configured {
            self.make_links(true);
        }
        self.tell_links();
        true
    }

    fn hear_networks(&mut self) {
        // Copied out, because handing a datagram in may change sockets and groups.
        let mut heard = Vec::new();
        let errors = self.wires.receive(|place, interface, datagram| {
            let route = peek(datagram.payload);
            let copy = (datagram.source, datagram.destination, datagram.ttl, datagram.payload.to_vec());
            heard.push((place.clone(), interface.clone(), route, copy));
        });
        for error in errors {
            let (interface, family) = (&error.interface, error.family);
            self.voice.warn(format!("{interface} ({family}) cannot be heard: {}", error.error));
        }
        for (place, interface, route, (source, destination, ttl, payload)) in heard {
            let datagram = bascule_vrrp::packet::Datagram { source, destination, ttl, payload: &payload };
            let ours = route.and_then(|(_, vrid)| self.routes.get(&(place.clone(), vrid)).cloned());
            if let Some((group, router)) = ours {
                self.handle(&group, Input::Datagram { router: &router, datagram });
            } else if let Some(route) = route {
                self.hear_foreign(&interface, route, source);
            }
        }
    }

    fn hear_foreign(&mut self, interface: &Arc<str>, route: (u8, u8), source: IpAddr) {
        self.totals.foreign += 1;
        if let Some(found) = self.foreign.heard(clock::now().boot, interface, route, source) {
            self.voice.warn(format!(
                "{}: {} speaks VRRPv{} for virtual router {}, which is no group's here; if a group is to have that id, take another",
                found.interface, found.source, found.version, found.vrid
            ));
        }
    }

    /// Hands an input to a group and carries out what it wants.
    pub(super) fn handle(&mut self, name: &Arc<str>, input: Input<'_>) {
        let Some(member) = self.members.get_mut(name) else { return };
        let was_active = member.group.state() == GroupState::Active;
        let hears = matches!(input, Input::Datagram { .. });
        let actions = member.group.handle(clock::now(), input);
        if actions.is_empty() {
            return;
        }
        let takes = |action: &Action| matches!(action, Action::HoldAddresses { .. });
        let takes_over = !was_active && actions.iter().any(takes);
        // Against another active one, at most once a second: its connections come here now, and are as unknown as after a takeover.
        let asserts = |action: &Action| was_active && hears && matches!(action, Action::Announce { .. });
        let speaks = actions.iter().any(|action| {
            matches!(action, Action::Send { .. } | Action::Changed(_) | Action::Remember { .. })
        });
        let moves =
            |action: &Action| matches!(action, Action::HoldAddresses { .. } | Action::DropAddresses { .. });
        let moved = actions.iter().any(moves);
        // In the order of the group: from one that lives the addresses are taken before it hears of it and lets go, in place of one that
        // is dead others hear first. Guarded just before addresses come.
        let mut unguarded = true;
        let mut too_late = false;
        for action in actions {
            if !too_late && unguarded && (takes_over && takes(&action) || asserts(&action)) {
                unguarded = false;
                self.guard(name);
            }
            if claims(&action) && self.is_overtaken(name) {
                too_late = true;
                continue;
            }
            self.carry_out(name, action);
        }
        if let Some(member) = self.members.get_mut(name) {
            if too_late {
                member.group.unsent();
                self.handle(name, Input::Timer);
            } else {
                member.group.sent();
            }
        }
        if moved {
            self.route(Cause::Moved);
        }
        if speaks && let Some(member) = self.members.get_mut(name) {
            let record = member.group.record(&self.boot_id);
            member.record.write(&record);
            let error = member.record.error().map(ToOwned::to_owned);
            if member.is_news("record", error.as_deref()) {
                self.voice.warn(format!("{name}: {}", error.unwrap_or_default()));
            }
        }
    }

    /// Whether this process stood still since the group decided, for so long that its peers may have taken over.
    fn is_overtaken(&self, name: &Arc<str>) -> bool {
        self.members.get(name).is_some_and(|member| member.group.overtaken(clock::now().boot))
    }

    fn carry_out(&mut self, name: &Arc<str>, action: Action) {
        let Some(member) = self.members.get_mut(name) else { return };
        match action {
            Action::Send { router, source, destination, bytes } => {
                self.send(name, &router, source, destination, &bytes);
            }
            Action::HoldAddresses { router, lifetime } => {
                member.came |= member.holds.insert(router.clone(), lifetime).is_none();
                self.switch_link_of(name, &router, true);
                self.hold(name, &router, lifetime);
            }
            Action::RenewAddresses { lifetime } => {
                let routers: Vec<_> = member.holds.keys().cloned().collect();
                for router in routers {
                    self.hold(name, &router, Some(lifetime));
                }
            }
            Action::DropAddresses { router } => {
                let held = member.holds.remove(&router).is_some();
                // What needs the addresses goes before them.
                self.route(Cause::Moving);
                self.release(name, &router, held);
                self.switch_link_of(name, &router, false);
            }
            Action::Announce { router, times } => {
                if std::mem::take(&mut member.came) {
                    self.route(Cause::Moving);
                }
                self.announce(name, &router, times);
            }
            Action::Changed(change) => {
                let priority = member.group.priority();
                let (from, to, reason) = (change.from, change.to, change.reason);
                // What was dropped has been dropped by now; a group that ends may leave its addresses (`onAgentLoss: Keep`).
                let left = to == GroupState::Initialize && !member.holds.is_empty();
                let holds = to == GroupState::Active || left;
                let group = name.clone();
                self.voice.say(Remark::Transition(Transition { group, from, to, reason, priority, holds }));
            }
            Action::Warning(warning) => {
                let about = warning.router.map_or_else(String::new, |router| format!("{router}: "));
                let more = match warning.suppressed {
                    0 => String::new(),
                    count => format!(" (and {count} like it in between)"),
                };
                self.voice.warn(format!("{name}: {about}{}{more}", warning.text));
            }
            Action::Switchover(outcome) => {
                // It stays active: what was stopped for the hand-over is started again.
                if matches!(outcome, Switchover::NoSuccessor | Switchover::Refused { .. }) {
                    self.voice.say(Remark::Yield { group: name.clone(), stop: false });
                }
                member.answer(outcome);
            }
            Action::Stopped { .. } => self.stopped(name),
            Action::Remember { hold } => {
                let path = record::hold_file(&self.paths.state_dir, name);
                self.voice.say(Remark::Hold { path, hold });
            }
        }
    }

    fn send(
        &mut self,
        name: &Arc<str>,
        router: &RouterId,
        source: IpAddr,
        destination: IpAddr,
        bytes: &[u8],
    ) {
        let Some(member) = self.members.get_mut(name) else { return };
        let Some(plan) = member.plan.routers.get(router) else { return };
        let Some(index) = self.network.index(&plan.interface) else { return };
        let place = Place { index, family: router.family };
        // The virtual MAC address is of who has the addresses: from anybody else it would lead switches astray. To a peer's address
        // the kernel finds the way, through the interface below.
        let own_link = plan.own_link.as_ref().filter(|_| plan.multicast && member.holds.contains_key(router));
        let result = match own_link {
            Some(link) => self.virtual_links.frames.advertise(index, link.mac, source, destination, bytes),
            None => self.wires.send(&place, source, destination, bytes),
        };
        let now = clock::now().boot;
        if member.sent(now, router, &result)
            && let Err(error) = result
        {
            self.voice.warn(format!("{name}: {router}: advertisements cannot be sent: {error}"));
            // Told to the group once this call's actions are done.
            self.retry_at = Some(now);
        }
    }

    /// From now on until some seconds later nobody is told that a connection does not exist.
    fn guard(&mut self, name: &Arc<str>) {
        let (Some(arm), Some(member)) = (&mut self.arm, self.members.get(name)) else { return };
        let addresses: Vec<_> = member.plan.places().map(|(_, place)| place.address).collect();
        if let Err(error) = arm(&addresses) {
            self.voice
                .warn(format!("{name}: young connections are not guarded during this takeover: {error}"));
        }
    }

    /// What made services of a former process fail is not known to this one, whose own begin well: after a while they may try.
    fn end_inherited_fault(&mut self, name: &Arc<str>, now: BootTime) {
        let Some(member) = self.members.get_mut(name) else { return };
        if member.inherited_fault.take_if(|until| now >= *until).is_some() {
            self.handle(name, Input::Tracked { name: SERVICES, failing: false });
        }
    }

    pub(super) fn retry_soon(&mut self) {
        self.retry_at = Some(clock::now().boot + RETRY);
    }

    /// Makes sockets and the table of virtual routers those of the groups and of the interfaces that there are.
    pub(super) fn open_wires(&mut self) {
        let mut wanted: BTreeMap<Place, (Arc<str>, bool)> = BTreeMap::new();
        self.routes.clear();
        for (name, member) in &self.members {
            for (id, router) in &member.plan.routers {
                let Some(index) = self.network.index(&router.interface) else { continue };
                let place = Place { index, family: id.family };
                wanted.entry(place.clone()).or_insert_with(|| (router.interface.clone(), false)).1 |=
                    router.multicast;
                self.routes.entry((place, router.vrid)).or_insert_with(|| (name.clone(), id.clone()));
                self.foreign.adopt(&router.interface, router.vrid);
            }
        }
        let errors = self.wires.set(&wanted);
        if !errors.is_empty() {
            self.retry_soon();
        }
        for error in errors {
            let text = format!(
                "{} ({}): no socket for VRRP: {}; it needs CAP_NET_RAW, and is tried again",
                error.interface, error.family, error.error
            );
            self.voice.warn(text);
        }
    }

    /// Tells all groups of links that are not as they were.
    pub(super) fn tell_links(&mut self) {
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            self.tell_links_of(&name);
        }
    }

    pub(super) fn tell_links_of(&mut self, name: &Arc<str>) {
        let now = clock::now().boot;
        let (mut links, mut tracked) = (Vec::new(), Vec::new());
        if let Some(member) = self.members.get_mut(name) {
            let routers: Vec<_> =
                member.plan.routers.iter().map(|(id, router)| (id.clone(), router.clone())).collect();
            for (id, router) in routers {
                let link = match look(&self.network, &self.wires, &self.floating, &id, &router) {
                    Link::Up { .. } if member.is_mute(now, &id) => Link::Mute,
                    link => link,
                };
                if member.links.insert(id.clone(), link) != Some(link) {
                    links.push((id, link));
                }
            }
            let interfaces = member.plan.interfaces.iter();
            let interfaces = interfaces.map(|one| (interface_tracker(one).into(), !self.network.works(one)));
            let outside = member.plan.outside.iter();
            let outside =
                outside.map(|one| (one.clone(), self.failing.contains(&(name.clone(), one.clone()))));
            let now: Vec<(Arc<str>, bool)> = interfaces.chain(outside).collect();
            for (tracker, failing) in now {
                if member.tracked.insert(tracker.clone(), failing) != Some(failing) {
                    tracked.push((tracker, failing));
                }
            }
        }
        for (router, link) in links {
            self.handle(name, Input::Link { router, link });
        }
        for (tracker, failing) in tracked {
            self.handle(name, Input::Tracked { name: &tracker, failing });
        }
    }
}

/// How the interface of a virtual router is. Without a socket nobody could be heard on it: that must not pass for silence.
pub(super) fn look(
    network: &Network,
    wires: &Wires,
    floating: &BTreeSet<IpAddr>,
    id: &RouterId,
    router: &RouterPlan,
) -> Link {
    match network.link_of(router, id.family, |address| floating.contains(&address)) {
        Link::Up { source } => {
            let place = network.index(&router.interface).map(|index| Place { index, family: id.family });
            if network.index(router.home()).is_none() {
                Link::NoHome
            } else if place.is_some_and(|place| wires.has(&place)) {
                Link::Up { source }
            } else {
                Link::Deaf
            }
        }
        other => other,
    }
}

/// Whether the network, or the kernel, would take it for a sign that this director is the active one.
const fn claims(action: &Action) -> bool {
    matches!(
        action,
        Action::Send { .. }
            | Action::Announce { .. }
            | Action::HoldAddresses { .. }
            | Action::RenewAddresses { .. }
    )
}
