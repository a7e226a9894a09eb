//! `bascule-lab up`, `exec`, `inject`, `heal`, `down`: a topology by hand.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::bad_input;
use super::keeper::{self, Answer, Request};
use super::kernel::{Kernel, Place};
use super::machine::{GRACE, block_on, connect, machine_environment};
use super::play::{place, tell};
use crate::scenario::{Fault, Scenario, read_fault, resolve, shipped};
use crate::vm::message::Command;
use crate::vm::{Interaction, Settings, Vm};
use crate::world::{janitor, terminal};

/// How long taking down may take before the keeper is killed.
const DOWN: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    /// Name of a shipped scenario, or a file.
    #[arg(value_name = "NAME|FILE")]
    scenario: String,
    /// Starts no agent and no peer: directors are yours to configure, by `connect` or `exec`; `check` says whether it is right.
    #[arg(long)]
    topology_only: bool,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t)]
    kernel: Kernel,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// The node.
    node: String,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
    /// Program and arguments [default: a shell].
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab up tp-ipvs
  bascule-lab connect Load-Balancer      a shell there, until `exit` or Ctrl-D

It needs a terminal; without one, `bascule-lab exec NODE -- COMMAND` runs a command. The exit code is the shell's, 2 where nothing is up,
the node is not there, or there is no terminal.")]
pub(super) struct ConnectArgs {
    /// The node, in any case.
    node: String,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab inject adminDown node=SRV1 interface=enp0s3
  bascule-lab inject 'blackhole: {node: SRV1, interface: enp0s3, direction: in}'
  bascule-lab inject killAgent node=Load-Balancer
  bascule-lab heal killAgent node=Load-Balancer")]
pub(super) struct FaultArgs {
    /// The fault as in a scenario: its kind and NAME=VALUE for its fields, or all of it in YAML.
    #[arg(required = true, value_name = "FAULT")]
    fault: Vec<String>,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

#[derive(Debug, clap::Args)]
pub(super) struct DownArgs {
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

/// Where something is up.
pub(super) enum Standing {
    Here,
    There(Box<Vm>),
    Nowhere,
}

pub(super) async fn standing(kernel: Kernel) -> Result<Standing> {
    if kernel != Kernel::Vm && keeper::ask(&Request::Status)?.is_some() {
        return Ok(Standing::Here);
    }
    if kernel != Kernel::Host
        && let Some(mut vm) = Vm::running(&mut |_| {}).await?
        && vm.has(keeper::SOCKET).await?
    {
        return Ok(Standing::There(Box::new(vm)));
    }
    Ok(Standing::Nowhere)
}

pub(super) const NOTHING: &str = "nothing is up; `bascule-lab up NAME` first";

/// Builds the network and starts its programs.
pub(super) fn up(args: &UpArgs) -> Result<ExitCode> {
    let scenario = match resolve(&args.scenario) {
        Ok(scenario) => scenario,
        Err(problems) => return Ok(tell(&problems)),
    };
    match place(args.kernel, std::slice::from_ref(&scenario)) {
        Place::Host => up_here(args, &scenario),
        Place::Vm => block_on(up_there(args)),
    }
}

fn up_here(args: &UpArgs, scenario: &Scenario) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        return Err(bad_input("networks are made of namespaces, which needs root; run it with sudo"));
    }
    for line in janitor::sweep()? {
        eprintln!("{line}");
    }
    if let Some(Answer::Up { scenario, .. }) = keeper::ask(&Request::Status)? {
        return Err(bad_input(format!("{scenario} is already up; `bascule-lab down` first")));
    }
    let folder = keeper::folder()?;
    let file = folder.join(format!("{}.yaml", scenario.name));
    let text = match shipped::find(&args.scenario) {
        Some(shipped) => shipped.text.to_owned(),
        None => {
            std::fs::read_to_string(&args.scenario).with_context(|| format!("reading {}", args.scenario))?
        }
    };
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    let log = std::fs::File::create(folder.join("keeper.log")).context("creating the keeper's log")?;
    let mut command = Process::new("/proc/self/exe");
    command.arg("keep").arg("--scenario").arg(&file).current_dir("/");
    if args.topology_only {
        command.arg("--topology-only");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // SAFETY: setsid is a system call; it may be made between fork and exec.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let mut child = command.spawn().context("starting the keeper")?;
    let output = child.stdout.take().context("the keeper has an output")?;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?).context("the keeper said something unexpected")? {
            Answer::Progress(line) => eprintln!("{line}"),
            Answer::Failed(reason) => bail!("{reason}"),
            Answer::Up { scenario, nodes, .. } => {
                println!("{scenario} is up: {}", nodes.join(", "));
                let first = nodes.first().map_or("NODE", String::as_str);
                println!(
                    "  bascule-lab exec {first} -- ip address     a command in a node; without one, a shell"
                );
                if args.topology_only {
                    println!("  bascule-lab check                          when you have configured it");
                }
                println!("  bascule-lab inject adminDown node={first} interface=…");
                println!("  bascule-lab down                           when you are done");
                return Ok(ExitCode::SUCCESS);
            }
            Answer::Done(_)
            | Answer::Seen(_)
            | Answer::Recording(_)
            | Answer::Wrong(_)
            | Answer::Checked { .. } => {}
        }
    }
    bail!("the keeper ended; {} says why", folder.join("keeper.log").display())
}

async fn up_there(args: &UpArgs) -> Result<ExitCode> {
    let mut vm = connect(&Settings::default()).await?;
    let programs = vm.install_programs().await?;
    let mut name = args.scenario.clone();
    if shipped::find(&name).is_none() {
        let path = PathBuf::from(&name);
        let file = path.file_name().and_then(|file| file.to_str()).context("a file's name is not UTF-8")?;
        let there = format!("/tmp/bascule-up/{file}");
        vm.put(&path, &there).await?;
        name = there;
    }
    let mut arguments = vec!["up".to_owned(), name];
    arguments.extend(args.topology_only.then(|| "--topology-only".to_owned()));
    let mut command = inside(&programs, arguments);
    command.keep = true;
    Ok(ExitCode::from(vm.run(command, Interaction::Watch).await?))
}

/// This program inside the machine, for what is there.
pub(super) fn inside(programs: &str, arguments: Vec<String>) -> Command {
    let mut all = vec![format!("{programs}/bascule-lab")];
    let mut arguments = arguments.into_iter();
    all.extend(arguments.next());
    all.extend(["--kernel".to_owned(), "host".to_owned()]);
    all.extend(arguments);
    Command {
        arguments: all,
        environment: machine_environment(programs),
        grace_millis: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
        ..Command::default()
    }
}

pub(super) async fn repeat(
    mut vm: Box<Vm>,
    arguments: Vec<String>,
    interaction: Interaction,
) -> Result<ExitCode> {
    let programs = vm.install_programs().await?;
    Ok(ExitCode::from(vm.run(inside(&programs, arguments), interaction).await?))
}

/// Runs a command in a node, with a terminal when the caller has one.
pub(super) fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let command = if args.command.is_empty() { vec!["bash".to_owned()] } else { args.command.clone() };
    let here = block_on(async {
        match standing(args.kernel).await? {
            Standing::Here => Ok(None),
            Standing::There(vm) => {
                let mut arguments = vec!["exec".to_owned(), args.node.clone(), "--".to_owned()];
                arguments.extend(command.iter().cloned());
                repeat(vm, arguments, Interaction::Terminal).await.map(Some)
            }
            Standing::Nowhere => Err(bad_input(NOTHING)),
        }
    })?;
    if let Some(code) = here {
        return Ok(code);
    }
    let Some(Answer::Up { run, nodes, .. }) = keeper::ask(&Request::Status)? else {
        return Err(bad_input(NOTHING));
    };
    let Some(node) = nodes.iter().find(|node| node.eq_ignore_ascii_case(&args.node)) else {
        return Err(bad_input(format!("there is no node {}; there are {}", args.node, nodes.join(", "))));
    };
    let code = terminal::exec(&run, node, &command)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// A shell in a node, for a person.
pub(super) fn shell(args: &ConnectArgs) -> Result<ExitCode> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(bad_input(format!(
            "connect opens a shell for a person: standard input and output have to be a terminal; `bascule-lab exec {} -- COMMAND` needs none",
            args.node
        )));
    }
    exec(&ExecArgs { node: args.node.clone(), kernel: args.kernel, command: Vec::new() })
}

/// Plays a fault.
pub(super) fn inject(args: &FaultArgs) -> Result<ExitCode> {
    play(args, "inject", Request::Inject)
}

/// Ends a fault.
pub(super) fn heal(args: &FaultArgs) -> Result<ExitCode> {
    play(args, "heal", Request::Heal)
}

fn play(args: &FaultArgs, verb: &str, request: impl FnOnce(Fault) -> Request) -> Result<ExitCode> {
    let fault = parse_fault(&args.fault)?;
    block_on(async {
        match standing(args.kernel).await? {
            Standing::Nowhere => Err(bad_input(NOTHING)),
            Standing::There(vm) => {
                let mut arguments = vec![verb.to_owned()];
                arguments.extend(args.fault.iter().cloned());
                repeat(vm, arguments, Interaction::Watch).await
            }
            Standing::Here => match keeper::ask(&request(fault))? {
                Some(Answer::Done(proof)) => {
                    println!("{proof}");
                    Ok(ExitCode::SUCCESS)
                }
                Some(Answer::Failed(reason)) => bail!("{reason}"),
                other => bail!("the keeper answered {other:?}"),
            },
        }
    })
}

/// `adminDown node=SRV1 interface=enp0s3`, or `adminDown: {node: SRV1, interface: enp0s3}`.
fn parse_fault(words: &[String]) -> Result<Fault> {
    let wrong = |message: String| bad_input(format!("{}: {message}", words.join(" ")));
    let mut in_words = false;
    let value = if let [kind, fields @ ..] = words
        && kind.chars().all(|c| c.is_ascii_alphanumeric())
    {
        in_words = true;
        let mut object = serde_json::Map::new();
        for field in fields {
            let (name, value) =
                field.split_once('=').ok_or_else(|| wrong(format!("`{field}` is not NAME=VALUE")))?;
            let value = match value.parse::<u16>() {
                Ok(port) if name == "port" => port.into(),
                _ => value.into(),
            };
            if object.insert(name.to_owned(), value).is_some() {
                return Err(wrong(format!("`{name}` is given twice")));
            }
        }
        serde_json::json!({ kind.as_str(): object })
    } else {
        let documents =
            bascule_crds::manifest::parse(&words.join(" ")).map_err(|error| wrong(error.to_string()))?;
        let [document] = documents.as_slice() else {
            return Err(wrong("one fault is expected".to_owned()));
        };
        document.value.clone()
    };
    read_fault(value).map_err(|mut message| {
        if in_words && message.contains("has to be a list") {
            message.push_str(
                "; write lists as in a scenario: 'partition: {network: inside, groups: [[SRV1], [SRV2]]}'",
            );
        }
        wrong(message)
    })
}

/// Takes everything down that is up.
pub(super) fn down(args: &DownArgs) -> Result<ExitCode> {
    block_on(async {
        match standing(args.kernel).await? {
            Standing::There(mut vm) => {
                let programs = vm.install_programs().await?;
                let code = vm.run(inside(&programs, vec!["down".to_owned()]), Interaction::Watch).await?;
                // The machine was started for it, unless others use it by now.
                if !vm.has(keeper::SOCKET).await? {
                    vm.end_if_unused().await?;
                }
                Ok(ExitCode::from(code))
            }
            Standing::Here => down_here(),
            Standing::Nowhere => {
                // A keeper that was killed has left things.
                if nix::unistd::geteuid().is_root() {
                    for line in janitor::sweep()? {
                        println!("{line}");
                    }
                }
                println!("nothing is up");
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

fn down_here() -> Result<ExitCode> {
    let Some(Answer::Up { scenario, keeper: process, .. }) = keeper::ask(&Request::Status)? else {
        return Err(bad_input(NOTHING));
    };
    let answer = keeper::ask(&Request::Down);
    let start = Instant::now();
    while process.is_alive() && start.elapsed() < DOWN {
        std::thread::sleep(Duration::from_millis(20));
    }
    if process.is_alive() && !process.kill(Duration::from_secs(10)) {
        bail!("the keeper (process {}) does not end", process.pid);
    }
    // What it could not remove itself.
    janitor::sweep()?;
    match answer {
        Ok(Some(Answer::Done(_))) => println!("{scenario} is down"),
        Ok(other) => return Err(anyhow!("the keeper answered {other:?}; its remains were removed")),
        Err(error) => return Err(error.context("the keeper ended early; its remains were removed")),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_fault_is_written_as_in_a_scenario_or_in_words() {
        let one = parse_fault(&words(&["adminDown", "node=SRV1", "interface=enp0s3"])).expect("good");
        let other = parse_fault(&words(&["adminDown: {node: SRV1, interface: enp0s3}"])).expect("good");
        assert_eq!(one, other);
        let words = |text: &str| words(&text.split(' ').collect::<Vec<_>>());
        let filter = parse_fault(&words("packetFilter node=SRV1 protocol=tcp port=80")).expect("good");
        assert_eq!(filter.to_string(), "packetFilter SRV1 tcp 80");
        let bad = parse_fault(&words("impair node=SRV1 interface=eth0 loss=30% delay=50ms")).expect("good");
        assert_eq!(bad.to_string(), "impair SRV1 eth0: 30% lost, 50ms late");
    }

    #[test]
    fn what_is_no_fault_is_told() {
        for (bad, because) in [
            (&["adminDown", "node"][..], "not NAME=VALUE"),
            (&["adminDown", "node=a", "node=b"], "given twice"),
            (&["noSuchFault", "node=a"], "noSuchFault"),
            (&["adminDown: {node: SRV1}"], "interface"),
            (&["adminDown: {node: a, node: b}"], "node"),
            (&["adminDown: node=SRV1"], "has to be an object"),
            (&["adminDwn", "node=SRV1", "interface=enp0s3"], "did you mean `adminDown`?"),
            (&["partition", "network=inside", "groups=SRV1"], "write lists as in a scenario"),
            (&["[1, 2"], ""),
        ] {
            let error = parse_fault(&words(bad)).expect_err("must be refused");
            assert!(error.is::<super::super::BadInput>(), "{error}");
            assert!(error.to_string().contains(because), "{error} lacks {because}");
        }
    }

    #[test]
    fn inside_the_machine_the_kernel_is_its_own() {
        let command = inside("/p", words(&["exec", "SRV1", "--", "ls", "-l"]));
        let expected = words(&["/p/bascule-lab", "exec", "--kernel", "host", "SRV1", "--", "ls", "-l"]);
        assert_eq!(command.arguments, expected);
    }
}
