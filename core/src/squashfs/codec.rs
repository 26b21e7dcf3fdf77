//! The compressors of squashfs: bounded decoders, deterministic encoders.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Stream};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

use super::format::{Error, METADATA_RAW, Put, Result};
use super::lzo;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    Gzip = 1,
    Lzma = 2,
    Lzo = 3,
    Xz = 4,
    Lz4 = 5,
    Zstd = 6,
}

impl Compressor {
    pub fn from_number(number: u16) -> Result<Compressor> {
        Ok(match number {
            1 => Compressor::Gzip,
            2 => Compressor::Lzma,
            3 => Compressor::Lzo,
            4 => Compressor::Xz,
            5 => Compressor::Lz4,
            6 => Compressor::Zstd,
            other => return Err(Error::Unsupported(format!("squashfs compressor {other} is unknown"))),
        })
    }
}

fn damaged<E>(_: E) -> Error {
    Error::Corrupt("a compressed block cannot be decompressed")
}

/// Decompresses blocks of one image. Keeps a context, so one per thread.
pub enum Decoder {
    Gzip(Decompress),
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd(DCtx<'static>),
}

impl Decoder {
    pub fn new(compressor: Compressor) -> Decoder {
        match compressor {
            Compressor::Gzip => Decoder::Gzip(Decompress::new(true)),
            Compressor::Lzma => Decoder::Lzma,
            Compressor::Lzo => Decoder::Lzo,
            Compressor::Xz => Decoder::Xz,
            Compressor::Lz4 => Decoder::Lz4,
            Compressor::Zstd => Decoder::Zstd(DCtx::create()),
        }
    }

    /// Decompresses `source` into `target`, never beyond it; returns how many bytes came out.
    pub fn decompress(&mut self, source: &[u8], target: &mut [u8]) -> Result<usize> {
        match self {
            Decoder::Gzip(state) => {
                state.reset(true);
                match state.decompress(source, target, FlushDecompress::Finish) {
                    Ok(Status::StreamEnd) => Ok(state.total_out() as usize),
                    _ => Err(damaged(())),
                }
            }
            Decoder::Zstd(context) => context.decompress(target, source).map_err(damaged),
            Decoder::Lz4 => {
                let length = i32::try_from(target.len()).map_err(damaged)?;
                lz4::block::decompress_to_buffer(source, Some(length), target).map_err(damaged)
            }
            Decoder::Lzo => lzo::decompress(source, target).ok_or_else(|| damaged(())),
            // The dictionary is a block at most; a header that asks for more memory is refused.
            Decoder::Xz => finish(Stream::new_stream_decoder(32 << 20, 0).map_err(damaged)?, source, target),
            Decoder::Lzma => finish(Stream::new_lzma_decoder(32 << 20).map_err(damaged)?, source, target),
        }
    }
}

fn finish(mut stream: Stream, source: &[u8], target: &mut [u8]) -> Result<usize> {
    loop {
        let (read, written) = (stream.total_in() as usize, stream.total_out() as usize);
        let status = stream
            .process(&source[read.min(source.len())..], &mut target[written..], Action::Run)
            .map_err(damaged)?;
        let written_now = stream.total_out() as usize;
        if status == liblzma::stream::Status::StreamEnd {
            return Ok(written_now);
        }
        if stream.total_in() as usize == read && written_now == written {
            // LZMA1 streams need no end marker: an exhausted source is an end.
            return if read == source.len() { Ok(written) } else { Err(damaged(())) };
        }
    }
}

/// How an image is compressed. `level: None` is soliton's default for the compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub compressor: Compressor,
    pub level: Option<i32>,
    /// Nothing is compressed, whatever the compressor that the superblock names.
    pub stored: bool,
}

impl Settings {
    /// Checks a level against what the compressor knows; the error is a sentence.
    pub fn new(name: &str, level: Option<i32>) -> std::result::Result<Settings, String> {
        let (compressor, range) = match name {
            "zstd" => (Compressor::Zstd, 1..=22),
            "gzip" => (Compressor::Gzip, 1..=9),
            "xz" => (Compressor::Xz, 0..=9),
            "lz4" => (Compressor::Lz4, 1..=12),
            "none" => return Ok(Settings { compressor: Compressor::Gzip, level: None, stored: true }),
            other => return Err(format!("the compressor `{other}` is unknown: zstd, gzip, xz, lz4 or none")),
        };
        if let Some(level) = level
            && !range.contains(&level)
        {
            return Err(format!("level {level} is outside {} to {} for {name}", range.start(), range.end()));
        }
        Ok(Settings { compressor, level, stored: false })
    }

    fn zstd_level(&self) -> i32 {
        self.level.unwrap_or(3)
    }

    fn gzip_level(&self) -> u32 {
        self.level.map_or(9, |level| level as u32)
    }

    /// The option block behind the superblock, where the format asks for one or the level is not the
    /// one that readers would otherwise report.
    pub fn options(&self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        match self.compressor {
            Compressor::Zstd if self.zstd_level() != 15 => body.put_u32(self.zstd_level() as u32),
            Compressor::Gzip if self.gzip_level() != 9 => {
                body.put_u32(self.gzip_level());
                body.put_u16(15);
                body.put_u16(0);
            }
            Compressor::Lz4 => {
                body.put_u32(1);
                body.put_u32(u32::from(self.level.is_some()));
            }
            _ => return None,
        }
        let mut block = Vec::with_capacity(2 + body.len());
        block.put_u16(METADATA_RAW | body.len() as u16);
        block.extend_from_slice(&body);
        Some(block)
    }
}

/// Compresses blocks. Keeps a context, so one per thread; the same input gives the same output from any.
pub struct Encoder {
    settings: Settings,
    block_size: u32,
    gzip: Option<Compress>,
    zstd: Option<CCtx<'static>>,
}

impl Encoder {
    pub fn new(settings: Settings, block_size: u32) -> Encoder {
        let gzip = (settings.compressor == Compressor::Gzip && !settings.stored)
            .then(|| Compress::new(Compression::new(settings.gzip_level()), true));
        let zstd = (settings.compressor == Compressor::Zstd).then(|| {
            let mut context = CCtx::create();
            // Cannot fail: `Settings::new` has checked the level.
            let _ = context.set_parameter(CParameter::CompressionLevel(settings.zstd_level()));
            context
        });
        Encoder { settings, block_size, gzip, zstd }
    }

    /// Compresses `source` into `target` (cleared first). False: it does not get smaller, store it as it is.
    pub fn compress(&mut self, source: &[u8], target: &mut Vec<u8>) -> bool {
        target.clear();
        if self.settings.stored || source.is_empty() {
            return false;
        }
        // One byte less than the source: what does not fit has not shrunk.
        let room = source.len() - 1;
        match self.settings.compressor {
            Compressor::Zstd => {
                target.reserve(zstd::zstd_safe::compress_bound(source.len()));
                let Some(context) = &mut self.zstd else { return false };
                matches!(context.compress2(target, source), Ok(length) if length <= room)
            }
            Compressor::Gzip => {
                target.reserve(room);
                let Some(state) = &mut self.gzip else { return false };
                state.reset();
                matches!(state.compress_vec(source, target, FlushCompress::Finish), Ok(Status::StreamEnd))
                    && target.len() <= room
            }
            Compressor::Lz4 => {
                let bound = lz4::block::compress_bound(source.len()).unwrap_or(0);
                target.resize(bound, 0);
                let mode = self.settings.level.map(lz4::block::CompressionMode::HIGHCOMPRESSION);
                match lz4::block::compress_to_buffer(source, mode, false, target) {
                    Ok(length) => {
                        target.truncate(length);
                        length <= room
                    }
                    Err(_) => false,
                }
            }
            Compressor::Xz => self.compress_xz(source, target).is_some_and(|length| length <= room),
            Compressor::Lzma | Compressor::Lzo => false,
        }
    }

    fn compress_xz(&self, source: &[u8], target: &mut Vec<u8>) -> Option<usize> {
        let mut options = LzmaOptions::new_preset(self.settings.level.unwrap_or(6) as u32).ok()?;
        options.dict_size(self.block_size.max(8192));
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let mut stream = Stream::new_stream_encoder(&filters, Check::Crc32).ok()?;
        target.reserve(source.len() + 1024);
        loop {
            let read = stream.total_in() as usize;
            match stream.process_vec(&source[read..], target, Action::Finish).ok()? {
                liblzma::stream::Status::StreamEnd => return Some(target.len()),
                _ if target.len() == target.capacity() => return None,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..100_000u32).map(|i| (i / 7 % 251) as u8).collect()
    }

    #[test]
    fn every_compressor_gives_back_what_it_got() {
        for name in ["zstd", "gzip", "xz", "lz4"] {
            for level in [None, Some(1), Some(9)] {
                let settings = Settings::new(name, level).unwrap();
                let mut packed = Vec::new();
                assert!(Encoder::new(settings, 131072).compress(&text(), &mut packed), "{name}");
                let mut out = vec![0; 131072];
                let mut decoder = Decoder::new(settings.compressor);
                for _ in 0..2 {
                    let length = decoder.decompress(&packed, &mut out).unwrap();
                    assert_eq!(out[..length], text(), "{name}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_said_so() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take(4096)
        .collect();
        for name in ["zstd", "gzip", "xz", "lz4", "none"] {
            let mut packed = Vec::new();
            assert!(
                !Encoder::new(Settings::new(name, None).unwrap(), 4096).compress(&noise, &mut packed),
                "{name}"
            );
        }
    }

    #[test]
    fn a_decoder_never_writes_beyond_its_target() {
        for name in ["zstd", "gzip", "xz", "lz4"] {
            let settings = Settings::new(name, None).unwrap();
            let mut packed = Vec::new();
            assert!(Encoder::new(settings, 131072).compress(&text(), &mut packed));
            let mut small = vec![0; 1000];
            if let Ok(length) = Decoder::new(settings.compressor).decompress(&packed, &mut small) {
                assert!(length <= 1000);
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        for compressor in [1, 2, 3, 4, 5, 6] {
            let mut decoder = Decoder::new(Compressor::from_number(compressor).unwrap());
            let mut out = vec![0; 8192];
            for seed in 0..50u8 {
                let garbage: Vec<u8> = (0..200u8).map(|i| i.wrapping_mul(seed).wrapping_add(seed)).collect();
                let _ = decoder.decompress(&garbage, &mut out);
            }
        }
        assert!(Decoder::new(Compressor::Zstd).decompress(b"garbage", &mut [0; 100]).is_err());
    }
}
