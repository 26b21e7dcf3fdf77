//! `LD_LIBRARY_PATH`: the image's libraries, those of the host that are shown in it, and what the caller says before and behind.
//!
//! What the variable names is searched before the image's own places. Where libraries of the host are shown, and nobody says
//! anything else, the image's places are named first, so that a library that both have is the image's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::glob;
use crate::plan::{Mount, Plan};
use crate::text::Text;

/// Where libraries of the host are shown.
const SHOWN: &[u8] = b"/.singularity.d/libs";
/// What glibc's loader reads; images with another have none.
const CACHE: &str = "/etc/ld.so.cache";
const CONFIGURATION: &str = "/etc/ld.so.conf";
/// Searched whatever the configuration says.
const BUILT_IN: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];
const LARGEST: u64 = 64 << 10;
const DEEPEST: usize = 4;
const MOST: usize = 256;

/// Whether the plan shows libraries of the host. A plan without mounts joins a container that has them already.
pub fn are_shown(plan: &Plan) -> bool {
    if plan.mounts.is_empty() {
        return std::fs::read_dir(Path::new(std::ffi::OsStr::from_bytes(SHOWN)))
            .is_ok_and(|mut entries| entries.next().is_some());
    }
    plan.mounts.iter().any(|mount| match mount {
        Mount::Bind(bind) => bind.target.as_bytes().starts_with(SHOWN),
        Mount::Data(data) => data.target.as_bytes().starts_with(SHOWN),
        _ => false,
    })
}

/// Completes the variable.
pub fn complete(all: &mut BTreeMap<Text, Text>, shown: bool) {
    let said = |name: &str| all.get(&Text::from(name)).filter(|value| !value.is_empty()).cloned();
    let (before, behind) = (said("PREPEND_LD_LIBRARY_PATH"), said("APPEND_LD_LIBRARY_PATH"));
    let mut parts: Vec<Vec<u8>> =
        said("LD_LIBRARY_PATH").iter().map(|value| value.as_bytes().to_vec()).collect();
    let is_plain = parts.iter().all(|value| value == SHOWN);
    if !parts.iter().any(|value| value.split(|&byte| byte == b':').any(|part| part == SHOWN)) {
        parts.push(SHOWN.to_vec());
    }
    if is_plain && (shown || before.is_some() || behind.is_some()) {
        let mut own: Vec<Vec<u8>> = own().into_iter().map(|path| path.into_os_string().into_vec()).collect();
        own.append(&mut parts);
        parts = own;
    }
    let value = before.iter().map(|value| value.as_bytes().to_vec()).chain(parts);
    let value: Vec<_> = value.chain(behind.iter().map(|value| value.as_bytes().to_vec())).collect();
    all.insert("LD_LIBRARY_PATH".into(), Text::new(value.join(&b':')));
}

/// The places in which the image's loader looks by itself, each once.
fn own() -> Vec<PathBuf> {
    if !Path::new(CACHE).exists() {
        return Vec::new();
    }
    let mut named = Vec::new();
    configured(Path::new(CONFIGURATION), 0, &mut named);
    named.extend(BUILT_IN.iter().take(2).map(PathBuf::from));
    // Elsewhere than on Debian that is where libraries are; there, it holds the loader.
    named.extend(BUILT_IN.iter().skip(2).map(PathBuf::from).filter(|path| path.join("libc.so.6").exists()));
    let mut seen = BTreeSet::new();
    named.retain(|path| {
        !path.as_os_str().as_bytes().contains(&b':')
            && std::fs::metadata(path)
                .is_ok_and(|status| status.is_dir() && seen.insert((status.dev(), status.ino())))
    });
    named
}

fn configured(file: &Path, depth: usize, named: &mut Vec<PathBuf>) {
    let mut text = Vec::new();
    let open = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(file);
    let Ok(open) = open else { return };
    if !open.metadata().is_ok_and(|status| status.is_file())
        || open.take(LARGEST).read_to_end(&mut text).is_err()
    {
        return;
    }
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if let Some(pattern) =
            line.strip_prefix(b"include").filter(|rest| rest.starts_with(b" ") || rest.starts_with(b"\t"))
        {
            if depth < DEEPEST {
                included(pattern.trim_ascii()).iter().for_each(|file| configured(file, depth + 1, named));
            }
        } else if line.starts_with(b"/") && named.len() < MOST {
            let place = line.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
            named.push(PathBuf::from(std::ffi::OsStr::from_bytes(place)));
        }
    }
}

/// The files that a pattern means, in their order; `*` and the like are in the last name only.
fn included(pattern: &[u8]) -> Vec<PathBuf> {
    let pattern = Path::new("/etc").join(std::ffi::OsStr::from_bytes(pattern));
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.take(MOST).flatten().map(|entry| entry.file_name()).collect();
    names.retain(|found| glob::matches(name.as_bytes(), found.as_bytes()));
    names.sort();
    names.into_iter().map(|found| folder.join(found)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_places_and_files() {
        let folder = std::env::temp_dir().join(format!("soliton-libraries-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("more")).expect("a folder");
        let main = folder.join("main.conf");
        let include = format!(
            "# why\ninclude {}/more/*.conf\n/first # own\n/abi=libc6\nhwcap 1\nrelative\n",
            folder.display()
        );
        std::fs::write(&main, include).expect("a file");
        std::fs::write(folder.join("more/b.conf"), "/b\n").expect("a file");
        std::fs::write(folder.join("more/a.conf"), format!("/a\ninclude {}\n", main.display()))
            .expect("a file");
        std::fs::write(folder.join("more/not"), "/not\n").expect("a file");
        let mut named = Vec::new();
        configured(&main, DEEPEST, &mut named);
        assert_eq!(named, [Path::new("/first"), Path::new("/abi")]);
        named.clear();
        configured(&main, DEEPEST - 1, &mut named);
        assert_eq!(named, ["/a", "/b", "/first", "/abi"].map(Path::new));
        // One that includes itself ends.
        configured(&main, 0, &mut named);
        std::fs::remove_dir_all(&folder).expect("it goes");
    }

    #[test]
    fn what_the_caller_says_stands_first_and_last() {
        let value = |given: &[(&str, &str)]| {
            let mut all = given.iter().map(|(name, value)| (Text::from(*name), Text::from(*value))).collect();
            complete(&mut all, false);
            all[&Text::from("LD_LIBRARY_PATH")].to_string()
        };
        assert_eq!(value(&[]), "/.singularity.d/libs");
        assert_eq!(value(&[("LD_LIBRARY_PATH", "/a")]), "/a:/.singularity.d/libs");
        let own = [
            ("LD_LIBRARY_PATH", "/a"),
            ("PREPEND_LD_LIBRARY_PATH", "/b"),
            ("APPEND_LD_LIBRARY_PATH", "/c:/d"),
        ];
        assert_eq!(value(&own), "/b:/a:/.singularity.d/libs:/c:/d");
    }
}
