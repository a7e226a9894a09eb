//! The small programs, as processes: a server told to misbehave, and clients that must notice.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use bascule_lab::programs::record::{Line, Request, Summary};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Starts a hidden subcommand and waits until it says that it is ready.
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("bascule-lab starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{args:?}");
        Self { child, stdout }
    }

    fn terminate(mut self) -> String {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Server {
    _program: Program,
    control: PathBuf,
    http: String,
    tcp: String,
    udp: String,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn start(folder: &Path) -> Self {
        let control = folder.join("serve.sock");
        let [http, tcp, udp] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
        let program = Program::start(&[
            "serve",
            "--name",
            "SRV1",
            "--control",
            control.to_str().unwrap(),
            "--http",
            &http,
            "--tcp",
            &tcp,
            "--udp",
            &udp,
            "--log",
            folder.join("serve.jsonl").to_str().unwrap(),
        ]);
        Self { _program: program, control, http: format!("http://{http}/"), tcp, udp }
    }

    fn order(&self, order: &Value) -> Value {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        writeln!(stream, "{order}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn set(&self, mode: &str) {
        assert_eq!(self.order(&json!({"set": {"mode": mode, "delayMs": 2000, "status": 503}}))["ok"], true);
    }
}

fn load(folder: &Path, args: &[&str]) -> (Vec<Request>, Summary) {
    let out = folder.join("load.jsonl");
    let mut program = Program::start(&[&["load", "--out", out.to_str().unwrap()], args].concat());
    program.wait();
    let text = std::fs::read_to_string(&out).unwrap();
    let mut requests = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line).unwrap() {
            Line::Request(request) => requests.push(request),
            Line::Summary { summary } => return (requests, summary),
        }
    }
    panic!("no summary in {text}");
}

/// A client that keeps its socket is one client, also after it has given a request up.
#[test]
fn a_kept_udp_socket_outlives_a_request_without_answer() {
    let folder = tempfile::tempdir().unwrap();
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    deaf.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let target = deaf.local_addr().unwrap().to_string();
    let args = ["--protocol", "udp", "--target", &target, "--rate", "5", "--count", "3", "--reuse"];
    let (requests, summary) = load(folder.path(), &[&args[..], &["--timeout", "150ms"]].concat());
    assert_eq!((summary.sent, summary.ok), (3, 0), "{requests:?}");
    let mut buffer = [0; 100];
    let clients: Vec<_> = (0..3).map(|_| deaf.recv_from(&mut buffer).unwrap().1).collect();
    assert!(clients.iter().all(|client| *client == clients[0]), "{clients:?}");
}

#[test]
fn every_protocol_is_answered_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    // A generous time-out: this is about answers, not about the speed of this machine.
    for (protocol, target) in [("http", &server.http), ("tcp", &server.tcp), ("udp", &server.udp)] {
        for reuse in [&[][..], &["--reuse"]] {
            let args = [
                "--protocol",
                protocol,
                "--target",
                target,
                "--rate",
                "200",
                "--count",
                "20",
                "--timeout",
                "30s",
            ];
            let (requests, summary) = load(folder.path(), &[&args, reuse].concat());
            assert_eq!((summary.sent, summary.ok), (20, 20), "{protocol} {reuse:?}: {requests:?}");
            assert_eq!(summary.by_answerer["SRV1"], 20);
            let mut times: Vec<u64> = requests.iter().map(|request| request.scheduled).collect();
            times.sort_unstable();
            assert_eq!(times[19] - times[0], 95_000_000, "19 periods of 5 ms, whatever the answers took");
        }
    }
    let counts = server.order(&json!({"get": "counts"}));
    // HTTP 20+20; UDP 20+20; TCP counts the greeting as well: 40, and 20 on one connection after its greeting.
    assert_eq!(counts["requests"], 40 + 40 + 40 + 21);
    assert_eq!(counts["clients"]["127.0.0.1"], counts["requests"]);
    let log = std::fs::read_to_string(folder.path().join("serve.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 141);
}

#[test]
fn misbehaviour_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let once = |timeout| {
        load(folder.path(), &["--target", &server.http, "--count", "3", "--rate", "50", "--timeout", timeout])
    };
    for (mode, error) in
        [("error", "status 503"), ("slow", "no answer within 300 ms"), ("hang", "no answer within 300 ms")]
    {
        server.set(mode);
        let (requests, summary) = once("300ms");
        assert_eq!(summary.failed, 3, "{mode}");
        assert!(
            requests.iter().all(|request| request.error.as_deref() == Some(error)),
            "{mode}: {requests:?}"
        );
    }
    server.set("refuse");
    let (requests, _) = once("30s");
    assert!(
        requests.iter().all(|request| request.error.as_ref().unwrap().contains("refused")),
        "{requests:?}"
    );
    server.set("ok");
    let (requests, summary) = once("30s");
    assert_eq!(summary.ok, 3, "it comes back: {requests:?}");
}

#[test]
fn held_connections_tell_when_they_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    for (protocol, target) in [("tcp", &server.tcp), ("http", &server.http)] {
        server.set("ok");
        let out = folder.path().join("hold.jsonl");
        let args = ["load", "--hold", "3", "--protocol", protocol, "--target", target, "--timeout", "30s"];
        let held = Program::start(&[&args[..], &["--out", out.to_str().unwrap()]].concat());
        let open = server.order(&json!({"get": "counts"}))["open"].as_u64().unwrap();
        assert!(open >= 3, "three are open, not {open}");
        server.set("error");
        let lost = || {
            let text = std::fs::read_to_string(&out).unwrap();
            text.lines().filter(|line| line.contains(r#""event":"lost""#)).count()
        };
        let begin = std::time::Instant::now();
        while lost() < 3 {
            assert!(begin.elapsed().as_secs() < 60, "connections are lost and nobody says so");
            std::thread::yield_now();
        }
        held.terminate();
        let text = std::fs::read_to_string(&out).unwrap();
        assert_eq!(text.matches(r#""event":"open""#).count(), 3, "{text}");
    }
}

#[test]
fn what_cannot_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.jsonl");
    let out = out.to_str().unwrap();
    for (args, wanted) in [
        (vec!["load", "--target", "nonsense", "--out", out], "http://"),
        (vec!["load", "--target", "http://web/", "--out", out], "`web` in the target is not an address"),
        (vec!["load", "--target", "http://127.0.0.1/", "--rate", "0", "--out", out], "--rate 0"),
        (vec!["capture-link", "--interface", "no-such-link", "--out", out], "cannot capture on no-such-link"),
        (
            vec!["serve", "--name", "x", "--control", out, "--http", "192.0.2.1:80"],
            "cannot listen on 192.0.2.1:80",
        ),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_bascule-lab")).args(&args).output().unwrap();
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && message.contains(wanted), "{args:?}: {message}");
    }
}

/// One gratuitous ARP, as `tcpdump -w` writes it.
const PCAP: &[u8] = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0\
    \x0a\0\0\0\0\0\0\0\x2a\0\0\0\x2a\0\0\0\
    \xff\xff\xff\xff\xff\xff\x02\0\0\0\x01\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01\x02\0\0\0\x01\x01\xc0\x10\xc1\x1e\0\0\0\0\0\0\xc0\x10\xc1\x1e";

#[test]
fn a_capture_from_elsewhere_gets_comments() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("trace.pcap");
    std::fs::write(&capture, PCAP).unwrap();
    let annotate = |args: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
            .arg("annotate")
            .args(args)
            .current_dir(folder.path())
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned())
    };
    let comment = |file: &str| {
        let bytes = std::fs::read(folder.path().join(file)).unwrap();
        let blocks = bascule_lab::programs::pcapng::read(bytes.as_slice()).unwrap();
        blocks.into_iter().find_map(|block| match block {
            bascule_lab::programs::pcapng::Block::Packet(packet) => packet.comment,
            _ => None,
        })
    };
    let (code, said) = annotate(&["trace.pcap", "--scenario", "tp-ipvs"]);
    assert_eq!((code, said.contains("1 frames, 1 with a comment")), (Some(0), true), "{said}");
    let english = comment("trace.annotated.pcapng").unwrap();
    assert!(english.starts_with("gratuitous ARP: ") && english.contains("192.16.193.30"), "{english}");
    let (code, said) = annotate(&["trace.pcap", "--language", "fr", "--out", "fr.pcapng"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(comment("fr.pcapng").unwrap().starts_with("ARP gratuit : "));
    // One that has its comments already is not told them twice.
    let (code, said) = annotate(&["fr.pcapng", "--language", "fr", "--out", "again.pcapng"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(comment("again.pcapng"), comment("fr.pcapng"));

    std::fs::write(folder.path().join("page.html"), "<html>").unwrap();
    for (args, wanted) in [
        (&["nothing.pcap"][..], "nothing.pcap"),
        (&["page.html"], "neither a pcap nor a pcapng"),
        (&["trace.pcap", "--out", "trace.pcap"], "written over itself"),
        (&["trace.pcap", "--scenario", "tp-ipv"], "tp-ipvs"),
    ] {
        let (code, said) = annotate(args);
        assert!(code == Some(2) && said.contains(wanted), "{args:?}: {code:?} {said}");
    }
}
