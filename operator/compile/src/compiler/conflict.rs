//! What those are told who did not get what they want.

use bascule_crds::VirtualServiceSpec;

use super::Trust;
use crate::claims::{Claim, What};
use crate::types::{BindingKey, Problem, Reason};

/// What is to be said of a VirtualService that did not get what it wants, the first such claim of it, and who has that. A key
/// without namespace is a VrrpGroup's.
pub(super) fn conflict(
    trust: Trust,
    spec: &VirtualServiceSpec,
    claim: &Claim,
    winner: &BindingKey,
) -> Problem {
    let at = |field: &str, list: &[bascule_crds::common::AddressOrRange]| {
        list.iter().position(|a| *a == claim.addresses).map(|i| format!("{field}[{i}]"))
    };
    let field = match &claim.what {
        What::Mark(_) => "spec.fwmark.mark".to_owned(),
        What::Interface => "spec.director.interface".to_owned(),
        _ => at("spec.addresses", &spec.addresses)
            .or_else(|| {
                let marked = spec.fwmark.as_ref().and_then(|f| f.match_.as_ref());
                marked.and_then(|m| at("spec.fwmark.match.addresses", &m.addresses))
            })
            .unwrap_or_else(|| "spec".to_owned()),
    };
    let why = trust.why_first();
    let (addresses, director) = (claim.addresses, &claim.director);
    let message = match &claim.what {
        _ if winner.namespace.is_empty() => format!(
            "VrrpGroup {} has {addresses}, or some of it, on director {director}, and alone puts it on an interface; set vrrpGroup \
             instead of director, leave the interface out, or take another address",
            winner.name
        ),
        What::Mark(_) => {
            format!(
                "{claim} is taken by VirtualService {winner} ({why}); take another mark, or remove one of them"
            )
        }
        What::Interface => format!(
            "VirtualService {winner} has {addresses} on another interface of director {director} ({why}); name the same one"
        ),
        What::Namespace => format!(
            "{addresses} on director {director} belongs to the namespace of VirtualService {winner} ({why}); take another address"
        ),
        _ => {
            format!(
                "{claim} is taken by VirtualService {winner} ({why}); take another address or port, or remove one of them"
            )
        }
    };
    Problem { reason: Reason::Conflicted, field, message }
}

/// What is to be said of a NatRule that did not get what it wants, the first such claim of it, and who has that: a VirtualService
/// or another NatRule.
pub(super) fn nat_conflict(trust: Trust, claim: &Claim, winner: &BindingKey) -> String {
    let why = trust.why_first();
    let (addresses, director) = (claim.addresses, &claim.director);
    match &claim.what {
        What::Served { protocol, port: 0 } if addresses.first.is_unspecified() => format!(
            "VirtualService {winner} takes {protocol} on every port of an address of director {director}, and comes first; set \
             address, to one that is not its own"
        ),
        What::Served { protocol, port } if addresses.first.is_unspecified() => format!(
            "VirtualService {winner} takes {protocol} port {port} of an address of director {director}, and comes first; set \
             address, to one that is not its own, or take another port"
        ),
        What::Served { protocol, port: 0 } => format!(
            "VirtualService {winner} takes {protocol} on every port of {addresses} on director {director}, and comes first; take \
             another address, or remove one of them"
        ),
        What::Served { .. } | What::ServedAddress => format!(
            "{claim} is taken by VirtualService {winner}, which comes first; take another address or port, or remove one of them"
        ),
        What::Namespace => format!(
            "{addresses} on director {director} belongs to the namespace {}, which came first; take another address",
            winner.namespace
        ),
        _ => format!("{claim} is taken by NatRule {winner} ({why}); take another one, or remove one of them"),
    }
}
