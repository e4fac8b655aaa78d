//! One process: started, asked to end, stopped, killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test.
pub const BIN: &str = env!("CARGO_BIN_EXE_staticfire");

/// A server that announced itself. Killed when dropped, which no process can prevent.
pub struct Server {
    child: Child,
    pub line: Value,
    /// Held open: a server whose output nobody reads must not die of it.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts the program with these arguments, by the command `inside` if there is one.
    pub fn start(inside: &[String], arguments: &[String]) -> Self {
        Self::try_start(inside, arguments).unwrap_or_else(|why| panic!("{arguments:?}: {why}"))
    }

    /// As [`Self::start`]; what the server says when it does not come up.
    pub fn try_start(inside: &[String], arguments: &[String]) -> Result<Self, String> {
        let mut command = command(inside);
        command.args(arguments).arg("--json").stdout(Stdio::piped()).stderr(stderr());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        match serde_json::from_str(&line) {
            Ok(line) => Ok(Self { child, line, _stdout: stdout }),
            Err(_) => {
                let code = child.wait().map_err(|error| error.to_string())?;
                Err(format!("{code}: {line}"))
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        // Whoever ended meanwhile is seen to have when it is waited for.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Sends a signal and waits for the end: the exit code, `None` when the signal ended it.
    pub fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, by the command `inside` if there is one.
pub fn command(inside: &[String]) -> Command {
    match inside {
        [] => Command::new(BIN),
        [program, words @ ..] => {
            let mut command = Command::new(program);
            command.args(words).arg(BIN);
            command
        }
    }
}

/// What servers say goes nowhere, unless somebody who looks for a fault wants to read it.
fn stderr() -> Stdio {
    if std::env::var_os("STATICFIRE_SERVERS_SPEAK").is_some() { Stdio::inherit() } else { Stdio::null() }
}

/// Runs a program of the system; what it said when that failed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program} {}: {words}", arguments.join(" "))),
    }
}
