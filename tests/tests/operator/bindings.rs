//! What the operator writes for agents.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use bascule_compile::{Snapshot, Trust, compile};
use bascule_crds::{manifest, validate};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::agent;
use crate::cluster::Cluster;

const TP: &str = include_str!("tp.yaml");

/// Configurations by director, and bindings by VirtualService and director.
type Specs = (BTreeMap<String, Value>, BTreeMap<(String, String), Value>);

/// What the same manifests come to as files.
fn as_files(text: &str) -> Specs {
    let mut snapshot = Snapshot::new(Trust::Files);
    for document in manifest::parse(text).expect("YAML") {
        snapshot.objects.push(validate::judge(&document.value).expect("good manifests"));
    }
    let (mut configs, mut bindings) = (BTreeMap::new(), BTreeMap::new());
    for (director, node) in compile(&snapshot).nodes {
        for (key, spec) in node.bindings {
            bindings.insert((key.to_string(), director.clone()), serde_json::to_value(&*spec).unwrap());
        }
        configs.insert(director, serde_json::to_value(node.director).unwrap());
    }
    (configs, bindings)
}

/// What is in the API server, read with the types, so that defaults are spelled as the compiler spells them.
fn there(cluster: &Cluster) -> Result<Specs> {
    let (mut configs, mut bindings) = (BTreeMap::new(), BTreeMap::new());
    for one in cluster.list("directorconfigs")? {
        let config: bascule_crds::DirectorConfig = serde_json::from_value(one)?;
        configs.insert(config.metadata.name.unwrap_or_default(), serde_json::to_value(config.spec)?);
    }
    for one in cluster.list("virtualservicebindings")? {
        let binding: bascule_crds::VirtualServiceBinding = serde_json::from_value(one)?;
        let namespace = binding.metadata.namespace.unwrap_or_default();
        let key = (format!("{namespace}/{}", binding.spec.virtual_service), binding.spec.director.clone());
        ensure!(
            bindings.insert(key.clone(), serde_json::to_value(binding.spec)?).is_none(),
            "two of {key:?}"
        );
    }
    Ok((configs, bindings))
}

pub(crate) fn what_files_give(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(TP)?;
    let wanted = as_files(TP);
    ensure!(wanted.1.len() == 3 && wanted.0.len() == 3, "{wanted:?}");
    let took = eventually("bindings and configurations as from files", || {
        let there = there(cluster)?;
        ensure!(there == wanted, "{there:#?}\n{wanted:#?}");
        Ok(())
    })?;
    println!("  as from files {:.1} s after `kubectl apply`", took.as_secs_f64());
    let binding = cluster.binding("web", "dir1")?;
    let service = cluster.get("vs web -n tp")?;
    let owner = &binding["metadata"]["ownerReferences"][0];
    ensure!(owner["uid"] == service["metadata"]["uid"] && owner["kind"] == "VirtualService", "{binding}");
    cluster.condition("vs web -n tp", "Accepted", "True")?;
    cluster.condition("hc it-works -n tp", "Accepted", "True")?;
    cluster.condition("vs on-the-router -n tp", "Accepted", "True")?;
    cluster.condition("vg front", "Accepted", "True")?;
    cluster.because("nat web-from-outside -n tp", "Accepted", "False", "NotAllowed")?;
    // No agent has spoken.
    cluster.because("vs web -n tp", "Ready", "Unknown", "DirectorUnknown")?;
    Ok(())
}

pub(crate) fn nothing_is_written_twice(cluster: &mut Cluster) -> Result<()> {
    cluster.settled()?;
    let before = cluster.writes(&[])?;
    // A label says nothing to anybody.
    cluster.kubectl("label vs web -n tp colour=blue")?;
    eventually("the label is seen", || {
        ensure!(cluster.get("vs web -n tp")?["metadata"]["labels"]["colour"] == "blue");
        Ok(())
    })?;
    cluster.settled()?;
    let after = cluster.writes(&[])?;
    ensure!(before == after, "{} writes for a label", after - before);
    let refused = cluster.writes(&["result=\"refused\""])?;
    ensure!(refused == 0, "{refused} writes were refused\n{}", cluster.operator.log());
    Ok(())
}

pub(crate) fn a_weight_is_one_write(cluster: &mut Cluster) -> Result<()> {
    for director in ["dir1", "dir2", "router"] {
        agent::live(cluster, director)?;
    }
    agent::carried_out(cluster, "on-the-router", "router", 1, 1)?;
    cluster.condition("vs on-the-router -n tp", "Ready", "True")?;
    cluster.settled()?;
    let others = versions(cluster, "on-the-router")?;
    let (specs, statuses) = counts(cluster)?;
    let patch = r#"[{"op":"replace","path":"/spec/realServers/0/weight","value":7}]"#;
    cluster.server.kubectl_ok(["patch", "vs", "on-the-router", "-n", "tp", "--type=json", "-p", patch])?;
    eventually("the new weight", || {
        let binding = cluster.binding("on-the-router", "router")?;
        ensure!(binding["spec"]["realServers"][0]["weight"] == 7, "{binding}");
        Ok(())
    })?;
    agent::carried_out(cluster, "on-the-router", "router", 1, 1)?;
    cluster.server.kubectl_ok([
        "wait",
        "--for=condition=Ready",
        "vs/on-the-router",
        "-n",
        "tp",
        "--timeout=120s",
    ])?;
    cluster.condition("vs on-the-router -n tp", "Programmed", "True")?;
    cluster.settled()?;
    let (specs, statuses) = (counts(cluster)?.0 - specs, counts(cluster)?.1 - statuses);
    ensure!(specs == 1, "{specs} writes of specs for one weight\n{}", cluster.operator.log());
    ensure!(statuses <= 2, "{statuses} writes of the user's object's status for one weight");
    ensure!(others == versions(cluster, "on-the-router")?, "another binding or configuration was written");
    println!("  one weight: {specs} write of a spec, {statuses} of a status");
    Ok(())
}

/// Writes of specs, and of statuses of VirtualServices.
fn counts(cluster: &Cluster) -> Result<(u64, u64)> {
    let specs = cluster.writes(&["action=\"apply\""])?
        + cluster.writes(&["action=\"strip\""])?
        + cluster.writes(&["action=\"delete\""])?;
    Ok((specs, cluster.writes(&["action=\"status\"", "kind=\"VirtualService\""])?))
}

/// The generations of all outputs but those of a service.
fn versions(cluster: &Cluster, but: &str) -> Result<Vec<(Value, Value)>> {
    let mut all = cluster.list("virtualservicebindings")?;
    all.retain(|one| one["spec"]["virtualService"] != but);
    all.extend(cluster.list("directorconfigs")?);
    let version = |one: Value| (one["metadata"]["uid"].clone(), one["metadata"]["generation"].clone());
    Ok(all.into_iter().map(version).collect())
}

pub(crate) fn what_others_undo_comes_back(cluster: &mut Cluster) -> Result<()> {
    let wanted = there(cluster)?;
    let name = cluster.binding("web", "dir1")?["metadata"]["name"].as_str().context("no name")?.to_owned();
    let patches = [
        // Another value, another address, something more, and less.
        ("merge", json!({"spec": {"onFailure": "Remove"}})),
        ("merge", json!({"spec": {"addresses": ["192.16.193.99"]}})),
        ("merge", json!({"spec": {"checkHost": "www.example", "quorum": {"weight": 2}}})),
        ("json", json!([{"op": "remove", "path": "/spec/sorryServers"}])),
        ("merge", json!({"metadata": {"ownerReferences": null, "labels": null}})),
    ];
    for (kind, patch) in patches {
        let before = cluster.get(&format!("vsb {name} -n tp"))?;
        cluster.server.kubectl_ok([
            "patch",
            "vsb",
            &name,
            "-n",
            "tp",
            &format!("--type={kind}"),
            "-p",
            &patch.to_string(),
        ])?;
        eventually(&format!("what {patch} undid"), || {
            let there = there(cluster)?;
            ensure!(there == wanted, "{there:#?}");
            let after = cluster.get(&format!("vsb {name} -n tp"))?;
            let kept =
                |one: &Value| (one["metadata"]["ownerReferences"].clone(), one["metadata"]["labels"].clone());
            ensure!(kept(&after) == kept(&before), "{after}");
            ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "it was made anew");
            Ok(())
        })?;
    }
    cluster.kubectl(&format!("delete vsb {name} -n tp"))?;
    cluster.kubectl("delete dc dir2")?;
    let patch = json!({"spec": {"timeouts": {"udp": "7s"}, "sysctls": "Report"}}).to_string();
    cluster.server.kubectl_ok(["patch", "dc", "dir1", "--type=merge", "-p", &patch])?;
    // One that nobody asked for.
    let mut foreign = cluster.binding("web", "dir2")?;
    foreign["metadata"] = json!({"name": "by-hand", "namespace": "tp"});
    cluster.apply(&foreign.to_string())?;
    eventually("what was deleted, changed and added", || {
        let there = there(cluster)?;
        ensure!(there == wanted, "{there:#?}");
        Ok(())
    })?;
    Ok(())
}

pub(crate) fn a_name_that_was_used_again(cluster: &mut Cluster) -> Result<()> {
    let manifest = cluster.get("vs on-the-router -n tp")?;
    // No controller-manager runs here that would collect what belongs to nobody, as it would in a cluster.
    cluster.kubectl("delete vs on-the-router -n tp")?;
    let mut again =
        json!({"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "spec": manifest["spec"]});
    again["metadata"] = json!({"name": "on-the-router", "namespace": "tp"});
    cluster.apply(&again.to_string())?;
    eventually("the binding belongs to the new one", || {
        let uid = cluster.get("vs on-the-router -n tp")?["metadata"]["uid"].clone();
        let binding = cluster.binding("on-the-router", "router")?;
        ensure!(binding["metadata"]["ownerReferences"][0]["uid"] == uid, "{binding}");
        Ok(())
    })?;
    Ok(())
}

pub(crate) fn what_is_deleted_goes(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl("delete vs on-the-router -n tp")?;
    eventually("its binding goes", || {
        let left = cluster.bindings("on-the-router")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    ensure!(cluster.bindings("web")?.len() == 2, "others stay");
    cluster.kubectl("delete director router")?;
    eventually("its configuration goes", || {
        let left = cluster.list("directorconfigs")?;
        ensure!(left.len() == 2, "{left:?}");
        Ok(())
    })?;
    // As it was, for those who come next.
    cluster.apply(TP)?;
    eventually("all is there again", || {
        let there = there(cluster)?;
        ensure!(there == as_files(TP), "{there:#?}");
        Ok(())
    })?;
    Ok(())
}
