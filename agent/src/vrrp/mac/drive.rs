//! When interfaces of virtual routers are made, switched on and off, and removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use bascule_vrrp::{BootTime, RouterId};

use super::frame::Frames;
use super::{HeldLink, Op, VirtualLink, link, plan};
use crate::plane::{netlink::Connection, rtnl};
use crate::vrrp::clock;
use crate::vrrp::driver::{Driver, RETRY};
use crate::vrrp::member::{Leaving, Member};
use crate::vrrp::network::Event;

/// The interfaces of all virtual routers.
pub(crate) struct VirtualLinks {
    connection: Connection,
    pub(crate) frames: Frames,
    held: BTreeMap<String, HeldLink>,
    /// What is known of the kernel may be out of date.
    stale: bool,
    /// The kernel has been looked at: a former process may have left some.
    looked: bool,
    /// Those made by this process: index, and index of the interface below as it was asked for. Over a macvlan the kernel takes the
    /// one below that.
    asked: BTreeMap<String, (u32, u32)>,
    /// What cannot be done, by the interface's name, as it was said.
    failing: BTreeMap<String, String>,
    /// Nothing is made before: making and failing is told by notifications, and these must not lead to the next attempt.
    not_before: Option<BootTime>,
    /// How often in a row something failed.
    setbacks: u32,
}

impl VirtualLinks {
    /// Opens what it needs, in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            connection: Connection::open(rtnl::PROTOCOL)?,
            frames: Frames::open()?,
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            not_before: None,
            setbacks: 0,
            stale: true,
            looked: false,
            failing: BTreeMap::new(),
        })
    }

    /// A link changed.
    pub(crate) fn doubt(&mut self) {
        self.stale = true;
    }

    /// What cannot be done with an interface.
    pub(crate) fn failing(&self, name: &str) -> Option<&String> {
        self.failing.get(name)
    }
}

fn links_of(member: &Member) -> impl Iterator<Item = (&RouterId, &VirtualLink)> {
    member.plan.routers.iter().filter_map(|(id, router)| Some((id, router.own_link.as_ref()?)))
}

impl Driver {
    /// Makes the interfaces of all virtual routers that are there to be made; switches on those whose addresses are here, and off
    /// those whose addresses are not. With `sweep`, and never before the first configuration, what nobody wants is removed.
    pub(in crate::vrrp) fn make_links(&mut self, sweep: bool) {
        let wanted: BTreeMap<Arc<str>, VirtualLink> = self
            .members
            .values()
            .flat_map(|member| {
                // One that has ended needs its interface only for the addresses that it leaves.
                let ended = member.leaving == Leaving::End && self.stopping;
                links_of(member).filter(move |(id, _)| !ended || member.holds.contains_key(*id))
            })
            .map(|(_, link)| (link.name.clone(), link.clone()))
            .collect();
        if wanted.is_empty() && self.virtual_links.held.is_empty() && self.virtual_links.looked {
            return;
        }
        if self.virtual_links.stale && !self.look_at_links() {
            return;
        }
        let sweep = sweep && self.configured;
        let ops = plan(&wanted, &self.virtual_links.held, sweep, |name| self.network.index(name));
        self.carry_out_links(ops);
        self.switch_links(sweep);
    }

    fn carry_out_links(&mut self, ops: Vec<Op>) {
        let now = clock::now().boot;
        let waits = self.virtual_links.not_before.is_some_and(|at| now < at);
        let mut failing = BTreeMap::new();
        for op in ops {
            let links = &mut self.virtual_links;
            let (name, result) = match op {
                Op::Make { link, .. } if waits && links.failing.contains_key(&*link.name) => {
                    failing.extend(links.failing.remove_entry(&*link.name));
                    continue;
                }
                Op::Remove { name, index } => {
                    let result = link::remove(&mut links.connection, index);
                    if result.is_ok() {
                        self.network.update(Event::LinkGone(index));
                    }
                    (name, result)
                }
                Op::Make { link, parent } => {
                    let name = link.name.to_string();
                    let made = link::make(&mut links.connection, &link, parent);
                    let made = made.map(|made| {
                        links.asked.insert(name.clone(), (made.index, parent));
                    });
                    (name, made)
                }
            };
            links.stale = true;
            if let Err(error) = result {
                failing.insert(name, explain(&error));
            }
        }
        if self.virtual_links.stale {
            self.look_at_links();
        }
        if failing.is_empty() {
            (self.virtual_links.setbacks, self.virtual_links.not_before) = (0, None);
        } else if !waits {
            self.virtual_links.not_before =
                Some(now + RETRY.saturating_mul(1 << self.virtual_links.setbacks.min(6)));
            self.virtual_links.setbacks = self.virtual_links.setbacks.saturating_add(1);
        }
        self.tell_failing(failing);
    }

    /// None is switched off before it is known what a group that begins goes on with.
    fn switch_links(&mut self, off: bool) {
        let (mut up, mut down) = (BTreeSet::new(), BTreeSet::new());
        for member in self.members.values() {
            for (id, link) in links_of(member) {
                if member.holds.contains_key(id) {
                    up.insert(link.name.clone());
                } else if member.leaving == Leaving::No {
                    down.insert(link.name.clone());
                }
            }
        }
        up.iter().for_each(|name| self.switch_link(name, true));
        down.difference(&up).filter(|_| off).for_each(|name| self.switch_link(name, false));
    }

    /// Reads them from the kernel.
    fn look_at_links(&mut self) -> bool {
        match link::held(&mut self.virtual_links.connection) {
            Ok(found) => {
                (self.virtual_links.stale, self.virtual_links.looked) = (false, true);
                self.virtual_links.held.clear();
                for (name, (mut held, state)) in found {
                    let asked = self.virtual_links.asked.get(&name).filter(|asked| asked.0 == held.index);
                    held.parent = asked.map_or(held.parent, |asked| asked.1);
                    self.network.update(Event::Link(state));
                    self.virtual_links.held.insert(name, held);
                }
                true
            }
            Err(error) => {
                self.voice.warn(format!("interfaces cannot be read: {error}"));
                self.retry_soon();
                false
            }
        }
    }

    fn tell_failing(&mut self, failing: BTreeMap<String, String>) {
        for (name, why) in &failing {
            if self.virtual_links.failing.get(name) != Some(why) {
                self.voice
                    .warn(format!("the interface {name} for a virtual MAC address cannot be had: {why}"));
            }
        }
        if !failing.is_empty() {
            self.retry_soon();
        }
        self.virtual_links.failing = failing;
    }

    fn switch_link(&mut self, name: &str, up: bool) {
        let links = &mut self.virtual_links;
        let Some(held) = links.held.get_mut(name).filter(|held| held.up != up) else { return };
        match link::switch(&mut links.connection, held.index, up) {
            Ok(()) => held.up = up,
            Err(error) => {
                let how = if up { "on" } else { "off" };
                links.stale = true;
                self.voice.warn(format!("the interface {name} cannot be switched {how}: {error}"));
                self.retry_soon();
            }
        }
    }

    /// Switches the interface of a virtual router on before its addresses come, or off after they went.
    pub(in crate::vrrp) fn switch_link_of(&mut self, name: &Arc<str>, router: &RouterId, up: bool) {
        let plan = self.members.get(name).and_then(|member| member.plan.routers.get(router));
        if let Some(link) = plan.and_then(|plan| plan.own_link.clone()) {
            self.switch_link(&link.name, up);
        }
    }

    /// What a group lacks of its interfaces, and why.
    pub(in crate::vrrp) fn lacking_links(&self, name: &Arc<str>) -> Vec<String> {
        let links = self.members.get(name).into_iter().flat_map(links_of);
        links
            .filter_map(|(_, link)| {
                let why = self.virtual_links.failing(&link.name)?;
                Some(format!("interface {}: {why}", link.name))
            })
            .collect()
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EEXIST) => "there is one of this name that was not made by this agent".to_owned(),
        Some(libc::EOPNOTSUPP) => {
            format!("{error}: the kernel has no macvlan; load it (modprobe macvlan) or set virtualMac: false")
        }
        _ => error.to_string(),
    }
}
