//! Whatever happens in whatever order: the invariants hold, and it comes to rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::group::{Action, Done, Group, Input, Operation, Verb};
use super::super::service::{Condition, Service};

#[derive(Clone, Debug)]
enum Step {
    Active(bool),
    Services(Vec<u8>),
    /// The operation in flight ends: well or not.
    Finish(u8),
    Pass(u64),
    /// A service dies by itself.
    Dies(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<bool>().prop_map(Step::Active),
        1 => Just(vec![0, 1, 2, 3, 4]).prop_shuffle().prop_flat_map(|all| (0..=all.len()).prop_map(move |count| Step::Services(all[..count].to_vec()))),
        8 => (0u8..10).prop_map(Step::Finish),
        3 => (0u64..700).prop_map(Step::Pass),
        1 => (0u8..5).prop_map(Step::Dies),
    ]
}

fn service(number: u8) -> Service {
    Service::Unit(number.to_string())
}

/// The group, and a machine on which its operations are carried out.
struct World {
    group: Group,
    now: Instant,
    in_flight: Option<Operation>,
    runs: BTreeMap<String, bool>,
    list: Vec<u8>,
    reported: Option<String>,
}

impl World {
    fn handle(&mut self, input: Input) {
        for action in self.group.handle(self.now, input) {
            match action {
                Action::Begin(operation) => {
                    assert!(self.in_flight.is_none(), "two at once");
                    self.order(&operation);
                    self.in_flight = Some(operation);
                }
                Action::Report(failing) => {
                    assert_ne!(failing.is_some(), self.reported.is_some(), "a report that is none");
                    self.reported = failing;
                }
                Action::Info(_) | Action::Warn(_) => {}
            }
        }
        assert_eq!(self.group.failing(), self.reported.as_deref());
        assert!(self.group.next_deadline().is_none() || self.in_flight.is_none());
    }

    /// A start needs everything before it to run; a stop for the role's sake nothing after it that runs and could stop.
    fn order(&self, operation: &Operation) {
        let entries = self.group.entries();
        let at = entries.iter().position(|entry| entry.service == operation.service).unwrap();
        match operation.verb {
            Verb::Start => {
                assert!(
                    self.group.active() == Some(true) && self.reported.is_none()
                        || self.group.failing().is_none()
                );
                assert!(
                    entries[..at].iter().all(|entry| entry.condition == Condition::Running),
                    "not left to right"
                );
            }
            Verb::Stop if self.group.active() == Some(false) && !entries[at].leaving => {
                let after = entries[at + 1..].iter();
                assert!(
                    after.filter(|entry| entry.condition != Condition::Stopped).all(
                        |entry| matches!(entry.condition, Condition::Stuck { again } if again > self.now)
                    ),
                    "not right to left"
                );
            }
            Verb::Stop | Verb::Status => {}
        }
    }

    fn finish(&mut self, luck: u8) {
        let Some(operation) = self.in_flight.take() else { return };
        let runs = self.runs.entry(operation.service.to_string()).or_default();
        let done = match (operation.verb, luck) {
            (_, 9) => Done::Impossible("impossible".into()),
            (Verb::Start, 7 | 8) | (Verb::Stop, 8) => Done::No("no".into()),
            (Verb::Status, 8) => Done::Between("between".into()),
            (Verb::Start, _) => {
                *runs = true;
                Done::Yes
            }
            (Verb::Stop, _) => {
                *runs = false;
                Done::Yes
            }
            (Verb::Status, _) if *runs => Done::Yes,
            (Verb::Status, _) => Done::No("dead".into()),
        };
        self.handle(Input::Finished(operation, done));
    }

    /// Nothing fails any more: until nothing is left to do but to look now and then.
    fn settle(&mut self) {
        for _ in 0..200 {
            if self.in_flight.is_some() {
                self.finish(0);
            } else if let Some(deadline) = self.group.next_deadline() {
                let is_watch = self.group.failing().is_none()
                    && self.group.entries().iter().all(|entry| entry.condition == Condition::Running);
                if is_watch {
                    return;
                }
                assert!(deadline > self.now, "it spins");
                self.now = deadline;
                self.handle(Input::Timer);
            } else {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.group);
    }
}

proptest! {
    #[test]
    fn invariants_hold_and_it_comes_to_rest(
        running in proptest::collection::vec(any::<bool>(), 5),
        steps in proptest::collection::vec(step(), 0..80),
        active in any::<bool>(),
    ) {
        let mut world = World {
            group: Group::default(),
            now: Instant::now(),
            in_flight: None,
            runs: running.iter().enumerate().map(|(number, runs)| (number.to_string(), *runs)).collect(),
            list: vec![0, 1, 2],
            reported: None,
        };
        world.handle(Input::Services(world.list.iter().copied().map(service).collect()));
        for step in steps {
            match step {
                Step::Active(true) => world.handle(Input::Active),
                Step::Active(false) => world.handle(Input::NotActive),
                Step::Services(list) => {
                    world.list.clone_from(&list);
                    world.handle(Input::Services(list.into_iter().map(service).collect()));
                }
                Step::Finish(luck) => world.finish(luck),
                Step::Pass(seconds) => {
                    world.now += Duration::from_secs(seconds);
                    world.handle(Input::Timer);
                }
                Step::Dies(number) => {
                    world.runs.insert(number.to_string(), false);
                }
            }
        }
        world.handle(if active { Input::Active } else { Input::NotActive });
        world.settle();
        // A service that died is found by the next look, and it may be found more than once.
        for _ in 0..12 {
            world.now += Duration::from_secs(700);
            world.handle(Input::Timer);
            world.settle();
        }
        prop_assert_eq!(world.reported.as_deref(), None);
        prop_assert_eq!(world.group.entries().len(), world.list.len());
        for number in world.list.clone() {
            prop_assert_eq!(world.runs[&number.to_string()], active, "service {}", number);
        }
    }
}
