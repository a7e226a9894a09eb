//! What is kept of Kubernetes' own objects, and what all of ours have in common.

use bascule_compile::{Machine, OutOfService};
use bascule_crds::Object;
use bascule_crds::common::Condition;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::Place;
use crate::names::{EXCLUDED_LABEL, NODE_LABEL, ZONE_LABEL};

/// What a Node says that concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// It is labelled as a director.
    pub director: bool,
    /// What it says of the machine: whether Kubernetes keeps work away from it, and where it is.
    pub machine: Machine,
}

impl NodeFacts {
    /// Of that Node.
    pub fn of(node: &Node) -> NodeFacts {
        let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let out = if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
            Some(OutOfService::Cordoned)
        } else {
            // As for Kubernetes' own load balancers its value says nothing.
            label(EXCLUDED_LABEL).map(|_| OutOfService::Excluded)
        };
        let failure_domain = label(ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned();
        NodeFacts {
            director: label(NODE_LABEL).is_some_and(|value| value != "false"),
            machine: Machine { out, failure_domain },
        }
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Its namespace.
    pub namespace: String,
    /// Who holds it; of a director's Lease the director's name.
    pub holder: String,
    /// When it was last renewed, by its holder's clock.
    pub renewed: Option<Time>,
}

impl LeaseFacts {
    /// Of that Lease.
    pub fn of(lease: &Lease) -> LeaseFacts {
        let spec = lease.spec.as_ref();
        LeaseFacts {
            namespace: lease.metadata.namespace.clone().unwrap_or_default(),
            holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            renewed: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| Time(time.0)),
        }
    }

    pub(super) fn place(&self, name: &str) -> Place {
        Place { namespace: self.namespace.clone(), name: name.to_owned() }
    }
}

/// An object's metadata.
pub fn meta_of(object: &Object) -> &ObjectMeta {
    object.metadata()
}

/// What a user's object says in its status, of what all statuses have: the generation that it speaks of, and conditions.
pub fn status_of(object: &Object) -> (Option<i64>, &[Condition]) {
    macro_rules! status {
        ($object:expr) => {
            $object
                .status
                .as_ref()
                .map_or((None, &[][..]), |status| (status.observed_generation, status.conditions.as_slice()))
        };
    }
    match object {
        Object::VirtualService(object) => status!(object),
        Object::HealthCheck(object) => status!(object),
        Object::VrrpGroup(object) => status!(object),
        Object::NatRule(object) => status!(object),
        Object::Director(object) => status!(object),
        Object::EndpointSlice(_) => (None, &[]),
    }
}
