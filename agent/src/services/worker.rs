//! The thread of one group: takes what it is told, does one operation after the other, and shows how it goes.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::group::{Action, Group, Input, Operation};
use super::operate::operate;
use super::service::{Service, State};
use super::{GroupServices, Report, ServiceStatus, Stopped};
use crate::exec::{Cancel, Runner};

/// What the workers share.
pub(super) struct Common {
    pub(super) runner: Runner,
    pub(super) period: Duration,
    pub(super) report: Mutex<Report>,
    pub(super) stopped: Mutex<Stopped>,
}

impl Common {
    pub(super) fn report(&self, group: &str, failing: Option<String>) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)(group, failing);
    }

    pub(super) fn stopped(&self, group: &str) {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)(group);
    }
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common")
            .field("runner", &self.runner)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

/// How a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// After what is in flight.
    Leave,
    /// When all services are stopped.
    Stop,
}

/// What it was told and has not taken yet: of each the newest, so that it cannot grow.
#[derive(Debug, Default)]
struct Mail {
    services: Option<Vec<Service>>,
    active: Option<bool>,
    /// Somebody waits until all are stopped.
    release: bool,
    ending: Option<Ending>,
    /// Nobody takes any more.
    over: bool,
}

/// A service as it is shown, with an instant instead of an age.
type Shown = (String, State, Instant, String);

#[derive(Debug, Default)]
struct Picture {
    active: Option<bool>,
    failing: Option<String>,
    services: Vec<Shown>,
}

#[derive(Debug)]
struct Shared {
    group: String,
    mail: Mutex<Mail>,
    wake: Condvar,
    picture: Mutex<Picture>,
    cancel: Cancel,
}

/// The thread of one group.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn spawn(group: &str, common: Arc<Common>, services: Vec<Service>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            group: group.to_owned(),
            mail: Mutex::new(Mail { services: Some(services), ..Mail::default() }),
            wake: Condvar::new(),
            picture: Mutex::default(),
            cancel: Cancel::new()?,
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("services".into()).spawn(move || {
            // Also after a panic, so that nobody waits for it.
            let _over = Over(&theirs);
            run(&theirs, &common);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn group(&self) -> &str {
        &self.shared.group
    }

    /// Hands over the list. False when the thread has ended.
    pub(super) fn services(&self, services: Vec<Service>) -> bool {
        self.tell(|mail| {
            mail.services = Some(services);
            mail.ending = None;
        })
    }

    pub(super) fn active(&self, active: bool) {
        self.tell(|mail| {
            mail.active = Some(active);
            mail.release &= !active;
        });
    }

    /// Stops the services, and says when they are stopped or do not stop. False when the thread has ended.
    pub(super) fn release(&self) -> bool {
        self.tell(|mail| (mail.active, mail.release) = (Some(false), true))
    }

    pub(super) fn end(&self, ending: Ending) {
        self.tell(|mail| mail.ending = Some(ending));
    }

    /// Ends the operation in flight, and the thread.
    pub(super) fn call_off(&self) {
        self.end(Ending::Leave);
        self.shared.cancel.cancel();
    }

    pub(super) fn is_over(&self) -> bool {
        self.shared.mail().over
    }

    /// Waits for the end; gives itself back if it does not come in time.
    pub(super) fn wait(mut self, deadline: Instant) -> Result<(), Self> {
        let mut mail = self.shared.mail();
        while !mail.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(mail);
                return Err(self);
            }
            mail = self.shared.wake.wait_timeout(mail, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(mail);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Ok(())
    }

    pub(super) fn status(&self, now: Instant) -> GroupServices {
        let picture = self.shared.picture.lock().unwrap_or_else(PoisonError::into_inner);
        let service = |(name, state, since, message): &Shown| ServiceStatus {
            name: name.clone(),
            state: *state,
            since: now.saturating_duration_since(*since).as_secs(),
            message: message.clone(),
        };
        GroupServices {
            group: self.shared.group.clone(),
            active: picture.active,
            failing: picture.failing.clone(),
            services: picture.services.iter().map(service).collect(),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Mail)) -> bool {
        let mut mail = self.shared.mail();
        if mail.over {
            return false;
        }
        change(&mut mail);
        self.shared.wake.notify_all();
        true
    }
}

impl Shared {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, group: &Group) {
        let services = group
            .states()
            .map(|(service, state, since, message)| (service.to_string(), state, since, message.to_owned()));
        let picture = Picture {
            active: group.active(),
            failing: group.failing().map(str::to_owned),
            services: services.collect(),
        };
        *self.picture.lock().unwrap_or_else(PoisonError::into_inner) = picture;
    }
}

struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.mail().over = true;
        self.0.wake.notify_all();
    }
}

/// One thread's work.
struct Work<'a> {
    shared: &'a Shared,
    common: &'a Common,
    group: Group,
    next: Option<Operation>,
    /// Somebody is to be told when all are stopped.
    release: bool,
}

fn run(shared: &Shared, common: &Common) {
    let group = Group::with_period(common.period);
    let mut work = Work { shared, common, group, next: None, release: false };
    loop {
        let ending = work.take_mail();
        if let Some(operation) = work.next.take() {
            let done = operate(&common.runner, &shared.group, &operation, &shared.cancel);
            if shared.cancel.is_cancelled() {
                return;
            }
            // First what came meanwhile: it decides what follows.
            work.take_mail();
            work.handle(Input::Finished(operation, done));
            continue;
        }
        work.tell_stopped();
        if work.is_to_end(ending) {
            return;
        }
        work.sleep(ending);
    }
}

impl Work<'_> {
    /// What it was told goes to the state machine. Returns how it is to end, if it is.
    fn take_mail(&mut self) -> Option<Ending> {
        let mut mail = self.shared.mail();
        let (services, active, ending) = (mail.services.take(), mail.active.take(), mail.ending);
        let release = std::mem::take(&mut mail.release);
        self.release = (self.release || release) && active != Some(true);
        drop(mail);
        if let Some(services) = services {
            self.handle(Input::Services(services));
        }
        if let Some(active) = active {
            self.handle(if active { Input::Active } else { Input::NotActive });
        }
        if ending == Some(Ending::Stop) && self.group.active() == Some(true) {
            self.handle(Input::NotActive);
        }
        ending
    }

    fn handle(&mut self, input: Input) {
        let group = self.shared.group.as_str();
        let actions = self.group.handle(Instant::now(), input);
        // Before the report, so that whoever is told sees it.
        self.shared.show(&self.group);
        for action in actions {
            match action {
                Action::Begin(operation) => self.next = Some(operation),
                Action::Report(failing) => self.common.report(group, failing),
                Action::Info(text) => tracing::info!(group, "{text}"),
                Action::Warn(text) => tracing::warn!(group, "{text}"),
            }
        }
    }

    /// Whoever waits for it is told that nothing runs any more, but for what does not stop.
    fn tell_stopped(&mut self) {
        if self.release && self.group.active() == Some(false) && self.group.is_over() {
            self.release = false;
            self.common.stopped(&self.shared.group);
        }
    }

    fn is_to_end(&mut self, ending: Option<Ending>) -> bool {
        let is_done = match ending {
            None => false,
            Some(Ending::Leave) => true,
            Some(Ending::Stop) => self.group.active().is_none() || self.group.is_over(),
        };
        if !is_done {
            return false;
        }
        let mut mail = self.shared.mail();
        // Under the lock, so that nobody tells it anything that is lost.
        mail.over = mail.services.is_none() && mail.active.is_none() && mail.ending == ending;
        let over = mail.over;
        drop(mail);
        if over && ending == Some(Ending::Stop) {
            for (service, state, _, message) in self.group.states() {
                if state == State::Failed {
                    tracing::warn!(group = self.shared.group, "{service} is left as it is: {message}");
                }
            }
            // Its successor begins well.
            if self.group.failing().is_some() {
                self.common.report(&self.shared.group, None);
            }
        }
        over
    }

    /// Until it is told something, or it is time.
    fn sleep(&mut self, ending: Option<Ending>) {
        let deadline = self.group.next_deadline();
        let mut mail = self.shared.mail();
        while mail.services.is_none() && mail.active.is_none() && mail.ending == ending {
            let Some(deadline) = deadline else {
                mail = self.shared.wake.wait(mail).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            mail = self.shared.wake.wait_timeout(mail, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(mail);
        self.handle(Input::Timer);
    }
}
