//! Keys of a VRRP group that are in Secrets: read with the rights that the chart gives for `agent.vrrpSecrets`, and no others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bascule_tests::helm::Helm;
use bascule_tests::operator::{NAMESPACE, eventually};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::cluster::{Cluster, condition_of};
use crate::follower::agent;
use crate::machine::{Agent, Machine};

const DIRECTOR: &str = "keyed";
const ADDRESS: &str = "192.16.193.60/32";
/// Where the agent keeps them.
const FILE: &str = "state/vrrp-secrets.json";
/// Two keys of 32 bytes, and what they are in base64.
const KEYS: [(&str, &str); 2] = [
    ("0123456789abcdef-precious-key-01", "MDEyMzQ1Njc4OWFiY2RlZi1wcmVjaW91cy1rZXktMDE="),
    ("fedcba9876543210-precious-key-02", "ZmVkY2JhOTg3NjU0MzIxMC1wcmVjaW91cy1rZXktMDI="),
];

/// The director, and a group with a key of that Secret.
fn group(name: &str, id: u8, secret: &str) -> String {
    let group = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VrrpGroup", "metadata": {"name": name},
        "spec": {
            "members": [{"director": DIRECTOR}], "advertisementInterval": "100ms",
            "instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": id,
                "addresses": [format!("192.16.193.{id}/32")]}],
            "authentication": {"hmac": {"activeKey": 1,
                "keys": [{"id": 1, "secretRef": {"name": secret, "key": "front"}}]}},
        },
    });
    group.to_string()
}

fn secret(name: &str, key: &str) -> String {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"front": key}})
        .to_string()
}

pub(crate) fn keys_of_a_group(cluster: &mut Cluster) -> Result<()> {
    let kubeconfig = agent(cluster, DIRECTOR)?;
    let chart = Helm::new(None)?;
    let objects = chart.objects(&["agent.vrrpSecrets=[\"vrrp\"]", "outsideDirectors=[\"keyed\"]"])?;
    let rights = objects.iter().filter(|one| one["metadata"]["name"] == "bascule-agent-vrrp-secrets");
    let rights: Vec<String> = rights.map(Value::to_string).collect();
    ensure!(rights.len() == 2, "a Role and its binding: {rights:?}");
    rights.iter().try_for_each(|one| cluster.apply(one))?;
    cluster.apply(
        &json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "Director",
        "metadata": {"name": DIRECTOR}, "spec": {}})
        .to_string(),
    )?;
    cluster.apply(&group("keyed", 60, "vrrp"))?;

    let text = fs::read_to_string(&kubeconfig)?;
    let port = text.split_once("https://127.0.0.1:").and_then(|(_, rest)| rest.split_once('"'));
    let machine = Machine::new(port.context("the port of the API server")?.0.parse()?)?;
    let directory = cluster.server.dir().join(DIRECTOR);
    let first = Agent::start(&machine, &kubeconfig, DIRECTOR, &directory, ("first", &[]))?;
    read(cluster, &machine, &first, &directory)
        .and_then(|()| refused(cluster, &machine, &first))
        .and_then(|()| replaced(cluster, &machine, &first))
        .and_then(|()| removed(cluster, &machine, &first))
        .and_then(|()| kept_by_a_flush(cluster, &machine, &first, &directory))
        .with_context(|| first.log())?;
    let second = without_api_server(cluster, &machine, first, &kubeconfig, &directory)?;
    nothing_shows_them(cluster, &machine, &second, &directory)?;
    ensure!(second.terminate()? == 0);
    cluster.kubectl("delete vg keyed")?;
    cluster.kubectl(&format!("delete director {DIRECTOR}"))?;
    cluster.kubectl(&format!("delete secret vrrp closed -n {NAMESPACE}"))?;
    Ok(())
}

/// Whether an advertisement, from its IPv4 header on, ends with the trailer of draft-cassen-vrrp-auth-hmac that this key makes: 12 bytes,
/// then the first 16 of the HMAC over 20 that say from whom it is, the message with its checksum as zero, the 12, and 16 zeros.
fn is_signed_with(packet: &[u8], key: &str) -> Result<bool> {
    let header = usize::from(packet[0] & 15) * 4;
    let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let message = packet.get(header..end).context("a whole packet")?;
    let (message, trailer) =
        message.split_at_checked(message.len().saturating_sub(28)).context("a trailer")?;
    ensure!(message.len() >= 8, "{packet:?}");
    let mut bound = [0; 20];
    (bound[0], bound[1], bound[2]) = (4, message[0] >> 4, message[1]);
    bound[4..8].copy_from_slice(&packet[12..16]);
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes())?;
    for part in [&bound, &message[..6], &[0, 0], &message[8..], &trailer[..12], &[0; 16]] {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes()[..16] == trailer[12..])
}

/// The group as its agent sees it.
fn seen(machine: &Machine, agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.status(machine)?;
    let groups = status["vrrp"]["groups"].as_array();
    let group = groups.into_iter().flatten().find(|one| one["group"] == name);
    group.cloned().with_context(|| format!("no group {name}: {status}"))
}

/// No group runs without its key; it begins when the Secret comes.
fn read(cluster: &Cluster, machine: &Machine, agent: &Agent, directory: &Path) -> Result<()> {
    let said = cluster.because("vg keyed", "Programmed", "False", "SecretNotFound")?;
    let words = said["message"].as_str().unwrap_or_default();
    ensure!(words.contains("there is no Secret bascule-system/vrrp"), "{said}");
    let member = &cluster.get("vg keyed")?["status"]["members"][0];
    ensure!(
        member["state"] == "Initialize" && member["reason"].to_string().contains("no Secret"),
        "{member}"
    );
    let group = seen(machine, agent, "keyed")?;
    ensure!(group["secrets"][0]["inForce"] == false && group["instances"] == json!([]), "{group}");
    ensure!(!machine.addresses("eth0")?.contains(ADDRESS) && !directory.join(FILE).exists());

    cluster.apply(&secret("vrrp", "short"))?;
    cluster.because("vg keyed", "Programmed", "False", "SecretInvalid")?;
    cluster.apply(&secret("vrrp", KEYS[0].0))?;
    eventually("the group has its addresses", || {
        ensure!(machine.addresses("eth0")?.contains(ADDRESS), "{}", agent.log());
        let group = cluster.get("vg keyed")?;
        ensure!(group["status"]["active"] == json!([DIRECTOR]), "{}", group["status"]);
        ensure!(!condition_of(&group, "Programmed")["reason"].to_string().contains("Secret"), "{group}");
        Ok(())
    })?;
    let packet = machine.advertisement("eth0")?;
    ensure!(is_signed_with(&packet, KEYS[0].0)? && !is_signed_with(&packet, KEYS[1].0)?, "{packet:?}");
    let file = directory.join(FILE);
    eventually("the key is on the disk", || {
        ensure!(fs::read_to_string(&file)?.contains(KEYS[0].1));
        Ok(())
    })?;
    let mode = fs::metadata(&file)?.mode() & 0o7777;
    ensure!(mode == 0o600, "{mode:o}");
    Ok(())
}

/// A Secret that the value does not name, which is there, and no other group suffers.
fn refused(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    cluster.apply(&secret("closed", KEYS[1].0))?;
    cluster.apply(&group("closed", 61, "closed"))?;
    let said = cluster.because("vg closed", "Programmed", "False", "SecretForbidden")?;
    let words = said["message"].as_str().unwrap_or_default();
    for word in [
        "may not read Secret bascule-system/closed",
        "add closed to agent.vrrpSecrets of the chart",
        "cannot list resource",
    ] {
        ensure!(words.contains(word), "{said}");
    }
    let [keyed, closed] = [seen(machine, agent, "keyed")?, seen(machine, agent, "closed")?];
    ensure!(keyed["state"] == "Active" && keyed["refused"].is_null(), "{keyed}");
    ensure!(closed["secrets"][0]["inForce"] == false && closed["instances"] == json!([]), "{closed}");
    ensure!(!machine.addresses("eth0")?.contains("192.16.193.61"));
    let lines = agent.log().lines().filter(|line| line.contains("SecretForbidden")).count();
    ensure!(lines == 1, "{lines} lines");
    cluster.kubectl("delete vg closed")?;
    eventually("what is good is good again", || {
        let group = cluster.get("vg keyed")?;
        ensure!(condition_of(&group, "Programmed")["reason"] != "SecretForbidden", "{group}");
        Ok(())
    })?;
    Ok(())
}

/// Another key is in force without a transition.
fn replaced(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    let before = seen(machine, agent, "keyed")?;
    let since = cluster.get("vg keyed")?["status"]["since"].clone();
    cluster.apply(&secret("vrrp", KEYS[1].0))?;
    let version = cluster.get(&format!("secret vrrp -n {NAMESPACE}"))?["metadata"]["resourceVersion"].clone();
    ensure!(before["secrets"][0]["resourceVersion"] != version, "{before}");
    eventually("the new key is in force", || {
        let group = seen(machine, agent, "keyed")?;
        let key = &group["secrets"][0];
        ensure!(key["resourceVersion"] == version && key["inForce"] == true, "{group}");
        Ok(())
    })?;
    eventually("it signs with it", || {
        let packet = machine.advertisement("eth0")?;
        ensure!(is_signed_with(&packet, KEYS[1].0)? && !is_signed_with(&packet, KEYS[0].0)?, "{packet:?}");
        Ok(())
    })?;
    let after = seen(machine, agent, "keyed")?;
    let became = |group: &Value| group["instances"][0]["becameActive"].clone();
    ensure!(after["state"] == "Active" && became(&after) == became(&before), "{before} {after}");
    ensure!(after["secondsInState"].as_f64() > before["secondsInState"].as_f64(), "{before} {after}");
    ensure!(after["reason"] == before["reason"], "{before} {after}");
    ensure!(cluster.get("vg keyed")?["status"]["since"] == since && !since.is_null());
    Ok(())
}

/// The Secret goes, and what is in force stays; it is said, and over when the Secret is there again.
fn removed(cluster: &Cluster, machine: &Machine, agent: &Agent) -> Result<()> {
    cluster.kubectl(&format!("delete secret vrrp -n {NAMESPACE}"))?;
    let said = cluster.because("vg keyed", "Degraded", "True", "SecretNotFound")?;
    let words = said["message"].as_str().unwrap_or_default();
    ensure!(words.contains("the key that was read last stays in force"), "{said}");
    let group = seen(machine, agent, "keyed")?;
    ensure!(group["state"] == "Active" && group["instances"][0]["becameActive"] == 1, "{group}");
    let metrics = machine.get("/metrics")?;
    ensure!(metrics.contains("\nbascule_vrrp_secrets_failing{group=\"keyed\"} 1.0\n"), "{metrics}");
    cluster.apply(&secret("vrrp", KEYS[1].0))?;
    eventually("it is there again", || {
        let group = cluster.get("vg keyed")?;
        ensure!(condition_of(&group, "Degraded")["reason"] != "SecretNotFound", "{group}");
        Ok(())
    })?;
    Ok(())
}

/// A flush takes the group away and not its key: when it is taken back, the key is in force, though its Secret has gone meanwhile.
fn kept_by_a_flush(cluster: &Cluster, machine: &Machine, agent: &Agent, directory: &Path) -> Result<()> {
    let flush = |operations: &str| {
        cluster.server.kubectl_ok(["patch", "dc", DIRECTOR, "--type=json", "-p", operations]).map(drop)
    };
    // It would take the flush back.
    cluster.operator.signal(libc::SIGSTOP);
    let flushed = flush(r#"[{"op":"add","path":"/spec/flush","value":"by-hand"}]"#).and_then(|()| {
        cluster.kubectl(&format!("delete secret vrrp -n {NAMESPACE}"))?;
        eventually("it is empty", || {
            let config = cluster.get(&format!("dc {DIRECTOR}"))?;
            ensure!(config["status"]["flushed"] == "by-hand", "{config}");
            Ok(())
        })?;
        ensure!(!machine.addresses("eth0")?.contains(ADDRESS));
        ensure!(fs::read_to_string(directory.join(FILE))?.contains(KEYS[1].1), "the key is gone");
        flush(r#"[{"op":"remove","path":"/spec/flush"}]"#)
    });
    cluster.operator.signal(libc::SIGCONT);
    flushed?;
    eventually("it has everything again", || {
        ensure!(machine.addresses("eth0")?.contains(ADDRESS));
        let group = seen(machine, agent, "keyed")?;
        ensure!(group["state"] == "Active" && group["secrets"][0]["inForce"] == true, "{group}");
        Ok(())
    })?;
    ensure!(is_signed_with(&machine.advertisement("eth0")?, KEYS[1].0)?);
    cluster.apply(&secret("vrrp", KEYS[1].0))
}

/// An agent that starts without an API server has the key.
fn without_api_server(
    cluster: &mut Cluster,
    machine: &Machine,
    agent: Agent,
    kubeconfig: &Path,
    directory: &Path,
) -> Result<Agent> {
    let file = directory.join(FILE);
    eventually("the key that is in force is on the disk, and no other", || {
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(KEYS[1].1) && !text.contains(KEYS[0].1));
        Ok(())
    })?;
    cluster.server.kill_api_server();
    agent.kill();
    let agent = Agent::start(machine, kubeconfig, DIRECTOR, directory, ("second", &[]))?;
    eventually("it goes on with the key of the disk", || {
        let group = seen(machine, &agent, "keyed")?;
        ensure!(group["state"] == "Active" && group["secrets"][0]["inForce"] == true, "{group}");
        ensure!(machine.addresses("eth0")?.contains(ADDRESS));
        ensure!(agent.status(machine)?["api"]["connected"] == false);
        Ok(())
    })
    .with_context(|| agent.log())?;
    let packet = machine.advertisement("eth0")?;
    ensure!(is_signed_with(&packet, KEYS[1].0)?, "{packet:?}");
    let mode = fs::metadata(&file)?.mode() & 0o7777;
    ensure!(mode == 0o600, "{mode:o}");
    cluster.server.restart_api_server()?;
    cluster.wait_until_it_leads()?;
    eventually("it is connected again", || {
        ensure!(agent.status(machine)?["api"]["connected"] == true);
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(agent)
}

/// Wherever people look, no key stands.
fn nothing_shows_them(cluster: &Cluster, machine: &Machine, agent: &Agent, directory: &Path) -> Result<()> {
    let mut texts =
        vec![("status", agent.status(machine)?.to_string()), ("metrics", machine.get("/metrics")?)];
    for name in ["first.log", "second.log"] {
        texts.push((name, fs::read_to_string(directory.join(name))?));
    }
    texts.push(("journal", fs::read_to_string(directory.join("state/last-good.journal"))?));
    let objects =
        cluster.kubectl("get vg,directorconfigs,directors,events,events.events.k8s.io -A -o json")?;
    ensure!(objects.contains("SecretNotFound") || objects.contains("keyed"), "it shows what there is");
    texts.push(("objects", objects));
    for (name, text) in texts {
        for shown in KEYS.iter().flat_map(|(key, base64)| [key, base64]) {
            ensure!(!text.contains(*shown), "{name} shows {shown}");
        }
        ensure!(!text.contains("precious"), "{name} shows a part of a key");
    }
    Ok(())
}
