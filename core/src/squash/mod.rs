//! The verb `squash`: a stack of layers in, one squashfs image out. Streamed, parallel, nothing unpacked.
//!
//! Layers are read from the uppermost down, so that what is hidden need not be compressed and a small top layer
//! can be worked on while the large lowest one is still arriving. The merge goes the other way, over entries alone.

mod request;
mod verbatim;

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use self::request::{LayerRecord, Request, Whiteouts};
use crate::launch::identity;
use crate::layers::shadow::Shadow;
use crate::layers::stream::Stream;
use crate::layers::tar::{self, Wanted};
use crate::layers::tree::{NodeId, Tree};
use crate::layers::{Content, Entry, Failure, Result, Sink, What, directory, squashfs as image_layer};
use crate::request::{Events, take_descriptor};
use crate::squashfs::codec::Settings;
use crate::squashfs::format::SUPERBLOCK_SIZE;
use crate::squashfs::reader::Image;
use crate::squashfs::writer::{DataWriter, Finished, Output, Pipeline, Stretch, Time, write_tables};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the verb; the exit status.
pub fn run(fd: i32) -> i32 {
    let request: Request = match crate::request::read(fd) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("FATAL:   soliton-core: {message}");
            return 255;
        }
    };
    // Whoever asked for the image is gone: nobody will give it its name.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let events = Arc::new(Events::new(request.events));
    match squash(request, &events) {
        Ok(done) => {
            events.send(
                &json!({"event": "done", "size": done.size, "inodes": done.inodes, "bytes": done.bytes}),
            );
            0
        }
        Err(failure) => {
            events.fail(failure.code, &failure.message, failure.path.as_deref());
            255
        }
    }
}

/// A layer, opened.
enum Source {
    Tar { file: Option<File>, path: Option<crate::text::Text> },
    Directory { path: crate::text::Text, overlay: bool },
    Squashfs(Arc<Image>),
}

/// Contents go to the writer, warnings to the one who asked.
struct Contents<'a> {
    writer: DataWriter,
    events: &'a Events,
}

impl Sink for Contents<'_> {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.writer.begin(size);
        Ok(())
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

    fn warn(&mut self, message: String) {
        self.events.send(&json!({"event": "warning", "message": message}));
    }
}

fn squash(request: Request, events: &Arc<Events>) -> Result<Finished> {
    let settings = Settings::new(&request.compressor, request.level).map_err(|message| Failure {
        code: "bad-request",
        message,
        path: None,
    })?;
    if !request.block_size.is_power_of_two() || !(4096..=1 << 20).contains(&request.block_size) {
        let message =
            format!("the block size {} is not a power of two from 4096 to 1048576", request.block_size);
        return Err(Failure { code: "bad-request", message, path: None });
    }
    let output = Output { file: Arc::new(take_descriptor(request.output.fd)), base: request.output.offset };
    // Before the namespace is entered: what the caller may open is the caller's to decide.
    let sources = request.layers.into_iter().map(open).collect::<Result<Vec<Source>>>()?;
    if let Some(identity) = &request.identity {
        identity::enter(identity).map_err(|failure| Failure {
            code: "userns",
            message: failure.message(),
            path: None,
        })?;
    }
    let threads = match request.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given.min(256),
    };
    let start = (SUPERBLOCK_SIZE + settings.options().map_or(0, |o| o.len())) as u64;
    let written = Arc::new(AtomicU64::new(0));
    let counts: Vec<Arc<AtomicU64>> = sources.iter().map(|_| Arc::default()).collect();
    let progress = Progress::start(Arc::clone(events), counts.clone(), Arc::clone(&written));

    let pipeline = Pipeline::start(output.clone(), start, settings, request.block_size, threads, written)?;
    let mut contents = Contents { writer: DataWriter::new(pipeline, request.block_size), events };
    let mut layers = read_layers(&sources, &counts, settings, request.block_size, &mut contents)?;

    let mut tree = Tree::new();
    for (index, layer) in layers.drain(..).enumerate() {
        tree.apply(layer).map_err(|mut failure| {
            failure.message = format!("layer {}: {}", index + 1, failure.message);
            failure
        })?;
    }
    tree.exclude(&request.exclude.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>())?;
    if request.ids == "root" {
        for node in &mut tree.nodes {
            (node.attributes.uid, node.attributes.gid) = (0, 0);
        }
    }
    let order = tree.reachable();
    read_again(&sources, &mut tree, &order, &mut contents)?;
    let stored = take_stored(&sources, &mut tree, &order, settings, request.block_size, &mut contents)?;
    let mut contents = contents.writer.close()?;
    let copied = verbatim::copy(&stored, &mut contents, &output)?;
    let time = Time { epoch: request.epoch.unwrap_or(0), clamp: request.clamp };
    let finished = write_tables(&output, &tree, &contents, &copied, settings, request.block_size, time)?;
    progress.stop();
    Ok(finished)
}

fn open(record: LayerRecord) -> Result<Source> {
    let named = |path: &crate::text::Text, error: std::io::Error| {
        let mut failure =
            Failure::from(std::io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)));
        failure.message = format!("`{path}` cannot be read: {error}");
        failure.at(path.as_bytes())
    };
    Ok(match record {
        LayerRecord::Tar { fd, path } => {
            let file = match (fd, &path) {
                (Some(fd), _) => take_descriptor(fd),
                (None, Some(path)) => File::open(path.as_path()).map_err(|error| named(path, error))?,
                (None, None) => {
                    let message = "a tar layer has neither a descriptor nor a path".into();
                    return Err(Failure { code: "bad-request", message, path: None });
                }
            };
            Source::Tar { file: Some(file), path }
        }
        LayerRecord::Directory { path, whiteouts } => {
            Source::Directory { path, overlay: whiteouts == Whiteouts::Overlay }
        }
        LayerRecord::Squashfs { path, offset, size } => {
            let file = File::open(path.as_path()).map_err(|error| named(&path, error))?;
            let image = Image::open(Arc::new(file), offset, size);
            Source::Squashfs(Arc::new(image.map_err(|error| Failure::from(error).at(path.as_bytes()))?))
        }
    })
}

/// Whether an image's blocks can be taken over as they are.
fn is_alike(image: &Image, settings: Settings, block_size: u32) -> bool {
    image.compressor == settings.compressor && image.superblock.block_size == block_size && !settings.stored
}

/// Reads every layer once, from the uppermost down; the entries, lowest layer first.
fn read_layers(
    sources: &[Source],
    counts: &[Arc<AtomicU64>],
    settings: Settings,
    block_size: u32,
    contents: &mut Contents<'_>,
) -> Result<Vec<Vec<Entry>>> {
    let mut shadow = Shadow::default();
    let mut layers = Vec::new();
    for (index, source) in sources.iter().enumerate().rev() {
        let layer = index as u32;
        let read = match source {
            Source::Tar { file: Some(file), .. } => {
                let file = file.try_clone()?;
                let mut stream = Stream::start(file, Arc::clone(&counts[index]))?;
                let entries = tar::read(&mut stream, layer, &Wanted::Visible(&shadow), contents);
                entries.and_then(|entries| {
                    let digest = stream.digest()?;
                    contents.events.send(&json!({"event": "layer", "index": index, "diff_id": digest}));
                    Ok(entries)
                })
            }
            Source::Tar { .. } => Ok(Vec::new()),
            Source::Directory { path, overlay } => {
                directory::read(path.as_path(), *overlay, &counts[index], contents)
            }
            Source::Squashfs(image) => {
                let verbatim = is_alike(image, settings, block_size);
                image_layer::read(image, layer, verbatim, &shadow, &counts[index], contents)
            }
        };
        let entries = read.map_err(|mut failure| {
            if sources.len() > 1 {
                failure.message = format!("layer {}: {}", index + 1, failure.message);
            }
            failure
        })?;
        if index > 0 {
            shadow.add(&entries);
        }
        layers.push(entries);
    }
    layers.reverse();
    Ok(layers)
}

/// The rare second look: files that survive although an upper layer seemed to hide them.
fn read_again(
    sources: &[Source],
    tree: &mut Tree,
    order: &[NodeId],
    contents: &mut Contents<'_>,
) -> Result<()> {
    let mut wanted: HashMap<u32, HashMap<u32, ()>> = HashMap::new();
    for &id in order {
        if let What::File { content: Content::Skipped { layer, entry }, .. } = tree.nodes[id].what {
            wanted.entry(layer).or_default().insert(entry, ());
        }
    }
    let mut layers: Vec<u32> = wanted.keys().copied().collect();
    layers.sort_unstable();
    let mut found: HashMap<(u32, u32), Content> = HashMap::new();
    for layer in layers {
        let Source::Tar { path: Some(path), .. } = &sources[layer as usize] else {
            return Err(Failure::corrupt(format!("layer {} cannot be read a second time", layer + 1)));
        };
        let mut stream = Stream::start(File::open(path.as_path())?, Arc::default())?;
        let entries = tar::read(&mut stream, layer, &Wanted::Only(&wanted[&layer]), contents)?;
        for (number, entry) in entries.into_iter().enumerate() {
            if let What::File { content: content @ Content::Written(_), .. } = entry.what {
                found.insert((layer, number as u32), content);
            }
        }
    }
    for &id in order {
        if let What::File { content, .. } = &mut tree.nodes[id].what
            && let Content::Skipped { layer, entry } = content
        {
            let lost = || Failure::corrupt("a layer changed while it was read");
            *content = *found.get(&(*layer, *entry)).ok_or_else(lost)?;
        }
    }
    Ok(())
}

/// What survives of squashfs layers: files of alike images are left to be copied, others read now.
fn take_stored<'s>(
    sources: &'s [Source],
    tree: &mut Tree,
    order: &[NodeId],
    settings: Settings,
    block_size: u32,
    contents: &mut Contents<'_>,
) -> Result<Vec<verbatim::File<'s>>> {
    let mut files = Vec::new();
    for &id in order {
        let What::File { content, .. } = &mut tree.nodes[id].what else { continue };
        let Content::Stored { layer, reference } = *content else { continue };
        let Source::Squashfs(image) = &sources[layer as usize] else { continue };
        if is_alike(image, settings, block_size) {
            files.push(verbatim::File { image, layer, reference });
        } else {
            let mut buffer = vec![0; image.block_size()];
            let inode = image.inode(reference)?;
            *content = Content::Written(image_layer::pass_file(image, &inode, &mut buffer, contents)?);
        }
    }
    Ok(files)
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
