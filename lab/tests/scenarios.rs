//! Scenarios on this machine's kernel: a plain one that must pass, and the negative controls, each of which must fail where it says and
//! for the reason that it says. Needs root, namespaces, nftables; not IPVS.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bascule_lab::programs::pcapng::Block;
use bascule_lab::run::{RunOptions, ScenarioResult, Verdict, run_scenarios};
use bascule_lab::scenario::{Problem, Scenario, load, load_file};
use serde_json::{Value, json};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn read(path: &Path) -> Scenario {
    load_file(path).unwrap_or_else(|problems| panic!("{}", told(&problems)))
}

/// Plays a scenario; what was printed comes with the result.
fn play(scenario: Scenario, out: &Path) -> (ScenarioResult, String) {
    let printed: Arc<Mutex<String>> = Arc::default();
    let mine = Arc::clone(&printed);
    let mut options = RunOptions::new(out.to_owned()).unwrap();
    options.program = PathBuf::from(env!("CARGO_BIN_EXE_bascule-lab"));
    options.progress = Arc::new(|_| {});
    options.print = Arc::new(move |line| {
        let mut printed = mine.lock().unwrap();
        printed.push_str(line);
        printed.push('\n');
    });
    let mut summary = run_scenarios(&[scenario], &options).unwrap();
    let text = printed.lock().unwrap().clone();
    (summary.results.remove(0), text)
}

/// Neighbours reach each other in what `import` makes of a topology with a bridge.
#[test]
fn an_imported_topology_passes() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("bridged.yaml");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
        .arg("import")
        .arg(folder().join("tests/data/clab/bridged.clab.yml"))
        .arg("--out")
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());
    let (result, text) = play(read(&file), &out.path().join("results"));
    assert_eq!(result.verdict, Verdict::Passed, "{text}");
}

#[test]
fn a_plain_scenario_passes_and_leaves_its_results() {
    let out = tempfile::tempdir().unwrap();
    let (result, text) = play(read(&folder().join("tests/scenarios/plain.yaml")), out.path());
    assert_eq!(result.verdict, Verdict::Passed, "{text}");
    let results = out.path().join("plain");
    let timeline = std::fs::read_to_string(results.join("timeline.jsonl")).unwrap();
    let mut last = f64::MIN;
    for line in timeline.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let t = event["t"].as_f64().unwrap();
        assert!(t >= last, "the timeline is in the order of time");
        last = t;
    }
    for kind in ["step", "fault", "heal", "request", "connection", "address", "finding"] {
        assert!(timeline.contains(&format!("\"kind\":\"{kind}\"")), "no {kind} in the timeline");
    }
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(results.join("result.json")).unwrap()).unwrap();
    assert_eq!(json["verdict"], "passed");
    assert_eq!(json["steps"].as_array().unwrap().len(), result.steps.len());
    assert!(std::fs::read_to_string(out.path().join("junit.xml")).unwrap().contains("failures=\"0\""));
    let capture = std::fs::read(results.join("capture.pcapng")).unwrap();
    let blocks = bascule_lab::programs::pcapng::read(capture.as_slice()).unwrap();
    assert!(blocks.len() > 50, "{} blocks", blocks.len());
    let lost = blocks.iter().any(|block| match block {
        Block::Packet(packet) => {
            packet.comment.as_ref().is_some_and(|text| text.contains("never arrived at Router"))
        }
        _ => false,
    });
    assert!(lost, "what ClientA sends to a router that is off is marked so");
    assert!(results.join("logs/SRV1/apache2.log").is_file());
    let tables: Value =
        serde_json::from_str(&std::fs::read_to_string(results.join("tables.json")).unwrap()).unwrap();
    let moments: Vec<&str> =
        tables.as_array().unwrap().iter().map(|moment| moment["moment"].as_str().unwrap()).collect();
    assert_eq!(moments, ["start", "beforeChange", "end"]);
    let addresses = tables[0]["nodes"]["Router"]["ip -brief address show"].as_str().unwrap();
    assert!(addresses.contains("192.16.193.1/24"), "{addresses}");
    assert_eq!(read(&results.join("plain.yaml")), read(&folder().join("tests/scenarios/plain.yaml")));
    let page = std::fs::read_to_string(results.join("report.html")).unwrap();
    assert!(page.contains("never arrived at Router") && page.contains("bascule-lab run ./plain.yaml --seed"));
    assert!(!page.contains(&*out.path().to_string_lossy()), "the report names no folder of this machine");
    // Judged again by what it left it is the same, but for what a late machine leaves open.
    let again = std::process::Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
        .arg("analyze")
        .arg(&results)
        .output()
        .unwrap();
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(
        said.contains("as found then, 0 for a live run"),
        "{said}{}",
        String::from_utf8_lossy(&again.stderr)
    );
    if again.status.success() {
        assert!(said.contains("recorded: passed, too"), "{said}");
    } else {
        assert!(
            said.contains("judged again: undecided") && said.contains("how late the machine was"),
            "{said}"
        );
    }
}

/// A scenario whose steps have nothing to say against a command in the background that ends by `signal`.
fn with_an_end_by(signal: &str) -> Scenario {
    let command = format!("(sh -c 'echo $$ >/run/short; kill -{signal} $$' >/dev/null 2>&1 &)");
    let gone = "test -s /run/short && ! test -d /proc/$(cat /run/short)";
    let scenario = json!({
        "summary": "A command in the background ends by a signal.",
        "topology": {
            "networks": [{"name": "inside"}],
            "nodes": [{"name": "SRV1", "links": [{"network": "inside", "interface": "enp0s3", "addresses": ["172.16.193.10/16"]}]}],
        },
        "steps": [
            {"name": "it begins", "exec": {"node": "SRV1", "command": command}},
            {"name": "it has gone", "wait": {"within": "60s", "until": [{"command": {"node": "SRV1", "command": gone}}]}},
        ],
    });
    load("short", &scenario.to_string()).unwrap_or_else(|problems| panic!("{}", told(&problems)))
}

#[test]
fn a_process_that_dumps_core_fails_the_run_whatever_the_steps_say() {
    let out = tempfile::tempdir().unwrap();
    let (result, text) = play(with_an_end_by("TERM"), out.path());
    assert_eq!((result.verdict, result.core_dumps.len()), (Verdict::Passed, 0), "{text}");
    let (result, text) = play(with_an_end_by("SEGV"), out.path());
    assert_eq!(result.verdict, Verdict::Failed, "{text}");
    let [dump] = &result.core_dumps[..] else { panic!("{text}") };
    assert_eq!((&*dump.node, &*dump.program, &*dump.signal), ("SRV1", "sh", "SIGSEGV"));
    assert!(dump.at_seconds > 0.0 && dump.at_seconds < result.duration_seconds + 60.0, "{dump:?}");
    assert!(dump.core.is_some() || dump.why_no_core.is_some(), "{dump:?}");
    let words = format!("sh of SRV1 (process {}) dumped core at", dump.pid);
    let read = |file: &str| std::fs::read_to_string(out.path().join(file)).unwrap();
    assert!(result.reason.contains(&words) && text.contains(&words) && text.contains("core file:"), "{text}");
    let junit = read("junit.xml");
    assert!(junit.contains("failures=\"1\"") && junit.contains(&words), "{junit}");
    assert!(read("short/timeline.jsonl").contains("\"kind\":\"coreDump\""));
    assert!(read("short/result.json").contains("\"coreDumps\": ["));
    assert!(read("short/report.html").contains(&words));
    // Judged again it has failed still.
    let again = std::process::Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
        .arg("analyze")
        .arg(out.path().join("short"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.code() == Some(1) && said.contains("recorded: failed, too"), "{said}");
}

/// The controls' file.
fn controls() -> Value {
    let text = std::fs::read_to_string(folder().join("tests/controls.yaml")).unwrap();
    let mut documents = bascule_crds::manifest::parse(&text).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0).value
}

const JUDGED: &str = "it is judged";

/// A control as a scenario, with its fault or without.
fn scenario(all: &Value, control: &Value, with_fault: bool) -> Scenario {
    let name = control["name"].as_str().unwrap();
    let shared = if control["agent"] == true { &all["agentTopology"] } else { &all["topology"] };
    let topology = control.get("topology").unwrap_or(shared);
    let list = |key: &str| control.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut steps = list("steps");
    if let Some(fault) = control.get("fault").filter(|_| with_fault) {
        steps.push(json!({"name": "it breaks", "fault": fault}));
    }
    steps.extend(list("then"));
    if let Some(expectation) = control.get("expect") {
        steps.push(json!({"name": JUDGED, "expect": [expectation]}));
    }
    let scenario = json!({
        "summary": format!("The negative control {name}."),
        "record": "asked",
        "topology": topology,
        "steps": steps,
        "control": {"failsAt": control.get("failsAt").unwrap_or(&json!(JUDGED)), "because": control["because"]},
    });
    load(name, &scenario.to_string()).unwrap_or_else(|problems| panic!("{name}: {}", told(&problems)))
}

/// Plays the controls that `which` chooses; all problems are told at the end.
fn play_controls(which: impl Fn(&Value) -> bool) {
    let all = controls();
    let mut problems = Vec::new();
    for control in all["controls"].as_array().unwrap().iter().filter(|control| which(control)) {
        let name = control["name"].as_str().unwrap();
        let out = tempfile::tempdir().unwrap();
        let wrong = scenario(&all, control, true);
        let expected = wrong.control.clone().unwrap();
        let (result, text) = play(wrong, out.path());
        let last = result.steps.last().map_or("", |step| &step.name);
        let because = expected.because.unwrap_or_default();
        if result.verdict != Verdict::Failed || last != expected.fails_at || !result.reason.contains(&because)
        {
            problems.push(format!(
                "{name} has to fail at `{}` because of `{because}`, but: {text}",
                expected.fails_at
            ));
        }
        if control.get("fault").is_some() {
            let (result, text) = play(scenario(&all, control, false), out.path());
            if result.verdict != Verdict::Passed {
                problems.push(format!("{name} has to pass without its fault, but: {text}"));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn controls_of_expectations_fail() {
    play_controls(|control| control["agent"] != true && control.get("fault").is_none());
}

#[test]
fn controls_of_faults_fail_by_the_fault() {
    play_controls(|control| control["agent"] != true && control.get("fault").is_some());
}

#[test]
fn controls_of_agents_fail() {
    let lab = PathBuf::from(env!("CARGO_BIN_EXE_bascule-lab"));
    let agent = lab.with_file_name("bascule-agent");
    assert!(
        agent.is_file(),
        "{} is not there; build it first: cargo build -p bascule-agent",
        agent.display()
    );
    play_controls(|control| control["agent"] == true);
}

/// Faults that this machine cannot play: tests/machine/controls.rs has their controls, in the virtual machine.
const ELSEWHERE: [&str; 2] = ["fault impair", "fault clockStep"];

/// A kind of expectation or fault without a control would be a kind of which nobody knows whether it notices anything.
#[test]
fn every_kind_has_a_control() {
    let schema = bascule_lab::scenario::schema::schema();
    let mut kinds: BTreeSet<String> = schema["$defs"]["Expectation"]["x-exactly-one"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| format!("expect {}", kind.as_str().unwrap()))
        .collect();
    for fault in schema["$defs"]["Fault"]["oneOf"].as_array().unwrap() {
        kinds.extend(fault["properties"].as_object().unwrap().keys().map(|kind| format!("fault {kind}")));
    }
    assert_eq!(kinds.len(), 14 + 14, "{kinds:?}");
    for kind in ELSEWHERE {
        assert!(kinds.remove(kind), "there is no {kind}");
    }
    for control in controls()["controls"].as_array().unwrap() {
        let keys = |value: Option<&Value>| -> Vec<String> {
            value
                .and_then(Value::as_object)
                .map(|members| members.keys().cloned().collect())
                .unwrap_or_default()
        };
        for kind in keys(control.get("expect")) {
            kinds.remove(&format!("expect {kind}"));
        }
        for kind in keys(control.get("fault")) {
            kinds.remove(&format!("fault {kind}"));
        }
    }
    assert!(kinds.is_empty(), "without a control: {kinds:?}");
}
