//! Any bytes are a record of the state topic or an error, a record reads back as it is written, and any
//! such records make a state that the next one rebuilds.
//!
//! An input is a sequence of records, each behind its length in two bytes.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use staticfire::broker::state::ReplicatedState;
use staticfire::broker::state::record::StateRecord;
use staticfire::storage::QueueOffset;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut bodies = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (body, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)).min(behind.len()));
        rest = behind;
        if let Ok(record) = StateRecord::read(body) {
            assert_eq!(StateRecord::read(&record.body()).as_ref(), Ok(&record));
            bodies.push(Bytes::copy_from_slice(body));
        }
    }
    let mut running = ReplicatedState::default();
    for (at, body) in (0..).map(QueueOffset).zip(&bodies) {
        running.apply(at, body).expect("it was read before");
    }
    let end = running.next();
    let read = |at: QueueOffset| Ok(bodies[usize::try_from(at.0).expect("below the end")].clone());
    let (state, _) = ReplicatedState::rebuild(QueueOffset(0), end, read).expect("all of it is there");
    // What a checkpoint says that nobody made of these records need not be so.
    if bodies.iter().all(|body| StateRecord::part_of(body) == Ok(None)) {
        assert_eq!(state, running);
    }
    drop(state.checkpoint(state.needed_from(), Vec::new()));
});
