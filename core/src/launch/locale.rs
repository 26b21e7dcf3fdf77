//! Locales of the host that the image does not have: programs would complain at every start, and take text for ASCII.
//!
//! Only glibc refuses unknown names, so only its images are looked at: for a directory of the locale's name, and in the archive
//! of locales. Mostly this costs a look for two files, and for `C` and `C.UTF-8` nothing.

use std::io::Read;

use rustix::fs::{Mode, OFlags};

use super::failure::info;
use crate::plan::{LocaleFallback, Process};
use crate::text::Text;

/// Which variables name locales, beside all that begin with `LC_`.
const LANG: &[u8] = b"LANG";
const CATEGORY: &[u8] = b"LC_";
/// Every installation of glibc has it, and no other library does.
const OF_GLIBC: &str = "/etc/ld.so.cache";
const FOLDER: &str = "/usr/lib/locale";
const ARCHIVE: &str = "/usr/lib/locale/locale-archive";
/// First word of the archive; then come, as words: a serial number, the table of names (offset, used, size), the names (the same).
const MAGIC: u32 = 0xde02_0109;
/// All locales of the world have names of a few tens of kilobytes.
const LARGEST_NAMES: u32 = 1 << 20;
/// Before them is their table, of twelve bytes for each.
const FARTHEST_NAMES: u32 = 1 << 20;

/// An image in which locales are looked for.
pub trait Files {
    fn exists(&self, path: &str) -> bool;
    /// `length` bytes of a regular file from its start on, or as many as it has; `None` if it cannot be read.
    fn beginning(&self, path: &str, length: usize) -> Option<Vec<u8>>;
}

/// The root that this process has entered.
struct Entered;

impl Files for Entered {
    fn exists(&self, path: &str) -> bool {
        rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
    }

    fn beginning(&self, path: &str, length: usize) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        file.metadata().ok()?.is_file().then_some(())?;
        let mut found = Vec::new();
        file.take(length as u64).read_to_end(&mut found).ok()?;
        Some(found)
    }
}

/// Which of these locales an image of glibc lacks, each once.
pub fn lacking<'a>(names: impl Iterator<Item = &'a Text>, image: &impl Files) -> Vec<&'a Text> {
    let mut wanted: Vec<&Text> = Vec::new();
    for name in names.filter(|name| is_looked_for(name)) {
        if !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    if wanted.is_empty() || !image.exists(OF_GLIBC) {
        return Vec::new();
    }
    wanted.retain(|name| !has(name, image));
    wanted
}

/// The process with other locales where the image lacks the caller's; `None`: they may stay. The user is told.
pub fn fallen_back(process: &Process) -> Option<Process> {
    let rule = process.locale.as_ref()?;
    let wish = &process.environment;
    let named = |key: &Text| key.as_bytes() == LANG || key.as_bytes().starts_with(CATEGORY);
    let mut asked: Vec<(&Text, &Text)> = wish.host.iter().filter(|(key, _)| named(key)).collect();
    // What is meant for the container is not touched.
    asked.retain(|(key, _)| !wish.injected.contains_key(*key));
    let missing = lacking(asked.iter().map(|(_, value)| *value), &Entered);
    if missing.is_empty() {
        return None;
    }
    tell(rule, &missing);
    let changed: Vec<Text> =
        asked.iter().filter(|(_, value)| missing.contains(value)).map(|(key, _)| (*key).clone()).collect();
    let mut process = process.clone();
    for key in changed {
        process.environment.host.insert(key, rule.name.clone());
    }
    Some(process)
}

fn tell(rule: &LocaleFallback, missing: &[&Text]) {
    let first = |name: &Text| std::env::var_os(name.as_os_str()).is_none_or(|value| value == "0");
    if !rule.told_by.iter().all(first) {
        return;
    }
    let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    info(&format!("the locale {} {verb} not in the image; {} takes its place", names.join(", "), rule.name));
}

/// Whether a value is the name of a locale that may be missing; one that is no name of a locale at all is not this module's matter.
fn is_looked_for(value: &Text) -> bool {
    let bytes = value.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(byte);
    !bytes.is_empty()
        && bytes.len() < 64
        && bytes.iter().all(plain)
        && !bytes.starts_with(b".")
        && !matches!(bytes, b"C" | b"POSIX" | b"C.UTF-8" | b"C.utf8")
}

fn has(locale: &Text, image: &impl Files) -> bool {
    let (given, usual) = (locale.to_string(), normalized(&locale.to_string()));
    let listed = |name: &str| image.exists(&format!("{FOLDER}/{name}/LC_CTYPE"));
    if listed(&usual) || (given != usual && listed(&given)) {
        return true;
    }
    match names_in_archive(image) {
        Some(names) => names.split(|&byte| byte == 0).any(|name| name == usual.as_bytes()),
        None => false,
    }
}

/// As glibc writes it: of the codeset letters and digits alone, in lower case; `ISO-8859-1` and a bare number begin with `iso`.
fn normalized(name: &str) -> String {
    let Some((language, rest)) = name.split_once('.') else { return name.to_owned() };
    let (codeset, modifier) = match rest.split_once('@') {
        Some((codeset, modifier)) => (codeset, format!("@{modifier}")),
        None => (rest, String::new()),
    };
    let codeset: String =
        codeset.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let prefix = if codeset.chars().all(|c| c.is_ascii_digit()) { "iso" } else { "" };
    format!("{language}.{prefix}{codeset}{modifier}")
}

/// The names in the archive, each behind a zero; `None` where there is no archive, or none that makes sense.
fn names_in_archive(image: &impl Files) -> Option<Vec<u8>> {
    let (start, used) = place_of_names(image.beginning(ARCHIVE, 32)?.first_chunk()?)?;
    let end = (start + used) as usize;
    let mut names = image.beginning(ARCHIVE, end)?;
    (names.len() == end).then(|| names.split_off(start as usize))
}

fn place_of_names(head: &[u8; 32]) -> Option<(u32, u32)> {
    let word = |index: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| head[4 * index + byte]));
    (word(0) == MAGIC && word(5) <= FARTHEST_NAMES && word(6) <= LARGEST_NAMES).then(|| (word(5), word(6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_glibc_writes_them() {
        for (given, usual) in [
            ("en_US.UTF-8", "en_US.utf8"),
            ("de_DE.utf8", "de_DE.utf8"),
            ("de_DE.ISO-8859-15@euro", "de_DE.iso885915@euro"),
            ("ru_RU.1251", "ru_RU.iso1251"),
            ("de_DE", "de_DE"),
            ("de_DE@euro", "de_DE@euro"),
        ] {
            assert_eq!(normalized(given), usual);
        }
    }

    #[test]
    fn what_every_image_has_is_not_looked_for_nor_what_is_no_name() {
        for value in ["", "C", "POSIX", "C.UTF-8", "C.utf8", "../../x", "a b", ".", "/x", "x\x1b[1m"] {
            assert!(!is_looked_for(&Text::from(value)), "{value}");
        }
        assert!(is_looked_for(&Text::from("en_US.UTF-8")));
    }

    #[test]
    fn an_archive_that_makes_no_sense_has_no_names() {
        let head = |words: [u32; 8]| {
            let mut bytes = [0u8; 32];
            for (place, word) in bytes.chunks_mut(4).zip(words) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            place_of_names(&bytes)
        };
        assert_eq!(head([MAGIC, 0, 56, 1, 1, 68, 12, 12]), Some((68, 12)));
        assert_eq!(head([MAGIC + 1, 0, 56, 1, 1, 68, 12, 12]), None);
        assert_eq!(head([MAGIC, 0, 56, 1, 1, 68, u32::MAX, 12]), None);
        assert_eq!(head([MAGIC, 0, 56, 1, 1, u32::MAX, 12, 12]), None);
    }
}
