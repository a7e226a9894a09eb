//! FRR's vrrpd as the peer: it has its addresses on a macvlan with the virtual router's hardware address, which is up where it is active.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use super::{
    case::Case,
    play::{ADDRESS, ADDRESS6, Peer, VRID, signal},
};
use crate::net::{Machine, Net, eventually, in_namespace};

/// Where Debian has it.
pub(super) const VRRPD: &str = "/usr/lib/frr/vrrpd";
const ZEBRA: &str = "/usr/lib/frr/zebra";
/// The macvlan.
const DEVICE: &str = "vrrp0";

/// zebra and vrrpd on a machine.
pub(super) struct Frr<'a> {
    machine: &'a Machine,
    folder: PathBuf,
    case: Case,
    zebra: Option<Child>,
    vrrpd: Option<Child>,
}

/// Whether the kernel has what FRR needs.
pub(super) fn has_macvlan() -> bool {
    let net = Net::new();
    let machine = net.machine(1);
    let status = Command::new("ip")
        .args(["-n", &machine.namespace, "link", "add", DEVICE, "link", "eth0", "type", "macvlan"])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

impl<'a> Frr<'a> {
    pub(super) fn new(machine: &'a Machine, case: &Case, folder: &Path) -> Self {
        std::fs::write(folder.join("vrrpd.conf"), configuration(case)).unwrap();
        std::fs::write(folder.join("zebra.conf"), "").unwrap();
        // FRR's programs give up root for a user of their own.
        let owned = Command::new("chown").args(["-R", "frr:frr"]).arg(folder).status();
        assert!(owned.is_ok_and(|status| status.success()), "FRR's user is there");
        Self { machine, folder: folder.to_owned(), case: *case, zebra: None, vrrpd: None }
    }

    /// Without duplicate address detection: it would keep vrrpd from speaking for two seconds.
    fn add_device(&self) {
        let (machine, ipv6) = (self.machine, self.case.ipv6);
        in_namespace(&machine.namespace, || {
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        });
        machine.ip(&format!("link add {DEVICE} link eth0 type macvlan mode bridge"));
        machine
            .ip(&format!("link set {DEVICE} address 00:00:5e:00:0{}:{VRID:02x}", if ipv6 { 2 } else { 1 }));
        let address = if ipv6 { format!("{ADDRESS6}/64") } else { format!("{ADDRESS}/24") };
        machine.ip(&format!("address add {address} dev {DEVICE}"));
        machine.ip(&format!("link set {DEVICE} up"));
    }

    /// What there is once the machine is off.
    fn remove_device(&self) {
        self.machine.ip(&format!("link del {DEVICE}"));
    }

    fn spawn(&self, program: &str, name: &str) -> Child {
        let path = |file: &str| self.folder.join(file).to_str().unwrap().to_owned();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        Command::new("ip")
            .args(["netns", "exec", &self.machine.namespace, program, "-P", "0"])
            .args([
                "-f",
                &path(&format!("{name}.conf")),
                "-i",
                &path(&format!("{name}.pid")),
                "-z",
                &path("zserv"),
            ])
            .args(["--vty_socket", &path("."), "--log", "stdout", "--log-level", "debug"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

fn configuration(case: &Case) -> String {
    let priority = if case.ours_is_higher { 100 } else { 200 };
    let mut text =
        format!("interface eth0\n vrrp {VRID} version {}\n vrrp {VRID} priority {priority}\n", case.version);
    let _ = writeln!(text, " vrrp {VRID} advertisement-interval {}", case.interval_ms);
    if !case.preempt {
        let _ = writeln!(text, " no vrrp {VRID} preempt");
    }
    let address = if case.ipv6 { format!("ipv6 {ADDRESS6}") } else { format!("ip {ADDRESS}") };
    let _ = writeln!(text, " vrrp {VRID} {address}");
    text
}

impl Peer for Frr<'_> {
    fn start(&mut self) {
        self.add_device();
        if self.zebra.is_none() {
            self.zebra = Some(self.spawn(ZEBRA, "zebra"));
            let socket = self.folder.join("zserv");
            eventually("zebra has its socket", || socket.exists().then_some(()));
        }
        self.vrrpd = Some(self.spawn(VRRPD, "vrrpd"));
    }

    fn is_active(&self, _case: &Case) -> bool {
        if self.vrrpd.is_none() {
            return false;
        }
        let link = self.machine.ip(&format!("-o link show dev {DEVICE}"));
        link.contains("LOWER_UP") && !link.contains("protodown on")
    }

    fn crash(&mut self) {
        if let Some(mut child) = self.vrrpd.take() {
            signal(i32::try_from(child.id()).unwrap(), Signal::SIGKILL);
            let _ = child.wait();
        }
        self.remove_device();
        let _ = std::fs::remove_file(self.folder.join("vrrpd.pid"));
    }

    fn end(&mut self) {
        if let Some(mut child) = self.vrrpd.take() {
            signal(i32::try_from(child.id()).unwrap(), Signal::SIGTERM);
            let _ = child.wait();
            self.remove_device();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Frr<'_> {
    fn drop(&mut self) {
        for child in [&mut self.vrrpd, &mut self.zebra] {
            if let Some(mut child) = child.take() {
                signal(i32::try_from(child.id()).unwrap(), Signal::SIGKILL);
                let _ = child.wait();
            }
        }
    }
}
