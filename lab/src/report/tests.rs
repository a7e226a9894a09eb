//! Pages of folders that are made here: with names and output that would break a page, and with very many frames. Where
//! `BASCULE_REPORT_FIXTURES` names a folder, they stay there, for `scripts/report-tests` to open.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::html::{base64, escaped, in_script};
use super::logs::unix_nanoseconds;
use crate::annotate::file::{self, Capture, Link};
use crate::annotate::{Known, tests::hex};
use crate::programs::pcapng::{Direction, Packet};

const START: u64 = 1_800_000_000_000_000_000;
const EVIL: &str = "</script><script>window.hacked=1</script><!--<script> <img src=x onerror=window.hacked=2> \" ' & ]]> \u{2028} \u{202e}";

const SCENARIO: &str = r##"
summary: two directors
topology:
  networks: [{name: outside, description: "</script><script>window.hacked=3</script>"}]
  nodes:
    - name: dir1
      description: "<img src=x onerror=window.hacked=4>"
      links: [{network: outside, interface: enp0s3, addresses: [192.16.193.1/24]}]
      agent: {manifests: {"all.yaml": "# </script><script>window.hacked=5</script>\nkind: VirtualService\nmetadata: {name: '<b class=evil>'}\nspec: {addresses: [192.16.193.30]}\n"}}
    - {name: dir2, links: [{network: outside, interface: enp0s3, addresses: [192.16.193.2/24]}], agent: {}}
steps: [{name: a moment, wait: {for: 1s}}]
"##;

const ADVERTISEMENT: &str =
    "01005e000012020000000101 0800 45c00020edb24000ff702bd6c010c101e0000012 311ec801000a2405 c010c11e";
const CLAIM: &str =
    "ffffffffffff020000000101 0806 00010800060400010200 00000101c010c11e 000000000000c010c11e";

/// An HTTP request as it stands behind its addresses.
fn tcp(number: u32, text: &str) -> Vec<u8> {
    let length = u16::try_from(40 + text.len()).unwrap();
    let mut frame = hex("020000000201020000000101 0800 4500");
    frame.extend(length.to_be_bytes());
    frame.extend(hex("000040004006 0000 c010c101 c010c102"));
    frame.extend(u16::try_from(1024 + number % 60_000).unwrap().to_be_bytes());
    frame.extend(80u16.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend(hex("00000001 5018 ffff 0000 0000"));
    frame.extend(text.as_bytes());
    frame
}

fn packet(interface: u32, at: u64, out: bool, data: Vec<u8>) -> Packet {
    let direction = if out { Direction::Outbound } else { Direction::Inbound };
    let original_length = u32::try_from(data.len()).unwrap();
    Packet { interface, time_ns: START + at, original_length, direction, data, comment: None }
}

/// Leaves in a folder what a run leaves.
fn leave(folder: &Path, name: &str, words: &str, packets: Vec<Packet>, seconds: f64) {
    std::fs::create_dir_all(folder.join("logs/dir1")).unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).unwrap();
    let finding = json!({"verdict": "failed", "wanted": words, "seen": words});
    let step = json!({"name": words, "action": "expect", "verdict": "failed", "atSeconds": 0.5, "durationSeconds": 0.4, "latenessMs": 1.0,
        "judged": [{"kind": "exec", "findings": [finding]}]});
    let dump = json!({"node": words, "program": words, "of": words, "pid": 7, "signal": "SIGSEGV", "atSeconds": 0.5, "core": words, "log": [words]});
    let result = json!({"name": name, "summary": words, "coreDumps": [dump], "verdict": "failed", "reason": words, "kernel": "6.1.0", "seed": 7, "run": 1, "attempts": 1,
        "startedUnixNs": START, "durationSeconds": seconds, "setupSeconds": 1.0, "latenessMs": 3.0, "steps": [step],
        "loads": {words: {"from": "dir2", "target": words, "sent": 2, "ok": 1, "failed": 1, "answerers": {words: 1}, "lateMaxMs": 0.0}}});
    write("result.json", &result.to_string());
    write(&format!("{name}.yaml"), SCENARIO);
    let fault = format!("adminDown dir1 {words}");
    let events = [
        json!({"t": 0.2, "kind": "fault", "fault": fault, "proof": words, "doneAt": 0.2}),
        json!({"t": 0.3, "kind": words, "node": words}),
        json!({"t": 0.3, "kind": "address", "node": "dir1", "interface": "enp0s3", "address": "192.16.193.30/32", "change": "added"}),
        json!({"t": 0.4, "kind": "request", "load": words, "endedAt": 0.41, "ok": true, "answerer": words, "error": null}),
        json!({"t": 0.5, "kind": "request", "load": words, "endedAt": 0.9, "ok": false, "answerer": null, "error": words}),
        json!({"t": 0.8, "kind": "heal", "fault": fault, "proof": words}),
    ];
    write("timeline.jsonl", &events.map(|event| event.to_string() + "\n").concat());
    let log = format!(
        "2027-01-15T08:00:00.250000Z  INFO vrrp: front: Backup -> Active: {words} group=front from=Backup to=Active priority=200\n{words}\n"
    );
    write("logs/dir1/agent.log", &log);
    write("tables.json", &json!([{"moment": "start", "t": 0.0, "nodes": {"dir1": {"ip route show": words}}}, {"moment": "end", "t": 1.0, "nodes": {"dir1": {"ip route show": "", words: words}}}]).to_string());

    let link = |name: &str| Link {
        name: name.into(),
        kind: file::ETHERNET,
        snap_length: 65_535,
        recorded: vec![(START - 1, START + 1_000_000_000_000)],
        ..Link::default()
    };
    let capture = Capture { links: vec![link("dir1/enp0s3"), link("dir2/enp0s3"), link(words)], packets };
    let mut bytes = Vec::new();
    file::write(&mut bytes, words, &capture, &Known::default(), |_| None).unwrap();
    std::fs::write(folder.join("capture.pcapng"), bytes).unwrap();
}

/// Where a report's folder is: one that goes, or one that stays.
fn place(name: &str) -> (PathBuf, Option<tempfile::TempDir>) {
    if let Some(folder) = std::env::var_os("BASCULE_REPORT_FIXTURES") {
        return (PathBuf::from(folder).join(name), None);
    }
    let folder = tempfile::tempdir().unwrap();
    (folder.path().join(name), Some(folder))
}

#[test]
fn hostile_names_and_output_stay_text() {
    let (folder, _kept) = place("hostile");
    let mut packets: Vec<Packet> = (0..20)
        .map(|number| packet(0, 40_000_000 * u64::from(number), true, tcp(number, &format!("GET /{EVIL}"))))
        .collect();
    packets.push(packet(0, 810_000_000, true, hex(CLAIM)));
    packets.push(packet(2, 820_000_000, true, hex(ADVERTISEMENT)));
    leave(&folder, "hostile", EVIL, packets, 1.0);
    super::write(&folder).unwrap();
    let page = std::fs::read_to_string(folder.join(super::PAGE)).unwrap();
    assert_eq!(page.matches("</script>").count(), 2, "the data and the script");
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("<img") && !page.contains("<!--"));
    // What it shows is all there.
    assert!(page.contains("hacked=5") && page.contains("bascule-lab run ./hostile.yaml --seed 7"));
    assert!(!page.contains(&*folder.to_string_lossy()), "it names no folder of this machine");
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    assert!(host.len() < 4 || !page.contains(&host), "it does not name this machine");
}

#[test]
fn a_hundred_thousand_frames_are_at_most_thirty_megabytes() {
    let (folder, _kept) = place("large");
    let count = 100_000;
    let packets = (0..count).map(|number| {
        let at = u64::from(number) * 1_000_000;
        match number % 20 {
            0 => packet(0, at, true, hex(ADVERTISEMENT)),
            1 => packet(0, at, true, hex(CLAIM)),
            _ => packet(number % 2, at, true, tcp(number, &format!("GET /page/{number} HTTP/1.1"))),
        }
    });
    leave(&folder, "large", "many frames", packets.collect(), 100.0);
    super::write(&folder).unwrap();
    let page = std::fs::read(folder.join(super::PAGE)).unwrap();
    assert!(page.len() <= 30 << 20, "{} bytes", page.len());
    assert!(page.len() > 1 << 20, "all of them are in it");
}

/// Of a scenario that could not be played there is only the verdict.
#[test]
fn a_page_is_made_of_a_verdict_alone() {
    let folder = tempfile::tempdir().unwrap();
    assert!(super::write(folder.path()).is_err(), "a folder without a result is none");
    let result = json!({"name": "tp-ipvs", "summary": "", "verdict": "unsupported", "reason": "no IPVS", "seed": 1, "steps": []});
    std::fs::write(folder.path().join("result.json"), result.to_string()).unwrap();
    super::write(folder.path()).unwrap();
    let page = std::fs::read_to_string(folder.path().join(super::PAGE)).unwrap();
    assert!(page.contains("no IPVS") && page.contains("bascule-lab run tp-ipvs --seed 1"));
}

#[test]
fn text_is_escaped_for_where_it_stands() {
    assert_eq!(escaped("<a b=\"&\">"), "&lt;a b=&quot;&amp;&quot;&gt;");
    let json = in_script(&serde_json::to_string(EVIL).unwrap());
    assert!(!json.contains(['<', '>', '&']));
    assert_eq!(serde_json::from_str::<String>(&json).unwrap(), EVIL.replace('\u{202e}', "⟨U+202E⟩"));
    for (bytes, text) in
        [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foobar", "Zm9vYmFy")]
    {
        assert_eq!(base64(bytes), text, "RFC 4648 section 10");
    }
}

#[test]
fn times_of_logs_are_read() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29T23:59:59.000000Z", 951_868_799),
        ("2026-11-28T12:26:44Z", 1_795_868_804),
        ("2100-03-01T00:00:00Z", 4_107_542_400),
    ] {
        assert_eq!(unix_nanoseconds(text), Some(seconds * 1_000_000_000), "{text}");
    }
    assert_eq!(unix_nanoseconds("2026-11-28T12:26:44.086172Z").unwrap() % 1_000_000_000, 86_172_000);
    for text in ["", "T", "2026-13-01T00:00:00Z", "2026-11-28 12:26:44Z", "x-y-zTa:b:cZ"] {
        assert_eq!(unix_nanoseconds(text), None, "{text}");
    }
}
