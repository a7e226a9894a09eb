//! Networks of namespaces, played failures, and what happened.
//!
//! [`scenario`] is the language; [`world`] builds its network; [`programs`] run in the nodes; [`fault`] breaks things and proves it;
//! [`run`] plays the steps and writes the results; [`expect`] judges records without touching the system;
//! [`compare`] puts results side by side; `import` reads topologies of others; `annotate` says what recorded frames mean, `report` makes a page of it all; [`vm`] is the machine for
//! kernels that lack something; `chaos` breaks things at random; [`doctor`] says what is there; [`inspect`] says how what is up is now; [`bench`] measures; [`cli`] is the program.

mod annotate;
pub mod bench;
mod canary;
mod cancel;
mod chaos;
pub mod cli;
pub mod compare;
pub mod doctor;
pub mod expect;
pub mod fault;
mod import;
pub mod inspect;
pub mod programs;
mod random;
mod report;
pub mod run;
pub mod scenario;
pub mod vm;
pub mod world;
