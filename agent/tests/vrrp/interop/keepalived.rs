//! keepalived as the peer.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use super::{
    case::{Case, newer},
    play::{ADDRESS, ADDRESS6, LINK_LOCAL, PASSWORD, PEER, Peer, US, VRID, signal},
};
use crate::net::Machine;

/// keepalived on a machine.
pub(super) struct Keepalived<'a> {
    machine: &'a Machine,
    /// Where its files are, as this process sees them, and below which folder it runs.
    folder: PathBuf,
    root: Option<String>,
    child: Option<Child>,
}

impl<'a> Keepalived<'a> {
    pub(super) fn new(machine: &'a Machine, case: &Case, is_newer: bool, folder: &Path) -> Self {
        let root = newer().filter(|_| is_newer);
        let folder = match &root {
            Some(root) => Path::new(root).join("tmp").join(&machine.namespace),
            None => folder.to_owned(),
        };
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("keepalived.conf"), configuration(case)).unwrap();
        Self { machine, folder, root, child: None }
    }

    fn inside(&self, name: &str) -> String {
        let path = self.folder.join(name);
        let root = self.root.as_deref().unwrap_or("/");
        Path::new("/").join(path.strip_prefix(root).unwrap()).to_str().unwrap().to_owned()
    }

    /// The processes: who watches, and who speaks.
    fn processes(&self) -> Vec<i32> {
        let Some(child) = &self.child else { return Vec::new() };
        let pid = child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|word| word.parse().ok());
        children.chain([i32::try_from(pid).unwrap()]).collect()
    }
}

fn configuration(case: &Case) -> String {
    let mut text = String::from(
        "global_defs {\n router_id test\n vrrp_garp_master_delay 0\n}\nvrrp_instance front {\n state BACKUP\n interface eth0\n",
    );
    let priority = if case.ours_is_higher { 100 } else { 200 };
    let interval = f64::from(case.interval_ms) / 1000.0;
    let _ = writeln!(
        text,
        " virtual_router_id {VRID}\n priority {priority}\n advert_int {interval}\n version {}",
        case.version
    );
    if !case.preempt {
        text.push_str(" nopreempt\n");
    }
    if case.unicast {
        let at = usize::from(case.ipv6);
        let _ = writeln!(text, " unicast_src_ip {}\n unicast_peer {{\n  {}\n }}", PEER[at], US[at]);
    }
    if case.password {
        let _ = writeln!(text, " authentication {{\n  auth_type PASS\n  auth_pass {PASSWORD}\n }}");
    }
    let addresses =
        if case.ipv6 { format!("{LINK_LOCAL}/128\n  {ADDRESS6}/64") } else { format!("{ADDRESS}/32") };
    let _ = writeln!(text, " virtual_ipaddress {{\n  {addresses}\n }}\n}}");
    text
}

impl Peer for Keepalived<'_> {
    fn start(&mut self) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.machine.namespace]);
        if let Some(root) = &self.root {
            command.args(["chroot", root]);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = command
            .args(["keepalived", "-n", "-l", "-D", "-P", "-f", &self.inside("keepalived.conf")])
            .args(["-p", &self.inside("main.pid"), "-r", &self.inside("vrrp.pid")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn is_active(&self, case: &Case) -> bool {
        self.machine.has(if case.ipv6 { ADDRESS6 } else { ADDRESS })
    }

    /// It dies, and what it leaves behind goes, as with a machine that loses power.
    fn crash(&mut self) {
        for pid in self.processes() {
            signal(pid, Signal::SIGKILL);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        for address in [ADDRESS, ADDRESS6, LINK_LOCAL] {
            if self.machine.has(address) {
                let line = self.machine.ip(&format!("-o address show to {address}"));
                let with_prefix = line.split_whitespace().nth(3).unwrap().to_owned();
                self.machine.ip(&format!("address del {with_prefix} dev eth0"));
            }
        }
        for name in ["main.pid", "vrrp.pid"] {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(i32::try_from(child.id()).unwrap(), Signal::SIGTERM);
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Keepalived<'_> {
    fn drop(&mut self) {
        self.crash();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
