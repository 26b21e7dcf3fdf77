//! The door of a container in the background: a socket at which those of its user who want to come in get its namespaces.
//!
//! Its monitor answers, for nobody may look into the monitor itself: what could be reached through `/proc` there is the host's.
//! Whoever knocks shows the token of the instance's record. In a container that processes share (`--sharens`) everybody who
//! has come in is remembered, by pidfd, since it ends with the last of them.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recv, sendmsg,
    sockopt,
};
use rustix::process::PidfdFlags;

use super::join::NAMESPACES;
use crate::text::Text;

/// So many may keep the monitor waiting for their token: anybody on this machine can, and of more it forgets who has done so longest.
const MOST_WAITING: usize = 64;

pub struct Door {
    listener: OwnedFd,
    token: Text,
    /// Whether it ends with the last who came in.
    shared: bool,
    /// `/proc/self/ns` of the monitor, opened while there is a /proc.
    namespaces: OwnedFd,
    waiting: Vec<OwnedFd>,
    inside: Vec<OwnedFd>,
}

impl Door {
    /// To be called by the monitor before it enters any namespace. listener: does not block.
    pub fn new(listener: OwnedFd, token: Text, shared: bool) -> Result<Door, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let namespaces = rustix::fs::open("/proc/self/ns", flags, Mode::empty())?;
        Ok(Door { listener, token, shared, namespaces, waiting: Vec::new(), inside: Vec::new() })
    }

    /// What the monitor has to keep open, and to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.listener, &self.namespaces]
            .into_iter()
            .chain(&self.waiting)
            .chain(&self.inside)
            .map(AsFd::as_fd)
    }

    /// The same without what never has anything to say.
    pub fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.listener].into_iter().chain(&self.waiting).chain(&self.inside).map(AsFd::as_fd)
    }

    pub fn somebody_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets in who knocks. False: the container is shared, and nobody is left.
    pub fn attend(&mut self) -> bool {
        while let Ok(visitor) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            self.waiting.push(visitor);
            if self.waiting.len() > MOST_WAITING {
                // However many come at once, nobody goes who has said the token.
                self.hear();
                if self.waiting.len() > MOST_WAITING {
                    self.waiting.remove(0);
                }
            }
        }
        self.hear();
        self.inside.retain(|process| !super::instance::has_ended(process));
        !self.shared || !self.inside.is_empty() || self.somebody_waits()
    }

    /// Lets in whoever has said the token, and forgets who said something else.
    fn hear(&mut self) {
        for visitor in std::mem::take(&mut self.waiting) {
            let mut token = [0; 128];
            match recv(&visitor, &mut token[..], RecvFlags::empty()) {
                Err(Errno::AGAIN | Errno::INTR) => self.waiting.push(visitor),
                Ok((length, _)) if token[..length] == *self.token.as_bytes() => self.let_in(&visitor),
                _ => {}
            }
        }
    }

    fn let_in(&mut self, visitor: &OwnedFd) {
        if self.shared {
            let Ok(who) = sockopt::socket_peercred(visitor) else { return };
            let Ok(process) = rustix::process::pidfd_open(who.pid, PidfdFlags::empty()) else { return };
            // Still there, so the number is nobody else's.
            if !is_connected(visitor) {
                return;
            }
            self.inside.push(process);
        }
        let open = |name: &&str| {
            rustix::fs::openat(&self.namespaces, *name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let Ok(opened) = NAMESPACES.iter().map(open).collect::<Result<Vec<_>, _>>() else { return };
        let opened: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(NAMESPACES.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&opened));
        let words = [std::io::IoSlice::new(b"!")];
        let _ = sendmsg(visitor, &words, &mut control, SendFlags::NOSIGNAL);
    }
}

fn is_connected(visitor: &OwnedFd) -> bool {
    let mut entry = [PollFd::new(visitor, PollFlags::RDHUP)];
    poll(&mut entry, Some(&Timespec::default())) == Ok(0)
}
