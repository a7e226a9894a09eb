//! Where a run waits for a person: before each step, or where it has failed. A shell in any node is one word away.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bad_input;
use crate::cancel::Cancel;
use crate::world::{World, terminal};

/// How often a wait asks whether the run was told to end, in milliseconds.
const LOOK: u16 = 100;

/// What to do about a scenario that has failed, before its network is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnFailure {
    /// Ask for the node of a shell, until told to go on.
    Shell,
}

/// Refuses to wait for keys where nobody can press any.
pub(super) fn must_have_keys(option: &str) -> Result<()> {
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        Ok(())
    } else {
        Err(bad_input(format!("{option} waits for a person: standard input and error have to be a terminal")))
    }
}

/// Waits for Enter. The name of a node opens a shell in it first.
pub(super) fn wait_for_person(world: &World, what: &str, cancel: &Cancel) {
    let nodes: Vec<String> = world.nodes().iter().map(|node| node.name().to_owned()).collect();
    loop {
        eprint!("{what}\n  Enter goes on; a shell in one of {}: ", nodes.join(", "));
        // A terminal that is gone ends the wait below.
        let _ = std::io::stderr().flush();
        let Some(line) = line(cancel) else { return };
        match choose(&line, &nodes) {
            Choice::GoOn => return,
            Choice::Shell(node) => match terminal::exec(world.id(), node, &["bash".to_owned()]) {
                Ok(_) => {}
                Err(error) => eprintln!("bascule-lab: {error}"),
            },
            Choice::Unknown => eprintln!("bascule-lab: there is no node {}", line.trim()),
        }
    }
}

enum Choice<'a> {
    GoOn,
    Shell(&'a str),
    Unknown,
}

fn choose<'a>(line: &str, nodes: &'a [String]) -> Choice<'a> {
    let word = line.trim();
    if word.is_empty() {
        return Choice::GoOn;
    }
    let found = nodes.iter().find(|node| node.eq_ignore_ascii_case(word));
    found.map_or(Choice::Unknown, |node| Choice::Shell(node))
}

/// A line of standard input; `None`: there is none any more, or the run was told to end.
fn line(cancel: &Cancel) -> Option<String> {
    let stdin = std::io::stdin();
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(LOOK)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => break,
            Err(_) => return None,
        }
    }
    let mut line = String::new();
    match stdin.lock().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_goes_on_and_a_name_opens_a_shell() {
        let nodes = ["SRV1".to_owned(), "dir1".to_owned()];
        assert!(matches!(choose("\n", &nodes), Choice::GoOn));
        assert!(matches!(choose("srv1\n", &nodes), Choice::Shell("SRV1")));
        assert!(matches!(choose("DIR1 \n", &nodes), Choice::Shell("dir1")));
        assert!(matches!(choose("SRV9\n", &nodes), Choice::Unknown));
    }
}
