//! What is written: statuses, and the sign of life.

use std::time::Duration;

use bascule_crds::common::API_VERSION;
use bascule_crds::{DirectorConfig, NatRuleBinding, VirtualServiceBinding};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::connect::{Connection, PATIENCE, trouble};
use super::heard::{Place, Trouble, What};

/// Field manager of what this agent writes.
pub const MANAGER: &str = "bascule-agent";
/// What the name of a director's Lease begins with.
const LEASE: &str = "director-";
/// So long the Lease says that it holds, in seconds: the operator takes an agent for lost then.
const HOLDS: u32 = 40;

/// Why a status was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object is gone, or somebody changed it meanwhile: what the watch tells decides.
    Conflict,
    /// The same would be refused again; the server's words.
    Refused(String),
    /// It may succeed later, in so long if the server says so.
    Later(Option<Duration>, Trouble),
}

/// Applies a status. Bounded by [`PATIENCE`].
pub async fn status(
    connection: &Connection,
    what: What,
    place: &Place,
    status: &Value,
) -> Result<(), Failure> {
    let resource = match what {
        What::Bindings => ApiResource::erase::<VirtualServiceBinding>(&()),
        What::Rules => ApiResource::erase::<NatRuleBinding>(&()),
        What::Config => ApiResource::erase::<DirectorConfig>(&()),
        What::Checks => return Err(Failure::Refused("the status of HealthChecks is the operator's".into())),
        What::Slices => return Err(Failure::Refused("EndpointSlices have no status".into())),
    };
    let client = connection.client.clone();
    let api: Api<DynamicObject> = if place.namespace.is_empty() {
        Api::all_with(client, &resource)
    } else {
        Api::namespaced_with(client, &place.namespace, &resource)
    };
    let mut metadata = json!({"name": place.name});
    if !place.namespace.is_empty() {
        metadata["namespace"] = json!(place.namespace);
    }
    let body =
        json!({"apiVersion": API_VERSION, "kind": what.kind(), "metadata": metadata, "status": status});
    let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&body));
    let written = tokio::time::timeout(PATIENCE, api.patch_status(&place.name, &params, &patch)).await;
    match written {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(Failure::Later(None, late())),
    }
}

/// Renews the Lease of a director, or gives it up (`held` false). Bounded by `within`.
pub async fn lease(
    connection: &Connection,
    director: &str,
    held: bool,
    within: Duration,
) -> Result<(), Trouble> {
    let api: Api<Lease> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let name = format!("{LEASE}{director}");
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": connection.namespace},
        "spec": {
            "holderIdentity": if held { director } else { "" },
            "leaseDurationSeconds": HOLDS,
            // MicroTime wants six digits.
            "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        },
    });
    let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&body));
    match tokio::time::timeout(within, api.patch(&name, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(trouble(&error)),
        Err(_) => Err(late()),
    }
}

fn late() -> Trouble {
    Trouble::Lost(format!("no answer for {} s", PATIENCE.as_secs()))
}

/// What an error means for the next try.
fn failure(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else { return Failure::Later(None, trouble(error)) };
    let wish = status.details.as_ref().map(|details| details.retry_after_seconds);
    let wish = wish.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
    match status.code {
        404 | 409 => Failure::Conflict,
        400 | 403 | 405 | 413 | 415 | 422 => Failure::Refused(status.message.clone()),
        _ => Failure::Later(wish, trouble(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_consequence() {
        let answer = |code: u16, retry_after_seconds: u32| {
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
        for code in [429, 500, 503, 504] {
            let lost = Trouble::Lost(format!("{code} m"));
            assert_eq!(answer(code, 0), Failure::Later(None, lost.clone()), "{code}");
            assert_eq!(answer(code, 3), Failure::Later(Some(Duration::from_secs(3)), lost), "{code}");
        }
        assert!(matches!(answer(401, 0), Failure::Later(None, Trouble::Unknown(_))));
        let broken = kube::Error::Service("connection refused".into());
        assert!(matches!(failure(&broken), Failure::Later(None, Trouble::Lost(_))));
    }
}
