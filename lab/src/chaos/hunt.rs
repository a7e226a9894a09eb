//! Plays random faults; if an invariant is broken, looks for the fewest that break it.

use std::io;
use std::time::{Duration, Instant};

use super::base::Base;
use super::compile::compile;
use super::plan::{Pair, close_up};
use super::reduce::reduce;
use crate::expect;
use crate::run::{ScenarioResult, Verdict};
use crate::scenario::{Scenario, written};

/// How often each candidate is tried.
pub(super) const TRIES: u32 = 3;

/// What came of playing a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) reason: String,
    /// The invariant that was broken: the kind of the expectation.
    pub(super) broken: Option<String>,
}

impl Outcome {
    /// Of a run: what broke first.
    pub(super) fn of(result: &ScenarioResult) -> Self {
        let failed = |verdict| verdict == expect::Verdict::Failed;
        let judged = result.steps.iter().flat_map(|step| &step.judged);
        let first = judged.into_iter().find(|one| failed(expect::worst(&one.findings)));
        Self {
            verdict: result.verdict,
            reason: result.reason.clone(),
            broken: first.filter(|_| result.verdict == Verdict::Failed).map(|one| one.kind.clone()),
        }
    }
}

/// Plays scenarios.
pub(super) trait Play {
    /// Plays one once; `number` counts the plays of a hunt.
    fn play(&mut self, scenario: &Scenario, number: u32) -> io::Result<Outcome>;
    /// Told that the scenario played last is the best that is known.
    fn keep(&mut self) -> io::Result<()>;
    /// Told what is being done.
    fn tell(&mut self, line: &str);
    /// Whether to stop.
    fn is_cancelled(&self) -> bool;
}

/// The fewest faults that break the invariant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) pairs: Vec<Pair>,
    pub(super) scenario: Scenario,
    /// The file, with a heading that says how often it breaks.
    pub(super) text: String,
    /// How often it broke, of how many plays.
    pub(super) rate: (u32, u32),
    /// Whether no fault can be left out; else the budget was over before.
    pub(super) minimal: bool,
    /// How many plays it took.
    pub(super) plays: u32,
}

/// One hunt.
pub(super) struct Hunt<'a> {
    pub(super) base: &'a Base,
    pub(super) name: String,
    pub(super) words: String,
    pub(super) budget: Duration,
    pub(super) player: &'a mut dyn Play,
    plays: u32,
    error: Option<io::Error>,
}

impl<'a> Hunt<'a> {
    pub(super) fn new(
        base: &'a Base,
        name: String,
        words: String,
        budget: Duration,
        player: &'a mut dyn Play,
    ) -> Self {
        Self { base, name, words, budget, player, plays: 0, error: None }
    }

    fn scenario(&self, pairs: &[Pair]) -> io::Result<Scenario> {
        let scenario = compile(self.base, &close_up(pairs), &self.name, &self.words);
        written(&scenario, "").map(|(_, scenario)| scenario).map_err(io::Error::other)
    }

    /// Plays some faults until they break the invariant, at most three times. How often they broke it, and were played.
    fn tries(
        &mut self,
        pairs: &[Pair],
        broken: &str,
        until: Option<Instant>,
    ) -> io::Result<Option<(u32, u32)>> {
        let scenario = self.scenario(pairs)?;
        for played in 1..=TRIES {
            if self.player.is_cancelled() || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(None);
            }
            if self.once(&scenario, broken)? {
                return Ok(Some((1, played)));
            }
        }
        Ok(Some((0, TRIES)))
    }

    /// Plays it once: whether the invariant broke.
    fn once(&mut self, scenario: &Scenario, broken: &str) -> io::Result<bool> {
        self.plays += 1;
        let outcome = self.player.play(scenario, self.plays)?;
        let breaks = outcome.broken.as_deref() == Some(broken);
        let line = match (&outcome.verdict, breaks) {
            (_, true) => "it breaks".to_owned(),
            (Verdict::Passed, _) => "it holds".to_owned(),
            (verdict, _) => format!("something else, {}: {}", verdict.name(), outcome.reason),
        };
        self.player.tell(&format!("play {}: {line}", self.plays));
        Ok(breaks)
    }

    /// Reduces faults that broke an invariant.
    ///
    /// # Errors
    /// When something could not be written, or a candidate is no scenario.
    pub(super) fn reduce(mut self, pairs: &[Pair], broken: &str) -> io::Result<Found> {
        let until = Instant::now() + self.budget;
        let mut rates = std::collections::BTreeMap::new();
        let reduced = reduce(pairs.len(), &mut |part| {
            let kept: Vec<Pair> = part.iter().map(|index| pairs[*index].clone()).collect();
            let list: Vec<String> = kept.iter().map(|pair| pair.fault.to_string()).collect();
            self.player.tell(&format!("{} of {} faults: {}", part.len(), pairs.len(), list.join("; ")));
            let tried = self.tries(&kept, broken, Some(until)).and_then(|tried| {
                if let Some((1.., _)) = tried {
                    self.player.keep()?;
                }
                Ok(tried)
            });
            match tried {
                Ok(Some(rate)) => {
                    rates.insert(part.to_vec(), rate);
                    Some(rate.0 > 0)
                }
                Ok(None) => None,
                Err(error) => {
                    self.error = Some(error);
                    None
                }
            }
        });
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let pairs: Vec<Pair> = reduced.kept.iter().map(|index| pairs[*index].clone()).collect();
        // The whole was played once, and broke.
        let rate = rates.get(&reduced.kept).copied().unwrap_or((1, 1));
        let rate = self.rest_of_tries(&pairs, broken, rate)?;
        let pairs = close_up(&pairs);
        let scenario = compile(self.base, &pairs, &self.name, &self.words);
        let heading = format!(
            "{}\nIt breaks the invariant `{broken}` in {} of {} plays. Play it: bascule-lab run {}.yaml",
            self.words, rate.0, rate.1, self.name
        );
        let (text, scenario) = written(&scenario, &heading).map_err(io::Error::other)?;
        Ok(Found { pairs, scenario, text, rate, minimal: reduced.minimal, plays: self.plays })
    }

    /// Plays what is left as often as is missing.
    fn rest_of_tries(&mut self, pairs: &[Pair], broken: &str, rate: (u32, u32)) -> io::Result<(u32, u32)> {
        let (mut broke, mut played) = rate;
        let scenario = self.scenario(pairs)?;
        while played < TRIES && !self.player.is_cancelled() {
            let breaks = self.once(&scenario, broken)?;
            if breaks {
                self.player.keep()?;
            }
            (broke, played) = (broke + u32::from(breaks), played + 1);
        }
        Ok((broke, played))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::plan::tests::drawn;
    use super::*;
    use crate::scenario::resolve;
    use crate::scenario::step::Action;

    /// Breaks where all guilty faults are played, but not in plays whose number `spares` names.
    struct Fake {
        guilty: BTreeSet<String>,
        spares: fn(u32) -> bool,
        kept: u32,
        cancelled_after: u32,
        played: u32,
        otherwise: Outcome,
    }

    impl Play for Fake {
        fn play(&mut self, scenario: &Scenario, number: u32) -> io::Result<Outcome> {
            self.played = number;
            let faults: BTreeSet<String> = scenario
                .steps
                .iter()
                .filter_map(|step| match &step.action {
                    Action::Fault(fault) => Some(fault.to_string()),
                    _ => None,
                })
                .collect();
            let breaks = self.guilty.is_subset(&faults) && !(self.spares)(number);
            Ok(if breaks { broken("requests") } else { self.otherwise.clone() })
        }

        fn keep(&mut self) -> io::Result<()> {
            self.kept += 1;
            Ok(())
        }

        fn tell(&mut self, _: &str) {}

        fn is_cancelled(&self) -> bool {
            self.played >= self.cancelled_after
        }
    }

    fn broken(kind: &str) -> Outcome {
        Outcome { verdict: Verdict::Failed, reason: String::new(), broken: Some(kind.into()) }
    }

    fn passed() -> Outcome {
        Outcome { verdict: Verdict::Passed, reason: String::new(), broken: None }
    }

    fn fake(guilty: &[&Pair], spares: fn(u32) -> bool) -> Fake {
        let guilty = guilty.iter().map(|pair| pair.fault.to_string()).collect();
        Fake { guilty, spares, kept: 0, cancelled_after: u32::MAX, played: 0, otherwise: passed() }
    }

    fn hunt(fake: &mut Fake, pairs: &[Pair], budget: Duration) -> Found {
        let base = Base::of(&resolve("tp-complete").expect("it ships")).expect("chaos knows it");
        Hunt::new(&base, "less".into(), "Less.".into(), budget, fake)
            .reduce(pairs, "requests")
            .expect("reduced")
    }

    fn pairs() -> Vec<Pair> {
        let mut pairs = drawn("tp-complete", 1, Duration::from_secs(200)).1;
        // Each fault once, so that they can be told apart.
        let mut seen = BTreeSet::new();
        pairs.retain(|pair| seen.insert(pair.fault.to_string()));
        assert!(pairs.len() >= 6, "{}", pairs.len());
        pairs
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn the_guilty_fault_is_left_with_its_rate() {
        let pairs = pairs();
        let mut player = fake(&[&pairs[2]], |_| false);
        let found = hunt(&mut player, &pairs, LONG);
        assert_eq!(found.pairs.iter().map(|pair| &pair.fault).collect::<Vec<_>>(), [&pairs[2].fault]);
        assert_eq!((found.rate, found.minimal), ((3, 3), true));
        assert!(
            found.text.contains("# It breaks the invariant `requests` in 3 of 3 plays."),
            "{}",
            found.text
        );
        assert!(player.kept > 0);
        // What is printed is what was played.
        assert_eq!(crate::scenario::load("less.yaml", &found.text).expect("good"), found.scenario);
    }

    #[test]
    fn two_that_break_it_together_and_not_each_time() {
        let pairs = pairs();
        let mut player = fake(&[&pairs[0], &pairs[4]], |number| number % 2 == 0);
        let found = hunt(&mut player, &pairs, LONG);
        assert_eq!(found.pairs.len(), 2);
        assert!(found.minimal && found.rate.1 == TRIES && found.rate.0 < TRIES, "{:?}", found.rate);
    }

    #[test]
    fn another_failure_is_not_taken_for_it() {
        let pairs = pairs();
        for otherwise in [broken("plan"), Outcome { verdict: Verdict::Undecided, ..passed() }] {
            let mut player = Fake { otherwise, ..fake(&[&pairs[1]], |_| false) };
            assert_eq!(hunt(&mut player, &pairs, LONG).pairs.len(), 1);
        }
    }

    #[test]
    fn when_the_budget_is_over_the_best_is_told_with_its_rate() {
        let pairs = pairs();
        let found = hunt(&mut fake(&[&pairs[1]], |_| false), &pairs, Duration::ZERO);
        assert_eq!((found.pairs.len(), found.minimal, found.rate), (pairs.len(), false, (3, 3)));
        let mut player = Fake { cancelled_after: 1, ..fake(&[&pairs[1]], |_| false) };
        assert!(!hunt(&mut player, &pairs, LONG).minimal);
        assert_eq!(player.played, 1, "nothing is played after an interruption");
    }
}
