//! The order in which a flushed table is put back.
//!
//! A real server that is removed lies in the kernel's trash for one to two minutes (`dest_trash` in
//! net/netfilter/ipvs/ip_vs_ctl.c): each removal puts one at its head, and each addition walks through it from there to find the
//! one that comes back, which leaves it then (`ip_vs_trash_get_dest`). A flush goes through the table in the order in which a list
//! of it comes. So whoever adds in the reverse of that order finds each at the head; in any other order the walks together are
//! quadratic: minutes, for tens of thousands of real servers. A wrong order costs this time and nothing else.

use std::{cmp::Reverse, collections::HashMap};

use bascule_ipvs::{Command, DestinationEntry, ServiceId};

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
    services.sort_by_key(|(id, _)| Reverse(rank(id)));
    for (id, added) in &mut services {
        let listed = listed(id).unwrap_or_default().iter().map(|entry| entry.destination.id);
        let positions: HashMap<_, _> = listed.zip(0_usize..).collect();
        // The service itself stays the first.
        added[1..].sort_by_key(|command| match command {
            Command::NewDestination(_, new) => Reverse(positions.get(&new.id).copied()),
            _ => Reverse(None),
        });
    }
    before.into_iter().chain(services.into_iter().flat_map(|(_, added)| added)).chain(after).collect()
}
