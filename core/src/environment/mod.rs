//! The image's environment scripts, `/.singularity.d/env/*.sh`, without the image's shell.
//!
//! Most of them only assign and export. Those are carried out here, with exactly the result a shell would have; whatever is
//! not certain to be the same in every POSIX shell is declined as a whole, and the caller lets the image's shell do it.

pub mod chain;
mod conditions;
pub mod entry;
mod evaluate;
mod expand;
mod files;
mod parser;
mod pattern;
mod syntax;
mod words;

pub use evaluate::{Declined, Interpreter, Step, is_name};
