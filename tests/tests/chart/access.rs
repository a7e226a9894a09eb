//! Who may write what: tokens as kubelets get them, bound to a pod on a node.

use anyhow::{Result, ensure};
use bascule_tests::operator::{NAMESPACE, eventually};
use serde_json::json;

use crate::cluster::{Cluster, Identity};
use crate::pods::of_template;

/// How an agent writes a status.
const STATUS: &str =
    "apply --server-side --force-conflicts --subresource=status --field-manager=bascule-agent";
/// How it says that it lives.
const LEASE: &str = "apply --server-side --force-conflicts --field-manager=bascule-agent";

/// A cluster that has no Director yet goes on: nodes, controllers and the operator write their Leases.
pub(crate) fn leases_before_directors(cluster: &mut Cluster) -> Result<()> {
    let directors = cluster.kubectl("get directors -o name")?;
    ensure!(directors.is_empty(), "this is about a cluster without any: {directors}");
    let forged = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "DirectorConfig",
        "metadata": {"name": "n1"}, "spec": {"director": "n1"}});
    eventually("the policies are in force", || {
        let words = ["'bascule-specs'"];
        cluster.refused(None, "create --dry-run=server", &forged.to_string(), &words)
    })?;
    // What a policy needs besides is found later than the policy itself: what is refused then is refused until somebody notices.
    for _ in 0..10 {
        for (name, namespace) in
            [("n1", "kube-node-lease"), ("bascule-operator", NAMESPACE), ("director-n1", NAMESPACE)]
        {
            let mut lease: serde_json::Value = serde_json::from_str(&lease(name))?;
            lease["metadata"]["namespace"] = json!(namespace);
            cluster.allowed(None, LEASE, &lease.to_string())?;
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    cluster.kubectl(&format!("delete lease bascule-operator director-n1 -n {NAMESPACE}"))?;
    Ok(())
}

/// With the chart's rights and under its policies, the operator makes Directors of nodes and bindings of services.
pub(crate) fn operator(cluster: &mut Cluster) -> Result<()> {
    for node in ["n1", "n2"] {
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node, "labels": {"bascule.dev/director": ""}}})
            .to_string(),
        )?;
    }
    // Its agent's ServiceAccount is the one that the chart has made for this name.
    cluster.apply(&format!(
        "apiVersion: bascule.dev/v1alpha1\nkind: Director\nmetadata: {{name: lb1}}\n\
         spec: {{serviceAccount: {{namespace: {NAMESPACE}, name: bascule-agent-lb1}}}}\n"
    ))?;
    cluster.apply(GROUP)?;
    cluster.apply(SERVICE)?;
    cluster.start_operator()?;
    eventually("the operator has written for three directors", || {
        for director in ["n1", "n2", "lb1"] {
            cluster.get(&format!("directorconfig {director}"))?;
            binding(cluster, director)?;
        }
        Ok(())
    })?;
    Ok(())
}

const GROUP: &str = "apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: front}
spec:
  members: [{director: n1}, {director: n2}, {director: lb1}]
  instances: [{name: outside, interface: eth0, virtualRouterId: 30, addresses: [192.16.193.30/32]}]
";

const SERVICE: &str = "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp}
spec:
  vrrpGroup: front
  addresses: [192.16.193.30]
  ports: [{port: 80, protocol: TCP}]
  realServers: [{name: srv1, address: 172.16.193.10}]
";

/// The name of the service's binding on a director.
pub(crate) fn binding(cluster: &Cluster, director: &str) -> Result<String> {
    let names =
        cluster.kubectl(&format!("get vsb -n tp --field-selector spec.director={director} -o name"))?;
    let names: Vec<_> = names.lines().collect();
    ensure!(names.len() == 1, "{director}: {names:?}");
    Ok(names[0].rsplit('/').next().unwrap_or_default().to_owned())
}

/// What an agent writes about a director: the status of a binding, of the machine, and the Lease.
fn writings(cluster: &Cluster, director: &str) -> Result<[(&'static str, String); 3]> {
    let api = "bascule.dev/v1alpha1";
    let binding = json!({"apiVersion": api, "kind": "VirtualServiceBinding",
        "metadata": {"name": binding(cluster, director)?, "namespace": "tp"}, "status": {"realServersTotal": 1}});
    let machine = json!({"apiVersion": api, "kind": "DirectorConfig", "metadata": {"name": director}, "status": {"kernel": "6.1"}});
    Ok([
        (STATUS, binding.to_string()),
        (STATUS, machine.to_string()),
        (LEASE, lease(&format!("director-{director}"))),
    ])
}

fn lease(name: &str) -> String {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 40}})
    .to_string()
}

fn may(cluster: &Cluster, who: &Identity, director: &str) -> Result<()> {
    // The policies are in force a moment after they were written.
    eventually(&format!("the agent of {director} may write"), || {
        for (how, what) in writings(cluster, director)? {
            cluster.allowed(Some(who), how, &what)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn may_not(cluster: &Cluster, who: &Identity, director: &str, words: &[&str]) -> Result<()> {
    for (how, what) in writings(cluster, director)? {
        cluster.refused(Some(who), how, &what, words)?;
    }
    Ok(())
}

/// The token of the agent on n1, in somebody else's hands.
pub(crate) fn own_alone(cluster: &mut Cluster) -> Result<()> {
    let set = cluster.get(&format!("daemonset bascule-agent -n {NAMESPACE}"))?;
    for node in ["n1", "n2"] {
        let pod = of_template(&set, NAMESPACE, &format!("agent-{node}"), Some(node))?;
        cluster.allowed(None, "create", &pod.to_string())?;
    }
    let bound = |node: &str| {
        format!("bascule-agent -n {NAMESPACE} --bound-object-kind Pod --bound-object-name agent-{node}")
    };
    let n1 = cluster.identity(&bound("n1"))?;
    let n2 = cluster.identity(&bound("n2"))?;
    may(cluster, &n1, "n1")?;
    may(cluster, &n2, "n2")?;
    may_not(
        cluster,
        &n1,
        "n2",
        &["'bascule-nodes'", "the agent on node n1 writes for the director of this name alone"],
    )?;
    may_not(cluster, &n2, "n1", &["'bascule-nodes'", "the agent on node n2"])?;
    may_not(cluster, &n1, "lb1", &["ValidatingAdmissionPolicy 'bascule-"])?;
    // The operators' own Lease, by which they settle who leads.
    cluster.refused(Some(&n1), LEASE, &lease("bascule-operator"), &["'bascule-nodes'"])?;
    // Neither may it write what itself, or another one, is to carry out.
    for director in ["n1", "n2"] {
        let spec = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "DirectorConfig", "metadata": {"name": director},
            "spec": {"director": director}});
        cluster.refused(
            Some(&n1),
            "apply --server-side --force-conflicts",
            &spec.to_string(),
            &["cannot patch resource"],
        )?;
    }
    // A token that no pod is bound to names no node.
    let unbound = cluster.identity(&format!("bascule-agent -n {NAMESPACE}"))?;
    may_not(cluster, &unbound, "n1", &["the token of an agent must be bound to its pod"])?;
    // With the pod its token ends.
    cluster.kubectl(&format!("delete pod agent-n2 -n {NAMESPACE} --force --grace-period=0"))?;
    eventually("the token of a pod that is gone is refused", || may_not(cluster, &n2, "n2", &[]))?;
    Ok(())
}

/// The agent of a machine outside has the ServiceAccount that its Director names.
pub(crate) fn outside(cluster: &mut Cluster) -> Result<()> {
    let lb1 = cluster.identity(&format!("bascule-agent-lb1 -n {NAMESPACE}"))?;
    may(cluster, &lb1, "lb1")?;
    for (how, what) in writings(cluster, "n1")? {
        // RBAC refuses what has a name of its own, the policy the rest.
        cluster.refused(Some(&lb1), how, &what, &["forbidden"])?;
    }
    let binding = &writings(cluster, "n1")?[0];
    cluster.refused(
        Some(&lb1),
        binding.0,
        &binding.1,
        &["'bascule-agents'", "only the agent of director n1 writes this"],
    )?;
    // Whom the Director does not name has nothing to say for it.
    cluster.kubectl("patch director lb1 --type=merge -p {\"spec\":{\"serviceAccount\":null}}")?;
    eventually("the ServiceAccount is not the director's any more", || {
        for (how, what) in writings(cluster, "lb1")? {
            let policy = if how == LEASE { "'bascule-leases'" } else { "'bascule-agents'" };
            cluster.refused(Some(&lb1), how, &what, &[policy, "spec.serviceAccount"])?;
        }
        Ok(())
    })?;
    Ok(())
}
