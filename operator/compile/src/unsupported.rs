//! Fields whose behaviour does not exist, or not where they are used. They are refused by name: a field that is silently ignored is
//! worse than one that is missing. The specs are taken apart completely, so that a new field cannot be forgotten here.

use bascule_crds::VrrpGroupSpec;
use bascule_crds::vrrp_group::{Authentication, Hmac, HmacKey};

use crate::compiler::Trust;
use crate::problem::Problems;
use crate::types::Reason;

pub(crate) fn vrrp_group(trust: Trust, spec: &VrrpGroupSpec, problems: &mut Problems) {
    let VrrpGroupSpec {
        authentication,
        // What the configuration of a director carries, or what is asked while compiling.
        instances: _,
        members: _,
        version: _,
        advertisement_interval: _,
        down_intervals: _,
        warn_after: _,
        startup_grace: _,
        preempt: _,
        preferred: _,
        peers: _,
        track: _,
        gratuitous_arp: _,
        on_agent_loss: _,
        services: _,
        notify: _,
        allow: _,
    } = spec;
    if let Some(Authentication { hmac, simple }) = authentication {
        let mut secret = |used: bool, field: String| {
            // In a cluster the agents read them.
            if used && trust == Trust::Files {
                problems.add(Reason::Unsupported, field, "Secrets need a cluster; use file");
            }
        };
        let secret_of_simple = simple.as_ref().is_some_and(|one| one.secret_ref.is_some());
        secret(secret_of_simple, "spec.authentication.simple.secretRef".into());
        let keys = hmac.iter().flat_map(|Hmac { keys, .. }| keys).enumerate();
        for (i, HmacKey { secret_ref, id: _, file: _ }) in keys {
            secret(secret_ref.is_some(), format!("spec.authentication.hmac.keys[{i}].secretRef"));
        }
    }
}
