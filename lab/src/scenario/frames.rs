//! Which recorded frames an expectation counts.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expectation::{Bound, Count, Window};
use super::topology::Name;

/// Frames of a kind on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FramesExpectation {
    /// The node.
    pub node: Name,
    /// Its interface.
    pub interface: Name,
    /// Which frames; all of this must be true of one.
    #[serde(default)]
    pub filter: FrameFilter,
    /// How many.
    pub count: Count,
    /// The longest time without one, also from one before the window to the first in it, and from the last in it to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap: Option<Bound>,
    /// When; the whole run unless told.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
}

/// Who claims an address: whose hardware address ARP (as its sender) or a neighbour advertisement (as its target) says it is at (`claimed`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimsExpectation {
    /// The address.
    pub address: IpAddr,
    /// The node whose link hears the claims; best one that claims nothing itself.
    pub node: Name,
    /// Its interface.
    pub interface: Name,
    /// The part of the run; all of it unless told. Where its first step has a fault, it begins when that took effect.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
    /// The node that claimed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Name>,
    /// How often another node claimed it than the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Count>,
    /// From the window's beginning until another node claimed it than the last one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Bound>,
}

/// What is true of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrameFilter {
    /// Its innermost protocol that the lab knows; with `ipip`, the outer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<FrameProtocol>,
    /// The TCP flags, of which each is set, or with `!` clear: `[syn, "!ack"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    pub tcp_flags: Vec<TcpFlag>,
    /// The source address; for ARP, the sender's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The destination address; for ARP, the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// The source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// The hardware address that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_mac: Option<super::value::Mac>,
    /// For ARP: sender and target are the same address. For IPv6: an unsolicited neighbour advertisement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gratuitous: Option<bool>,
}

/// A protocol that the lab tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FrameProtocol {
    /// Address resolution.
    Arp,
    /// ICMP and ICMPv6.
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// VRRP.
    Vrrp,
    /// IP in IP: IPv4 or IPv6 in either.
    Ipip,
    /// Generic routing encapsulation.
    Gre,
}

/// A TCP flag that is set, or with `!` clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TcpFlag {
    /// SYN set.
    Syn,
    /// SYN clear.
    #[serde(rename = "!syn")]
    NoSyn,
    /// ACK set.
    Ack,
    /// ACK clear.
    #[serde(rename = "!ack")]
    NoAck,
    /// RST set.
    Rst,
    /// RST clear.
    #[serde(rename = "!rst")]
    NoRst,
    /// FIN set.
    Fin,
    /// FIN clear.
    #[serde(rename = "!fin")]
    NoFin,
}
