//! Runs programs for the agent: gated, as a user of their own, and bounded in time, output and number.
//!
//! What a manifest names is a base name in the directory of `--allow-exec`, and that directory and the program must be out
//! of reach of everybody but root and the agent's own user ([`gate`]). The program runs as the user of `--exec-user`, with
//! no capabilities, a clean environment and a session of its own ([`child`]), and whatever it does it is over after its
//! time, together with its children ([`supervise`]).
//!
//! What is not covered: a child that starts a session of its own *and* whose parent has ended (a daemon) is found by
//! nobody. For services that is what a `start` is for; elsewhere it is the program's fault, and it has no privileges.

mod child;
mod error;
mod gate;
mod places;
mod strays;
mod supervise;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule_crds::common::ProgramCall;
use nix::unistd::{User, geteuid};

use child::Identity;
pub use error::ExecError;
pub use places::Cancel;
use places::Places;
pub(crate) use places::nonblocking;

/// The user that programs run as unless told otherwise.
pub const DEFAULT_USER: &str = "nobody";

/// Programs that run at once unless told otherwise; more wait for a place.
pub const DEFAULT_AT_ONCE: usize = 64;

/// Most of a program's output that is kept, in bytes: its beginning. The rest is read and thrown away.
pub const MAX_OUTPUT: usize = 64 * 1024;

/// Where programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the agent looks for a program of the system.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// How programs are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of `--allow-exec`. Without it, no program of a manifest is run.
    pub directory: Option<PathBuf>,
    /// The user of `--exec-user`.
    pub user: String,
    /// How many run at once, 1 to 4096.
    pub at_once: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { directory: None, user: DEFAULT_USER.into(), at_once: DEFAULT_AT_ONCE }
    }
}

/// What becomes of children that outlive the program when it ends by itself. When its time is over or it is cancelled,
/// they are killed in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leftovers {
    /// Those of its process group are killed.
    #[default]
    Kill,
    /// They stay: it was there to start them.
    Leave,
}

/// A program to run.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Base name of the program.
    pub program: &'a str,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables beside `PATH` and `LANG`. Names must begin with `BASCULE_`.
    pub environment: Vec<(&'static str, String)>,
    /// How long it may take; as long at most does it wait for a place before.
    pub timeout: Duration,
    /// What becomes of its children.
    pub leftovers: Leftovers,
}

impl<'a> Call<'a> {
    /// A call as a manifest has it.
    pub fn new(call: &'a ProgramCall, timeout: Duration) -> Self {
        Self { args: call.args.clone(), ..Self::of(&call.program, timeout) }
    }

    /// A program without arguments.
    pub fn of(program: &'a str, timeout: Duration) -> Self {
        Self { program, args: Vec::new(), environment: Vec::new(), timeout, leftovers: Leftovers::Kill }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status, 0 to 255.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// What a program did that ended by itself.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to standard output and standard error, mixed as it came; at most [`MAX_OUTPUT`] bytes.
    pub output: Vec<u8>,
    /// Bytes written beyond that.
    pub dropped: u64,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Exit status 0.
    pub fn succeeded(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    /// How it ended and the last line that it wrote, in at most `most` characters and without control characters.
    pub fn summary(&self, most: usize) -> String {
        let text = String::from_utf8_lossy(&self.output);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let whole = if line.is_empty() { self.exit.to_string() } else { format!("{}: {line}", self.exit) };
        whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
    }
}

/// Runs programs. A handle: clones share the places.
#[derive(Clone, Debug)]
pub struct Runner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Option<PathBuf>,
    /// Or why nobody can be found under that name.
    user: Result<Identity, ExecError>,
    places: Places,
}

impl Runner {
    /// Looks up the user, once. What is wrong with the options is said by every [`Runner::run`]. Fails only when the
    /// process has no descriptors left.
    pub fn new(options: &Options) -> std::io::Result<Self> {
        let places = Places::new(options.at_once.clamp(1, 4096))?;
        Ok(Self(Arc::new(Inner {
            directory: options.directory.clone(),
            user: identity(&options.user),
            places,
        })))
    }

    /// The same with places of its own, so that others cannot take them. Fails only when the process has no descriptors left.
    pub fn apart(&self, at_once: usize) -> std::io::Result<Self> {
        let places = Places::new(at_once.clamp(1, 4096))?;
        let (directory, user) = (self.0.directory.clone(), self.0.user.clone());
        Ok(Self(Arc::new(Inner { directory, user, places })))
    }

    /// What is wrong with the options, so that it can be said before something is to be run.
    pub fn check(&self) -> Result<(), ExecError> {
        let directory = self.0.directory.as_deref().ok_or(ExecError::NoDirectory { program: None })?;
        gate::trusted_directory(directory, geteuid())?;
        self.0.user.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Runs a program of the directory of `--allow-exec` and waits for it, on the calling thread.
    ///
    /// # Errors
    /// When it may not or cannot be run, when its time is over, and when it is cancelled. An exit status other than 0 is
    /// an [`Outcome`].
    pub fn run(&self, call: &Call<'_>, cancel: Option<&Cancel>) -> Result<Outcome, ExecError> {
        let missing = || ExecError::NoDirectory { program: Some(call.program.to_owned()) };
        let directory = self.0.directory.as_deref().ok_or_else(missing)?;
        let user = self.0.user.as_ref().map_err(Clone::clone)?;
        let path = gate::admit(directory, call.program, geteuid())?;
        self.carry_out(path, Some(user), call, cancel)
    }

    /// Runs a program of the system, such as `systemctl`, as the agent's own user. Never for a name out of a manifest.
    pub fn run_system(&self, call: &Call<'_>, cancel: Option<&Cancel>) -> Result<Outcome, ExecError> {
        let path = SYSTEM_DIRECTORIES
            .iter()
            .map(|directory| PathBuf::from(directory).join(call.program))
            .find(|path| path.exists())
            .ok_or_else(|| ExecError::NotInstalled { program: call.program.to_owned() })?;
        self.carry_out(path, None, call, cancel)
    }

    fn carry_out(
        &self,
        path: PathBuf,
        user: Option<&Identity>,
        call: &Call<'_>,
        cancel: Option<&Cancel>,
    ) -> Result<Outcome, ExecError> {
        debug_assert!(call.environment.iter().all(|(name, _)| name.starts_with("BASCULE_")));
        let place = self.0.places.take(call, cancel)?;
        let mut environment: Vec<(OsString, OsString)> =
            vec![("PATH".into(), PATH.into()), ("LANG".into(), "C".into())];
        environment.extend(call.environment.iter().map(|(name, value)| {
            // A zero byte would make the call impossible.
            (OsString::from(name), OsString::from(value.replace('\0', " ")))
        }));
        let started = Instant::now();
        let child = child::start(&path, &call.args, environment, user)?;
        supervise::supervise(child, &path, call, cancel, started, place)
    }
}

/// The user of a name.
fn identity(name: &str) -> Result<Identity, ExecError> {
    let refused = |why: String| ExecError::User { user: name.to_owned(), why };
    match User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() => Err(refused(
            "programs of manifests do not run as root: what needs privileges is a systemd unit (`systemd:`)"
                .into(),
        )),
        Ok(Some(user)) => Ok(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Ok(None) => Err(refused("there is no such user; add one, or name another by --exec-user".into())),
        Err(error) => Err(refused(format!("it cannot be looked up: {error}"))),
    }
}
