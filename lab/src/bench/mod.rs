//! Benchmarks: what Bascule takes, beside others, in one run on one kernel.
//!
//! Every sample is taken on a machine of its own, in fresh namespaces: the kernel keeps removed real servers of a network namespace for
//! two minutes, and adding is many times slower meanwhile. Everything is timed from outside, by looking into the kernel's table; no
//! program's own word is taken.

mod bare;
mod change;
mod checks;
mod drift;
mod failover;
mod generations;
mod lab;
mod machine;
mod metrics;
mod operator;
mod program;
mod report;
mod rules;
mod site;
mod vrrp_scale;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use report::{Comparison, Ours, Peer, Report};

use crate::cli::kernel::{Kernel, Place};
use crate::doctor::kernel::{self, Ability};
use crate::run::Cancel;
use crate::world::janitor;

/// The exit code when a limit is not met and `--check` asks for it.
const NOT_MET: u8 = 1;
/// The longest time without looking whether the run is cancelled.
const BREATH: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// Programming an empty kernel, beside ipvsadm -R, keepalived's start and the bare messages.
    IpvsProgram,
    /// One weight changed among many, beside keepalived's reload; memory and CPU at rest.
    IpvsChange,
    /// How long it takes until what was changed by hand is put back.
    Drift,
    /// How long an address is not answered when its director fails or gives it away, beside keepalived.
    Failover,
    /// Very many groups on one network, beside keepalived.
    VrrpScale,
    /// HTTP checks beside keepalived's: CPU time, lateness, and how soon a death is noticed.
    Checks,
    /// The operator and agents in a cluster, beside a real API server: first sync, what a change costs and how long it takes.
    Operator,
    /// The lab itself: how soon an exercise is played, 100 machines up and down, what recording costs, what is left.
    Lab,
}

impl Name {
    fn as_str(self) -> &'static str {
        match self {
            Self::IpvsProgram => "ipvs-program",
            Self::IpvsChange => "ipvs-change",
            Self::Drift => "drift",
            Self::Failover => "failover",
            Self::VrrpScale => "vrrp-scale",
            Self::Checks => "checks",
            Self::Operator => "operator",
            Self::Lab => "lab",
        }
    }

    /// What the kernel has to have, besides what every network needs.
    fn needs(self) -> &'static [Ability] {
        match self {
            Self::IpvsProgram | Self::IpvsChange | Self::Drift | Self::Checks | Self::Lab => {
                &[Ability::Ipvs, Ability::Nftables]
            }
            // Frames are cut by nftables.
            Self::Failover | Self::VrrpScale => &[Ability::Nftables],
            // IPVS is simulated.
            Self::Operator => &[],
        }
    }

    /// The programs that have to be installed.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::IpvsProgram => &["ipvsadm", "keepalived"],
            Self::IpvsChange | Self::Failover | Self::VrrpScale => &["keepalived"],
            Self::Drift => &["ipvsadm", "nft", "ip"],
            Self::Checks => &["keepalived", "nft", "ip", "taskset"],
            Self::Operator => &[],
            Self::Lab => &["ipvsadm"],
        }
    }

    /// Real servers of each service unless told.
    fn servers(self) -> u32 {
        if self == Self::Operator { 10 } else { 4 }
    }
}

/// Arguments of `bascule-lab bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// What is measured.
    #[arg(value_enum)]
    name: Name,
    /// Virtual services.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    services: u32,
    /// Real servers of each [default: 4; operator: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    servers: Option<u32>,
    /// Samples of ours.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    samples: u32,
    /// Samples of the peers [default: 1 of a start, 3 of a reload].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    peer_samples: Option<u32>,
    /// Changes of a weight (ipvs-change, operator).
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// Seconds at rest over which CPU time is counted (ipvs-change).
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    rest: u64,
    #[command(flatten)]
    failover: failover::FailoverArgs,
    #[command(flatten)]
    scale: vrrp_scale::ScaleArgs,
    #[command(flatten)]
    checks: checks::CheckArgs,
    #[command(flatten)]
    operator: operator::OperatorArgs,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t)]
    kernel: Kernel,
    /// Folder of the results: DIR/NAME/bench.json.
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    out: PathBuf,
    /// The agent's program [default: beside this one, else in PATH].
    #[arg(long, value_name = "PROGRAM")]
    agent: Option<PathBuf>,
    /// Exit with code 1 when a limit is not met.
    #[arg(long)]
    check: bool,
    /// What the kernel runs in, for the report.
    #[arg(long, hide = true)]
    inside: Option<String>,
    /// Seconds that the exercise took from outside (lab).
    #[arg(long, hide = true)]
    with_boot: Option<f64>,
}

impl BenchArgs {
    /// Real servers of each service.
    fn servers(&self) -> u32 {
        self.servers.unwrap_or_else(|| self.name.servers())
    }

    /// Whether nothing of ours is measured.
    fn peer_only(&self) -> bool {
        self.failover.peer_only && matches!(self.name, Name::Failover | Name::VrrpScale | Name::Checks)
    }
}

/// Measures, writes `OUT/NAME/bench.json` and prints a table.
///
/// # Errors
/// When something could not be measured or written.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    if args.name == Name::Operator && args.kernel == Kernel::Vm {
        bail!("the API server runs on this machine: leave --kernel out");
    }
    if args.name == Name::Lab && args.agent.is_some() {
        bail!("the labs that are measured play the agent beside this program: leave --agent out");
    }
    if args.name == Name::Operator {
        return here(&args);
    }
    match args.kernel.choose(args.name.needs(), &mut |text| eprintln!("bascule-lab: {text}")) {
        Place::Host => here(&args),
        Place::Vm if args.name == Name::Lab && args.with_boot.is_none() => {
            machine::run(&BenchArgs { with_boot: Some(lab::with_boot()?), ..args })
        }
        Place::Vm => machine::run(&args),
    }
}

fn here(args: &BenchArgs) -> Result<ExitCode> {
    let bench = Bench::new(args)?;
    for line in janitor::sweep()? {
        bench.say(&line);
    }
    let comparisons = match args.name {
        Name::IpvsProgram => program::run(&bench),
        Name::IpvsChange => change::run(&bench),
        Name::Drift => drift::run(&bench),
        Name::Failover => failover::run(&bench, args),
        Name::VrrpScale => vrrp_scale::run(&bench, args),
        Name::Checks => checks::run(&bench, args),
        Name::Operator => operator::run(&bench, args),
        Name::Lab => lab::run(&bench, args.with_boot),
    }?;
    let report = Report {
        name: args.name.as_str().to_owned(),
        kernel: kernel_text(args.inside.as_deref())?,
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        comparisons,
    };
    report.write(&bench.folder)?;
    print!("{}", report.table());
    if args.inside.is_none() {
        println!("  {}", bench.folder.join("bench.json").display());
    }
    Ok(if args.check && !report.all_met() { ExitCode::from(NOT_MET) } else { ExitCode::SUCCESS })
}

fn kernel_text(inside: Option<&str>) -> Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    let release = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let release = release.trim();
    Ok(inside.map_or_else(|| release.to_owned(), |inside| format!("{release} ({inside})")))
}

/// What every benchmark needs.
struct Bench {
    name: &'static str,
    services: u32,
    servers: u32,
    samples: u32,
    peer_samples: Option<u32>,
    changes: u32,
    rest: Duration,
    /// Where results and logs go.
    folder: PathBuf,
    /// This program.
    program: PathBuf,
    /// The agent's program; none where only a peer is measured.
    agent: Option<PathBuf>,
    /// The agent's version.
    version: String,
    began: Instant,
    cancel: Cancel,
}

impl Bench {
    fn new(args: &BenchArgs) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("benchmarks need root: network namespaces and IPVS are made");
        }
        let mut needed = Ability::ALWAYS.to_vec();
        needed.extend(args.name.needs());
        let programs = args.name.programs();
        let mut lacking: Vec<String> = kernel::lacking(&needed)
            .into_iter()
            .map(|finding| {
                let why = finding.lacking.unwrap_or_default();
                format!("the kernel has no {}: {why}", finding.ability.name())
            })
            .collect();
        let absent = programs.iter().filter(|program| in_path(program).is_none());
        lacking.extend(absent.map(|program| format!("the program {program} is not installed")));
        if !lacking.is_empty() {
            bail!("{}; see `bascule-lab doctor`", lacking.join("; "));
        }
        let program = std::env::current_exe().context("finding this program")?;
        let agent = match &args.agent {
            _ if args.peer_only() => None,
            Some(path) => Some(path.clone()),
            None => Some(
                Some(program.with_file_name("bascule-agent"))
                .filter(|path| path.is_file())
                .or_else(|| in_path("bascule-agent"))
                .context(
                    "there is no bascule-agent beside bascule-lab and none in PATH; build it or give --agent",
                )?,
            ),
        };
        let version = match &agent {
            Some(agent) => said(agent, "--version")?,
            None => "none".to_owned(),
        };
        let folder = args.out.join(args.name.as_str());
        match std::fs::remove_dir_all(folder.join("logs")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing old logs in {}", folder.display()));
            }
            _ => {}
        }
        let cancel = Cancel::default();
        cancel.on_signals().context("listening to signals")?;
        Ok(Self {
            name: args.name.as_str(),
            services: args.services,
            servers: args.servers(),
            samples: args.samples,
            peer_samples: args.peer_samples,
            changes: args.changes,
            rest: Duration::from_secs(args.rest),
            folder,
            program,
            agent,
            version: last_word(&version),
            began: Instant::now(),
            cancel,
        })
    }

    /// Progress.
    fn say(&self, text: &str) {
        eprintln!("bench {} {:5.1} s: {text}", self.name, self.began.elapsed().as_secs_f64());
    }

    /// An error when the run was cancelled.
    fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Sleeps. An error when the run is cancelled meanwhile.
    fn pause(&self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.check()?;
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(BREATH));
        }
    }

    /// Waits until the kernel has removed the services of namespaces that ended; it does so afterwards, and it takes time that would
    /// be missing in the next sample. Told by how often the scheduler's module is in use; where that is not told, for a moment only.
    fn await_removal(&self, patience: Duration) {
        let path = "/sys/module/ip_vs_rr/refcnt";
        let uses = || std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let begun = Instant::now();
        let mut before = uses();
        let mut still = Instant::now();
        while begun.elapsed() < patience && !self.cancel.is_cancelled() {
            std::thread::sleep(BREATH);
            let now = uses();
            if now != before {
                before = now;
                still = Instant::now();
            }
            let quiet = Duration::from_millis(if now == Some(0) { 300 } else { 1500 });
            if still.elapsed() >= quiet {
                return;
            }
        }
    }
}

/// A program in PATH, or where administrators' programs are.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The first line that a program says.
fn said(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.map(|line| line.trim().to_owned())
        .with_context(|| format!("{} {argument} says nothing", program.display()))
}

fn last_word(text: &str) -> String {
    text.split_whitespace().next_back().unwrap_or(text).to_owned()
}

/// A peer without samples yet.
fn peer(name: &str) -> Result<Peer> {
    Ok(Peer { name: name.to_owned(), version: peer_version(name)?, samples: Vec::new() })
}

/// What a program says of its version, without its name and the `v`.
fn peer_version(name: &str) -> Result<String> {
    let path = in_path(name).with_context(|| format!("the program {name} is not installed"))?;
    let line = said(&path, "--version")?;
    Ok(line.split_whitespace().nth(1).unwrap_or(&line).trim_start_matches('v').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn the_arguments_say_what_is_measured_and_how_much() {
        let args =
            Line::try_parse_from(["bench", "ipvs-change", "--services", "20", "--check"]).expect("good").args;
        assert_eq!((args.name, args.services, args.servers(), args.check), (Name::IpvsChange, 20, 4, true));
        for bad in [&["bench"][..], &["bench", "all"], &["bench", "drift", "--services", "0"]] {
            assert!(Line::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_goes_into_the_machine_is_understood_there() {
        let line = [
            "bench",
            "drift",
            "--services",
            "7",
            "--peer-samples",
            "2",
            "--check",
            "--kernel",
            "vm",
            "--intervals",
            "1s,250ms",
            "--events",
            "planned,link-loss",
            "--peer-only",
            "--groups",
            "9",
            "--checks",
            "20,30",
            "--given-only",
        ];
        let args = Line::try_parse_from(line).expect("good").args;
        let mut inside = vec!["bench".to_owned()];
        inside.extend(machine::arguments(&args, "/tmp/x", None, "virtual machine, TCG"));
        let again = Line::try_parse_from(inside).expect("good").args;
        assert_eq!(again.kernel, Kernel::Host);
        assert_eq!(again.inside.as_deref(), Some("virtual machine, TCG"));
        assert_eq!(again.out, Path::new("/tmp/x"));
        let compared = |args: &BenchArgs| {
            (
                args.name,
                args.services,
                args.servers(),
                args.samples,
                args.peer_samples,
                args.changes,
                args.rest,
                args.check,
                args.failover.arguments(),
                args.scale.arguments(),
                args.checks.arguments(),
            )
        };
        assert_eq!(compared(&again), compared(&args));
    }
}
