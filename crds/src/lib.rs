//! The API types of Bascule: what users write and what the operator writes for agents.
//!
//! - One module a kind, with its types. Their doc comments are the text of `kubectl explain`.
//! - [`object`]: a manifest of any kind that users write.
//! - [`schema`]: the schemas, for a cluster and for editors.
//! - [`validate`]: the same judgement as the API server's, in-process.

pub mod binding;
pub mod common;
pub mod director;
pub mod director_config;
pub mod forwarding;
pub mod generate;
pub mod health_check;
pub mod manifest;
pub mod nat_rule;
pub mod object;
mod rules;
pub mod schema;
pub mod validate;
pub mod virtual_service;
pub mod vrrp_group;

pub use binding::{NatRuleBinding, NatRuleBindingSpec, VirtualServiceBinding, VirtualServiceBindingSpec};
pub use director::{Director, DirectorSpec};
pub use director_config::{DirectorConfig, DirectorConfigSpec};
pub use forwarding::{ForwardingMethod, SourceNat};
pub use health_check::{HealthCheck, HealthCheckSpec};
pub use nat_rule::{NatRule, NatRuleSpec};
pub use object::{Kind, Object, ObjectRef};
pub use virtual_service::{VirtualService, VirtualServiceSpec};
pub use vrrp_group::{VrrpGroup, VrrpGroupSpec};
