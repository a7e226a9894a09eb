//! One write, and what became of it.

use std::time::Duration;

use bascule_crds::{
    Director, DirectorConfig, HealthCheck, Kind, NatRule, NatRuleBinding, Object, VirtualService,
    VirtualServiceBinding, VrrpGroup,
};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, ValidationDirective,
};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::watch::version;
use crate::index::{Heard, Item, Place, Source};
use crate::names::{MANAGER, STATUS_MANAGER};
use crate::plan::{Action, Part, Target, Write};

/// Why a write was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object has changed since, or is gone.
    Conflict,
    /// The same would be refused again; the server's words.
    Refused(String),
    /// It may succeed later, in so long if the server says so; why not now.
    Later(Option<Duration>, String),
}

/// Carries a write out. The caller bounds the time.
pub async fn perform(client: &Client, write: &Write) -> Result<Heard, Failure> {
    let Write { target, action } = write;
    let source = Source::of(target.kind)
        .ok_or_else(|| Failure::Refused(format!("{} is not written by the operator", target.kind)))?;
    let resource = resource(target.kind);
    let api: Api<DynamicObject> = if target.kind.is_namespaced() {
        Api::namespaced_with(client.clone(), &target.place.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    let name = &target.place.name;
    let answer = match action {
        Action::Apply(body) => {
            let patch = Patch::Apply(body);
            match target.part {
                Part::Spec => api.patch(name, &params(MANAGER), &patch).await,
                Part::Status => api.patch_status(name, &params(STATUS_MANAGER), &patch).await,
            }
        }
        Action::Strip { version, pointers } => strip(client, &resource, target, version, pointers).await,
        Action::Delete { uid, version } => {
            let preconditions = Preconditions { uid: uid.clone(), resource_version: version.clone() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let deleted = || Heard::Deleted(source, target.place.clone(), uid.clone());
            return match api.delete(name, &params).await {
                Ok(_) => Ok(deleted()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(deleted()),
                Err(error) => Err(failure(&error)),
            };
        }
    };
    heard(source, answer.map_err(|error| failure(&error))?)
}

fn params(manager: &str) -> PatchParams {
    PatchParams {
        // A server with older definitions says so, instead of leaving away what it does not know.
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(manager).force()
    }
}

/// Removes what others have added, with a JSON patch (RFC 6902): so nobody owns it afterwards, not even we.
async fn strip(
    client: &Client,
    resource: &ApiResource,
    target: &Target,
    version: &str,
    pointers: &[String],
) -> kube::Result<DynamicObject> {
    let mut operations = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
    operations.extend(pointers.iter().map(|pointer| json!({"op": "remove", "path": pointer})));
    let namespace = target.kind.is_namespaced().then_some(target.place.namespace.as_str());
    let url = <DynamicObject as kube::Resource>::url_path(resource, namespace);
    let manager = match target.part {
        Part::Spec => MANAGER,
        Part::Status => STATUS_MANAGER,
    };
    let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
    let patch = Patch::Merge(Value::Array(operations));
    let (request, name) = (kube::core::Request::new(url), &target.place.name);
    let request = match target.part {
        Part::Spec => request.patch(name, &params, &patch),
        Part::Status => request.patch_subresource("status", name, &params, &patch),
    };
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    let kind = axum::http::HeaderValue::from_static("application/json-patch+json");
    request.headers_mut().insert(axum::http::header::CONTENT_TYPE, kind);
    client.request(request).await
}

fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::VirtualService | Kind::EndpointSlice => ApiResource::erase::<VirtualService>(&()),
        Kind::HealthCheck => ApiResource::erase::<HealthCheck>(&()),
        Kind::VrrpGroup => ApiResource::erase::<VrrpGroup>(&()),
        Kind::NatRule => ApiResource::erase::<NatRule>(&()),
        Kind::Director => ApiResource::erase::<Director>(&()),
        Kind::VirtualServiceBinding => ApiResource::erase::<VirtualServiceBinding>(&()),
        Kind::NatRuleBinding => ApiResource::erase::<NatRuleBinding>(&()),
        Kind::DirectorConfig => ApiResource::erase::<DirectorConfig>(&()),
    }
}

fn heard(source: Source, mut object: DynamicObject) -> Result<Heard, Failure> {
    object.managed_fields_mut().clear();
    object.metadata.managed_fields = None;
    let place = Place::of(&object.metadata);
    let version = version(object.metadata.resource_version.as_deref());
    let unreadable = |error: kube::core::dynamic::ParseDynamicObjectError| {
        Failure::Refused(format!("the API server's answer cannot be read: {error}"))
    };
    macro_rules! user {
        ($kind:ident) => {
            Item::User(Object::$kind(Box::new(object.try_parse().map_err(unreadable)?)))
        };
    }
    let item = match source {
        Source::VirtualService => user!(VirtualService),
        Source::HealthCheck => user!(HealthCheck),
        Source::VrrpGroup => user!(VrrpGroup),
        Source::NatRule => user!(NatRule),
        Source::Director => user!(Director),
        Source::VirtualServiceBinding => {
            Item::Binding(object.try_parse::<VirtualServiceBinding>().map_err(unreadable)?.into())
        }
        Source::NatRuleBinding => {
            Item::Binding(object.try_parse::<NatRuleBinding>().map_err(unreadable)?.into())
        }
        Source::DirectorConfig => Item::Config(Box::new(object.try_parse().map_err(unreadable)?)),
        Source::Node | Source::Lease => {
            return Err(Failure::Refused(format!("{source} is not written by the operator")));
        }
    };
    Ok(Heard::Written(source, place, version, Box::new(item)))
}

/// What an error means for the next try.
fn failure(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else { return Failure::Later(None, super::causes(error)) };
    let wish =
        status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
    let wish = wish.map(|seconds| Duration::from_secs(seconds.into()));
    match status.code {
        404 | 409 => Failure::Conflict,
        400 | 403 | 405 | 413 | 415 | 422 => Failure::Refused(status.message.clone()),
        _ => Failure::Later(wish, format!("{} {}", status.code, status.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_consequence() {
        let answer = |code, retry_after_seconds| {
            let answer =
                json!({"code": code, "message": "m", "details": {"retryAfterSeconds": retry_after_seconds}});
            failure(&kube::Error::Api(Box::new(serde_json::from_value(answer).unwrap())))
        };
        for code in [404, 409] {
            assert_eq!(answer(code, 0), Failure::Conflict, "{code}");
        }
        for code in [400, 403, 413, 422] {
            assert_eq!(answer(code, 0), Failure::Refused("m".into()), "{code}");
        }
        for code in [401, 408, 429, 500, 502, 503, 504] {
            assert_eq!(answer(code, 0), Failure::Later(None, format!("{code} m")), "{code}");
            let wish = Some(Duration::from_secs(3));
            assert_eq!(answer(code, 3), Failure::Later(wish, format!("{code} m")), "{code}");
        }
        let broken = kube::Error::Service("connection refused".into());
        assert!(matches!(failure(&broken), Failure::Later(None, _)));
    }

    #[test]
    fn what_is_written_has_an_address() {
        for source in Source::ALL {
            let Some(kind) = source.kind() else { continue };
            assert_eq!(resource(kind).kind, kind.as_str());
        }
    }
}
