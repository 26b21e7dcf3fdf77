//! Squashfs 4.0: the format, its codecs, a lazy reader and a deterministic parallel writer.
//!
//! The format is described by the kernel's `Documentation/filesystems/squashfs.rst`; where its text is
//! silent, what the kernel's reader and squashfs-tools accept is the measure.

mod cache;
pub mod codec;
pub mod directory;
pub mod format;
pub mod inode;
pub mod lzo;
pub mod metadata;
pub mod reader;
pub mod writer;
