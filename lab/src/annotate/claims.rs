//! Who says that it has an address: gratuitous ARP, unsolicited neighbour advertisements.

use std::collections::HashMap;
use std::net::IpAddr;

use super::note::Note;
use super::{Book, Look};

/// Who had said so last, of each address on each network.
#[derive(Default)]
pub(super) struct Watch {
    last: HashMap<(Option<String>, IpAddr), Claim>,
}

struct Claim {
    by: String,
    unasked: u32,
}

impl Watch {
    pub(super) fn look(&mut self, look: &Look<'_>, book: &mut Book) {
        let Some((address, unasked)) = look.frame.claim() else { return };
        if look.copy || is_link_local(address) {
            return;
        }
        let network = look.known.ends.get(look.end()).and_then(|end| end.network.clone());
        let by = look.sender();
        let last = self.last.get(&(network.clone(), address));
        let same = last.filter(|claim| claim.by == by);
        let times = same.map_or(0, |claim| claim.unasked) + u32::from(unasked);
        if unasked {
            let before = last.filter(|claim| claim.by != by).map(|claim| claim.by.clone());
            let six = address.is_ipv6();
            book.put(
                look.sent,
                Note::Claims { who: by.clone(), address: address.to_string(), before, times, six },
            );
        }
        self.last.insert((network, address), Claim { by, unasked: times });
    }
}

/// What every interface has of itself.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
