//! The owner that a file is to have, written beside it where it cannot have it: the attribute `user.rootlesscontainers`, as umoci and
//! other rootless tools keep it.
//!
//! The value is a protocol buffer of two numbers: field 1 the user, field 2 the group, each left out where it is 0. All
//! ones (chown's own "leave it as it is") means that nothing was said of this part.

pub const ATTRIBUTE: &std::ffi::CStr = c"user.rootlesscontainers";
/// The same in an image that is only copied from, for links and pipes: the kernel gives nobody those of users.
pub const ATTRIBUTE_OF_LINK: &std::ffi::CStr = c"security.rootlesscontainers";
/// Nothing was said: the id of who owned it before counts.
pub const UNSAID: u32 = u32::MAX;
/// Two fields of a byte of tag and at most five of number.
pub const LONGEST: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// What a chown(2) to `uid` and `gid` makes of it.
    pub fn changed(self, uid: u32, gid: u32) -> Owner {
        let or = |new, old| if new == UNSAID { old } else { new };
        Owner { uid: or(uid, self.uid), gid: or(gid, self.gid) }
    }

    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, mut value) in [(0x08, self.uid), (0x10, self.gid)] {
            if value == 0 {
                continue;
            }
            bytes.push(tag);
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        }
        bytes
    }

    /// None for what is no such value.
    pub fn decode(mut bytes: &[u8]) -> Option<Owner> {
        let mut owner = Owner { uid: 0, gid: 0 };
        while let Some((&tag, rest)) = bytes.split_first() {
            bytes = rest;
            let mut value = 0u64;
            for shift in (0..).step_by(7) {
                let (&byte, rest) = bytes.split_first().filter(|_| shift < 35)?;
                bytes = rest;
                value |= u64::from(byte & 0x7F) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            let value = u32::try_from(value).ok()?;
            match tag {
                0x08 => owner.uid = value,
                0x10 => owner.gid = value,
                _ => return None,
            }
        }
        Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for uid in [0, 1, 127, 128, 65534, 2_000_000_000, UNSAID] {
            for gid in [0, 33, 1000, UNSAID] {
                let owner = Owner { uid, gid };
                assert!(owner.encode().len() <= LONGEST);
                assert_eq!(Owner::decode(&owner.encode()), Some(owner));
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_other_tools() {
        assert_eq!(Owner { uid: 33, gid: 300 }.encode(), [0x08, 33, 0x10, 0xAC, 0x02]);
        assert!(Owner { uid: 0, gid: 0 }.encode().is_empty());
    }

    #[test]
    fn what_is_no_owner_is_none() {
        for bytes in [&[0x08][..], &[0x18, 1], &[0x08, 0x80], &[0x08, 255, 255, 255, 255, 255, 1], b"hello"] {
            assert_eq!(Owner::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_part_of_which_nothing_is_said_stays() {
        let owner = Owner { uid: 33, gid: UNSAID };
        assert_eq!(owner.changed(UNSAID, 44), Owner { uid: 33, gid: 44 });
        assert_eq!(owner.changed(0, UNSAID), Owner { uid: 0, gid: UNSAID });
    }
}
