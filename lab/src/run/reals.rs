//! Looks at the kernel's tables of real servers again and again: IPVS notifies nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bascule_ipvs::{Client, ServiceId};
use serde_json::json;

use super::timeline::Timeline;
use crate::expect::reals::{Change, History};
use crate::scenario::reals::service_id;
use crate::scenario::step::{Action, Step};
use crate::scenario::{Expectation, Kind};
use crate::world::{Node, World, now};

/// Time from one look to the next, at least,
const PAUSE: Duration = Duration::from_millis(20);
/// and at least so many times what a look took: who looks must not be in the way of what is looked at.
const SHARE: u32 = 9;

/// So many real servers come in one piece for certain.
const A_PIECE: usize = 60;
/// As often a list that changes is read again.
const READINGS: u32 = 5;

/// Real servers and their weights.
type Weights = BTreeMap<String, u32>;

/// What was seen, by node and service.
pub(super) type Tables = Mutex<BTreeMap<(String, String), History>>;

/// The nodes and services that expectations ask for.
fn wanted(steps: &[Step]) -> BTreeMap<String, BTreeSet<String>> {
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for step in steps {
        let expectations: &[Expectation] = match &step.action {
            Action::Expect(expectations) => expectations,
            Action::Wait(wait) => &wait.until,
            _ => &[],
        };
        for expectation in expectations {
            if let Kind::RealServers(expected) = &expectation.kind {
                wanted.entry(expected.node.to_string()).or_default().insert(expected.service.clone());
            }
        }
    }
    wanted
}

/// The threads that look, one a node; they end when this is dropped.
pub(super) struct Watch {
    alive: Option<Arc<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Begins to look at what the steps expect something of.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        steps: &[Step],
        world: &World,
        tables: &Arc<Tables>,
        timeline: &Weak<std::sync::OnceLock<Timeline>>,
    ) -> super::error::Result<Self> {
        let alive = Arc::new(());
        let mut threads = Vec::new();
        for (node, services) in wanted(steps) {
            let services = services.into_iter().filter_map(|text| Some((service_id(&text).ok()?, text)));
            let services: Vec<_> = services.collect();
            let mut looker = Looker {
                node: world.node(&node)?,
                last: vec![Weights::new(); services.len()],
                services,
                client: None,
                tables: Arc::clone(tables),
                timeline: timeline.clone(),
            };
            let lives = Arc::downgrade(&alive);
            let thread = std::thread::Builder::new().name(format!("tables {node}")).spawn(move || {
                while lives.strong_count() > 0 {
                    let took = looker.look();
                    std::thread::sleep(PAUSE.max(took * SHARE).min(Duration::from_secs(1)));
                }
            });
            threads.push(
                thread
                    .map_err(|error| super::error::Error::harness(format!("starting a thread: {error}")))?,
            );
        }
        Ok(Self { alive: Some(alive), threads })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.alive.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Looker {
    node: Node,
    services: Vec<(ServiceId, String)>,
    /// What the last look at each of them found.
    last: Vec<Weights>,
    /// Connected in a network namespace of the node, and how often the node had booted by then: each boot has another one.
    client: Option<(u32, Client)>,
    tables: Arc<Tables>,
    timeline: Weak<std::sync::OnceLock<Timeline>>,
}

impl Looker {
    /// One look at each service; how long it took. A node that is off has no table, and what was there is out.
    fn look(&mut self) -> Duration {
        let began = now();
        if !self.node.is_up() {
            self.client = None;
            return Duration::ZERO;
        }
        let boots = self.node.boots();
        if self.client.as_ref().is_none_or(|(of, _)| *of != boots) {
            self.client = match self.node.in_netns(Client::connect) {
                Ok(Ok(client)) => Some((boots, client)),
                // The node has just gone, or the kernel has no IPVS: whoever expects something is told that nothing was read.
                _ => None,
            };
        }
        let Some((_, client)) = &mut self.client else { return Duration::from_nanos(now() - began) };
        for (number, (id, service)) in self.services.iter().enumerate() {
            let began = now();
            let read = read(client, id, self.last.get(number));
            let ended = now();
            let found = match read {
                Ok(Some(found)) => found,
                // It is looked at again soon.
                Ok(None) => continue,
                Err(_) => {
                    // The socket would be opened anew in this thread's namespace, which is another one.
                    self.client = None;
                    break;
                }
            };
            if let Some(last) = self.last.get_mut(number) {
                last.clone_from(&found);
            }
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            let history = tables.entry((self.node.name().to_owned(), service.clone())).or_default();
            let changes = history.put(began, ended, found);
            drop(tables);
            note(&self.timeline, self.node.name(), service, &changes);
        }
        Duration::from_nanos(now() - began)
    }
}

/// The real servers of a service with their weights; none if they change while they are read.
///
/// The kernel hands out a long list in pieces, each from the place where the one before ended: while entries go, it skips others. What
/// differs from the last look is taken only if a second reading finds the same: then nothing went in between, and nothing was skipped.
fn read(
    client: &mut Client,
    id: &ServiceId,
    last: Option<&Weights>,
) -> Result<Option<Weights>, bascule_ipvs::Error> {
    let mut read = || -> Result<Weights, bascule_ipvs::Error> {
        let found = client.destinations(id)?;
        Ok(found.iter().map(|entry| (entry.destination.id.to_string(), entry.destination.weight)).collect())
    };
    let mut found = read()?;
    if found.len() < A_PIECE || Some(&found) == last {
        return Ok(Some(found));
    }
    for _ in 0..READINGS {
        let again = read()?;
        if again == found {
            return Ok(Some(found));
        }
        found = again;
    }
    Ok(None)
}

/// Puts changes on the timeline.
fn note(timeline: &Weak<std::sync::OnceLock<Timeline>>, node: &str, service: &str, changes: &[Change]) {
    let Some(timeline) = timeline.upgrade() else { return };
    let Some(timeline) = timeline.get() else { return };
    for change in changes {
        timeline.put(
            change.at,
            "realServer",
            json!({"node": node, "service": service, "server": change.server, "weight": change.weight}),
        );
    }
}
