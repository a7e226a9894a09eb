//! A bad line, a namespace that goes, and hands that write where they should not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bascule_tests::bad_line::{BadLine, Fault, Request};
use bascule_tests::operator::{Operator, eventually};
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition_of};
use crate::disturbances::{consistent, services};

/// Whether it writes the spec of a binding.
fn binds(request: &Request) -> bool {
    request.method == "PATCH"
        && request.path.contains("/virtualservicebindings/")
        && !request.path.contains("/status")
}

fn object(request: &Request) -> String {
    request.path.split('?').next().unwrap_or_default().to_owned()
}

/// Replaces the operator by one at the end of a bad line, which follows the rule from its first request on.
fn at_the_end(cluster: &mut Cluster, line: &BadLine, name: &str) -> Result<()> {
    let next = Operator::start(&cluster.server, line.kubeconfig(), name)?;
    let code = std::mem::replace(&mut cluster.operator, next).terminate()?;
    ensure!(code == 0, "exit code {code}");
    cluster.wait_until_it_leads()
}

pub(crate) fn a_bad_line(cluster: &mut Cluster) -> Result<()> {
    let line = BadLine::start(&cluster.server, &cluster.kubeconfig)?;
    expired_at_once(cluster, &line)?;
    conflicts(cluster, &line)?;
    too_many(cluster, &line)?;
    late(cluster, &line)?;
    let next = cluster.another()?;
    std::mem::replace(&mut cluster.operator, next).terminate()?;
    cluster.wait_until_it_leads()
}

/// Each watch ends with 410 as it begins, once: everything is listed anew, and nothing is missed.
fn expired_at_once(cluster: &mut Cluster, line: &BadLine) -> Result<()> {
    let mut begun = BTreeSet::new();
    line.rule(
        move |request| {
            if request.watches() && begun.insert(object(request)) { Fault::Expired } else { Fault::None }
        },
    );
    at_the_end(cluster, line, "operator-at-a-bad-line")?;
    eventually("all watches have been begun anew", || {
        let mut lists: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for request in line.seen().iter().filter(|request| request.method == "GET") {
            let (list, watch) = lists.entry(object(request)).or_default();
            if request.watches() { *watch += 1 } else { *list += 1 }
        }
        let again = lists.values().filter(|(list, watch)| *list >= 2 && *watch >= 2).count();
        ensure!(again == 10, "{lists:?}");
        Ok(())
    })?;
    cluster.apply(&services("expired", 7000, 3))?;
    consistent(cluster)?;
    ensure!(cluster.operator.metric("bascule_operator_watch_failures_total", &[])? >= 10);
    cluster.kubectl("delete vs expired-0 expired-1 expired-2 -n tp")?;
    consistent(cluster)
}

/// Somebody else is faster, at every object once.
fn conflicts(cluster: &mut Cluster, line: &BadLine) -> Result<()> {
    let mut refused = BTreeSet::new();
    line.rule(
        move |request| {
            if binds(request) && refused.insert(object(request)) { Fault::Conflict } else { Fault::None }
        },
    );
    cluster.apply(&services("conflict", 7010, 20))?;
    consistent(cluster)?;
    let conflicts = cluster.writes(&["kind=\"VirtualServiceBinding\"", "result=\"conflict\""])?;
    ensure!(conflicts == 40, "{conflicts} conflicts");
    // A conflict is no refusal, and nobody is told.
    cluster.settled()?;
    for service in cluster.list("virtualservices")? {
        ensure!(condition_of(&service, "Programmed")["reason"] != "Rejected", "{service}");
    }
    Ok(())
}

/// The server has had enough for a while, and says when to come again: nobody comes earlier.
fn too_many(cluster: &mut Cluster, line: &BadLine) -> Result<()> {
    const WISH: u32 = 3;
    let until = Instant::now() + Duration::from_secs(5);
    let refused: std::sync::Arc<std::sync::Mutex<Vec<Request>>> = std::sync::Arc::default();
    let noted = std::sync::Arc::clone(&refused);
    line.rule(move |request| {
        if !binds(request) || Instant::now() >= until {
            return Fault::None;
        }
        noted.lock().expect("nobody panics with it").push(request.clone());
        Fault::TooMany(WISH)
    });
    cluster.apply(&services("throttled", 7040, 10))?;
    consistent(cluster)?;
    let refused = refused.lock().expect("nobody panics with it").clone();
    ensure!(refused.len() >= 20, "{} refusals", refused.len());
    let seen = line.seen();
    for one in &refused {
        let next = seen.iter().find(|next| binds(next) && object(next) == object(one) && next.at > one.at);
        // 25 % by chance.
        let least = Duration::from_secs(u64::from(WISH)).mul_f64(0.74);
        ensure!(next.is_none_or(|next| next.at - one.at >= least), "{one:?} {next:?}");
    }
    ensure!(cluster.operator.get("/readyz")?.0 == 200);
    Ok(())
}

/// Every request takes a second: everything takes longer, and that is all. Then more than the operator waits for: it leads no more, writes
/// nothing, and begins anew when the line is good again.
fn late(cluster: &mut Cluster, line: &BadLine) -> Result<()> {
    let fallen = |cluster: &Cluster| cluster.operator.log().matches("not leading any more").count();
    line.rule(|_| Fault::Late(Duration::from_secs(1)));
    let before = fallen(cluster);
    cluster.apply(&services("late", 7060, 3))?;
    consistent(cluster)?;
    ensure!(fallen(cluster) == before, "{}", cluster.operator.log());
    line.rule(|_| Fault::Late(Duration::from_secs(8)));
    eventually("it gives up", || {
        ensure!(fallen(cluster) > before);
        let (code, body) = cluster.operator.get("/healthz")?;
        ensure!(code == 200, "{body}");
        Ok(())
    })?;
    cluster.apply(&services("late", 7060, 6))?;
    line.rule(|_| Fault::None);
    cluster.wait_until_it_leads()?;
    consistent(cluster)?;
    cluster.kubectl("delete vs -n tp --field-selector metadata.name!=web,metadata.name!=on-the-router")?;
    consistent(cluster)
}

/// A namespace that goes takes nothing from others; what cannot be put back into it is said, and tried ever later.
pub(crate) fn a_namespace_is_deleted(cluster: &mut Cluster) -> Result<()> {
    // An address of its own: one namespace takes none from another.
    let instance =
        json!({"name": "a", "interface": "out", "virtualRouterId": 61, "addresses": ["192.16.193.61/32"]});
    let group = json!({
        "apiVersion": "bascule.dev/v1alpha1", "kind": "VrrpGroup", "metadata": {"name": "leaving"},
        "spec": {"members": [{"director": "dir1", "priority": 200}, {"director": "dir2"}], "instances": [instance]},
    });
    cluster.kubectl("create namespace leaving")?;
    cluster.apply(&group.to_string())?;
    let elsewhere = [("\"tp\"", "\"leaving\""), ("\"front\"", "\"leaving\""), ("193.30", "193.61")];
    let leaving =
        elsewhere.iter().fold(services("leaving", 6100, 100), |text, (from, to)| text.replace(from, to));
    cluster.apply(&leaving)?;
    consistent(cluster)?;
    // Nobody collects what is in it here: no controller runs. It is as it is for as long as collecting takes.
    cluster.kubectl("delete namespace leaving --wait=false")?;
    let there =
        cluster.binding("leaving-7", "dir1")?["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    cluster.kubectl(&format!("delete vsb -n leaving {there}"))?;
    let why = cluster.because("vs leaving-7 -n leaving", "Programmed", "False", "Rejected")?;
    ensure!(why["message"].as_str().is_some_and(|why| why.contains("terminated")), "{why}");
    // Others go on meanwhile, a hundred that go at once among them.
    cluster.apply(&services("staying", 6300, 1))?;
    eventually("bindings of another namespace's", || {
        ensure!(cluster.bindings("staying-0")?.len() == 2);
        Ok(())
    })?;
    cluster.kubectl("delete vs --all -n leaving")?;
    eventually("nothing is left in it", || {
        let left = cluster.kubectl("get vsb -n leaving -o name")?;
        ensure!(left.is_empty(), "{} bindings", left.lines().count());
        Ok(())
    })?;
    let mut namespace = cluster.get("namespace leaving")?;
    namespace["spec"]["finalizers"] = json!([]);
    let file = cluster.server.dir().join("leaving.json");
    std::fs::write(&file, namespace.to_string())?;
    let file = file.display().to_string();
    cluster.kubectl(&format!("replace --raw /api/v1/namespaces/leaving/finalize -f {file}"))?;
    cluster.kubectl("delete vs staying-0 -n tp")?;
    cluster.kubectl("delete vg leaving")?;
    consistent(cluster)
}

/// Statuses are the operator's word: what somebody writes into them is put right, and what it does not know is left alone.
pub(crate) fn statuses_by_hand(cluster: &mut Cluster) -> Result<()> {
    cluster.settled()?;
    let known = |what: &str| -> Result<Value> {
        let mut object = cluster.get(what)?;
        let mut status = object["status"].take();
        // In whatever order they stand.
        let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|one| one["type"] != "Approved");
        for one in &mut conditions {
            one["lastTransitionTime"].take();
        }
        conditions.sort_by_key(|one| one["type"].to_string());
        status["conditions"] = Value::Array(conditions);
        // Somebody said that another one was active: since then it is not.
        status["since"].take();
        Ok(status)
    };
    for (what, by_hand) in [
        ("vs web -n tp", json!({"realServers": {"up": 77, "total": 99}, "summary": {"up": "77/99"}})),
        ("vg front", json!({"active": ["dir9"], "redundancy": 7, "members": []})),
        ("director router", json!({"virtualServices": 77, "natRules": 88, "kernel": "none"})),
        ("hc it-works -n tp", json!({"observedGeneration": 77, "conditions": []})),
    ] {
        let before = known(what)?;
        let approved = json!({"type": "Approved", "status": "True", "reason": "ByHand", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let mut patch = json!({"status": by_hand});
        if patch["status"]["conditions"].is_null() {
            let mut conditions =
                cluster.get(what)?["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.push(approved);
            patch["status"]["conditions"] = Value::Array(conditions);
        }
        let mut args: Vec<String> = ["patch"].map(str::to_owned).to_vec();
        args.extend(what.split(' ').map(str::to_owned));
        args.extend(["--subresource=status", "--type=merge", "-p"].map(str::to_owned));
        args.push(patch.to_string());
        cluster.server.kubectl_ok(&args)?;
        eventually(&format!("{what} says what it said"), || {
            let after = known(what)?;
            ensure!(after == before, "{after}\n{before}");
            Ok(())
        })?;
        if !patch["status"]["conditions"].as_array().is_none_or(Vec::is_empty) {
            let theirs = condition_of(&cluster.get(what)?, "Approved");
            ensure!(theirs["reason"] == "ByHand", "{theirs}");
        }
    }
    Ok(())
}
