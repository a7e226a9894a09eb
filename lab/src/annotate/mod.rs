//! What there is to say of recorded frames: frames and what is known of the network go in, comments come out. Nothing here touches the
//! system.
//!
//! A frame is recorded where it is sent and wherever it arrives. [`paths`] tells which are the same; the comment is at the one that was
//! sent. [`vrrp`], [`claims`], [`sync`], [`flows`] and [`checks`] each look at every frame once, in the order of time.

mod checks;
mod claims;
pub(crate) mod file;
mod flows;
mod known;
mod note;
mod packet;
mod paths;
mod summary;
mod sync;
#[cfg(test)]
pub(crate) mod tests;
mod vrrp;

pub(crate) use known::Known;
pub(crate) use note::Language;
pub(crate) use note::Note;
pub(crate) use summary::summary;

use std::collections::BTreeMap;

use crate::programs::pcapng::{Direction, Packet};
use packet::Frame;

/// More comments than this are not made of one kind: they would say the same.
const MAX_OF_A_KIND: usize = 50_000;

/// What was found out.
pub(crate) struct Annotated {
    /// The comments of each frame.
    pub(crate) notes: Vec<Vec<Note>>,
    /// Of a frame that arrived: the one that was sent.
    pub(crate) copy_of: Vec<Option<usize>>,
}

impl Annotated {
    /// The comments of a frame as one text; none if there is nothing to say.
    pub(crate) fn text(&self, frame: usize, language: Language) -> Option<String> {
        let notes = self.notes.get(frame).filter(|notes| !notes.is_empty())?;
        Some(notes.iter().map(|note| note.text(language)).collect::<Vec<_>>().join("\n"))
    }
}

/// The comments, each at its frame.
struct Book {
    notes: Vec<Vec<Note>>,
    counts: BTreeMap<&'static str, usize>,
}

impl Book {
    fn put(&mut self, frame: usize, note: Note) {
        let count = self.counts.entry(note.kind()).or_default();
        *count += 1;
        if *count <= MAX_OF_A_KIND
            && let Some(notes) = self.notes.get_mut(frame)
        {
            // That it did not arrive is more than anything it says.
            let place = if note.kind() == "lost" { 0 } else { notes.len() };
            notes.insert(place, note);
        }
    }
}

/// One frame, as those who look at it are shown it.
struct Look<'a> {
    /// Its number, from 0.
    index: usize,
    /// That of the frame as it was sent: its own where that was not recorded.
    sent: usize,
    /// Whether it is the copy of one that was sent.
    copy: bool,
    packet: &'a Packet,
    frame: Frame<'a>,
    known: &'a Known,
}

impl Look<'_> {
    fn at(&self) -> u64 {
        self.packet.time_ns
    }

    /// The end of a link where it was recorded.
    fn end(&self) -> usize {
        self.packet.interface as usize
    }

    /// The node where it was recorded.
    fn node(&self) -> Option<&str> {
        self.known.ends.get(self.end()).and_then(|end| end.node.as_deref())
    }

    fn is_outbound(&self) -> bool {
        self.packet.direction == Direction::Outbound
    }

    fn is_inbound(&self) -> bool {
        self.packet.direction == Direction::Inbound
    }

    /// Who sent it: the node where it was recorded going out, else whom its hardware address belongs to.
    fn sender(&self) -> String {
        let node = self.node().filter(|_| self.is_outbound()).map(str::to_owned);
        node.or_else(|| self.known.owner(self.frame.from))
            .or_else(|| self.frame.ip().map(|ip| self.known.host(ip.source)))
            .or_else(|| self.frame.claim().map(|(address, _)| self.known.host(address)))
            .unwrap_or_else(|| mac(self.frame.from))
    }

    /// How another frame is referred to.
    fn reference(&self, index: usize, end: usize) -> String {
        match self.known.ends.get(end) {
            Some(end) if !end.name.is_empty() => format!("#{}, {}", index + 1, end.name),
            _ => format!("#{}", index + 1),
        }
    }
}

/// Looks at frames in the order of time. A frame's `interface` is its place in [`Known::ends`].
pub(crate) fn annotate(packets: &[Packet], known: &mut Known) -> Annotated {
    known.learn(packets);
    let known = &*known;
    let paths = paths::follow(packets, known);
    let mut book = Book { notes: vec![Vec::new(); packets.len()], counts: BTreeMap::new() };
    let mut vrrp = vrrp::Watch::default();
    let mut claims = claims::Watch::default();
    let mut flows = flows::Watch::default();
    let mut checks = checks::Watch::default();
    for (index, packet) in packets.iter().enumerate() {
        let Some(frame) = Frame::read(&packet.data) else { continue };
        let copy_of = paths.copy_of.get(index).copied().flatten();
        let (sent, copy) = (copy_of.unwrap_or(index), copy_of.is_some());
        let look = Look { index, sent, copy, packet, frame, known };
        vrrp.look(&look, &mut book);
        claims.look(&look, &mut book);
        sync::look(&look, &mut book);
        let forwarded = flows.look(&look, &mut book);
        checks.look(&look, forwarded, &mut book);
    }
    checks.end(known, &mut book);
    paths.lost(packets, known, &mut book);
    Annotated { notes: book.notes, copy_of: paths.copy_of }
}

/// A hardware address as people write it.
pub(crate) fn mac(mac: [u8; 6]) -> String {
    crate::scenario::value::Mac(mac).to_string()
}
