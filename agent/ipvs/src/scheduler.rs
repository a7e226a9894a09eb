//! The schedulers of the kernel, and what their flags mean.

use std::{fmt, str::FromStr};

use crate::ServiceFlags;

/// The name that the kernel takes for "no scheduler" (Linux 4.4): such a service takes no connection.
pub const NO_SCHEDULER: &str = "none";

/// The schedulers that are part of Linux. Others may be loaded: [`crate::Service::scheduler`] is a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections; `ipvsadm`'s default.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Source hashing.
    Sh,
    /// Maglev hashing (Linux 4.18).
    Mh,
    /// Destination hashing.
    Dh,
    /// Weighted failover (Linux 3.15).
    Fo,
    /// Weighted overflow (Linux 4.3).
    Ovf,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Power of two random choices (Linux 5.13).
    Twos,
}

/// A flag that a scheduler gives a meaning to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerFlag {
    /// `ipvsadm -b NAME`.
    pub name: &'static str,
    /// IP_VS_SVC_F_SCHED*.
    pub flag: ServiceFlags,
    /// What it does.
    pub meaning: &'static str,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Lblc,
        Self::Lblcr,
        Self::Sh,
        Self::Mh,
        Self::Dh,
        Self::Fo,
        Self::Ovf,
        Self::Sed,
        Self::Nq,
        Self::Twos,
    ];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Sh => "sh",
            Self::Mh => "mh",
            Self::Dh => "dh",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Twos => "twos",
        }
    }

    /// The kernel module that holds it; the kernel loads it when a service names the scheduler.
    pub fn module(self) -> String {
        format!("ip_vs_{}", self.name())
    }

    /// The flags that it gives a meaning to; it ignores the others.
    pub fn flags(self) -> &'static [SchedulerFlag] {
        const SH: [SchedulerFlag; 2] = [
            SchedulerFlag {
                name: "sh-fallback",
                flag: ServiceFlags::SH_FALLBACK,
                meaning: "another real server when the chosen one has weight 0",
            },
            SchedulerFlag {
                name: "sh-port",
                flag: ServiceFlags::SH_PORT,
                meaning: "the source port takes part in the hash",
            },
        ];
        const MH: [SchedulerFlag; 2] = [
            SchedulerFlag {
                name: "mh-fallback",
                flag: ServiceFlags::MH_FALLBACK,
                meaning: "another real server when the chosen one has weight 0",
            },
            SchedulerFlag {
                name: "mh-port",
                flag: ServiceFlags::MH_PORT,
                meaning: "the source port takes part in the hash",
            },
        ];
        match self {
            Self::Sh => &SH,
            Self::Mh => &MH,
            _ => &[],
        }
    }

    /// The flag that `ipvsadm -b` calls `name`: a scheduler's own (`sh-port`) or a general one (`flag-1` to `flag-3`).
    pub fn flag_named(name: &str) -> Option<ServiceFlags> {
        match name {
            "flag-1" => Some(ServiceFlags::SCHED1),
            "flag-2" => Some(ServiceFlags::SCHED2),
            "flag-3" => Some(ServiceFlags::SCHED3),
            _ => Self::ALL
                .iter()
                .flat_map(|scheduler| scheduler.flags())
                .find(|known| known.name == name)
                .map(|known| known.flag),
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Scheduler> for String {
    fn from(scheduler: Scheduler) -> Self {
        scheduler.name().to_owned()
    }
}

impl FromStr for Scheduler {
    type Err = UnknownScheduler;
    fn from_str(name: &str) -> Result<Self, UnknownScheduler> {
        Self::ALL.into_iter().find(|scheduler| scheduler.name() == name).ok_or(UnknownScheduler)
    }
}

/// The name is none of [`Scheduler::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a scheduler of Linux")]
pub struct UnknownScheduler;
