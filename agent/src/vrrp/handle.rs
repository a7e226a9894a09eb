//! What the rest of the agent says to the thread that speaks VRRP, and asks of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use bascule_crds::common::SecretSource;
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_vrrp::GroupState;
use bascule_vrrp::packet::SIMPLE;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::config::GroupPlan;
use super::driver::{Arm, Driver, Paths};
use super::secret;
use super::status::{GroupStatus, VrrpStatus};
use super::thread::{Command, Inbox, run};
use super::voice::{Listeners, Observer, Voice, Yield};
use super::yielding::STOPPING;
use crate::secrets::{Secrets, Usage};

/// Whoever asks for the status waits at most so long.
const STATUS: Duration = Duration::from_secs(2);
/// Longest that a hand-over can take: Active_Down_Interval with the longest interval and 100 of them is more than an hour, and nobody
/// waits so long for a program to end. Then the addresses go without a successor.
const HAND_OVER: Duration = Duration::from_secs(60);

/// What the thread needs besides its configuration.
pub struct Options {
    /// For records and the ledger: a directory that a reboot empties.
    pub run_dir: PathBuf,
    /// For what has to survive reboots.
    pub state_dir: PathBuf,
    /// Told of every transition, in order, on a thread that may wait; and of the state of groups that were taken over from another
    /// process, with `from` as `to`.
    pub observer: Observer,
    /// Stops services before a hand-over that is planned; without, none of this agent's.
    pub yielding: Option<Yield>,
    /// Guards young connections, just before a group's addresses are taken.
    pub arm: Option<Arm>,
    /// The agent that runs now and gives its sockets and states away.
    pub heritage: Option<UnixStream>,
    /// Keys that are in Secrets of the cluster.
    pub secrets: Arc<Secrets>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("run_dir", &self.run_dir)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

/// VRRP cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[error("VRRP cannot be spoken: {0}")]
pub struct SpawnError(#[from] io::Error);

/// The thread.
pub struct Handle {
    inbox: Arc<Inbox>,
    secrets: Arc<Secrets>,
    told: Mutex<Told>,
    /// Gone when the thread is ended by [`Handle::stop`] or [`Handle::give`].
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The configuration as it was told last.
#[derive(Default)]
struct Told {
    groups: Option<Vec<DirectorVrrpGroup>>,
    /// Groups that cannot be carried out as they are configured, and why.
    refused: BTreeMap<String, String>,
    /// Groups of whose password not all counts.
    cut: BTreeSet<String>,
}

impl Handle {
    /// Starts the thread, in the network namespace of the calling one.
    pub fn spawn(options: Options) -> Result<Self, SpawnError> {
        let (arm, secrets) = (options.arm, options.secrets);
        let yields = options.yielding.is_some();
        let listeners = Listeners { observer: options.observer, yielding: options.yielding };
        let (voice, listener) = Voice::spawn(listeners)?;
        let inbox = Arc::new(Inbox::new()?);
        let paths = Paths { run_dir: options.run_dir, state_dir: options.state_dir };
        let (shared, heritage) = (Arc::clone(&inbox), options.heritage);
        let (opened, opening) = mpsc::channel();
        let speaker = Builder::new().name("vrrp".into()).spawn(move || {
            // Opened on the thread that uses them; whether that worked is for the caller to know.
            match Driver::open(paths, voice.clone(), arm) {
                Ok(mut driver) => {
                    driver.yields = yields;
                    let _ = opened.send(Ok(()));
                    run(driver, &shared, heritage, &voice);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        })?;
        opening.recv().map_err(io::Error::other)??;
        Ok(Self { inbox, secrets, told: Mutex::default(), threads: Mutex::new(vec![speaker, listener]) })
    }

    /// Makes the groups those of a configuration. Keys are read here, from their files or as they are known of their Secrets. What
    /// cannot be carried out is refused by name: the group goes on as before, or does not begin.
    pub fn configure(&self, groups: &[DirectorVrrpGroup]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let has_keys = groups.iter().any(|group| group.authentication.is_some());
        if told.groups.as_deref() == Some(groups) && told.refused.is_empty() && !has_keys {
            return;
        }
        let (mut refused, mut cut) = (BTreeMap::new(), BTreeSet::new());
        let mut plans = Vec::new();
        for group in groups {
            let read = |source: &SecretSource, usage| {
                let bytes = secret::read(&self.secrets, source, usage)?;
                if usage == Usage::Simple && bytes.len() > SIMPLE {
                    cut.insert(group.name.clone());
                }
                Ok(bytes)
            };
            match GroupPlan::new(group, read) {
                Ok(plan) => plans.push(plan),
                Err(error) => {
                    let error = error.to_string();
                    if told.refused.get(&group.name) == Some(&error) {
                        // It was said.
                    } else if self.secrets.has_yet_to_read(group) {
                        tracing::info!("vrrp: {}: {error}; it goes on as before, if it ran", group.name);
                    } else {
                        tracing::error!("vrrp: {}: {error}; it goes on as before, if it ran", group.name);
                    }
                    refused.insert(group.name.clone(), error);
                }
            }
        }
        let keep: BTreeSet<String> = refused.keys().cloned().collect();
        for group in cut.difference(&told.cut) {
            tracing::warn!("vrrp: {group}: of the password only the first {SIMPLE} bytes count (RFC 2338)");
        }
        told.groups = Some(groups.to_vec());
        (told.refused, told.cut) = (refused, cut);
        self.inbox.push(Command::Configure(plans, keep));
    }

    /// Tries groups again that were refused, such as for a key file that was not there.
    pub fn retry(&self) {
        let groups = {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.refused.is_empty() { None } else { told.groups.clone() }
        };
        if let Some(groups) = groups {
            self.configure(&groups);
        }
    }

    /// Reads keys anew.
    pub fn reload(&self) {
        let groups = self.told.lock().unwrap_or_else(PoisonError::into_inner).groups.clone();
        if let Some(groups) = groups {
            self.configure(&groups);
        }
    }

    /// The groups; none when the thread does not answer in time.
    pub async fn status(&self) -> Option<VrrpStatus> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.push(Command::Status(sender));
        let mut status = timeout(STATUS, receiver).await.ok()?.ok()?;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, why) in &told.refused {
            match status.groups.iter_mut().find(|group| group.group == *name) {
                Some(group) => group.refused = Some(why.clone()),
                None => status.groups.push(not_running(name, why)),
            }
        }
        for told in told.groups.iter().flatten().filter(|group| group.authentication.is_some()) {
            if let Some(group) = status.groups.iter_mut().find(|group| group.group == told.name) {
                group.secrets = self.secrets.status(told);
            }
        }
        Some(status)
    }

    /// Gives a group to another member. Answers with the reason of its new state, or with why it did not happen.
    pub async fn switchover(&self, group: &str) -> Result<String, String> {
        let (sender, receiver) = oneshot::channel();
        if !self.inbox.push(Command::Switchover(group.to_owned(), sender)) {
            return Err("the agent is busy: try again".to_owned());
        }
        // The group itself gives up after Active_Down_Interval.
        receiver.await.map_err(|_| "the agent ended meanwhile".to_owned())?
    }

    /// Something that a group tracks outside of VRRP failed or recovered.
    pub fn tracked(&self, group: &str, name: &str, failing: bool) {
        self.inbox.push(Command::Tracked(group.to_owned(), name.to_owned(), failing));
    }

    /// The services of a group that is to be handed over are stopped; see [`Options::yielding`].
    pub fn services_stopped(&self, group: &str) {
        self.inbox.push(Command::ServicesStopped(group.to_owned()));
    }

    /// Hands all groups over and ends the thread, within a minute and the time that services have to stop.
    pub async fn stop(&self) {
        self.stop_within(STOPPING + HAND_OVER).await;
    }

    /// The same within another time. Groups that nobody has taken over by then end without: their addresses go, or stay with
    /// `onAgentLoss: Keep`.
    pub async fn stop_within(&self, patience: Duration) {
        let (sender, mut receiver) = oneshot::channel();
        self.inbox.push(Command::Stop(sender));
        if timeout(patience, &mut receiver).await.is_err() {
            tracing::error!(
                "vrrp: a group is not handed over within {} s: it ends without",
                patience.as_secs()
            );
            self.inbox.push(Command::Halt);
            if timeout(STATUS, receiver).await.is_err() {
                return;
            }
        }
        self.join().await;
    }

    /// Why the former process goes on and this one must end; waits until it is so, which may be for ever.
    pub async fn declined(&self) -> String {
        self.inbox.declined().await
    }

    /// Gives everything to the process at the other end, and ends the thread without touching anything. On an error it goes on.
    pub(super) async fn give(&self, stream: UnixStream) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        if !self.inbox.push(Command::Give(stream, sender)) {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        receiver.await.map_err(io::Error::other)??;
        self.join().await;
        Ok(())
    }

    /// Waits for the threads: what was to be said has been said then.
    async fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = timeout(STATUS, joined).await;
    }
}

impl Drop for Handle {
    /// What is not ended by [`Handle::stop`] is left as a crash would leave it.
    fn drop(&mut self) {
        self.inbox.push(Command::Leave);
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

fn not_running(name: &str, why: &str) -> GroupStatus {
    GroupStatus {
        group: name.to_owned(),
        state: GroupState::Initialize,
        releasing: false,
        reason: "not started".to_owned(),
        seconds_in_state: 0.0,
        priority: 0,
        hold: false,
        stands_by: false,
        refused: Some(why.to_owned()),
        failing: Vec::new(),
        lacking: Vec::new(),
        secrets: Vec::new(),
        instances: Vec::new(),
    }
}
