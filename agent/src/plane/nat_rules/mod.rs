//! NatRules: port forwarding, masquerading, source NAT and addresses that are exchanged one to one.
//!
//! They have a table of their own, of the family `inet`, called `bascule_nat`. It is replaced as a whole in one transaction: who
//! looks in between finds the old rules or the new ones. What each rule counted is carried over. A rule that follows a group is in
//! the table only while the group is active here. What a rule that went has translated ends with it: the kernel would go on
//! translating connections that it knows. Other tables are never touched.

mod encode;
mod flows;
mod kernel;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bascule_compile::{BindingKey, NodeConfig};
use bascule_crds::{
    NatRuleBindingSpec,
    common::{AddressPrefix, Family},
    nat_rule::{PortForward, Translation},
};

pub(crate) use kernel::{Io, Kernel, missing};
pub(crate) use worker::NatRulesPlane;

/// Our table, of the family `inet`.
pub const TABLE: &str = "bascule_nat";

/// Rules as the table has them, or is to have them.
pub type Table = BTreeMap<BindingKey, Translation>;

/// What is known of groups on this director, by name: whether they are active here.
pub type Roles = BTreeMap<Arc<str>, bool>;

/// Groups that are remembered although they are not active and no rule follows them.
const ROLES: usize = 1_024;

/// What the kernel counted of a rule: the packets that made it translate a connection, one a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the configuration and the groups want.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    rules: BTreeMap<BindingKey, Arc<NatRuleBindingSpec>>,
    roles: Roles,
    /// A group of which nothing is known is not active, instead of as it was.
    settled: bool,
}

/// Everything that a configuration wants, with nothing known of groups.
pub fn desired(config: &NodeConfig) -> Desired {
    Desired { rules: config.nat_rules.clone(), ..Desired::default() }
}

impl Desired {
    /// Takes a changed rule, none when it is gone; true when something changed.
    pub fn set(&mut self, key: &BindingKey, spec: Option<&Arc<NatRuleBindingSpec>>) -> bool {
        let before = match spec {
            Some(spec) => self.rules.insert(key.clone(), Arc::clone(spec)),
            None => self.rules.remove(key),
        };
        before.as_ref() != spec
    }

    /// Takes what became known of groups; true when something changed.
    pub fn set_roles(&mut self, roles: &Roles) -> bool {
        let changed = roles.iter().any(|(group, active)| self.roles.get(group) != Some(active));
        self.roles.extend(roles.iter().map(|(group, active)| (Arc::clone(group), *active)));
        if self.roles.len() > ROLES {
            // Of former groups, most likely.
            let rules = &self.rules;
            let followed = |group: &str| rules.values().any(|spec| spec.vrrp_group.as_deref() == Some(group));
            self.roles.retain(|group, active| *active || followed(group));
        }
        changed
    }

    /// From now on a group of which nothing is known is not active; true when a rule follows such a one that was not looked at so.
    pub fn settle(&mut self) -> bool {
        let unknown = |spec: &NatRuleBindingSpec| {
            spec.vrrp_group.as_deref().is_some_and(|group| !self.roles.contains_key(group))
        };
        let concerned = self.rules.values().any(|spec| unknown(spec));
        !std::mem::replace(&mut self.settled, true) && concerned
    }

    /// The rules of the configuration.
    pub fn keys(&self) -> impl Iterator<Item = &BindingKey> {
        self.rules.keys()
    }

    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules whose group is not active here, or not known to be.
    pub fn resting(&self) -> BTreeSet<BindingKey> {
        let rests = |spec: &NatRuleBindingSpec| {
            spec.vrrp_group.as_deref().is_some_and(|group| self.roles.get(group) != Some(&true))
        };
        self.rules.iter().filter(|(_, spec)| rests(spec)).map(|(key, _)| key.clone()).collect()
    }

    /// What the table should hold beside what it holds: while nothing is known of a group, as after a restart of the agent, a
    /// rule that follows it stays if it is there, and does not come if it is not.
    pub fn table(&self, held: &Table) -> Table {
        let wanted = |key: &BindingKey, spec: &NatRuleBindingSpec| match &spec.vrrp_group {
            None => true,
            Some(group) => match self.roles.get(group.as_str()) {
                Some(active) => *active,
                None => !self.settled && held.contains_key(key),
            },
        };
        let rules = self.rules.iter().filter(|(key, spec)| wanted(key, spec));
        rules.map(|(key, spec)| (key.clone(), spec.translation.clone())).collect()
    }
}

/// What the kernel holds of our table, and what we noted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether there is a table of our name.
    pub exists: bool,
    /// Whether it is exactly as it was read right after we made it.
    pub intact: bool,
    /// The rules that we gave it last.
    pub rules: Table,
    /// Rules that have gone and whose connections have yet to be ended.
    pub ending: Table,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the table anew with these rules; `ending` are those that were in it and are not any more, or are others now.
    Replace {
        /// What comes.
        rules: Table,
        /// What goes.
        ending: Table,
    },
    /// Removes the table.
    Remove {
        /// What goes.
        ending: Table,
    },
}

impl Op {
    /// For metrics and for what `plan` prints.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Replace { .. } => "replace-table",
            Self::Remove { .. } => "remove-table",
        }
    }

    /// What is in the table afterwards.
    pub fn rules(&self) -> Table {
        match self {
            Self::Replace { rules, .. } => rules.clone(),
            Self::Remove { .. } => Table::new(),
        }
    }

    /// The rules whose connections end.
    pub fn ending(&self) -> &Table {
        match self {
            Self::Replace { ending, .. } | Self::Remove { ending } => ending,
        }
    }
}

/// Rules that are named when a change is printed.
const NAMED: usize = 8;

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, what: &str, rules: &Table| {
            for (index, (key, rule)) in rules.iter().take(NAMED).enumerate() {
                write!(f, "{}[{key}: {}]", if index == 0 { what } else { " " }, Words(rule))?;
            }
            if rules.len() > NAMED { write!(f, " and {} more", rules.len() - NAMED) } else { Ok(()) }
        };
        match self {
            Self::Replace { rules, ending } => {
                write!(f, "make table inet {TABLE} anew")?;
                list(f, " with ", rules)?;
                list(f, "; ends the connections of ", ending)
            }
            Self::Remove { ending } => {
                write!(f, "remove table inet {TABLE}")?;
                list(f, "; ends the connections of ", ending)
            }
        }
    }
}

/// A rule in words.
struct Words<'a>(&'a Translation);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Translation { port_forward, masquerade, source_nat, static_nat } = self.0;
        let from = |f: &mut fmt::Formatter<'_>, sources: &[AddressPrefix]| {
            for source in sources.iter().take(NAMED) {
                write!(f, " {source}")?;
            }
            if sources.len() > NAMED { f.write_str(" …") } else { Ok(()) }
        };
        if let Some(PortForward { in_interface, address, protocol, port, to, to_port }) = port_forward {
            write!(f, "{protocol} port {port}")?;
            if let Some(address) = address {
                write!(f, " of {address}")?;
            }
            if let Some(interface) = in_interface {
                write!(f, " on {interface}")?;
            }
            write!(f, " → {to} port {}", to_port.unwrap_or(*port))?;
        }
        if let Some(one) = masquerade {
            write!(f, "masquerade out of {}", one.out_interface)?;
            from(f, &one.sources)?;
        }
        if let Some(one) = source_nat {
            write!(f, "{} as source out of {}", one.address, one.out_interface)?;
            from(f, &one.sources)?;
        }
        if let Some(one) = static_nat {
            write!(f, "{} ↔ {}", one.outside, one.inside)?;
        }
        Ok(())
    }
}

/// Plans the table, at most one transaction.
pub fn plan(desired: &Desired, observed: &Observed) -> Option<Op> {
    let rules = desired.table(&observed.rules);
    let gone = |(key, rule): &(&BindingKey, &Translation)| rules.get(*key) != Some(*rule);
    let ending: Table =
        observed.rules.iter().filter(gone).map(|(key, rule)| (key.clone(), rule.clone())).collect();
    if rules.is_empty() {
        return (observed.exists || !ending.is_empty()).then_some(Op::Remove { ending });
    }
    (!observed.intact || observed.rules != rules).then_some(Op::Replace { rules, ending })
}

/// Networks as the kernel compares with them, each once.
fn normal(sources: &[AddressPrefix]) -> BTreeSet<AddressPrefix> {
    sources.iter().map(AddressPrefix::network).collect()
}

/// Whether a rule translates IPv4 and IPv6.
pub(super) fn families(rule: &Translation) -> (bool, bool) {
    let Translation { port_forward, masquerade, source_nat, static_nat } = rule;
    let mut families = BTreeSet::new();
    families.extend(port_forward.iter().map(|one| Family::of(one.to)));
    families.extend(source_nat.iter().map(|one| Family::of(one.address)));
    families.extend(static_nat.iter().map(|one| Family::of(one.inside)));
    if let Some(one) = masquerade {
        families.extend(one.sources.iter().map(AddressPrefix::family));
        if one.sources.is_empty() {
            families.insert(Family::IPv4);
        }
    }
    (families.contains(&Family::IPv4), families.contains(&Family::IPv6))
}
