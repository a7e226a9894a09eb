//! Which recorded frames are the same one, where it was sent and where it arrived; and which never arrived.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::known::{End, Known};
use super::note::Note;
use super::packet::Frame;
use super::{Book, Packet};
use crate::programs::pcapng::Direction;

/// After this, in nanoseconds, a frame does not arrive any more: no delay that the lab makes is longer.
const PATIENCE: u64 = 5_000_000_000;
/// So many like one another may be under way at once; more are not told apart.
const MAX_LIKE: usize = 64;
/// So many ends are named of those where one did not arrive.
const NAMED: usize = 4;

/// What became of each frame.
pub(super) struct Paths {
    /// Of a frame that arrived: the one that was sent.
    pub(super) copy_of: Vec<Option<usize>>,
    /// Of a frame that was sent: the ends where it arrived.
    arrived: HashMap<usize, Vec<u32>>,
}

struct UnderWay {
    index: usize,
    at: u64,
}

/// Follows each frame from where it was sent to where it arrived. Of several that are the same byte by byte the one is taken whose delay
/// is most like that of the last frame of which there was no other.
pub(super) fn follow(packets: &[Packet], known: &Known) -> Paths {
    let mut paths = Paths { copy_of: vec![None; packets.len()], arrived: HashMap::new() };
    let mut under_way: HashMap<(Option<&str>, u64), VecDeque<UnderWay>> = HashMap::new();
    let mut delays: HashMap<u32, u64> = HashMap::new();
    for (index, packet) in packets.iter().enumerate() {
        let network = known.ends.get(packet.interface as usize).and_then(|end| end.network.as_deref());
        let mut hasher = DefaultHasher::new();
        packet.data.hash(&mut hasher);
        let like = under_way.entry((network, hasher.finish())).or_default();
        while like.front().is_some_and(|sent| packet.time_ns.saturating_sub(sent.at) > PATIENCE) {
            like.pop_front();
        }
        match packet.direction {
            Direction::Outbound => {
                if like.len() >= MAX_LIKE {
                    like.pop_front();
                }
                like.push_back(UnderWay { index, at: packet.time_ns });
                paths.arrived.insert(index, Vec::new());
            }
            Direction::Inbound => {
                let end = packet.interface;
                let usual = delays.get(&end).copied().unwrap_or(0);
                let open = |sent: &&UnderWay| {
                    paths.arrived.get(&sent.index).is_some_and(|ends| !ends.contains(&end))
                };
                let delay = |sent: &UnderWay| packet.time_ns.saturating_sub(sent.at);
                let best =
                    like.iter().filter(open).min_by_key(|sent| (delay(sent).abs_diff(usual), sent.index));
                if let Some(best) = best {
                    if like.len() == 1 {
                        delays.insert(end, delay(best));
                    }
                    paths.copy_of[index] = Some(best.index);
                    paths.arrived.entry(best.index).or_default().push(end);
                }
            }
            Direction::Unknown => {}
        }
    }
    paths
}

impl Paths {
    /// Comments on what never arrived.
    pub(super) fn lost(&self, packets: &[Packet], known: &Known, book: &mut Book) {
        let macs = macs(packets, known);
        for (index, packet) in packets.iter().enumerate() {
            let (Some(arrived), Some(frame)) = (self.arrived.get(&index), Frame::read(&packet.data)) else {
                continue;
            };
            let Some(here) = known.ends.get(packet.interface as usize) else { continue };
            if here.network.is_none() {
                continue;
            }
            let there = |(at, end): &(usize, &End)| {
                *at != packet.interface as usize
                    && end.network == here.network
                    && is_certain(end, packet.time_ns)
                    && (!frame.is_unicast() || macs.get(&frame.to).is_some_and(|of| of == at))
            };
            let missing: Vec<String> = known
                .ends
                .iter()
                .enumerate()
                .filter(there)
                .filter(|(at, _)| !arrived.iter().any(|other| *other as usize == *at))
                .map(|(_, end)| end.node.clone().unwrap_or_else(|| end.name.clone()))
                .collect();
            if !missing.is_empty() {
                let more = missing.len().saturating_sub(NAMED);
                let at = missing.into_iter().take(NAMED).collect();
                book.put(index, Note::Lost { at, more });
            }
        }
    }
}

/// Whether a frame that was sent then would have been recorded at that end, had it arrived.
fn is_certain(end: &End, sent: u64) -> bool {
    // What was lost to the capture may have been this one; and what is sent just before the end may still be under way.
    end.dropped == 0
        && end
            .recorded
            .iter()
            .any(|(from, until)| *from <= sent && sent.saturating_add(PATIENCE / 5) <= *until)
}

/// At which end each hardware address is.
fn macs(packets: &[Packet], known: &Known) -> HashMap<[u8; 6], usize> {
    let mut macs = HashMap::new();
    for packet in packets.iter().filter(|packet| packet.direction == Direction::Outbound) {
        if let Some(from) = packet.data.get(6..12).and_then(|from| <[u8; 6]>::try_from(from).ok())
            && !from.starts_with(&[0, 0, 0x5e, 0])
            && (packet.interface as usize) < known.ends.len()
        {
            macs.entry(from).or_insert(packet.interface as usize);
        }
    }
    macs
}
