//! The thread: waits for the kernel, the networks, commands and deadlines, and gives the driver its turns.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bascule_vrrp::BootTime;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use tokio::sync::{oneshot, watch};

use super::clock;
use super::config::GroupPlan;
use super::driver::Driver;
use super::inherit;
use super::member::Waiting;
use super::status::VrrpStatus;
use super::voice::{Remark, Voice};

/// It looks around at least this often: after a suspension poll(2) knows nothing of the time that has passed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// After it could not even wait.
const BREATH: Duration = Duration::from_millis(10);
/// Commands that wait; who comes when there are more is refused.
const QUEUE: usize = 256;
/// Priority among the real-time threads of the machine, 1 to 99: above the ordinary, below what keeps the machine going.
const REAL_TIME: i32 = 10;

/// What the thread is told.
pub(super) enum Command {
    /// A configuration: its groups, and the names of those that stay as they are.
    Configure(Vec<GroupPlan>, BTreeSet<String>),
    /// Give a group to another member.
    Switchover(String, Waiting),
    /// What is to be shown?
    Status(oneshot::Sender<VrrpStatus>),
    /// Something that a group tracks outside failed or recovered: group, name, failing.
    Tracked(String, String, bool),
    /// The services of a group that hands over are stopped.
    ServicesStopped(String),
    /// Hand all groups over; answered when all have ended.
    Stop(oneshot::Sender<()>),
    /// End those that have not ended after [`Command::Stop`].
    Halt,
    /// Give everything to the process at the other end and end; or say why not, and go on.
    Give(UnixStream, oneshot::Sender<io::Result<()>>),
    /// End without touching anything.
    Leave,
}

/// How others reach the thread.
pub(super) struct Inbox {
    commands: Mutex<VecDeque<Command>>,
    sleeper: UnixStream,
    waker: UnixStream,
    /// Why the former process goes on and this one must end.
    declined: watch::Sender<Option<String>>,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let (sleeper, waker) = UnixStream::pair()?;
        sleeper.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let declined = watch::Sender::new(None);
        Ok(Self { commands: Mutex::default(), sleeper, waker, declined })
    }

    /// Why the former process goes on and this one must end; waits until it is so.
    pub(super) async fn declined(&self) -> String {
        let mut watched = self.declined.subscribe();
        let why = watched.wait_for(Option::is_some).await;
        // The sending end is in here, too.
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    fn commands(&self) -> MutexGuard<'_, VecDeque<Command>> {
        // Whoever held the lock only moved values.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a command over; false when too many wait. A configuration replaces one that waits, for it says everything.
    pub(super) fn push(&self, command: Command) -> bool {
        let mut commands = self.commands();
        if matches!(command, Command::Configure(..)) {
            commands.retain(|other| !matches!(other, Command::Configure(..)));
        } else if let Command::Tracked(group, name, _) = &command {
            // The newest word on a thing counts, and none may be lost: there are as many as groups track things.
            let about =
                |other: &Command| matches!(other, Command::Tracked(g, n, _) if g == group && n == name);
            commands.retain(|other| !about(other));
        } else if commands.len() >= QUEUE
            && !matches!(command, Command::Stop(_) | Command::Halt | Command::Leave)
        {
            return false;
        }
        commands.push_back(command);
        drop(commands);
        // EAGAIN: the buffer is full, that is, the thread is woken already.
        let _ = (&self.waker).write(&[1]);
        true
    }

    fn take(&self) -> VecDeque<Command> {
        let _ = (&self.sleeper).read(&mut [0; 512]);
        std::mem::take(&mut *self.commands())
    }
}

/// Runs until it is told to end.
pub(super) fn run(mut driver: Driver, inbox: &Inbox, mut heritage: Option<UnixStream>, voice: &Voice) {
    raise(voice);
    let mut stopping: Option<oneshot::Sender<()>> = None;
    let mut giving: Option<Giving> = None;
    loop {
        let next = driver.next_deadline().into_iter().chain(giving.as_ref().map(|giving| giving.at)).min();
        if let Err(error) = wait(&driver, inbox, next) {
            voice.warn(format!("cannot wait for the network: {error}"));
            std::thread::sleep(BREATH);
        }
        driver.turn();
        if let Some(giving) = giving.take_if(|giving| clock::now().boot >= giving.at)
            && giving.hand_over(&driver)
        {
            return;
        }
        for command in inbox.take() {
            match command {
                Command::Leave => return,
                // Who asked may have gone.
                Command::Status(waiting) => drop(waiting.send(driver.status())),
                Command::Configure(plans, keep) => {
                    if let Some(stream) = heritage.take()
                        && let Err(declined) = inherit::receive(&mut driver, stream, &plans, &keep)
                    {
                        inbox.declined.send_replace(Some(declined.to_string()));
                        return;
                    }
                    // First what peers wait for.
                    driver.turn();
                    driver.configure(plans, &keep);
                }
                Command::Switchover(group, waiting) => driver.switchover(&group, waiting),
                Command::Tracked(group, name, failing) => driver.tracked(&group, &name, failing),
                Command::ServicesStopped(group) => driver.services_stopped(&group),
                Command::Stop(waiting) => {
                    driver.stop();
                    stopping = Some(waiting);
                }
                Command::Give(_, waiting) if stopping.is_some() => {
                    let _ = waiting.send(Err(io::Error::other("it is ending")));
                }
                Command::Halt => driver.halt(),
                // What was stopped would be started again, and both would run it.
                Command::Give(_, waiting) if driver.is_yielding() => {
                    let _ = waiting.send(Err(io::Error::other("a group is handing over")));
                }
                Command::Give(stream, waiting) => giving = Some(Giving::new(&driver, stream, waiting)),
            }
        }
        if driver.has_stopped()
            && let Some(waiting) = stopping.take()
        {
            let _ = waiting.send(());
            return;
        }
    }
}

/// Everything is to be given to another process.
struct Giving {
    /// Not before.
    at: BootTime,
    to: UnixStream,
    waiting: oneshot::Sender<io::Result<()>>,
}

impl Giving {
    /// Just after what is to be said next has been said, where that is soon: then a whole interval is left until peers miss anything.
    fn new(driver: &Driver, to: UnixStream, waiting: oneshot::Sender<io::Result<()>>) -> Self {
        let now = clock::now().boot;
        let next = driver.next_deadline().filter(|next| next.since(now) < LONGEST_SLEEP);
        Self { at: next.unwrap_or(now), to, waiting }
    }

    /// Whether the other process has it.
    fn hand_over(self, driver: &Driver) -> bool {
        let given = inherit::hand_over(driver, self.to);
        let is_given = given.is_ok();
        let _ = self.waiting.send(given);
        is_given
    }
}

/// Waits for something to happen, or until it is time.
fn wait(driver: &Driver, inbox: &Inbox, next: Option<BootTime>) -> io::Result<()> {
    let now = clock::now().boot;
    let time = next.map_or(LONGEST_SLEEP, |at| at.since(now)).min(LONGEST_SLEEP);
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![inbox.sleeper.as_fd()];
    descriptors.push(driver.kernel.descriptor());
    descriptors.extend(driver.routing.descriptor());
    descriptors.extend(driver.wires.descriptors());
    let mut polled: Vec<_> =
        descriptors.into_iter().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)).collect();
    match ppoll(&mut polled, Some(TimeSpec::from_duration(time)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Goes before everything ordinary. Without CAP_SYS_NICE or RLIMIT_RTPRIO the thread runs as the others do, and says so: on a busy
/// machine its advertisements may then be late.
fn raise(voice: &Voice) {
    // SAFETY: all bytes zero is a valid sched_param.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = REAL_TIME;
    // On Linux 0 means the calling thread. What it starts shall not inherit this.
    // SAFETY: the parameter is valid for the call.
    let result = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        crate::priority::raise();
        voice.say(Remark::Info(format!(
            "no real-time priority for the thread that speaks ({error}): on a busy machine advertisements may be late; CAP_SYS_NICE gives it"
        )));
    }
}
