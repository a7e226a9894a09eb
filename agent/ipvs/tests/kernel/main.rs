//! Against the IPVS of a real kernel: what we write, `ipvsadm` prints; what `ipvsadm` writes, we read.
//!
//! Needs root, `ipvsadm` and `ip`. Where the kernel has no IPVS the tests say "not run here" and pass, or fail when
//! BASCULE_KERNEL_TESTS=require.

mod batches;
mod errors;
mod namespace;
mod others;
mod rules;
mod traffic;
