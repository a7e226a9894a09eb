//! The data planes against a real kernel, each test in network namespaces of its own.
//!
//! Needs root, `ip`, `ipvsadm` and `nft`. Where the kernel has no IPVS the tests that need it say "not run here" and pass, or
//! fail when BASCULE_KERNEL_TESTS=require. Those of NatRules need none.

mod address;
mod agent;
mod checks;
mod ipvs;
mod nat;
mod nat_rules;
mod ownership;
mod pause;
mod refused;
mod scale;
mod sync;
mod sysctl;
mod traffic;
mod world;
