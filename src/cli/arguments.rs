//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use staticfire::transport::Endpoint;

use super::name_servers::NameServers;
use super::replication::ReplicationSettings;
use super::settings::{BrokerSettings, Exposure};

const EXIT_CODES: &str = "\
Exit codes:
  0  it went well; for a server: it was asked to stop and everything is on disk
  1  it ran, but: a message was not acknowledged, a store is damaged, a server could not write everything
  2  it could not be started: wrong arguments or configuration, an address or a directory is in use";

/// RocketMQ's architecture in one small program.
#[derive(Debug, Parser)]
#[command(name = "staticfire", version, after_help = EXIT_CODES)]
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
    /// Send messages and tell how fast and how well. Interrupted (SIGINT, SIGTERM), it sends nothing more, waits
    /// for the answers it is owed, and tells all the same; a second signal ends it at once.
    Produce(ProduceArguments),
    /// Print what a topic holds, from where its group stands.
    Consume(ConsumeArguments),
    /// Ask and steer a broker group.
    #[command(subcommand)]
    Admin(AdminCommand),
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
    /// Instead of one broker, so many that elect (3, 5 or 7), and two name servers, for a look: their data in
    /// DIR/node-1 and so on, their ports 10 apart.
    #[arg(long, value_name = "NODES", value_parser = group_size, conflicts_with = "durability")]
    pub group: Option<u16>,
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
    pub replication: ReplicationSettings,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// What all servers understand.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// A TOML file with tables [broker], [replication], [name-server] and [exposure], whose keys are the long
    /// options;
    /// what is said on the command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub exposure: Exposure,
    /// Print the start-up line as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ProduceArguments {
    /// A name server, or several separated by `;` or `,` [default: $NAMESRV_ADDR, or 127.0.0.1:9876].
    #[arg(long, value_name = "HOST:PORT")]
    pub name_server: Vec<NameServers>,
    /// Where to send to. Brokers make it when it is new and they may.
    #[arg(long)]
    pub topic: String,
    /// How many messages.
    #[arg(long, default_value_t = 1)]
    pub count: u64,
    /// Bytes of a body that is made up.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = size)]
    pub size: usize,
    /// The body of all messages, instead of made-up ones.
    #[arg(long, value_name = "TEXT", conflicts_with = "size")]
    pub body: Option<String>,
    /// Messages a second, sent at their time whether answers come or not; latencies count from that time.
    /// Without it, as fast as answers come.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// The most messages without an answer [default: 64, with a rate 65536].
    #[arg(long, value_name = "COUNT")]
    pub in_flight: Option<usize>,
    /// The tag of all messages.
    #[arg(long)]
    pub tag: Option<String>,
    /// The producer's group.
    #[arg(long, default_value = "staticfire-cli")]
    pub group: String,
    /// Print the numbers as one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ConsumeArguments {
    /// A name server, or several separated by `;` or `,` [default: $NAMESRV_ADDR, or 127.0.0.1:9876].
    #[arg(long, value_name = "HOST:PORT")]
    pub name_server: Vec<NameServers>,
    /// Where to read; waited for when it is not there yet.
    #[arg(long)]
    pub topic: String,
    /// How many messages; without it, until interrupted.
    #[arg(long)]
    pub count: Option<u64>,
    /// Which tags: `*`, or some joined by `||`.
    #[arg(long, value_name = "EXPRESSION", default_value = "*")]
    pub tag: String,
    /// The group whose offsets say where to go on. A group without offsets starts at the oldest message.
    #[arg(long, default_value = "staticfire-cli")]
    pub group: String,
    /// Remember in this directory, and not at the brokers, how far the group got: who has another directory
    /// gets all messages as well. The file is DIR/GROUP/offsets.json, as RocketMQ's Java client keeps it.
    #[arg(long, value_name = "DIR")]
    pub offsets: Option<PathBuf>,
    /// Print no messages, only how fast they came.
    #[arg(long)]
    pub quiet: bool,
    /// Print messages and numbers as JSON objects, one a line.
    #[arg(long)]
    pub json: bool,
}

/// A body has at least a byte, and at most what brokers take.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (1..=4 << 20).contains(&size) => Ok(size),
        _ => Err("from 1 to 4194304".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err("more than 0, at most 1000000000".to_owned()),
    }
}

fn group_size(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(size @ (3 | 5 | 7)) => Ok(size),
        _ => Err("3, 5 or 7".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// What each node is, and how far it is.
    Status(AdminArguments),
    /// What would be lost if the leader died now.
    Rpo(AdminArguments),
    /// Who would lead if the leader died now, and what that would cost; nothing is done.
    Drill(AdminArguments),
    /// With manual failover: which slave to promote, what is lost, and what to run.
    PromotePlan(AdminArguments),
    /// Hand the leadership to another node, without a message lost.
    Transfer(TransferArguments),
}

/// Which group is meant. Nodes listen to operators on their own machine only.
#[derive(Clone, Debug, Args)]
pub struct AdminArguments {
    /// A name server that knows the group [default: the first of $NAMESRV_ADDR, or 127.0.0.1:9876].
    #[arg(long, value_name = "HOST:PORT")]
    pub name_server: Option<Endpoint>,
    /// The cluster's name.
    #[arg(long, value_name = "NAME", default_value = "DefaultCluster")]
    pub cluster: String,
    /// The broker group's name.
    #[arg(long, value_name = "NAME", default_value = "broker-a")]
    pub broker_name: String,
    /// These nodes, where clients find them, instead of those that the name server knows.
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    pub broker: Vec<SocketAddr>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct TransferArguments {
    #[command(flatten)]
    pub group: AdminArguments,
    /// To this node; without it, to the one that has most.
    #[arg(long, value_name = "NUMBER")]
    pub to: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read a whole store, ours or RocketMQ's, and say what is wrong with it. Changes nothing. Nobody may
    /// write to it meanwhile. Exit code 0: sound, 1: damaged, 2: could not be read.
    Verify(VerifyArguments),
    /// Show what was cut off the end of a log and kept, also while a broker uses the store. Changes nothing
    /// there. Exit code 0: all of it could be read (and sent), 1: not all, 2: could not be started.
    Tail(TailArguments),
}

#[derive(Debug, Args)]
pub struct TailArguments {
    /// The store directory.
    pub directory: PathBuf,
    /// The orphans: what a newer leader did not have, or a crash left incomplete.
    #[arg(long, required = true)]
    pub orphans: bool,
    /// Print each message as one JSON object, instead of a line about each orphan.
    #[arg(long)]
    pub messages: bool,
    /// Print JSON objects, one a line.
    #[arg(long)]
    pub json: bool,
    /// Send all messages once more, to the topics they were for. They may be there already: look first.
    #[arg(long, value_name = "NAME_SERVER", conflicts_with_all = ["messages", "json"])]
    pub send_to: Vec<NameServers>,
}

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The store directory.
    pub directory: PathBuf,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}
