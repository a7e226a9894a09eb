//! Bonded links: several cables that are one interface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::topology::Name;
use super::value::Span;

/// Cables that are bonded into one interface (the kernel's `bonding`, which need not be said in `requires`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bond {
    /// The interfaces of the cables, at most 15 characters each: `[enp0s3, enp0s4]`. Faults, frames and claims name these.
    #[schemars(length(min = 1, max = 8))]
    pub legs: Vec<Name>,
    /// Which cables carry frames. One unless told.
    #[serde(default)]
    pub mode: BondMode,
    /// With `balanceXor` and `lacp`: by what a cable is chosen for a frame, at both ends.
    #[serde(default)]
    pub hash: BondHash,
    /// How often the carriers are looked at (`miimon`); 100 ms unless told. For about that long frames vanish when a cable is lost.
    #[serde(default = "tenth_of_a_second")]
    pub monitor: Span,
}

fn tenth_of_a_second() -> Span {
    Span::from_millis(100)
}

/// Which cables carry frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BondMode {
    /// One; another one when it is lost. The switch knows nothing of it.
    #[default]
    ActiveBackup,
    /// All, without agreement; the switch bonds its ports, too.
    BalanceXor,
    /// All, agreed by LACP (IEEE 802.1AX) with the switch, every second.
    Lacp,
}

impl BondMode {
    /// Whether the switch bonds its ports as well.
    pub fn is_aggregate(self) -> bool {
        self != Self::ActiveBackup
    }
}

/// By what a cable is chosen for a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BondHash {
    /// Hardware addresses: all frames between two stations take one cable.
    #[default]
    #[serde(rename = "layer2")]
    Layer2,
    /// Addresses and ports: connections are spread.
    #[serde(rename = "layer3+4")]
    Layer34,
}
