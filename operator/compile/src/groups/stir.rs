//! What a change of groups means for others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bascule_crds::common::Allow;

use super::Group;
use super::settle::Forms;

/// What others see of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    known: bool,
    in_force: bool,
    pub(super) has: Forms,
    addresses: Arc<BTreeSet<IpAddr>>,
    allow: Vec<Allow>,
}

impl Seen {
    pub(super) fn of(group: &Group) -> Seen {
        Seen {
            known: true,
            in_force: group.is_in_force(),
            has: group.outcome.has.clone(),
            addresses: Arc::clone(&group.addresses),
            allow: group.wish.spec.allow.clone(),
        }
    }

    /// Whether a VirtualService of the group has to be looked at anew when this comes after `before`.
    pub(super) fn concerns_users(&self, before: &Seen) -> bool {
        self.known != before.known
            || self.in_force != before.in_force
            || self.addresses != before.addresses
            || self.allow != before.allow
            || !self.has.keys().eq(before.has.keys())
    }
}

/// An address of a group in force on one director.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    /// Name of the director.
    pub(crate) director: Arc<str>,
    /// The address.
    pub(crate) address: IpAddr,
    /// Name of the group.
    pub(crate) group: Arc<str>,
}

/// What a change of groups means for others.
#[derive(Debug, Default)]
pub(crate) struct Stir {
    /// Groups whose conditions may be others now.
    pub(crate) groups: BTreeSet<Arc<str>>,
    /// Groups that came or went, or whose members, addresses or permissions are others now.
    pub(crate) users: BTreeSet<Arc<str>>,
    /// Directors that may have come or gone by it, or whose configuration may be another.
    pub(crate) directors: BTreeSet<Arc<str>>,
    /// Addresses that are no group's any more.
    pub(crate) released: BTreeSet<Held>,
    /// Addresses that a group has now.
    pub(crate) taken: BTreeSet<Held>,
}
