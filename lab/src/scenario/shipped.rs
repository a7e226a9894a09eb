//! The scenarios that ship inside the program.

/// Name and text of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(Shipped { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".yaml")) }),*]
    };
}

/// All of them, sorted by name.
pub const SHIPPED: &[Shipped] = shipped![
    "agent-restart",
    "agent-upgrade",
    "bad-cable",
    "bonded",
    "checks-failover",
    "clock-step",
    "director-reboot",
    "disk-full",
    "drain",
    "drift",
    "flapping",
    "fwmark",
    "interop-checks",
    "ipv6",
    "mass-failure",
    "packet-filter",
    "persistence",
    "quorum-withdraw",
    "rogue-director",
    "stalled-active",
    "switchover",
    "tp-complete",
    "tp-errata",
    "tp-heartbeat",
    "tp-heartbeat-fast",
    "tp-ipvs",
    "tp-ipvs-client-inside",
    "tp-ipvs-direct-routing",
    "tp-ipvs-schedulers",
    "tp-ipvs-tunnel",
    "tp-keepalived-checks",
    "tp-no-tolerance",
    "tp-no-tolerance-checks",
    "tp-router-nat",
    "tp-sorry-server",
    "tp-two-directors",
    "tp-two-directors-v2",
    "udp",
];

/// The shipped scenario of that name.
pub fn find(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|shipped| shipped.name == name)
}

/// What to say when none has that name: the nearest one.
pub fn hint(name: &str) -> String {
    super::suggest::hint(name, SHIPPED.iter().map(|shipped| shipped.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_ships_sorted_and_loads() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().into_string().unwrap().strip_suffix(".yaml").map(Into::into)
            })
            .collect();
        files.sort();
        assert_eq!(SHIPPED.iter().map(|shipped| shipped.name).collect::<Vec<_>>(), files);
        for shipped in SHIPPED {
            let scenario = crate::scenario::load(shipped.name, shipped.text);
            let scenario =
                scenario.unwrap_or_else(|problems| panic!("{}: {}", shipped.name, render(&problems)));
            assert!(scenario.title.is_some(), "{} has no title for `bascule-lab list`", shipped.name);
        }
    }

    fn render(problems: &[crate::scenario::Problem]) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}
