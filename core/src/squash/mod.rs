//! The verb `squash`: a stack of layers in, one squashfs image out. Streamed, parallel, nothing unpacked.
//!
//! Layers are read from the uppermost down, so that what is hidden need not be compressed and a small top layer
//! can be worked on while the large lowest one is still arriving. The merge goes the other way, over entries alone.

mod request;
mod verbatim;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;

use self::request::{Ids, LayerRecord, Modes, Owners, Packing, Request, Whiteouts};
use crate::launch::notes::Noted;
use crate::launch::{identity, kernel};
use crate::layers::directory::{Kept, Reading};
use crate::layers::shadow::{Shadow, Wanted};
use crate::layers::squashfs::{Blocks, Taking};
use crate::layers::stream::Stream;
use crate::layers::tree::{Applied, NodeId, ROOT, Tree};
use crate::layers::{
    Attributes, Content, Entry, Failure, Marks, PackedReader, Path, Result, Sink, What, clean_path,
    directory, squashfs as image_layer, tar,
};
use crate::owner::{ATTRIBUTE, ATTRIBUTE_OF_LINK, Owner};
use crate::request::{Events, take_descriptor};
use crate::squashfs::codec::Settings;
use crate::squashfs::format::SUPERBLOCK_SIZE;
use crate::squashfs::reader::Image;
use crate::squashfs::writer::{DataWriter, Finished, Output, Parts, Pipeline, Stretch, write_tables};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Warnings told one by one; of more only the number.
const MOST_WARNINGS: u32 = 50;

/// Runs the verb; the exit status.
pub fn run(fd: RawFd) -> i32 {
    // Whoever listens is gone: nobody will give the image its name.
    kernel::default_action(libc::SIGPIPE);
    // Beyond `ulimit -f` the write fails, and the failure is told.
    kernel::ignore(libc::SIGXFSZ);
    end_with_parent();
    allow_many_files();
    crate::request::answer(fd, |request, events| {
        let done = squash(request, events)?;
        let numbers = [("size", done.size), ("inodes", done.inodes.into()), ("bytes", done.bytes)];
        Ok::<_, Failure>(numbers.map(|(name, number)| (name.to_owned(), number.into())).into_iter().collect())
    })
}

fn end_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
}

/// A tree is walked with a descriptor for every level.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// A layer, opened.
enum Source {
    Tar {
        file: File,
        path: Option<crate::text::Text>,
        owners: Owners,
    },
    Directory {
        path: crate::text::Text,
        marks: Marks,
        clamp: Option<u32>,
        without: Vec<Path>,
        owners: Owners,
        kept: Option<Kept>,
    },
    Squashfs {
        image: Arc<Image>,
        marks: Marks,
        without: Vec<Path>,
        owners: Owners,
        packed: Option<Packing>,
    },
}

impl Source {
    fn applied(&self) -> Applied {
        match self {
            Source::Directory { marks, owners, .. } => Applied {
                owners_below: *owners == Owners::Below,
                marks_kept: *marks == Marks::Kept,
                maker: (0, 0),
            },
            Source::Squashfs { image, marks, owners, .. } => Applied {
                owners_below: *owners == Owners::Below,
                marks_kept: *marks == Marks::Kept,
                maker: image.root().map_or((0, 0), |root| (root.uid, root.gid)),
            },
            Source::Tar { .. } => Applied::default(),
        }
    }
}

/// Contents go to the writer, warnings to the one who asked.
struct Contents<'a> {
    writer: DataWriter,
    events: &'a Events,
    warnings: u32,
}

impl Sink for Contents<'_> {
    fn begin(&mut self, size: u64) -> Result<()> {
        Ok(self.writer.begin(size)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.writer.write(bytes)?)
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        Ok(self.writer.hole(length)?)
    }

    fn finish(&mut self) -> Result<u32> {
        Ok(self.writer.finish()?)
    }

    fn packed(&mut self, size: u64, words: &[u32], read: PackedReader<'_>) -> Result<u32> {
        Ok(self.writer.packed(size, words, read)?)
    }

    fn warn(&mut self, message: String) {
        self.warnings += 1;
        if self.warnings <= MOST_WARNINGS {
            self.events.send(&json!({"event": "warning", "message": message}));
        }
    }
}

fn bad_request(message: impl Into<String>) -> Failure {
    Failure { code: "bad-request", message: message.into(), path: None }
}

fn squash(request: Request, events: &Arc<Events>) -> Result<Finished> {
    let settings = Settings::new(&request.compressor, request.level).map_err(bad_request)?;
    if !request.block_size.is_power_of_two() || !(4096..=1 << 20).contains(&request.block_size) {
        let size = request.block_size;
        return Err(bad_request(format!("the block size {size} is not a power of two from 4096 to 1048576")));
    }
    let exclude =
        request.exclude.iter().map(|path| clean_path(path.as_bytes())).collect::<Result<Vec<Path>>>()?;
    let output = Output { file: Arc::new(take_descriptor(request.output.fd)), base: request.output.offset };
    // Before the namespace is entered: what the caller may open is the caller's to decide.
    let sources = request.layers.into_iter().map(open).collect::<Result<Vec<Source>>>()?;
    if let Some(identity) = &request.identity {
        identity::enter(identity).map_err(|failure| Failure {
            code: "userns",
            message: failure.message(),
            path: None,
        })?;
        // A change of credentials has taken it back.
        end_with_parent();
    }
    let threads = match request.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given.min(256),
    };
    let start = (SUPERBLOCK_SIZE + settings.options().map_or(0, |o| o.len())) as u64;
    let written = Arc::new(AtomicU64::new(0));
    let counts: Vec<Arc<AtomicU64>> = sources.iter().map(|_| Arc::default()).collect();
    let progress = Progress::start(Arc::clone(events), counts.clone(), Arc::clone(&written));

    let block_size = request.block_size;
    let pipeline =
        Pipeline::start(output.clone(), start, settings, block_size, threads, Arc::clone(&written))?;
    let mut contents = Contents { writer: DataWriter::new(pipeline, block_size), events, warnings: 0 };
    let packing = Packing { compressor: request.compressor, level: request.level, block_size };
    let work = Work { sources: &sources, exclude: &exclude, settings, packing };
    let layers = work.read_layers(&counts, &mut contents)?;
    let (layers, digests): (Vec<Vec<Entry>>, Vec<Option<String>>) = layers.into_iter().unzip();

    let offered = verbatim::offered(&layers);
    let mut tree = Tree::new();
    // Unless a layer says more of the root.
    tree.nodes[ROOT].attributes.mtime = request.epoch.unwrap_or(0);
    for (index, layer) in layers.into_iter().enumerate() {
        tree.apply_with(layer, sources[index].applied()).map_err(|failure| work.of_layer(index, failure))?;
    }
    tree.exclude(&exclude);
    if request.ids == Ids::Root {
        for node in &mut tree.nodes {
            (node.attributes.uid, node.attributes.gid) = (0, 0);
        }
    }
    if request.modes == Modes::Owner {
        for node in &mut tree.nodes {
            node.attributes.mode |= match node.what {
                What::Directory => 0o700,
                What::File { .. } => 0o600,
                _ => 0,
            };
        }
    }
    let order = tree.reachable();
    work.read_again(&mut tree, &order, &digests, &mut contents)?;
    let stored = work.take_stored(&mut tree, &order, &offered, &mut contents)?;
    if contents.warnings > MOST_WARNINGS {
        let more = contents.warnings - MOST_WARNINGS;
        events.send(&json!({"event": "warning", "message": format!("{more} more warnings of this kind")}));
    }
    let mut contents = contents.writer.close()?;
    let copied = verbatim::copy(&stored, &mut contents, &output, &written)?;
    let parts = Parts { tree: &tree, order: &order, contents: &contents, copied: &copied };
    let finished = write_tables(&output, &parts, settings, block_size, request.epoch.unwrap_or(0))?;
    progress.stop();
    Ok(finished)
}

fn unreadable(path: &crate::text::Text, error: std::io::Error) -> Failure {
    let message = format!("`{path}` cannot be read: {error}");
    Failure { message, ..Failure::from(error) }.at(path.as_bytes())
}

fn open(record: LayerRecord) -> Result<Source> {
    Ok(match record {
        LayerRecord::Tar { fd, path, owners } => {
            let file = match (fd, &path) {
                (Some(fd), _) => take_descriptor(fd),
                (None, Some(path)) => File::open(path.as_path()).map_err(|error| unreadable(path, error))?,
                (None, None) => return Err(bad_request("a tar layer has neither a descriptor nor a path")),
            };
            Source::Tar { file, path, owners }
        }
        LayerRecord::Directory { path, whiteouts, clamp, without, owners, notes, maker: (uid, gid) } => {
            let kept = match owners {
                Owners::Kept => {
                    let read = |path: &crate::text::Text| {
                        Noted::read(path.as_path()).map_err(|error| unreadable(path, error))
                    };
                    let noted = notes.as_ref().map(read).transpose()?.unwrap_or_default();
                    Some(Kept { noted, maker: Owner { uid, gid } })
                }
                _ => None,
            };
            let without = patterns(&without)?;
            Source::Directory { path, marks: marks(whiteouts), clamp, without, owners, kept }
        }
        LayerRecord::Squashfs { path, offset, size, whiteouts, without, owners, packed } => {
            let file = File::open(path.as_path()).map_err(|error| unreadable(&path, error))?;
            let image = Image::open(Arc::new(file), offset, size);
            let image = Arc::new(image.map_err(|error| Failure::from(error).at(path.as_bytes()))?);
            Source::Squashfs { image, marks: marks(whiteouts), without: patterns(&without)?, owners, packed }
        }
    })
}

/// Beside every file of an archive, the owner that it has there, which a root of one id could not give it.
fn record_owners(entries: &mut [Entry]) {
    for entry in entries {
        let Attributes { uid, gid, .. } = entry.attributes;
        let attribute = match entry.what {
            _ if (uid, gid) == (0, 0) => continue,
            What::File { .. } | What::Directory => ATTRIBUTE,
            What::Symlink { .. } | What::Fifo => ATTRIBUTE_OF_LINK,
            _ => continue,
        };
        let mut set = entry.attributes.xattrs.as_deref().cloned().unwrap_or_default();
        set.retain(|(name, _)| name != attribute.to_bytes());
        set.push((attribute.to_bytes().to_vec(), Owner { uid, gid }.encode()));
        set.sort();
        entry.attributes.xattrs = Some(Arc::new(set));
    }
}

fn patterns(paths: &[crate::text::Text]) -> Result<Vec<Path>> {
    paths.iter().map(|path| clean_path(path.as_bytes())).collect()
}

fn marks(whiteouts: Whiteouts) -> Marks {
    match whiteouts {
        Whiteouts::None => Marks::Ordinary,
        Whiteouts::Overlay => Marks::CarriedOut,
        Whiteouts::Keep => Marks::Kept,
    }
}

/// What stays the same while layers are read.
struct Work<'s> {
    sources: &'s [Source],
    exclude: &'s [Path],
    settings: Settings,
    packing: Packing,
}

impl<'s> Work<'s> {
    /// Names the layer that a failure is about, where there are several.
    fn of_layer(&self, index: usize, mut failure: Failure) -> Failure {
        if self.sources.len() > 1 {
            failure.message = format!("layer {}: {}", index + 1, failure.message);
        }
        failure
    }

    /// Whether an image's blocks can be taken over as they are.
    fn is_alike(&self, image: &Image) -> bool {
        image.compressor == self.settings.compressor
            && image.superblock.block_size == self.packing.block_size
            && !self.settings.stored
    }

    /// What becomes of a layer's blocks. In what a step wrote, those that small files share depend on what is left out of it, too,
    /// which is never twice the same: none is kept, so that an image depends on the files that it holds alone.
    fn blocks(&self, source: &Source) -> Blocks {
        match source {
            Source::Squashfs { image, marks, packed, .. } if self.is_alike(image) => {
                if *marks != Marks::CarriedOut {
                    Blocks::Kept
                } else if packed.as_ref() == Some(&self.packing) {
                    Blocks::PassedOn
                } else {
                    Blocks::Read
                }
            }
            _ => Blocks::Read,
        }
    }

    /// Reads every layer once, from the uppermost down; entries and digest, lowest layer first.
    fn read_layers(
        &self,
        counts: &[Arc<AtomicU64>],
        contents: &mut Contents<'_>,
    ) -> Result<Vec<(Vec<Entry>, Option<String>)>> {
        let mut shadow = Shadow::default();
        shadow.exclude(self.exclude);
        let mut layers = Vec::new();
        for index in (0..self.sources.len()).rev() {
            let (entries, digest) = self
                .read_layer(index, &shadow, &counts[index], contents)
                .map_err(|failure| self.of_layer(index, failure))?;
            if let Some(digest) = &digest {
                contents.events.send(&json!({"event": "layer", "index": index, "diff_id": digest}));
            }
            if index > 0 {
                shadow.add(&entries);
            }
            layers.push((entries, digest));
        }
        layers.reverse();
        Ok(layers)
    }

    fn read_layer(
        &self,
        index: usize,
        shadow: &Shadow,
        count: &Arc<AtomicU64>,
        contents: &mut Contents<'_>,
    ) -> Result<(Vec<Entry>, Option<String>)> {
        let layer = index as u32;
        let visible = Wanted::Visible(shadow);
        match &self.sources[index] {
            Source::Tar { file, path, owners } => {
                let mut stream = Stream::start(file.try_clone()?, Arc::clone(count))?;
                let wanted = if path.is_some() { visible } else { Wanted::Everything };
                let mut entries = tar::read(&mut stream, layer, &wanted, contents)?;
                if *owners == Owners::Kept {
                    record_owners(&mut entries);
                }
                Ok((entries, Some(stream.digest()?)))
            }
            Source::Directory { path, marks, clamp, without, owners, kept } => {
                let (recorded, kept) = (*owners == Owners::Below, kept.as_ref());
                let how =
                    Reading { marks: *marks, exclude: self.exclude, without, clamp: *clamp, recorded, kept };
                Ok((directory::read(path.as_path(), how, layer, &visible, count, contents)?, None))
            }
            Source::Squashfs { image, marks, without, owners, .. } => {
                let recorded = *owners == Owners::Below;
                let blocks = self.blocks(&self.sources[index]);
                let how = Taking { marks: *marks, without, blocks, shadow, recorded };
                Ok((image_layer::read(image, how, layer, count, contents)?, None))
            }
        }
    }

    /// The rare second look: files that survive although an upper layer seemed to hide them.
    fn read_again(
        &self,
        tree: &mut Tree,
        order: &[NodeId],
        digests: &[Option<String>],
        contents: &mut Contents<'_>,
    ) -> Result<()> {
        let mut wanted: BTreeMap<u32, HashSet<u32>> = BTreeMap::new();
        for &id in order {
            if let What::File { content: Content::Skipped { layer, entry }, .. } = tree.nodes[id].what {
                wanted.entry(layer).or_default().insert(entry);
            }
        }
        let changed =
            || Failure { code: "io", message: "a layer changed while it was read".into(), path: None };
        let mut found: HashMap<(u32, u32), (u64, Content)> = HashMap::new();
        for (layer, numbers) in wanted {
            let index = layer as usize;
            let only = Wanted::Only(&numbers);
            let entries = match &self.sources[index] {
                Source::Tar { path, .. } => {
                    let path = path.as_ref().ok_or_else(changed)?;
                    let file = File::open(path.as_path()).map_err(|error| unreadable(path, error))?;
                    let mut stream = Stream::start(file, Arc::default())?;
                    let entries = tar::read(&mut stream, layer, &only, contents)?;
                    if Some(stream.digest()?) != digests[index] {
                        return Err(self.of_layer(index, changed()));
                    }
                    entries
                }
                Source::Directory { path, marks, clamp, without, owners, kept } => {
                    let (recorded, kept) = (*owners == Owners::Below, kept.as_ref());
                    let how = Reading {
                        marks: *marks,
                        exclude: self.exclude,
                        without,
                        clamp: *clamp,
                        recorded,
                        kept,
                    };
                    directory::read(path.as_path(), how, layer, &only, &Arc::default(), contents)?
                }
                Source::Squashfs { .. } => continue,
            };
            for (number, entry) in entries.into_iter().enumerate() {
                if let What::File { size, content: content @ Content::Written(_) } = entry.what {
                    found.insert((layer, number as u32), (size, content));
                }
            }
        }
        for &id in order {
            if let What::File { size, content } = &mut tree.nodes[id].what
                && let Content::Skipped { layer, entry } = *content
            {
                let again = found.get(&(layer, entry)).filter(|(again, _)| again == size);
                *content = again.ok_or_else(changed)?.1;
            }
        }
        Ok(())
    }

    /// What survives of squashfs layers: files of alike images are left to be copied, others read now, and so are those that
    /// share a block with a file that does not survive: what is removed is not to be found in the bytes.
    fn take_stored(
        &self,
        tree: &mut Tree,
        order: &[NodeId],
        offered: &Offered,
        contents: &mut Contents<'_>,
    ) -> Result<Vec<verbatim::File<'s>>> {
        let kept = verbatim::kept(tree, order);
        let mut shared = HashMap::new();
        for (&layer, references) in offered {
            let Source::Squashfs { image, .. } = &self.sources[layer as usize] else { continue };
            if self.blocks(&self.sources[layer as usize]) == Blocks::Kept {
                shared.insert(layer, verbatim::left_behind(image, references, kept.get(&layer))?);
            }
        }
        let mut files = Vec::new();
        for &id in order {
            let What::File { content, .. } = &mut tree.nodes[id].what else { continue };
            let Content::Stored { layer, reference } = *content else { continue };
            let Source::Squashfs { image, .. } = &self.sources[layer as usize] else { continue };
            let copied = match shared.get(&layer) {
                Some(shared) => shared.is_empty() || !verbatim::shares(image, reference, shared)?,
                None => false,
            };
            if copied {
                files.push(verbatim::File { image, layer, reference });
            } else {
                let mut buffer = vec![0; image.block_size()];
                let inode = image.inode(reference)?;
                let number =
                    self.blocks(&self.sources[layer as usize]).give(image, &inode, &mut buffer, contents)?;
                *content = Content::Written(number);
            }
        }
        Ok(files)
    }
}

/// Tells how far the work is, ten times a second.
struct Progress {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    fn start(events: Arc<Events>, counts: Vec<Arc<AtomicU64>>, written: Arc<AtomicU64>) -> Progress {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("soliton-progress".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(PROGRESS_INTERVAL);
                let read: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
                let written = written.load(Ordering::Relaxed);
                events.send(&json!({"event": "progress", "read": read, "written": written}));
            }
        });
        Progress { stop, thread: thread.ok() }
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Where copied contents are, by layer and inode reference.
pub(crate) type Copied = HashMap<(u32, u64), Stretch>;
/// Files that are left in squashfs layers until it is known which survive: layer → references of inodes.
type Offered = BTreeMap<u32, HashSet<u64>>;
