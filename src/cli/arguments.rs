//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::settings::{BrokerSettings, Exposure};

const EXIT_CODES: &str = "\
Exit codes:
  0  it went well; for a server: it was asked to stop and everything is on disk
  1  it ran, but: a message was not acknowledged, a store is damaged, a server could not write everything
  2  it could not be started: wrong arguments or configuration, an address or a directory is in use";

/// RocketMQ's architecture in one small program.
#[derive(Debug, Parser)]
#[command(name = "staticfire", version, about, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve as name server and broker in one process.
    Standalone(StandaloneArguments),
    /// Serve as name server: tell clients where topics are.
    NameServer(NameServerArguments),
    /// Serve as broker: store messages and hand them out.
    Broker(BrokerArguments),
    /// Look at a store directory.
    #[command(subcommand)]
    Store(StoreCommand),
}

#[derive(Debug, Args)]
pub struct StandaloneArguments {
    #[command(flatten)]
    pub broker: BrokerSettings,
    /// Where the name server listens [default: 127.0.0.1:9876].
    #[arg(long, value_name = "IP:PORT")]
    pub name_server_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct NameServerArguments {
    /// Where it listens [default: 127.0.0.1:9876].
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct BrokerArguments {
    #[command(flatten)]
    pub broker: BrokerSettings,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// What all servers understand.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// A TOML file with tables [broker], [name-server] and [exposure], whose keys are the long options;
    /// what is said on the command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub exposure: Exposure,
    /// Print the start-up line as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read a whole store, ours or RocketMQ's, and say what is wrong with it. Changes nothing. Nobody may
    /// write to it meanwhile. Exit code 0: sound, 1: damaged, 2: could not be read.
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The store directory.
    pub directory: PathBuf,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}
