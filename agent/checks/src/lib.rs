//! The probes of health checks: each connects to a target and says in an [`Outcome`] what it found.
//!
//! A [`Prober`] makes a [`Probe`] and a [`Target`] ready, once; [`Prepared::run`] then probes as often as wanted. A run never
//! takes longer than it may, holds little memory whatever comes (the bounds are in [`answer`]), and closes its sockets when it
//! is dropped. It needs a tokio runtime with I/O and time, and neither takes a thread nor waits for another probe, but to match a
//! large regular expression.
//!
//! ```
//! use std::time::Duration;
//! use bascule_checks::{Http, Probe, Prober, Settings, Target};
//!
//! # async fn example() -> Result<(), bascule_checks::PrepareError> {
//! let prober = Prober::new(Settings { helo: "dir1".into() });
//! let probe = Probe::Http(Http { path: "/index.html".into(), ..Http::default() });
//! let target = Target { address: [172, 16, 193, 10].into(), port: 80, source: None, mark: None };
//! let outcome = prober.prepare(&probe, &target)?.run(Duration::from_secs(3)).await;
//! assert_eq!(outcome.message(), "GET /index.html: 200");
//! # Ok(())
//! # }
//! ```

pub mod answer;
mod course;
mod dns;
mod error;
mod hex;
mod http;
mod ping;
mod probe;
mod prober;
mod smtp;
mod socket;
mod tcp;
mod tls;
mod udp;
mod words;

pub use bascule_checks_core::Outcome;

pub use answer::dns::{QueryName, RecordType};
pub use error::{FetchError, Invalid, PrepareError};
pub use http::{PATTERN_MAX, Page};
pub use probe::{
    Digest, Dns, Http, Method, Pattern, Ping, Probe, Smtp, StatusCodes, Target, Tls, Transport, Udp, Verify,
    Version,
};
pub use prober::{Prepared, Prober, Settings};
pub use tls::AUTHORITIES_MAX;
