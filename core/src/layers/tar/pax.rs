//! PAX extended headers (POSIX.1-2001): `LENGTH KEY=VALUE\n`, for the next entry or for all that follow.

use std::collections::HashMap;

use super::super::{Failure, Result};
use crate::squashfs::inode::Xattrs;

/// Most bytes of records that hold for the whole archive.
const MOST_GLOBAL: usize = 64 << 10;

/// Records by their keys. An empty value takes an earlier one back.
#[derive(Default)]
pub struct Records {
    by_key: HashMap<Vec<u8>, Vec<u8>>,
    /// A sparse map of the form 0.0 repeats its keys: offset and length, in order.
    pub sparse: Vec<(u64, u64)>,
}

impl Records {
    /// Takes in the content of an extended header.
    pub fn take(&mut self, mut content: &[u8]) -> Result<()> {
        let malformed = || Failure::corrupt("a PAX header is malformed");
        let mut offset = None;
        // Some writers fill the rest with NULs.
        while !content.is_empty() && content[0] != 0 {
            let space = content.iter().take(20).position(|&b| b == b' ').ok_or_else(malformed)?;
            let length = usize::try_from(decimal(&content[..space])?).map_err(|_| malformed())?;
            if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &content[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"GNU.sparse.offset" => offset = Some(decimal(value)?),
                b"GNU.sparse.numbytes" => {
                    self.sparse.push((offset.take().ok_or_else(malformed)?, decimal(value)?));
                }
                _ => {
                    self.by_key.insert(key.to_vec(), value.to_vec());
                }
            }
            content = &content[length..];
        }
        Ok(())
    }

    /// Adds records for the whole archive to those before.
    pub fn take_global(&mut self, content: &[u8]) -> Result<()> {
        self.take(content)?;
        let size: usize = self.by_key.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > MOST_GLOBAL || !self.sparse.is_empty() {
            return Err(Failure::corrupt("a global PAX header is too large or speaks of one file only"));
        }
        Ok(())
    }
}

/// What extended headers say about one entry: its own records before the archive's.
pub struct Said<'a> {
    pub global: &'a Records,
    pub own: &'a Records,
}

impl<'a> Said<'a> {
    pub fn get(&self, key: &str) -> Option<&'a [u8]> {
        let found = self.own.by_key.get(key.as_bytes()).or_else(|| self.global.by_key.get(key.as_bytes()));
        found.map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(decimal).transpose()
    }

    /// Whole seconds, within what the format can hold.
    pub fn time(&self, key: &str) -> Result<Option<u32>> {
        self.get(key).map(seconds).transpose()
    }

    /// Attributes in records: `SCHILY.xattr.` holds raw bytes, `LIBARCHIVE.xattr.` a URL-encoded name and base64. Where
    /// both are there, the first counts.
    pub fn xattrs(&self) -> Xattrs {
        let mut found: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for records in [self.global, self.own] {
            for (key, value) in &records.by_key {
                if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    found.insert(url_decoded(name), base64_decoded(value));
                }
            }
        }
        for records in [self.global, self.own] {
            for (key, value) in &records.by_key {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    found.insert(name.to_vec(), value.clone());
                }
            }
        }
        let mut found: Xattrs = found.into_iter().collect();
        found.sort();
        found
    }
}

pub fn decimal(digits: &[u8]) -> Result<u64> {
    let malformed = || Failure::corrupt("a number in a PAX header is malformed");
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(malformed)
}

fn seconds(value: &[u8]) -> Result<u32> {
    if value.starts_with(b"-") {
        return Ok(0);
    }
    let whole = value.split(|&b| b == b'.').next().unwrap_or_default();
    Ok(u32::try_from(decimal(whole)?).unwrap_or(u32::MAX))
}

fn url_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match rest {
            [b'%', high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                out.push((hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0)) as u8);
                rest = tail;
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

fn base64_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(content: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        records.take(content)?;
        Ok(records)
    }

    #[test]
    fn an_entrys_own_records_come_before_the_archives_and_empty_ones_take_back() {
        let global = records(b"10 path=g\n9 uid=10\n13 comment=x\n").unwrap();
        let own = records(b"10 path=o\n7 uid=\n").unwrap();
        let said = Said { global: &global, own: &own };
        assert_eq!(said.get("path"), Some(&b"o"[..]));
        assert_eq!(said.number("uid").unwrap(), None);
        assert_eq!(said.get("comment"), Some(&b"x"[..]));
    }

    #[test]
    fn attributes_come_in_two_spellings() {
        let own = records(
            b"35 LIBARCHIVE.xattr.user.a%20b=aGk\n28 SCHILY.xattr.user.e=a=b\n\n24 SCHILY.xattr.user.f=\n",
        )
        .unwrap();
        let said = Said { global: &Records::default(), own: &own };
        let expected = [(&b"user.a b"[..], &b"hi"[..]), (b"user.e", b"a=b\n"), (b"user.f", b"")];
        assert_eq!(said.xattrs(), expected.map(|(n, v)| (n.to_vec(), v.to_vec())));
    }

    #[test]
    fn malformed_records_are_refused() {
        for content in
            [&b"x"[..], b"5 a\n", b"99 a=b\n", b"-6 a=b\n", b"6 a=b.", b"3 =\n", b"4000000000 a=b\n"]
        {
            assert!(records(content).is_err(), "{content:?}");
        }
        assert!(records(b"27 GNU.sparse.numbytes=10\n").is_err());
    }

    #[test]
    fn times_are_cut_to_seconds_after_1970() {
        for (text, expected) in [("1.999", 1), ("-1.5", 0), ("99999999999", u32::MAX), ("5", 5)] {
            assert_eq!(seconds(text.as_bytes()).unwrap(), expected);
        }
        assert!(seconds(b"soon").is_err());
    }
}
