//! What the real servers of a service were: taken over while a check of theirs is new, was changed, is gone, or cannot be made.
//!
//! A HealthCheck that is edited is another question, and until it is answered nothing is known of anybody. But nothing has happened
//! to the real servers: one that served goes on, one that was dead does not come back. `initialState` is for those of which nothing
//! was known. (keepalived: `migrate_checkers` in keepalived/check/check_api.c.)

use std::collections::BTreeMap;

use bascule_checks_core::Health;
use bascule_checks_core::pool::Reading;
use bascule_crds::VirtualServiceBindingSpec;
use bascule_crds::binding::BindingRealServer;
use serde::{Deserialize, Serialize};

use super::service::Member;

/// What the checks of a real server said last, by their names.
type Readings = BTreeMap<String, Reading>;

/// The real servers of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Before(BTreeMap<String, Readings>);

/// One by that name at another address is another one.
fn name(server: &BindingRealServer) -> String {
    format!("{} {}", server.name, server.address)
}

impl Before {
    /// Those of a service, with what each of their checks says.
    pub(super) fn of(
        spec: &VirtualServiceBindingSpec,
        members: &[Vec<Member>],
        reading: impl Fn(&Member) -> Reading,
    ) -> Self {
        let readings = |members: &[Member]| {
            members.iter().map(|member| (member.name.to_string(), reading(member))).collect()
        };
        let servers = spec.real_servers.iter().zip(members);
        Self(servers.map(|(server, members)| (name(server), readings(members))).collect())
    }

    /// Those of a service that is not checked: each is alive.
    pub(super) fn unchecked(spec: &VirtualServiceBindingSpec) -> Self {
        Self(spec.real_servers.iter().map(|server| (name(server), Readings::new())).collect())
    }

    /// What each check of a real server counts as until it has spoken. `said` is what it has said already.
    pub(super) fn carry_over(
        &self,
        server: &BindingRealServer,
        members: &mut [Member],
        said: impl Fn(&Member) -> Health,
    ) {
        let Some(readings) = self.0.get(&name(server)) else { return };
        for member in members.iter_mut() {
            member.before = readings.get(&*member.name).copied().unwrap_or_default();
        }
        // A check that is new to a real server says what the others came to. Where one that is still there is why the real server
        // is down, the new one has no part in that.
        let silent = |member: &Member| said(member) == Health::Unknown;
        let is = |member: &Member| if silent(member) { member.before.health } else { said(member) };
        let new = match alive(readings) {
            Some(false) if members.iter().any(|member| is(member) == Health::Down) => return,
            Some(false) => Health::Down,
            Some(true) => Health::Up,
            None => return,
        };
        for member in members.iter_mut().filter(|member| member.before.health == Health::Unknown) {
            member.before.health = new;
        }
    }
}

/// Whether the real server was alive; none when that was not known.
fn alive(readings: &Readings) -> Option<bool> {
    let any = |health| readings.values().any(|reading| reading.health == health);
    match (any(Health::Down), any(Health::Unknown)) {
        (true, _) => Some(false),
        (false, true) => None,
        (false, false) => Some(true),
    }
}
