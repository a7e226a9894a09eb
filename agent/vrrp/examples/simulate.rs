//! Plays seeds of the simulation: `simulate --seeds N [--first SEED] [--state FILE]`, or one with everything that happens:
//! `simulate --seed SEED`.
//!
//! With `--state` it goes on where it was interrupted: FILE holds how many of the seeds are done. A seed that fails is printed with
//! the command that replays it; the exit code is then 1.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{collections::BTreeMap, env, fs, thread};

#[path = "../tests/simulation/sim/mod.rs"]
mod sim;

/// Seeds between two writes of the state.
const CHUNK: u64 = 64;
/// After so many failures it stops: the first ones say enough.
const MAX_FAILURES: usize = 20;

const USAGE: &str = "usage: simulate --seeds N [--first SEED] [--state FILE] | simulate --seed SEED";

struct Arguments {
    seeds: u64,
    first: u64,
    replay: Option<u64>,
    state: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = arguments.replay {
        return replay(seed);
    }
    if play(&arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 1000, first: 0, replay: None, state: None };
    let mut given = env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        match name.as_str() {
            "--seeds" => parsed.seeds = number()?,
            "--first" => parsed.first = number()?,
            "--seed" => parsed.replay = Some(number()?),
            "--state" => parsed.state = Some(PathBuf::from(&value)),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(parsed)
}

fn replay(seed: u64) -> ExitCode {
    match sim::run(seed, true) {
        Ok(outcome) => {
            println!("seed {seed} passed: {outcome:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            for line in &failure.trace {
                println!("{line}");
            }
            println!("seed {} failed: {}", failure.seed, failure.what);
            ExitCode::FAILURE
        }
    }
}

/// What all seeds came to.
#[derive(Default)]
struct Totals {
    seeds: u64,
    counts: sim::Counts,
    /// By what was done at last: how often, and the longest gap.
    finales: BTreeMap<&'static str, (u64, u64)>,
    failures: Vec<(u64, String)>,
}

impl Totals {
    fn add(&mut self, seed: u64, result: Result<sim::Outcome, Box<sim::Failure>>) {
        self.seeds += 1;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(failure) => {
                println!("FAILED seed {seed}: {}", failure.what);
                println!("  replay: cargo run --release -p bascule-vrrp --example simulate -- --seed {seed}");
                self.failures.push((seed, failure.what));
                return;
            }
        };
        let (sum, one) = (&mut self.counts, outcome.counts);
        sum.events += one.events;
        sum.datagrams += one.datagrams;
        sum.lost += one.lost;
        sum.transitions += one.transitions;
        sum.faults += one.faults;
        sum.longest_two = sum.longest_two.max(one.longest_two);
        let finale = self.finales.entry(outcome.finale).or_default();
        *finale = (finale.0 + 1, finale.1.max(outcome.gap));
    }
}

/// Plays all seeds; whether none failed.
fn play(arguments: &Arguments) -> bool {
    let done = arguments.state.as_deref().map_or(0, |state| read_state(state, arguments.first));
    if done > 0 {
        println!("going on after {done} seeds");
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let totals = Mutex::new(Totals::default());
    let next = AtomicU64::new(done);
    // Chunks that are done, to know up to where all are.
    let finished = Mutex::new((done, BTreeMap::new()));
    #[expect(clippy::disallowed_methods, reason = "a program that shows how fast it goes")]
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    let stop = totals.lock().unwrap().failures.len() >= MAX_FAILURES;
                    if from >= arguments.seeds || stop {
                        return;
                    }
                    let to = (from + CHUNK).min(arguments.seeds);
                    for seed in from..to {
                        let result = sim::run(arguments.first + seed, false);
                        totals.lock().unwrap().add(arguments.first + seed, result);
                    }
                    let mut finished = finished.lock().unwrap();
                    finished.1.insert(from, to);
                    progress(arguments, &mut finished, &totals, began.elapsed());
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(arguments, done, &totals, began.elapsed());
    totals.failures.is_empty()
}

/// Writes down how far all seeds are done, and says so about a hundred times in all.
fn progress(
    arguments: &Arguments,
    (all, finished): &mut (u64, BTreeMap<u64, u64>),
    totals: &Mutex<Totals>,
    elapsed: Duration,
) {
    while let Some(to) = finished.remove(all) {
        *all = to;
    }
    let totals = totals.lock().unwrap();
    if let Some(state) = arguments.state.as_deref().filter(|_| totals.failures.is_empty()) {
        let written = fs::write(state, format!("first {} done {all}\n", arguments.first));
        if let Err(error) = written {
            eprintln!("simulate: {}: {error}", state.display());
        }
    }
    let every = (arguments.seeds / 100 / CHUNK).max(1) * CHUNK;
    if *all % every < CHUNK {
        let rate = u128::from(totals.seeds) * 1000 / elapsed.as_millis().max(1);
        println!(
            "{all} of {} seeds, {} failed, {} transitions, {rate} seeds/s",
            arguments.seeds,
            totals.failures.len(),
            totals.counts.transitions
        );
        let _ = std::io::stdout().flush();
    }
}

fn read_state(state: &Path, first: u64) -> u64 {
    let Ok(text) = fs::read_to_string(state) else { return 0 };
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["first", of, "done", done] if of.parse() == Ok(first) => done.parse().unwrap_or(0),
        _ => 0,
    }
}

fn report(arguments: &Arguments, done: u64, totals: &Totals, elapsed: Duration) {
    let Totals { seeds, counts, finales, failures } = totals;
    println!(
        "\n{seeds} seeds in {:.1} s: {} events, {} faults, {} transitions, {} datagrams ({} lost)",
        elapsed.as_secs_f64(),
        counts.events,
        counts.faults,
        counts.transitions,
        counts.datagrams,
        counts.lost
    );
    println!(
        "longest time that two who heard each other were active: {} intervals",
        hundredths(counts.longest_two)
    );
    for (finale, (count, gap)) in finales {
        println!("{finale:>13}: {count:>8} times, a successor after {} intervals at most", hundredths(*gap));
    }
    println!(
        "{} of {} seeds passed, {} failed",
        done + seeds - failures.len() as u64,
        done + seeds,
        failures.len()
    );
    if let Some(state) = arguments.state.as_deref().filter(|_| failures.is_empty()) {
        // All done: the next call begins anew.
        let _ = fs::remove_file(state);
    }
}

fn hundredths(count: u64) -> String {
    format!("{}.{:02}", count / 100, count % 100)
}
