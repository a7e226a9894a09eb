//! `bascule-lab doctor`: what this machine can run, what is missing, how to get it.

pub mod kernel;

use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;

use crate::vm::dir::StateDir;
use crate::vm::{find, kvm};
use kernel::{Ability, Finding};

/// Programs that scenarios and comparisons use, and the Debian package that has each.
const PROGRAMS: [(&str, &str); 8] = [
    ("bascule-agent", "build it with `cargo build --release`"),
    ("ip", "apt-get install iproute2"),
    ("nft", "apt-get install nftables"),
    ("ipvsadm", "apt-get install ipvsadm"),
    ("keepalived", "apt-get install keepalived"),
    ("/usr/libexec/heartbeat/heartbeat", "apt-get install heartbeat"),
    ("ping", "apt-get install iputils-ping"),
    ("tcpdump", "apt-get install tcpdump"),
];

/// Everything that was looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How scenarios run on this machine.
    pub verdict: Verdict,
    /// Release of the running kernel.
    pub kernel: String,
    /// What it can do.
    pub abilities: Vec<Finding>,
    /// What a virtual machine needs.
    pub virtual_machine: Vec<Item>,
    /// Programs.
    pub programs: Vec<Item>,
}

/// How scenarios run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// On this kernel.
    Host,
    /// In a virtual machine.
    VirtualMachine,
    /// Not at all.
    Nowhere,
}

/// Something that is there or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What.
    pub name: String,
    /// Whether it is there and of use.
    pub present: bool,
    /// Where it is, or why it is of no use.
    pub detail: String,
    /// How to get it, where it is missing.
    pub remedy: Option<String>,
    /// Whether nothing of its kind works without it.
    pub required: bool,
}

impl Item {
    fn found(name: &str, found: Result<PathBuf, String>, remedy: &str, required: bool) -> Self {
        let (present, detail) = match found {
            Ok(path) => (true, path.display().to_string()),
            Err(reason) => (false, reason),
        };
        let remedy = (!present).then(|| remedy.to_owned());
        Self { name: name.to_owned(), present, detail, remedy, required }
    }
}

/// Looks at everything. Takes some seconds the first time, when `/dev/kvm` is tried.
pub fn examine() -> Report {
    let abilities = kernel::probe();
    let has =
        |ability| abilities.iter().any(|finding| finding.ability == ability && finding.lacking.is_none());
    let host = Ability::ALWAYS.into_iter().chain([Ability::Ipvs, Ability::Nftables]).all(has);
    let virtual_machine = examine_virtual_machine();
    let possible = virtual_machine.iter().all(|item| item.present || !item.required);
    let verdict = match (host, possible) {
        (true, _) => Verdict::Host,
        (false, true) => Verdict::VirtualMachine,
        (false, false) => Verdict::Nowhere,
    };
    let programs = PROGRAMS
        .iter()
        .map(|&(name, remedy)| {
            let found = beside(name).or_else(|| find::in_path(name)).ok_or_else(|| "not found".to_owned());
            Item::found(name, found, remedy, name == "bascule-agent" || name == "ip")
        })
        .collect();
    Report { verdict, kernel: release(), abilities, virtual_machine, programs }
}

/// A program in the directory of this one.
fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
}

fn examine_virtual_machine() -> Vec<Item> {
    let kernel = find::kernel();
    let qemu = find::qemu();
    let package = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let kvm = match (&kernel, &qemu, StateDir::open()) {
        (Ok(kernel), Ok(qemu), Ok(dir)) => match kvm::verdict(&dir, qemu, kernel) {
            kvm::Verdict::Works { millis } => (true, format!("a test boot took {millis} ms")),
            kvm::Verdict::Broken { reason } => (false, format!("{reason}; emulated, which is slower")),
        },
        (_, _, Err(error)) => (false, format!("{error:#}")),
        _ => (false, "not tried, because of what is missing above".to_owned()),
    };
    vec![
        Item::found(
            "kernel",
            kernel.map(|kernel| kernel.image),
            &format!("apt-get install linux-image-{package}"),
            true,
        ),
        Item::found(
            "QEMU",
            qemu,
            if package == "arm64" {
                "apt-get install qemu-system-arm"
            } else {
                "apt-get install qemu-system-x86"
            },
            true,
        ),
        Item::found(
            "virtme-ng",
            find::vng(),
            "python3 -m venv .venv && .venv/bin/pip install virtme-ng (or `make lab`, which does it)",
            true,
        ),
        Item { name: "KVM".to_owned(), present: kvm.0, detail: kvm.1, remedy: None, required: false },
        Item::found(
            "strip",
            find::in_path("strip")
                .ok_or_else(|| "not found; programs are copied with their symbols".to_owned()),
            "apt-get install binutils",
            false,
        ),
    ]
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut abilities = String::new();
        for Finding { ability, lacking } in &self.abilities {
            let (ok, why) = lacking.as_deref().map_or(("yes", ""), |why| ("no", why));
            let _ = writeln!(abilities, "{}", format!("  {ok:3}  {:<14}{why}", ability.name()).trim_end());
        }
        let items = |items: &[Item]| {
            let mut out = String::new();
            for item in items {
                let ok = if item.present { "yes" } else { "no" };
                let _ = writeln!(out, "  {ok:3}  {:<14}{}", item.name, item.detail);
                if let Some(remedy) = &item.remedy {
                    let _ = writeln!(out, "       {:<14}to get it: {remedy}", "");
                }
            }
            out
        };
        let verdict = match self.verdict {
            Verdict::Host => "Scenarios run on this kernel.".to_owned(),
            Verdict::VirtualMachine => {
                "This kernel lacks what scenarios need; they run in a virtual machine, which starts by itself.".to_owned()
            }
            Verdict::Nowhere => {
                "Scenarios cannot run here: this kernel lacks what they need, and so does a virtual machine.".to_owned()
            }
        };
        format!(
            "This kernel, {}\n{abilities}\nA virtual machine\n{}\nPrograms\n{}\n{verdict}\n",
            self.kernel,
            items(&self.virtual_machine),
            items(&self.programs),
        )
    }

    /// Whether scenarios can run.
    pub fn is_good(&self) -> bool {
        self.verdict != Verdict::Nowhere
            && self.programs.iter().all(|program| program.present || !program.required)
    }
}

/// The version that a program tells, for reports: the first line of `PROGRAM --version`.
pub fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let bytes = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
}
