//! File names that a word stands for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::evaluate::{Interpreter, Step, declined};
use super::pattern::{Marked, Pattern};

/// Entries of one directory, and names found.
const MOST: usize = 4096;

/// The names that fit a pattern, in order; none: the pattern stands for itself.
pub fn matching(pattern: &[Marked], interpreter: &mut Interpreter) -> Step<Vec<Vec<u8>>> {
    let unclear = || declined(0, "file names that shells expand differently");
    if interpreter.has(b"GLOBIGNORE") {
        return Err(unclear());
    }
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    let mut special_before = false;
    let components: Vec<&[Marked]> = pattern.split(|marked| marked.byte == b'/').collect();
    let rooted = components.first().is_some_and(|first| first.is_empty());
    for (index, component) in components.iter().enumerate() {
        let separator: &[u8] = if index == 0 || (index == 1 && rooted) { b"" } else { b"/" };
        if component.is_empty() {
            if index > 0 {
                return Err(unclear());
            }
            found = vec![b"/".to_vec()];
            continue;
        }
        let compiled = Pattern::new(component).ok_or_else(unclear)?;
        if !compiled.is_special() {
            // A set does not reach over a slash; not all shells know.
            if component.iter().any(|marked| marked.byte == b'[' && !marked.quoted) && components.len() > 1 {
                return Err(unclear());
            }
            for path in &mut found {
                path.extend_from_slice(separator);
                path.extend(component.iter().map(|marked| marked.byte));
            }
            if special_before {
                found.retain(|path| std::fs::symlink_metadata(as_path(path)).is_ok());
            }
            continue;
        }
        special_before = true;
        // Whether `.*` means `..` too is different.
        if component[0].byte == b'.' {
            return Err(unclear());
        }
        let mut next = Vec::new();
        for path in &found {
            for name in names(path).ok_or_else(unclear)? {
                interpreter.charge(64, 0)?;
                if name.starts_with(b".") {
                    continue;
                }
                if !name.is_ascii() || component.iter().any(|marked| !marked.byte.is_ascii()) {
                    return Err(unclear());
                }
                if compiled.try_matches(&name, interpreter.budget()).ok_or_else(unclear)? {
                    next.push([path.as_slice(), separator, &name].concat());
                }
            }
            if next.len() > MOST {
                return Err(unclear());
            }
        }
        found = next;
    }
    if !special_before {
        return Ok(Vec::new());
    }
    found.sort();
    if found.len() > 1 && !sorts_by_byte(interpreter) {
        return Err(declined(0, "file names in the order of a locale"));
    }
    Ok(found)
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}

/// The names in a directory; none in what is no directory. `None`: too many.
fn names(directory: &[u8]) -> Option<Vec<Vec<u8>>> {
    let Ok(entries) = std::fs::read_dir(as_path(directory)) else { return Some(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries.flatten() {
        if names.len() == MOST {
            return None;
        }
        names.push(entry.file_name().into_encoded_bytes());
    }
    Some(names)
}

/// Whether the locale cannot bring another order than that of bytes.
fn sorts_by_byte(interpreter: &Interpreter) -> bool {
    ["LC_ALL", "LC_COLLATE", "LANG"].iter().all(|name| {
        let value = interpreter.variable(name.as_bytes(), 0).ok().flatten();
        value.is_none_or(|value| matches!(value, b"" | b"C" | b"POSIX" | b"C.UTF-8" | b"C.utf8"))
    })
}
