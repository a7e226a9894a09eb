//! What users read.

use anyhow::{Result, ensure};
use bascule_tests::operator::eventually;
use serde_json::{Value, json};

use crate::agent;
use crate::cluster::{Cluster, condition_of};

pub(crate) fn life_and_death(cluster: &mut Cluster) -> Result<()> {
    let unknown = |cluster: &Cluster, director: &str, why: &str| {
        eventually(&format!("{director}: {why}"), || {
            let group = cluster.get("vg front")?;
            let members = group["status"]["members"].as_array().cloned().unwrap_or_default();
            let member = members.iter().find(|one| one["director"] == director).cloned().unwrap_or_default();
            ensure!(member["state"] == "Unknown", "{group}");
            ensure!(member["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{member}");
            Ok(())
        })
    };
    unknown(cluster, "dir1", "no agent has reported")?;
    agent::live(cluster, "dir1")?;
    unknown(cluster, "dir1", "has not reported this group yet")?;
    agent::stop(cluster, "dir1")?;
    unknown(cluster, "dir1", "was stopped")?;
    // One that was renewed long ago, by a clock that was right.
    agent::lived_once(cluster, "dir2")?;
    unknown(cluster, "dir2", "not been heard for 40 s")?;
    // And one that is not renewed any more.
    agent::live(cluster, "dir1")?;
    agent::machine(cluster, "dir1", Some(("Active", 200)))?;
    cluster.condition("vg front", "Ready", "True")?;
    agent::die(cluster, "dir1");
    let took = unknown(cluster, "dir1", "not been heard for 40 s")?;
    println!("  unknown {:.0} s after its last sign of life", took.as_secs_f64());
    let group = cluster.get("vg front")?;
    ensure!(group["status"]["active"].as_array().is_none_or(Vec::is_empty), "{group}");
    ensure!(condition_of(&group, "Ready")["status"] == "Unknown", "{group}");
    Ok(())
}

pub(crate) fn ready_when_agents_say_so(cluster: &mut Cluster) -> Result<()> {
    for director in ["dir1", "dir2"] {
        agent::live(cluster, director)?;
    }
    agent::carried_out(cluster, "web", "dir1", 2, 2)?;
    // The other one lives and has not said anything.
    cluster.because("vs web -n tp", "Ready", "Unknown", "Pending")?;
    agent::carried_out(cluster, "web", "dir2", 1, 2)?;
    cluster.server.kubectl_ok(["wait", "--for=condition=Ready", "vs/web", "-n", "tp", "--timeout=120s"])?;
    eventually("the lowest count counts", || {
        let status = cluster.get("vs web -n tp")?["status"].take();
        ensure!(status["realServers"] == json!({"up": 1, "total": 2}), "{status}");
        let summary = json!({"addresses": "192.16.193.30", "ports": "80/TCP", "up": "1/2"});
        ensure!(status["summary"] == summary, "{status}");
        Ok(())
    })?;
    let generation = cluster.get("vs web -n tp")?["metadata"]["generation"].clone();
    let before = cluster.condition("vs web -n tp", "Ready", "True")?;
    ensure!(before["observedGeneration"] == generation, "{before}");
    // Nothing that changes but the condition itself changes its time.
    agent::carried_out(cluster, "web", "dir2", 2, 2)?;
    eventually("the count", || {
        ensure!(cluster.get("vs web -n tp")?["status"]["realServers"]["up"] == 2);
        Ok(())
    })?;
    let after = cluster.condition("vs web -n tp", "Ready", "True")?;
    ensure!(before == after, "{before} {after}");
    // Until the agents have carried the change out, `Ready` speaks of what was before.
    let patch = r#"[{"op":"replace","path":"/spec/realServers/1/weight","value":3}]"#;
    cluster.server.kubectl_ok(["patch", "vs", "web", "-n", "tp", "--type=json", "-p", patch])?;
    eventually("the change is accepted", || {
        let service = cluster.get("vs web -n tp")?;
        ensure!(
            condition_of(&service, "Accepted")["observedGeneration"] == service["metadata"]["generation"]
        );
        let ready = condition_of(&service, "Ready");
        ensure!(ready["observedGeneration"] == generation && ready["status"] == "True", "{ready}");
        ensure!(condition_of(&service, "Programmed")["reason"] == "Pending", "{service}");
        Ok(())
    })?;
    let early =
        cluster.server.kubectl_ok(["wait", "--for=condition=Ready", "vs/web", "-n", "tp", "--timeout=1s"]);
    ensure!(early.is_err(), "kubectl wait took what was said of the generation before");
    for director in ["dir1", "dir2"] {
        agent::carried_out(cluster, "web", director, 2, 2)?;
    }
    cluster.server.kubectl_ok(["wait", "--for=condition=Ready", "vs/web", "-n", "tp", "--timeout=120s"])?;
    Ok(())
}

pub(crate) fn the_group_has_one_active(cluster: &mut Cluster) -> Result<()> {
    let status = |cluster: &Cluster, check: &dyn Fn(&Value) -> bool| {
        eventually("the group's status", || {
            let group = cluster.get("vg front")?;
            ensure!(check(&group["status"]), "{}", group["status"]);
            Ok(())
        })
    };
    agent::machine(cluster, "dir1", Some(("Active", 200)))?;
    agent::machine(cluster, "dir2", Some(("Backup", 100)))?;
    agent::machine(cluster, "router", None)?;
    status(cluster, &|status| {
        status["active"] == json!(["dir1"])
            && status["redundancy"] == 1
            && status["members"][0]["state"] == "Active"
            && status["members"][1]
                == json!({"director": "dir2", "state": "Backup", "priority": 100, "reason": "told by a test"})
    })?;
    cluster.server.kubectl_ok(["wait", "--for=condition=Ready", "vg/front", "--timeout=120s"])?;
    let group = cluster.get("vg front")?;
    let ids = json!([{"name": "outside", "virtualRouterId": 30}, {"name": "inside", "virtualRouterId": 31}]);
    ensure!(group["status"]["instances"] == ids, "{group}");
    let since = group["status"]["since"].clone();
    ensure!(since.is_string(), "{group}");
    // A failover: at most two writes of the group.
    cluster.settled()?;
    let before = cluster.writes(&["kind=\"VrrpGroup\""])?;
    let services = cluster.writes(&["kind=\"VirtualService\""])?;
    agent::machine(cluster, "dir1", Some(("Fault", 200)))?;
    agent::machine(cluster, "dir2", Some(("Active", 100)))?;
    status(cluster, &|status| status["active"] == json!(["dir2"]) && status["redundancy"] == 0)?;
    cluster.because("vg front", "Degraded", "True", "MemberFault")?;
    cluster.settled()?;
    let writes = cluster.writes(&["kind=\"VrrpGroup\""])? - before;
    ensure!(writes <= 2, "{writes} writes of the group for a failover");
    ensure!(services == cluster.writes(&["kind=\"VirtualService\""])?, "a failover wrote VirtualServices");
    // A split brain is told by its name.
    agent::machine(cluster, "dir1", Some(("Active", 200)))?;
    cluster.because("vg front", "Ready", "False", "SeveralActive")?;
    eventually("an event tells of it", || {
        let events = cluster.kubectl("get events.events.k8s.io -n default -o jsonpath={.items[*].reason}")?;
        ensure!(events.contains("SeveralActive"), "{events}");
        Ok(())
    })?;
    agent::machine(cluster, "dir2", Some(("Backup", 100)))?;
    status(cluster, &|status| status["active"] == json!(["dir1"]))?;
    let director = cluster.get("director dir1")?;
    ensure!(
        director["status"]["agentVersion"] == "0.1.0" && director["status"]["kernel"] == "6.1.0-test",
        "{director}"
    );
    ensure!(director["status"]["virtualServices"] == 1, "{director}");
    cluster.condition("director dir1", "Ready", "True")?;
    Ok(())
}

/// An id that a group leaves out is found once and stays, whichever of the two places loses it.
pub(crate) fn ids_that_are_left_out(cluster: &mut Cluster) -> Result<()> {
    let group = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VrrpGroup", "metadata": {"name": "back"},
        "spec": {
            "members": [{"director": "dir1"}, {"director": "dir2", "priority": 50}],
            "instances": [{"name": "x", "interface": "eth5", "addresses": ["192.0.2.5/32"]}],
        },
    });
    cluster.apply(&group.to_string())?;
    let id = |cluster: &Cluster, wanted: Option<u64>| -> Result<u64> {
        let mut found = 0;
        eventually("the id of the group and of its members", || {
            let status = cluster.get("vg back")?["status"].take();
            let pinned = status["instances"][0]["virtualRouterId"].as_u64();
            ensure!(pinned.is_some() && (wanted.is_none() || pinned == wanted), "{status}");
            for director in ["dir1", "dir2"] {
                let config = cluster.get(&format!("dc {director}"))?;
                let groups = config["spec"]["vrrp"].as_array().cloned().unwrap_or_default();
                let form = groups.into_iter().find(|one| one["name"] == "back").unwrap_or_default();
                ensure!(form["instances"][0]["virtualRouterId"].as_u64() == pinned, "{form}");
            }
            found = pinned.unwrap_or_default();
            Ok(())
        })?;
        Ok(found)
    };
    let first = id(cluster, None)?;
    ensure!(first == 101, "{first}");
    // An id that the operator would not choose shows whether what is there counts.
    let restart = |cluster: &mut Cluster| {
        let next = cluster.another()?;
        std::mem::replace(&mut cluster.operator, next).terminate()?;
        cluster.wait_until_it_leads()
    };
    let named = |id: Value| {
        json!([{"op": "replace", "path": "/spec/instances/0/virtualRouterId", "value": id}]).to_string()
    };
    let add = named(json!(77)).replace("replace", "add");
    cluster.server.kubectl_ok(["patch", "vg", "back", "--type=json", "-p", &add])?;
    id(cluster, Some(77))?;
    let remove = r#"[{"op":"remove","path":"/spec/instances/0/virtualRouterId"}]"#;
    cluster.server.kubectl_ok(["patch", "vg", "back", "--type=json", "-p", remove])?;
    restart(cluster)?;
    id(cluster, Some(77))?;
    for lost in ["status", "configurations"] {
        // While nobody leads, so that nobody puts it back.
        cluster.operator.signal(libc::SIGSTOP);
        if lost == "status" {
            let patch = r#"{"status":{"instances":null}}"#;
            cluster.server.kubectl_ok([
                "patch",
                "vg",
                "back",
                "--subresource=status",
                "--type=merge",
                "-p",
                patch,
            ])?;
        } else {
            cluster.kubectl("delete dc dir1 dir2")?;
        }
        let next = cluster.another()?;
        std::mem::replace(&mut cluster.operator, next).kill();
        cluster.wait_until_it_leads()?;
        id(cluster, Some(77))?;
    }
    cluster.kubectl("delete vg back")?;
    cluster.settled()
}
