//! The verb `squash`, run as Python runs it; what it writes is read by other programs.

mod core;
mod determinism;
mod judges;
mod layers;
mod tar;
mod trees;
