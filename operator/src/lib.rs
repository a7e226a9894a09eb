//! The operator: watches what users write, compiles it, writes bindings and configurations for the agents, and says in the
//! users' objects what became of them.
//!
//! Pure in the middle, I/O at the edge:
//! - [`index`] holds everything that is watched, as it is in the API server.
//! - [`core`] feeds what changed to the compiler and says what is to be written: specs by [`plan`], statuses by [`status`].
//! - [`outbox`] decides when a write is begun, and what becomes of one that failed.
//! - [`election`] decides who may write at all.
//! - [`flush`] is another program: it has the agents take everything away, before all this is removed.
//! - [`api`] and [`worker`] do what these say; [`http`] shows it.

pub mod api;
pub mod bound;
pub mod cli;
pub mod core;
pub mod election;
pub mod flush;
pub mod http;
pub mod index;
pub mod names;
pub mod outbox;
pub mod plan;
pub mod status;
pub mod tally;
pub mod worker;
