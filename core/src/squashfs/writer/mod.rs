//! Writes squashfs images: data blocks as they come, compressed on all processors in a fixed order; then the tables.
//!
//! The same input gives the same bytes, whatever the number of threads and however the input was cut up.

mod data;
mod pipeline;
mod tables;

pub use data::{Contents, DataWriter};
pub use pipeline::{Output, Pipeline};
pub use tables::{Finished, Parts, write_tables};

/// Where the content of one file stands in the image.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// Position of the first block, relative to the image.
    pub start: u64,
    /// Size words of the blocks.
    pub words: Box<[u32]>,
    /// Fragment block and offset in it, for a file smaller than a block.
    pub tail: Option<(u32, u32)>,
    /// Bytes of blocks that are not stored, being zeros.
    pub sparse: u64,
}

/// A fragment block as the fragment table has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fragment {
    pub position: u64,
    pub word: u32,
}
