//! The largest object of each kind that its schema accepts, with its status: every field there is, every list and string as
//! long as it may be. Of a union the largest member.

use bascule_crds::object::Kind;
use bascule_crds::schema;
use serde_json::{Map, Value, json};

/// Largest object that is to be stored, in bytes of JSON; etcd refuses requests above 1.5 MiB, and managed fields are added.
pub(crate) const MOST: usize = 1 << 20;

/// Bytes of the object as the API server stores it: it writes `<` as `\u003c`.
pub(crate) fn stored_size(object: &Value) -> usize {
    let text = object.to_string();
    text.len() + 5 * text.matches('<').count()
}

/// The largest object of a kind. Its status goes in by the status subresource.
pub(crate) fn largest(kind: Kind) -> Value {
    let schema = schema::schema(kind);
    let mut object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": {"name": "a".repeat(schema::MAX_NAME)},
        "spec": fill(&schema["properties"]["spec"], "spec", 0),
        "status": fill(&schema["properties"]["status"], "status", 0),
    });
    if kind.is_namespaced() {
        object["metadata"]["namespace"] = "default".into();
    }
    let spec = &mut object["spec"];
    match kind {
        Kind::VirtualService => virtual_service(spec),
        Kind::HealthCheck => remove(spec, &["tcp", "smtp", "dns", "udp", "ping", "exec", "file"]),
        Kind::VrrpGroup => vrrp_group(spec),
        Kind::NatRule => {
            remove(spec, &["vrrpGroup", "portForward", "masquerade", "staticNat"]);
        }
        Kind::NatRuleBinding => remove(spec, &["portForward", "masquerade", "staticNat"]),
        Kind::DirectorConfig => director_config(spec),
        Kind::Director | Kind::VirtualServiceBinding | Kind::EndpointSlice => {}
    }
    object
}

fn remove(value: &mut Value, fields: &[&str]) {
    let map = value.as_object_mut().expect("an object");
    fields.iter().for_each(|field| assert!(map.remove(*field).is_some(), "no {field}"));
}

/// A value of the schema as large as it may be; `n` tells items of a list apart.
fn fill(schema: &Value, path: &str, n: usize) -> Value {
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().max_by_key(|value| value.to_string().len()).cloned().expect("a value");
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return "a".repeat(15).into();
    }
    match schema["type"].as_str().expect("a type") {
        "object" if schema["additionalProperties"].is_object() => {
            let count = schema["maxProperties"].as_u64().expect("a bound");
            let entries = (0..count).map(|at| {
                let at = usize::try_from(at).expect("small");
                // The longest keys that rules allow: names of ports and aliases, else names of instances.
                let length = if path.ends_with("Ports") || path.ends_with("Aliases") { 15 } else { 63 };
                (unique(length, at), fill(&schema["additionalProperties"], path, at))
            });
            Value::Object(entries.collect())
        }
        "object" => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let fields: Map<String, Value> = properties
                .iter()
                .map(|(name, property)| (name.clone(), fill(property, &format!("{path}.{name}"), n)))
                .collect();
            Value::Object(special(path, fields))
        }
        "array" => {
            // Lists that rules bound together with others of the object.
            let most = match path {
                _ if path.ends_with("excludedAddresses") => u64::from(n == 0) * 4096,
                _ if path.ends_with("instances.addresses") => 64,
                _ if path.ends_with("vrrp.instances") => 4,
                _ => schema["maxItems"].as_u64().expect("a bound"),
            };
            let values = schema["items"]["enum"].as_array().cloned();
            if let Some(values) = values {
                return values.into_iter().take(usize::try_from(most).expect("small")).collect();
            }
            (0..most).map(|at| fill(&schema["items"], path, usize::try_from(at).expect("small"))).collect()
        }
        "string" => string(schema, path, n).into(),
        "integer" => match schema["maximum"].as_u64() {
            // What tells items apart.
            Some(most)
                if ["port", "id", "virtualRouterId"]
                    .iter()
                    .any(|name| path.ends_with(&format!(".{name}"))) =>
            {
                (most - n as u64).into()
            }
            Some(most) => most.into(),
            None => i64::MAX.into(),
        },
        "boolean" => false.into(),
        other => panic!("{path}: {other}"),
    }
}

/// What rules ask of fields together.
fn special(path: &str, mut fields: Map<String, Value>) -> Map<String, Value> {
    let here = path.rsplit('.').next().unwrap_or_default();
    let set = |fields: &mut Map<String, Value>, name: &str, value: Value| {
        if fields.contains_key(name) {
            fields.insert(name.into(), value);
        }
    };
    if here == "forwarding" {
        set(&mut fields, "method", "Tunnel".into());
        fields.insert("tunnel".into(), json!({"type": "GUE", "port": 65535, "checksum": "Remote"}));
    }
    if fields.contains_key("secretRef") {
        fields.remove("file");
    }
    if here == "services" {
        fields.remove("systemd");
    }
    if here == "authentication" {
        fields.remove("simple");
    }
    if here == "hmac" {
        set(&mut fields, "activeKey", 255.into());
        set(&mut fields, "antiReplay", "Time".into());
    }
    if here == "preempt" {
        set(&mut fields, "enabled", true.into());
    }
    if here == "peers" {
        fields.remove("multicast");
    }
    if here == "instances" && fields.contains_key("label") {
        set(&mut fields, "interface", "e".repeat(7).into());
        set(&mut fields, "label", "e".repeat(7).into());
    }
    if path == "spec.http" {
        set(&mut fields, "scheme", "HTTPS".into());
        set(&mut fields, "method", "GET".into());
        set(&mut fields, "version", "1.1".into());
        set(&mut fields, "digest", json!({"algorithm": "sha256", "value": "0".repeat(64)}));
    }
    if path == "spec.http.tls" {
        set(&mut fields, "verify", "Full".into());
    }
    if path == "spec.scheduler" {
        set(&mut fields, "name", "mh".into());
    }
    if path == "spec.persistence" {
        fields.remove("engine");
    }
    fields
}

/// So many characters, different for each `n`.
fn unique(length: usize, n: usize) -> String {
    let tail = n.to_string();
    format!("{}{tail}", "a".repeat(length - tail.len()))
}

fn string(schema: &Value, path: &str, n: usize) -> String {
    let length = usize::try_from(schema["maxLength"].as_u64().unwrap_or(0)).expect("small");
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    let rules = schema["x-kubernetes-validations"].to_string();
    // The longest way to write an IPv6 address.
    let address = format!("2001:0db8:0000:0000:0000:{n:04x}:255.255.255.255");
    let name = path.rsplit('.').next().unwrap_or_default();
    match () {
        () if schema["format"] == "date-time" => "2026-11-22T04:00:00.000000Z".into(),
        () if pattern.starts_with("^([0-9]{1,5}(h|") => "00000h00000m00000m00005s".into(),
        () if rules.contains("224.0.0.0/4") => "ff02:0000:0000:0000:0000:0000:255.255.255.255".into(),
        () if rules.contains("must be an address, or a range") => {
            format!(
                "2001:db8:aaaa:bbbb:cccc:dddd:{:x}:1000-2001:db8:aaaa:bbbb:cccc:dddd:{:x}:10ff",
                0x1000 + n,
                0x1000 + n
            )
        }
        () if length == 45 => address,
        () if length == 49 => format!("{address}/128"),
        () if name == "caBundle" => format!("-----BEGIN CERTIFICATE-----{}", "\n".repeat(length - 27)),
        () if name == "path" || name == "file" => format!("/{}", "a".repeat(length - 1)),
        () if name == "statusCodes" => format!("{}-599", 200 + n),
        () if pattern.contains("0-9a-fA-F") || pattern == "^[0-9a-f]+$" => "0".repeat(length),
        // Six bytes as the API server writes it: see `stored_size`.
        () if pattern.is_empty() || pattern == "^[ -~]*$" || pattern.starts_with("^[^\\x00") => {
            "<".repeat(length)
        }
        () if name == "dns" || pattern.starts_with("^(\\.|") => format!("{}.", ["a"; 126].join(".")),
        // Letters only.
        () if pattern == "^[A-Za-z]+$" => {
            format!("{}{}", "a".repeat(length - 1), char::from(b'a' + u8::try_from(n).expect("few")))
        }
        () => unique(length, n),
    }
}

fn virtual_service(spec: &mut Value) {
    remove(spec, &["vrrpGroup", "fwmark", "realServersFrom"]);
    spec["sourceNat"] = "Never".into();
    let ports = spec["ports"].as_array_mut().expect("ports");
    for port in ports.iter_mut() {
        port["targetPort"] = port["port"].clone();
    }
    let own: Map<String, Value> = ports
        .iter()
        .take(8)
        .map(|port| (port["name"].as_str().expect("a name").to_owned(), port["port"].clone()))
        .collect();
    for server in spec["realServers"].as_array_mut().expect("real servers") {
        server["targetPorts"] = Value::Object(own.clone());
    }
    spec["sorryServers"][0]["address"] = "255.255.255.254".into();
    for server in spec["sorryServers"].as_array_mut().expect("sorry servers") {
        // The service has many ports, and with Tunnel the port must be each of them.
        server.as_object_mut().expect("a server").remove("port");
    }
}

fn vrrp_group(spec: &mut Value) {
    spec["preferred"] = spec["members"][0]["director"].clone();
    spec["advertisementInterval"] = "00000h00000m00000m00005s".into();
}

fn director_config(spec: &mut Value) {
    for (at, group) in spec["vrrp"].as_array_mut().expect("groups").iter_mut().enumerate() {
        // What all groups together may have is in the first: but for the instances, of which each has four.
        if at > 0 {
            remove(group, &["services", "track"]);
            remove(&mut group["instances"][0], &["excludedAddresses"]);
        }
        for addresses in ["ownAddresses", "unicastPeers"] {
            let map = group[addresses].as_object_mut().expect("a map");
            *map = std::mem::take(map).into_iter().take(4).collect();
        }
    }
}
