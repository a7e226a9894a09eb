//! How large one service may become in the kernel. A VirtualService is a product of lists, and each list is short: only the
//! product says what it costs.

use bascule_crds::VirtualServiceSpec;
use bascule_crds::common::{AddressOrRange, Family};
use bascule_crds::virtual_service::{ForwardingMethod, SourceNat};

use crate::problem::Problems;
use crate::service;

/// Services of the kernel that one VirtualService may become, at most: addresses × ports.
pub const MAX_SERVICES: usize = 65_536;
/// Entries of real servers in these services, at most: addresses × ports × real servers.
pub const MAX_PAIRS: usize = 1 << 20;
/// Elements of nftables that one VirtualService may need, at most: those that set its mark, and those that rewrite the source.
pub const MAX_ELEMENTS: usize = 1 << 20;

/// Refuses what is larger than the agent programs, before it takes the place of what runs.
pub(crate) fn check(spec: &VirtualServiceSpec, problems: &mut Problems) {
    // Without quorum there are others in their place.
    let servers = spec.real_servers.len().max(spec.sorry_servers.len());
    let (addresses, ports) = (count(&spec.addresses), spec.ports.len());
    let services = addresses.saturating_mul(ports).saturating_add(usize::from(spec.fwmark.is_some()));
    let pairs = services.saturating_mul(servers);
    if services > MAX_SERVICES {
        problems.invalid(
            "spec.addresses",
            format!(
                "{addresses} addresses × {ports} ports are {services} services of the kernel, more than {MAX_SERVICES}; \
                 split it into several VirtualServices"
            ),
        );
    } else if pairs > MAX_PAIRS {
        problems.invalid(
            "spec.addresses",
            format!(
                "{addresses} addresses × {ports} ports × {servers} real servers are {pairs} entries of the kernel's table, \
                 more than {MAX_PAIRS}; split it into several VirtualServices"
            ),
        );
    }
    check_elements(spec, problems);
}

fn check_elements(spec: &VirtualServiceSpec, problems: &mut Problems) {
    let matched = spec.fwmark.as_ref().and_then(|fwmark| fwmark.match_.as_ref());
    let marks = matched.map_or(0, |matched| count(&matched.addresses).saturating_mul(matched.ports.len()));
    let sources = if service::source_nat(spec) == SourceNat::Never { 0 } else { rewritten(spec) };
    let elements = marks.saturating_add(sources);
    if elements > MAX_ELEMENTS {
        let field = if matched.is_some() { "spec.fwmark.match.addresses" } else { "spec.addresses" };
        problems.invalid(
            field,
            format!(
                "{marks} pairs of an address and a port to mark and {sources} entries for sourceNat are {elements} elements of \
                 nftables, more than {MAX_ELEMENTS}; split it into several VirtualServices"
            ),
        );
    }
}

/// Elements that rewrite the source: one for each address, port and masqueraded real server or sorry server of one family.
fn rewritten(spec: &VirtualServiceSpec) -> usize {
    let of = |family: Family| {
        let addresses: Vec<_> = spec.addresses.iter().copied().filter(|a| a.family() == family).collect();
        let marks = usize::from(spec.fwmark.as_ref().is_some_and(|fwmark| fwmark.family == family));
        let masquerade =
            |address, method| Family::of(address) == family && method == ForwardingMethod::Masquerade;
        let real = spec.real_servers.iter();
        let real = real.filter(|one| masquerade(one.address, service::forwarding(spec, one).method));
        let sorry = spec.sorry_servers.iter();
        let sorry = sorry.filter(|one| masquerade(one.address, service::sorry_forwarding(spec, one).method));
        let places = count(&addresses).saturating_mul(spec.ports.len()).saturating_add(marks);
        places.saturating_mul(real.count() + sorry.count())
    };
    of(Family::IPv4).saturating_add(of(Family::IPv6))
}

/// How many addresses these are. A range that is too long by itself is told elsewhere; here it only has to count as too many.
fn count(addresses: &[AddressOrRange]) -> usize {
    addresses.iter().map(|range| range.addresses().take(MAX_SERVICES + 1).count()).sum()
}
