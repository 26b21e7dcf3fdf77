//! The request of the verb `squash`, as `docs/architecture.md` has it.

use std::os::fd::RawFd;

use serde::Deserialize;

use crate::plan::Identity;
use crate::request::Asking;
use crate::text::Text;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Lowest first.
    pub layers: Vec<LayerRecord>,
    pub output: OutputRecord,
    #[serde(default = "default_compressor")]
    pub compressor: String,
    #[serde(default)]
    pub level: Option<i32>,
    #[serde(default = "default_block_size")]
    pub block_size: u32,
    #[serde(default)]
    pub epoch: Option<u32>,
    #[serde(default)]
    pub threads: usize,
    #[serde(default)]
    pub ids: Ids,
    #[serde(default)]
    pub modes: Modes,
    #[serde(default)]
    pub identity: Option<Identity>,
    #[serde(default)]
    pub exclude: Vec<Text>,
    pub events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

#[derive(Deserialize)]
pub struct OutputRecord {
    pub fd: i32,
    #[serde(default)]
    pub offset: u64,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Whiteouts {
    /// There are none.
    #[default]
    None,
    /// Marks of overlayfs are carried out.
    Overlay,
    /// They go into the image, which is to be a layer itself.
    Keep,
}

/// Whose the files of a directory are.
#[derive(Deserialize, PartialEq, Eq, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    #[default]
    Own,
    /// As recorded beside them (`owner`); of the rest, what takes the place of a lower layer's file has that one's owner.
    Below,
    /// As recorded, for whoever reads what is made of it as `Below`.
    Kept,
}

/// Whose the files of the image are.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Modes {
    #[default]
    Keep,
    /// The owner may read and write every file, and enter every directory.
    Owner,
}

#[derive(Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    #[default]
    Keep,
    Root,
}

#[derive(Deserialize)]
#[serde(try_from = "Fields")]
pub enum LayerRecord {
    Tar {
        fd: Option<i32>,
        path: Option<Text>,
        owners: Owners,
    },
    Directory {
        path: Text,
        whiteouts: Whiteouts,
        /// No file of the layer is younger; see `layers::directory::Reading`.
        clamp: Option<u32>,
        /// Patterns of paths that are not read.
        without: Vec<Text>,
        owners: Owners,
        /// Where owners of links and pipes are noted, and whose new files are; see `layers::directory::Kept`.
        notes: Option<Text>,
        maker: (u32, u32),
    },
    Squashfs {
        path: Text,
        offset: u64,
        size: u64,
        whiteouts: Whiteouts,
        without: Vec<Text>,
        owners: Owners,
        /// How the writer of this program has packed it, where it has.
        packed: Option<Packing>,
    },
}

/// How an image's contents are packed.
#[derive(Deserialize, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Packing {
    pub compressor: String,
    pub level: Option<i32>,
    pub block_size: u32,
}

/// A union by hand: the derived one would not hand strings on as bytes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    kind: String,
    #[serde(default)]
    fd: Option<i32>,
    #[serde(default)]
    path: Option<Text>,
    #[serde(default)]
    whiteouts: Whiteouts,
    #[serde(default)]
    clamp: Option<u32>,
    #[serde(default)]
    without: Vec<Text>,
    #[serde(default)]
    owners: Owners,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    packed: Option<Packing>,
    #[serde(default)]
    notes: Option<Text>,
    #[serde(default)]
    maker: (u32, u32),
}

impl TryFrom<Fields> for LayerRecord {
    type Error = String;

    fn try_from(fields: Fields) -> Result<LayerRecord, String> {
        let path = |path: Option<Text>| path.ok_or_else(|| "a layer has no path".to_owned());
        Ok(match fields.kind.as_str() {
            "tar" => LayerRecord::Tar { fd: fields.fd, path: fields.path, owners: fields.owners },
            "directory" => LayerRecord::Directory {
                path: path(fields.path)?,
                whiteouts: fields.whiteouts,
                clamp: fields.clamp,
                without: fields.without,
                owners: fields.owners,
                notes: fields.notes,
                maker: fields.maker,
            },
            "squashfs" => LayerRecord::Squashfs {
                path: path(fields.path)?,
                offset: fields.offset,
                size: fields.size,
                whiteouts: fields.whiteouts,
                without: fields.without,
                owners: fields.owners,
                packed: fields.packed,
            },
            other => return Err(format!("a layer has the unknown kind `{other}`")),
        })
    }
}

fn default_compressor() -> String {
    "zstd".into()
}

fn default_block_size() -> u32 {
    131072
}
