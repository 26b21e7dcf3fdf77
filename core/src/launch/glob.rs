//! Shell patterns in the sources of copies: `*`, `?`, `[…]` and `\`, as a shell without options reads them.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use super::resolve;
use crate::text::Text;

/// More matches than this are an accident.
const MOST_MATCHES: usize = 1_000_000;

/// Paths inside `root` that match `pattern`, sorted; the pattern itself if nothing does.
pub fn expand(root: BorrowedFd<'_>, pattern: &Text) -> Result<Vec<Text>, Errno> {
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    for part in pattern.as_bytes().split(|&b| b == b'/').filter(|part| !part.is_empty()) {
        if !part.iter().any(|b| b"*?[\\".contains(b)) {
            for path in &mut found {
                path.push(b'/');
                path.extend_from_slice(part);
            }
            continue;
        }
        let mut next = Vec::new();
        for path in found {
            for name in names_in(root, &path)? {
                if matches(part, &name) && (!name.starts_with(b".") || part.starts_with(b".")) {
                    next.push([path.as_slice(), b"/", &name].concat());
                }
            }
            if next.len() > MOST_MATCHES {
                return Err(Errno::TOOBIG);
            }
        }
        found = next;
    }
    found.retain(|path| {
        resolve::open(root, &Text::new(path.clone()), OFlags::PATH | OFlags::NOFOLLOW).is_ok()
    });
    found.sort();
    if found.is_empty() {
        return Ok(vec![pattern.clone()]);
    }
    Ok(found.into_iter().map(Text::new).collect())
}

/// Names in a directory, without `.` and `..`; none if it is no directory.
fn names_in(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let directory = match resolve::open(root, &Text::new(path), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a whole name matches a pattern, byte by byte.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if the last `*` has to take one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, n + 1));
            p += 1;
            continue;
        }
        if let Some(length) = name.get(n).and_then(|&byte| one(&pattern[p..], byte)) {
            (p, n) = (p + length, n + 1);
            continue;
        }
        match retry {
            Some((star, from)) if from <= name.len() => (p, n) = (star, from),
            _ => return false,
        }
    }
    true
}

/// The length of the pattern's first element if it matches the byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (escaped == byte).then_some(2),
        [b'[', ref rest @ ..] => match class(rest, byte) {
            Some((length, found)) => found.then_some(length + 1),
            None => (byte == b'[').then_some(1), // never closed: a bracket
        },
        [literal, ..] => (literal == byte).then_some(1),
        [] => None,
    }
}

/// A bracket expression behind its `[`: its length and whether it has the byte.
fn class(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        match *pattern.get(at..)? {
            [b']', ..] if at > first => return Some((at + 1, found != negated)),
            [low, b'-', high, ..] if high != b']' => {
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                at += 2;
            }
            [single, ..] => {
                found |= single == byte;
                at += 1;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, wanted) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[x", "[x", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn directories_are_patterns_too_and_hidden_names_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a1/x.c", "a2/y.c", "a2/.z.c", "b/x.c"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let root = rustix::fs::open(directory.path(), OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let found = |pattern: &str| -> Vec<String> {
            expand(root.as_fd(), &pattern.into()).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(found("/a*/*.c"), ["/a1/x.c", "/a2/y.c"]);
        assert_eq!(found("/nothing*"), ["/nothing*"]);
    }
}
