//! In what a peer's configuration is not ours, as far as its advertisements tell. VRRP says no more of a configuration than it needs
//! itself, and only the active member speaks; so what is found is kept until that peer says otherwise.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::authentication::AuthenticationError as A;
use crate::endpoint::Rejection;
use crate::time::BootTime;

/// After so long without it a difference is not worth telling: the peer may be no more.
pub const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A difference of one kind is looked at no sooner than this after the one before.
const APART: Duration = Duration::from_secs(1);

/// Something in which a peer's configuration is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `addresses`, `authentication`, `interval`, `members`, `priority` or `version`.
    pub what: &'static str,
    /// Who said so.
    pub peer: IpAddr,
    /// In words.
    pub text: String,
    /// When it was heard last.
    pub heard_at: BootTime,
}

/// The differences of one virtual router: of each kind the newest, so that nobody can make them many.
#[derive(Clone, Debug, Default)]
pub(super) struct Differences(BTreeMap<&'static str, Difference>);

impl Differences {
    /// A difference was heard. Of a flood one in a second is put into words.
    pub(super) fn note(
        &mut self,
        now: BootTime,
        what: &'static str,
        peer: IpAddr,
        text: impl FnOnce() -> String,
    ) {
        if self.0.get(what).is_none_or(|known| now.since(known.heard_at) >= APART) {
            self.0.insert(what, Difference { what, peer, text: text(), heard_at: now });
        }
    }

    /// A valid advertisement of the peer differs in nothing but `still`.
    pub(super) fn agreed(&mut self, peer: IpAddr, still: &[&'static str]) {
        self.0.retain(|what, difference| difference.peer != peer || still.contains(what));
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Difference> {
        self.0.values().cloned().collect()
    }

    /// Our configuration is another one.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// In what the configuration of somebody differs whose advertisement was dropped for this; none where it may be right and something
/// else is wrong.
pub(super) const fn of_rejection(rejection: &Rejection) -> Option<&'static str> {
    match rejection {
        Rejection::Version { .. } => Some("version"),
        Rejection::Interval { .. } => Some("interval"),
        Rejection::Addresses(_) => Some("addresses"),
        Rejection::NotAMember { .. } => Some("members"),
        Rejection::Authentication(A::Unsigned | A::UnknownKey { .. } | A::Signature | A::Password) => {
            Some("authentication")
        }
        // Clocks that differ, and recorded messages.
        Rejection::Authentication(A::Stale { .. } | A::Replayed | A::Malformed)
        | Rejection::Decode(_)
        | Rejection::Ttl { .. }
        | Rejection::OwnAddress { .. }
        | Rejection::Source { .. }
        | Rejection::Destination { .. }
        | Rejection::Vrid { .. } => None,
    }
}
