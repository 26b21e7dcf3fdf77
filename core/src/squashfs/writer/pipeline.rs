//! Blocks go to a pool of compressing threads and come out in the order they went in.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use xxhash_rust::xxh3::Xxh3;

use super::{Fragment, Stretch};
use crate::squashfs::codec::{Encoder, Settings};
use crate::squashfs::format::DATA_RAW;

/// What is collected before it is written to the file.
const WRITE_SIZE: usize = 2 << 20;
/// Content waiting to be compressed or written, unless there are so many threads that they need more.
const MEMORY_IN_FLIGHT: usize = 32 << 20;

/// The file an image is written into, and where it begins there.
#[derive(Clone)]
pub struct Output {
    pub file: Arc<File>,
    pub base: u64,
}

impl Output {
    /// Takes away what duplicates left behind the end of the image.
    pub fn end_at(&self, size: u64) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if metadata.is_file() && metadata.len() > self.base + size {
            self.file.set_len(self.base + size)?;
        }
        Ok(())
    }
}

/// A block on its way: filled in by a compressing thread, awaited by the writing one.
struct Slot {
    result: Mutex<Option<Packed>>,
    ready: Condvar,
}

struct Packed {
    bytes: Vec<u8>,
    /// Size word: length, and the bit for "stored as it is".
    word: u32,
}

struct Job {
    raw: Vec<u8>,
    slot: Arc<Slot>,
}

/// What the writing thread is told, in order.
enum Step {
    Block(Arc<Slot>),
    Holes(usize),
    FileEnd { file: u32, size: u64, sparse: u64 },
    Fragment(Arc<Slot>),
}

/// What the writing thread knows in the end.
pub struct Written {
    pub stretches: HashMap<u32, Stretch>,
    pub fragments: Vec<Fragment>,
    /// End of the data, relative to the image.
    pub end: u64,
}

/// Memory of blocks, used again and again.
#[derive(Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    pub fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

pub struct Pipeline {
    jobs: Option<SyncSender<Job>>,
    steps: Option<SyncSender<Step>>,
    workers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<io::Result<Written>>>,
    pub buffers: Arc<Buffers>,
}

impl Pipeline {
    /// Starts `threads` compressing threads and the writing one. `start`: where data begins, relative to the image.
    pub fn start(
        output: Output,
        start: u64,
        settings: Settings,
        block_size: u32,
        threads: usize,
        written: Arc<AtomicU64>,
    ) -> io::Result<Pipeline> {
        let buffers = Arc::new(Buffers::default());
        // Enough to keep every thread busy while one block takes long, but no more memory than that takes.
        let in_memory = (MEMORY_IN_FLIGHT / block_size as usize).max(threads * 2);
        let waiting = (threads * 8 + 32).min(in_memory);
        let (jobs, job_queue) = sync_channel::<Job>(waiting);
        let (steps, step_queue) = sync_channel(waiting);
        let job_queue = Arc::new(Mutex::new(job_queue));
        let mut workers = Vec::new();
        for _ in 0..threads {
            let (queue, buffers) = (Arc::clone(&job_queue), Arc::clone(&buffers));
            let worker = std::thread::Builder::new().name("soliton-pack".into());
            workers.push(worker.spawn(move || compress(&queue, settings, block_size, &buffers))?);
        }
        let mut sequencer = Sequencer::new(output, start, Arc::clone(&buffers), written);
        let writer = std::thread::Builder::new()
            .name("soliton-write".into())
            .spawn(move || sequencer.run(&step_queue))?;
        Ok(Pipeline { jobs: Some(jobs), steps: Some(steps), workers, writer: Some(writer), buffers })
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        if self.steps.as_ref().is_some_and(|steps| steps.send(step).is_ok()) {
            return Ok(());
        }
        // The writing thread has gone: its reason is the error.
        match self.join() {
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("the image's writer ended early")),
        }
    }

    fn compress(&mut self, raw: Vec<u8>) -> Arc<Slot> {
        let slot = Arc::new(Slot { result: Mutex::new(None), ready: Condvar::new() });
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Job { raw, slot: Arc::clone(&slot) });
        }
        slot
    }

    pub fn block(&mut self, raw: Vec<u8>) -> io::Result<()> {
        let slot = self.compress(raw);
        self.step(Step::Block(slot))
    }

    /// A block that is packed already.
    pub fn packed(&mut self, bytes: Vec<u8>, word: u32) -> io::Result<()> {
        let result = Mutex::new(Some(Packed { bytes, word }));
        self.step(Step::Block(Arc::new(Slot { result, ready: Condvar::new() })))
    }

    pub fn holes(&mut self, count: usize) -> io::Result<()> {
        self.step(Step::Holes(count))
    }

    pub fn file_end(&mut self, file: u32, size: u64, sparse: u64) -> io::Result<()> {
        self.step(Step::FileEnd { file, size, sparse })
    }

    pub fn fragment(&mut self, raw: Vec<u8>) -> io::Result<()> {
        let slot = self.compress(raw);
        self.step(Step::Fragment(slot))
    }

    fn join(&mut self) -> io::Result<Written> {
        self.jobs = None;
        self.steps = None;
        let died = || io::Error::other("a thread of the image's writer died");
        let written = self.writer.take().ok_or_else(died)?.join().map_err(|_| died())?;
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| died())?;
        }
        written
    }

    /// Waits until everything is written.
    pub fn finish(mut self) -> io::Result<Written> {
        self.join()
    }
}

fn compress(queue: &Mutex<Receiver<Job>>, settings: Settings, block_size: u32, buffers: &Buffers) {
    let mut encoder = Encoder::new(settings, block_size);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { raw, slot }) = job else { return };
        let mut bytes = buffers.take();
        let packed = if encoder.compress(&raw, &mut bytes) {
            buffers.give(raw);
            Packed { word: bytes.len() as u32, bytes }
        } else {
            buffers.give(bytes);
            Packed { word: raw.len() as u32 | DATA_RAW, bytes: raw }
        };
        *slot.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(packed);
        slot.ready.notify_one();
    }
}

impl Slot {
    fn wait(&self) -> Packed {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match result.take() {
                Some(packed) => return packed,
                None => result = self.ready.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Files of the same size and the same hash of what is stored of them: candidates for being the same.
type Candidates = HashMap<(u64, u128), Vec<u32>>;

struct Sequencer {
    output: Output,
    buffers: Arc<Buffers>,
    written: Arc<AtomicU64>,
    /// Not yet in the file, and where it belongs, relative to the image.
    pending: Vec<u8>,
    pending_at: u64,
    /// Of the file being written.
    words: Vec<u32>,
    file_start: u64,
    hash: Box<Xxh3>,
    known: Candidates,
    result: Written,
}

impl Sequencer {
    fn new(output: Output, start: u64, buffers: Arc<Buffers>, written: Arc<AtomicU64>) -> Sequencer {
        Sequencer {
            output,
            buffers,
            written,
            pending: Vec::with_capacity(WRITE_SIZE + (1 << 20)),
            pending_at: start,
            words: Vec::new(),
            file_start: start,
            hash: Box::new(Xxh3::new()),
            known: HashMap::new(),
            result: Written { stretches: HashMap::new(), fragments: Vec::new(), end: start },
        }
    }

    fn run(&mut self, steps: &Receiver<Step>) -> io::Result<Written> {
        while let Ok(step) = steps.recv() {
            match step {
                Step::Block(slot) => {
                    let word = self.append(&slot, true)?;
                    self.words.push(word);
                }
                Step::Holes(count) => self.words.resize(self.words.len() + count, 0),
                Step::FileEnd { file, size, sparse } => self.file_end(file, size, sparse)?,
                Step::Fragment(slot) => {
                    let position = self.end();
                    let word = self.append(&slot, false)?;
                    self.result.fragments.push(Fragment { position, word });
                    self.file_start = self.end();
                }
            }
        }
        self.flush()?;
        self.result.end = self.end();
        let empty = Written { stretches: HashMap::new(), fragments: Vec::new(), end: 0 };
        Ok(std::mem::replace(&mut self.result, empty))
    }

    fn end(&self) -> u64 {
        self.pending_at + self.pending.len() as u64
    }

    fn append(&mut self, slot: &Slot, hashed: bool) -> io::Result<u32> {
        let packed = slot.wait();
        if hashed {
            self.hash.update(&packed.bytes);
        }
        self.pending.extend_from_slice(&packed.bytes);
        self.written.fetch_add(packed.bytes.len() as u64, Ordering::Relaxed);
        self.buffers.give(packed.bytes);
        if self.pending.len() >= WRITE_SIZE {
            self.flush()?;
        }
        Ok(packed.word)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.file.write_all_at(&self.pending, self.output.base + self.pending_at)?;
        self.pending_at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// A file whose content is stored already gives its blocks back: the first in order stays.
    fn file_end(&mut self, file: u32, size: u64, sparse: u64) -> io::Result<()> {
        let words = std::mem::take(&mut self.words).into_boxed_slice();
        let start = self.file_start;
        // Where the zeros are, too: files that differ in nothing else are not to be compared with one another.
        words.iter().for_each(|word| self.hash.update(&word.to_le_bytes()));
        let hash = self.hash.digest128();
        self.hash.reset();
        let candidates = self.known.get(&(size, hash)).cloned().unwrap_or_default();
        for other in candidates {
            let Some(stretch) = self.result.stretches.get(&other).cloned() else { continue };
            if stretch.words == words && self.same_bytes(stretch.start, start)? {
                self.give_back(start)?;
                self.result.stretches.insert(file, stretch);
                return Ok(());
            }
        }
        self.known.entry((size, hash)).or_default().push(file);
        self.result.stretches.insert(file, Stretch { start, words, tail: None, sparse });
        self.file_start = self.end();
        Ok(())
    }

    /// Whether what was written from `start` to the end also stands at `other`. The hash only proposes: files are
    /// taken for one when their bytes agree.
    fn same_bytes(&mut self, other: u64, start: u64) -> io::Result<bool> {
        self.flush()?;
        let (mut a, mut b) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
        let length = self.end() - start;
        let mut at = 0;
        while at < length {
            let count = (length - at).min(a.len() as u64) as usize;
            self.output.file.read_exact_at(&mut a[..count], self.output.base + other + at)?;
            self.output.file.read_exact_at(&mut b[..count], self.output.base + start + at)?;
            if a[..count] != b[..count] {
                return Ok(false);
            }
            at += count as u64;
        }
        Ok(true)
    }

    fn give_back(&mut self, start: u64) -> io::Result<()> {
        self.flush()?;
        self.written.fetch_sub(self.end() - start, Ordering::Relaxed);
        self.pending_at = start;
        self.file_start = start;
        Ok(())
    }
}
