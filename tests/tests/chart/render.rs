//! What the chart becomes with some values, and which it refuses.

use anyhow::{Result, ensure};
use bascule_tests::chart::CHART;
use bascule_tests::helm::Helm;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Everything that can be switched on.
const EVERYTHING: [&str; 12] = [
    "crds={\"install\": false}",
    "imagePullSecrets=[{\"name\": \"registry\"}]",
    "operator.image={\"repository\": \"registry.example/bascule-operator\", \
     \"digest\": \"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}",
    "agent.realtime=true",
    "agent.exec.enabled=true",
    "agent.file.enabled=true",
    "agent.metrics.enabled=true",
    "agent.vrrpSecrets=[\"vrrp\", \"vrrp.more\"]",
    "outsideDirectors=[\"lb1\"]",
    "networkPolicy.metricsFrom=[{\"namespaceSelector\": {\"matchLabels\": {\"kubernetes.io/metadata.name\": \"monitoring\"}}}]",
    "monitoring.serviceMonitor={\"enabled\": true, \"labels\": {\"release\": \"prometheus\"}}",
    "monitoring.prometheusRule.enabled=true",
];

fn helm() -> Helm {
    Helm::new(None).expect("helm")
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let said = helm().ok(["lint", "--strict", "--kube-version", "1.36.0", CHART]).expect("lint");
    assert!(said.contains("0 chart(s) failed"), "{said}");
    let more = EVERYTHING.iter().flat_map(|value| ["--set-json", *value]);
    helm().ok(["lint", "--strict", "--kube-version", "1.36.0", CHART].into_iter().chain(more)).expect("lint");
}

#[test]
fn defaults() {
    insta::assert_snapshot!(helm().template(&["crds={\"install\": false}"]).expect("manifests"));
}

#[test]
fn everything() {
    insta::assert_snapshot!(helm().template(&EVERYTHING).expect("manifests"));
}

#[test]
fn only_outside_directors() {
    let objects = helm().objects(&["agent.enabled=false", "outsideDirectors=[\"lb1\"]"]).expect("objects");
    let named = |kind: &str, name: &str| {
        objects.iter().any(|one| one["kind"] == kind && one["metadata"]["name"] == name)
    };
    assert!(named("ServiceAccount", "bascule-agent-lb1") && named("ClusterRole", "bascule-agent"));
    for (kind, name) in [
        ("DaemonSet", "bascule-agent"),
        ("ServiceAccount", "bascule-agent"),
        ("ClusterRole", "bascule-agent-nodes"),
        ("ValidatingAdmissionPolicy", "bascule-nodes"),
    ] {
        assert!(!named(kind, name), "{kind} {name} has no purpose without agents in the cluster");
    }
}

#[test]
fn the_dashboard_is_json() {
    let objects = helm().objects(&["monitoring.dashboard.enabled=true"]).expect("objects");
    let map = objects.iter().find(|one| one["metadata"]["name"] == "bascule-dashboard").expect("a ConfigMap");
    let dashboard: Value =
        serde_json::from_str(map["data"]["bascule.json"].as_str().expect("text")).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 5));
}

/// No rule names everything, and what agents and users may do is what the manifests of the programs say.
#[test]
fn rights_are_those_of_the_programs_and_name_no_everything() {
    let objects = helm().objects(&EVERYTHING).expect("objects");
    let rules = |kind: &str, name: &str| -> Value {
        let one = objects.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        one.unwrap_or_else(|| panic!("no {kind} {name}"))["rules"].clone()
    };
    let mut seen = 0;
    for object in &objects {
        for rule in object["rules"].as_array().into_iter().flatten() {
            assert!(!rule.to_string().contains("\"*\""), "{}: {rule}", object["metadata"]["name"]);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} rules");
    let programs = |path: &str, kind: &str, name: &str, director: &str| -> Value {
        let documents = bascule_tests::chart::documents(path).expect(path);
        let one = documents.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        let text = one.unwrap_or_else(|| panic!("no {kind} {name} in {path}"))["rules"].to_string();
        serde_json::from_str(&text.replace("dir1", director)).expect("JSON")
    };
    let (operator, agent) = ("operator/deploy/rbac.yaml", "agent/deploy/rbac.yaml");
    for kind in ["ClusterRole", "Role"] {
        let theirs = programs(operator, kind, "bascule-operator", "");
        assert_eq!(rules(kind, "bascule-operator"), theirs);
        assert_eq!(rules(kind, "bascule-agent-lb1"), programs(agent, kind, "bascule-agent-dir1", "lb1"));
        // The same for the agents of nodes, but for the names, which the policies know.
        let mut nodes = programs(agent, kind, "bascule-agent-dir1", "dir1");
        for rule in nodes.as_array_mut().expect("rules") {
            if rule["resourceNames"].to_string().contains("dir1") {
                rule.as_object_mut().expect("a rule").remove("resourceNames");
            }
        }
        assert_eq!(rules(kind, "bascule-agent-nodes"), nodes);
    }
    assert_eq!(rules("ClusterRole", "bascule-agent"), programs(agent, "ClusterRole", "bascule-agent", ""));
}

/// Agents may read the Secrets that are named, in the release's namespace, and without any none.
#[test]
fn secrets_are_granted_by_name_alone() {
    let of_secrets = |objects: &[Value]| -> Vec<Value> {
        let rules = |one: &Value| {
            let rules = one["rules"].as_array().cloned().unwrap_or_default();
            rules.into_iter().filter(|rule| rule["resources"].to_string().contains("secrets"))
        };
        let agents = objects.iter().filter(|one| {
            one["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("bascule-agent"))
        });
        agents
            .flat_map(|one| rules(one).map(|rule| json!([one["kind"], one["metadata"]["namespace"], rule])))
            .collect()
    };
    let bound = |objects: &[Value]| {
        let name = "bascule-agent-vrrp-secrets";
        let one = objects.iter().find(|one| one["kind"] == "RoleBinding" && one["metadata"]["name"] == name);
        one.map(|one| {
            one["subjects"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| one["name"].clone())
                .collect::<Vec<_>>()
        })
    };
    let none = helm().objects(&["outsideDirectors=[\"lb1\"]"]).expect("objects");
    assert_eq!((of_secrets(&none), bound(&none)), (Vec::new(), None));
    let some = helm().objects(&EVERYTHING).expect("objects");
    let rule = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["vrrp", "vrrp.more"],
        "verbs": ["get", "list", "watch"]});
    assert_eq!(of_secrets(&some), [json!(["Role", bascule_tests::operator::NAMESPACE, rule])]);
    assert_eq!(bound(&some), Some(vec![json!("bascule-agent"), json!("bascule-agent-lb1")]));
    let outside = helm()
        .objects(&["agent.enabled=false", "agent.vrrpSecrets=[\"vrrp\"]", "outsideDirectors=[\"lb1\"]"])
        .expect("objects");
    assert_eq!(bound(&outside), Some(vec![json!("bascule-agent-lb1")]));
}

/// The agent has two capabilities, and more only where a value asks for it.
#[test]
fn capabilities() {
    let added = |values: &[&str]| {
        let objects = helm().objects(values).expect("objects");
        let set = objects.iter().find(|one| one["kind"] == "DaemonSet").expect("a DaemonSet");
        let spec = &set["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        assert_eq!(spec["containers"].as_array().map(Vec::len), Some(1));
        assert_eq!(spec.get("initContainers"), None);
        assert_eq!(container.get("ports"), None, "a declared port keeps the second pod from the node");
        let context = &container["securityContext"];
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(
            (&context["privileged"], &context["allowPrivilegeEscalation"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(context["readOnlyRootFilesystem"], json!(true));
        assert_eq!(spec["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
        for other in ["hostPID", "hostIPC"] {
            assert_eq!(spec.get(other), None);
        }
        context["capabilities"]["add"].clone()
    };
    assert_eq!(added(&[]), json!(["NET_ADMIN", "NET_RAW"]));
    assert_eq!(added(&["agent.realtime=true"]), json!(["NET_ADMIN", "NET_RAW", "SYS_NICE"]));
    assert_eq!(
        added(&["agent.exec.enabled=true"]),
        json!(["NET_ADMIN", "NET_RAW", "SETUID", "SETGID", "KILL"])
    );
}

/// What the schema does not know, helm refuses before it asks the cluster anything.
pub(crate) fn refused_values(cluster: &mut Cluster) -> Result<()> {
    for (value, word) in [
        ("operator.replica=1", "replica"),
        ("operator.image.digest=\"sha256:abc\"", "digest"),
        ("agent.metrics.address=\"192.0.2.1\"", "address"),
        ("outsideDirectors=[\"Lb1\"]", "outsideDirectors"),
        ("agent.vrrpSecrets=[\"*\"]", "vrrpSecrets"),
        ("agent.terminationGracePeriodSeconds=0", "terminationGracePeriodSeconds"),
    ] {
        let output = cluster.helm.output(["template", "bascule", CHART, "--set-json", value])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(word), "{value}: {said}");
    }
    let old = cluster.helm.output(["template", "bascule", CHART, "--kube-version", "1.32.9"])?;
    let said = String::from_utf8_lossy(&old.stderr).into_owned();
    ensure!(!old.status.success() && said.contains("1.33"), "{said}");
    Ok(())
}
