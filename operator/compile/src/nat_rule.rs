//! What can be said of a NatRule, what a director has to do for it, and what it takes for itself there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bascule_crds::NatRuleBindingSpec;
use bascule_crds::common::{AddressOrRange, AddressPrefix, Allow, AllowedKind, Family};
use bascule_crds::director::Director;
use bascule_crds::nat_rule::{NatRuleSpec, PortForward, StaticNat, Translation};

use crate::checked;
use crate::claims::{Claim, What};
use crate::compiler::Trust;
use crate::groups::{Aliases, Group, resolved};
use crate::judge::only_here;
use crate::problem::Problems;
use crate::service::not_of_a_machine;
use crate::types::{BindingKey, Problem, Reason, Warning};

/// Everything in which a NatRule contradicts itself.
pub(crate) fn problems(spec: &NatRuleSpec) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (field, address) in addresses(&spec.translation) {
        if let Some(what) = not_of_a_machine(address) {
            problems.invalid(field, format!("{address} is {what}, which no machine can have"));
        } else if address.is_loopback() {
            problems.invalid(
                field,
                format!("{address} is a loopback address: the kernel takes no packets of others to it; give one that others reach"),
            );
        }
    }
    if let Some(forward) = &spec.translation.port_forward {
        check_forward(forward, &mut problems);
    }
    if let Some(one) = &spec.translation.static_nat {
        let field = "spec.staticNat.inside";
        if one.outside == one.inside {
            problems.invalid(
                field,
                format!("{} is the outside address: there is nothing to exchange", one.inside),
            );
        }
        check_family(field, "outside", one.outside, one.inside, &mut problems);
    }
    if let Some(one) = &spec.translation.source_nat {
        for (i, source) in one.sources.iter().enumerate() {
            check_family(
                &format!("spec.sourceNat.sources[{i}]"),
                "address",
                one.address,
                source.address,
                &mut problems,
            );
        }
    }
    problems.0
}

fn check_forward(forward: &PortForward, problems: &mut Problems) {
    let field = "spec.portForward.to";
    if let Some(address) = forward.address {
        check_family(field, "address", address, forward.to, problems);
    }
    if forward.address == Some(forward.to) && forward.to_port.is_none_or(|port| port == forward.port) {
        problems.invalid(field, "is where the packets go without it; give another address or toPort");
    }
}

fn check_family(field: &str, other: &str, wanted: IpAddr, given: IpAddr, problems: &mut Problems) {
    let (wanted, given) = (Family::of(wanted), Family::of(given));
    if wanted != given {
        problems.invalid(
            field,
            format!("is {given}, and {other} is {wanted}: nothing is translated from one to the other"),
        );
    }
}

/// The addresses of machines in it, and where they stand.
fn addresses(translation: &Translation) -> Vec<(&'static str, IpAddr)> {
    let Translation { port_forward, masquerade: _, source_nat, static_nat } = translation;
    let mut all = Vec::new();
    if let Some(forward) = port_forward {
        all.extend(forward.address.map(|address| ("spec.portForward.address", address)));
        all.push(("spec.portForward.to", forward.to));
    }
    all.extend(source_nat.as_ref().map(|one| ("spec.sourceNat.address", one.address)));
    if let Some(one) = static_nat {
        all.extend([("spec.staticNat.outside", one.outside), ("spec.staticNat.inside", one.inside)]);
    }
    all
}

/// Of these, those that it uses as the director's own, for which somebody has to be allowed to.
fn own_addresses(translation: &Translation) -> impl Iterator<Item = (&'static str, IpAddr)> {
    let targets = ["spec.portForward.to", "spec.staticNat.inside"];
    addresses(translation).into_iter().filter(move |(field, _)| !targets.contains(field))
}

/// Its interfaces, as it names them.
pub(crate) fn interfaces(translation: &Translation) -> impl Iterator<Item = &String> {
    let Translation { port_forward, masquerade, source_nat, static_nat: _ } = translation;
    let forward = port_forward.as_ref().and_then(|one| one.in_interface.as_ref());
    let masquerade = masquerade.as_ref().map(|one| &one.out_interface);
    forward.into_iter().chain(masquerade).chain(source_nat.as_ref().map(|one| &one.out_interface))
}

/// In a cluster: what the director or the group on which it wants to be (`whom`) does not allow a NatRule of that namespace. The
/// addresses that are `granted` anybody may use who may have a NatRule there.
pub(crate) fn allowed(
    spec: &NatRuleSpec,
    namespace: &str,
    (whom, field): (&str, &str),
    allow: &[Allow],
    granted: impl Fn(IpAddr) -> bool,
    problems: &mut Problems,
) {
    let entries: Vec<_> = allow
        .iter()
        .filter(|entry| entry.kinds.contains(&AllowedKind::NatRule))
        .filter(|entry| entry.namespaces.iter().any(|n| n == "*" || n == namespace))
        .collect();
    if entries.is_empty() {
        problems.add(
            Reason::NotAllowed,
            field,
            format!("{whom} does not allow NatRules of namespace {namespace}; its spec.allow can say so"),
        );
        return;
    }
    for (field, address) in own_addresses(&spec.translation) {
        let listed = entries.iter().flat_map(|entry| &entry.addresses).any(|net| net.contains(address));
        if !listed && !granted(address) {
            problems.add(
                Reason::NotAllowed,
                field,
                format!("{whom} does not allow namespace {namespace} the address {address}; spec.allow[].addresses can say so"),
            );
        }
    }
}

/// In a cluster: targets that a Director does not allow anybody.
pub(crate) fn allowed_targets(spec: &NatRuleSpec, director: &Director, problems: &mut Problems) {
    let name = director.metadata.name.as_deref().unwrap_or_default();
    for (field, address) in addresses(&spec.translation) {
        if let Some(what) = only_here(address)
            && !checked::allows_target(Some(director), address)
        {
            problems.add(
                Reason::NotAllowed,
                field,
                format!("{address} is {what}; Director {name} would have to allow it in spec.allowedTargets"),
            );
        }
    }
}

/// What is to be said of a NatRule that follows a group and in which nothing is wrong.
pub(crate) fn warnings(spec: &NatRuleSpec, name: &str, group: &Group) -> Vec<Warning> {
    let alien =
        own_addresses(&spec.translation).filter(|(_, address)| !group.has(AddressOrRange::single(*address)));
    let warn = |(field, address): (&str, IpAddr)| Warning {
        field: field.to_owned(),
        message: format!(
            "{address} is not among the addresses of VrrpGroup {name}: it does not move with the rule; give an address of the \
             group, unless every member can do with this one"
        ),
    };
    alien.map(warn).collect()
}

/// What this director has to do for a NatRule in which nothing is wrong.
pub(crate) fn binding(
    name: &str,
    spec: &NatRuleSpec,
    director: &str,
    aliases: Option<&Aliases>,
) -> NatRuleBindingSpec {
    let mut translation = spec.translation.clone();
    let resolve = |interface: &mut String| *interface = resolved(aliases, interface).clone();
    if let Some(forward) = &mut translation.port_forward {
        forward.in_interface.iter_mut().for_each(resolve);
    }
    translation.masquerade.iter_mut().for_each(|one| resolve(&mut one.out_interface));
    translation.source_nat.iter_mut().for_each(|one| resolve(&mut one.out_interface));
    NatRuleBindingSpec {
        nat_rule: name.to_owned(),
        director: director.to_owned(),
        vrrp_group: spec.vrrp_group.clone(),
        translation,
    }
}

/// The address that stands for all of a family.
const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::IPv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// What a binding takes for itself. Two claims of one kind on one place exclude each other, unless they have the same tag.
pub(crate) fn claims(
    trust: Trust,
    director: &Arc<str>,
    key: &BindingKey,
    spec: &NatRuleBindingSpec,
) -> Vec<Claim> {
    let mut claims = Takes {
        director,
        namespace: (trust == Trust::Cluster).then_some(&key.namespace),
        claims: Vec::new(),
    };
    let Translation { port_forward, masquerade, source_nat, static_nat } = &spec.translation;
    if let Some(forward) = port_forward {
        claims.forward(forward);
    }
    if let Some(one) = masquerade {
        let any = AddressPrefix { address: unspecified(Family::IPv4), length: 0 };
        claims.sources(&one.out_interface, &one.sources, any);
    }
    if let Some(one) = source_nat {
        let any = AddressPrefix { address: unspecified(Family::of(one.address)), length: 0 };
        claims.sources(&one.out_interface, &one.sources, any);
    }
    if let Some(one) = static_nat {
        claims.exchange(*one);
    }
    claims.claims
}

struct Takes<'a> {
    director: &'a Arc<str>,
    /// Where namespaces are trust domains.
    namespace: Option<&'a Arc<str>>,
    claims: Vec<Claim>,
}

impl Takes<'_> {
    fn take(&mut self, what: What, address: IpAddr, tag: Option<&str>) {
        let (director, addresses) = (Arc::clone(self.director), AddressOrRange::single(address));
        self.claims.push(Claim { director, what, addresses, tag: tag.map(Into::into) });
    }

    fn of_namespace(&mut self, address: IpAddr) {
        if let Some(namespace) = self.namespace.cloned() {
            self.take(What::Namespace, address, Some(&namespace));
        }
    }

    /// Two forwards of one port meet when both could take the same packet: neither their addresses nor their interfaces tell
    /// them apart. Each has its own place; at the places that include its own it stands with the others that are narrower than
    /// that.
    fn forward(&mut self, forward: &PortForward) {
        let (protocol, port) = (forward.protocol, forward.port);
        let any = unspecified(Family::of(forward.to));
        let at = |interface: Option<&String>| What::Forward {
            protocol,
            port,
            interface: interface.map(|name| name.as_str().into()),
        };
        match (forward.address, &forward.in_interface) {
            (Some(address), Some(interface)) => {
                self.take(at(Some(interface)), address, None);
                self.take(at(None), address, Some("narrower"));
                self.take(at(Some(interface)), any, Some("narrower"));
            }
            (Some(address), None) => {
                self.take(at(None), address, None);
                self.take(at(None), any, Some("by address"));
            }
            (None, Some(interface)) => {
                self.take(at(Some(interface)), any, None);
                self.take(at(None), any, Some("by interface"));
            }
            // The schema allows no such one.
            (None, None) => self.take(at(None), any, None),
        }
        // VirtualServices come first, those on all ports included.
        for port in [port, 0] {
            self.take(What::Served { protocol, port }, forward.address.unwrap_or(any), Some("nat"));
        }
        if let Some(address) = forward.address {
            self.take(What::Outside, address, Some("by port"));
            self.of_namespace(address);
        }
    }

    /// Of one that includes another the narrower goes first, so that only equal ones meet.
    fn sources(&mut self, interface: &str, sources: &[AddressPrefix], any: AddressPrefix) {
        let all = if sources.is_empty() { std::slice::from_ref(&any) } else { sources };
        for source in all.iter().map(AddressPrefix::network) {
            let what = What::Source { interface: interface.into(), length: source.length };
            self.take(what, source.address, None);
        }
    }

    fn exchange(&mut self, one: StaticNat) {
        self.take(What::Outside, one.outside, None);
        self.take(What::Inside, one.inside, None);
        self.take(What::ServedAddress, one.outside, Some("nat"));
        self.of_namespace(one.outside);
    }
}

/// What NatRules have to leave to a VirtualService that has this.
pub(crate) fn reserved(claim: &Claim) -> Vec<Claim> {
    let as_ = |what, addresses| Claim { what, addresses, ..claim.clone() };
    match claim.what {
        What::Port { protocol, port } => {
            let any = AddressOrRange::single(unspecified(claim.addresses.family()));
            vec![
                as_(What::Served { protocol, port }, claim.addresses),
                as_(What::Served { protocol, port }, any),
                as_(What::ServedAddress, claim.addresses),
            ]
        }
        What::Namespace => vec![claim.clone()],
        _ => Vec::new(),
    }
}

/// Where in a NatRule stands what somebody else has, and what to do about it.
pub(crate) fn field_of(spec: &NatRuleSpec, claim: &Claim) -> String {
    let Translation { port_forward, masquerade, source_nat, static_nat: _ } = &spec.translation;
    let source = |of: &str, sources: &[AddressPrefix], length: u8| {
        let same =
            |one: &AddressPrefix| one.network().address == claim.addresses.first && one.length == length;
        sources
            .iter()
            .position(same)
            .map_or_else(|| format!("spec.{of}.outInterface"), |i| format!("spec.{of}.sources[{i}]"))
    };
    match claim.what {
        What::Source { length, .. } => match (masquerade, source_nat) {
            (Some(one), _) => source("masquerade", &one.sources, length),
            (None, Some(one)) => source("sourceNat", &one.sources, length),
            (None, None) => "spec".to_owned(),
        },
        What::Inside => "spec.staticNat.inside".to_owned(),
        _ if port_forward.as_ref().is_some_and(|one| one.address == Some(claim.addresses.first)) => {
            "spec.portForward.address".to_owned()
        }
        _ if port_forward.is_some() => "spec.portForward.port".to_owned(),
        _ => "spec.staticNat.outside".to_owned(),
    }
}
