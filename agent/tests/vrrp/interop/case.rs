//! The combinations.

use std::{collections::BTreeSet, fmt, process::Command};

/// Whose peer Bascule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Software {
    /// The one of this machine.
    Keepalived,
    /// The one of a newer distribution, in the folder that `BASCULE_INTEROP_NEWER` names.
    NewerKeepalived,
    /// FRR's vrrpd.
    Frr,
}

/// One combination. On its one network there are an address of each family at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// VRRP 2 or 3.
    pub(super) version: u8,
    pub(super) ipv6: bool,
    pub(super) unicast: bool,
    pub(super) interval_ms: u32,
    pub(super) preempt: bool,
    /// The plain password of version 2.
    pub(super) password: bool,
    /// Whether Bascule has the higher priority.
    pub(super) ours_is_higher: bool,
}

/// The folder of the newer distribution.
pub(super) fn newer() -> Option<String> {
    std::env::var("BASCULE_INTEROP_NEWER").ok().filter(|folder| !folder.is_empty())
}

impl Software {
    /// Whether it can do that at all.
    pub(super) fn can(self, case: &Case) -> bool {
        // FRR's vrrpd multicasts only and knows no password.
        self != Self::Frr || !(case.unicast || case.password)
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::NewerKeepalived => "keepalived-newer",
            Self::Frr => "frr",
        }
    }

    /// What it says of itself; none where it is not installed.
    pub(super) fn version(self) -> Option<String> {
        let mut command = match self {
            Self::Keepalived => Command::new("keepalived"),
            Self::NewerKeepalived => {
                let mut command = Command::new("chroot");
                command.args([&newer()?, "keepalived"]);
                command
            }
            Self::Frr => Command::new(super::frr::VRRPD),
        };
        let output = command.arg("--version").output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next().map(ToOwned::to_owned)?;
        output.status.success().then_some(line)
    }
}

impl fmt::Display for Software {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keepalived => "keepalived",
            Self::NewerKeepalived => "a newer keepalived",
            Self::Frr => "FRR",
        })
    }
}

impl Case {
    /// Every combination that there can be.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let flag = [false, true];
        let versions = [
            (2, 1000, false),
            (2, 1000, true),
            (2, 2000, false),
            (3, 100, false),
            (3, 1000, false),
            (3, 30, false),
        ];
        versions.into_iter().flat_map(move |(version, interval_ms, password)| {
            flag.into_iter().filter(move |ipv6| !(version == 2 && *ipv6)).flat_map(move |ipv6| {
                flag.into_iter().flat_map(move |unicast| {
                    flag.into_iter().flat_map(move |preempt| {
                        flag.into_iter().map(move |ours_is_higher| Self {
                            version,
                            ipv6,
                            unicast,
                            interval_ms,
                            preempt,
                            password,
                            ours_is_higher,
                        })
                    })
                })
            })
        })
    }

    /// Its properties, by number and value.
    fn properties(&self) -> [(u8, u32); 7] {
        let flag = u32::from;
        [
            (0, self.version.into()),
            (1, flag(self.ipv6)),
            (2, flag(self.unicast)),
            (3, self.interval_ms),
            (4, flag(self.preempt)),
            (5, flag(self.password)),
            (6, flag(self.ours_is_higher)),
        ]
    }

    /// Every two of its properties.
    pub(super) fn pairs(&self) -> Vec<((u8, u32), (u8, u32))> {
        let properties = self.properties();
        let pair = |at: usize| properties[at + 1..].iter().map(move |other| (properties[at], *other));
        (0..properties.len()).flat_map(pair).collect()
    }
}

/// A few of the combinations in which every two properties that can meet do: always the one that adds most.
pub(super) fn pairwise(all: &[Case]) -> Vec<Case> {
    let mut missing: BTreeSet<_> = all.iter().flat_map(Case::pairs).collect();
    let mut chosen = Vec::new();
    while let Some(best) = all
        .iter()
        .max_by_key(|case| case.pairs().iter().filter(|pair| missing.contains(pair)).count())
        .filter(|_| !missing.is_empty())
    {
        for pair in best.pairs() {
            missing.remove(&pair);
        }
        chosen.push(*best);
    }
    chosen
}

impl fmt::Display for Case {
    /// As the cells of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |yes: bool, word: &'static str, other: &'static str| if yes { word } else { other };
        write!(
            f,
            "| {} | {} | {} | {} ms | {} | {} | {} |",
            self.version,
            word(self.ipv6, "IPv6", "IPv4"),
            word(self.unicast, "unicast", "multicast"),
            self.interval_ms,
            word(self.preempt, "on", "off"),
            word(self.password, "yes", "no"),
            word(self.ours_is_higher, "Bascule", "peer"),
        )
    }
}
