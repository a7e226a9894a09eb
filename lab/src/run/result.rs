//! What came of a scenario: `result.json`, `junit.xml`.

use std::collections::BTreeMap;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::{Deserialize, Serialize};

use crate::expect;
use crate::scenario::Scenario;

/// What came of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Everything was as wanted.
    Passed,
    /// The kernel or the machine lacks something that it needs.
    Unsupported,
    /// What it measured was below its resolution.
    Undecided,
    /// The harness itself failed, or was interrupted.
    Error,
    /// Something was not as wanted.
    Failed,
}

impl Verdict {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Unsupported => "unsupported",
            Self::Undecided => "undecided",
            Self::Error => "error",
            Self::Failed => "failed",
        }
    }
}

impl From<expect::Verdict> for Verdict {
    fn from(verdict: expect::Verdict) -> Self {
        match verdict {
            expect::Verdict::Passed => Self::Passed,
            expect::Verdict::Undecided => Self::Undecided,
            expect::Verdict::Failed => Self::Failed,
        }
    }
}

/// One expectation, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Its kind: `requests`, `kernel`, `exec`, …
    pub kind: String,
    /// What was found.
    pub findings: Vec<expect::Finding>,
    /// After how many seconds it held, where there was a time to wait; the look at which it did is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<f64>,
}

/// One step, played.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepResult {
    /// Its name.
    pub name: String,
    /// What it does: `apply`, `fault`, …
    pub action: String,
    /// What came of it.
    pub verdict: expect::Verdict,
    /// When it began, in seconds since the scenario began.
    pub at_seconds: f64,
    /// How long it took.
    pub duration_seconds: f64,
    /// The worst lateness of the machine meanwhile, in milliseconds.
    pub lateness_ms: f64,
    /// What was judged.
    pub judged: Vec<Judged>,
}

/// What a load came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadResult {
    /// The node that sent.
    pub from: String,
    /// Where to.
    pub target: String,
    /// Requests that ended.
    pub sent: u64,
    /// Answered well and in time.
    pub ok: u64,
    /// The others.
    pub failed: u64,
    /// Good answers, by who gave them.
    pub answerers: BTreeMap<String, u64>,
    /// The load's own largest lateness, in milliseconds.
    pub late_max_ms: f64,
}

/// What became of held connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionsResult {
    /// Those that were opened.
    pub opened: u64,
    /// Those of them that were lost.
    pub lost: u64,
}

/// A process that ended by a signal which dumps core, and which the lab did not send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreDump {
    /// The node.
    pub node: String,
    /// The process's command name, at most 15 bytes.
    pub program: String,
    /// The program that the lab started and that it is or belongs to, by the name of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The process's number inside the node.
    pub pid: i32,
    /// The signal: `SIGSEGV`, …
    pub signal: String,
    /// When, in seconds since the scenario began.
    pub at_seconds: f64,
    /// The core file, from the folder of results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_no_core: Option<String>,
    /// The last lines of its log before that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl CoreDump {
    /// In a line.
    pub(super) fn words(&self) -> String {
        let of = self.of.as_ref().filter(|of| **of != self.program);
        let of = of.map_or_else(String::new, |of| format!(", of {of}"));
        format!(
            "{} of {} (process {}{of}) dumped core at {:.3} s: {}",
            self.program, self.node, self.pid, self.at_seconds, self.signal
        )
    }

    /// All that is known of it.
    pub(super) fn lines(&self) -> Vec<String> {
        let core = match (&self.core, &self.why_no_core) {
            (Some(core), _) => core.clone(),
            (None, why) => why.clone().unwrap_or_else(|| "none".to_owned()),
        };
        let mut lines = vec![self.words(), format!("  core file: {core}")];
        lines.extend(self.log.iter().map(|line| format!("  it logged: {line}")));
        lines
    }
}

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioResult {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub summary: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Why, where it is not passed: the step, what was wanted, what was seen.
    pub reason: String,
    /// The kernel's release.
    pub kernel: String,
    /// What `--seed` was or could have been.
    pub seed: u64,
    /// Which of the repetitions, from 1.
    pub run: u32,
    /// How often it was played because it was undecided.
    pub attempts: u32,
    /// When the first step began, in nanoseconds since 1970; 0 if none did.
    pub started_unix_ns: u64,
    /// From the first step to the last.
    pub duration_seconds: f64,
    /// Building the network and starting the programs.
    pub setup_seconds: f64,
    /// The worst lateness of the machine, in milliseconds.
    pub lateness_ms: f64,
    /// The steps that were played.
    pub steps: Vec<StepResult>,
    /// The loads.
    pub loads: BTreeMap<String, LoadResult>,
    /// The held connections.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, ConnectionsResult>,
    /// Processes that dumped core.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub core_dumps: Vec<CoreDump>,
    /// Lines of logs around what went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest_log_lines: Vec<String>,
    /// Frames around what went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest_frames: Vec<String>,
}

impl ScenarioResult {
    /// Of a scenario of which nothing has been played yet: passed, as long as nothing speaks against it.
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        Self {
            name: scenario.name.clone(),
            summary: scenario.summary.clone(),
            verdict: Verdict::Passed,
            reason: String::new(),
            kernel: release(),
            seed,
            run: 1,
            attempts: 1,
            started_unix_ns: 0,
            duration_seconds: 0.0,
            setup_seconds: 0.0,
            lateness_ms: 0.0,
            steps: Vec::new(),
            loads: BTreeMap::new(),
            connections: BTreeMap::new(),
            core_dumps: Vec::new(),
            nearest_log_lines: Vec::new(),
            nearest_frames: Vec::new(),
        }
    }
}

/// The kernel's release.
fn release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// What came of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// In the order in which they were played.
    pub results: Vec<ScenarioResult>,
}

impl Summary {
    /// 0: all passed. 1: any failed, undecided or in error. Else 3: any unsupported.
    pub fn exit_code(&self) -> u8 {
        match self.results.iter().map(|result| result.verdict).max() {
            Some(Verdict::Failed | Verdict::Error | Verdict::Undecided) => 1,
            Some(Verdict::Unsupported) => 3,
            Some(Verdict::Passed) | None => 0,
        }
    }

    /// `junit.xml`.
    pub fn junit(&self) -> String {
        let mut suite = TestSuite::new("bascule-lab");
        for result in &self.results {
            let name =
                if result.run > 1 { format!("{}.{}", result.name, result.run) } else { result.name.clone() };
            let mut status = match result.verdict {
                Verdict::Passed => TestCaseStatus::success(),
                Verdict::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
                Verdict::Error | Verdict::Undecided => TestCaseStatus::non_success(NonSuccessKind::Error),
                Verdict::Unsupported => TestCaseStatus::skipped(),
            };
            if result.verdict != Verdict::Passed {
                status.set_message(format!("{}: {}", result.verdict.name(), first_line(&result.reason)));
                status.set_description(detail(result));
            }
            let mut case = TestCase::new(name, status);
            // So that what a CI system shows of a case is enough to play it again.
            case.add_property(("kernel", result.kernel.as_str()));
            case.add_property(("seed", result.seed.to_string().as_str()));
            case.add_property(("plays", result.attempts.to_string().as_str()));
            case.set_classname("bascule-lab");
            case.set_time(std::time::Duration::from_secs_f64(result.setup_seconds + result.duration_seconds));
            suite.add_test_case(case);
        }
        let mut report = Report::new("bascule-lab");
        report.add_test_suite(suite);
        report.to_string().unwrap_or_default()
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn detail(result: &ScenarioResult) -> String {
    let mut text = result.reason.clone();
    for dump in &result.core_dumps {
        for line in dump.lines() {
            text.push('\n');
            text.push_str(&line);
        }
    }
    for line in result.nearest_log_lines.iter().chain(&result.nearest_frames) {
        text.push('\n');
        text.push_str(line);
    }
    text
}

#[cfg(test)]
pub(super) fn example_step(lateness_ms: f64) -> StepResult {
    StepResult {
        name: "all came".into(),
        action: "expect".into(),
        verdict: expect::Verdict::Failed,
        at_seconds: 1.0,
        duration_seconds: 0.5,
        lateness_ms,
        judged: Vec::new(),
    }
}

#[cfg(test)]
pub(super) fn example(name: &str, verdict: Verdict) -> ScenarioResult {
    ScenarioResult {
        name: name.into(),
        summary: "what it shows".into(),
        verdict,
        reason: if verdict == Verdict::Passed {
            String::new()
        } else {
            "step `all came`: wanted 10 ok, seen 9 <ok>".into()
        },
        kernel: "6.1.0".into(),
        seed: 1,
        run: 1,
        attempts: 1,
        started_unix_ns: 0,
        duration_seconds: 1.5,
        setup_seconds: 0.5,
        lateness_ms: 0.0,
        steps: Vec::new(),
        loads: BTreeMap::new(),
        connections: BTreeMap::new(),
        core_dumps: Vec::new(),
        nearest_log_lines: Vec::new(),
        nearest_frames: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        use Verdict::{Error, Failed, Passed, Undecided, Unsupported};
        let code = |verdicts: &[Verdict]| {
            Summary { results: verdicts.iter().map(|verdict| example("x", *verdict)).collect() }.exit_code()
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[Passed, Passed]), 0);
        assert_eq!(code(&[Passed, Unsupported]), 3);
        for bad in [Failed, Error, Undecided] {
            assert_eq!(code(&[Passed, Unsupported, bad]), 1, "{bad:?}");
        }
    }

    #[test]
    fn junit_has_failures_errors_and_skipped() {
        use Verdict::{Error, Failed, Passed, Undecided, Unsupported};
        let results = [Passed, Failed, Error, Undecided, Unsupported]
            .map(|verdict| example(verdict.name(), verdict))
            .to_vec();
        let xml = Summary { results }.junit();
        let xml = xml.lines().map(str::trim).collect::<Vec<_>>().join("\n");
        assert!(xml.contains(r#"tests="5""#), "{xml}");
        assert!(
            xml.contains(r#"failures="1""#)
                && xml.contains(r#"errors="2""#)
                && xml.contains(r#"skipped="1""#),
            "{xml}"
        );
        assert!(xml.contains("seen 9 &lt;ok&gt;"), "{xml}");
        assert!(xml.contains(r#"<property name="seed" value="1"/>"#), "{xml}");
    }
}
