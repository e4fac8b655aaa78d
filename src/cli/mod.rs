//! The command line. Everything it does, a program can do through the library.
//!
//! Data goes to standard output, as JSON where asked for; everything else goes to standard error.

mod admin;
mod arguments;
mod consume;
mod measure;
mod metrics;
mod name_servers;
mod orphans;
mod produce;
mod replication;
mod serve;
mod settings;
mod signals;
mod verify;

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command, StoreCommand};

/// What was asked for could not be started.
const NOT_STARTED: u8 = 2;
/// It ran, and did not end as it should.
const NOT_WELL: u8 = 1;

/// How a command ends when it does not end well: an exit code, and words for people.
#[derive(Debug)]
struct Failure {
    code: u8,
    words: String,
}

impl Failure {
    /// It could not be started: exit code 2.
    fn not_started(words: impl Display) -> Self {
        Self { code: NOT_STARTED, words: words.to_string() }
    }

    /// It ran and did not end as it should: exit code 1.
    fn not_well(words: impl Display) -> Self {
        Self { code: NOT_WELL, words: words.to_string() }
    }
}

/// Does what the process was started for.
pub fn run() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Standalone(arguments) => serve::standalone(arguments),
        Command::NameServer(arguments) => serve::name_server(arguments),
        Command::Broker(arguments) => serve::broker(arguments),
        Command::Produce(arguments) => produce::produce(&arguments),
        Command::Consume(arguments) => consume::consume(&arguments),
        Command::Admin(command) => admin::admin(&command),
        Command::Store(StoreCommand::Verify(arguments)) => verify::verify(&arguments),
        Command::Store(StoreCommand::Tail(arguments)) => orphans::tail(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("staticfire: {}", failure.words);
            ExitCode::from(failure.code)
        }
    }
}
