//! A page that shows a run: what was done to the cluster, and who said what to whom.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, io, thread};

use staticfire_transport::command::RESPONSE;
use staticfire_transport::memory::{Entry, Event};

use super::{Node, Running};
use crate::protocol::codes::request;

/// Where pages go; the folder `staticfire` for temporary files where it is not set.
const FOLDER: &str = "STATICFIRE_TIMELINES";
/// Only so many of the last events of the network are shown.
const ROWS_MAX: usize = 5000;

const HEAD: &str = r#"<!doctype html><meta charset="utf-8"><title>staticfire</title><style>
body{font:13px sans-serif;margin:1em}table{border-collapse:collapse}pre{background:#fee;padding:.5em}
td,th{padding:1px 8px;white-space:nowrap;text-align:left;border-left:1px solid #ddd}
th{position:sticky;top:0;background:#eee}td:first-child{color:#888;text-align:right}
.done{background:#fdd;font-weight:bold}.in{color:#888}</style>
"#;
const FILTER: &str = r#"<p>Rows with <input id="f" placeholder="b0.0, SEND, closed, …"></p><script>
f.oninput=()=>document.querySelectorAll("tbody tr:not(.done)").forEach(
r=>r.hidden=!r.textContent.includes(f.value))</script>
"#;

impl Running {
    /// The run as a page of HTML that needs nothing else: a column for each node, time downwards.
    #[must_use]
    pub fn timeline(&self) -> String {
        let log = self.network.log();
        let skipped = log.len().saturating_sub(ROWS_MAX);
        let log = &log[skipped..];
        let mut nodes: BTreeSet<Node> = self.cluster.nodes().into_iter().collect();
        nodes.extend(log.iter().filter_map(|entry| Node::at(entry.host.ip())));
        let nodes: Vec<Node> = nodes.into_iter().collect();
        let mut page = HEAD.to_owned();
        let trouble = self.violation().err().map_or_else(String::new, |it| format!("\n{it}"));
        let plan = self.plan.as_ref().map_or_else(String::new, |plan| format!("\nplan \"{plan}\""));
        let about = escaped(&format!("{self:?}, trace {:016x}{plan}{trouble}", self.trace_hash()));
        let heads: String = nodes.iter().map(|node| format!("<th>{node}")).collect();
        // Writing to a string does not fail.
        let _ = write!(page, "<pre>{about}</pre>{FILTER}");
        let _ = write!(page, "<p>{skipped} events of the network before these are not shown.</p>");
        let _ = write!(page, "<table><thead><tr><th>s{heads}</thead><tbody>");
        let mut done = self.events.iter().peekable();
        for entry in log {
            let at = entry.at.since_start();
            while let Some((when, what)) = done.next_if(|(when, _)| *when <= at) {
                done_row(&mut page, *when, what, nodes.len());
            }
            let Some(column) = nodes.iter().position(|node| Some(*node) == Node::at(entry.host.ip())) else {
                continue;
            };
            let (class, said) = described(entry);
            let _ = writeln!(
                page,
                "<tr><td>{:.6}{}<td class={class}>{}",
                at.as_secs_f64(),
                "<td>".repeat(column),
                escaped(&said)
            );
        }
        done.for_each(|(when, what)| done_row(&mut page, *when, what, nodes.len()));
        page + "</table>"
    }

    /// Writes the page of a run that fails, and says where.
    pub(super) fn write_timeline(&self) {
        match self.try_write_timeline() {
            Ok(path) => eprintln!("timeline of seed {}: {}", self.cluster.seed, path.display()),
            Err(error) => eprintln!("the timeline cannot be written: {error}"),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a page for a human, not a part of the run")]
    fn try_write_timeline(&self) -> io::Result<PathBuf> {
        let folder = env::var_os(FOLDER).map_or_else(|| env::temp_dir().join("staticfire"), PathBuf::from);
        let test = thread::current().name().unwrap_or("case").replace(|it: char| !it.is_alphanumeric(), "-");
        let path = folder.join(format!("{test}-seed-{}.html", self.cluster.seed));
        fs::create_dir_all(&folder)?;
        fs::write(&path, self.timeline())?;
        Ok(path)
    }
}

fn done_row(page: &mut String, at: Duration, what: &str, columns: usize) {
    let what = escaped(what);
    let _ = writeln!(page, "<tr class=done><td>{:.6}<td colspan={columns}>{what}", at.as_secs_f64());
}

/// How a row looks, and what it says.
fn described(entry: &Entry) -> (&'static str, String) {
    let peer = Node::at(entry.peer.ip()).map_or_else(|| entry.peer.to_string(), |node| node.to_string());
    let connection = entry.connection;
    let frame = |code: i32, opaque: i32, flag: i32| match flag & RESPONSE {
        0 => format!("{} #{opaque}", request::name(code).map_or_else(|| code.to_string(), str::to_owned)),
        _ => format!("answer {code} #{opaque}"),
    };
    match &entry.event {
        Event::Dialled => ("out", format!("dials {peer} ({connection})")),
        Event::Accepted => ("in", format!("accepts {peer} ({connection})")),
        Event::Failed(error) => ("out", format!("cannot reach {peer} ({connection}): {error}")),
        Event::Sent { code, opaque, flag } => {
            ("out", format!("→ {peer} ({connection}) {}", frame(*code, *opaque, *flag)))
        }
        Event::Arrived { code, opaque, flag } => {
            ("in", format!("← {peer} ({connection}) {}", frame(*code, *opaque, *flag)))
        }
        Event::Closed(reason) => ("out", format!("closed to {peer} ({connection}): {reason:?}")),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
