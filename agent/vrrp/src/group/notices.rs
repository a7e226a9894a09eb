//! Warnings at a bounded rate: what a flood makes us say costs nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{RouterId, Warning};
use crate::time::BootTime;

/// A warning of one kind about one virtual router is repeated no sooner than this.
const APART: Duration = Duration::from_secs(10);

/// What was said, and what was kept back. Kinds are constants of this crate and virtual routers are bounded, so this is too.
#[derive(Clone, Debug, Default)]
pub(super) struct Limiter(BTreeMap<(Option<RouterId>, &'static str), (BootTime, u64)>);

impl Limiter {
    /// The warning, unless one like it was made less than ten seconds ago. The text is only put together when it is needed.
    pub(super) fn warn(
        &mut self,
        now: BootTime,
        router: Option<&RouterId>,
        kind: &'static str,
        text: impl FnOnce() -> String,
    ) -> Option<Warning> {
        let key = (router.cloned(), kind);
        let mut suppressed = 0;
        if let Some((at, kept_back)) = self.0.get_mut(&key) {
            if now.since(*at) < APART {
                *kept_back += 1;
                return None;
            }
            suppressed = *kept_back;
        }
        self.0.insert(key, (now, 0));
        Some(Warning { router: router.cloned(), kind, text: text(), suppressed })
    }
}
