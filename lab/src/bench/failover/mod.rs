//! How long an address is not answered when the director that has it fails, is stopped, or gives it away; beside keepalived.
//!
//! Each side has two directors and a client of its own on two networks of its own; both stand side by side for a whole interval, and one
//! after the other is broken, so that a machine that is busy for a while is so for both. The client sends a ping every 10 ms, whatever
//! becomes of the others; the gap is the longest time without an answer.

mod sample;
mod side;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::report::{Comparison, Peer, median, percentile};
use super::{Bench, BenchArgs, peer};
use sample::Sample;
use side::{Side, Site};

use crate::random::Random;

/// Time between two pings.
pub(super) const PROBE: Duration = Duration::from_millis(10);
/// Link loss is to take at most this part of the peer's time,
const OF_LINK_LOSS: f64 = 0.5;
/// from this interval on: below, a probe's distance is more than what there is to win.
const LINK_LOSS_FROM: Duration = Duration::from_millis(100);

/// What happens to the director that has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Event {
    /// It loses power.
    Crash,
    /// The cable of the client's network is pulled.
    LinkLoss,
    /// Its program is told to end (SIGTERM).
    Stop,
    /// The address is given away on purpose: `bascule-agent switchover`; keepalived has no such command, so that its priority is lowered
    /// below the other's by a reload (SIGHUP).
    Planned,
}

impl Event {
    /// All of them.
    const ALL: [Self; 4] = [Self::Crash, Self::LinkLoss, Self::Stop, Self::Planned];

    fn words(self) -> &'static str {
        match self {
            Self::Crash => "node crash",
            Self::LinkLoss => "link loss",
            Self::Stop => "SIGTERM",
            Self::Planned => "planned switch (keepalived: lower priority, reload)",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Planned => "planned switch",
            other => other.words(),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FailoverArgs {
    /// Runs of each event at each interval (failover).
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) runs: u32,
    /// Advertisement intervals (failover).
    #[arg(long, value_name = "INTERVAL,…", value_delimiter = ',', default_value = "1s,100ms,10ms", value_parser = crate::programs::load::duration)]
    pub(super) intervals: Vec<Duration>,
    /// Only these events (failover) [default: all].
    #[arg(long, value_name = "EVENT,…", value_delimiter = ',', value_enum)]
    pub(super) events: Vec<Event>,
    /// Only keepalived (failover, vrrp-scale, checks).
    #[arg(long)]
    pub(super) peer_only: bool,
    /// Where the random phase of each event begins (failover).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

impl FailoverArgs {
    /// The same as a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let intervals: Vec<String> =
            self.intervals.iter().map(|interval| format!("{}ms", interval.as_millis())).collect();
        let mut arguments: Vec<String> = [
            "--runs",
            &self.runs.to_string(),
            "--intervals",
            &intervals.join(","),
            "--seed",
            &self.seed.to_string(),
        ]
        .map(str::to_owned)
        .into();
        let names: Vec<String> = self
            .events
            .iter()
            .filter_map(clap::ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        if !names.is_empty() {
            arguments.extend(["--events".to_owned(), names.join(",")]);
        }
        if self.peer_only {
            arguments.push("--peer-only".to_owned());
        }
        arguments
    }
}

/// The samples of one event at one interval, of both sides.
struct Samples {
    event: Event,
    ours: Vec<Sample>,
    peer: Vec<Sample>,
}

pub(super) fn run(bench: &Bench, args: &BenchArgs) -> Result<Vec<Comparison>> {
    let args = &args.failover;
    let events = if args.events.is_empty() { Event::ALL.to_vec() } else { args.events.clone() };
    let mut comparisons = Vec::new();
    for (number, interval) in args.intervals.iter().enumerate() {
        if *interval < PROBE || interval.as_millis() % 10 != 0 {
            bail!("an interval has whole hundredths of a second, not {} ms", interval.as_millis());
        }
        let seed = args.seed.wrapping_add(number as u64 * 1_000_003);
        let samples = at(bench, args, *interval, &events, seed)?;
        comparisons.extend(compare(bench, *interval, &samples, args.peer_only)?);
    }
    Ok(comparisons)
}

/// All runs at one interval.
fn at(
    bench: &Bench,
    args: &FailoverArgs,
    interval: Duration,
    events: &[Event],
    seed: u64,
) -> Result<Vec<Samples>> {
    let label = format!("{} ms", interval.as_millis());
    bench.say(&format!("{label}: the networks are built"));
    let site = Site::build(bench, interval, args.peer_only)?;
    let mut sides: Vec<Side<'_>> = site.sides()?;
    for side in &mut sides {
        side.await_ready()?;
    }
    let mut random = Random::new(seed);
    let mut samples: Vec<Samples> =
        events.iter().map(|event| Samples { event: *event, ours: Vec::new(), peer: Vec::new() }).collect();
    let (begun, rounds) = (Instant::now(), args.runs);
    for round in 1..=rounds {
        for of in &mut samples {
            let mut told = Vec::new();
            for number in 0..sides.len() {
                // Each side is first as often as the other one.
                let number = (number + round as usize) % sides.len();
                let side = &mut sides[number];
                side.await_ready()?;
                bench.pause(random.time_below(interval))?;
                let sample = side.play(of.event).with_context(|| {
                    format!("{label}, run {round}, {} of {}", of.event.short(), side.name())
                })?;
                told.push(format!("{} {:.0} ms, {} lost", side.name(), sample.gap, sample.lost));
                if side.is_ours() { &mut of.ours } else { &mut of.peer }.push(sample);
            }
            let left = begun.elapsed().as_secs_f64() / f64::from(round) * f64::from(rounds - round);
            bench.say(&format!(
                "{label}, run {round} of {rounds}, {}: {}; about {:.0} s left",
                of.event.short(),
                told.join("; "),
                left
            ));
        }
    }
    Ok(samples)
}

fn compare(
    bench: &Bench,
    interval: Duration,
    samples: &[Samples],
    peer_only: bool,
) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    let probe = PROBE.as_secs_f64() * 1000.0;
    let at = format!("{} ms", interval.as_millis());
    for of in samples {
        let what = format!("{at}, {}", of.event.words());
        let gaps = |samples: &[Sample]| samples.iter().map(|sample| sample.gap).collect::<Vec<f64>>();
        let (ours, theirs) = (gaps(&of.ours), gaps(&of.peer));
        // A probe's distance more than the peer, as a ratio.
        let allowed = |figure: f64| (figure + probe) / figure;
        let row = |what: String, ours: &[f64], theirs: &[f64]| -> Result<Comparison> {
            let peer = Peer { samples: theirs.to_vec(), ..peer("keepalived")? };
            Ok(Comparison::new(what, "ms", &bench.version, ours).beside(peer))
        };
        let judged = |row: Comparison, limit: f64| if peer_only { row } else { row.at_most(limit) };
        let halved = of.event == Event::LinkLoss && interval >= LINK_LOSS_FROM;
        let limit = if halved { OF_LINK_LOSS } else { allowed(median(&theirs)) };
        comparisons.push(judged(row(format!("{what}: gap"), &ours, &theirs)?, limit));
        let (high, their_high) = (percentile(&ours, 95), percentile(&theirs, 95));
        let (one, their_one): (&[f64], &[f64]) =
            if peer_only { (&[], &[their_high]) } else { (&[high], &[their_high]) };
        comparisons.push(judged(row(format!("{what}: gap, p95"), one, their_one)?, allowed(their_high)));
        if of.event == Event::Planned {
            let lost = |samples: &[Sample]| {
                samples.iter().map(|sample| f64::from(sample.lost)).collect::<Vec<f64>>()
            };
            let peer = Peer { samples: lost(&of.peer), ..peer("keepalived")? };
            let row =
                Comparison::new(format!("{what}: pings lost"), "pings", &bench.version, &lost(&of.ours))
                    .beside(peer);
            comparisons.push(if peer_only { row } else { row.each_at_most(0.0) });
        }
    }
    Ok(comparisons)
}
