//! Packed bodies: what producers compress and consumers unpack, told by three bits of the system
//! flags (remoting-protocol §6.3).
//!
//! ```text
//! sysFlag & 0x001   the body is compressed
//! sysFlag & 0x700   how: 0x000 zlib, from 4.x clients · 0x100 LZ4 frame · 0x200 Zstandard · 0x300 zlib
//! ```

use std::io::{self, ErrorKind, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;
use lz4_flex::frame::FrameDecoder as Lz4Decoder;
use ruzstd::decoding::StreamingDecoder as ZstdDecoder;
use staticfire_storage::message::sys_flag;

/// The most bytes that one body unpacks to: four times what RocketMQ's clients send unasked.
pub const UNPACKED_MAX: u64 = 16 << 20;
/// What official clients use, too.
const LEVEL: u32 = 5;

const LZ4: i32 = 0x100;
const ZSTD: i32 = 0x200;
const ZLIB: i32 = 0x300;
/// "Compressed, with zlib".
pub(super) const ZLIB_FLAGS: i32 = sys_flag::COMPRESSED | ZLIB;
/// All bits that say whether and how a body is packed.
pub(super) const PACKING: i32 = sys_flag::COMPRESSED | sys_flag::COMPRESSION;

/// The body packed, when that makes it smaller.
pub(super) fn pack(body: &Bytes) -> Option<Bytes> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 2), Compression::new(LEVEL));
    encoder.write_all(body).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() < body.len()).then(|| packed.into())
}

/// The body unpacked. `None` when it is not what the flags say: torn, damaged, with something behind
/// its end, larger than [`UNPACKED_MAX`], or packed in an unknown way.
pub(super) fn unpack(body: &[u8], flags: i32) -> Option<Bytes> {
    let mut rest = body;
    let bytes = match flags & sys_flag::COMPRESSION {
        0 | ZLIB => all(ZlibDecoder::new(&mut rest), body.len()),
        LZ4 => {
            // Torn between two blocks, or in its header, a frame looks whole to this decoder. But
            // then it has looked behind the end.
            let mut behind = &[0][..];
            let bytes = all(Lz4Decoder::new(Read::chain(&mut rest, &mut behind)), body.len());
            bytes.and_then(
                |bytes| if behind.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) },
            )
        }
        ZSTD => {
            let decoder = ZstdDecoder::new_with_max_window_size(&mut rest, UNPACKED_MAX).ok()?;
            all(decoder, body.len())
        }
        _ => return None,
    };
    bytes.ok().filter(|_| rest.is_empty()).map(Bytes::from)
}

fn all(decoder: impl Read, packed: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(packed.saturating_mul(4).min(4 << 20));
    decoder.take(UNPACKED_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > UNPACKED_MAX {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "paid, packed, sent; " sixty times over, as RocketMQ 5.4.0's own compressors pack it.
    const OFFICIAL: [(i32, &str); 3] = [
        (
            LZ4,
            "04224d1860707323000000ff05706169642c207061636b65642c2073656e743b201400ffffffff8850656e743b2000000000",
        ),
        (ZSTD, "28b52ffd0058e40000a0706169642c207061636b65642c2073656e743b20010032b97f3201010000"),
        (ZLIB, "785e2b48cc4cd15128484cce4e05d2c5a97925d640dea8d8a8d8a8d8a8d8e0130300b4119204"),
    ];

    fn official(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// An LZ4 frame and a Zstandard frame of `len` zeros.
    fn lz4_of_zeros(len: usize) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(&vec![0; len]).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_of_zeros(len: usize) -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(&vec![0; len][..], level)
    }

    #[test]
    fn what_official_clients_pack_is_unpacked() {
        let text = "paid, packed, sent; ".repeat(60);
        for (kind, hex) in OFFICIAL {
            let packed = official(hex);
            let unpacked = unpack(&packed, sys_flag::COMPRESSED | kind);
            assert_eq!(unpacked.as_deref(), Some(text.as_bytes()), "{kind:#x}");
        }
        let own = pack(&text.clone().into()).unwrap();
        assert_eq!(unpack(&own, ZLIB_FLAGS).as_deref(), Some(text.as_bytes()));
        assert_eq!(unpack(&own, sys_flag::COMPRESSED).as_deref(), Some(text.as_bytes()), "as 4.x says it");
        assert_eq!(pack(&Bytes::from_static(b"short")), None);
    }

    /// proves: B28: torn anywhere, with something behind, and under any other flag
    #[test]
    fn what_is_not_what_the_flags_say_stays_packed() {
        for (kind, hex) in OFFICIAL {
            let mut packed = official(hex);
            for len in 0..packed.len() {
                assert_eq!(unpack(&packed[..len], kind), None, "{kind:#x}, torn at {len}");
            }
            for other in (0..8).map(|bits| bits << 8) {
                let same = other == kind || kind == ZLIB && other == 0;
                assert_eq!(unpack(&packed, other).is_some(), same, "{kind:#x} taken for {other:#x}");
            }
            packed.push(0);
            assert_eq!(unpack(&packed, kind), None, "{kind:#x}, one byte more");
        }
    }

    /// proves: B28: a few KiB that unpack to more than anybody sends
    #[test]
    fn bombs_are_not_unpacked() {
        let most = usize::try_from(UNPACKED_MAX).unwrap();
        for (len, fits) in [(most, true), (most + 1, false)] {
            let zlib = pack(&vec![0; len].into()).unwrap();
            for (kind, packed) in [(ZLIB, &zlib[..]), (LZ4, &lz4_of_zeros(len)), (ZSTD, &zstd_of_zeros(len))]
            {
                assert!(packed.len() * 100 < len, "{kind:#x}: {} bytes", packed.len());
                assert_eq!(unpack(packed, kind).is_some(), fits, "{kind:#x} of {len}");
            }
        }
    }

    /// proves: B28: every flipped bit gives an error, or at most other bytes of bounded size
    #[test]
    fn damaged_bodies_do_no_harm() {
        for (kind, hex) in OFFICIAL {
            let packed = official(hex);
            for bit in 0..packed.len() * 8 {
                let mut flipped = packed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let unpacked = unpack(&flipped, kind);
                assert!(unpacked.is_none_or(|bytes| bytes.len() as u64 <= UNPACKED_MAX), "bit {bit}");
            }
        }
    }
}
