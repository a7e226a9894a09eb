//! A small writer and reader of pcapng (draft-ietf-opsawg-pcapng): sections, interfaces with names, packets with
//! comments, statistics. Times are nanoseconds of `CLOCK_REALTIME`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const NAME_RESOLUTION: u32 = 4;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1A2B_3C4D;
const LINKTYPE_ETHERNET: u16 = 1;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const OPT_IF_NAME: u16 = 2;
const OPT_IF_TSRESOL: u16 = 9;
const OPT_EPB_FLAGS: u16 = 2;
const OPT_ISB_STARTTIME: u16 = 2;
const OPT_ISB_ENDTIME: u16 = 3;
const OPT_ISB_IFRECV: u16 = 4;
const OPT_ISB_IFDROP: u16 = 5;

/// A block is never larger than this when read: a longer one means that the file is not what it says.
const BLOCK_MAX: u32 = 1 << 20;

/// Which way a frame went past the interface that saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Not told.
    Unknown,
    /// Received by the node.
    Inbound,
    /// Sent by the node.
    Outbound,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Index of the interface in its section, in the order of their descriptions.
    pub interface: u32,
    /// `CLOCK_REALTIME`, nanoseconds.
    pub time_ns: u64,
    /// Length on the wire; `data` may be shorter.
    pub original_length: u32,
    /// Which way it went.
    pub direction: Direction,
    /// The frame from its Ethernet header on.
    pub data: Vec<u8>,
    /// What a person should know about it.
    pub comment: Option<String>,
}

/// What a reader finds, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// An interface and its name.
    Interface {
        /// As in `ip link`, or `node/interface` in a merged file.
        name: String,
    },
    /// A frame.
    Packet(Packet),
    /// Totals of an interface.
    Statistics {
        /// Index of the interface.
        interface: u32,
        /// Frames seen.
        received: u64,
        /// Frames lost before they could be written.
        dropped: u64,
    },
}

/// Writes one section.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    interfaces: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Starts a section.
    pub fn new(out: W, comment: Option<&str>) -> io::Result<Self> {
        let mut writer = Self { out, interfaces: 0, written: 0 };
        let mut body = Vec::new();
        body.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes()); // the section's length is not given
        if let Some(comment) = comment {
            option(&mut body, OPT_COMMENT, comment.as_bytes());
            option(&mut body, OPT_END, &[]);
        }
        writer.block(SECTION_HEADER, &body)?;
        Ok(writer)
    }

    /// Adds an Ethernet interface and gives its index.
    pub fn interface(&mut self, name: &str, snap_length: u32) -> io::Result<u32> {
        self.link(name, snap_length, LINKTYPE_ETHERNET)
    }

    /// Adds an interface of any kind (a number of pcap's registry of link types) and gives its index.
    pub fn link(&mut self, name: &str, snap_length: u32, kind: u16) -> io::Result<u32> {
        let mut body = Vec::new();
        body.extend(kind.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(snap_length.to_le_bytes());
        option(&mut body, OPT_IF_NAME, name.as_bytes());
        option(&mut body, OPT_IF_TSRESOL, &[9]);
        option(&mut body, OPT_END, &[]);
        self.block(INTERFACE_DESCRIPTION, &body)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Adds names of addresses, which readers show in their place.
    pub fn names(&mut self, names: &BTreeMap<IpAddr, String>) -> io::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut body = Vec::new();
        for (address, name) in names {
            let (kind, mut value) = match address {
                IpAddr::V4(address) => (1u16, address.octets().to_vec()),
                IpAddr::V6(address) => (2u16, address.octets().to_vec()),
            };
            value.extend(name.as_bytes());
            value.push(0);
            // A record has the form of an option.
            option(&mut body, kind, &value);
        }
        option(&mut body, OPT_END, &[]);
        self.block(NAME_RESOLUTION, &body)
    }

    /// Adds a frame.
    pub fn packet(&mut self, packet: &Packet) -> io::Result<()> {
        self.commented(packet, packet.comment.as_deref())
    }

    /// Adds a frame with another comment than its own.
    pub fn commented(&mut self, packet: &Packet, comment: Option<&str>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.data.len() + 64);
        body.extend(packet.interface.to_le_bytes());
        body.extend(halves(packet.time_ns));
        let length = u32::try_from(packet.data.len()).map_err(io::Error::other)?;
        body.extend(length.to_le_bytes());
        body.extend(packet.original_length.to_le_bytes());
        padded(&mut body, &packet.data);
        let flags: u32 = match packet.direction {
            Direction::Unknown => 0,
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        option(&mut body, OPT_EPB_FLAGS, &flags.to_le_bytes());
        if let Some(comment) = comment {
            option(&mut body, OPT_COMMENT, comment.as_bytes());
        }
        option(&mut body, OPT_END, &[]);
        self.block(ENHANCED_PACKET, &body)
    }

    /// Adds the totals of an interface.
    pub fn statistics(
        &mut self,
        interface: u32,
        time_ns: u64,
        received: u64,
        dropped: u64,
    ) -> io::Result<()> {
        self.totals(interface, time_ns, None, received, dropped)
    }

    /// Adds the totals of an interface, and from when until when all of its frames were taken.
    pub fn totals(
        &mut self,
        interface: u32,
        time_ns: u64,
        recorded: Option<(u64, u64)>,
        received: u64,
        dropped: u64,
    ) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(interface.to_le_bytes());
        body.extend(halves(time_ns));
        if let Some((from, until)) = recorded {
            option(&mut body, OPT_ISB_STARTTIME, &halves(from));
            option(&mut body, OPT_ISB_ENDTIME, &halves(until));
        }
        option(&mut body, OPT_ISB_IFRECV, &received.to_le_bytes());
        option(&mut body, OPT_ISB_IFDROP, &dropped.to_le_bytes());
        option(&mut body, OPT_END, &[]);
        self.block(INTERFACE_STATISTICS, &body)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Gives the sink back, flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    /// Flushes what was written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?;
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(body)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.written += u64::from(length);
        Ok(())
    }
}

/// A time as the format has it: its upper half, then its lower one.
fn halves(time_ns: u64) -> [u8; 8] {
    time_ns.rotate_left(32).to_le_bytes()
}

fn padded(body: &mut Vec<u8>, data: &[u8]) {
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// At most `most` bytes, and no part of a character.
fn cut(value: &[u8], most: usize) -> usize {
    let is_part = |at: usize| value.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut at = value.len().min(most);
    while at < value.len() && at > 0 && is_part(at) {
        at -= 1;
    }
    at
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // An option's length is 16 bits; the only one that could be longer is a comment, which is cut.
    let value = &value[..cut(value, usize::from(u16::MAX) - 3)];
    body.extend(code.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "cut to 16 bits on the line above")]
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// Reads a file that [`Writer`] made (little endian, nanoseconds, Ethernet). A last block cut off by a killed
/// writer is left out, not an error.
///
/// # Errors
/// When the file is not pcapng, or was written with another byte order.
pub fn read(mut input: impl Read) -> io::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut first = true;
    loop {
        let mut head = [0; 8];
        if !read_whole(&mut input, &mut head)? {
            return Ok(blocks);
        }
        let (kind, length) = (u32_at(&head, 0), u32_at(&head, 4));
        if first && kind != SECTION_HEADER {
            return Err(bad("this is not a pcapng file"));
        }
        if !(12..=BLOCK_MAX).contains(&length) || !length.is_multiple_of(4) {
            return Err(bad("a block's length is out of range"));
        }
        let mut body = vec![0; length as usize - 8];
        if !read_whole(&mut input, &mut body)? {
            return Ok(blocks);
        }
        body.truncate(body.len() - 4);
        match kind {
            SECTION_HEADER if body.len() < 16 || u32_at(&body, 0) != BYTE_ORDER_MAGIC => {
                return Err(bad("only little-endian pcapng is read"));
            }
            INTERFACE_DESCRIPTION if body.len() >= 8 => {
                let name = options(&body[8..]).find(|(code, _)| *code == OPT_IF_NAME);
                let name =
                    name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
                blocks.push(Block::Interface { name });
            }
            ENHANCED_PACKET if body.len() >= 20 => blocks.push(packet(&body)?),
            INTERFACE_STATISTICS if body.len() >= 12 => {
                let number = |wanted| {
                    options(&body[12..])
                        .find(|(code, value)| *code == wanted && value.len() == 8)
                        .map_or(0, |(_, value)| u64::from_le_bytes(value.try_into().unwrap_or_default()))
                };
                blocks.push(Block::Statistics {
                    interface: u32_at(&body, 0),
                    received: number(OPT_ISB_IFRECV),
                    dropped: number(OPT_ISB_IFDROP),
                });
            }
            _ => {}
        }
        first = false;
    }
}

fn packet(body: &[u8]) -> io::Result<Block> {
    let captured = u32_at(body, 12) as usize;
    let end = 20 + captured.next_multiple_of(4);
    if captured > body.len() || end > body.len() {
        return Err(bad("a packet is longer than its block"));
    }
    let mut direction = Direction::Unknown;
    let mut comment = None;
    for (code, value) in options(&body[end..]) {
        match (code, value) {
            (OPT_EPB_FLAGS, [flags, ..]) => {
                direction = match flags & 3 {
                    1 => Direction::Inbound,
                    2 => Direction::Outbound,
                    _ => Direction::Unknown,
                }
            }
            (OPT_COMMENT, text) => comment = Some(String::from_utf8_lossy(text).into_owned()),
            _ => {}
        }
    }
    Ok(Block::Packet(Packet {
        interface: u32_at(body, 0),
        time_ns: u64::from(u32_at(body, 4)) << 32 | u64::from(u32_at(body, 8)),
        original_length: u32_at(body, 16),
        direction,
        data: body[20..20 + captured].to_vec(),
        comment,
    }))
}

fn options(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_at_checked(4)?;
        let (code, length) =
            (u16::from_le_bytes([head[0], head[1]]), usize::from(u16::from_le_bytes([head[2], head[3]])));
        let value = tail.get(..length)?;
        rest = tail.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        (code != OPT_END).then_some((code, value))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read_whole(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_packet() -> impl Strategy<Value = Packet> {
        let direction =
            prop_oneof![Just(Direction::Unknown), Just(Direction::Inbound), Just(Direction::Outbound)];
        (
            any::<u64>(),
            direction,
            proptest::collection::vec(any::<u8>(), 0..100),
            proptest::option::of(".{0,40}"),
        )
            .prop_map(|(time_ns, direction, data, comment)| Packet {
                interface: 0,
                time_ns,
                original_length: u32::try_from(data.len()).unwrap() + 7,
                direction,
                data,
                comment,
            })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(packets in proptest::collection::vec(any_packet(), 0..20)) {
            let mut writer = Writer::new(Vec::new(), Some("a run")).unwrap();
            writer.interface("enp0s3", 65535).unwrap();
            for packet in &packets {
                writer.packet(packet).unwrap();
            }
            writer.statistics(0, 5, 7, 3).unwrap();
            prop_assert_eq!(writer.written(), writer.out.len() as u64);
            let bytes = writer.finish().unwrap();
            let blocks = read(bytes.as_slice()).unwrap();
            let mut wanted = vec![Block::Interface { name: "enp0s3".to_owned() }];
            wanted.extend(packets.into_iter().map(Block::Packet));
            wanted.push(Block::Statistics { interface: 0, received: 7, dropped: 3 });
            prop_assert_eq!(blocks, wanted);
            // A killed writer leaves a file that is cut anywhere: what came before stays readable.
            for cut in 28..bytes.len() {
                prop_assert!(read(&bytes[..cut]).is_ok());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(bytes.as_slice());
            let mut after_header = Writer::new(Vec::new(), None).unwrap().finish().unwrap();
            after_header.extend(bytes);
            let _ = read(after_header.as_slice());
        }
    }

    #[test]
    fn another_file_is_refused() {
        assert!(read(&b"\xd4\xc3\xb2\xa1aaaaaaaaaaaaaaaaaaaa"[..]).is_err());
    }
}
