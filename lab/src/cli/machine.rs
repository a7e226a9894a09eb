//! `bascule-lab vm …`: the virtual machine by hand.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::kernel::{Kernel, Place};
use super::{Output, bad_input};
use crate::doctor::kernel::Ability;
use crate::vm::dir::StateDir;
use crate::vm::message::{self, Boot};
use crate::vm::{Accelerator, Interaction, Settings, Vm};

/// Variables of the caller that commands in the machine see, too.
const PASSED: [&str; 6] = ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR", "CI", "COLUMNS", "TZ"];
/// Prefixes of such variables.
const PASSED_PREFIXES: [&str; 2] = ["BASCULE_", "PROPTEST_"];
/// Of those with such a prefix, what concerns only the host.
const NOT_PASSED: [&str; 3] = ["BASCULE_VM_DIR", "BASCULE_VNG", "BASCULE_VM_KERNEL"];
/// How long a command may clean up after its caller has gone.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Boot it, unless it runs.
    Start(StartArgs),
    /// End it.
    Stop,
    /// Say whether it runs, and what it is.
    Status {
        /// How it is printed.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a command in it, as root. Ctrl-C ends the command and what it started.
    ///
    /// The host's files are there, read-only; `/tmp` and `/run` are the machine's own. A program outside the system's directories is
    /// copied into the machine's memory first, without its symbols.
    Exec(ExecArgs),
    /// Print what its console said.
    Log,
}

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// Processors [default: as many as the host has, 2 to 8].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Memory in MiB [default: 2048].
    #[arg(long, value_parser = clap::value_parser!(u32).range(512..=262_144))]
    memory: Option<u32>,
    /// What drives its processors.
    #[arg(long, value_enum, default_value_t)]
    accelerator: Accelerator,
    /// Give it a network card, on which this machine's 127.0.0.1 is 10.0.2.2. Commands set its addresses.
    #[arg(long)]
    network: bool,
    /// Seconds without a call after which it ends.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    idle: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// Where it runs.
    #[arg(long, value_enum, default_value = "vm")]
    kernel: Kernel,
    /// A variable for the command: NAME=VALUE, or NAME for the caller's value.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Its working directory [default: the caller's].
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Exec(args) => exec(args),
        other => block_on(async move {
            match other {
                Command::Start(args) => start(&args).await,
                Command::Stop => stop().await,
                Command::Status { output } => status(output).await,
                Command::Log => log(),
                Command::Exec(_) => unreachable!("handled above"),
            }
        }),
    }
}

/// Runs a future on this thread. Threads that still read standard input do not hold the process up.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// Connects to the machine, booting it if need be, and tells the caller how that goes.
pub(crate) async fn connect(settings: &Settings) -> Result<Vm> {
    let mut progress = Progress::default();
    let vm = Vm::start(settings, &mut |boot| progress.tell(boot)).await;
    progress.end();
    vm
}

/// Tells how the boot goes: on a terminal as a line that changes, else a line now and then.
#[derive(Default)]
struct Progress {
    bar: Option<indicatif::ProgressBar>,
    told: Option<(Instant, String)>,
}

impl Progress {
    fn tell(&mut self, boot: &Boot) {
        match boot {
            Boot::Booting { seconds, what } => {
                if std::io::stderr().is_terminal() {
                    let bar = self.bar.get_or_insert_with(indicatif::ProgressBar::new_spinner);
                    bar.set_message(format!("virtual machine: {what}, {seconds} s"));
                    bar.tick();
                } else if self
                    .told
                    .as_ref()
                    .is_none_or(|(at, said)| said != what || at.elapsed() > Duration::from_secs(15))
                {
                    eprintln!("virtual machine: {what}, {seconds} s");
                    self.told = Some((Instant::now(), what.clone()));
                }
            }
            Boot::Ready { hello, accelerator, boot_millis, .. } => {
                let waited = self.bar.is_some() || self.told.is_some();
                self.end();
                if waited {
                    let seconds = Duration::from_millis(*boot_millis).as_secs_f64();
                    eprintln!("virtual machine: {} ready after {seconds:.1} s ({accelerator})", hello.kernel);
                }
            }
            Boot::Failed { .. } => self.end(),
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

async fn start(args: &StartArgs) -> Result<ExitCode> {
    let settings = Settings {
        cpus: args.cpus,
        memory_mib: args.memory,
        accelerator: args.accelerator,
        network: args.network,
        idle: Duration::from_secs(args.idle),
    };
    let vm = connect(&settings).await?;
    if let Some(state) = vm.dir().state() {
        let other = |asked: Option<u32>, has| asked.is_some_and(|asked| asked != has);
        if other(args.cpus, state.cpus) || other(args.memory, state.memory_mib) {
            bail!(
                "it already runs with {} processors and {} MiB; `bascule-lab vm stop` first",
                state.cpus,
                state.memory_mib
            );
        }
        if args.network && !state.network {
            bail!("it already runs without a network card; `bascule-lab vm stop` first");
        }
    }
    tell(vm.ready(), Output::Text)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends the machine if one runs. True if one did.
pub(super) async fn end_running() -> Result<bool> {
    match Vm::running_in_any_state().await? {
        Some(vm) => vm.end().await.map(|()| true),
        None => Ok(false),
    }
}

async fn stop() -> Result<ExitCode> {
    if end_running().await? {
        println!("the virtual machine has ended");
    } else {
        println!("no virtual machine runs");
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(output: Output) -> Result<ExitCode> {
    match Vm::running(&mut |_| {}).await? {
        Some(vm) => tell(vm.ready(), output).map(|()| ExitCode::SUCCESS),
        None => {
            match output {
                Output::Text => println!("no virtual machine runs"),
                Output::Json => println!("{}", serde_json::json!({ "state": "stopped" })),
            }
            Ok(ExitCode::from(3))
        }
    }
}

fn tell(boot: &Boot, output: Output) -> Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(boot)?);
    } else if let Boot::Ready { hello, accelerator, kept, supervisor, .. } = boot {
        println!(
            "kernel {}, {} processors, {} MiB, {accelerator}; supervisor: process {supervisor}; {}",
            hello.kernel,
            hello.cpus,
            hello.memory_mib,
            if *kept == 0 { "no topology is up in it" } else { "a topology is up in it" }
        );
    }
    Ok(())
}

fn log() -> Result<ExitCode> {
    let path = StateDir::open()?.console_log();
    let bytes = std::fs::read(&path).with_context(|| {
        format!("{}: no machine has been started since this computer's boot", path.display())
    })?;
    std::io::Write::write_all(&mut std::io::stdout(), &bytes)?;
    Ok(ExitCode::SUCCESS)
}

fn exec(args: ExecArgs) -> Result<ExitCode> {
    let environment = chosen_environment(&args.env)?;
    let directory = match args.cwd {
        Some(path) => path,
        None => std::env::current_dir().context("finding the working directory")?,
    };
    let directory = std::path::absolute(directory)?;
    let needed = [Ability::Ipvs, Ability::Nftables];
    match args.kernel.choose(&needed, &mut |text| eprintln!("bascule-lab: {text}")) {
        Place::Host => {
            use std::os::unix::process::CommandExt as _;
            let error = std::process::Command::new(&args.command[0])
                .args(&args.command[1..])
                .envs(environment)
                .current_dir(directory)
                .exec();
            Err(error).with_context(|| format!("starting {}", args.command[0]))
        }
        Place::Vm => block_on(async move {
            let mut vm = connect(&Settings::default()).await?;
            let programs = vm.install_programs().await?;
            let mut command = message::Command {
                arguments: args.command,
                environment: machine_environment(&programs),
                directory: Some(directory.to_str().context("the working directory is not UTF-8")?.to_owned()),
                grace_millis: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
                ..message::Command::default()
            };
            command.environment.extend(environment);
            vm.expose(visible(&directory)?).await?;
            let program = Path::new(&command.arguments[0]);
            if is_foreign(program) {
                let program = directory.join(program);
                if program.is_file() {
                    command.arguments[0] = vm.install_program(&program).await?;
                }
            }
            let code = vm.run(command, Interaction::Terminal).await?;
            Ok(ExitCode::from(code))
        }),
    }
}

/// Variables of the caller for every command in the machine, and where it finds the programs that were copied.
pub(crate) fn machine_environment(programs: &str) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            let name = name.as_str();
            (PASSED.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
                && !NOT_PASSED.contains(&name)
        })
        .collect();
    environment.insert(
        "PATH".to_owned(),
        format!("{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    );
    environment
}

fn chosen_environment(chosen: &[String]) -> Result<BTreeMap<String, String>> {
    chosen
        .iter()
        .map(|entry| match entry.split_once('=') {
            Some(("", _)) => Err(bad_input(format!("--env {entry}: a variable has a name"))),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => {
                let value = std::env::var(entry)
                    .map_err(|error| bad_input(format!("--env {entry}: {error}; give {entry}=VALUE")))?;
                Ok((entry.clone(), value))
            }
        })
        .collect()
}

/// What must be made visible so that this directory is: below what the machine has of its own. Its own top directories stay its own.
pub(super) fn visible(directory: &Path) -> Result<Vec<String>> {
    if directory.components().count() <= 2 || !directory.is_dir() {
        return Ok(Vec::new());
    }
    let text = directory.to_str().with_context(|| format!("{}: not UTF-8", directory.display()))?;
    Ok(vec![text.to_owned()])
}

/// A program that is named by a path outside the system's directories.
fn is_foreign(program: &Path) -> bool {
    program.components().count() > 1
        && !["/usr", "/bin", "/sbin", "/lib", "/proc"].iter().any(|system| program.starts_with(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_taken_from_the_caller() {
        let chosen =
            chosen_environment(&["A=1".into(), "B=x=y".into(), "PATH".into()]).expect("all are good");
        assert_eq!(chosen["A"], "1");
        assert_eq!(chosen["B"], "x=y");
        assert_eq!(chosen["PATH"], std::env::var("PATH").expect("tests have one"));
        for bad in ["=1", "NO_SUCH_VARIABLE_HERE"] {
            assert!(chosen_environment(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_of_the_system_are_not_copied() {
        for (program, foreign) in [
            ("ipvsadm", false),
            ("/usr/sbin/ipvsadm", false),
            ("/bin/sh", false),
            ("./target/debug/test", true),
            ("/home/me/test", true),
        ] {
            assert_eq!(is_foreign(Path::new(program)), foreign, "{program}");
        }
    }

    #[test]
    fn the_machines_own_directories_stay_its_own() {
        for directory in ["/", "/tmp", "/run"] {
            assert_eq!(visible(Path::new(directory)).expect("UTF-8"), Vec::<String>::new(), "{directory}");
        }
    }
}
