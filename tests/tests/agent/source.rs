//! What the agent's source tells the reconciler.

use anyhow::{Context as _, Result, ensure};
use bascule_agent::reconcile::ConfigChange;
use bascule_compile::{CheckKey, NodeConfig, Snapshot, Trust, compile};
use bascule_crds::{manifest, validate};
use bascule_tests::operator::{NAMESPACE, eventually};

use crate::cluster::Cluster;
use crate::follower::{Follower, agent, with_rights_of};

pub(crate) const TP: &str = include_str!("../operator/tp.yaml");

/// What the same manifests come to as files.
fn as_files(text: &str, director: &str) -> Result<NodeConfig> {
    let mut snapshot = Snapshot::new(Trust::Files);
    for document in manifest::parse(text).expect("YAML") {
        snapshot.objects.push(validate::judge(&document.value).expect("good manifests"));
    }
    compile(&snapshot).nodes.remove(director).context("no such director")
}

fn follower(cluster: &Cluster) -> Result<Follower> {
    follower_of(cluster, "dir1")
}

fn follower_of(cluster: &Cluster, director: &str) -> Result<Follower> {
    let kubeconfig = cluster.server.dir().join(format!("bascule-agent-{director}.kubeconfig"));
    Follower::start(&kubeconfig, director, &cluster.server.dir().join(format!("state-{director}")))
}

fn srv2(weight: u32) -> String {
    TP.replace("172.16.193.40, weight: 2}", &format!("172.16.193.40, weight: {weight}}}"))
}

pub(crate) fn what_files_give(cluster: &mut Cluster) -> Result<()> {
    agent(cluster, "dir1")?;
    let follower = follower(cluster)?;
    // Everything can be listed, and there is nothing: that is no reason to clear what the kernel holds.
    eventually("it has listed everything", || {
        let lost = follower.api.summary().lost.context("it says why there is nothing")?;
        ensure!(lost.contains("has no DirectorConfig dir1"), "{lost}");
        Ok(())
    })?;
    ensure!(follower.count() == 0);
    cluster.apply(TP)?;
    let wanted = as_files(TP, "dir1")?;
    ensure!(wanted.bindings.len() == 1 && wanted.director.vrrp.len() == 1, "{wanted:?}");
    let took = eventually("the same as from files", || {
        let (config, checks) = follower.told()?;
        ensure!(config == wanted, "{config:#?}\n{wanted:#?}");
        ensure!(checks.keys().collect::<Vec<_>>() == [&CheckKey::new("tp", "it-works")], "{checks:?}");
        Ok(())
    })?;
    println!("  the same as from files {:.1} s after `kubectl apply`", took.as_secs_f64());
    follower.end();
    Ok(())
}

pub(crate) fn a_weight_is_one_small_update(cluster: &mut Cluster) -> Result<()> {
    let follower = follower(cluster)?;
    ensure_connected(&follower)?;
    let before = follower.count();
    ensure!(before == 1, "what is remembered is all that there is: {before} updates");
    cluster.apply(&srv2(3))?;
    eventually("the weight", || {
        ensure!(follower.weight("web", "srv2")? == 3);
        Ok(())
    })?;
    cluster.settled()?;
    ensure!(follower.count() == before + 1, "{} updates", follower.count());
    let update = follower.update(before)?;
    let ConfigChange::Some { director: None, bindings, nat_rules } = &update.change else {
        anyhow::bail!("{update:?}")
    };
    ensure!(bindings.len() == 1 && nat_rules.is_empty() && update.checks.is_empty(), "{update:?}");
    follower.end();
    Ok(())
}

fn ensure_connected(follower: &Follower) -> Result<()> {
    eventually("it is connected and has listed everything", || {
        let (link, summary) = (follower.api.link(), follower.api.summary());
        ensure!(link.connected && summary.started && summary.lost.is_none(), "{link:?} {summary:?}");
        Ok(())
    })?;
    Ok(())
}

const RULES: &str = include_str!("../operator/rules.yaml");

/// A NatRule comes, changes and goes, the last while nobody looks.
pub(crate) fn nat_rules_too(cluster: &mut Cluster) -> Result<()> {
    agent(cluster, "gateway")?;
    cluster.apply(RULES)?;
    let follower = follower_of(cluster, "gateway")?;
    let wanted = as_files(RULES, "gateway")?;
    eventually("the same as from files", || {
        let (config, _) = follower.told()?;
        ensure!(config == wanted && config.nat_rules.len() == 1, "{config:#?}\n{wanted:#?}");
        Ok(())
    })?;
    let changed = RULES.replace("eth0", "eth1");
    cluster.apply(&changed)?;
    let wanted = as_files(&changed, "gateway")?;
    eventually("the other interface", || {
        ensure!(follower.told()?.0 == wanted);
        Ok(())
    })?;
    follower.end();
    cluster.kubectl("delete nat out -n tp")?;
    let follower = follower_of(cluster, "gateway")?;
    eventually("nothing, after what is remembered", || {
        let ConfigChange::All(all) = follower.update(0)?.change else { anyhow::bail!("not all") };
        ensure!(all.nat_rules.len() == 1, "{all:?}");
        ensure!(follower.told()?.0.nat_rules.is_empty());
        Ok(())
    })?;
    follower.end();
    Ok(())
}

pub(crate) fn what_is_deleted_goes(cluster: &mut Cluster) -> Result<()> {
    let follower = follower(cluster)?;
    cluster.kubectl("delete vs web -n tp")?;
    eventually("no binding, and no check that nobody names", || {
        let (config, checks) = follower.told()?;
        ensure!(config.bindings.is_empty() && checks.is_empty(), "{config:?} {checks:?}");
        Ok(())
    })?;
    // While nobody looks.
    follower.end();
    cluster.apply(TP)?;
    cluster.condition("vs web -n tp", "Accepted", "True")?;
    let follower = self::follower(cluster)?;
    eventually("it is back", || {
        ensure!(follower.weight("web", "srv2")? == 2);
        Ok(())
    })?;
    follower.end();
    cluster.kubectl("delete vs web -n tp")?;
    eventually("the operator has deleted the bindings", || {
        ensure!(cluster.bindings("web")?.is_empty());
        Ok(())
    })?;
    let follower = self::follower(cluster)?;
    eventually("what is remembered comes first", || {
        let ConfigChange::All(all) = follower.update(0)?.change else { anyhow::bail!("not all") };
        ensure!(all.bindings.len() == 1, "{all:?}");
        Ok(())
    })?;
    eventually("it is gone", || {
        ensure!(follower.told()?.0.bindings.is_empty());
        Ok(())
    })?;
    cluster.apply(TP)?;
    eventually("it is back again", || {
        ensure!(follower.weight("web", "srv2")? == 2);
        Ok(())
    })?;
    follower.end();
    Ok(())
}

pub(crate) fn a_form_that_cannot_be_used(cluster: &mut Cluster) -> Result<()> {
    let follower = follower(cluster)?;
    ensure_connected(&follower)?;
    // As a newer operator would write it.
    let binding = cluster.binding("web", "dir1")?;
    let name = binding["metadata"]["name"].as_str().context("a name")?.to_owned();
    let before = follower.count();
    let newer = r#"{"spec":{"realServersFrom":{"service":"web","forwarding":{"method":"Masquerade"}},"scheduler":{"name":"rr"}}}"#;
    cluster.operator.signal(libc::SIGSTOP);
    let patched = cluster.server.kubectl_ok(["patch", "vsb", &name, "-n", "tp", "--type=merge", "-p", newer]);
    let result = patched.and_then(|_| {
        eventually("it is a problem", || {
            let summary = follower.api.summary();
            ensure!(summary.problems == 1, "{summary:?}");
            Ok(())
        })
    });
    cluster.operator.signal(libc::SIGCONT);
    result?;
    eventually("the operator has written its own form again", || {
        let summary = follower.api.summary();
        ensure!(summary.problems == 0, "{summary:?}");
        Ok(())
    })?;
    cluster.settled()?;
    ensure!(follower.count() == before, "its last good form stayed: {:?}", follower.update(before));
    follower.end();
    Ok(())
}

pub(crate) fn api_server_gone(cluster: &mut Cluster) -> Result<()> {
    let follower = follower(cluster)?;
    ensure_connected(&follower)?;
    let (before, told) = (follower.count(), follower.told()?);
    cluster.server.kill_api_server();
    eventually("the loss is noticed", || {
        ensure!(!follower.api.link().connected);
        Ok(())
    })?;
    ensure!(follower.count() == before, "nothing changes");
    follower.end();
    // One that starts meanwhile goes on.
    let follower = self::follower(cluster)?;
    eventually("what is remembered", || {
        ensure!(follower.told()? == told);
        Ok(())
    })?;
    ensure!(follower.count() == 1 && !follower.api.link().connected);
    cluster.server.restart_api_server()?;
    ensure_connected(&follower)?;
    cluster.wait_until_it_leads()?;
    ensure!(follower.count() == 1, "nothing has changed: {:?}", follower.update(1));
    cluster.apply(&srv2(5))?;
    eventually("it has caught up", || {
        ensure!(follower.weight("web", "srv2")? == 5);
        Ok(())
    })?;
    follower.end();
    Ok(())
}

pub(crate) fn a_missing_right(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl(&format!("create serviceaccount nobody -n {NAMESPACE}"))?;
    let kubeconfig = with_rights_of(cluster, "nobody")?;
    let follower = Follower::start(&kubeconfig, "dir1", &cluster.server.dir().join("state-nobody"))?;
    for words in ["cannot list resource \"virtualservicebindings\"", "cannot list resource \"healthchecks\""]
    {
        eventually("it says which verb of what it lacks", || {
            let link = follower.api.link();
            ensure!(link.troubles.iter().any(|trouble| trouble.contains(words)), "{link:?}");
            Ok(())
        })?;
    }
    ensure!(follower.count() == 0);
    follower.end();
    Ok(())
}
