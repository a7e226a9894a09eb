//! A packet filter of somebody's that drops what is for a port.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Played;
use crate::scenario::fault::{Direction, PacketFilter, Transport};
use crate::world::{Error, Exec, Node, Output, Result, World, now};

/// How long a probe may take until it is counted. The call that sends it does that.
const EFFECT: Duration = Duration::from_secs(5);
/// How long a connection is tried for: its first packet is dropped before the call waits.
const TRY: Duration = Duration::from_millis(20);

/// The table's name; one a fault, so that several do not meet.
fn table(fault: &PacketFilter) -> String {
    let direction = match fault.direction {
        Direction::Both => "both",
        Direction::In => "in",
        Direction::Out => "out",
    };
    format!("lab_filter_{}_{}_{direction}", fault.protocol.name(), fault.port)
}

/// The hooks that it drops at: before translation of addresses where packets come in, and after it where they leave.
fn hooks(direction: Direction) -> &'static [(&'static str, i32)] {
    match direction {
        Direction::Both => &[("prerouting", -290), ("postrouting", 290)],
        Direction::In => &[("prerouting", -290)],
        Direction::Out => &[("postrouting", 290)],
    }
}

fn rules(fault: &PacketFilter) -> String {
    let (protocol, port) = (fault.protocol.name(), fault.port);
    let chains: Vec<String> = hooks(fault.direction)
        .iter()
        .map(|(hook, priority)| {
            format!(
                "chain {hook} {{ type filter hook {hook} priority {priority}; policy accept; {protocol} dport {port} counter drop; }}"
            )
        })
        .collect();
    format!("table inet {} {{\n{}\n}}\n", table(fault), chains.join("\n"))
}

fn nft(node: &Node, arguments: &[&str]) -> Result<Output> {
    node.exec(&Exec::new(["nft"].iter().chain(arguments).copied()))
}

/// What each chain has dropped, as the kernel says; `None` if it holds no such table.
fn dropped(node: &Node, fault: &PacketFilter) -> Result<Option<Vec<u64>>> {
    let output = nft(node, &["--json", "list", "table", "inet", &table(fault)])?;
    if !output.success() {
        return Ok(None);
    }
    Ok(Some(read(&output.text())))
}

/// The packets of all counters in what `nft --json` prints.
fn read(text: &str) -> Vec<u64> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let rules = value["nftables"].as_array().into_iter().flatten().map(|entry| &entry["rule"]["expr"]);
    rules
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|expression| expression["counter"]["packets"].as_u64())
        .collect()
}

/// Sends the node something of its own, which comes and leaves as everything does.
fn probe(node: &Node, fault: &PacketFilter) -> Result<()> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, fault.port));
    let protocol = fault.protocol;
    node.in_netns(move || {
        // That it fails is what is wanted.
        let _ = match protocol {
            Transport::Tcp => TcpStream::connect_timeout(&to, TRY).map(drop),
            Transport::Udp => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|socket| socket.send_to(&[0], to))
                .map(drop),
        };
    })
}

pub(super) fn filter(world: &World, fault: &PacketFilter) -> Result<Played> {
    let node = world.node(&fault.node)?;
    node.awake()?;
    if dropped(&node, fault)?.is_some() {
        return Err(Error::wrong("it is in effect already"));
    }
    let at = now();
    node.exec(&Exec::new(["nft", "-f", "-"]).stdin(rules(fault)))?.checked()?;
    let done = now();
    match prove(&node, fault) {
        Ok(proof) => Ok(Played::new(at, done, proof)),
        Err(error) => {
            nft(&node, &["delete", "table", "inet", &table(fault)])?;
            Err(error)
        }
    }
}

fn prove(node: &Node, fault: &PacketFilter) -> Result<String> {
    let wanted = hooks(fault.direction);
    let before = dropped(node, fault)?.unwrap_or_default();
    if before.len() != wanted.len() {
        return Err(Error::wrong("the kernel does not hold the rules"));
    }
    // A packet that is dropped where it leaves does not come in: what is first on its way is proved by it.
    let first = wanted.len() - 1;
    probe(node, fault)?;
    let deadline = Instant::now() + EFFECT;
    loop {
        let now = dropped(node, fault)?.unwrap_or_default();
        if now.get(first) > before.get(first) {
            break;
        }
        if Instant::now() > deadline {
            return Err(Error::wrong(format!(
                "a packet for {} {} was not dropped",
                fault.protocol.name(),
                fault.port
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(format!(
        "table inet {}: a packet for {} {} was dropped",
        table(fault),
        fault.protocol.name(),
        fault.port
    ))
}

pub(super) fn pass(world: &World, fault: &PacketFilter) -> Result<Played> {
    let node = world.node(&fault.node)?;
    node.awake()?;
    let counted = dropped(&node, fault)?.ok_or_else(|| {
        Error::wrong(format!(
            "it is not in effect: {} has no table inet {}, which a reboot takes away, too",
            fault.node,
            table(fault)
        ))
    })?;
    let at = now();
    nft(&node, &["delete", "table", "inet", &table(fault)])?.checked()?;
    let done = now();
    if dropped(&node, fault)?.is_some() {
        return Err(Error::wrong(format!("the table inet {} is still there", table(fault))));
    }
    let all: u64 = counted.iter().sum();
    Ok(Played::new(
        at,
        done,
        format!("the table inet {} is gone; it had dropped {all} packets", table(fault)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(direction: Direction) -> PacketFilter {
        PacketFilter { node: "SRV1".into(), protocol: Transport::Tcp, port: 80, direction }
    }

    #[test]
    fn rules_drop_one_port_at_the_hooks_of_the_direction() {
        assert_eq!(
            rules(&fault(Direction::In)),
            "table inet lab_filter_tcp_80_in {\nchain prerouting { type filter hook prerouting priority -290; policy accept; \
             tcp dport 80 counter drop; }\n}\n"
        );
        let both = rules(&fault(Direction::Both));
        assert!(both.contains("hook prerouting") && both.contains("hook postrouting"), "{both}");
        assert!(!rules(&fault(Direction::Out)).contains("prerouting"));
    }

    #[test]
    fn counters_are_read_in_their_order() {
        let text = r#"{"nftables": [{"metainfo": {}}, {"chain": {"name": "prerouting"}},
            {"rule": {"expr": [{"match": {}}, {"counter": {"packets": 3, "bytes": 180}}, {"drop": null}]}},
            {"rule": {"expr": [{"counter": {"packets": 0, "bytes": 0}}]}}]}"#;
        assert_eq!(read(text), [3, 0]);
        assert!(read("not json").is_empty());
    }
}
