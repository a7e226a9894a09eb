//! The arguments, with their help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::flush::LEAST;

/// Compiles what users write into what each director must do, and says what became of it.
///
/// It watches VirtualServices, HealthChecks, VrrpGroups, NatRules, Directors and Nodes of one cluster. It writes a VirtualServiceBinding for
/// each service and a NatRuleBinding for each rule on each of its directors and a DirectorConfig for each director, which the agents there
/// carry out (`bascule-agent --kubeconfig FILE`), and the statuses of the objects that users wrote: whether each is accepted, and what the
/// agents say became of it. What it wrote and somebody else changed or deleted comes back. Several may run: one leads, by a Lease, and the
/// others wait.
#[derive(Debug, Parser)]
#[command(
    name = "bascule-operator",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  bascule-operator
        in a pod, with the pod's ServiceAccount (its rules: operator/deploy/rbac.yaml)
  bascule-operator --kubeconfig ~/.kube/config --namespace bascule-system
        outside the cluster
  kubectl get bascule -A
        what there is and how it stands; `Accepted` and `Ready` are conditions to wait for:
  kubectl wait --for=condition=Ready virtualservice/web -n tp

A Node becomes a director by its label:
  kubectl label node worker-1 bascule.dev/director=

Signals: SIGTERM and SIGINT end it: what is being written is waited for, and the Lease is given up, so that another one goes on
at once. Exit code: 0 it was told to end, 1 it cannot work, 2 the call is wrong."
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) run: Run,
}

/// What else than running.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Have all agents take what is theirs out of their kernels, before Bascule is removed
    ///
    /// Holds the operators back by taking their Lease, and names a flush in every DirectorConfig. Each agent then takes away its virtual
    /// services, addresses and rules, gives its groups away, and says so; settings (net.ipv4.ip_forward and others) stay. What users wrote
    /// stays, too: a flush that is not followed by an uninstallation ends by itself, when the next operator leads. That is at once where
    /// a director did not answer, else after a minute.
    #[command(after_help = "Examples:
  bascule-operator flush
        in a pod of the release: the hook that `helm uninstall` runs first
  kubectl exec -n bascule-system deploy/bascule-operator -- bascule-operator flush --timeout 2m
        by hand, where there is no Helm

Exit code: 0 nothing is left anywhere, 1 a director is named that did not answer in time, or the API server did not, 2 the call is wrong.")]
    Flush(Flush),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  bascule-operator completion bash > /etc/bash_completion.d/bascule-operator")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Flushing.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Flush {
    #[command(flatten)]
    pub(super) place: Place,
    /// How long agents may take, such as 60s or 2m; at least 20s, the time after which no operator can have anything under way
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) log: Log,
}

/// A duration as the API has them.
fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || {
        format!("expected a duration such as 60s or 2m of at most an hour, at least {} s", LEAST.as_secs())
    };
    let duration = text.parse::<bascule_crds::common::Duration>().map_err(|_| wanted())?.as_std();
    if (LEAST..=Duration::from_secs(3600)).contains(&duration) { Ok(duration) } else { Err(wanted()) }
}

/// Running.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) place: Place,
    /// Address of /healthz, /readyz and /metrics, or `none`
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9741", env = "BASCULE_LISTEN")]
    pub(super) listen: Listen,
    #[command(flatten)]
    pub(super) log: Log,
}

/// Where, and under which name.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Place {
    /// File that names the cluster and who we are there; its current context counts [default: the pod's ServiceAccount]
    #[arg(long, value_name = "FILE", env = "BASCULE_KUBECONFIG")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Namespace of the Leases: the operators' own, by which they settle who leads, and the directors', which say that
    /// their agents live [default: the pod's, or the context's]
    #[arg(long, value_name = "NAME", env = "BASCULE_NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Name of this operator in the Lease; a random part is added [default: the host's name]
    #[arg(long, value_name = "NAME", env = "BASCULE_IDENTITY")]
    pub(super) identity: Option<String>,
}

/// The log.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Log {
    /// How the log is written
    #[arg(long = "log-format", value_name = "FORMAT", default_value = "text", env = "BASCULE_LOG_FORMAT")]
    pub(super) format: LogFormat,
    /// How much is logged: error, warn, info, debug, trace, or a filter such as info,bascule_operator=debug (what the
    /// client of the API says of its own, kube_client, is said once more by who asked it)
    #[arg(
        long = "log-level",
        value_name = "LEVEL",
        default_value = "info,kube_client=off",
        env = "BASCULE_LOG"
    )]
    pub(super) level: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people; without times under a service manager that adds them
    Text,
    /// One JSON object a line
    Json,
}

/// Where the HTTP server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// Nowhere.
    None,
    /// There.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::At).map_err(|_| {
            "expected an address and a port such as 127.0.0.1:9741 or [::1]:9741, or none".to_owned()
        })
    }
}
