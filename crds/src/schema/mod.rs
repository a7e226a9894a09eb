//! The schemas of all kinds: CustomResourceDefinitions for a cluster, JSON Schemas for editors. Both are made from the types.
//!
//! They are JSON values, in the form in which they are written and installed; what schemars and kube derive is brought into
//! the form that Kubernetes calls structural by [`structural`].

mod endpoint_slice;
mod structural;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResourceExt;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::object::Kind;
use crate::{
    Director, DirectorConfig, HealthCheck, NatRule, NatRuleBinding, VirtualService, VirtualServiceBinding,
    VrrpGroup, binding, director, director_config, health_check, nat_rule, virtual_service, vrrp_group,
};

/// Longest name of an object that users write: it must also fit into a label.
pub const MAX_NAME: usize = 63;

/// The CustomResourceDefinition of a kind, as it is installed. None for kinds that are not Bascule's.
pub fn crd(kind: Kind) -> Option<Value> {
    let derived = derived(kind)?;
    let mut crd = serde_json::to_value(derived).expect("a CustomResourceDefinition is JSON");
    let version = &mut crd["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"] = schema(kind);
    Some(crd)
}

/// The CustomResourceDefinition of a kind as a typed object.
pub fn custom_resource_definition(kind: Kind) -> Option<CustomResourceDefinition> {
    Some(serde_json::from_value(crd(kind)?).expect("what was made from one is one"))
}

fn derived(kind: Kind) -> Option<CustomResourceDefinition> {
    Some(match kind {
        Kind::VirtualService => VirtualService::crd(),
        Kind::HealthCheck => HealthCheck::crd(),
        Kind::VrrpGroup => VrrpGroup::crd(),
        Kind::NatRule => NatRule::crd(),
        Kind::Director => Director::crd(),
        Kind::VirtualServiceBinding => VirtualServiceBinding::crd(),
        Kind::NatRuleBinding => NatRuleBinding::crd(),
        Kind::DirectorConfig => DirectorConfig::crd(),
        Kind::EndpointSlice => return None,
    })
}

/// The structural schema of a kind: type `object`, with `spec` and `status`.
pub fn schema(kind: Kind) -> Value {
    let mut schema = for_judging(kind);
    let described = |crd: CustomResourceDefinition| {
        crd.spec.versions.into_iter().next()?.schema?.open_api_v3_schema?.description
    };
    if let Some(description) = derived(kind).and_then(described) {
        schema["description"] = description.into();
    }
    schema
}

/// [`schema`] without the description of the kind, for which all is derived a second time: an agent should not wait for that when it starts.
pub(crate) fn for_judging(kind: Kind) -> Value {
    match kind {
        Kind::VirtualService => {
            root::<virtual_service::VirtualServiceSpec, virtual_service::VirtualServiceStatus>(kind)
        }
        Kind::HealthCheck => root::<health_check::HealthCheckSpec, health_check::HealthCheckStatus>(kind),
        Kind::VrrpGroup => root::<vrrp_group::VrrpGroupSpec, vrrp_group::VrrpGroupStatus>(kind),
        Kind::NatRule => root::<nat_rule::NatRuleSpec, nat_rule::NatRuleStatus>(kind),
        Kind::Director => root::<director::DirectorSpec, director::DirectorStatus>(kind),
        Kind::VirtualServiceBinding => {
            root::<binding::VirtualServiceBindingSpec, binding::VirtualServiceBindingStatus>(kind)
        }
        Kind::NatRuleBinding => root::<binding::NatRuleBindingSpec, binding::NatRuleBindingStatus>(kind),
        Kind::DirectorConfig => {
            let mut schema =
                root::<director_config::DirectorConfigSpec, director_config::DirectorConfigStatus>(kind);
            let groups = &mut schema["properties"]["spec"]["properties"]["vrrp"]["items"];
            let instance = &mut groups["properties"]["instances"]["items"];
            if let Some(rules) = instance["x-kubernetes-validations"].as_array_mut() {
                rules.push(crate::rules::vrrp_group::label());
            }
            let instance = &mut instance["properties"];
            // The operator copies them from a VrrpGroup, where each was judged. For so many groups, instances and addresses
            // the rule could cost more than the API server allows.
            if let Some(address) = instance["excludedAddresses"]["items"].as_object_mut() {
                address.remove("x-kubernetes-validations");
            }
            schema
        }
        Kind::EndpointSlice => endpoint_slice::schema(),
    }
}

fn root<Spec: JsonSchema, Status: JsonSchema>(kind: Kind) -> Value {
    let mut properties = json!({"spec": of::<Spec>(), "status": of::<Status>()});
    if kind.is_written_by_users() {
        // The API server's own bound is 253.
        properties["metadata"] =
            json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": MAX_NAME}}});
    }
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": properties,
    })
}

/// The structural schema of a type.
fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural::restructure(&mut schema);
    schema
}

/// The schema of `metadata`, which no CustomResourceDefinition contains: the API server knows it.
pub fn metadata() -> Value {
    let mut schema = of::<ObjectMeta>();
    // Its fields are the names of fields; the type names none.
    let managed = &mut schema["properties"]["managedFields"]["items"]["properties"]["fieldsV1"];
    managed["x-kubernetes-preserve-unknown-fields"] = true.into();
    schema
}

/// A JSON Schema (2020-12) of a kind's manifests for editors: it has what JSON Schema can say; the CEL rules are not in it.
pub fn json_schema(kind: Kind) -> Value {
    let mut schema = schema(kind);
    schema["properties"]["metadata"] = metadata();
    if kind.is_written_by_users() && kind != Kind::EndpointSlice {
        schema["properties"]["metadata"]["properties"]["name"]["maxLength"] = MAX_NAME.into();
    }
    schema["properties"]["metadata"]["required"] = json!(["name"]);
    schema["properties"]["apiVersion"] = json!({"const": kind.api_version()});
    schema["properties"]["kind"] = json!({"const": kind.as_str()});
    let mut required = vec!["apiVersion", "kind", "metadata"];
    if kind != Kind::EndpointSlice {
        required.push("spec");
    }
    schema["required"] = json!(required);
    structural::for_editors(&mut schema);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = kind.as_str().into();
    schema
}
