//! Starts a program as nobody in particular: own user, own session, no capabilities, nothing inherited.

use std::ffi::{CString, OsString};
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::ExecError;
use super::places::nonblocking;
use crate::limits;

/// The user that a program runs as.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uid: libc::uid_t,
    pub(super) gid: libc::gid_t,
}

/// A started program: its process, and what it writes.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) output: PipeReader,
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two words a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct` of linux/capability.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Descriptors looked at one by one on kernels without `CLOSE_RANGE_CLOEXEC` (before Linux 5.11).
const MAX_DESCRIPTORS: u64 = 65_536;

/// What the child does between fork and exec, told through a pipe when it fails.
const STEPS: [&str; 6] = [
    "making a session",
    "setting the priority",
    "closing descriptors",
    "setting the limit of open files",
    "becoming the user",
    "giving up capabilities",
];

/// Starts it. `None` runs it as the agent's own user, with the agent's capabilities.
pub(super) fn start(
    path: &Path,
    args: &[String],
    environment: Vec<(OsString, OsString)>,
    user: Option<&Identity>,
) -> Result<Started, ExecError> {
    let failed = |why: String| ExecError::Start { path: path.to_owned(), why };
    let descriptors = |error: io::Error| ExecError::start(path, &error, format!("no pipe: {error}"));
    let (output, theirs) = io::pipe().map_err(descriptors)?;
    nonblocking(output.as_fd()).map_err(descriptors)?;
    let (mut told, tell) = io::pipe().map_err(descriptors)?;
    let both = theirs.try_clone().map_err(descriptors)?;

    let image = Image::new(path, args, environment).map_err(&failed)?;
    let mut command = Command::new(path);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::from(theirs)).stderr(Stdio::from(both));
    let user = user.map(|user| (user.uid, user.gid));
    let tell_fd = tell.as_raw_fd();
    let limit = limits::of_children();
    // SAFETY: between fork and exec in a process of several threads only what is async-signal-safe may be done:
    // these make system calls on values that are ready, and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            become_nobody(user, limit, tell_fd)?;
            Err(image.execute())
        });
    }
    let spawned = command.spawn();
    // The command holds the writing end of the output.
    drop(command);
    drop(tell);
    match spawned {
        Ok(child) => Ok(Started { child, output }),
        Err(error) => {
            let mut step = [0];
            let step = match told.read(&mut step) {
                Ok(1) => STEPS.get(usize::from(step[0])).copied(),
                _ => None,
            };
            Err(ExecError::start(path, &error, explain(&error, step, user)))
        }
    }
}

/// What execve(2) takes. The standard library's way ends in execvp(3), which hands what is no program to a shell.
struct Image {
    path: CString,
    args: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// What the pointers point at.
    _owned: Vec<CString>,
}

// SAFETY: the pointers lead to strings that the image owns and nobody changes.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    fn new(path: &Path, args: &[String], environment: Vec<(OsString, OsString)>) -> Result<Self, String> {
        let string =
            |bytes: Vec<u8>| CString::new(bytes).map_err(|_| "an argument has a zero byte".to_owned());
        let path = string(path.as_os_str().as_bytes().to_vec())?;
        let args = args.iter().map(|arg| string(arg.clone().into_bytes()));
        let args: Vec<CString> = std::iter::once(Ok(path.clone())).chain(args).collect::<Result<_, _>>()?;
        let environment: Vec<CString> = environment
            .into_iter()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                string(name.into_vec())
            })
            .collect::<Result<_, _>>()?;
        let pointers = |strings: &[CString]| {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        Ok(Self {
            path,
            args: pointers(&args),
            environment: pointers(&environment),
            _owned: args.into_iter().chain(environment).collect(),
        })
    }

    /// Returns only when it fails.
    fn execute(&self) -> io::Error {
        // SAFETY: a string and two lists that end with a null pointer, all owned by `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.args.as_ptr(), self.environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// In words, with the way out.
fn explain(error: &io::Error, step: Option<&str>, user: Option<(libc::uid_t, libc::gid_t)>) -> String {
    match (step, error.kind()) {
        (Some(step), io::ErrorKind::PermissionDenied) if step == STEPS[4] => format!(
            "{step} is not permitted: run the agent as root or with CAP_SETUID, CAP_SETGID and CAP_KILL, or name its \
             own user by --exec-user"
        ),
        (Some(step), _) => format!("{step}: {error}"),
        (None, io::ErrorKind::NotFound) => "the interpreter of its first line (#!) is not there".into(),
        (None, io::ErrorKind::PermissionDenied) => match user {
            Some((uid, _)) => format!(
                "permission denied: user {uid} must be able to read and execute it, and to enter the directories on the way"
            ),
            None => "permission denied".into(),
        },
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => {
            "is neither a binary of this machine nor a script that begins with #!".into()
        }
        _ => error.to_string(),
    }
}

/// Runs in the child. The last step's number goes into the pipe `tell` when one fails.
fn become_nobody(
    user: Option<(libc::uid_t, libc::gid_t)>,
    limit: Option<libc::rlimit>,
    tell: RawFd,
) -> io::Result<()> {
    let steps: [&dyn Fn() -> io::Result<()>; 6] = [
        &session,
        &priority,
        &close_descriptors,
        &|| limits::set(limit),
        &|| user.map_or(Ok(()), |(uid, gid)| change_user(uid, gid)),
        &|| user.map_or(Ok(()), |_| give_up_capabilities()),
    ];
    for (step, number) in steps.into_iter().zip(0u8..) {
        if let Err(error) = step() {
            // SAFETY: one byte from the stack; the descriptor is open, or the call fails.
            unsafe { libc::write(tell, (&raw const number).cast(), 1) };
            return Err(error);
        }
    }
    // Last, because a change of user clears it: if the agent dies, nobody would keep the bounds. It is the calling
    // thread's death that counts, and that thread waits for this process.
    // SAFETY: takes integers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn session() -> io::Result<()> {
    // The kernel's `struct sigaction` of all architectures, with SIG_DFL, no flags and an empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: these take integers and addresses of values that live. Every signal is its default again, also one that the
    // agent ignores, and those that the C library keeps for itself and would not let signal(2) touch. SIGKILL and SIGSTOP
    // are refused, and need nothing.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                size_of::<u64>(),
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
        libc::umask(0o022);
        check(libc::setsid())
    }
}

/// The thread that calls may run before all others.
fn priority() -> io::Result<()> {
    // SAFETY: takes integers and the address of a value on the stack.
    unsafe {
        let ordinary: libc::sched_param = std::mem::zeroed();
        if libc::sched_getscheduler(0) != libc::SCHED_OTHER {
            check(libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary))?;
        }
        // Less urgent is always permitted.
        if libc::getpriority(libc::PRIO_PROCESS, 0) < 0 {
            check(libc::setpriority(libc::PRIO_PROCESS, 0, 0))?;
        }
    }
    Ok(())
}

/// Everything but 0, 1 and 2 is closed by exec, also what somebody forgot to open so.
fn close_descriptors() -> io::Result<()> {
    // SAFETY: these take integers and the address of a value on the stack.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
            return Ok(());
        }
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        let end = libc::c_int::try_from(limit.rlim_cur.min(MAX_DESCRIPTORS)).unwrap_or(libc::c_int::MAX);
        for fd in 3..end {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    Ok(())
}

fn change_user(uid: libc::uid_t, gid: libc::gid_t) -> io::Result<()> {
    // SAFETY: these take integers and, for the groups, an empty list. The bounding set goes while CAP_SETPCAP is there;
    // without it, no_new_privs keeps programs from ever gaining what is in it.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                break;
            }
        }
        let is_already = libc::getuid() == uid
            && libc::geteuid() == uid
            && libc::getgid() == gid
            && libc::getegid() == gid
            && libc::getgroups(0, std::ptr::null_mut()) == 0;
        if is_already {
            return Ok(());
        }
        // An agent that is no root and keeps its own user keeps that user's groups: it cannot drop them.
        if libc::setgroups(0, std::ptr::null()) < 0 && libc::getuid() != uid {
            return Err(io::Error::last_os_error());
        }
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))
    }
}

fn give_up_capabilities() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let none = [CapabilityData::default(); 2];
    // SAFETY: capset(2) reads the header and two words of data, which live on the stack; prctl takes integers.
    unsafe {
        if libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) < 0 {
            return Err(io::Error::last_os_error());
        }
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}
