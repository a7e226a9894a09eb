//! The real binary, called as people and scripts call it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const AGENT: &str = env!("CARGO_BIN_EXE_bascule-agent");

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(120);

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(AGENT);
    command.args(arguments).stdin(Stdio::null());
    for name in ["BASCULE_MANIFESTS", "BASCULE_DIRECTOR", "BASCULE_LISTEN", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    command
}

fn call(directory: &Path, arguments: &[&str]) -> Output {
    agent(arguments).current_dir(directory).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const WEB: &str = "apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: tp}
spec:
  director: {name: dir1}
  addresses: [192.16.193.30]
  ports: [{port: 80, protocol: TCP}]
  scheduler: {name: rr}
  realServers:
    - {name: srv1, address: 172.16.193.10}
    - {name: srv2, address: 172.16.193.40}
";

/// A VirtualService like [`WEB`] with another name, with one text in it replaced.
fn variant(name: &str, from: &str, to: &str) -> String {
    assert!(WEB.contains(from), "{from}");
    WEB.replace("name: web", &format!("name: {name}")).replace(from, to)
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("m")).unwrap();
    for (name, content) in files {
        fs::write(directory.path().join("m").join(name), content).unwrap();
    }
    directory
}

#[test]
fn validate_names_every_mistake_with_file_line_and_field() {
    let directory = folder(&[
        ("00-web.yaml", WEB),
        (
            "01-unknown-field.yaml",
            &variant("a", "  scheduler: {name: rr}", "  schedular: {name: rr}").replace(".30", ".101"),
        ),
        ("02-wrong-type.yaml", &variant("b", "port: 80", "port: eighty").replace(".30", ".102")),
        ("03-two-with-one-name.yaml", &WEB.replace(".30", ".103")),
        ("04-address-and-port-taken.yaml", &variant("zz", "name: rr", "name: wrr")),
        (
            "05-family-without-server.yaml",
            &variant("e", "[192.16.193.30]", "[192.16.193.105, \"2001:db8::30\"]"),
        ),
        ("06-port-0.yaml", &variant("f", "port: 80", "port: 0").replace(".30", ".106")),
        (
            "07-target-port.yaml",
            &variant("g", "  scheduler:", "  forwarding: {method: DirectRouting}\n  scheduler:")
                .replace("{port: 80,", "{port: 80, targetPort: 8080,")
                .replace(".30", ".107"),
        ),
        (
            "08-weight.yaml",
            &variant("h", "172.16.193.40}", "172.16.193.40, weight: 70000}").replace(".30", ".108"),
        ),
        (
            "09-duplicate-key.yaml",
            &variant("i", "  scheduler: {name: rr}", "  scheduler: {name: rr}\n  scheduler: {name: lc}"),
        ),
        (
            "10-unknown-check.yaml",
            &variant("j", "  scheduler:", "  healthChecks: [it-works]\n  scheduler:").replace(".30", ".110"),
        ),
        ("11-kind.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"),
        ("12-no-director.yaml", &variant("k", "  director: {name: dir1}\n", "").replace(".30", ".112")),
        ("13-indentation.yaml", "apiVersion: bascule.dev/v1alpha1\nkind: [VirtualService\n"),
        (".hidden.yaml", "%"),
        ("notes.txt", "%"),
        ("backup.yaml~", "%"),
    ]);
    fs::write(directory.path().join("m/14-junk.yaml"), [0x7f, b'E', b'L', b'F', 0xff, 0, 1]).unwrap();
    let large = fs::File::create(directory.path().join("m/15-large.yaml")).unwrap();
    large.set_len(10 * 1024 * 1024).unwrap();

    let output = call(directory.path(), &["validate", "--manifests", "m"]);
    insta::assert_snapshot!("validate_mistakes", text(&output.stdout));
    assert_eq!((code(&output), text(&output.stderr).as_str()), (1, ""));

    let output = call(directory.path(), &["validate", "--manifests", "m", "-o", "json"]);
    assert_eq!(code(&output), 1);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = document["problems"].as_array().unwrap();
    for number in 1..=15 {
        let prefix = format!("m/{number:02}-");
        let own = problems.iter().find(|problem| problem["file"].as_str().unwrap().starts_with(&prefix));
        let own = own.unwrap_or_else(|| panic!("no problem in {prefix}"));
        assert!(number == 15 || own["line"].is_u64(), "{own}");
    }
}

/// A group declares its members, and who uses it is held to its addresses.
#[test]
fn validate_knows_groups() {
    let group = "\
apiVersion: bascule.dev/v1alpha1
kind: VrrpGroup
metadata: {name: front}
spec:
  members: [{director: dir1, priority: 200}, {director: dir2}]
  startupGrace: 7s
  instances:
    - {name: outside, interface: eth0, virtualRouterId: 30, addresses: [192.16.193.30/32]}
";
    let service = WEB.replace("  director: {name: dir1}\n", "  vrrpGroup: front\n");
    let beside = service.replace("name: web", "name: beside").replace(".30]", ".31]");
    let elsewhere = beside.replace("name: beside", "name: elsewhere").replace("front", "nowhere");
    let directory = folder(&[("group.yaml", group), ("web.yaml", &service)]);
    let output = call(directory.path(), &["validate", "--manifests", "m"]);
    let told = text(&output.stdout);
    assert_eq!(code(&output), 0, "{told}");
    assert!(told.starts_with("m/group.yaml:6: warning: spec.startupGrace: 7s is less than twice"), "{told}");

    let files = [("group.yaml", group), ("beside.yaml", &beside), ("elsewhere.yaml", &elsewhere)];
    let output = call(folder(&files).path(), &["validate", "--manifests", "m"]);
    let told = text(&output.stdout);
    assert_eq!(code(&output), 1, "{told}");
    assert!(
        told.contains("spec.addresses[0]: 192.16.193.31 is not among the addresses of VrrpGroup front"),
        "{told}"
    );
    assert!(told.contains("spec.vrrpGroup: there is no VrrpGroup nowhere"), "{told}");
}

/// A warning is told with its place and is no failure: who knows what he does goes on.
#[test]
fn validate_warns_and_lets_pass() {
    let udp = WEB.replace("protocol: TCP", "protocol: UDP");
    let syslog = udp.replace("  scheduler:", "  onePacket: true\n  scheduler:");
    let directory = folder(&[("syslog.yaml", &syslog)]);
    let output = call(directory.path(), &["validate", "--manifests", "m"]);
    let told = text(&output.stdout);
    assert!(
        told.starts_with("m/syslog.yaml:8: warning: spec.onePacket: the answers of real server srv1,"),
        "{told}"
    );
    assert!(told.contains(" (VirtualService tp/web)\n"), "{told}");
    assert!(told.ends_with("no problems and 1 warning in 1 object of 1 file\n"), "{told}");
    assert_eq!(code(&output), 0);

    let output = call(directory.path(), &["validate", "--manifests", "m", "-o", "json"]);
    assert_eq!(code(&output), 0);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["problems"], serde_json::json!([]));
    assert_eq!(
        (&document["warnings"][0]["line"], &document["warnings"][0]["field"]),
        (&8.into(), &"spec.onePacket".into())
    );
}

#[test]
fn validate_says_when_all_is_well_and_when_it_cannot_look() {
    let directory =
        folder(&[("web.yaml", WEB), ("copy.yml", &WEB.replace("web", "other").replace(".30", ".31"))]);
    let output = call(directory.path(), &["validate", "--manifests", "m"]);
    assert_eq!(text(&output.stdout), "no problems in 2 objects of 2 files\n");
    assert_eq!(code(&output), 0);

    let output = call(directory.path(), &["validate", "--manifests", "absent"]);
    assert_eq!(code(&output), 2);
    assert_eq!(
        text(&output.stderr),
        "bascule-agent: the manifests directory absent cannot be read: No such file or directory (os error 2)\n"
    );
    let output = call(directory.path(), &["validate", "--manifests", "m/web.yaml"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("not a directory"), "{output:?}");
}

#[test]
fn bad_usage_is_told_and_is_exit_code_2() {
    let directory = folder(&[]);
    for (arguments, told) in [
        (&[][..], "--manifests <DIR>"),
        (&["--manifests", "m"], "--director <NAME>"),
        (&["validate"], "--manifests <DIR>"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["--manifests", "m", "--director", "Dir_1"], "lower case letters"),
        (&["--manifests", "m", "--director", "dir1", "--listen", "9740"], "127.0.0.1:9740"),
        (&["--manifests", "m", "--director", "dir1", "--log-format", "xml"], "possible values: text, json"),
        (&["status", "-o", "yaml"], "possible values: text, json"),
    ] {
        let output = call(directory.path(), arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(text(&output.stderr).contains(told), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn help_teaches_with_examples_and_the_example_is_valid() {
    let directory = folder(&[]);
    let help = text(&call(directory.path(), &["--help"]).stdout);
    for part in
        ["bascule-agent validate --manifests", "bascule-agent status", "kind: VirtualService", "SIGHUP"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
    let mut manifest = String::new();
    for line in help
        .lines()
        .skip_while(|line| !line.contains("apiVersion"))
        .take_while(|line| !line.trim().is_empty())
    {
        manifest.push_str(line.strip_prefix("  ").unwrap());
        manifest.push('\n');
    }
    fs::write(directory.path().join("m/web.yaml"), manifest).unwrap();
    let output = call(directory.path(), &["validate", "--manifests", "m"]);
    assert_eq!(text(&output.stdout), "no problems in 1 object of 1 file\n");

    let completion = text(&call(directory.path(), &["completion", "bash"]).stdout);
    assert!(completion.contains("complete -F _bascule__agent"), "{completion}");
    let version = text(&call(directory.path(), &["--version"]).stdout);
    assert_eq!(version, format!("bascule-agent {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn status_without_an_agent_says_so() {
    let directory = folder(&[]);
    let output = call(directory.path(), &["status", "--run-dir", "run"]);
    assert_eq!(code(&output), 1);
    assert_eq!(
        text(&output.stderr),
        "bascule-agent: no agent runs with the run directory run: run/agent.sock is not there; start one, or name its \
         --run-dir\n"
    );
    // One that a crash left behind.
    fs::create_dir(directory.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("run/agent.sock")).unwrap());
    let output = call(directory.path(), &["status", "--run-dir", "run"]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("nobody listens"), "{output:?}");
}

/// An agent in a network namespace of its own, so that nothing of the machine is touched.
struct Running {
    child: Child,
    directory: tempfile::TempDir,
    log: std::sync::mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(directory: tempfile::TempDir, more: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.arg("--net");
        Self::start_by(command, directory, more)
    }

    /// In the network namespace of another.
    fn beside(other: &Self, directory: tempfile::TempDir, more: &[&str]) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", other.child.id()));
        Self::start_by(command, directory, more)
    }

    fn start_by(mut command: Command, directory: tempfile::TempDir, more: &[&str]) -> Self {
        let mut child = command
            .args([
                AGENT,
                "--manifests",
                "m",
                "--director",
                "dir1",
                "--run-dir",
                "run",
                "--state-dir",
                "state",
            ])
            .args(["--log-format", "json"])
            .args(more)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, directory, log, seen: Vec::new() }
    }

    /// Waits for a line of the log that contains a text.
    fn wait_for(&mut self, part: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        loop {
            match self.log.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(error) => panic!("{part:?} never came ({error}):\n{}", self.seen.join("\n")),
            }
        }
    }

    /// What it says of itself; asked again while it says that it is busy, which a slow machine makes it.
    fn status(&self) -> serde_json::Value {
        let limit = Instant::now() + PATIENCE;
        loop {
            let output = call(self.directory.path(), &["status", "--run-dir", "run", "-o", "json"]);
            let said = text(&output.stderr);
            if code(&output) != 0 && said.contains("try again") && Instant::now() < limit {
                continue;
            }
            assert_eq!(code(&output), 0, "{said}");
            return serde_json::from_slice(&output.stdout).unwrap();
        }
    }

    /// Waits until the status is as wanted.
    fn wait_until(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let limit = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is(&status) {
                return status;
            }
            assert!(Instant::now() < limit, "{what}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.directory.path().join("m");
        fs::write(path.join("new.tmp"), content).unwrap();
        fs::rename(path.join("new.tmp"), path.join(name)).unwrap();
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Ends it in order; gives the directory back for the next one.
    fn stop(mut self) -> tempfile::TempDir {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let limit = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < limit, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0), "{}", self.seen.join("\n"));
        assert!(!self.directory.path().join("run/agent.sock").exists(), "the socket is left behind");
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Network namespaces need privileges; without them these tests cannot be made, which is said.
fn privileged() -> bool {
    let can = nix::unistd::geteuid().is_root();
    if !can {
        eprintln!("not run: needs root, for a network namespace of its own");
    }
    can
}

fn object<'a>(status: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let objects = status["objects"].as_array().unwrap();
    objects.iter().find(|object| object["object"] == name).unwrap_or_else(|| panic!("{name}: {status:#}"))
}

fn condition<'a>(object: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let conditions = object["conditions"].as_array().unwrap();
    conditions
        .iter()
        .find(|condition| condition["type"] == name)
        .unwrap_or_else(|| panic!("{name}: {object:#}"))
}

#[test]
fn follows_the_directory_and_keeps_the_last_good_state() {
    if !privileged() {
        return;
    }
    let directory = folder(&[("web.yaml", WEB), ("other.yaml", &variant("other", ".30", ".31"))]);
    let mut agent = Running::start(directory, &["--listen", "none"]);
    agent.wait_for("manifests read");
    let status = agent.status();
    assert_eq!(status["manifests"]["objects"], 2);
    assert_eq!(object(&status, "VirtualService tp/web")["ours"], true);
    let digest = status["manifests"]["digest"].clone();

    // A change, told at once.
    agent.write("web.yaml", &WEB.replace("name: rr", "name: wrr"));
    agent.wait_for("manifests changed");
    assert_ne!(agent.status()["manifests"]["digest"], digest);

    // A bad one: the last good form stays, the other object goes on.
    agent.write("web.yaml", &WEB.replace("name: rr", "name: nonsense"));
    agent.wait_for("m/web.yaml:8: spec.scheduler.name: ");
    let status = agent.status();
    let web = object(&status, "VirtualService tp/web");
    assert_eq!((&web["lastGood"], &web["ours"]), (&true.into(), &true.into()));
    assert_eq!(condition(web, "Accepted")["status"], "False");
    assert_eq!(object(&status, "VirtualService tp/other")["lastGood"], false);

    // The state is kept over a restart with manifests that cannot be read at all.
    let path = agent.directory.path().join("state/last-good.journal");
    agent.wait_until("kept", |status| {
        status["lastGood"]["objects"] == 2 && status["lastGood"]["pending"] == 0
    });
    assert!(fs::read_to_string(&path).unwrap().contains("wrr"));
    let directory = agent.stop();
    fs::rename(directory.path().join("m"), directory.path().join("away")).unwrap();
    let mut agent = Running::start(directory, &["--listen", "none"]);
    agent.wait_for("the directory of manifests cannot be read: No such file or directory");
    agent.wait_for("manifests read");
    let status = agent.status();
    assert_eq!(
        (&status["manifests"]["objects"], &status["manifests"]["lastGoodInUse"]),
        (&2.into(), &2.into())
    );
    assert_eq!(object(&status, "VirtualService tp/web")["ours"], true);
    assert!(status["manifests"]["unusable"].as_str().unwrap().contains("No such file"), "{status:#}");

    // It comes back with one object less.
    fs::remove_file(agent.directory.path().join("away/other.yaml")).unwrap();
    fs::write(agent.directory.path().join("away/web.yaml"), WEB).unwrap();
    fs::rename(agent.directory.path().join("away"), agent.directory.path().join("m")).unwrap();
    let status = agent.wait_until("back", |status| status["manifests"]["objects"] == 1);
    assert_eq!(status["manifests"]["lastGoodInUse"], 0, "{status:#}");
    assert_eq!(status["manifests"]["digest"].as_str().unwrap().len(), "sha256:".len() + 64);
    agent.stop();
}

#[test]
fn a_directory_that_is_empty_at_the_start_is_not_taken_at_its_word() {
    if !privileged() {
        return;
    }
    let mut agent = Running::start(folder(&[("web.yaml", WEB)]), &["--listen", "none"]);
    agent.wait_for("manifests read");
    agent.wait_until("kept", |status| status["lastGood"]["objects"] == 1);
    let directory = agent.stop();
    fs::remove_file(directory.path().join("m/web.yaml")).unwrap();
    let mut agent = Running::start(directory, &["--listen", "none"]);
    agent.wait_for("holds no manifests, while the last good configuration has objects");
    assert_eq!(object(&agent.status(), "VirtualService tp/web")["lastGood"], true);
    agent.write("other.yaml", &variant("other", ".30", ".31"));
    let status = agent.wait_until("web is gone", |status| status["manifests"]["objects"] == 1);
    assert_eq!(object(&status, "VirtualService tp/other")["ours"], true);
    agent.stop();
}

#[test]
fn stays_up_whatever_is_missing() {
    if !privileged() {
        return;
    }
    let directory = folder(&[("web.yaml", WEB)]);
    // Nothing can be kept, and the port is taken by another agent in the same network namespace.
    let mut first = Running::start(folder(&[]), &["--listen", "0.0.0.0:9740"]);
    first.wait_for("serving /healthz, /readyz and /metrics");
    fs::write(directory.path().join("state"), "in the way").unwrap();
    let mut agent = Running::beside(&first, directory, &["--listen", "0.0.0.0:9740"]);
    agent.wait_for("cannot listen at 0.0.0.0:9740: Address already in use");
    agent.wait_for("the last good configuration cannot be written");
    let status = agent.status();
    assert!(status["http"]["error"].as_str().unwrap().contains("--listen"), "{status:#}");
    assert!(status["lastGood"]["error"].is_string(), "{status:#}");
    assert_eq!(object(&status, "VirtualService tp/web")["ours"], true);
    // It tries again until the port is free.
    first.stop();
    agent.wait_for("serving /healthz, /readyz and /metrics");
    assert_eq!(agent.status()["http"]["error"], serde_json::Value::Null);
    // A second one on the same run directory is refused.
    fs::remove_file(agent.directory.path().join("state")).unwrap();
    let second = call(
        agent.directory.path(),
        &[
            "--manifests",
            "m",
            "--director",
            "dir1",
            "--run-dir",
            "run",
            "--state-dir",
            "state2",
            "--listen",
            "none",
        ],
    );
    assert_eq!(code(&second), 1);
    assert!(text(&second.stderr).contains("another bascule-agent (process "), "{second:?}");
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    agent.wait_for("looking at all manifests again, as asked");
    agent.stop();
}

#[test]
fn a_director_that_nobody_names_is_said() {
    if !privileged() {
        return;
    }
    let directory = folder(&[("web.yaml", &WEB.replace("dir1", "elsewhere"))]);
    let mut agent = Running::start(directory, &["--listen", "none"]);
    agent.wait_for("no manifest in m names the director dir1: they name elsewhere");
    let status = agent.status();
    assert_eq!(status["manifests"]["directors"], serde_json::json!(["elsewhere"]));
    assert_eq!(object(&status, "VirtualService tp/web")["ours"], false);
    assert_eq!(status["manifests"]["problems"], serde_json::json!([]), "it is somebody else's, not wrong");
    agent.stop();
}

/// In a container /proc/sys is read-only, and its part for the network is mounted elsewhere: there it is read, and written.
#[test]
fn settings_are_those_of_the_folder_that_is_named() {
    let directory = folder(&[("web.yaml", WEB)]);
    let forward = directory.path().join("sys/net/ipv4/ip_forward");
    fs::create_dir_all(forward.parent().unwrap()).unwrap();
    let planned = |value: &str| {
        fs::write(&forward, value).unwrap();
        let arguments =
            ["plan", "--manifests", "m", "--director", "dir1", "--run-dir", "run", "--state-dir", "state"];
        let arguments = [&arguments[..], &["--proc-sys", "sys", "-o", "json"]].concat();
        // Whatever else the kernel here lacks is not asked.
        let plan: serde_json::Value =
            serde_json::from_slice(&call(directory.path(), &arguments).stdout).unwrap();
        let operations = plan["operations"].as_array().unwrap().clone();
        operations.iter().filter(|one| one["text"].as_str().unwrap().contains("net.ipv4.ip_forward")).count()
    };
    assert_eq!(planned("0\n"), 1, "masquerading needs it");
    assert_eq!(planned("1\n"), 0);
}
