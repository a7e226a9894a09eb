//! Groups mixed with keepalived.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::mac::{machine, pings};
use crate::net::{Machine, Net, block, can_run, eventually, group};

/// keepalived on a machine.
struct Keepalived {
    child: Child,
}

impl Keepalived {
    /// Starts it with one instance a network, in a sync group.
    fn start(machine: &Machine, folder: &Path, version: u8, interval: &str, priority: u8) -> Option<Self> {
        Self::start_with(machine, folder, version, interval, priority, "")
    }

    fn start_with(
        machine: &Machine,
        folder: &Path,
        version: u8,
        interval: &str,
        priority: u8,
        more: &str,
    ) -> Option<Self> {
        let instance = |name: &str, interface: &str, vrid: u8, address: &str| {
            format!(
                "vrrp_instance {name} {{\n state BACKUP\n interface {interface}\n virtual_router_id {vrid}\n priority {priority}\n \
                 advert_int {interval}\n version {version}\n {more}\n virtual_ipaddress {{\n {address}\n }}\n}}\n"
            )
        };
        let configuration = format!(
            "global_defs {{\n router_id test\n vrrp_garp_master_delay 0\n}}\nvrrp_sync_group front {{\n group {{\n outside\n inside\n }}\n}}\n{}{}",
            instance("outside", "eth0", 30, "192.16.193.30/32"),
            instance("inside", "eth1", 31, "172.16.193.253/16")
        );
        let file = folder.join("keepalived.conf");
        std::fs::write(&file, configuration).unwrap();
        let pid = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &machine.namespace, "keepalived", "-n", "-l", "-D", "-P", "-f"])
            .arg(&file)
            .args(["-p", &pid("main.pid"), "-r", &pid("vrrp.pid")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .ok()?;
        Some(Self { child })
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Ends it in order: it says priority 0.
    fn terminate(mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(nix::sys::signal::Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn has_keepalived() -> bool {
    let found = Command::new("keepalived").arg("--version").stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("not run here: keepalived is not installed");
    }
    found
}

/// Each of the two becomes active in its turn: by priority, by the other's end, by a switch-over, by a cut cable.
fn with_keepalived(version: u8, interval: &str) {
    if !can_run() || !has_keepalived() {
        return;
    }
    const ADDRESS: &str = "192.16.193.30";
    let net = Net::new();
    let (dir1, dir2) = (net.machine(1), net.machine(2));
    let folder = tempfile::tempdir().unwrap();
    let milliseconds = if interval == "1" { "1s" } else { "100ms" };
    let more = format!(r#"{{"version": {version}, "advertisementInterval": "{milliseconds}"}}"#);
    let one = dir1.start();
    one.handle.configure(&[group(200, &more)]);
    one.wait_for("front", "Active");
    let Some(keepalived) = Keepalived::start(&dir2, folder.path(), version, interval, 100) else { return };
    let only = |holder: &Machine, other: &Machine, why: &str| {
        eventually(why, || (holder.has(ADDRESS) && !other.has(ADDRESS)).then_some(()));
    };
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    eventually(&format!("keepalived is in BACKUP; its log is in {}", folder.path().display()), || {
        log().contains("Entering BACKUP STATE").then_some(())
    });

    // A planned switch: it takes over though its priority is lower, and keeps it, because the switch-over holds.
    let answer = block(one.handle.switchover("front"));
    assert!(answer.is_ok(), "{answer:?}\n{}", log());
    only(&dir2, &dir1, "keepalived has the addresses after the switch-over");
    // It ends in order: ours takes over at once.
    keepalived.terminate();
    one.wait_for("front", "Active");
    only(&dir1, &dir2, "Bascule has the addresses after keepalived ended");

    // keepalived with the higher priority preempts ours.
    let keepalived = Keepalived::start(&dir2, folder.path(), version, interval, 220).unwrap();
    one.wait_for("front", "Backup");
    only(&dir2, &dir1, "keepalived preempted");
    // Its cable is cut.
    dir2.cable(0, false);
    one.wait_for("front", "Active");
    only(&dir1, &dir2, "Bascule has the addresses after the cable was cut");
    dir2.cable(0, true);
    one.wait_for("front", "Backup");
    only(&dir2, &dir1, "keepalived came back");
    // It dies without a word; what it had stays with it, which is why a test of holders ends here.
    keepalived.signal(nix::sys::signal::Signal::SIGSTOP);
    drop_later(keepalived, || one.wait_for("front", "Active"));
    let rejected: Vec<_> = one.status().groups[0].instances.iter().map(|one| one.rejected.clone()).collect();
    assert!(rejected.iter().all(std::collections::BTreeMap::is_empty), "{rejected:?}");
}

/// Runs something while keepalived is stopped, then lets it end.
fn drop_later(keepalived: Keepalived, work: impl FnOnce()) {
    // The one that speaks is a child of the one that we know.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", keepalived.child.id()));
    let child: Option<i32> =
        children.unwrap_or_default().split_whitespace().next().and_then(|pid| pid.parse().ok());
    let speaker = nix::unistd::Pid::from_raw(child.expect("keepalived has a child that speaks VRRP"));
    nix::sys::signal::kill(speaker, nix::sys::signal::Signal::SIGSTOP).unwrap();
    work();
    nix::sys::signal::kill(speaker, nix::sys::signal::Signal::SIGCONT).unwrap();
    keepalived.signal(nix::sys::signal::Signal::SIGCONT);
    keepalived.terminate();
}

#[test]
fn keepalived_version_3() {
    with_keepalived(3, "0.1");
}

#[test]
fn keepalived_version_2() {
    with_keepalived(2, "1");
}

/// Whoever has the address, for a client that asks only once it is at one MAC address.
#[test]
fn keepalived_with_virtual_mac_addresses() {
    const ADDRESS: &str = "192.16.193.30";
    const MORE: &str = r#"{"instances": [
        {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"], "virtualMac": true},
        {"name": "inside", "interface": "eth1", "virtualRouterId": 31, "addresses": ["172.16.193.253/16"], "virtualMac": true}
    ]}"#;
    if !can_run() || !has_keepalived() {
        return;
    }
    let net = Net::new();
    let (dir1, dir2, client) = (machine(&net, 1), machine(&net, 2), machine(&net, 9));
    client.ip(&format!("neighbour replace {ADDRESS} lladdr 00:00:5e:00:01:1e nud permanent dev eth0"));
    let folder = tempfile::tempdir().unwrap();
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let start = |priority| {
        Keepalived::start_with(&dir2, folder.path(), 3, "0.1", priority, "use_vmac")
            .expect("keepalived starts")
    };
    let only = |holder: &Machine, other: &Machine, why: &str| {
        eventually(why, || (holder.has(ADDRESS) && !other.has(ADDRESS)).then_some(()));
        eventually(&format!("{why}: it answers"), || pings(&client, ADDRESS).then_some(()));
    };
    let one = dir1.start();
    one.handle.configure(&[group(200, MORE)]);
    one.wait_for("front", "Active");
    let keepalived = start(100);
    eventually("keepalived is in BACKUP", || log().contains("Entering BACKUP STATE").then_some(()));
    only(&dir1, &dir2, "Bascule is active");
    let answer = block(one.handle.switchover("front"));
    assert!(answer.is_ok(), "{answer:?}\n{}", log());
    only(&dir2, &dir1, "keepalived has taken over");
    keepalived.terminate();
    one.wait_for("front", "Active");
    only(&dir1, &dir2, "keepalived has ended");
    let keepalived = start(220);
    one.wait_for("front", "Backup");
    only(&dir2, &dir1, "keepalived has preempted");
    keepalived.terminate();
    one.wait_for("front", "Active");
    only(&dir1, &dir2, "keepalived has ended again");
}
