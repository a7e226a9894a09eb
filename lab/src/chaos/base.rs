//! What of a scenario is kept: its network, and its beginning until everything runs and clients ask.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::site::{Site, TO_ACT};
use crate::scenario::expectation::Kind;
use crate::scenario::step::{Action, Hold, Requests};
use crate::scenario::{Expectation, Record, Scenario, Span, Step, load_name};

/// How long the machine may stand still where the scenario does not say it.
const LATENESS: Span = Span::from_millis(400);

/// A load in the background that is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) name: String,
    /// The nodes without which it has no path.
    pub(super) needs: BTreeSet<String>,
}

/// Held connections that are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) connections: u64,
    /// How soon each has to show that it is alive.
    pub(super) alive_within: Span,
}

/// A network that runs, and what is judged in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Base {
    /// The scenario with the steps of its beginning only.
    pub(super) scenario: Scenario,
    pub(super) site: Site,
    pub(super) loads: Vec<Watched>,
    pub(super) held: Vec<Held>,
    /// After this every request has ended.
    pub(super) moment: Duration,
}

impl Base {
    /// Takes it out of a scenario.
    ///
    /// # Errors
    /// When nobody asks for anything in it, or its network is one that chaos does not know.
    pub(super) fn of(scenario: &Scenario) -> Result<Self, String> {
        let site = Site::of(&scenario.topology)?;
        let mut base = scenario.clone();
        // Those are for steps of which few stay.
        base.peers = crate::scenario::Peers::default();
        base.control = None;
        base.record = Record::Directors;
        base.requires.lateness = base.requires.lateness.or(Some(LATENESS));
        base.steps = beginning(&scenario.steps);
        if requests(&base.steps).next().is_none() {
            base.steps.push(in_the_background(&scenario.steps).ok_or(
                "no step of it sends requests to one address; chaos needs some, to see whether they fail",
            )?);
        }
        let loads = requests(&base.steps).filter_map(|(name, requests)| {
            let target = host(&requests.target)?;
            let needs = site.needs(&scenario.topology, &requests.from, target);
            Some(Watched { name: name.to_owned(), needs: needs.iter().map(ToString::to_string).collect() })
        });
        let loads = loads.collect();
        let held = base.steps.iter().filter_map(|step| match &step.action {
            Action::Hold(hold) => Some(Held {
                name: load_name(step)?.to_owned(),
                connections: hold.connections.into(),
                alive_within: Span(hold.exchange_every.get() + Duration::from_secs(10)),
            }),
            _ => None,
        });
        let held = held.collect();
        let longest = requests(&base.steps).map(|(_, requests)| requests.timeout.get()).max();
        let moment = longest.unwrap_or_default() + TO_ACT / 5;
        Ok(Self { scenario: base, site, loads, held, moment })
    }
}

fn requests(steps: &[Step]) -> impl Iterator<Item = (&str, &Requests)> {
    steps.iter().filter_map(|step| match &step.action {
        Action::Requests(requests) if host(&requests.target).is_some() => {
            Some((load_name(step).unwrap_or(&step.name), requests))
        }
        _ => None,
    })
}

/// The address in `http://192.16.193.30/`, `tcp://[2001:db8::30]:7`.
fn host(target: &str) -> Option<IpAddr> {
    let rest = target.split_once("://")?.1;
    let host = rest.split('/').next()?;
    match host.strip_prefix('[') {
        Some(six) => six.split(']').next()?.parse().ok(),
        None => host.split(':').next()?.parse().ok(),
    }
}

/// The steps before anything is broken or changed, without those that judge, and without loads that end.
fn beginning(steps: &[Step]) -> Vec<Step> {
    let mut dropped: BTreeSet<&str> = BTreeSet::new();
    let mut kept = Vec::new();
    for step in steps {
        let lasts = match &step.action {
            Action::Fault(_) | Action::Heal(_) | Action::Apply(_) | Action::Server(_) | Action::Stop(_) => {
                break;
            }
            Action::Expect(_) => continue,
            Action::Requests(Requests { background, count, duration, .. }) => {
                *background && count.is_none() && duration.is_none()
            }
            Action::Hold(Hold { open_every, .. }) => open_every.is_none(),
            Action::Wait(wait) => !wait.until.iter().any(|one| asks_of(one, &dropped)),
            Action::Exec(_) | Action::RestartAgent(_) | Action::Capture(_) => true,
        };
        if lasts {
            kept.push(step.clone());
        } else {
            dropped.extend(load_name(step));
        }
    }
    kept
}

/// Whether an expectation is about a load that is not there.
fn asks_of(expectation: &Expectation, loads: &BTreeSet<&str>) -> bool {
    match &expectation.kind {
        Kind::Requests(one) => {
            loads.contains(one.load.as_str()) || one.also.iter().any(|load| loads.contains(load.as_str()))
        }
        Kind::Connections(one) => loads.contains(one.load.as_str()),
        _ => false,
    }
}

/// The first requests of all, going on for ever; at most ten a second, each on a connection of its own.
fn in_the_background(steps: &[Step]) -> Option<Step> {
    let (_, first) = requests(steps).next()?;
    let requests = Requests {
        load: None,
        rate: first.rate.min(10),
        count: None,
        duration: None,
        reuse: false,
        background: true,
        ..first.clone()
    };
    Some(Step { name: "a client keeps asking".into(), action: Action::Requests(requests) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    fn base(name: &str) -> Base {
        Base::of(&resolve(name).expect("it ships")).expect("chaos knows it")
    }

    #[test]
    fn a_beginning_goes_until_something_breaks() {
        let base = base("tp-two-directors");
        let names: Vec<&str> = base.scenario.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names.first(), Some(&"both directors are ready"));
        assert_eq!(names.last(), Some(&"they are at least 4 s old"), "connections that come one by one end");
        let loads: Vec<&str> = base.loads.iter().map(|load| load.name.as_str()).collect();
        assert_eq!(loads, ["pings", "pages"]);
        let held: Vec<_> = base.held.iter().map(|held| (held.name.as_str(), held.connections)).collect();
        assert_eq!(held, [("held", 6), ("downloads", 2), ("idle", 2)]);
        assert_eq!(base.moment, Duration::from_millis(600));
    }

    #[test]
    fn loads_that_end_and_judgements_are_left_out() {
        let base = base("tp-complete");
        let loads: Vec<&str> = base.loads.iter().map(|load| load.name.as_str()).collect();
        assert_eq!(loads, ["A", "B"]);
        assert_eq!(base.loads[0].needs, BTreeSet::from(["Router".to_owned()]));
        assert!(!base.scenario.steps.iter().any(|step| matches!(step.action, Action::Expect(_))));
    }

    #[test]
    fn where_nobody_goes_on_asking_the_first_does() {
        let base = base("tp-ipvs");
        assert_eq!(base.loads.len(), 1);
        assert_eq!(base.loads[0].name, "a client keeps asking");
    }

    #[test]
    fn hosts() {
        let good = |target| host(target).map(|address| address.to_string());
        assert_eq!(good("http://192.16.193.30/"), Some("192.16.193.30".into()));
        assert_eq!(good("tcp://192.16.193.30:7"), Some("192.16.193.30".into()));
        assert_eq!(good("http://[2001:db8::30]:80/x"), Some("2001:db8::30".into()));
        assert_eq!(good("ping://192.16.193.30"), Some("192.16.193.30".into()));
        assert_eq!(good("http://SRV1/"), None);
    }
}
