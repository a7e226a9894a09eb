//! The scheduler in simulated time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Health;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Time {
    Time::from_duration(ms(millis))
}

fn passed() -> Outcome {
    Outcome::passed("fine")
}

fn failed() -> Outcome {
    Outcome::failed("refused")
}

/// Every `interval` milliseconds, the first at once.
fn at_once(interval: u64) -> Timings {
    Timings { initial_delay: Some(Duration::ZERO), ..Timings::every(ms(interval)) }
}

/// Plays until `end`: each probe takes as long as `play` says, with what it says. Returns when each was started.
fn play(
    scheduler: &mut Scheduler<u32>,
    from: u64,
    end: u64,
    mut play: impl FnMut(u32, Time) -> (u64, Outcome),
) -> BTreeMap<u32, Vec<u64>> {
    let mut starts: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut running: BTreeSet<(Time, u32, u64, bool)> = BTreeSet::new();
    let mut now = at(from);
    while now < at(end) {
        while running.first().is_some_and(|(ends, ..)| *ends <= now) {
            let (ends, key, run, good) = running.pop_first().unwrap();
            scheduler.finished(ends, &key, run, &if good { passed() } else { failed() });
        }
        for start in scheduler.poll(now, usize::MAX) {
            scheduler.begun(now, &start.key, start.run);
            let (takes, outcome) = play(start.key, now);
            starts.entry(start.key).or_default().push(now.as_nanos() / 1_000_000);
            running.insert((now + ms(takes), start.key, start.run, outcome.is_passed()));
        }
        let next = scheduler.next_deadline().into_iter().chain(running.first().map(|(ends, ..)| *ends)).min();
        now = next.unwrap_or(at(end)).max(now);
    }
    starts
}

#[test]
fn starts_are_an_interval_apart_however_long_a_probe_takes() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(50), 1, at_once(100)).unwrap();
    let starts = play(&mut scheduler, 0, 600, |_, now| (if now < at(300) { 1 } else { 99 }, passed()));
    assert_eq!(starts[&1], [50, 150, 250, 350, 450, 550]);
}

#[test]
fn failing_probes_are_a_retry_interval_apart_and_then_back_on_the_grid() {
    let mut scheduler = Scheduler::new(0);
    let timings = Timings { timeout: ms(10), retry_interval: Some(ms(20)), ..at_once(100) };
    scheduler.set(at(0), 1, timings).unwrap();
    let dead = at(150)..at(230);
    let starts =
        play(&mut scheduler, 0, 500, |_, now| (10, if dead.contains(&now) { failed() } else { passed() }));
    assert_eq!(starts[&1], [0, 100, 200, 220, 240, 300, 400]);
    // Longer than the interval is allowed as well.
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, Timings { retry_interval: Some(ms(250)), ..at_once(100) }).unwrap();
    let starts = play(&mut scheduler, 0, 900, |_, now| (10, if now < at(500) { failed() } else { passed() }));
    assert_eq!(starts[&1], [0, 250, 500, 600, 700, 800]);
}

#[test]
fn a_dead_target_is_noticed_in_time() {
    for (retry, bound) in [(None, 3 * 100 + 40), (Some(ms(50)), 100 + 2 * 50 + 40)] {
        for dies in 1_000..1_100 {
            let timings = Timings { timeout: ms(40), retry_interval: retry, ..at_once(100) };
            let mut scheduler = Scheduler::new(0);
            scheduler.set(at(3), 1, timings).unwrap();
            play(
                &mut scheduler,
                0,
                2_000,
                |_, now| if now < at(dies) { (1, passed()) } else { (40, failed()) },
            );
            let verdict = scheduler.verdict(&1).unwrap();
            assert_eq!(verdict.health, Health::Down);
            assert!(verdict.since <= at(dies + bound), "died at {dies}, noticed at {:?}", verdict.since);
        }
    }
}

#[test]
fn a_check_is_never_probed_twice_at_once() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, at_once(100)).unwrap();
    let start = scheduler.poll(at(0), 9).remove(0);
    assert_eq!((start.timeout, start.lateness), (ms(100), Duration::ZERO));
    assert_eq!(scheduler.poll(at(350), 9), []);
    assert_eq!(scheduler.next_deadline(), None);
    assert_eq!(scheduler.running(), 1);
    // It overran three points. The next probe starts at once, one is made up for, and the grid is where it was.
    scheduler.finished(at(350), &1, start.run, &passed());
    let start = scheduler.poll(at(350), 9).remove(0);
    assert_eq!(start.lateness, ms(250));
    scheduler.finished(at(351), &1, start.run, &passed());
    assert_eq!(scheduler.next_deadline(), Some(at(400)));
}

#[test]
fn a_slow_target_delays_no_other() {
    let mut scheduler = Scheduler::new(0);
    for key in 0..100 {
        scheduler.set(at(0), key, Timings::every(ms(1_000))).unwrap();
    }
    let starts =
        play(&mut scheduler, 0, 10_000, |key, _| if key < 50 { (1_000, failed()) } else { (1, passed()) });
    assert_eq!(scheduler.figures().lateness.max(), Duration::ZERO);
    for (key, starts) in starts {
        assert_eq!(starts.len(), 10, "{key}");
    }
}

/// Starts in the fullest of the windows of 20 ms, over two intervals.
fn fullest(count: u32, interval: u64) -> usize {
    let mut scheduler = Scheduler::new(7);
    for key in 0..count {
        scheduler.set(at(0), key, Timings::every(ms(interval))).unwrap();
    }
    let starts = play(&mut scheduler, 0, 2 * interval, |_, _| (1, passed()));
    let mut windows: BTreeMap<u64, usize> = BTreeMap::new();
    for start in starts.values().flatten() {
        *windows.entry(start / 20).or_default() += 1;
    }
    assert_eq!(starts.values().map(Vec::len).sum::<usize>(), 2 * count as usize);
    windows.into_values().max().unwrap()
}

#[test]
fn ten_thousand_every_ten_seconds_are_as_even_as_a_thousand_every_second() {
    // Even would be 20 in each window.
    let (many, few) = (fullest(10_000, 10_000), fullest(1_000, 1_000));
    assert!(many <= 24, "{many}");
    assert!(few <= 24, "{few}");
}

#[test]
fn after_a_stall_all_are_due_but_not_all_start() {
    let mut scheduler = Scheduler::new(0);
    for key in 0..100 {
        scheduler.set(at(0), key, Timings::every(ms(1_000))).unwrap();
    }
    let first = scheduler.next_deadline().unwrap();
    let starts = scheduler.poll(at(60_000), 30);
    assert_eq!(starts.len(), 30);
    assert_eq!(starts[0].lateness, at(60_000).since(first), "the one that waited longest comes first");
    let rest = scheduler.poll(at(60_001), 1_000);
    assert_eq!(rest.len(), 70);
    for start in starts.into_iter().chain(rest) {
        assert!(scheduler.finished(at(60_010), &start.key, start.run, &passed()).is_some());
    }
    // A minute was missed; it is not made up for.
    assert!(scheduler.poll(at(60_010), 1_000).len() <= 2);
    assert!(scheduler.next_deadline().unwrap() > at(60_010));
}

#[test]
fn other_timings_leave_verdict_and_place() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, Timings::every(ms(1_000))).unwrap();
    let due = scheduler.next_deadline().unwrap();
    let start = scheduler.poll(due, 1).remove(0);
    scheduler.finished(due, &1, start.run, &failed());
    let next = due + ms(1_000);

    assert_eq!(scheduler.set(due + ms(100), 1, Timings::every(ms(1_000))), Ok(Set::Unchanged));
    assert_eq!(scheduler.next_deadline(), Some(next));
    let other = Timings { timeout: ms(30), ..Timings::every(ms(1_000)) };
    assert_eq!(scheduler.set(due + ms(100), 1, other), Ok(Set::Changed));
    assert_eq!(scheduler.next_deadline(), Some(next));
    assert_eq!(scheduler.verdict(&1).unwrap().health, Health::Down);

    // Ten times as often: the next point of the new grid, not late for those that were not on the old one.
    let now = due + ms(950);
    assert_eq!(scheduler.set(now, 1, Timings::every(ms(100))), Ok(Set::Changed));
    let soon = scheduler.next_deadline().unwrap();
    assert!(soon >= now && soon < now + ms(100));
    // And back: the old place.
    scheduler.set(now, 1, Timings::every(ms(1_000))).unwrap();
    assert_eq!(scheduler.next_deadline(), Some(next));
    // Nonsense changes nothing.
    assert!(scheduler.set(now, 1, Timings::every(ms(1))).is_err());
    assert_eq!(scheduler.next_deadline(), Some(next));
}

#[test]
fn other_timings_do_not_stop_a_probe_that_runs() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, at_once(100)).unwrap();
    let start = scheduler.poll(at(0), 1).remove(0);
    scheduler.set(at(10), 1, at_once(1_000)).unwrap();
    assert_eq!(scheduler.next_deadline(), None);
    assert!(scheduler.finished(at(20), &1, start.run, &passed()).is_some());
    assert_eq!(scheduler.next_deadline(), Some(at(1_000)));
}

#[test]
fn the_result_of_a_check_that_is_gone_counts_nowhere() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, at_once(100)).unwrap();
    let old = scheduler.poll(at(0), 1).remove(0);
    assert!(scheduler.remove(&1));
    assert!(!scheduler.remove(&1));
    assert_eq!(scheduler.next_deadline(), None);
    assert_eq!(scheduler.finished(at(1), &1, old.run, &failed()), None);
    // It comes back: nothing is known of it, and what its predecessor found is not taken for its own.
    scheduler.set(at(2), 1, at_once(100)).unwrap();
    let new = scheduler.poll(at(2), 1).remove(0);
    assert_eq!(scheduler.finished(at(3), &1, old.run, &failed()), None);
    assert_eq!(scheduler.verdict(&1).unwrap().health, Health::Unknown);
    assert!(scheduler.finished(at(3), &1, new.run, &passed()).is_some());
    assert_eq!(scheduler.finished(at(4), &1, new.run, &passed()), None, "a result counts once");
    assert_eq!(scheduler.figures().passed, 1);
}

#[test]
fn verdicts_survive_in_another_scheduler() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, at_once(100)).unwrap();
    let start = scheduler.poll(at(0), 1).remove(0);
    scheduler.finished(at(5), &1, start.run, &failed());
    let kept: Vec<_> = scheduler.verdicts().map(|(key, verdict)| (*key, verdict.clone())).collect();

    let mut successor = Scheduler::new(0);
    let timings = Timings { thresholds: Thresholds { rise: 2, fall: 3 }, ..at_once(100) };
    successor.set(at(1_000), 1, timings).unwrap();
    for (key, verdict) in kept {
        assert!(successor.restore(&key, verdict));
    }
    assert_eq!(successor.verdict(&1).unwrap().since, at(5));
    assert!(!successor.restore(&2, Verdict::unknown(at(0))), "nobody has such a check");
    // It is down and stays so until two probes passed: no flap.
    let start = successor.poll(at(1_000), 1).remove(0);
    assert_eq!(successor.finished(at(1_001), &1, start.run, &passed()), None);
    assert!(!successor.restore(&1, Verdict::unknown(at(0))), "its own word is newer");
}

/// A check is edited every 50 s, which makes it another one each time: it is probed every minute all the same.
#[test]
fn a_check_that_is_replaced_again_and_again_is_probed() {
    let mut scheduler = Scheduler::new(3);
    let minute = Timings::every(Duration::from_mins(1));
    scheduler.set(at(0), 0, minute).unwrap();
    let mut starts = Vec::new();
    for second in 0..600 {
        let now = at(second * 1_000);
        if second > 0 && second % 50 == 0 {
            let (former, key) = (second / 50 - 1, second / 50);
            scheduler.set(now, key, minute).unwrap();
            assert!(scheduler.succeed(now, &key, &former));
            assert!(scheduler.remove(&former));
        }
        for start in scheduler.poll(now, 8) {
            scheduler.finished(now, &start.key, start.run, &passed());
            assert!(!scheduler.succeed(now, &start.key, &start.key), "it knows something itself");
            starts.push(second);
        }
    }
    assert_eq!(starts.len(), 10, "{starts:?}");
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 60), "{starts:?}");
    assert_eq!(scheduler.verdict(&11).unwrap().health, Health::Up);
    assert!(!scheduler.succeed(at(0), &11, &0), "it is gone");
}

#[test]
fn a_probe_that_could_not_be_carried_out_is_tried_again_at_its_next_time() {
    let short = || Outcome::undecided("no descriptors");
    let mut scheduler = Scheduler::new(0);
    let timings = Timings { timeout: ms(10), retry_interval: Some(ms(20)), ..at_once(100) };
    scheduler.set(at(0), 1, timings).unwrap();
    let mut run = |now: u64, outcome: &Outcome| {
        let start = scheduler.poll(at(now), 1).remove(0);
        scheduler.finished(at(now + 1), &1, start.run, outcome);
        let verdict = scheduler.verdict(&1).unwrap();
        (scheduler.next_deadline().unwrap(), verdict.health, verdict.failures)
    };
    assert_eq!(run(0, &short()), (at(100), Health::Unknown, 0));
    assert_eq!(run(100, &passed()), (at(200), Health::Up, 0));
    assert_eq!(run(200, &short()), (at(300), Health::Up, 0));
    // A row of failures is neither ended nor made longer.
    assert_eq!(run(300, &failed()), (at(320), Health::Up, 1));
    assert_eq!(run(320, &short()), (at(340), Health::Up, 1));
    assert_eq!(run(340, &failed()), (at(360), Health::Up, 2));
    assert_eq!(run(360, &failed()), (at(380), Health::Down, 3));
    let figures = scheduler.figures();
    assert_eq!((figures.passed, figures.failed, figures.undecided), (1, 3, 3));
    assert_eq!(figures.duration.count(), 4, "a probe that was none took no time");
}

#[test]
fn a_watched_target_says_so_itself() {
    let mut scheduler = Scheduler::new(0);
    assert_eq!(scheduler.set_watched(at(0), 1), Set::Added);
    assert_eq!(scheduler.set_watched(at(0), 1), Set::Unchanged);
    assert_eq!(scheduler.next_deadline(), None);
    assert_eq!(scheduler.report(at(1), &1, &failed()).unwrap().to, Health::Down);
    assert_eq!(scheduler.report(at(2), &1, &failed()), None);
    assert_eq!(scheduler.report(at(3), &1, &passed()).unwrap().to, Health::Up);
    // It is timed from now on, and nobody else has a word.
    assert_eq!(scheduler.set(at(4), 1, at_once(100)), Ok(Set::Changed));
    assert_eq!(scheduler.report(at(5), &1, &failed()), None);
    assert_eq!(scheduler.next_deadline(), Some(at(100)));
    assert_eq!(scheduler.set_watched(at(6), 1), Set::Changed);
    assert_eq!(scheduler.next_deadline(), None);
    assert_eq!(scheduler.len(), 1);
}

#[test]
fn lateness_and_duration_are_measured() {
    let mut scheduler = Scheduler::new(0);
    scheduler.set(at(0), 1, at_once(100)).unwrap();
    let start = scheduler.poll(at(3), 1).remove(0);
    assert_eq!(start.lateness, ms(3));
    // It waited for the processor, which is not the target's doing.
    scheduler.begun(at(5), &1, start.run);
    scheduler.begun(at(6), &1, start.run + 1);
    scheduler.begun(at(6), &2, start.run);
    scheduler.finished(at(12), &1, start.run, &passed());
    let view = scheduler.view(&1).unwrap();
    assert_eq!((view.lateness, view.duration, view.running), (Some(ms(5)), Some(ms(7)), false));
    // The late start moved nothing.
    assert_eq!(view.due, Some(at(100)));
    assert_eq!((scheduler.figures().lateness.sum(), scheduler.figures().duration.sum()), (ms(5), ms(7)));
}

#[derive(Clone, Debug)]
enum Step {
    Set(u32, u64),
    Watch(u32),
    Remove(u32),
    Poll(usize),
    Finish(u32, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..5_u32;
    prop_oneof![
        (key.clone(), prop_oneof![Just(10_u64), Just(25), Just(100)])
            .prop_map(|(key, ms)| Step::Set(key, ms)),
        key.clone().prop_map(Step::Watch),
        key.clone().prop_map(Step::Remove),
        (0..4_usize).prop_map(Step::Poll),
        (key, any::<bool>()).prop_map(|(key, good)| Step::Finish(key, good)),
        (0..150_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: a timed check is due or runs, never both and never neither; a watched one is neither;
    /// no check runs twice; none starts before it is due, or twice within less than the time to its next point.
    #[test]
    fn nothing_is_lost_or_doubled(steps in proptest::collection::vec(step(), 0..200)) {
        let mut scheduler = Scheduler::new(1);
        let mut now = 0;
        let mut runs: BTreeMap<u32, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(key, interval) => {
                    let timings = Timings { retry_interval: Some(ms(10)), timeout: ms(10), ..Timings::every(ms(interval)) };
                    scheduler.set(at(now), key, timings).unwrap();
                }
                Step::Watch(key) => {
                    scheduler.set_watched(at(now), key);
                }
                Step::Remove(key) => {
                    scheduler.remove(&key);
                    runs.remove(&key);
                }
                Step::Poll(limit) => {
                    let starts = scheduler.poll(at(now), limit);
                    prop_assert!(starts.len() <= limit);
                    for start in starts {
                        prop_assert_eq!(runs.insert(start.key, start.run), None);
                    }
                }
                Step::Finish(key, good) => {
                    if let Some(run) = runs.remove(&key) {
                        scheduler.finished(at(now), &key, run, &if good { passed() } else { failed() });
                        let due = scheduler.view(&key).unwrap().due;
                        // Nothing is made up for: at most one probe is due before the next interval begins.
                        prop_assert!(due.is_none_or(|due| due <= at(now + 100)));
                    }
                }
                Step::Wait(millis) => now += millis,
            }
            let mut earliest = None;
            for key in 0..5 {
                let Some(view) = scheduler.view(&key) else { continue };
                prop_assert_eq!(view.running, runs.contains_key(&key));
                prop_assert!(!(view.running && view.due.is_some()));
                earliest = earliest.into_iter().chain(view.due).min();
            }
            prop_assert_eq!(scheduler.next_deadline(), earliest);
            prop_assert_eq!(scheduler.running(), runs.len());
        }
    }
}
