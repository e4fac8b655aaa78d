//! Questions of tools that only a client can answer, handed on to it (remoting-protocol §16).

use std::sync::Arc;
use std::time::Duration;

use staticfire_storage::MessageId;
use staticfire_transport::{Call, CallError, Command, Connection};

use super::membership::Client;
use super::refusal::Refusal;
use super::shared::{Shared, lock};
use super::turn::{Handled, Reply};
use crate::protocol::body::{ConsumerStatusBody, GroupStatusBody};
use crate::protocol::codes::{request, response};
use crate::protocol::headers::{ConsumeDirectlyRequest, GroupStatusRequest, RunningInfoRequest};
use crate::protocol::{header, json};

/// How long the client may take.
const CLIENT_WAIT: Duration = Duration::from_secs(10);
/// How long all members of a group together may take: tools wait 5 s.
const STATUS_WAIT: Duration = Duration::from_secs(4);
/// Clients below this version do not know the questions (V3_1_8).
const VERSION_MIN: i32 = 62;

impl Shared {
    /// Code 307.
    pub fn relay_running_info(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let head: RunningInfoRequest = header::read(request)?;
        let client = self.member(&head.consumer_group, Some(&head.client_id))?;
        let question = Command { ext: request.ext.clone(), ..Command::request(request.code) };
        self.relay(connection, request, &client, question)
    }

    /// Code 309: the client gets the record, a slice of the log.
    pub fn relay_consume(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let head: ConsumeDirectlyRequest = header::read(request)?;
        let client = self.member(&head.consumer_group, head.client_id.as_deref())?;
        let mut question = Command { ext: request.ext.clone(), ..Command::request(request.code) };
        question.ext.push("brokerName", &self.options.name);
        if let Some(id) = &head.message_id {
            let id: MessageId = id.parse().map_err(|error| Refusal::parameter(format!("{error}")))?;
            question = question.with_body(self.confirmed_record(id.physical)?.bytes().clone());
        }
        self.relay(connection, request, &client, question)
    }

    /// Code 223: what each member says of its own offsets; who does not answer is left out.
    pub fn relay_status(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let head: GroupStatusRequest = header::read(request)?;
        let wanted = head.client_id.filter(|id| !id.is_empty());
        let members: Vec<Client> =
            lock(&self.members).consumers(&head.group).map_or_else(Vec::new, |group| {
                let wanted = |client: &&Client| wanted.as_ref().is_none_or(|id| *id == client.id);
                group.members().filter(wanted).cloned().collect()
            });
        if members.is_empty() {
            let group = head.group;
            return Err(Refusal::system(format!("No Any Consumer online in the consumer group: [{group}]")));
        }
        let ask = |client: Client| {
            let to = lock(&self.connections).get(&client.connection).cloned()?;
            let question = Command::request(request::GET_CONSUMER_STATUS_FROM_CLIENT)
                .with_ext("topic", &head.topic)
                .with_ext("group", &head.group);
            Some((client.id, to.call(question, STATUS_WAIT)))
        };
        let calls: Vec<(String, Call)> = members.into_iter().filter_map(ask).collect();
        let (tool, blank) = (connection.clone(), request.answer(response::SUCCESS));
        self.spawn(async move {
            let mut all = GroupStatusBody::default();
            for (id, call) in calls {
                let Some(answer) = call.await.ok().filter(|answer| answer.code == response::SUCCESS) else {
                    continue;
                };
                let said: Result<ConsumerStatusBody, _> = json::from_slice_tolerant(&answer.body.to_bytes());
                all.consumer_table.extend(said.ok().map(|said| (id, said.message_queue_table)));
            }
            // A tool that is gone needs no answer.
            let _ = tool.send(blank.with_body(json::to_bytes_with_queue_keys(&all)));
        });
        Ok(Reply::Later)
    }

    /// The member of a group with this client id; any member for `None`.
    fn member(&self, group: &str, id: Option<&str>) -> Result<Client, Refusal> {
        let members = lock(&self.members);
        let found = members
            .consumers(group)
            .and_then(|g| g.members().find(|client| id.is_none_or(|id| id == client.id)));
        let offline =
            || Refusal::system(format!("The Consumer <{group}> <{}> not online", id.unwrap_or("any")));
        let client = found.cloned().ok_or_else(offline)?;
        if client.version < VERSION_MIN {
            return Err(Refusal::system("the consumer's version is too low for this request"));
        }
        Ok(client)
    }

    /// Asks the client under an opaque of its own connection and hands the answer back under the
    /// tool's.
    fn relay(
        self: &Arc<Self>,
        tool: &Connection,
        request: &Command,
        client: &Client,
        question: Command,
    ) -> Handled {
        let to = lock(&self.connections).get(&client.connection).cloned();
        let to = to.ok_or_else(|| Refusal::system("the consumer is not online"))?;
        let call: Call = to.call(question, CLIENT_WAIT);
        let (tool, blank) = (tool.clone(), request.answer(response::SUCCESS));
        self.spawn(async move {
            let answer = match call.await {
                Ok(answer) => Command {
                    code: answer.code,
                    remark: answer.remark,
                    ext: answer.ext,
                    body: answer.body,
                    ..blank
                },
                Err(CallError::TimedOut) => Command {
                    code: response::CONSUME_MSG_TIMEOUT,
                    remark: Some("the consumer did not answer in time".to_owned()),
                    ..blank
                },
                Err(_) => Command {
                    code: response::SYSTEM_ERROR,
                    remark: Some("the consumer went away".to_owned()),
                    ..blank
                },
            };
            // A tool that is gone needs no answer.
            let _ = tool.send(answer);
        });
        Ok(Reply::Later)
    }
}
