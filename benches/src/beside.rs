//! Plain logs beside a broker: what else the device does when there are slaves, and no more.
//!
//! The nodes of a group in production have a device each; here they share one. So a broker that copies is
//! held against one that does not, while as many plain files as there are slaves get the same bytes.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "plain files, and a thread each that writes them"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use crate::group_log::allocated_file;
use crate::measure::{now, seconds_since};

/// Bytes of a file, which is begun again when it is full.
const LEN: u64 = 256 << 20;

/// Files that are written, and flushed, as a slave would: whatever came meanwhile at once.
#[derive(Debug)]
pub struct Beside(Vec<(Sender<usize>, JoinHandle<io::Result<()>>)>);

impl Beside {
    /// So many files in `directory`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(count: usize, flushed: bool, directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let start = |number: usize| {
            let file = allocated_file(&directory.join(number.to_string()), LEN)?;
            let (give, take) = channel::<usize>();
            let writer = std::thread::spawn(move || {
                let mut at = 0;
                while let Some(first) = take.iter().next() {
                    let len = first + take.try_iter().sum::<usize>();
                    at = write(&file, at, len)?;
                    if flushed {
                        file.sync_data()?;
                    }
                }
                Ok(())
            });
            Ok((give, writer))
        };
        (0..count).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// So many bytes are to be written to each.
    pub fn add(&self, len: usize) {
        // One that failed says so in the end.
        for (give, _) in &self.0 {
            let _ = give.send(len);
        }
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// A writer did.
    pub fn stop(self) -> io::Result<()> {
        self.0.into_iter().try_for_each(|(give, writer)| {
            drop(give);
            writer.join().expect("a writer does not panic")
        })
    }
}

fn write(file: &File, at: u64, len: usize) -> io::Result<u64> {
    let bytes = vec![b'x'; len];
    let at = if at + len as u64 > LEN { 0 } else { at };
    file.write_all_at(&bytes, at)?;
    Ok(at + len as u64)
}

/// Seconds until `len` bytes came over a connection on loopback and are written to a file in `directory`.
///
/// # Errors
/// The system's.
///
/// # Panics
/// The sender did.
pub fn copied(directory: &Path, len: u64) -> io::Result<f64> {
    std::fs::create_dir_all(directory)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    let began = now();
    let sender = std::thread::spawn(move || {
        let (mut stream, piece, mut left) = (TcpStream::connect(to)?, vec![b'x'; 256 << 10], len);
        while left > 0 {
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            stream.write_all(&piece[..some])?;
            left -= some as u64;
        }
        Ok::<_, io::Error>(())
    });
    let (mut stream, _) = listener.accept()?;
    let file = File::create_new(directory.join("copy"))?;
    let (mut buffer, mut at) = (vec![0; 256 << 10], 0);
    while at < len {
        let read = stream.read(&mut buffer)?;
        file.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    file.sync_data()?;
    sender.join().expect("a sender does not panic")?;
    Ok(seconds_since(began))
}
