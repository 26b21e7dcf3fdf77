//! Bytes of a layer: uncompressed by their first bytes, ahead of the reader in a thread of their own, and hashed.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest, Sha256};

const CHUNK: usize = 64 * 1024;
/// Chunks that may wait between the threads: 4 MiB.
const WAITING: usize = 64;

/// Counts what is read from the source, for the progress.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The uncompressed layer.
pub struct Stream {
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
    hash: Sha256,
}

impl Stream {
    /// Starts to read `source`; `count` grows by the bytes read from it.
    pub fn start(source: File, count: Arc<AtomicU64>) -> io::Result<Stream> {
        let (sender, chunks) = sync_channel(WAITING);
        let source = BufReader::with_capacity(256 * 1024, Counted { inner: source, count });
        thread::Builder::new().name("soliton-layer".into()).spawn(move || pump(source, &sender))?;
        Ok(Stream { chunks, current: Vec::new(), at: 0, hash: Sha256::new() })
    }

    /// Bytes at hand without copying; empty at the end.
    pub fn fill(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => {
                    self.current = chunk?;
                    self.hash.update(&self.current);
                    self.at = 0;
                }
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current[self.at..])
    }

    pub fn consume(&mut self, count: usize) {
        self.at += count;
    }

    /// Reads what is left and gives the digest of everything.
    pub fn digest(mut self) -> io::Result<String> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        let mut text = String::from("sha256:");
        for byte in self.hash.finalize() {
            text.push_str(&format!("{byte:02x}"));
        }
        Ok(text)
    }
}

fn pump(source: BufReader<Counted<File>>, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let result = uncompressed(source).and_then(|mut reader| {
        loop {
            let mut chunk = vec![0; CHUNK];
            let mut filled = 0;
            while filled < CHUNK {
                match reader.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            chunk.truncate(filled);
            // The other end has gone: it has failed, and says so itself.
            if filled == 0 || sender.send(Ok(chunk)).is_err() {
                return Ok(());
            }
        }
    });
    if let Err(error) = result {
        let told = match error.raw_os_error() {
            Some(_) => error,
            None => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the layer cannot be decompressed: {error}"),
            ),
        };
        let _ = sender.send(Err(told));
    }
}

/// Looks at the first bytes, not at any name or media type.
fn uncompressed(mut source: BufReader<Counted<File>>) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    source.by_ref().take(6).read_to_end(&mut head)?;
    let whole = io::Cursor::new(head.clone()).chain(source);
    Ok(match head.as_slice() {
        [0x1F, 0x8B, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            // 128 MiB: what the zstd program itself takes without being asked.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        [0xFD, b'7', b'z', b'X', b'Z', 0] => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(256 << 20, liblzma::stream::CONCATENATED)
                    .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream))
        }
        _ => Box::new(whole),
    })
}
