//! Layers: what a tar, a directory, an overlay's upper directory or a squashfs image says about a tree, and how
//! several of them become one.
//!
//! A layer is read once, as a stream of [`Entry`]; the content of files goes straight to the writer, which gives
//! back a handle. The merge ([`tree`]) then works on entries and handles alone.

mod compiled;
pub mod directory;
pub mod shadow;
pub mod squashfs;
pub mod stream;
pub mod tar;
pub mod tree;

use std::fmt;
use std::sync::Arc;

use crate::request::Refusal;
use crate::squashfs::format::XATTR_PREFIXES;
use crate::squashfs::inode::Xattrs;

/// A path inside the tree: components joined by `/`, no leading or trailing one, no `.` or `..`; the root is empty.
pub type Path = Vec<u8>;

/// Owner, permissions, time and attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, the lowest twelve.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; earlier times are 1970.
    pub mtime: u32,
    /// Sorted by name; shared between entries that have the same.
    pub xattrs: Option<Arc<Xattrs>>,
}

/// Where the content of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Given to the writer, which knows it by this number.
    Written(u32),
    /// Passed over, because an upper layer seemed to hide it: the n-th entry of layer `layer`.
    Skipped { layer: u32, entry: u32 },
    /// Stored blocks of the squashfs image that is layer `layer`, to be copied as they are: an inode reference.
    Stored { layer: u32, reference: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Directory,
    File {
        size: u64,
        content: Content,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// Basic type of the inode (block or character device) and its number as the format has it.
    Device {
        kind: u16,
        number: u32,
    },
    Fifo,
    /// A further name of the file at `target`.
    HardLink {
        target: Path,
    },
    /// The lower layers' entry of this path is gone.
    Whiteout,
    /// What the lower layers have in this directory is gone.
    Opaque,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Path,
    pub attributes: Attributes,
    pub what: What,
}

/// Why a layer, or the whole, could not be made into an image. `code` is a word that Python knows.
#[derive(Debug)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
    pub path: Option<String>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal { code: failure.code, message: failure.message, path: failure.path }
    }
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Hostile or damaged input.
    pub fn corrupt(message: impl Into<String>) -> Failure {
        Failure { code: "corrupt", message: message.into(), path: None }
    }

    pub fn at(mut self, path: &[u8]) -> Failure {
        self.path.get_or_insert_with(|| String::from_utf8_lossy(path).into_owned());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        let code = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EFBIG) => "no-space",
            Some(libc::EDQUOT) => "quota",
            // What decoders and the tar reader say of their input.
            _ if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
            {
                "corrupt"
            }
            _ => "io",
        };
        Failure { code, message: error.to_string(), path: None }
    }
}

impl From<crate::squashfs::format::Error> for Failure {
    fn from(error: crate::squashfs::format::Error) -> Failure {
        match error {
            crate::squashfs::format::Error::Io(error) => error.into(),
            other => Failure::corrupt(other.to_string()),
        }
    }
}

/// Fills a buffer with what is stored of a file's packed blocks from some offset on.
pub type PackedReader<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> std::io::Result<()>;

/// Where readers of layers put the content of files.
pub trait Sink {
    /// Begins a file; blocks follow by [`Sink::write`], zeros by [`Sink::hole`].
    fn begin(&mut self, size: u64) -> Result<()>;
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    fn hole(&mut self, length: u64) -> Result<()>;
    /// Ends the file; its number.
    fn finish(&mut self) -> Result<u32>;
    /// A whole file as blocks that are packed just as the output packs; its number. Nobody else is given any.
    fn packed(&mut self, _: u64, _: &[u32], _: PackedReader<'_>) -> Result<u32> {
        Err(Failure::corrupt("packed blocks are not wanted"))
    }
    /// Something worth telling that does not stop the work.
    fn warn(&mut self, message: String);
}

/// Directories inside one another: no honest tree is deeper, and walking one takes memory or a descriptor for each.
pub const DEEPEST: usize = 1000;
/// Most entries of one layer, and most bytes of their names and attributes: what is kept in memory.
pub const MOST_ENTRIES: usize = 20_000_000;
pub const MOST_METADATA: usize = 1 << 30;
/// Largest value of an extended attribute (XATTR_SIZE_MAX of the kernel).
const LARGEST_XATTR: usize = 65536;

/// What becomes of an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrFate {
    Kept,
    /// It speaks of the machine or the tool that made the layer, not of the file: dropped.
    OfTheHost,
    /// The format has no place for it: dropped, and told.
    LeftOut,
}

pub fn xattr_fate(name: &[u8], size: usize) -> XattrFate {
    // Rootless tools keep owners in the first; soliton records owners as they are.
    if name == b"user.rootlesscontainers" || name == b"security.selinux" {
        return XattrFate::OfTheHost;
    }
    let has_place = XATTR_PREFIXES
        .iter()
        .any(|prefix| name.strip_prefix(prefix.as_bytes()).is_some_and(|rest| !rest.is_empty()));
    if has_place && name.len() <= 255 && !name.contains(&0) && size <= LARGEST_XATTR {
        XattrFate::Kept
    } else {
        XattrFate::LeftOut
    }
}

/// What the marks of overlayfs are in a layer: devices of number 0, and attributes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Nothing special: devices are devices.
    Ordinary,
    /// They remove what lower layers have.
    CarriedOut,
    /// They stay what they are, in one spelling, since the image is to be a layer of a stack.
    Kept,
}

/// The attribute by which a layer that is kept says that a directory hides those of its name below (overlayfs(7)).
pub const OPAQUE_MARK: &[u8] = b"user.overlay.opaque";

/// What overlayfs writes as [`OPAQUE_MARK`], as a user's and as the administrator's.
pub fn is_opaque_mark(name: &[u8], value: &[u8]) -> bool {
    (name == OPAQUE_MARK || name == b"trusted.overlay.opaque") && value == b"y"
}

/// Splits a name of a layer into its clean form: `./` and doubled or trailing slashes are dropped, a leading slash
/// too. `..` is refused: nothing honest has it.
pub fn clean_path(name: &[u8]) -> Result<Path> {
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Failure::corrupt("a path with `..` leads out of the image").at(name)),
            _ if component.len() > 255 || component.contains(&0) => {
                return Err(Failure::corrupt("a name is longer than 255 bytes or has a NUL").at(name));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > 16384 {
        return Err(Failure::corrupt("a path is longer than 16384 bytes").at(&path[..100]));
    }
    Ok(path)
}

/// Parent and last component.
pub fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}
