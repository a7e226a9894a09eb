//! When the groups' routes and rules are added, removed and put back.

use std::{collections::BTreeMap, io, os::fd::BorrowedFd, sync::Arc};

use super::kernel::Kernel;
use super::{Held, Op, Wanted, plan};
use crate::vrrp::config::GroupPlan;
use crate::vrrp::driver::Driver;
use crate::vrrp::member::Member;

/// What [`Driver::status`] names of what a group lacks, at most.
const SHOWN: usize = 8;

/// Why routes and rules are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Addresses come or go, and more may follow: what cannot be had now is not worth a word yet.
    Moving,
    /// All addresses that are to move have moved.
    Moved,
    /// Something changed in the kernel.
    Repair,
}

/// The routes and rules of all groups.
pub(crate) struct Routing {
    kernel: Kernel,
    held: Held,
    /// What is known of the kernel may be out of date.
    stale: bool,
    /// The kernel has been looked at: a former process may have left something.
    looked: bool,
    /// What is wanted and cannot be had, and why, as it was said.
    lacking: BTreeMap<String, String>,
}

impl Routing {
    /// Opens what it needs, in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let kernel = Kernel::open()?;
        Ok(Self { kernel, held: Held::default(), stale: true, looked: false, lacking: BTreeMap::new() })
    }

    /// What becomes readable with a notification.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.descriptor()
    }

    /// The kernel takes routes away without a notification when an address or a link goes (`fib_sync_down_addr`,
    /// `fib_sync_down_dev` in net/ipv4/fib_semantics.c).
    pub(crate) fn doubt(&mut self) {
        self.stale = true;
    }
}

/// What a group wants with these addresses on this machine: the routes and rules of the instances that have all of theirs here.
fn add_wanted(member: &Member, wanted: &mut Wanted) {
    let here = |name: &str| {
        let mut routers = member.plan.routers.keys().filter(|id| &*id.instance == name).peekable();
        routers.peek().is_some() && routers.all(|id| member.holds.contains_key(id))
    };
    for instance in member.plan.spec.instances.iter().filter(|instance| here(&instance.name)) {
        wanted.add(instance);
    }
}

fn has_any(plan: &GroupPlan) -> bool {
    plan.spec.instances.iter().any(|one| !(one.routes.is_empty() && one.rules.is_empty()))
}

impl Driver {
    /// Takes the kernel's notifications about routes and rules; true when something is not as it was.
    pub(in crate::vrrp) fn hear_routes(&mut self) -> bool {
        let heard = match self.routing.kernel.heard() {
            Ok(heard) => heard,
            Err(error) => {
                self.voice.warn(format!("notifications about routes cannot be read: {error}"));
                self.routing.stale = true;
                self.retry_soon();
                return false;
            }
        };
        let mut changed = heard.lost || (heard.room && !self.routing.lacking.is_empty());
        for event in heard.events {
            changed |= self.routing.held.update(event);
        }
        self.routing.stale |= heard.lost;
        changed
    }

    /// Makes the routes and rules of ours in the kernel those of the groups whose addresses are here.
    /// Not before the first configuration has been taken in as a whole: until then nobody knows what is left over.
    pub(in crate::vrrp) fn route(&mut self, cause: Cause) {
        if !self.configured {
            return;
        }
        let any = self.members.values().any(|member| has_any(&member.plan));
        match self.routing.kernel.listen(any) {
            Ok(begun) => self.routing.stale |= begun,
            Err(error) => {
                self.voice.warn(format!("changes of routes cannot be heard: {error}"));
                self.routing.stale = true;
                self.retry_soon();
            }
        }
        // The place of a rule, for one, is known only from what the kernel says of it.
        self.hear_routes();
        let mut wanted = Wanted::default();
        self.members.values().for_each(|member| add_wanted(member, &mut wanted));
        // Then nothing is looked at either: it costs a walk through all routes that there are.
        if wanted.is_empty() && self.routing.held.is_empty() && self.routing.looked {
            self.routing.lacking.clear();
            return;
        }
        if self.routing.stale {
            match self.routing.kernel.observe() {
                Ok(held) => {
                    self.routing.held = held;
                    (self.routing.stale, self.routing.looked) = (false, true);
                }
                Err(error) => {
                    self.voice.warn(format!("routes and rules cannot be read: {error}"));
                    self.retry_soon();
                }
            }
        }
        let (ops, homeless) = plan(&wanted, &self.routing.held, |name| self.network.index(name));
        let mut lacking: BTreeMap<String, String> = homeless
            .into_iter()
            .map(|route| (route.to_string(), format!("there is no interface {}", route.interface)))
            .collect();
        if !ops.is_empty() {
            self.carry_out_routes(&ops, cause, &mut lacking);
        }
        if cause != Cause::Moving {
            self.tell_lacking(lacking);
        }
    }

    fn carry_out_routes(&mut self, ops: &[Op], cause: Cause, lacking: &mut BTreeMap<String, String>) {
        let results = match self.routing.kernel.apply(ops) {
            Ok(results) => results,
            Err(error) => {
                self.voice.warn(format!("routes and rules cannot be changed: {error}"));
                self.routing.stale = true;
                self.retry_soon();
                return;
            }
        };
        let mut repaired = Vec::new();
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (_, Ok(())) => {
                    self.routing.held.after(op);
                    repaired.push(match op {
                        Op::AddRoute { .. } | Op::AddRule(_) => format!("{op} back"),
                        Op::RemoveRoute(_) | Op::RemoveRule(_) => format!("{op} removed"),
                    });
                }
                // Somebody was faster.
                (Op::RemoveRoute(_) | Op::RemoveRule(_), Err(error))
                    if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) =>
                {
                    self.routing.held.after(op);
                }
                (Op::RemoveRoute(_) | Op::RemoveRule(_), Err(error)) => {
                    lacking.insert(format!("removal of {op}"), error.to_string());
                }
                (_, Err(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
                    let why = "one that was not made by this agent is there, and stays; remove it";
                    lacking.insert(op.to_string(), why.to_owned());
                }
                (_, Err(error)) => {
                    lacking.insert(op.to_string(), error.to_string());
                }
            }
        }
        if cause == Cause::Repair && !repaired.is_empty() {
            self.totals.repaired += repaired.len() as u64;
            self.voice.warn(format!("put right: {}", some(&repaired)));
        }
    }

    /// Says what cannot be had once, and tries it again.
    fn tell_lacking(&mut self, lacking: BTreeMap<String, String>) {
        let news: Vec<_> = lacking
            .iter()
            .filter(|(what, why)| self.routing.lacking.get(*what) != Some(why))
            .map(|(what, why)| format!("{what}: {why}"))
            .collect();
        if !news.is_empty() {
            self.voice.warn(format!("an active group lacks what it should have here: {}", some(&news)));
        }
        if !lacking.is_empty() {
            self.retry_soon();
        }
        self.routing.lacking = lacking;
    }

    /// What a group should have on this machine and has not, and why.
    pub(in crate::vrrp) fn lacking(&self, name: &Arc<str>) -> Vec<String> {
        let Some(member) = self.members.get(name) else { return Vec::new() };
        let mut wanted = Wanted::default();
        add_wanted(member, &mut wanted);
        let routes = wanted.routes.iter().map(ToString::to_string);
        let rules = wanted.rules.iter().map(ToString::to_string);
        let why = |what: String| Some(format!("{what}: {}", self.routing.lacking.get(&what)?));
        let before = self.lacking_links(name).into_iter().chain(self.lacking_addresses(name));
        before.chain(routes.chain(rules).filter_map(why)).take(SHOWN).collect()
    }
}

/// The first few of a list.
fn some(all: &[String]) -> String {
    let shown = all.len().min(SHOWN);
    let more = all.len() - shown;
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", all[..shown].join("; "))
}
