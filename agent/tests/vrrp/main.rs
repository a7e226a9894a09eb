//! VRRP on a real kernel: directors as network namespaces, real sockets, real addresses. Needs root, `ip`, `nft` and `ping`, but no IPVS; without
//! rights the tests say "not run here" and pass, or fail when BASCULE_KERNEL_TESTS=require.

mod accept;
mod agent;
mod groups;
mod interop;
mod mac;
mod nat;
mod net;
mod pair;
mod peers;
mod routing;
mod services;
mod track;
mod upgrades;
