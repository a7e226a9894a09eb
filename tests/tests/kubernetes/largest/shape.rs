//! Makes what fills a schema also obey the rules: of each union the largest member stays.

use serde_json::{Value, json};

fn without(value: &mut Value, fields: &[&str]) {
    for field in fields {
        value.as_object_mut().expect("an object").remove(*field);
    }
}

fn each<'a>(value: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    value[list].as_array_mut().expect("a list").iter_mut()
}

pub(crate) fn shape(kind: &str, spec: &mut Value) {
    match kind {
        "VirtualService" => virtual_service(spec),
        "VirtualServiceBinding" => binding(spec),
        "HealthCheck" => health_check(spec),
        "VrrpGroup" => vrrp_group(spec),
        "NatRule" => {
            without(spec, &["vrrpGroup", "portForward", "masquerade", "staticNat"]);
        }
        "NatRuleBinding" => without(spec, &["portForward", "masquerade", "staticNat"]),
        "DirectorConfig" => director_config(spec),
        _ => {}
    }
}

/// The longest way of forwarding.
fn tunnel() -> Value {
    json!({"method": "Tunnel", "tunnel": {"type": "GUE", "port": 65535, "checksum": "Remote"}})
}

fn virtual_service(spec: &mut Value) {
    without(spec, &["vrrpGroup", "fwmark", "realServersFrom", "sourceNat"]);
    spec["forwarding"] = tunnel();
    spec["persistence"] = json!({"timeout": "744h", "ipv4Prefix": 32, "ipv6Prefix": 128});
    spec["scheduler"] = json!({"name": "mh", "fallback": true, "hashPort": true});
    for port in each(spec, "ports") {
        port["targetPort"] = port["port"].clone();
    }
    let ports: Vec<(String, Value)> = each(spec, "ports")
        .take(8)
        .map(|port| (port["name"].as_str().expect("a name").to_owned(), port["port"].clone()))
        .collect();
    for server in each(spec, "realServers") {
        server["forwarding"] = tunnel();
        server["targetPorts"] = ports.iter().cloned().collect();
    }
    for server in each(spec, "sorryServers") {
        server["forwarding"] = tunnel();
        without(server, &["port"]);
    }
    spec["sorryServers"][1]["address"] = "192.168.193.199".into();
    quorum(spec);
}

fn quorum(spec: &mut Value) {
    spec["quorum"]["weight"] = 16_776_960.into();
    spec["quorum"]["hysteresis"] = 16_776_959.into();
}

fn binding(spec: &mut Value) {
    // As many servers as there may be outweigh the reference to a Service.
    without(spec, &["realServersFrom"]);
    for list in ["realServers", "sorryServers"] {
        for server in each(spec, list) {
            server["forwarding"] = tunnel();
        }
    }
    quorum(spec);
}

fn health_check(spec: &mut Value) {
    without(spec, &["tcp", "smtp", "dns", "udp", "ping", "exec", "file"]);
    spec["http"]["scheme"] = "HTTPS".into();
    spec["http"]["method"] = "GET".into();
    spec["http"]["tls"]["verify"] = "Full".into();
    spec["http"]["digest"] = json!({"algorithm": "sha256", "value": "f".repeat(64)});
    spec["interval"] = "24h".into();
    spec["retryInterval"] = "23h59m59s999ms".into();
}

fn vrrp_group(spec: &mut Value) {
    instances(spec, 64, 128);
    authentication(spec);
    services(spec);
    spec["peers"] = json!({"unicast": {"minTtl": 255}});
    let names: Vec<String> =
        each(spec, "instances").map(|i| i["name"].as_str().expect("a name").to_owned()).collect();
    for member in each(spec, "members") {
        let addresses: Vec<Value> =
            member["addresses"].as_object().expect("a map").values().cloned().collect();
        member["addresses"] = names.iter().cloned().zip(addresses).collect();
    }
    spec["preferred"] = spec["members"][0]["director"].clone();
    spec["version"] = 3.into();
}

/// Every instance has so many addresses of each sort, all of IPv6.
fn instances(group: &mut Value, addresses: usize, excluded: usize) {
    for (n, instance) in each(group, "instances").enumerate() {
        truncate(&mut instance["addresses"], addresses);
        truncate(&mut instance["excludedAddresses"], excluded);
        // With the colon they have 15 characters.
        let interface = format!("{}{n:02}", "i".repeat(11));
        instance["label"] = "0".into();
        instance["interface"] = interface.into();
    }
}

fn authentication(group: &mut Value) {
    let authentication = &mut group["authentication"];
    without(authentication, &["simple"]);
    let hmac = &mut authentication["hmac"];
    for key in each(hmac, "keys") {
        without(key, &["file"]);
    }
    hmac["activeKey"] = hmac["keys"][0]["id"].clone();
    hmac["antiReplay"] = "Time".into();
}

fn services(group: &mut Value) {
    for service in each(group, "services") {
        without(service, &["systemd"]);
    }
}

fn director_config(spec: &mut Value) {
    // Eight groups share what one group alone may have: 32 instances with 6144 addresses, 16 services, 96 tracked things.
    for group in each(spec, "vrrp") {
        truncate(&mut group["instances"], 4);
        truncate(&mut group["services"], 2);
        for list in ["interfaces", "virtualServices", "healthChecks"] {
            truncate(&mut group["track"][list], 4);
        }
        for map in ["ownAddresses", "unicastPeers"] {
            let all = group[map].as_object().expect("a map").clone();
            group[map] = all.into_iter().take(4).collect();
        }
        instances(group, 64, 128);
        authentication(group);
        services(group);
    }
}

fn truncate(list: &mut Value, length: usize) {
    list.as_array_mut().expect("a list").truncate(length);
}
