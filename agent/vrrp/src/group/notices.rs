//! Warnings at a bounded rate: what a flood makes us say costs nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
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

/// Peers of one virtual router that are remembered at most: a group has as many members.
const MAX_STALE: usize = 16;
/// So many in a row, and none that was taken: no recording that somebody sends between those of the peer.
const ALL: u64 = 3;

/// A peer of which everything is refused because its time is not ours. Each rejects the other then, and both become active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StalePeer {
    /// Who.
    pub source: IpAddr,
    /// By how many seconds the last one was behind our clock; negative when it was ahead.
    pub seconds: i32,
    /// How many in a row.
    pub refused: u64,
    /// When the last one came.
    pub at: BootTime,
}

/// Peers whose last advertisements were stale, the one heard last at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct StalePeers(Vec<StalePeer>);

impl StalePeers {
    /// One was refused for its time.
    pub(super) fn refused(&mut self, at: BootTime, source: IpAddr, seconds: i32) {
        let before = self.0.iter().position(|peer| peer.source == source).map(|at| self.0.remove(at).refused);
        if self.0.len() >= MAX_STALE {
            self.0.remove(0);
        }
        let refused = before.unwrap_or_default().saturating_add(1);
        self.0.push(StalePeer { source, seconds, refused, at });
    }

    /// One was taken.
    pub(super) fn accepted(&mut self, source: IpAddr) {
        self.0.retain(|peer| peer.source != source);
    }

    /// Those of which all is refused.
    pub(super) fn all(&self) -> Vec<StalePeer> {
        self.0.iter().filter(|peer| peer.refused >= ALL).copied().collect()
    }
}
