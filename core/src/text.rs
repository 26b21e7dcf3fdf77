//! Text of the host: paths, arguments and environment as bytes.
//!
//! Python spells bytes that are not UTF-8 as lone surrogates (`surrogateescape`); in the JSON request
//! they arrive as `\udc80`…`\udcff` and become the single bytes again here.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Bytes of the host, without NUL.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Vec<u8>);

impl Text {
    /// Panics never: bytes from the first NUL on are dropped, as the kernel would do.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Text {
        let mut bytes = bytes.into();
        if let Some(end) = bytes.iter().position(|&b| b == 0) {
            bytes.truncate(end);
        }
        Text(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    pub fn as_path(&self) -> &Path {
        Path::new(self.as_os_str())
    }

    pub fn to_c_string(&self) -> CString {
        CString::new(self.0.clone()).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::new(text.as_bytes())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Turns the three-byte form of U+DC80…U+DCFF into the byte it stands for.
fn undo_surrogates(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        if let [0xED, second @ 0xB2..=0xB3, third @ 0x80..=0xBF, tail @ ..] = rest {
            out.push(((second & 0x03) << 6) | (third & 0x3F));
            rest = tail;
        } else {
            out.push(first);
            rest = after;
        }
    }
    out
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Text, E> {
                let bytes = undo_surrogates(bytes);
                if bytes.contains(&0) {
                    return Err(E::custom("a NUL byte in a string"));
                }
                Ok(Text(bytes))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                self.visit_bytes(text.as_bytes())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl Serialize for Text {
    /// Lossy: records that leave the core are read by people.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_survive_the_request() {
        let text: Text = serde_json::from_str(r#""a\udcff\udc80ü""#).unwrap();
        assert_eq!(text.as_bytes(), b"a\xff\x80\xc3\xbc");
    }

    #[test]
    fn a_nul_is_refused() {
        assert!(serde_json::from_str::<Text>(r#""a\u0000b""#).is_err());
    }
}
