//! Any bytes, cut anywhere, are commands or an error; and a command that was decoded means the same
//! after another trip over the wire.
//!
//! The first byte of an input is the size of the pieces in which the rest arrives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use staticfire_transport::frame::encode_header;
use staticfire_transport::{Command, FrameDecoder, FrameError, Language};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (whole, end) = decode([bytes]);
    let (pieces, same_end) = decode(bytes.chunks(usize::from(*cut).max(1)));
    assert_eq!((&whole, &end), (&pieces, &same_end));
    for command in whole {
        again(command);
    }
});

/// All commands, and why there are no more of them.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Command>, Option<FrameError>) {
    let (mut decoder, mut commands) = (FrameDecoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

fn again(mut command: Command) {
    // Written as OTHER, because there is no number for it.
    if command.language == Language::Unknown {
        command.language = Language::Other;
    }
    let mut bytes = Vec::new();
    // A header near its limit may pass it with the keys it left out.
    if encode_header(&command, &mut bytes).is_ok() {
        bytes.extend_from_slice(&command.body.to_bytes());
        assert_eq!(decode([&bytes[..]]), (vec![command], None));
    }
}
