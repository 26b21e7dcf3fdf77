//! What the kernel gets unasked: a block that was unpacked for one read holds more than that read wanted.
//!
//! Small files share blocks, and who lists a directory and reads one file of it mostly reads others. So the listed files that
//! are in a block go into the kernel's cache of pages with the first of them (FUSE_NOTIFY_STORE), which spares a request for
//! each; and where such blocks are used in their order, the next is unpacked and given away while the last is being read.
//!
//! Storing waits for pages that a request holds locked until it is answered. So only one thread does this at a time, the
//! others (there is always one) go on answering, and no page of the request in hand is ever stored.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::io::{Errno, IoSlice};

use super::protocol::{OUT_HEADER, notice};
use crate::squashfs::inode::Inode;
use crate::squashfs::reader::{Image, Rest, Tail, Unpacked};

/// Files that are remembered at most.
const MOST_LISTED: usize = 8192;

/// The number by which the kernel knows a file: its place in the image, behind the one that names the root.
pub fn node_of(inode: &Inode) -> u64 {
    inode.reference + 2
}

#[derive(Default)]
pub struct Ahead {
    listed: Mutex<Listed>,
    /// The block of tails that was used last. Who holds this may store.
    turn: Mutex<Option<u32>>,
    allowed: AtomicBool,
}

/// Files that the kernel has been told of by listings and has not read yet, by the block that holds their tails: in two
/// generations, of which the older is forgotten when the younger has grown up.
#[derive(Default)]
struct Listed {
    young: HashMap<u32, Vec<(u64, Tail)>>,
    old: HashMap<u32, Vec<(u64, Tail)>>,
    count: usize,
}

impl Listed {
    fn add(&mut self, block: u32, node: u64, tail: Tail) {
        if self.count == MOST_LISTED / 2 {
            self.old = std::mem::take(&mut self.young);
            self.count = 0;
        }
        self.young.entry(block).or_default().push((node, tail));
        self.count += 1;
    }

    fn has(&self, block: u32) -> bool {
        self.young.contains_key(&block) || self.old.contains_key(&block)
    }

    fn take(&mut self, block: u32) -> Vec<(u64, Tail)> {
        let mut files = self.young.remove(&block).unwrap_or_default();
        self.count -= files.len();
        files.extend(self.old.remove(&block).into_iter().flatten());
        files
    }
}

/// What is left to do when the read has been answered.
pub enum Afterwards {
    /// Give away the rest of a block of this file.
    Block { node: u64, start: u64, unpacked: Arc<Unpacked> },
    /// Unpack this block of tails, and give them away.
    Tails(u32),
}

impl Ahead {
    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is stored until another thread answers requests meanwhile.
    pub fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Relaxed);
    }

    /// The turn to store something, if it is nobody else's.
    fn turn(&self) -> Option<MutexGuard<'_, Option<u32>>> {
        if !self.allowed.load(Ordering::Relaxed) {
            return None;
        }
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Remembers a file that a listing tells the kernel of.
    pub fn note(&self, image: &Image, inode: &Inode) {
        if let Some((block, tail)) = image.tail(inode) {
            self.listed().add(block, node_of(inode), tail);
        }
    }

    /// Before a read of `inode` is answered: gives away what its reader will want at once.
    pub fn before(&self, device: BorrowedFd<'_>, inode: &Inode, rest: Rest) -> Option<Afterwards> {
        let own = node_of(inode);
        match rest {
            // A block that is shorter than its file's size says is rare, and left to be asked for.
            Rest::Block { start, length, unpacked } => (unpacked.content.len() == length && !unpacked.used())
                .then_some(Afterwards::Block { node: own, start, unpacked }),
            Rest::Tails { fragment, unpacked } => {
                let mut turn = self.turn()?;
                let files = self.listed().take(fragment);
                for (node, tail) in files.into_iter().filter(|(node, _)| *node != own) {
                    store_tail(device, node, tail, &unpacked).ok()?;
                }
                let last = turn.replace(fragment)?;
                let next = fragment.checked_add(1)?;
                let in_order = last.checked_add(1) == Some(fragment);
                (in_order && self.listed().has(next)).then_some(Afterwards::Tails(next))
            }
        }
    }

    /// When it has been answered.
    pub fn after(&self, device: BorrowedFd<'_>, image: &Image, work: Afterwards) {
        let Some(_turn) = self.turn() else { return };
        match work {
            Afterwards::Block { node, start, unpacked } => {
                let _ = store(device, node, start, &unpacked.content);
            }
            Afterwards::Tails(fragment) => {
                let Ok(unpacked) = image.tails(fragment) else { return };
                let mut files = self.listed().take(fragment);
                files.sort_unstable_by_key(|(_, tail)| tail.from);
                let mut files = files.into_iter();
                // The request for the first tells that it is time for the block behind this one.
                if let Some((node, tail)) = files.next() {
                    self.listed().add(fragment, node, tail);
                }
                for (node, tail) in files {
                    if store_tail(device, node, tail, &unpacked).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn store_tail(device: BorrowedFd<'_>, node: u64, tail: Tail, unpacked: &Unpacked) -> Result<(), Errno> {
    let from = tail.from as usize;
    match unpacked.content.get(from..from.saturating_add(tail.length as usize)) {
        Some(bytes) => store(device, node, tail.start, bytes),
        // The image is damaged; who reads this file is told.
        None => Ok(()),
    }
}

/// Puts bytes of a file into the kernel's cache, where the kernel still knows the file.
fn store(device: BorrowedFd<'_>, node: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mut head = [0; OUT_HEADER + 24];
    let length = (head.len() + bytes.len()) as u32;
    head[0..4].copy_from_slice(&length.to_ne_bytes());
    head[4..8].copy_from_slice(&notice::STORE.to_ne_bytes());
    head[16..24].copy_from_slice(&node.to_ne_bytes());
    head[24..32].copy_from_slice(&offset.to_ne_bytes());
    head[32..36].copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
    loop {
        return match rustix::io::writev(device, &[IoSlice::new(&head), IoSlice::new(bytes)]) {
            Err(Errno::INTR) => continue,
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Listed, MOST_LISTED, Tail};

    const TAIL: Tail = Tail { start: 0, from: 0, length: 1 };

    #[test]
    fn what_was_listed_long_ago_is_forgotten_and_the_rest_found_once() {
        let mut listed = Listed::default();
        for node in 0..2 * MOST_LISTED as u64 {
            listed.add(node as u32 / 8, node, TAIL);
            let held: usize =
                [&listed.young, &listed.old].iter().flat_map(|m| m.values()).map(Vec::len).sum();
            assert!(held <= MOST_LISTED);
        }
        let last = (2 * MOST_LISTED / 8 - 1) as u32;
        assert!(!listed.has(0));
        assert_eq!(listed.take(last).len(), 8);
        assert!(listed.take(last).is_empty());
        assert_eq!(listed.take(last - MOST_LISTED as u32 / 16).len(), 8, "of the older generation");
        assert_eq!(listed.count, listed.young.values().map(Vec::len).sum::<usize>());
    }
}
