//! How many probes may run at once: as many as there are descriptors for.

/// Programs of checks that run at once at most: each has a thread.
const MAX_PROGRAMS: u64 = 256;
/// Programs that run at once however few descriptors there are.
const MIN_PROGRAMS: u64 = 4;
/// Descriptors for each that a program has while it starts: pipes for what it says, for calling it off and for how it began, with
/// both ends, and its pidfd.
const OF_A_PROGRAM: u64 = 16;
/// Probes that run at once however few descriptors there are; those that get none are no word about their target.
const MIN_PROBES: u64 = 16;
/// Probes that run at once at most, however many descriptors there are: more than any director has checks.
const MAX_PROBES: u64 = 1 << 20;
/// Descriptors of all else: netlink, VRRP, the control socket and HTTP with their connections, files, services, notifications.
const OF_ALL_ELSE: u64 = 256;

/// What may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Probes that send something; each has one descriptor.
    pub(super) probes: usize,
    /// Programs.
    pub(super) programs: usize,
}

impl Bounds {
    /// With so many descriptors in all. A 64th of them makes the number of programs.
    pub(super) fn of(descriptors: u64) -> Self {
        let programs = (descriptors / 64).clamp(MIN_PROGRAMS, MAX_PROGRAMS);
        let left = descriptors.saturating_sub(OF_ALL_ELSE + programs * OF_A_PROGRAM);
        let number = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Self { probes: number(left.clamp(MIN_PROBES, MAX_PROBES)), programs: number(programs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_for_probes() {
        for (descriptors, probes, programs) in [
            (0, 16, 4),
            (256, 16, 4),
            (1_024, 512, 16),
            (4_096, 2_816, 64),
            (65_536, 61_184, 256),
            (1 << 20, (1 << 20) - 4_352, 256),
            (u64::MAX, 1 << 20, 256),
        ] {
            assert_eq!(Bounds::of(descriptors), Bounds { probes, programs }, "{descriptors}");
        }
    }
}
