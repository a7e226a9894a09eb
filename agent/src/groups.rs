//! The groups of a director as one: VRRP, the services that run where a group is active, and who is told of transitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bascule_crds::DirectorConfigSpec;
use bascule_crds::vrrp_group::VrrpState;
use bascule_vrrp::GroupState;
use tokio::sync::Notify;

use crate::exec::Runner;
use crate::notify::{self, Change, Notifier};
use crate::plane::sync::Guard;
use crate::secrets::Secrets;
use crate::services::{GroupServices, Services};
use crate::vrrp::{self, Transition, VrrpStatus};

/// How long services may take to stop when the agent ends, together.
const STOPPING: Duration = Duration::from_secs(30);
/// How long programs that are told of transitions may take then.
const TELLING: Duration = Duration::from_secs(5);

/// The groups.
pub struct Groups {
    vrrp: OnceLock<vrrp::Handle>,
    services: Services,
    notifier: Notifier,
    /// Whether connections are synchronised, and so whether takeovers are guarded.
    synchronised: AtomicBool,
    waiting: Mutex<Waiting>,
    /// The groups of the configuration.
    configured: Mutex<BTreeSet<String>>,
    roles: Mutex<Roles>,
    /// A group has changed its state since somebody last waited for that.
    turned: Arc<Notify>,
}

/// Whether groups have their addresses here, for whoever puts rules into the kernel that follow them.
#[derive(Default)]
struct Roles {
    known: BTreeMap<Arc<str>, bool>,
    tell: Option<Tell>,
}

type Tell = Box<dyn Fn(&Arc<str>, bool) + Send>;

/// A configuration that came before groups may begin.
#[derive(Default)]
struct Waiting {
    open: bool,
    director: Option<DirectorConfigSpec>,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

impl Groups {
    /// Starts the threads. With `heritage` the groups' states and sockets come from the agent at its other end. `secrets` has the keys
    /// that are not in files.
    pub fn spawn(
        runner: &Runner,
        run_dir: &Path,
        state_dir: &Path,
        heritage: Option<UnixStream>,
        secrets: Arc<Secrets>,
    ) -> io::Result<Arc<Self>> {
        // Services report from threads of their own, the first time after they were configured: by then it is known.
        let known_to_services = Arc::new(OnceLock::<Weak<Self>>::new());
        let (reporter, stopper) = (Arc::clone(&known_to_services), Arc::clone(&known_to_services));
        let report = move |group: &str, failing: Option<String>| {
            if let Some(groups) = reporter.get().and_then(Weak::upgrade)
                && let Some(vrrp) = groups.vrrp.get()
            {
                vrrp.tracked(group, vrrp::SERVICES, failing.is_some());
            }
        };
        let stopped = move |group: &str| {
            if let Some(groups) = stopper.get().and_then(Weak::upgrade)
                && let Some(vrrp) = groups.vrrp.get()
            {
                vrrp.services_stopped(group);
            }
        };
        let services = Services::spawn(runner, report, stopped)?;
        let groups = Arc::new(Self {
            vrrp: OnceLock::new(),
            services,
            notifier: Notifier::spawn(runner, run_dir)?,
            synchronised: AtomicBool::new(false),
            waiting: Mutex::default(),
            configured: Mutex::default(),
            roles: Mutex::default(),
            turned: Arc::default(),
        });
        let weak = Arc::downgrade(&groups);
        let _ = known_to_services.set(weak.clone());
        let (observing, yielding, guarding) = (weak.clone(), weak.clone(), weak);
        let mut guard: Option<Guard> = None;
        let handle = vrrp::Handle::spawn(vrrp::Options {
            run_dir: run_dir.to_owned(),
            state_dir: state_dir.to_owned(),
            observer: Box::new(move |transition| {
                if let Some(groups) = observing.upgrade() {
                    groups.observe(transition);
                }
            }),
            yielding: Some(Box::new(move |group, stop| {
                let Some(groups) = yielding.upgrade() else { return };
                if stop {
                    groups.services.release(group);
                } else {
                    groups.services.resume(group);
                }
            })),
            arm: Some(Box::new(move |addresses| {
                let synchronised =
                    guarding.upgrade().is_some_and(|groups| groups.synchronised.load(Ordering::Relaxed));
                if !synchronised {
                    return Ok(());
                }
                if guard.is_none() {
                    guard = Some(Guard::open()?);
                }
                guard.as_mut().map_or(Ok(()), |guard| guard.arm(addresses))
            })),
            heritage,
            secrets,
        })
        .map_err(io::Error::other)?;
        let _ = groups.vrrp.set(handle);
        Ok(groups)
    }

    fn observe(&self, transition: &Transition) {
        let Transition { group, from, to, reason, priority, holds } = transition;
        // First: clients wait for it.
        self.role(group, *holds);
        self.services.active(group, *to == GroupState::Active);
        let told = notify::Transition {
            group: group.to_string(),
            from: state(*from),
            to: state(*to),
            reason: reason.clone(),
            priority: *priority,
            at: SystemTime::now(),
        };
        // A group that was taken over from a former process is in the state in which it was.
        if from == to {
            self.notifier.present(told);
            return;
        }
        self.notifier.transition(told);
        self.turned.notify_one();
        let configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        if *to == GroupState::Initialize && !configured.contains(&**group) {
            self.notifier.forget(group);
            self.roles.lock().unwrap_or_else(PoisonError::into_inner).known.remove(group);
        }
    }

    /// Tells one that waits when a group changes its state; what happens while nobody waits is told at once to who does next.
    pub fn turned(&self) -> Arc<Notify> {
        Arc::clone(&self.turned)
    }

    fn role(&self, group: &Arc<str>, active: bool) {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        roles.known.insert(Arc::clone(group), active);
        if let Some(tell) = &roles.tell {
            tell(group, active);
        }
    }

    /// Has somebody told, instead of who was told before, which groups are known to have their addresses here and which not to, and
    /// from then on whenever that may have changed. It must not block.
    pub fn follow(&self, tell: impl Fn(&Arc<str>, bool) + Send + 'static) {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, active) in &roles.known {
            tell(group, *active);
        }
        roles.tell = Some(Box::new(tell));
    }

    /// Another configuration of this director. Before [`Groups::open`] it waits.
    pub fn configure(&self, director: &DirectorConfigSpec) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.director = Some(director.clone());
        if waiting.open {
            self.carry_out(director);
        }
    }

    /// Groups may begin from now on: what they forward to is in the kernel.
    pub fn open(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.open {
            waiting.open = true;
            if let Some(director) = &waiting.director {
                self.carry_out(director);
            }
        }
    }

    /// Whether groups may begin, or none is waiting to.
    pub fn is_open(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).open
    }

    fn carry_out(&self, director: &DirectorConfigSpec) {
        self.synchronised.store(director.connection_sync.is_some(), Ordering::Relaxed);
        *self.configured.lock().unwrap_or_else(PoisonError::into_inner) =
            director.vrrp.iter().map(|group| group.name.clone()).collect();
        // First those who are told, then the one who tells.
        let services: Vec<_> =
            director.vrrp.iter().map(|group| (group.name.clone(), group.services.clone())).collect();
        self.services.configure(&services);
        let notify: Vec<_> = director
            .vrrp
            .iter()
            .filter_map(|group| Some((group.name.clone(), group.notify.clone()?)))
            .collect();
        self.notifier.configure(&notify);
        if let Some(vrrp) = self.vrrp.get() {
            vrrp.configure(&director.vrrp);
        }
    }

    /// Something has changed about a service of a group: who listens to the group hears of it.
    pub fn changed(&self, change: &Change) {
        self.notifier.change(change);
    }

    /// Something that a group tracks outside of VRRP fails, or not any more.
    pub fn tracked(&self, group: &str, name: &str, failing: bool) {
        if let Some(vrrp) = self.vrrp.get() {
            vrrp.tracked(group, name, failing);
        }
    }

    /// Tries again what was refused, such as for a key file that was not there.
    pub fn retry(&self) {
        if let Some(vrrp) = self.vrrp.get() {
            vrrp.retry();
        }
    }

    /// Reads keys anew.
    pub fn reload(&self) {
        if let Some(vrrp) = self.vrrp.get().filter(|_| self.is_open()) {
            vrrp.reload();
        }
    }

    /// Gives a group to another member; see [`vrrp::Handle::switchover`].
    pub async fn switchover(&self, group: &str) -> Result<String, String> {
        match self.vrrp.get() {
            Some(vrrp) => vrrp.switchover(group).await,
            None => Err("the agent is starting: try again".to_owned()),
        }
    }

    /// Why the agent that runs goes on and this one, which was to take over, must end; waits until it is so, which may be for ever.
    pub async fn declined(&self) -> String {
        match self.vrrp.get() {
            Some(vrrp) => vrrp.declined().await,
            None => std::future::pending().await,
        }
    }

    /// The groups; none when the thread that speaks does not answer in time.
    pub async fn status(&self) -> Option<VrrpStatus> {
        self.vrrp.get()?.status().await
    }

    /// The services of all groups.
    pub fn services(&self) -> Vec<GroupServices> {
        self.services.status()
    }

    /// Hands everything over and ends: of each active group first the services are stopped, then the addresses go.
    pub async fn stop(self: Arc<Self>) {
        let began = Instant::now();
        if let Some(vrrp) = self.vrrp.get() {
            vrrp.stop().await;
        }
        // What has not stopped by now has had its time.
        let left = STOPPING.saturating_sub(began.elapsed()).max(TELLING);
        self.end(Some(left)).await;
    }

    /// Gives sockets and states to the agent at the other end, and ends without touching anything. On an error everything is as
    /// before.
    pub async fn give(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let Some(vrrp) = self.vrrp.get() else { return Err(io::Error::from(io::ErrorKind::NotConnected)) };
        vrrp::give(vrrp, stream).await?;
        Arc::clone(self).end(None).await;
        Ok(())
    }

    /// With a time, services are stopped within it.
    async fn end(self: Arc<Self>, stop: Option<Duration>) {
        let ended = tokio::task::spawn_blocking(move || {
            self.notifier.shutdown(TELLING);
            self.services.shutdown(stop.is_some(), stop.unwrap_or(STOPPING));
        });
        let _ = ended.await;
    }
}

fn state(state: GroupState) -> VrrpState {
    match state {
        GroupState::Initialize => VrrpState::Initialize,
        GroupState::Fault => VrrpState::Fault,
        GroupState::Backup => VrrpState::Backup,
        GroupState::Active => VrrpState::Active,
    }
}

/// Whether an agent ran here since the machine was started: then the kernel's tables are as it left them, and groups need not wait
/// for them to be filled.
pub fn ran_before(run_dir: &Path) -> bool {
    std::fs::read_dir(run_dir.join("vrrp")).is_ok_and(|mut entries| entries.next().is_some())
}
