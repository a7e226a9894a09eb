use std::path::Path;

use serde_json::{Value, json};

use super::records::START;
use super::*;
use crate::run::result::example;
use crate::scenario::load;

const SCENARIO: &str = "\
summary: Two ask each other.
topology:
  networks: [{name: inside}]
  nodes:
    - name: SRV1
      links: [{network: inside, interface: eth0, addresses: [10.0.0.1/24]}]
    - name: ClientA
      links: [{network: inside, interface: eth0, addresses: [10.0.0.2/24]}]
steps:
  - name: ClientA asks
    requests: {load: pages, from: ClientA, target: 'http://10.0.0.1/', rate: 10, count: 10}
  - name: all are answered
    expect:
      - requests: {load: pages, ok: 10}
      - command: {node: SRV1, command: 'true'}
  - name: the address comes
    wait: {within: 10s, until: [{holders: {address: 10.0.0.9, nodes: [SRV1]}}]}
  - name: it came soon
    expect: [{within: 2s, holders: {address: 10.0.0.10, nodes: [SRV1]}}]
";

/// When the steps began, and the end: in seconds.
const TIMES: [f64; 5] = [0.0, 1.5, 1.6, 5.0, 7.5];

fn scenario(text: &str) -> Scenario {
    load("mine.yaml", text).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// A recording as a run leaves it; what has to be otherwise is said by `change`.
fn recording(folder: &Path, change: impl FnOnce(&mut ScenarioResult, &mut Vec<(f64, &'static str, Value)>)) {
    let played = scenario(SCENARIO);
    let mut result = example("mine", Verdict::Passed);
    (result.duration_seconds, result.lateness_ms) = (TIMES[4], 1.0);
    for (index, step) in played.steps.iter().enumerate() {
        let judged = expectations(&step.action).iter().map(|one| Judged {
            kind: one.kind.name().to_owned(),
            findings: vec![Finding::of(true, "as it was", "so it was")],
            after_seconds: None,
        });
        result.steps.push(StepResult {
            name: step.name.clone(),
            action: step.action.kind().to_owned(),
            verdict: expect::Verdict::Passed,
            at_seconds: TIMES[index],
            duration_seconds: TIMES[index + 1] - TIMES[index],
            lateness_ms: 1.0,
            judged: judged.collect(),
        });
    }
    let mut events: Vec<(f64, &str, Value)> = Vec::new();
    for number in 0..10_u32 {
        let due = f64::from(number) / 10.0;
        let fields = json!({
            "load": "pages", "startedAt": due, "endedAt": due + 0.01, "seq": number, "ok": true,
            "answerer": "SRV1", "status": 200, "error": null, "again": false,
        });
        events.push((due, "request", fields));
    }
    let came = |address: &str| json!({"node": "SRV1", "interface": "eth0", "address": address, "label": null, "change": "added", "initial": false});
    events.push((-1.0, "address", came("10.0.0.1/24")));
    events.push((4.0, "address", came("10.0.0.9/32")));
    events.push((6.0, "address", came("10.0.0.10/32")));
    events.push((6.5, "finding", json!({"step": "it came soon", "verdict": "passed"})));
    change(&mut result, &mut events);
    let timeline = Timeline::new(START);
    for (t, kind, fields) in events {
        timeline.put(at(t), kind, fields);
    }
    timeline.write(&folder.join("timeline.jsonl")).unwrap();
    session::write_result(folder, &result).unwrap();
    std::fs::write(folder.join("mine.yaml"), SCENARIO).unwrap();
}

fn judged(
    change: impl FnOnce(&mut ScenarioResult, &mut Vec<(f64, &'static str, Value)>),
    other: Option<&str>,
) -> Result<Judgement, String> {
    let folder = tempfile::tempdir().unwrap();
    recording(folder.path(), change);
    judge(folder.path(), other.map(scenario))
}

/// What came of it with other words in the scenario.
fn otherwise(from: &str, to: &str) -> Judgement {
    assert!(SCENARIO.contains(from), "{from}");
    judged(|_, _| {}, Some(&SCENARIO.replace(from, to))).expect("it fits")
}

#[test]
fn the_same_is_judged_the_same() {
    let judgement = judged(|_, _| {}, None).expect("a recording");
    let text = judgement.text();
    assert_eq!((judgement.result.verdict, judgement.exit_code()), (Verdict::Passed, 0), "{text}");
    assert_eq!(judgement.counts, [3, 1, 0]);
    assert!(text.contains("3 judged from the records, 1 as found then, 0 for a live run"), "{text}");
    assert!(text.contains("recorded: passed, too"), "{text}");
    let findings = |step: usize, one: usize| &judgement.result.steps[step].judged[one].findings[0];
    assert!(findings(1, 0).seen.contains("10"), "judged from requests: {:?}", findings(1, 0));
    assert_eq!(findings(1, 1).seen, "so it was");
    assert_eq!(judgement.result.steps[2].judged[0].after_seconds.map(f64::round), Some(2.0));
}

#[test]
fn what_the_records_speak_against_fails() {
    for (from, to, step) in [
        ("ok: 10", "ok: 11", "all are answered"),
        (
            "within: 10s, until: [{holders: {address: 10.0.0.9, nodes: [SRV1]}}]",
            "within: 1s, until: [{holders: {address: 10.0.0.9, nodes: [SRV1]}}]",
            "the address comes",
        ),
        ("within: 2s", "within: 500ms", "it came soon"),
    ] {
        let judgement = otherwise(from, to);
        let text = judgement.text();
        assert_eq!((judgement.result.verdict, judgement.exit_code()), (Verdict::Failed, 1), "{text}");
        assert!(
            judgement.result.reason.starts_with(&format!("step `{step}`")),
            "{}",
            judgement.result.reason
        );
        assert!(text.contains("recorded: passed; judged again: failed"), "{text}");
        assert!(text.contains(&format!("step `{step}` was passed, is failed")), "{text}");
    }
}

#[test]
fn a_failed_run_may_pass_by_what_is_expected_now() {
    let fail = |result: &mut ScenarioResult, events: &mut Vec<(f64, &'static str, Value)>| {
        events[3].2["ok"] = false.into();
        result.verdict = Verdict::Failed;
        result.steps[1].verdict = expect::Verdict::Failed;
        result.steps[1].judged[0].findings[0].verdict = expect::Verdict::Failed;
    };
    assert_eq!(judged(fail, None).unwrap().result.verdict, Verdict::Failed);
    let judgement = judged(fail, Some(&SCENARIO.replace("ok: 10", "ok: {atLeast: 9}"))).unwrap();
    assert_eq!(judgement.exit_code(), 0, "{}", judgement.text());
    assert!(
        judgement.text().contains("step `all are answered` was failed, is passed"),
        "{}",
        judgement.text()
    );
}

#[test]
fn what_is_not_recorded_needs_a_live_run() {
    let judgement = otherwise("command: 'true'", "command: 'false'");
    let text = judgement.text();
    assert_eq!((judgement.result.verdict, judgement.exit_code()), (Verdict::Undecided, 1), "{text}");
    assert_eq!(judgement.counts, [2 + 1, 0, 1]);
    assert!(text.contains("needs a live run"), "{text}");

    // A step that only the other scenario has.
    let more = format!("{SCENARIO}  - name: one more\n    wait: {{for: 1s}}\n");
    let judgement = judged(|_, _| {}, Some(&more)).unwrap();
    assert_eq!(judgement.result.verdict, Verdict::Undecided);
    assert!(
        judgement.result.reason.contains("step `one more` was not played"),
        "{}",
        judgement.result.reason
    );
}

#[test]
fn what_depends_on_how_late_the_machine_was_is_undecided() {
    let late = |result: &mut ScenarioResult, events: &mut Vec<(f64, &'static str, Value)>| {
        result.lateness_ms = 50.0;
        events[12].0 = 7.02;
    };
    let judgement = judged(late, Some(&SCENARIO.replace("within: 2s", "within: 1999ms"))).unwrap();
    assert_eq!(judgement.result.verdict, Verdict::Undecided, "{}", judgement.text());
    assert!(judgement.result.reason.contains("how late the machine was"), "{}", judgement.result.reason);
    // Where the same is expected the run knew.
    let judgement = judged(late, None).unwrap();
    assert_eq!(
        (judgement.result.verdict, judgement.counts),
        (Verdict::Passed, [2, 2, 0]),
        "{}",
        judgement.text()
    );
}

/// It may have been the machine's fault, or not: the run knew.
#[test]
fn a_request_that_timed_out_failed_then_and_does_now() {
    let timeout = |lateness_ms: f64| {
        move |result: &mut ScenarioResult, events: &mut Vec<(f64, &'static str, Value)>| {
            let request = &mut events[9].2;
            request["ok"] = false.into();
            request["endedAt"] = (request["startedAt"].as_f64().unwrap() + 0.5).into();
            (result.verdict, result.lateness_ms) = (Verdict::Failed, lateness_ms);
            result.steps[1].verdict = expect::Verdict::Failed;
            result.steps[1].judged[0].findings[0].verdict = expect::Verdict::Failed;
        }
    };
    for lateness in [0.0, 1.0] {
        let judgement = judged(timeout(lateness), None).unwrap();
        assert_eq!(judgement.result.verdict, Verdict::Failed, "{lateness}: {}", judgement.text());
    }
    // Something else is expected: of a machine that was on time all is known.
    let nine = SCENARIO.replace("pages, ok: 10", "pages, failed: 0");
    assert_eq!(judged(timeout(0.0), Some(&nine)).unwrap().result.verdict, Verdict::Failed);
    assert_eq!(judged(timeout(1.0), Some(&nine)).unwrap().result.verdict, Verdict::Undecided);
}

/// A run gives a notification the time to be read at every look.
#[test]
fn what_has_to_hold_always_may_be_told_a_moment_late() {
    let always = SCENARIO
        .replace("{within: 2s, holders: {address: 10.0.0.10", "{always: 1s, holders: {address: 10.0.0.10");
    for (came, verdict) in [(5.1, Verdict::Passed), (5.3, Verdict::Failed)] {
        let change =
            |_: &mut ScenarioResult, events: &mut Vec<(f64, &'static str, Value)>| events[12].0 = came;
        assert_eq!(judged(change, Some(&always)).unwrap().result.verdict, verdict, "{came}");
    }
}

/// What comes after the step is another step's, whatever patience is allowed now.
#[test]
fn nothing_is_seen_beyond_the_end_of_a_step() {
    let late = |_: &mut ScenarioResult, events: &mut Vec<(f64, &'static str, Value)>| events[11].0 = 5.5;
    let judgement = judged(late, Some(&SCENARIO.replace("within: 10s", "within: 20s"))).unwrap();
    assert_eq!(judgement.result.verdict, Verdict::Undecided, "{}", judgement.text());
    assert!(judgement.result.reason.contains("needs a live run"), "{}", judgement.result.reason);
}

#[test]
fn what_the_lab_itself_could_not_do_stays() {
    let unsupported = judged(|result, _| result.verdict = Verdict::Unsupported, None).unwrap();
    assert_eq!(unsupported.exit_code(), 3);
    let error =
        judged(|result, _| (result.verdict, result.reason) = (Verdict::Error, "broke".into()), None).unwrap();
    assert_eq!(
        (error.result.verdict, error.result.reason.as_str(), error.exit_code()),
        (Verdict::Error, "broke", 1)
    );
}

#[test]
fn another_scenario_is_refused() {
    for (from, to, because) in [
        ("rate: 10,", "rate: 20,", "`ClientA asks` does something else"),
        ("10.0.0.2/24", "10.0.0.3/24", "another topology"),
        ("name: it came soon", "name: it came", "lacks the step `it came soon`"),
        // Two change places.
        (
            "  - name: the address comes\n    wait: {within: 10s, until: [{holders: {address: 10.0.0.9, nodes: [SRV1]}}]}\n  - name: it came soon\n    expect: [{within: 2s, holders: {address: 10.0.0.10, nodes: [SRV1]}}]\n",
            "  - name: it came soon\n    expect: [{within: 2s, holders: {address: 10.0.0.10, nodes: [SRV1]}}]\n  - name: the address comes\n    wait: {within: 10s, until: [{holders: {address: 10.0.0.9, nodes: [SRV1]}}]}\n",
            "`it came soon` stands earlier",
        ),
    ] {
        let error = judged(|_, _| {}, Some(&SCENARIO.replace(from, to))).err().expect("refused");
        assert!(error.contains(because), "{error}");
    }
}

#[test]
fn what_is_no_recording_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let told = |because: &str| {
        let error = judge(folder.path(), None).err().expect("no recording");
        assert!(error.contains(because), "{error}");
    };
    told("result.json");
    recording(folder.path(), |_, _| {});
    std::fs::write(folder.path().join("timeline.jsonl"), "{\"t\": 0, \"kind\": \"step\"}\n{\"t\": 0}\n")
        .unwrap();
    told("timeline.jsonl: line 2: this is no event");
    std::fs::write(folder.path().join("timeline.jsonl"), "{\n").unwrap();
    told("timeline.jsonl: line 1");
    std::fs::remove_file(folder.path().join("timeline.jsonl")).unwrap();
    told("timeline.jsonl: is not there");
    recording(folder.path(), |_, _| {});
    std::fs::write(folder.path().join("capture.pcapng"), "no capture").unwrap();
    // Without the time of the beginning nothing is read of it.
    assert!(judge(folder.path(), None).is_ok());
    recording(folder.path(), |result, _| result.started_unix_ns = 1);
    told("capture.pcapng");
    std::fs::write(folder.path().join("result.json"), "{}").unwrap();
    told("result.json");
}

/// An ARP request of 10.0.0.2 for 10.0.0.9, and a datagram, as they were recorded on SRV1 at these seconds.
fn capture(folder: &Path, started: u64, arp: &[f64], udp: &[f64]) {
    use crate::annotate::file::{self, Capture, ETHERNET, Link};
    use crate::annotate::{Known, tests::hex};
    use crate::programs::pcapng::{Direction, Packet};
    let packet = |seconds: f64, text: &str| {
        let (data, at) = (hex(text), at(seconds) - START);
        let original_length = u32::try_from(data.len()).unwrap();
        Packet {
            interface: 0,
            time_ns: started + at,
            original_length,
            direction: Direction::Inbound,
            data,
            comment: None,
        }
    };
    let request =
        "ffffffffffff020000000102 0806 00010800060400010200 00000102 0a000002 000000000000 0a000009";
    let datagram =
        "020000000101020000000102 0800 4500001c0000400040110000 0a000002 0a000001 1000003500080000";
    let mut packets: Vec<Packet> = arp.iter().map(|seconds| packet(*seconds, request)).collect();
    packets.extend(udp.iter().map(|seconds| packet(*seconds, datagram)));
    file::sort(&mut packets);
    let link = Link { name: "SRV1/eth0".into(), kind: ETHERNET, snap_length: 65_535, ..Link::default() };
    let mut bytes = Vec::new();
    let capture = Capture { links: vec![link], packets };
    file::write(&mut bytes, "mine", &capture, &Known::default(), |_| None).unwrap();
    std::fs::write(folder.join("capture.pcapng"), bytes).unwrap();
}

#[test]
fn frames_are_judged_from_the_capture_and_filtered_once() {
    let started = 1_800_000_000_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    recording(folder.path(), |result, _| result.started_unix_ns = started);
    capture(folder.path(), started, &[1.0, 2.0, 6.2], &[0.5]);
    let soon = "{within: 2s, holders: {address: 10.0.0.10, nodes: [SRV1]}}";
    let frames = |count: &str| {
        let filter =
            "{within: 2s, frames: {node: SRV1, interface: eth0, filter: {protocol: arp}, count: COUNT}}";
        let other = SCENARIO.replace(soon, &filter.replace("COUNT", count));
        let judgement = judge(folder.path(), Some(scenario(&other))).unwrap();
        let one = judgement.result.steps[3].judged[0].clone();
        (one.findings[0].verdict, one.after_seconds, one.findings[0].seen.clone())
    };
    let (verdict, after, seen) = frames("3");
    assert_eq!(verdict, expect::Verdict::Passed, "{seen}");
    assert!(
        after.is_some_and(|after| (1.2..1.3).contains(&after)) && seen.contains("3 of 4"),
        "{after:?} {seen}"
    );
    assert_eq!(frames("4").0, expect::Verdict::Failed);

    let records = Records::read(folder.path()).unwrap();
    let filtered = Filtered::default();
    let expected = |protocol: &str, interface: &str| -> FramesExpectation {
        let value =
            json!({"node": "SRV1", "interface": interface, "filter": {"protocol": protocol}, "count": 1});
        serde_json::from_value(value).unwrap()
    };
    let first = filtered.of(&records, &expected("arp", "eth0")).unwrap();
    let more = FramesExpectation {
        count: crate::scenario::expectation::Count::Exactly(7),
        ..expected("arp", "eth0")
    };
    assert!(
        Rc::ptr_eq(&first, &filtered.of(&records, &more).unwrap()),
        "the same frames, whatever is expected"
    );
    assert!(!Rc::ptr_eq(&first, &filtered.of(&records, &expected("udp", "eth0")).unwrap()));
    assert!(filtered.of(&records, &expected("arp", "eth1")).is_none(), "not recorded");
}
