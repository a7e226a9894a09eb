//! Real networks of namespaces on this machine's kernel: built, broken, healed, rebooted and removed. Needs root, veth, bridges and
//! nftables' bridge family; not IPVS.

mod boot;
mod built;
mod common;
mod dumps;
mod faults;
mod left;
