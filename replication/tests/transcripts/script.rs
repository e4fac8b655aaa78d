#![allow(dead_code, reason = "each test that includes this uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "transcripts are files beside the tests")]

//! Runs a transcript: a text that says what happens to a group of replicas, and what they do then.
//!
//! ```text
//! # The story, for people.
//! # proves: I28, I38            rows of the reliability programme
//! # fails with: Z29             planted bugs with which it must not go as written
//!
//! nodes 3                       so many members, at first with empty disks; they elect
//! disk 1: 1* 1a 2* vote 3 in 2  what node 1 finds when it starts: records, its last vote, or only `epoch 2`
//! confirmed 1: 2                the first two records of node 1 were confirmed before
//! fetch 1                       a fetch is answered by so many records at most; without this, 100
//!
//! campaign 1                    a command; below it, deeper, everything that the replicas do then
//!     1 saves epoch 1, vote 1
//! ```
//! A record is its epoch and a letter, or `*` for the barrier that begins the epoch; `|` ends what is on stable
//! storage; a position is the number of records before it, and `2 in 1` says that the last of two is of epoch 1.
//!
//! | command | what happens |
//! |---|---|
//! | `campaign 1` | node 1 stands for election |
//! | `timeout 1` | its timer rings: it asks whether to stand; a leader that hears nobody steps down |
//! | `tick 1` | it looks for its leader, or who the others are |
//! | `append 1 a b` | two producers' messages, one after the other |
//! | `sync 1`, `synced 1`, `saved 1` | a sync starts; it completes; the promise is on the disk |
//! | `deliver 1>2 text`, `deliver` | messages from 1 to 2 that contain the text arrive, or all do |
//! | `redeliver 1>2 text`, `drop 1>2 text` | the network keeps a copy; loses them |
//! | `lose 1` | its connection to whom it asked is lost |
//! | `crash 1 keeping 3` | power cut; so many records stay, with `and promise` also what was being saved |
//! | `wipe 1` | its disk is replaced by an empty one |
//! | `expire 1` | retention removes what is confirmed and durable there |
//! | `read 1`, `transfer 1` | a consumer asks for the maximum offset; the operator wants another leader |
//! | `settle 1 2` | all arrives and completes among these (or all) nodes, and they look for the leader; messages are not shown |
//! | `show` | the nodes, one a line |
//!
//! A transcript that starts with `store` is about one real store: `store.rs`. With `STATICFIRE_BLESS=1` what
//! happens is written into the file instead of compared.

use std::fs;
use std::path::{Path, PathBuf};

use staticfire_replication::{Answer, Effect, FetchAnswer, NodeId, Promise, Request};
use staticfire_storage::{Epoch, Position};

use crate::store::Stage;
use crate::world::{Action, Budget, Envelope, Given, Message, Rec, Shape, World, id};

pub struct Script {
    path: PathBuf,
    lines: Vec<String>,
}

/// Every transcript there is.
pub fn all() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let files = fs::read_dir(folder).expect("the folder of the transcripts");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("an entry of it").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() > 12, "transcripts are missing: {paths:?}");
    paths.into_iter().map(Script::read).collect()
}

/// Lines that a command wrote, or why it cannot be carried out.
pub type Said = Result<Vec<String>, String>;

/// What the commands of a transcript act on.
trait Scene {
    fn perform(&mut self, command: &str) -> Said;
}

impl Script {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a text file");
        Self { path, lines: text.lines().map(str::to_owned).collect() }
    }

    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The planted bugs that it finds.
    pub fn fails_with(&self) -> Vec<String> {
        let lines = self.lines.iter().filter_map(|line| line.strip_prefix("# fails with: "));
        lines.flat_map(|bugs| bugs.split(", ")).map(str::to_owned).collect()
    }

    /// Runs it with a bug in the replicas, if one is named.
    pub fn run(&self, bug: Option<&'static str>) -> Result<(), String> {
        assert!(
            self.lines.iter().any(|line| line.starts_with("# proves: ")),
            "{:?} proves nothing",
            self.path
        );
        let mut scene: Option<Box<dyn Scene>> = None;
        let mut group = Setting::default();
        let mut written = Vec::new();
        let mut lines = (1..).zip(&self.lines).peekable();
        while let Some((number, line)) = lines.next() {
            written.push(line.clone());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut expected = Vec::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("    ")) {
                expected.push(line.trim().to_owned());
            }
            let said = if scene.is_none() && group.sets(line)? {
                Ok(Vec::new())
            } else {
                let scene = scene.get_or_insert_with(|| group.begin(bug));
                scene.perform(line)
            };
            let place = format!("{}:{number}: {line}", self.path.display());
            let got = said.map_err(|error| format!("{place}\n  {error}"))?;
            written.extend(got.iter().map(|line| format!("    {line}")));
            if got != expected && !blessing() {
                let list =
                    |lines: &[String]| lines.iter().fold(String::new(), |all, line| all + "\n    " + line);
                return Err(format!("{place}\n  expected{}\n  got{}", list(&expected), list(&got)));
            }
        }
        if blessing() && bug.is_none() {
            fs::write(&self.path, written.join("\n") + "\n").expect("the transcript can be written");
        }
        Ok(())
    }
}

fn blessing() -> bool {
    std::env::var_os("STATICFIRE_BLESS").is_some()
}

/// What is said before the first command.
#[derive(Default)]
struct Setting {
    store: bool,
    fetch_max: Option<u64>,
    given: Vec<Given>,
    confirmed: Option<(usize, usize)>,
}

impl Setting {
    /// True when this line is part of it.
    fn sets(&mut self, line: &str) -> Result<bool, String> {
        let wrong = || format!("{line}: not a setting");
        if line == "store" {
            self.store = true;
        } else if let Some(count) = line.strip_prefix("nodes ") {
            self.given = vec![Given::default(); count.parse().map_err(|_| wrong())?];
        } else if let Some(count) = line.strip_prefix("fetch ") {
            self.fetch_max = Some(count.parse().map_err(|_| wrong())?);
        } else if let Some((node, rest)) = line.strip_prefix("disk ").and_then(|rest| rest.split_once(": ")) {
            let node: usize = node.parse().map_err(|_| wrong())?;
            *self.given.get_mut(node - 1).ok_or_else(wrong)? = given(rest).ok_or_else(wrong)?;
        } else if let Some((node, count)) =
            line.strip_prefix("confirmed ").and_then(|rest| rest.split_once(": "))
        {
            let node: usize = node.parse().map_err(|_| wrong())?;
            self.confirmed = Some((node - 1, count.parse().map_err(|_| wrong())?));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn begin(&self, bug: Option<&'static str>) -> Box<dyn Scene> {
        if self.store {
            return Box::new(Stage::new(bug));
        }
        let all = u8::MAX;
        let plenty = Budget {
            epochs: 1_000,
            appends: all,
            crashes: all,
            duplicates: all,
            asks: 10_000,
            wipes: all,
            lies: all,
            expiries: all,
        };
        let mut world = World::start(
            Shape::elected(self.given.len(), self.fetch_max.unwrap_or(100), bug),
            plenty,
            &self.given,
        );
        world.reached.1 = Some(Vec::new());
        if let Some((node, count)) = self.confirmed {
            world.confirmed = world.nodes[node].log[..count].to_vec();
        }
        Box::new(world)
    }
}

/// `1* 1a 2* vote 3 in 2`.
fn given(text: &str) -> Option<Given> {
    let (records, vote) = match text.split_once("vote ") {
        Some((records, vote)) => (records, Some(vote)),
        None => (text, None),
    };
    let (records, epoch) = match records.split_once("epoch ") {
        Some((records, epoch)) => (records, Some(epoch)),
        None => (records, None),
    };
    let log: Option<Vec<Rec>> = records.split_whitespace().map(record).collect();
    let log = log?;
    let newest = log.last().map_or(0, |rec| rec.epoch);
    let promise = if let Some((node, epoch)) = vote.and_then(|vote| vote.split_once(" in ")) {
        let vote = Some(NodeId(node.trim().parse().ok()?));
        Promise { epoch: Epoch(epoch.trim().parse().ok()?), vote, ..Promise::default() }
    } else {
        let epoch = epoch.map_or(Some(newest), |epoch| epoch.trim().parse().ok())?;
        Promise { epoch: Epoch(epoch), ..Promise::default() }
    };
    Some(Given { log, promise, session: 0 })
}

fn record(text: &str) -> Option<Rec> {
    let (epoch, letter) = text.split_at_checked(text.len() - 1)?;
    let number = match letter.as_bytes()[0] {
        b'*' => 0,
        letter @ b'a'..=b'z' => letter - b'a' + 1,
        _ => return None,
    };
    Some(Rec { epoch: epoch.parse().ok()?, number })
}

fn letters(records: &[Rec]) -> String {
    let letter = |number: u8| if number == 0 { '*' } else { char::from(b'a' + number - 1) };
    let texts = records.iter().map(|rec| format!("{}{}", rec.epoch, letter(rec.number)));
    texts.collect::<Vec<_>>().join(" ")
}

impl Scene for Stage {
    fn perform(&mut self, command: &str) -> Said {
        self.carry_out(command)
    }
}

impl Scene for World {
    fn perform(&mut self, command: &str) -> Said {
        let words: Vec<&str> = command.split_whitespace().collect();
        let node = |index: usize| -> Result<usize, String> {
            let number = words.get(index).and_then(|word| word.parse::<usize>().ok());
            let node = number.filter(|number| (1..=self.nodes.len()).contains(number));
            node.map(|number| number - 1).ok_or_else(|| "which node?".to_owned())
        };
        let mut shows_messages = true;
        match words[0] {
            "campaign" => self.act(&Action::Campaign(node(1)?)),
            "timeout" => self.act(&Action::StepDown(node(1)?)),
            "tick" => self.act(&Action::Tick(node(1)?)),
            "sync" => self.act(&Action::StartSync(node(1)?)),
            "synced" if self.nodes[node(1)?].syncing.is_none() => {
                return Err("no sync was started".to_owned());
            }
            "saved" if self.nodes[node(1)?].saving.is_none() => {
                return Err("no promise is being saved".to_owned());
            }
            "synced" => self.act(&Action::CompleteSync(node(1)?)),
            "saved" => self.act(&Action::CompleteSave(node(1)?)),
            "lose" => self.act(&Action::Unanswered(node(1)?)),
            "wipe" => self.act(&Action::Wipe(node(1)?)),
            "expire" => self.act(&Action::Expire(node(1)?)),
            "read" => self.act(&Action::Read(node(1)?)),
            "transfer" => self.act(&Action::Transfer(node(1)?)),
            "append" => {
                let leader = node(1)?;
                for letter in &words[2..] {
                    self.append(leader, letter.as_bytes()[0] - b'a' + 1);
                }
            }
            "crash" => {
                let keep = words.get(3).and_then(|word| word.parse().ok()).ok_or("crash 1 keeping 3")?;
                self.act(&Action::Crash { node: node(1)?, keep, promise: words.contains(&"promise") });
            }
            "deliver" | "redeliver" | "drop" => under_way(self, words[0], &command[words[0].len()..])?,
            "settle" => {
                let among: Result<Vec<usize>, String> = (1..words.len()).map(node).collect();
                let among = Some(among?).filter(|among| !among.is_empty());
                settle(self, &among.unwrap_or_else(|| (0..self.nodes.len()).collect()))?;
                shows_messages = false;
            }
            "show" => return Ok(show(self)),
            _ => return Err("no such command".to_owned()),
        }
        self.check();
        let said = self.reached.1.replace(Vec::new()).unwrap_or_default();
        match &self.violation {
            Some(violation) => Err(format!("a promise is broken: {violation}")),
            None => Ok(said
                .iter()
                .filter_map(|(node, effect)| told(self, *node, effect, shows_messages))
                .collect()),
        }
    }
}

/// What happens to the messages that a command means.
fn under_way(world: &mut World, what: &str, which: &str) -> Result<(), String> {
    let which = which.trim();
    let (route, text) = which.split_once(' ').unwrap_or((which, ""));
    let number = |text: &str| text.parse::<usize>().map_err(|_| "from>to, please".to_owned());
    let route = match route.split_once('>') {
        Some((from, to)) => Some((number(from)? - 1, number(to)? - 1)),
        None if route.is_empty() => None,
        None => return Err("from>to, please".to_owned()),
    };
    let meant = |envelope: &&Envelope| {
        route.is_none_or(|route| route == (envelope.from, envelope.to)) && message(envelope).contains(text)
    };
    let meant: Vec<Envelope> = world.net.iter().filter(meant).cloned().collect();
    if meant.is_empty() {
        let net: Vec<String> = world.net.iter().map(message).collect();
        return Err(format!("no such message is under way, only\n    {}", net.join("\n    ")));
    }
    for envelope in meant {
        match what {
            "deliver" => world.act(&Action::Deliver(envelope)),
            "redeliver" => world.act(&Action::DeliverTwice(envelope)),
            _ => drop(world.net.remove(&envelope)),
        }
    }
    Ok(())
}

/// Everything arrives and completes among these nodes; those without a leader look for one of them.
fn settle(world: &mut World, among: &[usize]) -> Result<(), String> {
    for _ in 0..2_000 {
        let arrives = |envelope: &&Envelope| among.contains(&envelope.from) && among.contains(&envelope.to);
        let mut next = world.net.iter().find(arrives).cloned().map(Action::Deliver);
        for node in among {
            let it = &world.nodes[*node];
            let behind = it.durable < it.log.len() && it.syncing.is_none();
            let save = it.saving.is_some().then_some(Action::CompleteSave(*node));
            let sync = it.syncing.is_some().then_some(Action::CompleteSync(*node));
            next = save.or(next).or(sync).or(behind.then_some(Action::StartSync(*node)));
        }
        let led = among.iter().any(|node| world.nodes[*node].replica.leads());
        let lost = |node: &&usize| {
            let replica = &world.nodes[**node].replica;
            led && !replica.leads() && !replica.is_stopped() && (!replica.is_copying() || !replica.is_voter())
        };
        let seek = || among.iter().find(lost).map(|node| Action::Tick(*node));
        let Some(action) = next.or_else(seek) else { return Ok(()) };
        world.act(&action);
        world.check();
        if world.violation.is_some() {
            return Ok(());
        }
    }
    Err("it does not come to rest".to_owned())
}

fn show(world: &World) -> Vec<String> {
    let line = |(index, node): (usize, &crate::world::Node)| {
        let (replica, kept) = (&node.replica, node.base.end.0 as usize);
        let role = match () {
            () if replica.is_stopped() => "is stopped".to_owned(),
            () if replica.serves() => format!("serves {}", replica.epoch()),
            () if replica.leads() => format!("leads {}", replica.epoch()),
            () => format!("{} {}", if replica.is_voter() { "is in" } else { "learns in" }, replica.epoch()),
        };
        let (durable, rest) = node.log[kept..].split_at(node.durable.max(kept) - kept);
        let gone = if kept > 0 { format!("({kept} gone) ") } else { String::new() };
        let log = format!("{gone}{} | {}", letters(durable), letters(rest));
        format!("{} {role}, confirmed {}: {}", index + 1, replica.confirmed(), log.trim())
    };
    world.nodes.iter().enumerate().map(line).collect()
}

/// An effect, for people; `None` for a message when these are not shown.
fn told(world: &World, index: usize, effect: &Effect, shows_messages: bool) -> Option<String> {
    let node = index + 1;
    let nobody = "nobody".to_owned();
    let said = match effect {
        Effect::Save(promise) => match promise.vote {
            Some(vote) => format!("{node} saves epoch {}, vote {vote}", promise.epoch),
            None => format!("{node} saves epoch {}", promise.epoch),
        },
        Effect::Ask { to, request } => {
            return shows_messages.then(|| format!("{node} > {to}: {}", asked(request)));
        }
        Effect::Answer { token, answer } => {
            let records = match answer {
                Answer::Fetch(FetchAnswer::Records { from, upto, .. }) => {
                    world.nodes[index].log.get(from.0 as usize..upto.0 as usize).unwrap_or_default()
                }
                _ => &[],
            };
            return shows_messages
                .then(|| format!("{node} > {}: {}", token.0 + 1, answered(answer, records)));
        }
        Effect::Fence(epoch) => format!("{node} ends what was before epoch {epoch}"),
        Effect::Lead(epoch) => format!("{node} leads {epoch}"),
        Effect::Serve(epoch) => format!("{node} serves {epoch}"),
        Effect::Follow { epoch, leader } => {
            format!("{node} follows {} in {epoch}", leader.map_or(nobody, |leader| leader.to_string()))
        }
        Effect::Take { from } => format!("{node} takes records from {from}"),
        Effect::Restart => format!("{node} asks again from its end"),
        Effect::Truncate(to) => format!("{node} cuts its log at {to}"),
        Effect::Reset(base) => format!("{node} begins anew at {}", place(*base)),
        Effect::Confirm { end, .. } => format!("{node} confirms {end}"),
        Effect::Gate { open: false } => format!("{node} refuses producers"),
        Effect::Gate { open: true } => format!("{node} takes producers again"),
        Effect::ReadReady { confirmed, .. } => format!("{node} answers the read: {confirmed}"),
        Effect::ReadLost(_) => format!("{node} cannot answer the read"),
        Effect::Stop(evidence) => {
            format!("{node} stops, common with {} is {}", evidence.leader, place(evidence.common))
        }
    };
    Some(said)
}

fn place(position: Position) -> String {
    format!("{} in {}", position.end, position.epoch)
}

/// A message under way, as it is shown and matched.
fn message(envelope: &Envelope) -> String {
    let what = match &envelope.message {
        Message::Request(request) => asked(request),
        Message::Answer(answer, records) => answered(answer, records),
    };
    format!("{} > {}: {what}", id(envelope.from), id(envelope.to))
}

fn asked(request: &Request) -> String {
    match request {
        Request::Fetch(fetch) => {
            let learner = if fetch.learner { ", learner" } else { "" };
            let at = place(fetch.at);
            format!(
                "session {}, epoch {}: fetch at {at}, flushed {}{learner}",
                fetch.session, fetch.epoch, fetch.flushed
            )
        }
        Request::Vote(vote) => {
            let question = if vote.pre { "would you vote" } else { "vote" };
            format!("{question} in {}? log ends at {}", vote.epoch, place(vote.last))
        }
        Request::TakeOver { epoch } => format!("take over from {epoch}"),
        Request::Introduce { .. } => "who are you?".to_owned(),
    }
}

fn answered(answer: &Answer, records: &[Rec]) -> String {
    match answer {
        Answer::Fetch(FetchAnswer::Records { session, epoch, from, confirmed, .. }) => {
            let records = letters(records);
            format!("session {session}, epoch {epoch}: from {from} [{records}], confirmed {confirmed}")
        }
        Answer::Fetch(FetchAnswer::Diverged { session, epoch, common }) => {
            format!("session {session}, epoch {epoch}: other log, at most {} in common", place(*common))
        }
        Answer::Fetch(FetchAnswer::Below { session, epoch, base }) => {
            format!("session {session}, epoch {epoch}: gone, begin at {}", place(*base))
        }
        Answer::Fetch(FetchAnswer::Refused { epoch, leader, session }) => {
            let leader = leader.map_or("nobody".to_owned(), |leader| leader.to_string());
            format!("session {session}, epoch {epoch}: refused, ask {leader}")
        }
        Answer::Vote(vote) => {
            let yes = if vote.granted { "yes" } else { "no" };
            format!("{yes} in {}{}", vote.asked, if vote.pre { ", if you ask" } else { "" })
        }
        Answer::TakeOver { epoch } => format!("heard, epoch {epoch}"),
        Answer::Introduce(introduction) => {
            let voter = if introduction.formed.is_empty() { "no voter" } else { "voter" };
            format!("{voter} in epoch {}, log ends at {}", introduction.epoch, place(introduction.last))
        }
    }
}
