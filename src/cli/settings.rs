//! Settings of the servers: from the command line, from a TOML file, and their defaults.
//!
//! They are read once, at start; nothing changes them later, least of all from remote.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use staticfire::broker::{BrokerOptions, GroupOptions};
use staticfire::name_server::NameServerOptions;
use staticfire::storage::{Durability, Retention, StoreOptions};

use super::name_servers::{self, NameServers};
use super::replication::ReplicationSettings;

/// The largest configuration file that is read, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;
/// What a store takes.
const SEGMENT_BYTES: RangeInclusive<u64> = 1024..=1 << 31;

/// What `OK` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Loses what was acknowledged in the last moments (half a second or so) before a power cut or a
    /// crash of the operating system. Survives a killed process.
    Written,
    /// Survives power loss.
    Flushed,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Flushed => "flushed",
        }
    }
}

/// The table `[broker]`, and options of the same names.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct BrokerSettings {
    /// The store directory, made when missing [default: staticfire-data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the broker listens [default: 127.0.0.1:10911].
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// The address that clients are told, when it is not the one listened on.
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<SocketAddr>,
    /// What OK means to a producer [default: flushed].
    #[arg(long, value_enum)]
    pub durability: Option<Mode>,
    /// The cluster's name [default: DefaultCluster].
    #[arg(long, value_name = "NAME", value_parser = name)]
    #[serde(deserialize_with = "checked_name")]
    pub cluster: Option<String>,
    /// The broker's name [default: broker-a].
    #[arg(long, value_name = "NAME", value_parser = name)]
    #[serde(deserialize_with = "checked_name")]
    pub broker_name: Option<String>,
    /// A name server to register at, or several separated by `;` or `,` [default: none; of a lone broker
    /// $NAMESRV_ADDR].
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(deserialize_with = "endpoints")]
    pub name_server: Vec<NameServers>,
    /// Bytes of a commit log segment; must be what the store was made with [default: 1073741824].
    #[arg(long, value_name = "BYTES", value_parser = segment_bytes)]
    #[serde(deserialize_with = "checked_segment_bytes")]
    pub segment_bytes: Option<u64>,
    /// Remove segments last written so many hours ago [default: 72].
    #[arg(long, value_name = "HOURS")]
    pub retention_hours: Option<NonZeroU32>,
    /// Remove the oldest segments of a commit log larger than this [default: no limit].
    #[arg(long, value_name = "BYTES")]
    pub retention_bytes: Option<u64>,
    /// Remove what was cut off the log when it was last written so many hours ago [default: 168].
    #[arg(long, value_name = "HOURS")]
    pub orphans_hours: Option<NonZeroU32>,
    /// Remove the oldest of what was cut off the log when it is more than this
    /// [default: a quarter of --retention-bytes].
    #[arg(long, value_name = "BYTES")]
    pub orphans_bytes: Option<u64>,
    /// Topics that sends may create until the next start; 0 for none [default: 10000].
    #[arg(long, value_name = "COUNT")]
    pub auto_create_topics: Option<usize>,
    /// Bytes handed to consumers in a second from which on this broker is busy, until it is half of that: a busy
    /// leader sends consumers to slaves for what these have; 0 is always busy [default: 67108864].
    #[arg(long, value_name = "BYTES")]
    pub busy_reading_bytes: Option<u64>,
    /// Where Prometheus finds /metrics, on this machine only [default: nowhere].
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
}

/// The table `[name-server]`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct NameServerSettings {
    pub listen: Option<SocketAddr>,
}

/// The table `[exposure]`, and options of the same names: serving strangers. Two separate switches, since
/// each takes away another protection.
#[derive(Clone, Copy, Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Exposure {
    /// Anyone who reaches the address may read and write everything: listen beyond this machine without
    /// authentication.
    #[arg(long)]
    pub without_authentication: bool,
    /// Anyone on the way may read and change everything: listen beyond this machine without TLS.
    #[arg(long)]
    pub without_tls: bool,
}

/// A configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct File {
    pub broker: BrokerSettings,
    pub name_server: NameServerSettings,
    pub exposure: Exposure,
    pub replication: ReplicationSettings,
}

/// Why the settings are refused.
#[derive(Debug)]
pub enum SettingsError {
    /// The file cannot be read.
    Unreadable { file: PathBuf, why: String },
    /// The file says something that is not understood, at this line and column, counted from 1.
    File { file: PathBuf, line: usize, column: usize, why: String },
    /// The address can be reached by others, and a protection is missing that nobody waived.
    Exposed { address: SocketAddr, missing: Vec<&'static str> },
    /// The settings make no broker group.
    Replication(String),
    /// Clients cannot dial this address.
    NotDialable { address: SocketAddr },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, why } => write!(f, "{}: {why}", file.display()),
            Self::File { file, line, column, why } => write!(f, "{}:{line}:{column}: {why}", file.display()),
            Self::Exposed { address, missing } => write!(
                f,
                "{address} can be reached from other machines, and this server has neither authentication \
                 nor TLS yet. Listen on 127.0.0.1, or accept what that means with {}",
                missing.join(" and ")
            ),
            Self::Replication(why) => write!(f, "replication: {why}"),
            Self::NotDialable { address } => {
                write!(f, "clients cannot dial {address}; say with --advertise IP:PORT where they find it")
            }
        }
    }
}

impl std::error::Error for SettingsError {}

impl File {
    /// Reads the file, or nothing when there is none to read.
    #[allow(clippy::disallowed_methods, reason = "the file of the operator lies anywhere")]
    pub fn read(path: Option<&Path>) -> Result<Self, SettingsError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let unreadable = |why: String| SettingsError::Unreadable { file: path.to_owned(), why };
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > FILE_LEN_MAX {
            return Err(unreadable(format!("not a file of at most {FILE_LEN_MAX} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..before]).into_owned();
            refused(path, &text, before, "not UTF-8".to_owned())
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        if text.starts_with('\u{feff}') {
            return Err(refused(path, text, 0, "begins with a byte order mark; save it without".to_owned()));
        }
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            refused(path, text, at, error.message().replace('\n', " "))
        })
    }
}

/// The error at byte `at` of the text.
fn refused(path: &Path, text: &str, at: usize, why: String) -> SettingsError {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    SettingsError::File { file: path.to_owned(), line, column, why }
}

impl BrokerSettings {
    /// These settings, and `file` where they say nothing.
    pub fn over(self, file: Self) -> Self {
        Self {
            data: self.data.or(file.data),
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            durability: self.durability.or(file.durability),
            cluster: self.cluster.or(file.cluster),
            broker_name: self.broker_name.or(file.broker_name),
            name_server: if self.name_server.is_empty() { file.name_server } else { self.name_server },
            segment_bytes: self.segment_bytes.or(file.segment_bytes),
            retention_hours: self.retention_hours.or(file.retention_hours),
            retention_bytes: self.retention_bytes.or(file.retention_bytes),
            orphans_hours: self.orphans_hours.or(file.orphans_hours),
            orphans_bytes: self.orphans_bytes.or(file.orphans_bytes),
            auto_create_topics: self.auto_create_topics.or(file.auto_create_topics),
            busy_reading_bytes: self.busy_reading_bytes.or(file.busy_reading_bytes),
            metrics: self.metrics.or(file.metrics),
        }
    }

    pub fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from("staticfire-data"))
    }

    pub fn mode(&self) -> Mode {
        self.durability.unwrap_or(Mode::Flushed)
    }

    /// What the broker is started with.
    pub fn broker_options(&self, exposure: Exposure) -> Result<BrokerOptions, SettingsError> {
        let mut options = BrokerOptions::default();
        options.listen = self.listen.unwrap_or(options.listen);
        exposure.permits(options.listen)?;
        options.advertised = self.advertise;
        let dialed = self.advertise.unwrap_or(options.listen);
        if dialed.ip().is_unspecified() || self.advertise.is_some_and(|address| address.port() == 0) {
            return Err(SettingsError::NotDialable { address: dialed });
        }
        options.cluster = self.cluster.clone().unwrap_or(options.cluster);
        options.name = self.broker_name.clone().unwrap_or(options.name);
        options.name_servers = name_servers::said(&self.name_server);
        if let Some(busy) = self.busy_reading_bytes {
            options.busy_reading = busy / 2..=busy;
        }
        options.topics.auto_created = self.auto_create_topics.unwrap_or(options.topics.auto_created);
        Ok(options)
    }

    /// The broker's part in its group, if it is in one.
    pub fn group_options(
        &self,
        replication: &ReplicationSettings,
        exposure: Exposure,
    ) -> Result<Option<GroupOptions>, SettingsError> {
        let options = replication.options().map_err(SettingsError::Replication)?;
        if let Some(group) = &options {
            exposure.permits(group.listen)?;
            if self.durability.is_some() {
                let why = "in a group, say with --mode what OK means, not with --durability";
                return Err(SettingsError::Replication(why.to_owned()));
            }
        }
        Ok(options)
    }

    /// What the store is opened with.
    pub fn store_options(&self) -> StoreOptions {
        let mut options = StoreOptions::at(self.data());
        options.durability = match self.mode() {
            Mode::Written => Durability::Written,
            Mode::Flushed => Durability::Flushed,
        };
        options.segment_bytes = self.segment_bytes.unwrap_or(options.segment_bytes);
        let default = Retention::default();
        let hours = self.retention_hours.map(|hours| i64::from(hours.get()) * 3_600_000);
        options.retention = Retention { age_ms: hours.or(default.age_ms), bytes: self.retention_bytes };
        let hours = self.orphans_hours.map(|hours| i64::from(hours.get()) * 3_600_000);
        options.orphans = Retention { age_ms: hours.or(options.orphans.age_ms), bytes: self.orphans_bytes };
        options
    }
}

impl Exposure {
    /// These switches, and those of `file`.
    pub const fn over(self, file: Self) -> Self {
        Self {
            without_authentication: self.without_authentication || file.without_authentication,
            without_tls: self.without_tls || file.without_tls,
        }
    }

    /// Refuses addresses that others can reach, unless both protections were waived.
    pub fn permits(self, address: SocketAddr) -> Result<(), SettingsError> {
        let mut missing = Vec::new();
        if !self.without_authentication {
            missing.push("--without-authentication");
        }
        if !self.without_tls {
            missing.push("--without-tls");
        }
        if address.ip().is_loopback() || missing.is_empty() {
            return Ok(());
        }
        Err(SettingsError::Exposed { address, missing })
    }
}

/// What the name server is started with.
pub fn name_server_options(
    listen: Option<SocketAddr>,
    exposure: Exposure,
) -> Result<NameServerOptions, SettingsError> {
    let listen = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 9876)));
    exposure.permits(listen)?;
    Ok(NameServerOptions { listen, ..NameServerOptions::default() })
}

fn name(name: &str) -> Result<String, String> {
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if (1..=127).contains(&name.len()) && letters {
        return Ok(name.to_owned());
    }
    Err(format!("{name:?} is no name: 1 to 127 letters, digits, '-' and '_' are"))
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
    if SEGMENT_BYTES.contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("a segment has {} to {} bytes", SEGMENT_BYTES.start(), SEGMENT_BYTES.end()))
}

fn checked_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    name(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

fn checked_segment_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    segment_bytes(&u64::deserialize(deserializer)?.to_string()).map(Some).map_err(D::Error::custom)
}

fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NameServers>, D::Error> {
    let all = Vec::<String>::deserialize(deserializer)?;
    all.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        File::parse(Path::new("f.toml"), text).unwrap_err().to_string()
    }

    /// proves: B71
    #[test]
    fn a_file_is_refused_with_its_line() {
        assert!(
            refusal("[broker]\ndata = \"d\"\ncolour = 1\n").starts_with("f.toml:3:1: unknown field `colour`")
        );
        assert!(refusal("[broker]\n\nlisten = 7\n").starts_with("f.toml:3:10: "));
        assert!(refusal("[broker]\nlisten = \"localhost\"\n").starts_with("f.toml:2:10: "));
        assert!(refusal("[broker]\nretention-hours = -1\n").starts_with("f.toml:2:19: "));
        assert!(refusal("[broker]\nretention-hours = 0\n").starts_with("f.toml:2:19: "));
        assert!(
            refusal("\n[broker]\nsegment-bytes = 1000\n").starts_with("f.toml:3:17: a segment has 1024 to")
        );
        assert!(refusal("[broker]\nsegment-bytes = 4294967296\n").starts_with("f.toml:2:17: a segment has"));
        assert!(refusal("[broker]\nbroker-name = \"a b\"\n").starts_with("f.toml:2:15: \"a b\" is no name"));
        assert!(refusal("[broker]\ncluster = \"\"\n").starts_with("f.toml:2:11: "));
        assert!(
            refusal("[broker]\nauto-create-topics = 99999999999999999999\n").starts_with("f.toml:2:22: ")
        );
        assert!(refusal("[broker]\nsegment-bytes = 1e9\n").starts_with("f.toml:2:17: "));
        assert!(refusal("[broker]\ndurability = \"maybe\"\n").starts_with("f.toml:2:14: unknown variant"));
        assert!(refusal("[broker]\ndata = \"a\"\ndata = \"b\"\n").starts_with("f.toml:3:1: duplicate key"));
        assert!(refusal("\u{feff}[broker]\n").starts_with("f.toml:1:1: "));
        assert!(refusal("[broken]\n").starts_with("f.toml:1:2: unknown field `broken`"));
        assert!(refusal("[broker\n").starts_with("f.toml:1:"));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let text = "[broker]\ndata = \"file\"\ndurability = \"written\"\nname-server = [\"10.0.0.1:9876\"]\n";
        let file = File::parse(Path::new("f.toml"), text).unwrap();
        let said = BrokerSettings { data: Some("said".into()), ..BrokerSettings::default() };
        let settings = said.over(file.broker);
        assert_eq!(settings.data(), PathBuf::from("said"));
        assert_eq!(settings.mode(), Mode::Written);
        assert_eq!(settings.name_server.len(), 1);
        assert_eq!(BrokerSettings::default().mode(), Mode::Flushed);
    }

    /// proves: S1, S2
    #[test]
    fn leaving_loopback_takes_both_switches_and_the_refusal_names_what_is_missing() {
        let default = BrokerSettings::default().broker_options(Exposure::default()).unwrap();
        assert!(default.listen.ip().is_loopback());
        assert!(name_server_options(None, Exposure::default()).unwrap().listen.ip().is_loopback());

        let listen: SocketAddr = "192.0.2.1:10911".parse().unwrap();
        let open = BrokerSettings { listen: Some(listen), ..BrokerSettings::default() };
        for (without_authentication, without_tls) in [(false, false), (true, false), (false, true)] {
            let exposure = Exposure { without_authentication, without_tls };
            let refusal = open.broker_options(exposure).unwrap_err().to_string();
            assert_eq!(refusal.contains("--without-authentication"), !without_authentication, "{refusal}");
            assert_eq!(refusal.contains("--without-tls"), !without_tls, "{refusal}");
            assert!(name_server_options(Some(listen), exposure).is_err());
        }
        let exposure = Exposure { without_authentication: true, without_tls: true };
        assert_eq!(open.broker_options(exposure).unwrap().listen, listen);
    }

    #[test]
    fn clients_are_never_told_an_address_they_cannot_dial() {
        let exposure = Exposure { without_authentication: true, without_tls: true };
        let everywhere = BrokerSettings { listen: "0.0.0.0:1".parse().ok(), ..BrokerSettings::default() };
        assert!(everywhere.broker_options(exposure).unwrap_err().to_string().contains("--advertise"));
        let told = BrokerSettings { advertise: "192.0.2.1:1".parse().ok(), ..everywhere };
        assert!(told.broker_options(exposure).is_ok());
    }
}
