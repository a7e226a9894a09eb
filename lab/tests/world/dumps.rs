//! What dumps core is written down, whoever started it, and what the lab itself ends is not.

use std::time::Duration;

use bascule_lab::scenario::Topology;
use bascule_lab::world::journal::{Dump, dumps};
use bascule_lab::world::{Exec, Exit, Spawn, World};
use nix::sys::signal::Signal;

use super::common::{dir, not_root, shell, until};

const ALONE: &str = r#"{"networks": [{"name": "inside"}], "nodes": [
    {"name": "SRV1", "links": [{"network": "inside", "interface": "enp0s3", "addresses": ["172.16.193.10/16"]}]}]}"#;

#[test]
fn what_dumps_core_is_written_down_and_what_the_lab_ends_is_not() {
    if not_root() {
        return;
    }
    let topology: Topology = serde_json::from_str(ALONE).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    let world = World::build(&topology, &dir(folder.path()), &|_| {}).unwrap();
    let node = world.node("SRV1").unwrap();
    let patience = Duration::from_secs(30);

    // Ends that are none of this.
    for (name, line) in [("told", "kill -TERM $$"), ("killed", "kill -KILL $$"), ("wrong", "exit 139")] {
        node.spawn(&Spawn::new(name, ["sh", "-c", line])).unwrap().wait(patience).unwrap();
    }
    // What the lab sends, to one process and to a group.
    let lasting = |name: &str| node.spawn(&Spawn::new(name, ["sh", "-c", "sleep 1000 & wait"])).unwrap();
    let one = lasting("one");
    one.signal(Signal::SIGQUIT).unwrap();
    assert_eq!(one.wait(patience), Some(Exit::Signal(libc::SIGQUIT)));
    let all = lasting("all");
    until("its child runs", || all.group().len() == 2);
    all.signal_group(Signal::SIGABRT).unwrap();
    assert_eq!(all.wait(patience), Some(Exit::Signal(libc::SIGABRT)));
    until("nothing of it is left", || !node.processes().iter().any(|process| process.group == all.pid()));
    assert_eq!(dumps(&logs).unwrap(), []);

    // A program, a command that is waited for, and an orphan of one.
    let program = node.spawn(&Spawn::new("program", ["sh", "-c", "echo so far; kill -SEGV $$"])).unwrap();
    assert_eq!(program.wait(patience), Some(Exit::Signal(libc::SIGSEGV)));
    node.exec(&Exec::shell("kill -ABRT $$")).unwrap();
    shell(&node, "(sh -c 'echo $$ >/run/orphan; kill -FPE $$' >/dev/null 2>&1 &)");
    until("the orphan has gone", || {
        node.exec(&Exec::shell("test -s /run/orphan && ! test -d /proc/$(cat /run/orphan)"))
            .unwrap()
            .success()
    });
    let orphan: i32 = shell(&node, "cat /run/orphan").trim().parse().unwrap();
    world.tear_down().unwrap();
    drop(world);
    // It outlives the network.
    let found = dumps(&logs).unwrap();
    let short = |dump: &Dump| (dump.program.clone(), dump.signal, dump.of.clone());
    assert_eq!(
        found.iter().map(short).collect::<Vec<_>>(),
        [
            ("sh".into(), libc::SIGSEGV, Some("program".into())),
            ("sh".into(), libc::SIGABRT, None),
            ("sh".into(), libc::SIGFPE, None)
        ]
    );
    assert!(found.iter().all(|dump| dump.node == "SRV1"));
    assert_eq!((found[0].pid, found[2].pid), (program.node_pid(), orphan));
}
