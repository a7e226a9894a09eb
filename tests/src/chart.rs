//! What the Helm chart holds that is made from something else: definitions, rights, and the tables of its values.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The chart's folder, in the repository.
pub const CHART: &str = "charts/bascule";

/// Every file that is made from others, and what it holds; paths from the repository's root.
pub fn files() -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for (path, content) in bascule_crds::generate::files() {
        if let Some(name) = path.strip_prefix("yaml/") {
            files.push((format!("{CHART}/files/crds/{name}"), content));
        }
    }
    files.push((format!("{CHART}/files/rbac.json"), serde_json::to_string_pretty(&rights()?)? + "\n"));
    let values = values()?;
    files.push((format!("{CHART}/README.md"), README.replace("VALUES\n", &values)));
    files.push(("docs/reference/chart-values.md".into(), REFERENCE.replace("VALUES\n", &values)));
    Ok(files)
}

/// The documents of a YAML file.
pub fn documents(path: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
    parse(&text).with_context(|| path.to_owned())
}

/// The documents of YAML; what is empty is left out.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let documents = bascule_crds::manifest::parse(text).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(documents.into_iter().map(|document| document.value).filter(|value| !value.is_null()).collect())
}

/// The rules of the manifests with which the programs run and are tested.
fn rights() -> Result<Value> {
    let operator = documents("operator/deploy/rbac.yaml")?;
    let agent = documents("agent/deploy/rbac.yaml")?;
    let rules = |documents: &[Value], kind: &str, name: &str| {
        let one = documents.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        one.map(|one| one["rules"].clone()).with_context(|| format!("no {kind} {name}"))
    };
    Ok(json!({
        "operator": rules(&operator, "ClusterRole", "bascule-operator")?,
        "operatorNamespace": rules(&operator, "Role", "bascule-operator")?,
        "agent": rules(&agent, "ClusterRole", "bascule-agent")?,
        "agentOwn": rules(&agent, "ClusterRole", "bascule-agent-dir1")?,
        "agentNamespace": rules(&agent, "Role", "bascule-agent-dir1")?,
    }))
}

/// The table of values: names and descriptions from the schema, defaults from values.yaml.
fn values() -> Result<String> {
    let path = format!("{CHART}/values.schema.json");
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join(&path)).with_context(|| path.clone())?)?;
    let mut defaults = documents(&format!("{CHART}/values.yaml"))?;
    let mut table = String::from("| value | default | |\n| --- | --- | --- |\n");
    rows(&schema, &defaults.remove(0), "", &mut table);
    Ok(table)
}

fn rows(schema: &Value, defaults: &Value, path: &str, table: &mut String) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if path.is_empty() && name == "global" {
            continue;
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let description = inner["description"].as_str().unwrap_or_default();
        if inner.get("properties").is_some() {
            table.push_str(&format!("| **`{path}`** | | {description} |\n"));
            rows(inner, &defaults[name], &path, table);
        } else {
            let default = defaults[name].to_string();
            table.push_str(&format!("| `{path}` | `{default}` | {description} |\n"));
        }
    }
}

const README: &str = "# bascule

A declarative layer-4 load balancer for Linux: IPVS, VRRP and NAT from Kubernetes objects. The chart installs the definitions,
the operator, an agent on each node with the label `bascule.dev/director`, their rights, and admission policies that hold
each agent to its own director. How to install, upgrade and remove it: `docs/how-to/install-on-kubernetes.md` of the sources.

```console
$ helm install bascule ./charts/bascule --namespace bascule-system --create-namespace \\
    --set operator.image.repository=REGISTRY/bascule-operator --set agent.image.repository=REGISTRY/bascule-agent
```

One release a cluster: names are fixed, and a second one is refused.

## Values

Generated from `values.schema.json` and `values.yaml` by `make generate`.

VALUES
";

const REFERENCE: &str = "# Values of the Helm chart

Generated from `charts/bascule/values.schema.json` and `values.yaml` by `make generate`; the schema refuses what is not here.
[How to install it](../how-to/install-on-kubernetes.md).

VALUES
";
