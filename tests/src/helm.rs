//! The program helm, and what it makes of the chart.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::chart::{self, CHART};
use crate::operator::NAMESPACE;

/// helm, with a home of its own.
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// Without a cluster, or as whoever the kubeconfig says. Builds helm first where that has not happened yet.
    pub fn new(kubeconfig: Option<PathBuf>) -> Result<Helm> {
        let home = tempfile::Builder::new().prefix("bascule-helm-").tempdir()?;
        Ok(Helm { program: program()?, home, kubeconfig })
    }

    /// Runs it in the repository's root.
    pub fn output<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(chart::root()).env_clear().env("HOME", self.home.path());
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} cannot be run"))
    }

    /// Runs it and returns what it printed; an error holds what it complained about.
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let Output { status, stdout, stderr } = self.output(&args)?;
        if !status.success() {
            bail!(
                "helm {args:?}: {status}\n{}{}",
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            );
        }
        Ok(String::from_utf8(stdout)?)
    }

    /// The manifests that the chart becomes with more values, as text.
    pub fn template(&self, values: &[&str]) -> Result<String> {
        let args = ["template", "bascule", CHART, "--namespace", NAMESPACE, "--kube-version", "1.36.0"];
        self.ok(args.into_iter().chain(values.iter().flat_map(|value| ["--set-json", *value])))
    }

    /// The same, as objects.
    pub fn objects(&self, values: &[&str]) -> Result<Vec<Value>> {
        chart::parse(&self.template(values)?)
    }
}

/// The program, built first where that has not happened yet.
fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("BASCULE_HELM") {
        return Ok(program.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kubernetes-programs");
    let output = Command::new(&script).arg("helm").stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{} cannot be run", script.display()))?;
    ensure!(output.status.success(), "{}: {}; what it says is above", script.display(), output.status);
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// Where the plain manifests are, in the repository.
const PLAIN: &str = "deploy/kubernetes";

/// The plain manifests: what the chart becomes with its defaults, without what only Helm reads.
pub fn manifests() -> Result<Vec<(String, String)>> {
    let helm = Helm::new(None)?;
    // A hook would be an ordinary Job here, and flush at once.
    let hooks = "flush={\"enabled\": false}";
    let crds = helm.template(&[hooks, "crds={\"install\": true}"])?;
    let rest = helm.template(&[hooks, "crds={\"install\": false}"])?;
    let crds = crds.strip_suffix(&rest).map_or_else(|| definitions(&crds), ToOwned::to_owned);
    let header = "# Generated from charts/bascule by `make manifests`.\n";
    let plain = |text: &str| format!("{header}{}", without_helm(text));
    Ok(vec![
        (format!("{PLAIN}/kustomization.yaml"), format!("{header}{KUSTOMIZATION}")),
        (format!("{PLAIN}/namespace.yaml"), format!("{header}{NAMESPACE_MANIFEST}")),
        (format!("{PLAIN}/crds.yaml"), plain(&crds)),
        (format!("{PLAIN}/bascule.yaml"), plain(&rest)),
    ])
}

/// The documents that define kinds.
fn definitions(text: &str) -> String {
    let documents = text.split("\n---\n").filter(|one| one.contains("\nkind: CustomResourceDefinition\n"));
    documents.map(|one| format!("---\n{}\n", one.trim_start_matches("---\n").trim_end())).collect()
}

/// Without the labels and annotations by which Helm knows its own, and without lines that say where they come from.
fn without_helm(text: &str) -> String {
    let helms = |line: &str| {
        let line = line.trim_start();
        line.starts_with("helm.sh/")
            || line.starts_with("# Source: ")
            || line == "app.kubernetes.io/managed-by: Helm"
            || line == "app.kubernetes.io/instance: bascule"
    };
    let kept: String =
        text.lines().filter(|line| !helms(line)).map(|line| format!("{}\n", line.trim_end())).collect();
    // The policy to keep is the definitions' only annotation.
    kept.replace("\n  annotations:\n  name:", "\n  name:").replace("\n\n", "\n")
}

const KUSTOMIZATION: &str = "#   kubectl apply --server-side -k deploy/kubernetes
# Your registry in `images`, by digest: what `scripts/images` prints.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [namespace.yaml, crds.yaml, bascule.yaml]
images:
  - name: bascule/bascule-operator
  - name: bascule/bascule-agent
";

const NAMESPACE_MANIFEST: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: bascule-system
  labels:
    # The agents are on the host's network. The operator's pods would pass `restricted`.
    pod-security.kubernetes.io/enforce: privileged
";
