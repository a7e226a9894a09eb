//! The one task between the watches and the API server: it takes in what is heard, lets the middle decide, and begins writes while
//! its term of office lasts.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bascule_crds::{Kind, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::events::{Events, Said};
use crate::api::watch as follow;
use crate::api::write::{Failure, perform};
use crate::core::{Core, Moment, Outcome, Planned, Task};
use crate::election::lease::Term;
use crate::index::{Heard, Source};
use crate::outbox::{End, Outbox};
use crate::plan::{Action, Part};
use crate::status::News;
use crate::tally::{SourceLabels, Tally, WriteLabels};

/// Messages that wait between the watches and the worker; the watches wait when there are more.
const QUEUE: usize = 1024;
/// Writes under way at a time.
const WRITES: usize = 16;
/// The worker shows that it lives at least so often.
const PULSE: Duration = Duration::from_secs(5);

/// Between two counts of all objects.
const COUNT: Duration = Duration::from_secs(2);

/// What a worker needs.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where the Leases are.
    pub namespace: String,
    /// How long a request may take.
    pub patience: Duration,
    /// Where events go.
    pub events: Events,
    /// What is counted.
    pub tally: Tally,
    /// When the program started.
    pub started: Instant,
}

/// What others are told of the worker.
#[derive(Debug)]
pub struct Told {
    /// The sources that it still waits for; `None`: it does not lead.
    pub missing: watch::Sender<Option<Vec<Source>>>,
    /// Whether no term of office lasts and nothing of an earlier one is under way.
    pub idle: watch::Sender<bool>,
}

/// Works in every term of office, each time from a list of everything.
pub async fn run(context: Context, mut term: watch::Receiver<Term>, told: Told) {
    loop {
        let current = loop {
            let now = *term.borrow_and_update();
            if now.until.is_some() {
                break now;
            }
            context.pulse();
            if let Ok(Err(_)) = tokio::time::timeout(PULSE, term.changed()).await {
                return;
            }
        };
        context.tally.leading.set(1);
        told.idle.send_replace(false);
        Worker::new(&context, current.number, &told).work(&mut term).await;
        context.tally.leading.set(0);
        context.tally.objects.clear();
        told.missing.send_replace(None);
        told.idle.send_replace(true);
    }
}

impl Context {
    fn pulse(&self) {
        let age = self.started.elapsed().as_nanos();
        self.tally.alive.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What became of a task's write.
struct Ended {
    task: Task,
    result: Result<Heard, Failure>,
    object: ObjectRef,
    uid: Option<String>,
    news: Vec<News>,
}

struct Worker<'a> {
    context: &'a Context,
    told: &'a Told,
    number: u64,
    core: Core,
    outbox: Outbox<Task>,
    running: JoinSet<Ended>,
    dice: Dice,
    was_started: bool,
    /// When objects are counted next.
    next_count: Instant,
}

impl<'a> Worker<'a> {
    fn new(context: &'a Context, number: u64, told: &'a Told) -> Worker<'a> {
        Worker {
            context,
            told,
            number,
            core: Core::new(),
            outbox: Outbox::new(WRITES),
            running: JoinSet::new(),
            dice: Dice::new(),
            was_started: false,
            next_count: Instant::now(),
        }
    }

    /// Until the term of office ends; then what is under way is waited for, as long as a request may take.
    async fn work(mut self, term: &mut watch::Receiver<Term>) {
        let (to, mut heard) = mpsc::channel(QUEUE);
        let watches = follow::spawn(&self.context.client, &self.context.namespace, &to, &self.context.tally);
        // What is dropped with the watches is their end of the channel.
        drop(to);
        let mut batch = Vec::with_capacity(QUEUE);
        while self.lasts(*term.borrow_and_update()) {
            self.context.pulse();
            self.settle(*term.borrow());
            let next = self.next_deadline();
            tokio::select! {
                biased;
                changed = term.changed() => if changed.is_err() { break },
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => match ended {
                    Ok(ended) => self.conclude(ended),
                    Err(error) => {
                        tracing::error!("a write ended in a panic, beginning anew: {error}");
                        break;
                    }
                },
                count = heard.recv_many(&mut batch, QUEUE) => {
                    if count == 0 { break }
                    let now = moment();
                    for one in batch.drain(..) {
                        self.core.take_in(one, &now);
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
        drop(watches);
        while self.running.join_next().await.is_some() {}
    }

    fn lasts(&self, term: Term) -> bool {
        term.number == self.number && term.until.is_some_and(|until| Instant::now() < until)
    }

    fn next_deadline(&self) -> Instant {
        let pulse = Instant::now() + PULSE;
        let next = [self.core.next_deadline(), self.outbox.next_deadline()].into_iter().flatten().min();
        next.map_or(pulse, |next| next.min(pulse))
    }

    /// Lets the middle decide, and begins what may begin.
    fn settle(&mut self, term: Term) {
        let now = moment();
        let offers = self.core.settle(&now);
        if !offers.is_empty() {
            self.context.tally.compile.observe(now.instant.elapsed().as_secs_f64());
        }
        for offer in offers {
            self.outbox.offer(offer.task, offer.at, offer.fresh, now.instant);
        }
        while let Some(task) = self.outbox.begin(now.instant) {
            match self.core.plan(&task, &now) {
                None => self.outbox.end(&task, End::Nothing, now.instant, 0.5),
                Some(planned) => self.begin(task, planned, term),
            }
        }
        self.tell();
    }

    fn begin(&mut self, task: Task, planned: Planned, term: Term) {
        let Planned { write, news } = planned;
        let (client, patience, tally) =
            (self.context.client.clone(), self.context.patience, self.context.tally.clone());
        let object = concerned(&task);
        let uid = self.core.index().user(&object).and_then(|one| one.metadata().uid.clone());
        self.running.spawn(async move {
            // Here, and not where it was decided: in between this process may have been stopped for a while.
            let may_begin = term.until.is_some_and(|until| Instant::now() < until);
            let result = if may_begin {
                match tokio::time::timeout(patience, perform(&client, &write)).await {
                    Ok(result) => result,
                    Err(_) => Err(Failure::Later(None, format!("no answer within {patience:?}"))),
                }
            } else {
                Err(Failure::Later(None, "the term of office is over".into()))
            };
            let labels = WriteLabels {
                kind: write.target.kind.as_str(),
                action: action(&write.action, write.target.part),
                result: match &result {
                    Ok(_) => "done",
                    Err(Failure::Conflict) => "conflict",
                    Err(Failure::Refused(_)) => "refused",
                    Err(Failure::Later(..)) => "failed",
                },
            };
            tally.writes.get_or_create(&labels).inc();
            let target = &write.target;
            match &result {
                Ok(_) => tracing::debug!(
                    kind = %target.kind, namespace = target.place.namespace, name = target.place.name, action = labels.action, "written"
                ),
                Err(Failure::Conflict) => tracing::debug!(
                    kind = %target.kind, namespace = target.place.namespace, name = target.place.name, "has changed meanwhile"
                ),
                Err(Failure::Refused(why) | Failure::Later(_, why)) => tracing::warn!(
                    kind = %target.kind, namespace = target.place.namespace, name = target.place.name, action = labels.action, "not written: {why}"
                ),
            }
            Ended { task, result, object, uid, news }
        });
    }

    fn conclude(&mut self, ended: Ended) {
        let Ended { task, result, object, uid, mut news } = ended;
        let now = moment();
        let (outcome, end) = match result {
            Ok(heard) => (Outcome::Done(heard), End::Done),
            Err(Failure::Conflict) => {
                news.clear();
                (Outcome::Failed, End::Conflict)
            }
            Err(Failure::Refused(why)) => {
                news = vec![News { warning: true, reason: "WriteRejected".into(), note: why.clone() }];
                (Outcome::Refused(why), End::Refused)
            }
            Err(Failure::Later(wish, _)) => {
                news.clear();
                (Outcome::Failed, End::Failed(wish))
            }
        };
        self.outbox.end(&task, end, now.instant, self.dice.roll());
        self.core.conclude(&task, outcome, &now);
        for news in news {
            self.context.events.say(Said { object: object.clone(), uid: uid.clone(), news });
        }
    }

    /// Says how it stands.
    fn tell(&mut self) {
        let tally = &self.context.tally;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        tally.running.set(count(self.outbox.running()));
        tally.waiting.set(count(self.outbox.waiting()));
        let index = self.core.index();
        // What costs as much as there are objects, once in a while only.
        let now = Instant::now();
        if now >= self.next_count {
            self.next_count = now + COUNT;
            self.outbox.forget(now);
            tally.failing.set(count(self.outbox.failing()));
            tally.unreadable.set(count(index.unreadable().count()));
            for source in Source::ALL {
                let objects = tally.objects.get_or_create(&SourceLabels { kind: source.as_str() });
                objects.set(count(index.count(source)));
            }
        }
        let missing: Vec<Source> = index.missing().collect();
        self.told.missing.send_if_modified(|told| {
            let now = Some(missing);
            std::mem::replace(told, now.clone()) != now
        });
        if self.core.started() && !self.was_started {
            self.was_started = true;
            let services = index.count(Source::VirtualService);
            tracing::info!(
                services,
                directors = self.core.compiled().nodes.len(),
                "everything is listed; writing what differs"
            );
        }
    }
}

/// The user's object that a task is about.
fn concerned(task: &Task) -> ObjectRef {
    match task {
        Task::Binding(bound) => bound.owner(),
        Task::Config(name) | Task::Director(name) => ObjectRef::new(Kind::Director, None, name),
        Task::Status(reference) => reference.clone(),
    }
}

fn action(action: &Action, part: Part) -> &'static str {
    match (action, part) {
        (Action::Apply(_), Part::Spec) => "apply",
        (Action::Apply(_), Part::Status) => "status",
        (Action::Strip { .. }, _) => "strip",
        (Action::Delete { .. }, _) => "delete",
    }
}

fn moment() -> Moment {
    Moment::new(Instant::now(), Time(Timestamp::now()))
}

/// Numbers from 0 to 1, for spreading: good enough for that (xorshift64).
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = u64::try_from(Timestamp::now().as_nanosecond() & i128::from(u64::MAX)).unwrap_or(1);
        Dice(seed ^ (u64::from(std::process::id()) << 32) | 1)
    }

    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // 32 bits are exact in an f64.
        f64::from(u32::try_from(self.0 >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn dice_are_spread() {
        let mut dice = Dice::new();
        let rolls: Vec<f64> = (0..1000).map(|_| dice.roll()).collect();
        assert!(rolls.iter().all(|roll| (0.0..=1.0).contains(roll)));
        let mean = rolls.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
