//! The plan shortcut: a command line seen before becomes its container without Python.
//!
//! No option is parsed here. For each prefix of the words it is looked whether a plan of that name is stored, the name being a
//! digest of the prefix and of whatever a plan may depend on that is cheap to know: the program, the user, the groups,
//! soliton's own variables. Options end at the image, so the words behind a stored prefix are the container's command.
//! What a plan depends on beyond that is listed in it and looked at again; the environment, the working directory and the
//! umask are filled in. Anything odd means no: Python decides anew, and stores (`soliton/launch/shortcut.py`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::launch::root::OpenImage;
use crate::plan::{Bind, Mount, Plan};
use crate::store::Store;
use crate::text::Text;

/// The form of what is stored; part of every name.
const FORM: &[u8] = b"soliton shortcut 1";
/// `off`: every call is Python's.
const SWITCH: &str = "SOLITON_SHORTCUT";
/// Tells Python under which names to store a plan.
pub const NAMES_VARIABLE: &str = "_SOLITON_NAMES";
/// A longer prefix is not looked for: a hundred binds, each with an option of its own, are shorter.
const MOST_WORDS: usize = 512;
/// A larger plan is not stored.
const LARGEST: u64 = 4 << 20;
/// Facts of the user database that no file tells of (LDAP) are believed this long, in seconds.
const OLDEST: i64 = 12 * 3600;
/// Variables that a plan may depend on: those that begin so…
const OWN: [&[u8]; 3] = [b"SOLITON", b"APPTAINER", b"SINGULARITY"];
/// …and these.
const NAMED: [&str; 6] = ["HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"];

/// Status of a file as far as a change of it shows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: Text,
    /// Device, inode, mode, size, and the times of the last change of content and of status in nanoseconds; `None`: nothing is there.
    status: Option<[i128; 6]>,
}

/// Something that has to exist, or must not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Existence {
    path: Text,
    exists: bool,
}

/// Which variables of the caller pass into the container.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Passing {
    not_beginning: Vec<Text>,
    not_named: BTreeSet<Text>,
    only: Option<BTreeSet<Text>>,
    set: BTreeMap<Text, Text>,
    default: BTreeMap<Text, Text>,
}

/// What becomes of the working directory.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Directory {
    /// It is the first candidate to start in.
    start: bool,
    /// It is bound at its own path, unless it is one of `not_at`, `not_below` one of these, or below one of `covered`.
    bind: bool,
    not_at: Vec<Text>,
    not_below: Vec<Text>,
    covered: Vec<Text>,
}

/// What is said at each start, unless this is a later one of many that start together: then a variable of these is not 0.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    text: Text,
    first_by: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    says: Option<Said>,
    /// Words that must follow.
    least: usize,
    /// The image's status, as in a `File`, looked at once it is open; `None`: the root is no image.
    image: Option<[i128; 6]>,
    files: Vec<File>,
    existence: Vec<Existence>,
    variables: BTreeMap<Text, Option<Text>>,
    passing: Passing,
    /// `None`: the plan is for one working directory, which is part of its name.
    directory: Option<Directory>,
    plan: Plan,
}

/// Names of the plans that a call may have: for each prefix of the words, anywhere and in this working directory.
pub struct Names {
    /// Of what comes before the words.
    digest: Sha256,
    directory: Option<OsString>,
}

/// The names for this call; `None` if it has no shortcut.
pub fn names(name: &OsStr, words: &[OsString]) -> Option<Names> {
    let uid = rustix::process::getuid();
    // Root's plans depend on more, a stale one does more harm, and nobody starts a hundred thousand of them.
    if words.len() < 2
        || std::env::var_os(SWITCH).is_some_and(|value| value == "off")
        || uid.is_root()
        || uid != rustix::process::geteuid()
        || rustix::process::getgid() != rustix::process::getegid()
    {
        return None;
    }
    let mut digest = Sha256::new();
    let mut put = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    put(FORM);
    let program = rustix::fs::stat("/proc/self/exe").ok()?;
    for number in status_of(&program) {
        put(&number.to_le_bytes());
    }
    put(name.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default());
    put(&uid.as_raw().to_le_bytes());
    put(&rustix::process::getgid().as_raw().to_le_bytes());
    for group in rustix::process::getgroups().ok()? {
        put(&group.as_raw().to_le_bytes());
    }
    put(rustix::system::uname().nodename().to_bytes());
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(key, _)| {
            OWN.iter().any(|own| key.as_bytes().starts_with(own)) || NAMED.iter().any(|named| key == named)
        })
        .collect();
    variables.sort();
    for (key, value) in &variables {
        put(key.as_bytes());
        put(value.as_bytes());
    }
    put(b"words");
    Some(Names { digest, directory: working_directory() })
}

fn hexadecimal(digest: Sha256) -> String {
    digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Names {
    /// The names of each prefix, made as they are asked for: mostly one of the first is stored.
    fn pairs<'a>(&'a self, words: &'a [OsString]) -> impl Iterator<Item = [String; 2]> + 'a {
        words.iter().take(MOST_WORDS).scan(self.digest.clone(), |digest, word| {
            digest.update((word.len() as u64).to_le_bytes());
            digest.update(word.as_bytes());
            let mut here = digest.clone();
            here.update(b"in");
            here.update(self.directory.as_deref().map_or(b"".as_slice(), OsStrExt::as_bytes));
            Some([hexadecimal(digest.clone()), hexadecimal(here)])
        })
    }

    /// Becomes the container if its plan is stored and still holds; returns if not, or with the status of a failure.
    pub fn replay(&self, words: &[OsString]) -> Option<i32> {
        let store = Store::open().ok()?;
        for (index, pair) in self.pairs(words).enumerate() {
            for name in &pair {
                if let Some(stored) = load(&store, name) {
                    let image = stored.open_image()?;
                    let plan = stored.fill_in(&words[index + 1..], self.directory.as_deref())?;
                    return Some(crate::launch::launch(&plan, image));
                }
            }
        }
        None
    }

    /// For Python: how many words there are, and this call's names, one prefix after the other.
    pub fn text(&self, words: &[OsString]) -> String {
        let names: Vec<String> = self.pairs(words).map(|pair| pair.join(",")).collect();
        format!("{}:{}", words.len(), names.join(","))
    }
}

fn load(store: &Store, name: &str) -> Option<Stored> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(store.directory(), name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs() as i64;
    let fit = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_mode & 0o022 == 0
        && (0..=OLDEST).contains(&(now - stat.st_mtime));
    if !fit {
        return None;
    }
    let mut text = Vec::with_capacity(usize::try_from(stat.st_size).ok()?.min(LARGEST as usize) + 1);
    std::fs::File::from(file).take(LARGEST + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > LARGEST {
        return None;
    }
    serde_json::from_slice(&text).ok()
}

fn status_of(stat: &Stat) -> [i128; 6] {
    let nanoseconds = |seconds: i64, rest: u64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    [
        i128::from(stat.st_dev),
        i128::from(stat.st_ino),
        i128::from(stat.st_mode),
        i128::from(stat.st_size),
        nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    ]
}

impl File {
    fn is_unchanged(&self) -> bool {
        match (rustix::fs::stat(self.path.as_os_str()), &self.status) {
            (Ok(stat), Some(status)) => status_of(&stat) == *status,
            (Err(Errno::NOENT | Errno::NOTDIR), None) => true,
            _ => false,
        }
    }
}

impl Existence {
    fn holds(&self) -> bool {
        match rustix::fs::accessat(CWD, self.path.as_os_str(), rustix::fs::Access::EXISTS, AtFlags::empty()) {
            Ok(()) => self.exists,
            Err(Errno::NOENT | Errno::NOTDIR) => !self.exists,
            Err(_) => false,
        }
    }
}

impl Stored {
    /// The image of the plan, opened; `None` if it is no longer as it was. What is open is what is launched.
    fn open_image(&self) -> Option<Option<OpenImage>> {
        let opened = OpenImage::of(&self.plan).ok()?;
        let status = opened.as_ref().map(|image| status_of(&image.status));
        (status == self.image).then_some(opened)
    }

    /// The plan for this call; `None` if something that it depends on is no longer as it was.
    fn fill_in(self, rest: &[OsString], directory: Option<&OsStr>) -> Option<Plan> {
        let Stored { says, least, image: _, files, existence, variables, passing, directory: rule, mut plan } =
            self;
        let holds = rest.len() >= least
            && files.iter().all(File::is_unchanged)
            && existence.iter().all(Existence::holds)
            && variables.iter().all(|(key, value)| {
                std::env::var_os(key.as_os_str()).as_deref() == value.as_ref().map(Text::as_os_str)
            });
        if !holds {
            return None;
        }
        if let Some(rule) = rule {
            rule.apply(&mut plan, &Text::new(directory?.as_bytes()))?;
        }
        plan.process.argv = rest.iter().map(|word| Text::new(word.as_bytes())).collect();
        plan.process.environment.host = passing.of(std::env::vars_os());
        if let Some(said) = says.filter(Said::is_due) {
            let _ = std::io::stderr().write_all(said.text.as_bytes());
        }
        Some(plan)
    }
}

impl Said {
    fn is_due(&self) -> bool {
        self.first_by.iter().all(|name| std::env::var_os(name.as_os_str()).is_none_or(|value| value == "0"))
    }
}

impl Passing {
    fn of(self, variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<Text, Text> {
        let mut passed = self.default;
        for (key, value) in variables {
            let (key, value) = (Text::new(key.as_bytes()), Text::new(value.as_bytes()));
            let stays = self.not_beginning.iter().any(|own| key.as_bytes().starts_with(own.as_bytes()))
                || self.not_named.contains(&key)
                || self.only.as_ref().is_some_and(|only| !only.contains(&key));
            if !stays {
                passed.insert(key, value);
            }
        }
        passed.extend(self.set);
        passed
    }
}

impl Directory {
    fn apply(self, plan: &mut Plan, here: &Text) -> Option<()> {
        if self.start {
            plan.process.cwd.insert(0, here.clone());
        }
        let below = |top: &Text| {
            let top = top.as_bytes().strip_suffix(b"/").unwrap_or(top.as_bytes());
            here.as_bytes().strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let bind = self.bind
            && !self.not_at.contains(here)
            && !self.not_below.iter().any(below)
            && !self.covered.iter().any(below);
        if bind {
            plan.mounts.push(Mount::Bind(Bind {
                source: here.clone(),
                target: here.clone(),
                read_only: false,
                nosuid: true,
                nodev: true,
                noexec: false,
                optional: true,
                apart: false,
            }));
        }
        Some(())
    }
}

/// The working directory as the shell spells it, through links, where that is the same directory.
fn working_directory() -> Option<OsString> {
    let here = std::env::current_dir().ok()?.into_os_string();
    if let Some(spelled) = std::env::var_os("PWD").filter(|p| p.as_bytes().starts_with(b"/") && *p != here)
        && let (Ok(one), Ok(other)) = (rustix::fs::stat(&spelled), rustix::fs::stat(&here))
        && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
    {
        return Some(spelled);
    }
    Some(here)
}
