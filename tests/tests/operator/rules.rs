//! NatRules: what the operator writes for agents of them, and what users read.

use anyhow::{Result, ensure};
use bascule_compile::{Snapshot, Trust, compile};
use bascule_crds::{NatRuleBinding, manifest, validate};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::agent;
use crate::cluster::Cluster;

const RULES: &str = include_str!("rules.yaml");

const RULE: &str = "nat out -n tp";

/// The only binding of the rule.
fn binding(cluster: &Cluster) -> Result<Value> {
    let mut all = cluster.list("natrulebindings")?;
    all.retain(|one| one["spec"]["natRule"] == "out");
    ensure!(all.len() == 1, "{} bindings of the rule", all.len());
    Ok(all.remove(0))
}

/// Requests for NatRuleBindings that were done.
fn writes(cluster: &Cluster) -> Result<u64> {
    cluster.writes(&["kind=\"NatRuleBinding\"", "result=\"done\""])
}

pub(crate) fn rules_are_carried(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(RULES)?;
    let mut snapshot = Snapshot::new(Trust::Cluster);
    for document in manifest::parse(RULES)? {
        snapshot.objects.push(validate::judge(&document.value).expect("good manifests"));
    }
    let compiled = compile(&snapshot);
    let wanted = compiled.nodes["gateway"].nat_rules.values().next().expect("a rule");
    eventually("its binding as it was compiled", || {
        let there: NatRuleBinding = serde_json::from_value(binding(cluster)?)?;
        ensure!(there.spec == **wanted, "{:?}", there.spec);
        Ok(())
    })?;
    let owner = binding(cluster)?["metadata"]["ownerReferences"][0].take();
    let uid = &cluster.get(RULE)?["metadata"]["uid"];
    ensure!(owner["uid"] == *uid && owner["kind"] == "NatRule", "{owner}");
    cluster.condition(RULE, "Accepted", "True")?;
    cluster.because(RULE, "Ready", "Unknown", "DirectorUnknown")?;
    agent::live(cluster, "gateway")?;
    cluster.because(RULE, "Programmed", "False", "Pending")?;
    agent::rule_carried_out(cluster, &binding(cluster)?)?;
    cluster.condition(RULE, "Programmed", "True")?;
    cluster.condition(RULE, "Ready", "True")?;
    the_director_counts_it(cluster)?;
    an_edit_is_one_write(cluster)?;
    undone_and_deleted(cluster)?;
    on_a_group(cluster)
}

fn the_director_counts_it(cluster: &Cluster) -> Result<()> {
    eventually("its director counts it", || {
        let status = cluster.get("director gateway")?["status"].take();
        ensure!(status["natRules"] == 1 && status["virtualServices"] == 0, "{status}");
        Ok(())
    })?;
    Ok(())
}

const GROUP: &str = "
apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: inner}
spec:
  members: [{director: dir1, priority: 200}, {director: dir2}]
  allow: [{namespaces: [tp], kinds: [NatRule]}]
  instances:
    - {name: inside, interface: in, virtualRouterId: 41, addresses: [172.16.193.254/16]}
---
apiVersion: bascule.dev/v1alpha1
kind: NatRule
metadata: {name: both, namespace: tp}
spec: {vrrpGroup: inner, masquerade: {outInterface: out}}
";

/// Of a group it is on every member, each of which says that it is in its kernel; and it goes with the group.
fn on_a_group(cluster: &Cluster) -> Result<()> {
    cluster.apply(GROUP)?;
    let bindings = |cluster: &Cluster| -> Result<Vec<Value>> {
        let mut all = cluster.list("natrulebindings")?;
        all.retain(|one| one["spec"]["natRule"] == "both");
        Ok(all)
    };
    eventually("a binding on each member", || {
        let mut told: Vec<_> = bindings(cluster)?
            .iter()
            .map(|one| {
                let spec = &one["spec"];
                (
                    spec["director"].clone(),
                    spec["vrrpGroup"].clone(),
                    spec["masquerade"]["outInterface"].clone(),
                )
            })
            .collect();
        told.sort_by_key(|(director, _, _)| director.to_string());
        // Each has its own name for the interface.
        let wanted = [("dir1", "enp0s3"), ("dir2", "eth0")]
            .map(|(director, interface)| (json!(director), json!("inner"), json!(interface)));
        ensure!(told == wanted, "{told:?}");
        Ok(())
    })?;
    for director in ["dir1", "dir2"] {
        agent::live(cluster, director)?;
    }
    let all = bindings(cluster)?;
    agent::rule_carried_out(cluster, &all[0])?;
    cluster.because("nat both -n tp", "Programmed", "False", "Pending")?;
    agent::rule_carried_out(cluster, &all[1])?;
    cluster.condition("nat both -n tp", "Programmed", "True")?;
    cluster.condition("nat both -n tp", "Ready", "True")?;
    // One that is lost says nothing of it any more, and the other one's word counts.
    agent::stop(cluster, "dir2")?;
    cluster.settled()?;
    cluster.condition("nat both -n tp", "Ready", "True")?;
    cluster.kubectl("delete vg inner")?;
    eventually("nothing is left of it on the members", || {
        let left = bindings(cluster)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    cluster.condition("nat both -n tp", "ResolvedRefs", "False")?;
    cluster.because("nat both -n tp", "Programmed", "False", "NotInForce")?;
    cluster.kubectl("delete nat both -n tp")?;
    agent::live(cluster, "dir2")
}

fn an_edit_is_one_write(cluster: &Cluster) -> Result<()> {
    cluster.settled()?;
    let before = writes(cluster)?;
    let patch = r#"[{"op":"replace","path":"/spec/masquerade/outInterface","value":"eth1"}]"#;
    cluster.server.kubectl_ok(["patch", "nat", "out", "-n", "tp", "--type=json", "-p", patch])?;
    eventually("the other interface", || {
        let there = binding(cluster)?;
        ensure!(there["spec"]["masquerade"]["outInterface"] == "eth1", "{there}");
        Ok(())
    })?;
    cluster.settled()?;
    let written = writes(cluster)? - before;
    ensure!(written == 1, "{written} writes for an edit\n{}", cluster.operator.log());
    Ok(())
}

fn undone_and_deleted(cluster: &Cluster) -> Result<()> {
    let before = binding(cluster)?;
    let name = before["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    cluster.kubectl(&format!("delete natb {name} -n tp"))?;
    eventually("it is there again", || {
        let there = binding(cluster)?;
        ensure!(
            there["metadata"]["uid"] != before["metadata"]["uid"] && there["spec"] == before["spec"],
            "{there}"
        );
        Ok(())
    })?;
    cluster.kubectl("delete nat out -n tp")?;
    eventually("its binding goes", || {
        let left = cluster.list("natrulebindings")?;
        ensure!(!left.iter().any(|one| one["spec"]["natRule"] == json!("out")), "{left:?}");
        Ok(())
    })?;
    cluster.kubectl("delete director gateway")?;
    agent::die(cluster, "gateway");
    eventually("its configuration goes", || {
        let left = cluster.list("directorconfigs")?;
        ensure!(!left.iter().any(|one| one["metadata"]["name"] == "gateway"), "{left:?}");
        Ok(())
    })?;
    Ok(())
}
