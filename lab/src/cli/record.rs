//! `bascule-lab capture`: frames of what is up, with comments.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::bad_input;
use super::hand::{NOTHING, Standing, inside, standing};
use super::keeper::{self, Answer, Request};
use super::kernel::Kernel;
use super::machine::block_on;
use crate::vm::{Interaction, Vm};

/// Where the file is until it is fetched, inside a virtual machine.
const THERE: &str = "/tmp/bascule-capture.pcapng";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bascule-lab capture                                every link, until Ctrl-C, into capture.pcapng
  bascule-lab capture dir1:enp0s3 ClientA --for 30   one link of dir1 and all of ClientA, for 30 seconds
  bascule-lab capture SRV1 --out srv1.pcapng         then: wireshark srv1.pcapng
What a comment says, `tshark -r FILE -T fields -e frame.number -e frame.comment` prints.")]
pub(super) struct RecordArgs {
    /// Nodes, or single interfaces of nodes; all unless told.
    #[arg(value_name = "NODE[:INTERFACE]")]
    links: Vec<String>,
    /// The file, with a comment on each frame that matters.
    #[arg(long, default_value = "capture.pcapng", value_name = "FILE")]
    out: PathBuf,
    /// Ends after so many seconds instead of with Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    #[arg(long, value_enum, default_value_t, hide = true)]
    kernel: Kernel,
}

/// Records until it is told to end, and writes the file.
pub(super) fn run(args: &RecordArgs) -> Result<ExitCode> {
    if args.out.is_dir() {
        return Err(bad_input(format!("{} is a folder; --out names a file", args.out.display())));
    }
    let there = block_on(async {
        match standing(args.kernel).await? {
            Standing::Here => Ok(None),
            Standing::There(vm) => run_there(*vm, args).await.map(Some),
            Standing::Nowhere => Err(bad_input(NOTHING)),
        }
    })?;
    there.map_or_else(|| run_here(args), Ok)
}

async fn run_there(mut vm: Vm, args: &RecordArgs) -> Result<ExitCode> {
    let programs = vm.install_programs().await?;
    let mut arguments = vec!["capture".to_owned()];
    arguments.extend(args.links.iter().cloned());
    arguments.extend(["--out".to_owned(), THERE.to_owned()]);
    if let Some(seconds) = args.seconds {
        arguments.extend(["--for".to_owned(), seconds.to_string()]);
    }
    let code = vm.run(inside(&programs, arguments), Interaction::Watch).await?;
    if code == 0 {
        vm.get(THERE, &args.out).await?;
        vm.remove(THERE).await?;
        println!("{}", args.out.display());
    }
    Ok(ExitCode::from(code))
}

fn run_here(args: &RecordArgs) -> Result<ExitCode> {
    // Before the keeper is asked: a signal that comes meanwhile ends the recording, and not this process with the file unwritten.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;
    let told = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("listening to signals")?;
    let links = match keeper::ask(&Request::Record(args.links.clone()))? {
        Some(Answer::Recording(links)) => links,
        Some(Answer::Wrong(reason)) => return Err(bad_input(reason)),
        Some(Answer::Failed(reason)) => bail!("{reason}"),
        Some(other) => bail!("the keeper answered {other:?}"),
        None => return Err(bad_input(NOTHING)),
    };
    let end = args.seconds.map_or("Ctrl-C ends it".to_owned(), |seconds| format!("for {seconds} s"));
    eprintln!("recording {}; {end}", links.join(", "));
    let patience = args.seconds.map_or(PollTimeout::NONE, |seconds| {
        PollTimeout::try_from(Duration::from_secs(seconds)).unwrap_or(PollTimeout::MAX)
    });
    poll(&mut [PollFd::new(told.as_fd(), PollFlags::POLLIN)], patience).context("waiting")?;
    let file = match keeper::ask(&Request::Recorded)? {
        Some(Answer::Done(file)) => file,
        Some(Answer::Failed(reason)) => bail!("{reason}"),
        other => bail!("the keeper answered {other:?}"),
    };
    move_file(Path::new(&file), &args.out)?;
    if args.out.as_path() != Path::new(THERE) {
        println!("{}", args.out.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The keeper's folder may be on another file system.
fn move_file(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("writing {}", to.display()))?;
    std::fs::remove_file(from).with_context(|| format!("removing {}", from.display()))
}
