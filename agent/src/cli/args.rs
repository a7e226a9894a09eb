//! The arguments, with their help.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::digest::Url;
use crate::api::connect::Cluster;

/// Where the last good configuration is kept unless told otherwise.
pub(super) const STATE_DIR: &str = "/var/lib/bascule";
/// Where the control socket, the lock and the ledgers are unless told otherwise.
pub(super) const RUN_DIR: &str = "/run/bascule";

/// Makes this machine a director: a layer-4 load balancer as the manifests in a directory describe it, or as bascule-operator
/// tells it through the Kubernetes API.
///
/// It programs the kernel's IPVS, addresses, nftables and settings, settles by VRRP which director has a group's addresses, and
/// keeps all that so: a changed file is carried out
/// within milliseconds, what somebody removed comes back, what is not ours stays. A bad file leaves the last good state
/// standing and is reported with file and line.
#[derive(Debug, Parser)]
#[command(
    name = "bascule-agent",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  bascule-agent validate --manifests /etc/bascule/manifests
        what is wrong in the manifests, with file, line and field
  bascule-agent plan --manifests /etc/bascule/manifests --director dir1
        what would change in the kernel; changes nothing
  bascule-agent --manifests /etc/bascule/manifests --director dir1
        carry it out, and watch the directory
  bascule-agent --kubeconfig /etc/bascule/kubeconfig --namespace bascule-system --director dir1
        the same, told by bascule-operator through the Kubernetes API
  bascule-agent status
        what the running agent does, and what is wrong
  bascule-agent switchover front
        give the addresses of a VrrpGroup to another director
  bascule-agent --take-over --manifests /etc/bascule/manifests --director dir1
        an upgrade: the new program takes over from the running one, without a gap

A manifest, /etc/bascule/manifests/web.yaml:
  apiVersion: bascule.dev/v1alpha1
  kind: VirtualService
  metadata: {name: web, namespace: tp}
  spec:
    director: {name: dir1, interface: eth0}
    addresses: [192.16.193.30]
    ports: [{port: 80, protocol: TCP}]
    scheduler: {name: rr}
    realServers:
      - {name: srv1, address: 172.16.193.10}
      - {name: srv2, address: 172.16.193.40}

Signals: SIGTERM and SIGINT end it: groups are handed over, the kernel's rules stay; SIGHUP looks at the directory (or the
kubeconfig and the API) and at key files anew; SIGUSR2 starts the program that now stands in its place to take over."
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
    /// Print what would change in the kernel, and change nothing
    #[command(
        long_about = "Prints what would change in the kernel, as operations, and changes nothing: what an agent would do that \
                      starts now with this --run-dir and --state-dir. Real servers are what their checks last found there; \
                      none is probed.\n\n\
                      Exit code: 0 nothing to do, 2 changes, 1 error (also when a manifest is wrong: then the plan is \
                      printed for the others).",
        after_help = "Examples:
  bascule-agent plan --manifests ./manifests --director dir1
  bascule-agent plan --manifests ./manifests --director dir1 -o json | jq -r '.operations[].text'"
    )]
    Plan(Plan),
    /// Print the problems of the manifests, with file, line and field
    #[command(
        long_about = "Prints the problems of the manifests, one a line: FILE:LINE: FIELD: MESSAGE (OBJECT).\n\n\
                      An object is judged in stages, the first two as by an API server: the names of its fields; \
                      their values and the rules that join them; what this version does not support, and what other \
                      objects claim. Where a stage finds something, the next ones do not look: mend it and validate again.\n\n\
                      Exit code: 0 none, 1 some, 2 the directory cannot be read or the call is wrong. Needs no \
                      privileges and touches nothing.",
        after_help = "Examples:
  bascule-agent validate --manifests ./manifests
  bascule-agent validate --manifests ./manifests -o json | jq '.problems[] | {file, line, field}'"
    )]
    Validate(Validate),
    /// Show what the running agent does, and what is wrong
    #[command(
        long_about = "Asks the running agent over its control socket, RUN_DIR/agent.sock.\n\n\
                      Exit code: 0 answered, 1 no agent runs there or it does not answer.",
        after_help = "Examples:
  bascule-agent status
  bascule-agent status -o json | jq '.objects[] | select(.ready == false)'"
    )]
    Status(Status),
    /// Give a group's addresses to another director
    #[command(
        long_about = "Has the running agent, whose group must be active, give its addresses to the best other member: it says \
                      so by VRRP (priority 0) and keeps them until the successor is heard, so that at no moment nobody has \
                      them. Afterwards it does not preempt until the new active member is lost or gives way in its turn.\n\n\
                      Exit code: 0 another member is active, 1 nobody took over (this one is active as before), the group \
                      is not active here, or no agent runs.",
        after_help = "Examples:
  bascule-agent switchover front
        gives the addresses of VrrpGroup front away
  bascule-agent status
        who has them, and why"
    )]
    Switchover(Switchover),
    /// Print the digests of a page, as genhash does
    #[command(
        long_about = "Fetches a page as a health check of kind http does, and prints its status code, the length of its body, and \
                      the digests that a check's `digest` takes: md5, which keepalived's genhash prints, and sha256.\n\n\
                      Exit code: 0 the page is there, whatever its status code, 1 it is not, or is longer than 16 MiB.",
        after_help = "Examples:
  bascule-agent digest http://172.16.193.10/index.html
  bascule-agent digest --host www.example https://172.16.193.10/
        what that real server shows for www.example (genhash -S -s 172.16.193.10 -V www.example)
  bascule-agent digest -o json http://172.16.193.10/ | jq -r .sha256"
    )]
    Digest(Digest),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  bascule-agent completion bash > /etc/bash_completion.d/bascule-agent")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Which manifests, for which machine.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Source {
    /// Directory of manifests (*.yaml, *.yml, *.json; no subdirectories)
    #[arg(
        long,
        value_name = "DIR",
        env = "BASCULE_MANIFESTS",
        required = !in_cluster(),
        conflicts_with_all = ["kubeconfig", "namespace"]
    )]
    manifests: Option<PathBuf>,
    /// Kubeconfig of the cluster whose operator tells what to do, instead of a directory; its current context counts [default,
    /// without --manifests: the ServiceAccount of the pod that this runs in]
    #[arg(long, value_name = "FILE", env = "BASCULE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the operator, where this director's Lease is [default: that of the context or of the pod]
    #[arg(long, value_name = "NAME", env = "BASCULE_NAMESPACE")]
    namespace: Option<String>,
    /// Name of this machine in the manifests
    #[arg(long, value_name = "NAME", env = "BASCULE_DIRECTOR", value_parser = director_name, required = true)]
    director: Option<String>,
    /// Directory of the last good configuration (has to survive reboots)
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, env = "BASCULE_STATE_DIR")]
    pub(super) state_dir: PathBuf,
    /// Directory of the control socket, the lock and the ledgers (a reboot has to empty it)
    #[arg(long, value_name = "DIR", default_value = RUN_DIR, env = "BASCULE_RUN_DIR")]
    pub(super) run_dir: PathBuf,
    /// Take over IPVS services of others that stand on an address and port of ours
    #[arg(long)]
    pub(super) adopt: bool,
    /// Where /proc/sys is writable below net: a container's own is not, and has it mounted elsewhere
    #[arg(long, value_name = "DIR", default_value = "/proc/sys", env = "BASCULE_PROC_SYS")]
    pub(super) proc_sys: PathBuf,
}

impl Source {
    /// Where the configuration comes from.
    pub(super) fn origin(&self) -> Origin {
        match &self.manifests {
            Some(directory) => Origin::Directory(directory.clone()),
            None => Origin::Api(Cluster {
                kubeconfig: self.kubeconfig.clone(),
                namespace: self.namespace.clone(),
            }),
        }
    }

    /// This machine's name.
    pub(super) fn director(&self) -> &str {
        self.director.as_deref().expect("clap requires it")
    }
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The Kubernetes API.
    Api(Cluster),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Api(Cluster { kubeconfig: Some(file), .. }) => write!(f, "the API of {}", file.display()),
            Self::Api(_) => f.write_str("the API of this cluster"),
        }
    }
}

/// Whether this runs in a pod.
pub(super) fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Whether this runs in a pod that has a ServiceAccount.
fn in_cluster() -> bool {
    in_pod() && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

/// Running.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) source: Source,
    /// Address of /healthz, /readyz and /metrics, or `none`
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9740", env = "BASCULE_LISTEN")]
    pub(super) listen: Listen,
    /// File with a token that whoever wants /metrics has to show (`Authorization: Bearer TOKEN`); read anew for each request.
    /// Without it everybody who reaches the address is answered
    #[arg(long, value_name = "FILE", env = "BASCULE_METRICS_TOKEN")]
    pub(super) metrics_token: Option<PathBuf>,
    /// Directory of the programs that manifests may name (`services`, `notify`, `exec` of HealthChecks); without it none is run. It and the programs
    /// must belong to root or the agent's user and be writable by nobody else
    #[arg(long, value_name = "DIR", env = "BASCULE_ALLOW_EXEC")]
    pub(super) allow_exec: Option<PathBuf>,
    /// User that these programs run as, without capabilities; not root: what needs privileges is a systemd unit
    #[arg(long, value_name = "NAME", default_value = crate::exec::DEFAULT_USER, env = "BASCULE_EXEC_USER")]
    pub(super) exec_user: String,
    /// Directory of the files that HealthChecks may watch (`file`); without it none is watched
    #[arg(long, value_name = "DIR", env = "BASCULE_ALLOW_FILE")]
    pub(super) allow_file: Option<PathBuf>,
    /// Take the sockets and states of the agent that runs now, which ends: no group changes its state, no advertisement is
    /// missed. Where none runs, the same as without
    #[arg(long)]
    pub(super) take_over: bool,
    /// Once another agent has taken over, wait for the signal to end instead of ending: for a pod, whose container would be started
    /// again, and take everything back
    #[arg(long)]
    pub(super) linger: bool,
    /// For benchmarks: a table in memory instead of the kernel's IPVS; nothing is forwarded. Each command is noted in the file, with
    /// the time of CLOCK_MONOTONIC in nanoseconds. Only with --nothing-is-forwarded, and not in a pod
    #[arg(
        long,
        value_name = "FILE",
        hide = true,
        requires = "nothing_is_forwarded",
        conflicts_with = "take_over"
    )]
    pub(super) simulated_ipvs: Option<PathBuf>,
    /// That this is known; there is no variable of the environment for either
    #[arg(long, hide = true, requires = "simulated_ipvs")]
    pub(super) nothing_is_forwarded: bool,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "BASCULE_LOG_FORMAT")]
    pub(super) log_format: LogFormat,
    /// How much is logged: error, warn, info, debug, trace, or a filter such as info,bascule_agent=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "BASCULE_LOG")]
    pub(super) log_level: String,
}

/// `plan`.
#[derive(Debug, ClapArgs)]
pub(super) struct Plan {
    #[command(flatten)]
    pub(super) source: Source,
    /// How it is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Output,
}

/// `validate`.
#[derive(Debug, ClapArgs)]
pub(super) struct Validate {
    /// Directory of manifests (*.yaml, *.yml, *.json; no subdirectories)
    #[arg(long, value_name = "DIR", env = "BASCULE_MANIFESTS")]
    pub(super) manifests: PathBuf,
    /// How it is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Output,
}

/// `status`.
#[derive(Debug, ClapArgs)]
pub(super) struct Status {
    /// Directory of the running agent's control socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIR, env = "BASCULE_RUN_DIR")]
    pub(super) run_dir: PathBuf,
    /// How it is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Output,
}

/// `switchover`.
#[derive(Debug, ClapArgs)]
pub(super) struct Switchover {
    /// Name of the VrrpGroup
    pub(super) group: String,
    /// Directory of the running agent's control socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIR, env = "BASCULE_RUN_DIR")]
    pub(super) run_dir: PathBuf,
}

/// `digest`.
#[derive(Debug, ClapArgs)]
pub(super) struct Digest {
    /// Where the page is; a host that is an address of a real server asks that one
    #[arg(value_name = "URL")]
    pub(super) url: Url,
    /// Host of the request, with a port if need be (genhash: -V) [default: that of the URL]
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
    /// Name that is asked for and verified in TLS (SNI) [default: the host]
    #[arg(long, value_name = "NAME")]
    pub(super) sni: Option<String>,
    /// Whether the certificate of an https URL is verified
    #[arg(long, value_name = "WHAT", default_value = "full")]
    pub(super) verify: TlsVerify,
    /// Version of HTTP (genhash: -P)
    #[arg(long, value_name = "VERSION", default_value = "1.1")]
    pub(super) http_version: HttpVersion,
    /// Seconds that it may take (genhash: -t)
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(super) timeout: u16,
    /// How it is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Output,
}

/// Whether a certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TlsVerify {
    /// Chain, dates and name, against the system's authorities
    Full,
    /// Nothing, as genhash
    None,
}

/// Version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum HttpVersion {
    /// HTTP/1.1
    #[value(name = "1.1")]
    V1_1,
    /// HTTP/1.0
    #[value(name = "1.0")]
    V1_0,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// One JSON document
    Json,
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
            "expected an address and a port such as 127.0.0.1:9740 or [::1]:9740, or none".to_owned()
        })
    }
}

/// A director's name is a node's name: a DNS subdomain (RFC 1123), as Kubernetes has it.
fn director_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("a director's name has lower case letters, digits, - and . only (as a host name), such as dir1"
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        assert_eq!("none".parse(), Ok(Listen::None));
        assert_eq!("[::1]:80".parse(), Ok(Listen::At("[::1]:80".parse().unwrap())));
        for bad in ["", "localhost", "127.0.0.1", ":9740", "127.0.0.1:99999"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn director_names() {
        for good in ["dir1", "a.b-c.d", "0"] {
            assert_eq!(director_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "Dir1", "-a", "a-", "a..b", "a_b", &"a".repeat(254)] {
            assert!(director_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn running_needs_manifests_and_a_director_and_subcommands_do_not() {
        assert!(Args::try_parse_from(["bascule-agent"]).is_err());
        assert!(Args::try_parse_from(["bascule-agent", "--manifests", "m"]).is_err());
        assert!(Args::try_parse_from(["bascule-agent", "--manifests", "m", "--director", "d"]).is_ok());
        let api = ["bascule-agent", "--kubeconfig", "k", "--director", "d"];
        assert!(matches!(Args::try_parse_from(api).unwrap().run.source.origin(), Origin::Api(_)));
        assert!(Args::try_parse_from(api.into_iter().chain(["--manifests", "m"])).is_err(), "one of them");
        assert!(Args::try_parse_from(["bascule-agent", "--kubeconfig", "k"]).is_err(), "for whom?");
        let simulated = |more: &[&'static str]| {
            let line = api.into_iter().chain(["--simulated-ipvs", "f"]).chain(more.iter().copied());
            Args::try_parse_from(line)
        };
        assert!(simulated(&[]).is_err(), "not by accident");
        let run = simulated(&["--nothing-is-forwarded"]).unwrap().run;
        assert!(run.simulated_ipvs.is_some() && run.nothing_is_forwarded);
        let status = Args::try_parse_from(["bascule-agent", "status"]).unwrap();
        assert!(matches!(status.command, Some(Command::Status(_))));
    }
}
