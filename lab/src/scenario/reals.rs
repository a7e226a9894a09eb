//! When real servers leave a virtual service in a kernel, and when they come back.

use bascule_ipvs::{Family, Protocol, ServiceId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expectation::{Bound, Count, Window};
use super::topology::Name;

/// Real servers of a virtual service in a node's kernel, whose table is read from the start of the run every 20 ms, or so seldom that
/// reading costs at most a tenth of the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RealServersExpectation {
    /// The node.
    pub node: Name,
    /// The service, as `ipvsadm -Ln` prints it: `TCP 192.16.193.30:80`, `UDP [2001:db8::30]:53`, `FWM 1`, `FWM 1 IPv6`.
    #[schemars(length(min = 1, max = 64))]
    pub service: String,
    /// The real servers, as `ipvsadm -Ln` prints them: `172.16.193.10:80`.
    #[schemars(length(min = 1, max = 1024))]
    pub servers: Vec<String>,
    /// The part of the run; all of it unless told. Where its first step has a fault or tells a server something, it begins when that took
    /// effect.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
    /// What all of them are at the window's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub are: Option<Presence>,
    /// With `are: in`: their weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub weight: Option<u32>,
    /// From the window's beginning until the last of them became what `are` says, and stayed so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<Bound>,
    /// How often each of them came, went or got another weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Count>,
}

/// What a real server is to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Presence {
    /// In the service, with a weight above 0.
    In,
    /// In the service with weight 0: old connections go on, new ones go elsewhere.
    Quiesced,
    /// Not in the service.
    Out,
}

impl Presence {
    /// As it is written in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Quiesced => "quiesced",
            Self::Out => "out",
        }
    }
}

/// What the kernel tells a service apart by, from what `ipvsadm -Ln` prints.
///
/// # Errors
/// What is wrong with the text.
pub fn service_id(text: &str) -> Result<ServiceId, String> {
    let wrong =
        || format!("`{text}` is no service as `ipvsadm -Ln` prints it: `TCP 192.16.193.30:80`, `FWM 1`");
    let words: Vec<&str> = text.split_whitespace().collect();
    let protocol = match words.first() {
        Some(&"TCP") => Protocol::Tcp,
        Some(&"UDP") => Protocol::Udp,
        Some(&"SCTP") => Protocol::Sctp,
        Some(&"FWM") => {
            let family = match words.get(2..) {
                Some([]) => Family::Ipv4,
                Some(["IPv6"]) => Family::Ipv6,
                _ => return Err(wrong()),
            };
            let mark = words[1].parse().map_err(|_| wrong())?;
            return Ok(ServiceId::Fwmark { mark, family });
        }
        _ => return Err(wrong()),
    };
    let [_, address] = words[..] else { return Err(wrong()) };
    let address: std::net::SocketAddr = address.parse().map_err(|_| wrong())?;
    Ok(ServiceId::Address { protocol, address: address.ip(), port: address.port() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_as_they_are_printed() {
        let web = ServiceId::Address {
            protocol: Protocol::Tcp,
            address: "192.16.193.30".parse().unwrap(),
            port: 80,
        };
        assert_eq!(service_id("TCP  192.16.193.30:80"), Ok(web));
        assert!(matches!(service_id("UDP [2001:db8::30]:53"), Ok(ServiceId::Address { port: 53, .. })));
        assert_eq!(service_id("FWM 7"), Ok(ServiceId::Fwmark { mark: 7, family: Family::Ipv4 }));
        assert_eq!(service_id("FWM 7 IPv6"), Ok(ServiceId::Fwmark { mark: 7, family: Family::Ipv6 }));
        for wrong in
            ["", "TCP", "TCP 192.16.193.30", "tcp 192.16.193.30:80", "FWM", "FWM x", "TCP 1.2.3.4:80 rr"]
        {
            assert!(service_id(wrong).is_err(), "{wrong}");
        }
    }
}
