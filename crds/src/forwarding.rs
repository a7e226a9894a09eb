//! How packets reach real servers.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::rule_at;
use crate::rules::virtual_service as rules;

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".tunnel", "!has(self.tunnel) || self.method == 'Tunnel'",
    "tunnel belongs to the method Tunnel")]))]
pub struct Forwarding {
    /// `Masquerade` rewrites the destination, and replies come back through the director (ipvsadm: -m; keepalived: NAT).
    /// `DirectRouting` hands the packet over on the same link (-g; DR); `Tunnel` encapsulates it (-i; TUN). Default: Masquerade.
    #[serde(default)]
    pub method: ForwardingMethod,
    /// The encapsulation, for Tunnel. Absent: IPIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
}

/// A forwarding method of IPVS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ForwardingMethod {
    /// Destination address translation.
    #[default]
    Masquerade,
    /// Same link, own address on the real server.
    DirectRouting,
    /// Encapsulation.
    Tunnel,
}

impl fmt::Display for ForwardingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ForwardingMethod::Masquerade => "Masquerade",
            ForwardingMethod::DirectRouting => "DirectRouting",
            ForwardingMethod::Tunnel => "Tunnel",
        })
    }
}

/// An encapsulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::tunnel()))]
pub struct Tunnel {
    /// IPIP, GUE or GRE (ipvsadm: --tun-type). Default: IPIP.
    #[serde(default, rename = "type")]
    pub type_: TunnelType,
    /// UDP port of the real server for GUE, 1 to 65535 (ipvsadm: --tun-port).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Checksum of the outer header, for GUE and GRE: `None` (ipvsadm: --tun-nocsum), `Full` (--tun-csum), or, for GUE, `Remote`
    /// (--tun-remcsum). Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<TunnelChecksum>,
}

/// Type of encapsulation.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelType {
    /// IP in IP.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation.
    Gre,
}

/// Checksum of an outer header.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// Over the whole packet.
    Full,
    /// Left to the receiver: remote checksum offload.
    Remote,
}

/// Whether the client's address is rewritten.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum SourceNat {
    /// Real servers see the client.
    #[default]
    Never,
    /// Only for clients that a real server would answer past the director.
    Auto,
    /// Real servers see the director.
    Always,
}
