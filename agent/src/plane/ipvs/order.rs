//! The order in which a flushed table is put back.
//!
//! A real server that is removed lies in the kernel's trash for one to two minutes (`dest_trash` in
//! net/netfilter/ipvs/ip_vs_ctl.c): each removal puts one at its head, and each addition walks through it from there to find the
//! one that comes back, which leaves it then (`ip_vs_trash_get_dest`). A flush goes through the table in the order in which a list
//! of it comes. So whoever adds in the reverse of that order finds each at the head; in any other order the walks together are
//! quadratic: minutes, for tens of thousands of real servers. A wrong order costs this time and nothing else.

use std::{cmp::Reverse, collections::HashMap};

use bascule_ipvs::{Command, DestinationEntry, ServiceId};

/// Services with more real servers than this get an index of them.
const FEW: usize = 16;

/// Puts the commands of a plan that add services, each with its real servers, into the reverse of the order of removal: services by
/// falling rank, and of one service the real servers that the kernel `listed`, last one first. What is not known keeps its order and
/// comes after what is. All other commands keep theirs, before or after these.
pub(super) fn reverse_of_removal<'a>(
    commands: Vec<Command>,
    rank: impl Fn(&ServiceId) -> Option<u32>,
    listed: impl Fn(&ServiceId) -> Option<&'a [DestinationEntry]>,
) -> Vec<Command> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut services: Vec<(ServiceId, Vec<Command>)> = Vec::new();
    for command in commands {
        match (&command, services.last_mut()) {
            (Command::NewService(service), _) => services.push((service.id, vec![command])),
            (Command::NewDestination(id, _), Some((service, added))) if id == service => added.push(command),
            (_, None) => before.push(command),
            (_, Some(_)) => after.push(command),
        }
    }
    services.sort_by_cached_key(|(id, _)| Reverse(rank(id)));
    for (id, added) in &mut services {
        let listed = listed(id).unwrap_or_default();
        let ids = listed.iter().map(|entry| entry.destination.id);
        let index: HashMap<_, _> =
            if listed.len() > FEW { ids.clone().zip(0..).collect() } else { HashMap::new() };
        // The service itself stays the first.
        added[1..].sort_by_cached_key(|command| {
            let Command::NewDestination(_, new) = command else { return Reverse(None) };
            Reverse(if listed.len() > FEW {
                index.get(&new.id).copied()
            } else {
                ids.clone().position(|id| id == new.id)
            })
        });
    }
    before.into_iter().chain(services.into_iter().flat_map(|(_, added)| added)).chain(after).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bascule_ipvs::{Destination, Forwarding, Protocol, Service, Stats64, Timeouts};

    use super::*;

    fn service(number: u8) -> ServiceId {
        let address = Ipv4Addr::new(10, 0, 0, number).into();
        ServiceId::Address { protocol: Protocol::Tcp, address, port: 80 }
    }

    fn server(number: u8) -> Destination {
        Destination::new(Ipv4Addr::new(10, 1, 0, number).into(), 80, Forwarding::Masquerade)
    }

    fn listed(numbers: &[u8]) -> Vec<DestinationEntry> {
        let entry = |number: &u8| DestinationEntry {
            destination: server(*number),
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats64::default(),
        };
        numbers.iter().map(entry).collect()
    }

    fn added(id: u8, servers: &[u8]) -> Vec<Command> {
        let new = Command::NewService(Service::new(service(id), "rr"));
        let servers = servers.iter().map(|number| Command::NewDestination(service(id), server(*number)));
        std::iter::once(new).chain(servers).collect()
    }

    #[test]
    fn the_last_removed_comes_first_and_the_unknown_last() {
        let timeouts = vec![Command::SetConfig(Timeouts::default())];
        let other = vec![Command::NewDestination(service(9), server(1)), Command::DelService(service(8))];
        let commands =
            [timeouts.clone(), added(1, &[1, 2, 3]), added(2, &[1]), added(3, &[1, 2]), other.clone()]
                .concat();
        let known = listed(&[2, 3]);
        let ordered = reverse_of_removal(
            commands,
            |id| {
                [(service(1), 4), (service(3), 7)]
                    .iter()
                    .find(|(known, _)| known == id)
                    .map(|(_, rank)| *rank)
            },
            |id| (*id == service(1)).then_some(known.as_slice()),
        );
        assert_eq!(
            ordered,
            [timeouts, added(3, &[1, 2]), added(1, &[3, 2, 1]), added(2, &[1]), other].concat()
        );
    }

    #[test]
    fn many_real_servers_are_reversed_as_few_are() {
        let numbers: Vec<u8> = (0..200).collect();
        let reversed: Vec<u8> = numbers.iter().rev().copied().collect();
        let known = listed(&numbers);
        let ordered = reverse_of_removal(added(1, &numbers), |_| None, |_| Some(&known));
        assert_eq!(ordered, added(1, &reversed));
    }
}
