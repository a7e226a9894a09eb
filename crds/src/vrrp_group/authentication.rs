//! How advertisements are authenticated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, SecretKeyRef, SecretSource, between, exactly_one, shape};
use crate::rules::vrrp_group as rules;

/// How advertisements are authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["hmac", "simple"])]))]
pub struct Authentication {
    /// HMAC-SHA256 in a trailer, as keepalived 2.4 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac: Option<Hmac>,
    /// The plain password of version 2 (keepalived: auth_type PASS): it keeps out mistakes, no attacker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simple: Option<SecretSource>,
}

/// HMAC of the advertisements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::hmac()))]
pub struct Hmac {
    /// Keys that are accepted, 1 to 8: several while keys are rotated (heartbeat: authkeys).
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub keys: Vec<HmacKey>,
    /// Id of the key that signs.
    #[schemars(range(min = 1, max = 255))]
    pub active_key: u8,
    /// `Enforce` accepts only what is signed, `Permissive` signs and accepts what is not, `ReceiveOnly` verifies and does not
    /// sign: a roll-out in three steps without a gap. Default: Enforce.
    #[serde(default)]
    pub mode: HmacMode,
    /// How repeated packets are told: `Time` wants the sender's clock within `window`, `Monotonic` only that it grows. Default:
    /// Time.
    #[serde(default)]
    pub anti_replay: AntiReplay,
    /// How far the clocks may be apart, with Time, 1s to 300s. Default: three advertisement intervals, at least 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1s", "300s")))]
    pub window: Option<Duration>,
}

/// A key of 32 to 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["secretRef", "file"])]))]
pub struct HmacKey {
    /// Its id on the wire, 1 to 255.
    #[schemars(range(min = 1, max = 255))]
    pub id: u8,
    /// A key of a Secret in the release's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Absolute path of a file on the director. A file that others can read is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::AbsolutePath>")]
    pub file: Option<String>,
}

/// What is signed and what is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HmacMode {
    /// Signs, accepts only what is signed.
    #[default]
    Enforce,
    /// Signs, accepts all.
    Permissive,
    /// Verifies, does not sign.
    ReceiveOnly,
}

/// How repeated packets are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AntiReplay {
    /// By time.
    #[default]
    Time,
    /// By growth alone.
    Monotonic,
}
