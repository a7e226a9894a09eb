//! What is written back: looks at what became of everything, and the statuses that are due.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use super::Worker;
use super::session::Session;
use crate::api::heard::What;
use crate::api::report::plan::{Candidate, Said};
use crate::api::report::wanted::{self, Machine};
use crate::api::source::reference;
use crate::status::{Gatherer, Status};

/// From one look at what became of everything to the next, at least. One that takes long is repeated more rarely.
const LOOK: Duration = Duration::from_secs(1);
/// At most: who is waited for may only have been slow to answer.
const MAX_LOOK: Duration = Duration::from_secs(5);
/// From one look to the next when a group has changed its state: that is waited for, and what follows at once comes with it.
const TURNED: Duration = Duration::from_millis(200);
/// A look may use this part of the time, as long as it is short: one fiftieth.
const SHARE: u32 = 50;

impl Worker {
    /// Writes back what is due, of what became of everything.
    pub(super) fn report(&mut self, look: &Look, session: Option<&mut Session>) {
        let (Some(session), true) = (session, self.source.is_listed()) else { return };
        let begin = Instant::now();
        if begin < self.rest_until && !look.turned {
            return;
        }
        let time = Timestamp::now();
        let by_name: HashMap<&str, _> =
            look.status.objects.iter().map(|object| (object.object.as_str(), object)).collect();
        let bindings = self.source.bindings().map(|owned| {
            let name = reference(What::Bindings, owned.place).to_string();
            let object = by_name.get(name.as_str()).copied();
            let wanted = wanted::binding(&owned, object);
            Candidate {
                what: What::Bindings,
                place: owned.place.clone(),
                wanted: Said::Binding(wanted),
                known: owned.status.clone(),
            }
        });
        let rules = self.source.rules().map(|owned| {
            let name = reference(What::Rules, owned.place).to_string();
            let wanted = wanted::rule(&owned, by_name.get(name.as_str()).copied());
            Candidate {
                what: What::Rules,
                place: owned.place.clone(),
                wanted: Said::Rule(wanted),
                known: owned.status.clone(),
            }
        });
        let machine = Machine { report: &look.report, told: self.told_config, kernel: &self.kernel, time };
        let config = self.source.config().map(|owned| Candidate {
            what: What::Config,
            place: owned.place.clone(),
            wanted: Said::Config(wanted::config(&owned, &look.status, machine)),
            known: owned.status.clone(),
        });
        let writes = self.planner.plan(Instant::now(), time, config.into_iter().chain(bindings).chain(rules));
        for write in writes {
            tracing::debug!(kind = %write.what, object = %write.place, "writing a status");
            session.write(write);
        }
        self.rest_until = begin + (begin.elapsed() * SHARE).min(MAX_LOOK);
    }
}

/// What became of everything, at one moment.
pub(super) struct Look {
    /// A group has changed its state since the last one.
    turned: bool,
    status: Status,
    report: Arc<crate::reconcile::Report>,
}

/// Looks at what became of everything, again and again, as long as the agent runs.
pub(super) async fn look(gatherer: Weak<Gatherer>, to: mpsc::Sender<Look>) {
    let (mut pause, mut turned) = (LOOK, false);
    loop {
        // A group that flaps is looked at five times a second, no more often.
        tokio::time::sleep(TURNED).await;
        let Some(turns) = gatherer.upgrade().map(|gatherer| gatherer.groups.turned()) else { return };
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(TURNED)) => {}
            () = turns.notified() => turned = true,
        }
        let begin = Instant::now();
        let look = {
            let Some(gatherer) = gatherer.upgrade() else { return };
            let report = gatherer.report.borrow().clone();
            gatherer.status().await.map(|status| Look { turned, status, report })
        };
        // One that could not be made is made next time.
        if let Ok(look) = look {
            if to.send(look).await.is_err() {
                return;
            }
            turned = false;
        }
        pause = (begin.elapsed() * SHARE).clamp(LOOK, MAX_LOOK);
    }
}
