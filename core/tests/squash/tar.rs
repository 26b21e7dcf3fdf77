//! A small writer of ustar archives, independent of the reader under test.

/// An archive being written.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

pub struct Member<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: u64,
    pub link: &'a [u8],
    pub device: (u32, u32),
    pub data: &'a [u8],
}

impl Default for Member<'_> {
    fn default() -> Self {
        Member {
            name: b"",
            kind: b'0',
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_700_000_000,
            link: b"",
            device: (0, 0),
            data: b"",
        }
    }
}

impl Tar {
    pub fn member(&mut self, member: &Member<'_>) -> &mut Tar {
        assert!(member.name.len() <= 100 && member.link.len() <= 100);
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, member.name);
        put(100, format!("{:07o}\0", member.mode).as_bytes());
        put(108, format!("{:07o}\0", member.owner.0).as_bytes());
        put(116, format!("{:07o}\0", member.owner.1).as_bytes());
        put(124, format!("{:011o}\0", member.data.len()).as_bytes());
        put(136, format!("{:011o}\0", member.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[member.kind]);
        put(157, member.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", member.device.0).as_bytes());
        put(337, format!("{:07o}\0", member.device.1).as_bytes());
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(member.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(&mut self, name: &str, data: &[u8]) -> &mut Tar {
        self.member(&Member { name: name.as_bytes(), data, ..Member::default() })
    }

    pub fn directory(&mut self, name: &str) -> &mut Tar {
        self.member(&Member { name: name.as_bytes(), kind: b'5', mode: 0o755, ..Member::default() })
    }

    pub fn symlink(&mut self, name: &str, link: &str) -> &mut Tar {
        let (name, link) = (name.as_bytes(), link.as_bytes());
        self.member(&Member { name, link, kind: b'2', mode: 0o777, ..Member::default() })
    }

    pub fn hard_link(&mut self, name: &str, link: &str) -> &mut Tar {
        let (name, link) = (name.as_bytes(), link.as_bytes());
        self.member(&Member { name, link, kind: b'1', ..Member::default() })
    }

    /// The archive with its end marker.
    pub fn end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}
