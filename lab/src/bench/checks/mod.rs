//! HTTP checks beside keepalived: what one costs, how late they come, how soon a death is noticed, and how many one core manages.
//!
//! Both are measured in the same way and from outside: the lab's web server notes when each request came, the kernel's table tells when a
//! real server left, CPU time and memory are those of all processes of the program, which is held to one core.

mod side;

use std::time::Duration;

use anyhow::Result;

use super::report::{Comparison, Peer, percentile};
use super::{Bench, BenchArgs, peer};
use side::{Plan, Seen, Who};

/// Ours may take at most this part of keepalived's CPU time a check.
const OF_CPU: f64 = 0.8;
/// Lateness is at most this part of the interval, below saturation.
const OF_INTERVAL: f64 = 0.1;
/// A rate is sustained when so much of it comes,
const SUSTAINED: f64 = 0.97;
/// and the 99th percentile of the lateness is within [`OF_INTERVAL`]. From one rate that is tried to the next:
const GROWTH: f64 = 1.5;
/// As often it grows, at most.
const GROWTHS: u32 = 8;
/// As often what lies between the last good rate and the first bad one is halved.
const HALVINGS: u32 = 2;
/// The interval of everything but the slow set.
const INTERVAL: Duration = Duration::from_secs(1);
/// The slow set has so many times the checks at so many times the interval.
const SLOW: u32 = 10;

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// HTTP checks a second; the last one again with ten times the checks at ten times the interval (checks).
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "200,1000", value_parser = clap::value_parser!(u32).range(1..=6000))]
    pub(super) checks: Vec<u32>,
    /// Seconds that are looked at; three intervals at least (checks).
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) look: u64,
    /// Deaths that are timed in each set (checks).
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) deaths: u32,
    /// Leave out the search for the highest rate on one core, and the slow set (checks).
    #[arg(long)]
    pub(super) given_only: bool,
}

impl CheckArgs {
    /// The same as a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let checks: Vec<String> = self.checks.iter().map(ToString::to_string).collect();
        let (look, deaths) = (self.look.to_string(), self.deaths.to_string());
        let mut arguments: Vec<String> =
            ["--checks", &checks.join(","), "--look", &look, "--deaths", &deaths].map(str::to_owned).into();
        if self.given_only {
            arguments.push("--given-only".into());
        }
        arguments
    }

    fn plan(&self, targets: u32, interval: Duration, deaths: u32) -> Plan {
        Plan { targets, interval, look: Duration::from_secs(self.look).max(interval * 3), deaths }
    }
}

pub(super) fn run(bench: &Bench, args: &BenchArgs) -> Result<Vec<Comparison>> {
    let (checks, peer_only) = (&args.checks, args.failover.peer_only);
    let mut plans: Vec<Plan> =
        checks.checks.iter().map(|rate| checks.plan(*rate, INTERVAL, checks.deaths)).collect();
    if let Some(rate) = checks.checks.last().filter(|_| !checks.given_only) {
        plans.push(checks.plan(rate * SLOW, INTERVAL * SLOW, 1));
    }
    let mut comparisons = Vec::new();
    for plan in plans {
        let theirs = side::measure(bench, Who::Keepalived, plan)?;
        let ours = if peer_only { None } else { Some(side::measure(bench, Who::Bascule, plan)?) };
        comparisons.extend(rows(bench, plan, ours.as_ref(), &theirs)?);
    }
    if !checks.given_only {
        let from = checks.checks.iter().copied().max().unwrap_or(1);
        let theirs = highest(bench, checks, Who::Keepalived, from)?;
        let ours = if peer_only { Vec::new() } else { vec![highest(bench, checks, Who::Bascule, from)?] };
        let what = "the highest rate of HTTP checks that one core sustains";
        comparisons.push(
            Comparison::new(what, "checks/s", &bench.version, &ours)
                .more_is_better()
                .beside(Peer { samples: vec![theirs], ..peer("keepalived")? }),
        );
    }
    Ok(comparisons)
}

fn rows(bench: &Bench, plan: Plan, ours: Option<&Seen>, theirs: &Seen) -> Result<Vec<Comparison>> {
    let interval = plan.interval.as_secs_f64() * 1000.0;
    let set = format!("{} HTTP checks every {} s", plan.targets, plan.interval.as_secs());
    let row = |what: &str, unit: &'static str, of: &dyn Fn(&Seen) -> Vec<f64>| -> Result<Comparison> {
        let samples = ours.map(of).unwrap_or_default();
        let peer = Peer { samples: of(theirs), ..peer("keepalived")? };
        Ok(Comparison::new(format!("{set}: {what}"), unit, &bench.version, &samples).beside(peer))
    };
    let cpu = row("CPU time of a check", "µs", &|seen| vec![seen.cpu_per_check() * 1e6])?;
    let p99 = row("lateness, p99", "ms", &|seen| vec![percentile(&seen.lateness, 99)])?;
    let noticed = row("from a death to its leaving IPVS", "ms", &|seen| seen.noticed.clone())?;
    let mut rows = vec![
        row("checks a second", "checks/s", &|seen| vec![seen.rate()])?.more_is_better(),
        row("lateness, p50", "ms", &|seen| vec![percentile(&seen.lateness, 50)])?,
        row("CPU time of a check, without the kernel's", "µs", &|seen| vec![seen.user_per_check() * 1e6])?,
        row("memory (VmRSS)", "MB", &|seen| vec![seen.memory])?,
    ];
    let Some(ours) = ours else {
        rows.extend([cpu, p99, noticed]);
        return Ok(rows);
    };
    rows.extend([
        cpu.at_most(OF_CPU),
        p99.at_most(1.0),
        Comparison::new(
            format!("{set}: lateness, p99, against a tenth of the interval"),
            "ms",
            &bench.version,
            &[percentile(&ours.lateness, 99)],
        )
        .at_most(interval * OF_INTERVAL),
        noticed.each_at_most(plan.detection().as_secs_f64() * 1000.0),
    ]);
    Ok(rows)
}

/// The highest rate that is sustained, as it came; 0 if not even a third of `from` is.
fn highest(bench: &Bench, args: &CheckArgs, who: Who, from: u32) -> Result<f64> {
    let mut reached = 0.0_f64;
    let mut sustains = |rate: u32| -> Result<bool> {
        let seen = side::measure(bench, who, args.plan(rate, INTERVAL, 0))?;
        let p99 = percentile(&seen.lateness, 99);
        let good = seen.rate() >= SUSTAINED * f64::from(rate)
            && p99 <= OF_INTERVAL * INTERVAL.as_secs_f64() * 1000.0;
        if good {
            reached = reached.max(seen.rate());
        }
        let verdict = if good { "sustained" } else { "not sustained" };
        bench.say(&format!("{}: {rate} checks a second: {verdict}, p99 {p99:.1} ms", who.name()));
        Ok(good)
    };
    let (mut good, mut bad) = (from / 3, None);
    let mut rate = from;
    for _ in 0..GROWTHS {
        if !sustains(rate)? {
            bad = Some(rate);
            break;
        }
        good = rate;
        rate = grown(rate);
    }
    // Without a bad one it is at least this much.
    if let Some(mut bad) = bad {
        for _ in 0..HALVINGS {
            let middle = u32::midpoint(good, bad).max(1);
            if sustains(middle)? {
                good = middle;
            } else {
                bad = middle;
            }
        }
    }
    Ok(reached)
}

/// The next rate.
fn grown(rate: u32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the range of the argument"
    )]
    let grown = (f64::from(rate) * GROWTH) as u32;
    grown.clamp(rate + 1, side::MAX_TARGETS)
}
