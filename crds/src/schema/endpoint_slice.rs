//! EndpointSlice is Kubernetes' own: its schema has none of what the API server checks in code. What matters to a manifest in
//! a directory is added here.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

/// The structural schema, with the bounds of Kubernetes' documentation.
pub(super) fn schema() -> Value {
    let mut schema = super::of::<EndpointSlice>();
    let properties = &mut schema["properties"];
    // The metadata of every kind is judged in one place.
    if let Some(properties) = properties.as_object_mut() {
        for known in ["apiVersion", "kind", "metadata"] {
            properties.remove(known);
        }
    }
    schema["required"] = json!(["addressType"]);
    let properties = &mut schema["properties"];
    properties["addressType"]["enum"] = json!(["IPv4", "IPv6", "FQDN"]);
    properties["endpoints"]["maxItems"] = 1000.into();
    let addresses = &mut properties["endpoints"]["items"]["properties"]["addresses"];
    addresses["minItems"] = 1.into();
    addresses["maxItems"] = 100.into();
    addresses["items"]["maxLength"] = 253.into();
    properties["ports"]["maxItems"] = 20_000.into();
    let port = &mut properties["ports"]["items"]["properties"];
    port["port"]["minimum"] = 1.into();
    port["port"]["maximum"] = 65535.into();
    port["name"]["maxLength"] = 63.into();
    port["name"]["pattern"] = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$".into();
    port["protocol"]["enum"] = json!(["TCP", "UDP", "SCTP"]);
    schema
}
