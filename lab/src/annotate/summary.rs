//! A frame in a few words, as the report's table has them.

use std::net::IpAddr;

use super::packet::{ACK, Body, FIN, Frame, Ip, RST, SYN, Transport, u16_at};
use super::{Known, mac};

/// As many characters are shown of what a packet says.
const SHOWN: usize = 80;

/// What is shown of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) protocol: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) info: String,
}

/// Puts a frame into words that every language has.
pub(crate) fn summary(bytes: &[u8], known: &Known) -> Summary {
    let Some(frame) = Frame::read(bytes) else {
        return Summary { protocol: "?", ..Summary::default() };
    };
    match frame.body {
        Body::Arp(arp) => Summary {
            protocol: "ARP",
            from: known.owner(frame.from).unwrap_or_else(|| mac(frame.from)),
            to: if frame.is_unicast() {
                known.owner(frame.to).unwrap_or_else(|| mac(frame.to))
            } else {
                "*".into()
            },
            info: if arp.reply || arp.sender == arp.target {
                format!("{} = {}", arp.sender, mac(arp.sender_mac))
            } else {
                format!("{}? → {}", arp.target, arp.sender)
            },
        },
        Body::Ip(ip) => packet(&ip, known),
        Body::Other(kind) => {
            Summary { protocol: "?", from: mac(frame.from), to: mac(frame.to), info: format!("0x{kind:04x}") }
        }
    }
}

fn packet(ip: &Ip<'_>, known: &Known) -> Summary {
    let name = |address: IpAddr| known.host(address);
    let (protocol, info) = match ip.transport() {
        Transport::Tcp { ports, flags, data, .. } => {
            let mut info = format!("{} → {} {}", ports.0, ports.1, flag_words(flags));
            if !data.is_empty() {
                info.push_str(&format!(" {} B", data.len()));
                if let Some(line) = text_line(data) {
                    info.push_str(": ");
                    info.push_str(&line);
                }
            }
            ("TCP", info)
        }
        Transport::Udp { ports, data } => ("UDP", format!("{} → {} {} B", ports.0, ports.1, data.len())),
        Transport::Icmp { kind, code, rest } => ("ICMP", icmp(ip.source.is_ipv6(), kind, code, rest)),
        Transport::Vrrp(bytes) => {
            let at = |at: usize| bytes.get(at).copied().unwrap_or(0);
            ("VRRP", format!("v{} VRID {} priority {}", at(0) >> 4, at(1), at(2)))
        }
        Transport::Tunnel(inner) => {
            let inner = packet(&inner, known);
            ("IPIP", format!("[{} {} → {}: {}]", inner.protocol, inner.from, inner.to, inner.info))
        }
        Transport::Other => match ip.protocol {
            2 => ("IGMP", String::new()),
            47 => ("GRE", String::new()),
            _ => ("IP", format!("protocol {}", ip.protocol)),
        },
    };
    Summary { protocol, from: name(ip.source), to: name(ip.destination), info }
}

fn flag_words(flags: u8) -> String {
    let words = [(SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (ACK, "ACK")];
    let set = words.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| *word);
    set.collect::<Vec<_>>().join(" ")
}

fn icmp(six: bool, kind: u8, code: u8, rest: &[u8]) -> String {
    let number = || u16_at(rest, 2).unwrap_or(0);
    match (six, kind) {
        (false, 8) | (true, 128) => format!("echo request {}", number()),
        (false, 0) | (true, 129) => format!("echo reply {}", number()),
        (false, 3) | (true, 1) => format!("unreachable (code {code})"),
        (false, 11) | (true, 3) => "time exceeded".into(),
        (true, 133) => "router solicitation".into(),
        (true, 135) => "neighbour solicitation".into(),
        (true, 136) => "neighbour advertisement".into(),
        (true, 143) => "multicast listener report".into(),
        _ => format!("type {kind}, code {code}"),
    }
}

/// The first line of what is text.
fn text_line(data: &[u8]) -> Option<String> {
    let line = data.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let text = std::str::from_utf8(line.get(..line.len().min(SHOWN * 4))?).ok()?;
    let plain = !text.is_empty() && text.chars().all(|c| !c.is_control());
    plain.then(|| text.chars().take(SHOWN).collect())
}
