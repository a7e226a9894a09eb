//! The node agent: manifests become IPVS services, addresses and rules of this machine's kernel.

pub mod manifests {
    //! For a moment.
    pub mod disk;
    pub mod problem;
    pub mod watch;
    pub use disk::FileName;
}
pub mod plane;
pub mod reconcile;
pub mod state;
