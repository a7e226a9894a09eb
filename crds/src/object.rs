//! A manifest of any kind that users write.

use std::fmt;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::common::API_VERSION;
use crate::{Director, HealthCheck, NatRule, VirtualService, VrrpGroup};

/// The kinds that this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Written by users.
    VirtualService,
    /// Written by users.
    HealthCheck,
    /// Written by users.
    VrrpGroup,
    /// Written by users.
    NatRule,
    /// Written by users.
    Director,
    /// Written by Kubernetes; in a directory of manifests, by users.
    EndpointSlice,
    /// Written by the operator.
    VirtualServiceBinding,
    /// Written by the operator.
    NatRuleBinding,
    /// Written by the operator.
    DirectorConfig,
}

impl Kind {
    /// All kinds, in the order in which they are documented.
    pub const ALL: [Kind; 9] = [
        Kind::VirtualService,
        Kind::HealthCheck,
        Kind::VrrpGroup,
        Kind::NatRule,
        Kind::Director,
        Kind::EndpointSlice,
        Kind::VirtualServiceBinding,
        Kind::NatRuleBinding,
        Kind::DirectorConfig,
    ];

    /// Its name in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::VirtualService => "VirtualService",
            Kind::HealthCheck => "HealthCheck",
            Kind::VrrpGroup => "VrrpGroup",
            Kind::NatRule => "NatRule",
            Kind::Director => "Director",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::VirtualServiceBinding => "VirtualServiceBinding",
            Kind::NatRuleBinding => "NatRuleBinding",
            Kind::DirectorConfig => "DirectorConfig",
        }
    }

    /// `apiVersion` of its manifests.
    pub const fn api_version(self) -> &'static str {
        match self {
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            _ => API_VERSION,
        }
    }

    /// Whether its objects live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Kind::VrrpGroup | Kind::Director | Kind::DirectorConfig)
    }

    /// Whether users write it; the others are the operator's.
    pub const fn is_written_by_users(self) -> bool {
        !matches!(self, Kind::VirtualServiceBinding | Kind::NatRuleBinding | Kind::DirectorConfig)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object that users write.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// An address and ports spread over real servers.
    VirtualService(Box<VirtualService>),
    /// How a real server shows that it is alive.
    HealthCheck(Box<HealthCheck>),
    /// Addresses that are on exactly one director.
    VrrpGroup(Box<VrrpGroup>),
    /// Address translation beside IPVS.
    NatRule(Box<NatRule>),
    /// One machine with an agent.
    Director(Box<Director>),
    /// Endpoints of a Service.
    EndpointSlice(Box<EndpointSlice>),
}

impl Object {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Object::VirtualService(_) => Kind::VirtualService,
            Object::HealthCheck(_) => Kind::HealthCheck,
            Object::VrrpGroup(_) => Kind::VrrpGroup,
            Object::NatRule(_) => Kind::NatRule,
            Object::Director(_) => Kind::Director,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::VirtualService(object) => &object.metadata,
            Object::HealthCheck(object) => &object.metadata,
            Object::VrrpGroup(object) => &object.metadata,
            Object::NatRule(object) => &object.metadata,
            Object::Director(object) => &object.metadata,
            Object::EndpointSlice(object) => &object.metadata,
        }
    }

    /// Its name among all objects. A namespaced object without a namespace, or with an empty one, is in `default`.
    pub fn reference(&self) -> ObjectRef {
        let (kind, metadata) = (self.kind(), self.metadata());
        let namespace = metadata.namespace.clone().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".into());
        ObjectRef {
            kind,
            namespace: kind.is_namespaced().then_some(namespace),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// The name of an object among all objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, absent for kinds that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The reference of a namespaced or, with `None`, cluster-wide object.
    pub fn new(kind: Kind, namespace: Option<&str>, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: namespace.map(ToOwned::to_owned), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;
    use crate::validate::judge;

    #[test]
    fn an_object_without_a_namespace_is_in_default_however_that_is_written() {
        for (written, namespace) in
            [("", "default"), (", namespace: \"\"", "default"), (", namespace: tp", "tp")]
        {
            let text = format!(
                "apiVersion: bascule.dev/v1alpha1\nkind: HealthCheck\nmetadata: {{name: up{written}}}\nspec: {{tcp: {{}}}}\n"
            );
            let object = judge(&manifest::parse(&text).expect("YAML")[0].value).expect("a good manifest");
            assert_eq!(
                object.reference(),
                ObjectRef::new(Kind::HealthCheck, Some(namespace), "up"),
                "{text}"
            );
        }
    }
}
