//! Bytes of a layer: uncompressed by their first bytes, ahead of the reader in a thread of their own, and hashed.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
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
    /// Memory of chunks that have been read, on its way back.
    spent: Sender<Vec<u8>>,
}

impl Stream {
    /// Starts to read `source`; `count` grows by the bytes read from it.
    pub fn start(source: impl Read + Send + 'static, count: Arc<AtomicU64>) -> io::Result<Stream> {
        let (sender, chunks) = sync_channel(WAITING);
        let (spent, returned) = channel();
        let source = BufReader::with_capacity(256 * 1024, Counted { inner: source, count });
        let pump = move || pump(source, &sender, &returned);
        thread::Builder::new().name("soliton-layer".into()).spawn(pump)?;
        Ok(Stream { chunks, current: Vec::new(), at: 0, hash: Sha256::new(), spent })
    }

    /// Bytes at hand without copying; empty at the end.
    pub fn fill(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => {
                    let spent = std::mem::replace(&mut self.current, chunk?);
                    let _ = self.spent.send(spent);
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

type Chunks = SyncSender<io::Result<Vec<u8>>>;

fn pump<R: Read + 'static>(source: BufReader<Counted<R>>, chunks: &Chunks, returned: &Receiver<Vec<u8>>) {
    let result = uncompressed(source).and_then(|mut reader| {
        loop {
            let mut chunk = returned.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
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
            if filled == 0 || chunks.send(Ok(chunk)).is_err() {
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
        let _ = chunks.send(Err(told));
    }
}

/// Looks at the first bytes, not at any name or media type.
fn uncompressed<R: Read + 'static>(mut source: BufReader<Counted<R>>) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    source.by_ref().take(6).read_to_end(&mut head)?;
    let whole = io::Cursor::new(head.clone()).chain(source);
    Ok(match head.as_slice() {
        [0x1F, 0x8B, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        // A frame, or a skippable one as parallel compressors put in front.
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn whole(source: Vec<u8>) -> io::Result<(Vec<u8>, String)> {
        let mut stream = Stream::start(io::Cursor::new(source), Arc::default())?;
        let mut all = Vec::new();
        // As a parser would: some of it, then the digest of everything.
        while all.len() < 300_000 {
            let bytes = stream.fill()?.to_vec();
            if bytes.is_empty() {
                break;
            }
            stream.consume(bytes.len());
            all.extend(bytes);
        }
        Ok((all, stream.digest()?))
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn content() -> Vec<u8> {
        (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect()
    }

    #[test]
    fn the_first_bytes_tell_the_compression_and_members_follow_one_another() {
        let data = content();
        let (first, second) = data.split_at(77_777);
        let mut xz = liblzma::read::XzEncoder::new(first, 1);
        let mut packed_xz = Vec::new();
        xz.read_to_end(&mut packed_xz).unwrap();
        liblzma::read::XzEncoder::new(second, 1).read_to_end(&mut packed_xz).unwrap();
        let zstd = [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 1).unwrap()].concat();
        let skippable = [&[0x51, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd].concat();
        let expected = whole(data.clone()).unwrap();
        assert_eq!(expected.0, data);
        for packed in [[gzip(first), gzip(second)].concat(), zstd, skippable, packed_xz] {
            assert_eq!(whole(packed).unwrap(), expected);
        }
    }

    #[test]
    fn damage_and_truncation_are_errors() {
        let packed = gzip(&content());
        let zstd = zstd::encode_all(&content()[..], 1).unwrap();
        for (packed, cut) in [(&packed, 1), (&packed, 100), (&zstd, 1), (&zstd, 100)] {
            let error = whole(packed[..packed.len() - cut].to_vec()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert_eq!(whole(damaged).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_at_all_is_an_empty_stream() {
        let (all, digest) = whole(Vec::new()).unwrap();
        assert!(all.is_empty());
        assert_eq!(digest, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
