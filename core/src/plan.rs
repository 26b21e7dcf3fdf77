//! The plan: what a container is and sees, as plain data.
//!
//! The same records, with the same names and defaults, as `soliton/launch/plan.py`, where each field is
//! explained. Nothing here looks at the machine.
//!
//! Unions arrive as flat records with a `kind`. They are read through a record of all their fields and not
//! by serde's tagged enums: those keep strings as UTF-8 in between, which paths need not be.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::text::Text;

/// The version of the plan this core understands.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub uid_map: Vec<IdRange>,
    #[serde(default)]
    pub gid_map: Vec<IdRange>,
    #[serde(default)]
    pub newuidmap: Option<Text>,
    #[serde(default)]
    pub newgidmap: Option<Text>,
    #[serde(default)]
    pub groups: Vec<u32>,
    #[serde(default)]
    pub keep_groups: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    Stored,
    #[default]
    Caller,
}

/// Device and inode of what was looked at, if the plan says so.
pub type Seen = Option<(u64, u64)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRoot {
    pub path: Text,
    pub offset: u64,
    pub size: u64,
    pub ids: Ids,
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRoot {
    pub path: Text,
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtRoot {
    pub path: Text,
    pub offset: u64,
    pub size: u64,
    pub writable: bool,
    pub inside: Text,
    pub ids: Ids,
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RootRecord")]
pub enum Root {
    Image(ImageRoot),
    Directory(DirectoryRoot),
    Ext(ExtRoot),
    /// Lowest first; in all but the lowest the marks of overlayfs count. No stack holds a stack.
    Stack(Vec<Root>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RootRecord {
    kind: String,
    path: Option<Text>,
    #[serde(default)]
    layers: Vec<Root>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    ids: Ids,
    #[serde(default)]
    writable: bool,
    #[serde(default)]
    inside: Text,
    #[serde(default)]
    seen: Seen,
}

impl TryFrom<RootRecord> for Root {
    type Error = String;

    fn try_from(record: RootRecord) -> Result<Root, String> {
        match record.kind.as_str() {
            "image" => Ok(Root::Image(ImageRoot {
                path: needed(record.path, "path")?,
                offset: record.offset,
                size: record.size,
                ids: record.ids,
                seen: record.seen,
            })),
            "directory" => {
                let path = needed(record.path, "path")?;
                Ok(Root::Directory(DirectoryRoot { path, seen: record.seen }))
            }
            "ext" => Ok(Root::Ext(ExtRoot {
                path: needed(record.path, "path")?,
                offset: record.offset,
                size: record.size,
                writable: record.writable,
                inside: record.inside,
                ids: record.ids,
                seen: record.seen,
            })),
            "stack" if record.layers.len() < 2 => Err("a stack has two layers at least".into()),
            "stack" if record.layers.iter().any(|layer| matches!(layer, Root::Stack(_))) => {
                Err("a stack is inside a stack".into())
            }
            "stack" => Ok(Root::Stack(record.layers)),
            other => Err(format!("no root is of the kind `{other}`")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    #[default]
    Auto,
    Overlay,
    Underlay,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "SurfaceRecord")]
pub enum Surface {
    ReadOnly(Layer),
    Tmpfs { size: u64 },
    Upper { upper: Text, work: Text, image: Option<ExtRoot>, lock: Option<Text>, seen: Seen },
    Direct,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SurfaceRecord {
    kind: String,
    #[serde(default)]
    layer: Layer,
    size: Option<u64>,
    upper: Option<Text>,
    work: Option<Text>,
    image: Option<Root>,
    lock: Option<Text>,
    #[serde(default)]
    seen: Seen,
}

impl TryFrom<SurfaceRecord> for Surface {
    type Error = String;

    fn try_from(record: SurfaceRecord) -> Result<Surface, String> {
        match record.kind.as_str() {
            "read-only" => Ok(Surface::ReadOnly(record.layer)),
            "tmpfs" => Ok(Surface::Tmpfs { size: needed(record.size, "size")? }),
            "upper" => Ok(Surface::Upper {
                upper: needed(record.upper, "upper")?,
                work: needed(record.work, "work")?,
                lock: record.lock,
                seen: record.seen,
                image: match record.image {
                    None => None,
                    Some(Root::Ext(image)) => Some(image),
                    Some(_) => return Err("only an ext image has an upper directory inside".into()),
                },
            }),
            "direct" => Ok(Surface::Direct),
            other => Err(format!("no surface is of the kind `{other}`")),
        }
    }
}

fn needed<T>(value: Option<T>, field: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("the field `{field}` is missing"))
}

#[derive(Debug, Clone)]
pub struct Bind {
    pub source: Text,
    pub target: Text,
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub optional: bool,
    /// Left out where a link of the image leads its target to a place at which something is mounted already.
    pub apart: bool,
}

/// Something of another image: `source` inside `root`.
#[derive(Debug, Clone)]
pub struct DataBind {
    pub root: Root,
    pub source: Text,
    pub target: Text,
    pub read_only: bool,
}

/// A file system that a program of the host or of the container serves.
#[derive(Debug, Clone)]
pub struct FuseMount {
    pub argv: Vec<Text>,
    pub target: Text,
    pub host: bool,
    pub daemon: bool,
}

#[derive(Debug, Clone)]
pub struct Tmpfs {
    pub target: Text,
    pub size: u64,
    pub mode: u32,
}

#[derive(Debug, Clone)]
pub struct SynthesizedFile {
    pub target: Text,
    pub content: Text,
    pub mode: u32,
    pub owner: Option<(u32, u32)>,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub struct PasswdFile {
    pub uid: u32,
    pub gid: u32,
    pub name: Text,
    pub gecos: Text,
    pub home: Text,
    pub shell: Text,
    pub target: Text,
}

#[derive(Debug, Clone)]
pub struct GroupFile {
    pub groups: Vec<(Text, u32)>,
    pub member: Text,
    pub target: Text,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "MountRecord")]
pub enum Mount {
    Bind(Bind),
    Data(DataBind),
    Fuse(FuseMount),
    Tmpfs(Tmpfs),
    Proc {
        target: Text,
    },
    Sys {
        target: Text,
    },
    /// The tree of control groups, from the container's own on.
    Cgroups {
        target: Text,
    },
    Emulator {
        target: Text,
        rule: Text,
    },
    Dev {
        target: Text,
        minimal: bool,
        pts: bool,
    },
    File(SynthesizedFile),
    Passwd(PasswdFile),
    Group(GroupFile),
}

/// Every field of every mount; which of them count is the kind's matter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MountRecord {
    kind: String,
    target: Option<Text>,
    source: Option<Text>,
    root: Option<Root>,
    #[serde(default)]
    read_only: bool,
    nosuid: Option<bool>,
    nodev: Option<bool>,
    #[serde(default)]
    noexec: bool,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    apart: bool,
    size: Option<u64>,
    mode: Option<u32>,
    #[serde(default)]
    minimal: bool,
    pts: Option<bool>,
    content: Option<Text>,
    uid: Option<u32>,
    owner: Option<(u32, u32)>,
    gid: Option<u32>,
    name: Option<Text>,
    gecos: Option<Text>,
    home: Option<Text>,
    shell: Option<Text>,
    groups: Option<Vec<(Text, u32)>>,
    member: Option<Text>,
    #[serde(default)]
    argv: Vec<Text>,
    #[serde(default)]
    host: bool,
    #[serde(default)]
    daemon: bool,
    #[serde(default, rename = "origin")]
    _origin: Text,
}

impl MountRecord {
    fn target_or(&self, otherwise: &str) -> Text {
        self.target.clone().unwrap_or_else(|| Text::from(otherwise))
    }
}

impl TryFrom<MountRecord> for Mount {
    type Error = String;

    fn try_from(record: MountRecord) -> Result<Mount, String> {
        Ok(match record.kind.as_str() {
            "bind" => Mount::Bind(Bind {
                source: needed(record.source, "source")?,
                target: needed(record.target, "target")?,
                read_only: record.read_only,
                nosuid: record.nosuid.unwrap_or(true),
                nodev: record.nodev.unwrap_or(true),
                noexec: record.noexec,
                optional: record.optional,
                apart: record.apart,
            }),
            "data" => Mount::Data(DataBind {
                root: needed(record.root, "root")?,
                source: needed(record.source, "source")?,
                target: needed(record.target, "target")?,
                read_only: record.read_only,
            }),
            "fuse" if record.argv.is_empty() => return Err("a FUSE mount has no program".into()),
            "fuse" => Mount::Fuse(FuseMount {
                target: needed(record.target, "target")?,
                argv: record.argv,
                host: record.host,
                daemon: record.daemon,
            }),
            "tmpfs" => Mount::Tmpfs(Tmpfs {
                target: needed(record.target, "target")?,
                size: needed(record.size, "size")?,
                mode: record.mode.unwrap_or(0o1777),
            }),
            "proc" => Mount::Proc { target: record.target_or("/proc") },
            "sys" => Mount::Sys { target: record.target_or("/sys") },
            "cgroups" => Mount::Cgroups { target: record.target_or("/sys/fs/cgroup") },
            "emulator" => Mount::Emulator {
                target: record.target_or("/proc/sys/fs/binfmt_misc"),
                rule: needed(record.content, "content")?,
            },
            "dev" => Mount::Dev {
                target: record.target_or("/dev"),
                minimal: record.minimal,
                pts: record.pts.unwrap_or(true),
            },
            "file" => Mount::File(SynthesizedFile {
                target: needed(record.target, "target")?,
                content: needed(record.content, "content")?,
                mode: record.mode.unwrap_or(0o644),
                owner: record.owner,
                optional: record.optional,
            }),
            "passwd" => Mount::Passwd(PasswdFile {
                target: record.target_or("/etc/passwd"),
                uid: needed(record.uid, "uid")?,
                gid: needed(record.gid, "gid")?,
                name: needed(record.name, "name")?,
                gecos: needed(record.gecos, "gecos")?,
                home: needed(record.home, "home")?,
                shell: needed(record.shell, "shell")?,
            }),
            "group" => Mount::Group(GroupFile {
                target: record.target_or("/etc/group"),
                groups: needed(record.groups, "groups")?,
                member: needed(record.member, "member")?,
            }),
            other => return Err(format!("no mount is of the kind `{other}`")),
        })
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    pub source: Text,
    pub target: Text,
    #[serde(default = "yes")]
    pub follow: bool,
    #[serde(default)]
    pub from_root: Option<Root>,
    #[serde(default)]
    pub time: Option<i64>,
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
    #[serde(default)]
    pub mode: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Environment {
    pub host: BTreeMap<Text, Text>,
    pub injected: BTreeMap<Text, Text>,
    pub fixed: BTreeMap<Text, Text>,
    pub path: Option<Text>,
    pub prepend_path: Option<Text>,
    pub append_path: Option<Text>,
    pub files: Vec<Text>,
    #[serde(default = "yes")]
    pub evaluate: bool,
    #[serde(default = "yes")]
    pub scripts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Exec,
    Run,
    Shell,
    Test,
    Start,
    Boot,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Capabilities {
    #[default]
    None,
    All,
    Names(Vec<String>),
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Capabilities, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Word(String),
            Names(Vec<String>),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Word(word) if word == "none" => Ok(Capabilities::None),
            Wire::Word(word) if word == "all" => Ok(Capabilities::All),
            Wire::Word(word) => Err(serde::de::Error::custom(format!("`{word}` is no set of capabilities"))),
            Wire::Names(names) => Ok(Capabilities::Names(names)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelKind {
    Selinux,
    Apparmor,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    pub kind: LabelKind,
    pub value: Text,
}

/// What stands for a locale that the image lacks; of many that start together the one tells whose variables of `told_by` are all 0.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocaleFallback {
    pub name: Text,
    #[serde(default)]
    pub told_by: Vec<Text>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub action: Action,
    pub argv: Vec<Text>,
    pub environment: Environment,
    pub cwd: Vec<Text>,
    #[serde(default)]
    pub cwd_required: bool,
    #[serde(default)]
    pub app: Option<Text>,
    #[serde(default)]
    pub shells: Vec<Text>,
    #[serde(default)]
    pub umask: Option<u32>,
    #[serde(default = "yes")]
    pub no_new_privs: bool,
    #[serde(default)]
    pub capabilities: Capabilities,
    #[serde(default)]
    pub emulate_root: bool,
    #[serde(default)]
    pub emulate_devices: bool,
    #[serde(default)]
    pub owners: Option<Text>,
    #[serde(default)]
    pub patience: Option<u32>,
    #[serde(default)]
    pub label: Option<Label>,
    #[serde(default)]
    pub filter: Vec<u64>,
    #[serde(default)]
    pub locale: Option<LocaleFallback>,
    #[serde(default = "yes")]
    pub init: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    Pid,
    Ipc,
    Uts,
    Net,
    Cgroup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    Background,
    Descriptor,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Helper {
    pub argv: Vec<Text>,
    pub ready: Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    pub idle: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub identity: Identity,
    pub root: Root,
    pub surface: Surface,
    pub mounts: Vec<Mount>,
    pub process: Process,
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    #[serde(default)]
    pub hostname: Option<Text>,
    #[serde(default)]
    pub helper: Option<Helper>,
    #[serde(default)]
    pub netns: Option<Text>,
    #[serde(default)]
    pub outfitter: Vec<Text>,
    #[serde(default)]
    pub copies: Vec<Copy>,
    #[serde(default)]
    pub mount_at: Option<Text>,
    #[serde(default)]
    pub name: Text,
    #[serde(default)]
    pub sharing: Option<Sharing>,
    #[serde(default)]
    pub attached: bool,
    #[serde(default)]
    pub reporter: Vec<Text>,
    #[serde(default = "usual_level")]
    pub level: i32,
    #[serde(default = "current_version")]
    pub version: u32,
}

impl Plan {
    pub fn has(&self, namespace: Namespace) -> bool {
        self.namespaces.contains(&namespace)
    }
}

fn yes() -> bool {
    true
}

fn usual_level() -> i32 {
    crate::launch::failure::INFO
}

fn current_version() -> u32 {
    VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_not_utf8_survive_in_every_union() {
        let mount: Mount =
            serde_json::from_str(r#"{"source":"/\udcff","target":"/\udcfe","kind":"bind"}"#).unwrap();
        let Mount::Bind(bind) = mount else { panic!("a bind was sent") };
        assert_eq!(bind.source.as_bytes(), b"/\xff");
        assert!(bind.nosuid && bind.nodev && !bind.read_only);
        let root: Root = serde_json::from_str(r#"{"path":"/\udcff","kind":"directory"}"#).unwrap();
        assert!(matches!(root, Root::Directory(root) if root.path.as_bytes() == b"/\xff"));
        let environment: Environment = serde_json::from_str(r#"{"host":{"\udcffA":"\udcff"}}"#).unwrap();
        assert_eq!(environment.host.keys().next().unwrap().as_bytes(), b"\xffA");
    }

    #[test]
    fn a_field_this_core_does_not_know_is_refused() {
        let text = r#"{"path":"/","kind":"directory","encrypted":true}"#;
        assert!(serde_json::from_str::<Root>(text).is_err());
    }

    #[test]
    fn a_stack_is_flat_and_has_something_to_stack() {
        let layer = r#"{"path":"/a","kind":"directory"}"#;
        let stack = |layers: &str| {
            serde_json::from_str::<Root>(&format!(r#"{{"kind":"stack","layers":[{layers}]}}"#))
        };
        assert!(matches!(stack(&format!("{layer},{layer}")), Ok(Root::Stack(layers)) if layers.len() == 2));
        assert!(stack(layer).is_err());
        let inner = format!(r#"{{"kind":"stack","layers":[{layer},{layer}]}}"#);
        assert!(stack(&format!("{layer},{inner}")).is_err());
    }
}
