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
    an_edit_is_one_write(cluster)?;
    undone_and_deleted(cluster)
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
