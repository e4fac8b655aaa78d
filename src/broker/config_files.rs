//! The JSON files RocketMQ keeps beside its log: `config/topics.json` and others.
//!
//! ```text
//! config/X.json        the newest content; a rename replaces it, so it is always whole
//! config/X.json.bak    the content before, a second name of the replaced file
//! ```
//! RocketMQ reads the same two names. Its own writer renames X away before it writes the new one,
//! so a directory of its may hold the `.bak` alone; that one is taken then (store-format §9).

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use staticfire_storage::disk::{Directory, write_all_at};

use super::signal::oneshot;
use crate::protocol::json::{self, BodyError};

const FOLDER: &str = "config";

/// Topics.
pub const TOPICS: &str = "topics.json";
/// Consumer groups.
pub const GROUPS: &str = "subscriptionGroup.json";
/// Consumer offsets.
pub const CONSUMER_OFFSETS: &str = "consumerOffset.json";
/// Progress of the delay queues.
pub const DELAY_OFFSETS: &str = "delayOffset.json";

/// The configuration folder of a store directory.
#[derive(Clone, Debug)]
pub struct ConfigFiles(Arc<dyn Directory>);

/// Why a configuration file was not read or written.
#[derive(Debug)]
pub enum ConfigError {
    /// The disk refused.
    Io {
        /// Path within the store directory.
        file: String,
        /// What it said.
        cause: io::Error,
    },
    /// Neither the file nor its `.bak` is understood.
    Content {
        /// Path within the store directory.
        file: String,
        /// What is wrong with it.
        cause: BodyError,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { file, cause } => write!(f, "{file}: {cause}"),
            Self::Content { file, cause } => write!(
                f,
                "{file}: {cause}, and there is no usable {file}.bak. The broker would start without \
                 what it describes; restore it, or move both files away to start with the defaults"
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigFiles {
    /// The folder `config` of `store`, created when missing.
    ///
    /// # Errors
    /// [`ConfigError::Io`]
    pub fn open(store: Arc<dyn Directory>) -> Result<Self, ConfigError> {
        store.make_directory(FOLDER).and_then(|()| store.sync("")).map_err(io_error(FOLDER))?;
        Ok(Self(store))
    }

    /// Reads a file, or its `.bak` when it is missing, empty or not understood; the default when
    /// there is neither.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        let path = format!("{FOLDER}/{name}");
        let first = self.content(&path)?.map(|text| json::from_slice_tolerant(&text));
        if let Some(Ok(found)) = first {
            return Ok(found);
        }
        let second = self.content(&format!("{path}.bak"))?.map(|text| json::from_slice_tolerant(&text));
        match (first, second) {
            (_, Some(Ok(found))) => Ok(found),
            (Some(Err(cause)), _) | (None, Some(Err(cause))) => {
                Err(ConfigError::Content { file: path, cause })
            }
            (None, None) => Ok(T::default()),
            (Some(Ok(_)), _) => unreachable!("returned above"),
        }
    }

    /// Replaces a file durably; the content before stays as `.bak`. Does not block while the disk
    /// flushes.
    ///
    /// # Errors
    /// [`ConfigError::Io`]; the file has its old or its new content then.
    pub async fn write<T: Serialize + Sync>(&self, name: &str, content: &T) -> Result<(), ConfigError> {
        let path = format!("{FOLDER}/{name}");
        self.replace(&path, &json::to_bytes(content)).await.map_err(io_error(&path))
    }

    async fn replace(&self, path: &str, text: &[u8]) -> io::Result<()> {
        let (new, old) = (format!("{path}.new"), format!("{path}.bak"));
        self.remove(&new)?;
        let file = self.0.create(&new, text.len() as u64)?;
        write_all_at(&*file, 0, text)?;
        let (done, synced) = oneshot();
        file.start_sync(Box::new(|result| done.set(result)));
        synced.await?;
        drop(file);
        self.remove(&old)?;
        match self.0.link(path, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.0.rename(&new, path)?;
        let (done, synced) = oneshot();
        self.0.start_sync(FOLDER, Box::new(|result| done.set(result)));
        synced.await
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match self.0.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// `None` when the file is missing or empty.
    fn content(&self, path: &str) -> Result<Option<Bytes>, ConfigError> {
        let file = match self.0.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(path)(error)),
        };
        if file.is_empty() {
            return Ok(None);
        }
        file.read(0..file.len()).map(Some).map_err(io_error(path))
    }
}

fn io_error(path: &str) -> impl FnOnce(io::Error) -> ConfigError {
    let file = path.to_owned();
    |cause| ConfigError::Io { file, cause }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::task::{Context, Waker};

    use staticfire_storage::disk::RealDirectory;

    use super::*;

    type Content = BTreeMap<String, i64>;

    fn content(value: i64) -> Content {
        BTreeMap::from([("a".to_owned(), value)])
    }

    /// Polls until the disk's thread is done.
    fn finish<T>(future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        loop {
            if let std::task::Poll::Ready(value) =
                future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return value;
            }
            std::thread::yield_now();
        }
    }

    struct Fixture(tempfile::TempDir, ConfigFiles);

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let files = ConfigFiles::open(Arc::new(RealDirectory::open(folder.path()).unwrap())).unwrap();
            Self(folder, files)
        }

        #[allow(clippy::disallowed_methods, reason = "as another program would")]
        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join("config").join(name), text).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_read_and_the_content_before_is_kept() {
        let files = Fixture::new();
        assert_eq!(files.1.read::<Content>("x.json").unwrap(), Content::new(), "missing: the default");
        for value in 1..=3 {
            finish(files.1.write("x.json", &content(value))).unwrap();
            assert_eq!(files.1.read::<Content>("x.json").unwrap(), content(value));
        }
        files.put("x.json", "");
        assert_eq!(files.1.read::<Content>("x.json").unwrap(), content(2), "empty: the one before");
    }

    /// RocketMQ's keys without quotes, and its way to leave the `.bak` alone.
    #[test]
    fn files_of_rocketmq_are_read() {
        let files = Fixture::new();
        files.put("x.json.bak", "{\n\t7:8\n}");
        assert_eq!(files.1.read::<BTreeMap<i32, i64>>("x.json").unwrap(), BTreeMap::from([(7, 8)]));
    }

    /// proves: I72
    #[test]
    fn damage_without_a_way_back_is_an_error_that_says_what_to_do() {
        let files = Fixture::new();
        files.put("x.json", "{\"a\":");
        files.put("x.json.bak", "nonsense");
        let error = files.1.read::<Content>("x.json").unwrap_err().to_string();
        assert!(error.contains("config/x.json") && error.contains("move both files away"), "{error}");
        files.put("x.json.bak", "{\"a\":5}");
        assert_eq!(files.1.read::<Content>("x.json").unwrap(), content(5));
    }
}
