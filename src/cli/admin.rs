//! `staticfire admin`: asks the nodes of a broker group what they are, and hands leadership over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use staticfire::protocol::body::{MemberGroupBody, NodeStatus};
use staticfire::protocol::codes::{request as code, response};
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::MemberGroupRequest;
use staticfire::protocol::json::from_slice_tolerant;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Command, Connection, Runtime, Service, Transport};

use super::arguments::{AdminArguments, AdminCommand, TransferArguments};
use super::{Failure, name_servers};

/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a transfer may take, and how often it is looked at.
const TRANSFER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

pub fn admin(command: &AdminCommand) -> Result<(), Failure> {
    let tcp = Tcp::start(TcpOptions::default()).map_err(Failure::not_started)?;
    let (group, answer) = match command {
        AdminCommand::Status(group) => (group, Group::ask(&tcp, group)?.status()),
        AdminCommand::Rpo(group) => (group, Group::ask(&tcp, group)?.rpo()?),
        AdminCommand::Drill(group) => (group, Group::ask(&tcp, group)?.drill()?),
        AdminCommand::PromotePlan(group) => (group, Group::ask(&tcp, group)?.promote_plan()?),
        AdminCommand::Transfer(arguments) => (&arguments.group, transfer(&tcp, arguments)?),
    };
    println!("{}", if group.json { answer.json.to_string() } else { answer.words });
    Ok(())
}

/// What is printed.
struct Answer {
    words: String,
    json: Value,
}

/// The nodes that answered, and those that did not.
struct Group {
    nodes: Vec<(SocketAddr, NodeStatus)>,
    silent: Vec<(SocketAddr, String)>,
}

/// Nobody asks us anything.
struct NoService;

impl Service for NoService {
    fn turn(&self, _: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}

fn call(tcp: &Tcp, to: SocketAddr, request: Command) -> Result<Command, String> {
    let connection = tcp.block_on(tcp.connect(to, Arc::new(NoService))).map_err(|error| error.to_string())?;
    let answer = tcp.block_on(connection.call(request, ANSWER));
    connection.close();
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.code == response::SUCCESS {
        return Ok(answer);
    }
    Err(answer.remark.unwrap_or_else(|| format!("code {}", answer.code)))
}

/// The addresses of the group's nodes.
fn members(tcp: &Tcp, group: &AdminArguments) -> Result<Vec<SocketAddr>, Failure> {
    if !group.broker.is_empty() {
        return Ok(group.broker.clone());
    }
    let named = group.name_server.clone().map_or_else(|| name_servers::chosen(&[]), |one| Ok(vec![one]))?;
    let not_known = |why: String| Failure::not_started(format!("name server {}: {why}", named[0]));
    let found = tcp.block_on(named[0].resolve(tcp)).map_err(|error| not_known(error.to_string()))?;
    let server = found[0];
    let head =
        MemberGroupRequest { cluster_name: group.cluster.clone(), broker_name: group.broker_name.clone() };
    let answer = call(tcp, server, head.on(Command::request(code::GET_BROKER_MEMBER_GROUP)));
    let body = answer.map_err(not_known)?.body.to_bytes();
    let known: MemberGroupBody = from_slice_tolerant(&body).map_err(|error| not_known(error.to_string()))?;
    let known = known.broker_member_group.filter(|group| !group.broker_addrs.is_empty());
    let known = known.ok_or_else(|| not_known(format!("it knows no broker {}", group.broker_name)))?;
    Ok(known.broker_addrs.values().filter_map(|address| address.parse().ok()).collect())
}

impl Group {
    fn ask(tcp: &Tcp, group: &AdminArguments) -> Result<Self, Failure> {
        let mut asked = Self { nodes: Vec::new(), silent: Vec::new() };
        for address in members(tcp, group)? {
            let answer = call(tcp, address, Command::request(code::GET_NODE_STATUS));
            let status = answer.and_then(|answer| {
                from_slice_tolerant::<NodeStatus>(&answer.body.to_bytes()).map_err(|error| error.to_string())
            });
            match status {
                Ok(status) => asked.nodes.push((address, status)),
                Err(why) => asked.silent.push((address, why)),
            }
        }
        asked.nodes.sort_by_key(|(_, status)| status.node);
        Ok(asked)
    }

    /// Who leads: the newest epoch counts.
    fn leader(&self) -> Option<&(SocketAddr, NodeStatus)> {
        self.nodes.iter().filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.epoch)
    }

    /// Why there is nobody to be asked.
    fn nobody(&self, why: &str) -> Failure {
        let alone = self.nodes.iter().any(|(_, status)| status.role == "alone");
        Failure::not_well(if alone {
            "this broker is alone: without a group nobody takes its place"
        } else {
            why
        })
    }

    fn serving(&self) -> Result<&(SocketAddr, NodeStatus), Failure> {
        self.leader().ok_or_else(|| self.nobody("no node leads"))
    }

    /// Who has most, among those that do not lead.
    fn best(&self) -> Option<&(SocketAddr, NodeStatus)> {
        let others = self.nodes.iter().filter(|(_, status)| !matches!(&*status.role, "leader" | "stopped"));
        others.filter(|(_, status)| status.voter).max_by_key(|(_, status)| (status.end_epoch, status.end))
    }

    fn status(&self) -> Answer {
        let mut words = Vec::new();
        for (address, status) in &self.nodes {
            let NodeStatus { node, role, epoch, end, flushed, confirmed, mode, failover, .. } = status;
            words.push(format!(
                "node {node} at {address}: {role} ({failover}, {mode}), epoch {epoch}, log to {end}, flushed \
                 {flushed}, confirmed {confirmed}"
            ));
            for other in &status.others {
                let heard = other.heard_ms_ago.map_or("never".to_owned(), |ms| format!("{ms} ms ago"));
                words.push(format!(
                    "  node {}: {} bytes behind, flushed {}, heard {heard}{}{}",
                    other.node,
                    other.lag_bytes,
                    other.flushed,
                    if other.learner { ", a learner" } else { "" },
                    if other.catching_up { ", catching up" } else { "" }
                ));
            }
            words.extend(status.trouble.iter().map(|trouble| format!("  trouble: {trouble}")));
        }
        words.extend(self.silent.iter().map(|(address, why)| format!("{address}: no answer: {why}")));
        let nodes: Vec<Value> =
            self.nodes.iter().map(|(address, status)| node_json(*address, status)).collect();
        let silent: Vec<Value> =
            self.silent.iter().map(|(address, why)| json!({ "address": address, "why": why })).collect();
        let leader = self.leader().map(|(_, status)| status.node);
        Answer {
            words: words.join("\n"),
            json: json!({ "leader": leader, "nodes": nodes, "silent": silent }),
        }
    }

    /// What a slave would lack that the leader has: in all, and of what was acknowledged.
    fn loss(&self, to: &NodeStatus) -> Result<(u64, u64, u64), Failure> {
        let (_, leader) = self.serving()?;
        let bytes = leader.end.saturating_sub(to.end);
        let acknowledged = leader.confirmed.saturating_sub(to.end);
        Ok((bytes, acknowledged, leader.messages.saturating_sub(to.messages)))
    }

    fn rpo(&self) -> Result<Answer, Failure> {
        let (_, leader) = self.serving()?;
        let (words, json) = match self.best() {
            None => {
                ("everything: no other node answers".to_owned(), json!({ "bytes": leader.end, "node": null }))
            }
            Some((_, best)) => {
                let (bytes, acknowledged, messages) = self.loss(best)?;
                let words = format!(
                    "node {} would go on without {acknowledged} bytes that were acknowledged (and {} that were \
                     not), at most {messages} messages",
                    best.node,
                    bytes - acknowledged
                );
                let json = json!({
                    "node": best.node, "bytes": bytes, "acknowledged_bytes": acknowledged, "messages_max": messages,
                });
                (words, json)
            }
        };
        Ok(Answer { words, json })
    }

    fn drill(&self) -> Result<Answer, Failure> {
        let (_, leader) = self.serving()?;
        if leader.failover != "raft" {
            let words = "nobody: the operator decides; see promote-plan".to_owned();
            return Ok(Answer { words, json: json!({ "winner": null, "why": "manual failover" }) });
        }
        let size = leader.others.len() + 1;
        let voters = self.nodes.iter().filter(|(_, node)| node.node != leader.node && node.voter).count();
        let Some((_, best)) = self.best().filter(|_| voters > size / 2) else {
            let words = format!("nobody: {voters} of {size} nodes are left, and that is no majority");
            return Ok(Answer { words, json: json!({ "winner": null, "why": "no majority" }) });
        };
        let (bytes, acknowledged, _) = self.loss(best)?;
        let words = format!(
            "node {} would lead, for nobody has more; {} bytes that nobody was told are stored might go, \
             {acknowledged} acknowledged ones",
            best.node,
            bytes - acknowledged
        );
        let json = json!({ "winner": best.node, "bytes": bytes, "acknowledged_bytes": acknowledged });
        Ok(Answer { words, json })
    }

    fn promote_plan(&self) -> Result<Answer, Failure> {
        let elects = |(_, node): &(SocketAddr, NodeStatus)| node.failover == "raft";
        if self.nodes.iter().any(elects) {
            return Err(Failure::not_well("the nodes of this group elect; there is nobody to promote"));
        }
        let best = self.best().ok_or_else(|| self.nobody("no slave answers"))?;
        let (address, slave) = best;
        let generation = self.nodes.iter().map(|(_, node)| node.generation).max().unwrap_or(0) + 1;
        let loss = self.loss(slave).ok();
        let lost = match loss {
            Some((bytes, _, messages)) => format!("{bytes} bytes, at most {messages} messages"),
            None => "what the master had and no slave does: the master does not answer, so nobody can say"
                .to_owned(),
        };
        let words = format!(
            "promote node {} at {address}: it has most (epoch {}, {} bytes)\nlost: {lost}\n\
             1. stop the master, if it runs; it is fenced in any case\n\
             2. start node {} again with --role master --generation {generation}\n\
             3. start the old master again with --role slave; what only it had is kept in staticfire/orphans",
            slave.node, slave.end_epoch, slave.end, slave.node
        );
        let json = json!({
            "node": slave.node, "address": address, "generation": generation, "end": slave.end,
            "lost_bytes": loss.map(|loss| loss.0), "lost_messages_max": loss.map(|loss| loss.2),
        });
        Ok(Answer { words, json })
    }
}

fn node_json(address: SocketAddr, status: &NodeStatus) -> Value {
    let mut json = serde_json::to_value(status).unwrap_or_default();
    json["address"] = address.to_string().into();
    json
}

fn transfer(tcp: &Tcp, arguments: &TransferArguments) -> Result<Answer, Failure> {
    let group = Group::ask(tcp, &arguments.group)?;
    let (address, old) = group.serving()?;
    let mut request = Command::request(code::TRANSFER_LEADERSHIP);
    if let Some(to) = arguments.to {
        request = request.with_ext("to", to);
    }
    let began = tcp.now();
    call(tcp, *address, request).map_err(Failure::not_well)?;
    while tcp.now().since(began) < TRANSFER {
        let group = Group::ask(tcp, &arguments.group)?;
        let new = group.leader().filter(|(_, new)| new.node != old.node && new.serves);
        if let Some((_, new)) = new {
            let ms = u64::try_from(tcp.now().since(began).as_millis()).unwrap_or(u64::MAX);
            let words = format!("node {} leads instead of node {}, after {ms} ms", new.node, old.node);
            return Ok(Answer { words, json: json!({ "from": old.node, "to": new.node, "ms": ms }) });
        }
        tcp.block_on(tcp.sleep(LOOK));
    }
    Err(Failure::not_well("the other node did not take over in time; the old one goes on"))
}
