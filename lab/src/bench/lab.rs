//! The lab itself: how soon the first exercise is played, how long a large network takes to be there and to be gone, what recording
//! costs, and that nothing is left.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::report::{Comparison, Peer};
use super::{Bench, in_path};
use crate::run::Cancel;
use crate::scenario::topology::Topology;
use crate::world::inventory::Inventory;
use crate::world::{Node, Process, Spawn, World, WorldDir};

/// The exercise that is played: the TP's second part.
const EXERCISE: &str = "tp-ipvs";
/// Its time by its own clock, in an emulated machine, in seconds.
const PLAYED: f64 = 15.0;
/// The same from the command to the end, with the boot of the virtual machine.
const WITH_BOOT: f64 = 40.0;
/// Machines of the large network.
const NODES: u32 = 100;
/// Until it is there, and until it is gone, in seconds.
const UP: f64 = 60.0;
const DOWN: f64 = 30.0;
/// Requests of a sample with and without recording.
const REQUESTS: u32 = 500;
/// Where the web server of that is.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The longest that a request, or a program's start, may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(bench: &Bench, with_boot: Option<f64>) -> Result<Vec<Comparison>> {
    let version = &bench.version;
    let before = Everything::take();
    let mut played = Vec::new();
    for _ in 0..bench.samples {
        bench.check()?;
        played.push(play(bench)?);
        bench.say(&format!("{EXERCISE}: {:.1} s", played.last().copied().unwrap_or_default()));
    }
    let mut rows = vec![
        Comparison::new(format!("{EXERCISE}, from its first step to its last"), "s", version, &played)
            .each_at_most(PLAYED),
    ];
    if let Some(seconds) = with_boot {
        let what = format!("{EXERCISE}, from the command to its end, with the boot of the virtual machine");
        rows.push(Comparison::new(what, "s", version, &[seconds]).at_most(WITH_BOOT));
    }
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for sample in 0..bench.samples {
        let (there, gone) = large(bench, sample)?;
        bench.say(&format!("{NODES} machines: there after {there:.1} s, gone after {gone:.1} s"));
        up.push(there);
        down.push(gone);
    }
    rows.push(
        Comparison::new(format!("{NODES} machines on one network, until frames pass"), "s", version, &up)
            .each_at_most(UP),
    );
    rows.push(
        Comparison::new(format!("{NODES} machines, until all is gone"), "s", version, &down)
            .each_at_most(DOWN),
    );
    rows.push(recording(bench)?);
    let left = Everything::take().beyond(&before);
    left.iter().for_each(|line| bench.say(&format!("left: {line}")));
    #[expect(clippy::cast_precision_loss, reason = "a few lines")]
    let count = left.len() as f64;
    let what = "left: namespaces, links, mounts, groups, processes, runs, nftables, settings";
    rows.push(Comparison::new(what, "", version, &[count]).at_most(0.0));
    Ok(rows)
}

/// From the command to its end on a machine that is booted for it, in seconds. The machine is a new one, and goes, also after Ctrl-C.
pub(super) fn with_boot() -> Result<f64> {
    let cancel = Cancel::default();
    cancel.on_signals().context("listening to signals")?;
    let program = std::env::current_exe().context("finding this program")?;
    // Short: the machine's sockets are in it, whose paths have 107 bytes at most (unix(7)).
    let folder = std::env::temp_dir().join(format!("bascule-bench-{}", std::process::id()));
    let lab = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("BASCULE_VM_DIR", folder.join("vm"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let out = folder.join("out");
    let begun = Instant::now();
    let played = lab(&["run", EXERCISE, "--kernel", "vm", "--out", &out.to_string_lossy()]).status();
    let took = begun.elapsed().as_secs_f64();
    // Whatever came of it.
    let stopped = lab(&["vm", "stop"]).stderr(Stdio::null()).status();
    let removed = std::fs::remove_dir_all(&folder);
    if cancel.is_cancelled() {
        bail!("interrupted");
    }
    let played = played.with_context(|| format!("starting {}", program.display()))?;
    if !played.success() {
        bail!("{EXERCISE} in a virtual machine of its own: {played}; what it says is above");
    }
    stopped.context("stopping the virtual machine")?;
    removed.with_context(|| format!("removing {}", folder.display()))?;
    Ok(took)
}

/// Plays the exercise by a lab of its own; how long that took by its own result, in seconds.
fn play(bench: &Bench) -> Result<f64> {
    let out = bench.folder.join("logs/played");
    let mut command = Command::new(&bench.program);
    command.args(["run", EXERCISE, "--kernel", "host", "--out"]).arg(&out);
    let output = command.stdin(Stdio::null()).output().context("starting the lab")?;
    let path = out.join(EXERCISE).join("result.json");
    if !output.status.success() {
        bail!("{EXERCISE}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let result: serde_json::Value =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    result["durationSeconds"].as_f64().with_context(|| format!("{}: durationSeconds", path.display()))
}

fn world(bench: &Bench, label: &str, topology: &Topology) -> Result<World> {
    bench.check()?;
    let dir = WorldDir {
        label: format!("bench {} {label}", bench.name),
        logs: bench.folder.join("logs").join(label),
        program: bench.program.clone(),
        programs: BTreeMap::new(),
        cancel: bench.cancel.clone(),
    };
    Ok(World::build(topology, &dir, &|_| {})?)
}

/// Seconds until a large network is there, and until it is gone.
fn large(bench: &Bench, sample: u32) -> Result<(f64, f64)> {
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            let link = json!({
                "network": "lan", "interface": "enp0s3",
                "addresses": [format!("10.99.{}.{}/16", number / 250, number % 250 + 1)],
            });
            json!({"name": format!("node{number}"), "links": [link]})
        })
        .collect();
    let topology = serde_json::from_value(json!({"networks": [{"name": "lan"}], "nodes": nodes}))?;
    let begun = Instant::now();
    let world = world(bench, &format!("large-{sample}"), &topology)?;
    let there = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    world.tear_down()?;
    Ok((there, begun.elapsed().as_secs_f64()))
}

/// A request after the other from one machine to another: what one takes with both ends of the link recorded, beside without.
fn recording(bench: &Bench) -> Result<Comparison> {
    let topology = serde_json::from_value(json!({
        "networks": [{"name": "lan"}],
        "nodes": [
            {"name": "client", "links": [{"network": "lan", "interface": "enp0s3", "addresses": ["10.99.0.1/24"]}]},
            {"name": "server", "links": [{"network": "lan", "interface": "enp0s3", "addresses": [format!("{SERVER}/24")]}]},
        ],
    }))?;
    let world = world(bench, "recording", &topology)?;
    let (client, server) = (world.node("client")?, world.node("server")?);
    let argv = ["bascule-lab", "serve", "--name", "web", "--control", "/run/web.sock", "--http", "80"];
    server.spawn(&Spawn::new("web", argv))?.wait_for_line("ready", PATIENCE)?;
    // Not the first ones, which meet cold caches.
    requests(bench, &client)?;
    let (mut plain, mut recorded) = (Vec::new(), Vec::new());
    // In turn: the machine has better and worse times.
    for _ in 0..bench.samples {
        plain.push(requests(bench, &client)?);
        let captures = [capture(&client)?, capture(&server)?];
        recorded.push(requests(bench, &client)?);
        for capture in captures {
            capture.stop(PATIENCE)?;
        }
    }
    world.tear_down()?;
    let without = Peer { name: "without".into(), version: bench.version.clone(), samples: plain };
    Ok(Comparison::new("a request, both ends of its link recorded", "ms", &bench.version, &recorded)
        .beside(without))
}

fn capture(node: &Node) -> Result<Process> {
    let out = "/var/log/bascule-lab/bench.pcapng";
    node.write_file(out, b"")?;
    let argv = ["bascule-lab", "capture-link", "--interface", "enp0s3", "--label", node.name(), "--out", out];
    let process = node.spawn(&Spawn::new("capture", argv))?;
    process.wait_for_line("ready", PATIENCE)?;
    Ok(process)
}

/// Milliseconds that a request takes.
fn requests(bench: &Bench, client: &Node) -> Result<f64> {
    bench.check()?;
    let took = client.in_netns(|| -> std::io::Result<Duration> {
        let begun = Instant::now();
        let mut answer = Vec::new();
        for _ in 0..REQUESTS {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, 80)), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
            answer.clear();
            stream.read_to_end(&mut answer)?;
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                return Err(std::io::Error::other("the web server gave another answer than its page"));
            }
        }
        Ok(begun.elapsed())
    })?;
    Ok(took.context("asking for pages")?.as_secs_f64() * 1000.0 / f64::from(REQUESTS))
}

/// What a lab may change on the machine that it runs on.
struct Everything {
    inventory: Inventory,
    /// `nft list ruleset`, a line each; empty without nft.
    rules: Vec<String>,
    /// Settings of the network by path.
    settings: BTreeMap<PathBuf, Vec<u8>>,
}

impl Everything {
    fn take() -> Self {
        let nft = in_path("nft").and_then(|nft| Command::new(nft).args(["list", "ruleset"]).output().ok());
        let rules =
            nft.map(|output| String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect());
        let mut settings = BTreeMap::new();
        read_settings(Path::new("/proc/sys/net"), &mut settings);
        Self { inventory: Inventory::take(), rules: rules.unwrap_or_default(), settings }
    }

    /// What is here and was not, or is otherwise.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let own = std::process::id();
        // Threads of the kernel come and go by themselves, and this program and those who started it may have others now.
        let ours = |line: &String| {
            let pid =
                line.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse::<i32>().ok());
            pid.is_none_or(|pid| is_of_a_lab(pid, own))
        };
        let mut left: Vec<String> =
            self.inventory.beyond(&before.inventory).into_iter().filter(ours).collect();
        let new_rules = self.rules.iter().filter(|line| !before.rules.contains(line));
        left.extend(new_rules.map(|line| format!("nftables {}", line.trim())));
        let other = self.settings.iter().filter(|(path, value)| before.settings.get(*path) != Some(*value));
        // What a module brings came with the module, which the kernel loads and keeps.
        let other = other.filter(|(path, _)| before.settings.contains_key(*path));
        left.extend(other.map(|(path, _)| format!("setting {}", path.display())));
        left
    }
}

/// Whether a process is a lab's: it runs this program, or one in a namespace of processes of its own.
fn is_of_a_lab(pid: i32, own: u32) -> bool {
    let link = |pid: &str, what: &str| std::fs::read_link(format!("/proc/{pid}/{what}")).ok();
    let (pid, own) = (pid.to_string(), own.to_string());
    let same = |what: &str| link(&pid, what).is_some() && link(&pid, what) == link(&own, what);
    pid != own && (same("exe") || link(&pid, "ns/pid").is_some() && !same("ns/pid"))
}

/// Reads what can be read; counters that move by themselves are no settings.
fn read_settings(folder: &Path, settings: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => read_settings(&path, settings),
            Ok(_) if MOVES.contains(&entry.file_name().to_string_lossy().as_ref()) => {}
            Ok(_) => {
                if let Ok(value) = std::fs::read(&path) {
                    settings.insert(path, value);
                }
            }
            Err(_) => {}
        }
    }
}

/// Files below `/proc/sys/net` that tell a state and are written by the kernel.
const MOVES: [&str; 4] = ["nf_conntrack_count", "stable_secret", "dev_weight", "netdev_rss_key"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_and_nothing_else() {
        let before = Everything::take();
        assert_eq!(before.beyond(&before), Vec::<String>::new());
        let mut after = Everything {
            inventory: before.inventory.clone(),
            rules: before.rules.clone(),
            settings: before.settings.clone(),
        };
        after.inventory.links.insert("bascule9".into());
        after.rules.push("table inet left {".into());
        let path = after.settings.keys().next().cloned();
        if let Some(path) = &path {
            after.settings.insert(path.clone(), b"another".to_vec());
        }
        after.settings.insert("/proc/sys/net/of-a-module".into(), b"1".to_vec());
        let mut wanted = vec!["link bascule9".to_owned(), "nftables table inet left {".to_owned()];
        wanted.extend(path.map(|path| format!("setting {}", path.display())));
        assert_eq!(after.beyond(&before), wanted);
    }
}
