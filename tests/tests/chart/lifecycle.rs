//! Installed, upgraded, rolled back, uninstalled, installed again over what was kept.

use anyhow::{Result, ensure};
use bascule_tests::chart::{self, CHART};
use bascule_tests::operator::{NAMESPACE, eventually};
use serde_json::Value;

use crate::cluster::Cluster;

/// See the README beside it.
pub(crate) const OLDER: &str = "tests/tests/chart/fixtures/bascule-0.0.9.tgz";
/// Without the hook: no kubelet would run its Job here.
const UNINSTALL: [&str; 5] = ["uninstall", "bascule", "--no-hooks", "--namespace", NAMESPACE];
/// A kind that the older chart does not have.
const NEWER_KIND: &str = "natrulebindings.bascule.dev";

pub(crate) fn older(cluster: &mut Cluster) -> Result<()> {
    cluster.helm.ok(["install", "bascule", OLDER, "--namespace", NAMESPACE, "--create-namespace"])?;
    established(cluster)?;
    ensure!(!definitions(cluster)?.iter().any(|one| one["metadata"]["name"] == NEWER_KIND));
    cluster.kubectl("create namespace tp")?;
    cluster.apply(&chart_objects())
}

/// What a user has, made under the older chart.
fn chart_objects() -> String {
    "apiVersion: bascule.dev/v1alpha1\nkind: HealthCheck\nmetadata: {name: kept, namespace: tp}\nspec: {tcp: {}}\n".into()
}

/// The definitions are the new ones, and nothing of the users' is touched.
pub(crate) fn upgraded(cluster: &mut Cluster) -> Result<()> {
    let before = cluster.get("healthcheck kept -n tp")?;
    ensure!(changed(cluster)? > 0, "the fixture's definitions are those of today: it tests no upgrade");
    let values = "outsideDirectors=[\"lb1\"]";
    cluster.helm.ok(["upgrade", "bascule", CHART, "--namespace", NAMESPACE, "--set-json", values])?;
    established(cluster)?;
    ensure!(changed(cluster)? == 0, "{} definitions were not upgraded", changed(cluster)?);
    same(cluster, &before)?;
    let image = cluster.kubectl(&format!(
        "get deployment bascule-operator -n {NAMESPACE} -o jsonpath={{.spec.template.spec.containers[0].image}}"
    ))?;
    ensure!(image == format!("bascule/bascule-operator:{}", env!("CARGO_PKG_VERSION")), "{image}");
    Ok(())
}

/// A rollback takes the definitions' schemas back and deletes none; an uninstallation leaves them and what is theirs; the next
/// installation takes them over.
pub(crate) fn back_and_again(cluster: &mut Cluster) -> Result<()> {
    drop(cluster.operator.take());
    let before = cluster.get("healthcheck kept -n tp")?;
    cluster.helm.ok(["rollback", "bascule", "1", "--namespace", NAMESPACE])?;
    ensure!(changed(cluster)? > 0, "a rollback takes the schemas back");
    ensure!(
        definitions(cluster)?.iter().any(|one| one["metadata"]["name"] == NEWER_KIND),
        "{NEWER_KIND} is kept"
    );
    same(cluster, &before)?;

    cluster.helm.ok(UNINSTALL)?;
    gone(cluster)?;
    same(cluster, &before)?;
    let count = definitions(cluster)?.len();
    ensure!(count == bascule_crds::object::Kind::ALL.len() - 1, "{count} definitions are left");

    cluster.helm.ok(["install", "bascule", CHART, "--namespace", NAMESPACE])?;
    established(cluster)?;
    ensure!(changed(cluster)? == 0, "the kept definitions are those of the chart again");
    same(cluster, &before)?;
    cluster.helm.ok(UNINSTALL)?;
    gone(cluster)
}

/// Everything but definitions and objects is gone. (What waits for the garbage collector, which does not run here, does not count.)
fn gone(cluster: &Cluster) -> Result<()> {
    eventually("the release is gone", || {
        let kinds =
            "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding";
        for kinds in [
            kinds.to_owned(),
            format!("deployment,daemonset,role,rolebinding,pdb,networkpolicy,sa -n {NAMESPACE}"),
        ] {
            let left = cluster.kubectl(&format!("get {kinds} -l app.kubernetes.io/name=bascule -o name"))?;
            ensure!(left.trim().is_empty(), "{left}");
        }
        Ok(())
    })?;
    Ok(())
}

fn established(cluster: &Cluster) -> Result<()> {
    cluster.kubectl("wait crd --all --for=condition=Established --timeout=120s")?;
    Ok(())
}

fn definitions(cluster: &Cluster) -> Result<Vec<Value>> {
    let all = cluster.get("crd")?;
    let ours = all["items"].as_array().into_iter().flatten();
    Ok(ours.filter(|one| one["spec"]["group"] == "bascule.dev").cloned().collect())
}

/// How many of the chart's definitions are not as the server has them.
fn changed(cluster: &Cluster) -> Result<usize> {
    let there = definitions(cluster)?;
    let mut changed = 0;
    for (path, text) in bascule_crds::generate::files() {
        if path.starts_with("yaml/") {
            let wanted = chart::parse(&text)?.remove(0);
            let schema = |one: &Value| one["spec"]["versions"][0]["schema"].clone();
            let have = there.iter().find(|one| one["metadata"]["name"] == wanted["metadata"]["name"]);
            changed += usize::from(have.map(schema) != Some(schema(&wanted)));
        }
    }
    Ok(changed)
}

/// The user's object is what it was.
fn same(cluster: &Cluster, before: &Value) -> Result<()> {
    let now = cluster.get("healthcheck kept -n tp")?;
    for field in ["/metadata/uid", "/metadata/generation", "/spec"] {
        ensure!(now.pointer(field) == before.pointer(field), "{field}: {now}");
    }
    Ok(())
}
