//! What whoever listens is told: changes of real servers and of quorums, of services that live where a group is active.

use std::collections::BTreeMap;

use bascule_checks_core::pool::{Judgement, Standing};
use bascule_compile::BindingKey;

use super::service::Service;
use super::view;
use crate::notify::{Change, Changed};

/// What a result, which said `reason`, has changed about the real servers of a service.
pub(super) fn servers(
    key: &BindingKey,
    service: &Service,
    after: &Judgement,
    reason: &str,
) -> impl Iterator<Item = Change> {
    let group = service.spec.vrrp_group.as_ref();
    let pairs = service.judgement.servers.iter().zip(&after.servers);
    group.into_iter().flat_map(move |group| {
        service.spec.real_servers.iter().zip(pairs.clone()).filter_map(move |(server, (before, after))| {
            let (was, is) = (view::weight(before), view::weight(after));
            (before.state != after.state || was != is).then(|| Change {
                group: group.clone(),
                service: key.to_string(),
                what: Changed::RealServer {
                    real_server: server.name.clone(),
                    address: server.address,
                    from: view::word(before.state),
                    to: view::word(after.state),
                    weight: is,
                    reason: reason.to_owned(),
                },
            })
        })
    })
}

/// The quorums that were gained or lost.
pub(super) fn quorums(
    services: &BTreeMap<BindingKey, Service>,
    quorums: &[(BindingKey, Standing)],
) -> impl Iterator<Item = Change> {
    quorums.iter().filter_map(move |(key, standing)| {
        let service = services.get(key)?;
        Some(Change {
            group: service.spec.vrrp_group.clone()?,
            service: key.to_string(),
            what: Changed::Quorum {
                quorum: match standing {
                    Standing::Met => "Met",
                    Standing::Lost => "Lost",
                },
                alive: service.judgement.alive,
                needed: view::quorum(service),
            },
        })
    })
}
