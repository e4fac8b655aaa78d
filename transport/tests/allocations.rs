//! What decoding and encoding allocate: they are on the path of every message.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use staticfire_transport::frame::encode_header;
use staticfire_transport::{Command, FrameDecoder, HeaderEncoding};

struct Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's own; counting touches a constant-initialised cell,
// which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A send as the Java client writes it, with its name-value pairs.
fn send(encoding: HeaderEncoding) -> Command {
    let properties = "UNIQ_KEY\u{1}7F000001000100000000000000000000\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}";
    let fields = ["a", "b", "c", "d", "e", "f", "g", "h", "j", "k", "m", "n"];
    let mut command = Command::request(310).with_ext("i", properties).with_body("hello");
    command.encoding = encoding;
    fields.into_iter().fold(command, |command, name| command.with_ext(name, "TopicTest"))
}

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATED.get();
    run();
    ALLOCATED.get() - before
}

/// Fields and their text, the body's share of the read buffer, and for JSON with escapes
/// serde_json's scratch buffer as it grows (`realloc` counts as an allocation here).
#[test]
fn a_decoded_send_costs_few_allocations_and_an_encoded_answer_none() {
    for (encoding, most) in [(HeaderEncoding::Binary, 2), (HeaderEncoding::Json, 7)] {
        let mut frame = Vec::new();
        encode_header(&send(encoding), &mut frame).unwrap();
        frame.extend_from_slice(b"hello");
        let mut decoder = FrameDecoder::new();
        decoder.push(&frame.repeat(11));
        // The first one makes the buffer shareable.
        black_box(decoder.next()).unwrap();
        let counted = allocations(|| {
            for _ in 0..10 {
                black_box(decoder.next()).unwrap();
            }
        });
        assert!(counted <= 10 * most, "{encoding:?}: {counted} in 10");

        let command = send(encoding);
        frame.clear();
        let counted = allocations(|| {
            black_box(encode_header(&command, &mut frame)).unwrap();
        });
        assert_eq!(counted, 0, "{encoding:?}");
    }
}
