//! Files that exist for one container only: the image's passwd and group with the caller's lines.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::resolve;
use crate::plan::{GroupFile, PasswdFile};
use crate::text::Text;

/// A larger file of an image is not read.
const LARGEST: usize = 16 << 20;

/// The image's passwd with the caller in it. The error is why it cannot be had.
pub fn passwd(root: BorrowedFd<'_>, wish: &PasswdFile) -> Result<Vec<u8>, String> {
    Ok(merge_passwd(&read(root, &wish.target)?, wish))
}

/// The image's group file with the caller's groups in it. The error is why it cannot be had.
pub fn group(root: BorrowedFd<'_>, wish: &GroupFile) -> Result<Vec<u8>, String> {
    Ok(merge_group(&read(root, &wish.target)?, wish))
}

/// Reads a regular file of the image, at most `LARGEST` bytes.
fn read(root: BorrowedFd<'_>, path: &Text) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let sentence = |errno: Errno| match errno {
        Errno::NOENT => format!("the image has no {path}"),
        errno => format!("{path} of the image cannot be read: {}", std::io::Error::from(errno)),
    };
    let file = resolve::open(root, path, flags).map_err(sentence)?;
    let stat = rustix::fs::fstat(&file).map_err(sentence)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(format!("{path} of the image is not a regular file"));
    }
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > LARGEST {
        return Err(format!("{path} of the image is larger than {} MiB", LARGEST >> 20));
    }
    let mut content = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match rustix::io::read(file.as_fd(), &mut content[filled..]).map_err(sentence)? {
            0 => break,
            length => filled += length,
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// A field of passwd(5) holds neither a colon nor the end of the line.
fn field(text: &Text) -> Vec<u8> {
    text.as_bytes().iter().map(|&b| if b == b':' || b == b'\n' { b' ' } else { b }).collect()
}

fn merge_passwd(image: &[u8], wish: &PasswdFile) -> Vec<u8> {
    let uid = wish.uid.to_string();
    let mut out = Vec::with_capacity(image.len() + 256);
    let mut found = false;
    for line in image.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let mut fields: Vec<&[u8]> = line.split(|&b| b == b':').collect();
        let (name, gecos, home) = (field(&wish.name), field(&wish.gecos), field(&wish.home));
        if !found && fields.len() >= 7 && fields[2] == uid.as_bytes() {
            found = true;
            if wish.uid != 0 {
                fields[0] = &name;
                fields[4] = &gecos;
            }
            fields[5] = &home;
        }
        out.extend_from_slice(&fields.join(&b':'));
        out.push(b'\n');
    }
    if !found {
        let (uid, gid) = (uid.into_bytes(), wish.gid.to_string().into_bytes());
        let password = b"x".to_vec();
        let texts = [&wish.name, &wish.gecos, &wish.home, &wish.shell].map(field);
        let [name, gecos, home, shell] = texts;
        out.extend_from_slice(&[name, password, uid, gid, gecos, home, shell].join(&b':'));
        out.push(b'\n');
    }
    out
}

fn merge_group(image: &[u8], wish: &GroupFile) -> Vec<u8> {
    let lines = || image.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let known: Vec<&[u8]> = lines().filter_map(|line| line.split(|&b| b == b':').nth(2)).collect();
    let mut out = Vec::with_capacity(image.len() + 64 * wish.groups.len());
    for line in lines() {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    for (name, gid) in &wish.groups {
        let gid = gid.to_string().into_bytes();
        if !known.contains(&gid.as_slice()) {
            out.extend_from_slice(&[field(name), b"x".to_vec(), gid, field(&wish.member)].join(&b':'));
            out.push(b'\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32) -> PasswdFile {
        PasswdFile {
            uid,
            gid: 100,
            name: "ada".into(),
            gecos: "Ada: L.\n".into(),
            home: "/home/ada".into(),
            shell: "/bin/zsh".into(),
            target: "/etc/passwd".into(),
        }
    }

    fn merged(image: &str, uid: u32) -> String {
        String::from_utf8(merge_passwd(image.as_bytes(), &caller(uid))).unwrap()
    }

    #[test]
    fn a_caller_unknown_to_the_image_is_appended() {
        let line = "ada:x:1000:100:Ada  L. :/home/ada:/bin/zsh\n";
        assert_eq!(
            merged("root:x:0:0:root:/root:/bin/sh", 1000),
            format!("root:x:0:0:root:/root:/bin/sh\n{line}")
        );
        assert_eq!(merged("", 1000), line);
    }

    #[test]
    fn a_known_uid_keeps_its_shell_and_gets_the_callers_name_and_home() {
        assert_eq!(
            merged("u:*:1000:7:U:/u:/bin/false\n", 1000),
            "ada:*:1000:7:Ada  L. :/home/ada:/bin/false\n"
        );
    }

    #[test]
    fn root_only_gets_the_callers_home() {
        assert_eq!(merged("root:x:0:0:root:/root:/bin/sh\n", 0), "root:x:0:0:root:/home/ada:/bin/sh\n");
    }

    #[test]
    fn groups_the_image_lacks_are_added_with_the_caller_as_member() {
        let wish = GroupFile {
            groups: vec![("users".into(), 100), ("project:x".into(), 5000)],
            member: "ada".into(),
            target: "/etc/group".into(),
        };
        let out = merge_group(b"staff:x:100:\nbroken", &wish);
        assert_eq!(String::from_utf8(out).unwrap(), "staff:x:100:\nbroken\nproject x:x:5000:ada\n");
    }
}
