//! Capture files of any origin: pcap and pcapng of either byte order, Ethernet and what `tcpdump -i any` writes (Linux cooked). Read
//! whole, written as pcapng with comments.

use std::io::{self, Write};

use super::Known;
use crate::programs::pcapng::{Direction, Packet, Writer};

/// A larger file is not read, in bytes.
pub(crate) const MAX_BYTES: u64 = 2 << 30;
/// A block or frame is never larger, in bytes.
const MAX_BLOCK: usize = 16 << 20;
/// More links than this are in no capture.
const MAX_LINKS: usize = 65_536;

pub(crate) const ETHERNET: u16 = 1;
const COOKED: u16 = 113;
const COOKED_2: u16 = 276;

/// A link of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// LINKTYPE of pcap's registry.
    pub(crate) kind: u16,
    pub(crate) snap_length: u32,
    /// From when until when it was recorded, where the file says so; more than once where its node booted.
    pub(crate) recorded: Vec<(u64, u64)>,
    pub(crate) dropped: u64,
    /// Units of a second in its times.
    pub(crate) units: u64,
}

/// What is in a file. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capture {
    pub(crate) links: Vec<Link>,
    /// In the order of time.
    pub(crate) packets: Vec<Packet>,
}

fn bad(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Integers in the byte order of a file.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let value = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(value) } else { u16::from_le_bytes(value) })
    }

    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let value = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(value) } else { u32::from_le_bytes(value) })
    }

    fn time(self, bytes: &[u8], at: usize) -> Option<u64> {
        Some(u64::from(self.u32(bytes, at)?) << 32 | u64::from(self.u32(bytes, at + 4)?))
    }

    fn size(self, bytes: &[u8], at: usize) -> Option<usize> {
        self.u32(bytes, at).and_then(|value| usize::try_from(value).ok())
    }

    /// The options of a block: code and value.
    fn options(self, mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        std::iter::from_fn(move || {
            let (code, length) = (self.u16(rest, 0)?, usize::from(self.u16(rest, 2)?));
            let value = rest.get(4..4 + length)?;
            rest = rest.get(4 + length.next_multiple_of(4)..).unwrap_or(&[]);
            (code != 0).then_some((code, value))
        })
    }
}

/// Reads a capture. What is cut off at its end is left out.
///
/// # Errors
/// When it is neither pcap nor pcapng, or damaged.
pub(crate) fn read(bytes: &[u8]) -> io::Result<Capture> {
    let mut capture = match bytes.get(..4) {
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => pcapng(bytes)?,
        Some([0xd4, 0xc3, 0xb2, 0xa1]) => pcap(bytes, Order { big: false }, 1_000_000)?,
        Some([0x4d, 0x3c, 0xb2, 0xa1]) => pcap(bytes, Order { big: false }, 1_000_000_000)?,
        Some([0xa1, 0xb2, 0xc3, 0xd4]) => pcap(bytes, Order { big: true }, 1_000_000)?,
        Some([0xa1, 0xb2, 0x3c, 0x4d]) => pcap(bytes, Order { big: true }, 1_000_000_000)?,
        _ => return Err(bad("this is neither a pcap nor a pcapng file")),
    };
    sort(&mut capture.packets);
    Ok(capture)
}

/// Puts frames in the order of time; of two at one time the one that was sent comes first.
pub(crate) fn sort(packets: &mut [Packet]) {
    packets.sort_by_key(|packet| (packet.time_ns, packet.direction == Direction::Inbound));
}

fn nanoseconds(time: u64, units: u64) -> u64 {
    let nanoseconds = u128::from(time) * 1_000_000_000 / u128::from(units.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

fn pcap(bytes: &[u8], order: Order, units: u64) -> io::Result<Capture> {
    let header = || Some((order.u32(bytes, 16)?, order.u32(bytes, 20)?));
    let (snap_length, kind) = header().ok_or_else(|| bad("the file ends in its header"))?;
    // The upper bits tell of check sequences.
    let kind = u16::try_from(kind & 0xffff).unwrap_or(0);
    let mut capture =
        Capture { links: vec![Link { kind, snap_length, units, ..Link::default() }], packets: Vec::new() };
    let mut at = 24;
    while let (Some(seconds), Some(part), Some(size), Some(length)) =
        (order.u32(bytes, at), order.u32(bytes, at + 4), order.size(bytes, at + 8), order.u32(bytes, at + 12))
    {
        if size > MAX_BLOCK {
            return Err(bad(format!("the frame at byte {at} is said to have {size} bytes")));
        }
        let Some(data) = bytes.get(at + 16..at + 16 + size) else { break };
        capture.packets.push(Packet {
            interface: 0,
            time_ns: nanoseconds(u64::from(seconds) * units + u64::from(part), units),
            original_length: length,
            direction: Direction::Unknown,
            data: data.to_vec(),
            comment: None,
        });
        at += 16 + size;
    }
    Ok(capture)
}

fn pcapng(bytes: &[u8]) -> io::Result<Capture> {
    let mut capture = Capture::default();
    let mut order = Order { big: false };
    // The links of a later section are numbered from 0 again.
    let (mut at, mut first) = (0, 0);
    while let Some(head) = bytes.get(at..at + 12) {
        if head.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            order = match head[8..12] {
                [0x1a, 0x2b, 0x3c, 0x4d] => Order { big: true },
                [0x4d, 0x3c, 0x2b, 0x1a] => Order { big: false },
                _ => return Err(bad(format!("the section at byte {at} has no byte order"))),
            };
            first = capture.links.len();
        }
        let size = order.size(head, 4).unwrap_or(0);
        if !(12..=MAX_BLOCK).contains(&size) || !size.is_multiple_of(4) {
            return Err(bad(format!("the block at byte {at} is said to have {size} bytes")));
        }
        let Some(body) = bytes.get(at + 8..at + size - 4) else { break };
        block(order, order.u32(head, 0).unwrap_or(0), body, first, &mut capture)
            .ok_or_else(|| bad(format!("the block at byte {at} is damaged")))?;
        if capture.links.len() > MAX_LINKS {
            return Err(bad(format!("it has more than {MAX_LINKS} links")));
        }
        at += size;
    }
    Ok(capture)
}

fn block(order: Order, kind: u32, body: &[u8], first: usize, capture: &mut Capture) -> Option<()> {
    match kind {
        1 => {
            let mut link = Link {
                kind: order.u16(body, 0)?,
                snap_length: order.u32(body, 4)?,
                units: 1_000_000,
                ..Link::default()
            };
            for (code, value) in order.options(&body[8..]) {
                match (code, value) {
                    (2, name) => link.name = String::from_utf8_lossy(name).into_owned(),
                    (9, [power, ..]) if power & 0x80 == 0 => {
                        link.units = 10u64.checked_pow(u32::from(*power))?
                    }
                    (9, [power, ..]) => link.units = 2u64.checked_pow(u32::from(power & 0x7f))?,
                    _ => {}
                }
            }
            capture.links.push(link);
        }
        // The older packet block has two bytes for the link, and a count of drops.
        2 | 6 => {
            let number = if kind == 6 { order.size(body, 0)? } else { usize::from(order.u16(body, 0)?) };
            let interface = first + number;
            let units = capture.links.get(interface)?.units;
            let size = order.size(body, 12)?;
            let data = body.get(20..20 + size)?.to_vec();
            let (mut direction, mut comment) = (Direction::Unknown, None::<String>);
            for (code, value) in order.options(body.get(20 + size.next_multiple_of(4)..).unwrap_or(&[])) {
                match code {
                    1 => {
                        let text = String::from_utf8_lossy(value);
                        comment = Some(
                            comment.map_or_else(|| text.to_string(), |comment| format!("{comment}\n{text}")),
                        );
                    }
                    2 => {
                        direction = match order.u32(value, 0)? & 3 {
                            1 => Direction::Inbound,
                            2 => Direction::Outbound,
                            _ => Direction::Unknown,
                        }
                    }
                    _ => {}
                }
            }
            capture.packets.push(Packet {
                interface: u32::try_from(interface).ok()?,
                time_ns: nanoseconds(order.time(body, 4)?, units),
                original_length: order.u32(body, 16)?,
                direction,
                data,
                comment,
            });
        }
        5 => {
            let link = capture.links.get_mut(first + order.size(body, 0)?)?;
            let (mut from, mut until) = (None, None);
            for (code, value) in order.options(&body[12..]) {
                match code {
                    2 => from = order.time(value, 0),
                    3 => until = order.time(value, 0),
                    // A counter, in the order of the file as a whole.
                    5 => link.dropped = counter(order, value)?,
                    _ => {}
                }
            }
            let units = link.units;
            let times = from.zip(until);
            link.recorded
                .extend(times.map(|(from, until)| (nanoseconds(from, units), nanoseconds(until, units))));
        }
        _ => {}
    }
    Some(())
}

fn counter(order: Order, value: &[u8]) -> Option<u64> {
    let value = value.get(..8)?.try_into().ok()?;
    Some(if order.big { u64::from_be_bytes(value) } else { u64::from_le_bytes(value) })
}

/// The frames as Ethernet has them, for those who look at them: a cooked frame gets the addresses that it knows.
pub(crate) fn as_ethernet(capture: &Capture) -> Vec<Packet> {
    let cooked = |packet: &Packet| {
        let kind = capture.links.get(packet.interface as usize)?.kind;
        let data = &packet.data;
        // Who it was for, the sender's address, the protocol, and where the payload begins.
        let (to, from, protocol, rest) = match kind {
            COOKED => (*data.get(1)?, data.get(6..12)?, data.get(14..16)?, data.get(16..)?),
            COOKED_2 => (*data.get(10)?, data.get(12..18)?, data.get(0..2)?, data.get(20..)?),
            _ => return None,
        };
        let direction = if to == 4 { Direction::Outbound } else { Direction::Inbound };
        let mut frame = if to == 1 || to == 2 { vec![0xff; 6] } else { vec![0; 6] };
        frame.extend(from);
        frame.extend(protocol);
        frame.extend(rest);
        Some(Packet { direction, data: frame, ..packet.clone() })
    };
    capture.packets.iter().map(|packet| cooked(packet).unwrap_or_else(|| packet.clone())).collect()
}

/// Tells what a capture says of its own links.
pub(crate) fn tell(capture: &Capture, known: &mut Known) {
    for link in &capture.links {
        let end = known.end(&link.name);
        end.recorded.clone_from(&link.recorded);
        end.dropped = link.dropped;
    }
}

/// Writes a capture with names for its addresses, and comments.
pub(crate) fn write(
    out: impl Write,
    about: &str,
    capture: &Capture,
    known: &Known,
    comment: impl Fn(usize) -> Option<String>,
) -> io::Result<()> {
    let mut writer = Writer::new(out, Some(about))?;
    writer.names(&known.names)?;
    for link in &capture.links {
        writer.link(&link.name, link.snap_length, link.kind)?;
    }
    for (index, packet) in capture.packets.iter().enumerate() {
        let texts: Vec<String> = packet.comment.iter().cloned().chain(comment(index)).collect();
        let text = texts.join("\n");
        writer.commented(packet, (!text.is_empty()).then_some(text.as_str()))?;
    }
    for (index, link) in capture.links.iter().enumerate() {
        let index = u32::try_from(index).map_err(io::Error::other)?;
        let seen = capture.packets.iter().filter(|packet| packet.interface == index).count() as u64;
        let last = capture.packets.last().map_or(0, |packet| packet.time_ns);
        for span in &link.recorded {
            writer.totals(index, span.1, Some(*span), seen + link.dropped, link.dropped)?;
        }
        if link.recorded.is_empty() && link.dropped > 0 {
            writer.totals(index, last, None, seen + link.dropped, link.dropped)?;
        }
    }
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
