//! The executor of a plan: namespaces, mounts, identity, confinement, the payload.

pub mod failure;
pub mod identity;
pub mod kernel;
