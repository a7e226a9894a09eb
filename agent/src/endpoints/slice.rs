//! What is needed of an EndpointSlice, and whether it can be used.

use std::net::IpAddr;

use bascule_compile::SERVICE_LABEL;
use bascule_crds::common::{Family, Protocol};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Endpoints of one EndpointSlice at most, as the API server has it.
const MAX_ENDPOINTS: usize = 1_000;
/// Its ports that are looked at; a service has no more than 64.
const MAX_PORTS: usize = 1_000;
/// Hints of one endpoint at most, as the API server has it.
const MAX_HINTS: usize = 8;
/// Longest name of a pod, in bytes.
const MAX_NAME: usize = 253;

/// What is needed of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Name of the Service, in the same namespace.
    pub service: String,
    /// Those that serve.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Their ports. Without a number it is any.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// An endpoint that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether new connections may go to it.
    pub life: Life,
    /// Name of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Zones that it is meant for. Empty: nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Nodes that it is meant for. Empty: nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

/// How far an endpoint is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Life {
    /// Ready.
    Serves,
    /// It terminates, and serves what it has.
    Finishes,
}

/// A port of the endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name that the Service gives it; empty where it has one port.
    #[serde(default)]
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
}

/// Which Service labels name, if any.
pub fn service_of(labels: Option<&std::collections::BTreeMap<String, String>>) -> Option<&str> {
    labels?.get(SERVICE_LABEL).map(String::as_str).filter(|name| !name.is_empty())
}

impl Slice {
    /// What is needed of an object's fields, as the API server has them. `service` is what its labels say.
    ///
    /// # Errors
    /// The first field that cannot be used, and why.
    pub fn read(service: &str, fields: Value) -> Result<Self, String> {
        let slice: EndpointSlice =
            serde_json::from_value(fields).map_err(|error| format!("endpoints: {error}"))?;
        Self::of(service, &slice)
    }

    /// The same of one that is typed already.
    ///
    /// # Errors
    /// The first field that cannot be used, and why.
    pub fn of(service: &str, slice: &EndpointSlice) -> Result<Self, String> {
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::IPv4,
            "IPv6" => Family::IPv6,
            other => {
                return Err(format!(
                    "addressType: is {other:.32}, and endpoints must be IPv4 or IPv6 addresses"
                ));
            }
        };
        let all = slice.endpoints.as_deref().unwrap_or_default();
        if all.len() > MAX_ENDPOINTS {
            return Err(format!("endpoints: has {}, more than {MAX_ENDPOINTS}", all.len()));
        }
        let mut endpoints = Vec::new();
        for (at, one) in all.iter().enumerate() {
            endpoints.extend(endpoint(family, one).map_err(|why| format!("endpoints[{at}]{why}"))?);
        }
        let mut ports: Vec<Port> = Vec::new();
        for (at, one) in slice.ports.iter().flatten().take(MAX_PORTS).enumerate() {
            ports.extend(port(one).map_err(|why| format!("ports[{at}]{why}"))?);
        }
        Ok(Self { service: service.to_owned(), endpoints, ports })
    }
}

/// An endpoint, none if it serves nobody. Only the first address has a meaning (see the API's own words on `addresses`).
fn endpoint(family: Family, one: &discovery::Endpoint) -> Result<Option<Endpoint>, String> {
    let Some(life) = life(one.conditions.as_ref()) else { return Ok(None) };
    let text = one.addresses.first().ok_or(".addresses: is empty")?;
    let address: IpAddr =
        text.parse().map_err(|_| format!(".addresses[0]: `{text:.64}` is not an address"))?;
    if Family::of(address) != family {
        return Err(format!(".addresses[0]: {address} is not {family}, which the addressType says"));
    }
    let hints = one.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    let target = one.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    Ok(Some(Endpoint {
        address,
        life,
        pod: target.and_then(|target| target.name.clone()).filter(|name| is_name(name)),
        zones: zones.take(MAX_HINTS).map(|zone| zone.name.clone()).collect(),
        nodes: nodes.take(MAX_HINTS).map(|node| node.name.clone()).collect(),
    }))
}

/// What is not said counts as in the API: ready, serving as it is ready, not terminating.
fn life(conditions: Option<&discovery::EndpointConditions>) -> Option<Life> {
    let ready = conditions.and_then(|one| one.ready).unwrap_or(true);
    let serving = conditions.and_then(|one| one.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|one| one.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Some(Life::Serves),
        (false, true) => Some(Life::Finishes),
        (false, false) => None,
    }
}

/// Whether it can be the name of a pod: it is shown to people and written into statuses.
fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(first, last)| inside(*first) && inside(*last));
    ends && name.len() <= MAX_NAME && bytes.iter().all(|byte| inside(*byte) || b"-.".contains(byte))
}

/// A port, none if it says no number: then clients would have to know it.
fn port(one: &discovery::EndpointPort) -> Result<Option<Port>, String> {
    let protocol = match one.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => return Err(format!(".protocol: {other:.32} is none of TCP, UDP and SCTP")),
    };
    let Some(number) = one.port else { return Ok(None) };
    let number = u16::try_from(number).ok().filter(|number| *number != 0);
    let number =
        number.ok_or_else(|| format!(".port: {} is not from 1 to 65535", one.port.unwrap_or_default()))?;
    Ok(Some(Port { name: one.name.clone().unwrap_or_default(), protocol, number }))
}
