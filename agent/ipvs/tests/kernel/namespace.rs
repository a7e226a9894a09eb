//! A network namespace of its own for each test.

use std::{
    io::Write,
    net::IpAddr,
    process::{Command as Process, Output, Stdio},
    sync::Once,
    thread,
};

use bascule_ipvs::{Client, Error};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a fresh network namespace with a client to its IPVS.
///
/// Without rights or without IPVS the test does not run, and says so; with BASCULE_KERNEL_TESTS=require it fails then.
pub(crate) fn in_namespace(test: impl FnOnce(&mut Client) + Send + 'static) {
    let thread = thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            return not_run(&format!("cannot make a network namespace ({errno}), run as root"));
        }
        match Client::connect() {
            Err(error @ Error::Missing { .. }) => not_run(&format!("kernel has no IPVS ({error})")),
            Err(error) => panic!("{error}"),
            Ok(mut client) => {
                run("ip", &["link", "set", "lo", "up"]);
                test(&mut client);
            }
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn not_run(why: &str) {
    static SAID: Once = Once::new();
    assert!(
        std::env::var_os("BASCULE_KERNEL_TESTS").is_none_or(|value| value != "require"),
        "BASCULE_KERNEL_TESTS=require, but {why}"
    );
    // Not eprintln, which the test harness hides of a test that passes.
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "not run here: {why}");
    });
}

/// Runs a program in this thread's namespace and returns what it printed; it must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = try_run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The same without judging.
pub(crate) fn try_run(program: &str, arguments: &[&str]) -> Output {
    Process::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

/// Runs `ipvsadm` with arguments in one string.
pub(crate) fn ipvsadm(arguments: &str) -> String {
    run("ipvsadm", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// The rules that `ipvsadm -Sn` prints, sorted.
pub(crate) fn saved() -> Vec<String> {
    let mut lines: Vec<String> = ipvsadm("-Sn").lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
