//! Looks at what an expectation is about, and has it judged.

use std::time::Duration;

use super::captures::Recorded;
use super::error::Result;
use super::play::Player;
use super::programs::{MANIFESTS, director};
use crate::expect::bound::{self, Measured};
use crate::expect::{
    self, Finding, Span, Verdict, claims, connections, events, frames, holders, kernel, metric, reals,
    requests, status, text,
};
use crate::scenario::expectation::{
    ClaimsExpectation, CommandExpectation, Count, Established, FramesExpectation, HoldersExpectation,
    KernelExpectation, Kind, Limits, LogExpectation, MetricExpectation, RealServersExpectation, Window,
};
use crate::world::{Exec, Node, Output, now};

/// How long the kernel's notification of an address may take to be read.
const NOTIFIED: Duration = Duration::from_millis(200);
/// How long a command of an expectation may take.
const COMMAND: Duration = Duration::from_secs(60);
/// Where an agent tells its figures unless told, how long a piece of the answer may take, and how much of it is read, in bytes.
const METRICS: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::LOCALHOST, 9740);
const ANSWER: Duration = Duration::from_secs(10);
const MAX_METRICS: u64 = 64 << 20;

impl Player<'_> {
    /// Judges one kind of expectation as things are now. `began` is when the step began.
    pub(super) fn look(&self, kind: &Kind, began: u64) -> Result<Vec<Finding>> {
        match kind {
            Kind::Requests(expected) => {
                let load = self.load(&expected.load)?;
                let mut all = load.ended_requests(self.world)?;
                for name in &expected.also {
                    all.extend(self.load(name)?.ended_requests(self.world)?);
                }
                let Some(of) = load.requests else {
                    return Ok(vec![Finding::of(false, "a load", "held connections")]);
                };
                let window = self.span(&expected.window);
                Ok(requests::judge(expected, of, &all, window, &|span| self.canary.lateness(span)))
            }
            Kind::Holders(expected) => self.holders(expected),
            Kind::Kernel(expected) => self.kernel(expected),
            Kind::RealServers(expected) => Ok(self.real_servers(expected)),
            Kind::Connections(expected) => {
                let events = self.load(&expected.load)?.events(self.world)?;
                let which =
                    expected.established.as_ref().map_or(connections::Which::All, |which| self.which(which));
                Ok(connections::judge(expected, &events, which, began))
            }
            Kind::Frames(expected) => self.frames(expected),
            Kind::Claims(expected) => self.claims(expected),
            Kind::AgentStatus(expected) => {
                let node = self.world.node(&expected.node)?;
                // Nice: who looks must not be in the way of what is looked at.
                let argv = ["nice", "-n", "15", "bascule-agent", "status", "-o", "json"];
                let command = Exec::new(argv).timeout(COMMAND);
                Ok(match Self::run_in(&node, &command)? {
                    Ok(output) if output.success() => status::judge(expected, &output.text()),
                    Ok(output) => vec![Finding::of(false, "the agent's status", said(&output))],
                    Err(why) => vec![Finding::of(false, "the agent's status", why)],
                })
            }
            Kind::Plan(expected) => {
                let node = self.world.node(&expected.node)?;
                let director = self.scenario.topology.node(&expected.node).map(director).unwrap_or_default();
                let looks = ["nice", "-n", "15", "bascule-agent", "plan", "--manifests"];
                let argv = looks.into_iter().chain([MANIFESTS, "--director", &director]);
                let wanted = format!("`bascule-agent plan` on {} has nothing to do", expected.node);
                Ok(match Self::run_in(&node, &Exec::new(argv).timeout(COMMAND))? {
                    Ok(output) => vec![Finding::of(output.success(), wanted, said(&output))],
                    Err(why) => vec![Finding::of(false, wanted, why)],
                })
            }
            Kind::Log(expected) => Ok(vec![self.log(expected)]),
            Kind::Command(expected) => self.command(expected),
            Kind::Metric(expected) => Ok(vec![self.metric(expected)?]),
            Kind::Event(expected) => {
                let streams = self.streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let window = self.span(&expected.window);
                Ok(vec![events::judge(expected, streams.get(&*expected.node), window)])
            }
            Kind::Rest(expected) => {
                let history = self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                Ok(vec![holders::at_rest(expected, &history, now())])
            }
        }
    }

    /// A part of the run.
    pub(super) fn span(&self, window: &Window) -> Span {
        let began = |name: &Option<String>| {
            name.as_ref()
                .and_then(|name| self.marks.iter().find(|mark| mark.name == *name))
                .map(|mark| mark.began)
        };
        Span {
            since: began(&window.since).unwrap_or(0),
            until: began(&window.until).unwrap_or_else(|| now() + 1),
        }
    }

    /// When a step began, or its fault took effect.
    fn effect(&self, step: Option<&String>) -> u64 {
        let mark = self.marks.iter().find(|mark| Some(&mark.name) == step);
        mark.map_or(0, |mark| mark.effect.unwrap_or(mark.began))
    }

    /// Between which times the fault of a step took effect: as long as the kernel took over it.
    fn uncertain(&self, step: Option<&String>) -> Duration {
        let mark = self.marks.iter().find(|mark| Some(&mark.name) == step);
        mark.map_or(Duration::ZERO, |mark| mark.uncertain)
    }

    /// Which connections are meant.
    fn which(&self, established: &Established) -> connections::Which {
        if established.after.is_some() {
            return connections::Which::BegunSince(self.effect(established.after.as_ref()));
        }
        let at = self.effect(established.before.as_ref());
        let back = |span: crate::scenario::Span| {
            at.saturating_sub(u64::try_from(span.get().as_nanos()).unwrap_or(u64::MAX))
        };
        connections::Which::OpenAt {
            at,
            since: established.less_than.map_or(0, |span| back(span) + 1),
            until: established.at_least.map_or(at, back),
        }
    }

    fn claims(&self, expected: &ClaimsExpectation) -> Result<Vec<Finding>> {
        let capture = self
            .captures
            .iter()
            .find(|capture| capture.node == *expected.node && capture.interface == *expected.interface);
        let Some(capture) = capture else {
            let place = format!("{} {}", expected.node, expected.interface);
            return Ok(vec![Finding::of(
                false,
                format!("claims heard by {place}"),
                "the link is not recorded",
            )]);
        };
        let recorded = capture.read(self.world)?;
        let mut claims: Vec<claims::Claim> = Vec::new();
        for packet in &recorded.packets {
            if let Some((address, mac)) = frames::decode(&packet.data).claim
                && address == expected.address
            {
                claims.push(claims::Claim { at: self.monotonic(packet.time_ns), by: self.owner(mac) });
            }
        }
        claims.sort_by_key(|claim| claim.at);
        let mut window = self.span(&expected.window);
        if expected.window.since.is_some() {
            window.since = self.effect(expected.window.since.as_ref());
        }
        let uncertain = self.uncertain(expected.window.since.as_ref());
        let lateness = |span| self.canary.lateness(span).of_a_chain();
        let mut findings = claims::judge(expected, &claims, window, uncertain, &lateness);
        if recorded.dropped > 0 {
            for finding in &mut findings {
                finding.verdict = finding.verdict.max(Verdict::Undecided);
                finding.seen =
                    format!("{}; {} frames were lost to the capture", finding.seen, recorded.dropped);
            }
        }
        Ok(findings)
    }

    fn real_servers(&self, expected: &RealServersExpectation) -> Vec<Finding> {
        let mut window = self.span(&expected.window);
        if expected.window.since.is_some() {
            window.since = self.effect(expected.window.since.as_ref());
        }
        let uncertain = self.uncertain(expected.window.since.as_ref());
        let lateness = |span| self.canary.lateness(span).of_a_chain();
        let tables = self.tables.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let history = tables.get(&(expected.node.to_string(), expected.service.clone()));
        reals::judge(expected, history, window, uncertain, &lateness)
    }

    /// The node that a hardware address belongs to; a virtual router's is its own name.
    fn owner(&self, mac: [u8; 6]) -> String {
        let has = |node: &Node| node.interfaces().iter().any(|interface| node.mac(interface) == Some(mac));
        let node = self.world.nodes().into_iter().find(has);
        node.map_or_else(|| crate::scenario::value::Mac(mac).to_string(), |node| node.name().to_owned())
    }

    /// Runs a command in a node; a text instead if the node cannot run any.
    fn run_in(node: &Node, command: &Exec) -> Result<Result<Output, String>> {
        match asleep(node) {
            Some(why) => Ok(Err(why)),
            None => Ok(Ok(node.exec(command)?)),
        }
    }

    fn holders(&self, expected: &HoldersExpectation) -> Result<Vec<Finding>> {
        let judge = || {
            let history = self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let window = self.span(&expected.window);
            holders::judge(expected, &history, window, &|span| self.canary.lateness(span).of_a_chain())
        };
        let until = now() + u64::try_from(NOTIFIED.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let findings = judge();
            if expected.nodes.is_none() || expect::worst(&findings) == Verdict::Passed || now() > until {
                return Ok(findings);
            }
            self.options.cancel.check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kernel(&self, expected: &KernelExpectation) -> Result<Vec<Finding>> {
        let node = self.world.node(&expected.node)?;
        let mut tables = kernel::Tables::default();
        let ask = |argv: &[&str]| -> Result<Result<String, Finding>> {
            let command = Exec::new(argv.iter().copied()).timeout(COMMAND).limit(16 << 20);
            let wanted = format!("`{}` on {}", argv.join(" "), node.name());
            Ok(match Self::run_in(&node, &command)? {
                Ok(output) if output.success() => Ok(output.text()),
                Ok(output) => Err(Finding::of(false, wanted, said(&output))),
                Err(why) => Err(Finding::of(false, wanted, why)),
            })
        };
        if expected.ipvsadm.is_some() || expected.services.is_some() || !expected.no_services.is_empty() {
            match ask(&["ipvsadm", "-Ln"])? {
                Ok(text) => tables.ipvsadm = Some(text),
                Err(finding) => return Ok(vec![finding]),
            }
        }
        if !expected.addresses.is_empty() || !expected.no_addresses.is_empty() {
            match ask(&["ip", "-j", "address", "show"])? {
                Ok(text) => tables.addresses = Some(text),
                Err(finding) => return Ok(vec![finding]),
            }
        }
        if !expected.nft.is_empty() {
            match ask(&["nft", "list", "ruleset"])? {
                Ok(text) => tables.nft = Some(text),
                Err(finding) => return Ok(vec![finding]),
            }
        }
        for name in expected.sysctls.keys() {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            let value = ask(&["cat", &path])?.map_err(|finding| finding.seen);
            tables.sysctls.insert(name.clone(), value);
        }
        Ok(kernel::judge(expected, &tables))
    }

    fn frames(&self, expected: &FramesExpectation) -> Result<Vec<Finding>> {
        let capture = self
            .captures
            .iter()
            .find(|capture| capture.node == *expected.node && capture.interface == *expected.interface);
        let recorded = capture.map(|capture| capture.read(self.world)).transpose()?;
        let window = self.span(&expected.window);
        let lateness = |span| self.canary.lateness(span).of_a_chain();
        let passing = recorded.map(|recorded| passing(expected, &recorded, &|time| self.monotonic(time)));
        Ok(judge_frames(expected, passing.as_ref(), window, &lateness))
    }

    fn log(&self, expected: &LogExpectation) -> Finding {
        self.logs.look();
        let lines = self.logs.written(&expected.node, &expected.program, self.span(&expected.window));
        let found: Vec<&String> = lines.iter().filter(|line| line.contains(&expected.contains)).collect();
        let count = expected.count.unwrap_or(Count::Limits(Limits { at_least: Some(1), at_most: None }));
        let wanted = format!(
            "{count} log lines of {} {} with `{}`",
            expected.node, expected.program, expected.contains
        );
        let seen = match (found.first(), lines.last()) {
            (Some(line), _) => format!("{}, the first: {line}", found.len()),
            (None, Some(line)) => format!("none of {} lines; the last: {line}", lines.len()),
            (None, None) => "it logged nothing".into(),
        };
        Finding::of(count.admits(found.len() as u64), wanted, seen)
    }

    fn metric(&self, expected: &MetricExpectation) -> Result<Finding> {
        let node = self.world.node(&expected.node)?;
        let wanted = format!("the figure {} of {}", expected.name, node.name());
        if let Some(why) = asleep(&node) {
            return Ok(Finding::of(false, wanted, why));
        }
        Ok(match node.in_netns(metrics)? {
            Ok(text) => metric::judge(expected, &text),
            Err(error) => Finding::of(false, wanted, format!("asking the agent for its figures: {error}")),
        })
    }

    fn command(&self, expected: &CommandExpectation) -> Result<Vec<Finding>> {
        let node = self.world.node(&expected.node)?;
        let command = Exec::shell(&expected.command).timeout(COMMAND);
        Ok(match Self::run_in(&node, &command)? {
            Ok(output) => {
                command_findings(&expected.command, expected.exit_code, &expected.stdout, None, &output)
            }
            Err(why) => vec![Finding::of(false, format!("`{}`", expected.command), why)],
        })
    }
}

/// Of what is recorded of a link, what passes an expectation's filter.
pub(super) struct Passing {
    /// When, on the clock of the run, in the order of time.
    times: Vec<u64>,
    /// Of how many frames.
    of: usize,
    /// How many more were lost to the capture.
    dropped: u64,
}

/// Filters the frames of a link. `monotonic` is the time of a frame on the clock of the run.
pub(super) fn passing(
    expected: &FramesExpectation,
    recorded: &Recorded,
    monotonic: &dyn Fn(u64) -> u64,
) -> Passing {
    let mut times: Vec<u64> = recorded
        .packets
        .iter()
        .filter(|packet| frames::passes(&expected.filter, &frames::decode(&packet.data)))
        .map(|packet| monotonic(packet.time_ns))
        .collect();
    times.sort_unstable();
    Passing { times, of: recorded.packets.len(), dropped: recorded.dropped }
}

/// Judges the frames of a link; none: it is not recorded.
pub(super) fn judge_frames(
    expected: &FramesExpectation,
    passing: Option<&Passing>,
    window: Span,
    lateness: &dyn Fn(Span) -> Duration,
) -> Vec<Finding> {
    let place = format!("{} {}", expected.node, expected.interface);
    let wanted = format!("{} frames {} on {place}", expected.count, frames::words(&expected.filter));
    let Some(Passing { times, of, dropped }) = passing else {
        return vec![Finding::of(false, wanted, "the link is not recorded")];
    };
    let dropped = *dropped;
    let within = || times.iter().filter(|at| window.contains(**at));
    let (count, last) = (within().count() as u64, within().next_back().copied());
    let mut seen = format!("{count} of {of} frames");
    if dropped > 0 {
        seen = format!("{seen}; {dropped} were lost to the capture");
    }
    let mut finding = Finding::of(expected.count.admits(count), wanted, seen).at(last);
    // Among those that were lost there may have been any.
    if dropped > 0 && expected.count.admits_any(count, count + dropped) {
        let certain = matches!(expected.count, Count::Limits(Limits { at_most: None, .. }))
            && finding.verdict == Verdict::Passed;
        if !certain {
            finding.verdict = Verdict::Undecided;
        }
    }
    let mut findings = vec![finding];
    if let Some(bound) = &expected.longest_gap {
        let gap = frames::longest_gap(times, window);
        let what = format!("the longest time without frames {} on {place}", frames::words(&expected.filter));
        let measured = Measured {
            seen: Duration::from_nanos(gap.until - gap.since),
            // The kernel stamps each frame.
            resolution: Duration::ZERO,
            lateness: lateness(gap),
        };
        let mut finding = bound::judge(&what, measured, bound).at(Some(gap.until));
        if dropped > 0 && finding.verdict == Verdict::Failed {
            finding.verdict = Verdict::Undecided;
            finding.seen = format!("{}; {dropped} frames were lost to the capture", finding.seen);
        }
        findings.push(finding);
    }
    findings
}

/// Why nothing can be asked of a node; `None`: it can.
fn asleep(node: &Node) -> Option<String> {
    if !node.is_up() {
        return Some(format!("{} is off", node.name()));
    }
    node.is_frozen().then(|| format!("{} is frozen", node.name()))
}

/// What the agent of the calling thread's network says at `/metrics`.
fn metrics() -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&METRICS.into(), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    // Of version 1.0, so that the answer comes in one piece and ends with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_METRICS).read_to_string(&mut text)?;
    Ok(text)
}

/// Judges what a command did.
pub(super) fn command_findings(
    command: &str,
    exit_code: u8,
    stdout: &crate::scenario::expectation::TextExpectation,
    stderr: Option<&crate::scenario::expectation::TextExpectation>,
    output: &Output,
) -> Vec<Finding> {
    if output.timed_out {
        return vec![Finding::of(false, format!("`{command}` ends in time"), said(output))];
    }
    let good = output.status == crate::world::Exit::Code(i32::from(exit_code));
    let mut findings = vec![Finding::of(good, format!("`{command}` exits with {exit_code}"), said(output))];
    findings.extend(text::judge(&format!("`{command}` prints"), stdout, &output.text()));
    if let Some(stderr) = stderr {
        findings.extend(text::judge(&format!("`{command}` complains"), stderr, &output.error_text()));
    }
    findings
}

/// How a command ended and what it said.
fn said(output: &Output) -> String {
    let mut text =
        if output.timed_out { "killed, because it took too long".into() } else { output.status.to_string() };
    for part in [output.text(), output.error_text()] {
        let part = part.trim();
        if !part.is_empty() {
            text.push_str(": ");
            text.push_str(&text::excerpt(part));
        }
    }
    text
}
