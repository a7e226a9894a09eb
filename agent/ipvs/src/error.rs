//! What can go wrong, in words that say what to do.

use std::io;

use nix::errno::Errno;

use crate::{Command, codec::DecodeError};

/// A request as a whole failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel offers no IPVS; the text says what to load or install.
    #[error("this kernel offers no IPVS: {advice}")]
    Missing {
        /// What to do.
        advice: String,
    },
    /// The kernel refused for lack of rights.
    #[error(
        "the kernel refuses: IPVS needs CAP_NET_ADMIN in the initial user namespace (run as root, not in a user namespace)"
    )]
    Permission,
    /// The netlink socket failed.
    #[error("netlink socket: cannot {action}: {source}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel did not answer in [`crate::Options::timeout`]. What was sent may have been carried out: look before trying again.
    #[error("no answer from the kernel within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: f32,
    },
    /// The kernel's answer is not what its interface promises.
    #[error("cannot read the kernel's answer: {0}")]
    Decode(#[from] DecodeError),
    /// The kernel refused to answer a question.
    #[error("cannot read {what}: {errno}")]
    Query {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Dumps kept being interrupted by changes, or cut by a full receive buffer.
    #[error("cannot read {what}: it changed or was cut during each of {attempts} attempts")]
    Interrupted {
        /// What was asked for.
        what: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// A single command failed.
    #[error("cannot {command}: {source}")]
    Command {
        /// The command, as it displays.
        command: String,
        /// Why it failed.
        source: CommandError,
    },
}

/// One command failed; the others of its batch were tried all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The kernel said no.
    #[error("{meaning} ({errno:?})")]
    Kernel {
        /// The kernel's answer.
        errno: Errno,
        /// What that means for this command.
        meaning: &'static str,
    },
    /// It was not sent, for it cannot be said to the kernel.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
    /// The kernel's answer was lost (receive buffer full) and a later command of the same batch covers the same entry, so that
    /// looking does not tell either.
    #[error("the kernel's answer was lost and a later command of the batch changed the same entry")]
    Unknown,
}

impl CommandError {
    /// The kernel's answer, if there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Invalid(_) | Self::Unknown => None,
        }
    }

    pub(crate) fn kernel(command: &Command, errno: Errno) -> Self {
        Self::Kernel { errno, meaning: meaning(command, errno) }
    }
}

/// What the kernel would not understand, or would take for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// Empty, too long, or with a NUL in it.
    #[error("the {what} must have 1 to 15 bytes and no NUL")]
    Name {
        /// Which name.
        what: &'static str,
    },
    /// The kernel takes a service with mark 0 for one of address 0.0.0.0.
    #[error("a firewall mark must not be 0")]
    MarkZero,
    /// The mask is for the other address family.
    #[error("the netmask is not of the service's address family")]
    NetmaskFamily,
    /// An IPv6 prefix length out of range.
    #[error("an IPv6 netmask is a prefix length of 1 to 128")]
    PrefixLength,
    /// Above what the kernel's signed number holds.
    #[error("a weight must be at most 2147483647")]
    Weight,
    /// A variant `Other` with a number that has a name or is out of range.
    #[error("{what} has a name or is out of range")]
    OtherNumber {
        /// Which number.
        what: &'static str,
    },
}

/// The kernel's errno in the words of IPVS (`net/netfilter/ipvs/ip_vs_ctl.c`, `ip_vs_sync.c`).
fn meaning(command: &Command, errno: Errno) -> &'static str {
    use Command as C;
    match (command, errno) {
        (_, Errno::EPERM) => "not permitted: IPVS needs CAP_NET_ADMIN in the initial user namespace",
        (_, Errno::ENOMEM) => "the kernel is out of memory",
        (_, Errno::EAFNOSUPPORT) => "this kernel's IPVS does not do this address family",
        (C::NewService(_), Errno::EEXIST) => "the service exists already",
        (C::NewService(_) | C::SetService(_), Errno::ENOENT) => {
            "this kernel has no such scheduler or persistence engine, or cannot load its module"
        }
        (C::NewService(_) | C::SetService(_), Errno::EINVAL) => {
            "the kernel refuses these values (scheduler, persistence engine, netmask)"
        }
        (
            C::SetService(_)
            | C::DelService(_)
            | C::NewDestination(..)
            | C::SetDestination(..)
            | C::DelDestination(..)
            | C::Zero(_),
            Errno::ESRCH,
        ) => "there is no such service",
        (C::NewDestination(..), Errno::EEXIST) => "the real server exists already",
        (C::SetDestination(..) | C::DelDestination(..), Errno::ENOENT) => "there is no such real server",
        (C::NewDestination(..) | C::SetDestination(..), Errno::ERANGE) => {
            "weight out of range, or the lower limit is above the upper one"
        }
        (C::NewDestination(..) | C::SetDestination(..), Errno::EINVAL) => {
            "the kernel refuses these values (an address that is no unicast address, GUE without port, another address family than \
             the service's without tunnel or with a sync daemon; or the network namespace has no address yet, not even of lo)"
        }
        (C::NewDaemon(_), Errno::EEXIST) => "a sync daemon of this role runs already",
        (C::NewDaemon(_), Errno::ENODEV) => "there is no such interface",
        (C::NewDaemon(_), Errno::EINVAL) => {
            "the kernel refuses these values (the group must be a multicast address, and no real server may be of another address family \
             than its service)"
        }
        (C::DelDaemon(_), Errno::ESRCH) => "no sync daemon of this role runs",
        (C::SetConfig(_), Errno::EINVAL) => "a timeout is out of range",
        _ => errno.desc(),
    }
}
