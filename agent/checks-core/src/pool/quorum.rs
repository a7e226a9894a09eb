//! Whether enough is alive.

use serde::{Deserialize, Serialize};

/// How much must be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quorum {
    /// The sum of the weights of live real servers, at least 1 (keepalived: quorum).
    pub weight: u32,
    /// How far the sum must fall below, or rise above, to change what is the case (keepalived: hysteresis).
    pub hysteresis: u32,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { weight: 1, hysteresis: 0 }
    }
}

/// Whether the quorum is met. It depends on the past: this is the only thing that a pool has to remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is not. A pool starts like this, so that at the start the upper bound decides.
    #[default]
    Lost,
    /// It is.
    Met,
}

impl Quorum {
    /// Whether the quorum is met with so much alive, when this was the case before.
    ///
    /// As `update_quorum_state` in keepalived/check/ipwrapper.c: gained at a sum of at least `weight + hysteresis`; lost below
    /// `weight - hysteresis`, and in any case when nothing is alive (`!weight_sum || weight_sum < threshold`), so that a
    /// hysteresis as large as the weight does not keep an empty service. The same bounds hold on each change of the weight or
    /// the hysteresis, and at the start, when nothing is alive yet.
    pub fn judge(&self, before: Standing, alive: u64) -> Standing {
        let (weight, hysteresis) = (u64::from(self.weight), u64::from(self.hysteresis));
        match before {
            Standing::Lost if alive >= weight + hysteresis => Standing::Met,
            Standing::Met if alive == 0 || alive < weight.saturating_sub(hysteresis) => Standing::Lost,
            unchanged => unchanged,
        }
    }
}
